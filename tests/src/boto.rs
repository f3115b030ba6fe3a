//! boto3, to inspect a stand-in with AWS's own client.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::python::Forked;

/// Those that evaluate nothing at the moment.
static IDLE: Mutex<Vec<Forked>> = Mutex::new(Vec::new());

/// boto3 for the stand-in at one URL.
#[derive(Debug)]
pub struct Boto {
    url: String,
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
        let mut process = process.unwrap_or_else(|| Forked::start(&Value::Null));
        let mut answer = process.ask(&json!([self.url, expression]));
        idle().push(process);
        if let Some(error) = answer["error"].as_str() {
            panic!("{expression} failed\n{error}");
        }
        answer["value"].take()
    }
}
