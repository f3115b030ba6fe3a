//! Servers with arbitrary answers: nothing panics, and no unclear answer counts as blank.

use cbbootstrap_cli::{certificates, text::printable};
use cbbootstrap_protocol::names::Uuid;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    error::message_in,
    read::{Authority, ClusterAnswer, OwnInfo, PoolsAnswer, Rebalance, host_in},
    *,
};
use crate::record::tests::{assert_plain, mutated};

fn pools() -> Value {
    json!({"uuid": "0f0f", "pools": [{"name": "default"}], "implementationVersion": "7.6.8", "isEnterprise": true})
}

fn pool() -> Value {
    let node = |name: &str, is_this: bool| {
        json!({
            "hostname": format!("{name}:8091"), "otpNode": format!("ns_1@{name}"), "clusterMembership": "active",
            "status": "healthy", "thisNode": is_this, "serverGroup": "Group 1", "nodeUUID": "aa", "recoveryType": "none",
            "uptime": "120",
        })
    };
    json!({
        "nodes": [node("10.0.0.1", true), node("[fd00::1]", false)],
        "balanced": true,
        "rebalanceStatus": "none",
        "bucketNames": [{"bucketName": "app"}],
    })
}

#[test]
fn valid_answers_are_read() {
    let parsed = serde_json::from_value::<PoolsAnswer>(pools()).unwrap().pools().unwrap();
    assert_eq!(parsed.uuid, Uuid::new("0f0f").ok());
    let view =
        serde_json::from_value::<ClusterAnswer>(pool()).unwrap().view(Uuid::new("0f0f").unwrap());
    assert_eq!(view.this().map(|this| this.name.as_str()), Some("10.0.0.1"));
    assert!(view.node("fd00::1").is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A server is blank only if two fields agree on it, and belongs to a cluster only with a UUID.
    #[test]
    fn unclear_answer_is_not_taken_for_blank(text in mutated(&pools())) {
        let Ok(raw) = serde_json::from_str::<PoolsAnswer>(&text) else { return Ok(()) };
        let (uuid, has_no_pools) = (raw.uuid.clone(), raw.pools.is_empty());
        let Some(pools) = raw.pools() else { return Ok(()) };
        prop_assert_eq!(pools.uuid.is_none(), has_no_pools && uuid == json!([]));
        assert_plain(&printable(&pools.version));
    }

    #[test]
    fn mutated_cluster_is_read_without_a_panic(text in mutated(&pool())) {
        let Ok(raw) = serde_json::from_str::<ClusterAnswer>(&text) else { return Ok(()) };
        let view = raw.view(Uuid::new("0f0f").unwrap());
        let _ = view.this();
        for node in &view.nodes {
            assert_plain(&printable(&node.name));
            // An unknown status never makes a node healthy.
            prop_assert!(node.health != Health::Healthy || text.contains("\"healthy\""));
        }
    }

    #[test]
    fn mutated_tasks_groups_and_identity_are_read_without_a_panic(
        tasks in mutated(&json!([{"type": "rebalance", "status": "running", "progress": 12.5, "errorMessage": "no"}])),
        groups in mutated(&json!({"uri": "/x", "groups": [
            {"name": "Group 1", "uri": "/g", "addNodeURI": "/a", "nodes": [{"otpNode": "ns_1@a"}]}
        ]})),
        own in mutated(&json!({"memoryTotal": 1_000_000_u64, "nodeUUID": "aa"})),
        authorities in mutated(&json!([{"pem": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"}])),
    ) {
        let _ = serde_json::from_str::<Vec<Rebalance>>(&tasks);
        let _ = serde_json::from_str::<Groups>(&groups);
        let _ = serde_json::from_str::<OwnInfo>(&own);
        for authority in serde_json::from_str::<Vec<Authority>>(&authorities).into_iter().flatten() {
            let _ = certificates::parse(authority.pem.as_bytes());
        }
    }

    #[test]
    fn message_of_a_refusal_is_printed_plainly(text in mutated(&json!({
        "errors": {"name": "taken", "_": "too much"}, "summaries": {"ram": 5}, "mismatch": 1, "more": ["a", ["b"]]
    }))) {
        assert_plain(&printable(&message_in(&text)));
    }

    #[test]
    fn host_in_any_hostname_is_printed_plainly(hostname in ".{0,40}") {
        assert_plain(&printable(&host_in(hostname)));
    }
}
