//! Daily use: `list`, `open` and `template`.

use std::fs;

use cbbootstrap_tests::{artifact, cli::User, ministack::MiniStack, process::wait_until};
use serde_json::json;

#[test]
fn stacks_are_listed_and_their_pages_open() {
    let aws = MiniStack::start();
    let user = aws.user();
    let none = user.run(&["list"]).ended_with(0);
    assert_eq!(none.stdout, "No stacks of cbbootstrap in us-east-1\n");

    user.deploy(artifact::small_zip(), &[]).ended_with(0);
    let endpoint = user.run(&["status", "--output", "json"]).document()["endpoint"].clone();
    let endpoint = endpoint.as_str().unwrap();
    let list = user.run(&["list", "--output", "json"]).document();
    let stack = &list["stacks"][0];
    let fields =
        ["stack_name", "stack_status", "table", "endpoint", "auth"].map(|field| &stack[field]);
    assert_eq!(
        json!(fields),
        json!(["cbbootstrap", "CREATE_COMPLETE", "cb-bootstrap", endpoint, "none"]),
        "{list}"
    );
    let text = user.run(&["list"]).ended_with(0).stdout;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("STACK        STATUS"), "{text}");
    assert!(lines[1].ends_with(endpoint), "{text}");

    a_page_opens(&user, endpoint);
    user.run(&["open", "--stack-name", "other"]).failed(1, "there is no stack `other`");
}

fn a_page_opens(user: &User, endpoint: &str) {
    let docs = format!("{endpoint}/docs");
    // No screen and no browser.
    assert_eq!(user.run(&["open"]).ended_with(0).stdout, format!("{docs}\n"));
    for (page, part) in [("console", "stackId=arn%3Aaws"), ("dashboard", "#dashboards/dashboard/")]
    {
        let printed = user.run(&["open", page, "--print"]).ended_with(0).stdout;
        assert!(printed.starts_with("https://us-east-1.console.aws.amazon.com/"), "{printed}");
        assert!(printed.contains(part), "{printed}");
    }
    let browser = user.home.path().join("browser");
    fs::write(&browser, "#!/bin/sh\necho \"$1\" > opened\n").unwrap();
    executable(&browser);
    let with_browser = |user: &User, browser: &str| {
        user.program(&cbbootstrap_tests::programs::cbbootstrap(), &["open"])
            .env("BROWSER", browser)
            .output()
            .unwrap()
    };
    let opened = with_browser(user, &browser.display().to_string());
    assert!(opened.status.success() && opened.stdout.is_empty(), "{opened:?}");
    let file = user.home.path().join("opened");
    wait_until("the browser has the URL", || {
        fs::read_to_string(&file).is_ok_and(|url| url.trim() == docs)
    });
    // A browser that cannot start.
    let printed = with_browser(user, "/bin/false").stdout;
    assert_eq!(String::from_utf8(printed).unwrap(), format!("{docs}\n"));
}

fn executable(program: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_template_is_printed_as_it_is_deployed() {
    let printed = User::default().run(&["template"]).ended_with(0);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../templates/stack.yaml");
    assert_eq!(printed.stdout, fs::read_to_string(path).unwrap());
    assert_eq!(printed.stderr, "");
}
