//! Settings of the table that a deployment can change.

use std::collections::BTreeMap;

use super::update;
use aws_sdk_dynamodb::{
    Client,
    operation::update_table::builders::UpdateTableFluentBuilder as Update,
    types::{
        OnDemandThroughput, SseDescription, SseSpecification, SseStatus, SseType, TableDescription,
    },
};
use cbbootstrap_cli::values::number;
use clap::Args;
use serde::Serialize;

use crate::values::KEY_ARN;

/// As options, `None` leaves a setting as it is, and 0 or an empty key removes it. As settings of a table, `None` means that there is
/// no ceiling, or that AWS owns the key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize)]
#[command(next_help_heading = "Stack")]
pub struct TableSettings {
    /// Ceiling of the table's reads, in request units a second; 0 removes it [default: unchanged]
    #[arg(long, value_name = "NUMBER", value_parser = number::<i64>(0..=u64::MAX))]
    pub max_read_units: Option<i64>,
    /// Ceiling of the table's writes, in request units a second; 0 removes it [default: unchanged]
    #[arg(long, value_name = "NUMBER", value_parser = number::<i64>(0..=u64::MAX))]
    pub max_write_units: Option<i64>,
    /// KMS key that encrypts the table, the zips, the logs and the function's environment [default: AWS's keys]
    #[arg(long, value_name = "ARN", value_parser = KEY_ARN.parser())]
    pub kms_key: Option<String>,
}

impl TableSettings {
    pub fn from_description(table: &TableDescription) -> Self {
        let throughput = table.on_demand_throughput();
        // -1 means that there is none.
        let is_ceiling = |units: &i64| *units > 0;
        Self {
            max_read_units: throughput.and_then(|it| it.max_read_request_units).filter(is_ceiling),
            max_write_units: throughput
                .and_then(|it| it.max_write_request_units)
                .filter(is_ceiling),
            kms_key: table.sse_description().and_then(key),
        }
    }

    /// These settings after a deployment with these options.
    pub fn with(&self, options: &Self) -> Self {
        let is_ceiling = |units: &i64| *units > 0;
        let kms_key = options.kms_key.as_ref().or(self.kms_key.as_ref());
        Self {
            max_read_units: options.max_read_units.or(self.max_read_units).filter(is_ceiling),
            max_write_units: options.max_write_units.or(self.max_write_units).filter(is_ceiling),
            kms_key: kms_key.filter(|key| !key.is_empty()).cloned(),
        }
    }

    /// The settings that have a value, by the names of their options.
    pub fn values(&self) -> BTreeMap<String, String> {
        let ceilings =
            [("max-read-units", self.max_read_units), ("max-write-units", self.max_write_units)];
        let values = ceilings.into_iter().filter_map(|(name, units)| Some((name, units?)));
        let values = values.map(|(name, units)| (name, units.to_string()));
        let key = self.kms_key.iter().map(|key| ("kms-key", key.clone()));
        values.chain(key).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub(super) fn throughput(&self) -> Option<OnDemandThroughput> {
        let has_ceiling = self.max_read_units.or(self.max_write_units).is_some();
        has_ceiling.then(|| self.all_throughput())
    }

    /// Every ceiling, also those that DynamoDB is to remove.
    fn all_throughput(&self) -> OnDemandThroughput {
        OnDemandThroughput::builder()
            .max_read_request_units(self.max_read_units.unwrap_or(-1))
            .max_write_request_units(self.max_write_units.unwrap_or(-1))
            .build()
    }

    pub(super) fn encryption(&self) -> Option<SseSpecification> {
        self.kms_key.as_ref().map(|key| {
            let specification = SseSpecification::builder().enabled(true).sse_type(SseType::Kms);
            specification.kms_master_key_id(key).build()
        })
    }

    /// Gives the table these settings instead of its current ones. DynamoDB refuses to change two at once.
    pub(super) async fn apply(
        &self,
        client: &Client,
        name: &str,
        current: &Self,
    ) -> anyhow::Result<()> {
        let what = format!("cannot change the settings of table `{name}`");
        let ceilings = |it: &Self| (it.max_read_units, it.max_write_units);
        if ceilings(self) != ceilings(current) {
            let is_done = |table: &_| ceilings(&Self::from_description(table)) == ceilings(self);
            let throughput = self.all_throughput();
            let set = |it: Update| it.on_demand_throughput(throughput.clone());
            update(client, name, &what, is_done, set).await?;
        }
        if self.kms_key != current.kms_key {
            let is_done = |table: &_| Self::from_description(table).kms_key == self.kms_key;
            let none = || SseSpecification::builder().enabled(false).build();
            let encryption = self.encryption().unwrap_or_else(none);
            let set = |it: Update| it.sse_specification(encryption.clone());
            update(client, name, &what, is_done, set).await?;
        }
        Ok(())
    }
}

/// The key of the user; `None` if AWS owns it.
fn key(encryption: &SseDescription) -> Option<String> {
    let is_on = matches!(
        encryption.status,
        Some(SseStatus::Enabled | SseStatus::Enabling | SseStatus::Updating)
    );
    encryption.kms_master_key_arn.clone().filter(|_| is_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omitted_options_keep_ceilings_and_zero_removes_them() {
        for (now, option, after) in [
            (None, None, None),
            (Some(5), None, Some(5)),
            (None, Some(7), Some(7)),
            (Some(5), Some(7), Some(7)),
            (Some(5), Some(0), None),
            (None, Some(0), None),
        ] {
            let settings = |units| TableSettings {
                max_read_units: units,
                max_write_units: units,
                kms_key: None,
            };
            let changed = settings(now).with(&settings(option));
            assert_eq!(changed, settings(after), "{now:?} with {option:?}");
            assert_eq!(changed.throughput().is_some(), after.is_some());
        }
    }

    #[test]
    fn an_omitted_key_stays_and_an_empty_one_is_removed() {
        for (now, option, after) in [
            (None, None, None),
            (Some("a"), None, Some("a")),
            (Some("a"), Some("b"), Some("b")),
            (Some("a"), Some(""), None),
        ] {
            let settings = |key: Option<&str>| TableSettings {
                kms_key: key.map(str::to_owned),
                ..TableSettings::default()
            };
            let changed = settings(now).with(&settings(option));
            assert_eq!(changed, settings(after), "{now:?} with {option:?}");
            assert_eq!(changed.encryption().is_some(), after.is_some());
        }
    }

    #[test]
    fn minus_one_is_no_ceiling() {
        let throughput = OnDemandThroughput::builder().max_read_request_units(-1);
        let throughput = throughput.max_write_request_units(9).build();
        let table = TableDescription::builder().on_demand_throughput(throughput).build();
        let settings = TableSettings::from_description(&table);
        assert_eq!((settings.max_read_units, settings.max_write_units), (None, Some(9)));
        assert_eq!(settings.values(), [("max-write-units".to_owned(), "9".to_owned())].into());
        assert_eq!(settings.all_throughput().max_read_request_units, Some(-1));
    }
}
