//! The table: made once, with what makes it safe to keep, and then left alone.
//!
//! It is not part of the stack, so that no update and no deletion of the stack can lose the clusters' records.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        describe_continuous_backups::DescribeContinuousBackupsError,
        describe_time_to_live::DescribeTimeToLiveError,
    },
    types::{
        AttributeDefinition, BillingMode, ContinuousBackupsStatus, KeySchemaElement, KeyType,
        PointInTimeRecoverySpecification, PointInTimeRecoveryStatus, ScalarAttributeType,
        TableDescription, TableStatus, Tag, TimeToLiveSpecification, TimeToLiveStatus,
    },
};
use cbbootstrap_function::table::{CLUSTER_ID, EXPIRES_AT};
use serde::Serialize;

use super::{OURS, explain, is_transient};
use crate::failure::{Exit, Failure};

/// Between two looks at a table that is being made; it takes AWS some ten seconds.
const POLL: Duration = Duration::from_millis(500);

/// How long a table may take to be made or deleted.
const PATIENCE: Duration = Duration::from_mins(5);

/// A table that can be used, or will be soon.
#[derive(Debug)]
pub struct Table {
    description: TableDescription,
    /// Whether this program made it, and therefore completes its settings.
    ours: bool,
    /// Whether abandoned claims expire; none where that may not be seen.
    expiry: Option<bool>,
    /// Whether it can be restored to any point in time; none where that may not be seen.
    recovery: Option<bool>,
}

/// What `status` shows of a table.
#[derive(Debug, Serialize)]
pub struct Glance {
    /// As `DynamoDB` names it, in lower case.
    pub status: String,
    /// Items; `DynamoDB` counts them every six hours.
    pub items: i64,
    /// Bytes; counted with the items.
    pub size: i64,
    /// Whether it refuses to be deleted.
    pub deletion_protection: bool,
    /// Whether it can be restored to any point in time; none where that may not be seen.
    #[serde(rename = "point_in_time_recovery")]
    pub recovery: Option<bool>,
}

impl Table {
    /// The table, seen to be one that the function can work with; `None` if there is none.
    ///
    /// All that can be asked at once is, before it is known whether there is a table.
    pub async fn find(client: &Client, name: &str) -> anyhow::Result<Option<Self>> {
        let recovery = async { recovery(client, name).await.ok() };
        let (description, expiry, recovery) =
            tokio::join!(describe(client, name), expiry(client, name), recovery);
        let Some(description) = description? else {
            return Ok(None);
        };
        check_key(name, &description)?;
        Ok(Some(Self {
            ours: is_ours(client, &description).await?,
            description,
            expiry: expiry.ok(),
            recovery,
        }))
    }

    /// Its state in short.
    pub fn glance(&self) -> Glance {
        let status = self.description.table_status.as_ref().map_or("unknown", TableStatus::as_str);
        Glance {
            status: status.to_lowercase(),
            items: self.description.item_count.unwrap_or_default(),
            size: self.description.table_size_bytes.unwrap_or_default(),
            deletion_protection: self.description.deletion_protection_enabled.unwrap_or_default(),
            recovery: self.recovery,
        }
    }

    /// Whether [`ensure`] would leave it as it is.
    pub fn is_complete(&self) -> bool {
        is_active(&self.description)
            && (!self.ours || (self.expiry, self.recovery) == (Some(true), Some(true)))
    }
}

fn is_active(table: &TableDescription) -> bool {
    // A table in `Updating` serves requests, too.
    matches!(table.table_status, Some(TableStatus::Active | TableStatus::Updating))
}

/// The table; `None` if there is none.
async fn describe(client: &Client, name: &str) -> anyhow::Result<Option<TableDescription>> {
    match client.describe_table().table_name(name).send().await {
        Ok(output) => Ok(Some(
            output
                .table
                .unwrap_or_else(|| TableDescription::builder().build()),
        )),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(aws_sdk_dynamodb::operation::describe_table::DescribeTableError::is_resource_not_found_exception) =>
        {
            Ok(None)
        }
        Err(error) => Err(explain(format!("cannot look at table `{name}`"), &error).into()),
    }
}

