use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn id() -> ClusterId {
    ClusterId::new("c").unwrap()
}

fn claim(node: &str, lease: Option<u64>, now: i64) -> Claim {
    Claim {
        cluster_id: id(),
        node: Node::new(node).unwrap(),
        node_uuid: None,
        lease: lease.map(Duration::from_secs),
        secret: None,
        now: at(now),
    }
}

fn ready(node: &str, generation: Option<u64>, uuid: Option<&str>) -> Ready {
    Ready {
        cluster_id: id(),
        node: Node::new(node).unwrap(),
        node_uuid: None,
        generation,
        cluster_uuid: uuid.map(|uuid| Uuid::new(uuid).unwrap()),
        authority: None,
        attestation: None,
        secret: None,
        now: at(0),
    }
}

fn leave(node: &str, now: i64) -> Leave {
    Leave {
        cluster_id: id(),
        node: Node::new(node).unwrap(),
        node_uuid: None,
        generation: None,
        secret: None,
        now: at(now),
    }
}

fn claimed(lease: Option<u64>) -> Record {
    claim("a", lease, 0).on(None).unwrap().1
}

fn names(record: &Record) -> Vec<&str> {
    record.members.keys().map(String::as_str).collect()
}

fn with_members(members: &[&str]) -> Record {
    members.iter().fold(claimed(None), |record, member| {
        ready(member, Some(1), Some("u")).on(Some(record)).unwrap()
    })
}

#[test]
fn the_answer_depends_on_the_asking_node() {
    let [first, second] = ["a", "b"].map(|node| Node::new(node).unwrap());
    for (asking, is_initial_node) in [(Some(&first), true), (Some(&second), false), (None, true)] {
        assert_eq!(
            claimed(Some(60)).answer(asking, at(20)),
            Cluster {
                cluster_id: "c".to_owned(),
                initial_node_ip_addr_or_hostname: "a".to_owned(),
                is_initial_node,
                state: State::Claimed,
                generation: 1,
                lease_expires_at: Some(at(60)),
                lease_seconds_left: Some(40),
                previous_initial_nodes: Vec::new(),
                rival_node_uuid: None,
                nodes: Vec::new(),
                members: Vec::new(),
                cluster_uuid: None,
            },
            "{asking:?}"
        );
    }
    let answer = with_members(&["a", "c", "b"]).answer(Some(&second), at(0));
    assert_eq!(answer.nodes, ["a", "b", "c"], "sorted");
    assert_eq!(
        (answer.state, answer.lease_expires_at, answer.cluster_uuid),
        (State::Ready, None, Some("u".to_owned()))
    );
}

#[test]
fn a_claim_expires_only_with_a_lease() {
    for (lease, node, now, outcome, generation) in [
        (None, "a", 400 * 86_400, Claimed::Again, 1),
        (None, "b", 400 * 86_400, Claimed::Joined, 1),
        // No request for 400 days.
        (None, "b", 400 * 86_400 + 1, Claimed::First, 2),
        (Some(60), "b", 0, Claimed::Joined, 1),
        (Some(60), "b", 60, Claimed::Joined, 1),
        // Clocks differ.
        (Some(60), "b", 65, Claimed::Joined, 1),
        (Some(60), "b", 66, Claimed::Takeover, 2),
        (Some(60), "a", 65, Claimed::Again, 1),
        (Some(60), "a", 66, Claimed::Takeover, 2),
    ] {
        let claim = claim(node, Some(30), now);
        let (was, record) = claim.on(Some(claimed(lease))).unwrap();
        assert_eq!((was, record.generation), (outcome, generation), "{claim:?}");
        let is_initial = record.answer(Some(&claim.node), at(0)).is_initial_node;
        assert_eq!(is_initial, !matches!(outcome, Claimed::Joined), "{claim:?}");
    }
}

#[test]
fn ready_is_final() {
    let record = ready("a", None, None).on(Some(claimed(Some(60)))).unwrap();
    assert_eq!(record.state, State::Ready);
    let (outcome, after) = claim("b", Some(30), 1_000_000).on(Some(record.clone())).unwrap();
    assert_eq!((outcome, &after), (Claimed::Joined, &record));
    assert_eq!(ready("a", None, None).on(Some(after)).unwrap(), record, "again");
    // Late, and nobody has taken it over.
    let late = ready("a", Some(1), None).on(Some(claimed(Some(30))));
    assert_eq!(late.unwrap().state, State::Ready);
}

