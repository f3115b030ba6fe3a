//! Containers of Debian's packages: each is a directory with its own root, mounts and processes. They need neither Docker nor an image.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    cli::{Ended, User},
    programs,
};

/// A container with Python and systemd. systemd does not run: `systemctl` records its arguments in [`Container::log`], and only enables
/// and disables units.
#[derive(Debug)]
pub struct Container {
    root: TempDir,
}

const SYSTEMCTL: &str = "#!/bin/sh
echo \"$*\" >>/var/log/systemctl
case $1 in
daemon-reload | stop | --no-block) ;;
*) SYSTEMD_OFFLINE=1 exec systemctl.systemd \"$@\" ;;
esac
";

impl Container {
    /// The error names what is missing.
    pub fn start() -> Result<Self, String> {
        let archive = with_systemd()?;
        let root = tempfile::tempdir().expect("temporary directories can be made");
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(root.path());
        assert!(tar.status().is_ok_and(|status| status.success()), "{tar:?}");
        let systemctl = root.path().join("usr/bin/systemctl");
        fs::rename(&systemctl, systemctl.with_extension("systemd")).expect("systemd is installed");
        programs::write_script(&systemctl, SYSTEMCTL);
        // As if systemd ran.
        fs::create_dir_all(root.path().join("run/systemd/system")).expect("it can be written");
        Ok(Self { root })
    }

    /// A path in the container, as this machine sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    /// Runs a shell script in the container.
    pub fn run(&self, script: &str) -> Ended {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let user = User::default().with("PATH", path);
        let separate =
            ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"];
        let mut command = user.program(Path::new("unshare"), &separate);
        command.arg("--root").arg(self.root.path()).args(["--wd", "/", "sh", "-c", script]);
        Ended::of(&mut command)
    }

    /// The arguments of each call of `systemctl` since the last read.
    pub fn log(&self) -> Vec<String> {
        let log = self.path("/var/log/systemctl");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(log);
        text.lines().map(str::to_owned).collect()
    }
}

/// The file system of Debian stable with systemd, Python and curl, as [`file_system`] creates it.
pub fn with_systemd() -> Result<PathBuf, String> {
    file_system("debian-with-systemd", "curl,procps,python3-venv,systemd")
}

/// The file system of Debian stable with these packages: an archive under `target/`, created on first use. The error names what is
/// missing.
pub fn file_system(name: &str, packages: &str) -> Result<PathBuf, String> {
    let file = programs::target().join(format!("{name}.tar"));
    // Other test programs may run at the same time.
    let lock =
        File::create(file.with_extension("lock")).expect("the target directory can be written");
    lock.lock().expect("files can be locked");
    if file.exists() {
        return Ok(file);
    }
    let part = file.with_extension("part.tar");
    let output = Command::new("mmdebstrap")
        .args(["--variant=minbase", "--include", packages])
        // As in the official image. An old package list will do.
        .args(
            ["man", "doc", "locale"]
                .map(|kind| format!("--dpkgopt=path-exclude=/usr/share/{kind}/*")),
        )
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        .arg("--aptopt=Acquire::Retries \"3\"")
        .arg("stable")
        .arg(&part)
        .stdin(Stdio::null())
        .output()
        .map_err(|_| "Debian's package mmdebstrap is not installed".to_owned())?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr);
        return Err(format!("Debian's packages cannot be had: {output}"));
    }
    fs::rename(part, &file).expect("the target directory can be written");
    Ok(file)
}
