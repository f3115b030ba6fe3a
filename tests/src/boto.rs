//! boto3, to inspect a stand-in with AWS's own client.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

use crate::python;

/// Evaluates one expression for each line, for the stand-in at its URL.
const PROGRAM: &str = "
import boto3, botocore.config, botocore.exceptions, functools, json, sys, time, traceback
@functools.cache
def client_of(url, service, key='test'):
    return boto3.client(service, endpoint_url=url, region_name='us-east-1', aws_access_key_id=key, aws_secret_access_key='test',
                        config=botocore.config.Config(parameter_validation=False, retries={'total_max_attempts': 1}))
def tried(call):
    try:
        return call()
    except botocore.exceptions.ClientError as error:
        return [error.response['ResponseMetadata']['HTTPStatusCode'], error.response['Error']['Code']]
    except botocore.exceptions.BotoCoreError as error:
        return type(error).__name__
for line in sys.stdin:
    try:
        url, expression = json.loads(line)
        client = functools.partial(client_of, url)
        answer = {'value': eval(expression)}
    except Exception:
        answer = {'error': traceback.format_exc()}
    print(json.dumps(answer, default=str), flush=True)
";

/// Those that evaluate nothing at the moment. Starting Python and creating clients takes a second. They end with the test program, which
/// closes their standard input.
static IDLE: Mutex<Vec<Process>> = Mutex::new(Vec::new());

/// boto3 for the stand-in at one URL.
#[derive(Debug)]
pub struct Boto {
    url: String,
}

#[derive(Debug)]
struct Process {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Boto {
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// The value of a Python expression. In it, `client(service)` is boto3's client of the root user, or of the account in the second
    /// argument, and `tried(lambda: ...)` is a value or an error: status and code, or the exception's name. Nothing is retried.
    pub fn value(&self, expression: &str) -> Value {
        let idle = || IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let process = idle().pop();
        let mut process = process.unwrap_or_else(Process::start);
        let question = json!([self.url, expression]);
        writeln!(process.questions, "{question}").expect("Python reads");
        let mut answer = String::new();
        process.answers.read_line(&mut answer).expect("Python writes UTF-8");
        idle().push(process);
        let mut answer: Value = serde_json::from_str(&answer).expect("JSON is printed");
        if let Some(error) = answer["error"].as_str() {
            panic!("{expression} failed\n{error}");
        }
        answer["value"].take()
    }
}

impl Process {
    fn start() -> Self {
        let mut child = Command::new(python::bin().join("python"))
            .args(["-c", PROGRAM])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python can be run");
        Self {
            questions: child.stdin.take().expect("it is piped"),
            answers: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
