//! The API: its protocol, its stores, and `cbbootstrap serve`.

#![allow(clippy::unwrap_used)]

mod contract;
mod docs;
mod function;
mod fuzz;
mod history;
mod outage;
mod protocol;
mod serve;
mod signatures;
mod simulation;
mod store;
