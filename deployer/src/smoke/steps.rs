//! The steps of the smoke test and the answers that they expect.

use cbbootstrap_protocol::wire;
use serde_json::{Value, json};

use super::client::{Authorization, Request, escape};

/// The nodes that ask.
const FIRST: &str = "node-1.smoke.invalid";
const SECOND: &str = "node-2.smoke.invalid";

// Answers in the words of `Answer`. An answer may be any of those between "or", and `…` stands for any text.
const SERVICE: &str = "200, cbbootstrap …";
/// API Gateway's refusal of a request without a signature. The function's refusals have a code.
pub const LOCKED: &str = "403, `…`";
const YOU_ARE_FIRST: &str = "200, node-1.smoke.invalid, you are the first";
const JOIN_FIRST: &str = "200, node-1.smoke.invalid, join it";
const SECOND_IS_FIRST: &str = "200, node-2.smoke.invalid, you are the first";
const INVALID: &str = "400, invalid_field";

/// Steps in rounds. A step depends on all rounds before its own; the steps of a round run side by side, as scenarios do.
pub type Scenario = Vec<Vec<Step>>;

pub struct Step {
    pub name: &'static str,
    pub request: Request,
    pub expected: &'static str,
}

pub fn service_answers() -> Step {
    get("the service answers", "/", SERVICE)
}

/// All other steps, about clusters that nobody has claimed. All claims have leases and no node reports ready, so that the
/// records expire.
pub fn scenarios(unique: &str, is_signed: bool) -> Vec<Scenario> {
    let open = [
        first_nodes(&format!("cbbootstrap-smoke-{unique}")),
        // Characters of ARNs and base64.
        odd_ids(&format!("cbbootstrap-smoke:{unique}/a+b=")),
    ];
    let protected = if is_signed {
        vec![vec![get("no signature", "/", LOCKED).with(Authorization::None)]]
    } else {
        // A signature takes the header that a token would be in.
        tokens(&format!("cbbootstrap-smoke-closed-{unique}"))
    };
    let refused = refusals(&format!("cbbootstrap-smoke-unknown-{unique}"));
    open.into_iter().chain([protected, refused]).collect()
}

/// Two nodes claim a cluster, and the first gives up.
fn first_nodes(id: &str) -> Scenario {
    let (claim_first, claim_second) = (claim(id, FIRST), claim(id, SECOND));
    let (first, second) = (node(id, FIRST), node(id, SECOND));
    let second_generation = with(first.clone(), "generation", 2);
    vec![
        vec![post("first node claims", "/cluster", &claim_first, YOU_ARE_FIRST)],
        vec![
            post("second node joins", "/cluster", &claim_second, JOIN_FIRST),
            post("first node asks again", "/cluster", &claim_first, YOU_ARE_FIRST),
            get("status", &format!("/cluster/{id}"), YOU_ARE_FIRST),
            post("status by POST", "/cluster/get_status", &second, JOIN_FIRST),
            post(
                "second node is ready too early",
                "/cluster/ready",
                &second,
                "409, initial_node_not_ready",
            ),
            post(
                "ready of another generation",
                "/cluster/ready",
                &second_generation,
                "409, stale_generation",
            ),
        ],
        vec![post("first node gives up", "/cluster/leave", &first, YOU_ARE_FIRST)],
        vec![post("second node takes over", "/cluster", &claim_second, SECOND_IS_FIRST)],
    ]
}

fn odd_ids(id: &str) -> Scenario {
    vec![
        vec![post("odd id is claimed", "/cluster", &claim(id, FIRST), YOU_ARE_FIRST)],
        vec![
            get("odd id, status", &format!("/cluster/{}", escape(id)), YOU_ARE_FIRST),
            post("odd id, status by POST", "/cluster/get_status", &node(id, SECOND), JOIN_FIRST),
        ],
    ]
}

/// A cluster's token keeps others out.
fn tokens(id: &str) -> Scenario {
    // The second where the deployment requires a token.
    const NO_TOKEN: &str = "403, forbidden or 401, secret_required";
    let (claim, status) = (claim(id, FIRST), json!({"cluster_id": id}));
    vec![
        vec![post("cluster with a secret is claimed", "/cluster", &claim, YOU_ARE_FIRST)],
        vec![
            post("with the secret", "/cluster/get_status", &status, YOU_ARE_FIRST),
            post("with another secret", "/cluster/get_status", &status, "403, forbidden")
                .with(Authorization::Token("another".to_owned())),
            post("without a secret", "/cluster", &claim, NO_TOKEN).with(Authorization::None),
        ],
    ]
}

fn refusals(id: &str) -> Scenario {
    let short_lease = with(node(id, FIRST), "lease_seconds", 29);
    vec![vec![
        get("unknown cluster", &format!("/cluster/{id}"), "404, cluster_not_found"),
        post("id with a space", "/cluster", &claim("a b", FIRST), INVALID),
        get("id with a space, by GET", "/cluster/a%20b", INVALID),
        post("lease too short", "/cluster", &short_lease, INVALID),
        post("no node", "/cluster", &json!({"cluster_id": id}), "400, missing_field"),
        post("no JSON", "/cluster", &json!("cluster_id=a"), "400, invalid_json"),
    ]]
}

fn get(name: &'static str, path: &str, expected: &'static str) -> Step {
    let (path, authorization) = (path.to_owned(), Authorization::Caller);
    Step { name, request: Request { path, body: None, authorization }, expected }
}

/// A string is sent as it is, everything else as JSON.
fn post(name: &'static str, path: &str, body: &Value, expected: &'static str) -> Step {
    let mut step = get(name, path, expected);
    step.request.body = Some(body.as_str().map_or_else(|| body.to_string(), str::to_owned));
    step
}

fn node(id: &str, node: &str) -> Value {
    json!({"cluster_id": id, "node_ip_addr_or_hostname": node})
}

/// A claim with the shortest lease.
fn claim(id: &str, name: &str) -> Value {
    with(node(id, name), "lease_seconds", *wire::LEASE_SECONDS.start())
}

fn with(mut body: Value, field: &str, value: u64) -> Value {
    body[field] = value.into();
    body
}

impl Step {
    fn with(mut self, authorization: Authorization) -> Self {
        self.request.authorization = authorization;
        self
    }

    pub fn accepts(&self, answer: &str) -> bool {
        self.expected.split(" or ").any(|expected| match expected.split_once('…') {
            Some((start, end)) => answer.starts_with(start) && answer.ends_with(end),
            None => answer == expected,
        })
    }
}
