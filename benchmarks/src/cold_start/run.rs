//! One run of one function: a process from its start to its last request.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cbbootstrap_function::table::{
    CLAIMED_AT, CLUSTER_ID, DEFAULT_TABLE_NAME, GENERATION, INITIAL_NODE, STATE,
};
use cbbootstrap_tests::process::{Guard, peak_memory};
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{Database, Function, runtime_api::RuntimeApi};

/// Requests after the first.
pub const WARM: usize = 1000;

const CLUSTER: &str = "couchbase-production";
const NODE: &str = "ip-10-0-1-17.ec2.internal";

/// The measurements of one run.
#[derive(Debug)]
pub struct Run {
    /// From the start of the process to its request for an event.
    pub init: Duration,
    /// From the first event to the answer.
    pub first: Duration,
    /// The same for each later event.
    pub warm: Vec<Duration>,
    /// Peak resident memory, in bytes.
    pub memory: u64,
    /// The body of an `UpdateItem` call.
    pub update: Option<Bytes>,
    /// What the function printed.
    pub log: String,
}

/// The item that a claim writes to the table.
pub fn item() -> Value {
    json!({
        CLUSTER_ID: {"S": CLUSTER}, INITIAL_NODE: {"S": NODE}, STATE: {"S": "claimed"},
        GENERATION: {"N": "1"}, CLAIMED_AT: {"N": "1700000000"},
    })
}

/// Runs the function once.
pub async fn run(function: &Function, database: &Database) -> Run {
    let mut api = RuntimeApi::start().await;
    let directory = tempfile::tempdir().expect("temporary directories can be created");
    let log = directory.path().join("log");
    let output = File::create(&log).expect("a file can be created");
    let mut command = Command::new(&function.program);
    command
        .args(&function.arguments)
        .current_dir(&function.directory)
        .env_clear()
        .envs(environment(function, database, &api))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file can be shared"))
        .stderr(output);
    let since = Instant::now();
    let child = command.spawn();
    let process = Guard(child.unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}")));
    let run = measure(&mut api, since, function, database, process.0.id()).await;
    let log = fs::read_to_string(&log).unwrap_or_default();
    match run {
        Ok(run) => Run { log, ..run },
        Err(problem) => panic!("{}: {problem}\n{log}", function.name),
    }
}

async fn measure(
    api: &mut RuntimeApi,
    since: Instant,
    function: &Function,
    database: &Database,
    process: u32,
) -> Result<Run, String> {
    let event = event().to_string();
    let init = api.wait_for_next().await? - since;
    let (first, answer) = api.invoke(event.clone()).await?;
    check(function, &answer, &database.updates())?;
    let mut warm = Vec::with_capacity(WARM);
    let mut update = None;
    for _ in 0..WARM {
        api.wait_for_next().await?;
        let (took, answer) = api.invoke(event.clone()).await?;
        let updates = database.updates();
        check(function, &answer, &updates)?;
        warm.push(took);
        update = updates.into_iter().next();
    }
    let memory = peak_memory(process);
    Ok(Run { init, first, warm, memory, update, log: String::new() })
}

/// The variables that Lambda sets, and the database's endpoint.
fn environment(
    function: &Function,
    database: &Database,
    api: &RuntimeApi,
) -> Vec<(&'static str, String)> {
    let mut variables: Vec<_> = [
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("AWS_SESSION_TOKEN", "AQoEXAMPLEH4aoAH0gNCAPyJxz4BlCFFxWNE1OPTgk5TthT+FvwqnKwRcOIfrRh3c"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        // No request to EC2's metadata.
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_LAMBDA_FUNCTION_NAME", "cbbootstrap-Function-w2nzW5dXjJ9k"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/cbbootstrap"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]0123456789abcdef"),
        ("LANG", "en_US.UTF-8"),
        ("TZ", ":UTC"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("TABLE_NAME", DEFAULT_TABLE_NAME),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    let (trust_variable, certificates) = function.trust;
    variables.extend([
        ("AWS_LAMBDA_RUNTIME_API", api.address().to_string()),
        ("AWS_ENDPOINT_URL", database.url()),
        ("LAMBDA_TASK_ROOT", function.directory.display().to_string()),
        ("_HANDLER", function.handler.to_owned()),
        (trust_variable, certificates(database).display().to_string()),
    ]);
    variables
}

/// The event of an HTTP API for a node's claim.
fn event() -> Value {
    let claim = json!({"cluster_id": CLUSTER, "node_ip_addr_or_hostname": NODE});
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/cluster",
        "rawQueryString": "",
        "headers": {
            "accept": "*/*",
            "content-length": claim.to_string().len().to_string(),
            "content-type": "application/x-www-form-urlencoded",
            "host": "a1b2c3d4e5.execute-api.us-east-1.amazonaws.com",
            "user-agent": "curl/8.5.0",
            "x-amzn-trace-id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700",
            "x-forwarded-for": "203.0.113.7",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "a1b2c3d4e5",
            "domainName": "a1b2c3d4e5.execute-api.us-east-1.amazonaws.com",
            "domainPrefix": "a1b2c3d4e5",
            "http": {
                "method": "POST",
                "path": "/cluster",
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "curl/8.5.0",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1_767_225_600_000_u64,
        },
        "body": claim.to_string(),
        "isBase64Encoded": false,
    })
}

/// Checks that the function answered the claim and wrote it to the table.
fn check(function: &Function, answer: &Value, updates: &[Bytes]) -> Result<(), String> {
    let body = answer["body"].as_str().unwrap_or_default();
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let expected = json!({
        CLUSTER_ID: CLUSTER, INITIAL_NODE: NODE, "is_initial_node": true, STATE: "claimed", GENERATION: 1,
    });
    if answer["statusCode"] != 200 || body != expected {
        return Err(format!("the answer is {answer}"));
    }
    let claims = |update: &Bytes| {
        let update: Value = serde_json::from_slice(update).unwrap_or_default();
        update["Key"][CLUSTER_ID]["S"] == CLUSTER
            && update["ExpressionAttributeValues"]
                .as_object()
                .is_some_and(|values| values.values().any(|value| value["S"] == NODE))
            && update["ConditionExpression"].is_string()
            && update["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
    };
    if updates.len() != usize::from(function.calls_database) || !updates.iter().all(claims) {
        return Err(format!("it called the database with {updates:?}"));
    }
    Ok(())
}
