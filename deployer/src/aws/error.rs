//! Errors of AWS's services, explained: what could not be done, why, and what to do about it.

use std::{error::Error, fmt::Display};

use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::retries::classifiers::THROTTLING_ERRORS;
use aws_sdk_sts::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use cbbootstrap_cli::environment::variable;
use jiff::SignedDuration;
use thiserror::Error;

use super::clock::read_ahead;
use crate::{
    advice,
    causes::{causes, chain},
    failure::Failure,
    network::{Responder, Unreachable},
};

const SIGN_IN: &str = "sign in (`aws login`, `aws sso login`, `aws configure`), choose a profile with `--profile`, or set \
     `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`";

const CHECK_NETWORK: &str = "check that the region and a custom endpoint exist, and that network and proxy allow the connection; `cbbootstrap doctor` shows them";

/// AWS accepts a signature for five minutes, S3 for fifteen.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// The refusals that a wrong clock leads to.
const CLOCK_CODES: [&str; 6] = [
    "RequestTimeTooSkewed",
    "RequestExpired",
    "RequestInTheFuture",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "AuthFailure",
];

/// AWS refused credentials as expired, and their sources have no others.
#[derive(Debug, Error)]
#[error("they have expired")]
pub struct Expired;

/// What an answer of AWS means for a caller.
pub trait Answer<T>: Sized {
    type Error;

    /// Explains an error: `what` could not be done, such as ``cannot create table `t` ``.
    fn explain(self, what: impl Display) -> Result<T, Failure>;

    /// `None` if AWS answers with this error code.
    fn absent_on(self, code: &str) -> Result<Option<T>, Self::Error>;

    /// `None` if the call may succeed later; other errors are explained.
    fn unless_transient(self, what: impl Display) -> Result<Option<T>, Failure>;
}

impl<T, E: ProvideErrorMetadata + Error + 'static> Answer<T> for Result<T, SdkError<E>> {
    type Error = SdkError<E>;

    fn explain(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| explain(what, &error))
    }

    fn absent_on(self, code: &str) -> Result<Option<T>, SdkError<E>> {
        match self {
            Err(error) if error.code() == Some(code) => Ok(None),
            answer => answer.map(Some),
        }
    }

    fn unless_transient(self, what: impl Display) -> Result<Option<T>, Failure> {
        match self {
            Err(error) if is_transient(&error) => Ok(None),
            answer => answer.explain(what).map(Some),
        }
    }
}

/// Explains an error of a service: what could not be done, and why.
pub fn explain<E>(what: impl Display, error: &SdkError<E>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(credentials) =
        chain(error).find_map(|cause| cause.downcast_ref::<CredentialsError>())
    {
        return explain_credentials(credentials).about(what);
    }
    if let Some(failure) = unreachable(error) {
        return failure.about(what);
    }
    match error {
        SdkError::ServiceError(refused)
            if let Some(offset) = clock_offset(refused.raw())
                && error.code().is_none_or(|code| CLOCK_CODES.contains(&code)) =>
        {
            wrong_clock(offset).about(what)
        }
        // The answer to a HEAD request has no body with a reason.
        SdkError::ServiceError(refused)
            if refused.raw().status().as_u16() == 400
                && refused.raw().body().bytes().is_some_and(<[u8]>::is_empty) =>
        {
            Failure::new(
                "AWS refused the request and gave no reason; most likely, the AWS credentials have expired",
            )
            .hint(SIGN_IN)
            .about(what)
        }
        SdkError::ServiceError(refused) => {
            match (error.code().unwrap_or_default(), error.message().unwrap_or_default()) {
                ("", "") => foreign(refused.raw()),
                (code, message) => refusal(code, message),
            }
            .about(what)
        }
        // An attempt that takes too long does not know its host.
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) | SdkError::ResponseError(_) => {
            Failure::new(format!("{what}: there was no answer: {}", causes(error)))
                .hint(CHECK_NETWORK)
        }
        _ => Failure::new(format!("{what}: {}", causes(error))),
    }
}

pub fn explain_credentials(error: &CredentialsError) -> Failure {
    // Checks of this program end with one.
    if let Some(failure) = chain(error).find_map(|cause| cause.downcast_ref::<Failure>()) {
        return failure.clone();
    }
    if chain(error).any(<dyn Error>::is::<Expired>) {
        return expired();
    }
    if let Some(failure) = unreachable(error) {
        return failure.about("cannot get AWS credentials");
    }
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            let role = variable("AWS_ROLE_ARN")
                .map(|_| "; `AWS_ROLE_ARN` has no effect without `AWS_WEB_IDENTITY_TOKEN_FILE`");
            let hint = format!("{SIGN_IN}{}", role.unwrap_or_default());
            Failure::new("there are no AWS credentials").hint(hint)
        }
        _ => Failure::new(format!("cannot get AWS credentials: {}", causes(error))).hint(SIGN_IN),
    }
}

