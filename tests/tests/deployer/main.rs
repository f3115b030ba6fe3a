//! The command `cbbootstrap` against stand-ins for AWS, and on this machine.

#![allow(clippy::unwrap_used)]

mod aws;
mod bad_input;
mod bundle;
mod clusters;
mod config;
mod daily;
mod deploy_options;
mod harness;
mod interruptions;
mod local;
mod losses;
mod network;
mod operate;
mod policy;
mod reproducible;
mod sign_in;
mod stack_states;
mod template;
mod terminal;
mod text;
