//! The stores against the rules and against each other: DynamoDB on MiniStack and on moto, and SQLite.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client,
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{
            AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
        },
    },
    error::BoxError,
    types::AttributeValue,
};
use cbbootstrap_function::{
    item::{ClaimItem, Item, MembersItem},
    store::{Error, Store, dynamodb::DynamoDb, sqlite::Sqlite},
    table::{CLUSTER_ID, INITIAL_NODE, MEMBERS, members_key},
};
use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    rules::{self, Claim, Claimed, Leave, Ready, Record, Refusal},
    trust::{Attestation, Fingerprint, SecretHash},
    wire::{MAX_MEMBERS, State},
};
use cbbootstrap_tests::{
    dynamodb::{TABLE, client, create_table},
    ministack::MiniStack,
    moto::Moto,
    process,
};
use fastrand::Rng;
use jiff::Timestamp;
use tokio::task::JoinSet;

const DAY: i64 = 86_400;

/// A store on a table as the original's users have it.
async fn store(client: &Client) -> DynamoDb {
    create_table(client).await;
    DynamoDb::new(client.clone(), TABLE)
}

fn id(text: &str) -> ClusterId {
    ClusterId::new(text).unwrap()
}

fn node(text: &str) -> Node {
    Node::new(text).unwrap()
}

fn uuid(text: &str) -> Uuid {
    Uuid::new(text).unwrap()
}

/// In the far future, so that no record here has expired when a store deletes expired ones.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(4_000_000_000 + seconds).unwrap()
}

fn claim(cluster: &str, claimant: &str) -> Claim {
    Claim {
        cluster_id: id(cluster),
        node: node(claimant),
        node_uuid: None,
        lease: None,
        secret: None,
        now: at(0),
    }
}

fn ready(cluster: &str, member: &str) -> Ready {
    Ready {
        cluster_id: id(cluster),
        node: node(member),
        node_uuid: None,
        generation: None,
        cluster_uuid: Some(uuid("u")),
        authority: None,
        attestation: None,
        secret: None,
        now: at(0),
    }
}

fn leave(cluster: &str, member: &str) -> Leave {
    Leave {
        cluster_id: id(cluster),
        node: node(member),
        node_uuid: None,
        generation: None,
        secret: None,
        now: at(0),
    }
}

async fn status(store: &impl Store, cluster: &str) -> Result<Record, Error> {
    store.status(&id(cluster), None, at(0)).await
}

fn names(record: &Record) -> Vec<&str> {
    record.members.keys().map(String::as_str).collect()
}

/// The part of a record that a claim is answered with.
fn without_members(record: Record) -> Record {
    Record { members: BTreeMap::new(), ..record }
}

/// What every store does.
async fn every_store(store: &impl Store) {
    the_first_claim_stands(store).await;
    odd_ids_are_kept_as_they_are(store).await;
    a_claim_after_an_expired_record_names_its_members(store).await;
    refused_takeovers_keep_the_record(store).await;
    a_rival_is_forgotten_with_its_node(store).await;
    an_operator_forgets_members_but_not_the_last(store).await;
}

/// The behavior of every store under concurrent requests.
async fn every_store_at_once(store: &impl Store) {
    of_many_at_once_one_wins(store).await;
    of_many_at_once_one_takes_over(store).await;
    of_many_at_once_one_restarts_a_forgotten_cluster(store).await;
    many_joiners_report_at_once(store).await;
    of_all_that_leave_at_once_one_stays(store).await;
}

/// A random walk, and after each step both items are what the rules say.
async fn dynamodb_follows_the_rules(client: &Client, store: &DynamoDb, seed: u64) {
    let as_ruled = async |what: &str, record: &Record| {
        let [claim_item, members_item] = raw(client, &record.cluster_id).await;
        let claim_item = ClaimItem::read(claim_item.unwrap()).unwrap();
        let kept = claim_item.record.kept_until;
        assert_eq!(kept, record.kept_until, "{what}");
        let members = members_item.map(|item| MembersItem::read(item).unwrap().record);
        if let Some(members) = members.filter(|_| record.state == State::Ready) {
            assert_eq!(members.kept_until, kept, "{what}");
        }
    };
    it_follows_the_rules(store, seed, as_ruled).await;
}

async fn the_first_claim_stands(store: &impl Store) {
    assert!(matches!(status(store, "c").await, Err(Error::Refused(Refusal::NotFound))));
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
    assert_eq!(status(store, "c").await.unwrap(), first);
    let other_case = status(store, "C").await;
    assert!(matches!(other_case, Err(Error::Refused(Refusal::NotFound))), "{other_case:?}");
}

