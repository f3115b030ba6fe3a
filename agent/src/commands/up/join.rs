//! A blank server joins through a member of its cluster.

use std::time::{Duration, Instant};

use cbbootstrap_protocol::names::{Node, Uuid};

use super::{Known, Round, Run, TRIES};
use crate::{
    commands::clock::{Wait, since},
    decision::{self, STRANGER_AFTER, Through},
    failure::Failure,
    record::Record,
    server::{Error, Server},
};

/// A member that did not answer is not asked again for this long.
const AVOID: Duration = Duration::from_secs(30);

/// A server that adds a node gives up after 30 s. While it may still be at it, no other is asked: both would fail.
const ADDING: Duration = Duration::from_secs(35);

/// What came of one member.
enum Joined {
    Round(Round),
    /// It does not answer.
    Dead(String),
    /// It belongs to another cluster.
    Other(String),
    /// Nothing vouches for it.
    Unproven(String),
    /// It cannot add this node, for another reason.
    No(String),
}

impl Run<'_> {
    /// Joins through the first member that will do.
    pub(super) fn join(&mut self, members: &[Node]) -> anyhow::Result<Round> {
        let Some(record) = self.record() else {
            return Ok(Round::Again);
        };
        let now = Instant::now();
        self.avoid.retain(|_, since| now - *since < AVOID);
        self.adding.take_if(|(_, since)| now - *since >= ADDING);
        let (mut reasons, mut others, mut unproven, mut dead) = (Vec::new(), 0, 0, 0);
        for member in members {
            if self.avoid.contains_key(member) && self.avoid.len() < members.len() {
                dead += 1;
                continue;
            }
            if let Some((adding, _)) = self.adding.as_ref().filter(|(adding, _)| adding != member) {
                reasons.push(format!("`{adding}` may still be adding this node"));
                continue;
            }
            let skipped = match self.join_through(member, &record)? {
                Joined::Round(round) => return Ok(round),
                Joined::Dead(why) => {
                    dead += 1;
                    self.avoid.insert(member.clone(), now);
                    why
                }
                Joined::Other(why) => {
                    others += 1;
                    why
                }
                Joined::Unproven(why) => {
                    unproven += 1;
                    why
                }
                Joined::No(why) => why,
            };
            reasons.push(format!("`{member}`: {skipped}"));
        }
        // More than a screen of reasons helps nobody.
        let more = reasons.len().saturating_sub(5);
        reasons.truncate(5);
        if more > 0 {
            reasons.push(format!("and {more} more"));
        }
        let reasons = reasons.join("; ");
        if others == members.len() {
            return Err(Failure::refused(format!("there is a second cluster: {reasons}"))
                .hint(
                    "decide which is to stay; `cbbootstrap cluster show` tells what the API knows",
                )
                .into());
        }
        // Others may have become members in the meantime, or left.
        self.asked = Known::NotYet;
        let wait = Wait::new(format!("no member can add this node: {reasons}"));
        let id = self.api.cluster_id.as_str();
        Ok(Round::Wait(if unproven > 0 {
            wait.hint("no password was sent to a server that nothing vouches for; do all nodes have the same secret (`--secret-file`)? A member whose certificate has changed needs `up` once more")
        } else if dead == members.len() {
            wait.hint(format!(
                "no recorded member answers; if they are gone for good, `cbbootstrap cluster forget {id}` lets a new cluster begin"
            ))
        } else {
            wait
        }))
    }

    fn join_through(&mut self, member: &Node, record: &Record) -> anyhow::Result<Joined> {
        if let Err(why) = self.here.peers.proof(member, record) {
            return Ok(Joined::Unproven(why.to_owned()));
        }
        if !self.is_enterprise() && !self.here.peers.is_insecure {
            return Err(Failure::refused(
                "Community Edition has no TLS between nodes: the password would cross the network in the clear",
            )
            .hint("`--insecure` sends it all the same; Enterprise Edition does not need to")
            .into());
        }
        let seen = self.here.peers.connect(member, record, self.is_enterprise());
        let seen = seen.and_then(|server| server.cluster().map(|view| (server, view)));
        let (server, view) = match seen {
            Ok((server, Some(view))) => (server, view),
            Ok((_, None)) => return Ok(Joined::No("it belongs to no cluster".to_owned())),
            // The operator's authority is either right for all members or for none.
            Err(Error::Untrusted(why)) if self.here.peers.keys.is_none() => {
                return Err(untrusted(&why).into());
            }
            Err(Error::Untrusted(why)) => return Ok(Joined::Unproven(why)),
            Err(Error::Away(why) | Error::Failing(why)) => return Ok(Joined::Dead(why)),
            Err(error) => return Ok(Joined::No(error.to_string())),
        };
        match decision::through(
            &self.here.node,
            self.own_uuid.as_ref(),
            &view,
            record.cluster_uuid.as_ref(),
        ) {
            Through::Add => {}
            Through::Later(why) => return Ok(Joined::Round(Round::wait(why))),
            Through::Other(why) => return Ok(Joined::Other(why)),
            Through::Unfit => {
                return Ok(Joined::No("it is not an active, healthy member itself".to_owned()));
            }
            Through::NameTaken(uuid) => return self.name_taken(&uuid),
        }
        self.seen.name_taken = None;
        self.add(&server, member)
    }

    /// Another server is a healthy member under this node's name. While this one is being added that may be itself.
    fn name_taken(&mut self, uuid: &Uuid) -> anyhow::Result<Joined> {
        let since_when = *self.seen.name_taken.get_or_insert_with(Instant::now);
        let node = &self.here.node;
        let own = self.own_uuid.as_ref().map_or("unknown", Uuid::as_str);
        let why = format!(
            "the cluster has a healthy member `{node}` whose server has the UUID {uuid}, and this server has {own}: two machines have the same name"
        );
        if since(Some(since_when)) < STRANGER_AFTER {
            return Ok(Joined::Round(Round::wait(why)));
        }
        Err(Failure::refused(why).hint("give each machine a `--node` of its own").into())
    }

    fn add(&mut self, server: &Server, member: &Node) -> anyhow::Result<Joined> {
        let path = match self.group_path(server) {
            Ok(path) => path,
            Err(error) => return Ok(Joined::No(error.to_string())),
        };
        let services = self.plan.services.codes();
        self.printer.waiting(&format!("`{member}` is adding this node"));
        self.adding = Some((member.clone(), Instant::now()));
        match server.add(&self.here.node, &services, path.as_deref(), self.is_enterprise()) {
            Ok(()) => {
                self.refusals = 0;
                self.adding = None;
                self.printer.step(format_args!("join: added by `{member}`"));
                Ok(Joined::Round(Round::Again))
            }
            Err(Error::Away(why) | Error::Failing(why)) => Ok(Joined::Round(Round::wait(why))),
            Err(error) => {
                self.adding = None;
                self.refusals += 1;
                if self.refusals >= TRIES {
                    return Err(Failure::new(format!("`{member}` has refused {TRIES} times to add this node: {error}"))
                        .hint(
                            "the other nodes have to reach this one by its name on the ports 8091 and 18091, and to trust its certificate; after it has left a cluster, load certificates of your own again (`loadTrustedCAs`, `reloadCertificate`)",
                        )
                        .into());
                }
                // A rebalance may have begun in the meantime: the next look shows it.
                Ok(Joined::No(error.to_string()))
            }
        }
    }

    /// The path that adds a node to the wanted server group, which is made if need be; none for the usual one.
    fn group_path(&self, server: &Server) -> Result<Option<String>, Error> {
        let Some(wanted) = self.plan.group.as_ref().filter(|_| self.is_enterprise()) else {
            return Ok(None);
        };
        let find = || {
            let groups = server.groups()?.groups;
            Ok(groups.into_iter().find(|group| group.name == *wanted))
        };
        if let Some(group) = find()? {
            return Ok(Some(group.add_node_uri));
        }
        match server.create_group(wanted) {
            Ok(()) => {}
            // Another node has created it first, or the server refuses it: then the node joins without a group and warns later.
            Err(error) if error.is_permanent() => {}
            Err(error) => return Err(error),
        }
        Ok(find()?.map(|group| group.add_node_uri))
    }
}

pub(super) fn untrusted(why: &str) -> Failure {
    Failure::new(why).hint(
        "give the authority that signed the servers' certificates (`--ca-cert`), or all nodes the same secret (`--secret-file`)",
    )
}
