//! Examples in the help of each command, and the files in the manual.

use clap::Command;

/// Commands by name, each with what the examples do and their command lines.
const EXAMPLES: [(&str, &[(&str, &str)]); 21] = [
    (
        "deploy",
        &[
            ("Deploy to the region of your AWS profile", "deploy"),
            (
                "Deploy the environment `prod` from a pipeline",
                "deploy --env prod --yes --output json",
            ),
            (
                "Give the API a domain name",
                "deploy --domain api.example.com --certificate-arn arn:aws:acm:us-east-1:123456789012:certificate/ID",
            ),
            ("Replace only the function's code", "deploy --env dev --code-only"),
            ("Run the API on this machine", "deploy --local"),
        ],
    ),
    (
        "launch",
        &[
            (
                "Start a cluster of three nodes",
                "launch mycluster --vpc vpc-0a1b --subnet subnet-1 --subnet subnet-2 --subnet subnet-3",
            ),
            (
                "Choose instances, services and a bucket",
                "launch mycluster --vpc vpc-0a1b --subnet subnet-1 --parameter InstanceType=r6i.2xlarge --parameter Services=data --parameter Buckets=app:1024:1",
            ),
        ],
    ),
    (
        "serve",
        &[
            (
                "Serve other machines with TLS",
                "serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
            ),
            ("Keep the records in a DynamoDB table", "serve --table cb-bootstrap"),
        ],
    ),
    (
        "plan",
        &[
            ("Show what a deployment of `prod` would change", "plan --env prod"),
            ("Exit with 2 if something would change", "plan --env prod --exit-code"),
        ],
    ),
    (
        "status",
        &[
            ("Wait for a deployment that is running", "status --wait"),
            ("Print the endpoint", "status --output json | jq -r .endpoint"),
            ("Find changes that were made outside of CloudFormation", "status --drift"),
        ],
    ),
    (
        "list",
        &[
            ("List the stacks in a region", "list --region eu-central-1"),
            ("Print the endpoints", "list --output json | jq -r '.stacks[].endpoint'"),
        ],
    ),
    (
        "logs",
        &[
            ("Follow the requests", "logs --follow"),
            (
                "Show the failed requests of the last day",
                "logs --since 24h --output json | jq -c 'select(.status >= 500)'",
            ),
            ("Show all lines about one cluster", "logs --since 1h --filter 0123abcd --raw"),
        ],
    ),
    (
        "open",
        &[
            ("Open the API's documentation", "open"),
            ("Print the URL of the stack in the AWS console", "open console --print"),
        ],
    ),
    (
        "smoke",
        &[
            ("Test the endpoint of the stack", "smoke --env prod"),
            ("Test any endpoint", "smoke https://api.example.com"),
        ],
    ),
    ("ping", &[("Check that a server answers", "ping http://localhost:8080")]),
    (
        "cluster list",
        &[
            ("List all clusters", "cluster list --all"),
            ("List the clusters of a server on this machine", "cluster list --local"),
        ],
    ),
    ("cluster show", &[("Show a cluster", "cluster show mycluster --env prod")]),
    ("cluster forget", &[("Forget a cluster that is gone", "cluster forget mycluster --env prod")]),
    (
        "package",
        &[(
            "Write a zip for functions on Graviton",
            "package --arch arm64 --out bootstrap-arm64.zip",
        )],
    ),
    (
        "destroy",
        &[
            ("Delete the stack and keep the records", "destroy --env dev"),
            ("Delete everything", "destroy --env dev --delete-table --delete-artifacts"),
        ],
    ),
    (
        "doctor",
        &[
            ("Check this machine before a deployment", "doctor --env prod"),
            ("Check the permissions for all commands", "doctor --for all"),
        ],
    ),
    ("init", &[("Write `cbbootstrap.yaml`", "init")]),
    (
        "iam-policy",
        &[
            ("Print the policy for a pipeline", "iam-policy --for deploy --account 123456789012"),
            ("Show what each permission is for", "iam-policy --explain"),
        ],
    ),
    (
        "template",
        &[
            ("Save the API's template", "template > stack.yaml"),
            (
                "Save the template of a cluster",
                "template couchbase-cluster > couchbase-cluster.yaml",
            ),
        ],
    ),
    (
        "completions",
        &[
            (
                "Complete in bash",
                "completions bash > ~/.local/share/bash-completion/completions/cbbootstrap",
            ),
            ("Complete in fish", "completions fish > ~/.config/fish/completions/cbbootstrap.fish"),
        ],
    ),
    ("man-pages", &[("Write the manual pages", "man-pages ~/.local/share/man/man1")]),
];

/// The files that the program reads and writes: path, and content.
pub const FILES: [(&str, &str); 4] = [
    ("cbbootstrap.yaml", "Environments in the current directory; `--config` names another file."),
    ("~/.aws/config, ~/.aws/credentials", "Profiles of the AWS CLI."),
    (
        "~/.local/share/cbbootstrap",
        "The database of `serve` and `deploy --local`; `--data` names another directory.",
    ),
    ("bootstrap.zip", "The function, as `package` writes it."),
];

/// Adds examples to the help of a command and of those below it.
pub fn add(parent: &str, command: Command) -> Command {
    let name = format!("{parent} {}", command.get_name()).trim_start().to_owned();
    let command = command.mut_subcommands(|command| add(&name, command));
    let Some((_, examples)) = EXAMPLES.iter().find(|(command, _)| *command == name) else {
        return command;
    };
    let examples = examples.iter().map(|(what, line)| format!("  # {what}\n  cbbootstrap {line}"));
    let text = examples.collect::<Vec<_>>().join("\n\n");
    command.after_help(format!("Examples:\n{text}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn leaves(command: &Command, parent: &str) -> Vec<(String, bool)> {
        let below = command.get_subcommands().filter(|command| command.get_name() != "help");
        let named = below.map(|command| (command, format!("{parent} {}", command.get_name())));
        named
            .flat_map(|(command, name)| {
                if command.has_subcommands() {
                    return leaves(command, &name);
                }
                vec![(name.trim_start().to_owned(), command.get_after_help().is_some())]
            })
            .collect()
    }

    #[test]
    fn every_command_has_examples() {
        let commands = leaves(&Cli::command(), "");
        assert!(commands.iter().all(|(_, has_examples)| *has_examples), "{commands:?}");
        assert_eq!(commands.len(), EXAMPLES.len(), "each is an example of a command");
    }

    #[test]
    fn every_example_is_valid() {
        for (command, examples) in EXAMPLES {
            for (_, line) in examples {
                assert!(line.starts_with(command), "{line} is not about {command}");
                let line = line.split(['|', '>']).next().unwrap();
                let words = ["cbbootstrap"].into_iter().chain(line.split_whitespace());
                let parsed = Cli::command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }
}
