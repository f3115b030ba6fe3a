//! The clusters' table: created once with the settings that keep it safe. Afterwards, only options change it.
//!
//! It is not part of the stack, so that updating or deleting the stack cannot lose the clusters' records.

mod removal;
mod requirements;
mod settings;

use std::{
    collections::BTreeMap,
    fmt::{Display, Formatter},
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        describe_continuous_backups::DescribeContinuousBackupsError,
        describe_time_to_live::DescribeTimeToLiveError,
        update_table::builders::UpdateTableFluentBuilder,
    },
    types::{
        AttributeDefinition, BillingMode, ContinuousBackupsStatus, KeySchemaElement, KeyType,
        PointInTimeRecoverySpecification, PointInTimeRecoveryStatus, ScalarAttributeType,
        TableDescription, TableStatus, Tag, TimeToLiveSpecification, TimeToLiveStatus,
    },
};
use cbbootstrap_function::table::{CLUSTER_ID, EXPIRES_AT};
use serde::Serialize;

pub use removal::{back_up, delete};
use requirements::{check_key, has_weak_replicas};
pub use settings::TableSettings;

use super::{error::Answer, poll::Poll};
use crate::{
    exit::Exit,
    failure::Failure,
    stack::{OWNER_TAG, STACK_TAG, region_in},
};

/// Creating a table takes about ten seconds.
const CHANGE: Poll = Poll {
    patience: Duration::from_mins(5),
    hint: "run the same command again to continue waiting",
};

/// A table with the function's key.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub name: String,
    #[serde(skip)]
    pub arn: String,
    /// DynamoDB's name in lower case.
    pub status: String,
    /// DynamoDB counts items and bytes every six hours.
    pub items: i64,
    /// In bytes.
    pub size: i64,
    pub deletion_protection: bool,
    /// `None` without the permission to read that.
    pub point_in_time_recovery: Option<bool>,
    #[serde(flatten)]
    pub settings: TableSettings,
    /// Whether expired records are deleted; `None` without the permission to read that.
    #[serde(skip)]
    pub expiry: Option<bool>,
    /// Whether it serves requests.
    #[serde(skip)]
    pub is_active: bool,
    /// Whether it has copies in other regions that may lag behind.
    #[serde(skip)]
    pub has_weak_replicas: bool,
    /// Whether this program created it, and therefore completes its settings.
    #[serde(skip)]
    pub ours: bool,
    /// The stack for which it was created.
    #[serde(skip)]
    pub stack: Option<String>,
}

impl Table {
    /// The table, which must have the function's key; `None` if it does not exist. Independent calls run in parallel.
    pub async fn find(client: &Client, name: &str) -> anyhow::Result<Option<Self>> {
        let (table, expiry, recovery) =
            tokio::join!(describe(client, name), expiry(client, name), recovery(client, name));
        let Some(table) = table? else {
            return Ok(None);
        };
        check_key(name, &table)?;
        let status = table.table_status.as_ref();
        let tags = tags(client, &table).await?;
        let tag = |key| tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.clone());
        Ok(Some(Self {
            name: name.to_owned(),
            arn: table.table_arn.clone().unwrap_or_default(),
            ours: tag(OWNER_TAG.0).is_some_and(|value| value == OWNER_TAG.1),
            stack: tag(STACK_TAG),
            is_active: status.is_some_and(is_active),
            has_weak_replicas: has_weak_replicas(&table),
            status: status.map_or("unknown", TableStatus::as_str).to_lowercase(),
            settings: TableSettings::from_description(&table),
            items: table.item_count.unwrap_or_default(),
            size: table.table_size_bytes.unwrap_or_default(),
            deletion_protection: table.deletion_protection_enabled.unwrap_or_default(),
            point_in_time_recovery: recovery.ok(),
            expiry: expiry.ok(),
        }))
    }

    /// The settings that protect the records, and whether they are on.
    fn protections(&self) -> [(&'static str, Option<bool>); 3] {
        [
            ("expiry of records", self.expiry),
            ("point-in-time recovery", self.point_in_time_recovery),
            ("deletion protection", Some(self.deletion_protection)),
        ]
    }

    /// The settings that [`ensure`] turns on, as far as these credentials may read them.
    pub fn missing_protections(&self) -> impl Iterator<Item = &'static str> {
        let missing = self.protections().into_iter().filter(|(_, on)| *on == Some(false));
        missing.filter(|_| self.ours).map(|(name, _)| name)
    }

    /// The settings that a deployment with these options gives it; `None` if they stay.
    pub fn new_settings(&self, options: &TableSettings) -> Option<TableSettings> {
        let settings = self.settings.with(options);
        (self.ours && settings != self.settings).then_some(settings)
    }

    /// Whether [`ensure`] with these options changes it.
    pub fn is_changed_by(&self, options: &TableSettings) -> bool {
        self.new_settings(options).is_some() || self.missing_protections().next().is_some()
    }
}

fn is_active(status: &TableStatus) -> bool {
    // A table in `Updating` serves requests.
    matches!(status, TableStatus::Active | TableStatus::Updating)
}

