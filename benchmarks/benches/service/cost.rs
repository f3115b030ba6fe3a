//! What a million bootstraps cost in AWS, computed from measured requests and published prices.

use std::time::Duration;

use cbbootstrap_benchmarks::{
    Report, Samples, Table, block_on,
    cold_start::{self, Database},
    price::{self, ACCESS_LOG, CALL, LAMBDA_LOG},
    samples::number,
    stack,
};
use serde_json::Value;

use crate::table::{FIRST, JOINER, ORIGINAL_FIRST, ORIGINAL_JOINER, READY, Requests, Usage};

/// Nodes of a cluster.
const NODES: [u32; 2] = [3, 10];

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
            milliseconds: durations.collect::<Samples>().median().as_secs_f64() * 1e3,
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
            usage.reads as f64 * price::READS,
            self.log * 1e6 / 1e9 * price::LOG_GB,
        ]
    }

    /// The bill of a million bootstraps, each with these requests and how often they are sent.
    fn bill_all(&self, requests: &Requests, counts: &[(&str, u32)]) -> Bill {
        let mut sum = [0.0; ITEMS.len()];
        for (request, count) in counts {
            for (sum, dollars) in sum.iter_mut().zip(self.bill(requests.usage(request))) {
                *sum += f64::from(*count) * dollars;
            }
        }
        sum
    }
}

pub fn report(report: &mut Report, requests: &Requests, log: &RequestLog) {
    let memory = stack::default_of("MemorySize");
    let ours = Design {
        gateway: price::HTTP_API,
        memory,
        log: log.bytes + ACCESS_LOG + LAMBDA_LOG,
        own: log.milliseconds,
    };
    let original = Design {
        gateway: price::REST_API,
        memory: SAM_MEMORY,
        log: LAMBDA_LOG,
        own: log.milliseconds,
    };
    let mut columns = Vec::new();
    for nodes in NODES {
        let claims = [(FIRST, 1), (JOINER, nodes - 1)];
        let with_ready = [claims.as_slice(), &[(READY, nodes)]].concat();
        let original_claims = [(ORIGINAL_FIRST, 1), (ORIGINAL_JOINER, nodes - 1)];
        columns.extend([
            (format!("{nodes} nodes: claims"), ours.bill_all(requests, &claims)),
            (format!("{nodes} nodes: claims and ready"), ours.bill_all(requests, &with_ready)),
            (
                format!("{nodes} nodes: original design"),
                original.bill_all(requests, &original_claims),
            ),
        ]);
    }
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
         {SAM_MEMORY} MB and two calls for a joiner, and has no `ready`. Lambda bills {} ms for the function (measured with an \
         immediate response from DynamoDB) and {} ms for each call (assumed).",
        log.bytes + ACCESS_LOG,
        number(log.milliseconds),
        number(CALL),
    ));
    report.table(table);
}
