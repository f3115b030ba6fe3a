//! Records as rows, and back.

use std::collections::BTreeMap;

use cbbootstrap_protocol::{
    rules::{Member, Record, SecretHash},
    trust::{Attestation, Fingerprint},
    wire::State,
};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Result, Row, named_params, types::Type};

/// The columns of a cluster, in the order in which [`record`] takes them.
macro_rules! columns {
    () => {
        "cluster_id, initial_node, initial_node_uuid, previous_initial_nodes, rival_node_uuid, is_given_up, state, generation, \
         claimed_at, lease_expires_at, kept_until, is_forgotten, cluster_uuid, secret_hash"
    };
}

/// The record of a cluster without its members: all that a claim needs.
pub fn load_claim(connection: &Connection, cluster_id: &str) -> Result<Option<Record>> {
    connection
        .prepare_cached(concat!("SELECT ", columns!(), " FROM clusters WHERE cluster_id = ?"))?
        .query_row([cluster_id], record)
        .optional()
}

/// The record of a cluster.
pub fn load(connection: &Connection, cluster_id: &str) -> Result<Option<Record>> {
    let record = load_claim(connection, cluster_id)?;
    // Only the members of a ready cluster are rows of their own, and both must be of one moment.
    if record.as_ref().is_none_or(|record| record.state != State::Ready) {
        return Ok(record);
    }
    if connection.is_autocommit() {
        let transaction = connection.unchecked_transaction()?;
        let record = load(&transaction, cluster_id)?;
        transaction.commit()?;
        return Ok(record);
    }
    record.map(|record| with_members(connection, record)).transpose()
}

fn with_members(connection: &Connection, mut record: Record) -> Result<Record> {
    let mut query = connection.prepare_cached(
        "SELECT node, reported_at, node_uuid, authority, attestation FROM members WHERE cluster_id = ?",
    )?;
    let members = query.query_map([&record.cluster_id], |row| Ok((row.get(0)?, member(row)?)))?;
    record.members = members.collect::<Result<_>>()?;
    Ok(record)
}

/// Up to this many records after this cluster, in the order of their ids.
pub fn list(connection: &Connection, limit: usize, after: Option<&str>) -> Result<Vec<Record>> {
    let mut query = connection.prepare_cached(
        "SELECT cluster_id FROM clusters WHERE cluster_id > ? ORDER BY cluster_id LIMIT ?",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let ids = query.query_map((after.unwrap_or_default(), limit), |row| row.get::<_, String>(0))?;
    let records = ids.map(|id| load(connection, &id?));
    records.filter_map(Result::transpose).collect()
}

/// Writes the record in place of the one that stands, members and all.
pub fn save(connection: &Connection, before: Option<&Record>, after: &Record) -> Result<()> {
    let none = BTreeMap::new();
    let members_before = before.map_or(&none, |record| &record.members);
    let differs = before.is_none_or(|before| {
        let without_members = Record { members: after.members.clone(), ..before.clone() };
        without_members != *after
    });
    if differs {
        save_claim(connection, after)?;
    }
    for node in members_before.keys().filter(|node| !after.members.contains_key(*node)) {
        connection
            .prepare_cached("DELETE FROM members WHERE cluster_id = ? AND node = ?")?
            .execute((&after.cluster_id, node))?;
    }
    for (node, member) in &after.members {
        if members_before.get(node) != Some(member) {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO members
                     (cluster_id, node, reported_at, node_uuid, authority, attestation)
                     VALUES (?, ?, ?, ?, ?, ?)",
                )?
                .execute((
                    &after.cluster_id,
                    node,
                    member.reported_at.as_second(),
                    &member.node_uuid,
                    member.authority.as_ref().map(Fingerprint::as_bytes),
                    member.attestation.as_ref().map(Attestation::as_bytes),
                ))?;
        }
    }
    Ok(())
}

