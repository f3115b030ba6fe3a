//! Whether others may read a secret or change a configuration file, and how to read and replace a file.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// Others may change the file: its group, or everybody.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Everybody may read the file. Its group may, because Kubernetes gives files to a container that does not run as root in this way
/// (`fsGroup`).
const READABLE_BY_EVERYBODY: u32 = 0o004;

/// The most bytes of options, a secret, certificates, or AWS's profiles.
pub const MAX_TEXT: u64 = 16 * 1024 * 1024;

/// Checks that other users can neither read nor change a file with a secret.
///
/// Follows links. Pipes, `-` and missing files pass.
pub fn check_private(path: &Path) -> Result<(), Failure> {
    let Some(file) = regular(path) else {
        return Ok(());
    };
    let what = if file.mode() & READABLE_BY_EVERYBODY != 0 {
        "can be read by every user"
    } else if file.mode() & WRITABLE_BY_OTHERS != 0 {
        "can be changed by other users"
    } else {
        return Ok(());
    };
    let shown = path.display();
    let mode = permissions(&file);
    Err(Failure::usage(format!("`{shown}` {what} (mode {mode:04o})")).hint(format!(
        "`chmod 600 {shown}`; in Kubernetes set `defaultMode: 0400` for the volume, in Docker Swarm `mode: 0400` for the secret"
    )))
}

/// Checks that only root and the current user can change a file with options.
///
/// Follows links. Pipes and missing files pass. The owner is checked on Linux only.
pub fn check_trusted(path: &Path) -> Result<(), Failure> {
    let Some(file) = regular(path) else {
        return Ok(());
    };
    let shown = path.display();
    if file.mode() & WRITABLE_BY_OTHERS != 0 {
        let mode = permissions(&file);
        return Err(Failure::usage(format!(
            "`{shown}` can be changed by other users (mode {mode:04o})"
        ))
        .hint(format!("`chmod go-w {shown}`")));
    }
    if !is_trusted_owner(file.uid(), current_user()) {
        return Err(Failure::usage(format!("`{shown}` belongs to another user ({})", file.uid()))
            .hint(format!("it must belong to root or the current user: `chown root {shown}`")));
    }
    Ok(())
}

/// Checks that a file can be read again: a pipe without a writer would block, and so would standard input (`-`). Missing files pass.
pub fn check_readable_again(path: &Path) -> Result<(), Failure> {
    if path == Path::new("-") || fs::metadata(path).is_ok_and(|file| !file.is_file()) {
        let file = path.display();
        return Err(Failure::usage(format!(
            "`{file}` is not a regular file and is read only once"
        )));
    }
    Ok(())
}

/// Reads a file of at most [`MAX_TEXT`] bytes.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_from(File::open(path)?, MAX_TEXT)
}

