use std::collections::BTreeMap;

use cbbootstrap_function::store::sqlite::Sqlite;
use cbbootstrap_protocol::{
    names::Node,
    rules::{self, Claim},
    trust::{Attestation, SecretHash},
    wire::State,
};

use super::{
    list::{ListJson, ListText},
    *,
};
use crate::aws::Access;

const CLAIMED_AT: i64 = 1_700_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// As the original service wrote it.
fn original() -> Record {
    Record {
        cluster_id: "c".to_owned(),
        initial_node: "a".to_owned(),
        initial_node_uuid: None,
        previous_initial_nodes: Vec::new(),
        rival_node_uuid: None,
        is_given_up: false,
        state: State::Claimed,
        generation: 1,
        claimed_at: None,
        lease_expires_at: None,
        kept_until: None,
        is_forgotten: false,
        members: BTreeMap::new(),
        cluster_uuid: None,
        secret: None,
    }
}

fn member(attestation: Option<Attestation>) -> Member {
    Member { reported_at: at(CLAIMED_AT + 60), node_uuid: None, authority: None, attestation }
}

fn leased() -> Record {
    Record {
        claimed_at: Some(at(CLAIMED_AT)),
        lease_expires_at: Some(at(CLAIMED_AT + 60)),
        ..original()
    }
}

fn ready() -> Record {
    let id = ClusterId::new("c").unwrap();
    Record {
        state: State::Ready,
        generation: 3,
        claimed_at: Some(at(CLAIMED_AT)),
        members: BTreeMap::from([
            ("a".to_owned(), member(Attestation::from_bytes(&[7; 32]))),
            ("b".to_owned(), member(None)),
        ]),
        kept_until: Some(at(CLAIMED_AT + 400 * 24 * 3600)),
        cluster_uuid: Some("u".to_owned()),
        secret: Some(SecretHash::new(&id, b"open sesame")),
        ..original()
    }
}

fn cluster(record: Record, seconds_later: i64) -> Cluster {
    Cluster { record, now: at(CLAIMED_AT + seconds_later) }
}

#[test]
fn cluster_is_shown_with_all_fields() {
    assert_eq!(
        cluster(ready(), 3600).to_string(),
        "\
Cluster:      c
State:        ready
Generation:   3
Initial node: a
Claimed:      2023-11-14T22:13:20Z (1 hour ago)
Lease:        none, the cluster is ready
Members:      a (reported 2023-11-14T22:14:20Z (59 minutes ago), attested)
              b (reported 2023-11-14T22:14:20Z (59 minutes ago))
Cluster UUID: u
Secret:       required
Deleted:      after 2025-01-17T22:13:20Z, unless requests renew it
In the log:   2e7d2c03
"
    );
    assert_eq!(
        cluster(original(), 0).to_string(),
        "\
Cluster:      c
State:        claimed
Generation:   1
Initial node: a
Claimed:      unknown
Lease:        none, the claim does not expire
Members:      none reported ready
Cluster UUID: none reported
Secret:       none
In the log:   2e7d2c03
"
    );
}

#[test]
fn a_record_that_has_ended_is_not_renewed() {
    for (record, seconds_later, state, end) in [
        (ready(), 401 * 24 * 3600, "expired", "after 2025-01-17T22:13:20Z"),
        (rules::forget(ready(), at(CLAIMED_AT)), 0, "forgotten", "after 2023-12-14T22:13:20Z"),
    ] {
        let text = cluster(record, seconds_later).to_string();
        assert!(text.contains(&format!("State:        {state}\n")), "{text}");
        assert!(text.contains(&format!("Deleted:      {end}\n")), "{text}");
    }
}

#[test]
fn lease_expires_and_lapses() {
    for (seconds_later, lapsed, lease) in [
        (0, false, "until 2023-11-14T22:14:20Z"),
        (60, false, "expired 2023-11-14T22:14:20Z (just now)"),
        // Clocks differ.
        (65, false, "expired 2023-11-14T22:14:20Z (5 seconds ago)"),
        (
            66,
            true,
            "expired 2023-11-14T22:14:20Z (6 seconds ago); the next claim takes the cluster over",
        ),
    ] {
        let cluster = cluster(leased(), seconds_later);
        assert_eq!((cluster.is_lapsed(), cluster.lease().as_str()), (lapsed, lease));
    }
}

#[test]
fn json_has_all_fields_but_no_hash() {
    let json = serde_json::to_value(Entry::Cluster(Box::new(cluster(ready(), 0)))).unwrap();
    let expected = serde_json::json!({
        "cluster_id": "c",
        "digest": "2e7d2c03",
        "state": "ready",
        "generation": 3,
        "initial_node_ip_addr_or_hostname": "a",
        "claimed_at": "2023-11-14T22:13:20Z",
        "lease_expires_at": null,
        "lapsed": false,
        "nodes": ["a", "b"],
        "members": [
            {"node": "a", "reported_at": "2023-11-14T22:14:20Z", "attested": true},
            {"node": "b", "reported_at": "2023-11-14T22:14:20Z", "attested": false},
        ],
        "cluster_uuid": "u",
        "secret_required": true,
        "kept_until": "2024-12-18T22:13:20Z",
    });
    assert_eq!(json, expected);
    let odd = Record { cluster_id: "two words".to_owned(), ..original() };
    assert_eq!(cluster(odd, 0).digest(), None);
}

