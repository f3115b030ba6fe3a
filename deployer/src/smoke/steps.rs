//! The steps of the smoke test and the answers that they expect.

use cbbootstrap_protocol::names::SMOKE_TEST_PREFIX;
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{Authorization, escape};

/// The nodes that ask.
const FIRST: &str = "node-1.smoke.invalid";
const SECOND: &str = "node-2.smoke.invalid";

/// The lease of each claim. It outlasts the test: a lapsed claim would be taken over by the second node.
pub const LEASE_SECONDS: u64 = 300;

// Answers in the words of `Answer`. An answer may be any of those between "or", and `…` stands for any text.
const SERVICE: &str = "200, cbbootstrap …";
/// API Gateway's refusal of a request without a signature. The function's refusals have a code.
pub const LOCKED: &str = "403, `…`";
const YOU_ARE_FIRST: &str = "200, node-1.smoke.invalid, you are the first";
const JOIN_FIRST: &str = "200, node-1.smoke.invalid, join it";
const SECOND_IS_FIRST: &str = "200, node-2.smoke.invalid, you are the first";
const INVALID: &str = "400, invalid_field";
const NOT_READY: &str = "409, initial_node_not_ready";
const STALE: &str = "409, stale_generation";
/// The second where the deployment requires a token.
const NO_TOKEN: &str = "403, forbidden or 401, secret_required";

#[derive(Clone)]
pub struct Step {
    pub name: &'static str,
    pub path: String,
    /// `POST` if there is one.
    pub body: Option<String>,
    pub authorization: Authorization,
    pub expected: &'static str,
}

/// The clusters of a test, which nobody has claimed. All claims have leases and no node reports ready, so that the records expire.
pub struct Clusters {
    first: String,
    odd: String,
    closed: String,
    unknown: String,
}

impl Clusters {
    pub fn new() -> Self {
        let unique = Uuid::new_v4().simple();
        let id = |name: &str| format!("{SMOKE_TEST_PREFIX}{name}-{unique}");
        // With characters of ARNs and base64.
        let odd = format!("{SMOKE_TEST_PREFIX}odd:{unique}/a+b=");
        Self { first: id("first"), odd, closed: id("closed"), unknown: id("unknown") }
    }

    /// The clusters that are claimed.
    pub fn ids(self) -> Vec<String> {
        vec![self.first, self.odd, self.closed]
    }

    /// All steps. Those of a round run side by side, after all rounds before it. The rounds have the fewest round trips that the
    /// steps of the first cluster need, and few requests at once: a new AWS account runs ten functions at once, and nodes may be
    /// calling the API, too.
    pub fn rounds(&self, is_signed: bool) -> [Vec<Step>; 4] {
        let Self { first, odd, closed, unknown } = self;
        let (first_claim, second_claim) = (claim(first, FIRST), claim(first, SECOND));
        let (first_node, second_node) = (node(first, FIRST), node(first, SECOND));
        let second_generation = with(first_node.clone(), "generation", 2);
        let short_lease = with(node(unknown, FIRST), "lease_seconds", 29);
        let (no_node, odd_path) =
            (json!({"cluster_id": unknown}), format!("/cluster/{}", escape(odd)));
        let (status, ready) = ("/cluster/get_status", "/cluster/ready");
        let mut rounds = [
            vec![
                get("the API answers", "/", SERVICE),
                post("first node claims", "/cluster", &first_claim, YOU_ARE_FIRST),
                post("odd ID is claimed", "/cluster", &claim(odd, FIRST), YOU_ARE_FIRST),
                post("ID with a space", "/cluster", &claim("a b", FIRST), INVALID),
                get("ID with a space, by GET", "/cluster/a%20b", INVALID),
            ],
            vec![
                post("second node joins", "/cluster", &second_claim, JOIN_FIRST),
                post("first node asks again", "/cluster", &first_claim, YOU_ARE_FIRST),
                get("status", &format!("/cluster/{first}"), YOU_ARE_FIRST),
                post("status by POST", status, &second_node, JOIN_FIRST),
                post("second node is ready too early", ready, &second_node, NOT_READY),
                post("ready of another generation", ready, &second_generation, STALE),
            ],
            vec![
                post("first node gives up", "/cluster/leave", &first_node, YOU_ARE_FIRST),
                get("odd ID, status", &odd_path, YOU_ARE_FIRST),
                post("odd ID, status by POST", status, &node(odd, SECOND), JOIN_FIRST),
            ],
            vec![
                post("second node takes over", "/cluster", &second_claim, SECOND_IS_FIRST),
                get("unknown cluster", &format!("/cluster/{unknown}"), "404, cluster_not_found"),
                post("lease too short", "/cluster", &short_lease, INVALID),
                post("no node", "/cluster", &no_node, "400, missing_field"),
                post("no JSON", "/cluster", &json!("cluster_id=a"), "400, invalid_json"),
            ],
        ];
        // A signature takes the header that a token would be in.
        if is_signed {
            rounds[0].push(get("no signature", "/", LOCKED).with(Authorization::None));
            return rounds;
        }
        let (claim, node) = (claim(closed, FIRST), json!({"cluster_id": closed}));
        let other = Authorization::Token("another".to_owned());
        rounds[0].push(post("cluster with a secret is claimed", "/cluster", &claim, YOU_ARE_FIRST));
        rounds[2].extend([
            post("with the secret", status, &node, YOU_ARE_FIRST),
            post("with another secret", status, &node, "403, forbidden").with(other),
            post("without a secret", "/cluster", &claim, NO_TOKEN).with(Authorization::None),
        ]);
        rounds
    }
}

fn get(name: &'static str, path: &str, expected: &'static str) -> Step {
    let (path, authorization) = (path.to_owned(), Authorization::Caller);
    Step { name, path, body: None, authorization, expected }
}

/// A string is sent as it is, everything else as JSON.
fn post(name: &'static str, path: &str, body: &Value, expected: &'static str) -> Step {
    let mut step = get(name, path, expected);
    step.body = Some(body.as_str().map_or_else(|| body.to_string(), str::to_owned));
    step
}

fn node(id: &str, node: &str) -> Value {
    json!({"cluster_id": id, "node_ip_addr_or_hostname": node})
}

fn claim(id: &str, name: &str) -> Value {
    with(node(id, name), "lease_seconds", LEASE_SECONDS)
}

fn with(mut body: Value, field: &str, value: u64) -> Value {
    body[field] = value.into();
    body
}

impl Step {
    fn with(mut self, authorization: Authorization) -> Self {
        self.authorization = authorization;
        self
    }

    pub fn accepts(&self, answer: &str) -> bool {
        self.expected.split(" or ").any(|expected| match expected.split_once('…') {
            Some((start, end)) => answer.starts_with(start) && answer.ends_with(end),
            None => answer == expected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The requests that a test makes at once.
    const AT_ONCE: usize = 6;

    #[test]
    fn a_test_is_four_round_trips_deep_with_few_requests_at_once() {
        for is_signed in [false, true] {
            let rounds = Clusters::new().rounds(is_signed);
            let sizes: Vec<_> = rounds.iter().map(Vec::len).collect();
            assert!(sizes.iter().all(|size| *size <= AT_ONCE), "{sizes:?}");
        }
    }
}