async fn odd_ids_are_kept_as_they_are(store: &impl Store) {
    let longest = "x".repeat(1024);
    let odd = [
        "arn:aws:cloudformation:us-east-1:1:stack/a/b",
        "a+b=/==",
        "größe-東京-🛋",
        "\"'\\{}%20",
        "#id",
        ":node",
        &longest,
    ];
    for name in odd {
        let claim = claim(name, "fd00::1");
        let (_, expected) = claim.on(None).unwrap();
        assert_eq!(store.claim(&claim).await.unwrap(), (Claimed::First, expected.clone()));
        assert_eq!(status(store, name).await.unwrap(), expected);
        for member in ["fd00::1", "a.b-c.example:9000"] {
            let ready = ready(name, member);
            assert!(store.ready(&ready).await.unwrap().members.contains_key(member));
        }
        let left = store.leave(&leave(name, "fd00::1")).await.unwrap();
        assert_eq!(names(&left), ["a.b-c.example:9000"]);
    }
}

async fn a_claim_after_an_expired_record_names_its_members(store: &impl Store) {
    store.claim(&claim("unasked", "b")).await.unwrap();
    for member in ["b", "a", "c"] {
        store.ready(&ready("unasked", member)).await.unwrap();
    }
    let late = at(401 * DAY);
    let late = Claim { lease: Some(Duration::from_secs(30)), now: late, ..claim("unasked", "b") };
    let (claimed, record) = store.claim(&late).await.unwrap();
    assert_eq!((claimed, record.generation), (Claimed::First, 2));
    assert_eq!(record.previous_initial_nodes, ["a", "c"], "not itself");
    let (claimed, record) = store.claim(&late).await.unwrap();
    assert_eq!((claimed, record.previous_initial_nodes.len()), (Claimed::Again, 2));
}

async fn refused_takeovers_keep_the_record(store: &impl Store) {
    let attempt = |number: i64, now| Claim {
        lease: Some(Duration::from_secs(30)),
        now: at(now),
        ..claim("failing", &format!("node-{number}"))
    };
    for number in 0..=8 {
        store.claim(&attempt(number, 100 * number)).await.unwrap();
    }
    let kept_until = async || {
        let row = store.find("failing").await.unwrap().unwrap();
        row.record.unwrap().kept_until.unwrap()
    };
    for (now, end) in [(900, 830 + 7 * DAY), (30 * DAY, 37 * DAY)] {
        let refused = store.claim(&attempt(9, now)).await;
        assert!(matches!(refused, Err(Error::Refused(Refusal::TooManyTakeovers))), "{refused:?}");
        assert_eq!(kept_until().await, at(end));
    }
    let read = store.status(&id("failing"), None, at(60 * DAY)).await.unwrap();
    assert_eq!(read.kept_until, Some(at(67 * DAY)));
    assert_eq!(read.previous_initial_nodes.len(), 8);
}

async fn a_rival_is_forgotten_with_its_node(store: &impl Store) {
    let from = |server: &str| Claim { node_uuid: Some(uuid(server)), ..claim("named-twice", "a") };
    store.claim(&from("n1")).await.unwrap();
    store.claim(&from("n2")).await.unwrap_err();
    let rival = |record: &Record| record.rival_node_uuid.clone();
    let first = Ready { node_uuid: Some(uuid("n1")), ..ready("named-twice", "a") };
    for report in [first, ready("named-twice", "b")] {
        assert_eq!(rival(&store.ready(&report).await.unwrap()).as_deref(), Some("n2"));
    }
    let left = store.leave(&leave("named-twice", "a")).await.unwrap();
    assert_eq!((left.initial_node.as_str(), rival(&left)), ("b", None));
    let (_, claimed) = store.claim(&claim("named-twice", "c")).await.unwrap();
    assert_eq!((claimed.initial_node.as_str(), rival(&claimed)), ("b", None));
    assert_eq!(rival(&status(store, "named-twice").await.unwrap()), None);
}

/// With the cluster's secret, which an operator does not have.
async fn an_operator_forgets_members_but_not_the_last(store: &impl Store) {
    let secret = Some(SecretHash::new(&id("gone"), b"open sesame"));
    let first = Claim { secret: secret.clone(), ..claim("gone", "a") };
    store.claim(&first).await.unwrap();
    let read = async || store.status(&id("gone"), secret.as_ref(), at(0)).await.unwrap();
    let claimed = read().await;
    assert!(store.forget_member(&claimed, &node("a"), at(1)).await.unwrap());
    assert_eq!(read().await, claimed, "a claim is not given up");

    for member in ["a", "b", "c"] {
        let report = Ready { secret: secret.clone(), ..ready("gone", member) };
        store.ready(&report).await.unwrap();
    }
    let seen = read().await;
    let again = Ready { secret: secret.clone(), now: at(2), ..ready("gone", "b") };
    store.ready(&again).await.unwrap();
    assert!(!store.forget_member(&seen, &node("b"), at(3)).await.unwrap(), "it has reported");
    for _ in 0..2 {
        assert!(store.forget_member(&seen, &node("a"), at(3)).await.unwrap());
        let left = read().await;
        assert_eq!((left.initial_node.as_str(), names(&left)), ("b", vec!["b", "c"]));
    }
    let seen = read().await;
    assert!(store.forget_member(&seen, &node("c"), at(3)).await.unwrap());
    let last = store.forget_member(&seen, &node("b"), at(3)).await;
    assert!(matches!(last, Err(Error::Refused(Refusal::LastNode))), "{last:?}");
    assert_eq!(names(&read().await), ["b"]);

    assert!(store.forget(&read().await, at(4)).await.unwrap());
    assert!(store.forget_member(&seen, &node("b"), at(4)).await.unwrap(), "nothing is left");
}

