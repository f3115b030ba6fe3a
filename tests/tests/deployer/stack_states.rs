//! Stacks in every status, failing stacks, and signals during a change, played by the proxy.

use std::{
    fs,
    path::Path,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_tests::{
    artifact,
    cli::{Ended, User},
    ministack::MiniStack,
    process::{kill, wait_until},
    proxy::{Call, Fault, Play, Proxy},
};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const SOON: Duration = Duration::from_millis(300);

/// What the changed code of an update is.
fn changed() -> &'static str {
    artifact::small_zip_number(1)
}

/// A stack and a proxy before it.
struct Scene {
    aws: MiniStack,
    proxy: Proxy,
    directory: TempDir,
}

impl Scene {
    /// Nothing is deployed.
    fn empty() -> Self {
        let aws = MiniStack::start();
        let proxy = Proxy::start(&aws);
        let directory = tempdir().unwrap();
        Self { aws, proxy, directory }
    }

    /// The stack exists.
    fn deployed() -> Self {
        let scene = Self::empty();
        scene.again();
        scene
    }

    /// Deploys the initial code again, without faults and recorded calls.
    fn again(&self) {
        self.proxy.reset();
        self.aws.user().deploy(artifact::small_zip(), &[]).ended_with(0);
    }

    /// The command line that deploys the changed code, with more options.
    fn update<'a>(options: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["deploy", "--no-smoke", "--function-zip", changed()];
        args.extend(options);
        args
    }

    fn deploy(&self, options: &[&str]) -> Ended {
        self.proxy.user().run(&Self::update(options))
    }

    /// Begins to deploy the changed code.
    fn begin(&self) -> Running {
        Running::start(&self.proxy.user(), &Self::update(&[]), self.directory.path())
    }

    fn status(&self) -> Value {
        self.aws.boto(
            "[s['StackStatus'] for s in client('cloudformation').describe_stacks()['Stacks']]",
        )
    }
}

/// A command that runs beside the test, and writes to a file.
struct Running {
    child: Child,
    stderr: std::path::PathBuf,
}

impl Running {
    fn start(user: &User, args: &[&str], directory: &Path) -> Self {
        let stderr = directory.join("stderr");
        let file = fs::File::create(&stderr).unwrap();
        let child =
            user.command(args).stdout(std::process::Stdio::null()).stderr(file).spawn().unwrap();
        Self { child, stderr }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    fn wait_for(&self, text: &str) {
        wait_until(text, || self.said().contains(text));
    }

    fn signal(&self, signal: &str) {
        kill(signal, &self.child.id().to_string());
    }

    /// Its exit status and its output.
    fn end(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        (status.code(), self.said())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill("KILL", &format!("-{}", self.child.id()));
        let _ = self.child.wait();
    }
}

#[test]
fn a_failed_rollback_is_continued_before_the_update() {
    let scene = Scene::deployed();
    for (status, operation) in
        [("UPDATE_ROLLBACK_FAILED", "ContinueUpdateRollback"), ("UPDATE_FAILED", "RollbackStack")]
    {
        scene.again();
        scene.proxy.stack_is(status);
        scene.proxy.play(
            Play::on(operation)
                .instead()
                .then_real()
                .stack("UPDATE_ROLLBACK_IN_PROGRESS")
                .after(SOON)
                .stack("UPDATE_ROLLBACK_COMPLETE"),
        );
        let ended = scene.deploy(&[]).ended_with(0);
        assert_eq!(scene.proxy.count(&format!("cloudformation:{operation}")), 1, "{ended}");
        assert_eq!(scene.proxy.count("cloudformation:ExecuteChangeSet"), 1, "{ended}");
    }
    // It fails again and needs a decision.
    scene.again();
    scene.proxy.stack_is("UPDATE_ROLLBACK_FAILED");
    scene.proxy.play(
        Play::on("ContinueUpdateRollback")
            .instead()
            .stack("UPDATE_ROLLBACK_IN_PROGRESS")
            .resource("Role", "AWS::IAM::Role", "UPDATE_FAILED")
            .because("the role is gone")
            .stack("UPDATE_ROLLBACK_FAILED"),
    );
    let ended = scene.deploy(&[]);
    ended.failed(5, "Role UPDATE_FAILED: the role is gone");
    assert!(ended.stderr.contains("--resources-to-skip"), "{ended}");
}

#[test]
fn only_a_used_stack_needs_confirmation_to_be_replaced() {
    let scene = Scene::deployed();
    for status in ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"] {
        scene.again();
        scene.proxy.stack_is(status);
        let ended = scene.deploy(&[]).ended_with(0);
        assert_eq!(scene.proxy.count("cloudformation:DeleteStack"), 1, "{ended}");
        assert_eq!(scene.status(), json!(["CREATE_COMPLETE"]), "{status}");
    }
    scene.again();
    scene.proxy.stack_is("DELETE_FAILED");
    scene.deploy(&[]).failed(2, "Its endpoint and logs may be lost");
    assert_eq!(scene.proxy.count("cloudformation:DeleteStack"), 0);
    scene.deploy(&["--yes"]).ended_with(0);
    assert_eq!(scene.proxy.count("cloudformation:DeleteStack"), 1);

