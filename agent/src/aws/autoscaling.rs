//! The lifecycle hook that holds an instance of an Auto Scaling group until its node has left. `commands/run/machine.rs` reads the
//! notice.

use std::time::Duration;

use cbbootstrap_cli::{environment::variable, signer::Signer};
use ureq::Agent;

use super::Metadata;
use crate::http::{self, ANSWER_LIMIT, Trust};

/// The least timeout of a hook is 30 s.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

const TERMINATING: &str = "autoscaling:EC2_INSTANCE_TERMINATING";

/// A lifecycle hook of the group that this instance belongs to.
#[derive(Debug)]
pub struct Hook {
    client: Agent,
    /// The endpoint and its proxy, for errors.
    route: String,
    endpoint: String,
    region: String,
    instance: String,
    group: String,
    name: String,
}

impl Hook {
    /// The hook of this name, or the group's only one for instances that it terminates.
    pub fn find(metadata: &Metadata, name: Option<&str>) -> Result<Self, String> {
        let missing = |what: &str| format!("the instance's metadata lacks `{what}`");
        let get = |path: &str| metadata.find(path)?.ok_or_else(|| missing(path));
        let (instance, region) = (get("instance-id")?, get("placement/region")?);
        let variables = ["AWS_ENDPOINT_URL_AUTO_SCALING", "AWS_ENDPOINT_URL"];
        let endpoint = if let Some(endpoint) = variables.into_iter().find_map(variable) {
            endpoint
        } else {
            let domain = metadata.find("services/domain")?;
            format!("https://autoscaling.{region}.{}", domain.as_deref().unwrap_or("amazonaws.com"))
        };
        let proxy = http::proxy(&endpoint).map_err(|failure| failure.to_string())?;
        let mut hook = Self {
            client: http::client(&Trust::System, proxy.as_ref(), ANSWER_LIMIT),
            route: http::route(&endpoint, proxy.as_ref()),
            endpoint: format!("{}/", endpoint.trim_end_matches('/')),
            region,
            instance,
            // Only instances whose tags are in their metadata.
            group: metadata.find("tags/instance/aws:autoscaling:groupName")?.unwrap_or_default(),
            name: name.unwrap_or_default().to_owned(),
        };
        if hook.group.is_empty() {
            let described = hook.call(
                "DescribeAutoScalingInstances",
                &[("InstanceIds.member.1", &hook.instance)],
            )?;
            let group = element(&described, "AutoScalingGroupName");
            hook.group =
                group.ok_or_else(|| format!("`{}` is in no Auto Scaling group", hook.instance))?;
        }
        if hook.name.is_empty() {
            hook.name = hook.only_hook()?;
        }
        Ok(hook)
    }

    fn only_hook(&self) -> Result<String, String> {
        let described =
            self.call("DescribeLifecycleHooks", &[("AutoScalingGroupName", &self.group)])?;
        let hooks = described.split("<member>").filter(|hook| {
            element(hook, "LifecycleTransition").is_some_and(|transition| transition == TERMINATING)
        });
        let mut names: Vec<_> =
            hooks.filter_map(|hook| element(hook, "LifecycleHookName")).collect();
        match names.len() {
            1 => Ok(names.remove(0)),
            0 => Err(format!("the group `{}` has no lifecycle hook for {TERMINATING}", self.group)),
            _ => Err(format!(
                "the group `{}` has several lifecycle hooks ({}): pass one with `--lifecycle-hook`",
                self.group,
                names.join(", ")
            )),
        }
    }

    /// Keeps the instance for another period of the hook.
    pub fn record_heartbeat(&self) -> Result<(), String> {
        self.act("RecordLifecycleActionHeartbeat", &[])
    }

    /// Lets the group terminate the instance.
    pub fn complete(&self) -> Result<(), String> {
        self.act("CompleteLifecycleAction", &[("LifecycleActionResult", "CONTINUE")])
    }

    fn act(&self, action: &str, more: &[(&str, &str)]) -> Result<(), String> {
        let mut form = vec![
            ("AutoScalingGroupName", &*self.group),
            ("LifecycleHookName", &self.name),
            ("InstanceId", &self.instance),
        ];
        form.extend(more);
        self.call(action, &form).map(drop)
    }

    /// A call in the query protocol. Returns the XML document.
    fn call(&self, action: &str, form: &[(&str, &str)]) -> Result<String, String> {
        let request = [("Action", action), ("Version", "2011-01-01")];
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(request)
            .extend_pairs(form)
            .finish();
        let credentials = super::find_credentials().map_err(|error| error.to_string())?;
        let signer = Signer { credentials, region: self.region.clone(), service: "autoscaling" };
        let headers = signer.headers("POST", &self.endpoint, &body);
        let mut call = self
            .client
            .post(&self.endpoint)
            .header("Content-Type", "application/x-www-form-urlencoded");
        for (name, value) in headers.map_err(|error| format!("{error:#}"))? {
            call = call.header(name, value);
        }
        match http::read(&self.route, call.send(&body), http::MAX_BYTES) {
            Ok((status, text)) if status.is_success() => Ok(text),
            Ok((status, text)) => Err(match element(&text, "Message") {
                Some(message) => format!("{action}: {message}"),
                None => format!("{action}: {} returned status {status}", self.endpoint),
            }),
            Err(error) => Err(format!("{action}: {error}")),
        }
    }
}

/// The text of the first element of this name.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    let text = entities
        .into_iter()
        .fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character));
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_an_element_is_unescaped() {
        let xml = "<a><Name>x&amp;y &lt;1&gt;</Name><Name>z</Name></a>";
        assert_eq!(element(xml, "Name").as_deref(), Some("x&y <1>"));
        assert_eq!(element(xml, "Missing"), None);
    }
}
