//! The routes. Each reads its request, calls the [`Store`] and answers with a pure function of the record.

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use cbbootstrap_protocol::{
    names::{ClusterId, InvalidName, Node, Uuid, is_smoke_test},
    rules::{Claim, Leave, Ready, Record},
    trust::{Attestation, Fingerprint, SecretHash},
    wire::{About, LEASE_SECONDS, MAX_BODY_BYTES, MAX_SECRET_BYTES},
};

use crate::{
    CONTRACT, docs,
    log::{ClusterDigest, Outcome},
    problem::{Problem, UNCACHED},
    store::{self, Store},
};

/// A request that takes longer is answered with 503. The function's time limit is at least 6 s.
pub const DEADLINE: Duration = Duration::from_millis(4500);

type Answer = Result<Response, Problem>;

/// A deployment's requirements for requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Every call about a cluster must have a token.
    pub requires_secret: bool,
    /// Every claim must have a lease.
    pub requires_lease: bool,
    /// There is no page at `/docs`, whose largest file has 413 KB.
    pub hides_docs: bool,
}

impl Policy {
    /// Reads the variables `REQUIRE_SECRET`, `REQUIRE_LEASE` and `HIDE_DOCS`. Other values than `true` and `false` are errors, so that a misspelled policy
    /// does not open the API.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let is_set = |name: &str| match variable(name).as_deref() {
            Some("true") => Ok(true),
            Some("false" | "") | None => Ok(false),
            Some(_) => Err(format!("the variable {name} must be `true` or `false`")),
        };
        Ok(Self {
            requires_secret: is_set("REQUIRE_SECRET")?,
            requires_lease: is_set("REQUIRE_LEASE")?,
            hides_docs: is_set("HIDE_DOCS")?,
        })
    }
}

#[derive(Clone)]
struct Service<S> {
    store: S,
    policy: Policy,
}

pub fn router<S: Store>(store: S, policy: Policy) -> Router {
    // A cluster may have the name of one of the routes.
    let status_or = |route| get(status_by_path::<S>).merge(route);
    Router::new()
        .route("/cluster", post(claim::<S>))
        .route("/cluster/get_status", status_or(post(status::<S>)))
        .route("/cluster/ready", status_or(post(ready::<S>)))
        .route("/cluster/leave", status_or(post(leave::<S>)))
        // A wildcard, because API Gateway decodes `%2F`: an id with a slash arrives as several segments.
        .route("/cluster/{*cluster_id}", get(status_by_path::<S>))
        .route_layer(middleware::from_fn_with_state(policy, require_secret))
        .route("/", get(about::<S>))
        .route("/swagger.yaml", get(contract))
        .merge(if policy.hides_docs { Router::new() } else { docs::router() })
        .fallback(async || Problem::RouteNotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(deadline))
        .with_state(Service { store, policy })
}

/// The API over an embedded database. Not generic, so that it is compiled with this crate, which is optimized for speed.
#[cfg(feature = "sqlite")]
pub fn over_sqlite(store: crate::store::sqlite::Sqlite, policy: Policy) -> Router {
    router(store, policy)
}

/// Refuses calls without a token where the policy requires one, before anything else in them. The routes refuse invalid tokens.
async fn require_secret(State(policy): State<Policy>, request: Request, next: Next) -> Response {
    if policy.requires_secret && matches!(token(request.headers()), Ok(None)) {
        return Problem::SecretRequired.into_response();
    }
    next.run(request).await
}

async fn deadline(request: Request, next: Next) -> Response {
    let response = tokio::time::timeout(DEADLINE, next.run(request)).await;
    response.unwrap_or_else(|_| {
        tracing::warn!("the table took too long");
        Problem::Unavailable.into_response()
    })
}

async fn about<S: Store>(State(service): State<Service<S>>) -> Json<About> {
    let links = [("contract", "swagger.yaml"), ("docs", "docs")].into_iter();
    let links = links.filter(|(name, _)| *name != "docs" || !service.policy.hides_docs);
    Json(About {
        name: "cbbootstrap".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        links: links.map(|(name, path)| (name.to_owned(), path.to_owned())).collect(),
    })
}

async fn contract() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/yaml")], CONTRACT)
}

