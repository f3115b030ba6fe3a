//! A blank server joins through a member of its cluster.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cbbootstrap_cli::{failure::Failure, text::shell_argument};
use cbbootstrap_protocol::names::Node;

use super::{Interrupt, Run, untrusted};
use crate::{
    commands::name_taken,
    decision::{self, Admission, Asked, OTHER_CREDENTIALS_LIMIT, Testimony},
    http::CallError,
    peers::join_reasons,
    record::ClusterRecord,
    server::{Server, View},
    values,
};

/// A member that does not answer is skipped for this long.
const SKIP_TIME: Duration = Duration::from_secs(30);

/// A server that adds a node gives up after 30 s. It may begin late, because it adds one node at a time. For this long after a call
/// without an answer no other is asked: both would fail.
const ADD_TIME: Duration = Duration::from_secs(35);

/// A node that one member tells to wait begins with the next one after this time.
const TURN: Duration = Duration::from_mins(1);

/// Calls to one member without an answer, before the others are asked.
const MAX_CALLS: u32 = 3;

#[derive(Default)]
pub(super) struct Joining {
    /// Since when each round has ended with a member that refuses to add this node.
    refused_since: Option<Instant>,
    dead: BTreeMap<Node, Instant>,
    /// A member that may still be adding this node.
    adding: Option<Adding>,
    /// How often this node has begun with the next member, and since when the first one has told it to wait.
    turns: usize,
    waits_since: Option<Instant>,
    /// Since when a member has listed another server under this node's name.
    name_taken_since: Option<Instant>,
}

/// Calls of a member that ended without an answer.
struct Adding {
    member: Node,
    since: Instant,
    calls: u32,
}

enum NotAdded {
    /// The member cannot add it, for this reason: try the next one.
    Skip(Skip, String),
    Interrupt(Interrupt),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    Dead,
    /// Another one may still be adding this node.
    Busy,
    OtherCluster,
    /// Nothing vouches for the member.
    Unproven,
    /// It refuses to add this node.
    Refused,
    /// It does not accept this node's user name and password.
    OtherCredentials,
    Other,
}

/// What follows if all members were skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conclusion {
    SecondCluster,
    /// No member that could add this node can be verified.
    Untrusted,
    Refused,
    Unproven,
    OtherCredentials,
    AllDead,
    Wait,
}

fn conclude(skips: &[Skip], has_secret: bool) -> Conclusion {
    let are_all = |skip| skips.iter().all(|one| *one == skip);
    let has = |skip| skips.contains(&skip);
    if are_all(Skip::OtherCluster) {
        Conclusion::SecondCluster
    } else if has(Skip::Unproven)
        && !has_secret
        && ![Skip::Refused, Skip::OtherCredentials, Skip::Other].into_iter().any(has)
    {
        // Otherwise, the authorities may be in the middle of a replacement, and the operator's may fit some members.
        Conclusion::Untrusted
    } else if has(Skip::Refused) {
        Conclusion::Refused
    } else if has(Skip::Unproven) {
        Conclusion::Unproven
    } else if has(Skip::OtherCredentials) {
        Conclusion::OtherCredentials
    } else if are_all(Skip::Dead) {
        Conclusion::AllDead
    } else {
        Conclusion::Wait
    }
}

impl<I: Into<Interrupt>> From<I> for NotAdded {
    fn from(interrupt: I) -> Self {
        Self::Interrupt(interrupt.into())
    }
}

fn skip(error: &CallError) -> NotAdded {
    NotAdded::Skip(Skip::Other, error.to_string())
}

