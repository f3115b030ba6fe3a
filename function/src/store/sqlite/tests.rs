use std::fs;

use cbbootstrap_protocol::names::Node;
use jiff::SignedDuration;

use super::*;

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
    other.execute_batch("PRAGMA user_version = 3").unwrap();
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
    set_up(&mut connection).unwrap();
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
    let left = records::list(&connection, 10, None).unwrap();
    let left: Vec<_> = left.iter().map(|record| record.cluster_id.as_str()).collect();
    assert_eq!(left, ["b", "d"]);
    let next = records::list(&connection, 1, Some("a")).unwrap();
    assert_eq!(next.iter().map(|record| record.cluster_id.as_str()).collect::<Vec<_>>(), ["b"]);
}
