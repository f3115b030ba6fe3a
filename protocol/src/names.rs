//! Names, each in one canonical form: equal names are equal strings.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use sha2::{Digest, Sha256};
use thiserror::Error;
use unicode_normalization::UnicodeNormalization;

use crate::wire::{MAX_CLUSTER_ID_BYTES, MAX_NODE_BYTES, MAX_UUID_BYTES};

/// The start of the cluster IDs of smoke tests. Clusters must not use it: their claims are kept only briefly, and listings hide them.
pub const SMOKE_TEST_PREFIX: &str = "cbbootstrap-smoke-";

pub fn is_smoke_test(cluster_id: &str) -> bool {
    cluster_id.starts_with(SMOKE_TEST_PREFIX)
}

/// A cluster ID: 1 to [`MAX_CLUSTER_ID_BYTES`] bytes of UTF-8 in Unicode's normal form C, without white space, control
/// characters and invisible characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(String);

/// A node: a host name, an IPv4 or an IPv6 address, with or without a port.
///
/// The canonical form is lower case, without a trailing dot; IPv6 is shortened, and in brackets only before a port. Underscores
/// are allowed in host names, as `mynode_ip` is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    text: String,
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// A host name in lower case, without a trailing dot.
    Name(String),
}

/// The UUID that Couchbase Server gives a cluster or a node: 1 to [`MAX_UUID_BYTES`] ASCII letters, digits and hyphens. The
/// canonical form is lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(String);

/// Why a text is not a valid name. The message continues a sentence whose subject is the field.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidName {
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {limit} bytes long, and is {length}")]
    TooLong { limit: usize, length: usize },
    #[error(
        "must not contain white space, control characters or invisible characters, and has U+{:04X} at byte {position}",
        u32::from(*character)
    )]
    Forbidden { character: char, position: usize },
    #[error("must be a host name, an IPv4 or an IPv6 address, with or without `:PORT`: {0}")]
    NotANode(&'static str),
    #[error("must consist of ASCII letters, digits and hyphens")]
    NotAUuid,
}

impl ClusterId {
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
        let text = text.as_ref();
        check_length(text, MAX_CLUSTER_ID_BYTES)?;
        let mut characters = text.char_indices();
        if let Some((position, character)) = characters.find(|(_, c)| is_hidden(*c)) {
            return Err(InvalidName::Forbidden { character, position });
        }
        let text: String = text.nfc().collect();
        // Composition can make a text longer.
        check_length(&text, MAX_CLUSTER_ID_BYTES)?;
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Eight hexadecimal digits for logs, which do not reveal the id.
    pub fn digest(&self) -> String {
        hex::encode(&Sha256::digest(self.0.as_bytes())[..4])
    }
}

impl Node {
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
        let text = text.as_ref();
        check_length(text, MAX_NODE_BYTES)?;
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) =
                rest.split_once(']').ok_or(InvalidName::NotANode("`]` is missing"))?;
            let not_an_address = |_| InvalidName::NotANode("not an IPv6 address in brackets");
            let port = (!port.is_empty()).then(|| {
                port.strip_prefix(':').ok_or(InvalidName::NotANode("only `:PORT` may follow `]`"))
            });
            (Host::V6(host.parse().map_err(not_an_address)?), port.transpose()?)
        } else if let Ok(address) = text.parse() {
            (Host::V6(address), None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (parse_host(host)?, Some(port)),
                None => (parse_host(text)?, None),
            }
        };
        let port = port.map(parse_port).transpose()?;
        let text = match (&host, port) {
            (Host::V6(address), Some(port)) => format!("[{address}]:{port}"),
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_string(),
        };
        Ok(Self { text, host, port })
    }

    /// The canonical form of a valid node; any other text unchanged, because items of the original service may contain anything.
    pub fn canonical(text: String) -> String {
        Self::new(&text).map_or(text, |node| node.text)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl Host {
    /// The host as part of a URL: IPv6 in brackets.
    pub fn in_url(&self) -> String {
        match self {
            Self::V6(address) => format!("[{address}]"),
            host => host.to_string(),
        }
    }
}

macro_rules! display {
    ($($name:ty)*) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        })*
    };
}

