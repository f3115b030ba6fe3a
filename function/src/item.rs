//! The items of the table, read and written, and the [`Record`] that both items of a cluster make.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use cbbootstrap_protocol::{
    names::Node,
    rules::{FIRST_GENERATION, KEEP_GENERATION, Member, Record, SecretHash},
    trust::{Attestation, Fingerprint},
    wire::State,
};
use jiff::Timestamp;

use crate::table::{
    ATTESTATION, AUTHORITY, CLAIMED_AT, CLUSTER_ID, CLUSTER_UUID, COPIED_VERSION, EXPIRES_AT,
    FIRST_MEMBER, GENERATION, GIVEN_UP, INITIAL_NODE, INITIAL_NODE_UUID, LEASE_EXPIRES_AT, MEMBERS,
    MEMBERS_PREFIX, NODE_UUID, PREVIOUS_INITIAL_NODES, REPORTED_AT, RIVAL_NODE_UUID, SECRET_HASH,
    STATE, VERSION,
};

/// An item, as DynamoDB answers it.
pub type Item = HashMap<String, AttributeValue>;

/// The state of a record that an operator has ended.
pub const FORGOTTEN: &str = "forgotten";

/// The item lacks an attribute that every item has, or has one of another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the item's attribute `{0}` is missing, or not of its type")]
pub struct Unreadable(pub &'static str);

/// A claim item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimItem {
    /// The record without its members.
    pub record: Record,
    /// How many times the item was written; `None` for a row of the original service.
    pub version: Option<u64>,
    /// The version of the members item that the initial node was copied from.
    pub copied_version: u64,
    /// The initial node's report, until a copy was made from the members item.
    pub first_member: Option<Member>,
    /// The initial node as the item has it, in canonical form or not.
    pub stored_initial_node: String,
}

/// A members item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersItem {
    /// The record, but for what only a claim has.
    pub record: Record,
    /// How many times the item was written.
    pub version: u64,
}

/// Both items of a cluster, as they were read. A members item without a claim item is nobody's.
#[derive(Clone, Debug)]
pub struct Items {
    /// The claim item.
    pub claim: ClaimItem,
    /// The members item, if there is one that belongs to this claim.
    pub members: Option<MembersItem>,
}

/// Whether the item is a members item. An id of the original service may begin as their keys do.
pub fn is_members_item(item: &Item) -> bool {
    let key = item.get(CLUSTER_ID).and_then(|key| key.as_s().ok());
    key.is_some_and(|key| key.starts_with(MEMBERS_PREFIX)) && item.contains_key(MEMBERS)
}

impl ClaimItem {
    /// A claim item for this record, written for the first time.
    pub fn new(record: Record) -> Self {
        Self {
            stored_initial_node: record.initial_node.clone(),
            record,
            version: None,
            copied_version: 0,
            first_member: None,
        }
    }

    /// Reads an item. Rows of the original service have only the cluster and the node.
    pub fn read(mut item: Item) -> Result<Self, Unreadable> {
        let mut record = read_record(&mut item)?;
        let mut take = |name: &'static str| item.remove(name);
        record.initial_node_uuid = text(INITIAL_NODE_UUID, take(INITIAL_NODE_UUID))?;
        record.previous_initial_nodes = texts(take(PREVIOUS_INITIAL_NODES))?;
        record.lease_expires_at = time(LEASE_EXPIRES_AT, take(LEASE_EXPIRES_AT))?;
        record.is_given_up = match take(GIVEN_UP) {
            None => false,
            Some(AttributeValue::Bool(is_given_up)) => is_given_up,
            Some(_) => return Err(Unreadable(GIVEN_UP)),
        };
        let stored = std::mem::take(&mut record.initial_node);
        record.initial_node = Node::canonical(stored.clone());
        Ok(Self {
            record,
            version: number(VERSION, take(VERSION))?,
            copied_version: number(COPIED_VERSION, take(COPIED_VERSION))?.unwrap_or_default(),
            first_member: take(FIRST_MEMBER)
                .map(|value| member(FIRST_MEMBER, value))
                .transpose()?,
            stored_initial_node: stored,
        })
    }

