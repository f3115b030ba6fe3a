//! The records in AWS or on this machine.

use cbbootstrap_function::store::{self, Store, sqlite::Sqlite};
use jiff::Timestamp;

use crate::{
    aws::{
        Aws,
        clusters::{Clusters, Page, Row},
    },
    failure::Failure,
    local::data,
    settings::{Keeper, Records},
};

pub enum RecordStore {
    Aws(Clusters),
    /// A server may be using it.
    ThisMachine(Sqlite),
}

impl RecordStore {
    pub async fn open(records: &Records) -> anyhow::Result<Self> {
        match &records.keeper {
            Keeper::Aws { access, table } => {
                let aws = Aws::connect(access).await?;
                Ok(Self::Aws(Clusters::new(aws.dynamodb, table, aws.region)))
            }
            keeper @ Keeper::ThisMachine { data } => match data::open(data)? {
                Some(store) => Ok(Self::ThisMachine(store)),
                None => Err(Failure::new(format!("there is no database in {keeper}"))
                    .hint("`cbbootstrap serve` creates one; `--data` names another directory")
                    .into()),
            },
        }
    }

    pub async fn page(&self, limit: Option<usize>, after: Option<&str>) -> anyhow::Result<Page> {
        let store = match self {
            Self::Aws(clusters) => return clusters.page(limit, after).await,
            Self::ThisMachine(store) => store,
        };
        let limit = limit.unwrap_or(usize::MAX);
        let mut records = store.list(limit.saturating_add(1), after).map_err(explain)?;
        let more = records.len() > limit;
        records.truncate(limit);
        Ok(Page {
            next: records.last().filter(|_| more).map(|record| record.cluster_id.clone()),
            rows: records.into_iter().map(Row::from).collect(),
        })
    }

    pub async fn find(&self, cluster_id: &str) -> anyhow::Result<Option<Row>> {
        match self {
            Self::Aws(clusters) => clusters.find(cluster_id).await,
            Self::ThisMachine(store) => Ok(store.find(cluster_id).map_err(explain)?.map(Row::from)),
        }
    }

    /// Ends a record and returns `true`, unless it has changed since it was read.
    pub async fn forget(&self, row: &Row) -> anyhow::Result<bool> {
        let now = Timestamp::now();
        match (self, &row.record) {
            (Self::Aws(clusters), _) => clusters.forget(row, now).await,
            (Self::ThisMachine(store), Ok(record)) => {
                store.forget(record, now).await.map_err(explain)
            }
            (Self::ThisMachine(_), Err(error)) => Err((*error).into()),
        }
    }
}

fn explain(error: store::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("cannot use the database of the clusters")
}
