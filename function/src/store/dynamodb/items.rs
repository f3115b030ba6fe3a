//! Both items of a cluster: read together, made consistent, and renewed.

use aws_sdk_dynamodb::types::KeysAndAttributes;
use cbbootstrap_protocol::{
    rules::{self, FIRST_GENERATION, Record},
    wire::State,
};
use jiff::Timestamp;

use super::{
    DynamoDb, Error, ROUNDS, contended, pause,
    write::{Update, Written},
};
use crate::{
    item::{
        ClaimItem, FORGOTTEN, Item, Items, MembersItem, Unreadable, count, expires_at, seconds,
        string,
    },
    table::{CLUSTER_ID, EXPIRES_AT, GENERATION, INITIAL_NODE, STATE, VERSION, members_key},
};

impl DynamoDb {
    /// Both items of a cluster, after the claim item was made consistent with the members item.
    pub(super) async fn settled(&self, cluster_id: &str) -> Result<Option<Items>, Error> {
        for round in 0..ROUNDS {
            let Some(mut items) = self.items(cluster_id).await? else {
                return Ok(None);
            };
            let Some(next) = corrected(&items) else {
                return Ok(Some(items));
            };
            if let Written::Done(()) = self.write_claim(Some(&items.claim), &next).await? {
                items.claim = ClaimItem { version: Some(next_version(&items.claim)), ..next };
                return Ok(Some(items));
            }
            pause(round).await;
        }
        Err(contended())
    }

    /// Both items of a cluster, read in one consistent call. Any text may be its key.
    pub async fn items(&self, cluster_id: &str) -> Result<Option<Items>, Error> {
        let [claim, members] = [cluster_id.to_owned(), members_key(cluster_id)];
        let key = |key: &str| Item::from([(CLUSTER_ID.to_owned(), string(key))]);
        let keys = KeysAndAttributes::builder()
            .keys(key(&claim))
            .keys(key(&members))
            .consistent_read(true)
            .build()
            .map_err(|_| Error::Contradiction)?;
        let batch = self.client.batch_get_item();
        let output = batch.request_items(&self.table, keys).send().await?;
        if output.unprocessed_keys.is_some_and(|keys| !keys.is_empty()) {
            return Err(Error::Unavailable("the table throttles reads".to_owned()));
        }
        let mut found = output.responses.unwrap_or_default();
        let mut items = found.remove(&self.table).unwrap_or_default();
        let mut take = |key: &str| {
            let has_key = |item: &Item| {
                item.get(CLUSTER_ID).is_some_and(|id| id.as_s().is_ok_and(|id| id == key))
            };
            let place = items.iter().position(has_key)?;
            Some(items.swap_remove(place))
        };
        let claim = take(&claim).map(ClaimItem::read).transpose()?;
        let members = take(&members).map(MembersItem::read).transpose()?;
        Ok(claim.map(|claim| Items::new(claim, members)))
    }

    /// Ends a cluster whose items cannot be read, if its claim item is still this one; `false` if it has changed. The generation is kept
    /// if it can be read. May be repeated.
    pub async fn forget_unreadable(&self, seen: &Item, now: Timestamp) -> Result<bool, Error> {
        const SEEN: [&str; 4] = [INITIAL_NODE, STATE, GENERATION, VERSION];
        let number = |name: &str| seen.get(name)?.as_n().ok()?.parse().ok();
        let cluster_id = seen.get(CLUSTER_ID).and_then(|id| id.as_s().ok());
        let cluster_id = cluster_id.ok_or(Unreadable(CLUSTER_ID))?;
        let forgotten = ClaimItem::new(Record {
            cluster_id: cluster_id.clone(),
            initial_node: "unknown".to_owned(),
            generation: number(GENERATION).unwrap_or(FIRST_GENERATION),
            kept_until: Some(now),
            is_forgotten: true,
            ..Record::default()
        });
        let mark = Update::new(members_key(cluster_id))
            .attribute(STATE, Some(string(FORGOTTEN)))
            .only_if("attribute_exists(#cluster_id)");
        self.update(mark).await?;
        let mut update = Update::new(cluster_id.clone())
            .attributes(forgotten.attributes())
            .attribute(VERSION, Some(count(number(VERSION).unwrap_or_default() + 1)))
            .only_if("attribute_exists(#cluster_id)");
        for name in SEEN {
            update = match seen.get(name) {
                Some(value) => update
                    .only_if(&format!("#{name} = :seen_{name}"))
                    .value(&format!(":seen_{name}"), value.clone()),
                None => update.only_if(&format!("attribute_not_exists(#{name})")),
            };
        }
        match self.update(update).await? {
            Written::Done(_) => Ok(true),
            Written::Conflict(item) => {
                let state = item.get(STATE).and_then(|state| state.as_s().ok());
                Ok(item.is_empty() || state.is_some_and(|state| state == FORGOTTEN))
            }
        }
    }

