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
        generation: 1,
        ..Record::default()
    }
}

fn full() -> Record {
    let member = Member {
        reported_at: at(7),
        node_uuid: Some("n1".to_owned()),
        authority: Some(Fingerprint::of_certificate(b"authority")),
        attestation: Attestation::from_bytes(&[7; 32]),
    };
    let plain = Member { node_uuid: None, authority: None, attestation: None, ..member.clone() };
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
            rival_node_uuid: None,
            members: BTreeMap::new(),
            ..full()
        })
    };
    let merged = |members: Record| {
        let members = MembersItem { record: members, version: 1 };
        Items::new(claim(), Some(members)).record()
    };
    assert_eq!(merged(full()), full());
    for other in [Record { generation: 2, ..full() }, Record { claimed_at: Some(at(-1)), ..full() }]
    {
        assert_eq!(merged(other), claim().record);
    }
    assert!(merged(Record { is_forgotten: true, ..full() }).is_forgotten);
    let first = ClaimItem { first_member: Some(full().members["a"].clone()), ..claim() };
    let alone = Items::new(first, None).record();
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

    for (name, wrong) in [(MEMBERS, string("a")), (VERSION, string("a")), (CLUSTER_ID, string("c"))]
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
        let AttributeValue::M(mut member) = member_value(&full().members["a"]) else {
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
