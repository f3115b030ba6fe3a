//! Messages to systemd (`sd_notify`): readiness, status and watchdog. Without `NOTIFY_SOCKET` there are none.

use std::{
    ffi::OsStr,
    io,
    os::unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram},
    },
    process,
    time::Duration,
};

use cbbootstrap_cli::environment::{variable, variable_os};

#[derive(Debug)]
pub(super) struct Systemd(Option<(UnixDatagram, SocketAddr)>);

impl Systemd {
    pub(super) fn connect() -> Self {
        let connect = |path: &OsStr| Ok::<_, io::Error>((UnixDatagram::unbound()?, address(path)?));
        Self(variable_os("NOTIFY_SOCKET").and_then(|path| connect(&path).ok()))
    }

    /// Sends assignments, one a line. systemd may not be there any more, so errors do not matter.
    pub(super) fn notify(&self, state: &str) {
        if let Some((socket, address)) = &self.0 {
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }

    /// How often systemd must get a sign of life from this process: half the time after which it restarts the agent.
    pub(super) fn watchdog_interval(&self) -> Option<Duration> {
        self.0.as_ref()?;
        let is_own = variable("WATCHDOG_PID").is_none_or(|id| id == process::id().to_string());
        let time: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
        (is_own && time > 0).then(|| Duration::from_micros(time) / 2)
    }
}

/// A path, or `@` and a name in Linux's abstract namespace.
fn address(path: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = path.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(path)
}