/// Sees to it that the table is there and has its settings; says whether it had to be made. `found` is what
/// [`Table::find`] saw before.
///
/// A table that somebody else made is used as it is. One of ours that was left half-made is completed.
pub async fn ensure(
    client: &Client,
    name: &str,
    found: Option<Table>,
    tags: &BTreeMap<String, String>,
) -> anyhow::Result<bool> {
    if found.as_ref().is_some_and(Table::is_complete) {
        return Ok(false);
    }
    let description = match &found {
        Some(table) => &table.description,
        None => &create(client, name, tags).await?,
    };
    if !is_active(description) {
        wait_until_active(client, name).await?;
    }
    if found.as_ref().is_none_or(|table| table.ours) {
        let (expiry, backups) =
            tokio::join!(enable_expiry(client, name), enable_backups(client, name));
        expiry.and(backups)?;
    }
    Ok(found.is_none())
}

async fn create(
    client: &Client,
    name: &str,
    tags: &BTreeMap<String, String>,
) -> anyhow::Result<TableDescription> {
    let what = format!("cannot create table `{name}`");
    let tags = tags
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .chain([OURS])
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect::<Result<_, _>>()?;
    let key =
        KeySchemaElement::builder().attribute_name(CLUSTER_ID).key_type(KeyType::Hash).build()?;
    let attribute = AttributeDefinition::builder()
        .attribute_name(CLUSTER_ID)
        .attribute_type(ScalarAttributeType::S)
        .build()?;
    let created = client
        .create_table()
        .table_name(name)
        .attribute_definitions(attribute)
        .key_schema(key)
        .billing_mode(BillingMode::PayPerRequest)
        .deletion_protection_enabled(true)
        .set_tags(Some(tags))
        .send()
        .await;
    match created {
        Ok(output) => Ok(output
            .table_description
            .unwrap_or_else(|| TableDescription::builder().build())),
        // Somebody else was quicker, or an answer was lost and the SDK asked again.
        Err(error)
            if error
                .as_service_error()
                .is_some_and(aws_sdk_dynamodb::operation::create_table::CreateTableError::is_resource_in_use_exception) =>
        {
            describe(client, name)
                .await?
                .ok_or_else(|| explain(what, &error).into())
        }
        Err(error) => Err(explain(what, &error).into()),
    }
}

/// The table's key must be the function's.
fn check_key(name: &str, table: &TableDescription) -> Result<(), Failure> {
    let is_string = |attribute: &str| {
        let mut attributes = table.attribute_definitions().iter();
        attributes
            .any(|a| a.attribute_name == attribute && a.attribute_type == ScalarAttributeType::S)
    };
    let keys: Vec<_> =
        table.key_schema().iter().map(|key| (key.attribute_name.as_str(), &key.key_type)).collect();
    if keys == [(CLUSTER_ID, &KeyType::Hash)] && is_string(CLUSTER_ID) {
        return Ok(());
    }
    let has = keys
        .iter()
        .map(|(attribute, kind)| format!("`{attribute}` ({kind})"))
        .collect::<Vec<_>>()
        .join(", ");
    Err(Failure::new(format!(
        "table `{name}` has the key {has}, and the service needs `{CLUSTER_ID}` (HASH, a string)"
    ))
    .hint("choose another table with `--table-name`"))
}

async fn wait_until_active(client: &Client, name: &str) -> anyhow::Result<()> {
    let wait = async {
        loop {
            match describe(client, name).await? {
                Some(table) if is_active(&table) => return Ok(()),
                Some(table) if table.table_status == Some(TableStatus::Deleting) => {
                    return Err(Failure::new(format!("table `{name}` is being deleted"))
                        .hint("wait until it is gone, then deploy again")
                        .into());
                }
                // Just created, it may not be seen everywhere at once.
                _ => tokio::time::sleep(POLL).await,
            }
        }
    };
    within_patience(wait, format!("table `{name}` is not active")).await
}