impl Run<'_> {
    /// Joins through a member that can add this node. A member adds one node at a time, so nodes begin with different members.
    pub(super) fn join(
        &mut self,
        members: &[Node],
        record: &ClusterRecord,
    ) -> Result<(), Interrupt> {
        let now = Instant::now();
        let refused_since = self.state.joining.refused_since.take();
        self.state.joining.dead.retain(|_, since| now - *since < SKIP_TIME);
        let is_over = |adding: &mut Adding| now - adding.since >= ADD_TIME;
        if let Some(Adding { member, .. }) = self.state.joining.adding.take_if(is_over) {
            self.state.joining.dead.insert(member, now);
        }
        let (mut reasons, mut skips) = (Vec::new(), Vec::new());
        let first = first_member(self.node(), self.state.joining.turns, members.len());
        for member in members[first..].iter().chain(&members[..first]) {
            let Joining { dead, adding, .. } = &self.state.joining;
            if dead.contains_key(member) && dead.len() < members.len() {
                skips.push(Skip::Dead);
                continue;
            }
            if let Some(other) = adding.as_ref().filter(|adding| adding.member != *member) {
                skips.push(Skip::Busy);
                reasons.push(format!("`{}` may still be adding this node", other.member));
                continue;
            }
            match self.join_through(member, record) {
                Ok(()) => return Ok(()),
                Err(NotAdded::Interrupt(interrupt)) => return Err(interrupt),
                Err(NotAdded::Skip(skip, why)) => {
                    if skip == Skip::Dead {
                        self.state.joining.dead.insert(member.clone(), now);
                    }
                    skips.push(skip);
                    reasons.push(format!("`{member}`: {why}"));
                }
            }
        }
        let has_secret = self.here.peers.keys.is_some();
        let conclusion = conclude(&skips, has_secret);
        let reasons = join_reasons(reasons);
        let wait = Failure::new(format!("no member can add this node: {reasons}"));
        let wait = match conclusion {
            Conclusion::SecondCluster => {
                let failure = Failure::refused(format!("there is a second cluster: {reasons}"));
                return Err(failure.hint("decide which cluster to keep; `cbbootstrap cluster show` prints the API's record").into());
            }
            Conclusion::Untrusted => return Err(untrusted(&reasons).into()),
            Conclusion::Refused => wait.hint(
                "the other nodes must reach this one by its name on the ports 8091 and 18091, and trust its certificate; after it has left a cluster, load your own certificates again (`loadTrustedCAs`, `reloadCertificate`)",
            ),
            Conclusion::Unproven if has_secret => wait.hint("give all nodes the same secret (`--secret-file`), and run `up` on a member whose certificate has changed; no password was sent to an unverified server"),
            Conclusion::Unproven => untrusted(&wait.to_string()),
            Conclusion::OtherCredentials => wait.hint("pass the cluster's user name and password"),
            Conclusion::AllDead => wait.hint(format!(
                "no recorded member answers; if another member has the data, run `cbbootstrap-agent up` there; if no machine has it, run `cbbootstrap cluster forget {}` to start a new cluster",
                shell_argument(self.here.api.cluster_id.as_str())
            )),
            Conclusion::Wait => wait,
        };
        // The members may have changed.
        self.state.answers.asked = Asked::NotYet;
        if conclusion == Conclusion::Refused {
            let since = refused_since.unwrap_or(now);
            self.state.joining.refused_since = Some(since);
            if self.is_lasting(since) {
                return Err(wait.into());
            }
        }
        Err(Interrupt::unfinished(wait))
    }

    /// Asks other members whether this one, which knows none of them, is one of theirs.
    fn check_is_no_copy(
        &self,
        member: &Node,
        view: &View,
        record: &ClusterRecord,
    ) -> Result<(), NotAdded> {
        let is_listed = |theirs: &View| decision::is_listed(member, view, theirs);
        let why = match self.here.peers.ask_about(member, record, self.is_enterprise(), is_listed) {
            Testimony::NotListed(by) => {
                format!("`{by}` does not list it: it is an old copy of a member")
            }
            Testimony::Listed(theirs) if !decision::lists(view, &theirs) => {
                "it does not list all members, and may be an old copy of one".to_owned()
            }
            _ => return Ok(()),
        };
        Err(NotAdded::Skip(Skip::Other, why))
    }

    fn join_through(&mut self, member: &Node, record: &ClusterRecord) -> Result<(), NotAdded> {
        let peers = &self.here.peers;
        let unproven = |why: String| NotAdded::Skip(Skip::Unproven, why);
        peers.proof(member, record).map_err(|why| unproven(why.to_owned()))?;
        if !self.is_enterprise() && !peers.is_insecure {
            return Err(Failure::refused(
                "Community Edition has no TLS between nodes: the password would cross the network unencrypted",
            )
            .hint("`--insecure` sends it anyway; Enterprise Edition encrypts it")
            .into());
        }
        let connected = peers.connect(member, record, self.is_enterprise(), peers.deadline);
        let read = connected.and_then(|server| server.cluster().map(|view| (server, view)));
        let (server, view) = read.map_err(|error| match error {
            CallError::Untrusted(why) => unproven(why),
            CallError::Unreachable(why) | CallError::Failing(why) => {
                NotAdded::Skip(Skip::Dead, why)
            }
            error @ CallError::Unauthorized => {
                NotAdded::Skip(Skip::OtherCredentials, error.to_string())
            }
            error => skip(&error),
        })?;
        let other = |why: String| Err(NotAdded::Skip(Skip::Other, why));
        let Some(view) = view else {
            return other("it belongs to no cluster".to_owned());
        };
        let (node, own) = (self.node(), self.here.identity.node_uuid.as_ref());
        if decision::may_be_copy(node, member, &view, record) {
            self.check_is_no_copy(member, &view, record)?;
        }
        match decision::admission(
            node,
            own,
            &view,
            record.cluster_uuid.as_ref(),
            self.goal.replaces,
        ) {
            Admission::Add => {
                (self.state.joining.name_taken_since, self.state.joining.waits_since) =
                    (None, None);
                self.check_memory(&view)?;
                self.add(&server, member)
            }
            Admission::Replace(otp) => {
                server.eject(&otp).map_err(|error| {
                    Interrupt::wait(format!("`{otp}` cannot be removed yet: {error}"))
                })?;
                self.printer.warning(format_args!(
                    "`{otp}` has been failed over, and this blank machine has its name: it was removed, and this node joins in its place"
                ));
                Ok(())
            }
            Admission::Later(why) => {
                // A member that has lost the others may show an old state indefinitely.
                let joining = &mut self.state.joining;
                let since = *joining.waits_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= TURN {
                    (joining.waits_since, joining.turns) = (None, joining.turns + 1);
                    self.state.answers.asked = Asked::NotYet;
                }
                Err(Interrupt::wait(why).into())
            }
            Admission::OtherCluster(why) => Err(NotAdded::Skip(Skip::OtherCluster, why)),
            Admission::UnfitMember => {
                other("it is not an active, healthy member itself".to_owned())
            }
            Admission::NameTaken(uuid) => {
                // It may be this server, while it is being added.
                let since = self.state.joining.name_taken_since.get_or_insert_with(Instant::now);
                let failure = name_taken(&self.here.identity, &uuid);
                let is_over = since.elapsed() >= OTHER_CREDENTIALS_LIMIT;
                Err(if is_over { failure.into() } else { Interrupt::unfinished(failure).into() })
            }
        }
    }

    /// The server would refuse a node whose memory is too small for the cluster's quotas.
    fn check_memory(&self, view: &View) -> Result<(), Failure> {
        let services = &self.args.services;
        let (needed, allowed) =
            (view.quotas.sum(services), values::allowed_megabytes(self.state.memory_bytes));
        if needed <= allowed {
            return Ok(());
        }
        Err(Failure::refused(format!(
            "this node's memory is too small for the cluster's quotas: the services {services} need {needed} MB, and the server allows {allowed} MB"
        ))
        .hint("use a machine with more memory, or fewer `--services`, or lower the quotas in Couchbase Server; `--memory-quota` on the first node sets the quota of a new cluster"))
    }

    fn add(&mut self, server: &Server, member: &Node) -> Result<(), NotAdded> {
        let calls = self.state.joining.adding.as_ref().map_or(0, |adding| adding.calls);
        if calls >= MAX_CALLS {
            return Err(NotAdded::Skip(Skip::Other, "it may still be adding this node".to_owned()));
        }
        let group_path = self.group_path(server).map_err(|error| skip(&error))?;
        let services = self.args.services.codes();
        self.printer.waiting(&format!("`{member}` is adding this node"));
        let added = server.add(self.node(), &services, group_path.as_deref(), self.is_enterprise());
        if let Err(error @ (CallError::Unreachable(_) | CallError::Failing(_))) = added {
            let (member, since) = (member.clone(), Instant::now());
            self.state.joining.adding = Some(Adding { member, since, calls: calls + 1 });
            return Err(error.into());
        }
        self.state.joining.adding = None;
        let Err(error) = added else {
            self.state.memory.kept.has_begun_cluster = false;
            self.printer.step(format_args!("join: added by `{member}`"));
            return Ok(());
        };
        // A rebalance may have begun: the next round shows it.
        Err(NotAdded::Skip(Skip::Refused, error.to_string()))
    }

    /// The path that adds a node to the wanted server group, which is created if necessary; `None` for the usual path.
    fn group_path(&self, server: &Server) -> Result<Option<String>, CallError> {
        let Some(wanted) = self.args.server_group.as_ref().filter(|_| self.is_enterprise()) else {
            return Ok(None);
        };
        let find = || {
            let groups = server.groups()?.groups;
            let group = groups.into_iter().find(|group| group.name == *wanted);
            Ok(group.map(|group| group.add_node_uri))
        };
        if let Some(path) = find()? {
            return Ok(Some(path));
        }
        match server.create_group(wanted) {
            // Another node has created it, or the server refuses it: then the node joins without a group and warns later.
            Err(error) if !error.is_permanent() => Err(error),
            _ => find(),
        }
    }
}