#[test]
fn reports_that_contradict_the_record_are_refused() {
    let (_, taken_over) = claim("b", None, 100).on(Some(claimed(Some(30)))).unwrap();
    let stale = Refusal::StaleGeneration { given: 1, current: 2 };
    let not_ready = |node: &str| Refusal::NotReady { initial_node: node.to_owned() };
    let other = Refusal::OtherCluster { given: "v".to_owned(), current: "u".to_owned() };
    let mut full = with_members(&["a"]);
    let member = full.members["a"].clone();
    full.members.extend((1..MAX_MEMBERS).map(|number| (format!("m{number}"), member.clone())));
    for (stored, report, expected) in [
        (None, ready("a", None, None), Refusal::NotFound),
        (Some(claimed(None)), ready("b", None, None), not_ready("a")),
        (Some(claimed(None)), ready("b", Some(1), Some("u")), not_ready("a")),
        (Some(taken_over.clone()), ready("a", Some(1), None), stale.clone()),
        (Some(taken_over.clone()), ready("b", Some(1), None), stale),
        (Some(taken_over), ready("a", None, None), not_ready("b")),
        (Some(with_members(&["a"])), ready("b", Some(1), Some("v")), other.clone()),
        (Some(with_members(&["a"])), ready("a", None, Some("v")), other),
        (Some(full.clone()), ready("b", None, None), Refusal::TooManyNodes),
    ] {
        assert_eq!(report.on(stored), Err(expected), "{report:?}");
    }
    let again = ready("m1", None, None).on(Some(full.clone()));
    assert_eq!(again, Ok(full), "a member may report again");
}

#[test]
fn another_member_takes_the_place_of_one_that_leaves() {
    let gone = |record: Record, node| leave(node, 0).on(Some(record));
    let members = || with_members(&["a", "b", "c"]);
    let left = gone(members(), "b").unwrap();
    assert_eq!(left.initial_node, "a");
    assert_eq!(names(&left), ["a", "c"]);
    assert_eq!(gone(left.clone(), "b"), Ok(left), "again");

    let left = gone(members(), "a").unwrap();
    assert_eq!((left.initial_node.as_str(), left.state), ("b", State::Ready));
    assert_eq!(names(&left), ["b", "c"]);
    assert_eq!(gone(left.clone(), "a"), Ok(left), "again");

    assert_eq!(gone(with_members(&["a"]), "a"), Err(Refusal::LastNode));
    assert_eq!(gone(members(), "x"), Ok(members()));
    assert_eq!(leave("a", 0).on(None), Err(Refusal::NotFound));
}

#[test]
fn a_leave_before_ready_gives_the_claim_up() {
    for lease in [None, Some(3600)] {
        let left = leave("a", 10).on(Some(claimed(lease))).unwrap();
        assert!(left.is_lapsed(at(10)) && left.state == State::Claimed);
        let (outcome, record) = claim("b", None, 10).on(Some(left)).unwrap();
        assert_eq!((outcome, record.generation), (Claimed::Takeover, 2));
    }
}

#[test]
fn the_secret_is_checked_first() {
    let hash = |secret: &str| Some(SecretHash::new(&id(), secret.as_bytes()));
    let mut open = claimed(Some(30));
    let mut closed = Record { secret: hash("right"), ..open.clone() };
    for state in [State::Claimed, State::Ready] {
        (open.state, closed.state) = (state, state);
        for (record, secret) in
            [(&closed, None), (&closed, hash("wrong")), (&closed, hash("")), (&open, hash("right"))]
        {
            let stored = || Some(record.clone());
            // Expired or not.
            for now in [0, 1_000_000] {
                let claim = Claim { secret: secret.clone(), ..claim("b", None, now) };
                assert_eq!(claim.on(stored()), Err(Refusal::Forbidden));
            }
            let ready = Ready { secret: secret.clone(), ..ready("x", Some(9), Some("v")) };
            assert_eq!(ready.on(stored()), Err(Refusal::Forbidden));
            let leave = Leave { secret: secret.clone(), ..leave("a", 0) };
            assert_eq!(leave.on(stored()), Err(Refusal::Forbidden));
            let shown = Record::shown_to(stored(), secret.as_ref(), at(0));
            assert_eq!(shown, Err(Refusal::Forbidden));
        }
        assert!(Record::shown_to(Some(closed.clone()), hash("right").as_ref(), at(0)).is_ok());
        assert!(Record::shown_to(Some(open.clone()), None, at(0)).is_ok());
    }
}

