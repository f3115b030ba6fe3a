//! Chromium without a window, for the one page there is. Debian's packages are `chromium` and `chromium-driver`.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, Locator, elements::Element};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{http, process::Guard};

/// How long an element may be waited for, on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running browser with one empty tab. When dropped, it ends with its driver, in whose process group it is.
#[derive(Debug)]
pub struct Browser {
    /// What drives it.
    pub client: Client,
    session: String,
    driver_url: String,
    _driver: Guard,
    _home: TempDir,
}

impl Browser {
    /// Starts one; `None`, with a word about it, where it is not installed. A CI must have it.
    pub async fn start() -> Option<Self> {
        let installed = ["chromium", "chromedriver"].iter().all(|program| {
            let version = Command::new(program).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        });
        if !installed {
            let install = "apt-get install --yes --no-install-recommends chromium chromium-driver";
            assert!(
                std::env::var_os("CI").is_none(),
                "there is no Chromium: `{install}` installs it"
            );
            eprintln!("there is no Chromium, and nothing was tested: `{install}` installs it");
            return None;
        }

        let home = tempfile::tempdir().expect("temporary directories can be made");
        let (driver, driver_url) = start_driver(home.path());
        let capabilities = json!({
            "goog:chromeOptions": {"args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-crash-reporter",
                "--hide-scrollbars",
                "--window-size=1200,1500",
                // Nothing but this machine is there.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                format!("--user-data-dir={}", home.path().join("profile").display()),
            ]},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it is an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver_url)
            .await
            .expect("Chromium starts");
        let session = client.session_id().await.expect("there is a session");
        Some(Self {
            client,
            session: session.expect("with an id"),
            driver_url,
            _driver: driver,
            _home: home,
        })
    }

    /// Waits for the first element that this CSS selector means.
    pub async fn element(&self, selector: &str) -> Element {
        let wait = self.client.wait().at_most(PATIENCE);
        let element = wait.for_element(Locator::Css(selector)).await;
        element.unwrap_or_else(|error| panic!("there is no `{selector}`: {error}"))
    }

    /// Waits for the element and clicks on it.
    pub async fn click(&self, selector: &str) {
        let clicked = self.element(selector).await.click().await;
        clicked.unwrap_or_else(|error| panic!("`{selector}` cannot be clicked on: {error}"));
    }

    /// Waits for the element; its text.
    pub async fn text(&self, selector: &str) -> String {
        let text = self.element(selector).await.text().await;
        text.unwrap_or_else(|error| panic!("`{selector}` has no text: {error}"))
    }

    /// What it complained of since the last call, broken policies and failed requests among it.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser");
        let messages = entries.iter().map(|entry| entry["message"].to_string());
        messages.collect()
    }

    /// The URLs of all requests that it made since the last call, those for its own empty tab left out.
    pub fn requests(&self) -> Vec<String> {
        let entries = self.log("performance");
        let events = entries.iter().filter_map(|entry| {
            let event: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &event["message"];
            let url = message["params"]["request"]["url"].as_str()?;
            let is_request = message["method"] == "Network.requestWillBeSent";
            (is_request && !url.starts_with("chrome://")).then(|| url.to_owned())
        });
        events.collect()
    }

    /// A log's new entries, in the driver's own addition to WebDriver.
    fn log(&self, kind: &str) -> Vec<Value> {
        let path = format!("/session/{}/se/log", self.session);
        let body = json!({"type": kind}).to_string();
        let answer = http::post(&self.driver_url, &path, &body).expect("the driver answers");
        let value = &answer.json()["value"];
        let entries = value.as_array();
        entries.unwrap_or_else(|| panic!("no log: {}", answer.body)).clone()
    }
}

/// The driver on a port that it picks, and its URL. It and the browser keep what they write in this directory.
fn start_driver(home: &Path) -> (Guard, String) {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .env("HOME", home)
        .env("TMPDIR", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("`chromedriver` can be run");
    let stdout = driver.stdout.take().expect("it is piped");
    let driver = Guard(driver);
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let port = lines.find_map(|line| {
        let port = line.split_once("successfully on port ")?.1;
        Some(port.trim_end_matches('.').to_owned())
    });
    let port = port.expect("`chromedriver` starts and says where");
    thread::spawn(move || lines.for_each(drop));
    (driver, format!("http://127.0.0.1:{port}"))
}