    scene.again();
    scene.proxy.stack_is("IMPORT_ROLLBACK_FAILED");
    scene.deploy(&["--yes"]).failed(5, "IMPORT_ROLLBACK_FAILED");
}

#[test]
fn a_deployment_waits_for_a_change_in_progress() {
    let scene = Scene::deployed();
    scene.proxy.stack_is("UPDATE_IN_PROGRESS");
    scene
        .deploy(&["--wait-for-stack", "0s"])
        .failed(5, "is changing stack `cbbootstrap` (UPDATE_IN_PROGRESS)");
    let ended = scene.deploy(&["--wait-for-stack", "1s"]);
    ended.failed(5, "after 1 s");
    assert!(ended.stderr.contains("cbbootstrap status --wait"), "{ended}");
    scene
        .proxy
        .user()
        .run(&["destroy", "--yes", "--wait-for-stack", "0s"])
        .failed(5, "UPDATE_IN_PROGRESS");
    scene.proxy.user().run(&["plan", "--function-zip", changed()]).failed(5, "UPDATE_IN_PROGRESS");

    // Without a terminal, it waits without asking, and continues from the new state.
    scene.proxy.reset();
    scene.proxy.play(
        Play::now()
            .then_real()
            .stack("UPDATE_IN_PROGRESS")
            .after(Duration::from_secs(1))
            .resource("Function", "AWS::Lambda::Function", "UPDATE_COMPLETE")
            .stack("UPDATE_COMPLETE"),
    );
    let ended = scene.deploy(&[]).ended_with(0);
    assert!(ended.stderr.contains("waiting for it to finish"), "{ended}");
    assert_eq!(scene.proxy.count("cloudformation:ExecuteChangeSet"), 1, "{ended}");
    assert_eq!(scene.status(), json!(["UPDATE_COMPLETE"]));
    let again = scene.deploy(&["--output", "json"]).document();
    assert_eq!(again["changed"], json!(false), "{again}");
}

#[test]
fn the_second_of_two_deployments_finds_nothing_to_change() {
    let scene = Scene::deployed();
    scene.proxy.play(slow_update(Duration::from_secs(3)));
    let mut first = scene.begin();
    scene.proxy.wait_for("cloudformation:ExecuteChangeSet");
    let second = scene.deploy(&["--output", "json"]);
    assert_eq!(second.document()["changed"], json!(false), "{second}");
    assert!(second.stderr.contains("waiting for it to finish"), "{second}");
    let (status, said) = first.end();
    assert_eq!(status, Some(0), "{said}");
    let executed = scene.proxy.count("cloudformation:ExecuteChangeSet");
    assert_eq!(executed, 1, "{said}{second}");
    assert_eq!(scene.status(), json!(["UPDATE_COMPLETE"]));
}

