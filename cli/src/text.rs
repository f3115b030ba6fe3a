//! Text from files, variables and servers: byte-order marks, line ends and hidden characters, and words for a shell.

use std::{borrow::Cow, io, path::Path};

use cbbootstrap_protocol::names::is_hidden;
use thiserror::Error;

use crate::files;

const BYTE_ORDER_MARK: char = '\u{feff}';

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it is neither UTF-8 nor UTF-16 with a byte-order mark")]
pub struct NotText;

/// The text without a leading byte-order mark and trailing line ends. White space stays, because it may be part of a password.
pub fn clean(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_end_matches(['\r', '\n'])
}

/// The text without a leading byte-order mark and the white space around it.
pub fn clean_value(value: &str) -> &str {
    clean(value.trim_ascii()).trim_ascii()
}

/// Decodes UTF-8, or UTF-16 with a byte-order mark, as PowerShell's `>` and Notepad write it. The mark is removed.
pub fn decode(bytes: &[u8]) -> Result<String, NotText> {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => {
            str::from_utf8(rest).map_err(|_| NotText)?.to_owned()
        }
    };
    // Probably UTF-16 without a mark.
    if text.contains('\0') {
        return Err(NotText);
    }
    Ok(text)
}

/// UTF-16 with a byte-order mark in UTF-8, and other bytes without the mark of UTF-8.
pub fn unmarked(bytes: &[u8]) -> Cow<'_, [u8]> {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            decode(bytes).map_or(Cow::Borrowed(bytes), |text| Cow::Owned(text.into_bytes()))
        }
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => Cow::Borrowed(rest),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, NotText> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(NotText);
    }
    char::decode_utf16(pairs.iter().map(|&pair| unit(pair)))
        .collect::<Result<_, _>>()
        .map_err(|_| NotText)
}

/// Reads a text file. CR LF becomes LF. The error names the file; its kind is [`io::ErrorKind::InvalidData`] if the file is not text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let read = files::read(path).and_then(|bytes| {
        decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    });
    read.map(|text| text.replace("\r\n", "\n")).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read `{}`: {error}", path.display()))
    })
}