async fn within_patience(
    work: impl Future<Output = anyhow::Result<()>>,
    what: String,
) -> anyhow::Result<()> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        let message = format!("{what} after {} s", PATIENCE.as_secs());
        Err(Failure::new(message).hint("run the same command again to go on waiting").into())
    })
}

/// The table of this name, which must be one that this program made; `None` if there is none.
pub async fn find_ours(client: &Client, name: &str) -> anyhow::Result<Option<Table>> {
    let Some(table) = Table::find(client, name).await? else {
        return Ok(None);
    };
    if table.ours {
        return Ok(Some(table));
    }
    Err(
        Failure::new(format!("table `{name}` was not made by cbbootstrap"))
            .hint(format!(
                "leave `--delete-table` out, and delete it with `aws dynamodb delete-table --table-name {name}`"
            ))
            .into(),
    )
}

/// Whether this program made the table, and therefore completes its settings. Who may not read its tags has brought one.
async fn is_ours(client: &Client, table: &TableDescription) -> anyhow::Result<bool> {
    let arn = table.table_arn.clone().unwrap_or_default();
    let tags = client.list_tags_of_resource().resource_arn(&arn).send().await;
    match tags {
        // A table has 50 tags at most, and the first answer holds them all.
        Ok(tags) => {
            Ok(tags.tags().iter().any(|tag| (tag.key.as_str(), tag.value.as_str()) == OURS))
        }
        Err(error) if error.code() == Some("AccessDeniedException") => Ok(false),
        Err(error) => Err(explain(format!("cannot read the tags of `{arn}`"), &error).into()),
    }
}

/// Whether abandoned claims expire.
async fn expiry(client: &Client, name: &str) -> Result<bool, SdkError<DescribeTimeToLiveError>> {
    let now = client.describe_time_to_live().table_name(name).send().await?;
    let status = now.time_to_live_description.and_then(|ttl| ttl.time_to_live_status);
    Ok(matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)))
}

async fn enable_expiry(client: &Client, name: &str) -> anyhow::Result<()> {
    let what = || format!("cannot let abandoned claims in table `{name}` expire");
    let now = expiry(client, name).await;
    if now.map_err(|error| explain(what(), &error))? {
        return Ok(());
    }
    let specification =
        TimeToLiveSpecification::builder().enabled(true).attribute_name(EXPIRES_AT).build()?;
    let enabled = client
        .update_time_to_live()
        .table_name(name)
        .time_to_live_specification(specification)
        .send()
        .await;
    match enabled {
        Ok(_) => Ok(()),
        // An answer was lost and the SDK asked again, or somebody else was quicker: DynamoDB refuses to do it twice.
        Err(_) if expiry(client, name).await.is_ok_and(|enabled| enabled) => Ok(()),
        Err(error) => Err(explain(what(), &error).into()),
    }
}

async fn enable_backups(client: &Client, name: &str) -> anyhow::Result<()> {
    let what = format!("cannot turn on point-in-time recovery for table `{name}`");
    let enable = async {
        loop {
            // Until shortly after its creation a table's backups are neither described nor changed.
            match try_enable_backups(client, name).await {
                Err(Refused::NotYet) => tokio::time::sleep(POLL).await,
                Err(Refused::For(failure)) => return Err(failure.about(&what).into()),
                Ok(()) => return Ok(()),
            }
        }
    };
    within_patience(enable, what.clone()).await
}

enum Refused {
    NotYet,
    For(Failure),
}

impl<E> From<SdkError<E>> for Refused
where
    E: aws_sdk_dynamodb::error::ProvideErrorMetadata + std::error::Error + 'static,
{
    fn from(error: SdkError<E>) -> Self {
        let code = error.as_service_error().and_then(|e| e.code()).unwrap_or_default();
        if matches!(code, "ContinuousBackupsUnavailableException" | "TableNotFoundException")
            || is_transient(&error)
        {
            Self::NotYet
        } else {
            Self::For(explain("AWS refuses", &error))
        }
    }
}

