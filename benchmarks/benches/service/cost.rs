//! What a million bootstraps cost in AWS, computed from measured requests and published prices.

use std::{fs, time::Duration};

use cbbootstrap_benchmarks::{
    Report, Samples, Table, block_on,
    cold_start::{self, Database},
    samples::number,
};
use cbbootstrap_tests::programs;
use serde_json::Value;

use crate::table::{ORIGINAL_FIRST, ORIGINAL_JOINER, Requests, Usage};

/// Dollars in us-east-1, in the first paid tier. No number of requests here leaves it.
mod price {
    /// A million requests of an HTTP API: <https://aws.amazon.com/api-gateway/pricing/>
    pub const HTTP_API: f64 = 1.00;
    /// A million requests of a REST API, from the same page.
    pub const REST_API: f64 = 3.50;
    /// A million invocations: <https://aws.amazon.com/lambda/pricing/>
    pub const INVOCATIONS: f64 = 0.20;
    /// A GB-second on x86, from the same page.
    pub const GB_SECOND: f64 = 0.000_016_666_7;
    /// A million write request units: <https://aws.amazon.com/dynamodb/pricing/on-demand/>
    pub const WRITES: f64 = 0.625;
    /// A million read request units, from the same page.
    pub const READS: f64 = 0.125;
    /// A GB of logs: <https://aws.amazon.com/cloudwatch/pricing/>
    pub const LOG_GB: f64 = 0.50;
}

/// The duration of a DynamoDB call in AWS, which Lambda bills, in milliseconds: a usual value, not a measured one.
const CALL: f64 = 5.0;

/// The default memory of a SAM function, which the original uses, in MB.
const SAM_MEMORY: f64 = 128.0;

/// The bytes of Lambda's START, END and REPORT lines, which the stack turns off.
const LAMBDA_LOG: f64 = 330.0;

/// Usual values of the variables in the access log.
const ACCESS: [(&str, &str); 5] = [
    ("$context.requestId", "JKJaXmPLvHcESHA="),
    ("$context.identity.sourceIp", "203.0.113.117"),
    ("$context.status", "200"),
    ("$context.responseLatency", "17"),
    ("$context.integrationErrorMessage", "-"),
];

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
        memory: default_memory(),
        log: log.bytes + access_log(),
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
    let memory = default_memory();
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
        log.bytes + access_log(),
        number(log.milliseconds),
        number(CALL),
    ));
    report.table(table);
}

/// The bytes of a line in the access log, in the format of the stack.
fn access_log() -> f64 {
    let template = template();
    let after = template.split_once("        Format: >-\n").map_or("", |(_, after)| after);
    let lines = after.lines().map(str::trim).take_while(|line| !line.is_empty());
    let format = lines.collect::<Vec<_>>().join(" ");
    let line = ACCESS.iter().fold(format, |line, (name, value)| line.replace(name, value));
    assert!(line.ends_with('}') && !line.contains('$'), "a variable has no usual value: {line}");
    line.len() as f64
}

/// The default of the stack's `MemorySize`, in MB.
fn default_memory() -> f64 {
    let template = template();
    let after = template.split_once("  MemorySize:\n").map_or("", |(_, after)| after);
    let default = after.lines().find_map(|line| line.trim().strip_prefix("Default: "));
    let memory = default.and_then(|memory| memory.parse().ok());
    memory.expect("the template has a default")
}

fn template() -> String {
    let template = fs::read_to_string(programs::workspace().join("templates/stack.yaml"));
    template.expect("the template exists")
}
