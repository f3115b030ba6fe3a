use super::*;

#[test]
fn services_are_parsed_by_either_name() {
    let services: Services = "n1ql, data,index,kv".parse().unwrap();
    assert_eq!(services.codes(), "kv,index,n1ql");
    assert_eq!(services.to_string(), "data,index,query");
    for bad in ["", "data,", "bogus", "Data"] {
        assert!(bad.parse::<Services>().is_err(), "{bad:?}");
    }
}

#[test]
fn interval_has_bounds() {
    for (text, expected) in [
        ("50ms", Some(50)),
        ("2s", Some(2_000)),
        ("1m", Some(60_000)),
        ("60s", Some(60_000)),
        ("49ms", None),
        ("0s", None),
        ("61s", None),
        ("2", None),
    ] {
        let expected = expected.map(Duration::from_millis);
        assert_eq!(interval(text).ok(), expected, "{text:?}");
    }
}

#[test]
fn quota_is_megabytes_a_percentage_or_auto() {
    for (text, expected) in [
        ("auto", Some(Quota::Auto)),
        ("256", Some(Quota::Megabytes(256))),
        ("80%", Some(Quota::Percent(80))),
        ("100%", Some(Quota::Percent(100))),
        ("255", None),
        ("0%", None),
        ("101%", None),
        ("-5%", None),
        ("+80%", None),
        ("80 percent", None),
        ("", None),
        ("%", None),
        ("8000000000000000000000", None),
    ] {
        assert_eq!(text.parse::<Quota>().ok(), expected, "{text:?}");
    }
}

/// The server of the recordings has 25276514304 bytes, and allowed 23081 MB.
#[test]
fn quota_must_fit_the_node() {
    let memory = 25_276_514_304;
    let index_and_search = 1024;
    assert_eq!(Quota::Auto.megabytes(memory, 0), Ok(19284));
    assert_eq!(Quota::Auto.megabytes(memory, index_and_search), Ok(19284 - 1024));
    assert_eq!(Quota::Percent(50).megabytes(memory, 0), Ok(12052));
    assert_eq!(Quota::Megabytes(23081).megabytes(memory, 0), Ok(23081));
    for (quota, others, memory) in [
        (Quota::Megabytes(23082), 0, memory),
        (Quota::Megabytes(23081), index_and_search, memory),
        (Quota::Percent(100), 0, memory),
        (Quota::Percent(1), 0, 1 << 30),
        (Quota::Auto, index_and_search, 1 << 30),
        (Quota::Auto, u64::MAX, memory),
        (Quota::Megabytes(256), u64::MAX, memory),
    ] {
        assert!(quota.megabytes(memory, others).is_err(), "{quota:?}");
    }
    // A small node: 80 % of it.
    assert_eq!(Quota::Auto.megabytes(1 << 30, 0), Ok(819));
}

#[test]
fn bucket_has_a_name_a_quota_and_perhaps_replicas() {
    let bucket =
        |name: &str, quota, replicas| BucketSpec { name: name.to_owned(), quota, replicas };
    for (text, expected) in [
        ("app:256", Some(bucket("app", 256, None))),
        ("my.app-1_%:100:2", Some(bucket("my.app-1_%", 100, Some(2)))),
        // In a list, `app:256, other:256`.
        (" app:256 ", Some(bucket("app", 256, None))),
        ("app", None),
        ("app:99", None),
        ("app:256:4", None),
        ("app:256:1:1", None),
        (":256", None),
        (".app:256", None),
        ("a b:256", None),
        ("app:lots", None),
    ] {
        assert_eq!(text.parse::<BucketSpec>().ok(), expected, "{text:?}");
    }
}

#[test]
fn lease_is_within_the_limits_of_the_api() {
    for (text, expected) in [
        ("never", Some(Lease(None))),
        ("30s", Some(Lease(Some(Duration::from_secs(30))))),
        ("24h", Some(Lease(Some(Duration::from_hours(24))))),
        ("29s", None),
        ("25h", None),
        ("30", None),
    ] {
        assert_eq!(text.parse::<Lease>().ok(), expected, "{text:?}");
    }
}

#[test]
fn cluster_id_follows_the_rules_of_the_api() {
    let longest = "x".repeat(1024);
    for (text, valid) in [
        ("demo", true),
        ("arn:aws:x:eu-west-1:1:group/a+b=", true),
        (longest.as_str(), true),
        (&format!("{longest}x"), false),
        ("a b", false),
        ("a\n", false),
        ("", false),
    ] {
        assert_eq!(cluster_id(text).is_ok(), valid, "{text:?}");
    }
}

#[test]
fn node_is_an_address_or_a_full_name() {
    for (text, expected) in [
        ("10.0.0.1", Some("10.0.0.1")),
        ("127.5.0.9", Some("127.5.0.9")),
        ("fd00:0::0001", Some("fd00::1")),
        ("cb-0.cb.default.svc.cluster.local", Some("cb-0.cb.default.svc.cluster.local")),
        ("couchbase-0", None),
        ("couchbase-0.", None),
        (".example.com", None),
        ("a..b", None),
        ("https://10.0.0.1", None),
        ("10.0.0.1:8091", None),
        ("a b.c", None),
        ("", None),
        ("127.0.0.1", None),
        ("::1", None),
        ("0.0.0.0", None),
        ("::", None),
        ("localhost", None),
        ("localhost.localdomain", None),
        ("cb1.localhost", None),
        ("LOCALHOST.", None),
    ] {
        assert_eq!(node(text).ok().as_ref().map(Node::as_str), expected, "{text:?}");
    }
}
