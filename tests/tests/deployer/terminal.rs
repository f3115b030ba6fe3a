//! Output on a terminal: each resource has one line, which is updated in place.

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

/// A deployed stack, and the zip of its next version.
struct Scene {
    _aws: MiniStack,
    proxy: Proxy,
    user: User,
    changed: &'static str,
}

impl Scene {
    fn deployed() -> Self {
        let aws = MiniStack::start();
        let proxy = Proxy::start(&aws);
        let user = proxy.user();
        user.deploy(artifact::small_zip(), &[]).ended_with(0);
        Self { _aws: aws, proxy, user, changed: artifact::small_zip_number(1) }
    }

    /// A terminal in which the next version is deployed.
    fn deploy(&self) -> Terminal {
        wide(&self.user, &["deploy", "--no-smoke", "--function-zip", self.changed])
    }
}

#[test]
fn plan_lists_everything_that_a_first_deployment_makes() {
    let aws = MiniStack::start();
    let mut terminal = wide(&aws.user(), &["plan", "--function-zip", artifact::small_zip()]);
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());
    insta::assert_snapshot!(settled(&terminal.screen()), @r"
    Account 000000000000, arn:aws:iam::000000000000:root, region us-east-1, stack cbbootstrap
      build    <n> bytes, sha256 <sha256> (<n> s)
      plan     change set created and read (<n> s)
    Stack cbbootstrap in us-east-1:
      + table cb-bootstrap (kept outside the stack)
      + bucket cbbootstrap-artifacts-000000000000-us-east-1 (kept outside the stack)
      + AccessLogs (AWS::Logs::LogGroup)
      + Dashboard (AWS::CloudWatch::Dashboard)
      + Domain (AWS::ApiGatewayV2::DomainName)
      + ErrorAlarm (AWS::CloudWatch::Alarm)
      + Function (AWS::Lambda::Function)
      + FunctionLogs (AWS::Logs::LogGroup)
      + HttpApi (AWS::ApiGatewayV2::Api)
      + Integration (AWS::ApiGatewayV2::Integration)
      + Mapping (AWS::ApiGatewayV2::ApiMapping)
      + Permission (AWS::Lambda::Permission)
      + RecordA (AWS::Route53::RecordSet)
      + RecordAaaa (AWS::Route53::RecordSet)
      + RequestAlarm (AWS::CloudWatch::Alarm)
      + Role (AWS::IAM::Role)
      + Route (AWS::ApiGatewayV2::Route)
      + Stage (AWS::ApiGatewayV2::Stage)
      + ThrottleAlarm (AWS::CloudWatch::Alarm)
    Nothing was changed
    ");
}

#[test]
fn plan_lists_what_an_update_changes() {
    let scene = Scene::deployed();
    let plan = ["plan", "--parameter", "MemorySize=512", "--tag", "team=data", "--function-zip"];
    let mut terminal = wide(&scene.user, &[&plan[..], &[scene.changed]].concat());
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());
    insta::assert_snapshot!(settled(&terminal.screen()), @r"
    Account 000000000000, arn:aws:iam::000000000000:root, region us-east-1, stack cbbootstrap
      build    <n> bytes, sha256 <sha256> (<n> s)
      plan     change set created and read (<n> s)
    Stack cbbootstrap in us-east-1:
      ~ AccessLogs (AWS::Logs::LogGroup): Tags
      ~ Dashboard (AWS::CloudWatch::Dashboard): Tags
      ~ ErrorAlarm (AWS::CloudWatch::Alarm): Tags
      ~ Function (AWS::Lambda::Function): Properties.Code, Properties.MemorySize, Tags
      ~ FunctionLogs (AWS::Logs::LogGroup): Tags
      ~ HttpApi (AWS::ApiGatewayV2::Api): Tags
      ~ Integration (AWS::ApiGatewayV2::Integration), perhaps replaced: Properties.IntegrationUri, Tags
      ~ Permission (AWS::Lambda::Permission): Tags
      ~ Role (AWS::IAM::Role): Tags
      ~ Route (AWS::ApiGatewayV2::Route), perhaps replaced: Properties.Target, Tags
      ~ Stage (AWS::ApiGatewayV2::Stage): Tags
      ~ ThrottleAlarm (AWS::CloudWatch::Alarm): Tags
      ~ parameter ArtifactKey: cbbootstrap/<sha256>.zip → cbbootstrap/<sha256>.zip
      ~ parameter MemorySize: 256 → 512
      ~ tag team: data
    Nothing was changed
    ");
}

