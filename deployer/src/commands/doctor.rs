//! `doctor`: checks what a deployment from this machine needs.

mod permissions;

use std::fmt::{Display, Formatter};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::iam_policy;
use crate::{
    aws::{Aws, Destination, Identity},
    cli::{DoctorArgs, PolicyFor},
    failure::{Failure, one_line},
    fields::write_columns,
    network::{self, Network},
    origin::Origin,
    package::{AGENT, ArtifactSource, BuildArgs, FUNCTION, Program},
    printer::Printer,
};

/// Credentials that expire sooner may end a first deployment.
const SHORT: SignedDuration = SignedDuration::from_mins(15);

/// A difference that matters for neither signatures nor leases.
const SMALL: SignedDuration = SignedDuration::from_secs(30);

/// AWS refuses signatures that are older.
const TOO_LARGE: SignedDuration = SignedDuration::from_mins(5);

const HEADING: [&str; 3] = ["RESULT", "CHECK", "DETAIL"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
    /// Something else must work first, or AWS does not allow the check.
    Skip,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    result: Verdict,
    detail: String,
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    checks: Vec<Check>,
}

/// Runs all checks. Fails if one of them fails.
pub async fn run(args: DoctorArgs, printer: &Printer) -> anyhow::Result<()> {
    let (program, command) = match args.policy_for {
        PolicyFor::Launch => (&AGENT, "launch"),
        _ => (&FUNCTION, "deploy"),
    };
    let (mut checks, program) =
        tokio::join!(check_aws(&args, printer), check_program(program, command, &args.build));
    checks.push(program);
    let failed = checks.iter().filter(|check| check.result == Verdict::Fail).count();
    let written = printer.result(&Diagnosis { checks });
    let failed = match failed {
        0 => return written,
        1 => "1 check failed".to_owned(),
        number => format!("{number} checks failed"),
    };
    Err(Failure::new(failed).hint("the table shows what to do").into())
}

async fn check_aws(args: &DoctorArgs, printer: &Printer) -> Vec<Check> {
    let access = &args.scope.stack.access;
    let aws = match Aws::connect(access).await {
        Ok(aws) => aws,
        Err(error) => {
            // Credentials are not read without a region.
            let region = iam_policy::region(access).await.ok().flatten();
            let [region, credentials] = match region {
                Some(region) => [Check::ok("region", region), Check::failed("credentials", &error)],
                None => [
                    Check::failed("region", &error),
                    Check::skipped("credentials", "there is no region"),
                ],
            };
            let clock = Check::skipped("clock", "it needs an answer from AWS");
            let permissions = Check::skipped("permissions", "they need credentials");
            return vec![region, credentials, clock, permissions];
        }
    };
    let (expiry, (identity, destination)) =
        tokio::join!(aws.credentials_expiry(), aws.identity_and_destination());
    let mut checks = check_network(&aws.network, destination.as_ref());
    checks.push(Check::ok("region", &aws.region));
    checks.push(match (&identity, &expiry) {
        (Ok(identity), Ok(expiry)) => check_credentials(identity, *expiry, aws.clock.now()),
        (Err(error), _) | (_, Err(error)) => Check::failed("credentials", error),
    });
    checks.push(check_clock(aws.clock.ahead()));
    let (known, environment) =
        (identity.as_ref().ok(), args.scope.stack.config.environment.clone());
    printer.set_origin(Origin::new(known.cloned(), aws.region.clone(), environment));
    checks.push(match identity {
        Ok(identity) => permissions::check(&aws, &identity, args).await,
        Err(_) => Check::skipped("permissions", "they need credentials"),
    });
    checks
}

/// Proxy, certificate authorities and endpoint of a call.
fn check_network(network: &Network, destination: Option<&Destination>) -> Vec<Check> {
    let Some(Destination { url, is_custom }) = destination else {
        return vec![Check::skipped("proxy", "AWS was not called")];
    };
    let (proxy, authorities) = network.route(url);
    let mut checks = vec![
        Check::ok("proxy", proxy.unwrap_or_else(|| "none".to_owned())),
        Check::ok("certificates", authorities.unwrap_or_else(|| "the system's".to_owned())),
    ];
    if *is_custom {
        let origin = network::origin(url).unwrap_or_default();
        let hint = network.endpoint_setting(&origin).map_or_else(
            || "unset `AWS_ENDPOINT_URL_STS` and the profile's `services` to use AWS".to_owned(),
            |setting| format!("unset {setting} to use AWS"),
        );
        let detail = format!("{origin} instead of AWS");
        checks.push(Check::new(Verdict::Warn, "endpoint", detail).hint(hint));
    }
    checks
}

