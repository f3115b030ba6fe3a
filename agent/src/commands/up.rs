//! `up`: looks, does what is missing, looks again, until the node is a member of the one cluster and all is well.

use std::{
    collections::BTreeMap,
    fmt,
    net::{ToSocketAddrs, UdpSocket},
    time::{Duration, Instant},
};

use cbbootstrap_function::wire::State;
use serde::Serialize;

use super::{Clock, refused};
use crate::{
    api::{Api, Record, Unanswered},
    cli::UpArgs,
    decision::{self, Asked, Memory, Next, Own, Refusal, Through, Wanted},
    failure::{Exit, Failure},
    lock::Lock,
    printer::Printer,
    server::{Error, Membership, Server, View},
    settings::{self, Here, Plan},
    values::Service,
};

/// So often a rebalance or an addition may fail before that is enough.
const TRIES: u32 = 10;

/// After a rebalance that failed, the next one begins so much later, and ever later up to [`MOST_REST`].
const REST: Duration = Duration::from_secs(5);

/// The longest rest.
const MOST_REST: Duration = Duration::from_secs(40);

/// A member that did not answer is not asked again for so long.
const AVOID: Duration = Duration::from_secs(30);

/// A server that adds a node gives up after 30 s. While it may still be at it, no other is asked: both would fail.
const ADDING: Duration = Duration::from_secs(35);

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    cluster_id: String,
    cluster_uuid: String,
    node: String,
    /// Whether it is the one that others join.
    is_initial_node: bool,
    generation: u64,
    /// All nodes of the cluster.
    nodes: Vec<String>,
    buckets: Vec<String>,
    seconds: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster_id,
            cluster_uuid,
            node,
            nodes,
            ..
        } = self;
        write!(
            f,
            "`{node}` is an active member of `{cluster_id}` ({cluster_uuid}), which is balanced and has {}",
            count(nodes.len(), "node")
        )
    }
}

pub fn run(args: UpArgs, printer: &Printer) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let insecure = args.server.insecure;
    let here = settings::here(args.server, args.api.secret_file.as_deref())?;
    let api = settings::api(args.api)?;
    let plan = Plan::try_from(args.cluster)?;
    let clock = Clock::new(args.wait.into());
    if insecure {
        printer.warning(
            "--insecure: no certificate is checked. Whoever can answer for another node on this network gets the administrator's password",
        );
    }
    let _lock = loop {
        if let Some(lock) = Lock::take(&here.server.url)? {
            break lock;
        }
        clock.pause(printer, "another agent works on this server")?;
    };
    let mut run = Run::new(&here, &api, &plan, printer);
    let (view, record) = loop {
        match run.round()? {
            Round::Wait(reason) => clock.pause(printer, &reason)?,
            Round::Again => {}
            Round::Done(seen) => break *seen,
        }
    };
    printer.result(&Outcome {
        cluster_id: api.cluster_id.clone(),
        cluster_uuid: view.uuid,
        node: here.node,
        is_initial_node: record.cluster.is_initial_node,
        generation: record.cluster.generation,
        nodes: view.nodes.into_iter().map(|node| node.name).collect(),
        buckets: view.buckets,
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    })?;
    Ok(Exit::Done)
}

/// How a round ended.
enum Round {
    Wait(String),
    Again,
    Done(Box<(View, Record)>),
}

/// A run: what it works with, and what it remembers from round to round.
struct Run<'r> {
    here: &'r Here,
    api: &'r Api,
    plan: &'r Plan,
    printer: &'r Printer,
    wanted: Wanted,
    /// The API's record, once it is final or was asked for in this round.
    record: Asked,
    seen: Seen,
    /// The generation that was told last.
    told: Option<u64>,
    /// Whether the server has been heard.
    is_up: bool,
    is_enterprise: bool,
    failures: u32,
    refusals: u32,
    rest_until: Option<Instant>,
    /// Whether a rebalance is known to have been under way.
    rebalancing: bool,
    avoid: BTreeMap<String, Instant>,
    adding: Option<(String, Instant)>,
    done: Memory,
}

/// Since when things are as they are.
#[derive(Default)]
struct Seen {
    stranger: Option<Instant>,
    nodes: Vec<(String, Membership)>,
    same: Option<Instant>,
    unreachable: BTreeMap<String, Instant>,
}