async fn claim<S: Store>(State(service): State<Service<S>>, call: Call) -> Answer {
    let claim = Claim {
        node: call.required_node()?,
        node_uuid: field(&call.fields, "node_uuid", name(Uuid::new))?,
        lease: call.lease()?,
        cluster_id: call.cluster_id,
        secret: call.secret,
        now: service.store.now(),
    };
    if service.policy.requires_lease && claim.lease.is_none() {
        return Err(Problem::MissingField(LEASE));
    }
    let claimed = service.store.claim(&claim).await;
    Ok(answer(&claim.cluster_id, Some(&claim.node), claim.now, claimed))
}

async fn status<S: Store>(State(service): State<Service<S>>, call: Call) -> Answer {
    let asking = call.node()?;
    Ok(read_status(&service, &call.cluster_id, call.secret, asking.as_ref()).await)
}

async fn status_by_path<S: Store>(
    State(service): State<Service<S>>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    // Once, because a cluster ID may be `/cluster/x`.
    let path = uri.path().strip_prefix("/cluster/").unwrap_or_default();
    let invalid = |reason: String| Problem::InvalidField(CLUSTER_ID, reason);
    let text = percent_decode_str(path).decode_utf8();
    let text = text.map_err(|_| invalid("must be UTF-8".to_owned()))?;
    let cluster_id = ClusterId::new(text).map_err(|reason| invalid(reason.to_string()))?;
    let secret = secret(&headers, &cluster_id)?;
    Ok(read_status(&service, &cluster_id, secret, None).await)
}

async fn read_status<S: Store>(
    service: &Service<S>,
    cluster_id: &ClusterId,
    secret: Option<SecretHash>,
    asking: Option<&Node>,
) -> Response {
    let now = service.store.now();
    let record = service.store.status(cluster_id, secret.as_ref(), now).await;
    answer(cluster_id, asking, now, record.map(|record| (Outcome("read"), record)))
}

async fn ready<S: Store>(State(service): State<Service<S>>, call: Call) -> Answer {
    let ready = Ready {
        node: call.required_node()?,
        node_uuid: field(&call.fields, "node_uuid", name(Uuid::new))?,
        generation: call.generation()?,
        cluster_uuid: field(&call.fields, "cluster_uuid", name(Uuid::new))?,
        authority: field(&call.fields, AUTHORITY, hash(Fingerprint::from_hex))?,
        attestation: field(&call.fields, ATTESTATION, hash(Attestation::from_hex))?,
        cluster_id: call.cluster_id,
        secret: call.secret,
        now: service.store.now(),
    };
    // Community Edition attests without an authority. Without an attestation, an authority is useless to joiners.
    if ready.authority.is_some() && ready.attestation.is_none() {
        return Err(Problem::MissingField(ATTESTATION));
    }
    let done = service.store.ready(&ready).await.map(|record| (Outcome("ready"), record));
    Ok(answer(&ready.cluster_id, Some(&ready.node), ready.now, done))
}

async fn leave<S: Store>(State(service): State<Service<S>>, call: Call) -> Answer {
    let leave = Leave {
        node: call.required_node()?,
        node_uuid: field(&call.fields, "node_uuid", name(Uuid::new))?,
        generation: call.generation()?,
        cluster_id: call.cluster_id,
        secret: call.secret,
        now: service.store.now(),
    };
    let done = service.store.leave(&leave).await.map(|record| (Outcome("left"), record));
    Ok(answer(&leave.cluster_id, Some(&leave.node), leave.now, done))
}

/// The response, with extensions for the log. Metrics count the requests of smoke tests apart.
fn answer(
    cluster_id: &ClusterId,
    asking: Option<&Node>,
    now: Timestamp,
    done: Result<(impl Into<Outcome>, Record), store::Error>,
) -> Response {
    let cluster = Extension(ClusterDigest(cluster_id.digest()));
    let smoke_test = is_smoke_test(cluster_id.as_str()).then_some(Outcome("smoke_test"));
    match done {
        Ok((outcome, record)) => {
            let outcome = Extension(smoke_test.unwrap_or(outcome.into()));
            // It depends on the token, and it must not be out of date.
            let uncached = [(header::CACHE_CONTROL, UNCACHED)];
            (cluster, outcome, uncached, Json(record.answer(asking, now))).into_response()
        }
        Err(error) => {
            let is_refused = matches!(error, store::Error::Refused(_));
            let outcome = smoke_test.filter(|_| is_refused).map(Extension);
            (cluster, outcome, Problem::from(error)).into_response()
        }
    }
}

