//! Hints for AWS's errors.

/// The hint for CloudFormation's reason of a failure, if it is a known one.
pub fn for_reason(reason: &str) -> Option<String> {
    let text = reason.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if missing_permission(reason).is_some() || has(&["accessdenied", "access denied"]) {
        return Some(permission(reason));
    }
    let advice = if has(&["nosuchkey", "nosuchbucket", "specified key does not exist"]) {
        "the function's zip is not in its bucket: deploy again to upload it"
    } else if has(&["cannot be assumed by lambda"]) {
        "the role was too new for Lambda to see: deploy again"
    } else if has(&["already exists"]) {
        "something outside the stack has that name: delete it, or choose another `--stack-name`"
    } else if has(&["limitexceeded", "limit exceeded", "quota", "maximum number of"]) {
        "ask for more in AWS Service Quotas, or delete what is no longer needed; then deploy again"
    } else if has(&["rollback trigger", "rollbacktrigger", "to alarm", "in alarm"]) {
        "requests failed during the update or just before: see `cbbootstrap logs`; without `--rollback-minutes`, no update is rolled back for that"
    } else if has(&["throttling", "rate exceeded"]) {
        "AWS throttled the requests: deploy again"
    } else {
        return None;
    };
    Some(advice.to_owned())
}

/// The hint for a missing permission, from the message that denies it.
pub fn permission(message: &str) -> String {
    let all = "`cbbootstrap iam-policy` prints all that a deployment needs";
    match missing_permission(message) {
        Some((action, Some(resource))) => format!("allow `{action}` on `{resource}`; {all}"),
        Some((action, None)) => format!("allow `{action}`; {all}"),
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