#[test]
fn digests_are_short_and_differ_between_clusters() {
    assert_eq!(id().digest(), "2e7d2c03");
    assert_ne!(ClusterId::new("d").unwrap().digest(), id().digest());
}

#[test]
fn a_takeover_notes_every_node_that_may_have_initialized() {
    let take = |node: &str, now, record| claim(node, Some(30), now).on(Some(record)).unwrap().1;
    let record = take("b", 100, claimed(Some(30)));
    assert_eq!(record.previous_initial_nodes, ["a"]);
    let record = take("c", 200, record);
    assert_eq!(record.previous_initial_nodes, ["b", "a"]);
    let record = take("a", 300, record);
    assert_eq!(record.previous_initial_nodes, ["c", "b"], "not itself");
    // A node that gives its claim up has not initialized its server.
    let given_up = leave("a", 301).on(Some(record.clone())).unwrap();
    assert!(given_up.is_given_up);
    // Also for a clock that is behind that of the leave.
    let record = take("d", 294, given_up.clone());
    assert_eq!(record.generation, given_up.generation + 1);
    // A report proves that it has initialized its server.
    let reported = ready("a", None, None).on(Some(given_up)).unwrap();
    assert!(!reported.is_given_up);
    assert_eq!(record.previous_initial_nodes, ["c", "b"]);
    assert!(!record.is_given_up);
    // No node is dropped from the list: takeovers end.
    let full = (0..6)
        .fold(record, |record, number| take(&format!("n{number}"), 400 + 100 * number, record));
    assert_eq!(full.previous_initial_nodes.len(), MAX_PREVIOUS);
    let one_more = claim("n6", Some(30), 2000).on(Some(full.clone()));
    assert_eq!(one_more, Err(Refusal::TooManyTakeovers));
    assert!(claim("n5", Some(30), 2000).on(Some(full.clone())).is_ok());
    let ready = ready("n5", None, None).on(Some(full)).unwrap();
    assert!(ready.previous_initial_nodes.is_empty());
}

#[test]
fn a_claim_after_an_expired_record_notes_its_nodes() {
    let late = 401 * 86_400;
    let after = |node: &str, record: Record| {
        let (outcome, after) = claim(node, Some(30), late).on(Some(record)).unwrap();
        assert_eq!((outcome, after.generation), (Claimed::First, 2));
        after.previous_initial_nodes
    };
    let members = || Record { initial_node: "b".to_owned(), ..with_members(&["a", "b", "c"]) };
    assert_eq!(after("d", claimed(None)), ["a"]);
    assert_eq!(after("d", members()), ["b", "a", "c"], "the node to join first");
    assert_eq!(after("b", members()), ["a", "c"], "a blank server of the same name");
    assert!(after("a", claimed(None)).is_empty(), "not itself");
    let odd = Record { initial_node: "not a node".to_owned(), ..claimed(None) };
    assert!(after("d", odd).is_empty());
    assert!(after("d", forget(members(), at(10))).is_empty());

    // A list that is too long is cut, because a refused claim would not keep the record.
    let mut many = members();
    let member = many.members["a"].clone();
    many.members.extend((0..MAX_PREVIOUS).map(|number| (format!("c{number}"), member.clone())));
    assert_eq!(after("d", many), ["b", "a", "c", "c0", "c1", "c2", "c3", "c4"]);
    let previous_initial_nodes = (0..MAX_PREVIOUS).map(|number| format!("n{number}")).collect();
    let taken_over = Record { previous_initial_nodes, ..claimed(None) };
    assert_eq!(after("d", taken_over), ["a", "n0", "n1", "n2", "n3", "n4", "n5", "n6"]);
}