#[test]
fn an_overtaken_deployment_reads_the_stack_again() {
    let scene = Scene::deployed();
    // Another deployment executes a change set before ours is created, or before it is executed. The delayed call is one during
    // which the other begins, after the stack was read so many times.
    for (name, code, message, delayed, reads) in [
        (
            "cloudformation:ExecuteChangeSet",
            "InvalidChangeSetStatus",
            "ChangeSet cannot be executed in its current status of [OBSOLETE]",
            "s3:PutObject",
            2,
        ),
        (
            "cloudformation:CreateChangeSet",
            "ValidationError",
            "Stack:arn is in UPDATE_IN_PROGRESS state and can not be updated.",
            "cloudformation:GetTemplate",
            1,
        ),
    ] {
        scene.again();
        let (fault, mut left) = (Fault::refuse(code, message), 1);
        scene.proxy.fault(move |call| {
            if call.name == delayed && left == 1 {
                return Some(Fault::Delay(Duration::from_millis(1500)));
            }
            (call.name == name && std::mem::take(&mut left) == 1).then(|| fault.clone())
        });
        let ended = thread::scope(|scope| {
            let deploy = scope.spawn(|| scene.deploy(&[]));
            wait_until("the stack is read", || {
                let calls = scene.proxy.calls().into_iter();
                let read = |call: &Call| call.name == "cloudformation:DescribeStacks";
                calls.filter(|call| read(call) && call.status.is_some()).count() == reads
            });
            scene.proxy.play(
                Play::now()
                    .then_real()
                    .stack("UPDATE_IN_PROGRESS")
                    .after(Duration::from_secs(5))
                    .stack("UPDATE_COMPLETE"),
            );
            deploy.join().unwrap().ended_with(0)
        });
        assert!(ended.stderr.contains("another deployment changed the stack"), "{ended}");
        assert_eq!(scene.status(), json!(["UPDATE_COMPLETE"]), "{ended}");
    }
}

#[test]
fn a_change_that_ended_before_the_change_set_began_is_not_undone_unasked() {
    let scene = Scene::deployed();
    let is_locked = Arc::new(AtomicBool::new(false));
    let locked = Arc::clone(&is_locked);
    scene.proxy.fault(move |call| {
        let is_early = !locked.load(Ordering::SeqCst);
        (is_early && call.name == "cloudformation:CreateChangeSet").then_some(Fault::Throttle)
    });
    let ended = thread::scope(|scope| {
        let deploy = scope.spawn(|| {
            let patient = scene.proxy.user().with("AWS_MAX_ATTEMPTS", "100");
            patient.run(&Scene::update(&[]))
        });
        scene.proxy.wait_for("cloudformation:CreateChangeSet");
        scene.aws.user().deploy(artifact::small_zip(), &["--auth", "iam"]).ended_with(0);
        is_locked.store(true, Ordering::SeqCst);
        deploy.join().unwrap()
    });
    assert!(ended.stderr.contains("another deployment changed the stack"), "{ended}");
    ended.failed(2, "accepts only signed requests");
    assert_eq!(scene.proxy.count("cloudformation:ExecuteChangeSet"), 0);
}

#[test]
fn an_empty_stack_of_someone_else_is_not_touched() {
    let scene = Scene::empty();
    scene.aws.boto(
        "client('cloudformation').create_change_set(StackName='cbbootstrap', ChangeSetName='shop', \
         ChangeSetType='CREATE', TemplateBody=json.dumps({'Resources': {'T': {'Type': 'AWS::SNS::Topic'}}}))",
    );
    let message = "stack `cbbootstrap` was not created by cbbootstrap";
    scene.deploy(&["--yes"]).failed(5, message);
    scene.proxy.user().run(&["destroy", "--yes"]).failed(5, message);
    assert_eq!(scene.status(), json!(["REVIEW_IN_PROGRESS"]));
}

#[test]
fn a_plan_is_printed_even_if_its_change_set_stays() {
    let scene = Scene::deployed();
    scene.proxy.fault(|call| {
        let denied = || Fault::refuse("AccessDenied", "not authorized");
        (call.name == "cloudformation:DeleteChangeSet").then(denied)
    });
    let planned = scene.proxy.user().run(&["plan", "--function-zip", changed()]).ended_with(0);
    assert!(planned.stdout.contains("Function"), "{planned}");
    assert!(planned.stderr.contains("warning: cannot delete the change set"), "{planned}");
}

#[test]
fn the_first_cause_is_reported_with_a_hint() {
    let scene = Scene::deployed();
    let denied = "User: arn:aws:iam::1:user/ci is not authorized to perform: iam:PutRolePolicy on resource: arn:aws:iam::1:role/x";
    scene.proxy.play(
        Play::on("ExecuteChangeSet")
            .instead()
            .stack("UPDATE_IN_PROGRESS")
            .after(SOON)
            .resource("Function", "AWS::Lambda::Function", "UPDATE_IN_PROGRESS")
            .resource("Role", "AWS::IAM::Role", "UPDATE_FAILED")
            .because(denied)
            .resource("Function", "AWS::Lambda::Function", "UPDATE_FAILED")
            .because("Resource update cancelled")
            .stack("UPDATE_ROLLBACK_IN_PROGRESS")
            .because("The following resource(s) failed to update: [Role, Function].")
            .after(SOON)
            .stack("UPDATE_ROLLBACK_COMPLETE"),
    );
    let ended = scene.deploy(&[]);
    ended.failed(1, &format!("Role UPDATE_FAILED: {denied}"));
    assert!(
        ended.stderr.contains("allow `iam:PutRolePolicy` on `arn:aws:iam::1:role/x`"),
        "{ended}"
    );
    assert!(ended.stderr.contains("as it was before"), "{ended}");
}

