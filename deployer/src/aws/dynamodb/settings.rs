//! Settings of the table that a deployment can change.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::{
    Client,
    types::{OnDemandThroughput, TableDescription},
};
use clap::{Args, value_parser};
use serde::Serialize;

use crate::aws::error::Answer;

/// As options, `None` leaves a setting as it is, and 0 removes a ceiling. As settings of a table, `None` is no ceiling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize)]
#[command(next_help_heading = "Stack")]
pub struct TableSettings {
    /// Ceiling of the table's reads, in request units a second; 0 removes it [default: unchanged]
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(i64).range(0..))]
    pub max_read_units: Option<i64>,
    /// Ceiling of the table's writes, in request units a second; 0 removes it [default: unchanged]
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(i64).range(0..))]
    pub max_write_units: Option<i64>,
}

impl TableSettings {
    pub fn from_description(table: &TableDescription) -> Self {
        let throughput = table.on_demand_throughput();
        // -1 is no ceiling.
        let is_ceiling = |units: &i64| *units > 0;
        Self {
            max_read_units: throughput.and_then(|it| it.max_read_request_units).filter(is_ceiling),
            max_write_units: throughput
                .and_then(|it| it.max_write_request_units)
                .filter(is_ceiling),
        }
    }

    /// These settings after a deployment with these options.
    pub fn with(&self, options: &Self) -> Self {
        let ceiling = |now: Option<i64>, option: Option<i64>| match option {
            None => now,
            Some(0) => None,
            units => units,
        };
        Self {
            max_read_units: ceiling(self.max_read_units, options.max_read_units),
            max_write_units: ceiling(self.max_write_units, options.max_write_units),
        }
    }

    /// The settings that have a value, by the names of their options.
    pub fn values(&self) -> BTreeMap<String, String> {
        let ceilings =
            [("max-read-units", self.max_read_units), ("max-write-units", self.max_write_units)];
        let values = ceilings.into_iter().filter_map(|(name, units)| Some((name, units?)));
        values.map(|(name, units)| (name.to_owned(), units.to_string())).collect()
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

    /// Gives the table these settings instead of its current ones.
    pub(super) async fn apply(&self, client: &Client, name: &str) -> anyhow::Result<()> {
        let update = client.update_table().table_name(name);
        let update = update.on_demand_throughput(self.all_throughput());
        update.send().await.explain(format!("cannot change the settings of table `{name}`"))?;
        Ok(())
    }
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
            let settings = |units| TableSettings { max_read_units: units, max_write_units: units };
            let changed = settings(now).with(&settings(option));
            assert_eq!(changed, settings(after), "{now:?} with {option:?}");
            assert_eq!(changed.throughput().is_some(), after.is_some());
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
