//! Errors of AWS's services, explained: what could not be done, why, and what to do about it.

use std::{error::Error, fmt::Display};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use axum::http::Uri;
use cbbootstrap_cli::environment::variable;

use super::credentials;
use crate::{advice, failure::Failure};

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
        return credentials::failure(credentials).about(what);
    }
    match error {
        // The answer to a HEAD request has no body with a reason.
        SdkError::ServiceError(refused)
            if refused.raw().status().as_u16() == 400 && error.message().is_none() =>
        {
            credentials::probably_expired().about(what)
        }
        SdkError::ServiceError(_) => {
            refusal(error.code().unwrap_or_default(), error.message().unwrap_or_default())
                .about(what)
        }
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => {
            let endpoint = variable("AWS_ENDPOINT_URL");
            let at = endpoint.map_or_else(
                || "AWS".to_owned(),
                |url| format!("`{}` (`AWS_ENDPOINT_URL`)", without_secrets(&url)),
            );
            Failure::new(format!("{what}: cannot reach {at}: {}", causes(error))).hint(
                "check that the region exists, and that network and proxy allow the connection",
            )
        }
        _ => Failure::new(format!("{what}: {}", causes(error))),
    }
}

/// A URL's scheme, host and port: the rest may hold a password.
fn without_secrets(url: &str) -> String {
    url.parse::<Uri>()
        .ok()
        .and_then(|url| {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            Some(format!("{}://{}{port}", url.scheme_str()?, url.host()?))
        })
        .unwrap_or_else(|| "an invalid URL".to_owned())
}

fn refusal(code: &str, message: &str) -> Failure {
    let reason = if message.is_empty() { code } else { message };
    match code {
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => credentials::expired(),
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "InvalidToken"
        | "AuthFailure"
        | "IncompleteSignature" => credentials::not_accepted(reason),
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "403" => {
            Failure::new(format!("access denied: {reason}"))
                .hint(advice::permission(reason))
                .denied()
        }
        "" if reason.is_empty() => Failure::new("AWS refused it without a reason"),
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
            [
                "Throttling",
                "ThrottlingException",
                "RequestLimitExceeded",
                "SlowDown",
                "ServiceException",
                "InternalServerError",
                "TooManyRequestsException",
                "ServiceUnavailable",
                "InternalFailure",
                "InternalError",
            ]
            .contains(&code)
                || service.raw().status().as_u16() >= 500
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

/// An error and its causes.
pub(super) fn chain<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// An error and its causes on one line; the SDK's own messages name only the outermost.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in chain(error).map(ToString::to_string) {
        if !causes.iter().any(|before| before.contains(&cause)) {
            causes.push(cause);
        }
    }
    causes.join(": ")
}
