//! The clusters' records in the table, one by one, for an operator: read, listed and forgotten.
//!
//! The function changes them through its store. Forgetting goes through the same store; everything else here only reads.

use std::collections::HashMap;

use anyhow::Context;
use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{AttributeValue, KeysAndAttributes, ReturnValuesOnConditionCheckFailure as OnFailure},
};
use cbbootstrap_function::{
    item::{self, ClaimItem, Item, Items, MembersItem, Unreadable},
    store::{self, Store},
    table::{CLUSTER_ID, GENERATION, INITIAL_NODE, STATE, VERSION, members_key},
};
use cbbootstrap_protocol::{rules::Record, wire::State};
use jiff::Timestamp;

use super::explain;
use crate::failure::Failure;

/// The attributes by which an unreadable item is recognised when it is deleted.
const SEEN: [&str; 4] = [INITIAL_NODE, STATE, GENERATION, VERSION];

/// DynamoDB answers for at most this many keys in one call.
const BATCH: usize = 100;

const OTHER_TABLE: &str =
    "it may be no table of this service; `--table-name` names another, and `--env` an environment";

/// The records of a table.
#[derive(Clone, Debug)]
pub struct Clusters {
    client: Client,
    table: String,
    /// Where the table is, for people.
    place: String,
}

/// A cluster of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The key of its claim item.
    pub cluster_id: String,
    /// Its record, if its items can be read.
    pub record: Result<Record, Unreadable>,
    item: Item,
}

/// A part of the table.
#[derive(Debug)]
pub struct Page {
    /// In the table's own order.
    pub rows: Vec<Row>,
    /// The cluster that the next page begins after; none where there is no more.
    pub next: Option<String>,
}

/// What became of a record that was to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The record has ended. Somebody else may have been quicker.
    Ended,
    /// The record is another by now, and was left as it is.
    Changed,
}

impl Clusters {
    /// The records of the table of this name. `place` says where that is, for people: `us-east-1`, say.
    pub fn new(client: Client, table: impl Into<String>, place: impl Into<String>) -> Self {
        Self {
            client,
            table: table.into(),
            place: place.into(),
        }
    }

    /// So many records, or all of them, from the one on that comes after this cluster, which need not be there any more.
    pub async fn page(&self, limit: Option<usize>, after: Option<&str>) -> anyhow::Result<Page> {
        let mut rows = Vec::new();
        let mut start = after.map(key);
        loop {
            // One more than is wanted tells whether there is more: DynamoDB says so at a limit even where it has seen all.
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
        Ok(Page {
            next: more.and_then(|_| Some(rows.last()?.cluster_id.clone())),
            rows,
        })
    }

    /// The record of a cluster; `None` if there is none.
    pub async fn find(&self, cluster_id: &str) -> anyhow::Result<Option<Row>> {
        let got = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(cluster_id)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| self.explain("cannot read", &error))?;
        let rows = self.with_members(got.item.into_iter().collect()).await?;
        Ok(rows.into_iter().next())
    }