async fn put_original(client: &Client, cluster: &str, node: &str) {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let put = client.put_item().table_name(TABLE);
    let row = put.item(CLUSTER_ID, text(cluster)).item(INITIAL_NODE, text(node));
    row.send().await.unwrap();
}

async fn rows_of_the_original_are_claims(client: &Client, store: &DynamoDb) {
    put_original(client, "old", "First.Of.OLD.").await;
    let far_away = Claim { now: at(1_000_000_000), ..claim("old", "late") };
    let (claimed, old) = store.claim(&far_away).await.unwrap();
    assert_eq!(claimed, Claimed::Joined, "it never lapses");
    assert_eq!(
        (old.state, old.generation, old.claimed_at, old.initial_node.as_str()),
        (State::Claimed, 1, None, "first.of.old")
    );
    assert_eq!(
        old.kept_until,
        Some(at(1_000_000_000 + 400 * DAY)),
        "it ends 400 days after someone asked"
    );
    let own = Claim { now: at(1_000_000_000), ..claim("old", "first.of.old") };
    assert_eq!(store.claim(&own).await.unwrap().0, Claimed::Again);

    // It can go on in every way.
    for (cluster, generation) in [("old-ready", None), ("old-ready-1", Some(1))] {
        put_original(client, cluster, "A").await;
        let ready = Ready { generation, ..ready(cluster, "a") };
        assert_eq!(store.ready(&ready).await.unwrap().state, State::Ready);
        assert_eq!(names(&status(store, cluster).await.unwrap()), ["a"]);
    }
    put_original(client, "old-left", "a").await;
    store.leave(&leave("old-left", "a")).await.unwrap();
    let (claimed, record) = store.claim(&claim("old-left", "b")).await.unwrap();
    assert_eq!((claimed, record.generation), (Claimed::Takeover, 2));
    put_original(client, "old-forgotten", "a").await;
    store.ready(&ready("old-forgotten", "a")).await.unwrap();
    let seen = status(store, "old-forgotten").await.unwrap();
    assert!(store.forget(&seen, at(1)).await.unwrap());
    let (claimed, record) = store.claim(&claim("old-forgotten", "b")).await.unwrap();
    assert_eq!((claimed, record.generation), (Claimed::First, 2));
}

/// As many at once as a big cluster has nodes.
async fn all_at_once(
    store: &impl Store,
    claims: impl Iterator<Item = Claim>,
) -> Vec<(Claimed, Record)> {
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
    let others = claimed.iter().filter(|(was, _)| *was == Claimed::Joined).count();
    assert_eq!((winners, others), (1, claimed.len() - 1));
    let told: HashSet<_> =
        claimed.iter().map(|(_, record)| (&record.initial_node, record.generation)).collect();
    assert!(told.len() == 1 && told.iter().all(|(_, told)| *told == generation), "{told:?}");
}

async fn of_many_at_once_one_wins(store: &impl Store) {
    let claims = (0..200).map(|number| claim("many", &format!("node-{number}")));
    assert_one_winner(&all_at_once(store, claims).await, Claimed::First, 1);
}

async fn of_many_at_once_one_takes_over(store: &impl Store) {
    let lease = Some(Duration::from_secs(30));
    let dead = Claim { lease, ..claim("dead", "dead-node") };
    store.claim(&dead).await.unwrap();
    let claims = (0..200).map(|number| Claim {
        lease,
        now: at(36),
        ..claim("dead", &format!("node-{number}"))
    });
    let claimed = all_at_once(store, claims).await;
    assert_one_winner(&claimed, Claimed::Takeover, 2);
    for (_, record) in claimed {
        assert_eq!(record.previous_initial_nodes, ["dead-node"]);
    }
}

async fn of_many_at_once_one_restarts_a_forgotten_cluster(store: &impl Store) {
    let (_, record) = store.claim(&claim("again", "a")).await.unwrap();
    assert!(store.forget(&record, at(1)).await.unwrap());
    let claims = (0..100).map(|number| claim("again", &format!("node-{number}")));
    assert_one_winner(&all_at_once(store, claims).await, Claimed::First, 2);
}