/// Reads at most this many bytes. A wrong path may lead to a disk's image, or to a device that has no end.
pub fn read_from(from: impl Read, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if from.take(max_bytes + 1).read_to_end(&mut bytes)? as u64 > max_bytes {
        let why = format!("it has more than {} MiB", max_bytes >> 20);
        return Err(io::Error::new(ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// Creates a file, or replaces it in one step, so that nobody reads an incomplete one.
///
/// Follows links. Writes directly to a pipe or device, and to an open file such as `/dev/fd/3`, instead of replacing it. Returns `true` if
/// the file is this process's stdout, to which nothing else must then be written. `option` names the file.
pub fn replace(path: &Path, bytes: &[u8], option: &str) -> Result<bool, Failure> {
    try_replace(path, bytes).map_err(|error| {
        Failure::new(format!("cannot write `{}`: {error}", path.display()))
            .hint(format!("choose another file with `{option}`"))
    })
}

fn try_replace(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let is_open_file = path.starts_with("/dev") || path.starts_with("/proc");
    let path = match fs::metadata(path) {
        // Opened again, it would have another position, and the next output would overwrite these bytes.
        Ok(file) if is_open_as(io::stdout(), &file) => {
            let mut stdout = io::stdout();
            return stdout.write_all(bytes).and_then(|()| stdout.flush()).map(|()| true);
        }
        Ok(file) if is_open_as(io::stderr(), &file) => {
            return io::stderr().write_all(bytes).map(|()| false);
        }
        Ok(file) if is_open_file || !file.is_file() => {
            let mut file = File::options().append(true).open(path)?;
            return file.write_all(bytes).map(|()| false);
        }
        Ok(_) => fs::canonicalize(path)?,
        Err(error) if error.kind() == ErrorKind::NotFound => follow_links(path),
        Err(error) => return Err(error),
    };
    // Errors of `tempfile`'s own functions contain the temporary file's path, and its files only their owner can read.
    let create = |path: &Path| File::options().write(true).create_new(true).open(path);
    let mut file = tempfile::Builder::new().make_in(directory(&path), create)?;
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(false)
}

/// Whether this stream of the process leads to the file.
fn is_open_as(stream: impl AsFd, file: &fs::Metadata) -> bool {
    let stream =
        stream.as_fd().try_clone_to_owned().and_then(|stream| File::from(stream).metadata());
    stream.is_ok_and(|stream| (stream.dev(), stream.ino()) == (file.dev(), file.ino()))
}

/// The missing file at a path, or at the end of the links that begin there.
fn follow_links(path: &Path) -> PathBuf {
    match fs::read_link(path) {
        Ok(target) => follow_links(&directory(path).join(target)),
        Err(_) => path.to_owned(),
    }
}

fn directory(path: &Path) -> &Path {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    directory.unwrap_or(Path::new("."))
}

fn regular(path: &Path) -> Option<fs::Metadata> {
    if path == Path::new("-") {
        return None;
    }
    fs::metadata(path).ok().filter(fs::Metadata::is_file)
}

fn permissions(file: &fs::Metadata) -> u32 {
    file.mode() & 0o7777
}

/// The user that this process runs as, on systems with `/proc`.
fn current_user() -> Option<u32> {
    fs::metadata("/proc/self").ok().map(|process| process.uid())
}

fn is_trusted_owner(owner: u32, user: Option<u32>) -> bool {
    owner == 0 || user.is_none_or(|user| user == owner)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{FileTypeExt, PermissionsExt, symlink},
        process::Command,
        thread,
    };

    use super::*;

    #[test]
    fn modes_decide_who_may_read_and_change() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("..data"));
        fs::write(&file, "text").unwrap();
        symlink("file", &link).unwrap();
        for (mode, is_private, is_trusted) in [
            (0o400, true, true),
            (0o600, true, true),
            (0o640, true, true),
            (0o440, true, true),
            (0o700, true, true),
            (0o644, false, true),
            (0o604, false, true),
            (0o444, false, true),
            (0o660, false, false),
            (0o620, false, false),
            (0o602, false, false),
            (0o666, false, false),
        ] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            for path in [&file, &link] {
                let private = check_private(path);
                assert_eq!(private.is_ok(), is_private, "{mode:o} {private:?}");
                let trusted = check_trusted(path);
                assert_eq!(trusted.is_ok(), is_trusted, "{mode:o} {trusted:?}");
                let refusals = [private.err(), trusted.err()];
                for refusal in refusals.iter().flatten() {
                    let shown = path.display().to_string();
                    let (message, hint) = (refusal.to_string(), refusal.hint.as_deref());
                    assert!(message.contains(&shown), "{refusal:?}");
                    assert!(message.contains(&format!("{mode:04o}")));
                    assert!(hint.unwrap().contains("`chmod "), "{refusal:?}");
                }
            }
        }
    }

    #[test]
    fn files_are_read_up_to_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        for (size, is_read) in
            [(0, true), (MAX_TEXT, true), (MAX_TEXT + 1, false), (1 << 40, false)]
        {
            file.set_len(size).unwrap();
            match read(&path) {
                Ok(bytes) => assert!(is_read && bytes.len() as u64 == size, "{size}"),
                Err(error) => {
                    assert!(!is_read && error.to_string().contains("more than 16 MiB"), "{error}");
                }
            }
        }
        for endless in ["/dev/zero", "/dev/urandom"] {
            read(endless.as_ref()).unwrap_err();
        }
    }

    #[test]
    fn files_are_replaced_through_links() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("current")).unwrap();
        for (link, target) in [
            ("link", "current/file"),
            ("chain", "link"),
            ("current/back", "../file"),
            ("loop", "loop"),
            ("lost", "nowhere/file"),
        ] {
            symlink(target, path(link)).unwrap();
        }
        // The first time, the file is missing.
        for (name, file) in [
            ("file", "file"),
            ("file", "file"),
            ("chain", "current/file"),
            ("link", "current/file"),
            ("current/back", "file"),
        ] {
            let before = fs::metadata(path(file)).ok().map(|file| file.ino());
            let reader = fs::File::open(path(file));
            try_replace(&path(name), name.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(path(file)).unwrap(), name);
            let after = fs::symlink_metadata(path(file)).unwrap();
            assert!(after.is_file() && Some(after.ino()) != before, "{name}");
            assert_eq!(name != file, path(name).is_symlink(), "{name}");
            drop(reader);
        }
        fs::set_permissions(path("file"), Permissions::from_mode(0o600)).unwrap();
        fs::File::create(path("plain")).unwrap();
        try_replace(&path("file"), b"").unwrap();
        let mode = |name: &str| fs::metadata(path(name)).unwrap().mode();
        assert_eq!(mode("file"), mode("plain"));
        for name in ["loop", "lost", "nowhere/file", "current"] {
            let error = try_replace(&path(name), b"text").unwrap_err();
            assert!(error.raw_os_error().is_some(), "{error}");
        }
        let count = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(count, 7, "temporary files are left");
    }

    /// As with `command --out /dev/stdout >>FILE`.
    #[test]
    fn open_files_are_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "before ").unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        try_replace(Path::new(&name), b"now ").unwrap();
        file.write_all(b"after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before now after");
    }

    #[test]
    fn pipes_and_devices_are_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let (pipe, link) = (directory.path().join("pipe"), directory.path().join("link"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        symlink("pipe", &link).unwrap();
        for path in [&pipe, &link] {
            let read = thread::spawn({
                let pipe = pipe.clone();
                move || fs::read_to_string(pipe).unwrap()
            });
            try_replace(path, b"text").unwrap();
            assert_eq!(read.join().unwrap(), "text");
            assert!(fs::metadata(path).unwrap().file_type().is_fifo() && link.is_symlink());
        }
        try_replace("/dev/null".as_ref(), b"text").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn only_regular_files_are_checked() {
        for path in ["-", "/dev/null", "/dev", "/nowhere/at/all"] {
            assert!(check_private(path.as_ref()).is_ok(), "{path}");
            assert!(check_trusted(path.as_ref()).is_ok(), "{path}");
        }
    }

    #[test]
    fn files_of_root_and_of_the_current_user_are_trusted() {
        for (owner, user, is_trusted) in [
            (0, Some(0), true),
            (0, Some(1000), true),
            (1000, Some(1000), true),
            (1000, Some(0), false),
            (1001, Some(1000), false),
            (1001, None, true),
        ] {
            assert_eq!(is_trusted_owner(owner, user), is_trusted, "{owner} {user:?}");
        }
    }
}
