//! The addresses of host names.

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use cbbootstrap_cli::values::{is_localhost, loopback_addresses};
use tokio::net::lookup_host;

/// The system's resolver, except for `localhost` and names below it.
#[derive(Clone, Debug)]
pub struct Resolver;

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        if is_localhost(name) {
            return DnsFuture::ready(Ok(loopback_addresses().collect()));
        }
        DnsFuture::new(async move {
            let addresses = lookup_host((name, 0)).await.map_err(ResolveDnsError::new)?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[tokio::test]
    async fn names_below_localhost_are_this_machine() {
        for (name, is_known) in [
            ("a.localhost", true),
            ("A.b.Localhost.", true),
            ("localhost", true),
            ("localhost.", true),
            ("a.localhost.invalid", false),
        ] {
            let addresses = Resolver.resolve_dns(name).await;
            assert_eq!(addresses.is_ok(), is_known, "{name}");
            assert!(addresses.iter().flatten().all(IpAddr::is_loopback), "{addresses:?}");
        }
    }
}
