//! The store, the same tests against two databases: MiniStack's DynamoDB, and the one embedded in the local deployment.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, HashSet},
    net::Ipv4Addr,
    time::Duration,
};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use cbbootstrap_function::{
    protocol::{
        Claim, Claimed, ClusterId, ClusterUuid, KEEP_ABANDONED, Leave, Node, Ready, Record,
        Refusal, SecretHash,
    },
    store::{Error, Store},
    table::{CLUSTER_ID, EXPIRES_AT, INITIAL_NODE},
    wire::{MAX_NODES, State},
};
use cbbootstrap_tests::{
    dynamodb::{Dynoxide, TABLE, client, create_table},
    ministack::MiniStack,
};
use fastrand::Rng;
use jiff::Timestamp;
use tokio::net::TcpListener;

/// A store on a table as the original's users have it.
async fn store(client: &Client) -> Store {
    create_table(client).await;
    Store::new(client.clone(), TABLE)
}

fn id(text: &str) -> ClusterId {
    ClusterId::new(text).unwrap()
}

fn node(text: &str) -> Node {
    Node::new(text).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn claim(cluster: &str, claimant: &str) -> Claim {
    Claim {
        cluster_id: id(cluster),
        node: node(claimant),
        lease: None,
        secret: None,
        now: at(0),
    }
}

fn ready(cluster: &str, member: &str) -> Ready {
    Ready {
        cluster_id: id(cluster),
        node: node(member),
        generation: None,
        cluster_uuid: None,
        secret: None,
    }
}

fn leave(cluster: &str, member: &str) -> Leave {
    Leave {
        cluster_id: id(cluster),
        node: node(member),
        secret: None,
        now: at(0),
    }
}

async fn suite(url: &str, walks: u64) {
    let client = client(url);
    let store = store(&client).await;
    store.warm_up().await;
    the_first_claim_stands(&store).await;
    odd_ids_are_kept_as_they_are(&store).await;
    rows_of_the_original_are_claims(&client, &store).await;
    of_many_at_once_one_wins(&store).await;
    of_many_at_once_one_takes_over(&store).await;
    a_cluster_has_room_for_so_many_nodes(&client, &store).await;
    of_all_that_leave_at_once_one_stays(&store).await;
    a_missing_table_is_no_outage(&client).await;
    for seed in 0..walks {
        it_does_what_the_rules_say(&client, &store, seed).await;
    }
}

async fn the_first_claim_stands(store: &Store) {
    let status = |cluster| async move { store.status(&id(cluster), None).await };
    assert!(matches!(
        status("c").await,
        Err(Error::Refused(Refusal::NotFound))
    ));
    let first = claim("c", "a").on(None).unwrap().1;
    for (claimant, expected) in [
        ("a", Claimed::First),
        ("b", Claimed::Joined),
        ("a", Claimed::Again),
        ("b", Claimed::Joined),
    ] {
        let claimed = store.claim(&claim("c", claimant)).await.unwrap();
        assert_eq!(claimed, (expected, first.clone()));
    }
    assert_eq!(status("c").await.unwrap(), first);
    let other_case = status("C").await;
    assert!(
        matches!(other_case, Err(Error::Refused(Refusal::NotFound))),
        "{other_case:?}"
    );
}

async fn odd_ids_are_kept_as_they_are(store: &Store) {
    let longest = "x".repeat(1024);
    let names = [
        "arn:aws:cloudformation:us-east-1:1:stack/a/b",
        "a+b=/==",
        "größe-東京-🛋",
        "\"'\\{}%20",
        "#id",
        ":node",
        &longest,
    ];
    for name in names {
        let claim = claim(name, "ö");
        let (_, expected) = claim.on(None).unwrap();
        assert_eq!(
            store.claim(&claim).await.unwrap(),
            (Claimed::First, expected.clone())
        );
        assert_eq!(store.status(&id(name), None).await.unwrap(), expected);
    }
}

async fn rows_of_the_original_are_claims(client: &Client, store: &Store) {
    let row = |cluster: &'static str| async move {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let row = client
            .put_item()
            .table_name(TABLE)
            .item(CLUSTER_ID, text(cluster))
            .item(INITIAL_NODE, text("first of old"));
        row.send().await.unwrap();
        let row = store.status(&id(cluster), None).await.unwrap();
        assert_eq!(
            (row.state, row.generation, row.claimed_at),
            (State::Claimed, 1, None)
        );
        row
    };
    let old = row("old").await;
    let far_away = Claim {
        now: at(1_000_000_000),
        ..claim("old", "late")
    };
    let claimed = store.claim(&far_away).await.unwrap();
    assert_eq!(claimed, (Claimed::Joined, old), "it never lapses");

    // It can go on in every way.
    let put = client.put_item().table_name(TABLE);
    for (cluster, generation) in [("old-ready", None), ("old-ready-1", Some(1))] {
        let row = put
            .clone()
            .item(CLUSTER_ID, AttributeValue::S(cluster.to_owned()))
            .item(INITIAL_NODE, AttributeValue::S("a".to_owned()));
        row.send().await.unwrap();
        let ready = Ready {
            generation,
            ..ready(cluster, "a")
        };
        assert_eq!(store.ready(&ready).await.unwrap().state, State::Ready);
    }
    let row = put
        .item(CLUSTER_ID, AttributeValue::S("old-left".to_owned()))
        .item(INITIAL_NODE, AttributeValue::S("a".to_owned()));
    row.send().await.unwrap();
    store.leave(&leave("old-left", "a")).await.unwrap();
    let (claimed, record) = store.claim(&claim("old-left", "b")).await.unwrap();
    assert_eq!((claimed, record.generation), (Claimed::Takeover, 2));
}