impl Seen {
    fn own(&mut self, own: &Own) {
        let now = Instant::now();
        match own {
            Own::Stranger => {
                self.stranger.get_or_insert(now);
            }
            _ => self.stranger = None,
        }
        let Own::Member(view) = own else { return };
        let nodes = view
            .nodes
            .iter()
            .map(|node| (node.otp.clone(), node.membership));
        let nodes: Vec<_> = nodes.collect();
        if self.nodes != nodes || view.rebalancing {
            self.nodes = nodes;
            self.same = Some(now);
        }
        self.unreachable.retain(|otp, _| {
            view.nodes
                .iter()
                .any(|node| node.otp == *otp && !node.healthy)
        });
        for node in view.nodes.iter().filter(|node| !node.healthy) {
            self.unreachable.entry(node.otp.clone()).or_insert(now);
        }
    }
}

impl<'r> Run<'r> {
    fn new(here: &'r Here, api: &'r Api, plan: &'r Plan, printer: &'r Printer) -> Self {
        Self {
            here,
            api,
            plan,
            printer,
            wanted: Wanted {
                node: here.node.clone(),
                buckets: plan.buckets.iter().map(|b| b.name.clone()).collect(),
                group: plan.group.clone(),
                adopt: plan.adopt,
                settle: super::jitter(plan.settle),
            },
            record: Asked::NotYet,
            seen: Seen::default(),
            told: None,
            is_up: false,
            is_enterprise: true,
            failures: 0,
            refusals: 0,
            rest_until: None,
            rebalancing: false,
            avoid: BTreeMap::new(),
            adding: None,
            done: Memory {
                address_done: plan.alternate_address.is_none(),
                ..Memory::default()
            },
        }
    }

    /// One look and what follows from it.
    fn round(&mut self) -> anyhow::Result<Round> {
        let own = self.look();
        self.seen.own(&own);
        if let Own::Member(view) = &own {
            self.watch_rebalance(view)?;
        }
        // A record that is not final may have changed.
        if self.known().is_none_or(|record| !is_final(record)) {
            self.record = Asked::NotYet;
        }
        let mut has_asked = false;
        loop {
            let next = decision::next(&self.wanted, &own, &self.record, &self.memory());
            if matches!(next, Next::Claim) && has_asked && self.known().is_some() {
                return Ok(Round::Wait("the claim before is about to lapse".to_owned()));
            }
            match next {
                Next::Ask | Next::Claim => {
                    if let Some(why) = self.ask(matches!(next, Next::Claim))? {
                        return Ok(Round::Wait(why));
                    }
                    has_asked = true;
                }
                Next::Done => {
                    let (Own::Member(view), Some(record)) = (own, self.known()) else {
                        return Ok(Round::Again);
                    };
                    return Ok(Round::Done(Box::new((view, record.clone()))));
                }
                next => return self.act(next, &own),
            }
        }
    }

    fn known(&self) -> Option<&Record> {
        self.record.record()
    }

    fn memory(&self) -> Memory {
        let now = Instant::now();
        let since = |time: Option<Instant>| time.map_or(Duration::ZERO, |time| now - time);
        Memory {
            stranger_for: since(self.seen.stranger),
            same_for: since(self.seen.same),
            unreachable_for: self
                .seen
                .unreachable
                .iter()
                .map(|(otp, time)| (otp.clone(), now - *time))
                .collect(),
            rest: self
                .rest_until
                .map_or(Duration::ZERO, |end| end.saturating_duration_since(now)),
            ..self.done.clone()
        }
    }

    fn look(&mut self) -> Own {
        let server = &self.here.server;
        let pools = match server.pools() {
            Ok(pools) => pools,
            Err(Error::Unauthorized) => return Own::Stranger,
            Err(error) => return Own::Away(error.to_string()),
        };
        self.is_enterprise = pools.enterprise;
        if !self.is_up {
            self.is_up = true;
            let state = match &pools.uuid {
                None => "belongs to no cluster yet".to_owned(),
                Some(uuid) => format!("belongs to the cluster {uuid}"),
            };
            let (url, version) = (&server.url, &pools.version);
            self.printer
                .step(format_args!("server: {url} runs {version} and {state}"));
        }
        let Some(uuid) = pools.uuid else {
            return Own::Blank;
        };
        match server.view(uuid) {
            Ok(Some(view)) => Own::Member(view),
            Ok(None) => Own::Blank,
            Err(Error::Unauthorized) => Own::Stranger,
            Err(error) => Own::Away(error.to_string()),
        }
    }