async fn describe(client: &Client, name: &str) -> anyhow::Result<Option<TableDescription>> {
    let table = client.describe_table().table_name(name).send().await;
    let table = table
        .absent_on("ResourceNotFoundException")
        .explain(format!("cannot read table `{name}`"))?;
    Ok(table.map(|table| table.table.unwrap_or_else(|| TableDescription::builder().build())))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableChange {
    Unchanged,
    Created,
    SettingsChanged,
}

impl Display for TableChange {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unchanged => "exists",
            Self::Created => "created",
            Self::SettingsChanged => "settings changed",
        })
    }
}

/// Makes sure that the table exists and has its settings and those of the options. `found` is the result of [`Table::find`].
///
/// A table that this program did not create is used unchanged. An incomplete one of ours is completed.
pub async fn ensure(
    client: &Client,
    name: &str,
    found: Option<Table>,
    options: &TableSettings,
    tags: BTreeMap<String, String>,
) -> anyhow::Result<TableChange> {
    let Some(table) = found else {
        create(client, name, &TableSettings::default().with(options), tags).await?;
        wait_until_active(client, name).await?;
        enable_protections(client, name).await?;
        return Ok(TableChange::Created);
    };
    if !table.is_active {
        wait_until_active(client, name).await?;
    }
    if table.ours && table.protections().iter().any(|(_, on)| *on != Some(true)) {
        enable_protections(client, name).await?;
        if !table.deletion_protection {
            let what = format!("cannot protect table `{name}` against deletion");
            protect(client, name, true, &what).await?;
        }
    }
    if let Some(settings) = table.new_settings(options) {
        settings.apply(client, name, &table.settings).await?;
    }
    let is_changed = table.is_changed_by(options);
    Ok(if is_changed { TableChange::SettingsChanged } else { TableChange::Unchanged })
}

/// Turns on what cannot be requested together with the table.
async fn enable_protections(client: &Client, name: &str) -> anyhow::Result<()> {
    let (expiry, backups) = tokio::join!(enable_expiry(client, name), enable_backups(client, name));
    expiry.and(backups)
}

async fn create(
    client: &Client,
    name: &str,
    settings: &TableSettings,
    tags: BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let tags = tags
        .into_iter()
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
        .set_on_demand_throughput(settings.throughput())
        .set_sse_specification(settings.encryption())
        .set_tags(Some(tags))
        .send()
        .await;
    // Someone else may have been faster, or the SDK repeated a request whose answer was lost.
    created.absent_on("ResourceInUseException").explain(format!("cannot create table `{name}`"))?;
    Ok(())
}

async fn wait_until_active(client: &Client, name: &str) -> anyhow::Result<()> {
    CHANGE
        .until(&format!("table `{name}` is not active"), async || {
            let table = describe(client, name).await?;
            let status = table.and_then(|table| table.table_status);
            Ok(is_ready(name, status.as_ref())?.then_some(()))
        })
        .await
}

/// Whether a table in this status serves requests; an error if it never will without help.
fn is_ready(name: &str, status: Option<&TableStatus>) -> Result<bool, Failure> {
    match status {
        Some(status) if is_active(status) => Ok(true),
        Some(TableStatus::Deleting) => {
            Err(Failure::new(format!("table `{name}` is being deleted"))
                .hint("wait until it is gone, then deploy again"))
        }
        Some(TableStatus::InaccessibleEncryptionCredentials) => {
            Err(Failure::new(format!("DynamoDB cannot use the KMS key of table `{name}`"))
                .hint("enable the key or cancel its deletion, then deploy again")
                .exit(Exit::NeedsDecision))
        }
        Some(TableStatus::Archiving | TableStatus::Archived) => {
            let message = format!(
                "DynamoDB has archived table `{name}`: its KMS key was unusable for a week"
            );
            Err(Failure::new(message)
                .hint("restore its backup under another name, and pass that with `--table-name`")
                .exit(Exit::NeedsDecision))
        }
        // A new table may not be visible everywhere at once.
        _ => Ok(false),
    }
}

/// Whether the table exists and is not being deleted.
pub async fn is_kept(client: &Client, name: &str) -> anyhow::Result<bool> {
    let table = describe(client, name).await?;
    Ok(table.is_some_and(|table| table.table_status != Some(TableStatus::Deleting)))
}

/// The table, which this program must have created; `None` if it does not exist.
pub async fn find_ours(client: &Client, name: &str) -> anyhow::Result<Option<Table>> {
    let table = Table::find(client, name).await?;
    if table.as_ref().is_none_or(|table| table.ours) {
        return Ok(table);
    }
    // Another account or region has no table with this ARN.
    let arn = table.map(|table| table.arn).unwrap_or_default();
    let region = region_in(&arn).unwrap_or_default();
    let delete = format!("aws dynamodb delete-table --region {region} --table-name {arn}");
    Err(Failure::new(format!("table `{name}` was not created by cbbootstrap"))
        .hint(format!("omit `--delete-table`, and delete it with `{delete}`"))
        .into())
}