fn check_credentials(identity: &Identity, expiry: Option<Timestamp>, now: Timestamp) -> Check {
    let Identity { arn, account, .. } = identity;
    let detail = format!("{arn} in account {account}");
    // Keys in variables or files have no known end, even temporary ones.
    let Some(expiry) = expiry else {
        return Check::ok("credentials", detail);
    };
    let detail = format!("{detail}, until {expiry:.0}");
    if expiry.duration_since(now) < SHORT {
        return Check::new(Verdict::Warn, "credentials", detail)
            .hint("they expire soon: sign in again before a deployment");
    }
    Check::ok("credentials", detail)
}

/// `ahead` is how far AWS's clock is ahead.
fn check_clock(ahead: Option<SignedDuration>) -> Check {
    let Some(ahead) = ahead else {
        return Check::skipped("clock", "AWS did not answer");
    };
    let difference = ahead.abs();
    let side = if ahead.is_negative() { "ahead of" } else { "behind" };
    let detail = format!("{} s {side} AWS", difference.as_secs());
    let verdict = match difference {
        _ if difference <= SMALL => return Check::ok("clock", detail),
        _ if difference < TOO_LARGE => Verdict::Warn,
        _ => Verdict::Fail,
    };
    Check::new(verdict, "clock", detail)
        .hint("synchronize this machine's clock, for example with `timedatectl set-ntp true`")
}

/// Whether the command has the program without an option that names a file.
async fn check_program(program: &'static Program, command: &str, args: &BuildArgs) -> Check {
    match ArtifactSource::find(program, None, args).await {
        Ok(ArtifactSource::Ready(_)) => Check::ok(program.name, "this program contains it"),
        Ok(ArtifactSource::Source(_)) => {
            Check::ok(program.name, format!("`{command}` builds it: sources and tools are there"))
        }
        // A file needs neither.
        Err(error) => Check { result: Verdict::Warn, ..Check::failed(program.name, &error) },
    }
}

impl Check {
    fn new(result: Verdict, check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, result, detail: detail.into(), hint: None }
    }

    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, check, detail)
    }

    fn skipped(check: &'static str, reason: impl Into<String>) -> Self {
        Self::new(Verdict::Skip, check, reason)
    }

    fn failed(check: &'static str, error: &anyhow::Error) -> Self {
        let hint = Failure::find_in(error).and_then(|failure| failure.hint.clone());
        Self { hint, ..Self::new(Verdict::Fail, check, one_line(error)) }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl Display for Diagnosis {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let rows = self.checks.iter().flat_map(|check| {
            let result = match check.result {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "fail",
                Verdict::Skip => "skip",
            };
            let row = [result, check.check, &check.detail].map(str::to_owned).to_vec();
            let hint = check.hint.as_ref();
            let hint = hint.map(|hint| vec![String::new(), String::new(), format!("hint: {hint}")]);
            [Some(row), hint].into_iter().flatten()
        });
        write_columns(f, HEADING, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        for (ahead, result, detail) in [
            (Some(0), Verdict::Ok, "0 s behind AWS"),
            (Some(-30), Verdict::Ok, "30 s ahead of AWS"),
            (Some(31), Verdict::Warn, "31 s behind AWS"),
            (Some(-300), Verdict::Fail, "300 s ahead of AWS"),
            (None, Verdict::Skip, "AWS did not answer"),
        ] {
            let check = check_clock(ahead.map(SignedDuration::from_secs));
            assert_eq!((check.result, check.detail.as_str()), (result, detail), "{ahead:?}");
            let is_bad = matches!(result, Verdict::Warn | Verdict::Fail);
            assert_eq!(check.hint.is_some(), is_bad, "{ahead:?}");
        }
    }

    #[test]
    fn credentials_show_who_and_how_long() {
        let identity = Identity {
            partition: "aws".to_owned(),
            account: "123456789012".to_owned(),
            arn: "arn:aws:iam::123456789012:user/me".to_owned(),
        };
        let now: Timestamp = "2026-11-27T03:00:00Z".parse().unwrap();
        let who = "arn:aws:iam::123456789012:user/me in account 123456789012";
        for (expiry, result, end) in [
            (None, Verdict::Ok, ""),
            (Some("2026-11-27T04:00:00Z"), Verdict::Ok, ", until 2026-11-27T04:00:00Z"),
            (Some("2026-11-27T03:10:00Z"), Verdict::Warn, ", until 2026-11-27T03:10:00Z"),
        ] {
            let expiry = expiry.map(|time| time.parse().unwrap());
            let check = check_credentials(&identity, expiry, now);
            assert_eq!((check.result, check.detail), (result, format!("{who}{end}")));
        }
    }

    #[test]
    fn hints_are_below_their_check() {
        let checks = vec![
            Check::ok("region", "us-east-1"),
            Check::new(Verdict::Warn, "clock", "40 s behind AWS").hint("synchronize it"),
        ];
        assert_eq!(
            Diagnosis { checks }.to_string(),
            "RESULT  CHECK   DETAIL\n\
             ok      region  us-east-1\n\
             warn    clock   40 s behind AWS\n                \
             hint: synchronize it\n"
        );
    }
}