    /// Asks the API. Tells why to wait if it does not say.
    fn ask(&mut self, claim: bool) -> anyhow::Result<Option<String>> {
        let node = &self.here.node;
        let answer = if claim {
            self.api.claim(node, self.plan.lease.seconds()).map(Some)
        } else {
            self.api.status(Some(node))
        };
        match answer {
            Ok(record) => {
                if let Some(record) = &record {
                    self.tell(record);
                }
                self.record = record.map_or(Asked::Nothing, Asked::Record);
                Ok(None)
            }
            Err(Unanswered::Later(why)) => Ok(Some(why)),
            Err(error) => Err(refused(error)),
        }
    }

    /// Says who is the first, when that is new.
    fn tell(&mut self, record: &Record) {
        let cluster = &record.cluster;
        let generation = cluster.generation;
        if self.told.replace(generation) == Some(generation) {
            return;
        }
        let first = if cluster.is_initial_node {
            "this node"
        } else {
            &cluster.initial_node_ip_addr_or_hostname
        };
        self.printer.step(format_args!(
            "claim: {first} is the first (generation {generation})"
        ));
    }

    /// A rebalance that was under way and has ended: well, or is it to be tried again?
    fn watch_rebalance(&mut self, view: &View) -> anyhow::Result<()> {
        if view.rebalancing {
            self.rebalancing = true;
            return Ok(());
        }
        if !std::mem::take(&mut self.rebalancing) {
            return Ok(());
        }
        let error = self
            .here
            .server
            .rebalance()
            .ok()
            .and_then(|last| last.error);
        match error {
            Some(why) if !view.balanced => self.rebalance_failed(&why),
            _ => {
                self.failures = 0;
                self.rest_until = None;
                self.printer.step("rebalance: done");
                Ok(())
            }
        }
    }

    fn rebalance_failed(&mut self, why: &str) -> anyhow::Result<()> {
        self.failures += 1;
        if self.failures >= TRIES {
            return Err(Failure::new(format!("{TRIES} rebalances have failed: {why}"))
                .hint("the servers' logs say more (`/opt/couchbase/var/lib/couchbase/logs`); run this again once it is mended")
                .into());
        }
        let rest = (REST * 2_u32.pow(self.failures - 1)).min(MOST_REST);
        self.rest_until = Some(Instant::now() + super::jitter(rest));
        self.printer
            .warning(format_args!("a rebalance failed: {why}"));
        Ok(())
    }

    /// Does what is next.
    fn act(&mut self, next: Next, own: &Own) -> anyhow::Result<Round> {
        match next {
            Next::Wait(why) => Ok(Round::Wait(self.with_progress(why, own))),
            Next::Refuse(refusal) => Err(self.refusal(&refusal).into()),
            Next::Initialise => self.initialise(),
            Next::Join(members) => self.join(&members),
            Next::Rebalance { known, ejected } => Ok(self.rebalance(&known, &ejected)),
            Next::Group => Ok(self.group(own)),
            Next::CreateBucket(name) => self.create_bucket(&name),
            Next::Address => self.address(),
            Next::Report(uuid) => self.report(&uuid),
            Next::Ask | Next::Claim | Next::Done => Ok(Round::Again),
        }
    }

    fn with_progress(&self, why: String, own: &Own) -> String {
        let is_running = matches!(own, Own::Member(view) if view.rebalancing);
        let progress = is_running
            .then(|| self.here.server.rebalance().ok()?.progress)
            .flatten();
        match progress {
            Some(percent) => format!("{why} ({percent:.0} %)"),
            None => why,
        }
    }

    /// Couchbase Server takes a name only if it leads to the host. Tells why to wait if nobody knows it yet.
    fn check_node(&self) -> Result<Option<String>, Failure> {
        if !self.here.is_local {
            return Ok(None);
        }
        let node = &self.here.node;
        let addresses = match (node.as_str(), 0).to_socket_addrs() {
            Ok(addresses) => addresses,
            Err(error) => {
                return Ok(Some(format!("`{node}` is not known by name yet: {error}")));
            }
        };
        let addresses: Vec<_> = addresses.map(|address| address.ip()).collect();
        // Only a host's own addresses can be bound.
        if addresses.iter().any(|ip| UdpSocket::bind((*ip, 0)).is_ok()) {
            return Ok(None);
        }
        let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let shown = shown.join(", ");
        let is = if shown == *node {
            format!("`{node}`")
        } else {
            format!("`{node}` is {shown}, and that")
        };
        Err(Failure::usage(format!("{is} is no address of this host")).hint(
            "give the host's own, which the other nodes reach; a public one behind NAT goes into `--alternate-address`",
        ))
    }

