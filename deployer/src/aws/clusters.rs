//! Reads, lists and forgets the clusters' records in the table, the last by the function's store.

use std::collections::HashMap;

use anyhow::Context;
use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{AttributeValue, KeysAndAttributes},
};
use cbbootstrap_function::{
    item::{self, ClaimItem, Item, Items, MembersItem, Unreadable},
    store::{self, Store, dynamodb::DynamoDb},
    table::{CLUSTER_ID, members_key},
};
use cbbootstrap_protocol::{rules::Record, wire::State};
use jiff::Timestamp;

use super::explain;
use crate::failure::Failure;

/// The most keys that DynamoDB reads in one call.
const BATCH: usize = 100;

const OTHER_TABLE: &str =
    "this may be another service's table; `--table-name` names a table, and `--env` an environment";

#[derive(Clone, Debug)]
pub struct Clusters {
    client: Client,
    table: String,
    /// Of the table, for messages.
    region: String,
}

#[derive(Clone, Debug)]
pub struct Row {
    /// The key of its claim item.
    pub cluster_id: String,
    /// `Err` if its items cannot be read.
    pub record: Result<Record, Unreadable>,
    item: Item,
}

/// A record from another store than DynamoDB has no item.
impl From<Record> for Row {
    fn from(record: Record) -> Self {
        Self { cluster_id: record.cluster_id.clone(), record: Ok(record), item: Item::new() }
    }
}

#[derive(Debug)]
pub struct Page {
    /// In the table's order.
    pub rows: Vec<Row>,
    /// The cluster that the next page begins after.
    pub next: Option<String>,
}

impl Clusters {
    pub fn new(client: Client, table: impl Into<String>, region: impl Into<String>) -> Self {
        Self { client, table: table.into(), region: region.into() }
    }

    /// Lists at most `limit` records, beginning after a cluster, which need not exist any more.
    pub async fn page(&self, limit: Option<usize>, after: Option<&str>) -> anyhow::Result<Page> {
        let mut rows = Vec::new();
        let mut start = after.map(key);
        loop {
            // One more than the limit shows whether there are more: at its own limit, DynamoDB always answers that there are.
            let missing = limit.map(|limit| limit.saturating_add(1) - rows.len());
            let scanned = self
                .client
                .scan()
                .table_name(&self.table)
                .consistent_read(true)
                .set_limit(missing.map(|missing| missing.try_into().unwrap_or(i32::MAX)))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| self.explain("cannot list the clusters of", &error))?;
            for item in scanned.items.unwrap_or_default() {
                if !item::is_members_item(&item) {
                    rows.push(item);
                }
            }
            start = scanned.last_evaluated_key.filter(|key| !key.is_empty());
            let is_full = limit.is_some_and(|limit| rows.len() > limit);
            if is_full || start.is_none() {
                break;
            }
        }
        let more = limit.filter(|limit| rows.len() > *limit);
        rows.truncate(limit.unwrap_or(usize::MAX));
        let rows = self.with_members(rows).await?;
        Ok(Page { next: more.and_then(|_| Some(rows.last()?.cluster_id.clone())), rows })
    }

    pub async fn find(&self, cluster_id: &str) -> anyhow::Result<Option<Row>> {
        let mut items = self.batch(vec![cluster_id.to_owned()]).await?;
        let item = items.remove(cluster_id);
        let rows = self.with_members(item.into_iter().collect()).await?;
        Ok(rows.into_iter().next())
    }

    /// Ends a record and returns `true`, unless it has changed since it was read. Repeating this after a lost answer does no
    /// harm.
    pub async fn forget(&self, row: &Row, now: Timestamp) -> anyhow::Result<bool> {
        let store = DynamoDb::new(self.client.clone(), &self.table);
        let forgotten = match &row.record {
            Ok(record) => store.forget(record, now).await,
            Err(_) => store.forget_unreadable(&row.item, now).await,
        };
        match forgotten {
            Ok(has_ended) => Ok(has_ended),
            Err(error @ store::Error::Unreadable(_)) => {
                Err(error).context("the record cannot be read any more")
            }
            Err(error) => {
                let hint = match &error {
                    store::Error::Unavailable(_) => {
                        "run the command again; repeating it does no harm"
                    }
                    _ => {
                        "`cbbootstrap iam-policy --for clusters` prints the permissions that it needs"
                    }
                };
                let message = format!("cannot forget a cluster of table `{}`", self.table);
                Err(Failure::new(format!("{message}: {error}")).hint(hint).into())
            }
        }
    }

    /// Reads the members of the ready clusters.
    async fn with_members(&self, items: Vec<Item>) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for item in items {
            let Some(AttributeValue::S(cluster_id)) = item.get(CLUSTER_ID) else {
                let message = format!("table `{}` has an item without a cluster's id", self.table);
                return Err(Failure::new(message).hint(OTHER_TABLE).into());
            };
            rows.push((cluster_id.clone(), ClaimItem::read(item.clone()), item));
        }
        let is_ready = |claim: &ClaimItem| claim.record.state == State::Ready;
        let ready = rows
            .iter()
            .filter(|(_, claim, _)| claim.as_ref().is_ok_and(is_ready))
            .map(|(id, ..)| members_key(id));
        let mut members = self.batch(ready.collect()).await?;
        let with_members = |(cluster_id, claim, item): (String, Result<ClaimItem, _>, Item)| {
            let record = claim.and_then(|claim| {
                let members = members.remove(&members_key(&cluster_id));
                let members = members.map(MembersItem::read).transpose()?;
                Ok(Items::new(claim, members).record())
            });
            Row { cluster_id, record, item }
        };
        Ok(rows.into_iter().map(with_members).collect())
    }

    /// Reads the items with these keys that exist.
    async fn batch(&self, keys: Vec<String>) -> anyhow::Result<HashMap<String, Item>> {
        let mut all = HashMap::new();
        for keys in keys.chunks(BATCH) {
            let keys = keys.iter().map(|text| key(text)).collect();
            let request =
                KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build()?;
            let mut requests = Some(HashMap::from([(self.table.clone(), request)]));
            // An answer ends at 16 MB and lists the keys that are left.
            while let Some(left) = requests.filter(|left| !left.is_empty()) {
                let output = self
                    .client
                    .batch_get_item()
                    .set_request_items(Some(left))
                    .send()
                    .await
                    .map_err(|error| self.explain("cannot read", &error))?;
                let items = output.responses.unwrap_or_default().into_values().flatten();
                all.extend(items.filter_map(|item| {
                    let key = item.get(CLUSTER_ID)?.as_s().ok()?.clone();
                    Some((key, item))
                }));
                requests = output.unprocessed_keys;
            }
        }
        Ok(all)
    }

    fn explain<E>(&self, what: &str, error: &SdkError<E>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let Self { table, region, .. } = self;
        match error.code() {
            Some("ResourceNotFoundException") => {
                Failure::new(format!("there is no table `{table}` in {region}"))
                    .hint("`cbbootstrap deploy` creates it; `--table-name` names another")
            }
            // The usual reason: the table has another key.
            Some("ValidationException") => {
                explain(format!("{what} table `{table}`"), error).hint(OTHER_TABLE)
            }
            _ => explain(format!("{what} table `{table}`"), error),
        }
    }
}

fn key(cluster_id: &str) -> Item {
    let id = AttributeValue::S(cluster_id.to_owned());
    Item::from([(CLUSTER_ID.to_owned(), id)])
}
