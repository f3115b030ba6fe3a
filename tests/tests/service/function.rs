//! The function's process in Lambda: how it connects to the table.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use cbbootstrap_tests::{
    cli::User,
    network::{Authority, TlsFront},
    process::Guard,
    programs,
    server::{Server, Stub},
};
use serde_json::{Value, json};

/// The host of the table, and an address of this machine that no other test uses.
const HOST: &str = "dynamodb.us-east-1.amazonaws.com";
const ADDRESS: &str = "127.0.77.1:443";

/// A process of the function that gets one event: a request for a cluster's status.
struct Function {
    responses: mpsc::Receiver<Value>,
    _process: Guard,
    _runtime: Server,
}

impl Function {
    /// Starts it with these variables, by this command, whose last argument is the program.
    fn start(command: &[&str], variables: &[(&str, &str)]) -> Self {
        let (response, responses) = mpsc::channel();
        let runtime = Server::route(runtime_api(response));
        let mut user = User::default();
        for (name, value) in variables {
            user = user.with(name, *value);
        }
        let user = user
            .with("AWS_LAMBDA_RUNTIME_API", runtime.url.replace("http://", ""))
            .with("AWS_LAMBDA_FUNCTION_NAME", "f")
            .with("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .with("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .with("AWS_REGION", "us-east-1")
            .with("AWS_ACCESS_KEY_ID", "id")
            .with("AWS_SECRET_ACCESS_KEY", "secret");
        let program = programs::bootstrap();
        let mut args = command.to_vec();
        args.push(program.to_str().unwrap());
        let process = user.leashed(Path::new(args[0]), &args[1..]).spawn().unwrap();
        Self { responses, _process: Guard(process), _runtime: runtime }
    }

    /// The response to its event.
    fn response(&self) -> Value {
        self.responses.recv_timeout(Duration::from_mins(1)).unwrap()
    }
}

/// Lambda's runtime API, which sends one event and no second.
fn runtime_api(response: mpsc::Sender<Value>) -> Router {
    let event = json!({
        "version": "2.0", "rawPath": "/cluster/c1",
        "requestContext": {"stage": "$default", "http": {"method": "GET"}},
    });
    let sent = Arc::new(AtomicBool::new(false));
    let next = async move || {
        if sent.swap(true, Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let headers = [
            ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
            ("lambda-runtime-deadline-ms", "4102444800000"),
            (
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:123456789012:function:f",
            ),
        ];
        (headers, event.to_string())
    };
    let respond = async move |body: String| {
        response.send(serde_json::from_str(&body).unwrap()).unwrap();
        StatusCode::ACCEPTED
    };
    Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(respond))
}

/// An empty table.
fn table() -> Stub {
    Stub::start(|_| (200, json!({"Responses": {}, "UnprocessedKeys": {}}).to_string()))
}

#[track_caller]
fn unknown_cluster(response: &Value) {
    assert_eq!(response["statusCode"], 404, "{response}");
    assert!(response["body"].as_str().unwrap().contains("cluster_not_found"), "{response}");
}

#[track_caller]
fn unavailable(response: &Value) {
    assert_eq!(response["statusCode"], 503, "{response}");
}

#[test]
fn endpoint_is_trusted_by_the_certificates_of_the_environment() {
    let (table, authority) = (table(), Authority::default());
    let front = TlsFront::before(&table.url, &authority);
    let user = User::default();
    let certificates = user.home.path().join("ca.pem");
    fs::write(&certificates, authority.pem()).unwrap();
    let variables =
        [("AWS_ENDPOINT_URL", &*front.url), ("SSL_CERT_FILE", certificates.to_str().unwrap())];
    unknown_cluster(&Function::start(&[], &variables).response());
    assert_eq!(table.requests().len(), 2, "one to connect, one for the request");

    fs::write(&certificates, Authority::default().pem()).unwrap();
    unavailable(&Function::start(&[], &variables).response());
    assert_eq!(table.requests().len(), 2, "no request reaches a server that is not trusted");
}

/// Runs a program with another `/etc/hosts` and other certificates of the system.
const ELSEWHERE: &str =
    "mount --bind hosts /etc/hosts && mount --bind certs /etc/ssl/certs && exec \"$0\"";

#[test]
fn where_amazons_authorities_do_not_suffice_the_systems_are_trusted() {
    let unshare = Command::new("unshare").args(["--mount", "true"]).output();
    let (true, Ok(socket)) =
        (unshare.is_ok_and(|output| output.status.success()), TcpListener::bind(ADDRESS))
    else {
        eprintln!("skipped: this user may not make namespaces or use port 443");
        return;
    };
    let (table, authority) = (table(), Authority::default());
    let _front = TlsFront::at(socket, HOST, &table.url, &authority);
    let user = User::default();
    let home = user.home.path();
    fs::create_dir(home.join("certs")).unwrap();
    fs::write(home.join("hosts"), format!("127.0.77.1 {HOST}\n")).unwrap();
    let script = format!("cd '{}' && {ELSEWHERE}", home.display());
    let command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script];

    fs::write(home.join("certs/ca-certificates.crt"), authority.pem()).unwrap();
    unknown_cluster(&Function::start(&command, &[]).response());
    assert_eq!(table.requests().len(), 1, "the first client trusts Amazon's authorities only");

    fs::write(home.join("certs/ca-certificates.crt"), Authority::default().pem()).unwrap();
    unavailable(&Function::start(&command, &[]).response());
    assert_eq!(table.requests().len(), 1);
}
