//! How the API says no: problem documents (RFC 9457), each kind with a stable `code`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{protocol::InvalidName, store, wire};

/// Seconds after which a caller should try again when the table throttles or is away.
const RETRY_AFTER_SECONDS: u16 = 1;

/// A refusal, with what its message needs. The variants are the codes of the contract.
#[derive(Debug)]
pub enum Problem {
    /// The body is no JSON object.
    InvalidJson(String),
    /// A required field is not there.
    MissingField(&'static str),
    /// A field holds what it must not.
    InvalidField(&'static str, String),
    /// Nobody has claimed the cluster.
    ClusterNotFound,
    /// No such path.
    RouteNotFound,
    /// The path exists, for other methods.
    MethodNotAllowed,
    /// The body is larger than [`wire::MAX_BODY_BYTES`].
    BodyTooLarge,
    /// The table throttles or cannot be reached.
    Unavailable,
    /// The service is broken or set up wrongly; the log says how.
    Internal,
}

impl Problem {
    /// A name that is out of its limits.
    pub fn invalid_name(field: &'static str, reason: InvalidName) -> Self {
        Self::InvalidField(field, reason.to_string())
    }

    fn document(self) -> wire::Problem {
        let (status, code, title, detail, field) = match self {
            Self::InvalidJson(reason) => (
                StatusCode::BAD_REQUEST,
                "invalid_json",
                "The body is not a JSON object",
                format!("the body must be a JSON object: {reason}"),
                None,
            ),
            Self::MissingField(field) => (
                StatusCode::BAD_REQUEST,
                "missing_field",
                "A required field is missing",
                format!("`{field}` is required"),
                Some(field),
            ),
            Self::InvalidField(field, reason) => (
                StatusCode::BAD_REQUEST,
                "invalid_field",
                "A field is invalid",
                format!("`{field}` {reason}"),
                Some(field),
            ),
            Self::ClusterNotFound => (
                StatusCode::NOT_FOUND,
                "cluster_not_found",
                "Nobody has claimed this cluster",
                "claim it with `POST /cluster`".to_owned(),
                None,
            ),
            Self::RouteNotFound => (
                StatusCode::NOT_FOUND,
                "route_not_found",
                "No such route",
                "the routes are in `GET /swagger.yaml`".to_owned(),
                None,
            ),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
                "the header `Allow` lists the methods of this route".to_owned(),
                None,
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is too large",
                format!(
                    "the body must be at most {} bytes long",
                    wire::MAX_BODY_BYTES
                ),
                None,
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The table is not available",
                "nothing is known to have changed; try the same request again".to_owned(),
                None,
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The service failed",
                "the function's log says why".to_owned(),
                None,
            ),
        };
        wire::Problem {
            status: status.as_u16(),
            title: title.to_owned(),
            code: code.to_owned(),
            detail,
            field: field.map(str::to_owned),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = self.document();
        let status =
            StatusCode::from_u16(document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unavailable(_) => {
                tracing::warn!(error = %error, "the table is not available");
                Self::Unavailable
            }
            store::Error::Failed(_) | store::Error::Unreadable(_) => {
                tracing::error!(error = %error, "the table refused the call");
                Self::Internal
            }
        }
    }
}
