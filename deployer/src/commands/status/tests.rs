use std::collections::BTreeMap;

use super::{text::dashboard_text, *};
use crate::{
    aws::dynamodb::TableSettings,
    stack::{Difference, Drifted, tests::stack},
};

const NOW: &str = "2026-11-24T03:19:56Z";

#[test]
fn code_that_the_stack_does_not_name_is_replaced() {
    let (here, there) = ("a1".repeat(32), "b2".repeat(32));
    let key = |hash: &str| Some(format!("cbbootstrap/{hash}.zip"));
    let done = "UPDATE_COMPLETE";
    for (status, key, expected) in [
        (done, key(&here), Some(false)),
        (done, key(&there), Some(true)),
        (done, Some(format!("{there}.zip")), Some(true)),
        ("UPDATE_IN_PROGRESS", key(&there), None),
        // Another key does not name the code.
        (done, key("function-1.2"), None),
        (done, Some(there.clone()), None),
        (done, None, None),
    ] {
        let function = Function {
            name: "f".to_owned(),
            state: "active".to_owned(),
            last_update: None,
            last_modified: None,
            sha256: Some(here.clone()),
            size: 0,
            memory: 256,
            arch: None,
        };
        let mut stack = stack(status, "t");
        stack.parameters.extend(key.clone().map(|key| ("ArtifactKey".to_owned(), key)));
        assert_eq!(is_replaced(&stack, &function), expected, "{key:?}");
    }
}

#[test]
fn dashboard_is_in_the_console_of_its_partition() {
    for (region, expected) in [
        (
            "eu-west-1",
            "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#dashboards/dashboard/d",
        ),
        (
            "cn-north-1",
            "https://cn-north-1.console.amazonaws.cn/cloudwatch/home?region=cn-north-1#dashboards/dashboard/d",
        ),
        ("us-iso-east-1", "dashboard d in CloudWatch"),
    ] {
        assert_eq!(dashboard_text(region, "d"), expected);
    }
}

/// A stack with everything that can be shown.
fn full_status() -> Status {
    Status {
        stack_name: "s".to_owned(),
        region: "us-east-1".to_owned(),
        stack_status: "UPDATE_ROLLBACK_COMPLETE".to_owned(),
        reason: None,
        cause: Some("Role UPDATE_FAILED: no".to_owned()),
        created: Some("2026-11-14T03:19:56Z".to_owned()),
        updated: Some("2026-11-24T03:18:56Z".to_owned()),
        age_seconds: Some(60),
        termination_protection: true,
        drift: Drift {
            status: "DRIFTED".to_owned(),
            checked: Some(NOW.to_owned()),
            reason: None,
            resources: Some(vec![Drifted {
                resource: "Role".to_owned(),
                kind: "AWS::IAM::Role".to_owned(),
                status: "MODIFIED".to_owned(),
                differences: vec![Difference {
                    property: "/Path".to_owned(),
                    expected: "/".to_owned(),
                    actual: "/x/".to_owned(),
                }],
            }]),
        },
        endpoint: Some("https://e".to_owned()),
        dns_record: Some(DnsRecord { name: "e".to_owned(), target: "d-1".to_owned() }),
        auth: Some(Auth::Iam),
        dashboard: Some("s-us-east-1-0a1b2c3d4e5f".to_owned()),
        function: Some(FunctionStatus {
            function: Function {
                name: "f".to_owned(),
                state: "active".to_owned(),
                last_update: Some("successful".to_owned()),
                last_modified: Some("2026-11-24T02:19:56Z".to_owned()),
                sha256: Some("a1".to_owned()),
                size: 1536,
                memory: 256,
                arch: Some("arm64".to_owned()),
            },
            version: Some(3),
            replaced: Some(true),
        }),
        table: Some(Table {
            arn: String::new(),
            name: "t".to_owned(),
            status: "active".to_owned(),
            items: 3,
            size: 310,
            deletion_protection: true,
            point_in_time_recovery: Some(false),
            settings: TableSettings { max_read_units: Some(100), ..TableSettings::default() },
            expiry: None,
            is_active: true,
            has_weak_replicas: false,
            ours: true,
            stack: None,
        }),
        unknown: BTreeMap::new(),
        now: NOW.parse().unwrap(),
    }
}

#[test]
fn status_is_readable() {
    let mut status = full_status();
    assert_eq!(
        status.to_string(),
        "\
Endpoint: https://e
          needs the DNS record `e CNAME d-1`, or an alias
          for signed requests only (IAM)
Stack:    s in us-east-1, UPDATE_ROLLBACK_COMPLETE since 2026-11-24T03:18:56Z (1 minute ago)
          because of Role UPDATE_FAILED: no
          created 2026-11-14T03:19:56Z (10 days ago)
          termination protection on
Drift:    resources were changed outside the stack, as of 2026-11-24T03:19:56Z (just now)
          Role (AWS::IAM::Role) modified
            /Path: /x/ instead of /
Function: f, active, last update successful, modified 2026-11-24T02:19:56Z (1 hour ago)
          1.50 KiB, 256 MB of memory, arm64, version 3
          sha256 a1
          replaced outside the stack, for example by `deploy --code-only`; the next `deploy` updates the stack
Table:    t, active, about 3 clusters in 310 B
          deletion protection on, point-in-time recovery off
          max-read-units 100
Watch it: https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1#dashboards/dashboard/s-us-east-1-0a1b2c3d4e5f
"
    );

    status.function = None;
    status.table = None;
    status.unknown = BTreeMap::from([("table", "access denied: no".to_owned())]);
    let text = status.to_string();
    assert!(text.contains("\nFunction: none\n"), "{text}");
    assert!(text.contains("\nTable:    unknown: access denied: no\n"), "{text}");
}
