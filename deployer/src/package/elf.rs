//! Checks that Lambda's and EC2's Amazon Linux 2023 can run an executable: its machine, its loader and the glibc that it needs.

use object::{
    Endianness, elf,
    read::elf::{ElfFile64, FileHeader, ProgramHeader},
};

use super::Program;
use crate::{failure::Failure, values::Arch};

/// The C library of Amazon Linux 2023, on which `provided.al2023` runs.
pub const LAMBDA_GLIBC: Version = Version(2, 34);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Executable {
    machine: elf::Machine,
    /// The program that loads it and its libraries; `None` if it is static.
    loader: Option<String>,
    /// The newest version that one of its symbols needs.
    glibc: Option<Version>,
}

/// Checks that Amazon Linux 2023 can run the executable on this processor.
pub fn check(program: &Program, bytes: &[u8], arch: Arch) -> Result<(), Failure> {
    let executable = inspect(bytes).map_err(|error| {
        Failure::new(format!("the executable is not a 64-bit Linux executable ({error})"))
            .hint(format!("`{}` builds one for Linux", program.package_command))
    })?;
    judge(program, &executable, arch)
}

fn judge(program: &Program, executable: &Executable, arch: Arch) -> Result<(), Failure> {
    let built_for = match executable.machine {
        elf::EM_X86_64 => Some(Arch::X86_64),
        elf::EM_AARCH64 => Some(Arch::Arm64),
        _ => None,
    };
    if built_for != Some(arch) {
        let (machine, hint) = match built_for {
            Some(other) => {
                (other.to_string(), format!("use `--arch {other}`, or build it for {arch}"))
            }
            None => (format!("machine {}", executable.machine.0), format!("build it for {arch}")),
        };
        return Err(Failure::new(format!(
            "the executable is built for {machine}, but {arch} is requested"
        ))
        .hint(hint));
    }
    let build = || {
        format!(
            "build it with `{} --builder zigbuild`, for which `pip install cargo-zigbuild ziglang` is enough",
            program.package_command
        )
    };
    if let Some(loader) = executable.loader.as_deref()
        && loader != lambda_loader(arch)
    {
        return Err(Failure::new(format!(
            "the executable is loaded by `{loader}`, which Amazon Linux 2023 does not have"
        ))
        .hint(build()));
    }
    match executable.glibc {
        Some(needed) if needed > LAMBDA_GLIBC => Err(Failure::new(format!(
            "the executable needs glibc {needed}, but Amazon Linux 2023 has {LAMBDA_GLIBC}"
        ))
        .hint(build())),
        _ => Ok(()),
    }
}

/// The program that loads others in Amazon Linux 2023.
fn lambda_loader(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "/lib64/ld-linux-x86-64.so.2",
        Arch::Arm64 => "/lib/ld-linux-aarch64.so.1",
    }
}

