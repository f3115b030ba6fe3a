//! Keeps two agents from working on the same server at a time.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use cbbootstrap_cli::failure::Failure;

use crate::http::{self, is_own_address};

/// The lock of a server, released when the agent ends in any way.
#[derive(Debug)]
pub struct Lock {
    #[cfg(target_os = "linux")]
    _socket: std::os::unix::net::UnixListener,
}

impl Lock {
    /// Acquires the lock of the server at this URL; `None` while another agent holds it.
    pub fn acquire(url: &str) -> Result<Option<Self>, Failure> {
        Self::bind(&server_name(url)).map_err(|error| {
            Failure::new(format!("cannot acquire the lock of the server at {url}: {error}"))
                .hint("the lock is a Unix socket: check `ulimit -n`, and that the system or the container allows AF_UNIX")
        })
    }

    /// The lock is a socket in Linux's abstract namespace: nothing stays behind, and its scope is that of the server's loopback
    /// address, the host or the pod.
    #[cfg(target_os = "linux")]
    fn bind(server: &str) -> std::io::Result<Option<Self>> {
        use std::os::{
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr, UnixListener},
        };
        let address = SocketAddr::from_abstract_name(socket_name(server))?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Other systems have no such socket, and Couchbase clusters rarely run there.
    #[cfg(not(target_os = "linux"))]
    fn bind(_server: &str) -> std::io::Result<Option<Self>> {
        Ok(Some(Self {}))
    }
}

/// Why the lock of the server at this URL cannot be acquired: any process in its scope can hold it.
pub fn describe_holder(url: &str) -> String {
    let holder = find_holder(&server_name(url));
    let process = holder.map_or_else(String::new, |process| format!(" (process {process})"));
    format!("another agent works on this server{process}")
}

/// Finds the process that holds a server's lock, as far as this user may see it. There is none on systems other than Linux.
fn find_holder(server: &str) -> Option<u32> {
    // Names of other sockets may be any bytes.
    let sockets = fs::read("/proc/net/unix").ok()?;
    let sockets = String::from_utf8_lossy(&sockets);
    let name = format!(" @{}", socket_name(server));
    let inode = sockets.lines().find(|line| line.ends_with(&name))?.split_whitespace().nth(6)?;
    let socket = format!("socket:[{inode}]");
    let holds = |process: &fs::DirEntry| {
        let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|file| file.as_os_str() == &*socket)
    };
    let process = fs::read_dir("/proc").ok()?.flatten().find(holds)?;
    process.file_name().to_str()?.parse().ok()
}

fn socket_name(server: &str) -> String {
    let mut name = format!("cbbootstrap-agent {server}");
    // The longest name of a socket. A host's name is ASCII.
    name.truncate(107);
    name
}

/// One name for all URLs of a server: Couchbase Server listens on all addresses of its host, and its port for TLS is 10,000
/// above the other one, as are those of `cluster_run` (9000 and 19000).
fn server_name(url: &str) -> String {
    let (host, port) = (http::host(url).to_ascii_lowercase(), http::port(url));
    // Different servers may have a host's other loopback addresses.
    let is_special = host.parse().is_ok_and(|address: IpAddr| {
        address.is_loopback() && address != Ipv4Addr::LOCALHOST && address != Ipv6Addr::LOCALHOST
    });
    let is_here = !is_special && http::addresses(&host).into_iter().any(is_own_address);
    let host = if is_here { "here" } else { &host };
    let port =
        if url.starts_with("https:") { port.checked_sub(10_000).unwrap_or(port) } else { port };
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_has_the_same_name_for_all_urls_of_a_server() {
        for (url, name) in [
            ("http://127.0.0.1:8091", "here:8091"),
            ("http://localhost:8091", "here:8091"),
            ("http://LocalHost:8091/", "here:8091"),
            ("http://localhost.:8091", "here:8091"),
            ("http://cb.localhost:8091", "here:8091"),
            ("http://[::1]:8091", "here:8091"),
            ("https://127.0.0.1:18091", "here:8091"),
            ("https://[::1]:18091", "here:8091"),
            ("http://127.0.0.1:9000", "here:9000"),
            ("https://127.0.0.1:19000", "here:9000"),
            ("http://127.0.0.1:9001", "here:9001"),
            ("https://localhost:19001", "here:9001"),
            ("http://127.0.0.2:8091", "127.0.0.2:8091"),
            ("https://127.0.0.2:18091", "127.0.0.2:8091"),
            // A documentation address, and a name that does not exist.
            ("https://192.0.2.1:18091", "192.0.2.1:8091"),
            ("https://cb-0.invalid:18091", "cb-0.invalid:8091"),
            ("https://cb-0.invalid", "cb-0.invalid:443"),
        ] {
            assert_eq!(server_name(url), name, "{url}");
        }
    }
}
