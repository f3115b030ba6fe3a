//! What a million bootstraps cost in AWS: computed, from what a request takes and from AWS's published prices.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use cbbootstrap_benchmarks::{
    Report, Samples, Table,
    cold_start::{self, Database},
    samples::number,
};
use cbbootstrap_tests::{artifact, dynamodb::TABLE, process::Guard, programs};
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::net::TcpListener;

use crate::table::{FIRST, JOINER, ORIGINAL_FIRST, ORIGINAL_JOINER, READY, Requests, Taken};

/// Nodes of a cluster.
const NODES: [u32; 2] = [3, 10];

/// Dollars in us-east-1 in the first tier of each, without the free ones; no request here leaves it.
mod price {
    /// A million requests of an HTTP API: <https://aws.amazon.com/api-gateway/pricing/>
    pub const HTTP_API: f64 = 1.00;
    /// A million requests of a REST API, there, too.
    pub const REST_API: f64 = 3.50;
    /// A million invocations: <https://aws.amazon.com/lambda/pricing/>
    pub const INVOCATIONS: f64 = 0.20;
    /// A GB-second on x86, there, too.
    pub const GB_SECOND: f64 = 0.000_016_666_7;
    /// A million write request units: <https://aws.amazon.com/dynamodb/pricing/on-demand/>
    pub const WRITES: f64 = 0.625;
    /// A million read request units, there, too.
    pub const READS: f64 = 0.125;
    /// A GB of log: <https://aws.amazon.com/cloudwatch/pricing/>
    pub const LOG_GB: f64 = 0.50;
}

/// How long a call to DynamoDB takes in AWS, in milliseconds: a usual time, and no measured one. Lambda bills it.
const CALL: f64 = 5.0;

/// The memory of a SAM function that says nothing, as the original's, in MB.
const SAM_MEMORY: f64 = 128.0;

/// What Lambda logs of an invocation by itself, in bytes: its lines START, END and REPORT.
const LAMBDA_LOG: f64 = 330.0;

/// The line of the stack's access log, in bytes, with every field filled in.
const ACCESS_LOG: f64 = 280.0;

/// What the function said of its claims.
#[derive(Debug)]
pub struct Said {
    /// The length of its line, in bytes.
    bytes: f64,
    /// How long it took, in milliseconds; the median.
    milliseconds: f64,
}