    fn initialise(&mut self) -> anyhow::Result<Round> {
        if let Some(why) = self.check_node()? {
            return Ok(Round::Wait(why));
        }
        if !self.plan.services.has(Service::Data) {
            return Err(Failure::usage(
                "this node is the first, and the first needs the data service",
            )
            .hint("begin with a node that has `data` among its `--services`")
            .into());
        }
        let server = &self.here.server;
        let memory = match server.memory() {
            Ok(memory) => memory,
            Err(error) => return Ok(Round::Wait(error.to_string())),
        };
        let quota = self
            .plan
            .quota
            .megabytes(memory, &self.plan.services)
            .map_err(|why| Failure::usage(format!("--memory-quota: {why}")))?;
        let buckets: u64 = self.plan.buckets.iter().map(|bucket| bucket.quota).sum();
        if buckets > quota {
            return Err(Failure::usage(format!(
                "the buckets need {buckets} MB on each node, and the data service has {quota} MB"
            ))
            .hint("give it more (`--memory-quota`), or them less (`--bucket`)")
            .into());
        }
        let services = self.plan.services.codes();
        let name = self.plan.cluster_name.as_deref();
        match server.initialise(&self.here.node, &services, quota, name) {
            Ok(()) => {
                let services = &self.plan.services;
                self.printer.step(format_args!(
                    "initialise: a cluster of one node, {quota} MB, {services}"
                ));
                Ok(Round::Again)
            }
            Err(Error::Refused(_, why)) => Err(Failure::new(format!(
                "the server does not initialise the cluster: {why}"
            ))
            .into()),
            // Whatever it was: the next look shows what came of it.
            Err(error) => Ok(Round::Wait(format!("initialise: {error}"))),
        }
    }

