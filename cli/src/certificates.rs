//! Certificates in PEM files, and why a server's is not accepted.

use std::path::Path;

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{Error, PemObject},
    },
};

use crate::{files, text};

/// The usable certificates in a file. The error names it.
pub fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = files::read(path).map_err(|error| error.to_string());
    let parsed = pem.and_then(|pem| parse(&pem));
    parsed.map_err(|why| format!("cannot read `{}`: {why}", path.display()))
}

/// The usable certificates in a text. Keys are skipped, and beside usable certificates also blocks that cannot be read.
pub fn parse(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let (mut certificates, mut unreadable) = (Vec::new(), None);
    for block in CertificateDer::pem_slice_iter(&text::unmarked(pem)) {
        match block {
            Ok(certificate) => certificates.push(certificate),
            Err(error @ Error::MissingSectionEnd { .. }) => return Err(explain(error)),
            Err(error) => unreadable = Some(error),
        }
    }
    let usable = usable(certificates);
    unreadable.filter(|_| usable.is_empty()).map_or(Ok(usable), |error| Err(explain(error)))
}

/// All certificates in a text, such as a server's chain.
pub fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(&text::unmarked(pem)).collect::<Result<_, _>>().map_err(explain)
}

fn explain(error: Error) -> String {
    match error {
        Error::MissingSectionEnd { .. } => {
            "it is cut off: its last block has no `-----END` line".to_owned()
        }
        error => format!("it has a block that cannot be read: {error}"),
    }
}

/// The certificates that rustls accepts as authorities.
#[must_use]
pub fn usable(certificates: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    let is_usable =
        |certificate: &CertificateDer| RootCertStore::empty().add(certificate.clone()).is_ok();
    certificates.into_iter().filter(is_usable).collect()
}

/// What to do about a server's certificate that was not accepted, by the error's text; `None` if only its authority is not trusted.
pub fn advice(error: &str) -> Option<&'static str> {
    let advice = [
        (
            "CaUsedAsEndEntity",
            "make one with `basicConstraints=CA:FALSE`: this one is an authority's",
        ),
        ("certificate expired", "renew the server's certificate, or correct the clock"),
        ("not valid yet", "correct the clock, or wait until the server's certificate is valid"),
        ("not valid for name", "use a name in the server's certificate, or add this one to it"),
    ];
    advice.into_iter().find(|(part, _)| error.contains(part)).map(|(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an authority, `CN=ca`.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBcjCCARegAwIBAgIUDK00aI7V0jfNcOE77gs9jlbnR9kwCgYIKoZIzj0EAwIw
DTELMAkGA1UEAwwCY2EwIBcNMjYxMTI4MTQ1OTU5WhgPMjEyNjExMDQxNDU5NTla
MA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEK3o5zEeG
+7tBjcJ5/FosJdWk03EQLxM1RQbj0AQjX/3BgLNQnhRfnBIoblyrEJ1Mz5gLEcGW
duP5uPnSFjoU76NTMFEwHQYDVR0OBBYEFOYWySdFrmGlu4OkHfFnoaUbtaZpMB8G
A1UdIwQYMBaAFOYWySdFrmGlu4OkHfFnoaUbtaZpMA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDSQAwRgIhAIiDH+xaBu7Uv4kjwVpu+7PQyW8NFeN0f0SmfEUo
154WAiEAihgo0VeMsF0r5LXkOpCBh7ngNPdkB0Il8oXQbM/prHI=
-----END CERTIFICATE-----
";
    const BROKEN: &str =
        "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydA==\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";

    #[test]
    fn certificates_are_read_as_editors_write_them() {
        let utf16 = |text: &str| -> Vec<u8> {
            format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
        };
        let cut = CERTIFICATE.split_once("-----END").unwrap().0;
        let unreadable = BROKEN.replace("bm90", "?");
        for (pem, expected) in [
            (Vec::new(), Ok(0)),
            (b"none".to_vec(), Ok(0)),
            (CERTIFICATE.into(), Ok(1)),
            (format!("\u{feff}{CERTIFICATE}").into(), Ok(1)),
            (CERTIFICATE.replace('\n', "\r\n").into(), Ok(1)),
            (utf16(CERTIFICATE), Ok(1)),
            ([KEY, CERTIFICATE, BROKEN, CERTIFICATE].concat().into(), Ok(2)),
            (BROKEN.into(), Ok(0)),
            (cut.into(), Err("its last block has no `-----END` line")),
            (format!("{CERTIFICATE}{cut}").into(), Err("its last block has no `-----END` line")),
            (unreadable.as_bytes().into(), Err("it has a block that cannot be read")),
            ([&unreadable, CERTIFICATE].concat().into(), Ok(1)),
            // As `openssl pkcs12` writes names.
            ([b"friendlyName: Schl\xfcssel\n", CERTIFICATE.as_bytes()].concat(), Ok(1)),
        ] {
            let count = parse(&pem).map(|certificates| certificates.len());
            match (&count, expected) {
                (Ok(count), Ok(expected)) => assert_eq!(*count, expected, "{}", pem.escape_ascii()),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                _ => panic!("{count:?} instead of {expected:?}"),
            }
        }
    }
}
