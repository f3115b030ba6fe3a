//! `cluster`: lists, shows and forgets the records of clusters, and forgets their members.

mod list;
mod text;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use cbbootstrap_cli::text::escape_hidden;
use cbbootstrap_function::{
    item::Unreadable,
    store::{Error, Row, Store, dynamodb::DynamoDb},
    table::CLUSTER_ID,
};
use cbbootstrap_protocol::{
    names::{ClusterId, Node},
    rules::{Member, Record, Refusal},
};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::confirm;
use crate::{
    aws::{Aws, explain},
    cli::{
        ClusterCommand, ClusterForgetArgs, ClusterForgetMemberArgs, ClusterListArgs,
        ClusterShowArgs,
    },
    exit::Exit,
    failure::Failure,
    local::data,
    origin,
    printer::Printer,
    settings::{Database, RecordsArgs},
    signals::Signals,
};

const OTHER_TABLE: &str =
    "this may be another service's table; `--table-name` names a table, and `--env` an environment";

/// A cluster, or the reason why its record cannot be read.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Entry {
    Cluster(Box<Cluster>),
    Unreadable { cluster_id: String, error: String },
}

/// A record, without the hash of its secret.
#[derive(Debug)]
struct Cluster {
    record: Record,
    /// The moment that ages are relative to.
    now: Timestamp,
}

#[derive(Debug, Serialize)]
struct MemberReport<'a> {
    node: &'a str,
    reported_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_uuid: Option<&'a str>,
    /// Whether it has sent an attestation, which only nodes with the cluster secret can verify.
    attested: bool,
}

#[derive(Debug, Serialize)]
struct ShowResult {
    #[serde(flatten)]
    database: Database,
    #[serde(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Serialize)]
struct ForgetResult {
    #[serde(flatten)]
    database: Database,
    /// Whether it has been forgotten now.
    forgotten: bool,
    /// The member, if not the whole cluster was to be forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// Before it was forgotten.
    #[serde(flatten)]
    cluster: Entry,
}

impl Cluster {
    /// `claimed`, `ready`, `expired` or `forgotten`.
    fn state(&self) -> &'static str {
        match &self.record {
            record if record.is_forgotten => "forgotten",
            record if record.is_gone(self.now) => "expired",
            record => record.state.as_str(),
        }
    }

    /// Whether the next claim takes the cluster over.
    fn is_lapsed(&self) -> bool {
        !self.record.is_forgotten && self.record.is_lapsed(self.now)
    }

    /// The short name in the function's log; `None` if the API refuses the id.
    fn digest(&self) -> Option<String> {
        ClusterId::new(&self.record.cluster_id).ok().map(|id| id.digest())
    }

    fn members(&self) -> impl Iterator<Item = MemberReport<'_>> {
        self.record.members.iter().map(|(node, member)| {
            let Member { reported_at, node_uuid, attestation, .. } = member;
            MemberReport {
                node,
                reported_at: *reported_at,
                node_uuid: node_uuid.as_deref(),
                attested: attestation.is_some(),
            }
        })
    }
}

impl Serialize for Cluster {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &self.record;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("cluster_id", &record.cluster_id)?;
        map.serialize_entry("digest", &self.digest())?;
        map.serialize_entry("state", self.state())?;
        map.serialize_entry("generation", &record.generation)?;
        map.serialize_entry("initial_node_ip_addr_or_hostname", &record.initial_node)?;
        if !record.previous_initial_nodes.is_empty() {
            map.serialize_entry("previous_initial_nodes", &record.previous_initial_nodes)?;
        }
        if let Some(uuid) = &record.rival_node_uuid {
            map.serialize_entry("rival_node_uuid", uuid)?;
        }
        map.serialize_entry("claimed_at", &record.claimed_at)?;
        map.serialize_entry("lease_expires_at", &record.lease_expires_at)?;
        map.serialize_entry("lapsed", &self.is_lapsed())?;
        map.serialize_entry("nodes", &record.members.keys().collect::<Vec<_>>())?;
        map.serialize_entry("members", &self.members().collect::<Vec<_>>())?;
        map.serialize_entry("cluster_uuid", &record.cluster_uuid)?;
        map.serialize_entry("secret_required", &record.secret.is_some())?;
        map.serialize_entry("kept_until", &record.kept_until)?;
        map.end()
    }
}

