//! Python programs in a virtual environment under `target/`, created on first use.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use crate::programs;

/// Forks the processes.
const FORKS: &str = include_str!("forks.py");

/// A process forked from one that has loaded the packages. It ends when this is dropped, or with this program.
#[derive(Debug)]
pub struct Forked {
    pub id: u32,
    connection: BufReader<UnixStream>,
}

impl Forked {
    /// Starts boto3 if this is null, or else MiniStack in this environment.
    pub fn start(environment: &Value) -> Self {
        /// It ends with this program, which closes its standard input.
        static PARENT: OnceLock<(Child, PathBuf)> = OnceLock::new();
        let (_, socket) = PARENT.get_or_init(|| {
            let mut parent = Command::new(bin().join("python"))
                .args(["-c", FORKS])
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("Python can be run");
            let mut socket = String::new();
            let output = parent.stdout.take().expect("it is piped");
            BufReader::new(output).read_line(&mut socket).expect("Python writes UTF-8");
            (parent, socket.trim_end().into())
        });
        let connection = UnixStream::connect(socket).expect("Python listens");
        let mut process = Self { id: 0, connection: BufReader::new(connection) };
        let id = process.ask(environment).as_u64().expect("a process has an ID");
        process.id = id.try_into().expect("IDs have 32 bits");
        process
    }

    /// Sends a line of JSON and receives one.
    pub fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.connection.get_mut(), "{question}").expect("Python reads");
        let mut answer = String::new();
        self.connection.read_line(&mut answer).expect("Python writes UTF-8");
        serde_json::from_str(&answer).expect("Python prints JSON")
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        let connection = self.connection.get_mut();
        let _ = connection.shutdown(Shutdown::Write);
        // Until the process has ended.
        let _ = connection.read_to_end(&mut Vec::new());
    }
}

/// The environment's directory of programs.
pub fn bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/requirements.txt");
        environment(Path::new(requirements))
    })
}

/// The directory of its packages, which other versions of Python can use as well.
pub fn packages() -> PathBuf {
    let libraries = bin().with_file_name("lib");
    let versions = fs::read_dir(libraries).expect("the environment is complete");
    let mut packages = versions.flatten().map(|version| version.path().join("site-packages"));
    packages.find(|packages| packages.exists()).expect("the environment has packages")
}

/// The directory of programs of an environment with the packages that this file names.
pub fn environment(requirements: &Path) -> PathBuf {
    let packages = fs::read_to_string(requirements).expect("the requirements can be read");
    let mut hash = DefaultHasher::new();
    // An environment cannot be moved.
    (packages, programs::target()).hash(&mut hash);
    let directory = programs::target().join(format!("python-{:016x}", hash.finish()));
    // Other test programs may run at the same time.
    let lock = File::create(directory.with_extension("lock"))
        .expect("the target directory can be written");
    lock.lock().expect("files can be locked");
    let complete = directory.join("complete");
    if !complete.exists() {
        let _ = fs::remove_dir_all(&directory);
        run(Command::new("python3").args(["-m", "venv"]).arg(&directory));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        run(Command::new(directory.join("bin/python")).args(pip).arg(requirements));
        fs::write(complete, "").expect("the target directory can be written");
    }
    directory.join("bin")
}

fn run(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} failed; Python 3.10 or newer with venv is needed\n{said}"
    );
}
