//! The command `cbbootstrap` against stand-ins for AWS, and on this machine.

#![allow(clippy::unwrap_used)]

mod aws;
mod bad_input;
mod bundle;
mod clusters;
mod config;
mod deploy;
mod faults;
mod local;
mod operate;
mod policy;
mod proxy;
mod reproducible;
mod stacks;
mod template;
mod terminal;
mod text;
