//! The service keeps its contract, `swagger.yaml`, as Schemathesis checks.

use std::process::Command;

use cbbootstrap_tests::{http, local::Local, programs, python};
use serde_json::Value;
use tempfile::tempdir;

#[test]
fn the_served_contract_is_the_file() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let answer = http::get(&local.endpoint, "/swagger.yaml").unwrap();
    let file = std::fs::read_to_string(programs::workspace().join("swagger.yaml")).unwrap();
    assert!(answer.status == 200 && answer.body == file);
    assert_eq!(answer.headers["content-type"], "application/yaml");
}

/// What `Local` never answers, and Schemathesis does not see.
#[test]
fn the_contract_describes_hidden_docs_and_answers_of_the_gateway() {
    let file = std::fs::read_to_string(programs::workspace().join("swagger.yaml")).unwrap();
    let contract: Value = serde_yaml::from_str(&file).unwrap();
    let hidden = &contract["paths"]["/docs"]["get"]["responses"]["404"];
    assert!(hidden["description"].as_str().unwrap().contains("`route_not_found`"), "{hidden}");
    for name in ["TooManyRequests", "Unavailable"] {
        let response = &contract["components"]["responses"][name];
        for content in ["application/json", "application/problem+json"] {
            assert!(response["content"][content].is_object(), "{name}");
        }
        // API Gateway's own responses do not have it.
        let retry_after = &response["headers"]["Retry-After"];
        assert!(retry_after.is_object() && retry_after["required"].is_null(), "{retry_after}");
    }
}

#[test]
fn the_service_passes_schemathesis() {
    let data = tempdir().unwrap();
    let local = Local::start(data.path());
    let output = Command::new(python::bin().join("schemathesis"))
        .arg("--config-file")
        .arg(programs::workspace().join("tests/schemathesis.toml"))
        .arg("run")
        .arg(programs::workspace().join("swagger.yaml"))
        // All checks except those that the file turns off; `--checks all` would turn that on again.
        .args(["--url", &local.endpoint, "--max-examples", "60", "--seed", "20261123"])
        .args(["--generation-database", "none", "--no-color"])
        .current_dir(data.path())
        .output()
        .expect("Schemathesis can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        local.said()
    );
}
