//! `list`: the stacks of cbbootstrap in a region.

use std::fmt::{Display, Formatter};

use serde::Serialize;

use crate::{
    aws::{Aws, cloudformation},
    cli::ListArgs,
    fields::write_columns,
    origin,
    printer::Printer,
    stack::Stack,
    values::Auth,
};

const HEADING: [&str; 5] = ["STACK", "STATUS", "TABLE", "UPDATED", "ENDPOINT"];

#[derive(Debug, Serialize)]
struct StackList {
    #[serde(skip)]
    region: String,
    /// By name.
    stacks: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    stack_name: String,
    stack_status: String,
    table: Option<String>,
    /// RFC 3339.
    updated: Option<String>,
    endpoint: Option<String>,
    auth: Option<Auth>,
}

pub async fn run(args: ListArgs, printer: &Printer) -> anyhow::Result<()> {
    let aws = Aws::connect(&args.access).await?;
    let stacks = cloudformation::find_all(&aws.cloudformation);
    let stacks = origin::add(&aws, &args.config, printer, stacks).await?;
    printer.result(&StackList::new(aws.region, stacks))
}

impl StackList {
    fn new(region: String, stacks: Vec<Stack>) -> Self {
        let ours = stacks.into_iter().filter(|stack| stack.ours);
        let mut stacks: Vec<_> = ours.map(Row::from).collect();
        stacks.sort_by(|one, other| one.stack_name.cmp(&other.stack_name));
        Self { region, stacks }
    }
}

impl From<Stack> for Row {
    fn from(stack: Stack) -> Self {
        let endpoint = stack.outputs.get("Endpoint").cloned();
        Self {
            stack_name: stack.name().to_owned(),
            stack_status: stack.status.to_string(),
            table: stack.table().map(str::to_owned),
            auth: endpoint.as_ref().map(|_| stack.auth()),
            endpoint,
            updated: stack.updated,
        }
    }
}

impl Display for StackList {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.stacks.is_empty() {
            return write!(f, "No stacks of cbbootstrap in {}", self.region);
        }
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let rows = self.stacks.iter().map(|row| {
            vec![
                row.stack_name.clone(),
                row.stack_status.clone(),
                or_dash(&row.table),
                or_dash(&row.updated),
                or_dash(&row.endpoint),
            ]
        });
        write_columns(f, HEADING, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::tests::stack;

    #[test]
    fn stacks_are_listed_by_name() {
        let named = |name: &str, status: &str, endpoint: Option<&str>| {
            let endpoint = endpoint.map(|url| ("Endpoint".to_owned(), url.to_owned()));
            Stack {
                id: format!("arn:aws:cloudformation:us-east-1:123456789012:stack/{name}/uuid"),
                updated: Some("2026-11-27T03:00:00Z".to_owned()),
                outputs: endpoint.into_iter().collect(),
                ..stack(status, "t")
            }
        };
        let stacks = vec![
            named("prod", "UPDATE_COMPLETE", Some("https://a.example")),
            Stack { ours: false, ..named("shop", "CREATE_COMPLETE", None) },
            named("dev", "CREATE_FAILED", None),
        ];
        let list = StackList::new("us-east-1".to_owned(), stacks);
        assert_eq!(
            list.to_string(),
            "STACK  STATUS           TABLE  UPDATED               ENDPOINT\n\
             dev    CREATE_FAILED    t      2026-11-27T03:00:00Z  -\n\
             prod   UPDATE_COMPLETE  t      2026-11-27T03:00:00Z  https://a.example\n"
        );
        let none = StackList::new("us-east-1".to_owned(), Vec::new());
        assert_eq!(none.to_string(), "No stacks of cbbootstrap in us-east-1");
    }
}
