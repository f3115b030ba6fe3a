//! The API's own domain name: created, called, changed and removed.

use cbbootstrap_tests::{artifact, http, ministack::MiniStack, proxy::Proxy};
use serde_json::{Value, json};

const CERTIFICATE: &str = "arn:aws:acm:us-east-1:000000000000:certificate/c";

/// A name that never resolves.
const DOMAIN: &str = "api.cbbootstrap.invalid";

const OPTIONS: [&str; 4] = ["--domain", DOMAIN, "--certificate-arn", CERTIFICATE];

fn domains(aws: &MiniStack) -> Value {
    aws.boto(
        "[[d['DomainName'], d['DomainNameConfigurations'][0]['CertificateArn'], \
         d['DomainNameConfigurations'][0]['EndpointType'], d['DomainNameConfigurations'][0]['SecurityPolicy'], \
         d['DomainNameConfigurations'][0]['IpAddressType'], \
         [m['ApiMappingKey'] for m in client('apigatewayv2').get_api_mappings(DomainName=d['DomainName'])['Items']]] \
         for d in client('apigatewayv2').get_domain_names()['Items']]",
    )
}

fn domain(name: &str, key: &str) -> Value {
    json!([[name, CERTIFICATE, "REGIONAL", "TLS_1_2", "dualstack", [key]]])
}

/// The records of a zone, apart from those of the zone itself.
fn records(aws: &MiniStack, zone: &str) -> Value {
    aws.boto(&format!(
        "[[r['Name'], r['Type'], r['AliasTarget']['DNSName']] for r in client('route53')\
         .list_resource_record_sets(HostedZoneId='{zone}')['ResourceRecordSets'] if 'AliasTarget' in r]"
    ))
}

/// Claims a cluster through the domain, as API Gateway routes by the host name.
fn claim(aws: &MiniStack, path: &str, cluster: &str) -> u16 {
    let port = aws.url.rsplit(':').next().unwrap();
    let body = json!({"cluster_id": cluster, "node_ip_addr_or_hostname": "a"}).to_string();
    http::post(&format!("http://{DOMAIN}:{port}"), path, &body).unwrap().status
}

#[test]
fn wrong_domain_options_are_refused_before_any_call() {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    let zip = artifact::small_zip();
    let elsewhere = CERTIFICATE.replace("us-east-1", "eu-west-1");
    let domain = ["--domain", DOMAIN];
    for (options, message) in [
        (&domain[..], "`--domain` needs `--certificate-arn`"),
        (&["--certificate-arn", CERTIFICATE], "`--certificate-arn` needs `--domain`"),
        (&["--base-path", "v1"], "`--base-path` needs `--domain`"),
        (&["--hosted-zone", "Z1"], "`--hosted-zone` needs `--domain`"),
        (&["--domain", "https://api.example.com"], "such as api.example.com"),
        (&[domain[0], domain[1], "--certificate-arn", "c"], "acm:REGION:ACCOUNT:certificate/ID"),
        (
            &[domain[0], domain[1], "--certificate-arn", &elsewhere],
            "the certificate is in eu-west-1, but the stack is in us-east-1",
        ),
        (&["--base-path", "cluster/v1"], "the first segment of a base path"),
        (&["--hosted-zone", "/hostedzone/Z1"], "capital letters and digits"),
    ] {
        for command in ["deploy", "plan"] {
            user.run(&[&[command, "--function-zip", zip], options].concat()).failed(2, message);
        }
    }
    let calls = proxy.calls();
    assert!(calls.is_empty(), "{calls:?}");
}