#[test]
fn a_refused_execution_is_reported_though_the_change_set_seems_to_be_executing() {
    let scene = Scene::empty();
    let reason = "Invalid parameter: TopicArn (Service: AmazonSNS; Status Code: 400)";
    let check = || {
        let mut is_refused = false;
        scene.proxy.fault(move |call| match call.name.as_str() {
            "cloudformation:ExecuteChangeSet" => {
                is_refused = true;
                Some(Fault::refuse("ValidationError", reason))
            }
            "cloudformation:DescribeChangeSet" if is_refused => {
                Some(Fault::Replace("AVAILABLE".into(), "EXECUTE_IN_PROGRESS".into()))
            }
            _ => None,
        });
        let ended = scene.deploy(&[]).ended_with(1);
        assert!(ended.stderr.contains(reason), "{ended}");
        assert!(scene.proxy.count("cloudformation:DeleteChangeSet") > 0, "{ended}");
    };
    check();
    assert_eq!(scene.status(), json!([]), "the stack that held the change set is gone");
    for status in ["CREATE_COMPLETE", "UPDATE_COMPLETE"] {
        scene.again();
        scene.proxy.stack_is(status);
        check();
    }
}

#[test]
fn a_missing_permission_for_a_topic_is_named() {
    let scene = Scene::deployed();
    let topic = "arn:aws:sns:us-east-1:000000000000:t";
    let reason = format!("User: u is not authorized to perform: SNS:Publish on resource: {topic}");
    let refusal = Fault::refuse("ValidationError", &reason);
    scene.proxy.fault_on("cloudformation:CreateChangeSet", 1, refusal);
    let ended = scene.deploy(&["--notification-arn", topic]);
    ended.failed(1, &reason);
    assert!(ended.stderr.contains(&format!("allow `SNS:Publish` on `{topic}`")), "{ended}");
}

/// An update that takes its time.
fn slow_update(pause: Duration) -> Play {
    Play::on("ExecuteChangeSet")
        .then_real()
        .stack("UPDATE_IN_PROGRESS")
        .after(pause)
        .resource("Function", "AWS::Lambda::Function", "UPDATE_COMPLETE")
        .stack("UPDATE_COMPLETE")
}

/// The fault of each call after the change has been executed; the change itself succeeds.
fn once_executed(
    mut decide: impl FnMut(&Call) -> Option<Fault>,
) -> impl FnMut(&Call) -> Option<Fault> {
    let mut is_executed = false;
    move |call| {
        if call.name == "cloudformation:ExecuteChangeSet" {
            is_executed = true;
            return None;
        }
        is_executed.then(|| decide(call)).flatten()
    }
}

/// Most reads fail in this way, including the last ones.
#[track_caller]
fn assert_found_out_though_looks_fail(fault: Fault) {
    let scene = Scene::deployed();
    scene.proxy.play(slow_update(Duration::from_secs(2)));
    let mut look = 0;
    scene.proxy.fault(once_executed(move |call| {
        let is_look = matches!(
            call.name.as_str(),
            "cloudformation:DescribeStackEvents" | "cloudformation:DescribeStacks"
        );
        if !is_look {
            return None;
        }
        look += 1;
        (look % 7 != 0).then(|| fault.clone())
    }));
    scene.deploy(&[]).ended_with(0);
    let failed = failed_calls(&scene.proxy);
    assert!(failed > 3, "{failed}");
}

fn failed_calls(proxy: &Proxy) -> usize {
    let calls = proxy.calls();
    calls.iter().filter(|call| call.fault.is_some()).count()
}

#[test]
fn throttled_polls_decide_nothing() {
    assert_found_out_though_looks_fail(Fault::Throttle);
}

#[test]
fn failed_polls_decide_nothing() {
    assert_found_out_though_looks_fail(Fault::InternalError);
}

#[test]
fn polls_with_lost_answers_decide_nothing() {
    assert_found_out_though_looks_fail(Fault::DropAnswer);
}

