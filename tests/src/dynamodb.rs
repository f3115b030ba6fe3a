//! A client for DynamoDB's stand-ins, and a table in them.

use std::time::Duration;

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig, timeout::TimeoutConfig},
    types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ReturnValue,
        ScalarAttributeType,
    },
};
use cbbootstrap_function::table::{CLUSTER_ID, GENERATION, LEASE_EXPIRES_AT, STATE, VERSION};

pub const TABLE: &str = "cb-bootstrap";

/// A client for the DynamoDB at this URL, which tries once.
pub fn client(url: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(url)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(30)).build())
        .build();
    Client::from_conf(config)
}

/// A table as the original's users have it: no settings but the key.
pub async fn create_table(client: &Client) {
    let attribute = AttributeDefinition::builder()
        .attribute_name(CLUSTER_ID)
        .attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name(CLUSTER_ID).key_type(KeyType::Hash);
    client
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute.build().expect("it is complete"))
        .key_schema(key.build().expect("it is complete"))
        .send()
        .await
        .expect("a table can be made");
}

/// Makes the current claim's lease expire. Returns the claim's generation, or `None` if no lease runs.
pub async fn lapse(client: &Client, cluster: &str) -> Result<Option<u64>, aws_sdk_dynamodb::Error> {
    let number = |number: u64| AttributeValue::N(number.to_string());
    let lapsed = client
        .update_item()
        .table_name(TABLE)
        .key(CLUSTER_ID, AttributeValue::S(cluster.to_owned()))
        .update_expression("SET #lease = :then ADD #version :then")
        .condition_expression("#lease > :then AND #state = :claimed")
        .expression_attribute_names("#lease", LEASE_EXPIRES_AT)
        .expression_attribute_names("#state", STATE)
        .expression_attribute_names("#version", VERSION)
        .expression_attribute_values(":then", number(1))
        .expression_attribute_values(":claimed", AttributeValue::S("claimed".to_owned()))
        .return_values(ReturnValue::AllNew)
        .send()
        .await;
    let record = match lapsed.map_err(aws_sdk_dynamodb::Error::from) {
        Ok(output) => output.attributes.unwrap_or_default(),
        Err(aws_sdk_dynamodb::Error::ConditionalCheckFailedException(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let generation = record.get(GENERATION).and_then(|value| value.as_n().ok());
    Ok(generation.and_then(|number| number.parse().ok()))
}
