//! The packages that `scripts/pack` makes: the agent's .deb and .rpm and the wheel of `cbbootstrap`, installed, upgraded and removed in
//! containers of Debian's packages.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cbbootstrap_tests::{
    artifact,
    cli::{Ended, User},
    debian::Container,
    programs,
};
use tempfile::TempDir;

use crate::artifacts;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const UNIT: &str = "cbbootstrap-agent.service";

/// Starts a container.
fn container() -> Option<Container> {
    possible(Container::start)
}

/// Starts something that needs packages. If that is impossible, prints the reason and returns `None`, or fails in CI, unless the user is not
/// root.
fn possible<T>(start: impl FnOnce() -> Result<T, String>) -> Option<T> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    if !is_root || !cfg!(target_arch = "x86_64") {
        eprintln!("skipped: containers need root, on x86_64");
        return None;
    }
    let started = Command::new("rpmbuild")
        .arg("--version")
        .output()
        .map_err(|_| "Debian's package rpm is not installed".to_owned())
        .and_then(|_| start());
    started
        .inspect_err(|reason| {
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            eprintln!("skipped: {reason}");
        })
        .ok()
}

/// A program that is quickly compressed, where its content does not matter.
const SMALL: &str = "/bin/true";

/// Packs a binary as a program of this version, with the completions and manual pages of that program.
fn pack(program: &str, binary: &Path, version: &str) -> TempDir {
    let native = if program == "cbbootstrap" { programs::cbbootstrap() } else { programs::agent() };
    let directory = tempfile::tempdir().unwrap();
    // Released programs have no symbols. Those of a program for tests are half of it.
    let stripped = directory.path().join(program);
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(binary).status();
    assert!(strip.unwrap().success(), "{}", binary.display());
    let script = programs::workspace().join("scripts/pack");
    let user = User::default();
    let mut command = user.program(&script, &[program, TARGET]);
    command.arg(&stripped).arg(directory.path()).arg(native).env("VERSION", version);
    // By default, the date of the last commit.
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    Ended::of(&mut command).ended_with(0);
    fs::remove_file(stripped).unwrap();
    directory
}

/// The agent's packages of version 1.0.0, with a small program.
fn small() -> TempDir {
    pack("cbbootstrap-agent", Path::new(SMALL), "1.0.0")
}

/// The file in a directory whose name ends like this.
fn file(directory: &TempDir, end: &str) -> PathBuf {
    let mut files = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.display().to_string().ends_with(end)).unwrap_or_else(|| panic!("{end}"))
}

/// Copies a package to the container's root, and returns its path there.
fn copy(container: &Container, package: &Path) -> String {
    let name = package.file_name().unwrap().display();
    let path = format!("/{name}");
    fs::copy(package, container.path(&path)).unwrap();
    path
}

fn is_enabled(container: &Container) -> bool {
    container.run(&format!("SYSTEMD_OFFLINE=1 systemctl.systemd is-enabled {UNIT}")).status
        == Some(0)
}

/// Checks a newly installed agent, and configures and enables it.
fn check_and_configure(container: &Container) {
    let version = container.run("cbbootstrap-agent --version").ended_with(0).stdout;
    assert_eq!(version.trim(), concat!("cbbootstrap-agent ", env!("CARGO_PKG_VERSION")));
    assert!(!is_enabled(container));
    // The configuration of the package sets nothing, and names options that exist.
    let up = "CBBOOTSTRAP_NODE=node.example.com CB_REST_PASSWORD=password cbbootstrap-agent up --timeout 1s --config";
    let unset = container.run(&format!("{up} /etc/cbbootstrap/agent.yaml")).ended_with(2);
    assert!(unset.stderr.contains("--api"), "{unset}");
    let uncomment = "sed 's/^#\\([a-z]\\)/\\1/; s/API-ID.*/example.invalid/' /etc/cbbootstrap/agent.yaml >/all.yaml";
    let set = container.run(&format!("{uncomment}; {up} /all.yaml"));
    assert_eq!(set.status, Some(3), "{set}");

    fs::write(container.path("/etc/cbbootstrap/agent.yaml"), "cluster_id: mine\n").unwrap();
    fs::write(container.path("/etc/cbbootstrap/password"), "password\n").unwrap();
    // The paths in the unit's header are those of the package.
    let unit = container.path("/usr/lib/systemd/system").join(UNIT);
    let unit = fs::read_to_string(unit).unwrap();
    assert!(unit.contains(&format!("#   /usr/lib/systemd/system/{UNIT} ")), "{unit}");
    assert!(!unit.contains("/usr/local/bin"), "{unit}");
    container.run(&format!("systemctl enable {UNIT}")).ended_with(0);
    let verified = container.run(&format!("systemd-analyze verify --man=no {UNIT}"));
    assert!(!verified.stderr.contains(UNIT), "{verified}");
    container.log();
}

