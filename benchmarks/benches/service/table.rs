//! The table: filled without the service, and what requests take of it.

use std::{collections::HashMap, path::Path, time::Instant};

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, AttributeValue as Value},
};
use axum::Router;
use cbbootstrap_benchmarks::Table;
use cbbootstrap_function::{
    api, event,
    store::dynamodb::DynamoDb,
    table::{CLUSTER_ID, MEMBERS_PREFIX, members_key},
};
use cbbootstrap_tests::{
    dynamodb::{self, TABLE},
    ministack::MiniStack,
    proxy::{Call, Proxy},
};
use rusqlite::Connection;
use serde_json::json;

/// Puts clusters with the numbers up to this one into the database of a server that does not run: copies of the record of the first,
/// which the server has made.
pub fn fill(database: &Path, clusters: u64) {
    const COPY: &str = "
        WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number + 1 < ?)
        INSERT INTO clusters SELECT 'cluster-' || number, initial_node, initial_node_uuid, previous_initial_nodes,
            rival_node_uuid, is_given_up, state, generation, claimed_at, lease_expires_at, kept_until, is_forgotten,
            cluster_uuid, secret_hash
        FROM numbers, clusters WHERE cluster_id = 'cluster-0' ORDER BY 1";
    let since = Instant::now();
    let connection = Connection::open(database).expect("the database can be opened");
    let copied = connection.execute(COPY, [clusters.cast_signed()]);
    assert_eq!(copied.ok(), usize::try_from(clusters - 1).ok());
    drop(connection);
    let size = std::fs::metadata(database).map_or(0, |file| file.len()) / 1_000_000;
    let took = since.elapsed().as_secs_f64();
    eprintln!("{clusters} clusters, {size} MB, filled in {took:.1} s");
}

/// What one request took of DynamoDB.
#[derive(Clone, Debug)]
pub struct Taken {
    what: &'static str,
    /// In bytes, before and after.
    item: (usize, usize),
    /// The operations, in their order.
    calls: Vec<String>,
    /// Write and read request units.
    pub writes: usize,
    /// See there.
    pub reads: usize,
}

impl Taken {
    /// By DynamoDB's rules: a write has a unit for each KB of the larger of the item before and the item after, one at least, and
    /// has them, too, when its condition fails; a consistent read has one for each 4 KB, one at least.
    ///
    /// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html>
    fn new(what: &'static str, before: Sizes, after: Sizes, calls: &[Call]) -> Self {
        let of = |units: usize| units.max(1);
        let mut taken = Self {
            what,
            item: (before.iter().sum(), after.iter().sum()),
            calls: Vec::new(),
            writes: 0,
            reads: 0,
        };
        for call in calls {
            match call.name.as_str() {
                "dynamodb:UpdateItem" | "dynamodb:PutItem" => {
                    let key = call.parameters["Key"][CLUSTER_ID]["S"].as_str();
                    let item = usize::from(key.is_some_and(|key| key.starts_with(MEMBERS_PREFIX)));
                    taken.writes += of(before[item].max(after[item]).div_ceil(1024));
                }
                "dynamodb:GetItem" => {
                    assert_eq!(call.parameters["ConsistentRead"], true);
                    taken.reads += of(after[0].div_ceil(4096));
                }
                // Each item has its units, there or not.
                "dynamodb:BatchGetItem" => {
                    let units = after.map(|size| of(size.div_ceil(4096)));
                    taken.reads += units.iter().sum::<usize>();
                }
                other => panic!("nobody calls {other}"),
            }
            let operation = call.name.split(':').next_back().unwrap_or_default();
            taken.calls.push(operation.to_owned());
        }
        taken
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }
}

/// What a first claim and a joiner's claim took, of ours and of the original's design, and a report of ready.
#[derive(Debug)]
pub struct Requests {
    all: Vec<Taken>,
    theirs: Vec<Taken>,
}

impl Requests {
    /// The request of this name.
    pub fn of(&self, what: &str) -> &Taken {
        let mut all = self.all.iter().chain(&self.theirs);
        let taken = all.find(|taken| taken.what == what);
        taken.unwrap_or_else(|| panic!("`{what}` was not asked"))
    }
}

pub const FIRST: &str = "first claim";
pub const JOINER: &str = "joiner's claim";
pub const READY: &str = "ready";
pub const ORIGINAL_FIRST: &str = "the original's design: first claim";
pub const ORIGINAL_JOINER: &str = "the original's design: joiner's claim";

const CLUSTER: &str = "arn:aws:cloudformation:us-east-1:123456789012:stack/couchbase/4fc6e3b0-1a2b-11ef-9d1c-0e5f3b7a9c4d";

fn node(number: usize) -> String {
    format!("ip-10-0-12-{number}.us-east-1.compute.internal")
}

/// Asks the function's router, with a stand-in for DynamoDB behind it, and looks at what passes between the two.
pub fn requests() -> Requests {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(ask_everything())
}