    /// The attributes but for the key and the version; `None` for those that the item must not have.
    pub fn attributes(&self) -> Vec<(&'static str, Option<AttributeValue>)> {
        let record = &self.record;
        let previous = record.previous_initial_nodes.iter().map(string);
        let previous = (previous.len() > 0).then(|| AttributeValue::L(previous.collect()));
        let mut attributes = record_attributes(record);
        attributes.extend([
            (INITIAL_NODE_UUID, record.initial_node_uuid.as_ref().map(string)),
            (PREVIOUS_INITIAL_NODES, previous),
            (LEASE_EXPIRES_AT, record.lease_expires_at.map(seconds)),
            (GIVEN_UP, record.is_given_up.then_some(AttributeValue::Bool(true))),
            (COPIED_VERSION, (self.copied_version > 0).then(|| count(self.copied_version))),
            (FIRST_MEMBER, self.first_member.as_ref().map(member_attribute)),
        ]);
        attributes
    }
}

impl MembersItem {
    /// Reads an item. Its key is not the cluster's.
    pub fn read(mut item: Item) -> Result<Self, Unreadable> {
        let mut record = read_record(&mut item)?;
        let cluster_id = record.cluster_id.strip_prefix(MEMBERS_PREFIX);
        record.cluster_id = cluster_id.ok_or(Unreadable(CLUSTER_ID))?.into();
        record.members = match item.remove(MEMBERS) {
            Some(AttributeValue::M(members)) => members
                .into_iter()
                .map(|(node, value)| Ok((node, member(MEMBERS, value)?)))
                .collect::<Result<_, _>>()?,
            _ => return Err(Unreadable(MEMBERS)),
        };
        Ok(Self {
            record,
            version: number(VERSION, item.remove(VERSION))?.ok_or(Unreadable(VERSION))?,
        })
    }

    /// The attributes but for the key and the version; `None` for those that the item must not have.
    pub fn attributes(record: &Record) -> Vec<(&'static str, Option<AttributeValue>)> {
        let members = record.members.iter();
        let members = members.map(|(node, member)| (node.clone(), member_attribute(member)));
        let mut attributes = record_attributes(record);
        attributes.push((MEMBERS, Some(AttributeValue::M(members.collect()))));
        attributes
    }

    /// Whether it belongs to this claim. A generation begins again with 1 where nothing is left of the one before; the time
    /// of the claim tells the two apart.
    fn belongs_to(&self, claim: &Record) -> bool {
        let identity = |record: &Record| (record.generation, record.claimed_at);
        identity(&self.record) == identity(claim)
    }
}

impl Items {
    /// A claim item, and a members item that may or may not belong to it.
    pub fn of(claim: ClaimItem, members: Option<MembersItem>) -> Self {
        let members = members.filter(|members| members.belongs_to(&claim.record));
        Self { claim, members }
    }

