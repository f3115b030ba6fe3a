//! The stand-in for Couchbase Server in a container.

use std::{env, io};

use cbbootstrap_tests::couchbase::containers;

fn main() -> io::Result<()> {
    match env::args().nth(1).as_deref() {
        Some("couchbase-server") => containers::pass_on(),
        Some("model") => containers::keep(),
        Some("show") => containers::show().map(|shown| println!("{shown}")),
        _ => Err(io::Error::other("usage: couchbase-standin couchbase-server|model|show")),
    }
}
