//! What the function logs of a request is for CloudWatch. People get it in short.

use std::fmt;

use serde::Deserialize;

/// A request that was answered.
#[derive(Debug, Deserialize)]
pub struct Served {
    method: String,
    /// None where the contract has no such route.
    route: Option<String>,
    status: u16,
    #[serde(rename = "Outcome")]
    outcome: String,
    #[serde(rename = "Milliseconds")]
    milliseconds: f64,
    /// Why the caller was refused.
    code: Option<String>,
}

impl Served {
    /// The request that the function's line is about, if it is about one.
    pub fn of(line: &str) -> Option<Self> {
        let ours = line.starts_with('{') && line.contains("\"_aws\":");
        ours.then(|| serde_json::from_str(line).ok())?
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method,
            route,
            status,
            outcome,
            milliseconds,
            code,
        } = self;
        let route = route.as_deref().unwrap_or("(no such route)");
        let said = code.as_ref().unwrap_or(outcome);
        write!(
            f,
            "{status} {method} {route}: {said} ({milliseconds:.1} ms)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_in_short() {
        for (line, expected) in [
            (
                r#"{"method":"POST","route":"/cluster","status":200,"Outcome":"joined","Milliseconds":2.345,"FunctionName":"f","_aws":{}}"#,
                Some("200 POST /cluster: joined (2.3 ms)"),
            ),
            (
                r#"{"method":"GET","status":404,"Outcome":"refused","code":"route_not_found","Milliseconds":0.1,"_aws":{}}"#,
                Some("404 GET (no such route): route_not_found (0.1 ms)"),
            ),
            (
                r#"{"level":"WARN","message":"the table is not available"}"#,
                None,
            ),
            (r#"{"_aws":{}}"#, None),
            ("", None),
        ] {
            let said = Served::of(line).map(|served| served.to_string());
            assert_eq!(said.as_deref(), expected, "{line}");
        }
    }
}
