//! Processes and their ends.

use std::{
    ffi::{OsStr, OsString},
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::{self, Child, Command, Stdio},
    sync::{Arc, Once},
    thread::sleep,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT},
    flag,
};

/// Sends a signal to a process, or with a minus before its id to its whole group.
pub fn kill(signal: &str, process: &str) {
    let status =
        Command::new("kill").args(["-s", signal, "--", process]).stderr(Stdio::null()).status();
    status.expect("`kill` can be run");
}

/// Lets the processes that the tests start end on signals that this one ignores, such as SIGHUP under `nohup` and SIGINT in the
/// background: ignored signals are inherited, handlers are not.
pub fn pass_signals_on() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = status(process::id()).unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        for signal in [SIGHUP, SIGINT] {
            if ignored.is_some_and(|set| set >> (signal - 1) & 1 == 1) {
                flag::register(signal, Arc::default()).expect("handlers can be set");
            }
        }
    });
}

/// What the kernel says about a process, if it exists.
fn status(process: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{process}/status")).ok()
}

/// The child processes of a process.
pub fn children(process: u32) -> Vec<u32> {
    let line = format!("PPid:\t{process}");
    let is_child = |id: &u32| status(*id).is_some_and(|status| status.lines().any(|it| it == line));
    let processes = fs::read_dir("/proc").expect("the kernel lists the processes").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_child)
        .collect()
}

/// Those that run the function.
pub fn functions(process: u32) -> Vec<u32> {
    let is_function = |process: &u32| {
        let name = fs::read_to_string(format!("/proc/{process}/comm"));
        name.is_ok_and(|name| name.trim() == "bootstrap")
    };
    children(process).into_iter().filter(is_function).collect()
}

/// Whether the process exists and is not a zombie.
pub fn is_alive(process: u32) -> bool {
    status(process).is_some_and(|status| !status.lines().any(|line| line.starts_with("State:\tZ")))
}

/// The peak of the process's resident memory, in bytes.
pub fn peak_memory(process: u32) -> u64 {
    let status = status(process).expect("the process runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.expect("the kernel counts the memory") * 1024
}

/// Waits for up to a minute, as the machine may be loaded.
pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_mins(1), "timed out waiting until {what}");
        sleep(Duration::from_millis(50));
    }
}

/// An unused port.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    socket.local_addr().expect("a socket has an address").port()
}

/// Becomes the program. A second process waits until this program has closed the pipe, kills the group and removes its `TMPDIR`.
const LEASHED: &str = r#"
exec 3<&0 </dev/null
{ read -r end <&3; kill -KILL $$; rm -rf "$TMPDIR"; kill -KILL 0; } >/dev/null 2>&1 &
exec "$@" 3<&-
"#;

/// The shell's arguments that start a program so that its process group ends when its standard input is closed, as when this
/// program is killed. Waiting for the program with `Child::wait` closes it.
pub fn leashed<A: AsRef<OsStr>>(program: &Path, args: &[A]) -> Vec<OsString> {
    let shell = ["-c", LEASHED, "sh"].map(OsStr::new).into_iter().chain([program.as_os_str()]);
    shell.chain(args.iter().map(AsRef::as_ref)).map(OsStr::to_owned).collect()
}

/// Starts a program with this environment, in a process group that ends with this program, even if this one is killed.
pub fn spawn_leashed<'a>(
    program: &Path,
    args: &[&str],
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Guard {
    let child = Command::new("sh")
        .args(leashed(program, args))
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    Guard(child.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display())))
}

/// A process that ends with the test, like its group.
#[derive(Debug)]
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        kill("KILL", &format!("-{}", self.0.id()));
        let _ = self.0.wait();
    }
}