/// So many at once as a big cluster has nodes.
async fn all_at_once(store: &Store, claims: impl Iterator<Item = Claim>) -> Vec<(Claimed, Record)> {
    let claims: Vec<_> = claims
        .map(|claim| {
            let store = store.clone();
            tokio::spawn(async move { store.claim(&claim).await.unwrap() })
        })
        .collect();
    let mut claimed = Vec::new();
    for claim in claims {
        claimed.push(claim.await.unwrap());
    }
    claimed
}

fn assert_one_winner(claimed: &[(Claimed, Record)], how: Claimed, generation: u64) {
    let winners = claimed.iter().filter(|(was, _)| *was == how).count();
    let others = claimed
        .iter()
        .filter(|(was, _)| *was == Claimed::Joined)
        .count();
    assert_eq!((winners, others), (1, claimed.len() - 1));
    let told: HashSet<_> = claimed
        .iter()
        .map(|(_, record)| (&record.initial_node, record.generation))
        .collect();
    assert!(
        told.len() == 1 && told.iter().all(|(_, told)| *told == generation),
        "{told:?}"
    );
}

async fn of_many_at_once_one_wins(store: &Store) {
    let claims = (0..200).map(|number| claim("many", &format!("node-{number}")));
    assert_one_winner(&all_at_once(store, claims).await, Claimed::First, 1);
}

async fn of_many_at_once_one_takes_over(store: &Store) {
    let lease = Some(Duration::from_secs(30));
    let dead = Claim {
        lease,
        ..claim("dead", "dead-node")
    };
    store.claim(&dead).await.unwrap();
    let claims = (0..200).map(|number| Claim {
        lease,
        now: at(36),
        ..claim("dead", &format!("node-{number}"))
    });
    assert_one_winner(&all_at_once(store, claims).await, Claimed::Takeover, 2);
}

async fn a_cluster_has_room_for_so_many_nodes(client: &Client, store: &Store) {
    store.claim(&claim("full", "node-0")).await.unwrap();
    store.ready(&ready("full", "node-0")).await.unwrap();
    // One by one would take its time.
    let members = (1..MAX_NODES - 1).map(|number| format!("node-{number}"));
    let fill = client
        .update_item()
        .table_name(TABLE)
        .key(CLUSTER_ID, AttributeValue::S("full".to_owned()))
        .update_expression("ADD #nodes :members")
        .expression_attribute_names("#nodes", "nodes")
        .expression_attribute_values(":members", AttributeValue::Ss(members.collect()));
    fill.send().await.unwrap();

    let last = store.ready(&ready("full", "last")).await.unwrap();
    assert_eq!(last.nodes.len(), MAX_NODES);
    let refused = store.ready(&ready("full", "one-too-many")).await;
    assert!(
        matches!(refused, Err(Error::Refused(Refusal::TooManyNodes))),
        "{refused:?}"
    );
    assert_eq!(
        store.ready(&ready("full", "last")).await.unwrap(),
        last,
        "again"
    );
    store.leave(&leave("full", "node-7")).await.unwrap();
    assert!(store.ready(&ready("full", "one-too-many")).await.is_ok());
}

