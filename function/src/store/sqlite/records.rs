//! Records as rows. A cluster's record and each of its members are stored as JSON.

use std::collections::BTreeMap;

use cbbootstrap_protocol::{
    rules::{FIRST_GENERATION, Record, whole_seconds},
    wire::State,
};
use jiff::Timestamp;
use rusqlite::{Connection, Error, OptionalExtension, Params, Result, Row, types::Type};
use serde::{Serialize, de::DeserializeOwned};

/// The version of the tables, in the database's `user_version`. It changes only if an earlier version of cbbootstrap would do harm to the
/// database, so that people can go back to that version. Another table does none. The next version is 4, because development builds made 3
/// with these tables.
pub const VERSION: i32 = 2;

pub const TABLES: &str = "
    CREATE TABLE clusters (cluster_id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE members (
        cluster_id TEXT NOT NULL,
        node TEXT NOT NULL,
        member TEXT NOT NULL,
        PRIMARY KEY (cluster_id, node)
    ) STRICT, WITHOUT ROWID;
";

/// cbbootstrap 0.1.0 did not have this table.
pub const CLOCK: &str = "CREATE TABLE clock (seconds INTEGER NOT NULL) STRICT";

/// The time of the latest change; `None` without the table.
pub fn latest_time(connection: &Connection) -> Result<Option<Timestamp>> {
    let exists = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'clock')";
    if !connection.query_row(exists, [], |row| row.get(0))? {
        return Ok(None);
    }
    let seconds = connection.query_row("SELECT seconds FROM clock", [], |row| row.get(0))?;
    Timestamp::from_second(seconds)
        .map(Some)
        .map_err(|_| Error::IntegralValueOutOfRange(0, seconds))
}

/// Saves the time of a change: at most once a second.
pub fn save_time(connection: &Connection, now: Timestamp) -> Result<()> {
    let update = "UPDATE clock SET seconds = ?1 WHERE seconds < ?1";
    execute(connection, update, [now.as_second()])
}

/// The record of a cluster without its members, which a claim does not need.
pub fn load_claim(connection: &Connection, cluster_id: &str) -> Result<Option<Record>> {
    connection
        .prepare_cached("SELECT record FROM clusters WHERE cluster_id = ?")?
        .query_row([cluster_id], |row| from_json(row, 0))
        .optional()
}

pub fn load(connection: &Connection, cluster_id: &str) -> Result<Option<Record>> {
    // Only ready clusters have members.
    let mut record = match load_claim(connection, cluster_id)? {
        Some(record) if record.state == State::Ready => record,
        record => return Ok(record),
    };
    // Both reads must see the same state of the database.
    if connection.is_autocommit() {
        let transaction = connection.unchecked_transaction()?;
        let record = load(&transaction, cluster_id)?;
        transaction.commit()?;
        return Ok(record);
    }
    record.members = connection
        .prepare_cached("SELECT node, member FROM members WHERE cluster_id = ?")?
        .query_map([cluster_id], |row| Ok((row.get(0)?, from_json(row, 1)?)))?
        .collect::<Result<_>>()?;
    Ok(Some(record))
}

/// The generation in a record that cannot be read.
pub fn load_generation(connection: &Connection, cluster_id: &str) -> Result<Option<u64>> {
    let generation: Option<i64> = connection
        .prepare_cached(
            "SELECT iif(json_valid(record), CAST(record ->> 'generation' AS INTEGER), NULL)
             FROM clusters WHERE cluster_id = ?",
        )?
        .query_row([cluster_id], |row| row.get(0))?;
    Ok(generation.and_then(|it| u64::try_from(it).ok()).filter(|it| *it >= FIRST_GENERATION))
}

/// Up to `limit` clusters after this one, in order.
pub fn ids(connection: &Connection, limit: usize, after: Option<&str>) -> Result<Vec<String>> {
    let mut query = connection.prepare_cached(
        "SELECT cluster_id FROM clusters WHERE cluster_id > ? ORDER BY cluster_id LIMIT ?",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    query.query_map((after.unwrap_or_default(), limit), |row| row.get(0))?.collect()
}

/// Writes what differs between the two records.
pub fn save(connection: &Connection, before: Option<&Record>, after: &Record) -> Result<()> {
    let none = BTreeMap::new();
    let members_before = before.map_or(&none, |record| &record.members);
    let is_same =
        |before: &Record| *after == Record { members: after.members.clone(), ..before.clone() };
    if !before.is_some_and(is_same) {
        save_claim(connection, after)?;
    }
    for node in members_before.keys().filter(|node| !after.members.contains_key(*node)) {
        let delete = "DELETE FROM members WHERE cluster_id = ? AND node = ?";
        execute(connection, delete, (&after.cluster_id, node))?;
    }
    for (node, member) in &after.members {
        if members_before.get(node) != Some(member) {
            let insert = "INSERT OR REPLACE INTO members VALUES (?, ?, ?)";
            execute(connection, insert, (&after.cluster_id, node, json(member)?))?;
        }
    }
    Ok(())
}

/// Writes the record without its members.
pub fn save_claim(connection: &Connection, record: &Record) -> Result<()> {
    let insert = "INSERT OR REPLACE INTO clusters VALUES (?, ?)";
    execute(connection, insert, (&record.cluster_id, json(record)?))
}

pub fn delete_members(connection: &Connection, cluster_id: &str) -> Result<()> {
    execute(connection, "DELETE FROM members WHERE cluster_id = ?", [cluster_id])
}

/// Deletes the record of a cluster that is not ready, and so has no members.
pub fn delete_claim(connection: &Connection, cluster_id: &str) -> Result<()> {
    let delete = "DELETE FROM clusters WHERE cluster_id = ?
                  AND iif(json_valid(record), record ->> 'state' = 'claimed', FALSE)";
    execute(connection, delete, [cluster_id])
}

/// Checks up to `limit` clusters after this one, and deletes those whose records ended before this time. Returns the last cluster
/// checked, or none at the end of the table.
pub fn delete_ended(
    connection: &Connection,
    after: &str,
    limit: u32,
    before: Timestamp,
) -> Result<Option<String>> {
    let mut query = connection.prepare_cached(
        "SELECT cluster_id, iif(json_valid(record), record ->> 'kept_until' < ?, NULL) FROM clusters
         WHERE cluster_id > ? ORDER BY cluster_id LIMIT ?",
    )?;
    // An error about one record would keep all later ones. Times in JSON are in whole seconds and in UTC, so they sort as text.
    let before = whole_seconds(before).to_string();
    let rows = query.query_map((before, after, limit), |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Option<bool>>(1)?))
    })?;
    let checked = rows.collect::<Result<Vec<_>>>()?;
    for (cluster_id, _) in checked.iter().filter(|(_, is_ended)| *is_ended == Some(true)) {
        delete_members(connection, cluster_id)?;
        execute(connection, "DELETE FROM clusters WHERE cluster_id = ?", [cluster_id])?;
    }
    Ok(checked.into_iter().next_back().map(|(cluster_id, _)| cluster_id))
}

fn execute(connection: &Connection, statement: &str, params: impl Params) -> Result<()> {
    connection.prepare_cached(statement)?.execute(params).map(drop)
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?)
        .map_err(|error| Error::FromSqlConversionFailure(column, Type::Text, error.into()))
}
