use std::fs;

use axum::{body::Body, extract::Request};
use cbbootstrap_protocol::{names::Node, rules::Ready};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::api::{self, Policy};

fn claim(cluster: &str, node: &str, now: Timestamp) -> Claim {
    Claim {
        cluster_id: ClusterId::new(cluster).unwrap(),
        node: Node::new(node).unwrap(),
        node_uuid: None,
        lease: None,
        secret: None,
        now,
    }
}

#[tokio::test]
async fn records_survive_and_are_listed_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clusters.db");
    let now = Timestamp::now();
    let first = Sqlite::create(&file).unwrap();
    for cluster in ["c", "a", "b"] {
        first.claim(&claim(cluster, "n", now)).await.unwrap();
    }
    let second = Sqlite::create(&file).unwrap();
    drop(first);
    let ids = async |after| -> Vec<String> {
        let page = second.list(after).await.unwrap();
        assert_eq!(page.next, None);
        page.rows.into_iter().map(|row| row.cluster_id).collect()
    };
    assert_eq!(ids(None).await, ["a", "b", "c"]);
    assert_eq!(ids(Some("a")).await, ["b", "c"]);
    assert_eq!(second.find("d").unwrap(), None);
    let (claimed, record) = second.claim(&claim("a", "other", now)).await.unwrap();
    assert_eq!((claimed, record.initial_node.as_str()), (Claimed::Joined, "n"));
}

#[tokio::test]
async fn other_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clusters.db");
    let refused = |what: &str| {
        let error = Sqlite::create(&file).unwrap_err();
        assert!(
            matches!(&error, Error::Failed(message) if message.to_string().contains(what)),
            "{error:?}"
        );
    };
    fs::write(&file, "not a database, and longer than the header of one is; ".repeat(20)).unwrap();
    refused("not a database");
    fs::write(&file, "").unwrap();
    let other = Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE t (a)").unwrap();
    refused("not a database of cbbootstrap");
    other.execute_batch("PRAGMA user_version = 4").unwrap();
    refused("another version");
}

#[test]
fn records_that_ended_long_ago_are_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = {
        let file = directory.path().join("clusters.db");
        fs::write(&file, "").unwrap();
        connect(&file).unwrap()
    };
    set_up(&mut connection, Timestamp::now()).unwrap();
    let now = Timestamp::now();
    for (cluster, age) in [("a", 500), ("b", 0), ("c", 500), ("d", 10)] {
        let then = now - SignedDuration::from_hours(24 * age);
        let (_, record) = claim(cluster, "n", then).on(None).unwrap();
        records::save(&connection, None, &record).unwrap();
    }
    let ended = now - SignedDuration::from_hours(24 * 30);
    let mut after = String::new();
    let mut rounds = 0;
    while let Some(last) = records::delete_ended(&connection, &after, 2, ended).unwrap() {
        after = last;
        rounds += 1;
    }
    assert_eq!(rounds, 2);
    assert_eq!(records::ids(&connection, 10, None).unwrap(), ["b", "d"]);
    assert_eq!(records::ids(&connection, 1, Some("a")).unwrap(), ["b"]);
}

#[tokio::test]
async fn records_that_cannot_be_read_do_no_harm_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clusters.db");
    let store = Sqlite::create(&file).unwrap();
    let now = Timestamp::now();
    let long_ago = now - SignedDuration::from_hours(24 * 500);
    for cluster in ["a", "b", "c", "d", "f"] {
        store.claim(&claim(cluster, "n", now)).await.unwrap();
    }
    store.claim(&claim("e", "n", long_ago)).await.unwrap();
    let member = Ready {
        cluster_id: ClusterId::new("c").unwrap(),
        node: Node::new("n").unwrap(),
        node_uuid: None,
        generation: None,
        cluster_uuid: None,
        authority: None,
        attestation: None,
        secret: None,
        now,
    };
    store.ready(&member).await.unwrap();
    let member = Ready { cluster_id: ClusterId::new("f").unwrap(), ..member };
    store.ready(&member).await.unwrap();
    let other = Connection::open(&file).unwrap();
    other
        .execute_batch(
            "UPDATE clusters SET record = 'not JSON' WHERE cluster_id = 'a';
             UPDATE clusters SET record = '{\"generation\": 7}' WHERE cluster_id = 'b';
             UPDATE members SET member = '{}' WHERE cluster_id = 'c';
             UPDATE members SET node = CAST(x'ff' AS TEXT) WHERE cluster_id = 'f';",
        )
        .unwrap();

    let is_readable = async || {
        let rows = store.list(None).await.unwrap().rows.into_iter();
        rows.map(|row| (row.cluster_id, row.record.is_ok())).collect::<Vec<_>>()
    };
    let expected = |readable: &str| {
        let ids = ["a", "b", "c", "d", "e", "f"].into_iter();
        ids.map(|id| (id.to_owned(), readable.contains(id))).collect::<Vec<_>>()
    };
    assert_eq!(is_readable().await, expected("de"));
    let refused = store.claim(&claim("a", "n", now)).await;
    assert!(matches!(refused, Err(Error::Unreadable(_))), "{refused:?}");
    let ended = now - SignedDuration::from_hours(24 * 30);
    let swept = records::delete_ended(&other, "", 10, ended).unwrap();
    assert_eq!(swept.as_deref(), Some("f"));
    let mut left = expected("d");
    left.remove(4);
    assert_eq!(is_readable().await, left);
    store.delete_smoke_test(&["a".to_owned()]).await.unwrap();

    for (cluster, generation) in [("a", 2), ("b", 8), ("c", 2), ("f", 2)] {
        let row = Store::find(&store, cluster).await.unwrap().unwrap();
        assert_eq!(row.record, Err(Unreadable("record")));
        assert!(store.forget_unreadable(cluster, now).await.unwrap());
        assert!(store.forget_unreadable(cluster, now).await.unwrap(), "again");
        let (claimed, record) = store.claim(&claim(cluster, "n", now)).await.unwrap();
        assert_eq!((claimed, record.generation), (Claimed::First, generation));
        assert!(!store.forget_unreadable(cluster, now).await.unwrap(), "it can be read");
    }
    assert!(store.forget_unreadable("none", now).await.unwrap());
}