#[test]
fn two_servers_with_one_name_are_distinguished() {
    let with_uuid = |uuid: &str, now| Claim {
        node_uuid: Some(Uuid::new(uuid).unwrap()),
        ..claim("a", Some(60), now)
    };
    let (_, record) = with_uuid("u1", 0).on(None).unwrap();
    let taken = || Refusal::NameTaken { node: "a".to_owned() };
    assert_eq!(with_uuid("u1", 1).on(Some(record.clone())).unwrap().0, Claimed::Again);
    assert_eq!(with_uuid("u2", 1).on(Some(record.clone())), Err(taken()));
    // A claim without a UUID is not checked, as in the original service.
    assert_eq!(claim("a", None, 1).on(Some(record.clone())).unwrap().0, Claimed::Again);
    let report = |uuid: &str| Ready {
        node_uuid: Some(Uuid::new(uuid).unwrap()),
        ..ready("a", Some(1), None)
    };
    assert_eq!(report("u2").on(Some(record.clone())), Err(taken()));
    // A stranger who has read the record neither reports for the node nor gives its claim up.
    let anonymous = ready("a", Some(1), None);
    assert_eq!(anonymous.on(Some(record.clone())), Err(taken()));
    let leaving = |uuid: Option<&str>| Leave {
        node_uuid: uuid.map(|uuid| Uuid::new(uuid).unwrap()),
        ..leave("a", 1)
    };
    for uuid in [None, Some("u2")] {
        assert_eq!(leaving(uuid).on(Some(record.clone())), Err(taken()));
    }
    assert!(leaving(Some("u1")).on(Some(record.clone())).is_ok());
    // The first learns of the second.
    let noted = with_uuid("u2", 1).noted_on(record);
    let asked = with_uuid("u1", 2).on(Some(noted.clone())).unwrap().1;
    assert_eq!(asked.rival_node_uuid.as_deref(), Some("u2"));
    assert_eq!(
        report("u1").on(Some(noted.clone())).unwrap().rival_node_uuid.as_deref(),
        Some("u2")
    );
    // But no other node is shown as its rival.
    let members = ready("b", Some(1), None).on(Some(report("u1").on(Some(noted.clone())).unwrap()));
    let left = leave("a", 3).on(members.ok()).unwrap();
    assert_eq!((left.initial_node.as_str(), left.rival_node_uuid), ("b", None));
    // Not the whole UUID, which would authorize calls for the second.
    let long = Record { rival_node_uuid: Some("0123456789abcdef".to_owned()), ..noted.clone() };
    let shown = long.answer(None, at(2)).rival_node_uuid;
    assert_eq!(shown.as_deref(), Some("01234567"));
    // After the lease the second may have the name.
    let (outcome, record) = with_uuid("u2", 100).on(Some(noted)).unwrap();
    assert_eq!((outcome, record.rival_node_uuid), (Claimed::Takeover, None));
}

#[test]
fn a_late_copy_of_a_leave_does_not_undo_a_newer_claim() {
    let (_, record) = claim("a", Some(30), 100).on(Some(claimed(Some(30)))).unwrap();
    assert_eq!(record.generation, 2);
    let late = Leave { generation: Some(1), ..leave("a", 101) };
    assert_eq!(
        late.on(Some(record.clone())),
        Err(Refusal::StaleGeneration { given: 1, current: 2 })
    );
    let own = Leave { generation: Some(2), ..leave("a", 101) };
    assert!(own.on(Some(record)).unwrap().is_lapsed(at(101)));
}

#[test]
fn a_forgotten_record_leaves_its_generation() {
    let gone = forget(with_members(&["a", "b"]), at(10));
    assert!(gone.is_gone(at(10)) && gone.members.is_empty() && gone.secret.is_none());
    assert_eq!(ready("a", Some(1), None).on(Some(gone.clone())), Err(Refusal::NotFound));
    assert_eq!(leave("a", 11).on(Some(gone.clone())), Err(Refusal::NotFound));
    assert_eq!(Record::shown_to(Some(gone.clone()), None, at(11)), Err(Refusal::NotFound));
    let secret = Some(SecretHash::new(&id(), b"a new one"));
    let (outcome, record) = Claim { secret, ..claim("c", None, 11) }.on(Some(gone)).unwrap();
    assert_eq!((outcome, record.generation, record.state), (Claimed::First, 2, State::Claimed));
    // The old generation is refused.
    assert!(ready("c", Some(1), None).on(Some(record)).is_err());
}

#[test]
fn records_expire_without_requests() {
    let day = 86_400;
    for record in [claimed(None), with_members(&["a"])] {
        assert_eq!(record.kept_until, Some(at(400 * day)));
        assert!(!record.is_gone(at(400 * day)) && record.is_gone(at(400 * day + 1)));
        assert_eq!(record.renewal(at(day - 1)), None, "at most once a day");
        assert_eq!(record.renewal(at(day)), Some(at(401 * day)));
    }
    // A claim that expired is kept while nodes ask, with the nodes that may have initialized.
    let leased = claimed(Some(30));
    let given_up = leave("a", 36).on(Some(leased.clone())).unwrap();
    for record in [leased, given_up] {
        assert_eq!(record.kept_until, Some(at(30 + 7 * day)));
        assert_eq!(record.renewal(at(29 + day)), None, "at most once a day");
        assert_eq!(record.renewal(at(30 + day)), Some(at(30 + 8 * day)));
        assert_eq!(record.renewal(at(60 * day)), Some(at(67 * day)), "it never ends");
    }
    let of_old = Record { kept_until: None, ..claimed(None) };
    assert!(!of_old.is_gone(at(1_000_000_000)), "rows of the original have no end");
    assert_eq!(of_old.renewal(at(0)), Some(at(400 * day)));
    assert_eq!(forget(of_old, at(0)).renewal(at(0)), None);
}

