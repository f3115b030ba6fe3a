//! Fills a database directly, and measures what requests use of DynamoDB.

use std::{collections::HashMap, path::Path, time::Instant};

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, AttributeValue as Value},
};
use axum::Router;
use cbbootstrap_benchmarks::{Table, block_on};
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
use serde_json::{Map, json};

/// Fills the database of a stopped server with copies of its first cluster.
pub fn fill(database: &Path, clusters: u64) {
    const COPY: &str = "
        WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number + 1 < ?)
        INSERT INTO clusters SELECT 'cluster-' || number, json_set(record, '$.cluster_id', 'cluster-' || number)
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

/// The size of the first cluster's record in bytes.
pub fn record_size(database: &Path) -> i64 {
    const SIZE: &str = "SELECT length(record) FROM clusters WHERE cluster_id = 'cluster-0'";
    let connection = Connection::open(database).expect("the database can be opened");
    connection.query_row(SIZE, [], |row| row.get(0)).expect("there is a cluster")
}

/// What one request used of DynamoDB.
#[derive(Clone, Debug)]
pub struct Usage {
    request: &'static str,
    /// The size in bytes before and after.
    item: (usize, usize),
    operations: Vec<String>,
    /// Write request units.
    pub writes: usize,
    /// Read request units; an eventually consistent read of 4 KB uses half of one.
    pub reads: f64,
}

impl Usage {
    /// By DynamoDB's rules: a write uses at least one unit, and one for each KB of the larger of the item before and the item after,
    /// even if its condition fails; a consistent read uses at least one, and one for each 4 KB.
    ///
    /// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html>
    fn new(request: &'static str, before: Sizes, after: Sizes, calls: &[Call]) -> Self {
        let at_least_one = |units: usize| units.max(1);
        let item = |key: &serde_json::Value| {
            usize::from(key.as_str().is_some_and(|key| key.starts_with(MEMBERS_PREFIX)))
        };
        let mut usage = Self {
            request,
            item: (before.iter().sum(), after.iter().sum()),
            operations: Vec::new(),
            writes: 0,
            reads: 0.0,
        };
        for call in calls {
            match call.name.as_str() {
                "dynamodb:UpdateItem" | "dynamodb:PutItem" => {
                    let item = item(&call.parameters["Key"][CLUSTER_ID]["S"]);
                    usage.writes += at_least_one(before[item].max(after[item]).div_ceil(1024));
                }
                "dynamodb:GetItem" => {
                    assert_eq!(call.parameters["ConsistentRead"], true);
                    usage.reads += at_least_one(after[0].div_ceil(4096)) as f64;
                }
                // Each item uses units, even if it does not exist.
                "dynamodb:BatchGetItem" => {
                    let tables = call.parameters["RequestItems"].as_object();
                    for table in tables.into_iter().flat_map(Map::values) {
                        let unit = if table["ConsistentRead"] == true { 1.0 } else { 0.5 };
                        for key in table["Keys"].as_array().into_iter().flatten() {
                            let size = after[item(&key[CLUSTER_ID]["S"])];
                            usage.reads += unit * at_least_one(size.div_ceil(4096)) as f64;
                        }
                    }
                }
                other => panic!("unexpected call {other}"),
            }
            let operation = call.name.split(':').next_back().unwrap_or_default();
            usage.operations.push(operation.to_owned());
        }
        usage
    }

    pub fn calls(&self) -> usize {
        self.operations.len()
    }
}

/// The usage of each kind of request, in this design and the original's.
#[derive(Debug)]
pub struct Requests {
    all: Vec<Usage>,
    pub bootstraps: Vec<Bootstrap>,
}

/// The requests of all nodes of a new cluster.
#[derive(Debug)]
pub struct Bootstrap {
    pub nodes: usize,
    pub claims: Vec<Usage>,
    pub reports: Vec<Usage>,
    /// The reports of nodes that share a cluster secret.
    pub attested_reports: Vec<Usage>,
}

impl Requests {
    pub fn usage(&self, request: &str) -> &Usage {
        let usage = self.all.iter().find(|usage| usage.request == request);
        usage.unwrap_or_else(|| panic!("`{request}` was not sent"))
    }
}