/// All of them report a UUID that is not known yet, right after the cluster became ready.
async fn many_joiners_report_at_once(store: &impl Store) {
    store.claim(&claim("joined", "node-0")).await.unwrap();
    let first = Ready { cluster_uuid: None, ..ready("joined", "node-0") };
    store.ready(&first).await.unwrap();
    let reports: Vec<_> = (1..40)
        .map(|number| {
            let (store, ready) = (store.clone(), ready("joined", &format!("node-{number}")));
            tokio::spawn(async move {
                while let Err(error) = store.ready(&ready).await {
                    assert!(matches!(error, Error::Contended), "{error}");
                }
            })
        })
        .collect();
    for report in reports {
        report.await.unwrap();
    }
    let record = status(store, "joined").await.unwrap();
    assert_eq!((record.members.len(), record.cluster_uuid.as_deref()), (40, Some("u")));
}

/// Counts calls and the bytes of their answers, and fails the calls after some.
#[derive(Clone, Debug, Default)]
struct Meter {
    calls: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    most_calls: Option<usize>,
}

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.most_calls.is_some_and(|most| before >= most) {
            return Err("the process has ended".into());
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().map_or(0, <[u8]>::len);
        self.bytes.fetch_add(body, Ordering::Relaxed);
        Ok(())
    }
}

fn metered(client: &Client, most_calls: Option<usize>) -> (DynamoDb, Meter) {
    let meter = Meter { most_calls, ..Meter::default() };
    let config = client.config().to_builder().interceptor(meter.clone());
    let store = DynamoDb::new(Client::from_conf(config.build()), TABLE);
    (store, meter)
}

async fn a_claim_costs_the_same_however_many_members_there_are(client: &Client) {
    let (store, meter) = metered(client, None);
    let spent = || {
        let bytes = meter.bytes.swap(0, Ordering::Relaxed);
        (meter.calls.swap(0, Ordering::Relaxed), bytes)
    };
    let name = |number: usize| {
        let labels = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(56)];
        format!("{}.{number:03}x", labels.join("."))
    };
    assert_eq!(name(0).len(), 253);
    store.claim(&claim("full", &name(0))).await.unwrap();
    let attested = |member: &str| Ready {
        node_uuid: Some(uuid("0123456789abcdef0123456789abcdef")),
        authority: Some(Fingerprint::of_certificate(b"authority")),
        attestation: Attestation::from_bytes(&[7; 32]),
        ..ready("full", member)
    };
    spent();
    store.ready(&attested(&name(0))).await.unwrap();
    assert_eq!(spent().0, 3, "the first report");
    for number in 1..MAX_MEMBERS {
        store.ready(&attested(&name(number))).await.unwrap();
        assert_eq!(spent().0, 2, "a later report");
    }
    let refused = store.ready(&attested("one-too-many")).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::TooManyNodes))), "{refused:?}");
    let again = store.ready(&attested(&name(7))).await.unwrap();
    assert_eq!(again.members.len(), MAX_MEMBERS);
    spent();
    for (claimant, expected) in [(name(0), Claimed::Again), ("late".to_owned(), Claimed::Joined)] {
        let (claimed, record) = store.claim(&claim("full", &claimant)).await.unwrap();
        assert_eq!((claimed, record.members.len()), (expected, 0));
        let (calls, bytes) = spent();
        assert!(calls == 1 && bytes < 4096, "{calls} calls, {bytes} bytes");
    }
    assert_eq!(status(&store, "full").await.unwrap().members.len(), MAX_MEMBERS);
    let (calls, bytes) = spent();
    assert!(calls == 1 && bytes > 65_536, "{calls} calls, {bytes} bytes");
    let [claim_item, members_item] = raw(client, "full").await;
    assert!(!claim_item.unwrap().contains_key(MEMBERS));
    assert!(members_item.unwrap().contains_key(MEMBERS));
    store.leave(&leave("full", &name(7))).await.unwrap();
    assert!(store.ready(&attested("one-too-many")).await.is_ok());
}

/// A write whose condition fails costs as much as one that is made.
async fn a_report_that_does_not_fit_writes_nothing(client: &Client) {
    let (store, meter) = metered(client, None);
    store.claim(&claim("fits", "a")).await.unwrap();
    store.ready(&Ready { cluster_uuid: None, ..ready("fits", "a") }).await.unwrap();
    let secret = Some(SecretHash::new(&ClusterId::new("fits").unwrap(), b"guessed"));
    meter.calls.swap(0, Ordering::Relaxed);
    let refused = store.ready(&Ready { secret, ..ready("fits", "b") }).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::Forbidden))), "{refused:?}");
    assert_eq!(meter.calls.swap(0, Ordering::Relaxed), 2, "two reads");
    store.ready(&Ready { cluster_uuid: None, ..ready("fits", "b") }).await.unwrap();
    assert_eq!(meter.calls.swap(0, Ordering::Relaxed), 2, "a read and a write");
}