    /// The record that the items make.
    pub fn record(&self) -> Record {
        let mut record = self.claim.record.clone();
        if record.state != State::Ready || record.is_forgotten {
            return record;
        }
        if let Some(MembersItem { record: known, .. }) = &self.members {
            record.is_forgotten = known.is_forgotten;
            record.initial_node.clone_from(&known.initial_node);
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

/// What both items have.
fn read_record(item: &mut Item) -> Result<Record, Unreadable> {
    let mut take = |name: &'static str| item.remove(name);
    let state = text(STATE, take(STATE))?;
    Ok(Record {
        cluster_id: text(CLUSTER_ID, take(CLUSTER_ID))?.ok_or(Unreadable(CLUSTER_ID))?,
        initial_node: text(INITIAL_NODE, take(INITIAL_NODE))?.ok_or(Unreadable(INITIAL_NODE))?,
        initial_node_uuid: None,
        previous_initial_nodes: Vec::new(),
        rival_node_uuid: text(RIVAL_NODE_UUID, take(RIVAL_NODE_UUID))?,
        is_given_up: false,
        state: match state.as_deref() {
            Some("ready") => State::Ready,
            Some("claimed" | FORGOTTEN) | None => State::Claimed,
            Some(_) => return Err(Unreadable(STATE)),
        },
        generation: number(GENERATION, take(GENERATION))?.unwrap_or(FIRST_GENERATION),
        claimed_at: time(CLAIMED_AT, take(CLAIMED_AT))?,
        lease_expires_at: None,
        kept_until: time(EXPIRES_AT, take(EXPIRES_AT))?.map(|end| end - KEEP_GENERATION),
        is_forgotten: state.as_deref() == Some(FORGOTTEN),
        members: BTreeMap::new(),
        cluster_uuid: text(CLUSTER_UUID, take(CLUSTER_UUID))?,
        // A hash that cannot be read must not let anyone in.
        secret: match bytes(SECRET_HASH, take(SECRET_HASH))? {
            None => None,
            Some(hash) => Some(SecretHash::from_bytes(&hash).ok_or(Unreadable(SECRET_HASH))?),
        },
    })
}

fn record_attributes(record: &Record) -> Vec<(&'static str, Option<AttributeValue>)> {
    let state = if record.is_forgotten { FORGOTTEN } else { record.state.as_str() };
    vec![
        (INITIAL_NODE, Some(string(&record.initial_node))),
        (RIVAL_NODE_UUID, record.rival_node_uuid.as_ref().map(string)),
        (STATE, Some(string(state))),
        (GENERATION, Some(count(record.generation))),
        (CLAIMED_AT, record.claimed_at.map(seconds)),
        (CLUSTER_UUID, record.cluster_uuid.as_ref().map(string)),
        (SECRET_HASH, record.secret.as_ref().map(|hash| binary(hash.as_bytes()))),
        (EXPIRES_AT, record.kept_until.map(expires_at)),
    ]
}

fn member(name: &'static str, value: AttributeValue) -> Result<Member, Unreadable> {
    let AttributeValue::M(mut member) = value else {
        return Err(Unreadable(name));
    };
    let mut hash = |name: &'static str| bytes(name, member.remove(name));
    let (authority, attestation) = (hash(AUTHORITY)?, hash(ATTESTATION)?);
    Ok(Member {
        reported_at: time(REPORTED_AT, member.remove(REPORTED_AT))?
            .ok_or(Unreadable(REPORTED_AT))?,
        node_uuid: text(NODE_UUID, member.remove(NODE_UUID))?,
        authority: authority
            .map(|hash| Fingerprint::from_bytes(&hash).ok_or(Unreadable(AUTHORITY)))
            .transpose()?,
        attestation: attestation
            .map(|proof| Attestation::from_bytes(&proof).ok_or(Unreadable(ATTESTATION)))
            .transpose()?,
    })
}

/// A member as an attribute's value.
pub fn member_attribute(member: &Member) -> AttributeValue {
    let attributes = [
        (REPORTED_AT, Some(seconds(member.reported_at))),
        (NODE_UUID, member.node_uuid.as_ref().map(string)),
        (AUTHORITY, member.authority.map(|hash| binary(hash.as_bytes()))),
        (ATTESTATION, member.attestation.map(|proof| binary(proof.as_bytes()))),
    ];
    let present =
        attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    AttributeValue::M(present.collect())
}

/// The time of [`EXPIRES_AT`] for a record that ends then.
pub fn expires_at(kept_until: Timestamp) -> AttributeValue {
    seconds(kept_until + KEEP_GENERATION)
}

/// A string.
pub fn string(text: impl AsRef<str>) -> AttributeValue {
    AttributeValue::S(text.as_ref().to_owned())
}

/// A number.
pub fn count(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// A time, as seconds since 1970.
pub fn seconds(time: Timestamp) -> AttributeValue {
    AttributeValue::N(time.as_second().to_string())
}

/// Bytes.
pub fn binary(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

fn text(name: &'static str, value: Option<AttributeValue>) -> Result<Option<String>, Unreadable> {
    match value {
        None => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text)),
        Some(_) => Err(Unreadable(name)),
    }
}

fn texts(value: Option<AttributeValue>) -> Result<Vec<String>, Unreadable> {
    const NAME: &str = PREVIOUS_INITIAL_NODES;
    match value {
        None => Ok(Vec::new()),
        Some(AttributeValue::L(values)) => values
            .into_iter()
            .map(|value| text(NAME, Some(value))?.ok_or(Unreadable(NAME)))
            .collect(),
        Some(_) => Err(Unreadable(NAME)),
    }
}

fn bytes(name: &'static str, value: Option<AttributeValue>) -> Result<Option<Vec<u8>>, Unreadable> {
    match value {
        None => Ok(None),
        Some(AttributeValue::B(bytes)) => Ok(Some(bytes.into_inner())),
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

/// Times a little inside of what [`Timestamp`] holds, so that the rules can add to them.
fn time(
    name: &'static str,
    value: Option<AttributeValue>,
) -> Result<Option<Timestamp>, Unreadable> {
    const LIMIT: i64 = 200_000_000_000;
    let seconds: Option<i64> = number(name, value)?;
    let valid = |seconds: i64| (-LIMIT..=LIMIT).contains(&seconds);
    seconds
        .map(|seconds| {
            let time = valid(seconds).then(|| Timestamp::from_second(seconds).ok());
            time.flatten().ok_or(Unreadable(name))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(attributes: &[(&str, AttributeValue)]) -> Item {
        attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn of_original(cluster: &str, node: &str) -> Record {
        Record {
            cluster_id: cluster.to_owned(),
            initial_node: node.to_owned(),
            initial_node_uuid: None,
            previous_initial_nodes: Vec::new(),
            rival_node_uuid: None,
            is_given_up: false,
            state: State::Claimed,
            generation: 1,
            claimed_at: None,
            lease_expires_at: None,
            kept_until: None,
            is_forgotten: false,
            members: BTreeMap::new(),
            cluster_uuid: None,
            secret: None,
        }
    }

    fn full() -> Record {
        let member = Member {
            reported_at: at(7),
            node_uuid: Some("n1".to_owned()),
            authority: Some(Fingerprint::of_certificate(b"authority")),
            attestation: Attestation::from_bytes(&[7; 32]),
        };
        let plain =
            Member { node_uuid: None, authority: None, attestation: None, ..member.clone() };
        Record {
            state: State::Ready,
            generation: 3,
            claimed_at: Some(at(0)),
            kept_until: Some(at(400 * 86_400)),
            rival_node_uuid: Some("r".to_owned()),
            is_given_up: false,
            members: BTreeMap::from([("a".to_owned(), member), ("b.example".to_owned(), plain)]),
            cluster_uuid: Some("u".to_owned()),
            secret: SecretHash::from_bytes(&[9; 32]),
            ..of_original("c", "a")
        }
    }

    fn with_key(key: &str, attributes: Vec<(&'static str, Option<AttributeValue>)>) -> Item {
        let present =
            attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let mut item: Item = present.collect();
        item.insert(CLUSTER_ID.to_owned(), string(key));
        item.insert(VERSION.to_owned(), count(5));
        item
    }

    #[test]
    fn a_row_of_the_original_is_a_claim_without_an_end() {
        let row = item(&[
            ("cluster_id", string("c")),
            ("initial_node_ip_addr_or_hostname", string("Node.Example.")),
        ]);
        let claim = ClaimItem::read(row).unwrap();
        assert_eq!(claim.record, of_original("c", "node.example"));
        assert_eq!((claim.version, claim.stored_initial_node.as_str()), (None, "Node.Example."));
        let odd = item(&[(CLUSTER_ID, string("c")), (INITIAL_NODE, string("not a node"))]);
        assert_eq!(ClaimItem::read(odd).unwrap().record.initial_node, "not a node");
    }

    #[test]
    fn items_are_read_as_they_were_written() {
        let record = Record {
            state: State::Claimed,
            initial_node_uuid: Some("n".to_owned()),
            previous_initial_nodes: vec!["y".to_owned(), "x".to_owned()],
            lease_expires_at: Some(at(60)),
            members: BTreeMap::new(),
            ..full()
        };
        let mut written = ClaimItem::new(record);
        written.copied_version = 4;
        written.first_member = Some(full().members["a"].clone());
        let read = ClaimItem::read(with_key("c", written.attributes())).unwrap();
        written.version = Some(5);
        assert_eq!(read, written);

        let item = with_key("members c", MembersItem::attributes(&full()));
        assert!(is_members_item(&item));
        let read = MembersItem::read(item).unwrap();
        assert_eq!((read.record, read.version), (full(), 5));

        let forgotten = cbbootstrap_protocol::rules::forget(full(), at(9));
        let attributes = ClaimItem::new(forgotten.clone()).attributes();
        let read = ClaimItem::read(with_key("c", attributes)).unwrap();
        let state = State::Claimed;
        assert_eq!(read.record, Record { state, ..forgotten });
    }

    #[test]
    fn a_members_item_counts_for_its_own_claim_only() {
        let claim = || {
            ClaimItem::new(Record {
                initial_node: "z".to_owned(),
                members: BTreeMap::new(),
                ..full()
            })
        };
        let merged = |members: Record| {
            let members = MembersItem { record: members, version: 1 };
            Items::of(claim(), Some(members)).record()
        };
        assert_eq!(merged(full()), full());
        for other in
            [Record { generation: 2, ..full() }, Record { claimed_at: Some(at(-1)), ..full() }]
        {
            assert_eq!(merged(other), claim().record);
        }
        assert!(merged(Record { is_forgotten: true, ..full() }).is_forgotten);
        let first = ClaimItem { first_member: Some(full().members["a"].clone()), ..claim() };
        let alone = Items::of(first, None).record();
        assert_eq!(alone.members.keys().collect::<Vec<_>>(), ["z"]);
    }

    #[test]
    fn an_item_of_another_form_is_an_error() {
        for (name, wrong) in [
            (INITIAL_NODE, count(1)),
            (STATE, string("half-ready")),
            (GENERATION, string("1")),
            (GENERATION, AttributeValue::N("-1".to_owned())),
            (LEASE_EXPIRES_AT, AttributeValue::N("1e99".to_owned())),
            (EXPIRES_AT, count(253_402_000_000)),
            (PREVIOUS_INITIAL_NODES, string("a")),
            (PREVIOUS_INITIAL_NODES, AttributeValue::L(vec![count(1)])),
            (INITIAL_NODE_UUID, count(1)),
            (RIVAL_NODE_UUID, count(1)),
            (FIRST_MEMBER, string("a")),
            (VERSION, string("1")),
            (CLUSTER_UUID, count(1)),
            (SECRET_HASH, string("hash")),
            (SECRET_HASH, binary(&[7; 31])),
        ] {
            let mut row = item(&[(CLUSTER_ID, string("c")), (INITIAL_NODE, string("n"))]);
            row.insert(name.to_owned(), wrong);
            assert_eq!(ClaimItem::read(row), Err(Unreadable(name)));
        }
        let row = item(&[(CLUSTER_ID, string("c"))]);
        assert_eq!(ClaimItem::read(row), Err(Unreadable(INITIAL_NODE)));

        for (name, wrong) in
            [(MEMBERS, string("a")), (VERSION, string("a")), (CLUSTER_ID, string("c"))]
        {
            let mut row = with_key("members c", MembersItem::attributes(&full()));
            row.insert(name.to_owned(), wrong);
            assert_eq!(MembersItem::read(row), Err(Unreadable(name)));
        }
        for (name, wrong) in [
            (REPORTED_AT, string("a")),
            (NODE_UUID, count(1)),
            (AUTHORITY, binary(&[1])),
            (ATTESTATION, binary(&[1])),
        ] {
            let AttributeValue::M(mut member) = member_attribute(&full().members["a"]) else {
                unreachable!()
            };
            member.insert(name.to_owned(), wrong);
            let members =
                AttributeValue::M(HashMap::from([("a".to_owned(), AttributeValue::M(member))]));
            let mut row = with_key("members c", MembersItem::attributes(&full()));
            row.insert(MEMBERS.to_owned(), members);
            assert_eq!(MembersItem::read(row), Err(Unreadable(name)));
        }
    }
}