fn database() -> Database {
    Database::Aws { table: "t".to_owned(), access: Access::default() }
}

fn listed(clusters: &[Entry], after: Option<&str>) -> String {
    let mut text = ListText::default();
    let part = if clusters.is_empty() { String::new() } else { text.part(clusters) };
    part + &text.end(&database(), after)
}

#[test]
fn list_is_a_table_despite_long_ids_and_unreadable_rows() {
    let named = |id: &str, record: Record| {
        let record = Record { cluster_id: id.to_owned(), ..record };
        Entry::Cluster(Box::new(cluster(record, 66)))
    };
    let long = "x".repeat(1024);
    let unreadable = Entry::Unreadable {
        cluster_id: "bad\u{1b}[2J".to_owned(),
        error: Unreadable("state").to_string(),
    };
    let rows = vec![
        named("mycluster", original()),
        named(&long, ready()),
        unreadable,
        named("c\n\u{9b}1m", leased()),
    ];
    assert_eq!(
        listed(&rows, None),
        format!(
            "\
CLUSTER       STATE    GENERATION  INITIAL NODE  MEMBERS  CLAIMED AT            LEASE UNTIL
mycluster     claimed  1           a             0        -                     -
{long}  ready    3           a             2        2023-11-14T22:13:20Z  -
bad\\u{{1b}}[2J  unreadable: the item's attribute `state` is missing or has the wrong type
c\\n\\u{{9b}}1m   claimed  1           a             0        2023-11-14T22:13:20Z  2023-11-14T22:14:20Z (lapsed)
"
        )
    );
    assert_eq!(listed(&[], None), "No clusters in table `t`");
    assert_eq!(listed(&[], Some("c\u{1b}")), "No clusters in table `t` after c\\u{1b}");
}

#[test]
fn later_parts_of_a_list_keep_the_columns_of_the_first() {
    let entry = |id: &str| {
        Entry::Cluster(Box::new(cluster(Record { cluster_id: id.to_owned(), ..original() }, 0)))
    };
    let mut text = ListText::default();
    let parts = [text.part(&[entry("mycluster")]), text.part(&[entry("b"), entry("a long name")])];
    assert_eq!(
        parts.concat() + &text.end(&database(), None),
        "\
CLUSTER    STATE    GENERATION  INITIAL NODE  MEMBERS  CLAIMED AT  LEASE UNTIL
mycluster  claimed  1           a             0        -           -
b          claimed  1           a             0        -           -
a long name  claimed  1           a             0        -           -
"
    );
}

#[test]
fn parts_of_a_list_are_one_json_document() {
    let entries: Vec<_> = ["a", "b", "c"]
        .map(|id| Entry::Unreadable { cluster_id: id.to_owned(), error: "}\n{".to_owned() })
        .into();
    let expected = |clusters: &[Entry], next| serde_json::json!({"table": "t", "clusters": clusters, "next": next});
    for (parts, next) in [
        (vec![], None),
        (vec![&entries[..1]], None),
        (vec![&entries[..2], &entries[2..]], Some("c")),
        (vec![&entries[..1], &entries[1..1], &entries[1..]], None),
    ] {
        let document = serde_json::to_string_pretty(&database()).unwrap();
        let mut json = ListJson::new(&document);
        let mut lines: Vec<_> = parts.iter().map(|part| json.part(part).unwrap()).collect();
        lines.push(json.end(next).unwrap());
        let text = lines.join("\n");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let all = if parts.is_empty() { 0 } else { parts.iter().map(|part| part.len()).sum() };
        assert_eq!(read, expected(&entries[..all], next), "{text}");
    }
}

#[tokio::test]
async fn clusters_are_found_in_any_form_of_their_id() {
    let directory = tempfile::tempdir().unwrap();
    let store = Sqlite::create(&directory.path().join("clusters.db")).unwrap();
    let (canonical, decomposed) = ("gr\u{f6}\u{df}e", "gro\u{308}\u{df}e");
    let claim = Claim {
        cluster_id: ClusterId::new(decomposed).unwrap(),
        node: Node::new("a").unwrap(),
        node_uuid: None,
        lease: None,
        secret: None,
        now: Timestamp::now(),
    };
    store.claim(&claim).await.unwrap();
    for typed in [canonical, decomposed] {
        let row = find(&store, typed).await.unwrap();
        assert_eq!(row.map(|row| row.cluster_id).as_deref(), Some(canonical));
    }
    for other in ["grosse", "not an id"] {
        assert!(find(&store, other).await.unwrap().is_none());
    }
}