/// Writes the record but for its members.
pub fn save_claim(connection: &Connection, record: &Record) -> Result<()> {
    let previous = &record.previous_initial_nodes;
    let previous = (!previous.is_empty()).then(|| serde_json::json!(previous).to_string());
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO clusters VALUES (
                 :cluster_id, :initial_node, :initial_node_uuid, :previous_initial_nodes, :rival_node_uuid, :is_given_up,
                 :state, :generation, :claimed_at, :lease_expires_at, :kept_until, :is_forgotten, :cluster_uuid, :secret_hash
             )",
        )?
        .execute(named_params! {
            ":cluster_id": record.cluster_id,
            ":initial_node": record.initial_node,
            ":initial_node_uuid": record.initial_node_uuid,
            ":previous_initial_nodes": previous,
            ":rival_node_uuid": record.rival_node_uuid,
            ":is_given_up": record.is_given_up,
            ":state": record.state.as_str(),
            ":generation": record.generation.cast_signed(),
            ":claimed_at": record.claimed_at.map(Timestamp::as_second),
            ":lease_expires_at": record.lease_expires_at.map(Timestamp::as_second),
            ":kept_until": record.kept_until.map(Timestamp::as_second),
            ":is_forgotten": record.is_forgotten,
            ":cluster_uuid": record.cluster_uuid,
            ":secret_hash": record.secret.as_ref().map(SecretHash::as_bytes),
        })?;
    Ok(())
}

/// Deletes the members of a cluster.
pub fn delete_members(connection: &Connection, cluster_id: &str) -> Result<()> {
    connection.prepare_cached("DELETE FROM members WHERE cluster_id = ?")?.execute([cluster_id])?;
    Ok(())
}

/// Of up to this many clusters after this one, deletes those whose records ended before this time. The last cluster that it looked
/// at; none at the end of the table.
pub fn delete_ended(
    connection: &Connection,
    after: &str,
    limit: u32,
    before: Timestamp,
) -> Result<Option<String>> {
    let mut query = connection.prepare_cached(
        "SELECT cluster_id, kept_until < ? FROM clusters WHERE cluster_id > ? ORDER BY cluster_id LIMIT ?",
    )?;
    let rows = query.query_map((before.as_second(), after, limit), |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Option<bool>>(1)?))
    })?;
    let seen = rows.collect::<Result<Vec<_>>>()?;
    for (cluster_id, _) in seen.iter().filter(|(_, is_ended)| *is_ended == Some(true)) {
        delete_members(connection, cluster_id)?;
        connection
            .prepare_cached("DELETE FROM clusters WHERE cluster_id = ?")?
            .execute([cluster_id])?;
    }
    Ok(seen.into_iter().next_back().map(|(cluster_id, _)| cluster_id))
}

fn record(row: &Row<'_>) -> Result<Record> {
    let previous: Option<String> = row.get(3)?;
    let previous = previous.map(|json| serde_json::from_str(&json));
    let state = row.get_ref(6)?.as_str()?;
    let secret: Option<[u8; 32]> = row.get(13)?;
    Ok(Record {
        cluster_id: row.get(0)?,
        initial_node: row.get(1)?,
        initial_node_uuid: row.get(2)?,
        previous_initial_nodes: previous
            .transpose()
            .map_err(|error| unreadable(3, Type::Text, error))?
            .unwrap_or_default(),
        rival_node_uuid: row.get(4)?,
        is_given_up: row.get(5)?,
        state: [State::Claimed, State::Ready]
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| unreadable(6, Type::Text, "unknown state"))?,
        generation: row.get::<_, i64>(7)?.cast_unsigned(),
        claimed_at: time(row, 8)?,
        lease_expires_at: time(row, 9)?,
        kept_until: time(row, 10)?,
        is_forgotten: row.get(11)?,
        members: BTreeMap::new(),
        cluster_uuid: row.get(12)?,
        secret: secret.and_then(|hash| SecretHash::from_bytes(&hash)),
    })
}

fn member(row: &Row<'_>) -> Result<Member> {
    let (authority, attestation): (Option<[u8; 32]>, Option<[u8; 32]>) = (row.get(3)?, row.get(4)?);
    let missing = || unreadable(1, Type::Null, "a member without a time");
    Ok(Member {
        reported_at: time(row, 1)?.ok_or_else(missing)?,
        node_uuid: row.get(2)?,
        authority: authority.and_then(|hash| Fingerprint::from_bytes(&hash)),
        attestation: attestation.and_then(|proof| Attestation::from_bytes(&proof)),
    })
}

fn time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    let seconds: Option<i64> = row.get(column)?;
    let time = seconds.map(Timestamp::from_second).transpose();
    time.map_err(|error| unreadable(column, Type::Integer, error))
}

fn unreadable(
    column: usize,
    kind: Type,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, error.into())
}