/// Checks that an upgrade kept the user's settings and restarted the service if it ran.
fn check_upgraded(container: &Container) {
    let options = fs::read_to_string(container.path("/etc/cbbootstrap/agent.yaml")).unwrap();
    assert_eq!(options, "cluster_id: mine\n");
    let log = container.log();
    assert!(
        !log.iter().any(|call| call.starts_with("stop") || call.contains("disable")),
        "{log:?}"
    );
    let restart = format!("--no-block try-restart {UNIT}");
    let calls = [
        log.iter().position(|call| call == "daemon-reload"),
        log.iter().position(|call| *call == restart),
    ];
    assert!(calls[0].is_some() && calls[0] < calls[1], "{log:?}");
    assert!(is_enabled(container));
}

/// Checks that the removal stopped and disabled the service.
fn check_removed(container: &Container) {
    let log = container.log();
    assert_eq!(log[..2], [format!("stop {UNIT}"), format!("--quiet disable {UNIT}")], "{log:?}");
    for path in ["/usr/bin/cbbootstrap-agent", "/usr/lib/systemd/system/cbbootstrap-agent.service"]
    {
        assert!(!container.path(path).exists(), "{path}");
    }
    let wants = container.path("/etc/systemd/system/multi-user.target.wants").join(UNIT);
    assert!(wants.symlink_metadata().is_err(), "the unit is enabled");
    assert!(container.path("/etc/cbbootstrap/password").exists());
}

#[test]
fn agents_packages_can_be_upgraded_and_removed() {
    let (Some(debian), Some(red_hat)) = (container(), container()) else {
        return;
    };
    let candidate = pack("cbbootstrap-agent", &programs::agent(), "1.0.0-rc.1");
    let release = small();

    let dpkg =
        |option: &str, package: &str| debian.run(&format!("dpkg {option} {package}")).ended_with(0);
    dpkg("--install", &copy(&debian, &file(&candidate, ".deb")));
    check_and_configure(&debian);
    dpkg("--refuse-downgrade --install", &copy(&debian, &file(&release, ".deb")));
    check_upgraded(&debian);
    dpkg("--remove", "cbbootstrap-agent");
    check_removed(&debian);
    assert!(debian.path("/etc/cbbootstrap/agent.yaml").exists());
    dpkg("--purge", "cbbootstrap-agent");
    assert!(!debian.path("/etc/cbbootstrap").exists());

    // Debian's dependencies are not in RPM's database.
    let rpm = |option: &str, package: &Path| {
        let user = User::default();
        // Debian's database would be in the home directory.
        let options = ["--nodeps", "--dbpath", "/var/lib/rpm", "--root"];
        let mut command = user.program(Path::new("rpm"), &options);
        Ended::of(command.arg(red_hat.path("")).arg(option).arg(package)).ended_with(0)
    };
    rpm("--install", &file(&candidate, ".rpm"));
    check_and_configure(&red_hat);
    rpm("--upgrade", &file(&release, ".rpm"));
    check_upgraded(&red_hat);
    rpm("--erase", Path::new("cbbootstrap-agent"));
    check_removed(&red_hat);
    assert!(red_hat.path("/etc/cbbootstrap/agent.yaml.rpmsave").exists());
}

