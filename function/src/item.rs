//! An item of the table as a [`Record`].

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;

use crate::{
    protocol::{FIRST_GENERATION, Record, SecretHash},
    table::{
        CLAIMED_AT, CLUSTER_ID, CLUSTER_UUID, GENERATION, INITIAL_NODE, LEASE_EXPIRES_AT, NODES,
        SECRET_HASH, STATE,
    },
    wire::State,
};

/// An item, as DynamoDB answers it.
pub type Item = HashMap<String, AttributeValue>;

/// The item lacks what every item has, or has it in another form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the item's attribute `{0}` is missing, or not of its type")]
pub struct Unreadable(pub &'static str);

/// An item as a record. Rows of the original service have only the cluster and the node.
pub fn read(mut item: Item) -> Result<Record, Unreadable> {
    let mut take = |name: &'static str| item.remove(name);
    Ok(Record {
        cluster_id: required(CLUSTER_ID, text(CLUSTER_ID, take(CLUSTER_ID))?)?,
        initial_node: required(INITIAL_NODE, text(INITIAL_NODE, take(INITIAL_NODE))?)?,
        state: match text(STATE, take(STATE))?.as_deref() {
            Some("ready") => State::Ready,
            Some("claimed") | None => State::Claimed,
            Some(_) => return Err(Unreadable(STATE)),
        },
        generation: number(GENERATION, take(GENERATION))?.unwrap_or(FIRST_GENERATION),
        claimed_at: time(CLAIMED_AT, take(CLAIMED_AT))?,
        lease_expires_at: time(LEASE_EXPIRES_AT, take(LEASE_EXPIRES_AT))?,
        nodes: match take(NODES) {
            None => Vec::new(),
            Some(AttributeValue::Ss(nodes)) => nodes,
            Some(_) => return Err(Unreadable(NODES)),
        }
        .into_iter()
        .collect(),
        cluster_uuid: text(CLUSTER_UUID, take(CLUSTER_UUID))?,
        // What cannot be read must not let anyone in.
        secret: match take(SECRET_HASH) {
            None => None,
            Some(AttributeValue::B(hash)) => {
                Some(SecretHash::from_bytes(hash.as_ref()).ok_or(Unreadable(SECRET_HASH))?)
            }
            Some(_) => return Err(Unreadable(SECRET_HASH)),
        },
    })
}

fn required<T>(name: &'static str, value: Option<T>) -> Result<T, Unreadable> {
    value.ok_or(Unreadable(name))
}

fn text(name: &'static str, value: Option<AttributeValue>) -> Result<Option<String>, Unreadable> {
    match value {
        None => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text)),
        Some(_) => Err(Unreadable(name)),
    }
}

fn number<N: std::str::FromStr>(
    name: &'static str,
    value: Option<AttributeValue>,
) -> Result<Option<N>, Unreadable> {
    match value {
        None => Ok(None),
        Some(AttributeValue::N(number)) => number.parse().map(Some).map_err(|_| Unreadable(name)),
        Some(_) => Err(Unreadable(name)),
    }
}

fn time(
    name: &'static str,
    value: Option<AttributeValue>,
) -> Result<Option<Timestamp>, Unreadable> {
    let seconds = number(name, value)?;
    seconds
        .map(|seconds| Timestamp::from_second(seconds).map_err(|_| Unreadable(name)))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(attributes: &[(&str, AttributeValue)]) -> Item {
        attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }

    fn text(text: &str) -> AttributeValue {
        AttributeValue::S(text.to_owned())
    }

    fn number(number: &str) -> AttributeValue {
        AttributeValue::N(number.to_owned())
    }

    #[test]
    fn a_row_of_the_original_is_a_claim_for_ever() {
        let row = item(&[
            ("cluster_id", text("c")),
            ("initial_node_ip_addr_or_hostname", text("n")),
        ]);
        let expected = Record {
            cluster_id: "c".into(),
            initial_node: "n".into(),
            state: State::Claimed,
            generation: 1,
            claimed_at: None,
            lease_expires_at: None,
            nodes: [].into(),
            cluster_uuid: None,
            secret: None,
        };
        assert_eq!(read(row).unwrap(), expected);
    }

    #[test]
    fn everything_is_read() {
        let hash = vec![7; 32];
        let full = item(&[
            (CLUSTER_ID, text("c")),
            (INITIAL_NODE, text("n")),
            (STATE, text("ready")),
            (GENERATION, number("3")),
            (CLAIMED_AT, number("1700000000")),
            (LEASE_EXPIRES_AT, number("1700000060")),
            (NODES, AttributeValue::Ss(vec!["b".into(), "a".into()])),
            (CLUSTER_UUID, text("u")),
            (SECRET_HASH, AttributeValue::B(hash.clone().into())),
            ("what others add", text("does no harm")),
        ]);
        let expected = Record {
            cluster_id: "c".into(),
            initial_node: "n".into(),
            state: State::Ready,
            generation: 3,
            claimed_at: Some(Timestamp::from_second(1_700_000_000).unwrap()),
            lease_expires_at: Some(Timestamp::from_second(1_700_000_060).unwrap()),
            nodes: ["a".to_owned(), "b".to_owned()].into(),
            cluster_uuid: Some("u".into()),
            secret: SecretHash::from_bytes(&hash),
        };
        assert_eq!(read(full).unwrap(), expected);
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for (name, wrong) in [
            (INITIAL_NODE, number("1")),
            (STATE, text("half-ready")),
            (GENERATION, text("1")),
            (GENERATION, number("-1")),
            (LEASE_EXPIRES_AT, number("1e99")),
            (NODES, text("a")),
            (CLUSTER_UUID, number("1")),
            (SECRET_HASH, text("hash")),
            (SECRET_HASH, AttributeValue::B(vec![7; 31].into())),
        ] {
            let mut row = item(&[(CLUSTER_ID, text("c")), (INITIAL_NODE, text("n"))]);
            row.insert(name.to_owned(), wrong);
            assert_eq!(read(row), Err(Unreadable(name)));
        }
        let row = item(&[(CLUSTER_ID, text("c"))]);
        assert_eq!(read(row), Err(Unreadable(INITIAL_NODE)));
    }
}