/// Whether the table can be restored to any point in time.
async fn recovery(
    client: &Client,
    name: &str,
) -> Result<bool, SdkError<DescribeContinuousBackupsError>> {
    let now = client.describe_continuous_backups().table_name(name).send().await?;
    let recovery = now.continuous_backups_description.and_then(|backups| {
        (backups.continuous_backups_status == ContinuousBackupsStatus::Enabled)
            .then_some(backups.point_in_time_recovery_description)?
    });
    Ok(recovery.is_some_and(|recovery| {
        recovery.point_in_time_recovery_status == Some(PointInTimeRecoveryStatus::Enabled)
    }))
}

async fn try_enable_backups(client: &Client, name: &str) -> Result<(), Refused> {
    if recovery(client, name).await? {
        return Ok(());
    }
    let specification =
        PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
    let specification =
        specification.map_err(|error| Refused::For(Failure::new(error.to_string())))?;
    client
        .update_continuous_backups()
        .table_name(name)
        .point_in_time_recovery_specification(specification)
        .send()
        .await?;
    Ok(())
}

/// Deletes the table and every record in it; `false` if there is none.
pub async fn delete(client: &Client, name: &str) -> anyhow::Result<bool> {
    let what = || format!("cannot delete table `{name}`");
    let Some(table) = describe(client, name).await? else {
        return Ok(false);
    };
    if table.table_status != Some(TableStatus::Deleting) {
        if table.deletion_protection_enabled == Some(true) {
            let unprotected = client
                .update_table()
                .table_name(name)
                .deletion_protection_enabled(false)
                .send()
                .await;
            unprotected.map_err(|error| explain(what(), &error))?;
            // That takes a moment, in which the table cannot be deleted.
            let active = async {
                while describe(client, name)
                    .await?
                    .is_some_and(|table| table.table_status == Some(TableStatus::Updating))
                {
                    tokio::time::sleep(POLL).await;
                }
                Ok(())
            };
            within_patience(active, format!("table `{name}` is still being updated")).await?;
        }
        let deleted = client.delete_table().table_name(name).send().await;
        match deleted {
            Ok(_) => (),
            // An answer was lost, and the SDK asked again.
            Err(error) if is_being_deleted(client, name).await => drop(error),
            Err(error) => {
                let busy = error
                    .as_service_error()
                    .is_some_and(aws_sdk_dynamodb::operation::delete_table::DeleteTableError::is_resource_in_use_exception);
                let failure = explain(what(), &error);
                return Err(if busy { failure.exit(Exit::Busy) } else { failure }.into());
            }
        }
    }
    let gone = async {
        while describe(client, name).await?.is_some() {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    };
    within_patience(gone, format!("table `{name}` is still being deleted")).await?;
    Ok(true)
}

async fn is_being_deleted(client: &Client, name: &str) -> bool {
    match describe(client, name).await {
        Ok(table) => table.is_none_or(|table| table.table_status == Some(TableStatus::Deleting)),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(keys: &[(&str, KeyType)], attribute_type: &ScalarAttributeType) -> TableDescription {
        keys.iter()
            .fold(TableDescription::builder(), |table, (name, kind)| {
                let key = KeySchemaElement::builder()
                    .attribute_name(*name)
                    .key_type(kind.clone())
                    .build()
                    .unwrap();
                let attribute = AttributeDefinition::builder()
                    .attribute_name(*name)
                    .attribute_type(attribute_type.clone())
                    .build()
                    .unwrap();
                table.key_schema(key).attribute_definitions(attribute)
            })
            .build()
    }

    #[test]
    fn only_the_functions_key_will_do() {
        use {
            KeyType::{Hash, Range},
            ScalarAttributeType::{N, S},
        };
        for (keys, attribute_type, good) in [
            (&[(CLUSTER_ID, Hash)][..], S, true),
            (&[(CLUSTER_ID, Hash)], N, false),
            (&[("id", Hash)], S, false),
            (&[(CLUSTER_ID, Hash), ("node", Range)], S, false),
            (&[], S, false),
        ] {
            let checked = check_key("t", &table(keys, &attribute_type));
            assert_eq!(checked.is_ok(), good, "{keys:?} {attribute_type:?}");
        }
    }
}