async fn of_all_that_leave_at_once_one_stays(store: &Store) {
    let members: Vec<_> = (0..8).map(|number| format!("node-{number}")).collect();
    store.claim(&claim("shrinking", &members[0])).await.unwrap();
    for member in &members {
        store.ready(&ready("shrinking", member)).await.unwrap();
    }
    let leaves: Vec<_> = members
        .iter()
        .map(|member| {
            let (store, leave) = (store.clone(), leave("shrinking", member));
            tokio::spawn(async move {
                loop {
                    match store.leave(&leave).await {
                        // Others were quicker, again and again.
                        Err(Error::Unavailable(_)) => {}
                        done => break done,
                    }
                }
            })
        })
        .collect();
    let mut refused = 0;
    for leave in leaves {
        match leave.await.unwrap() {
            Ok(record) => assert_eq!(record.state, State::Ready),
            Err(Error::Refused(Refusal::LastNode)) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    let left = store.status(&id("shrinking"), None).await.unwrap();
    assert_eq!((refused, left.nodes.len()), (1, 1), "{left:?}");
    assert!(left.nodes.contains(&left.initial_node), "{left:?}");
}

async fn a_missing_table_is_no_outage(client: &Client) {
    let error = Store::new(client.clone(), "no-such-table")
        .claim(&claim("c", "a"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
}

/// What the store came to, and what the rules come to on the record that stood.
type Both<T> = (Result<T, Error>, Result<T, Refusal>);

#[track_caller]
fn assert_same<T: PartialEq + std::fmt::Debug>(what: &str, (store, rules): Both<T>) -> Option<T> {
    let store = match store {
        Ok(done) => Ok(done),
        Err(Error::Refused(refusal)) => Err(refusal),
        Err(error) => panic!("{what}: {error}"),
    };
    assert_eq!(store, rules, "{what}");
    store.ok()
}

/// A walk through a few clusters: every answer is that of the rules, and so is every record.
async fn it_does_what_the_rules_say(client: &Client, store: &Store, seed: u64) {
    const CLUSTERS: usize = 3;
    const STEPS: usize = 60;
    let mut random = Rng::with_seed(seed);
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    let mut now = 0;
    for step in 0..STEPS {
        now += *random.choice(&[0, 1, 5, 30, 35, 100]).unwrap();
        let cluster = format!("walk-{seed}-{}", random.usize(..CLUSTERS));
        let before = records.get(&cluster).cloned();
        let member = *random.choice(&["a", "b", "c", "d"]).unwrap();
        // Mostly the right one.
        let secret = match random.u8(..20) {
            0 => None,
            1 => Some("wrong"),
            _ if cluster.ends_with('0') => Some("right"),
            _ => None,
        };
        let secret = secret.map(|secret| SecretHash::of(&id(&cluster), secret.as_bytes()));
        let generation = before.as_ref().map_or(1, |record| record.generation);
        let what = format!("seed {seed}, step {step}: {member} on {before:?}");
        let after = match random.u8(..10) {
            0..5 => {
                let lease = *random
                    .choice(&[None, Some(30), Some(30), Some(60)])
                    .unwrap();
                let lease = lease.map(Duration::from_secs);
                let claim = claim(&cluster, member);
                let claim = Claim {
                    lease,
                    secret,
                    now: at(now),
                    ..claim
                };
                let done = (store.claim(&claim).await, claim.on(before));
                let after = assert_same(&format!("{what}, {claim:?}"), done);
                after.map(|(_, record)| record)
            }
            5..8 => {
                let uuid = *random
                    .choice(&[None, Some("u"), Some("u"), Some("v")])
                    .unwrap();
                let ready = Ready {
                    generation: random
                        .choice([None, Some(generation), Some(generation + 1)])
                        .flatten(),
                    cluster_uuid: uuid.map(|uuid| ClusterUuid::new(uuid).unwrap()),
                    secret,
                    ..ready(&cluster, member)
                };
                let done = (store.ready(&ready).await, ready.on(before));
                assert_same(&format!("{what}, {ready:?}"), done)
            }
            8 => {
                let leave = Leave {
                    secret,
                    now: at(now),
                    ..leave(&cluster, member)
                };
                let done = (store.leave(&leave).await, leave.on(before));
                assert_same(&format!("{what}, {leave:?}"), done)
            }
            _ => {
                let read = store.status(&id(&cluster), secret.as_ref()).await;
                let shown = before.ok_or(Refusal::NotFound);
                let shown = shown.and_then(|record| record.shown_to(secret.as_ref()));
                assert_same(&format!("{what}, status"), (read, shown))
            }
        };
        if let Some(record) = after {
            let expires = expiry(client, &cluster).await;
            let lease = record.lease_expires_at;
            assert_eq!(expires, lease.map(|end| end + KEEP_ABANDONED), "{what}");
            records.insert(cluster, record);
        }
    }
    for (cluster, record) in records {
        let read = store.status(&id(&cluster), record.secret.as_ref()).await;
        assert_eq!(read.unwrap(), record);
    }
}

/// When DynamoDB may delete the cluster's item.
async fn expiry(client: &Client, cluster: &str) -> Option<Timestamp> {
    let get = client
        .get_item()
        .table_name(TABLE)
        .key(CLUSTER_ID, AttributeValue::S(cluster.to_owned()));
    let item = get.send().await.unwrap().item.unwrap();
    let seconds = item.get(EXPIRES_AT)?.as_n().unwrap().parse().unwrap();
    Some(Timestamp::from_second(seconds).unwrap())
}

#[tokio::test]
async fn on_ministack() {
    let aws = MiniStack::start();
    suite(&aws.url, 3).await;
}

#[tokio::test]
async fn on_dynoxide() {
    let database = Dynoxide::start();
    suite(&database.url, 30).await;
}

#[tokio::test]
async fn a_database_that_is_away_is_an_outage() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = Store::new(client(&url), TABLE);
    store.warm_up().await;
    assert!(matches!(
        store.claim(&claim("c", "a")).await,
        Err(Error::Unavailable(_))
    ));
    assert!(matches!(
        store.status(&id("c"), None).await,
        Err(Error::Unavailable(_))
    ));
}
