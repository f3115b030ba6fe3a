//! The host on real processes: small Python programs in the place of the function, most of which misbehave.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    num::NonZeroUsize,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    FUNCTION_TIMEOUT, Service, ServiceOptions, bind,
    gateway::{MAX_BODY, MAX_PAYLOAD},
    host::{Event, OnEvent},
    process::{Process, Program},
};
use crate::leash::Leash;

/// Longer than anything takes, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_mins(1);

/// Asks for invocations, and does what the path says.
const FUNCTION: &str = r#"
import base64, http.client, json, os, signal, sys, time

def call(method, path, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, "/2018-06-01/runtime/" + path, body)
    response = connection.getresponse()
    return response, response.read()

def wait_for(file):
    while not os.path.exists(file):
        time.sleep(0.01)

os.chdir(os.environ["LAMBDA_TASK_ROOT"])
print("starting", flush=True)
if os.path.exists("broken"):
    sys.exit("it is broken")
while True:
    response, event = call("GET", "invocation/next")
    invocation = response.headers["Lambda-Runtime-Aws-Request-Id"]
    event = json.loads(event)
    path = event["rawPath"]
    answer = {"statusCode": 200, "body": str(os.getpid())}
    if path == "/echo":
        answer["body"] = json.dumps(event)
    elif path == "/context":
        answer["body"] = json.dumps({"headers": dict(response.headers), "environment": dict(os.environ),
            "directory": os.getcwd(), "group": os.getpgid(0), "now": time.time()})
    elif path == "/exit":
        os._exit(3)
    elif path == "/signal":
        os.kill(os.getpid(), signal.SIGKILL)
    elif path == "/hang":
        time.sleep(600)
    elif path == "/wait":
        open("waiting-%d" % os.getpid(), "w").close()
        wait_for("go")
    elif path == "/malformed":
        answer = "not quoted"
    elif path == "/skip":
        continue
    elif path == "/error":
        call("POST", "invocation/%s/error" % invocation, json.dumps({"errorType": "Oops", "errorMessage": "it\nfailed"}))
        continue
    elif path == "/large":
        answer["body"] = "x" * 6 * 1024 * 1024
    elif path == "/stranger":
        response, _ = call("POST", "invocation/another/response", b"{}")
        answer["body"] = str(response.status)
    body = answer if answer == "not quoted" else json.dumps(answer)
    call("POST", "invocation/%s/response" % invocation, body)
    if path == "/twice":
        call("POST", "invocation/%s/response" % invocation, b"{}")
    if path == "/last-words":
        print("x" * 300000, flush=True)
        os._exit(0)
"#;

