//! The store, the same tests against two databases: MiniStack's DynamoDB, and the one embedded in the local deployment.

#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, net::Ipv4Addr, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig, timeout::TimeoutConfig},
    types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
        ScalarAttributeType,
    },
};
use cbbootstrap_function::{
    protocol::{ClusterId, Node, Record},
    store::{Error, Store},
    table::{CLUSTER_ID, INITIAL_NODE},
    wire::State,
};
use cbbootstrap_tests::ministack::MiniStack;
use tokio::net::TcpListener;

const TABLE: &str = "cb-bootstrap";

fn client(url: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(url)
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .operation_timeout(Duration::from_secs(30))
                .build(),
        )
        .build();
    Client::from_conf(config)
}

/// A store on a table as the original's users have it: no settings but the key.
async fn store(client: &Client) -> Store {
    let attribute = AttributeDefinition::builder()
        .attribute_name(CLUSTER_ID)
        .attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder()
        .attribute_name(CLUSTER_ID)
        .key_type(KeyType::Hash);
    let table = client
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest);
    let table = table
        .attribute_definitions(attribute.build().unwrap())
        .key_schema(key.build().unwrap());
    table.send().await.unwrap();
    Store::new(client.clone(), TABLE)
}

fn id(text: &str) -> ClusterId {
    ClusterId::new(text).unwrap()
}

fn node(text: &str) -> Node {
    Node::new(text).unwrap()
}

fn record(cluster: &str, node: &str) -> Record {
    Record {
        cluster_id: cluster.to_owned(),
        initial_node: node.to_owned(),
        state: State::Claimed,
        generation: 1,
    }
}

async fn suite(url: &str) {
    let client = client(url);
    let store = store(&client).await;
    store.warm_up().await;
    the_first_claim_stands(&store).await;
    odd_ids_are_kept_as_they_are(&store).await;
    rows_of_the_original_are_claims(&client, &store).await;
    of_many_at_once_one_wins(&store).await;
    a_missing_table_is_no_outage(&client).await;
}

async fn the_first_claim_stands(store: &Store) {
    let (a, b) = (node("a"), node("b"));
    assert_eq!(store.status(&id("c")).await.unwrap(), None);
    for claimant in [&a, &b, &a, &b] {
        assert_eq!(
            store.claim(&id("c"), claimant).await.unwrap(),
            record("c", "a")
        );
    }
    assert_eq!(
        store.status(&id("c")).await.unwrap(),
        Some(record("c", "a"))
    );
    assert_eq!(
        store.status(&id("C")).await.unwrap(),
        None,
        "ids are told apart by case"
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
        assert_eq!(
            store.claim(&id(name), &node("ö")).await.unwrap(),
            record(name, "ö")
        );
        assert_eq!(
            store.status(&id(name)).await.unwrap(),
            Some(record(name, "ö"))
        );
    }
}

async fn rows_of_the_original_are_claims(client: &Client, store: &Store) {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let row = client
        .put_item()
        .table_name(TABLE)
        .item(CLUSTER_ID, text("old"))
        .item(INITIAL_NODE, text("first of old"));
    row.send().await.unwrap();
    assert_eq!(
        store.claim(&id("old"), &node("late")).await.unwrap(),
        record("old", "first of old")
    );
    assert_eq!(
        store.status(&id("old")).await.unwrap(),
        Some(record("old", "first of old"))
    );
}

async fn of_many_at_once_one_wins(store: &Store) {
    let claims: Vec<_> = (0..200)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .claim(&id("many"), &node(&format!("node-{number}")))
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut winners = HashSet::new();
    for claim in claims {
        winners.insert(claim.await.unwrap().initial_node);
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
}

async fn a_missing_table_is_no_outage(client: &Client) {
    let error = Store::new(client.clone(), "no-such-table")
        .claim(&id("c"), &node("a"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
}

#[tokio::test]
async fn on_ministack() {
    let aws = MiniStack::start();
    suite(&aws.url).await;
}

#[tokio::test]
async fn on_dynoxide() {
    let directory = tempfile::tempdir().unwrap();
    let database =
        dynoxide::Database::new(directory.path().join("test.db").to_str().unwrap()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let server = tokio::spawn(dynoxide::server::serve_with_shutdown(
        listener, database, shutdown,
    ));
    suite(&url).await;
    drop(stop);
    let _ = server.await;
}

#[tokio::test]
async fn a_database_that_is_away_is_an_outage() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = Store::new(client(&url), TABLE);
    store.warm_up().await;
    assert!(matches!(
        store.claim(&id("c"), &node("a")).await,
        Err(Error::Unavailable(_))
    ));
    assert!(matches!(
        store.status(&id("c")).await,
        Err(Error::Unavailable(_))
    ));
}