fn inspect(bytes: &[u8]) -> anyhow::Result<Executable> {
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    let (endian, header) = (file.endian(), file.elf_header());
    let mut loader = None;
    for segment in header.program_headers(endian, bytes)? {
        if let Some(path) = segment.interpreter(endian, bytes)? {
            loader = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    let sections = header.sections(endian, bytes)?;
    let mut glibc = None;
    if let Some((mut libraries, names)) = sections.gnu_verneed(endian, bytes)? {
        let names = sections.strings(endian, bytes, names)?;
        while let Some((_, mut symbols)) = libraries.next()? {
            while let Some(symbol) = symbols.next()? {
                glibc = glibc.max(glibc_version(symbol.name(endian, names)?));
            }
        }
    } else if loader.is_some() {
        anyhow::bail!("it does not list the libraries that it needs");
    }
    Ok(Executable { machine: header.e_machine(endian), loader, glibc })
}

/// `GLIBC_2.34` and `GLIBC_2.2.5`, but not `GLIBC_PRIVATE` or `GCC_3.0`. Packed relative relocations are marked by
/// another symbol and need 2.36.
fn glibc_version(symbol: &[u8]) -> Option<Version> {
    if symbol == b"GLIBC_ABI_DT_RELR" {
        return Some(Version(2, 36));
    }
    let mut numbers =
        std::str::from_utf8(symbol).ok()?.strip_prefix("GLIBC_")?.split('.').map(str::parse);
    Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{AGENT, FUNCTION},
        *,
    };

    #[test]
    fn versions_compare_by_number() {
        for (symbol, expected) in [
            ("GLIBC_2.2.5", Some(Version(2, 2))),
            ("GLIBC_2.34", Some(Version(2, 34))),
            ("GLIBC_ABI_DT_RELR", Some(Version(2, 36))),
            ("GLIBC_PRIVATE", None),
            ("GCC_3.0", None),
            ("GLIBC_", None),
        ] {
            assert_eq!(glibc_version(symbol.as_bytes()), expected, "{symbol}");
        }
        assert!(Version(2, 4) < Version(2, 34));
    }

    #[test]
    fn executables_for_lambda_are_accepted() {
        let judge = |machine, glibc: Option<Version>, arch| {
            let loader = glibc.map(|_| lambda_loader(arch).to_owned());
            super::judge(&FUNCTION, &Executable { machine, loader, glibc }, arch)
                .map_err(|failure| failure.to_string())
        };
        let new = Some(Version(2, 39));
        for (machine, glibc, arch, refusal) in [
            (elf::EM_X86_64, None, Arch::X86_64, None),
            (elf::EM_X86_64, Some(LAMBDA_GLIBC), Arch::X86_64, None),
            (elf::EM_AARCH64, Some(Version(2, 17)), Arch::Arm64, None),
            (elf::EM_AARCH64, None, Arch::X86_64, Some("built for arm64")),
            (elf::EM_X86_64, None, Arch::Arm64, Some("but arm64 is requested")),
            (elf::EM_RISCV, None, Arch::X86_64, Some("machine 243")),
            (elf::EM_X86_64, new, Arch::X86_64, Some("needs glibc 2.39")),
        ] {
            match (judge(machine, glibc, arch), refusal) {
                (Ok(()), None) => {}
                (Err(message), Some(part)) => assert!(message.contains(part), "{message}"),
                (outcome, _) => panic!("{machine:?} {glibc:?} {arch}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn loaders_that_lambda_does_not_have_are_refused() {
        for (machine, arch, loader) in [
            (elf::EM_X86_64, Arch::X86_64, "/lib/ld-musl-x86_64.so.1"),
            (elf::EM_X86_64, Arch::X86_64, "/nix/store/0a-glibc-2.33/lib/ld-linux-x86-64.so.2"),
            (elf::EM_X86_64, Arch::X86_64, "/lib/ld-linux-aarch64.so.1"),
            (elf::EM_AARCH64, Arch::Arm64, "/lib/ld-linux-armhf.so.3"),
        ] {
            let executable = Executable { machine, loader: Some(loader.to_owned()), glibc: None };
            let message = judge(&FUNCTION, &executable, arch).unwrap_err().to_string();
            assert!(message.contains(&format!("is loaded by `{loader}`")), "{message}");
        }
    }

    #[test]
    fn hints_name_a_command_that_builds_the_program() {
        let machine = elf::EM_X86_64;
        let musl = Some("/lib/ld-musl-x86_64.so.1".to_owned());
        let musl = Executable { machine, loader: musl, glibc: None };
        let new = Executable { machine, loader: None, glibc: Some(Version(2, 39)) };
        for (program, command) in
            [(&FUNCTION, "`cbbootstrap package "), (&AGENT, "`cbbootstrap package --agent ")]
        {
            for executable in [&musl, &new] {
                let hint = judge(program, executable, Arch::X86_64).unwrap_err().hint.unwrap();
                assert!(hint.contains(&format!("{command}--builder zigbuild`")), "{hint}");
            }
            let hint = judge(program, &new, Arch::Arm64).unwrap_err().hint.unwrap();
            assert_eq!(hint, "use `--arch x86_64`, or build it for arm64");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn executables_of_this_machine_are_read() {
        let bytes = std::fs::read("/bin/sh").unwrap();
        assert!(inspect(&bytes).unwrap().glibc >= Some(Version(2, 2)));
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[0; 4096]] {
            let message = check(&FUNCTION, bytes, Arch::X86_64).unwrap_err().to_string();
            assert!(message.contains("not a 64-bit Linux executable"), "{message}");
        }
    }
}