#[test]
fn a_domain_without_a_zone_leaves_the_record_to_the_user() {
    let aws = MiniStack::start();
    let user = aws.user();
    let path = ["--base-path", "/v1/"];
    // The name does not resolve, so the smoke test calls the other endpoint.
    let ended = user.deploy_and_smoke(artifact::zip(), &[&OPTIONS[..], &path].concat());
    let deployed = ended.document();
    assert_eq!(deployed["endpoint"], format!("https://{DOMAIN}/v1"), "{deployed}");
    let target = deployed["dns_record"]["target"].as_str().unwrap();
    assert!(target.starts_with("d-") && target.contains(".execute-api."), "{deployed}");
    assert_eq!(deployed["dns_record"]["name"], DOMAIN, "{deployed}");
    assert_eq!(deployed["smoke"]["passed"], true, "{deployed}");
    let default = deployed["smoke"]["endpoint"].as_str().unwrap();
    assert!(!default.contains(DOMAIN), "{deployed}");
    assert!(ended.stderr.contains(&format!("`{DOMAIN}` does not resolve")), "{ended}");

    assert_eq!(domains(&aws), domain(DOMAIN, "v1"));
    assert_eq!(claim(&aws, "/v1/cluster", "c"), 200);
    assert_ne!(claim(&aws, "/cluster", "c"), 200, "there is no mapping for it");
    let joined = http::claim(default, "c", "b").unwrap().json();
    assert_eq!(joined["initial_node_ip_addr_or_hostname"], "a", "both endpoints have one API");

    let args = [&["deploy", "--function-zip", artifact::zip()], &OPTIONS[..], &path].concat();
    let text = user.run(&args).ended_with(0);
    let record = format!("DNS:      the endpoint needs the record `{DOMAIN} CNAME {target}`");
    assert!(text.stdout.contains(&record), "{text}");
    let status = user.run(&["status", "--output", "json"]).document();
    for key in ["endpoint", "dns_record"] {
        assert_eq!(status[key], deployed[key], "{status}");
    }
    let smoke = user.run(&["smoke", "--output", "json"]).document();
    assert_eq!(smoke["endpoint"], default, "{smoke}");
}

#[test]
fn a_domain_is_changed_and_removed_with_consent() {
    let aws = MiniStack::start();
    let user = aws.user();
    let zone = aws.boto(
        "client('route53').create_hosted_zone(Name='cbbootstrap.invalid', CallerReference='r')['HostedZone']['Id'].split('/')[-1]",
    );
    let zone = zone.as_str().unwrap();
    let in_zone = [&OPTIONS[..], &["--hosted-zone", zone]].concat();
    let with_path = [&OPTIONS[..], &["--base-path", "v1"]].concat();
    let zip = artifact::zip();
    let target = user.deploy(zip, &with_path).document()["dns_record"]["target"].clone();

    // Another path is another endpoint, so it needs consent.
    let planned = user.plan(zip, &in_zone);
    let removed = format!("removes the endpoint https://{DOMAIN}/v1, which nodes may call");
    assert_eq!(planned["losses"], json!([removed]), "{planned}");
    assert_eq!(
        planned["parameters"],
        json!([
            {"name": "BasePath", "before": "v1", "after": ""},
            {"name": "HostedZoneId", "before": "", "after": zone},
        ]),
        "{planned}"
    );
    let args = [&["deploy", "--no-smoke", "--function-zip", zip], &in_zone[..]].concat();
    user.run(&args).failed(2, &format!("https://{DOMAIN}/v1"));
    let deployed = user.deploy(zip, &[&["--yes"], &in_zone[..]].concat()).document();
    assert_eq!(deployed["endpoint"], format!("https://{DOMAIN}"), "{deployed}");
    assert_eq!(deployed["dns_record"], Value::Null, "{deployed}");
    assert_eq!(domains(&aws), domain(DOMAIN, ""));
    assert_eq!(claim(&aws, "/cluster", "d"), 200);
    let (name, target) = (format!("{DOMAIN}."), format!("{}.", target.as_str().unwrap()));
    assert_eq!(records(&aws, zone), json!([[name, "A", target], [name, "AAAA", target]]));

    // Without the option, API Gateway's endpoint returns.
    let args = ["deploy", "--no-smoke", "--function-zip", zip];
    user.run(&args).failed(2, &format!("https://{DOMAIN}"));
    let deployed = user.deploy(zip, &["--yes"]).document();
    assert!(deployed["endpoint"].as_str().unwrap().contains(".execute-api."), "{deployed}");
    assert_eq!((domains(&aws), records(&aws, zone)), (json!([]), json!([])));

    user.deploy(zip, &in_zone).document();
    user.run(&["destroy", "--yes"]).ended_with(0);
    assert_eq!((domains(&aws), records(&aws, zone)), (json!([]), json!([])));
}