/// Requests about different members do not make each other's writes fail.
async fn members_change_at_once_in_one_write_each(client: &Client) {
    const OTHERS: usize = 40;
    let (store, meter) = metered(client, None);
    store.claim(&claim("busy", "a")).await.unwrap();
    let report = |node: &str| Ready { cluster_uuid: None, ..ready("busy", node) };
    store.ready(&report("a")).await.unwrap();
    for (is_report, members) in [(true, 1 + OTHERS), (false, 1)] {
        meter.calls.swap(0, Ordering::Relaxed);
        let mut requests = JoinSet::new();
        for number in 0..OTHERS {
            let (store, node) = (store.clone(), format!("node-{number}"));
            let (report, leave) = (report(&node), leave("busy", &node));
            requests.spawn(async move {
                if is_report { store.ready(&report).await } else { store.leave(&leave).await }
            });
        }
        for record in requests.join_all().await {
            assert_eq!(record.unwrap().initial_node, "a");
        }
        assert_eq!(meter.calls.swap(0, Ordering::Relaxed), 2 * OTHERS, "report: {is_report}");
        assert_eq!(status(&store, "busy").await.unwrap().members.len(), members);
    }
}

async fn an_operator_cannot_name_a_part_of_a_cluster(client: &Client) {
    let (store, _) = metered(client, None);
    store.claim(&claim("undivided", "a")).await.unwrap();
    store.ready(&ready("undivided", "a")).await.unwrap();
    let part = members_key("undivided");
    assert!(store.find(&part).await.unwrap().is_none());
    assert!(store.forget_unreadable(&part, at(1)).await.unwrap(), "as if it were gone");
    assert_eq!(status(&store, "undivided").await.unwrap().members.len(), 1);
}

async fn of_all_that_leave_at_once_one_stays(store: &impl Store) {
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
                        Err(Error::Contended) => {}
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
    let left = status(store, "shrinking").await.unwrap();
    assert_eq!((refused, left.members.len()), (1, 1), "{left:?}");
    assert!(left.members.contains_key(&left.initial_node), "{left:?}");
    let (_, claimed) = store.claim(&claim("shrinking", "late")).await.unwrap();
    assert_eq!(claimed.initial_node, left.initial_node, "the claim's copy");
}

/// Both items as they are in the table.
async fn raw(client: &Client, cluster: &str) -> [Option<Item>; 2] {
    let get = async |key: String| {
        let get = client.get_item().table_name(TABLE).consistent_read(true);
        let got = get.key(CLUSTER_ID, AttributeValue::S(key)).send().await;
        got.unwrap().item
    };
    [get(cluster.to_owned()).await, get(members_key(cluster)).await]
}

async fn put(client: &Client, item: Item) {
    let put = client.put_item().table_name(TABLE);
    put.set_item(Some(item)).send().await.unwrap();
}

/// A process made the cluster ready and was held up before it made the members item.
async fn a_late_report_cannot_revive_a_forgotten_cluster(client: &Client, store: &DynamoDb) {
    store.claim(&claim("revived", "a")).await.unwrap();
    let (stopped, _) = metered(client, Some(2));
    stopped.ready(&ready("revived", "a")).await.unwrap_err();
    let seen = status(store, "revived").await.unwrap();
    assert_eq!((seen.state, names(&seen)), (State::Ready, vec!["a"]));
    assert!(store.forget(&seen, at(1)).await.unwrap());
    let late = Ready { now: at(2), ..ready("revived", "a") };
    let refused = store.ready(&late).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::NotFound)), "{refused}");
    let [_, marked] = raw(client, "revived").await;
    assert!(MembersItem::read(marked.unwrap()).unwrap().record.is_forgotten);

    let (_, record) = store.claim(&claim("revived", "b")).await.unwrap();
    assert_eq!(record.generation, 2);
    for generation in [None, Some(1)] {
        let late = Ready { generation, ..late.clone() };
        store.ready(&late).await.unwrap_err();
    }
    store.ready(&ready("revived", "b")).await.unwrap();
    assert_eq!(names(&status(store, "revived").await.unwrap()), ["b"]);
}

/// A process has read the members item and is held up before it corrects the claim item's copy.
async fn a_late_correction_does_not_undo_a_later_one(client: &Client, store: &DynamoDb) {
    store.claim(&claim("handed", "a")).await.unwrap();
    for member in ["a", "b", "c"] {
        store.ready(&ready("handed", member)).await.unwrap();
    }
    store.leave(&leave("handed", "a")).await.unwrap();
    let [_, old_members] = raw(client, "handed").await;
    store.leave(&leave("handed", "b")).await.unwrap();
    let [_, members] = raw(client, "handed").await;
    // Simulates that the members item was read before the second leave, and the claim item after it.
    put(client, old_members.unwrap()).await;
    status(store, "handed").await.unwrap();
    let (_, claimed) = store.claim(&claim("handed", "late")).await.unwrap();
    assert_eq!(claimed.initial_node, "c");
    put(client, members.unwrap()).await;
}

