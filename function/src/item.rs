//! The items of the table, and the [`Record`] in both items of a cluster.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use cbbootstrap_protocol::{
    names::Node,
    rules::{FIRST_GENERATION, KEEP_GENERATION, Member, Record, later},
    trust::{Attestation, Fingerprint, SecretHash},
    wire::State,
};
use jiff::Timestamp;

use crate::table::{
    ATTESTATION, AUTHORITY, CLAIMED_AT, CLUSTER_ID, CLUSTER_UUID, COPIED_VERSION, EXPIRES_AT,
    FIRST_MEMBER, GENERATION, GIVEN_UP, INITIAL_NODE, INITIAL_NODE_UUID, LEASE_EXPIRES_AT, MEMBERS,
    MEMBERS_PREFIX, NODE_UUID, PREVIOUS_INITIAL_NODES, REPORTED_AT, RIVAL_NODE_UUID, SECRET_HASH,
    STATE, VERSION,
};

/// An item as the SDK returns it.
pub type Item = HashMap<String, AttributeValue>;

/// Attributes to write, without the key and the version. `None` removes one.
pub type Attributes = Vec<(&'static str, Option<AttributeValue>)>;

/// The state of a record that an operator has ended.
pub const FORGOTTEN: &str = "forgotten";

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the item's attribute `{0}` is missing or has the wrong type")]
pub struct Unreadable(pub &'static str);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimItem {
    /// The record without its members.
    pub record: Record,
    /// The number of writes; `None` for an item of the original service.
    pub version: Option<u64>,
    /// The version of the members item that the node to join was copied from.
    pub copied_version: u64,
    /// The first node's report, until a copy is made from the members item.
    pub first_member: Option<Member>,
    /// `record.initial_node` as stored, which may not be the canonical form.
    pub stored_initial_node: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersItem {
    /// The record without the attributes that only a claim item has.
    pub record: Record,
    pub version: u64,
}

/// Both items of a cluster, read at the same time.
#[derive(Clone, Debug)]
pub struct Items {
    pub claim: ClaimItem,
    /// The members item, if there is one and it belongs to this claim.
    pub members: Option<MembersItem>,
}

/// Whether the item is a members item. An id of the original service may have the prefix of their keys.
pub fn is_members_item(item: &Item) -> bool {
    let key = item.get(CLUSTER_ID).and_then(|key| key.as_s().ok());
    key.is_some_and(|key| key.starts_with(MEMBERS_PREFIX)) && item.contains_key(MEMBERS)
}

impl ClaimItem {
    /// A claim item that has not been written yet.
    pub fn new(record: Record) -> Self {
        Self {
            stored_initial_node: record.initial_node.clone(),
            record,
            version: None,
            copied_version: 0,
            first_member: None,
        }
    }

    /// Reads an item. Items of the original service have only the cluster and the node.
    pub fn read(mut item: Item) -> Result<Self, Unreadable> {
        let mut record = read_record(&mut item)?;
        record.initial_node_uuid = take(&mut item, INITIAL_NODE_UUID)?;
        record.previous_initial_nodes = take(&mut item, PREVIOUS_INITIAL_NODES)?;
        record.lease_expires_at = take(&mut item, LEASE_EXPIRES_AT)?;
        record.is_given_up = take(&mut item, GIVEN_UP)?;
        let stored_initial_node = record.initial_node;
        record.initial_node = Node::canonical(stored_initial_node.clone());
        Ok(Self {
            record,
            version: take(&mut item, VERSION)?,
            copied_version: take::<Option<_>>(&mut item, COPIED_VERSION)?.unwrap_or_default(),
            first_member: take(&mut item, FIRST_MEMBER)?,
            stored_initial_node,
        })
    }

    pub fn attributes(&self) -> Attributes {
        let record = &self.record;
        let copied_version = Some(self.copied_version).filter(|version| *version > 0);
        let mut attributes = record_attributes(record);
        attributes.extend([
            (INITIAL_NODE_UUID, record.initial_node_uuid.to_value()),
            (PREVIOUS_INITIAL_NODES, record.previous_initial_nodes.to_value()),
            (LEASE_EXPIRES_AT, record.lease_expires_at.to_value()),
            (GIVEN_UP, record.is_given_up.to_value()),
            (COPIED_VERSION, copied_version.to_value()),
            (FIRST_MEMBER, self.first_member.to_value()),
        ]);
        attributes
    }
}

impl MembersItem {
    pub fn read(mut item: Item) -> Result<Self, Unreadable> {
        let mut record = read_record(&mut item)?;
        let cluster_id = record.cluster_id.strip_prefix(MEMBERS_PREFIX);
        record.cluster_id = cluster_id.ok_or(Unreadable(CLUSTER_ID))?.into();
        record.members = take(&mut item, MEMBERS)?;
        Ok(Self { record, version: take(&mut item, VERSION)? })
    }

    pub fn attributes(record: &Record) -> Attributes {
        let mut attributes = record_attributes(record);
        attributes.push((MEMBERS, record.members.to_value()));
        attributes
    }

    /// Whether it belongs to this claim. The time of the claim must be the same, too, because generations begin at 1 again after a record
    /// was deleted.
    fn belongs_to(&self, claim: &Record) -> bool {
        let identity = |record: &Record| (record.generation, record.claimed_at);
        identity(&self.record) == identity(claim)
    }
}

impl Items {
    /// A claim item, and the members item if it belongs to the claim.
    pub fn new(claim: ClaimItem, members: Option<MembersItem>) -> Self {
        let members = members.filter(|members| members.belongs_to(&claim.record));
        Self { claim, members }
    }

    pub fn record(&self) -> Record {
        let mut record = self.claim.record.clone();
        if record.state != State::Ready || record.is_forgotten {
            return record;
        }
        if let Some(MembersItem { record: known, .. }) = &self.members {
            record.is_forgotten = known.is_forgotten;
            record.initial_node.clone_from(&known.initial_node);
            record.rival_node_uuid.clone_from(&known.rival_node_uuid);
            record.members.clone_from(&known.members);
            if known.cluster_uuid.is_some() {
                record.cluster_uuid.clone_from(&known.cluster_uuid);
            }
        } else if let Some(member) = &self.claim.first_member {
            let node = record.initial_node.clone();
            record.members = BTreeMap::from([(node, member.clone())]);
        }
        record
    }
}

/// Reads the attributes that both kinds of items have.
fn read_record(item: &mut Item) -> Result<Record, Unreadable> {
    let state: Option<String> = take(item, STATE)?;
    Ok(Record {
        cluster_id: take(item, CLUSTER_ID)?,
        initial_node: take(item, INITIAL_NODE)?,
        rival_node_uuid: take(item, RIVAL_NODE_UUID)?,
        state: match state.as_deref() {
            Some("ready") => State::Ready,
            Some("claimed" | FORGOTTEN) | None => State::Claimed,
            Some(_) => return Err(Unreadable(STATE)),
        },
        generation: take::<Option<_>>(item, GENERATION)?.unwrap_or(FIRST_GENERATION),
        claimed_at: take(item, CLAIMED_AT)?,
        kept_until: take::<Option<Timestamp>>(item, EXPIRES_AT)?.map(|end| end - KEEP_GENERATION),
        is_forgotten: state.as_deref() == Some(FORGOTTEN),
        cluster_uuid: take(item, CLUSTER_UUID)?,
        secret: take(item, SECRET_HASH)?,
        ..Record::default()
    })
}

fn record_attributes(record: &Record) -> Attributes {
    let state = if record.is_forgotten { FORGOTTEN } else { record.state.as_str() };
    vec![
        (INITIAL_NODE, record.initial_node.to_value()),
        (RIVAL_NODE_UUID, record.rival_node_uuid.to_value()),
        (STATE, Some(string(state))),
        (GENERATION, record.generation.to_value()),
        (CLAIMED_AT, record.claimed_at.to_value()),
        (CLUSTER_UUID, record.cluster_uuid.to_value()),
        (SECRET_HASH, record.secret.to_value()),
        (EXPIRES_AT, record.kept_until.map(expires_at)),
    ]
}

/// The value of [`EXPIRES_AT`] for a record with this end.
pub fn expires_at(kept_until: Timestamp) -> AttributeValue {
    seconds(later(kept_until, KEEP_GENERATION))
}

pub fn string(text: impl AsRef<str>) -> AttributeValue {
    AttributeValue::S(text.as_ref().to_owned())
}

pub fn count(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Seconds since 1970.
pub fn seconds(time: Timestamp) -> AttributeValue {
    AttributeValue::N(time.as_second().to_string())
}

pub fn binary(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

pub fn member_value(member: &Member) -> AttributeValue {
    let attributes = [
        (REPORTED_AT, member.reported_at.to_value()),
        (NODE_UUID, member.node_uuid.to_value()),
        (AUTHORITY, member.authority.to_value()),
        (ATTESTATION, member.attestation.to_value()),
    ];
    let present =
        attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    AttributeValue::M(present.collect())
}

/// Takes an attribute out of an item, or out of a map in one.
fn take<T: Attribute>(item: &mut Item, name: &'static str) -> Result<T, Unreadable> {
    match item.remove(name) {
        Some(value) => T::from_value(value, name),
        None => T::ABSENT.ok_or(Unreadable(name)),
    }
}

/// A type that an attribute can have.
trait Attribute: Sized {
    /// The value where an item has no such attribute; `None` if it must have one.
    const ABSENT: Option<Self> = None;

    /// `None` if the item has no such attribute.
    fn to_value(&self) -> Option<AttributeValue>;

    fn from_value(value: AttributeValue, name: &'static str) -> Result<Self, Unreadable>;
}

impl<T: Attribute> Attribute for Option<T> {
    const ABSENT: Option<Self> = Some(None);

    fn to_value(&self) -> Option<AttributeValue> {
        self.as_ref().and_then(T::to_value)
    }

    fn from_value(value: AttributeValue, name: &'static str) -> Result<Self, Unreadable> {
        T::from_value(value, name).map(Some)
    }
}

/// Implements [`Attribute`] from the value that is absent, the conversion to a value, and the one from a value.
macro_rules! attribute {
    ($type:ty, $absent:expr, $to:expr, |$value:pat_param, $name:ident| $from:expr) => {
        impl Attribute for $type {
            const ABSENT: Option<Self> = $absent;

            fn to_value(&self) -> Option<AttributeValue> {
                let to: fn(&Self) -> Option<AttributeValue> = $to;
                to(self)
            }

            fn from_value(value: AttributeValue, $name: &'static str) -> Result<Self, Unreadable> {
                match value {
                    $value => $from,
                    _ => Err(Unreadable($name)),
                }
            }
        }
    };
}

use AttributeValue as A;

attribute!(String, None, |text| Some(string(text)), |A::S(text), name| Ok(text));
attribute!(bool, Some(false), |is_set| is_set.then_some(A::Bool(true)), |A::Bool(is_set), name| {
    Ok(is_set)
});
attribute!(u64, None, |number| Some(count(*number)), |A::N(number), name| {
    number.parse().map_err(|_| Unreadable(name))
});
// Within limits, so that the rules can add to a time without an overflow.
attribute!(Timestamp, None, |time| Some(seconds(*time)), |A::N(number), name| {
    const LIMIT: i64 = 200_000_000_000;
    let seconds = number.parse().ok().filter(|seconds| (-LIMIT..=LIMIT).contains(seconds));
    seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()).ok_or(Unreadable(name))
});
attribute!(
    Vec<String>,
    Some(Vec::new()),
    |texts| (!texts.is_empty()).then(|| A::L(texts.iter().map(string).collect())),
    |A::L(values), name| values.into_iter().map(|text| String::from_value(text, name)).collect()
);
attribute!(Member, None, |member| Some(member_value(member)), |A::M(mut member), name| {
    Ok(Self {
        reported_at: take(&mut member, REPORTED_AT)?,
        node_uuid: take(&mut member, NODE_UUID)?,
        authority: take(&mut member, AUTHORITY)?,
        attestation: take(&mut member, ATTESTATION)?,
    })
});
attribute!(
    BTreeMap<String, Member>,
    None,
    |members| {
        let members = members.iter().map(|(node, member)| (node.clone(), member_value(member)));
        Some(A::M(members.collect()))
    },
    |A::M(members), name| {
        let member = |(node, value)| Ok((node, Member::from_value(value, name)?));
        members.into_iter().map(member).collect()
    }
);
// An unreadable hash is an error, because everyone may use a record without one.
macro_rules! hash_attributes {
    ($($type:ty)*) => {
        $(attribute!($type, None, |hash| Some(binary(hash.as_bytes())), |A::B(bytes), name| {
            Self::from_bytes(bytes.as_ref()).ok_or(Unreadable(name))
        });)*
    };
}

hash_attributes!(SecretHash Fingerprint Attestation);

#[cfg(test)]
mod tests;