#[test]
fn the_stack_status_decides_without_events() {
    let scene = Scene::empty();
    for (status, expected) in [("UPDATE_COMPLETE", 0), ("UPDATE_ROLLBACK_COMPLETE", 1)] {
        scene.again();
        scene.proxy.play(
            Play::on("ExecuteChangeSet")
                .stack("UPDATE_IN_PROGRESS")
                .after(Duration::from_secs(12))
                .stack(status),
        );
        scene.proxy.fault(once_executed(|call| {
            (call.name == "cloudformation:DescribeStackEvents")
                .then(|| Fault::refuse("AccessDenied", "no"))
        }));
        scene.deploy(&[]).ended_with(expected);
        assert_ne!(failed_calls(&scene.proxy), 0);
    }
}

#[test]
fn credentials_that_expire_during_an_update_are_renewed_or_reported() {
    let scene = Scene::deployed();
    let expired = |key: &'static str| {
        once_executed(move |call| (call.access_key == key).then_some(Fault::ExpireToken))
    };
    scene.proxy.play(slow_update(Duration::from_secs(2)));
    scene.proxy.fault(expired("test"));
    let ended = scene.deploy(&[]);
    ended.failed(1, "the AWS credentials have expired");
    assert!(
        ended
            .stderr
            .contains("`cbbootstrap status --wait --stack-name cbbootstrap` shows the result"),
        "{ended}"
    );

    // A tool renews them in the profile.
    scene.again();
    let file = scene.directory.path().join("credentials");
    let profile = |key: &str| {
        fs::write(
            &file,
            format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = test\n"),
        )
        .unwrap();
    };
    profile("test");
    let user = scene
        .proxy
        .user()
        .without("AWS_ACCESS_KEY_ID")
        .without("AWS_SECRET_ACCESS_KEY")
        .with("AWS_SHARED_CREDENTIALS_FILE", file.display().to_string());
    scene.proxy.play(slow_update(Duration::from_secs(2)));
    let mut expire = expired("test");
    let renew = file.clone();
    scene.proxy.fault(move |call| {
        let fault = expire(call);
        if fault.is_some() {
            // The same account's, by another name.
            fs::write(
                &renew,
                "[default]\naws_access_key_id = 000000000000\naws_secret_access_key = test\n",
            )
            .unwrap();
        }
        fault
    });
    let ended = user.run(&Scene::update(&[]));
    assert_eq!(ended.status, Some(0), "{ended}");
    assert!(scene.proxy.calls().iter().any(|call| call.access_key == "000000000000"));
}

#[test]
fn the_first_ctrl_c_cancels_an_update_and_the_second_leaves_it() {
    let scene = Scene::deployed();
    let hangs = Play::on("ExecuteChangeSet").instead().stack("UPDATE_IN_PROGRESS");
    let rolls_back = Play::on("CancelUpdateStack").instead().stack("UPDATE_ROLLBACK_IN_PROGRESS");

    scene.proxy.play(hangs.clone());
    scene.proxy.play(rolls_back.clone().then_real().after(SOON).stack("UPDATE_ROLLBACK_COMPLETE"));
    let mut update = scene.begin();
    update.wait_for("UPDATE_IN_PROGRESS");
    update.signal("INT");
    let (status, said) = update.end();
    assert_eq!(status, Some(4), "{said}");
    assert!(
        said.contains("cancelling the update") && said.contains("UPDATE_ROLLBACK_COMPLETE"),
        "{said}"
    );
    assert!(
        said.contains("error: cancelled by Ctrl-C: stack `cbbootstrap` was rolled back"),
        "{said}"
    );

    scene.proxy.reset();
    scene.proxy.play(hangs.clone());
    scene.proxy.play(rolls_back);
    let mut update = scene.begin();
    update.wait_for("UPDATE_IN_PROGRESS");
    update.signal("INT");
    update.wait_for("UPDATE_ROLLBACK_IN_PROGRESS");
    update.signal("INT");
    let (status, said) = update.end();
    assert_eq!(status, Some(4), "{said}");
    assert!(
        said.contains("keeps changing") && said.contains("`cbbootstrap status --wait"),
        "{said}"
    );

    // SIGTERM does not cancel the change.
    scene.proxy.reset();
    scene.proxy.play(hangs.clone());
    let mut update = scene.begin();
    update.wait_for("UPDATE_IN_PROGRESS");
    update.signal("TERM");
    let (status, said) = update.end();
    assert_eq!(status, Some(4), "{said}");
    assert!(said.contains("stopped by SIGTERM") && said.contains("keeps changing"), "{said}");
    let finish = "shows the result; then run the same command again to finish";
    assert!(said.contains(finish), "{said}");
    assert_eq!(scene.proxy.count("cloudformation:CancelUpdateStack"), 0);

    // Too late: the update is done before it can be cancelled.
    scene.proxy.reset();
    scene.proxy.play(hangs.then_real().after(Duration::from_secs(3)).stack("UPDATE_COMPLETE"));
    let late = Fault::refuse(
        "ValidationError",
        "CancelUpdateStack cannot be called from current stack status",
    );
    scene.proxy.fault_on("cloudformation:CancelUpdateStack", 1, late);
    let mut update = scene.begin();
    update.wait_for("UPDATE_IN_PROGRESS");
    update.signal("INT");
    let (status, said) = update.end();
    assert_eq!(status, Some(4), "{said}");
    assert!(said.contains("too late"), "{said}");
    assert!(said.contains("hint: run the same command again to finish"), "{said}");
}