display!(Node Uuid);

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Uuid {
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
        let text = text.as_ref();
        check_length(text, MAX_UUID_BYTES)?;
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(InvalidName::NotAUuid);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_length(text: &str, limit: usize) -> Result<(), InvalidName> {
    match text.len() {
        0 => Err(InvalidName::Empty),
        length if length > limit => Err(InvalidName::TooLong { limit, length }),
        _ => Ok(()),
    }
}

/// Unicode's `Default_Ignorable_Code_Point` and format characters: the first and the last of each range.
const INVISIBLE: [u32; 50] = [
    0xAD, 0xAD, 0x34F, 0x34F, 0x600, 0x605, 0x61C, 0x61C, 0x6DD, 0x6DD, 0x70F, 0x70F, 0x8E2, 0x8E2,
    0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180F, 0x200B, 0x200F, 0x202A, 0x202E, 0x2060, 0x206F,
    0x2800, 0x2800, 0x3164, 0x3164, 0xFE00, 0xFE0F, 0xFEFF, 0xFEFF, 0xFFA0, 0xFFA0, 0xFFF0, 0xFFFB,
    0x110BD, 0x110BD, 0x110CD, 0x110CD, 0x13430, 0x1345F, 0x1BCA0, 0x1BCA3, 0x1D173, 0x1D17A,
    0xE0000, 0xE0FFF,
];

/// Whether a character is white space, a control character, or invisible: text that contains one can look like other text.
pub fn is_hidden(character: char) -> bool {
    let is_in = |range: &[u32]| (range[0]..=range[1]).contains(&character.into());
    character.is_whitespace() || character.is_control() || INVISIBLE.chunks_exact(2).any(is_in)
}

fn parse_port(text: &str) -> Result<u16, InvalidName> {
    // `parse` also accepts a plus sign and leading zeros.
    let port = text.parse().ok().filter(|_| !text.starts_with(['+', '0']));
    port.ok_or(InvalidName::NotANode("the port is not a number from 1 to 65535"))
}

fn parse_host(text: &str) -> Result<Host, InvalidName> {
    if let Ok(address) = text.parse() {
        return Ok(Host::V4(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.len() > 253 {
        return Err(InvalidName::NotANode("a host name has at most 253 characters"));
    }
    for label in name.split('.') {
        let valid =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if !(1..=63).contains(&label.len()) {
            return Err(InvalidName::NotANode("each part of a host name has 1 to 63 characters"));
        }
        if !label.bytes().all(valid) {
            return Err(InvalidName::NotANode(
                "a host name consists of ASCII letters, digits, `-`, `_` and `.` (other letters as `xn--`)",
            ));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(InvalidName::NotANode("no part of a host name begins or ends with `-`"));
        }
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    // Resolvers read such names as addresses, for example `10.1`, `0x7f000001` and `017700000001`.
    let digits = last.strip_prefix("0x").unwrap_or(last);
    let is_hexadecimal =
        digits.len() < last.len() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidName::NotANode(
            "a name whose last part is a number is not an IPv4 address",
        ));
    }
    Ok(Host::Name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_are_normalized_and_have_no_hidden_characters() {
        for (text, expected) in [
            ("mycluster", Some("mycluster")),
            (
                "arn:aws:cloudformation:us-east-1:1:stack/a+b=/c",
                Some("arn:aws:cloudformation:us-east-1:1:stack/a+b=/c"),
            ),
            ("gro\u{0308}ße", Some("größe")),
            ("größe-東京", Some("größe-東京")),
            ("MyCluster", Some("MyCluster")),
            ("", None),
            ("a b", None),
            ("a\u{a0}b", None),
            ("a\u{202e}b", None),
            ("a\u{200b}", None),
            ("\u{feff}a", None),
            ("a\u{7f}", None),
            ("a\u{e0041}", None),
        ] {
            assert_eq!(
                ClusterId::new(text).ok().as_ref().map(ClusterId::as_str),
                expected,
                "{text:?}"
            );
        }
        assert!(ClusterId::new("c".repeat(1024)).is_ok());
        assert_eq!(
            ClusterId::new("é".repeat(513)),
            Err(InvalidName::TooLong { limit: 1024, length: 1026 })
        );
        assert_eq!(
            ClusterId::new("my cluster").unwrap_err().to_string(),
            "must not contain white space, control characters or invisible characters, and has U+0020 at byte 2"
        );
    }

    #[test]
    fn nodes_are_normalized() {
        for (text, expected) in [
            ("mynode_ip", "mynode_ip"),
            ("MyNode_IP.", "mynode_ip"),
            ("CB-0.Example.COM.", "cb-0.example.com"),
            ("a.example:9000", "a.example:9000"),
            ("10.1.1.1", "10.1.1.1"),
            ("10.1.1.1:8091", "10.1.1.1:8091"),
            ("fd00:0:0::0001", "fd00::1"),
            ("FD00::1", "fd00::1"),
            ("[fd00::1]", "fd00::1"),
            ("[fd00:0::1]:9000", "[fd00::1]:9000"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("xn--grsse-jua.example", "xn--grsse-jua.example"),
            ("1a.2b", "1a.2b"),
        ] {
            let node = Node::new(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(node.as_str(), expected, "{text}");
            assert_eq!(Node::new(node.as_str()).unwrap(), node, "the canonical form is canonical");
        }
        assert_eq!(Node::new("fd00::1").unwrap().host().in_url(), "[fd00::1]");
        assert_eq!(Node::new("[fd00::1]:9000").unwrap().port(), Some(9000));
    }

    #[test]
    fn other_texts_are_not_nodes() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "-a",
            "a-",
            "a.-b",
            "a b",
            "10.0.0.1@evil",
            "evil/any/path?x=1#",
            "evil/path",
            "a,evil",
            "$(id)",
            "a;rm",
            "a\u{1b}[2J",
            "a\n",
            "größe.example",
            "10.0.0",
            "10.0.0.1.",
            "010.0.0.1",
            "256.0.0.1",
            "0x7f000001",
            "2130706433",
            "a.0x7f",
            "a:",
            "a:0",
            "a:08091",
            "a:65536",
            "a:1:2",
            "a:+1",
            "[fd00::1",
            "[fd00::1]x",
            "[fd00::1]:",
            "[10.0.0.1]",
            "fe80::1%eth0",
            "https://a",
            "a?b",
            "a#b",
            "a\\b",
            "user:pw@a",
            "a%2fb",
            "[a]",
        ] {
            assert!(Node::new(text).is_err(), "{text:?}");
        }
        assert!(Node::new(format!("{}.{}", "a".repeat(63), "b".repeat(63))).is_ok());
        assert!(Node::new("a".repeat(64)).is_err());
        assert!(Node::new(["a".repeat(63).as_str(); 4].join(".")).is_err());
    }

    #[test]
    fn uuids_are_letters_digits_and_hyphens() {
        assert_eq!(Uuid::new("5CB8a1d0-c1").unwrap().as_str(), "5cb8a1d0-c1");
        for text in ["", "a b", "a\u{202e}", "é", "a/b", &"a".repeat(65)] {
            assert!(Uuid::new(text).is_err(), "{text:?}");
        }
    }
}