/// The text with control, bidirectional and invisible characters escaped, except tabs, so that it cannot control a terminal or mislead a
/// reader.
pub fn escape_hidden(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && c != ' ' && c != '\t' {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Quotes a word for a shell, whatever it contains.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    // A space is visible between quotes.
    let is_hidden = |c: char| c != ' ' && is_hidden(c);
    if word.chars().any(is_hidden) {
        // In the form of Bash and zsh.
        let escaped = word.chars().map(|c| match c {
            '\\' | '\'' => format!("\\{c}"),
            c if is_hidden(c) => format!("\\U{:08x}", u32::from(c)),
            c => c.to_string(),
        });
        return format!("$'{}'", escaped.collect::<String>());
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The text for a shell as an argument that is not an option, even if it looks like one.
pub fn shell_argument(text: &str) -> String {
    let end_of_options = if text.starts_with('-') { "-- " } else { "" };
    format!("{end_of_options}{}", shell_word(text))
}

/// The most characters of a text that are printed: a server may answer with megabytes.
const MOST_CHARACTERS: usize = 4000;

/// A text of a server or of the API on one line, without characters that control a terminal or mislead a reader.
pub fn printable(text: &str) -> String {
    let shown = text.chars().take(MOST_CHARACTERS).map(|c| match c {
        _ if c.is_control() => '\n',
        _ if c.is_whitespace() => ' ',
        _ if is_hidden(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    });
    let shown: String = shown.collect();
    shown.split('\n').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn text_of_others_cannot_mislead() {
        for (text, expected) in [
            ("plain words", "plain words"),
            ("two\nlines", "two lines"),
            ("\u{1b}[2Jgone", "[2Jgone"),
            ("a\u{202e}b\u{200b}c", "a\u{fffd}b\u{fffd}c"),
            ("a\u{a0}b\u{2028}c", "a b c"),
        ] {
            assert_eq!(printable(text), expected, "{text:?}");
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (text, expected) in [
            ("arn:aws:ec2:us-east-1:1:vpc/vpc-1", "arn:aws:ec2:us-east-1:1:vpc/vpc-1"),
            ("", "''"),
            ("a;b", "'a;b'"),
            ("$HOME", "'$HOME'"),
            ("it's", r"'it'\''s'"),
            ("a\u{1b}", r"$'a\U0000001b'"),
            ("-rf", "-- -rf"),
            ("-a&b", "-- '-a&b'"),
        ] {
            assert_eq!(shell_argument(text), expected);
        }
    }

    #[test]
    fn byte_order_marks_and_line_ends_are_removed() {
        for (text, cleaned, value) in [
            ("", "", ""),
            ("a", "a", "a"),
            ("\u{feff}a", "a", "a"),
            ("a\r\n", "a", "a"),
            ("a\n\n", "a", "a"),
            ("\u{feff}a b\r\n", "a b", "a b"),
            (" a ", " a ", "a"),
            ("\u{feff} a \r\n", " a ", "a"),
            ("\n\u{feff}a", "\n\u{feff}a", "a"),
            ("a\r\nb\r\n", "a\r\nb", "a\r\nb"),
            ("a\u{feff}b", "a\u{feff}b", "a\u{feff}b"),
            (" \t\r\n", " \t", ""),
            ("\u{feff}", "", ""),
            // A no-break space is not ASCII, and nobody types it by accident at the end of a value.
            ("a\u{a0}", "a\u{a0}", "a\u{a0}"),
        ] {
            assert_eq!(clean(text), cleaned, "{text:?}");
            assert_eq!(clean_value(text), value, "{text:?}");
            assert_eq!(clean_value(value), value, "{text:?}");
        }
    }

    #[test]
    fn utf8_and_marked_utf16_are_decoded() {
        let little = |text: &str| -> Vec<u8> {
            let units = text.encode_utf16().flat_map(u16::to_le_bytes);
            [0xff, 0xfe].into_iter().chain(units).collect()
        };
        let big = |text: &str| -> Vec<u8> {
            let units = text.encode_utf16().flat_map(u16::to_be_bytes);
            [0xfe, 0xff].into_iter().chain(units).collect()
        };
        let text = "größe: 𝄞\r\n";
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            little(text),
            big(text),
        ] {
            assert_eq!(decode(&bytes).as_deref(), Ok(text), "{bytes:x?}");
        }
        assert_eq!(decode(b"").as_deref(), Ok(""));
        assert_eq!(decode(&[0xff, 0xfe]).as_deref(), Ok(""));
        for bytes in [
            &b"gr\xf6\xdfe"[..],
            &[0xff, 0xfe, b'a'],
            &[0xff, 0xfe, 0x00, 0xd8],
            &[b'a', 0, b'b', 0],
        ] {
            assert_eq!(decode(bytes), Err(NotText), "{bytes:x?}");
        }
    }

    #[test]
    fn files_are_read_with_lf_line_ends_and_errors_name_them() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("options.yaml");
        let error = read_text(&file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for (bytes, text) in [
            (&b"\xef\xbb\xbfa: 1\r\nb: 2\r\n"[..], Some("a: 1\nb: 2\n")),
            (b"\xff\xfea\0\r\0\n\0", Some("a\n")),
            (b"a\rb", Some("a\rb")),
            (b"\xff", None),
        ] {
            fs::write(&file, bytes).unwrap();
            let read = read_text(&file);
            if let Err(error) = &read {
                let message = error.to_string();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(message.contains("options.yaml") && message.contains("UTF-8"));
            }
            assert_eq!(read.ok().as_deref(), text, "{bytes:x?}");
        }
    }
}
