//! Arbitrary answers: nothing panics, and accepted ones are bounded, canonical and plain.

use cbbootstrap_protocol::{names::is_hidden, wire::MAX_NODE_BYTES};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use super::*;
use cbbootstrap_cli::text::printable;

/// A text that misleads a reader, a terminal, a URL or a parser, or is too long.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,20}",
        "[a-z0-9.:\\[\\]@/-]{0,20}",
        select(vec![
            "",
            ".",
            "a",
            "A.",
            "a..b",
            "10.0.0.1",
            "10.0.0.1:8091",
            "010.0.0.1",
            "[::1]:18091",
            "::ffff:1.2.3.4",
            "evil/x?y#",
            "a@evil",
            "a\u{202e}b",
            "a\u{200b}",
            "\u{1b}[2J",
            "a\0b",
            "a\nb",
            "ready",
            "claimed",
            "READY",
            "-1",
            "1e999",
            "\u{feff}a",
        ])
        .prop_map(str::to_owned),
        (select(vec!["a", "a.", "\u{e9}", "\u{202e}"]), 250..3000_usize)
            .prop_map(|(part, times)| part.repeat(times)),
    ]
}

/// Any JSON, from nothing to thousands of nodes.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(vec![-1_i64, 0, 1, i64::MIN, i64::MAX]).prop_map(Value::from),
        any_text().prop_map(Value::from),
        (any_text(), 0..3000_usize).prop_map(|(text, times)| Value::from(vec![
            text;
            times.min(
                2_000_000 / 3000
            )
        ])),
    ];
    leaf.prop_recursive(3, 30, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((any_text(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Pointers to all values in a document.
fn pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| pointers(value, &format!("{at}/{name}"), into));
        }
        Value::Array(values) => {
            values
                .iter()
                .enumerate()
                .for_each(|(index, value)| pointers(value, &format!("{at}/{index}"), into));
        }
        _ => {}
    }
}

