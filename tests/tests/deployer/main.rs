//! The command `cbbootstrap` against stand-ins for AWS, and on this machine.

#![allow(clippy::unwrap_used)]

mod artifacts;
mod aws;
mod bad_input;
mod clusters;
mod completion;
mod config;
mod daily;
mod deploy_options;
mod domain;
mod harness;
mod interruptions;
mod launch;
mod local;
mod losses;
mod moto;
mod network;
mod operate;
mod packages;
mod policy;
mod round_trips;
mod sign_in;
mod sso;
mod stack_states;
mod template;
mod terminal;
mod text;