/// A program in a directory of its own.
struct Function {
    dir: TempDir,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Function {
    fn new(source: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = format!("#!{}\n{source}", python().display());
        write_program(&dir.path().join("bootstrap"), &program);
        Self {
            dir,
            events: Arc::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn on_event(&self) -> OnEvent {
        let events = Arc::clone(&self.events);
        Arc::new(move |event| events.lock().unwrap().push(event))
    }

    /// What was said so far, the function's own log left out.
    fn events(&self) -> Vec<Event> {
        let mut events = self.events.lock().unwrap().clone();
        events.retain(|event| !matches!(event, Event::Log { .. }));
        events
    }

    /// The processes that became ready.
    fn started(&self) -> Vec<u32> {
        let process = |event| match event {
            Event::Started { process } => Some(process),
            _ => None,
        };
        self.events().into_iter().filter_map(process).collect()
    }

    async fn serve(&self, concurrency: usize, timeout: Duration) -> anyhow::Result<Service> {
        Service::start(ServiceOptions {
            listener: bind(([127, 0, 0, 1], 0).into()).await?,
            bootstrap: self.path("bootstrap"),
            database_url: "http://127.0.0.1:9".to_owned(),
            table_name: "a-table".to_owned(),
            concurrency: NonZeroUsize::new(concurrency).unwrap(),
            timeout,
            on_event: self.on_event(),
        })
        .await
    }

    fn program(&self, leash: &Leash) -> Program {
        Program {
            bootstrap: self.path("bootstrap"),
            database_url: String::new(),
            table_name: String::new(),
            init_timeout: PATIENCE,
            timeout: PATIENCE,
            group: leash.group(),
        }
    }

    /// Waits for something to happen.
    async fn until(&self, what: &str, happened: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !happened(self) {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.events());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn waiting(&self) -> usize {
        let files = fs::read_dir(self.dir.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("waiting-")).count()
    }
}

/// Writes a program through a process of its own. Were the file open here, a process that another test starts just then
/// could inherit it, and the system runs no program that is open for writing.
fn write_program(path: &Path, content: &str) {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(content.as_bytes()).unwrap();
    drop(input);
    assert!(shell.wait().unwrap().success());
}

/// The interpreter itself: a version manager's stand-in needs more of an environment than a function has.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let program = "import sys; print(sys.executable, end='')";
        let output = Command::new("python3").args(["-c", program]).output();
        String::from_utf8(output.unwrap().stdout).unwrap().into()
    })
}

fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn send(method: &str, url: String, content_type: &str, body: Vec<u8>) -> Reply {
    let request = axum::http::Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", content_type)
        .body(body)
        .unwrap();
    let call = move || {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .proxy(None)
            .timeout_global(Some(PATIENCE));
        let agent = ureq::Agent::from(config.build());
        let mut response = agent.run(request).unwrap();
        let limit = 2 * MAX_BODY as u64;
        let body = response.body_mut().with_config().limit(limit);
        Reply {
            body: body.read_to_string().unwrap(),
            status: response.status().as_u16(),
            headers: response.headers().clone(),
        }
    };
    tokio::task::spawn_blocking(call).await.unwrap()
}

async fn get(service: &Service, path: &str) -> Reply {
    send(
        "GET",
        format!("{}{path}", service.url()),
        "text/plain",
        Vec::new(),
    )
    .await
}

fn message(text: &str) -> Value {
    json!({"message": text})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_does_not_start_is_an_error_that_says_why() {
    for (source, expected) in [
        (
            "import sys; print('one'); sys.exit('two')",
            "exit status: 1",
        ),
        ("import sys; print('one'); sys.exit('two')", "two"),
        ("import os; os.kill(os.getpid(), 9)", "signal: 9"),
        ("", "ended with exit status: 0 before it asked"),
        (
            r#"
import http.client, os
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
connection.request("POST", "/2018-06-01/runtime/init/error", '{"errorType": "A", "errorMessage": "no table"}')
connection.getresponse()
"#,
            "A: no table",
        ),
    ] {
        let function = Function::new(source);
        let error = function.serve(1, FUNCTION_TIMEOUT).await.err().unwrap();
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{source}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }

    let function = Function::new(FUNCTION);
    let program = function.path("bootstrap");
    let not_executable = fs::Permissions::from_mode(0o644);
    for (prepare, expected) in [
        (
            &(|program: &Path| fs::set_permissions(program, not_executable.clone()).unwrap())
                as &dyn Fn(&Path),
            "Permission denied",
        ),
        (
            &|program| write_program(program, "\x7fELF"),
            "Exec format error",
        ),
        (&|program| fs::remove_file(program).unwrap(), "No such file"),
    ] {
        prepare(&program);
        let error = function.serve(1, FUNCTION_TIMEOUT).await.err().unwrap();
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(program.to_str().unwrap()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_never_asks_for_work_is_given_up() {
    let function = Function::new("import time; time.sleep(600)");
    let leash = Leash::new().unwrap();
    let mut program = function.program(&leash);
    program.init_timeout = Duration::from_millis(300);
    let error = Process::start(&program, &function.on_event())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("did not ask for an invocation within 0.3 s"),
        "{error:#}"
    );
    leash.pull().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_function_does_wrong_is_a_500_and_said() {
    let function = Function::new(FUNCTION);
    let service = function.serve(1, PATIENCE).await.unwrap();
    for (path, expected) in [
        (
            "/malformed",
            "the function's answer is malformed: it is not JSON",
        ),
        ("/error", "failed: Oops: it failed"),
        ("/skip", "asked for the next invocation without an answer"),
        ("/large", "its answer could not be read"),
        ("/exit", "ended with exit status: 3 unexpectedly"),
        ("/signal", "ended with signal: 9 (SIGKILL) unexpectedly"),
    ] {
        let reply = get(&service, path).await;
        assert_eq!(reply.status, 500, "{path}: {}", reply.body);
        assert_eq!(reply.json(), message("Internal Server Error"), "{path}");
        let said = function.events().last().unwrap().to_string();
        assert!(said.contains(expected), "{path}: {said}");
        // And it goes on.
        let reply = get(&service, "/").await;
        assert_eq!(reply.status, 200, "after {path}: {}", reply.body);
    }
    // The first, and one after each that ended.
    assert_eq!(function.started().len(), 3, "{:?}", function.events());
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ends_after_its_answer_is_replaced() {
    let function = Function::new(FUNCTION);
    let service = function.serve(1, PATIENCE).await.unwrap();
    assert_eq!(get(&service, "/last-words").await.status, 200);
    assert_eq!(get(&service, "/").await.status, 200);
    assert_eq!(function.started().len(), 2);

    // Its last line is there, in two pieces.
    let lengths = |function: &Function| -> Vec<_> {
        let events = function.events.lock().unwrap();
        let line = |event: &Event| match event {
            Event::Log { line, .. } if line.starts_with('x') => Some(line.len()),
            _ => None,
        };
        events.iter().filter_map(line).collect()
    };
    let expected = [256 * 1024, 300_000 - 256 * 1024];
    function
        .until("the last line", |function| lengths(function) == expected)
        .await;

    // One that ends while nothing is asked of it is noticed.
    let idle = *function.started().last().unwrap();
    let kill = Command::new("kill")
        .args(["-9", &idle.to_string()])
        .status();
    assert!(kill.unwrap().success());
    let exited = |function: &Function| {
        let ended =
            |event: &Event| matches!(event, Event::Exited { process, .. } if *process == idle);
        function.events().iter().any(ended)
    };
    function.until("it is said", exited).await;
    assert_eq!(get(&service, "/").await.status, 200);
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_takes_too_long_is_ended() {
    let function = Function::new(FUNCTION);
    let service = function.serve(1, Duration::from_secs(3)).await.unwrap();
    let first = function.started()[0];
    let reply = get(&service, "/hang").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json(), message("Service Unavailable"));
    let limit = Duration::from_secs(3);
    let timed_out = Event::TimedOut {
        process: first,
        limit,
    };
    assert!(function.events().contains(&timed_out));
    assert!(!is_alive(first));
    assert_eq!(get(&service, "/").await.status, 200);
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_no_longer_starts_fails_requests_without_haste() {
    let function = Function::new(FUNCTION);
    let service = function.serve(2, PATIENCE).await.unwrap();
    fs::write(function.path("broken"), "").unwrap();
    assert_eq!(get(&service, "/exit").await.status, 500);

    let start = Instant::now();
    for _ in 0..4 {
        let reply = get(&service, "/").await;
        assert_eq!(reply.status, 500);
        assert_eq!(reply.json(), message("Internal Server Error"));
    }
    // Pauses of 0.1, 0.2 and 0.4 s lie between the four starts.
    assert!(start.elapsed() > Duration::from_millis(700));
    let mut failed = function.events();
    failed.retain(|event| matches!(event, Event::StartFailed { .. }));
    assert_eq!(failed.len(), 4, "{failed:?}");
    assert!(failed[0].to_string().contains("it is broken"));

    fs::remove_file(function.path("broken")).unwrap();
    assert_eq!(get(&service, "/").await.status, 200);
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_answers_its_own_invocation_and_once() {
    let function = Function::new(FUNCTION);
    let service = function.serve(1, PATIENCE).await.unwrap();
    assert_eq!(get(&service, "/stranger").await.body, "400");
    let process = function.started()[0].to_string();
    assert_eq!(get(&service, "/twice").await.body, process);
    assert_eq!(get(&service, "/").await.body, process);
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_events_have_limits() {
    let function = Function::new(FUNCTION);
    let service = function.serve(1, PATIENCE).await.unwrap();
    let url = format!("{}/", service.url());
    for (content_type, length, status) in [
        ("text/plain", MAX_PAYLOAD - 4096, 200),
        ("text/plain", MAX_PAYLOAD, 413),
        // Four thirds as long in base64.
        ("application/octet-stream", MAX_PAYLOAD - 4096, 413),
        ("text/plain", MAX_BODY + 1, 413),
    ] {
        let reply = send("POST", url.clone(), content_type, vec![b'x'; length]).await;
        assert_eq!(reply.status, status, "{content_type} {length}");
        if status == 413 {
            assert_eq!(reply.json(), message("Request Entity Too Large"));
        }
    }
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_reaches_the_function() {
    let function = Function::new(FUNCTION);
    let service = function.serve(1, PATIENCE).await.unwrap();
    let url = format!("{}/echo?a=b", service.url());
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND",
    ] {
        let reply = send(method, url.clone(), "text/plain", Vec::new()).await;
        let event = reply.json();
        assert_eq!(event["requestContext"]["http"]["method"], method);
        assert_eq!(event["rawQueryString"], "a=b");
        assert_eq!(
            event["requestContext"]["requestId"],
            reply.headers["apigw-requestid"].to_str().unwrap()
        );
    }
    let reply = send("HEAD", url, "text/plain", Vec::new()).await;
    assert_eq!((reply.status, &*reply.body), (200, ""));

    let form = "application/x-www-form-urlencoded";
    let url = format!("{}/echo", service.url());
    let event = send("POST", url, form, b"{}".to_vec()).await.json();
    assert_eq!(
        (&event["body"], &event["isBase64Encoded"]),
        (&json!("e30="), &json!(true))
    );
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_function_sees_what_lambda_would_show() {
    let function = Function::new(FUNCTION);
    let service = function.serve(1, PATIENCE).await.unwrap();
    let seen = get(&service, "/context").await.json();
    let environment = &seen["environment"];
    for (name, expected) in [
        ("AWS_LAMBDA_FUNCTION_NAME", "cbbootstrap"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("TABLE_NAME", "a-table"),
        ("_HANDLER", "bootstrap"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("LAMBDA_TASK_ROOT", function.dir.path().to_str().unwrap()),
    ] {
        assert_eq!(environment[name], expected, "{name}");
    }
    // Cargo sets this for the test, which must not pass it on.
    assert_eq!(environment.get("CARGO_MANIFEST_DIR"), None);
    assert_eq!(environment.get("HOME"), None);
    let directory = PathBuf::from(seen["directory"].as_str().unwrap());
    assert_eq!(directory, function.dir.path().canonicalize().unwrap());

    let headers = &seen["headers"];
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:cbbootstrap";
    assert_eq!(headers["lambda-runtime-invoked-function-arn"], arn);
    let deadline = headers["lambda-runtime-deadline-ms"].as_str().unwrap();
    let left = deadline.parse::<f64>().unwrap() / 1000.0 - seen["now"].as_f64().unwrap();
    assert!(left > 0.0 && left <= PATIENCE.as_secs_f64(), "{left}");
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_overlap_get_processes_up_to_the_limit() {
    let function = Function::new(FUNCTION);
    let service = Arc::new(function.serve(2, PATIENCE).await.unwrap());
    // One after the other, one process is enough.
    for _ in 0..20 {
        assert_eq!(get(&service, "/").await.status, 200);
    }
    assert_eq!(function.started().len(), 1);

    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let service = Arc::clone(&service);
        requests.spawn(async move { get(&service, "/wait").await });
    }
    function
        .until("two wait", |function| function.waiting() == 2)
        .await;
    fs::write(function.path("go"), "").unwrap();
    let replies = requests.join_all().await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let processes: BTreeSet<_> = replies.into_iter().map(|reply| reply.body).collect();
    assert_eq!(processes.len(), 2);
    assert_eq!(function.started().len(), 2);
    Arc::into_inner(service).unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_waits_for_requests_and_leaves_no_process() {
    let function = Function::new(FUNCTION);
    let service = function.serve(2, PATIENCE).await.unwrap();
    let url = service.url().to_owned();
    let wait = tokio::spawn(send("GET", format!("{url}/wait"), "text/plain", Vec::new()));
    function
        .until("it waits", |function| function.waiting() == 1)
        .await;
    let end = tokio::spawn(service.shutdown());
    fs::write(function.path("go"), "").unwrap();
    assert_eq!(wait.await.unwrap().status, 200);
    end.await.unwrap();
    assert!(!function.started().into_iter().any(is_alive));
    // No process was said to end that was told to.
    let mut events = function.events();
    events.retain(|event| !matches!(event, Event::Started { .. }));
    assert_eq!(events, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_does_not_wait_for_a_function_that_hangs() {
    let function = Function::new(FUNCTION);
    let service = function.serve(1, PATIENCE).await.unwrap();
    let url = service.url().to_owned();
    let request = tokio::spawn(async move {
        let connection = tokio::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).await;
        let connection = connection.unwrap();
        let request = b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n";
        connection.writable().await.unwrap();
        assert_eq!(connection.try_write(request).unwrap(), request.len());
        connection
    });
    function
        .until("it hangs", |function| function.waiting() == 1)
        .await;
    let start = Instant::now();
    service.shutdown().await;
    assert!(start.elapsed() < PATIENCE / 2);
    assert!(!function.started().into_iter().any(is_alive));
    drop(request);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_no_process_outlives_the_leash() {
    // As when this program is killed: nobody ends the processes, and the other side of the shell's input is closed.
    let function = Function::new(FUNCTION);
    let leash = Leash::new().unwrap();
    let program = function.program(&leash);
    let process = Process::start(&program, &function.on_event())
        .await
        .unwrap();
    let id = process.id;
    std::mem::forget(process);
    assert!(is_alive(id));
    drop(leash);
    function.until("it is gone", |_| !is_alive(id)).await;

    // A service that is dropped.
    let service = function.serve(1, PATIENCE).await.unwrap();
    let id = function.started()[0];
    drop(service);
    function.until("it is gone", |_| !is_alive(id)).await;
}
