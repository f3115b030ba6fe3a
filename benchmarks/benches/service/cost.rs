//! What a million bootstraps cost in AWS, computed from measured requests and published prices.

use std::time::Duration;

use cbbootstrap_benchmarks::{
    Report, Table, block_on,
    cold_start::{self, Database},
    price::{self, CALL, LAMBDA_LOG},
    samples::{median, number},
    stack,
};
use serde_json::Value;

use crate::table::{ORIGINAL_FIRST, ORIGINAL_JOINER, Requests, Usage};

/// The default memory of a SAM function, which the original uses, in MB.
const SAM_MEMORY: f64 = 128.0;

/// The function's log lines of claims.
#[derive(Debug)]
pub struct RequestLog {
    /// The length of a line.
    bytes: f64,
    /// The median duration.
    milliseconds: f64,
}

impl RequestLog {
    /// Runs the released function as the cold-start benchmark does.
    pub fn measure() -> Self {
        let run = block_on(async {
            let database = Database::start(&cold_start::item()).await;
            cold_start::run(&cold_start::ours(), &database).await
        });
        let claims: Vec<_> =
            run.log.lines().filter(|line| line.contains(r#""Outcome":"claimed""#)).collect();
        let durations = claims.iter().map(|line| {
            let line: Value = serde_json::from_str(line).expect("log lines are JSON");
            Duration::from_secs_f64(
                line["Milliseconds"].as_f64().expect("log lines have a duration") / 1e3,
            )
        });
        Self {
            bytes: claims.last().expect("claims are logged").len() as f64 + 1.0,
            milliseconds: median(&durations.collect::<Vec<_>>()).as_secs_f64() * 1e3,
        }
    }
}

/// The services that charge for a request.
const ITEMS: [&str; 6] = [
    "API Gateway",
    "Lambda: requests",
    "Lambda: duration",
    "DynamoDB: writes",
    "DynamoDB: reads",
    "CloudWatch Logs",
];

/// Dollars by [`ITEMS`].
type Bill = [f64; ITEMS.len()];

struct Design {
    /// Dollars for a million requests.
    gateway: f64,
    /// In MB.
    memory: f64,
    /// Bytes of a request.
    log: f64,
    /// The duration of a request without DynamoDB calls, in milliseconds.
    own: f64,
}

impl Design {
    /// The bill of a million requests with this usage.
    fn bill(&self, usage: &Usage) -> Bill {
        // Lambda bills whole milliseconds.
        let milliseconds = (self.own + CALL * usage.calls() as f64).ceil();
        [
            self.gateway,
            price::INVOCATIONS,
            1e3 * milliseconds * self.memory / 1024.0 * price::GB_SECOND,
            usage.writes as f64 * price::WRITES,
            usage.reads * price::READS,
            self.log * 1e6 / 1e9 * price::LOG_GB,
        ]
    }

    /// The bill of a million bootstraps, each with these requests.
    fn bill_all<'u>(&self, requests: impl IntoIterator<Item = &'u Usage>) -> Bill {
        let mut sum = [0.0; ITEMS.len()];
        for usage in requests {
            for (sum, dollars) in sum.iter_mut().zip(self.bill(usage)) {
                *sum += dollars;
            }
        }
        sum
    }
}

/// The bills of a million bootstraps of a cluster of this size.
#[derive(Debug)]
pub struct Bills {
    nodes: usize,
    claims: Bill,
    ready: Bill,
    attested: Bill,
    original: Bill,
}

/// The bills for each size of a cluster.
pub fn bills(requests: &Requests, log: &RequestLog) -> Vec<Bills> {
    let ours = Design {
        gateway: price::HTTP_API,
        memory: stack::default_of("MemorySize"),
        log: log.bytes + stack::access_log(),
        own: log.milliseconds,
    };
    let original = Design {
        gateway: price::REST_API,
        memory: SAM_MEMORY,
        log: LAMBDA_LOG,
        own: log.milliseconds,
    };
    let bills = requests.bootstraps.iter().map(|bootstrap| {
        let (nodes, claims) = (bootstrap.nodes, &bootstrap.claims);
        let joiners = vec![requests.usage(ORIGINAL_JOINER); nodes - 1];
        Bills {
            nodes,
            claims: ours.bill_all(claims),
            ready: ours.bill_all(claims.iter().chain(&bootstrap.reports)),
            attested: ours.bill_all(claims.iter().chain(&bootstrap.attested_reports)),
            original: original
                .bill_all([requests.usage(ORIGINAL_FIRST)].into_iter().chain(joiners)),
        }
    });
    bills.collect()
}

/// For each size of a cluster: claims and reports cost less than the claims of the original design.
pub fn targets(bills: &[Bills]) -> Vec<(String, String, bool)> {
    let targets = bills.iter().map(|bills| {
        let sum = |bill: &Bill| bill.iter().sum::<f64>();
        let (ready, original) = (sum(&bills.ready), sum(&bills.original));
        (
            format!(
                "claims and ready of {} nodes: cheaper than the original's claims, {original:.2} dollars a million",
                bills.nodes
            ),
            format!("{ready:.2}"),
            ready < original,
        )
    });
    targets.collect()
}

pub fn report(report: &mut Report, bills: &[Bills], log: &RequestLog) {
    let memory = stack::default_of("MemorySize");
    let columns: Vec<_> = bills
        .iter()
        .flat_map(|Bills { nodes, claims, ready, attested, original }| {
            [
                (format!("{nodes} nodes: claims"), claims),
                (format!("{nodes} nodes: claims and ready"), ready),
                (format!("{nodes} nodes: the same with a cluster secret"), attested),
                (format!("{nodes} nodes: original design"), original),
            ]
        })
        .collect();
    let headers = columns.iter().map(|(header, _)| header.as_str());
    let mut table = Table::new(["dollars"].into_iter().chain(headers));
    for (row, item) in ITEMS.into_iter().enumerate() {
        let dollars = columns.iter().map(|(_, bill)| format!("{:.2}", bill[row]));
        table.row([item.to_owned()].into_iter().chain(dollars));
    }
    let sums = columns.iter().map(|(_, bill)| format!("{:.2}", bill.iter().sum::<f64>()));
    table.row(["sum".to_owned()].into_iter().chain(sums));

    report.text(format!(
        "AWS's on-demand prices in us-east-1 for x86, without free tiers, alarms, metrics, storage and traffic. cbbootstrap uses an \
         HTTP API and {memory} MB, and writes {:.0} bytes of request and access log for each request. The original uses a REST API, \
         {SAM_MEMORY} MB and two calls for a joiner, and has no `ready`; its log is Lambda's own {LAMBDA_LOG} bytes. Lambda bills {} ms for the function (measured with an \
         immediate response from DynamoDB) and {} ms for each call (assumed).",
        log.bytes + stack::access_log(),
        number(log.milliseconds),
        number(CALL),
    ));
    report.table(table);
}