#[test]
fn claims_that_are_refused_keep_the_nodes_of_earlier_ones() {
    let previous_initial_nodes = (0..MAX_PREVIOUS).map(|number| format!("n{number}")).collect();
    let full = Record { previous_initial_nodes, ..claimed(Some(30)) };
    let refused = |now| claim("b", Some(30), now).change(Some(full.clone())).unwrap();
    assert_eq!(refused(100), (Err(Refusal::TooManyTakeovers), full.clone()));
    let late = 30 * 86_400;
    let renewed = Record { kept_until: Some(at(late + 7 * 86_400)), ..full.clone() };
    assert_eq!(refused(late), (Err(Refusal::TooManyTakeovers), renewed));
}

#[test]
fn answers_contain_attestations() {
    let authority = Fingerprint::of_certificate(b"authority");
    let attestation = Attestation::from_bytes(&[7; 32]);
    let report =
        Ready { authority: Some(authority), attestation, ..ready("a", Some(1), Some("u")) };
    let record = report.on(Some(claimed(None))).unwrap();
    let answer = record.answer(None, at(5));
    assert_eq!(answer.members[0].authority_sha256, Some(authority.to_string()));
    assert_eq!(answer.members[0].attestation, Some("07".repeat(32)));
    assert_eq!(answer.members[0].reported_at, at(0));
    // A later report replaces the earlier one.
    let again = Ready { now: at(9), ..ready("a", Some(1), Some("u")) };
    let record = again.on(Some(report.on(Some(claimed(None))).unwrap())).unwrap();
    assert_eq!((record.members["a"].reported_at, record.members["a"].attestation), (at(9), None));
}

#[test]
fn the_end_of_the_calendar_is_not_exceeded() {
    let now = Timestamp::MAX;
    for lease in [None, Some(60)] {
        let claim = Claim { now, ..claim("a", lease, 0) };
        let (_, record) = claim.on(None).unwrap();
        assert_eq!(record.renewal(now), None, "{record:?}");
        assert!(!record.is_lapsed(now) && !record.is_gone(now), "{record:?}");
        let ready = Ready { now, ..ready("a", None, None) }.on(Some(record)).unwrap();
        assert_eq!(ready.kept_until, Some(now));
    }
    assert_eq!(later(at(0), Duration::from_secs(1)), at(1));
}

#[test]
fn claims_of_smoke_tests_are_hidden_and_kept_for_an_hour() {
    let smoke_test = |lease| Claim {
        cluster_id: ClusterId::new("cbbootstrap-smoke-1").unwrap(),
        ..claim("a", lease, 0)
    };
    // When DynamoDB may delete the record.
    let deleted_at = |record: &Record| record.kept_until.unwrap() + KEEP_GENERATION;
    let hour = SignedDuration::from_hours(1);
    let (_, claimed) = smoke_test(Some(60)).on(None).unwrap();
    assert!(claimed.is_smoke_test());
    assert_eq!(deleted_at(&claimed), at(60) + hour);
    let leave = Leave { cluster_id: smoke_test(None).cluster_id, ..leave("a", 10) };
    let given_up = leave.on(Some(claimed.clone())).unwrap();
    assert!(given_up.is_smoke_test());
    assert!(deleted_at(&given_up) <= at(10) + hour);

    // A cluster that is ready is kept, whatever its ID.
    let ready = Ready { cluster_id: smoke_test(None).cluster_id, ..ready("a", None, Some("u")) };
    let stored = ready.on(Some(claimed)).unwrap();
    assert!(!stored.is_smoke_test());
    assert_eq!(stored.kept_until, Some(at(0) + KEEP_UNASKED));
    assert!(!smoke_test(None).on(None).unwrap().1.is_smoke_test());
    assert!(!self::claimed(Some(60)).is_smoke_test());
}
