//! The requirements of a table, also of one that this program did not create: its key and its replicas.

use aws_sdk_dynamodb::types::{
    KeyType, MultiRegionConsistency, ScalarAttributeType, TableDescription,
};
use cbbootstrap_function::table::CLUSTER_ID;

use super::Table;
use crate::failure::Failure;

impl Table {
    /// Refuses a table in which a write can succeed although a copy of the item in another region does not meet its condition.
    pub fn check_replicas(&self) -> Result<(), Failure> {
        if !self.has_weak_replicas {
            return Ok(());
        }
        let message = format!(
            "table `{}` has replicas without strong consistency: each region could start its own cluster with the same ID",
            self.name
        );
        Err(Failure::new(message)
            .hint("choose another table with `--table-name`, or delete the replicas"))
    }
}

/// Whether the table has replicas that may lag behind.
pub(super) fn has_weak_replicas(table: &TableDescription) -> bool {
    let is_strong = table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong);
    !table.replicas().is_empty() && !is_strong
}

pub(super) fn check_key(name: &str, table: &TableDescription) -> Result<(), Failure> {
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
    let keys: Vec<_> = keys.iter().map(|(name, kind)| format!("`{name}` ({kind})")).collect();
    Err(Failure::new(format!(
        "table `{name}` has the key {}, but cbbootstrap needs `{CLUSTER_ID}` (HASH, a string)",
        keys.join(", ")
    ))
    .hint("choose another table with `--table-name`"))
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{AttributeDefinition, KeySchemaElement, ReplicaDescription};

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
    fn replicas_need_strong_consistency() {
        use MultiRegionConsistency::{Eventual, Strong};
        let replica = || ReplicaDescription::builder().region_name("eu-west-1").build();
        for (replicas, consistency, weak) in [
            (None, None, false),
            (Some(vec![]), Some(Eventual), false),
            (Some(vec![replica()]), None, true),
            (Some(vec![replica()]), Some(Eventual), true),
            (Some(vec![replica()]), Some("NEW".into()), true),
            (Some(vec![replica(), replica()]), Some(Strong), false),
        ] {
            let table = TableDescription::builder().set_replicas(replicas);
            let table = table.set_multi_region_consistency(consistency).build();
            assert_eq!(has_weak_replicas(&table), weak, "{table:?}");
        }
    }

    #[test]
    fn a_table_needs_the_functions_key() {
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
