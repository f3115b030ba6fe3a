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

use cbbootstrap_cli::{
    environment::{variable, variable_os},
    text::printable,
};

/// Sends an assignment. The value may contain a text of the API, which must not add another one on its next line. systemd may not be
/// there any more, so errors do not matter.
pub(super) fn notify(name: &str, value: &str) {
    if let Some(path) = variable_os("NOTIFY_SOCKET") {
        let message = format!("{name}={}", printable(value));
        let _ = address(&path).and_then(|address| {
            UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)
        });
    }
}

/// How often systemd must get a sign of life from this process: half the time after which it restarts the agent.
pub(super) fn watchdog_interval() -> Option<Duration> {
    let is_own = variable("WATCHDOG_PID").is_none_or(|id| id == process::id().to_string());
    let time: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    (is_own && time > 0).then(|| Duration::from_micros(time) / 2)
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
