//! The API's own domain name: its options, its endpoint and its DNS record.

use std::{
    fmt::{Display, Formatter},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use tokio::{net::lookup_host, time::timeout};

use crate::{
    failure::Failure,
    printer::Printer,
    stack::Stack,
    values::{CERTIFICATE_ARN, HOSTED_ZONE, base_path, domain_name},
};

/// How long the lookup of a name may take. Resolvers answer for most names in milliseconds.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Args)]
pub struct DomainArgs {
    /// Domain name of the API; needs `--certificate-arn` [default: API Gateway's]
    #[arg(long, value_name = "NAME", value_parser = domain_name)]
    pub domain: Option<String>,
    /// ACM certificate for `--domain`, in the API's region
    #[arg(long, value_name = "ARN", value_parser = CERTIFICATE_ARN.parser())]
    pub certificate_arn: Option<String>,
    /// Path of the API on `--domain`, such as `v1`
    #[arg(long, value_name = "PATH", value_parser = base_path)]
    pub base_path: Option<String>,
    /// Route 53 hosted zone in which to create the records of `--domain`
    #[arg(long, value_name = "ID", value_parser = HOSTED_ZONE.parser())]
    pub hosted_zone: Option<String>,
}

impl DomainArgs {
    /// Checks that the options belong together. clap cannot do it, because they may come from `cbbootstrap.yaml` and the command line.
    pub fn check(&self) -> Result<(), Failure> {
        let others = [
            ("--certificate-arn", &self.certificate_arn),
            ("--base-path", &self.base_path),
            ("--hosted-zone", &self.hosted_zone),
        ];
        if self.domain.is_none() {
            return match others.into_iter().find(|(_, value)| value.is_some()) {
                Some((option, _)) => Err(Failure::usage(format!("`{option}` needs `--domain`"))
                    .hint("pass the API's domain with `--domain`, or omit the option")),
                None => Ok(()),
            };
        }
        if self.certificate_arn.is_none() {
            return Err(Failure::usage("`--domain` needs `--certificate-arn`")
                .hint("request a certificate for the domain in ACM, in the API's region"));
        }
        Ok(())
    }

    /// The API's URL on the domain.
    pub fn endpoint(&self) -> Option<String> {
        let domain = self.domain.as_ref()?;
        let path = self.base_path.as_ref().map(|path| format!("/{path}")).unwrap_or_default();
        Some(format!("https://{domain}{path}"))
    }
}

/// A DNS record that the user has to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsRecord {
    pub name: String,
    /// A host name of API Gateway.
    pub target: String,
}

impl DnsRecord {
    /// The record of the stack's domain, unless the stack creates it.
    pub fn find(stack: &Stack) -> Option<Self> {
        let target = stack.outputs.get("DomainTarget")?.clone();
        let name = stack.parameter("DomainName")?.to_owned();
        stack.parameter("HostedZoneId").is_none().then_some(Self { name, target })
    }
}

impl Display for DnsRecord {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} CNAME {}", self.name, self.target)
    }
}

/// The endpoint for the smoke test. While the domain's name does not resolve, only API Gateway's own can be tested.
pub async fn testable_endpoint(stack: &Stack, printer: &Printer) -> Result<String, Failure> {
    let endpoint = stack.output("Endpoint")?;
    if let Some((domain, default)) = stack.domain()
        && !resolves(domain).await
    {
        printer.message(format_args!(
            "warning: `{domain}` does not resolve on this machine yet; the smoke test calls API Gateway's own endpoint"
        ));
        return Ok(default.to_owned());
    }
    Ok(endpoint.to_owned())
}

async fn resolves(domain: &str) -> bool {
    let addresses = timeout(LOOKUP_TIMEOUT, lookup_host((domain, 443))).await;
    addresses.is_ok_and(|addresses| addresses.is_ok_and(|mut addresses| addresses.next().is_some()))
}

#[cfg(test)]
mod tests {
    use cbbootstrap_cli::console::Output;

    use super::*;
    use crate::{exit::Exit, stack::tests::stack};

    fn args(values: [Option<&str>; 4]) -> DomainArgs {
        let [domain, certificate_arn, base_path, hosted_zone] =
            values.map(|it| it.map(str::to_owned));
        DomainArgs { domain, certificate_arn, base_path, hosted_zone }
    }

    const ARN: &str = "arn:aws:acm:eu-central-1:123456789012:certificate/c";

    #[test]
    fn options_need_a_domain_and_a_domain_needs_a_certificate() {
        let (domain, arn) = (Some("api.example.com"), Some(ARN));
        for (options, message) in [
            ([None, None, None, None], None),
            ([domain, arn, None, None], None),
            ([domain, arn, Some("v1"), Some("Z1")], None),
            ([domain, None, None, None], Some("`--domain` needs `--certificate-arn`")),
            ([None, arn, None, None], Some("`--certificate-arn` needs `--domain`")),
            ([None, None, Some("v1"), None], Some("`--base-path` needs `--domain`")),
            ([None, None, None, Some("Z1")], Some("`--hosted-zone` needs `--domain`")),
        ] {
            let failure = args(options).check().err();
            assert_eq!(failure.as_ref().map(ToString::to_string).as_deref(), message);
            assert!(failure.is_none_or(|failure| failure.exit == Exit::Usage));
        }
    }

    #[test]
    fn endpoint_has_the_base_path() {
        for (domain, path, expected) in [
            (None, None, None),
            (Some("a.example"), None, Some("https://a.example")),
            (Some("a.example"), Some("team/v1"), Some("https://a.example/team/v1")),
        ] {
            assert_eq!(args([domain, None, path, None]).endpoint().as_deref(), expected);
        }
    }

    #[tokio::test]
    async fn a_domain_is_tested_once_its_name_resolves() {
        let printer = Printer::new(Output::Text);
        let mut stack = stack("CREATE_COMPLETE", "t");
        for (name, url) in [("Endpoint", "https://own"), ("DefaultEndpoint", "https://default")] {
            stack.outputs.insert(name.to_owned(), url.to_owned());
        }
        // RFC 6761 reserves both names.
        for (domain, expected) in
            [("", "https://own"), ("localhost", "https://own"), ("api.invalid", "https://default")]
        {
            stack.parameters.insert("DomainName".to_owned(), domain.to_owned());
            let endpoint = testable_endpoint(&stack, &printer).await.unwrap();
            assert_eq!(endpoint, expected, "{domain}");
        }
    }

    #[test]
    fn record_is_left_to_the_user_without_a_hosted_zone() {
        for (target, zone, expected) in [
            (None, "", None),
            (Some("d-1.execute-api"), "", Some("a.example CNAME d-1.execute-api")),
            (Some("d-1.execute-api"), "Z1", None),
        ] {
            let mut stack = stack("CREATE_COMPLETE", "t");
            for (name, value) in [("DomainName", "a.example"), ("HostedZoneId", zone)] {
                stack.parameters.insert(name.to_owned(), value.to_owned());
            }
            stack.outputs.extend(target.map(|it| ("DomainTarget".to_owned(), it.to_owned())));
            let record = DnsRecord::find(&stack).map(|record| record.to_string());
            assert_eq!(record.as_deref(), expected, "{zone}");
        }
    }
}