/// Has the function of this zip claim clusters, as in Lambda but over the stand-in of the cold-start benchmark, and reads what it logs.
pub fn said(zip: &Path) -> Said {
    const CLAIMS: usize = 200;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let (database, address) = runtime.block_on(async {
        let database = Database::start(&cold_start::item()).await;
        (database, runtime_api().await)
    });

    let directory = tempdir().expect("temporary directories can be made");
    let program = directory.path().join("bootstrap");
    fs::write(&program, artifact::executable_of(zip)).expect("a file can be written");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("the file is ours");
    let function = Command::new(&program)
        .env_clear()
        .envs([
            ("AWS_LAMBDA_RUNTIME_API", address.as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "cbbootstrap"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_ENDPOINT_URL", database.url().as_str()),
            ("SSL_CERT_FILE", &database.trusted().display().to_string()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("TABLE_NAME", TABLE),
        ])
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut function = Guard(function.expect("the function can be run"));
    let output = function.0.stdout.take().expect("it is piped");
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    let claims = lines.filter(|line| line.contains(r#""Outcome":"claimed""#));
    let lines: Vec<_> = claims.take(CLAIMS).collect();
    let took = lines.iter().map(|line| {
        let line: Value = serde_json::from_str(line).expect("it logs JSON");
        let milliseconds = line["Milliseconds"].as_f64();
        Duration::from_secs_f64(milliseconds.expect("it says how long it took") / 1e3)
    });
    Said {
        bytes: lines.last().map_or(0.0, |line| line.len() as f64 + 1.0),
        milliseconds: took.collect::<Samples>().median().as_secs_f64() * 1e3,
    }
}

/// Lambda's runtime API, as far as a function needs it that never fails: the address. Each event is a claim of another cluster.
async fn runtime_api() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("there is a free port");
    let address = listener.local_addr().expect("a socket has an address");
    let next = async || {
        let id = fastrand::u64(..).to_string();
        let claim = json!({"cluster_id": id, "node_ip_addr_or_hostname": "10.0.0.1"});
        let event = json!({
            "rawPath": "/cluster",
            "requestContext": {"http": {"method": "POST"}},
            "body": claim.to_string(),
        });
        let headers = [
            ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
            ("lambda-runtime-deadline-ms", "9999999999999"),
            (
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:123456789012:function:cbbootstrap",
            ),
        ];
        (headers, event.to_string())
    };
    let app = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(async || StatusCode::ACCEPTED));
    tokio::spawn(async { axum::serve(listener, app).await });
    address.to_string()
}

/// What is paid for, of one kind of request or of all of a bootstrap's.
#[derive(Clone, Copy, Debug, Default)]
struct Bill {
    /// Dollars for a million, by what they are paid for.
    gateway: f64,
    invocations: f64,
    duration: f64,
    writes: f64,
    reads: f64,
    log: f64,
}

/// How a design is paid for.
struct Design {
    gateway: f64,
    /// In MB.
    memory: f64,
    /// In bytes of each request.
    log: f64,
    /// The function's own time, in milliseconds.
    own: f64,
}

impl Design {
    /// A million requests that take this of DynamoDB.
    fn bill(&self, taken: &Taken) -> Bill {
        // Lambda bills whole milliseconds.
        let milliseconds = (self.own + CALL * taken.calls() as f64).ceil();
        Bill {
            gateway: self.gateway,
            invocations: price::INVOCATIONS,
            duration: 1e3 * milliseconds * self.memory / 1024.0 * price::GB_SECOND,
            writes: taken.writes as f64 * price::WRITES,
            reads: taken.reads as f64 * price::READS,
            log: self.log * 1e6 / 1e9 * price::LOG_GB,
        }
    }
}

impl Bill {
    fn of(self) -> [f64; 6] {
        let Self { gateway, invocations, duration, writes, reads, log } = self;
        [gateway, invocations, duration, writes, reads, log]
    }
}

/// The bill of a million bootstraps: so many requests of each kind for each.
fn million(requests: &[(f64, Bill)]) -> [f64; 6] {
    let mut sum = [0.0; 6];
    for (count, bill) in requests {
        for (sum, dollars) in sum.iter_mut().zip(bill.of()) {
            *sum += count * dollars;
        }
    }
    sum
}

/// Says it.
pub fn report(report: &mut Report, requests: &Requests, said: &Said) {
    let memory = default_memory();
    let ours = Design {
        gateway: price::HTTP_API,
        memory,
        log: said.bytes + ACCESS_LOG + LAMBDA_LOG,
        own: said.milliseconds,
    };
    let theirs = Design {
        gateway: price::REST_API,
        memory: SAM_MEMORY,
        log: LAMBDA_LOG,
        own: said.milliseconds,
    };
    let mut columns = Vec::new();
    for nodes in NODES {
        let (all, joiners) = (f64::from(nodes), f64::from(nodes - 1));
        let claims =
            [(1.0, ours.bill(requests.of(FIRST))), (joiners, ours.bill(requests.of(JOINER)))];
        let ready = [(all, ours.bill(requests.of(READY)))];
        let original = [
            (1.0, theirs.bill(requests.of(ORIGINAL_FIRST))),
            (joiners, theirs.bill(requests.of(ORIGINAL_JOINER))),
        ];
        columns.push((format!("{nodes} nodes: claims"), million(&claims)));
        columns.push((
            format!("{nodes} nodes: claims and reports of ready"),
            million(&[&claims[..], &ready].concat()),
        ));
        columns.push((format!("{nodes} nodes: the original's design"), million(&original)));
    }
    let headers = columns.iter().map(|(header, _)| header.as_str());
    let mut table = Table::new(["$ for a million bootstraps"].into_iter().chain(headers));
    let items = [
        "API Gateway",
        "Lambda: requests",
        "Lambda: duration",
        "DynamoDB: writes",
        "DynamoDB: reads",
        "CloudWatch Logs",
    ];
    for (row, item) in items.into_iter().enumerate() {
        let dollars = columns.iter().map(|(_, bill)| format!("{:.2}", bill[row]));
        table.row([item.to_owned()].into_iter().chain(dollars));
    }
    let sums = columns.iter().map(|(_, bill)| format!("{:.2}", bill.iter().sum::<f64>()));
    table.row(["sum".to_owned()].into_iter().chain(sums));

    report.say(&format!(
        "A million bootstraps by AWS's published prices (us-east-1, x86, on demand, no free tier). The original's design \
         is a REST API, {SAM_MEMORY} MB, and two calls for a joiner; it knows no reports of ready, and only Lambda's own \
         log lines are counted. Ours is an HTTP API, {memory} MB, and logs {:.0} bytes of each request more, access log \
         included. Of both, Lambda bills {} ms of the function (measured, with a DynamoDB that answers at once) and {} ms for each \
         call (assumed). Alarms, metrics, storage and traffic are left out.",
        said.bytes + ACCESS_LOG,
        number(said.milliseconds),
        number(CALL),
    ));
    report.table(&table);
}

/// The function's memory in the stack unless somebody wants another, in MB.
fn default_memory() -> f64 {
    let template = fs::read_to_string(programs::workspace().join("templates/stack.yaml"));
    let template = template.expect("there is a template");
    let after = template.split_once("  MemorySize:\n").map_or("", |(_, after)| after);
    let default = after.lines().find_map(|line| line.trim().strip_prefix("Default: "));
    let memory = default.and_then(|memory| memory.parse().ok());
    memory.expect("the template has a default")
}