/// A table whose tags may not be read counts as someone else's.
async fn tags(client: &Client, table: &TableDescription) -> anyhow::Result<Vec<Tag>> {
    let arn = table.table_arn.clone().unwrap_or_default();
    let tags = client.list_tags_of_resource().resource_arn(&arn).send().await;
    let tags = tags
        .absent_on("AccessDeniedException")
        .explain(format!("cannot read the tags of `{arn}`"))?;
    // A table has at most 50 tags, which fit on the first page.
    Ok(tags.and_then(|tags| tags.tags).unwrap_or_default())
}

/// Whether expired records are deleted.
async fn expiry(client: &Client, name: &str) -> Result<bool, SdkError<DescribeTimeToLiveError>> {
    let now = client.describe_time_to_live().table_name(name).send().await?;
    let status = now.time_to_live_description.and_then(|ttl| ttl.time_to_live_status);
    Ok(matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)))
}

async fn enable_expiry(client: &Client, name: &str) -> anyhow::Result<()> {
    let specification =
        TimeToLiveSpecification::builder().enabled(true).attribute_name(EXPIRES_AT).build()?;
    let enable = client.update_time_to_live().table_name(name);
    let enabled = enable.time_to_live_specification(specification).send().await;
    match enabled {
        // DynamoDB refuses to enable it twice, for example after a lost answer.
        Err(_) if expiry(client, name).await.is_ok_and(|enabled| enabled) => Ok(()),
        enabled => {
            let what = format!("cannot enable the expiry of records in table `{name}`");
            Ok(enabled.explain(what).map(drop)?)
        }
    }
}

async fn enable_backups(client: &Client, name: &str) -> anyhow::Result<()> {
    let what = format!("cannot turn on point-in-time recovery for table `{name}`");
    let specification =
        PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build()?;
    CHANGE
        .until(&what, async || {
            let enable = client.update_continuous_backups().table_name(name);
            let specification = specification.clone();
            let enabled = enable.point_in_time_recovery_specification(specification).send().await;
            unless_too_new(enabled, &what)
        })
        .await
        .map(drop)
}

/// `None` if the call may succeed later: a new table cannot be backed up for a moment.
fn unless_too_new<T, E>(answer: Result<T, SdkError<E>>, what: &str) -> anyhow::Result<Option<T>>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match answer.as_ref().err().and_then(ProvideErrorMetadata::code) {
        Some("ContinuousBackupsUnavailableException" | "TableNotFoundException") => Ok(None),
        _ => Ok(answer.unless_transient(what)?),
    }
}

/// Whether point-in-time recovery is on.
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

/// Turns deletion protection on or off, and waits for that.
async fn protect(client: &Client, name: &str, is_on: bool, what: &str) -> anyhow::Result<()> {
    let is_done =
        |table: &TableDescription| table.deletion_protection_enabled.unwrap_or_default() == is_on;
    update(client, name, what, is_done, |it| it.deletion_protection_enabled(is_on)).await?;
    wait_for_update(client, name).await.map(drop)
}

/// Updates the table. DynamoDB refuses that during another update, which may be that of another deployment, or the same one if its answer
/// was lost: afterwards, it may be done.
async fn update(
    client: &Client,
    name: &str,
    what: &str,
    is_done: impl Fn(&TableDescription) -> bool,
    set: impl Fn(UpdateTableFluentBuilder) -> UpdateTableFluentBuilder,
) -> anyhow::Result<()> {
    CHANGE
        .until(what, async || {
            let updated = set(client.update_table().table_name(name)).send().await;
            let code = updated.as_ref().err().and_then(ProvideErrorMetadata::code);
            if code == Some("ResourceInUseException")
                && let Some(table) = wait_for_update(client, name).await?
                && table.table_status == Some(TableStatus::Active)
            {
                return Ok(is_done(&table).then_some(()));
            }
            updated.explain(what)?;
            Ok(Some(()))
        })
        .await
}

/// Returns the table after it.
async fn wait_for_update(client: &Client, name: &str) -> anyhow::Result<Option<TableDescription>> {
    CHANGE
        .until(&format!("table `{name}` is still being updated"), async || {
            let table = describe(client, name).await?;
            let updating = Some(TableStatus::Updating);
            let is_updating = table.as_ref().is_some_and(|it| it.table_status == updating);
            Ok((!is_updating).then_some(table))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_table_that_becomes_active_is_waited_for() {
        for (status, expected) in [
            (None, Ok(false)),
            (Some("CREATING"), Ok(false)),
            (Some("ACTIVE"), Ok(true)),
            (Some("UPDATING"), Ok(true)),
            (Some("DELETING"), Err(Exit::Failed)),
            (Some("INACCESSIBLE_ENCRYPTION_CREDENTIALS"), Err(Exit::NeedsDecision)),
            (Some("ARCHIVING"), Err(Exit::NeedsDecision)),
            (Some("ARCHIVED"), Err(Exit::NeedsDecision)),
        ] {
            let ready = is_ready("t", status.map(TableStatus::from).as_ref());
            assert_eq!(ready.map_err(|failure| failure.exit), expected, "{status:?}");
        }
    }
}
