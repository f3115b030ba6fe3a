//! Conditional writes.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    operation::{delete_item::DeleteItemError, update_item::UpdateItemError},
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure as OnFailure},
};

use cbbootstrap_protocol::wire::State;

use super::{DynamoDb, Error, key};
use crate::{
    item::{Attributes, Item, count, string},
    table::STATE,
};

/// The result of a conditional write.
pub(super) type Written<T, C> = Result<Result<T, Conflict<C>>, Error>;

/// The condition does not hold for the current item, which another request has changed.
#[derive(Debug)]
pub(super) struct Conflict<C>(pub C);

impl<C> From<Conflict<C>> for Error {
    fn from(_: Conflict<C>) -> Self {
        Self::Contended
    }
}

/// An `UpdateItem` call. In its expressions, `#NAME` is the attribute with that name or alias, because some names are reserved words in
/// DynamoDB.
#[derive(Clone, Debug, Default)]
pub(super) struct Update {
    key: String,
    set: Vec<String>,
    remove: Vec<String>,
    conditions: Vec<String>,
    aliases: HashMap<&'static str, String>,
    values: HashMap<String, AttributeValue>,
}

impl Update {
    /// An update of the item with this key, without a condition.
    pub fn new(key: String) -> Self {
        Self { key, ..Self::default() }
    }

    pub fn alias(mut self, alias: &'static str, attribute: &str) -> Self {
        self.aliases.insert(alias, attribute.to_owned());
        self
    }

    pub fn value(mut self, name: &str, value: AttributeValue) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }

    pub fn set(mut self, assignment: &str) -> Self {
        self.set.push(assignment.to_owned());
        self
    }

    pub fn remove(mut self, path: &str) -> Self {
        self.remove.push(path.to_owned());
        self
    }

    /// Sets the attribute, or removes it if there is no value.
    pub fn attribute(self, name: &str, value: Option<AttributeValue>) -> Self {
        match value {
            Some(value) => {
                self.set(&format!("#{name} = :{name}")).value(&format!(":{name}"), value)
            }
            None => self.remove(&format!("#{name}")),
        }
    }

    pub fn attributes(self, all: Attributes) -> Self {
        all.into_iter().fold(self, |update, (name, value)| update.attribute(name, value))
    }

    /// Adds a condition. All conditions must hold.
    pub fn only_if(mut self, condition: &str) -> Self {
        self.conditions.push(condition.to_owned());
        self
    }

    /// The item has not been written since this version.
    pub fn only_if_version(self, version: u64) -> Self {
        self.only_if("#version = :seen").value(":seen", count(version))
    }

    /// Increments the version, from `before` if the item is new.
    pub fn next_version(self, before: u64) -> Self {
        self.set("#version = if_not_exists(#version, :before) + :one")
            .value(":before", count(before))
            .value(":one", count(1))
    }

    fn expression(&self) -> String {
        let mut expression = format!("SET {}", self.set.join(", "));
        if !self.remove.is_empty() {
            expression.push_str(" REMOVE ");
            expression.push_str(&self.remove.join(", "));
        }
        expression
    }
}

fn names(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|c: char| c != '#' && c != '_' && !c.is_ascii_alphanumeric())
        .filter(|word| word.starts_with('#'))
}

impl DynamoDb {
    /// Deletes the claim item of a cluster that is not ready, and so has no members item.
    pub(super) async fn delete_claim(&self, cluster_id: &str) -> Result<(), Error> {
        let delete = self.client.delete_item().table_name(&self.table);
        let is_conflict = DeleteItemError::is_conditional_check_failed_exception;
        let deleted = delete
            .set_key(Some(key(cluster_id)))
            .condition_expression("#state = :claimed")
            .expression_attribute_names("#state", STATE)
            .expression_attribute_values(":claimed", string(State::Claimed.as_str()))
            .send()
            .await;
        match deleted {
            Err(error) if !error.as_service_error().is_some_and(is_conflict) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Writes, and returns the new item, or the current one if the condition does not hold.
    pub(super) async fn update(&self, update: Update) -> Written<Item, Item> {
        let (expression, condition) = (update.expression(), update.conditions.join(" AND "));
        let mut call = self.client.update_item().table_name(&self.table);
        for name in names(&expression).chain(names(&condition)) {
            let attribute = update.aliases.get(name).map_or(&name[1..], String::as_str);
            call = call.expression_attribute_names(name, attribute);
        }
        let outcome = call
            .set_expression_attribute_values(Some(update.values))
            .set_key(Some(key(update.key)))
            .condition_expression(condition)
            .update_expression(expression)
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .send()
            .await;
        match outcome {
            Ok(output) => Ok(Ok(output.attributes.unwrap_or_default())),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Err(Conflict(failed.item.clone().unwrap_or_default())))
                }
                _ => Err(error.into()),
            },
        }
    }
}