#[test]
fn wheel_deploys_without_rust() {
    let Some(container) = container() else {
        return;
    };
    let packed = pack("cbbootstrap", artifacts::carrier(), env!("CARGO_PKG_VERSION"));
    let wheel = copy(&container, &file(&packed, ".whl"));
    container
        .run(&format!("python3 -m venv /venv && /venv/bin/pip install --no-index {wheel}"))
        .ended_with(0);
    let run = |args: &str| container.run(&format!("PATH=/venv/bin:$PATH cbbootstrap {args}"));
    run("deploy --local --exit --port 0 --data /data").ended_with(0);
    run("package --out /function.zip").ended_with(0);
    assert!(
        fs::read(container.path("/function.zip")).unwrap() == fs::read(artifact::zip()).unwrap()
    );
    container.run("/venv/bin/pip check && /venv/bin/pip uninstall --yes cbbootstrap").ended_with(0);
    assert!(!container.path("/venv/bin/cbbootstrap").exists());
}

/// `cargo binstall` downloads the archive that the metadata of the manifest names.
#[test]
fn packing_is_reproducible_and_binstall_finds_the_archive() {
    if possible(|| Ok(())).is_none() {
        return;
    }
    let again = small();
    let [one, two] = [&small(), &again].map(|directory| {
        let entries = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| (path.file_name().unwrap().to_owned(), fs::read(path).unwrap()))
            .collect::<BTreeMap<_, _>>()
    });
    assert_eq!(one.len(), 3);
    for (name, content) in &one {
        assert!(two.get(name) == Some(content), "{}", name.display());
    }

    let name = format!("cbbootstrap-agent-1.0.0-{TARGET}");
    let archive = again.path().join(format!("{name}.tar.gz"));
    let list = Command::new("tar").arg("--list").arg("--file").arg(&archive).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    for directory in ["agent", "deployer"] {
        let manifest = programs::workspace().join(directory).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        let pattern = "{ name }-{ version }-{ target }";
        for line in [
            format!("pkg-url = \"{{ repo }}/releases/download/v{{ version }}/{pattern}.tar.gz\""),
            format!("bin-dir = \"{pattern}/{{ bin }}\""),
        ] {
            assert!(manifest.lines().any(|other| other == line), "{directory}: {line}");
        }
    }
    assert!(list.lines().any(|entry| entry == format!("{name}/cbbootstrap-agent")), "{list}");
}

/// With a stand-in for `docker`, which logs its arguments and the files of its context.
#[test]
fn images_are_built_from_the_archives_and_pushed_to_a_registry() {
    let version = format!("1.0.0-rc.1-{}", std::env::consts::ARCH);
    let release = tempfile::tempdir().unwrap();
    let images = [("server", "cbbootstrap"), ("agent", "cbbootstrap-agent")];
    for (_, program) in images {
        let name = format!("{program}-{version}-unknown-linux-gnu");
        fs::create_dir(release.path().join(&name)).unwrap();
        fs::write(release.path().join(&name).join(program), "").unwrap();
        let mut tar = Command::new("tar");
        tar.current_dir(&release).args(["-czf", &format!("{name}.tar.gz"), &name]);
        assert!(tar.status().unwrap().success());
    }
    let docker = "#!/bin/sh\nfor last; do :; done\n\
                  echo \"$* $(ls \"$last\" 2>/dev/null | tr '\\n' ' ')\" >>\"$HOME/calls\"\n";
    let stand_ins = tempfile::tempdir().unwrap();
    programs::write_script(&stand_ins.path().join("docker"), docker);
    let release = release.path().to_str().unwrap();
    for (args, registry) in [(vec![release], ""), (vec![release, "ghcr.io/us"], "ghcr.io/us/")] {
        let user = User::default().with_programs(stand_ins.path());
        let script = programs::workspace().join("scripts/images");
        Ended::of(&mut user.program(&script, &args)).ended_with(0);
        let calls = fs::read_to_string(user.home.path().join("calls")).unwrap();
        let mut calls = calls.lines();
        for (target, program) in images {
            let build = calls.next().unwrap();
            let tag = format!("{registry}{program}:{version}");
            assert!(build.starts_with(&format!("build --file Dockerfile --target {target} ")));
            assert!(build.contains(&format!(" --tag {tag} ")), "{build}");
            assert!(build.ends_with(&format!("{program} ")), "{build}");
            if !registry.is_empty() {
                assert_eq!(calls.next().unwrap().trim_end(), format!("push {tag}"));
            }
        }
        assert_eq!(calls.next(), None);
    }
}