impl Entry {
    fn new(row: Row, now: Timestamp) -> Self {
        match row.record {
            Ok(record) => Self::Cluster(Box::new(Cluster { record, now })),
            Err(error) => Self::Unreadable { cluster_id: row.cluster_id, error: error.to_string() },
        }
    }

    fn cluster_id(&self) -> &str {
        match self {
            Self::Cluster(cluster) => &cluster.record.cluster_id,
            Self::Unreadable { cluster_id, .. } => cluster_id,
        }
    }
}

pub async fn run(
    command: ClusterCommand,
    printer: &Printer,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let (ClusterCommand::List(ClusterListArgs { records, .. })
    | ClusterCommand::Show(ClusterShowArgs { records, .. })
    | ClusterCommand::Forget(ClusterForgetArgs { records, .. })
    | ClusterCommand::ForgetMember(ClusterForgetMemberArgs {
        cluster: ClusterForgetArgs { records, .. },
        ..
    })) = &command;
    let records = records.clone();
    let database = records.database()?;
    match &database {
        Database::Aws { access, table } => {
            let aws = signals.or_stopped(Aws::connect(access)).await?;
            let store = DynamoDb::new(aws.dynamodb.clone(), table);
            let operator = Operator { store, database, records, aws: Some(aws), printer };
            operator.run(command, signals).await
        }
        // A server may be using it.
        Database::ThisMachine { data } => {
            let store = data::open(data)?.ok_or_else(|| {
                Failure::new(format!("there is no database in {database}"))
                    .hint("`cbbootstrap serve` creates one; `--data` names another directory")
            })?;
            Operator { store, database, records, aws: None, printer }.run(command, signals).await
        }
    }
}

/// The commands over one store.
struct Operator<'p, S> {
    store: S,
    database: Database,
    records: RecordsArgs,
    /// `None` on this machine.
    aws: Option<Aws>,
    printer: &'p Printer,
}

