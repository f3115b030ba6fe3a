//! The rules of the protocol: what a valid name is, what a claim writes, who is told what. No I/O.
//!
//! A cluster's [`Record`] comes into being with the first claim, in one conditional write: *only if there is none*. Whoever
//! loses gets the record that won. Each answer is then a pure function of that record and the asking node, so that a
//! winner that lost its answer, retries or reboots gets the same answer again.

use thiserror::Error;

use crate::wire::{Cluster, MAX_CLUSTER_ID_BYTES, MAX_NODE_BYTES, State};

/// The generation of a cluster's first claim.
pub const FIRST_GENERATION: u64 = 1;

/// A valid cluster id: 1 to [`MAX_CLUSTER_ID_BYTES`] bytes, no white space, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterId(String);

/// A valid node address or host name: 1 to [`MAX_NODE_BYTES`] bytes, no white space, no control characters.
///
/// Nothing more is asked of it: `mynode_ip` is a node, though no valid host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node(String);

/// Why a text is no valid name; the message continues a sentence that begins with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidName {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than the limit, in bytes.
    #[error("must be at most {limit} bytes long, and is {length}")]
    TooLong {
        /// The limit.
        limit: usize,
        /// The length it has.
        length: usize,
    },
    /// It holds white space or a control character.
    #[error("must not contain white space or control characters, and has U+{:04X} at byte {position}", u32::from(*character))]
    Forbidden {
        /// The first such character.
        character: char,
        /// Its position in bytes, from 0.
        position: usize,
    },
}

fn valid_name(text: String, limit: usize) -> Result<String, InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    if text.len() > limit {
        return Err(InvalidName::TooLong {
            limit,
            length: text.len(),
        });
    }
    match text
        .char_indices()
        .find(|(_, c)| c.is_whitespace() || c.is_control())
    {
        Some((position, character)) => Err(InvalidName::Forbidden {
            character,
            position,
        }),
        None => Ok(text),
    }
}

impl ClusterId {
    /// Checks a cluster id against the limits.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        valid_name(text.into(), MAX_CLUSTER_ID_BYTES).map(Self)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Node {
    /// Checks a node's name against the limits.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        valid_name(text.into(), MAX_NODE_BYTES).map(Self)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is known of a cluster: one item of the table.
///
/// The node is plain text here and not a [`Node`]: a row that the original service wrote is read whatever it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The cluster.
    pub cluster_id: String,
    /// The node whose claim stands.
    pub initial_node: String,
    /// How far the cluster is.
    pub state: State,
    /// Which claim it is, from [`FIRST_GENERATION`].
    pub generation: u64,
}

impl Record {
    /// What a node's claim writes where there is no record yet.
    pub fn first_claim(cluster_id: &ClusterId, node: &Node) -> Self {
        Self {
            cluster_id: cluster_id.as_str().to_owned(),
            initial_node: node.as_str().to_owned(),
            state: State::Claimed,
            generation: FIRST_GENERATION,
        }
    }

    /// The answer to a node, or to someone who names none.
    pub fn answer(self, asking: Option<&Node>) -> Cluster {
        Cluster {
            is_initial_node: asking.is_none_or(|node| node.as_str() == self.initial_node),
            cluster_id: self.cluster_id,
            initial_node_ip_addr_or_hostname: self.initial_node,
            state: self.state,
            generation: self.generation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_limits() {
        let forbidden = |character, position| {
            Err(InvalidName::Forbidden {
                character,
                position,
            })
        };
        for (text, expected) in [
            ("mycluster", Ok(())),
            ("mynode_ip", Ok(())),
            ("10.1.1.1", Ok(())),
            ("fe80::1%eth0", Ok(())),
            ("arn:aws:cloudformation:us-east-1:1:stack/a+b=/c", Ok(())),
            ("größe-東京", Ok(())),
            ("", Err(InvalidName::Empty)),
            ("a b", forbidden(' ', 1)),
            ("a\u{a0}b", forbidden('\u{a0}', 1)),
            ("a\u{3000}", forbidden('\u{3000}', 1)),
            ("\n", forbidden('\n', 0)),
            ("é\0", forbidden('\0', 2)),
            ("a\u{7f}", forbidden('\u{7f}', 1)),
        ] {
            assert_eq!(
                ClusterId::new(text).map(|_| ()),
                expected,
                "cluster id {text:?}"
            );
            assert_eq!(Node::new(text).map(|_| ()), expected, "node {text:?}");
        }
    }

    #[test]
    fn limits_count_bytes() {
        assert!(ClusterId::new("c".repeat(1024)).is_ok());
        assert_eq!(
            ClusterId::new("c".repeat(1025)),
            Err(InvalidName::TooLong {
                limit: 1024,
                length: 1025
            })
        );
        assert_eq!(
            ClusterId::new("é".repeat(513)),
            Err(InvalidName::TooLong {
                limit: 1024,
                length: 1026
            })
        );
        assert!(Node::new("n".repeat(255)).is_ok());
        assert_eq!(
            Node::new("n".repeat(256)),
            Err(InvalidName::TooLong {
                limit: 255,
                length: 256
            })
        );
    }

    #[test]
    fn a_refusal_says_what_and_where() {
        let message = ClusterId::new("my cluster")
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "must not contain white space or control characters, and has U+0020 at byte 2"
        );
    }

    #[test]
    fn who_is_told_what() {
        let id = ClusterId::new("c").unwrap();
        let [first, second] = ["10.0.0.1", "10.0.0.2"].map(|node| Node::new(node).unwrap());
        let record = Record::first_claim(&id, &first);
        for (asking, is_initial_node) in
            [(Some(&first), true), (Some(&second), false), (None, true)]
        {
            assert_eq!(
                record.clone().answer(asking),
                Cluster {
                    cluster_id: "c".to_owned(),
                    initial_node_ip_addr_or_hostname: "10.0.0.1".to_owned(),
                    is_initial_node,
                    state: State::Claimed,
                    generation: 1,
                },
                "{asking:?}"
            );
        }
    }
}
