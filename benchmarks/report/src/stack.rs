//! The defaults of the stack's parameters.

use std::fs;

use crate::report::workspace;

/// The default of a parameter in `templates/stack.yaml` that is a number.
pub fn default_of(parameter: &str) -> f64 {
    let template = fs::read_to_string(workspace().join("templates/stack.yaml"));
    let template = template.expect("the template exists");
    let start = format!("\n  {parameter}:\n");
    let after = template.split_once(&start).map_or("", |(_, after)| after);
    let default = after.lines().find_map(|line| line.trim().strip_prefix("Default: "));
    let number = default.and_then(|default| default.parse().ok());
    number.unwrap_or_else(|| panic!("the parameter `{parameter}` has no number as its default"))
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
