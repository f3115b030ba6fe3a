use cbbootstrap_function::item::Unreadable;
use cbbootstrap_protocol::rules::{Member, Record};

use super::*;
use crate::{
    commands::launch::{HAS_OPTION, tests::args},
    exit::Exit,
    stack::tests::stack,
    template::{self, CLUSTER_TEMPLATE},
};

/// The stack of an API.
fn api(table: &str) -> Stack {
    let mut api = stack("CREATE_COMPLETE", table);
    api.outputs.insert("Endpoint".to_owned(), "https://api".to_owned());
    api
}

fn launch<'a>(args: &'a LaunchArgs, api: &'a Stack) -> ClusterStack<'a> {
    let defaults = template::defaults(CLUSTER_TEMPLATE).unwrap();
    ClusterStack { args, stack_name: "couchbase-my", api, defaults }
}

fn values(options: &[&str], api: &Stack, before: Option<&Stack>) -> BTreeMap<String, String> {
    launch(&args(options), api).parameters(before, "bucket".to_owned(), "key".to_owned()).unwrap()
}

/// A cluster with this member.
fn begun(member: &str) -> Known {
    Known::Begun { members: vec![member.to_owned()] }
}

#[test]
fn a_cluster_has_begun_once_a_node_is_ready() {
    let now: Timestamp = "2026-11-27T03:00:00Z".parse().unwrap();
    let row = |record| Some(Row { cluster_id: "c".to_owned(), record });
    let claimed = Record { lease_expires_at: Some(now), ..Record::default() };
    let member = Member { reported_at: now, node_uuid: None, authority: None, attestation: None };
    let members = [("a".to_owned(), member)].into();
    let ready = Record { state: State::Ready, members, ..Record::default() };
    let forgotten = Record { is_forgotten: true, ..ready.clone() };
    for (row, expected) in [
        (None, Known::Unclaimed),
        (row(Ok(forgotten)), Known::Unclaimed),
        (row(Ok(claimed)), Known::Claimed),
        (row(Ok(ready)), begun("a")),
        (row(Err(Unreadable("state"))), Known::Begun { members: vec![] }),
    ] {
        assert_eq!(Known::new(row.clone(), now), expected, "{row:?}");
    }
}

#[test]
fn every_parameter_has_a_value() {
    let mut api = api("t");
    let default = values(&[], &api, None);
    for (name, value) in [
        ("ApiEndpoint", "https://api"),
        ("SubnetIds", "subnet-1,subnet-2"),
        ("NodeCount", "3"),
        ("ApiId", "*"),
        ("ApiAuthorizationType", "NONE"),
        ("AgentKey", "key"),
        ("AgentKmsKeyArn", ""),
        ("InstanceType", "m6i.xlarge"),
    ] {
        assert_eq!(default[name], value, "{name}");
    }
    let without_value = |(name, _): &&(&str, &str)| !default.contains_key(*name);
    assert_eq!(HAS_OPTION.iter().find(without_value), None);

    api.parameters.insert("AuthorizationType".to_owned(), "AWS_IAM".to_owned());
    api.parameters.insert("KmsKeyArn".to_owned(), "arn:k".to_owned());
    api.outputs.insert("ApiId".to_owned(), "abc".to_owned());
    let other = values(&["--arch=arm64", "--nodes=5", "--parameter=Services=data"], &api, None);
    for (name, value) in [
        ("NodeCount", "5"),
        ("Services", "data"),
        ("ApiId", "abc"),
        ("AgentKmsKeyArn", "arn:k"),
        ("ApiAuthorizationType", "AWS_IAM"),
        ("InstanceType", "m7g.xlarge"),
    ] {
        assert_eq!(other[name], value, "{name}");
    }
    assert!(other["ImageId"].ends_with("arm64"));
    let chosen = values(&["--arch=arm64", "--parameter=InstanceType=r7g.large"], &api, None);
    assert_eq!(chosen["InstanceType"], "r7g.large");
}

#[test]
fn omitted_options_keep_the_values_of_the_stack() {
    let api = api("t");
    let mut before = stack("UPDATE_COMPLETE", "t");
    before.parameters = values(
        &["--nodes=5", "--parameter=DataVolumeSize=1000", "--parameter=Edition=community"],
        &api,
        None,
    );
    before.parameters.insert("Former".to_owned(), "x".to_owned());
    let after = values(&["--parameter=Services=data"], &api, Some(&before));
    for (name, value) in [
        ("NodeCount", "5"),
        ("DataVolumeSize", "1000"),
        ("Edition", "community"),
        ("Services", "data"),
    ] {
        assert_eq!(after[name], value, "{name}");
    }
    assert!(!after.contains_key("Former"));
    assert_eq!(values(&["--nodes=3"], &api, Some(&before))["NodeCount"], "3");
}

