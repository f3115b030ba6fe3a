//! `open`: opens a page about the stack in a browser, or prints its URL.

use std::{
    ffi::OsString,
    process::{Command, Stdio},
    time::Duration,
};

use cbbootstrap_cli::environment::variable_os;

use crate::{
    aws::{Aws, cloudformation},
    cli::{OpenArgs, Page},
    failure::Failure,
    links,
    printer::Printer,
    stack::Stack,
    values::Auth,
};

/// How long a browser has to report that it cannot start.
const START: Duration = Duration::from_secs(2);

pub async fn run(args: OpenArgs, printer: &Printer) -> anyhow::Result<()> {
    let (place, page) = (args.stack, args.page);
    let aws = Aws::connect(&place.access).await?;
    let name = &place.stack_name;
    let stack = cloudformation::require(&aws.cloudformation, name, &aws.region).await?;
    let url = url(page, &stack, &aws.region)?;
    if page == Page::Docs && stack.auth() == Auth::Iam {
        printer.message(
            "warning: the API accepts only signed requests (`--auth iam`), which a browser does not send",
        );
    }
    if !args.print
        && let Some(browser) = browser()
        && open(browser, &url).await
    {
        printer.message(format_args!("Opened {url}"));
        return Ok(());
    }
    printer.line(url).map(drop)
}

fn url(page: Page, stack: &Stack, region: &str) -> Result<String, Failure> {
    let url = match page {
        Page::Docs => Some(format!("{}/docs", stack.output("Endpoint")?)),
        Page::Console => links::stack(region, &stack.id),
        Page::Dashboard => links::dashboard(region, stack.output("DashboardName")?),
    };
    url.ok_or_else(|| {
        Failure::new(format!("the address of the AWS console of {region} is unknown"))
    })
}

/// The program that opens URLs: that of `BROWSER`, or the system's where there is a screen.
fn browser() -> Option<OsString> {
    let has_screen =
        || ["DISPLAY", "WAYLAND_DISPLAY"].into_iter().any(|name| variable_os(name).is_some());
    variable_os("BROWSER").or_else(|| match std::env::consts::OS {
        "macos" => Some("open".into()),
        _ => has_screen().then(|| "xdg-open".into()),
    })
}

/// Whether the program opens the URL. It may run as long as the browser's window is open.
async fn open(program: OsString, url: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = tokio::process::Command::from(command).spawn() else {
        return false;
    };
    match tokio::time::timeout(START, child.wait()).await {
        Ok(ended) => ended.is_ok_and(|status| status.success()),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::tests::stack;

    #[test]
    fn each_page_has_a_url() {
        let mut stack = stack("CREATE_COMPLETE", "t");
        assert!(url(Page::Docs, &stack, "us-east-1").is_err(), "there is no endpoint yet");
        for (name, value) in [("Endpoint", "https://a.example"), ("DashboardName", "d")] {
            stack.outputs.insert(name.to_owned(), value.to_owned());
        }
        for (page, part) in [
            (Page::Docs, "https://a.example/docs"),
            (Page::Console, "/cloudformation/home?region=us-east-1#/stacks/stackinfo?stackId=arn"),
            (Page::Dashboard, "/cloudwatch/home?region=us-east-1#dashboards/dashboard/d"),
        ] {
            let url = url(page, &stack, "us-east-1").unwrap();
            assert!(url.ends_with(part), "{url}");
        }
        assert!(url(Page::Console, &stack, "us-iso-east-1").is_err());
    }
}
