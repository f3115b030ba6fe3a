//! `cluster`: the clusters' records, for an operator: lists them, shows one, forgets one.

use std::fmt::{Display, Formatter};

use cbbootstrap_cli::{console::Output, text::escape_hidden};
use cbbootstrap_function::store::{self, Store, sqlite::Sqlite};
use cbbootstrap_protocol::{
    names::ClusterId,
    rules::{Member, Record},
    wire::State,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{confirm, status::ago};
use crate::{
    aws::{
        Aws,
        clusters::{self, Clusters, Page, Row},
    },
    cli::{ClusterCommand, ClusterForgetArgs, ClusterListArgs, ClusterShowArgs},
    failure::{Exit, Failure},
    local::data,
    printer::Printer,
    settings::{Keeper, Records},
};

/// Columns are so wide at most: a longer id, of one cluster, must not move those of all others to the right.
const WIDEST: usize = 40;

/// Does it.
pub async fn run(command: ClusterCommand, printer: &Printer) -> anyhow::Result<()> {
    match command {
        ClusterCommand::List(args) => list(args, printer).await,
        ClusterCommand::Show(args) => show(args, printer).await,
        ClusterCommand::Forget(args) => forget(args, printer).await,
    }
}

/// Where the records are.
enum Reached {
    /// In AWS.
    Aws(Clusters),
    /// On this machine, where a server may be using them.
    ThisMachine(Sqlite),
}

impl Reached {
    async fn new(records: &Records) -> anyhow::Result<Self> {
        match &records.keeper {
            Keeper::Aws { access, table } => {
                let aws = Aws::connect(access).await?;
                Ok(Self::Aws(Clusters::new(aws.dynamodb, table, aws.region)))
            }
            keeper @ Keeper::ThisMachine { data } => match data::open(data)? {
                Some(store) => Ok(Self::ThisMachine(store)),
                None => Err(Failure::new(format!("there is no database in {keeper}"))
                    .hint("`cbbootstrap serve` makes one; `--data` names another directory")
                    .into()),
            },
        }
    }

    async fn page(&self, limit: Option<usize>, after: Option<&str>) -> anyhow::Result<Page> {
        let store = match self {
            Self::Aws(clusters) => return clusters.page(limit, after).await,
            Self::ThisMachine(store) => store,
        };
        let limit = limit.unwrap_or(usize::MAX);
        let mut records = store.list(limit.saturating_add(1), after).map_err(unreadable)?;
        let more = records.len() > limit;
        records.truncate(limit);
        Ok(Page {
            next: records.last().filter(|_| more).map(|record| record.cluster_id.clone()),
            rows: records.into_iter().map(Row::from).collect(),
        })
    }

    async fn find(&self, cluster_id: &str) -> anyhow::Result<Option<Row>> {
        match self {
            Self::Aws(clusters) => clusters.find(cluster_id).await,
            Self::ThisMachine(store) => {
                Ok(store.find(cluster_id).map_err(unreadable)?.map(Row::from))
            }
        }
    }

    async fn forget(&self, row: &Row) -> anyhow::Result<clusters::Forgotten> {
        let now = Timestamp::now();
        match (self, &row.record) {
            (Self::Aws(clusters), _) => clusters.forget(row, now).await,
            (Self::ThisMachine(store), Ok(record)) => {
                let has_ended = store.forget(record, now).await.map_err(unreadable)?;
                Ok(if has_ended {
                    clusters::Forgotten::Ended
                } else {
                    clusters::Forgotten::Changed
                })
            }
            (Self::ThisMachine(_), Err(error)) => Err((*error).into()),
        }
    }
}

fn unreadable(error: store::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("cannot use the database of the clusters")
}

/// A cluster, or what stands in its place.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Shown {
    Cluster(Box<Cluster>),
    Unreadable { cluster_id: String, error: String },
}

