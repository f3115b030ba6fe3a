//! `cluster`: the records of a table in AWS and of a local deployment, listed, shown and forgotten.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use cbbootstrap_protocol::names::is_hidden;
use cbbootstrap_tests::{
    artifact,
    cli::{Ended, User},
    http,
    local::Local,
    ministack::MiniStack,
    proxy::{Fault, Proxy},
    terminal::Terminal,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::tempdir;

/// Ids that a shell, a URL or a terminal would take for something else.
const ODD: [&str; 9] = [
    "arn:aws:ec2:us-east-1:123456789012:vpc/vpc-1?x=%2F",
    "it's",
    "$HOME`id`\"\\",
    "-dash",
    "größe/日本",
    "two words",
    "bad\u{1b}[31m\n'red'\\",
    "\u{9b}2J",
    "evil\u{202e}gnp.\u{200b}\u{2028}",
];

/// The stand-in with a table and these items, each a Python expression.
fn stand_in(items: &[&str]) -> MiniStack {
    let aws = MiniStack::start();
    make_table(&aws, "cb-bootstrap", "cluster_id");
    put(&aws, &format!("[{}]", items.join(", ")));
    aws
}

fn make_table(aws: &MiniStack, name: &str, key: &str) {
    aws.boto(&format!(
        "client('dynamodb').create_table(TableName='{name}', BillingMode='PAY_PER_REQUEST', \
         KeySchema=[{{'AttributeName': '{key}', 'KeyType': 'HASH'}}], \
         AttributeDefinitions=[{{'AttributeName': '{key}', 'AttributeType': 'S'}}])"
    ));
}

/// Puts the items of a Python list.
fn put(aws: &MiniStack, items: &str) {
    aws.boto(&format!(
        "(lambda db: [db.put_item(TableName='cb-bootstrap', Item=item) and None for item in {items}])(client('dynamodb'))"
    ));
}

/// An item as the original service wrote it.
fn original(id: &str) -> String {
    format!(
        "{{'cluster_id': {{'S': {}}}, 'initial_node_ip_addr_or_hostname': {{'S': 'a'}}}}",
        json!(id)
    )
}

/// An item with everything.
const FULL: &str = "{'cluster_id': {'S': 'full'}, 'initial_node_ip_addr_or_hostname': {'S': '10.0.0.1'}, 'state': {'S': 'ready'}, \
     'generation': {'N': '3'}, 'claimed_at': {'N': '1700000000'}, 'version': {'N': '2'}, 'cluster_uuid': {'S': 'uu-id'}, 'secret_hash': {'B': b'0123456789abcdef0123456789abcdef'}}";

/// Its members.
const MEMBERS: &str = "{'cluster_id': {'S': 'members full'}, 'initial_node_ip_addr_or_hostname': {'S': '10.0.0.1'}, \
     'state': {'S': 'ready'}, 'generation': {'N': '3'}, 'claimed_at': {'N': '1700000000'}, 'version': {'N': '2'}, \
     'cluster_uuid': {'S': 'uu-id'}, 'secret_hash': {'B': b'0123456789abcdef0123456789abcdef'}, 'members': {'M': { \
     '10.0.0.2': {'M': {'reported_at': {'N': '1700000030'}}}, \
     '10.0.0.1': {'M': {'reported_at': {'N': '1700000020'}, 'node_uuid': {'S': 'n-1'}, \
     'attestation': {'B': b'0123456789abcdef0123456789abcdef'}}}}}}";

/// One whose lease ended long ago.
const LAPSED: &str = "{'cluster_id': {'S': 'lapsed'}, 'initial_node_ip_addr_or_hostname': {'S': 'a'}, 'state': {'S': 'claimed'}, \
     'generation': {'N': '2'}, 'claimed_at': {'N': '1700000000'}, 'lease_expires_at': {'N': '1700000060'}}";

/// An item that is not a record.
const UNREADABLE: &str = "{'cluster_id': {'S': 'unreadable'}, 'state': {'S': 'half-ready'}, \
     'initial_node_ip_addr_or_hostname': {'S': '\\x1b]0;owned\\x07'}}";

fn cluster(user: &User, args: &[&str]) -> Ended {
    let ended = user.run(&[&["cluster"], args].concat());
    for text in [&ended.stdout, &ended.stderr] {
        // Of the secrets here: the hash as it is, in hexadecimal and in base64, and the secret.
        for secret in ["0123456789abcdef", "3031323334", "MDEyMzQ1", "open-sesame"] {
            assert!(!text.contains(secret), "{ended}");
        }
    }
    ended
}

fn listed(user: &User, options: &[&str]) -> Value {
    let list = ["list", "--output", "json"];
    cluster(user, &[&list, options].concat()).document()
}

fn ids(listed: &Value) -> Vec<String> {
    let clusters = listed["clusters"].as_array().unwrap().iter();
    clusters.map(|cluster| cluster["cluster_id"].as_str().unwrap().to_owned()).collect()
}

/// The options of the command for the next page, as a shell reads what is on stderr.
fn pasted(ended: &Ended) -> Vec<String> {
    let command = ended.stderr.strip_prefix("There are more: cbbootstrap cluster ");
    let command = command.unwrap_or_else(|| panic!("no next page is named\n{ended}"));
    let output = Command::new("bash")
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .args(["-c", &format!("printf '%s\\0' {command}")])
        .output()
        .unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    words.split_terminator('\0').map(str::to_owned).collect()
}

/// A result without account, identity, region and environment.
fn without_origin(mut document: Value) -> Value {
    for field in ["account", "identity", "region", "environment"] {
        assert!(document.as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    document
}

#[test]
fn a_table_is_listed_page_by_page() {
    let aws = stand_in(&[]);
    let user = aws.user();
    let empty = cluster(&user, &["list"]).ended_with(0);
    assert_eq!(
        (empty.stdout.as_str(), empty.stderr.as_str()),
        ("No clusters in table `cb-bootstrap`\n", "")
    );
    let document = without_origin(listed(&user, &[]));
    assert_eq!(document, json!({"table": "cb-bootstrap", "clusters": [], "next": null}));

    // More than a megabyte, which is what DynamoDB looks at in one call.
    put(
        &aws,
        "[{'cluster_id': {'S': 'c%03d' % number}, 'initial_node_ip_addr_or_hostname': {'S': 'a'}, \
         'padding': {'S': 'x' * 9000}} for number in range(250)]",
    );
    let expected: BTreeSet<_> = (0..250).map(|number| format!("c{number:03}")).collect();
    let all = listed(&user, &["--all"]);
    assert_eq!(all["next"], Value::Null);
    let order = ids(&all);
    assert_eq!(order.len(), 250);
    assert_eq!(order.iter().cloned().collect::<BTreeSet<_>>(), expected);

    let first = listed(&user, &[]);
    assert_eq!(ids(&first), order[..100], "a hundred by default");
    assert_eq!(first["next"], json!(order[99]));
    let second = listed(&user, &["--limit", "150", "--after", &order[99]]);
    assert_eq!(ids(&second), order[100..]);
    assert_eq!(second["next"], Value::Null, "a page that ends the table");
    let rest = listed(&user, &["--all", "--after", &order[9]]);
    assert_eq!(ids(&rest), order[10..]);
    let none = listed(&user, &["--after", &order[249]]);
    assert_eq!(none["clusters"], json!([]));

    // From page to page as a person goes: by pasting.
    let mut seen = Vec::new();
    let mut ended = cluster(&user, &["list", "--limit", "120"]);
    loop {
        let lines = ended.stdout.lines().skip(1);
        seen.extend(lines.map(|line| line.split("  ").next().unwrap().to_owned()));
        if ended.stderr.is_empty() {
            break;
        }
        let words = pasted(&ended);
        ended = cluster(&user, &words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(seen, order);

    // A reader that has had enough.
    let mut child = user.command(&["cluster", "list", "--all"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_long_list_is_printed_while_it_is_read() {
    let aws = stand_in(&[]);
    put(
        &aws,
        "[{'cluster_id': {'S': 'c%03d' % number}, 'initial_node_ip_addr_or_hostname': {'S': 'a'}} for number in range(350)]",
    );
    let order = ids(&listed(&aws.user(), &["--all"]));
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    for options in [&["--all"][..], &["--limit=300"]] {
        let fails = || {
            let mut reads = 0;
            proxy.fault(move |call| {
                reads += u8::from(call.name == "dynamodb:Scan");
                (reads == 3).then(|| Fault::denied(call))
            });
        };
        fails();
        let text = cluster(&user, &[&["list"], options].concat()).ended_with(1);
        let lines = text.stdout.lines().skip(1);
        let shown: Vec<_> = lines.map(|line| line.split("  ").next().unwrap()).collect();
        assert_eq!(shown, order[..200], "{text}");
        let hint = format!(
            "the list continues with `cbbootstrap cluster list --table-name cb-bootstrap {} --after={}`",
            options[0], order[199]
        );
        assert!(text.stderr.contains(&hint), "{text}");

        fails();
        let list = [&["list", "--output", "json"], options].concat();
        let json = cluster(&user, &list).ended_with(1);
        let document: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(ids(&document), order[..200], "{json}");
        assert_eq!(document["next"], json!(order[199]), "it is not complete");
        assert_eq!(document["region"], "us-east-1");
        assert!(json.stderr.contains(&hint), "{json}");
    }

    // A reader that has had enough ends the calls.
    proxy.reset();
    for format in ["text", "json"] {
        let before = proxy.count("dynamodb:Scan");
        let list = ["cluster", "list", "--all", "--output", format];
        let mut child = user.command(&list).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(proxy.count("dynamodb:Scan") - before, 1, "{format}");
    }
}

#[test]
fn unusual_ids_and_rows_are_listed() {
    let rows: Vec<_> = ODD.iter().map(|id| original(id)).collect();
    let mut items: Vec<_> = rows.iter().map(String::as_str).collect();
    items.extend([FULL, MEMBERS, LAPSED, UNREADABLE]);
    let aws = stand_in(&items);
    let user = aws.user();

    let list = listed(&user, &[]);
    let found: BTreeSet<_> = ids(&list).into_iter().collect();
    assert!(ODD.iter().all(|id| found.contains(*id)), "{list}");
    assert_eq!(found.len(), ODD.len() + 3);
    let of = |id: &str| {
        let mut clusters = list["clusters"].as_array().unwrap().iter();
        clusters.find(|cluster| cluster["cluster_id"] == id).unwrap()
    };
    let error = "the item's attribute `state` is missing or has the wrong type";
    assert_eq!(of("unreadable"), &json!({"cluster_id": "unreadable", "error": error}));
    assert_eq!(of("lapsed")["lapsed"], json!(true), "{list}");
    assert_eq!(of("full")["nodes"], json!(["10.0.0.1", "10.0.0.2"]));

    let text = cluster(&user, &["list"]).ended_with(0);
    let harmless = |text: &str| {
        let visible = |c: char| " \n".contains(c) || !is_hidden(c);
        text.chars().all(visible)
    };
    assert!(harmless(&text.stdout), "{text}");
    for line in [
        "unreadable: the item's attribute `state` is missing",
        "full ",
        "2023-11-14T22:14:20Z (lapsed)",
        "bad\\u{1b}[31m\\n'red'\\",
    ] {
        assert!(text.stdout.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(text.stdout.lines().count(), ODD.len() + 4, "{text}");

    // Each is found, however it is spelled, and the page after it, too.
    for id in ODD {
        let shown = cluster(&user, &["show", "--output", "json", "--", id]).document();
        assert_eq!(shown["cluster_id"], json!(id));
        let shown = cluster(&user, &["show", "--", id]).ended_with(0);
        assert!(harmless(&shown.stdout), "{shown}");
    }
    let mut seen = BTreeSet::new();
    let mut words = vec!["list".to_owned(), "--limit=1".to_owned()];
    loop {
        let args: Vec<_> = words.iter().map(String::as_str).collect();
        seen.extend(ids(&listed(&user, &args[1..])));
        let text = cluster(&user, &args).ended_with(0);
        assert!(harmless(&text.stderr), "{text}");
        if text.stderr.is_empty() {
            break;
        }
        words = pasted(&text);
    }
    assert_eq!(seen, found);

    // An item that is not a record can still be deleted.
    let ended = cluster(&user, &["show", "unreadable"]);
    ended.failed(1, error);
    let ended = cluster(&user, &["forget", "unreadable"]).ended_with(2);
    assert!(ended.stderr.contains(error), "{ended}");
    let forget = ["forget", "--yes", "--output", "json", "unreadable"];
    let forgotten = without_origin(cluster(&user, &forget).document());
    assert_eq!(
        forgotten,
        json!({"table": "cb-bootstrap", "forgotten": true, "cluster_id": "unreadable", "error": error})
    );
}

#[test]
fn a_cluster_is_shown_with_everything_but_its_secret() {
    let aws = stand_in(&[FULL, MEMBERS, LAPSED, &original("old")]);
    let user = aws.user();
    let shown =
        |id: &str| without_origin(cluster(&user, &["show", "--output", "json", id]).document());
    assert_eq!(
        shown("full"),
        json!({
            "table": "cb-bootstrap",
            "cluster_id": "full",
            "digest": "a18b869b",
            "state": "ready",
            "generation": 3,
            "initial_node_ip_addr_or_hostname": "10.0.0.1",
            "claimed_at": "2023-11-14T22:13:20Z",
            "lease_expires_at": null,
            "lapsed": false,
            "nodes": ["10.0.0.1", "10.0.0.2"],
            "members": [
                {"node": "10.0.0.1", "reported_at": "2023-11-14T22:13:40Z", "node_uuid": "n-1", "attested": true},
                {"node": "10.0.0.2", "reported_at": "2023-11-14T22:13:50Z", "attested": false},
            ],
            "cluster_uuid": "uu-id",
            "secret_required": true,
            "kept_until": null,
        })
    );
    let lapsed = shown("lapsed");
    assert_eq!(
        [&lapsed["lapsed"], &lapsed["lease_expires_at"], &lapsed["secret_required"]],
        [&json!(true), &json!("2023-11-14T22:14:20Z"), &json!(false)]
    );
    let old = shown("old");
    assert_eq!(
        [&old["state"], &old["generation"], &old["claimed_at"]],
        [&json!("claimed"), &json!(1), &Value::Null]
    );
    let text = cluster(&user, &["show", "full"]).ended_with(0).stdout;
    for line in [
        "State:        ready",
        "Members:      10.0.0.1 (reported 2023-11-14T22:13:40Z",
        "Secret:       required",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    cluster(&user, &["show", "nobody"])
        .failed(1, "there is no cluster `nobody` in table `cb-bootstrap`");
    cluster(&user, &["show", ""]).failed(2, "CLUSTER_ID");
}

fn stands(aws: &MiniStack, id: &str) -> bool {
    let got = format!(
        "client('dynamodb').get_item(TableName='cb-bootstrap', Key={{'cluster_id': {{'S': '{id}'}}}})\
         .get('Item', {{'state': {{'S': 'forgotten'}}}}).get('state', {{}}).get('S') != 'forgotten'"
    );
    aws.boto(&got) == json!(true)
}

#[test]
fn forgetting_asks_for_confirmation() {
    let aws = stand_in(&[FULL, MEMBERS, LAPSED, &original("old")]);
    let user = aws.user();
    let ended = cluster(&user, &["forget", "full"]);
    ended.failed(2, "stdin is not a terminal: Forget cluster `full`");
    assert!(ended.stderr.contains("Generation:   3"), "it is shown: {ended}");
    let mut terminal = Terminal::start(&user, &["cluster", "forget", "full"]);
    terminal.wait_for("[y/N]");
    terminal.type_line("n");
    assert_eq!(terminal.wait(), Some(4), "{}", terminal.screen());
    let mut terminal = Terminal::start(&user, &["cluster", "forget", "full"]);
    terminal.wait_for("[y/N]");
    terminal.press_ctrl_c();
    assert_eq!(terminal.wait(), Some(4), "{}", terminal.screen());
    assert!(stands(&aws, "full"));

    let mut terminal = Terminal::start(&user, &["cluster", "forget", "full"]);
    terminal.wait_for("[y/N]");
    terminal.type_line("y");
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.screen());
    assert!(
        terminal.transcript().contains("Cluster full is forgotten"),
        "{}",
        terminal.transcript()
    );
    assert!(!stands(&aws, "full"));

    let forget = ["forget", "--yes", "--output", "json", "old"];
    let forgotten = cluster(&user, &forget).document();
    assert_eq!(
        [&forgotten["forgotten"], &forgotten["cluster_id"], &forgotten["generation"]],
        [&json!(true), &json!("old"), &json!(1)]
    );
    let again = cluster(&user, &forget).document();
    assert_eq!([&again["forgotten"], &again["state"]], [&json!(false), &json!("forgotten")]);
    cluster(&user, &["forget", "--yes", "nobody"]).failed(1, "there is no cluster `nobody`");
    assert!(stands(&aws, "lapsed"), "no other is touched");
}

#[test]
fn a_member_of_a_table_is_forgotten_but_not_the_last() {
    let aws = stand_in(&[FULL, MEMBERS, LAPSED, UNREADABLE]);
    let user = aws.user();
    let ended = cluster(&user, &["forget-member", "full", "10.0.0.1"]);
    ended.failed(2, "stdin is not a terminal: Forget member `10.0.0.1` of cluster `full`");
    assert!(ended.stderr.contains("10.0.0.2 (reported"), "it is shown: {ended}");

    let forget = ["forget-member", "--yes", "--output", "json", "full"];
    let forgotten = cluster(&user, &with(&forget, &["10.0.0.1"])).document();
    assert_eq!(
        [&forgotten["forgotten"], &forgotten["node"], &forgotten["nodes"]],
        [&json!(true), &json!("10.0.0.1"), &json!(["10.0.0.1", "10.0.0.2"])]
    );
    let again = cluster(&user, &with(&forget, &["10.0.0.1"])).document();
    assert_eq!([&again["forgotten"], &again["nodes"]], [&json!(false), &json!(["10.0.0.2"])]);
    assert_eq!(again["initial_node_ip_addr_or_hostname"], json!("10.0.0.2"));

    let last = cluster(&user, &with(&forget, &["10.0.0.2"]));
    last.failed(5, "`10.0.0.2` is the last member of cluster `full`");
    let hint = "`cbbootstrap cluster forget --table-name cb-bootstrap full`";
    assert!(last.stderr.contains(hint), "{last}");
    let none = cluster(&user, &["forget-member", "--yes", "lapsed", "A"]).ended_with(0);
    assert_eq!(none.stdout, "a is not a member in the record of lapsed\n");
    let shown = cluster(&user, &["show", "lapsed", "--output", "json"]).document();
    assert_eq!(shown["lease_expires_at"], json!("2023-11-14T22:14:20Z"), "it keeps its claim");
    for (args, status, message) in [
        (["nobody", "a"], 1, "there is no cluster `nobody`"),
        (["unreadable", "a"], 1, "the record of cluster `unreadable` cannot be read"),
        (["full", "not a node"], 2, "must be a host name"),
    ] {
        cluster(&user, &with(&["forget-member", "--yes"], &args)).failed(status, message);
    }
}

#[test]
fn a_record_that_changes_before_it_is_forgotten_is_kept() {
    let aws = Arc::new(stand_in(&[]));
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    let forget = ["forget", "--yes", "c"];
    // A takeover, readiness, a new claim after someone else forgot the cluster, and one of a row of the original service.
    for (item, change) in [
        (LAPSED, "SET generation = :v', ExpressionAttributeValues={':v': {'N': '3'}}"),
        (
            LAPSED,
            "SET #s = :v', ExpressionAttributeNames={'#s': 'state'}, ExpressionAttributeValues={':v': {'S': 'ready'}}",
        ),
        (LAPSED, "SET claimed_at = :v', ExpressionAttributeValues={':v': {'N': '1700000001'}}"),
        ("", "SET claimed_at = :v', ExpressionAttributeValues={':v': {'N': '1700000000'}}"),
        (
            "",
            "SET initial_node_ip_addr_or_hostname = :v', ExpressionAttributeValues={':v': {'S': 'b'}}",
        ),
    ] {
        let item = if item.is_empty() { original("c") } else { item.replace("'lapsed'", "'c'") };
        put(&aws, &format!("[{item}]"));
        let update = format!(
            "client('dynamodb').update_item(TableName='cb-bootstrap', Key={{'cluster_id': {{'S': 'c'}}}}, \
             UpdateExpression='{change})"
        );
        let changing = Arc::clone(&aws);
        let mut reads = 0;
        proxy.fault(move |call| {
            reads += u8::from(call.name == "dynamodb:BatchGetItem");
            // Between the read that is shown and the one that is acted on.
            if call.name == "dynamodb:BatchGetItem" && reads == 2 {
                changing.boto(&update);
            }
            None
        });
        let ended = cluster(&user, &forget);
        ended.failed(5, "has changed since it was read; nothing was forgotten");
        assert!(stands(&aws, "c"), "{change}");
    }

    // Someone else forgets it, too; and an answer is lost.
    let deleting = Arc::clone(&aws);
    let mut reads = 0;
    proxy.fault(move |call| {
        reads += u8::from(call.name == "dynamodb:BatchGetItem");
        if call.name == "dynamodb:BatchGetItem" && reads == 2 {
            deleting.boto("client('dynamodb').delete_item(TableName='cb-bootstrap', Key={'cluster_id': {'S': 'c'}})");
        }
        None
    });
    cluster(&user, &forget).ended_with(0);
    put(&aws, &format!("[{}]", original("c")));
    proxy.fault_on("dynamodb:UpdateItem", 1, Fault::DropAnswer);
    cluster(&user, &forget).ended_with(0);
    assert!(!stands(&aws, "c"));
}

fn with<'a>(command: &[&'a str], options: &[&'a str]) -> Vec<&'a str> {
    [command, options].concat()
}

#[test]
fn errors_name_their_cause() {
    let aws = stand_in(&[FULL, MEMBERS]);
    make_table(&aws, "others", "id");
    let (proxy, place) = (Proxy::start(&aws), tempdir().unwrap());
    let user = || proxy.user();
    let commands = [
        &["list"][..],
        &["show", "full"],
        &["forget", "--yes", "full"],
        &["forget-member", "--yes", "full", "10.0.0.1"],
    ];
    for command in commands {
        cluster(&user(), &with(command, &["--table-name", "missing"]))
            .failed(1, "there is no table `missing` in us-east-1");
        cluster(&user().without("AWS_ACCESS_KEY_ID"), command)
            .failed(1, "there are no AWS credentials");
        cluster(&user(), &with(command, &["--table-name", "no good"])).failed(2, "'no good'");
        cluster(&user(), &with(command, &["--env", "prod"])).failed(2, "environment `prod`");
        cluster(&user(), &with(command, &["--local", "--region", "us-east-1"]))
            .failed(2, "--region");
        cluster(&user(), &with(command, &["--local", "--env", "prod"])).failed(2, "--env");
        let nothing = place.path().display().to_string();
        cluster(&user(), &with(command, &["--local", "--data", &nothing])).failed(1, &nothing);
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "none is made");
    for (command, call) in
        commands.into_iter().zip(["Scan", "BatchGetItem", "UpdateItem", "UpdateItem"])
    {
        let call = format!("dynamodb:{call}");
        let denied = call.clone();
        proxy.fault(move |call| (call.name == denied).then(|| Fault::denied(call)));
        cluster(&user(), command).failed(1, &call);
    }
    proxy.reset();
    for command in &commands[1..] {
        cluster(&user(), &with(command, &["--table-name", "others"])).failed(1, "table `others`");
    }
    aws.boto("client('dynamodb').put_item(TableName='others', Item={'id': {'S': 'x'}})");
    cluster(&user(), &["list", "--table-name", "others"])
        .failed(1, "table `others` has an item without a cluster ID");

    // The table is the environment's, and a variable or an option beats that.
    let settled = user();
    fs::write(
        settled.home.path().join("cbbootstrap.yaml"),
        "environments: {dev: {table_name: missing, region: eu-central-1}}",
    )
    .unwrap();
    let settled = settled.without("AWS_REGION").with("CBBOOTSTRAP_ENV", "dev");
    cluster(&settled, &["list"]).failed(1, "there is no table `missing` in eu-central-1");
    let named = settled.with("CBBOOTSTRAP_TABLE_NAME", "gone");
    cluster(&named, &["list"]).failed(1, "there is no table `gone`");
    let list = listed(&named, &["--table-name", "cb-bootstrap", "--region", "us-east-1"]);
    assert_eq!(ids(&list), ["full"]);
}

/// Options for the deployment of a directory.
fn local(data: &Path) -> Vec<String> {
    vec!["--local".to_owned(), "--data".to_owned(), data.display().to_string()]
}

fn locally(data: &Path, args: &[&str]) -> Ended {
    let options = local(data);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    // An account, an environment and a broken file are nothing to it.
    let user = User::default().with("CBBOOTSTRAP_ENV", "nowhere");
    cluster(&user, &[args, &options].concat())
}

#[test]
fn local_clusters_are_listed_whether_or_not_the_server_runs() {
    let data = tempdir().unwrap();
    let data = data.path();
    let running = Local::with(data, &["--no-smoke"]);
    let list = ["list", "--output", "json"];
    assert_eq!(locally(data, &list).document()["clusters"], json!([]));
    for number in 0..3 {
        http::claim(&running.endpoint, &format!("c{number}"), "a").unwrap();
    }
    let body =
        json!({"cluster_id": "closed", "node_ip_addr_or_hostname": "a", "lease_seconds": 3600});
    let answer = ureq::post(format!("{}/cluster", running.endpoint))
        .header("authorization", "Bearer open-sesame")
        .send(body.to_string());
    assert_eq!(answer.unwrap().status(), 200);

    let see = || {
        let document = locally(data, &list).document();
        let mut found = ids(&document);
        found.sort();
        assert_eq!(found, ["c0", "c1", "c2", "closed"]);
        let shown = locally(data, &["show", "closed", "--output", "json"]).document();
        assert_eq!([&shown["secret_required"], &shown["lapsed"]], [&json!(true), &json!(false)]);
        let text = locally(data, &["list", "--limit", "2"]).ended_with(0);
        let words = pasted(&text);
        let rest = locally_pasted(&words);
        assert_eq!(rest.stdout.lines().count(), 3, "{rest}");
        locally(data, &["show", "nobody"]).failed(1, "there is no cluster `nobody`");
        locally(data, &["list", "--table-name", "other"]).failed(2, "--table-name");
    };
    see();
    // A forgotten cluster can be claimed again.
    let claim = |node: &str| http::claim(&running.endpoint, "c2", node).unwrap().json();
    assert_eq!(claim("b")["is_initial_node"], json!(false));
    locally(data, &["forget", "c2"]).failed(2, "not a terminal");
    locally(data, &["forget", "c2", "--yes"]).ended_with(0);
    let again = claim("b");
    assert_eq!(
        [&again["is_initial_node"], &again["generation"]],
        [&json!(true), &json!(2)],
        "the generation does not go back"
    );

    let mut running = running;
    assert_eq!(running.stop("TERM"), Some(0));
    see();
    // Side by side they take turns.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| locally(data, &list).document());
        }
    });
    locally(data, &["forget", "c2", "--yes"]).ended_with(0);
    let again = locally(data, &["forget", "c2"]).ended_with(0);
    assert_eq!(again.stdout, "Cluster c2 was already forgotten\n");
    let shown = locally(data, &["show", "c2", "--output", "json"]).document();
    assert_eq!([&shown["state"], &shown["generation"]], [&json!("forgotten"), &json!(2)]);
    let text = locally(data, &["list"]).ended_with(0).stdout;
    assert!(text.contains("forgotten"), "{text}");
}

#[test]
fn a_local_member_is_forgotten_while_the_server_runs() {
    let data = tempdir().unwrap();
    let data = data.path();
    let running = Local::start(data);
    http::claim(&running.endpoint, "c", "a").unwrap();
    for node in ["a", "b"] {
        let ready = json!({"cluster_id": "c", "node_ip_addr_or_hostname": node}).to_string();
        assert_eq!(http::post(&running.endpoint, "/cluster/ready", &ready).unwrap().status, 200);
    }
    locally(data, &["forget-member", "c", "a"]).failed(2, "not a terminal");
    let forgotten = locally(data, &["forget-member", "c", "a", "--yes"]).ended_with(0);
    assert_eq!(forgotten.stdout, "a is no longer a member in the record of c\n");
    let left = http::get(&running.endpoint, "/cluster/c").unwrap().json();
    assert_eq!(
        [&left["nodes"], &left["initial_node_ip_addr_or_hostname"]],
        [&json!(["b"]), &json!("b")]
    );
    locally(data, &["forget-member", "c", "b", "--yes"]).failed(5, "is the last member");
}

#[test]
fn results_show_directories_whose_names_are_not_text() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let parent = tempdir().unwrap();
    let data = parent.path().join(OsStr::from_bytes(b"gr\xf6sse"));
    let shown = json!(parent.path().join("gr\u{fffd}sse").display().to_string());
    let user = User::default();
    let run = |args: &[&str]| {
        let mut args: Vec<_> = args.iter().map(OsStr::new).collect();
        args.extend([OsStr::new("--output=json"), OsStr::new("--data"), data.as_os_str()]);
        user.run(&args)
    };
    let deployed = run(&["deploy", "--local", "--exit", "--port", "0"]).ended_with(0).document();
    assert_eq!(deployed["data"], shown);
    let listed = run(&["cluster", "list", "--local"]).ended_with(0).document();
    assert_eq!([&listed["data"], &listed["clusters"]], [&shown, &json!([])]);
}

fn locally_pasted(words: &[String]) -> Ended {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    cluster(&User::default(), &words)
}

#[test]
fn a_local_deployment_can_start_during_a_confirmation() {
    let data = tempdir().unwrap();
    let data = data.path();
    let mut running = Local::start(data);
    http::claim(&running.endpoint, "c", "a").unwrap();
    running.stop("TERM");

    let user = User::default();
    let args: Vec<_> =
        ["cluster", "forget", "c"].map(str::to_owned).into_iter().chain(local(data)).collect();
    let mut terminal = Terminal::start(&user, &args);
    terminal.wait_for("[y/N]");
    let running = Local::start(data);
    let ready = json!({"cluster_id": "c", "node_ip_addr_or_hostname": "a"}).to_string();
    let ready = http::post(&running.endpoint, "/cluster/ready", &ready).unwrap();
    assert_eq!(ready.status, 200, "{ready:?}");
    terminal.type_line("y");
    assert_eq!(terminal.wait(), Some(5), "{}", terminal.screen());
    let stands = http::get(&running.endpoint, "/cluster/c").unwrap().json();
    assert_eq!(stands["state"], json!("ready"), "{stands}");
}

#[test]
fn listing_survives_deployments_that_start_and_stop() {
    let data = tempdir().unwrap();
    let data = data.path();
    let mut running = Local::start(data);
    http::claim(&running.endpoint, "c", "a").unwrap();
    running.stop("KILL");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let found = locally(data, &["show", "c", "--output", "json"]).document();
                    assert_eq!(found["generation"], json!(1));
                }
            });
        }
        for signal in ["TERM", "KILL", "INT"] {
            let mut running = Local::start(data);
            let again = http::claim(&running.endpoint, "c", "b").unwrap().json();
            assert_eq!(again["is_initial_node"], json!(false));
            running.stop(signal);
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// The ids in the list and in the list with those of smoke tests.
fn listed_ids(user: &User, options: &[&str]) -> [Vec<String>; 2] {
    [&[][..], &["--all"]].map(|all| ids(&listed(user, &[options, all].concat())))
}

#[test]
fn the_smoke_test_leaves_no_records_in_the_table() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    let nothing: [Vec<String>; 2] = Default::default();
    let deployed = user.deploy_and_smoke(artifact::zip(), &["--yes"]).document();
    assert_eq!(deployed["smoke"]["passed"], json!(true), "{deployed}");
    assert_eq!(listed_ids(&user, &[]), nothing);
    user.run(&["smoke"]).ended_with(0);
    assert_eq!(listed_ids(&user, &[]), nothing);
    assert_eq!(proxy.count("dynamodb:DeleteItem"), 6);

    // Without the permission, records stay for a while, and only `--all` lists them.
    proxy.fault(|call| (call.name == "dynamodb:DeleteItem").then(|| Fault::denied(call)));
    let before = Timestamp::now().as_second();
    user.run(&["smoke"]).ended_with(0);
    let [shown, all] = listed_ids(&user, &[]);
    assert!(shown.is_empty() && all.len() == 3, "{all:?}");
    let ends = aws.boto(
        "[int(item['expires_at']['N']) for item in client('dynamodb').scan(TableName='cb-bootstrap')['Items']]",
    );
    let ends: Vec<_> = ends.as_array().unwrap().iter().map(|end| end.as_i64().unwrap()).collect();
    assert!(ends.iter().all(|end| *end < before + 2 * 3600), "{before}: {ends:?}");

    // They take no place in a page.
    put(&aws, &format!("[{}]", original("mine")));
    assert_eq!(ids(&listed(&user, &["--limit", "1"])), ["mine"]);
    assert_eq!(listed(&user, &["--limit", "1"])["next"], Value::Null);
}

#[test]
fn smoke_tests_of_others_are_not_seen_on_this_machine() {
    let data = tempdir().unwrap();
    let directory = data.path().display().to_string();
    let local = ["--local", "--data", &directory];
    let user = User::default();
    let server = Local::start(data.path());
    let nothing: [Vec<String>; 2] = Default::default();
    assert_eq!(listed_ids(&user, &local), nothing, "`deploy --local` tests, too");
    drop(server);

    let server = Local::serve(data.path(), &["--metrics"]);
    user.run(&["smoke", &server.endpoint]).ended_with(0);
    let [shown, all] = listed_ids(&user, &local);
    assert!(shown.is_empty() && all.len() == 3, "{all:?}");
    let metrics = http::get(&server.endpoint, "/metrics").unwrap().body;
    assert!(metrics.contains("outcome=\"smoke_test\""), "{metrics}");
    for outcome in ["claimed", "takeover", "joined", "left"] {
        assert!(!metrics.contains(&format!("outcome=\"{outcome}\"")), "{metrics}");
    }

    // A cluster that is ready is shown, whatever its id.
    let id = "cbbootstrap-smoke-not";
    http::claim(&server.endpoint, id, "a").unwrap();
    let body = json!({"cluster_id": id, "node_ip_addr_or_hostname": "a"}).to_string();
    assert_eq!(http::post(&server.endpoint, "/cluster/ready", &body).unwrap().status, 200);
    assert_eq!(listed_ids(&user, &local)[0], [id]);
}