#[tokio::test]
async fn leases_and_records_end_by_the_clock_of_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clusters.db");
    fs::write(&file, "").unwrap();
    let ask = async |store: &Sqlite, path: &str, node: &str| {
        let body = json!({
            "cluster_id": "c", "node_ip_addr_or_hostname": node, "lease_seconds": 1800, "cluster_uuid": "u",
        });
        let request = Request::post(path).body(Body::from(body.to_string())).unwrap();
        let answer = api::over_sqlite(store.clone(), Policy::default()).oneshot(request).await;
        let body = axum::body::to_bytes(answer.unwrap().into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice::<Value>(&body).unwrap()
    };
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    let now = Timestamp::now();
    // The machine boots with a time of day of two years ago, which is corrected while the server runs.
    let store = Sqlite::create_at(&file, now - days(730)).unwrap();
    assert_eq!(ask(&store, "/cluster", "a").await["is_initial_node"], true);
    let other = ask(&store, "/cluster", "b").await;
    assert_eq!((&other["is_initial_node"], &other["generation"]), (&json!(false), &json!(1)));
    assert!((1790..=1800).contains(&other["lease_seconds_left"].as_i64().unwrap()), "{other}");
    ask(&store, "/cluster/ready", "a").await;
    // The ready record outlives a restart with the right time of day, and another with one that is far behind again.
    for time_of_day in [now, now - days(3000)] {
        let before = store.now();
        let store = Sqlite::create_at(&file, time_of_day).unwrap();
        let late = store.now().duration_since(before);
        assert!(late > SignedDuration::from_secs(-2) && late < days(31), "{late}");
        assert_eq!(ask(&store, "/cluster", "b").await["state"], "ready");
    }
}

/// So that people can go back to an earlier version of cbbootstrap, which refuses other numbers.
#[tokio::test]
async fn a_database_without_a_clock_gets_one_and_keeps_its_version() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clusters.db");
    let store = Sqlite::create(&file).unwrap();
    store.claim(&claim("c", "a", store.now())).await.unwrap();
    drop(store);
    let other = Connection::open(&file).unwrap();
    assert_eq!(version(&other).unwrap(), 2);
    other.execute_batch("DROP TABLE clock").unwrap();
    assert!(Sqlite::open(&file).unwrap().find("c").unwrap().is_some());
    assert_eq!(records::latest_time(&other).unwrap(), None, "only a server keeps the time");
    let store = Sqlite::create(&file).unwrap();
    let (claimed, _) = store.claim(&claim("c", "b", store.now())).await.unwrap();
    assert_eq!(claimed, Claimed::Joined);
    assert!(records::latest_time(&other).unwrap().is_some());
    assert_eq!(version(&other).unwrap(), 2);
    // As development builds made it.
    other.pragma_update(None, "user_version", 3).unwrap();
    assert!(Sqlite::create(&file).is_ok());
}

#[test]
fn operators_commands_create_no_tables() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clusters.db");
    fs::write(&file, "").unwrap();
    let error = Sqlite::open(&file).unwrap_err();
    assert!(error.to_string().contains("not a database of cbbootstrap"), "{error}");
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);
}