/// All that is known of a cluster, but for the hash of its secret.
#[derive(Debug, Serialize)]
struct Cluster {
    cluster_id: String,
    /// The short name in the function's log; none for an id that the function does not take.
    digest: Option<String>,
    /// `claimed`, `ready` or `forgotten`.
    state: &'static str,
    generation: u64,
    initial_node_ip_addr_or_hostname: String,
    /// The nodes whose claims were taken over, the latest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    previous_initial_nodes: Vec<String>,
    /// The UUID of another server that tried to claim under the initial node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    rival_node_uuid: Option<String>,
    claimed_at: Option<Timestamp>,
    lease_expires_at: Option<Timestamp>,
    /// Whether the next claim takes it over.
    lapsed: bool,
    /// The members that reported ready, sorted.
    nodes: Vec<String>,
    /// The same members with what they reported.
    members: Vec<ShownMember>,
    cluster_uuid: Option<String>,
    secret_required: bool,
    /// When the record ends unless somebody asks about it.
    kept_until: Option<Timestamp>,
    /// Which moment the ages are told from.
    #[serde(skip)]
    now: Timestamp,
}

/// A member of a cluster.
#[derive(Debug, Serialize)]
struct ShownMember {
    node: String,
    reported_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_uuid: Option<String>,
    /// Whether it has sent an attestation. Only those who know the cluster's secret can verify it.
    attested: bool,
}

impl ShownMember {
    fn of((node, member): (String, Member)) -> Self {
        Self {
            node,
            reported_at: member.reported_at,
            node_uuid: member.node_uuid,
            attested: member.attestation.is_some(),
        }
    }

    /// A line of `show`.
    fn line(&self, now: Timestamp) -> String {
        let time = self.reported_at.to_string();
        let attested = if self.attested { ", attested" } else { "" };
        let node = escape_hidden(&self.node);
        format!("{node} (reported {time}{}{attested})", ago(Some(&time), now))
    }
}

impl Cluster {
    fn of(record: Record, now: Timestamp) -> Self {
        let state = if record.is_forgotten {
            "forgotten"
        } else if record.is_gone(now) {
            "expired"
        } else {
            record.state.as_str()
        };
        Self {
            lapsed: !record.is_forgotten && record.is_lapsed(now),
            digest: ClusterId::new(record.cluster_id.as_str()).ok().map(|id| id.digest()),
            cluster_id: record.cluster_id,
            state,
            generation: record.generation,
            initial_node_ip_addr_or_hostname: record.initial_node,
            claimed_at: record.claimed_at,
            lease_expires_at: record.lease_expires_at,
            previous_initial_nodes: record.previous_initial_nodes,
            rival_node_uuid: record.rival_node_uuid,
            nodes: record.members.keys().cloned().collect(),
            members: record.members.into_iter().map(ShownMember::of).collect(),
            cluster_uuid: record.cluster_uuid,
            secret_required: record.secret.is_some(),
            kept_until: record.kept_until,
            now,
        }
    }

    /// Until when the claim stands.
    fn lease(&self) -> String {
        let Some(end) = self.lease_expires_at else {
            return if self.state == State::Claimed.as_str() {
                "none, the claim does not expire".to_owned()
            } else {
                format!("none, the cluster is {}", self.state)
            };
        };
        let ago = ago(Some(&end.to_string()), self.now);
        if self.lapsed {
            format!("expired {end}{ago}; the next claim takes the cluster over")
        } else if end <= self.now {
            format!("expired {end}{ago}")
        } else {
            format!("until {end}")
        }
    }
}

impl Display for Cluster {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let claimed = self.claimed_at.map(|time| time.to_string());
        let claimed = claimed.as_deref();
        let digest = self.digest.as_deref();
        let members = self.members.iter().map(|member| member.line(self.now));
        let members = members.collect::<Vec<_>>().join("\n              ");
        let previous = self.previous_initial_nodes.iter();
        let previous = previous.map(|node| escape_hidden(node)).collect::<Vec<_>>();
        let uuid = self.cluster_uuid.as_deref().map(escape_hidden);
        for (name, value) in [
            ("Cluster:", escape_hidden(&self.cluster_id)),
            ("State:", self.state.to_owned()),
            ("Generation:", self.generation.to_string()),
            ("Initial node:", escape_hidden(&self.initial_node_ip_addr_or_hostname)),
            ("Claimed:", format!("{}{}", claimed.unwrap_or("unknown"), ago(claimed, self.now))),
            ("Lease:", self.lease()),
            (
                "Members:",
                if members.is_empty() { "none reported ready".to_owned() } else { members },
            ),
            ("Cluster UUID:", uuid.unwrap_or_else(|| "none reported".to_owned())),
            ("Secret:", if self.secret_required { "required" } else { "none" }.to_owned()),
            ("In the log:", digest.unwrap_or("never, the API refuses this id").to_owned()),
        ] {
            writeln!(f, "{name:13} {value}")?;
        }
        if !previous.is_empty() {
            writeln!(f, "Taken over:   from {}", previous.join(", "))?;
        }
        if let Some(uuid) = &self.rival_node_uuid {
            let uuid = escape_hidden(uuid);
            writeln!(f, "Name in use:  by another server, with the UUID {uuid}")?;
        }
        Ok(())
    }
}