const CLUSTER_ID: &str = "cluster_id";
const NODE: &str = "node_ip_addr_or_hostname";
const LEASE: &str = "lease_seconds";
const AUTHORITY: &str = "authority_sha256";
const ATTESTATION: &str = "attestation";
const AUTHORIZATION: &str = "Authorization";

/// A call about a cluster. Its body is a JSON object regardless of `Content-Type`, because `curl -d` sends that of a form. Unknown
/// fields are ignored, as in the original service.
struct Call {
    fields: Map<String, Value>,
    cluster_id: ClusterId,
    secret: Option<SecretHash>,
}

impl<S: Send + Sync> FromRequest<S> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::BodyTooLarge,
            _ => Problem::InvalidJson("the body could not be read".to_owned()),
        })?;
        Self::new(&headers, &body)
    }
}

impl Call {
    fn new(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        let fields = serde_json::from_slice(body);
        let fields = fields.map_err(|error| Problem::InvalidJson(error.to_string()))?;
        let cluster_id = field(&fields, CLUSTER_ID, name(ClusterId::new))?;
        let cluster_id = cluster_id.ok_or(Problem::MissingField(CLUSTER_ID))?;
        Ok(Self { secret: secret(headers, &cluster_id)?, fields, cluster_id })
    }

    fn node(&self) -> Result<Option<Node>, Problem> {
        field(&self.fields, NODE, name(Node::new))
    }

    fn required_node(&self) -> Result<Node, Problem> {
        self.node()?.ok_or(Problem::MissingField(NODE))
    }

    fn lease(&self) -> Result<Option<Duration>, Problem> {
        let seconds = field(&self.fields, LEASE, |value| {
            let seconds = whole(value).filter(|seconds| LEASE_SECONDS.contains(seconds));
            let (least, most) = (LEASE_SECONDS.start(), LEASE_SECONDS.end());
            seconds.ok_or_else(|| format!("must be a whole number from {least} to {most}"))
        })?;
        Ok(seconds.map(Duration::from_secs))
    }

    fn generation(&self) -> Result<Option<u64>, Problem> {
        field(&self.fields, "generation", |value| {
            let generation = whole(value).filter(|generation| *generation > 0);
            generation.ok_or_else(|| "must be a whole number, at least 1".to_owned())
        })
    }
}

/// The field's value, if there is one.
fn field<T>(
    fields: &Map<String, Value>,
    name: &'static str,
    read: impl FnOnce(&Value) -> Result<T, String>,
) -> Result<Option<T>, Problem> {
    let value = fields.get(name).map(read).transpose();
    value.map_err(|reason| Problem::InvalidField(name, reason))
}

/// Reads a name.
fn name<T>(
    valid: fn(String) -> Result<T, InvalidName>,
) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| match value {
        Value::String(text) => valid(text.clone()).map_err(|reason| reason.to_string()),
        _ => Err("must be a string".to_owned()),
    }
}

/// Reads 32 bytes in hexadecimal.
fn hash<T>(valid: fn(&str) -> Option<T>) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| {
        let hash = value.as_str().and_then(valid);
        hash.ok_or_else(|| "must be a string of 64 hexadecimal digits".to_owned())
    }
}

/// Reads a whole number. JSON has one kind of number, so `60.0` is whole, too.
fn whole(value: &Value) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        let is_whole = number.fract() == 0.0 && (0.0..EXACT).contains(&number);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it fits")]
        is_whole.then_some(number as u64)
    })
}

/// The hash of the request's token, if it has one.
fn secret(headers: &HeaderMap, cluster_id: &ClusterId) -> Result<Option<SecretHash>, Problem> {
    let token = token(headers)?;
    Ok(token.map(|token| SecretHash::new(cluster_id, token.as_bytes())))
}