async fn a_missing_table_is_no_outage(client: &Client) {
    let error =
        DynamoDb::new(client.clone(), "no-such-table").claim(&claim("c", "a")).await.unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
}

async fn a_renewal_that_stops_is_completed(client: &Client) {
    let (store, _) = metered(client, None);
    store.claim(&claim("renewed", "a")).await.unwrap();
    for member in ["a", "b"] {
        store.ready(&ready("renewed", member)).await.unwrap();
    }
    for (calls, day) in (0..5).zip((2..).step_by(2)) {
        let now = at(day * DAY);
        let ask = async |store: DynamoDb| store.status(&id("renewed"), None, now).await;
        // Its own failure is not the caller's.
        let (stopped, _) = metered(client, Some(calls));
        let _ = ask(stopped).await;
        let (healthy, _) = metered(client, None);
        ask(healthy).await.unwrap();
        let items = DynamoDb::new(client.clone(), TABLE).items("renewed").await.unwrap().unwrap();
        let ends = [items.claim.record.kept_until, items.members.unwrap().record.kept_until];
        assert_eq!(ends, [Some(now + Duration::from_hours(24 * 400)); 2], "after {calls} calls");
    }
}

/// One request of a story.
#[derive(Clone, Debug)]
enum Request {
    Claim(Claim),
    Ready(Ready),
    Leave(Leave),
    Status(i64),
    Forget(i64),
}

impl Request {
    /// Sends it; the record that it was answered with, or the refusal.
    async fn send(&self, store: &DynamoDb, cluster: &str) -> Result<Option<Record>, Error> {
        match self {
            Self::Claim(claim) => store.claim(claim).await.map(|(_, record)| Some(record)),
            Self::Ready(ready) => store.ready(ready).await.map(Some),
            Self::Leave(leave) => store.leave(leave).await.map(Some),
            Self::Status(now) => store.status(&id(cluster), None, at(*now)).await.map(Some),
            Self::Forget(now) => {
                let Some(items) = store.items(cluster).await? else {
                    return Ok(None);
                };
                let forgotten = store.forget(&items.record(), at(*now)).await?;
                assert!(forgotten, "nobody else has changed it");
                Ok(None)
            }
        }
    }
}

/// A cluster's life in which every kind of write happens.
fn story(cluster: &str) -> Vec<Request> {
    let lease = Some(Duration::from_secs(30));
    let claim = |node: &str, now| Claim { lease, now: at(now), ..claim(cluster, node) };
    let ready = |node: &str, uuid: Option<Uuid>, now| Ready {
        cluster_uuid: uuid,
        now: at(now),
        ..ready(cluster, node)
    };
    let left = |node: &str, now| Leave { now: at(now), ..leave(cluster, node) };
    let with_uuid = |claim: Claim, text: &str| Claim { node_uuid: Some(uuid(text)), ..claim };
    vec![
        Request::Claim(with_uuid(claim("a", 0), "n1")),
        // Another server of the same name.
        Request::Claim(with_uuid(claim("a", 1), "n2")),
        Request::Claim(claim("b", 40)),
        Request::Leave(left("b", 41)),
        Request::Claim(claim("c", 48)),
        Request::Ready(ready("c", None, 50)),
        Request::Ready(ready("d", Some(uuid("u")), 51)),
        Request::Ready(ready("e", Some(uuid("u")), 52)),
        Request::Status(53),
        Request::Leave(left("c", 54)),
        Request::Leave(left("e", 55)),
        Request::Claim(claim("f", 2 * DAY)),
        Request::Status(4 * DAY),
        Request::Ready(ready("f", Some(uuid("u")), 6 * DAY)),
        Request::Forget(7 * DAY),
        Request::Claim(claim("g", 7 * DAY + 1)),
        Request::Ready(ready("g", Some(uuid("v")), 7 * DAY + 2)),
        // It has ended.
        Request::Claim(claim("h", 500 * DAY)),
    ]
}

/// Each request of the story is broken off before each of its calls, repeated by another process, and the story goes on as it
/// would have. In between, a reader sees the record as it was before or as it is afterwards.
async fn every_write_may_be_the_last(client: &Client) {
    let (whole, _) = metered(client, None);
    let mut expected = Vec::new();
    for request in story("whole") {
        let answer = request.send(&whole, "whole").await;
        expected.push((comparable(answer), stored(client, "whole").await));
    }
    let mut broken_off = 0;
    for reads_between in [false, true] {
        for calls in 0..8 {
            let cluster = format!("broken-{calls}-{reads_between}");
            let mut before = None;
            for (request, (answer, after)) in story(&cluster).into_iter().zip(&expected) {
                let what = format!("{cluster}, {request:?}");
                let (stopped, meter) = metered(client, Some(calls));
                let first = request.send(&stopped, &cluster).await;
                if meter.calls.load(Ordering::Relaxed) > calls && first.is_err() {
                    broken_off += 1;
                    let (healthy, _) = metered(client, None);
                    let now = stored(client, &cluster).await;
                    // A new UUID is known before the member that reports it.
                    let with_uuid = before.clone().map(|record| Record {
                        cluster_uuid: after.as_ref().and_then(|it| it.cluster_uuid.clone()),
                        ..record
                    });
                    let fits = |now: &Option<Record>| [&before, after, &with_uuid].contains(&now);
                    assert!(fits(&now), "{what}: {now:?}, not {before:?} or {after:?}");
                    if reads_between {
                        let _ = healthy.status(&id(&cluster), None, at(0)).await;
                        let read = stored(client, &cluster).await;
                        assert!(fits(&read), "{what}: {read:?}");
                    }
                    let repeated = comparable(request.send(&healthy, &cluster).await);
                    assert_eq!(&repeated, answer, "{what}");
                }
                let now = stored(client, &cluster).await;
                assert_eq!(&now, after, "{what}");
                before = now;
            }
        }
    }
    assert!(broken_off > 40, "{broken_off}");
}

