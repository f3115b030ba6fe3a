//! URLs of pages about a stack.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::permissions::partition;

/// A page of the AWS console; `None` in a partition whose console has no known address.
fn console(region: &str, service: &str, view: &str) -> Option<String> {
    let host = match partition(region) {
        "aws" => "console.aws.amazon.com",
        "aws-us-gov" => "console.amazonaws-us-gov.com",
        "aws-cn" => "console.amazonaws.cn",
        _ => return None,
    };
    Some(format!("https://{region}.{host}/{service}/home?region={region}#{view}"))
}

pub fn stack(region: &str, stack_id: &str) -> Option<String> {
    let id = utf8_percent_encode(stack_id, NON_ALPHANUMERIC);
    console(region, "cloudformation", &format!("/stacks/stackinfo?stackId={id}"))
}

pub fn dashboard(region: &str, name: &str) -> Option<String> {
    console(region, "cloudwatch", &format!("dashboards/dashboard/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_pages_are_on_the_partitions_host() {
        for (region, expected) in [
            (
                "eu-central-1",
                Some(
                    "https://eu-central-1.console.aws.amazon.com/cloudwatch/home?region=eu-central-1#dashboards/dashboard/d",
                ),
            ),
            (
                "cn-north-1",
                Some(
                    "https://cn-north-1.console.amazonaws.cn/cloudwatch/home?region=cn-north-1#dashboards/dashboard/d",
                ),
            ),
            ("us-iso-east-1", None),
        ] {
            assert_eq!(dashboard(region, "d").as_deref(), expected, "{region}");
        }
        let page = stack("us-east-1", "arn:aws:cloudformation:us-east-1:1:stack/s/u").unwrap();
        let id = "?stackId=arn%3Aaws%3Acloudformation%3Aus%2Deast%2D1%3A1%3Astack%2Fs%2Fu";
        assert!(page.ends_with(id), "{page}");
    }
}
