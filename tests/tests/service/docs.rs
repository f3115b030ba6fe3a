//! The interactive documentation, `GET /docs`, over plain HTTP and in a browser.

use std::fs;

use cbbootstrap_tests::{browser::Browser, front::Front, http, local::Local, programs};
use serde_json::{Value, json};
use tempfile::tempdir;

/// Every route of the contract: its method and path.
fn routes() -> Vec<(String, String)> {
    let contract = fs::read_to_string(programs::workspace().join("swagger.yaml")).unwrap();
    let contract: Value = serde_yaml::from_str(&contract).unwrap();
    let paths = contract["paths"].as_object().unwrap();
    let routes = paths.iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().unwrap().keys();
        methods.map(|method| (method.clone(), path.clone()))
    });
    routes.collect()
}

#[test]
fn the_files_of_the_page_have_the_right_headers() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    for (path, content_type, encoding) in [
        ("/docs", "text/html; charset=utf-8", None),
        ("/docs/init.js", "text/javascript; charset=utf-8", None),
        ("/docs/swagger-ui.css", "text/css; charset=utf-8", Some("gzip")),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8", Some("gzip")),
    ] {
        let answer = http::get(&local.endpoint, path).unwrap();
        let header = |name| answer.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(header("content-type"), Some(content_type), "{path}");
        assert_eq!(header("content-encoding"), encoding, "{path}");
        assert_eq!(header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(header("cache-control"), Some("public, max-age=3600"), "{path}");
        assert_eq!(header("content-security-policy").is_some(), path == "/docs");
    }
    let about = http::get(&local.endpoint, "/").unwrap().json();
    assert_eq!(about["links"]["docs"], json!("docs"));
    let answer = http::post(&local.endpoint, "/docs", "").unwrap();
    assert_eq!((answer.status, &answer.headers["allow"]), (405, &"GET,HEAD".parse().unwrap()));
}

#[test]
fn a_browser_shows_the_page_and_tries_a_claim() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let stage = Front::with_stage(&local.endpoint, "/prod");
    for endpoint in [&local.endpoint, &stage.url] {
        browser.open(&format!("{endpoint}/docs"));
        for (method, path) in routes() {
            let route = format!(".opblock-{method} .opblock-summary-path[data-path='{path}']");
            browser.wait_for(&route);
        }

        if std::env::var_os("UPDATE_SCREENSHOTS").is_some() {
            let picture = browser.screenshot();
            fs::write(programs::workspace().join("docs/swagger-ui.png"), picture).unwrap();
        }

        let claim = ".opblock[id$='-claim']";
        browser.click(&format!("{claim} .opblock-summary-control"));
        browser.click(&format!("{claim} .try-out__btn"));
        browser.click(&format!("{claim} .execute"));
        let answer = format!("{claim} .live-responses-table");
        let status = browser.text(&format!("{answer} tbody .response-col_status"));
        assert!(status.starts_with("200"), "{status}");
        let body = browser.text(&format!("{answer} .highlight-code"));
        assert!(body.contains("\"is_initial_node\": true"), "{body}");
        let url = browser.text(&format!("{claim} .request-url"));
        assert!(url.contains(&format!("{endpoint}/cluster")), "{url}");

        let (requests, complaints) = browser.requests_and_complaints();
        assert_eq!(complaints, Vec::<String>::new());
        assert!(requests.contains(&format!("{endpoint}/cluster")), "{requests:?}");
        let elsewhere: Vec<_> = requests
            .iter()
            .filter(|url| !url.starts_with(&format!("{endpoint}/")) && !url.starts_with("data:"))
            .collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
    }
}