async fn ask_everything() -> Requests {
    let database = MiniStack::start();
    let table = dynamodb::client(&database.url);
    dynamodb::create_table(&table).await;
    let proxy = Proxy::before(&database.url);
    let store = DynamoDb::new(dynamodb::client(&proxy.url), TABLE);
    let mut asked =
        Asked { router: api::router(store, api::Policy::default()), table, proxy, all: Vec::new() };

    let uuid = "0f8fad5bd9cb469fa16570867728950e";
    asked.claim(FIRST, 1).await;
    asked.claim("the same again", 1).await;
    asked.claim(JOINER, 2).await;
    asked.ask("status", "/cluster/get_status", json!({"cluster_id": CLUSTER})).await;
    asked.lapse().await;
    asked.claim("takeover", 2).await;
    let ready = |number| {
        json!({
            "cluster_id": CLUSTER, "node_ip_addr_or_hostname": node(number), "generation": 2, "cluster_uuid": uuid,
        })
    };
    let path = "/cluster/ready";
    asked.ask(READY, path, ready(2)).await;
    for number in 3..100 {
        asked.ask("", path, ready(number)).await;
    }
    asked.ask("ready, of the 99th member", path, ready(100)).await;
    asked.ask("status, of 99 members", "/cluster/get_status", json!({"cluster_id": CLUSTER})).await;
    for (what, number) in [("leave", 100), ("leave, of the one to join", 2)] {
        let leave = json!({"cluster_id": CLUSTER, "node_ip_addr_or_hostname": node(number)});
        asked.ask(what, "/cluster/leave", leave).await;
    }
    let theirs = theirs(&asked.table, &asked.proxy).await;
    let all = asked.all.into_iter();
    Requests { all: all.filter(|taken| !taken.what.is_empty()).collect(), theirs }
}

/// The service, and what it was asked.
struct Asked {
    router: Router,
    table: Client,
    proxy: Proxy,
    all: Vec<Taken>,
}

impl Asked {
    async fn claim(&mut self, what: &'static str, number: usize) {
        let claim = json!({
            "cluster_id": CLUSTER, "node_ip_addr_or_hostname": node(number), "lease_seconds": 300,
        });
        self.ask(what, "/cluster", claim).await;
    }

    async fn ask(&mut self, what: &'static str, path: &str, body: serde_json::Value) {
        let before = item_sizes(&self.table, CLUSTER).await;
        self.proxy.reset();
        let event = json!({
            "rawPath": path, "requestContext": {"http": {"method": "POST"}}, "body": body.to_string(),
        });
        let answer = event::respond(self.router.clone(), event.to_string().as_bytes(), "id").await;
        let answer = serde_json::to_value(answer).expect("an answer is JSON");
        assert_eq!(answer["statusCode"], 200, "{what}: {answer}");
        let calls = self.proxy.calls();
        let after = item_sizes(&self.table, CLUSTER).await;
        self.all.push(Taken::new(what, before, after, &calls));
    }

    async fn lapse(&self) {
        let lapsed = dynamodb::lapse(&self.table, CLUSTER).await;
        assert!(matches!(lapsed, Ok(Some(1))), "no lease runs: {lapsed:?}");
    }
}

/// What the original did to its table: it put the item unless it was there, and then read it.
async fn theirs(table: &Client, proxy: &Proxy) -> Vec<Taken> {
    let client = dynamodb::client(&proxy.url);
    let cluster = CLUSTER.replace("couchbase", "original");
    let mut all = Vec::new();
    for (what, number) in [(ORIGINAL_FIRST, 1), (ORIGINAL_JOINER, 2)] {
        let before = item_sizes(table, &cluster).await;
        proxy.reset();
        let put = client
            .put_item()
            .table_name(TABLE)
            .item(CLUSTER_ID, Value::S(cluster.clone()))
            .item("initial_node_ip_addr_or_hostname", Value::S(node(number)))
            .condition_expression("attribute_not_exists(cluster_id)")
            .send()
            .await;
        if put.is_err() {
            let get = client
                .get_item()
                .table_name(TABLE)
                .key(CLUSTER_ID, Value::S(cluster.clone()))
                .consistent_read(true);
            let read = get.send().await.expect("the table can be read");
            assert!(read.item.is_some());
        }
        let calls = proxy.calls();
        let after = item_sizes(table, &cluster).await;
        all.push(Taken::new(what, before, after, &calls));
    }
    all
}

/// The sizes of a cluster's claim item and members item.
type Sizes = [usize; 2];

async fn item_sizes(table: &Client, cluster: &str) -> Sizes {
    [item_size(table, cluster).await, item_size(table, &members_key(cluster)).await]
}

/// The size of an item; 0 if there is none.
async fn item_size(table: &Client, cluster: &str) -> usize {
    let get = table.get_item().table_name(TABLE).key(CLUSTER_ID, Value::S(cluster.to_owned()));
    let item = get.send().await.expect("the table can be read").item;
    item.map_or(0, |item| size(&item))
}

/// By DynamoDB's rules: the names, the strings and the bytes as they are, of a number a byte for each two digits and one more.
///
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>
fn size(item: &HashMap<String, AttributeValue>) -> usize {
    let value = |value: &AttributeValue| match value {
        Value::S(text) => text.len(),
        Value::N(number) => number.len().div_ceil(2) + 1,
        Value::B(bytes) => bytes.as_ref().len(),
        // 3 bytes, and one for each element.
        Value::M(values) => 3 + values.len() + size(values),
        Value::L(values) => 3 + values.len() + values.iter().map(text_size).sum::<usize>(),
        other => panic!("no record here has {other:?}"),
    };
    item.iter().map(|(name, of)| name.len() + value(of)).sum()
}

/// The lists here are of strings.
fn text_size(value: &AttributeValue) -> usize {
    value.as_s().map_or(0, String::len)
}

/// All requests.
pub fn capacity(requests: &Requests) -> Table {
    let mut table = Table::new([
        "request",
        "DynamoDB calls",
        "write units",
        "read units",
        "item before, bytes",
        "after",
    ]);
    for taken in requests.all.iter().chain(&requests.theirs) {
        table.row([
            taken.what.to_owned(),
            format!("{} ({})", taken.calls(), taken.calls.join(", ")),
            taken.writes.to_string(),
            taken.reads.to_string(),
            taken.item.0.to_string(),
            taken.item.1.to_string(),
        ]);
    }
    table
}
