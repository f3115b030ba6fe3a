//! What a person sees: on a terminal each resource has its line, and nothing scrolls away.

use std::time::Duration;

use cbbootstrap_tests::{
    artifact,
    cli::User,
    ministack::MiniStack,
    proxy::{Play, Proxy},
    terminal::{Terminal, settled},
};

const FUNCTION: (&str, &str) = ("Function", "AWS::Lambda::Function");
const ROLE: (&str, &str) = ("Role", "AWS::IAM::Role");

/// A terminal in which no line breaks, however long a hash or a number is.
fn wide(user: &User, args: &[&str]) -> Terminal {
    Terminal::sized(user, args, (220, 40))
}

/// An update that has come half of its way, and stays there for a while.
fn update() -> Play {
    Play::on("ExecuteChangeSet")
        .then_real()
        .stack("UPDATE_IN_PROGRESS")
        .resource(ROLE.0, ROLE.1, "UPDATE_IN_PROGRESS")
        .resource(FUNCTION.0, FUNCTION.1, "UPDATE_IN_PROGRESS")
        .after(Duration::from_millis(100))
        .resource(ROLE.0, ROLE.1, "UPDATE_COMPLETE")
        .after(Duration::from_secs(3))
}

#[test]
fn a_deployment_on_a_terminal() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let (user, zip) = (proxy.user(), artifact::small_zip());
    let changed = artifact::small_zip_number(1);

    let mut terminal = wide(&user, &["plan", "--function-zip", zip]);
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());
    insta::assert_snapshot!("plan_of_everything", settled(&terminal.screen()));
    user.run(&["deploy", "--no-smoke", "--function-zip", zip]).ended_with(0);
    let plan =
        ["plan", "--function-zip", changed, "--parameter", "MemorySize=512", "--tag", "team=data"];
    let mut terminal = wide(&user, &plan);
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());
    insta::assert_snapshot!("plan_of_an_update", settled(&terminal.screen()));

    let deploy = ["deploy", "--no-smoke", "--function-zip", changed];
    proxy.play(
        update().resource(FUNCTION.0, FUNCTION.1, "UPDATE_COMPLETE").stack("UPDATE_COMPLETE"),
    );
    let mut terminal = wide(&user, &deploy);
    terminal.wait_for("1/3 UPDATE_IN_PROGRESS");
    terminal.wait_for("Role AWS::IAM::Role UPDATE_COMPLETE");
    insta::assert_snapshot!("progress", settled(&terminal.screen()));
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());
    insta::assert_snapshot!("updated", settled(&terminal.screen()));

    proxy.reset();
    proxy.play(
        update()
            .resource(FUNCTION.0, FUNCTION.1, "UPDATE_FAILED")
            .because("Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.")
            .stack("UPDATE_ROLLBACK_IN_PROGRESS")
            .because("The following resource(s) failed to update: [Function].")
            .resource(ROLE.0, ROLE.1, "UPDATE_COMPLETE")
            .stack("UPDATE_ROLLBACK_COMPLETE"),
    );
    let deploy = ["deploy", "--no-smoke", "--function-zip", zip];
    let mut terminal = wide(&user, &deploy);
    assert_eq!(terminal.wait(), Some(1), "{}", terminal.screen());
    insta::assert_snapshot!("failure", settled(&terminal.screen()));

    // Somebody else is at work.
    proxy.reset();
    proxy.stack_is("UPDATE_IN_PROGRESS");
    let mut terminal = wide(&user, &deploy);
    terminal.wait_for("[y/N]");
    insta::assert_snapshot!("busy", settled(&terminal.screen()));
    terminal.type_line("n");
    assert_eq!(terminal.wait(), Some(5), "{}", terminal.screen());

    // A person presses Ctrl-C.
    proxy.reset();
    proxy.play(Play::on("ExecuteChangeSet").instead().stack("UPDATE_IN_PROGRESS"));
    proxy.play(
        Play::on("CancelUpdateStack")
            .instead()
            .then_real()
            .stack("UPDATE_ROLLBACK_IN_PROGRESS")
            .because("User Initiated")
            .after(Duration::from_millis(500))
            .stack("UPDATE_ROLLBACK_COMPLETE"),
    );
    let deploy = ["deploy", "--no-smoke", "--function-zip", changed];
    let mut terminal = wide(&user, &deploy);
    terminal.wait_for("UPDATE_IN_PROGRESS");
    terminal.press_ctrl_c();
    assert_eq!(terminal.wait(), Some(4), "{}", terminal.screen());
    insta::assert_snapshot!("cancelled", settled(&terminal.screen()));
}