#[test]
fn ctrl_c_while_the_stack_is_created_deletes_it_again() {
    let scene = Scene::empty();
    scene.proxy.play(Play::on("ExecuteChangeSet").stack("CREATE_IN_PROGRESS"));
    let mut creation = scene.begin();
    creation.wait_for("CREATE_IN_PROGRESS");
    creation.signal("INT");
    let (status, said) = creation.end();
    assert_eq!(status, Some(4), "{said}");
    assert!(said.contains("cancelled by Ctrl-C: stack `cbbootstrap` was deleted"), "{said}");
    assert_eq!(scene.status(), json!([]));
}

#[test]
fn a_signal_before_the_change_leaves_no_change_set() {
    for signal in ["INT", "TERM", "HUP"] {
        let scene = Scene::empty();
        scene.proxy.fault_on(
            "cloudformation:DescribeChangeSet",
            1,
            Fault::Delay(Duration::from_secs(5)),
        );
        let mut creation = scene.begin();
        wait_until("the change set is made", || {
            scene.proxy.count("cloudformation:DescribeChangeSet") > 0
        });
        let since = Instant::now();
        creation.signal(signal);
        let (status, said) = creation.end();
        assert_eq!(status, Some(4), "{said}");
        assert!(since.elapsed() < Duration::from_secs(5), "{said}");
        assert_eq!(scene.status(), json!([]), "the stack that held it is gone: {said}");
        // With the stack there, the change set alone goes.
        scene.again();
        scene.proxy.fault_on(
            "cloudformation:DescribeChangeSet",
            1,
            Fault::Delay(Duration::from_secs(5)),
        );
        let mut update = scene.begin();
        wait_until("the change set is made", || {
            scene.proxy.count("cloudformation:DescribeChangeSet") > 0
        });
        update.signal(signal);
        let (status, said) = update.end();
        assert_eq!(status, Some(4), "{said}");
        let left = scene.aws.boto(
            "[c['ChangeSetName'] for c in client('cloudformation').list_change_sets(StackName='cbbootstrap')['Summaries'] \
             if c['ExecutionStatus'] != 'EXECUTE_COMPLETE']",
        );
        assert_eq!(left, json!([]), "{said}");
    }
}

