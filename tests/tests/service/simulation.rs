//! The calls that the simulation assumes, against those of the real store.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use cbbootstrap_function::store::{
    Error, Store,
    dynamodb::{DynamoDb, counting_calls, for_requests},
};
use cbbootstrap_protocol::{
    names::{ClusterId, Node, Uuid},
    wire::MAX_MEMBERS,
};
use cbbootstrap_simulation::{
    node::{Call, LEASE, Rule},
    usage::Usage,
};
use cbbootstrap_tests::{
    dynamodb::{TABLE, client, create_table},
    ministack::MiniStack,
};
use jiff::Timestamp;

const ID: &str = "c";

/// Sends the call to the store. Returns the number of calls to the table.
async fn send(store: &DynamoDb, call: &Call, node: &str, now: Timestamp) -> u32 {
    let cluster_id = ClusterId::new(ID).expect("it is an id");
    let node = Node::new(node).expect("it is a host name");
    // The SDK's futures are large.
    let (done, calls) = counting_calls(Box::pin(async {
        match call.rule(cluster_id.clone(), node, None, now) {
            Rule::Claim(claim) => store.claim(&claim).await.map(drop),
            Rule::Status => store.status(&cluster_id, None, now).await.map(drop),
            Rule::Ready(ready) => store.ready(&ready).await.map(drop),
            Rule::Leave(leave) => store.leave(&leave).await.map(drop),
        }
    }))
    .await;
    assert!(matches!(done, Ok(()) | Err(Error::Refused(_))), "{call:?}: {done:?}");
    calls
}

#[tokio::test]
async fn requests_make_as_many_calls_as_simulated() {
    let aws = MiniStack::start();
    let client = client(&aws.url);
    create_table(&client).await;
    let client = Client::from_conf(for_requests(client.config().to_builder()).build());
    let store = DynamoDb::new(client, TABLE);
    let cluster_uuid = Uuid::new("u").expect("it is a UUID");
    let ready = |generation| Call::Ready { cluster_uuid: cluster_uuid.clone(), generation };
    let mut now = Timestamp::now();
    let mut check = async |what: &str, call: Call, node: &str| {
        now += Duration::from_secs(1);
        if what.contains("expired") {
            now += LEASE + Duration::from_mins(1);
        }
        let items = store.items(ID).await.expect("the table answers");
        let record = items.map(|items| items.record());
        let usage = Usage::new(&call, record.as_ref(), now);
        let calls = send(&store, &call, node, now).await;
        assert_eq!(u64::from(calls), usage.calls, "{what}");
    };
    check("first claim", Call::Claim, "a").await;
    check("the same again", Call::Claim, "a").await;
    check("claim of a joiner", Call::Claim, "b").await;
    check("status of a claim", Call::Status, "b").await;
    check("claim given up", Call::Leave { generation: 1 }, "a").await;
    check("claim after that", Call::Claim, "b").await;
    check("claim after the lease has expired", Call::Claim, "a").await;
    check("first report", ready(3), "a").await;
    check("report of a joiner", ready(3), "b").await;
    check("claim of a ready cluster", Call::Claim, "c").await;
    check("status of a ready cluster", Call::Status, "c").await;
    for number in 2..MAX_MEMBERS {
        check("report of one more", ready(3), &format!("n{number}")).await;
    }
    check("report without a place", ready(3), "c").await;
    check("status of a full cluster", Call::Status, "c").await;
}
