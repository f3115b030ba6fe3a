//! Keeps two agents from working on the same server at a time.

/// The lock of a server, released when the agent ends in any way.
#[derive(Debug)]
pub struct Lock {
    #[cfg(target_os = "linux")]
    _socket: std::os::unix::net::UnixListener,
}

impl Lock {
    /// Acquires the lock of the server at this URL; `None` while another agent holds it.
    ///
    /// It is a socket in Linux's abstract namespace: nothing stays behind, and its scope is that of the server's loopback address,
    /// the host or the pod.
    #[cfg(target_os = "linux")]
    pub fn acquire(server: &str) -> std::io::Result<Option<Self>> {
        use std::os::{
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr, UnixListener},
        };
        let server = server.replace("localhost", "127.0.0.1");
        // The longest name of a socket.
        let mut name = format!("cbbootstrap-agent {server}").into_bytes();
        name.truncate(107);
        let address = SocketAddr::from_abstract_name(name)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Other systems have no such socket, and Couchbase clusters rarely run there.
    #[cfg(not(target_os = "linux"))]
    pub fn acquire(_server: &str) -> std::io::Result<Option<Self>> {
        Ok(Some(Self {}))
    }
}