impl<S: Store> Operator<'_, S> {
    async fn run(self, command: ClusterCommand, signals: &mut Signals) -> anyhow::Result<()> {
        match command {
            // It ends its result also after a signal.
            ClusterCommand::List(args) => self.list(args, signals).await,
            ClusterCommand::Show(args) => signals.or_stopped(self.show(args)).await,
            ClusterCommand::Forget(args) => signals.or_stopped(self.forget(&args, None)).await,
            ClusterCommand::ForgetMember(ClusterForgetMemberArgs { cluster, node }) => {
                signals.or_stopped(self.forget(&cluster, Some(&node))).await
            }
        }
    }

    /// Reads the identity for a JSON result while `work` is done.
    async fn with_origin<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.aws {
            Some(aws) => origin::add(aws, &self.records.config, self.printer, work).await,
            None => work.await,
        }
    }

    async fn show(self, args: ClusterShowArgs) -> anyhow::Result<()> {
        let row = self.with_origin(self.find(&args.cluster_id)).await?;
        let record = row.record.map_err(|error| self.unreadable(&args.cluster_id, &error))?;
        let cluster = Cluster { record, now: self.store.now() };
        let database = self.database.clone();
        self.printer.result(&ShowResult { database, cluster })
    }

    /// Forgets the cluster, or only this member.
    async fn forget(self, args: &ClusterForgetArgs, node: Option<&Node>) -> anyhow::Result<()> {
        let ClusterForgetArgs { cluster_id, yes: is_confirmed, .. } = args;
        let row = self.with_origin(self.find(cluster_id)).await?;
        let (id, now) = (escape_hidden(cluster_id), self.store.now());
        let is_done = match (&row.record, node) {
            (Ok(record), None) => record.is_forgotten,
            (Ok(record), Some(node)) => {
                record.is_gone(now) || !record.members.contains_key(node.as_str())
            }
            (Err(_), None) => false,
            (Err(error), Some(_)) => return Err(self.unreadable(cluster_id, error).into()),
        };
        let mut result = ForgetResult {
            database: self.database.clone(),
            forgotten: false,
            node: node.map(ToString::to_string),
            cluster: Entry::new(row.clone(), now),
        };
        if is_done {
            return self.printer.result(&result);
        }
        if !*is_confirmed {
            self.printer.message(result.cluster.to_string().trim_end());
        }
        let question = match node {
            None => format!("Forget cluster `{id}`? The next node to ask starts a new cluster"),
            Some(node) => format!(
                "Forget member `{node}` of cluster `{id}`? If it still runs, its agent reports it again"
            ),
        };
        confirm(&question, *is_confirmed, self.printer).await?;
        let now = self.store.now();
        let forgotten = match (&row.record, node) {
            (Ok(seen), None) => self.store.forget(seen, now).await,
            (Ok(seen), Some(node)) => self.store.forget_member(seen, node, now).await,
            (Err(_), _) => self.store.forget_unreadable(&row.cluster_id, now).await,
        };
        if let (Err(Error::Refused(Refusal::LastNode)), Some(node)) = (&forgotten, node) {
            let forget = self.records.command_for("forget", cluster_id);
            let message = format!("`{node}` is the last member of cluster `{id}`");
            return Err(Failure::needs_decision(message)
                .hint(format!(
                    "run `cbbootstrap-agent up` on another member first, or `{forget}` if the cluster no longer exists"
                ))
                .into());
        }
        result.forgotten = forgotten.map_err(|error| self.explain(&error))?;
        if !result.forgotten {
            let show = self.records.command_for("show", cluster_id);
            return Err(Failure::new(format!(
                "the record of cluster `{id}` has changed since it was read; nothing was forgotten"
            ))
            .hint(format!("read it again: `{show}`"))
            .exit(Exit::Changed)
            .into());
        }
        self.printer.result(&result)
    }

    fn unreadable(&self, cluster_id: &str, error: &Unreadable) -> Failure {
        let id = escape_hidden(cluster_id);
        let forget = self.records.command_for("forget", cluster_id);
        Failure::new(format!("the record of cluster `{id}` cannot be read: {error}"))
            .hint(format!("repair it, or end it with `{forget}`"))
    }

    async fn find(&self, cluster_id: &str) -> Result<Row, Failure> {
        let row = find(&self.store, cluster_id).await.map_err(|error| self.explain(&error))?;
        row.ok_or_else(|| {
            let (id, database) = (escape_hidden(cluster_id), &self.database);
            let list = self.records.command("list", &[]);
            Failure::new(format!("there is no cluster `{id}` in {database}"))
                .hint(format!("`{list}` lists the clusters"))
        })
    }

    fn explain(&self, error: &Error) -> Failure {
        let database = &self.database;
        let what = format!("cannot use {database}");
        match (error.sdk(), error) {
            (Some(sdk), _) => match sdk.code() {
                Some("ResourceNotFoundException") => {
                    let region = self.aws.as_ref().map_or("", |aws| &aws.region);
                    Failure::new(format!("there is no {database} in {region}"))
                        .hint("`cbbootstrap deploy` creates it; `--table-name` names another")
                }
                // The usual reason: the table has another key.
                Some("ValidationException") => explain(what, sdk).hint(OTHER_TABLE),
                _ => explain(what, sdk),
            },
            (None, Error::Unreadable(Unreadable(CLUSTER_ID))) => {
                Failure::new(format!("{database} has an item without a cluster ID"))
                    .hint(OTHER_TABLE)
            }
            (None, Error::Unavailable(_) | Error::Contended) => {
                Failure::new(format!("{what}: {error}"))
                    .hint("run the command again; repeating it does no harm")
            }
            (None, _) => Failure::new(format!("{what}: {error}")),
        }
    }
}

/// The record with this ID as typed, because a row of the original service may have any, or with its canonical form, which the API
/// stores.
async fn find(store: &impl Store, typed: &str) -> Result<Option<Row>, Error> {
    let row = store.find(typed).await?;
    match ClusterId::new(typed) {
        Ok(id) if row.is_none() && id.as_str() != typed => store.find(id.as_str()).await,
        _ => Ok(row),
    }
}

#[cfg(test)]
mod tests;