/// An answer without the cluster's name.
fn comparable(answer: Result<Option<Record>, Error>) -> Result<Option<Record>, String> {
    let anonymous = |record| Record { cluster_id: String::new(), kept_until: None, ..record };
    match answer {
        Ok(record) => Ok(record.map(anonymous)),
        Err(Error::Refused(refusal)) => Err(format!("{refusal:?}")),
        Err(error) => panic!("{error}"),
    }
}

/// The record that both items make, without the cluster's name and its end, which a renewal moves.
async fn stored(client: &Client, cluster: &str) -> Option<Record> {
    let items = DynamoDb::new(client.clone(), TABLE).items(cluster).await.unwrap()?;
    let ends = [
        items.members.as_ref().and_then(|members| members.record.kept_until),
        items.claim.record.kept_until,
    ];
    assert!(ends[0] <= ends[1], "the members outlive their claim: {items:?}");
    let record = items.record();
    assert!(
        record.state == State::Claimed
            || record.is_forgotten
            || record.members.contains_key(&record.initial_node),
        "{record:?}"
    );
    let record = Record { cluster_id: String::new(), kept_until: None, ..record };
    // Of a forgotten record only the generation counts.
    Some(if record.is_forgotten {
        Record {
            state: State::Claimed,
            initial_node: String::new(),
            members: BTreeMap::new(),
            cluster_uuid: None,
            rival_node_uuid: None,
            is_given_up: false,
            ..record
        }
    } else {
        record
    })
}

/// The store's outcome, and the rules' on the record that stood.
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

/// A record that a client has requested.
fn asked_about(record: Record, now: Timestamp) -> Record {
    Record { kept_until: record.renewal(now).or(record.kept_until), ..record }
}