/// Where this node begins in the list of members. In the first turn, it depends only on the node's name: an agent that is started again
/// must not ask a second member while the first one may still be adding the node, because both would fail.
fn first_member(node: &Node, turns: usize, members: usize) -> usize {
    let name: usize = node.as_str().bytes().map(usize::from).sum();
    (name + turns) % members.max(1)
}

#[cfg(test)]
mod tests {
    use super::{
        Conclusion::{AllDead, Refused as AreRefused, SecondCluster, Untrusted, Wait},
        Skip::{Busy, Dead, Other, OtherCluster, OtherCredentials, Refused, Unproven},
        *,
    };

    #[test]
    fn members_that_were_skipped_tell_what_follows() {
        #[rustfmt::skip]
        let cases: [(&[Skip], [Conclusion; 2]); 26] = [
            // Without a secret, and with one.
            (&[OtherCluster], [SecondCluster, SecondCluster]),
            (&[OtherCluster, OtherCluster], [SecondCluster, SecondCluster]),
            (&[OtherCluster, Dead], [Wait, Wait]),
            (&[OtherCluster, Busy], [Wait, Wait]),
            (&[OtherCluster, Other], [Wait, Wait]),
            (&[OtherCluster, Refused], [AreRefused, AreRefused]),
            (&[Unproven], [Untrusted, Conclusion::Unproven]),
            (&[Unproven, Dead], [Untrusted, Conclusion::Unproven]),
            (&[Unproven, OtherCluster], [Untrusted, Conclusion::Unproven]),
            (&[Unproven, Busy], [Untrusted, Conclusion::Unproven]),
            (&[Unproven, Other], [Conclusion::Unproven, Conclusion::Unproven]),
            (&[Unproven, Refused], [AreRefused, AreRefused]),
            (&[Unproven, Refused, Dead], [AreRefused, AreRefused]),
            (&[Refused], [AreRefused, AreRefused]),
            (&[Refused, Dead], [AreRefused, AreRefused]),
            (&[Refused, Busy], [AreRefused, AreRefused]),
            (&[Dead, Dead], [AllDead, AllDead]),
            (&[Dead, Busy], [Wait, Wait]),
            (&[Dead, Other], [Wait, Wait]),
            (&[Busy, Other], [Wait, Wait]),
            (&[Other], [Wait, Wait]),
            (&[OtherCredentials], [Conclusion::OtherCredentials; 2]),
            (&[OtherCredentials, Dead, Other], [Conclusion::OtherCredentials; 2]),
            (&[OtherCredentials, OtherCluster], [Conclusion::OtherCredentials; 2]),
            (&[OtherCredentials, Refused], [AreRefused, AreRefused]),
            (&[OtherCredentials, Unproven], [Conclusion::Unproven; 2]),
        ];
        for (skips, expected) in cases {
            assert_eq!([false, true].map(|secret| conclude(skips, secret)), expected, "{skips:?}");
        }
    }
}
