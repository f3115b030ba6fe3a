//! Clusters as text. Nodes chose the names in it, so that hidden characters are escaped.

use std::fmt::{Display, Formatter};

use cbbootstrap_cli::text::escape_hidden;
use cbbootstrap_protocol::rules::{KEEP_GENERATION, later};
use jiff::Timestamp;

use super::{Cluster, Entry, ForgetResult, MemberReport, ShowResult};
use crate::fields::{ago, write_fields};

pub(super) const HEADER: [&str; 7] =
    ["CLUSTER", "STATE", "GENERATION", "INITIAL NODE", "MEMBERS", "CLAIMED AT", "LEASE UNTIL"];

fn with_age(time: Timestamp, now: Timestamp) -> String {
    let time = time.to_string();
    let age = ago(Some(&time), now);
    time + &age
}

impl MemberReport<'_> {
    fn line(&self, now: Timestamp) -> String {
        let attested = if self.attested { ", attested" } else { "" };
        let reported = with_age(self.reported_at, now);
        format!("{} (reported {reported}{attested})", escape_hidden(self.node))
    }
}

impl Cluster {
    pub(super) fn lease(&self) -> String {
        let Some(end) = self.record.lease_expires_at else {
            return match self.state() {
                "claimed" => "none, the claim does not expire".to_owned(),
                state => format!("none, the cluster is {state}"),
            };
        };
        if end > self.now {
            format!("until {end}")
        } else {
            let next =
                if self.is_lapsed() { "; the next claim takes the cluster over" } else { "" };
            format!("expired {}{next}", with_age(end, self.now))
        }
    }
}

impl Display for Cluster {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let record = &self.record;
        let or = |value: Option<String>, other: &str| value.unwrap_or_else(|| other.to_owned());
        let members: Vec<_> = self.members().map(|member| member.line(self.now)).collect();
        let members = Some(members.join("\n")).filter(|members| !members.is_empty());
        let previous = record.previous_initial_nodes.iter().map(|node| escape_hidden(node));
        let previous = previous.collect::<Vec<_>>().join(", ");
        let previous = Some(previous).filter(|nodes| !nodes.is_empty());
        let rival = record.rival_node_uuid.as_deref().map(escape_hidden);
        let claimed = record.claimed_at.map(|time| with_age(time, self.now));
        let uuid = record.cluster_uuid.as_deref().map(escape_hidden);
        let deleted = record.kept_until.map_or_else(String::new, |end| {
            let renewed = if record.is_gone(self.now) { "" } else { ", unless requests renew it" };
            format!("after {}{renewed}", later(end, KEEP_GENERATION))
        });
        let secret = if record.secret.is_some() { "required" } else { "none" };
        let fields = [
            ("Cluster:", escape_hidden(&record.cluster_id)),
            ("State:", self.state().to_owned()),
            ("Generation:", record.generation.to_string()),
            ("Initial node:", escape_hidden(&record.initial_node)),
            ("Claimed:", or(claimed, "unknown")),
            ("Lease:", self.lease()),
            ("Members:", or(members, "none reported ready")),
            ("Cluster UUID:", or(uuid, "none reported")),
            ("Secret:", secret.to_owned()),
            ("Deleted:", deleted),
            ("In the log:", or(self.digest(), "never, the API refuses this ID")),
            ("Taken over:", or(previous.map(|nodes| format!("from {nodes}")), "")),
            (
                "Name in use:",
                or(rival.map(|uuid| format!("by another server, with the UUID {uuid}")), ""),
            ),
        ];
        write_fields(f, 13, fields)
    }
}

impl Entry {
    pub(super) fn columns(&self) -> Vec<String> {
        match self {
            Self::Cluster(cluster) => {
                let record = &cluster.record;
                let time = |time: Option<Timestamp>| {
                    time.map_or_else(|| "-".to_owned(), |time| time.to_string())
                };
                let lapsed = if cluster.is_lapsed() { " (lapsed)" } else { "" };
                vec![
                    escape_hidden(&record.cluster_id),
                    cluster.state().to_owned(),
                    record.generation.to_string(),
                    escape_hidden(&record.initial_node),
                    record.members.len().to_string(),
                    time(record.claimed_at),
                    time(record.lease_expires_at) + lapsed,
                ]
            }
            Self::Unreadable { cluster_id, error } => {
                vec![escape_hidden(cluster_id), format!("unreadable: {error}")]
            }
        }
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(cluster) => cluster.fmt(f),
            Self::Unreadable { cluster_id, error } => write_fields(
                f,
                13,
                [("Cluster:", escape_hidden(cluster_id)), ("Unreadable:", error.clone())],
            ),
        }
    }
}

impl Display for ShowResult {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.cluster.fmt(f)
    }
}

impl Display for ForgetResult {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let id = escape_hidden(self.cluster.cluster_id());
        match (&self.node, self.forgotten) {
            (None, true) => {
                write!(f, "Cluster {id} is forgotten. The next node to ask starts a new cluster")
            }
            (None, false) => write!(f, "Cluster {id} was already forgotten"),
            (Some(node), true) => write!(f, "{node} is no longer a member in the record of {id}"),
            (Some(node), false) => write!(f, "{node} is not a member in the record of {id}"),
        }
    }
}
