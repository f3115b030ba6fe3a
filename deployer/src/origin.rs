//! The account, region and environment that a command works with: the first line on stderr, and a part of every JSON result.

use std::{
    fmt::{Display, Formatter},
    time::Duration,
};

use serde::Serialize;

use crate::{
    aws::{Aws, Identity},
    printer::Printer,
    settings::{ConfigArgs, Place},
};

/// A machine may reach all services but STS, and the identity is only shown.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    pub account: Option<String>,
    /// The ARN of the user or role's session.
    pub identity: Option<String>,
    pub region: String,
    /// In `cbbootstrap.yaml`.
    pub environment: Option<String>,
}

/// Reads the identity while `work` is done, and prints it before the messages of `work`.
pub async fn introduce<T>(
    aws: &Aws,
    place: &Place,
    printer: &Printer,
    work: impl Future<Output = T>,
) -> T {
    let held = printer.hold();
    let introduction = async {
        let origin = Origin::read(aws, place.config.environment.clone()).await;
        held.release(format_args!("{origin}, stack {}", place.stack_name));
        printer.set_origin(origin);
    };
    tokio::join!(work, introduction).0
}

/// Reads the identity for a JSON result while `work` is done.
pub async fn add<T>(
    aws: &Aws,
    config: &ConfigArgs,
    printer: &Printer,
    work: impl Future<Output = T>,
) -> T {
    let read = async {
        if printer.is_json() {
            printer.set_origin(Origin::read(aws, config.environment.clone()).await);
        }
    };
    tokio::join!(work, read).0
}

impl Origin {
    pub async fn read(aws: &Aws, environment: Option<String>) -> Self {
        let identity = tokio::time::timeout(PATIENCE, aws.identity()).await;
        // A command that needs the identity explains the error.
        Self::new(identity.ok().and_then(Result::ok), aws.region.clone(), environment)
    }

    pub fn new(identity: Option<Identity>, region: String, environment: Option<String>) -> Self {
        let (account, identity) = identity.map(|it| (it.account, it.arn)).unzip();
        Self { account, identity, region, environment }
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { account, identity, region, environment } = self;
        write!(f, "Account {}", account.as_deref().unwrap_or("unknown"))?;
        if let Some(identity) = identity {
            write!(f, ", {identity}")?;
        }
        write!(f, ", region {region}")?;
        environment.iter().try_for_each(|name| write!(f, ", environment {name}"))
    }
}

/// A result with its origin, if that is known. The result itself has no field `region`.
#[derive(Debug, Serialize)]
pub struct WithOrigin<'a, R> {
    #[serde(flatten)]
    pub origin: Option<&'a Origin>,
    #[serde(flatten)]
    pub result: &'a R,
}

impl<R: Display> Display for WithOrigin<'_, R> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.result.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_origin_is_a_line_and_fields_of_a_result() {
        let mut origin = Origin {
            account: Some("1".to_owned()),
            identity: Some("arn:aws:iam::1:user/me".to_owned()),
            region: "us-east-1".to_owned(),
            environment: Some("prod".to_owned()),
        };
        assert_eq!(
            origin.to_string(),
            "Account 1, arn:aws:iam::1:user/me, region us-east-1, environment prod"
        );
        let fields = |origin: &Origin, result| {
            serde_json::to_value(WithOrigin { origin: Some(origin), result: &result }).unwrap()
        };
        let expected = json!({
            "account": "1", "identity": "arn:aws:iam::1:user/me", "region": "us-east-1",
            "environment": "prod", "x": 1,
        });
        assert_eq!(fields(&origin, json!({"x": 1})), expected);

        origin = Origin { region: "us-east-1".to_owned(), ..Origin::default() };
        assert_eq!(origin.to_string(), "Account unknown, region us-east-1");
        assert_eq!(fields(&origin, json!({}))["account"], json!(null));
    }
}
