//! The CloudFormation templates, checked by cfn-lint, and the workflow for GitHub Actions.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cbbootstrap_tests::{
    cli::{Ended, User},
    pattern::pattern,
    programs, python,
};
use serde_yaml::Value;

fn templates() -> Vec<(PathBuf, String)> {
    let directory = programs::workspace().join("templates");
    let mut files: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

#[test]
fn cfn_lint_accepts_the_templates() {
    let mut names = Vec::new();
    for (file, text) in templates() {
        if !text.contains("AWSTemplateFormatVersion") {
            continue;
        }
        let output = Command::new(python::bin().join("cfn-lint"))
            .args(["--include-checks", "I", "--"])
            .arg(&file)
            .output()
            .expect("cfn-lint can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        names.push(file.file_name().unwrap().to_owned());
    }
    assert_eq!(names, ["couchbase-cluster.yaml", "github-oidc-role.yaml", "stack.yaml"]);
}

/// API Gateway keeps the value of a property that an update omits, which MiniStack removes.
#[test]
fn properties_of_the_api_are_never_omitted() {
    let file = programs::workspace().join("templates/stack.yaml");
    let template: Value = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let resources = template["Resources"].as_mapping().unwrap().values();
    let of_api = |it: &&Value| it["Type"].as_str().unwrap().starts_with("AWS::ApiGatewayV2::");
    let of_api: Vec<_> = resources.filter(of_api).collect();
    assert_eq!(of_api.len(), 6);
    for resource in of_api {
        assert!(!format!("{resource:?}").contains("AWS::NoValue"), "{resource:?}");
    }
}

/// Neither cfn-lint nor MiniStack checks them as EC2 does.
#[test]
fn descriptions_of_security_groups_have_allowed_characters() {
    let allowed = pattern(r"^[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}$");
    let file = programs::workspace().join("templates/couchbase-cluster.yaml");
    let text = fs::read_to_string(file).unwrap();
    let begin = text.find("\nResources:").unwrap();
    let descriptions =
        pattern(r"(?:\bDescription|GroupDescription): (?:!Sub )?([^\n]*?)(?:, IpProtocol|\n)");
    let groups = &text[begin..text.find("\n  Role:").unwrap()];
    let groups = &groups[groups.find("  NodeGroup:").unwrap()..];
    let found: Vec<_> =
        descriptions.captures_iter(groups).map(|found| found[1].to_owned()).collect();
    assert!(found.len() > 15, "{found:?}");
    for description in found {
        assert!(allowed.is_match(&description), "{description}");
    }
}

/// In a dual-stack subnet, programs try IPv6 first.
#[test]
fn security_groups_allow_outgoing_ipv4_and_ipv6() {
    let file = programs::workspace().join("templates/couchbase-cluster.yaml");
    let template: Value = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let resources = template["Resources"].as_mapping().unwrap().iter();
    let rules: Vec<_> = resources
        .filter_map(|(name, resource)| {
            let rules = resource["Properties"]["SecurityGroupEgress"].as_sequence()?;
            let all = |cidr: &str, any: &str| {
                rules.iter().any(|it| it[cidr] == any && it["IpProtocol"] == "-1")
            };
            Some((name.as_str().unwrap(), all("CidrIp", "0.0.0.0/0"), all("CidrIpv6", "::/0")))
        })
        .collect();
    assert_eq!(rules, [("NodeGroup", true, true), ("SyncGatewayGroup", true, true)]);
}

fn workflow() -> Value {
    let file = programs::workspace().join("templates/github-actions.yml");
    serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

fn jobs(workflow: &Value) -> Vec<(&str, &Value)> {
    let jobs = workflow["jobs"].as_mapping().unwrap();
    jobs.iter().map(|(name, job)| (name.as_str().unwrap(), job)).collect()
}

fn steps(job: &Value) -> &[Value] {
    job["steps"].as_sequence().unwrap()
}

#[test]
fn the_workflow_gives_each_job_what_it_needs() {
    let workflow = workflow();
    assert_eq!(workflow["permissions"].as_mapping().unwrap().len(), 0, "nothing for all jobs");
    assert!(workflow["on"].get("pull_request").is_some());
    assert_eq!(workflow["on"]["push"]["branches"][0], "main");
    let permissions: Vec<_> = jobs(&workflow)
        .into_iter()
        .map(|(name, job)| {
            let permissions = job["permissions"].as_mapping().unwrap().iter();
            let permissions: Vec<_> = permissions
                .map(|(what, how)| format!("{}: {}", what.as_str().unwrap(), how.as_str().unwrap()))
                .collect();
            (name, permissions.join(", "))
        })
        .collect();
    assert_eq!(
        permissions,
        [
            ("build", "contents: read"),
            ("plan", "contents: read, id-token: write, pull-requests: write"),
            ("deploy", "contents: read, id-token: write"),
        ]
        .map(|(name, permissions)| (name, permissions.to_owned()))
    );
    assert_eq!(steps(&workflow["jobs"]["build"])[0]["with"]["ref"], "main");
    for (name, role) in [("plan", "PLAN_ROLE"), ("deploy", "DEPLOY_ROLE")] {
        let job = &workflow["jobs"][name];
        assert_eq!(job["needs"], "build", "{name}");
        let taken = steps(job).iter().find_map(|step| step["with"]["role-to-assume"].as_str());
        assert!(taken.is_some_and(|taken| taken.contains(role)), "{taken:?}");
    }
    assert!(workflow["jobs"]["deploy"]["if"].as_str().unwrap().contains("refs/heads/main"));
}

/// Groups of jobs do not order runs: one whose build is slow would deploy an older commit after a newer one.
#[test]
fn runs_of_the_workflow_do_not_overtake_each_other() {
    let workflow = workflow();
    // A copy for another environment is another file.
    let group = "${{ github.workflow_ref }} ${{ github.ref }}";
    assert_eq!(workflow["concurrency"]["group"], group);
    assert_eq!(workflow["concurrency"]["cancel-in-progress"], false);
    for (name, job) in jobs(&workflow) {
        assert!(job.get("concurrency").is_none(), "{name}");
    }
}

#[test]
fn the_workflow_pins_actions_to_commits() {
    let file = programs::workspace().join("templates/github-actions.yml");
    let text = fs::read_to_string(file).unwrap();
    let pinned = pattern(r"^[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$");
    let actions: Vec<_> = text.lines().filter_map(|line| line.split_once("uses: ")).collect();
    assert!(!actions.is_empty());
    for (_, action) in actions {
        assert!(pinned.is_match(action), "{action}");
    }
}

#[test]
fn the_command_accepts_the_options_of_the_workflow() {
    let mut commands = Vec::new();
    for (_, job) in jobs(&workflow()) {
        let runs = steps(job).iter().filter_map(|step| step["run"].as_str());
        for line in runs.flat_map(str::lines) {
            if let Some(arguments) = line.strip_prefix("dist/bin/cbbootstrap ") {
                let mut arguments: Vec<_> = arguments.split(' ').collect();
                commands.push(arguments[0].to_owned());
                arguments.push("--help");
                User::default().run(&arguments).ended_with(0);
            }
        }
    }
    assert_eq!(commands, ["package", "plan", "deploy", "smoke"]);
}

/// The workflow of a pull request may have other comments of the same author.
#[test]
fn the_workflow_updates_only_its_comment() {
    let workflow = workflow();
    let scripts = steps(&workflow["jobs"]["plan"]).iter().filter_map(|step| step["run"].as_str());
    let scripts: Vec<_> = scripts.filter(|script| script.contains("gh ")).collect();
    let [script] = scripts[..] else { panic!("{scripts:?}") };
    let marker = "<!-- cbbootstrap-plan prod -->";
    for (found, call) in [
        ("", "--method POST repos/owner/name/issues/5/comments"),
        ("42\n43\n", "--method PATCH repos/owner/name/issues/comments/42"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("plan.md"), "the plan\n").unwrap();
        fs::write(directory.path().join("found"), found).unwrap();
        let gh = "#!/bin/sh\n\
                  echo \"$*\" >>\"$RUNNER_TEMP/calls\"\n\
                  case \"$*\" in *--jq*) cat \"$RUNNER_TEMP/found\" ;; esac\n";
        programs::write_script(&directory.path().join("gh"), gh);
        let user = User::default()
            .with_programs(directory.path())
            .with("RUNNER_TEMP", directory.path().to_str().unwrap())
            .with("GITHUB_REPOSITORY", "owner/name")
            .with("CBBOOTSTRAP_ENV", "prod")
            .with("NUMBER", "5");
        let bash = Path::new("bash");
        Ended::of(&mut user.program(bash, &["-ec", script])).ended_with(0);
        let calls = fs::read_to_string(directory.path().join("calls")).unwrap();
        let [list, change] = calls.lines().collect::<Vec<_>>()[..] else { panic!("{calls}") };
        for part in
            ["issues/5/comments", "github-actions[bot]", &format!("startswith(\"{marker}\")")]
        {
            assert!(list.contains(part), "{list}");
        }
        let comment = directory.path().join("comment.md");
        assert!(change.contains(call), "{change}");
        assert!(change.ends_with(&format!("body=@{}", comment.display())), "{change}");
        assert_eq!(fs::read_to_string(comment).unwrap(), format!("{marker}\nthe plan\n"));
    }
}

/// The comment would otherwise show the plan of an earlier commit.
#[test]
fn the_workflow_comments_on_a_plan_that_failed() {
    let workflow = workflow();
    let steps = steps(&workflow["jobs"]["plan"]);
    let scripts: Vec<_> = steps.iter().filter(|step| step["run"].is_string()).collect();
    let [plan, comment] = scripts[..] else { panic!("{scripts:?}") };
    assert_eq!(comment["if"], "${{ !cancelled() }}");
    for (writes, commented) in [
        ("echo 'cannot plan' >>\"$GITHUB_STEP_SUMMARY\"; exit 1", "cannot plan"),
        ("exit 2", "https://github.com/owner/name/actions/runs/7"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("dist/bin")).unwrap();
        programs::write_script(&path("dist/bin/cbbootstrap"), &format!("#!/bin/sh\n{writes}\n"));
        programs::write_script(&path("gh"), "#!/bin/sh\n");
        fs::write(path("summary"), "").unwrap();
        let user = User::default()
            .with_programs(directory.path())
            .with("RUNNER_TEMP", directory.path().to_str().unwrap())
            .with("GITHUB_STEP_SUMMARY", path("summary").to_str().unwrap())
            .with("GITHUB_SERVER_URL", "https://github.com")
            .with("GITHUB_REPOSITORY", "owner/name")
            .with("GITHUB_RUN_ID", "7")
            .with("CBBOOTSTRAP_ENV", "prod")
            .with("NUMBER", "5");
        let run = |step: &Value| {
            let script = step["run"].as_str().unwrap();
            let mut command = user.program(Path::new("bash"), &["-ec", script]);
            Ended::of(command.current_dir(directory.path()))
        };
        let failed = run(plan);
        assert!(failed.status.is_some_and(|status| status > 0), "{failed}");
        run(comment).ended_with(0);
        let text = fs::read_to_string(path("comment.md")).unwrap();
        assert!(text.contains(commented), "{text}");
    }
}

/// Programs that look for the latest release do not get a candidate.
#[test]
fn releases_of_candidates_are_pre_releases() {
    let file = programs::workspace().join(".github/workflows/release.yml");
    let workflow: Value = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut scripts =
        steps(&workflow["jobs"]["publish"]).iter().filter_map(|step| step["run"].as_str());
    let script = scripts.find(|script| script.contains("gh release create")).unwrap();
    for (tag, is_candidate) in [("v1.0.0", false), ("v1.0.0-rc.1", true)] {
        let directory = tempfile::tempdir().unwrap();
        programs::write_script(&directory.path().join("gh"), "#!/bin/sh\necho \"$*\"\n");
        let user = User::default()
            .with_programs(directory.path())
            .with("GITHUB_REPOSITORY", "owner/name")
            .with("GITHUB_REF_NAME", tag);
        let ended = Ended::of(&mut user.program(Path::new("bash"), &["-ec", script])).ended_with(0);
        assert!(ended.stdout.starts_with(&format!("release create {tag} ")), "{ended}");
        assert_eq!(ended.stdout.contains("--prerelease"), is_candidate, "{ended}");
    }
}