    /// The record after its renewal.
    pub(super) async fn renewed(
        &self,
        mut record: Record,
        now: Timestamp,
    ) -> Result<Record, Error> {
        if record.renewal(now).is_some()
            && let Some(mut items) = self.settled(&record.cluster_id).await?
        {
            self.renew(&mut items, now).await;
            record.kept_until = items.claim.record.kept_until;
        }
        Ok(record)
    }

    /// Moves the end of both items if necessary. If that fails, the next request repeats it.
    pub(super) async fn renew(&self, items: &mut Items, now: Timestamp) {
        if let Some(end) = items.claim.record.renewal(now) {
            let mut next = items.claim.clone();
            next.record.kept_until = Some(end);
            match self.write_claim(Some(&items.claim), &next).await {
                Ok(Written::Done(())) => {
                    next.version = Some(next_version(&items.claim));
                    items.claim = next;
                }
                _ => return,
            }
        } else if items.members.is_none() {
            return;
        }
        let record = &items.claim.record;
        let Some(end) = record.kept_until.filter(|_| record.state == State::Ready) else {
            return;
        };
        let is_earlier = |members: &MembersItem| members.record.kept_until < Some(end);
        if items.members.as_ref().is_none_or(is_earlier) {
            let update = Update::new(members_key(&record.cluster_id))
                .attribute(EXPIRES_AT, Some(expires_at(end)))
                .only_if_claim(record)
                .only_if("#expires_at < :expires_at")
                .next_version(0);
            let _ = self.update(update).await;
        }
    }

    /// Replaces the claim item that was read.
    pub(super) async fn write_claim(
        &self,
        seen: Option<&ClaimItem>,
        next: &ClaimItem,
    ) -> Result<Written<(), Option<ClaimItem>>, Error> {
        let update = Update::new(next.record.cluster_id.clone()).attributes(next.attributes());
        let update = match seen {
            None => update.only_if("attribute_not_exists(#cluster_id)"),
            Some(ClaimItem { version: Some(version), .. }) => update.only_if_version(*version),
            // A row of the original service.
            Some(item) => update
                .only_if(&format!("attribute_not_exists(#version) AND #{INITIAL_NODE} = :stored"))
                .value(":stored", string(&item.stored_initial_node)),
        };
        match self.update(update.next_version(0)).await? {
            Written::Done(_) => Ok(Written::Done(())),
            Written::Conflict(item) => {
                let standing = (!item.is_empty()).then(|| ClaimItem::read(item)).transpose()?;
                let is_seen = match (seen, &standing) {
                    (None, None) => true,
                    (Some(seen), Some(standing)) => {
                        seen.version == standing.version
                            && seen.stored_initial_node == standing.stored_initial_node
                    }
                    _ => false,
                };
                if is_seen { Err(Error::Contradiction) } else { Ok(Written::Conflict(standing)) }
            }
        }
    }

    /// Makes the members item of a ready claim, unless there is one of the same claim or a later one.
    pub(super) async fn make_members(
        &self,
        claim: &ClaimItem,
        record: &Record,
        now: Timestamp,
    ) -> Result<Written<Item, Item>, Error> {
        let mut older = "attribute_not_exists(#cluster_id) OR #generation < :generation \
                         OR #expires_at < :now"
            .to_owned();
        if record.claimed_at.is_some() {
            older.push_str(" OR #claimed_at < :claimed_at");
        }
        let update = Update::new(members_key(&record.cluster_id))
            .attributes(MembersItem::attributes(record))
            .only_if(&format!("({older})"))
            .value(":now", seconds(now))
            .next_version(claim.copied_version);
        self.update(update).await
    }
}

/// The claim item that is consistent with the members item, if it must change.
fn corrected(items: &Items) -> Option<ClaimItem> {
    let (claim, members) = (&items.claim, items.members.as_ref()?);
    if claim.record.state != State::Ready || claim.record.is_forgotten {
        return None;
    }
    let known = &members.record;
    if known.is_forgotten {
        let time = known.kept_until?;
        return Some(ClaimItem::new(rules::forget(claim.record.clone(), time)));
    }
    let mut next = claim.clone();
    next.record.initial_node.clone_from(&known.initial_node);
    let is_newer = members.version > claim.copied_version;
    (is_newer && next != *claim).then_some(ClaimItem {
        copied_version: members.version,
        first_member: None,
        ..next
    })
}

/// The version that the next write gives the item.
fn next_version(item: &ClaimItem) -> u64 {
    item.version.unwrap_or_default() + 1
}