fn expired() -> Failure {
    Failure::new("the AWS credentials have expired").hint(SIGN_IN)
}

/// The host that could not be reached, if that is the cause.
fn unreachable(error: &(dyn Error + 'static)) -> Option<Failure> {
    let (cause, unreachable) =
        chain(error).find_map(|cause| Some((cause, cause.downcast_ref::<Unreachable>()?)))?;
    Some(Failure::new(causes(cause)).hint(unreachable.hint()))
}

/// How far AWS's clock is ahead of this machine's, if it is too far for signatures.
pub fn clock_offset(answer: &HttpResponse) -> Option<SignedDuration> {
    let offset = read_ahead(answer)?;
    (offset.abs() > CLOCK_TOLERANCE && answer.status().is_client_error()).then_some(offset)
}

fn wrong_clock(offset: SignedDuration) -> Failure {
    let direction = if offset.is_negative() { "ahead of" } else { "behind" };
    let minutes = (offset.abs() + SignedDuration::from_secs(30)).as_mins();
    Failure::new(format!("this machine's clock is {minutes} minutes {direction} AWS's")).hint(
        "set the clock (`timedatectl set-ntp true`); signatures are valid for a few minutes only",
    )
}

/// An answer without an error of AWS, as of a proxy, a portal or another server.
fn foreign(answer: &HttpResponse) -> Failure {
    let (headers, status) = (answer.headers(), answer.status());
    if ["x-amz-request-id", "x-amzn-requestid"].iter().any(|id| headers.contains_key(*id)) {
        return Failure::new(format!("AWS answered with status {status} and gave no reason"))
            .hint("try again later; https://health.aws.amazon.com shows outages");
    }
    let server = answer.extension().map_or("AWS", |Responder(way)| way);
    let kind = headers.get("content-type").unwrap_or("empty");
    Failure::new(format!("{server} answered with status {status} and no error of AWS ({kind})"))
        .hint(CHECK_NETWORK)
}

fn refusal(code: &str, message: &str) -> Failure {
    let reason = if message.is_empty() { code } else { message };
    match code {
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => expired(),
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "InvalidToken"
        | "AuthFailure"
        | "IncompleteSignature" => {
            Failure::new(format!("AWS does not accept the credentials ({reason})")).hint(SIGN_IN)
        }
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "403" => {
            Failure::new(format!("access denied: {reason}"))
                .hint(advice::permission(reason))
                .denied()
        }
        // CloudFormation answers so if the caller may not publish to a notification topic.
        "ValidationError" if reason.contains("is not authorized to perform") => {
            refusal("AccessDenied", message)
        }
        "" => Failure::new(reason),
        _ if message.is_empty() => Failure::new(code),
        _ => Failure::new(format!("{message} ({code})")),
    }
}

/// Whether the same call may succeed later: AWS throttles, or could not be reached.
pub fn is_transient<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or_default();
            THROTTLING_ERRORS.contains(&code) || service.raw().status().as_u16() >= 500
        }
        SdkError::ResponseError(_) | SdkError::TimeoutError(_) => true,
        // Missing credentials are a dispatch failure, too, but a permanent one. The SDK classifies a connection that breaks off
        // in the middle of an answer as "other".
        SdkError::DispatchFailure(failure) => {
            failure.is_io() || failure.is_timeout() || failure.as_other().is_some()
        }
        _ => false,
    }
}

/// Whether the answer contains this error code, whatever the service's format.
pub(super) fn has_code(response: &HttpResponse, code: &str) -> bool {
    let body = response.body().bytes().unwrap_or_default();
    body.windows(code.len()).any(|part| part == code.as_bytes())
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;

    use super::*;

    /// A HEAD request's answer has no body.
    #[test]
    fn answers_of_aws_are_told_from_those_of_other_servers() {
        for (header, expected) in [
            ("x-amz-request-id", "AWS answered with status 503 and gave no reason"),
            ("server", "AWS answered with status 503 and no error of AWS (empty)"),
        ] {
            let mut answer = HttpResponse::new(503.try_into().unwrap(), SdkBody::empty());
            answer.headers_mut().insert(header, "a");
            assert_eq!(foreign(&answer).to_string(), expected);
        }
    }
}
