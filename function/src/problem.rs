//! The API's refusals: problem documents (RFC 9457), each kind with a stable `code`.

use axum::{
    Extension, Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use cbbootstrap_protocol::{names::InvalidName, rules::Refusal, wire};

use crate::{event, store};

/// Seconds after which a caller should try again when the table throttles or is away.
const RETRY_AFTER_SECONDS: u16 = 1;

/// A refusal, with the values of its message. The variants are the codes of the contract.
#[derive(Debug)]
pub enum Problem {
    /// The body is not a JSON object.
    InvalidJson(String),
    /// A required field is missing.
    MissingField(&'static str),
    /// A field's value is invalid.
    InvalidField(&'static str, String),
    /// The rules of the protocol refuse.
    Refused(Refusal),
    /// The event is not an HTTP request. API Gateway and load balancers send none such.
    InvalidRequest(event::Error),
    /// The deployment requires a token.
    SecretRequired,
    /// The request reached a server's loopback address under another machine's name.
    HostNotAllowed,
    /// A web page of another site sent the request.
    OriginNotAllowed,
    /// The body did not come in time.
    BodyTimeout,
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
    pub fn invalid_name(field: &'static str, reason: &InvalidName) -> Self {
        Self::InvalidField(field, reason.to_string())
    }

    /// The kind of problem: status, code and title.
    fn kind(&self) -> (u16, &'static str, &'static str) {
        use Refusal as R;
        match self {
            Self::InvalidJson(_) => (400, "invalid_json", "The body is not a JSON object"),
            Self::MissingField(_) => (400, "missing_field", "A required field is missing"),
            Self::InvalidField(..) => (400, "invalid_field", "A field is invalid"),
            Self::InvalidRequest(_) => (400, "invalid_request", "Not an HTTP request"),
            Self::SecretRequired => (401, "secret_required", "A cluster token is required"),
            Self::HostNotAllowed => (421, "host_not_allowed", "Not this server's name"),
            Self::OriginNotAllowed => {
                (403, "origin_not_allowed", "Requests of other sites are refused")
            }
            Self::BodyTimeout => (408, "body_timeout", "The body did not arrive in time"),
            Self::Refused(R::Forbidden) => {
                (403, "forbidden", "The cluster's secret is missing or wrong")
            }
            Self::Refused(R::NotFound) => {
                (404, "cluster_not_found", "Nobody has claimed this cluster")
            }
            Self::RouteNotFound => (404, "route_not_found", "No such route"),
            Self::MethodNotAllowed => (405, "method_not_allowed", "Method not allowed"),
            Self::Refused(R::StaleGeneration { .. }) => {
                (409, "stale_generation", "The claim was taken over")
            }
            Self::Refused(R::OtherCluster { .. }) => {
                (409, "other_cluster", "There is a second cluster")
            }
            Self::Refused(R::TooManyTakeovers) => {
                (409, "too_many_takeovers", "Too many nodes have failed to begin the cluster")
            }
            Self::Refused(R::NameTaken { .. }) => {
                (409, "name_taken", "Another server uses this node name")
            }
            Self::Refused(R::NotReady { .. }) => {
                (409, "initial_node_not_ready", "The initial node is not ready")
            }
            Self::Refused(R::TooManyNodes) => (409, "too_many_nodes", "The cluster is full"),
            Self::Refused(R::LastNode) => (409, "last_node", "The last node cannot leave"),
            Self::BodyTooLarge => (413, "body_too_large", "The body is too large"),
            Self::Unavailable => (503, "unavailable", "The table is not available"),
            Self::Internal => (500, "internal", "The service failed"),
        }
    }

    /// This problem, and the way out.
    fn detail(&self) -> String {
        match self {
            Self::InvalidJson(reason) => format!("the body must be a JSON object: {reason}"),
            Self::MissingField(field) => format!("`{field}` is required"),
            Self::InvalidField(field, reason) => format!("`{field}` {reason}"),
            Self::InvalidRequest(reason) => reason.to_string(),
            Self::SecretRequired => {
                "this API requires a cluster token: send `Authorization: Bearer TOKEN`".to_owned()
            }
            Self::HostNotAllowed => {
                "this server answers to `localhost`, to addresses, and to the names of `--allowed-host NAME`"
                    .to_owned()
            }
            Self::OriginNotAllowed => {
                "a browser may send requests only from this API's own pages, at an address or a name of `--allowed-host NAME`".to_owned()
            }
            Self::BodyTimeout => "send the whole body at once".to_owned(),
            Self::Refused(refusal) => match refusal {
                Refusal::Forbidden => {
                    "send the token of the cluster's first claim as `Authorization: Bearer TOKEN`, or no token if it was claimed \
                     without one"
                        .to_owned()
                }
                Refusal::NotFound => "claim the cluster with `POST /cluster`".to_owned(),
                Refusal::StaleGeneration { .. } => {
                    format!("{refusal}; ask `POST /cluster` for the node to join")
                }
                Refusal::OtherCluster { .. } => {
                    format!("{refusal}; check which one this node belongs to")
                }
                Refusal::TooManyTakeovers => format!(
                    "{refusal}; when none of their servers belongs to a cluster, `cbbootstrap cluster forget` lets one begin"
                ),
                Refusal::NameTaken { .. } => {
                    format!("{refusal}; give each server a name of its own")
                }
                Refusal::NotReady { .. } => {
                    format!("{refusal}; join the cluster first, then report ready")
                }
                Refusal::TooManyNodes => {
                    format!("{refusal}; send `POST /cluster/leave` for members that are gone")
                }
                Refusal::LastNode => {
                    format!(
                        "{refusal}; let another member report ready first, or end the record of a cluster that is gone with \
                         `cbbootstrap cluster forget`"
                    )
                }
            },
            Self::RouteNotFound => "`GET /swagger.yaml` lists the routes".to_owned(),
            Self::MethodNotAllowed => {
                "the header `Allow` lists the methods of this route".to_owned()
            }
            Self::BodyTooLarge => {
                format!("the body must be at most {} bytes long", wire::MAX_BODY_BYTES)
            }
            Self::Unavailable => "the change may or may not have been made; send the same request again".to_owned(),
            Self::Internal => "the function's log has the cause".to_owned(),
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::MissingField(field) | Self::InvalidField(field, _) => Some(field),
            _ => None,
        }
    }
}

/// A response's extension: the problem's code, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Code(pub &'static str);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, title) = self.kind();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let document = wire::Problem {
            status: status.as_u16(),
            title: title.to_owned(),
            code: code.to_owned(),
            detail: self.detail(),
            field: self.field().map(str::to_owned),
        };
        let mut response = (status, Extension(Code(code)), Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Refused(refusal) => Self::Refused(refusal),
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