    /// Ends a record, if it is still the one that was seen. Repeating it after a lost answer does no harm.
    pub async fn forget(&self, seen: &Row, now: Timestamp) -> anyhow::Result<Forgotten> {
        let Ok(record) = &seen.record else {
            return self.delete(seen).await;
        };
        let store = Store::new(self.client.clone(), &self.table);
        match store.forget(record, now).await {
            Ok(true) => Ok(Forgotten::Ended),
            Ok(false) => Ok(Forgotten::Changed),
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
                Err(Failure::new(format!("{message}: {error}"))
                    .hint(hint)
                    .into())
            }
        }
    }

    /// Deletes the claim item of a record that cannot be read, if it is still as it was.
    async fn delete(&self, seen: &Row) -> anyhow::Result<Forgotten> {
        let mut delete = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key(&seen.cluster_id)))
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        let mut condition = Vec::new();
        for (number, attribute) in SEEN.into_iter().enumerate() {
            delete = delete.expression_attribute_names(format!("#{number}"), attribute);
            condition.push(match seen.item.get(attribute) {
                Some(value) => {
                    delete =
                        delete.expression_attribute_values(format!(":{number}"), value.clone());
                    format!("#{number} = :{number}")
                }
                None => format!("attribute_not_exists(#{number})"),
            });
        }
        let deleted = delete.condition_expression(condition.join(" AND ")).send();
        match deleted.await {
            Ok(_) => Ok(Forgotten::Ended),
            Err(error) => match error.as_service_error() {
                Some(aws_sdk_dynamodb::operation::delete_item::DeleteItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(match &failed.item {
                        Some(item) if !item.is_empty() => Forgotten::Changed,
                        _ => Forgotten::Ended,
                    })
                }
                _ => Err(self.explain("cannot forget a cluster of", &error).into()),
            },
        }
    }

    /// Claim items as rows, with the members of those that are ready.
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
        let ready = rows.iter().filter_map(|(id, claim, _)| {
            claim.as_ref().is_ok_and(is_ready).then(|| members_key(id))
        });
        let mut members = self.batch(ready.collect()).await?;
        let with_members = |(cluster_id, claim, item): (String, Result<ClaimItem, _>, Item)| {
            let record = claim.and_then(|claim| {
                let members = members.remove(&members_key(&cluster_id));
                let members = members.map(MembersItem::read).transpose()?;
                Ok(Items::of(claim, members).record())
            });
            Row {
                cluster_id,
                record,
                item,
            }
        };
        Ok(rows.into_iter().map(with_members).collect())
    }

    /// The items of these keys, as far as they are there.
    async fn batch(&self, keys: Vec<String>) -> anyhow::Result<HashMap<String, Item>> {
        let mut found = HashMap::new();
        for keys in keys.chunks(BATCH) {
            let keys = keys.iter().map(|text| key(text)).collect();
            let request = KeysAndAttributes::builder()
                .set_keys(Some(keys))
                .consistent_read(true)
                .build()?;
            let mut requests = Some(HashMap::from([(self.table.clone(), request)]));
            // An answer ends at 16 MB, and says what is left.
            while let Some(left) = requests.filter(|left| !left.is_empty()) {
                let output = self
                    .client
                    .batch_get_item()
                    .set_request_items(Some(left))
                    .send()
                    .await
                    .map_err(|error| self.explain("cannot read", &error))?;
                let items = output.responses.unwrap_or_default().into_values().flatten();
                found.extend(items.filter_map(|item| {
                    let key = item.get(CLUSTER_ID)?.as_s().ok()?.clone();
                    Some((key, item))
                }));
                requests = output.unprocessed_keys;
            }
        }
        Ok(found)
    }

    fn explain<E>(&self, what: &str, error: &SdkError<E>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let Self { table, place, .. } = self;
        match error.code() {
            Some("ResourceNotFoundException") => {
                Failure::new(format!("there is no table `{table}` in {place}"))
                    .hint("`cbbootstrap deploy` makes it; `--table-name` names another")
            }
            // Usually the table has another key.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cbbootstrap_protocol::{
        names::{ClusterId, Node},
        rules::{Claim, Claimed, Ready},
    };

    use super::*;
    use crate::{
        aws::{
            dynamodb::{self, Place},
            local_dynamodb,
        },
        local::Database,
    };

    const TABLE: &str = "cb-bootstrap";

    /// A table in an embedded database, with these items.
    async fn table(items: &[Item]) -> (Clusters, Client, Database, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path()).await.unwrap();
        let client = local_dynamodb(database.endpoint_url());
        dynamodb::ensure(&client, TABLE, None, &BTreeMap::new(), Place::ThisMachine)
            .await
            .unwrap();
        for item in items {
            put(&client, item).await;
        }
        let clusters = Clusters::new(client.clone(), TABLE, "here");
        (clusters, client, database, dir)
    }

    async fn put(client: &Client, item: &Item) {
        let put = client.put_item().table_name(TABLE);
        put.set_item(Some(item.clone())).send().await.unwrap();
    }

    fn text(text: &str) -> AttributeValue {
        AttributeValue::S(text.to_owned())
    }

    fn number(number: i64) -> AttributeValue {
        AttributeValue::N(number.to_string())
    }

    /// An item as the original service wrote it.
    fn original(id: &str) -> Item {
        let mut item = key(id);
        item.insert(INITIAL_NODE.to_owned(), text("a"));
        item
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn claim(node: &str) -> Claim {
        Claim {
            cluster_id: ClusterId::new("c").unwrap(),
            node: Node::new(node).unwrap(),
            node_uuid: None,
            lease: None,
            secret: None,
            now: at(0),
        }
    }

    fn ready(node: &str) -> Ready {
        Ready {
            cluster_id: ClusterId::new("c").unwrap(),
            node: Node::new(node).unwrap(),
            node_uuid: None,
            generation: None,
            cluster_uuid: None,
            authority: None,
            attestation: None,
            secret: None,
            now: at(1),
        }
    }

    #[tokio::test]
    async fn pages_end_where_the_table_ends() {
        let items: Vec<_> = (0..5)
            .map(|number| original(&format!("c{number}")))
            .collect();
        let (clusters, _, database, _dir) = table(&items).await;
        let ids = |page: &Page| -> Vec<String> {
            let ids = page.rows.iter().map(|row| row.cluster_id.clone());
            ids.collect()
        };
        let all = clusters.page(None, None).await.unwrap();
        assert_eq!((all.rows.len(), &all.next), (5, &None));
        for limit in 1..=6 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = clusters.page(Some(limit), after.as_deref()).await.unwrap();
                assert!(
                    !page.rows.is_empty() && page.rows.len() <= limit,
                    "{page:?}"
                );
                seen.extend(ids(&page));
                after = page.next;
                if after.is_none() {
                    break;
                }
                assert_eq!(after.as_ref(), seen.last());
            }
            assert_eq!(seen, ids(&all), "{limit}");
        }
        for limit in [None, Some(usize::MAX)] {
            let page = clusters.page(limit, Some("c4")).await.unwrap();
            assert!(page.rows.is_empty() && page.next.is_none());
        }
        database.shutdown().await;
    }

    #[tokio::test]
    async fn a_record_is_shown_with_its_members_and_forgotten_if_it_is_the_one_seen() {
        let (clusters, client, database, _dir) = table(&[]).await;
        let store = Store::new(client, TABLE);
        store.claim(&claim("a")).await.unwrap();
        let claimed = clusters.find("c").await.unwrap().unwrap();
        store.ready(&ready("a")).await.unwrap();
        store.ready(&ready("b")).await.unwrap();
        let seen = clusters.find("c").await.unwrap().unwrap();
        let record = seen.record.clone().unwrap();
        assert_eq!(record.members.keys().collect::<Vec<_>>(), ["a", "b"]);
        let page = clusters.page(None, None).await.unwrap();
        assert_eq!(
            page.rows.len(),
            1,
            "the members item is not a row: {page:?}"
        );
        assert_eq!(page.rows[0].record.as_ref().unwrap(), &record);

        let forget = async |row: &Row| clusters.forget(row, at(2)).await.unwrap();
        assert_eq!(forget(&claimed).await, Forgotten::Changed);
        store.ready(&ready("c")).await.unwrap();
        assert_eq!(forget(&seen).await, Forgotten::Changed);
        let seen = clusters.find("c").await.unwrap().unwrap();
        assert_eq!(forget(&seen).await, Forgotten::Ended);
        assert_eq!(forget(&seen).await, Forgotten::Ended, "after a lost answer");
        let tombstone = clusters.find("c").await.unwrap().unwrap().record.unwrap();
        assert!(tombstone.is_forgotten && tombstone.members.is_empty());
        let (outcome, record) = store.claim(&claim("d")).await.unwrap();
        assert_eq!((outcome, record.generation), (Claimed::First, 2));
        assert_eq!(forget(&seen).await, Forgotten::Changed);
        database.shutdown().await;
    }

    #[tokio::test]
    async fn an_unreadable_item_is_deleted_if_it_is_the_one_seen() {
        let unreadable = Item::from([
            (CLUSTER_ID.to_owned(), text("c")),
            (INITIAL_NODE.to_owned(), number(1)),
        ]);
        let (clusters, client, database, _dir) = table(&[]).await;
        for item in [unreadable, key("c")] {
            put(&client, &item).await;
            let seen = clusters.find("c").await.unwrap().unwrap();
            assert!(seen.record.is_err());
            for (attribute, other) in [
                (INITIAL_NODE, text("b")),
                (STATE, text("claimed")),
                (GENERATION, number(3)),
                (VERSION, number(3)),
            ] {
                let mut changed = item.clone();
                changed.insert(attribute.to_owned(), other);
                put(&client, &changed).await;
                let forgotten = clusters.forget(&seen, at(0)).await.unwrap();
                assert_eq!(forgotten, Forgotten::Changed, "{attribute}");
            }
            put(&client, &item).await;
            for _ in ["once", "after a lost answer"] {
                let forgotten = clusters.forget(&seen, at(0)).await.unwrap();
                assert_eq!(forgotten, Forgotten::Ended);
                assert!(clusters.find("c").await.unwrap().is_none());
            }
        }
        database.shutdown().await;
    }

    #[tokio::test]
    async fn a_missing_table_is_named() {
        let (_, client, database, _dir) = table(&[]).await;
        let missing = Clusters::new(client, "other", "here");
        let error = missing.page(None, None).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no table `other` in here");
        let error = missing.find("c").await.unwrap_err();
        assert_eq!(error.to_string(), "there is no table `other` in here");
        database.shutdown().await;
    }
}
