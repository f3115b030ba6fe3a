//! Regular expressions, each compiled once: in an unoptimized build, that takes milliseconds.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use regex::Regex;

pub fn pattern(text: &str) -> &'static Regex {
    static COMPILED: Mutex<BTreeMap<String, &'static Regex>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    compiled.entry(text.to_owned()).or_insert_with(|| {
        let pattern = Regex::new(text);
        Box::leak(Box::new(pattern.unwrap_or_else(|error| panic!("{error}"))))
    })
}
