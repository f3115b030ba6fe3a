//! Hints for AWS's errors.

/// What limits permissions besides the caller's own policies, as AWS's messages name it.
const RESTRICTIONS: [&str; 5] = [
    "service control policy",
    "resource control policy",
    "permissions boundary",
    "session policy",
    "VPC endpoint policy",
];

/// The hint for CloudFormation's reason of a failure, if it is a known one. `INSTANCE-ID` stands for the instance that failed.
pub fn for_reason(reason: &str) -> Option<String> {
    let text = reason.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if missing_permission(reason).is_some() || has(&["accessdenied", "access denied"]) {
        return Some(permission(reason));
    }
    let advice = if has(&["nosuchkey", "nosuchbucket", "specified key does not exist"]) {
        "the artifact is not in its bucket: deploy again to upload it"
    } else if has(&["cannot be assumed by lambda"]) {
        "Lambda could not assume the new role yet: deploy again"
    } else if has(&["already exists"]) {
        "a resource outside the stack has this name: delete it, or choose another `--stack-name`"
    } else if has(&["limitexceeded", "limit exceeded", "quota", "maximum number of"]) {
        "request a higher quota in Service Quotas, or delete resources that you no longer need; then deploy again"
    } else if has(&["rollback trigger", "rollbacktrigger", "to alarm", "in alarm"]) {
        "requests failed during the update or just before: see `cbbootstrap logs`; without `--rollback-minutes`, no update is rolled back for that"
    } else if has(&["resource signal", "success signals", "failure signal"]) {
        "a node did not become a member: `aws ec2 get-console-output --output text --instance-id INSTANCE-ID` shows its log, for about an \
         hour after the instance has ended"
    } else if has(&["throttling", "rate exceeded"]) {
        "AWS throttled the requests: deploy again"
    } else {
        return None;
    };
    Some(advice.to_owned())
}

/// The instance whose signal of a failure this reason reports.
pub fn failed_instance(reason: &str) -> Option<&str> {
    let signal = reason.to_lowercase().contains("failure signal");
    word_after(reason, "UniqueId ").filter(|id| signal && id.starts_with("i-"))
}

/// The hint for a missing permission, from the message that denies it.
pub fn permission(message: &str) -> String {
    let all = "`cbbootstrap iam-policy` prints the permissions that a deployment needs, and with `--for launch` those of a cluster";
    let missing = missing_permission(message);
    let action = missing.map_or_else(|| "it".to_owned(), |(action, _)| format!("`{action}`"));
    if let Some(policy) = RESTRICTIONS.iter().find(|policy| message.contains(*policy)) {
        return format!(
            "the {policy} must allow {action}; no IAM policy can override it: ask its administrator"
        );
    }
    if message.contains("explicit deny") {
        return format!(
            "a policy denies {action} explicitly; no other policy can override it: ask its administrator"
        );
    }
    match missing {
        Some((_, Some(resource))) => format!("allow {action} on `{resource}`; {all}"),
        Some((_, None)) => format!("allow {action}; {all}"),
        None => format!("ask for the permission, or sign in as someone who has it; {all}"),
    }
}

/// The action that is not allowed, and its resource.
fn missing_permission(message: &str) -> Option<(&str, Option<&str>)> {
    let action = word_after(message, "perform: ")?;
    Some((action, word_after(message, "on resource: ")))
}

fn word_after<'t>(text: &'t str, before: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    let word = rest.split_whitespace().next()?;
    Some(word.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '*' && c != '/'))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_permission_is_named() {
        for (message, expected) in [
            (
                "User: arn:aws:iam::1:user/ci is not authorized to perform: iam:CreateRole on resource: arn:aws:iam::1:role/x-Role because no identity-based policy allows it",
                Some(("iam:CreateRole", Some("arn:aws:iam::1:role/x-Role"))),
            ),
            (
                "User is not authorized to perform: dynamodb:CreateTable, sorry",
                Some(("dynamodb:CreateTable", None)),
            ),
            (
                "not authorized to perform: s3:* on resource: arn:aws:s3:::b/*.",
                Some(("s3:*", Some("arn:aws:s3:::b/*"))),
            ),
            ("Access Denied", None),
        ] {
            assert_eq!(missing_permission(message), expected, "{message}");
        }
    }

    #[test]
    fn a_denial_by_another_policy_is_named() {
        let denied = "User: arn:aws:iam::1:user/ci is not authorized to perform: iam:CreateRole on resource: r";
        for (reason, expected) in [
            (
                "with an explicit deny in a service control policy: arn:aws:organizations::1:policy/p",
                "service control policy",
            ),
            (
                "because no service control policy allows the iam:CreateRole action",
                "service control policy",
            ),
            ("with an explicit deny in a resource control policy", "resource control policy"),
            (
                "because no permissions boundary allows the iam:CreateRole action",
                "permissions boundary",
            ),
            ("with an explicit deny in a session policy", "session policy"),
            ("with an explicit deny in a VPC endpoint policy", "VPC endpoint policy"),
            (
                "with an explicit deny in an identity-based policy",
                "denies `iam:CreateRole` explicitly",
            ),
            (
                "with an explicit deny in a resource-based policy",
                "denies `iam:CreateRole` explicitly",
            ),
            (
                "because no identity-based policy allows the iam:CreateRole action",
                "allow `iam:CreateRole` on",
            ),
        ] {
            let hint = permission(&format!("{denied} {reason}"));
            assert!(
                hint.contains(expected) && hint.contains("`iam:CreateRole`"),
                "{reason}: {hint}"
            );
        }
    }

    #[test]
    fn a_signal_names_its_instance() {
        for (reason, expected) in [
            ("Received FAILURE signal with UniqueId i-0abc", Some("i-0abc")),
            ("Received FAILURE signal with UniqueId i-0abc.", Some("i-0abc")),
            ("Received SUCCESS signal with UniqueId i-0abc", None),
            ("Received FAILURE signal with UniqueId other", None),
            ("Received 1 FAILURE signal(s) out of 3", None),
        ] {
            assert_eq!(failed_instance(reason), expected, "{reason}");
        }
    }

    #[test]
    fn known_reasons_have_a_hint() {
        for (reason, expected) in [
            (
                "API: iam:CreateRole User: arn is not authorized to perform: iam:CreateRole on resource: r",
                Some("allow `iam:CreateRole` on `r`"),
            ),
            (
                "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.",
                Some("deploy again to upload it"),
            ),
            ("Function x already exists in stack y", Some("--stack-name")),
            ("The following alarm went to ALARM: [arn]", Some("cbbootstrap logs")),
            (
                "Failed to receive 3 resource signal(s) within the specified duration",
                Some("--instance-id INSTANCE-ID`"),
            ),
            ("Rate exceeded (Service: Lambda, Status Code: 429)", Some("deploy again")),
            ("something new", None),
        ] {
            let advice = for_reason(reason);
            match expected {
                Some(part) => assert!(
                    advice.as_ref().is_some_and(|advice| advice.contains(part)),
                    "{reason}: {advice:?}"
                ),
                None => assert_eq!(advice, None, "{reason}"),
            }
        }
    }
}
