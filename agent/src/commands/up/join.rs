//! A blank server joins through a member of its cluster.

use std::time::{Duration, Instant};

use super::{Round, Run, TRIES};
use crate::{
    decision::{self, Asked, Through},
    failure::Failure,
    server::{Error, Server},
    settings::Here,
};

/// A member that did not answer is not asked again for so long.
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
    /// It will not do, for another reason.
    No(String),
}

impl Run<'_> {
    /// Joins through the first member that will do.
    pub(super) fn join(&mut self, members: &[String]) -> anyhow::Result<Round> {
        let uuid = self
            .known()
            .and_then(|record| record.cluster.cluster_uuid.clone());
        let now = Instant::now();
        self.avoid.retain(|_, since| now - *since < AVOID);
        self.adding.take_if(|(_, since)| now - *since >= ADDING);
        let mut reasons = Vec::new();
        let mut others = 0;
        for member in members {
            if self.avoid.contains_key(member) && self.avoid.len() < members.len() {
                continue;
            }
            if let Some((adding, _)) = self.adding.as_ref().filter(|(adding, _)| adding != member) {
                reasons.push(format!("`{adding}` may still be adding this node"));
                continue;
            }
            let skipped = match self.join_through(member, uuid.as_deref())? {
                Joined::Round(round) => return Ok(round),
                Joined::Dead(why) => {
                    self.avoid.insert(member.clone(), now);
                    why
                }
                Joined::Other(why) => {
                    others += 1;
                    why
                }
                Joined::No(why) => why,
            };
            reasons.push(format!("`{member}`: {skipped}"));
        }
        let reasons = reasons.join("; ");
        if others == members.len() {
            return Err(Failure::refused(format!("there is a second cluster: {reasons}"))
                .hint("decide which is to stay; `cbbootstrap cluster show` tells what the API knows")
                .into());
        }
        // Others may have become members meanwhile, or left.
        self.record = Asked::NotYet;
        Ok(Round::Wait(format!(
            "no member can add this node: {reasons}"
        )))
    }

    fn join_through(&mut self, member: &str, uuid: Option<&str>) -> anyhow::Result<Joined> {
        let server = self.member(member)?;
        let view = match server.cluster() {
            Ok(Some(view)) => view,
            Ok(None) => return Ok(Joined::No("it belongs to no cluster".to_owned())),
            Err(Error::Untrusted(why)) => return Err(untrusted(&why).into()),
            Err(Error::Away(why)) => return Ok(Joined::Dead(why)),
            Err(error) => return Ok(Joined::No(error.to_string())),
        };
        match decision::through(&self.here.node, &view, uuid) {
            Through::Add => {}
            Through::Later(why) => return Ok(Joined::Round(Round::Wait(why))),
            Through::Other(why) => return Ok(Joined::Other(why)),
            Through::Unfit => {
                return Ok(Joined::No(
                    "it is no active, healthy member itself".to_owned(),
                ));
            }
        }
        let path = match self.group_path(&server) {
            Ok(path) => path,
            Err(error) => return Ok(Joined::No(error.to_string())),
        };
        let services = self.plan.services.codes();
        self.printer
            .waiting(&format!("`{member}` is adding this node"));
        self.adding = Some((member.to_owned(), Instant::now()));
        match server.add(
            &self.here.node,
            &services,
            path.as_deref(),
            self.is_enterprise,
        ) {
            Ok(()) => {
                self.refusals = 0;
                self.adding = None;
                self.printer.step(format_args!("join: added by `{member}`"));
                Ok(Joined::Round(Round::Again))
            }
            Err(Error::Away(why)) => Ok(Joined::Round(Round::Wait(why))),
            Err(error) => {
                self.adding = None;
                self.refusals += 1;
                if self.refusals >= TRIES {
                    return Err(Failure::new(format!(
                        "`{member}` has refused {TRIES} times to add this node: {error}"
                    ))
                    .hint("the other nodes have to reach this one by its name on the ports 8091 and 18091, and more")
                    .into());
                }
                // A rebalance may have begun meanwhile: the next look shows it.
                Ok(Joined::No(error.to_string()))
            }
        }
    }

    /// The server of a member. Only Enterprise speaks TLS.
    fn member(&self, node: &str) -> Result<Server, Failure> {
        let Here {
            trust,
            administrator,
            ..
        } = self.here;
        if self.is_enterprise {
            return Ok(Server::of_node(node, trust, administrator.clone()));
        }
        if !trust.is_anyone() {
            return Err(Failure::refused(
                "the Community Edition has no TLS: the password would go to the other nodes in the clear",
            )
            .hint("`--insecure` sends it all the same; Enterprise does not need to"));
        }
        Ok(Server::of_node_in_the_clear(
            node,
            trust,
            administrator.clone(),
        ))
    }

    /// The path that adds a node to the wanted server group, which is made if need be; none for the usual one.
    fn group_path(&self, server: &Server) -> Result<Option<String>, Error> {
        let Some(wanted) = &self.plan.group else {
            return Ok(None);
        };
        let find = || {
            let groups = server.groups()?;
            Ok(groups.into_iter().find(|group| group.name == *wanted))
        };
        if let Some(group) = find()? {
            return Ok(Some(group.add_node_uri));
        }
        match server.create_group(wanted) {
            // Or another node was quicker.
            Ok(()) | Err(Error::Refused(..)) => {}
            Err(error) => return Err(error),
        }
        Ok(find()?.map(|group| group.add_node_uri))
    }
}

pub(super) fn untrusted(why: &str) -> Failure {
    Failure::new(why).hint(
        "give the authority that signed the nodes' certificates (`--ca-cert`); `--insecure` trusts whoever answers",
    )
}