/// The request's token, if it has one. A signature is not a token: API Gateway has checked it, or the API is open to everyone.
fn token(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let (scheme, token) =
        value.to_str().ok().and_then(|text| text.trim().split_once(' ')).unwrap_or_default();
    if scheme.starts_with("AWS4-") {
        return Ok(None);
    }
    let token = token.trim_start();
    let is_valid = scheme.eq_ignore_ascii_case("Bearer")
        && (1..=MAX_SECRET_BYTES).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic())
        && values.next().is_none();
    if is_valid {
        return Ok(Some(token));
    }
    Err(Problem::InvalidField(
        AUTHORIZATION,
        format!(
            "must be `Bearer` and the cluster token, 1 to {MAX_SECRET_BYTES} printable ASCII characters without spaces"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(fields: &str) -> Call {
        let body = fields.replacen('{', "{\"cluster_id\": \"c\", ", 1).replace(", }", "}");
        Call::new(&HeaderMap::new(), body.as_bytes()).unwrap()
    }

    #[test]
    fn leases_have_limits() {
        for (lease, seconds) in [
            ("30", Some(30)),
            ("86400", Some(86400)),
            ("60.0", Some(60)),
            ("29", None),
            ("86401", None),
            ("60.5", None),
            ("-60", None),
            ("1e300", None),
            ("\"60\"", None),
            ("null", None),
            ("true", None),
        ] {
            let lease = call(&format!("{{\"lease_seconds\": {lease}}}")).lease();
            match seconds {
                Some(seconds) => {
                    assert_eq!(lease.unwrap(), Some(Duration::from_secs(seconds)));
                }
                None => assert!(matches!(lease, Err(Problem::InvalidField(LEASE, _)))),
            }
        }
        assert_eq!(call("{}").lease().unwrap(), None);
    }

    #[test]
    fn generations_begin_with_one() {
        for (generation, expected) in [("1", Some(1)), ("0", None), ("-1", None), ("1.5", None)] {
            let given = call(&format!("{{\"generation\": {generation}}}")).generation();
            assert_eq!(given.ok().flatten(), expected, "{generation}");
        }
    }

    #[test]
    fn hashes_are_64_hexadecimal_digits() {
        let hash = |json: &str| field(&call(json).fields, AUTHORITY, hash(Fingerprint::from_hex));
        assert_eq!(hash("{}").unwrap(), None);
        let digits = "0aF".repeat(22)[..64].to_owned();
        let given = hash(&format!("{{\"authority_sha256\": \"{digits}\"}}")).unwrap();
        assert_eq!(given.unwrap().to_string(), digits.to_lowercase());
        for value in ["\"\"", "\"00\"", "1", "null", "[]"] {
            let refused = hash(&format!("{{\"authority_sha256\": {value}}}")).unwrap_err();
            assert!(matches!(refused, Problem::InvalidField(AUTHORITY, _)));
        }
    }

    #[test]
    fn a_policy_is_true_or_false() {
        let read = |values: &[(&str, &str)]| {
            Policy::read(|name| {
                let value = values.iter().find(|(variable, _)| *variable == name);
                value.map(|(_, value)| (*value).to_owned())
            })
        };
        let none = Policy::default();
        for (values, expected) in [
            (vec![], none),
            (vec![("REQUIRE_SECRET", "true")], Policy { requires_secret: true, ..none }),
            (
                vec![("REQUIRE_SECRET", ""), ("REQUIRE_LEASE", "true")],
                Policy { requires_lease: true, ..none },
            ),
            (
                vec![("REQUIRE_LEASE", "false"), ("HIDE_DOCS", "true")],
                Policy { hides_docs: true, ..none },
            ),
        ] {
            assert_eq!(read(&values), Ok(expected), "{values:?}");
        }
        for name in ["REQUIRE_SECRET", "REQUIRE_LEASE", "HIDE_DOCS"] {
            let error = read(&[(name, "yes")]).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn secrets_come_as_bearer_tokens() {
        let id = ClusterId::new("c").unwrap();
        let hash = |secret: &[u8]| Some(SecretHash::new(&id, secret));
        let long = "s".repeat(MAX_SECRET_BYTES);
        for (value, expected) in [
            ("Bearer secret", hash(b"secret")),
            ("bearer  secret ", hash(b"secret")),
            ("Bearer a:b/c+d==", hash(b"a:b/c+d==")),
            (&format!("Bearer {long}"), hash(long.as_bytes())),
            ("AWS4-HMAC-SHA256 Credential=a, SignedHeaders=b, Signature=c", None),
            (" AWS4-a b", None),
            ("\tAWS4-a b", None),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(secret(&headers, &id).unwrap(), expected, "{value}");
        }
        assert_eq!(secret(&HeaderMap::new(), &id).unwrap(), None);
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer a b",
            "Bearer a,Bearer b",
            "Basic YTpi",
            "secret",
            &format!("Bearer {long}s"),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            let refused = secret(&headers, &id).unwrap_err();
            assert!(matches!(refused, Problem::InvalidField(AUTHORIZATION, _)), "{value}");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::AUTHORIZATION, "Bearer a".parse().unwrap());
        twice.append(header::AUTHORIZATION, "Bearer a".parse().unwrap());
        assert!(secret(&twice, &id).is_err());
    }
}