impl Shown {
    fn of(row: Row, now: Timestamp) -> Self {
        match row.record {
            Ok(record) => Self::Cluster(Box::new(Cluster::of(record, now))),
            Err(error) => Self::Unreadable { cluster_id: row.cluster_id, error: error.to_string() },
        }
    }

    fn cluster_id(&self) -> &str {
        match self {
            Self::Cluster(cluster) => &cluster.cluster_id,
            Self::Unreadable { cluster_id, .. } => cluster_id,
        }
    }

    /// A line of the list.
    fn columns(&self) -> Vec<String> {
        match self {
            Self::Cluster(cluster) => {
                let time = |time: Option<Timestamp>| {
                    time.map_or_else(|| "-".to_owned(), |time| time.to_string())
                };
                let lapsed = if cluster.lapsed { " (lapsed)" } else { "" };
                vec![
                    escape_hidden(&cluster.cluster_id),
                    cluster.state.to_owned(),
                    cluster.generation.to_string(),
                    escape_hidden(&cluster.initial_node_ip_addr_or_hostname),
                    cluster.nodes.len().to_string(),
                    time(cluster.claimed_at),
                    time(cluster.lease_expires_at) + lapsed,
                ]
            }
            Self::Unreadable { cluster_id, error } => {
                vec![escape_hidden(cluster_id), format!("unreadable: {error}")]
            }
        }
    }
}

impl Display for Shown {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(cluster) => cluster.fmt(f),
            Self::Unreadable { cluster_id, error } => {
                write!(f, "Cluster:      {}\nUnreadable:   {error}", escape_hidden(cluster_id))
            }
        }
    }
}

#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    keeper: Keeper,
    clusters: Vec<Shown>,
    /// The cluster that the next page begins after.
    next: Option<String>,
    /// That this page begins after.
    #[serde(skip)]
    after: Option<String>,
}

impl Display for Listed {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.clusters.is_empty() {
            write!(f, "No clusters in {}", self.keeper)?;
            return match &self.after {
                Some(after) => write!(f, " after {}", escape_hidden(after)),
                None => Ok(()),
            };
        }
        let header = [
            "CLUSTER",
            "STATE",
            "GENERATION",
            "INITIAL NODE",
            "MEMBERS",
            "CLAIMED AT",
            "LEASE UNTIL",
        ];
        let lines: Vec<Vec<String>> = std::iter::once(header.map(str::to_owned).to_vec())
            .chain(self.clusters.iter().map(Shown::columns))
            .collect();
        let width = |column: usize| {
            // The last of a line takes what it needs.
            let cells = lines
                .iter()
                .filter(|line| column + 1 < line.len())
                .map(|line| line[column].chars().count());
            cells.filter(|width| *width <= WIDEST).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..header.len()).map(width).collect();
        for line in &lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

async fn list(args: ClusterListArgs, printer: &Printer) -> anyhow::Result<()> {
    let records = Records::of(args.records)?;
    let limit = (!args.all).then_some(args.limit.get());
    let after = args.after.as_deref();
    let Page { rows, next } = Reached::new(&records).await?.page(limit, after).await?;
    let now = Timestamp::now();
    let listed = Listed {
        keeper: records.keeper.clone(),
        clusters: rows.into_iter().map(|row| Shown::of(row, now)).collect(),
        next,
        after: args.after,
    };
    printer.result(&listed)?;
    if let Some(next) = &listed.next
        && args.output.output == Output::Text
    {
        let options = [format!("--limit={}", args.limit), format!("--after={next}")];
        printer.message(format_args!("There are more: {}", records.command("list", &options)));
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    keeper: Keeper,
    #[serde(flatten)]
    cluster: Cluster,
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.cluster.fmt(f)
    }
}

async fn show(args: ClusterShowArgs, printer: &Printer) -> anyhow::Result<()> {
    let records = Records::of(args.records)?;
    let reached = Reached::new(&records).await?;
    let row = find(&reached, &records, &args.cluster_id).await?;
    let record = row.record.map_err(|error| {
        let id = escape_hidden(&args.cluster_id);
        Failure::new(format!("the record of cluster `{id}` cannot be read: {error}"))
            .hint("repair the item in DynamoDB, or end it with `cbbootstrap cluster forget`")
    })?;
    printer
        .result(&Found { keeper: records.keeper, cluster: Cluster::of(record, Timestamp::now()) })
}

async fn find(reached: &Reached, records: &Records, cluster_id: &str) -> anyhow::Result<Row> {
    let found = reached.find(cluster_id).await?;
    found.ok_or_else(|| not_found(records, cluster_id))
}

fn not_found(records: &Records, cluster_id: &str) -> anyhow::Error {
    let id = escape_hidden(cluster_id);
    let message = format!("there is no cluster `{id}` in {}", records.keeper);
    let list = records.command("list", &[]);
    Failure::new(message).hint(format!("`{list}` lists the clusters")).into()
}

#[derive(Debug, Serialize)]
struct Forgotten {
    #[serde(flatten)]
    keeper: Keeper,
    forgotten: bool,
    /// As it was.
    #[serde(flatten)]
    cluster: Shown,
}

impl Display for Forgotten {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let id = escape_hidden(self.cluster.cluster_id());
        write!(f, "Cluster {id} is forgotten. The next node to ask starts a new cluster")
    }
}

