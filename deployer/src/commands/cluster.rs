//! `cluster`: lists, shows and forgets the records of clusters.

mod store;
mod text;

use cbbootstrap_cli::{console::Output, text::escape_hidden};
use cbbootstrap_protocol::{
    names::ClusterId,
    rules::{Member, Record},
};
use jiff::Timestamp;
use serde::Serialize;

use self::store::RecordStore;
use super::confirm;
use crate::{
    aws::clusters::{Page, Row},
    cli::{ClusterCommand, ClusterForgetArgs, ClusterListArgs, ClusterShowArgs},
    failure::{Exit, Failure},
    printer::Printer,
    settings::{Keeper, Records},
};

/// A cluster, or the reason why its record cannot be read.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Entry {
    Cluster(Box<Cluster>),
    Unreadable { cluster_id: String, error: String },
}

/// A record without the hash of its secret.
#[derive(Debug, Serialize)]
struct Cluster {
    cluster_id: String,
    /// The short name in the function's log; `None` if the API refuses the id.
    digest: Option<String>,
    /// `claimed`, `ready`, `expired` or `forgotten`.
    state: &'static str,
    generation: u64,
    initial_node_ip_addr_or_hostname: String,
    /// The nodes whose claims were taken over, latest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    previous_initial_nodes: Vec<String>,
    /// The UUID of another server that tried to claim under the initial node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    rival_node_uuid: Option<String>,
    claimed_at: Option<Timestamp>,
    lease_expires_at: Option<Timestamp>,
    /// Whether the next claim takes the cluster over.
    lapsed: bool,
    /// The members' names, sorted.
    nodes: Vec<String>,
    members: Vec<MemberReport>,
    cluster_uuid: Option<String>,
    secret_required: bool,
    /// When the record expires unless a node asks for it.
    kept_until: Option<Timestamp>,
    /// The moment that ages are relative to.
    #[serde(skip)]
    now: Timestamp,
}

#[derive(Debug, Serialize)]
struct MemberReport {
    node: String,
    reported_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_uuid: Option<String>,
    /// Whether it has sent an attestation, which only nodes with the cluster's secret can verify.
    attested: bool,
}

#[derive(Debug, Serialize)]
struct ListResult {
    #[serde(flatten)]
    keeper: Keeper,
    clusters: Vec<Entry>,
    /// The cluster that the next page begins after.
    next: Option<String>,
    /// The cluster that this page begins after.
    #[serde(skip)]
    after: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShowResult {
    #[serde(flatten)]
    keeper: Keeper,
    #[serde(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Serialize)]
struct ForgetResult {
    #[serde(flatten)]
    keeper: Keeper,
    forgotten: bool,
    /// Before it was forgotten.
    #[serde(flatten)]
    cluster: Entry,
}

impl From<(String, Member)> for MemberReport {
    fn from((node, member): (String, Member)) -> Self {
        Self {
            node,
            reported_at: member.reported_at,
            node_uuid: member.node_uuid,
            attested: member.attestation.is_some(),
        }
    }
}

impl Cluster {
    fn new(record: Record, now: Timestamp) -> Self {
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
            members: record.members.into_iter().map(MemberReport::from).collect(),
            cluster_uuid: record.cluster_uuid,
            secret_required: record.secret.is_some(),
            kept_until: record.kept_until,
            now,
        }
    }
}

impl Entry {
    fn new(row: Row, now: Timestamp) -> Self {
        match row.record {
            Ok(record) => Self::Cluster(Box::new(Cluster::new(record, now))),
            Err(error) => Self::Unreadable { cluster_id: row.cluster_id, error: error.to_string() },
        }
    }

    fn cluster_id(&self) -> &str {
        match self {
            Self::Cluster(cluster) => &cluster.cluster_id,
            Self::Unreadable { cluster_id, .. } => cluster_id,
        }
    }
}

pub async fn run(command: ClusterCommand, printer: &Printer) -> anyhow::Result<()> {
    match command {
        ClusterCommand::List(args) => list(args, printer).await,
        ClusterCommand::Show(args) => show(args, printer).await,
        ClusterCommand::Forget(args) => forget(args, printer).await,
    }
}

async fn list(args: ClusterListArgs, printer: &Printer) -> anyhow::Result<()> {
    let records = Records::new(args.records)?;
    let limit = (!args.all).then_some(args.limit.get());
    let store = RecordStore::open(&records).await?;
    let Page { rows, next } = store.page(limit, args.after.as_deref()).await?;
    let now = Timestamp::now();
    let result = ListResult {
        keeper: records.keeper.clone(),
        clusters: rows.into_iter().map(|row| Entry::new(row, now)).collect(),
        next,
        after: args.after,
    };
    printer.result(&result)?;
    if let Some(next) = &result.next
        && args.output.output == Output::Text
    {
        let options = [format!("--limit={}", args.limit), format!("--after={next}")];
        printer.message(format_args!("There are more: {}", records.command("list", &options)));
    }
    Ok(())
}

async fn show(args: ClusterShowArgs, printer: &Printer) -> anyhow::Result<()> {
    let records = Records::new(args.records)?;
    let store = RecordStore::open(&records).await?;
    let row = find(&store, &records, &args.cluster_id).await?;
    let record = row.record.map_err(|error| {
        let id = escape_hidden(&args.cluster_id);
        Failure::new(format!("the record of cluster `{id}` cannot be read: {error}"))
            .hint("repair the item in DynamoDB, or end it with `cbbootstrap cluster forget`")
    })?;
    let cluster = Cluster::new(record, Timestamp::now());
    printer.result(&ShowResult { keeper: records.keeper, cluster })
}

async fn find(store: &RecordStore, records: &Records, cluster_id: &str) -> anyhow::Result<Row> {
    store.find(cluster_id).await?.ok_or_else(|| not_found(records, cluster_id))
}

fn not_found(records: &Records, cluster_id: &str) -> anyhow::Error {
    let id = escape_hidden(cluster_id);
    let message = format!("there is no cluster `{id}` in {}", records.keeper);
    let list = records.command("list", &[]);
    Failure::new(message).hint(format!("`{list}` lists the clusters")).into()
}

async fn forget(args: ClusterForgetArgs, printer: &Printer) -> anyhow::Result<()> {
    let records = Records::new(args.records)?;
    let store = RecordStore::open(&records).await?;
    let row = find(&store, &records, &args.cluster_id).await?;
    if row.record.as_ref().is_ok_and(|record| record.is_forgotten) {
        return Err(not_found(&records, &args.cluster_id));
    }
    let id = escape_hidden(&args.cluster_id);
    let cluster = Entry::new(row.clone(), Timestamp::now());
    if !args.yes {
        printer.message(cluster.to_string().trim_end());
    }
    let question = format!("Forget cluster `{id}`? The next node to ask starts a new cluster");
    confirm(&question, args.yes, printer).await?;
    if !store.forget(&row).await? {
        let show = records.command("show", &["--".to_owned(), args.cluster_id]);
        return Err(Failure::new(format!(
            "the record of cluster `{id}` has changed since it was read; nothing was forgotten"
        ))
        .hint(format!("read it again: `{show}`"))
        .exit(Exit::Changed)
        .into());
    }
    printer.result(&ForgetResult { keeper: records.keeper, forgotten: true, cluster })
}

#[cfg(test)]
mod tests;