#[test]
fn a_refused_change_set_is_explained_before_it_is_discarded() {
    let scene = Scene::deployed();
    let refuse = |reason: &str, events: Fault| {
        scene.proxy.reset();
        let set = format!(
            "<ChangeSetId>arn:aws:cloudformation:us-east-1:000000000000:changeSet/c/1</ChangeSetId>\
             <Status>FAILED</Status><StatusReason>{reason}</StatusReason>"
        );
        scene.proxy.fault(move |call| match call.name.as_str() {
            "cloudformation:DescribeChangeSet" => Some(Fault::Answer(set.clone())),
            "cloudformation:DescribeEvents" => Some(events.clone()),
            _ => None,
        });
        let ended = scene.deploy(&[]);
        let calls: Vec<_> = scene.proxy.calls().into_iter().map(|call| call.name).collect();
        let position = |name: &str| calls.iter().position(|call| call == name);
        let (read, deleted) =
            (position("cloudformation:DescribeEvents"), position("cloudformation:DeleteChangeSet"));
        assert!(read.is_some() && read < deleted, "{calls:?}");
        ended
    };
    let events = |fields: &str| {
        Fault::Answer(format!(
            "<OperationEvents><member><LogicalResourceId>Dashboard</LogicalResourceId>{fields}</member></OperationEvents>"
        ))
    };
    let early = "The following hook(s)/validation failed: [AWS::EarlyValidation::ResourceExistenceCheck]. To troubleshoot \
         Early Validation errors, use the DescribeEvents API for detailed failure information.";
    let exists = events(
        "<ValidationName>AWS::EarlyValidation::ResourceExistenceCheck</ValidationName>\
         <ValidationStatus>FAILED</ValidationStatus><ValidationFailureMode>FAIL</ValidationFailureMode>\
         <ValidationStatusReason>Resource of type 'AWS::CloudWatch::Dashboard' with identifier 'd' already exists.</ValidationStatusReason>\
         <ValidationPath>/Resources/Dashboard</ValidationPath>",
    );
    let ended = refuse(early, exists);
    ended.failed(1, "Dashboard: Resource of type 'AWS::CloudWatch::Dashboard' with identifier 'd' already exists (");
    assert!(ended.stderr.contains("hint: a resource outside the stack has this name"), "{ended}");

    let guard = events(
        "<HookType>Our::Org::Guard</HookType><HookStatus>HOOK_COMPLETE_FAILED</HookStatus>\
         <HookStatusReason>no dashboards here</HookStatusReason><HookFailureMode>FAIL</HookFailureMode>",
    );
    refuse("The following hook(s) failed: [Our::Org::Guard]", guard)
        .failed(1, "Dashboard: no dashboards here (Our::Org::Guard)");

    // The permission to read the reason may be missing.
    let denied = Fault::refuse(
        "AccessDenied",
        "User: u is not authorized to perform: cloudformation:DescribeEvents on resource: r",
    );
    let ended = refuse(early, denied);
    ended.failed(1, "AWS::EarlyValidation::ResourceExistenceCheck");
    assert!(ended.stderr.contains("hint: allow `cloudformation:DescribeEvents`"), "{ended}");
}

#[test]
fn a_deletion_continues_after_an_interrupt() {
    let scene = Scene::deployed();
    scene.proxy.play(Play::on("DeleteStack").instead().stack("DELETE_IN_PROGRESS"));
    let mut destruction =
        Running::start(&scene.proxy.user(), &["destroy", "--yes"], scene.directory.path());
    destruction.wait_for("DELETE_IN_PROGRESS");
    destruction.signal("INT");
    let (status, said) = destruction.end();
    assert_eq!(status, Some(4), "{said}");
    assert!(said.contains("stopped by Ctrl-C") && said.contains("keeps changing"), "{said}");
    assert!(said.contains("hint: run the same command again to continue"), "{said}");

    scene.proxy.reset();
    scene.proxy.play(
        Play::on("DeleteStack")
            .instead()
            .stack("DELETE_IN_PROGRESS")
            .resource("Role", "AWS::IAM::Role", "DELETE_FAILED")
            .because("it is in use")
            .stack("DELETE_FAILED"),
    );
    let ended = scene.proxy.user().run(&["destroy", "--yes"]);
    ended.failed(1, "Role DELETE_FAILED: it is in use");
}

#[test]
fn status_can_wait_for_the_end_of_a_change() {
    let scene = Scene::deployed();
    let user = scene.proxy.user();
    let wait = ["status", "--wait", "--output", "json"];
    let update = |end: &str| {
        Play::now()
            .stack("UPDATE_IN_PROGRESS")
            .after(Duration::from_secs(1))
            .resource("Function", "AWS::Lambda::Function", "UPDATE_FAILED")
            .because("no such key")
            .stack(end)
    };
    scene.proxy.play(update("UPDATE_COMPLETE"));
    let ended = user.run(&wait);
    assert_eq!(ended.document()["stack_status"], json!("UPDATE_COMPLETE"), "{ended}");

    // It reports the result of the change and exits accordingly.
    scene.proxy.reset();
    scene.proxy.play(update("UPDATE_ROLLBACK_COMPLETE"));
    let ended = user.run(&wait).ended_with(1);
    assert!(ended.stderr.contains("Function UPDATE_FAILED: no such key"), "{ended}");
    let document: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(document["stack_status"], json!("UPDATE_ROLLBACK_COMPLETE"), "{ended}");
}
