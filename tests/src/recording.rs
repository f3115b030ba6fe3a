//! Compares the stand-in's answers with recorded ones of a real server.

use serde_json::Value;

use crate::pattern::pattern;

/// The readable part of a JSON text that was cut.
pub fn repaired(text: &str) -> Value {
    let ends = (1..=text.len()).rev().filter(|end| text.is_char_boundary(*end));
    let mut repaired = ends.filter_map(|end| {
        let (mut open, mut in_string, mut escaped) = (Vec::new(), false, false);
        for character in text[..end].chars() {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = !in_string,
                '{' if !in_string => open.push('}'),
                '[' if !in_string => open.push(']'),
                '}' | ']' if !in_string => drop(open.pop()),
                _ => {}
            }
        }
        let closed = open.into_iter().rev().collect::<String>();
        serde_json::from_str(&format!("{}{closed}", &text[..end])).ok()
    });
    repaired.next().unwrap_or_default()
}

/// Replaces ids, which always differ.
pub fn masked(text: &str) -> String {
    pattern("[0-9a-f]{32}").replace_all(text, "ID").into_owned()
}

/// Asserts that the recorded fields exist with the same strings and booleans. Numbers may differ.
#[track_caller]
pub fn alike(at: &str, expected: &Value, actual: &Value) {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            for (key, expected) in expected.iter().filter(|(key, _)| *key != "uptime") {
                let at = format!("{at}.{key}");
                let actual = actual.get(key);
                alike(&at, expected, actual.unwrap_or_else(|| panic!("no {at}")));
            }
        }
        (Value::Array(expected), Value::Array(actual)) => {
            // The recorded machine had more file systems.
            let is_complete =
                expected.len() <= actual.len() || at.ends_with("availableStorage.hdd");
            assert!(is_complete, "{at}");
            assert_eq!(expected.is_empty(), actual.is_empty(), "{at}");
            for (index, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                alike(&format!("{at}[{index}]"), expected, actual);
            }
        }
        (Value::String(expected), Value::String(actual)) => {
            assert_eq!(masked(expected), masked(actual), "{at}");
        }
        (Value::Number(_), Value::Number(_)) => {}
        _ => assert_eq!(expected, actual, "{at}"),
    }
}