    /// Joins through the first member that will do.
    fn join(&mut self, members: &[String]) -> anyhow::Result<Round> {
        if let Some(why) = self.check_node()? {
            return Ok(Round::Wait(why));
        }
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
        let seen = server.pools().and_then(|pools| match pools.uuid {
            Some(uuid) => server.view(uuid),
            None => Ok(None),
        });
        let view = match seen {
            Ok(Some(view)) => view,
            Ok(None) => return Ok(Joined::No("it belongs to no cluster".to_owned())),
            Err(Error::Untrusted(why)) => return Err(untrusted(&why).into()),
            Err(Error::Away(why)) => return Ok(Joined::Dead(why)),
            Err(error) => return Ok(Joined::No(error.to_string())),
        };
        match decision::through(&self.here.node, &view, uuid) {
            Through::Add => {}
            Through::Later(why) => return Ok(Joined::Round(Round::Wait(why))),
            Through::Skip(why) => return Ok(Joined::Other(why)),
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

    fn rebalance(&mut self, known: &[String], ejected: &[String]) -> Round {
        let names = |list: &[String]| {
            list.iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(",")
        };
        match self
            .here
            .server
            .start_rebalance(&names(known), &names(ejected))
        {
            Ok(started) => {
                self.rebalancing = true;
                if started {
                    self.printer
                        .step(format_args!("rebalance: of {}", count(known.len(), "node")));
                }
                for node in ejected {
                    self.printer.warning(format_args!(
                        "`{node}` was added and cannot be reached: the rebalance leaves it out"
                    ));
                }
                Round::Wait("a rebalance runs".to_owned())
            }
            // The list has changed meanwhile, or another rebalance is about to begin.
            Err(error) => Round::Wait(format!("the rebalance does not begin yet: {error}")),
        }
    }

    /// The first node begins in a group of the server's own: that one is given the name.
    fn group(&mut self, own: &Own) -> Round {
        let (Own::Member(view), Some(wanted)) = (own, &self.plan.group) else {
            return Round::Again;
        };
        let server = &self.here.server;
        let groups = match server.groups() {
            Ok(groups) => groups,
            Err(error) => return Round::Wait(error.to_string()),
        };
        match groups.as_slice() {
            [only] if view.nodes.len() == 1 => match server.rename_group(only, wanted) {
                Ok(()) => self.printer.step(format_args!("group: `{wanted}`")),
                Err(error) => return Round::Wait(error.to_string()),
            },
            _ => {
                let group = view.this().map_or("another", |this| &this.group);
                self.printer.warning(format_args!(
                    "the node is in the server group `{group}`, and not in `{wanted}`: moving it is left to you"
                ));
            }
        }
        self.done.group_done = true;
        Round::Again
    }

    fn create_bucket(&mut self, name: &str) -> anyhow::Result<Round> {
        let Some(bucket) = self.plan.buckets.iter().find(|bucket| bucket.name == name) else {
            return Ok(Round::Again);
        };
        match self.here.server.create_bucket(bucket) {
            Ok(()) => {
                self.refusals = 0;
                self.printer
                    .step(format_args!("bucket: `{name}`, {} MB a node", bucket.quota));
                Ok(Round::Wait(format!("the bucket `{name}` is to appear")))
            }
            Err(Error::Refused(status, why)) if status.is_client_error() => {
                // It may have appeared since the last look.
                self.refusals += 1;
                if self.refusals < 3 {
                    return Ok(Round::Wait(why));
                }
                Err(Failure::new(format!("the bucket `{name}` cannot be made: {why}")).into())
            }
            Err(error) => Ok(Round::Wait(error.to_string())),
        }
    }

    fn address(&mut self) -> anyhow::Result<Round> {
        if let Some(address) = &self.plan.alternate_address {
            match self.here.server.set_alternate_address(address) {
                Ok(()) => self
                    .printer
                    .step(format_args!("alternate address: {address}")),
                Err(Error::Refused(_, why)) => {
                    return Err(
                        Failure::new(format!("the alternate address is refused: {why}")).into(),
                    );
                }
                Err(error) => return Ok(Round::Wait(error.to_string())),
            }
        }
        self.done.address_done = true;
        Ok(Round::Again)
    }

    fn report(&mut self, uuid: &str) -> anyhow::Result<Round> {
        let Some(record) = self.known() else {
            return Ok(Round::Again);
        };
        let generation = record.cluster.generation;
        match self.api.ready(&self.here.node, generation, uuid) {
            Ok(record) => {
                self.printer.step("ready: the API has it");
                self.record = Asked::Record(record);
                self.done.reported = true;
                Ok(Round::Again)
            }
            Err(Unanswered::Later(why)) => Ok(Round::Wait(why)),
            Err(Unanswered::Refused(problem)) => match problem.code.as_str() {
                // Asked anew, the API says who has the cluster now.
                "stale_generation" | "initial_node_not_ready" | "not_found" => {
                    self.record = Asked::NotYet;
                    Ok(Round::Wait(problem.detail))
                }
                "other_cluster" => Err(self
                    .refusal(&Refusal::OtherCluster {
                        own: uuid.to_owned(),
                        recorded: problem.detail,
                    })
                    .into()),
                "too_many_nodes" => {
                    self.printer.warning(problem.detail);
                    self.done.reported = true;
                    Ok(Round::Again)
                }
                _ => Err(refused(Unanswered::Refused(problem))),
            },
            Err(error) => Err(refused(error)),
        }
    }

    /// A decision for a person, in words.
    fn refusal(&self, refusal: &Refusal) -> Failure {
        let (node, id) = (&self.here.node, &self.api.cluster_id);
        let untouched = "nothing on this server was changed";
        match refusal {
            Refusal::Stranger => Failure::refused(format!(
                "the server belongs to a cluster with another user name or password than the given ones; {untouched}"
            ))
            .hint("give the right ones, or a server that belongs to no cluster"),
            Refusal::Unknown { uuid } => Failure::refused(format!(
                "the server belongs to the cluster {uuid} already, and the API knows of no cluster `{id}`; {untouched}"
            ))
            .hint("`--adopt` makes that cluster the one that others join"),
            Refusal::OtherCluster { own, recorded } => Failure::refused(format!(
                "the server belongs to another cluster: its own is {own}, that of `{id}` is {recorded}; {untouched}"
            ))
            .hint("if nothing in it is needed, reset the server and run this again"),
            Refusal::FailedOver => Failure::refused(format!(
                "the cluster has failed `{node}` over; {untouched}"
            ))
            .hint("recover it, or rebalance it out, in Couchbase Server; then run this again"),
            Refusal::Lost => Failure::refused(format!(
                "`{id}` is ready, its only member is this node, and its server is blank: it has lost its data"
            ))
            .hint("restore it, or forget the cluster (`cbbootstrap cluster forget`) and begin anew"),
        }
    }
}

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

fn is_final(record: &Record) -> bool {
    record.cluster.state == State::Ready
}

fn untrusted(why: &str) -> Failure {
    Failure::new(why).hint(
        "give the authority that signed the nodes' certificates (`--ca-cert`); `--insecure` trusts whoever answers",
    )
}

/// `1 node`, `2 nodes`.
fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}
