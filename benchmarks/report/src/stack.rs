//! What the stack's template says: defaults of parameters, and the access log.

use std::fs;

use crate::report::workspace;

/// Usual values of the variables in the access log.
const ACCESS: [(&str, &str); 5] = [
    ("$context.requestId", "JKJaXmPLvHcESHA="),
    ("$context.identity.sourceIp", "203.0.113.117"),
    ("$context.status", "200"),
    ("$context.responseLatency", "17"),
    ("$context.integrationErrorMessage", "-"),
];

/// The default of a parameter in `templates/stack.yaml` that is a number.
pub fn default_of(parameter: &str) -> f64 {
    let template = template();
    let start = format!("\n  {parameter}:\n");
    let after = template.split_once(&start).map_or("", |(_, after)| after);
    let default = after.lines().find_map(|line| line.trim().strip_prefix("Default: "));
    let number = default.and_then(|default| default.parse().ok());
    number.unwrap_or_else(|| panic!("the parameter `{parameter}` has no number as its default"))
}

/// The bytes of a line in the access log.
#[expect(clippy::cast_precision_loss, reason = "a line has few bytes")]
pub fn access_log() -> f64 {
    let template = template();
    let after = template.split_once("        Format: >-\n").map_or("", |(_, after)| after);
    let lines = after.lines().map(str::trim).take_while(|line| !line.is_empty());
    let format = lines.collect::<Vec<_>>().join(" ");
    let line = ACCESS.iter().fold(format, |line, (name, value)| line.replace(name, value));
    assert!(line.ends_with('}') && !line.contains('$'), "a variable has no usual value: {line}");
    line.len() as f64
}

fn template() -> String {
    let template = fs::read_to_string(workspace().join("templates/stack.yaml"));
    template.expect("the template exists")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_template() {
        let parameters = ["MemorySize", "ThrottlingRateLimit", "ThrottlingBurstLimit"];
        let defaults = parameters.map(|parameter| default_of(parameter).to_string());
        assert_eq!(defaults, ["256", "100", "200"]);
    }
}