#[test]
fn the_key_of_the_archive_is_that_of_its_bucket() {
    let mut api = api("t");
    api.parameters.insert("KmsKeyArn".to_owned(), "arn:api".to_owned());
    let before = |options: &[&str]| Stack {
        parameters: values(options, &api, None),
        ..stack("UPDATE_COMPLETE", "t")
    };
    let (bucket, key) = ("--bucket=theirs", "--parameter=AgentKmsKeyArn=arn:theirs");
    let (own, theirs) = (before(&[]), before(&[bucket, key]));
    for (options, before, expected) in [
        (&[][..], None, "arn:api"),
        (&[], Some(&theirs), "arn:api"),
        (&[bucket], None, ""),
        (&[bucket, key], None, "arn:theirs"),
        (&[bucket], Some(&theirs), "arn:theirs"),
        (&[bucket, key], Some(&own), "arn:theirs"),
    ] {
        assert_eq!(values(options, &api, before)["AgentKmsKeyArn"], expected, "{options:?}");
    }
}

#[test]
fn only_the_clusters_own_stack_is_changed() {
    use StackAction::{Create, Replace, Update};
    let api = api("t");
    let mut own = stack("CREATE_COMPLETE", "t");
    own.parameters = values(&[], &api, None);
    let mut other = own.clone();
    other.parameters.insert("ClusterId".to_owned(), "other".to_owned());
    let empty = Stack { parameters: BTreeMap::new(), ..stack("REVIEW_IN_PROGRESS", "t") };
    let (claimed, denied, unclaimed) = (Known::Claimed, Known::Denied, Known::Unclaimed);
    for (options, before, action, known, expected) in [
        (&[][..], None, Create, unclaimed.clone(), Ok(())),
        (&[], None, Create, denied.clone(), Ok(())),
        (&[], None, Create, claimed.clone(), Err(Exit::NeedsDecision)),
        (&[], None, Create, begun("a"), Err(Exit::NeedsDecision)),
        (&[], Some(&empty), Create, unclaimed.clone(), Ok(())),
        (&[], Some(&own), Replace, unclaimed.clone(), Ok(())),
        (&[], Some(&own), Replace, begun("a"), Err(Exit::NeedsDecision)),
        (&[], Some(&own), Update, begun("a"), Ok(())),
        (&[], Some(&other), Update, begun("a"), Err(Exit::NeedsDecision)),
        (&[], Some(&other), Replace, unclaimed.clone(), Err(Exit::NeedsDecision)),
        (&[], Some(&api), Update, begun("a"), Err(Exit::NeedsDecision)),
        (&["--arch=arm64"], Some(&own), Replace, unclaimed.clone(), Ok(())),
        (&["--vpc=vpc-2"], Some(&own), Replace, unclaimed.clone(), Ok(())),
        (&["--vpc=vpc-2"], Some(&own), Update, begun("a"), Err(Exit::Usage)),
    ] {
        let args = args(options);
        let checked = launch(&args, &api).check(before, action, &known);
        let checked = checked.map_err(|failure| failure.exit);
        assert_eq!(checked, expected, "{options:?} {action:?} {known:?}");
    }
}

#[test]
fn nodes_are_not_replaced_by_a_second_cluster() {
    use StackAction::{ContinueRollback, RollBack, Update, Wait};
    let with_id = |id: &str| {
        let mut api = api("t");
        api.outputs.insert("ApiId".to_owned(), id.to_owned());
        api
    };
    let (same, other, older) = (with_id("a1"), with_id("a2"), api("t"));
    let mut domain = with_id("a1");
    domain.outputs.insert("Endpoint".to_owned(), "https://own".to_owned());
    let mut other_older = api("t");
    other_older.outputs.insert("Endpoint".to_owned(), "https://other".to_owned());
    let adopt = Some("up --adopt");
    let elsewhere = Some("the nodes use https://api; choose");
    for (before, api, action, known, hint) in [
        (&same, &same, Update, begun("a"), None),
        // A new domain, and a new API on the same table.
        (&same, &domain, Update, begun("a"), None),
        (&same, &other, Update, begun("a"), None),
        (&same, &same, Update, Known::Unclaimed, adopt),
        (&same, &same, Update, Known::Claimed, adopt),
        (&same, &domain, Update, Known::Unclaimed, adopt),
        (&same, &other, Update, Known::Unclaimed, elsewhere),
        (&same, &other, RollBack, Known::Unclaimed, elsewhere),
        (&same, &other, ContinueRollback, Known::Unclaimed, elsewhere),
        (&older, &same, Update, Known::Unclaimed, adopt),
        // Another deployment is still creating the nodes.
        (&same, &same, Wait, Known::Unclaimed, None),
        (&same, &same, Update, Known::Denied, None),
        (&same, &domain, Update, Known::Denied, None),
        (&same, &other, Update, Known::Denied, elsewhere),
        (&older, &same, Update, Known::Denied, None),
        (&same, &older, Update, Known::Denied, None),
        (&older, &other_older, Update, Known::Denied, elsewhere),
    ] {
        let mut stack = stack("UPDATE_COMPLETE", "t");
        stack.parameters = values(&[], before, None);
        let args = args(&[]);
        let checked = launch(&args, api).check(Some(&stack), action, &known);
        let failure = checked.err();
        let actual = failure.as_ref().and_then(|failure| failure.hint.as_deref());
        assert_eq!(actual.is_some(), hint.is_some(), "{action:?} {known:?}: {failure:?}");
        let (Some(failure), Some(hint)) = (&failure, hint) else { continue };
        assert!(failure.hint.as_ref().unwrap().contains(hint), "{failure:?}");
        assert_eq!(failure.exit, Exit::NeedsDecision);
    }
}

