//! The API's errors: problem documents (RFC 9457), each kind with a stable `code`.

use axum::{
    Extension, Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use thiserror::Error;

use cbbootstrap_protocol::{rules::Refusal, wire};

use crate::store;

/// Seconds after which a caller should try again when others change the cluster, or the table throttles or cannot be reached.
const RETRY_AFTER_SECONDS: u16 = 1;

/// `Cache-Control` of problems and of responses about clusters.
pub const UNCACHED: &str = "no-store";

/// A problem. Its message is the document's `detail`.
#[derive(Debug, Error)]
pub enum Problem {
    #[error("the body must be a JSON object: {0}")]
    InvalidJson(String),
    #[error("`{0}` is required")]
    MissingField(&'static str),
    #[error("`{0}` {1}")]
    InvalidField(&'static str, String),
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A Lambda event that is not an HTTP request. API Gateway does not send any.
    #[error("{0}")]
    InvalidRequest(&'static str),
    #[error("this API requires a cluster token: send `Authorization: Bearer TOKEN`")]
    SecretRequired,
    /// A request to the server's loopback address has another machine's name in `Host`.
    #[error("use `localhost`, an IP address, or a name that `--allowed-host` allows")]
    HostNotAllowed,
    /// A web page of another site sent the request.
    #[error(
        "a browser may send requests only from this API's own pages, at an address or a name of `--allowed-host NAME`"
    )]
    OriginNotAllowed,
    #[error("send the whole body at once")]
    BodyTimeout,
    #[error("`GET /swagger.yaml` lists the routes")]
    RouteNotFound,
    #[error("the header `Allow` lists the methods of this route")]
    MethodNotAllowed,
    #[error("the body must be at most {} bytes long", wire::MAX_BODY_BYTES)]
    BodyTooLarge,
    /// Too many requests change one cluster at the same time. It is not the API's failure, so no alarm depends on it.
    #[error("other requests change the cluster at the same time; send the same request again")]
    Contended,
    /// The table throttles or cannot be reached.
    #[error("the change may or may not have been made; send the same request again")]
    Unavailable,
    /// The API is broken or misconfigured.
    #[error("see the API's log")]
    Internal,
}

impl Problem {
    /// The status, the code and the title of this kind of problem.
    fn kind(&self) -> (u16, &'static str, &'static str) {
        use Refusal as R;
        match self {
            Self::InvalidJson(_) => (400, "invalid_json", "The body is not a JSON object"),
            Self::MissingField(_) => (400, "missing_field", "A required field is missing"),
            Self::InvalidField(..) => (400, "invalid_field", "A field is invalid"),
            Self::InvalidRequest(_) => (400, "invalid_request", "Not an HTTP request"),
            Self::SecretRequired => (401, "secret_required", "A cluster token is required"),
            Self::OriginNotAllowed => {
                (403, "origin_not_allowed", "Requests from other sites are refused")
            }
            Self::RouteNotFound => (404, "route_not_found", "No such route"),
            Self::MethodNotAllowed => (405, "method_not_allowed", "Method not allowed"),
            Self::BodyTimeout => (408, "body_timeout", "The body did not arrive in time"),
            Self::BodyTooLarge => (413, "body_too_large", "The body is too large"),
            Self::HostNotAllowed => (421, "host_not_allowed", "Not this server's name"),
            Self::Contended => (429, "contended", "Too many requests change the cluster"),
            Self::Internal => (500, "internal", "The API failed"),
            Self::Unavailable => (503, "unavailable", "The table is not available"),
            Self::Refused(refusal) => match refusal {
                R::Forbidden => (403, "forbidden", "The cluster token is missing or wrong"),
                R::NotFound => (404, "cluster_not_found", "The cluster has not been claimed"),
                R::StaleGeneration { .. } => (409, "stale_generation", "The claim was taken over"),
                R::OtherCluster { .. } => (409, "other_cluster", "There is a second cluster"),
                R::TooManyTakeovers => {
                    (409, "too_many_takeovers", "Too many nodes have failed to begin the cluster")
                }
                R::NameTaken { .. } => (409, "name_taken", "Another server uses this node name"),
                R::NotReady { .. } => {
                    (409, "initial_node_not_ready", "The first node is not ready")
                }
                R::TooManyNodes => (409, "too_many_nodes", "The cluster is full"),
                R::LastNode => (409, "last_node", "The last node cannot leave"),
            },
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::MissingField(field) | Self::InvalidField(field, _) => Some(field),
            _ => None,
        }
    }
}

/// A response's extension: the problem's code.
#[derive(Clone, Copy, Debug)]
pub struct Code(pub &'static str);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, title) = self.kind();
        let document = wire::Problem {
            status,
            title: title.to_owned(),
            code: code.to_owned(),
            detail: self.to_string(),
            field: self.field().map(str::to_owned),
        };
        let headers =
            [(header::CONTENT_TYPE, "application/problem+json"), (header::CACHE_CONTROL, UNCACHED)];
        let challenge = (status == 401).then_some([(header::WWW_AUTHENTICATE, "Bearer")]);
        let is_temporary = matches!(status, 429 | 503);
        let pause = is_temporary.then_some([(header::RETRY_AFTER, RETRY_AFTER_SECONDS)]);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = Extension(Code(code));
        (status, code, headers, challenge, pause, Json(document)).into_response()
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Refused(refusal) => Self::Refused(refusal),
            store::Error::Contended => Self::Contended,
            store::Error::Unavailable(_) => {
                tracing::warn!(%error, "the table is not available");
                Self::Unavailable
            }
            _ => {
                tracing::error!(%error, "the table or its items are not usable");
                Self::Internal
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contention_is_not_an_error_of_the_api() {
        let response = Problem::from(store::Error::Contended).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
}