/// A valid document with up to three replaced values, and sometimes a truncated or doubled text.
pub(crate) fn mutated(valid: &Value) -> impl Strategy<Value = String> + use<> {
    let (valid, mut places) = (valid.clone(), Vec::new());
    pointers(&valid, "", &mut places);
    let change = (select(places), any_value());
    (vec(change, 0..4), 0..20_u8, any::<prop::sample::Index>()).prop_map(
        move |(changes, damage, at)| {
            let mut value = valid.clone();
            for (place, new) in changes {
                if let Some(old) = value.pointer_mut(&place) {
                    *old = new;
                }
            }
            let text = value.to_string();
            let mut cut = at.index(text.len() + 1);
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            match damage {
                0 => text[..cut].to_owned(),
                1 => format!("{text}{text}"),
                // A field that occurs twice.
                2 => text.replacen('{', r#"{"state":"ready","state":"claimed","nodes":[],"#, 1),
                _ => text,
            }
        },
    )
}

fn valid() -> Value {
    json!({
        "cluster_id": "c",
        "initial_node_ip_addr_or_hostname": "a.example",
        "is_initial_node": false,
        "state": "ready",
        "generation": 3,
        "lease_expires_at": "2026-01-01T00:00:00Z",
        "lease_seconds_left": 30,
        "previous_initial_nodes": ["b.example", "10.0.0.1:9000"],
        "rival_node_uuid": "aa",
        "nodes": ["a.example", "[fd00::1]:9000"],
        "members": [
            {"node": "a.example", "reported_at": "2026-01-01T00:00:00Z", "node_uuid": "bb",
             "authority_sha256": "00".repeat(32), "attestation": "11".repeat(32)},
            {"node": "fd00::1", "reported_at": "2026-01-01T00:00:00Z"},
        ],
        "cluster_uuid": "cc",
    })
}

#[track_caller]
pub(crate) fn assert_plain(text: &str) {
    let hidden = text.chars().find(|c| (c.is_control() || is_hidden(*c)) && *c != ' ');
    assert_eq!(hidden, None, "{text:?}");
}

fn assert_harmless(text: &str) {
    let id = ClusterId::new("c").unwrap();
    let cluster = match serde_json::from_str::<Cluster>(text) {
        Ok(cluster) => cluster,
        Err(error) => return assert_plain(&printable(&error.to_string())),
    };
    for asking in [None, Some(Node::new("a.example").unwrap()), Some(Node::new("z").unwrap())] {
        let record = match ClusterRecord::new(cluster.clone(), &id, asking.as_ref(), Instant::now())
        {
            Ok(record) => record,
            Err(why) => {
                assert_plain(&printable(&why));
                assert!(why.len() < 300, "{why}");
                continue;
            }
        };
        assert!(record.generation > 0);
        assert!(record.members.len() <= MAX_MEMBERS && record.previous.len() <= MAX_PREVIOUS);
        assert!(
            asking.is_none()
                || record.is_initial == (asking.as_ref() == Some(&record.initial_node))
        );
        let members = record.members.iter().map(|member| &member.node);
        for node in members.chain(&record.previous).chain(record.nodes()) {
            assert_plain(node.as_str());
            assert!(
                node.as_str().len() <= MAX_NODE_BYTES
                    && !node.as_str().contains([' ', '/', '@', '?', '#', '%', ','])
            );
            assert_eq!(Node::new(node.as_str()).as_ref(), Ok(node), "not canonical");
        }
        for uuid in [&record.rival, &record.cluster_uuid].into_iter().flatten() {
            assert!(uuid.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
            assert!(uuid.as_str().len() <= 64);
        }
    }
}

#[test]
fn valid_answer_is_accepted() {
    let cluster = serde_json::from_value(valid()).unwrap();
    let record =
        ClusterRecord::new(cluster, &ClusterId::new("c").unwrap(), None, Instant::now()).unwrap();
    assert_eq!((record.members.len(), record.previous.len()), (2, 2));
}

#[test]
fn answer_with_thousands_of_nodes_is_refused() {
    for field in ["nodes", "previous_initial_nodes"] {
        let mut answer = valid();
        answer[field] = (0..5000).map(|number| format!("n{number}")).collect();
        assert_harmless(&answer.to_string());
        let cluster = serde_json::from_value(answer).unwrap();
        assert!(
            ClusterRecord::new(cluster, &ClusterId::new("c").unwrap(), None, Instant::now())
                .is_err(),
            "{field}"
        );
    }
}

#[test]
fn lease_without_the_time_left_counts_as_ended() {
    let sent = Instant::now();
    let lease = |left: Value, end: Value| {
        let mut answer = valid();
        answer["lease_seconds_left"] = left;
        answer["lease_expires_at"] = end;
        let cluster = serde_json::from_value(answer).unwrap();
        let record =
            ClusterRecord::new(cluster, &ClusterId::new("c").unwrap(), None, sent).unwrap();
        record.lease_end.map(|end| end - sent)
    };
    let end = json!("2099-01-01T00:00:00Z");
    assert_eq!(lease(json!(7), end.clone()), Some(Duration::from_secs(7)));
    assert_eq!(lease(Value::Null, end), Some(Duration::ZERO));
    assert_eq!(lease(json!(u64::MAX), Value::Null), Some(Duration::from_secs(MAX_LEASE)));
    assert_eq!(lease(Value::Null, Value::Null), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn mutated_answers_are_refused_or_harmless(text in mutated(&valid())) {
        assert_harmless(&text);
    }

    #[test]
    fn any_json_and_any_text_are_refused_or_harmless(value in any_value(), text in any_text()) {
        assert_harmless(&value.to_string());
        assert_harmless(&text);
    }

    #[test]
    fn printable_text_is_plain_and_on_one_line(text in any_text()) {
        let shown = printable(&text);
        assert_plain(&shown);
        prop_assert!(shown.len() <= text.len() * 3);
        prop_assert_eq!(printable(&shown), shown.clone(), "once is enough");
    }
}