#[test]
fn another_processor_needs_an_image_and_instance_types() {
    let api = api("t");
    let with = |options: &[&str]| Stack {
        parameters: values(options, &api, None),
        ..stack("UPDATE_COMPLETE", "t")
    };
    let image = "--parameter=ImageId=/i";
    let server = "--parameter=InstanceType=t";
    let gateway = "--parameter=SyncGatewayInstanceType=t";
    let (some, none) = ("--parameter=SyncGatewayNodes=2", "--parameter=SyncGatewayNodes=0");
    let (without, with_gateway) = (with(&[]), with(&[some]));
    for (options, before, is_enough) in [
        (&[][..], &without, false),
        (&[image], &without, false),
        (&[image, server], &without, true),
        (&[image, server, some], &without, false),
        (&[image, server, some, gateway], &without, true),
        (&[image, server], &with_gateway, false),
        (&[image, server, gateway], &with_gateway, true),
        (&[image, server, none], &with_gateway, true),
    ] {
        let options = [&["--arch=arm64"], options].concat();
        let args = args(&options);
        let checked = launch(&args, &api).check(Some(before), StackAction::Update, &begun("a"));
        assert_eq!(checked.is_ok(), is_enough, "{options:?}");
        let Err(failure) = checked else { continue };
        let hint = failure.hint.unwrap();
        let has_gateway = options.contains(&some) || (before.parameters == with_gateway.parameters);
        assert_eq!(hint.contains("`SyncGatewayInstanceType`"), has_gateway, "{hint}");
        assert_eq!(failure.exit, Exit::Usage);
    }
    // The type for the former processor, from before the switch.
    let mut switched = with(&["--arch=arm64"]);
    switched.parameters.insert("SyncGatewayInstanceType".to_owned(), "m6i.large".to_owned());
    let after = values(&["--arch=arm64", some], &api, Some(&switched));
    assert_eq!(after["SyncGatewayInstanceType"], "m7g.large");
}

#[test]
fn the_order_of_subnets_is_that_of_the_stack() {
    let with = |subnets: &str| {
        let mut stack = stack("CREATE_COMPLETE", "t");
        stack.parameters.insert("SubnetIds".to_owned(), subnets.to_owned());
        stack
    };
    for (given, before, expected) in [
        (&["b", "a", "b"][..], None, "b,a"),
        (&["b", "a", "b"], Some(with("a,b")), "a,b"),
        (&["b", "a", "c"], Some(with("a,b")), "b,a,c"),
        (&["b"], Some(with("a,b")), "b"),
        (&["b"], Some(stack("CREATE_COMPLETE", "t")), "b"),
    ] {
        let given: Vec<_> = given.iter().map(|subnet| (*subnet).to_owned()).collect();
        assert_eq!(subnets(&given, before.as_ref()), expected, "{given:?}");
    }
}

#[test]
fn the_command_that_forgets_names_the_table_and_where_it_is() {
    let api = api("clusters of a");
    for (options, expected) in [
        (&[][..], "cbbootstrap cluster forget --table-name 'clusters of a' my_cluster"),
        (
            &["--env=prod", "--region=eu-west-1", "--profile=ops"],
            "cbbootstrap cluster forget --env prod --region eu-west-1 --profile ops --table-name 'clusters of a' my_cluster",
        ),
    ] {
        let args = args(options);
        let launch = launch(&args, &api);
        assert_eq!(launch.forget_command(), expected);
        let refused = launch.check(None, StackAction::Create, &begun("a")).unwrap_err();
        let hint = refused.hint.unwrap();
        assert!(hint.contains(&format!("`{expected}`")), "{hint}");
    }
}
