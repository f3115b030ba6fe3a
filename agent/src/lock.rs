//! One agent at a time works on a server.

/// Held while an agent works on a server; whatever ends the agent sets it free.
#[derive(Debug)]
pub struct Lock {
    #[cfg(target_os = "linux")]
    _socket: std::os::unix::net::UnixListener,
}

impl Lock {
    /// Takes the lock of the server at this URL; none while another agent holds it.
    ///
    /// It is a socket in Linux's abstract namespace: nothing of it stays behind, and like the server's loopback address it
    /// is the same for all processes of a host or of a pod, and for no others.
    #[cfg(target_os = "linux")]
    pub fn take(server: &str) -> std::io::Result<Option<Self>> {
        use std::os::{
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr, UnixListener},
        };
        let server = server.replace("localhost", "127.0.0.1");
        // The name has room for 107 bytes.
        let mut name = format!("cbbootstrap-agent {server}").into_bytes();
        name.truncate(107);
        let address = SocketAddr::from_abstract_name(name)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Other systems have no such socket, and no Couchbase clusters that boot by themselves.
    #[cfg(not(target_os = "linux"))]
    pub fn take(_server: &str) -> std::io::Result<Option<Self>> {
        Ok(Some(Self {}))
    }
}
