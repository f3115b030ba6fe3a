//! The clusters' records in the table, one by one: what an operator sees of them, and deletes.
//!
//! The function's own way to them is its store, which changes them by the rules. This one only looks, and forgets.

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure as OnFailure},
};
use cbbootstrap_function::{
    item::{self, Item, Unreadable},
    protocol::Record,
    table::{
        CLAIMED_AT, CLUSTER_ID, CLUSTER_UUID, GENERATION, INITIAL_NODE, LEASE_EXPIRES_AT, NODES,
        SECRET_HASH, STATE,
    },
};

use super::explain;
use crate::failure::Failure;

/// What a record that is to be forgotten must still have as it was seen, or still not have: all that says whose it is, and
/// how far it has come. `expires_at` says neither.
const SEEN: [&str; 8] = [
    INITIAL_NODE,
    STATE,
    GENERATION,
    CLAIMED_AT,
    LEASE_EXPIRES_AT,
    NODES,
    CLUSTER_UUID,
    SECRET_HASH,
];

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

/// An item of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its key.
    pub cluster_id: String,
    /// What it says, if it is a record.
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

/// What became of a record that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone. Somebody else may have been quicker.
    Gone,
    /// It is another now, and stands.
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
                rows.push(self.row(item)?);
            }
            start = scanned.last_evaluated_key.filter(|key| !key.is_empty());
            let is_full = limit.is_some_and(|limit| rows.len() > limit);
            if is_full || start.is_none() {
                break;
            }
        }
        let more = limit.filter(|limit| rows.len() > *limit);
        rows.truncate(limit.unwrap_or(usize::MAX));
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
            .map_err(|error| self.explain("cannot look into", &error))?;
        got.item.map(|item| self.row(item)).transpose()
    }

    /// Deletes a record, if it is still what it was when it was seen. It may be asked for again after a lost answer.
    pub async fn delete(&self, seen: &Row) -> anyhow::Result<Deleted> {
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
            Ok(_) => Ok(Deleted::Gone),
            Err(error) => match error.as_service_error() {
                Some(aws_sdk_dynamodb::operation::delete_item::DeleteItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(match &failed.item {
                        Some(item) if !item.is_empty() => Deleted::Changed,
                        _ => Deleted::Gone,
                    })
                }
                _ => Err(self.explain("cannot forget a cluster of", &error).into()),
            },
        }
    }

    fn row(&self, item: Item) -> anyhow::Result<Row> {
        let Some(AttributeValue::S(cluster_id)) = item.get(CLUSTER_ID) else {
            let message = format!("table `{}` has an item without a cluster's id", self.table);
            return Err(Failure::new(message).hint(OTHER_TABLE).into());
        };
        Ok(Row {
            cluster_id: cluster_id.clone(),
            record: item::read(item.clone()),
            item,
        })
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
            // Its key is another, mostly.
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

    fn nodes(nodes: &[&str]) -> AttributeValue {
        AttributeValue::Ss(nodes.iter().map(|&node| node.to_owned()).collect())
    }

    fn hash(byte: u8) -> AttributeValue {
        AttributeValue::B(vec![byte; 32].into())
    }

    /// An item as the original service wrote it.
    fn original(id: &str) -> Item {
        let mut item = key(id);
        item.insert(INITIAL_NODE.to_owned(), text("a"));
        item
    }

    /// One with everything.
    fn full(id: &str) -> Item {
        let mut item = original(id);
        for (name, value) in [
            (STATE, text("ready")),
            (GENERATION, number(2)),
            (CLAIMED_AT, number(1_700_000_000)),
            (LEASE_EXPIRES_AT, number(1_700_000_060)),
            (NODES, nodes(&["a", "b"])),
            (CLUSTER_UUID, text("u")),
            (SECRET_HASH, hash(7)),
        ] {
            item.insert(name.to_owned(), value);
        }
        item
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
    async fn only_what_was_seen_is_deleted() {
        let unreadable = Item::from([
            (CLUSTER_ID.to_owned(), text("c")),
            (INITIAL_NODE.to_owned(), number(1)),
        ]);
        let (clusters, client, database, _dir) = table(&[]).await;
        for item in [original("c"), full("c"), unreadable, key("c")] {
            put(&client, &item).await;
            let seen = clusters.find("c").await.unwrap().unwrap();
            for (attribute, other) in [
                (INITIAL_NODE, text("b")),
                (STATE, text("claimed")),
                (GENERATION, number(3)),
                (CLAIMED_AT, number(1_700_000_001)),
                (LEASE_EXPIRES_AT, number(1_700_000_061)),
                (NODES, nodes(&["a", "b", "c"])),
                (CLUSTER_UUID, text("v")),
                (SECRET_HASH, hash(8)),
            ] {
                let mut changed = item.clone();
                changed.insert(attribute.to_owned(), other);
                put(&client, &changed).await;
                let deleted = clusters.delete(&seen).await.unwrap();
                assert_eq!(deleted, Deleted::Changed, "{attribute}");
                let mut changed = item.clone();
                if changed.remove(attribute).is_some() {
                    put(&client, &changed).await;
                    let deleted = clusters.delete(&seen).await.unwrap();
                    assert_eq!(deleted, Deleted::Changed, "without {attribute}");
                }
            }
            let mut same = item.clone();
            same.insert("expires_at".to_owned(), number(1));
            same.insert("of others".to_owned(), text("x"));
            put(&client, &same).await;
            assert_eq!(clusters.delete(&seen).await.unwrap(), Deleted::Gone);
            assert!(clusters.find("c").await.unwrap().is_none());
            let again = clusters.delete(&seen).await.unwrap();
            assert_eq!(again, Deleted::Gone, "after a lost answer");
        }
        database.shutdown().await;
    }

    #[tokio::test]
    async fn what_is_no_table_of_records_is_said_so() {
        let (_, client, database, _dir) = table(&[]).await;
        let missing = Clusters::new(client, "other", "here");
        let error = missing.page(None, None).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no table `other` in here");
        let error = missing.find("c").await.unwrap_err();
        assert_eq!(error.to_string(), "there is no table `other` in here");
        database.shutdown().await;
    }
}
