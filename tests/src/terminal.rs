//! The programs in a terminal, for what a pipe never sees: moving lines, questions and Ctrl-C.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use vt100::Parser;

use crate::{cli::User, pattern::pattern, process::kill};

/// Columns and rows of a terminal, unless a test wants others.
const SIZE: (u16, u16) = (100, 30);

/// Lines of scrollback.
const SCROLLBACK: usize = 2000;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_mins(2);

const PAUSE: Duration = Duration::from_millis(10);

/// A terminal with a program in it, `cbbootstrap` mostly. It is killed with the test.
pub struct Terminal {
    parser: Arc<Mutex<Parser>>,
    keyboard: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    reader: JoinHandle<()>,
    _master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    /// Starts `cbbootstrap` in a terminal of 100 columns and 30 rows.
    pub fn start<A: AsRef<OsStr>>(user: &User, args: &[A]) -> Self {
        Self::sized(user, args, SIZE)
    }

    /// Starts it in a terminal of this size.
    pub fn sized<A: AsRef<OsStr>>(user: &User, args: &[A], size: (u16, u16)) -> Self {
        Self::of(&user.command(args), size)
    }

    /// Starts this command, with its arguments, environment and directory.
    pub fn of(command: &Command, (cols, rows): (u16, u16)) -> Self {
        let pair = native_pty_system()
            .openpty(PtySize { rows, cols, ..PtySize::default() })
            .expect("a terminal can be made");
        let mut builder = CommandBuilder::new(command.get_program());
        builder.args(command.get_args());
        builder.env_clear();
        for (name, value) in command.get_envs() {
            builder.env(name, value.unwrap_or_default());
        }
        builder.env("TERM", "xterm-256color");
        builder.cwd(command.get_current_dir().unwrap_or(Path::new("/")));
        let child = pair.slave.spawn_command(builder).expect("a program can be run");
        // With the last end of the slave, the program's, the output ends.
        drop(pair.slave);
        let mut output = pair.master.try_clone_reader().expect("a terminal can be read");
        let keyboard = pair.master.take_writer();
        let parser = Arc::new(Mutex::new(Parser::new(rows, cols, SCROLLBACK)));
        let seen = Arc::clone(&parser);
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                lock(&seen).process(&bytes[..read]);
            }
        });
        Self {
            parser,
            keyboard: keyboard.expect("a terminal can be written to"),
            child,
            reader,
            _master: pair.master,
        }
    }

    /// What is on the screen, without trailing blanks.
    pub fn screen(&self) -> String {
        let parser = lock(&self.parser);
        let (_, cols) = parser.screen().size();
        text(parser.screen().rows(0, cols))
    }

    /// What is on the screen, and before it what has scrolled off the top.
    pub fn transcript(&self) -> String {
        let mut parser = lock(&self.parser);
        let screen = parser.screen_mut();
        let (_, cols) = screen.size();
        screen.set_scrollback(usize::MAX);
        let mut rows = Vec::new();
        for above in (1..=screen.scrollback()).rev() {
            screen.set_scrollback(above);
            rows.extend(screen.rows(0, cols).next());
        }
        screen.set_scrollback(0);
        rows.extend(screen.rows(0, cols));
        text(rows)
    }

    /// Waits until this is on the screen, or has been and has scrolled off it.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let since = Instant::now();
        loop {
            // Checked first, so that all output before the end is read.
            let ended = self.reader.is_finished();
            let transcript = self.transcript();
            if transcript.contains(text) {
                return;
            }
            assert!(!ended && since.elapsed() < PATIENCE, "{text:?} does not appear\n{transcript}");
            sleep(PAUSE);
        }
    }

    /// Types this and Enter.
    pub fn type_line(&mut self, line: &str) {
        self.press(&format!("{line}\r"));
    }

    /// Presses Ctrl-C: the terminal, not the test, sends the signal.
    pub fn press_ctrl_c(&mut self) {
        self.press("\x03");
    }

    /// Types this.
    pub fn press(&mut self, keys: &str) {
        let pressed = self.keyboard.write_all(keys.as_bytes());
        pressed.expect("a terminal can be written to");
    }

    /// The id of the process, which is that of its group, too.
    pub fn id(&self) -> u32 {
        self.child.process_id().expect("it was started")
    }

    /// Sends the process a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        kill(name, &self.id().to_string());
    }

    /// Waits for its end: the exit status; none if a signal ended it.
    #[track_caller]
    pub fn wait(&mut self) -> Option<i32> {
        let since = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None => assert!(since.elapsed() < PATIENCE, "no end\n{}", self.transcript()),
            }
            sleep(PAUSE);
        };
        // Its last lines may still be on the way; a child process may hold the terminal open for longer.
        let ended = Instant::now();
        while !self.reader.is_finished() && ended.elapsed() < Duration::from_secs(2) {
            sleep(PAUSE);
        }
        match status.signal() {
            Some(_) => None,
            None => i32::try_from(status.exit_code()).ok(),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            kill("KILL", &format!("-{}", self.id()));
            let _ = self.child.wait();
        }
    }
}

fn lock(parser: &Mutex<Parser>) -> MutexGuard<'_, Parser> {
    parser.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(rows: impl IntoIterator<Item = String>) -> String {
    let rows: Vec<_> = rows.into_iter().map(|row| row.trim_end().to_owned()).collect();
    rows.join("\n").trim_end().to_owned()
}

/// Replaces what differs between runs, for comparison with a snapshot.
pub fn settled(text: &str) -> String {
    let varying = [
        (r"\b[0-9a-f]{64}\b", "<sha256>"),
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uuid>"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?", "<time>"),
        (r"\b[0-9a-z]+\.execute-api\.", "<api>.execute-api."),
        (r"(127\.0\.0\.1|localhost):\d+", "$1:<port>"),
        (r"/tmp/[.\w-]+", "<tmp>"),
        (r"\b\d+ bytes\b", "<n> bytes"),
        // A progress line ends with its clock.
        (r"(?m) *\b\d+(s|m|h)$", " <elapsed>"),
        (r"\b\d+(\.\d+)? (s|ms|seconds?)\b", "<n> s"),
        // Every glyph of a spinner is of this block, and its last a blank one.
        (r"[\u{2800}-\u{28FF}]", "*"),
    ];
    varying.iter().fold(text.to_owned(), |text, (varies, word)| {
        pattern(varies).replace_all(&text, *word).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varying_values_are_replaced() {
        let sha256 = "0123456789abcdef".repeat(4);
        for (text, expected) in [
            (format!("sha256 {sha256}"), "sha256 <sha256>"),
            (
                "set cbbootstrap-6e0e1f2a-0b7f-4c9e-9d4e-2f9a1c3b5d7e".to_owned(),
                "set cbbootstrap-<uuid>",
            ),
            (
                "http://a1b2c3.execute-api.localhost:40123/cluster".to_owned(),
                "http://<api>.execute-api.localhost:<port>/cluster",
            ),
            ("updated (1.2 s)".to_owned(), "updated (<n> s)"),
            ("7 passed in 35 ms".to_owned(), "7 passed in <n> s"),
            ("\u{2819} stack    waiting     12s".to_owned(), "* stack    waiting <elapsed>"),
            ("at 2026-01-02T03:04:05.678Z".to_owned(), "at <time>"),
            ("in /tmp/.tmpAb12/x.zip".to_owned(), "in <tmp>/x.zip"),
        ] {
            assert_eq!(settled(&text), expected);
        }
    }
}