#[test]
fn deploy_shows_each_resource_on_its_line() {
    let scene = Scene::deployed();
    scene.proxy.play(
        update().resource(FUNCTION.0, FUNCTION.1, "UPDATE_COMPLETE").stack("UPDATE_COMPLETE"),
    );
    let mut terminal = scene.deploy();
    terminal.wait_for("1/3 UPDATE_IN_PROGRESS");
    terminal.wait_for("Role AWS::IAM::Role UPDATE_COMPLETE");
    insta::assert_snapshot!(settled(&terminal.screen()), @r"
    Account 000000000000, arn:aws:iam::000000000000:root, region us-east-1, stack cbbootstrap
      build    <n> bytes, sha256 <sha256> (<n> s)
      table    `cb-bootstrap` exists (<n> s)
      upload   to bucket `cbbootstrap-artifacts-000000000000-us-east-1` (<n> s)
      stack    ~ Function (AWS::Lambda::Function): Properties.Code
      stack    ~ Integration (AWS::ApiGatewayV2::Integration), perhaps replaced: Properties.IntegrationUri
      stack    ~ Route (AWS::ApiGatewayV2::Route), perhaps replaced: Properties.Target
    * stack    [======>             ] 1/3 UPDATE_IN_PROGRESS <elapsed>
      ✓ Role AWS::IAM::Role UPDATE_COMPLETE <n> s
      … Function AWS::Lambda::Function UPDATE_IN_PROGRESS <elapsed>
    ");
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());
    insta::assert_snapshot!(settled(&terminal.screen()), @r#"
    Account 000000000000, arn:aws:iam::000000000000:root, region us-east-1, stack cbbootstrap
      build    <n> bytes, sha256 <sha256> (<n> s)
      table    `cb-bootstrap` exists (<n> s)
      upload   to bucket `cbbootstrap-artifacts-000000000000-us-east-1` (<n> s)
      stack    ~ Function (AWS::Lambda::Function): Properties.Code
      stack    ~ Integration (AWS::ApiGatewayV2::Integration), perhaps replaced: Properties.IntegrationUri
      stack    ~ Route (AWS::ApiGatewayV2::Route), perhaps replaced: Properties.Target
        ✓ Role AWS::IAM::Role UPDATE_COMPLETE <n> s
        ✓ Function AWS::Lambda::Function UPDATE_COMPLETE <n> s
      stack    updated (<n> s)
    Endpoint: http://<api>.execute-api.localhost:<port>
    Stack:    cbbootstrap in us-east-1, deployed
    Function: sha256 <sha256>
    Table:    cb-bootstrap
    Try it:   curl -X POST -d '{"cluster_id": "mycluster", "node_ip_addr_or_hostname": "mynode_ip"}' http://<api>.execute-api.localhost:<port>/cluster
    "#);
}

#[test]
fn deploy_explains_a_failed_update() {
    let scene = Scene::deployed();
    scene.proxy.play(
        update()
            .resource(FUNCTION.0, FUNCTION.1, "UPDATE_FAILED")
            .because("Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.")
            .stack("UPDATE_ROLLBACK_IN_PROGRESS")
            .because("The following resource(s) failed to update: [Function].")
            .resource(ROLE.0, ROLE.1, "UPDATE_COMPLETE")
            .stack("UPDATE_ROLLBACK_COMPLETE"),
    );
    let mut terminal = scene.deploy();
    assert_eq!(terminal.wait(), Some(1), "{}", terminal.screen());
    insta::assert_snapshot!(settled(&terminal.screen()), @r"
    Account 000000000000, arn:aws:iam::000000000000:root, region us-east-1, stack cbbootstrap
      build    <n> bytes, sha256 <sha256> (<n> s)
      table    `cb-bootstrap` exists (<n> s)
      upload   to bucket `cbbootstrap-artifacts-000000000000-us-east-1` (<n> s)
      stack    ~ Function (AWS::Lambda::Function): Properties.Code
      stack    ~ Integration (AWS::ApiGatewayV2::Integration), perhaps replaced: Properties.IntegrationUri
      stack    ~ Route (AWS::ApiGatewayV2::Route), perhaps replaced: Properties.Target
      stack    cbbootstrap UPDATE_ROLLBACK_IN_PROGRESS: The following resource(s) failed to update: [Function].
      stack    cbbootstrap UPDATE_ROLLBACK_COMPLETE
        ✓ Role AWS::IAM::Role UPDATE_COMPLETE <n> s
        ✗ Function AWS::Lambda::Function UPDATE_FAILED <n> s: Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.
    error: stack `cbbootstrap` ended in UPDATE_ROLLBACK_COMPLETE: Function UPDATE_FAILED: Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist. (AWS::Lambda::Function)
    hint: the artifact is not in its bucket: deploy again to upload it (the stack is as it was before)
    ");
}

#[test]
fn deploy_asks_whether_to_wait_for_another_deployment() {
    let scene = Scene::deployed();
    scene.proxy.stack_is("UPDATE_IN_PROGRESS");
    let mut terminal = scene.deploy();
    terminal.wait_for("[y/N]");
    insta::assert_snapshot!(settled(&terminal.screen()), @r"
    Account 000000000000, arn:aws:iam::000000000000:root, region us-east-1, stack cbbootstrap
    Another deployment is changing stack `cbbootstrap` (UPDATE_IN_PROGRESS). Wait for it to finish? [y/N]
    ");
    terminal.type_line("n");
    assert_eq!(terminal.wait(), Some(5), "{}", terminal.screen());
}

#[test]
fn a_pipeline_with_a_terminal_is_not_asked() {
    let scene = Scene::deployed();
    let pipeline = scene.proxy.user().with("CI", "true");
    let mut terminal = wide(&pipeline, &["destroy"]);
    assert_eq!(terminal.wait(), Some(2), "{}", terminal.screen());
    let refusal = "confirmation needed, but `CI` is set: Delete in us-east-1";
    assert!(terminal.screen().contains(refusal), "{}", terminal.screen());
    assert_eq!(scene.proxy.count("cloudformation:DeleteStack"), 0);

    // It waits for another deployment without a question.
    scene.proxy.play(
        Play::now()
            .stack("UPDATE_IN_PROGRESS")
            .after(Duration::from_secs(2))
            .stack("UPDATE_COMPLETE")
            .then_real(),
    );
    let mut terminal = wide(&pipeline, &["deploy", "--no-smoke", "--function-zip", scene.changed]);
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());

    for value in ["", "false"] {
        let person = scene.proxy.user().with("CI", value);
        let mut terminal = wide(&person, &["destroy"]);
        terminal.wait_for("[y/N]");
        terminal.type_line("n");
        assert_eq!(terminal.wait(), Some(4), "{}", terminal.screen());
    }
}

#[test]
fn ctrl_c_cancels_the_update() {
    let scene = Scene::deployed();
    scene.proxy.play(Play::on("ExecuteChangeSet").instead().stack("UPDATE_IN_PROGRESS"));
    scene.proxy.play(
        Play::on("CancelUpdateStack")
            .instead()
            .then_real()
            .stack("UPDATE_ROLLBACK_IN_PROGRESS")
            .because("User Initiated")
            .after(Duration::from_millis(500))
            .stack("UPDATE_ROLLBACK_COMPLETE"),
    );
    let mut terminal = scene.deploy();
    terminal.wait_for("UPDATE_IN_PROGRESS");
    terminal.press_ctrl_c();
    assert_eq!(terminal.wait(), Some(4), "{}", terminal.screen());
    insta::assert_snapshot!(settled(&terminal.screen()), @r"
    Account 000000000000, arn:aws:iam::000000000000:root, region us-east-1, stack cbbootstrap
      build    <n> bytes, sha256 <sha256> (<n> s)
      table    `cb-bootstrap` exists (<n> s)
      upload   to bucket `cbbootstrap-artifacts-000000000000-us-east-1` (<n> s)
      stack    ~ Function (AWS::Lambda::Function): Properties.Code
      stack    ~ Integration (AWS::ApiGatewayV2::Integration), perhaps replaced: Properties.IntegrationUri
      stack    ~ Route (AWS::ApiGatewayV2::Route), perhaps replaced: Properties.Target
    * stack    [                    ] 0/3 UPDATE_IN_PROGRESS <elapsed>
      stack    Ctrl-C: cancelling the update; press Ctrl-C again to leave it to CloudFormation
      stack    cbbootstrap UPDATE_ROLLBACK_IN_PROGRESS: User Initiated
      stack    cbbootstrap UPDATE_ROLLBACK_COMPLETE
    error: cancelled by Ctrl-C: stack `cbbootstrap` was rolled back
    ");
}