async fn forget(args: ClusterForgetArgs, printer: &Printer) -> anyhow::Result<()> {
    let records = Records::of(args.records)?;
    let reached = Reached::new(&records).await?;
    let row = find(&reached, &records, &args.cluster_id).await?;
    if row.record.as_ref().is_ok_and(|record| record.is_forgotten) {
        return Err(not_found(&records, &args.cluster_id));
    }
    let id = escape_hidden(&args.cluster_id);
    let shown = Shown::of(row.clone(), Timestamp::now());
    if !args.yes {
        printer.message(shown.to_string().trim_end());
    }
    let question = format!("Forget cluster `{id}`? The next node to ask starts a new cluster");
    confirm(&question, args.yes, printer).await?;
    if reached.forget(&row).await? == clusters::Forgotten::Changed {
        let look = records.command("show", &["--".to_owned(), args.cluster_id]);
        return Err(Failure::new(format!(
            "the record of cluster `{id}` has changed since it was read; nothing was forgotten"
        ))
        .hint(format!("read it again: `{look}`"))
        .exit(Exit::Changed)
        .into());
    }
    printer.result(&Forgotten { keeper: records.keeper, forgotten: true, cluster: shown })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cbbootstrap_function::item::Unreadable;
    use cbbootstrap_protocol::{rules::SecretHash, trust::Attestation};

    use super::*;
    use crate::aws::Access;

    const CLAIMED_AT: i64 = 1_700_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// As the original service wrote it.
    fn original() -> Record {
        Record {
            cluster_id: "c".to_owned(),
            initial_node: "a".to_owned(),
            initial_node_uuid: None,
            previous_initial_nodes: Vec::new(),
            rival_node_uuid: None,
            is_given_up: false,
            state: State::Claimed,
            generation: 1,
            claimed_at: None,
            lease_expires_at: None,
            kept_until: None,
            is_forgotten: false,
            members: BTreeMap::new(),
            cluster_uuid: None,
            secret: None,
        }
    }

    fn member(attestation: Option<Attestation>) -> Member {
        Member { reported_at: at(CLAIMED_AT + 60), node_uuid: None, authority: None, attestation }
    }

    fn leased() -> Record {
        Record {
            claimed_at: Some(at(CLAIMED_AT)),
            lease_expires_at: Some(at(CLAIMED_AT + 60)),
            ..original()
        }
    }

    fn ready() -> Record {
        let id = ClusterId::new("c").unwrap();
        Record {
            state: State::Ready,
            generation: 3,
            claimed_at: Some(at(CLAIMED_AT)),
            members: BTreeMap::from([
                ("a".to_owned(), member(Attestation::from_bytes(&[7; 32]))),
                ("b".to_owned(), member(None)),
            ]),
            cluster_uuid: Some("u".to_owned()),
            secret: Some(SecretHash::new(&id, b"open sesame")),
            ..original()
        }
    }

    fn cluster(record: Record, seconds_later: i64) -> Cluster {
        Cluster::of(record, at(CLAIMED_AT + seconds_later))
    }

    #[test]
    fn a_cluster_is_shown_with_all_that_is_known() {
        assert_eq!(
            cluster(ready(), 3600).to_string(),
            "\
Cluster:      c
State:        ready
Generation:   3
Initial node: a
Claimed:      2023-11-14T22:13:20Z (1 hour ago)
Lease:        none, the cluster is ready
Members:      a (reported 2023-11-14T22:14:20Z (59 minutes ago), attested)
              b (reported 2023-11-14T22:14:20Z (59 minutes ago))
Cluster UUID: u
Secret:       required
In the log:   2e7d2c03
"
        );
        assert_eq!(
            cluster(original(), 0).to_string(),
            "\
Cluster:      c
State:        claimed
Generation:   1
Initial node: a
Claimed:      unknown
Lease:        none, the claim does not expire
Members:      none reported ready
Cluster UUID: none reported
Secret:       none
In the log:   2e7d2c03
"
        );
    }

    #[test]
    fn a_lease_runs_ends_and_lapses() {
        for (seconds_later, lapsed, said) in [
            (0, false, "until 2023-11-14T22:14:20Z"),
            (60, false, "expired 2023-11-14T22:14:20Z (just now)"),
            // Clocks differ.
            (65, false, "expired 2023-11-14T22:14:20Z (5 seconds ago)"),
            (
                66,
                true,
                "expired 2023-11-14T22:14:20Z (6 seconds ago); the next claim takes the cluster over",
            ),
        ] {
            let cluster = cluster(leased(), seconds_later);
            assert_eq!((cluster.lapsed, cluster.lease().as_str()), (lapsed, said));
        }
    }

    #[test]
    fn json_has_it_all_and_no_hash() {
        let json = serde_json::to_value(Shown::Cluster(Box::new(cluster(ready(), 0)))).unwrap();
        let expected = serde_json::json!({
            "cluster_id": "c",
            "digest": "2e7d2c03",
            "state": "ready",
            "generation": 3,
            "initial_node_ip_addr_or_hostname": "a",
            "claimed_at": "2023-11-14T22:13:20Z",
            "lease_expires_at": null,
            "lapsed": false,
            "nodes": ["a", "b"],
            "members": [
                {"node": "a", "reported_at": "2023-11-14T22:14:20Z", "attested": true},
                {"node": "b", "reported_at": "2023-11-14T22:14:20Z", "attested": false},
            ],
            "cluster_uuid": "u",
            "secret_required": true,
            "kept_until": null,
        });
        assert_eq!(json, expected);
        let odd = Record { cluster_id: "two words".to_owned(), ..original() };
        assert_eq!(cluster(odd, 0).digest, None);
    }

    fn listed(clusters: Vec<Shown>, after: Option<&str>) -> String {
        let listed = Listed {
            keeper: Keeper::Aws { table: "t".to_owned(), access: Access::default() },
            clusters,
            next: None,
            after: after.map(str::to_owned),
        };
        listed.to_string()
    }

    #[test]
    fn a_list_is_a_table_that_long_ids_and_odd_rows_leave_in_order() {
        let named = |id: &str, record: Record| {
            let record = Record { cluster_id: id.to_owned(), ..record };
            Shown::Cluster(Box::new(cluster(record, 66)))
        };
        let long = "x".repeat(1024);
        let unreadable = Shown::Unreadable {
            cluster_id: "bad\u{1b}[2J".to_owned(),
            error: Unreadable("state").to_string(),
        };
        let rows = vec![
            named("mycluster", original()),
            named(&long, ready()),
            unreadable,
            named("c\n\u{9b}1m", leased()),
        ];
        assert_eq!(
            listed(rows, None),
            format!(
                "\
CLUSTER       STATE    GENERATION  INITIAL NODE  MEMBERS  CLAIMED AT            LEASE UNTIL
mycluster     claimed  1           a             0        -                     -
{long}  ready    3           a             2        2023-11-14T22:13:20Z  -
bad\\u{{1b}}[2J  unreadable: the item's attribute `state` is missing or has the wrong type
c\\n\\u{{9b}}1m   claimed  1           a             0        2023-11-14T22:13:20Z  2023-11-14T22:14:20Z (lapsed)
"
            )
        );
        assert_eq!(listed(Vec::new(), None), "No clusters in table `t`");
        assert_eq!(listed(Vec::new(), Some("c\u{1b}")), "No clusters in table `t` after c\\u{1b}");
    }
}