/// Nodes of a new cluster.
const NODES: [usize; 2] = [3, 10];

pub const ORIGINAL_FIRST: &str = "original design: first claim";
pub const ORIGINAL_JOINER: &str = "original design: joiner's claim";

const READY: &str = "/cluster/ready";

const UUID: &str = "0f8fad5bd9cb469fa16570867728950e";

const CLUSTER: &str = "arn:aws:cloudformation:us-east-1:123456789012:stack/couchbase/4fc6e3b0-1a2b-11ef-9d1c-0e5f3b7a9c4d";

fn node(number: usize) -> String {
    format!("ip-10-0-12-{number}.us-east-1.compute.internal")
}

/// Sends requests to the function's router, and records its calls to a stand-in for DynamoDB.
pub fn requests() -> Requests {
    block_on(send_requests())
}

async fn send_requests() -> Requests {
    let database = MiniStack::start();
    let table = dynamodb::client(&database.url);
    dynamodb::create_table(&table).await;
    let proxy = Proxy::before(&database.url);
    let store = DynamoDb::new(dynamodb::client(&proxy.url), TABLE);
    let mut service = Service {
        router: api::router(store, api::Policy::default()),
        table,
        proxy,
        all: Vec::new(),
    };

    service.claim("first claim", CLUSTER, 1).await;
    service.claim("the same again", CLUSTER, 1).await;
    service.claim("joiner's claim", CLUSTER, 2).await;
    service.send("status", "/cluster/get_status", json!({"cluster_id": CLUSTER})).await;
    service.end_lease().await;
    service.claim("takeover", CLUSTER, 2).await;
    let ready = |number| {
        json!({
            "cluster_id": CLUSTER, "node_ip_addr_or_hostname": node(number), "generation": 2, "cluster_uuid": UUID,
            "node_uuid": UUID,
        })
    };
    service.send("ready", READY, ready(2)).await;
    service.send("joiner's ready", READY, ready(3)).await;
    for number in 4..100 {
        service.send("", READY, ready(number)).await;
    }
    service.send("ready, 99th member", READY, ready(100)).await;
    service.send("status, 99 members", "/cluster/get_status", json!({"cluster_id": CLUSTER})).await;
    for (request, number) in [("leave", 100), ("leave, node to join", 2)] {
        let leave = json!({"cluster_id": CLUSTER, "node_ip_addr_or_hostname": node(number)});
        service.send(request, "/cluster/leave", leave).await;
    }
    let original = original_requests(&service.table, &service.proxy).await;
    let mut all = std::mem::take(&mut service.all);
    all.retain(|usage| !usage.request.is_empty());
    all.extend(original);
    let mut bootstraps = Vec::new();
    for nodes in NODES {
        bootstraps.push(service.bootstrap(nodes).await);
    }
    Requests { all, bootstraps }
}

struct Service {
    router: Router,
    table: Client,
    proxy: Proxy,
    all: Vec<Usage>,
}

impl Service {
    /// Sends what the agents of a new cluster's nodes send, once with and once without a cluster secret.
    async fn bootstrap(&mut self, nodes: usize) -> Bootstrap {
        let mut bootstraps = Vec::new();
        for is_attested in [false, true] {
            let cluster = CLUSTER.replace("couchbase", &format!("new-{nodes}-{is_attested}"));
            for number in 1..=nodes {
                self.claim("", &cluster, number).await;
            }
            let claims = std::mem::take(&mut self.all);
            let hash = "5e".repeat(32);
            for number in 1..=nodes {
                let mut ready = json!({
                    "cluster_id": cluster, "node_ip_addr_or_hostname": node(number), "generation": 1,
                    "cluster_uuid": UUID, "node_uuid": UUID,
                });
                if is_attested {
                    ready["authority_sha256"] = json!(hash);
                    ready["attestation"] = json!(hash);
                }
                self.send("", READY, ready).await;
            }
            bootstraps.push((claims, std::mem::take(&mut self.all)));
        }
        let (_, attested_reports) = bootstraps.pop().expect("two bootstraps");
        let (claims, reports) = bootstraps.pop().expect("two bootstraps");
        Bootstrap { nodes, claims, reports, attested_reports }
    }

