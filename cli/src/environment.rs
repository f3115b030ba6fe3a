//! Environment variables. An empty or blank variable counts as unset, and a byte-order mark and the white space around a value are
//! removed.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    process::Command,
};

use crate::text;

/// The value of a variable; `None` if it is unset or not UTF-8.
pub fn variable(name: &str) -> Option<String> {
    variable_os(name)?.into_string().ok()
}

/// The value of a variable that need not be UTF-8, such as a path.
pub fn variable_os(name: &str) -> Option<OsString> {
    clean(env::var_os(name)?)
}

/// Whether a variable is set but empty or blank. Libraries may take that for a value.
pub fn is_blank(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| clean(value).is_none())
}

/// Restarts this program with clean variables if one that `is_read` selects is not clean: libraries read them by different rules, and a
/// process that may have threads cannot change its environment safely. Returns only if a restart is not necessary or fails.
pub fn restart_if_unclean(is_read: impl Fn(&str) -> bool) -> io::Result<()> {
    let unclean = env::vars_os().filter_map(|(name, value)| {
        let cleaned = clean(value.clone());
        let is_unclean = name.to_str().is_some_and(&is_read) && cleaned.as_ref() != Some(&value);
        is_unclean.then_some((name, cleaned))
    });
    let unclean: Vec<(OsString, Option<OsString>)> = unclean.collect();
    if unclean.is_empty() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let mut program = Command::new(env::current_exe()?);
    program.arg0(arguments.next().as_deref().unwrap_or(OsStr::new(""))).args(arguments);
    for (name, value) in unclean {
        match value {
            Some(value) => program.env(name, value),
            None => program.env_remove(name),
        };
    }
    Err(program.exec())
}

/// The cleaned value; `None` if nothing is left.
pub(crate) fn clean(value: OsString) -> Option<OsString> {
    let cleaned = match value.to_str() {
        Some(text) => text::clean_value(text).into(),
        None => value,
    };
    (!cleaned.is_empty()).then_some(cleaned)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    #[test]
    fn blank_values_are_absent_and_others_cleaned() {
        for (value, cleaned) in [
            (&b""[..], None),
            (b" \t\r\n", None),
            (b"\xef\xbb\xbf", None),
            (b"\xef\xbb\xbfvalue", Some(&b"value"[..])),
            (b" value\r\n", Some(b"value")),
            (b"a b", Some(b"a b")),
            (b"\xff\r\n", Some(b"\xff\r\n")),
        ] {
            let cleaned = cleaned.map(|cleaned| OsStr::from_bytes(cleaned).to_owned());
            assert_eq!(clean(OsStr::from_bytes(value).to_owned()), cleaned);
        }
        assert_eq!(variable("CBBOOTSTRAP_TEST_OF_AN_ABSENT_VARIABLE"), None);
    }
}
