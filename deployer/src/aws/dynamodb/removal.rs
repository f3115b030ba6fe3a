//! The table's backup and deletion.

use aws_sdk_dynamodb::{
    Client,
    error::ProvideErrorMetadata,
    types::{BackupStatus, TableDescription, TableStatus},
};
use jiff::Timestamp;

use super::{CHANGE, describe, is_kept, protect, unless_too_new, wait_for_update};
use crate::{
    aws::error::{Answer, explain},
    exit::Exit,
    failure::Failure,
    stack::region_in,
};

/// Makes an on-demand backup of the table and waits until it is complete. Returns its ARN.
pub async fn back_up(client: &Client, name: &str) -> anyhow::Result<String> {
    let what = format!("cannot back up table `{name}`");
    let time = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    // A backup's name has at most 255 characters, as a table's has.
    let end = name.len().min(255 - time.len() - 1);
    let backup_name = format!("{}-{time}", &name[..end]);
    let backup = client.create_backup().table_name(name).backup_name(backup_name);
    let arn = CHANGE
        .until(&what, async || {
            let created = backup.clone().send().await;
            let created = created.absent_on("TableInUseException");
            Ok(unless_too_new(created, &what)?
                .flatten()
                .and_then(|it| Some(it.backup_details?.backup_arn)))
        })
        .await?;
    CHANGE
        .until(&format!("backup `{arn}` is not complete"), async || {
            let backup = client.describe_backup().backup_arn(&arn).send().await;
            let Some(backup) = backup.unless_transient(&what)? else {
                return Ok(None);
            };
            let details = backup.backup_description.and_then(|it| it.backup_details);
            let status = details.map(|details| details.backup_status);
            Ok((status == Some(BackupStatus::Available)).then_some(()))
        })
        .await?;
    Ok(arn)
}

/// Deletes the table and every record in it; `false` if it does not exist.
pub async fn delete(client: &Client, name: &str) -> anyhow::Result<bool> {
    let what = format!("cannot delete table `{name}`");
    let Some(table) = describe(client, name).await? else {
        return Ok(false);
    };
    if table.table_status != Some(TableStatus::Deleting) {
        let is_protected = table.deletion_protection_enabled == Some(true);
        // DynamoDB refuses two changes at once.
        if table.table_status == Some(TableStatus::Updating) {
            wait_for_update(client, name).await?;
        }
        if !is_protected {
            request_deletion(client, name, &what).await?;
        } else if let Err(error) = delete_protected(client, name, &what).await {
            // The protection may be off even if its removal seems to have failed.
            let is_protected = match wait_for_update(client, name).await {
                Ok(Some(table)) if table.deletion_protection_enabled == Some(true) => true,
                _ => protect(client, name, true, &what).await.is_ok(),
            };
            return Err(match error.downcast::<Failure>() {
                Ok(failure) if !is_protected => failure.also(&unprotected(&table)).into(),
                Ok(failure) => failure.into(),
                Err(error) => error,
            });
        }
    }
    CHANGE
        .until(&format!("table `{name}` is still being deleted"), async || {
            Ok(describe(client, name).await?.is_none().then_some(()))
        })
        .await?;
    Ok(true)
}

async fn delete_protected(client: &Client, name: &str, what: &str) -> anyhow::Result<()> {
    protect(client, name, false, what).await?;
    request_deletion(client, name, what).await
}

async fn request_deletion(client: &Client, name: &str, what: &str) -> anyhow::Result<()> {
    match client.delete_table().table_name(name).send().await {
        Ok(_) => Ok(()),
        // The SDK repeated a request whose answer was lost.
        Err(_) if is_kept(client, name).await.is_ok_and(|is_kept| !is_kept) => Ok(()),
        Err(error) => {
            let is_busy = error.code() == Some("ResourceInUseException");
            let failure = explain(what, &error);
            Err(if is_busy { failure.exit(Exit::Busy) } else { failure }.into())
        }
    }
}

/// The hint for a table whose deletion failed after its protection was turned off, and could not be turned on again.
fn unprotected(table: &TableDescription) -> String {
    let arn = table.table_arn().unwrap_or_default();
    let region = region_in(arn).unwrap_or_default();
    format!(
        "the table is no longer protected against deletion: `aws dynamodb update-table --region {region} --table-name {arn} \
         --deletion-protection-enabled` protects it again"
    )
}