    async fn claim(&mut self, request: &'static str, cluster: &str, number: usize) {
        let claim = json!({
            "cluster_id": cluster, "node_ip_addr_or_hostname": node(number), "lease_seconds": 300,
            "node_uuid": UUID,
        });
        self.send(request, "/cluster", claim).await;
    }

    async fn send(&mut self, request: &'static str, path: &str, body: serde_json::Value) {
        let cluster = body["cluster_id"].as_str().expect("requests name their cluster").to_owned();
        let before = item_sizes(&self.table, &cluster).await;
        self.proxy.reset();
        let event = json!({
            "rawPath": path, "requestContext": {"http": {"method": "POST"}}, "body": body.to_string(),
        });
        let answer =
            event::respond(self.router.clone(), event.to_string().as_bytes(), "id", "").await;
        let answer = serde_json::to_value(answer).expect("an answer is JSON");
        assert_eq!(answer["statusCode"], 200, "{request}: {answer}");
        let calls = self.proxy.calls();
        let after = item_sizes(&self.table, &cluster).await;
        self.all.push(Usage::new(request, before, after, &calls));
    }

    async fn end_lease(&self) {
        let lapsed = dynamodb::lapse(&self.table, CLUSTER).await;
        assert!(matches!(lapsed, Ok(Some(1))), "the claim has no lease: {lapsed:?}");
    }
}

/// The calls of original design: it puts the item unless it exists, and otherwise reads it.
async fn original_requests(table: &Client, proxy: &Proxy) -> Vec<Usage> {
    let client = dynamodb::client(&proxy.url);
    let cluster = CLUSTER.replace("couchbase", "original");
    let mut all = Vec::new();
    for (request, number) in [(ORIGINAL_FIRST, 1), (ORIGINAL_JOINER, 2)] {
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
        all.push(Usage::new(request, before, after, &calls));
    }
    all
}

/// Of a cluster's claim item and members item.
type Sizes = [usize; 2];

async fn item_sizes(table: &Client, cluster: &str) -> Sizes {
    [item_size(table, cluster).await, item_size(table, &members_key(cluster)).await]
}

/// In bytes; 0 if the item does not exist.
async fn item_size(table: &Client, cluster: &str) -> usize {
    let get = table.get_item().table_name(TABLE).key(CLUSTER_ID, Value::S(cluster.to_owned()));
    let item = get.send().await.expect("the table can be read").item;
    item.map_or(0, |item| size(&item))
}

/// By DynamoDB's rules: the bytes of names, strings and binary values, and for a number one byte and one for each two digits.
///
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>
fn size(item: &HashMap<String, AttributeValue>) -> usize {
    let value = |value: &AttributeValue| match value {
        Value::S(text) => text.len(),
        Value::N(number) => number.len().div_ceil(2) + 1,
        Value::B(bytes) => bytes.as_ref().len(),
        // Three bytes and one for each element.
        Value::M(values) => 3 + values.len() + size(values),
        Value::L(values) => 3 + values.len() + values.iter().map(text_size).sum::<usize>(),
        other => panic!("unexpected attribute {other:?}"),
    };
    item.iter().map(|(name, attribute)| name.len() + value(attribute)).sum()
}

/// Lists contain only strings.
fn text_size(value: &AttributeValue) -> usize {
    value.as_s().map_or(0, String::len)
}

pub fn capacity(requests: &Requests) -> Table {
    let mut table = Table::new([
        "request",
        "DynamoDB calls",
        "write units",
        "read units",
        "item before, bytes",
        "after",
    ]);
    for usage in &requests.all {
        table.row([
            usage.request.to_owned(),
            format!("{} ({})", usage.calls(), usage.operations.join(", ")),
            usage.writes.to_string(),
            usage.reads.to_string(),
            usage.item.0.to_string(),
            usage.item.1.to_string(),
        ]);
    }
    table
}
