//! The CloudFormation template, judged by cfn-lint.

use std::process::Command;

use cbbootstrap_tests::{programs, python};

#[test]
fn cfn_lint_has_nothing_to_say() {
    let template = programs::workspace().join("templates/stack.yaml");
    let output = Command::new(python::bin().join("cfn-lint"))
        .args(["--include-checks", "I", "--"])
        .arg(&template)
        .output()
        .expect("cfn-lint can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
