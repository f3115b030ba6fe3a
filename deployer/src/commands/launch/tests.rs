use clap::Parser;

use super::*;
use crate::{
    cli::{Cli, Command},
    exit::Exit,
    stack::tests::stack,
};

/// `launch my_cluster` with these options, and with a network if they name none.
pub fn args(options: &[&str]) -> LaunchArgs {
    let network = ["--vpc=vpc-1", "--subnet=subnet-1,subnet-2"];
    let is_given = |default: &&str| options.iter().any(|it| it[..5] == default[..5]);
    let network = network.iter().filter(|default| !is_given(default));
    let command = ["cbbootstrap", "launch", "my_cluster"];
    let command = command.iter().chain(network).chain(options);
    match Cli::try_parse_from(command).unwrap().command {
        Command::Launch(args) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_options_are_refused() {
    for (options, message) in [
        (&["--vpc=x"][..], "`--vpc` cannot be `x`"),
        (&["--subnet=vpc-1"], "`--subnet` cannot be `vpc-1`"),
        (&["--parameter=Nodes=3"], "no parameter `Nodes`"),
        (&["--parameter=NodeCount=3"], "`NodeCount` has its own option"),
        (
            &["--parameter=AgentKmsKeyArn=arn:aws:kms:us-east-1:123456789012:key/k"],
            "`AgentKmsKeyArn` needs `--bucket`",
        ),
        (&["--parameter=DataVolumeSize=1"], "`DataVolumeSize` cannot be `1`"),
        (&["--tag=aws:x=1"], "tag `aws:x=1`"),
    ] {
        let command = ["cbbootstrap", "launch", "c"].iter().chain(options).copied();
        let rest = ["--vpc=vpc-1", "--subnet=subnet-1"].into_iter();
        let rest = rest.filter(|it| !options.iter().any(|option| option[..5] == it[..5]));
        let Command::Launch(args) = Cli::try_parse_from(command.chain(rest)).unwrap().command
        else {
            panic!("{options:?}");
        };
        let failure = check(&args).unwrap_err();
        assert!(failure.to_string().contains(message), "{options:?}: {failure}");
        assert_eq!(failure.exit, Exit::Usage, "{options:?}");
    }
    assert!(cluster_stack(&args(&[])).unwrap_err().to_string().contains("couchbase-my_cluster"));
    assert_eq!(cluster_stack(&args(&["--cluster-stack=mine"])).unwrap(), "mine");
    let key = "--parameter=AgentKmsKeyArn=arn:aws:kms:us-east-1:123456789012:key/k";
    assert!(check(&args(&["--bucket=theirs", key])).is_ok());
}

#[test]
fn a_launch_reports_how_to_connect() {
    let mut stack = stack("CREATE_COMPLETE", "t");
    stack.id = "arn:aws:cloudformation:us-east-1:1:stack/couchbase-c/u".to_owned();
    stack.outputs.insert("AdministratorPasswordArn".to_owned(), "arn:p".to_owned());
    let report = |stack: &Stack, nodes: &[&str]| {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        let args = args(&["--profile=team a"]);
        LaunchReport::new(&args, stack, "us-east-1".to_owned(), true, nodes).unwrap()
    };
    assert_eq!(
        report(&stack, &["a", "b"]).to_string(),
        "Cluster:  my_cluster\n\
         Stack:    couchbase-c in us-east-1, deployed\n\
         Nodes:    a, b\n\
         Connect:  couchbases://a,b\n\
         Console:  https://a:18091\n\
         Password: aws secretsmanager get-secret-value --region us-east-1 --profile 'team a' --secret-id arn:p --query SecretString --output text\n"
    );
    assert_eq!(report(&stack, &[]).connection_string, None);
    stack.parameters.insert("Edition".to_owned(), "community".to_owned());
    let community = report(&stack, &["a"]);
    assert_eq!(community.connection_string.as_deref(), Some("couchbase://a"));
    assert_eq!(community.console.as_deref(), Some("http://a:8091"));
}
