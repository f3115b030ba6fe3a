use std::collections::BTreeMap;

use super::{super::tests::stack, *};

/// The answers, by status.
fn answers(change: impl Fn(&mut Stack)) -> BTreeMap<String, Vec<&'static str>> {
    let mut answers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    // All of CloudFormation's statuses: a new one in the SDK shows here.
    for status in StackStatus::values().iter().copied() {
        let mut stack = stack(status, "t");
        change(&mut stack);
        let answer = match next_action("s", Some(&stack)) {
            Ok(action) => format!("{action:?}"),
            Err(failure) => {
                assert_eq!(failure.exit, Exit::NeedsDecision, "{status}");
                assert!(failure.hint.is_some(), "{status}");
                failure.to_string()
            }
        };
        answers.entry(answer).or_default().push(status);
    }
    answers
}

fn table<const N: usize>(
    rows: [(&str, &[&'static str]); N],
) -> BTreeMap<String, Vec<&'static str>> {
    rows.map(|(answer, statuses)| (answer.to_owned(), statuses.to_vec())).into()
}

const BUSY: &[&str] = &[
    "CREATE_IN_PROGRESS",
    "DELETE_IN_PROGRESS",
    "IMPORT_IN_PROGRESS",
    "IMPORT_ROLLBACK_IN_PROGRESS",
    "ROLLBACK_IN_PROGRESS",
    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
    "UPDATE_IN_PROGRESS",
    "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
    "UPDATE_ROLLBACK_IN_PROGRESS",
];
const GOOD: &[&str] = &[
    "CREATE_COMPLETE",
    "IMPORT_COMPLETE",
    "IMPORT_ROLLBACK_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE",
];
const STUCK: (&str, &[&str]) =
    ("cannot deploy stack `s` in status IMPORT_ROLLBACK_FAILED", &["IMPORT_ROLLBACK_FAILED"]);

#[test]
fn every_status_has_an_action() {
    assert_eq!(next_action("s", None).unwrap(), StackAction::Create);
    assert_eq!(
        answers(|_| ()),
        table([
            ("Create", &["DELETE_COMPLETE", "REVIEW_IN_PROGRESS"]),
            ("Update", GOOD),
            ("Replace", &["CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"]),
            ("ReplaceUsed", &["DELETE_FAILED"]),
            ("ContinueRollback", &["UPDATE_ROLLBACK_FAILED"]),
            ("RollBack", &["UPDATE_FAILED"]),
            ("Wait", BUSY),
            STUCK,
        ])
    );
}

#[test]
fn a_protected_stack_is_not_replaced() {
    assert_eq!(
        answers(|stack| stack.protected = true),
        table([
            ("Create", &["DELETE_COMPLETE", "REVIEW_IN_PROGRESS"]),
            ("Update", GOOD),
            (
                "stack `s` is protected against deletion",
                &["CREATE_FAILED", "DELETE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"]
            ),
            ("ContinueRollback", &["UPDATE_ROLLBACK_FAILED"]),
            ("RollBack", &["UPDATE_FAILED"]),
            ("Wait", BUSY),
            STUCK,
        ])
    );
}

#[test]
fn only_our_own_stacks_are_touched() {
    assert!(crate::template::TEMPLATE.contains(super::super::DESCRIPTION));
    let answers = answers(|stack| stack.ours = false);
    assert_eq!(answers["Create"], ["DELETE_COMPLETE"], "there is nothing in it");
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(answers.contains_key("stack `s` was not created by cbbootstrap"));
}

#[test]
fn an_operation_ends_as_it_was_cancelled_or_not() {
    use {Cancellation as C, Operation as O};
    for (operation, cancellation, status, expected) in [
        (O::Update, C::None, "UPDATE_COMPLETE", Ok(())),
        (O::Update, C::Refused, "UPDATE_COMPLETE", Err((Exit::Stopped, "came too late"))),
        (O::Update, C::Accepted, "UPDATE_COMPLETE", Err((Exit::Stopped, "came too late"))),
        (
            O::Update,
            C::Accepted,
            "UPDATE_ROLLBACK_COMPLETE",
            Err((Exit::Stopped, "was rolled back")),
        ),
        (O::Update, C::Refused, "UPDATE_ROLLBACK_COMPLETE", Err((Exit::Failed, "ended in"))),
        (O::Create, C::Accepted, "DELETE_COMPLETE", Err((Exit::Stopped, "was deleted"))),
        (O::Create, C::Accepted, "DELETE_FAILED", Err((Exit::Failed, "ended in"))),
        (O::Create, C::None, "ROLLBACK_COMPLETE", Err((Exit::Failed, "ended in"))),
        (O::Delete, C::None, "DELETE_COMPLETE", Ok(())),
        (O::Rollback, C::None, "UPDATE_ROLLBACK_COMPLETE", Ok(())),
        (O::Rollback, C::None, "UPDATE_ROLLBACK_FAILED", Err((Exit::NeedsDecision, "ended in"))),
    ] {
        let case = format!("{operation:?} {cancellation:?} {status}");
        let ended = verdict(
            "arn:aws:cloudformation:r:1:stack/s/uuid",
            operation,
            cancellation,
            &StackStatus::from(status),
            &[],
        );
        match (ended, expected) {
            (Ok(()), Ok(())) => (),
            (Err(failure), Err((exit, message))) => {
                assert_eq!(failure.exit, exit, "{case}");
                assert!(failure.to_string().contains(message), "{case}: {failure}");
            }
            (ended, _) => panic!("{case}: {ended:?}"),
        }
    }
}

#[test]
fn a_stack_is_up_to_date_if_nothing_but_comments_differs() {
    let topics = |arns: &[&str]| arns.iter().map(|&arn| arn.to_owned()).collect::<Vec<_>>();
    let desired = || DesiredStack {
        template: "Resources: {}",
        parameters: BTreeMap::from([("TableName".to_owned(), "t".to_owned())]),
        tags: BTreeMap::from([("team".to_owned(), "data".to_owned())]),
        notification_arns: Some(topics(&["a", "b"])),
        ..DesiredStack::default()
    };
    let deployed = || Stack {
        tags: desired().all_tags(),
        notification_arns: topics(&["b", "a"]),
        ..stack("UPDATE_COMPLETE", "t")
    };
    let template = Some("# a comment\nResources: {}\n");
    assert!(is_up_to_date(&deployed(), template, &desired()));
    assert!(!is_up_to_date(&deployed(), None, &desired()));
    assert!(!is_up_to_date(&deployed(), Some("Resources: {A: {}}"), &desired()));
    let keeps_topics = DesiredStack { notification_arns: None, ..desired() };
    assert!(is_up_to_date(&deployed(), template, &keeps_topics));
    let has_none = DesiredStack { notification_arns: Some(Vec::new()), ..desired() };
    assert!(!is_up_to_date(&deployed(), template, &has_none));
    let without_topics = Stack { notification_arns: Vec::new(), ..deployed() };
    assert!(is_up_to_date(&without_topics, template, &has_none));
    let edits: [fn(&mut Stack); 4] = [
        |stack| stack.status = StackStatus::from("UPDATE_ROLLBACK_FAILED"),
        |stack| drop(stack.tags.remove("team")),
        |stack| stack.notification_arns.truncate(1),
        |stack| drop(stack.parameters.insert("More".to_owned(), String::new())),
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        let mut stack = deployed();
        edit(&mut stack);
        assert!(!is_up_to_date(&stack, template, &desired()), "edit {number}");
    }
}

#[test]
fn only_the_stack_of_an_update_is_up_to_date() {
    for status in StackStatus::values().iter().copied() {
        let stack = stack(status, "t");
        let desired = DesiredStack {
            template: "Resources: {}",
            parameters: stack.parameters.clone(),
            ..DesiredStack::default()
        };
        let stack = Stack { tags: desired.all_tags(), ..stack };
        let action = next_action("s", Some(&stack)).ok();
        let is_up_to_date = is_up_to_date(&stack, Some(desired.template), &desired);
        assert_eq!(is_up_to_date, action == Some(StackAction::Update), "{status}");
        let reaches_goal = action.is_some_and(StackAction::reaches_goal);
        assert_eq!(reaches_goal, is_up_to_date || action == Some(StackAction::Create), "{status}");
    }
}

#[test]
fn another_table_needs_consent() {
    let risks = |stack, table| risks("s", stack, StackAction::Update, table, None, false, true);
    let deployed = stack("CREATE_COMPLETE", "old");
    assert_eq!(risks(None, "t"), []);
    assert_eq!(risks(Some(&deployed), "old"), []);
    let [risk] = &risks(Some(&deployed), "t")[..] else { panic!("one risk expected") };
    assert!(risk.question("s").contains("`old`"), "{risk:?}");
}

#[test]
fn the_table_of_another_stack_needs_consent() {
    let deployed = |table| stack("CREATE_COMPLETE", table);
    for (stack, owner, asks) in [
        (None, None, false),
        (None, Some("s"), false),
        (None, Some("other"), true),
        (Some(deployed("t")), Some("other"), false),
        (Some(deployed("old")), Some("other"), true),
        (Some(deployed("old")), Some("s"), false),
    ] {
        let risks = risks("s", stack.as_ref(), StackAction::Update, "t", owner, false, true);
        let asked = risks.iter().any(|risk| matches!(risk, Risk::SharedTable { .. }));
        assert_eq!(asked, asks, "{stack:?} {owner:?}");
    }
}

#[test]
fn opening_an_api_needs_consent() {
    let (public, token, signed) = ((false, true), (false, false), (true, false));
    for (auth, secret, (is_signed, is_public), asked) in [
        (Some("AWS_IAM"), Some("false"), public, Some("signed requests; without `--auth iam`")),
        (Some("AWS_IAM"), Some("false"), token, Some("signed requests; without `--auth iam`")),
        (Some("AWS_IAM"), Some("false"), signed, None),
        (Some("NONE"), Some("true"), public, Some("token; without `--require-secret`")),
        (Some("NONE"), Some("true"), token, None),
        (Some("NONE"), Some("true"), signed, None),
        (Some("NONE"), Some("false"), public, None),
        (Some("NONE"), Some("false"), token, None),
        // An older template, or a Couchbase cluster.
        (Some("AWS_IAM"), None, public, Some("signed requests")),
        (None, None, public, None),
    ] {
        let mut stack = stack("CREATE_COMPLETE", "t");
        for (name, value) in [("AuthorizationType", auth), ("RequireSecret", secret)] {
            stack.parameters.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        }
        let risks = risks("s", Some(&stack), StackAction::Update, "t", None, is_signed, is_public);
        let questions: Vec<_> = risks.iter().map(|risk| risk.question("s")).collect();
        let case = format!("{auth:?}, {secret:?}, {is_public}: {questions:?}");
        assert_eq!(questions.len(), usize::from(asked.is_some()), "{case}");
        assert!(asked.is_none_or(|asked| questions[0].contains(asked)), "{case}");
    }
}

#[test]
fn losing_the_endpoint_of_a_domain_needs_consent() {
    let current = "https://a.example/v1";
    for (domain, desired, asks) in [
        ("a.example", Some(current), false),
        ("a.example", Some("https://a.example/v2"), true),
        ("a.example", Some("https://b.example/v1"), true),
        ("a.example", None, true),
        ("", None, false),
        ("", Some(current), false),
    ] {
        let mut stack = stack("UPDATE_COMPLETE", "t");
        stack.parameters.insert("DomainName".to_owned(), domain.to_owned());
        for (name, url) in [("Endpoint", current), ("DefaultEndpoint", "https://d.example")] {
            stack.outputs.insert(name.to_owned(), url.to_owned());
        }
        let risk = asks.then(|| Risk::OtherEndpoint { current: current.to_owned() });
        assert_eq!(lost_domain(Some(&stack), desired), risk, "{domain} to {desired:?}");
    }
    assert_eq!(lost_domain(None, None), None);
}

#[test]
fn replacing_a_used_stack_needs_consent() {
    let stack = stack("DELETE_FAILED", "t");
    let status = stack.status.clone();
    let risks = |action| risks("s", Some(&stack), action, "t", None, false, true);
    assert_eq!(risks(StackAction::ReplaceUsed), [Risk::ReplaceUsedStack { status }]);
    assert_eq!(risks(StackAction::Replace), []);
}

#[test]
fn a_change_shows_in_id_status_and_time() {
    let at = |status: &str, updated: &str| Stack {
        updated: Some(updated.to_owned()),
        ..stack(status, "t")
    };
    let before = at("UPDATE_COMPLETE", "1");
    for (before, now, expected) in [
        (None, None, false),
        (None, Some(at("REVIEW_IN_PROGRESS", "1")), false),
        (None, Some(at("CREATE_IN_PROGRESS", "1")), true),
        (Some(&before), None, true),
        (Some(&before), Some(before.clone()), false),
        (Some(&before), Some(at("UPDATE_COMPLETE", "2")), true),
        (Some(&before), Some(at("UPDATE_IN_PROGRESS", "1")), true),
    ] {
        assert_eq!(has_changed(before, now.as_ref()), expected, "{now:?}");
    }
}
