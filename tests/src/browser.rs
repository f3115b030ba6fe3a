//! Headless Chromium, controlled by the DevTools protocol.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Guard;

/// How long an element may take to appear, on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Chromium reads commands from descriptor 3 and writes answers to 4.
const START: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// A running browser with one tab.
#[derive(Debug)]
pub struct Browser {
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    session: Option<String>,
    last_id: u64,
    events: Vec<Value>,
    _process: Guard,
    _home: TempDir,
}

impl Browser {
    /// Starts one. If it is not installed, prints a message and returns `None`, or fails in CI.
    pub fn start() -> Option<Self> {
        let version = Command::new("chromium").arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            let missing = "there is no Chromium; `apt-get install chromium` installs it";
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        }
        let home = tempfile::tempdir().expect("temporary directories can be made");
        let mut process = Command::new("sh")
            .args(["-c", START, "sh", "chromium"])
            .args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--disable-crash-reporter", "--hide-scrollbars"])
            .args(["--window-size=1200,1500"])
            // Keeps all requests on this machine.
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("`sh` can be run");
        let mut browser = Self {
            commands: process.stdin.take().expect("it is piped"),
            messages: BufReader::new(process.stdout.take().expect("it is piped")),
            session: None,
            last_id: 0,
            events: Vec::new(),
            _process: Guard(process),
            _home: home,
        };
        let tab = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let tab = json!({"targetId": tab["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &tab);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// Sends a command and returns its result. Events that arrive before are kept.
    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        write!(self.commands, "{command}\0").expect("Chromium reads");
        loop {
            let mut message = Vec::new();
            self.messages.read_until(0, &mut message).expect("Chromium writes");
            assert_eq!(message.pop(), Some(0), "Chromium ended");
            let mut message: Value = serde_json::from_slice(&message).expect("it writes JSON");
            if message["id"] == self.last_id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    /// Starts to load a page.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", &json!({"url": url}));
    }

    /// Waits for the first element that matches a CSS selector, and evaluates an expression about `element`.
    fn element(&mut self, selector: &str, expression: &str) -> Value {
        let selector = json!(selector);
        let script = format!(
            "(element => element && [{expression} ?? null])(document.querySelector({selector}))"
        );
        let since = Instant::now();
        loop {
            let evaluate = json!({"expression": script, "returnByValue": true});
            let mut result = self.call("Runtime.evaluate", &evaluate);
            assert!(result["exceptionDetails"].is_null(), "{result}");
            if let Some(value) = result["result"]["value"].get_mut(0) {
                return value.take();
            }
            assert!(since.elapsed() < PATIENCE, "there is no `{selector}`");
            sleep(Duration::from_millis(50));
        }
    }

    pub fn wait_for(&mut self, selector: &str) {
        self.element(selector, "true");
    }

    /// Waits for an element and clicks on it.
    pub fn click(&mut self, selector: &str) {
        self.element(selector, "element.click()");
    }

    /// Waits for an element and returns its text.
    pub fn text(&mut self, selector: &str) -> String {
        self.element(selector, "element.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// The page as PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let picture = self.call("Page.captureScreenshot", &json!({}));
        let picture = picture["data"].as_str().expect("there is a picture");
        BASE64_STANDARD.decode(picture).expect("it is Base64")
    }

    /// The URLs of all requests since the last call, and the errors of the page or the browser, such as violated policies, failed
    /// requests and exceptions.
    pub fn requests_and_complaints(&mut self) -> (Vec<String>, Vec<String>) {
        self.element("html", "true");
        let (mut requests, mut complaints) = (Vec::new(), Vec::new());
        for event in self.events.drain(..) {
            match event["method"].as_str() {
                Some("Network.requestWillBeSent") => {
                    let url = event["params"]["request"]["url"].as_str();
                    requests.extend(url.map(str::to_owned));
                }
                Some("Log.entryAdded" | "Runtime.exceptionThrown" | "Runtime.consoleAPICalled") => {
                    complaints.push(event["params"].to_string());
                }
                _ => {}
            }
        }
        (requests, complaints)
    }
}