/// A walk through a few clusters: every answer is that of the rules, and so is every record.
#[expect(clippy::too_many_lines, reason = "one arm for each kind of request")]
async fn it_follows_the_rules(
    store: &impl Store,
    seed: u64,
    as_ruled: impl AsyncFn(&str, &Record),
) {
    const CLUSTERS: usize = 3;
    const STEPS: usize = 80;
    let mut random = Rng::with_seed(seed);
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    let mut now = 0;
    for step in 0..STEPS {
        now += match random.u8(..60) {
            0 => DAY,
            1 => 3 * DAY,
            2 => 401 * DAY,
            _ => *random.choice(&[0, 1, 5, 30, 35, 100]).unwrap(),
        };
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
        let secret = secret.map(|secret| SecretHash::new(&id(&cluster), secret.as_bytes()));
        let current = before.as_ref().map_or(1, |record| record.generation);
        let node_uuid = match random.u8(..6) {
            0 => Some(uuid("other")),
            1 | 2 => Some(uuid(member)),
            _ => None,
        };
        let mut generation =
            || *random.choice(&[None, Some(current), Some(current), Some(current + 1)]).unwrap();
        let generation = generation();
        let what = format!("seed {seed}, step {step}: {member} on {before:?}");
        let after = match random.u8(..20) {
            0..9 => {
                let lease = *random.choice(&[None, Some(30), Some(30), Some(60)]).unwrap();
                let claim = Claim {
                    node_uuid,
                    lease: lease.map(Duration::from_secs),
                    secret,
                    now: at(now),
                    ..claim(&cluster, member)
                };
                let ruled = claim.on(before.clone()).map(|(outcome, after)| {
                    let is_asked = matches!(outcome, Claimed::Again | Claimed::Joined);
                    let after = if is_asked { asked_about(after, at(now)) } else { after };
                    (outcome, after)
                });
                let noted = matches!(ruled, Err(Refusal::NameTaken { .. }))
                    .then(|| claim.noted_on(before.unwrap()));
                let whole = ruled.as_ref().ok().map(|(_, record)| record.clone());
                let told = ruled.map(|(outcome, record)| (outcome, without_members(record)));
                let done = (store.claim(&claim).await, told);
                assert_same(&format!("{what}, {claim:?}"), done);
                whole.or(noted)
            }
            9..15 => {
                let uuid_given = *random.choice(&[None, Some("u"), Some("u"), Some("v")]).unwrap();
                let is_attested = random.bool();
                let ready = Ready {
                    node_uuid,
                    generation,
                    cluster_uuid: uuid_given.map(uuid),
                    authority: is_attested.then(|| Fingerprint::of_certificate(member.as_bytes())),
                    attestation: is_attested
                        .then(|| Attestation::from_bytes(&[random.u8(..); 32]))
                        .flatten(),
                    secret,
                    now: at(now),
                    ..ready(&cluster, member)
                };
                let ruled = ready.on(before).map(|after| asked_about(after, at(now)));
                let done = (store.ready(&ready).await, ruled);
                assert_same(&format!("{what}, {ready:?}"), done)
            }
            15 | 16 => {
                let leave = Leave { generation, secret, now: at(now), ..leave(&cluster, member) };
                let done = (store.leave(&leave).await, leave.on(before));
                assert_same(&format!("{what}, {leave:?}"), done)
            }
            17 => match before {
                Some(record) if !record.is_forgotten => {
                    assert!(store.forget(&record, at(now)).await.unwrap(), "{what}");
                    assert!(store.forget(&record, at(now)).await.unwrap(), "{what}, again");
                    Some(rules::forget(record, at(now)))
                }
                _ => None,
            },
            _ => {
                let read = store.status(&id(&cluster), secret.as_ref(), at(now)).await;
                let shown = Record::shown_to(before, secret.as_ref(), at(now));
                let shown = shown.map(|record| asked_about(record, at(now)));
                assert_same(&format!("{what}, status"), (read, shown))
            }
        };
        if let Some(record) = after {
            as_ruled(&what, &record).await;
            records.insert(cluster, record);
        }
    }
    for (cluster, record) in records {
        let (id, secret) = (id(&cluster), record.secret.as_ref());
        let read = store.status(&id, secret, at(now)).await;
        let shown = Record::shown_to(Some(record.clone()), record.secret.as_ref(), at(now));
        let shown = shown.map(|record| asked_about(record, at(now)));
        assert_same(&cluster, (read, shown));
    }
}

/// The behavior of the DynamoDB store with sequential requests.
async fn dynamodb(client: &Client) -> DynamoDb {
    let store = store(client).await;
    store.warm_up().await.unwrap();
    every_store(&store).await;
    rows_of_the_original_are_claims(client, &store).await;
    a_late_report_cannot_revive_a_forgotten_cluster(client, &store).await;
    a_late_correction_does_not_undo_a_later_one(client, &store).await;
    a_renewal_that_stops_is_completed(client).await;
    a_missing_table_is_no_outage(client).await;
    every_write_may_be_the_last(client).await;
    for seed in 0..3 {
        dynamodb_follows_the_rules(client, &store, seed).await;
    }
    store
}

#[tokio::test]
async fn ministack_follows_the_rules() {
    let aws = MiniStack::start();
    let client = client(&aws.url);
    let store = dynamodb(&client).await;
    every_store_at_once(&store).await;
    a_claim_costs_the_same_however_many_members_there_are(&client).await;
    a_report_that_does_not_fit_writes_nothing(&client).await;
    members_change_at_once_in_one_write_each(&client).await;
    an_operator_cannot_name_a_part_of_a_cluster(&client).await;
}

/// A second opinion on the expressions. Not at once: moto looks at a condition and writes in two steps, between which others write.
#[tokio::test]
async fn moto_follows_the_rules() {
    let moto = Moto::start();
    dynamodb(&client(&moto.url)).await;
}

#[tokio::test]
async fn sqlite_follows_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let store = Sqlite::create(&directory.path().join("clusters.db")).unwrap();
    every_store(&store).await;
    every_store_at_once(&store).await;
    for seed in 0..100 {
        let as_ruled = async |what: &str, record: &Record| {
            // Renewals in the background come before this.
            let nobody = Record { cluster_id: "nobody".to_owned(), ..record.clone() };
            assert!(store.forget(&nobody, at(0)).await.unwrap());
            let stands = store.find(&record.cluster_id).unwrap();
            assert_eq!(stands.as_ref(), Some(record), "{what}");
        };
        it_follows_the_rules(&store, seed, as_ruled).await;
    }
}

#[tokio::test]
async fn an_unreachable_database_is_an_outage() {
    let url = format!("http://127.0.0.1:{}", process::free_port());
    let store = DynamoDb::new(client(&url), TABLE);
    assert!(matches!(store.warm_up().await, Err(Error::Unavailable(_))));
    assert!(matches!(store.claim(&claim("c", "a")).await, Err(Error::Unavailable(_))));
    assert!(matches!(status(&store, "c").await, Err(Error::Unavailable(_))));
}
