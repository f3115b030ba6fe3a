//! Both items of a cluster: read together, made consistent, and written.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::KeysAndAttributes;
use cbbootstrap_protocol::{
    rules::{self, Record},
    wire::State,
};
use jiff::Timestamp;

use super::{
    DynamoDb, Error, ROUNDS, item_key, key, pause, retry,
    write::{Conflict, Update, Written},
};
use crate::{
    item::{
        ClaimItem, FORGOTTEN, Item, Items, MembersItem, Unreadable, count, expires_at,
        is_members_item, seconds, string,
    },
    store::tombstone,
    table::{EXPIRES_AT, GENERATION, INITIAL_NODE, STATE, VERSION, members_key},
};

impl DynamoDb {
    /// Both items of a cluster. Makes them consistent first, where a process stopped between its writes.
    pub(super) async fn consistent(&self, cluster_id: &str) -> Result<Option<Items>, Error> {
        let Some(mut items) = self.items(cluster_id).await? else {
            return Ok(None);
        };
        if let Some(next) = corrected(&items) {
            self.write_claim(Some(&items.claim), &next).await??;
            let version = items.claim.version.unwrap_or_default() + 1;
            items.claim = ClaimItem { version: Some(version), ..next };
        } else if let Some(renewal) = missed_renewal(&items) {
            // In a conflict, another request has made it.
            let _ = self.update(renewal).await?;
        }
        Ok(Some(items))
    }

    /// Both items of a cluster, read in one consistent call. Any text may be its key.
    pub async fn items(&self, cluster_id: &str) -> Result<Option<Items>, Error> {
        Ok(read_items(cluster_id, self.both(cluster_id).await?)?)
    }

    /// The claim item, which may be out of date: an eventually consistent read costs half as much as a consistent one.
    pub(super) async fn recent_claim(&self, cluster_id: &str) -> Result<Option<ClaimItem>, Error> {
        let mut items = self.read(vec![cluster_id.to_owned()], false).await?;
        Ok(items.remove(cluster_id).map(ClaimItem::read).transpose()?)
    }

    /// Both items, by key. Another cluster's members item, which an operator may name, is not a claim item.
    async fn both(&self, cluster_id: &str) -> Result<HashMap<String, Item>, Error> {
        let keys = vec![cluster_id.to_owned(), members_key(cluster_id)];
        let mut items = self.read(keys, true).await?;
        if items.get(cluster_id).is_some_and(is_members_item) {
            items.remove(cluster_id);
        }
        Ok(items)
    }

    /// Reads the items with these keys that exist, by key. DynamoDB allows 100.
    pub(super) async fn read(
        &self,
        keys: Vec<String>,
        is_consistent: bool,
    ) -> Result<HashMap<String, Item>, Error> {
        let mut items = HashMap::new();
        if keys.is_empty() {
            return Ok(items);
        }
        let keys = KeysAndAttributes::builder().set_keys(Some(keys.iter().map(key).collect()));
        let keys = keys.consistent_read(is_consistent).build().map_err(|_| Error::Contradiction)?;
        let mut left = HashMap::from([(self.table.clone(), keys)]);
        for round in 0..ROUNDS {
            let batch = self.client.batch_get_item().set_request_items(Some(left));
            let output = batch.send().await?;
            let read = output.responses.unwrap_or_default().into_values().flatten();
            items.extend(read.filter_map(|item| Some((item_key(&item)?, item))));
            left = output.unprocessed_keys.unwrap_or_default();
            if left.is_empty() {
                return Ok(items);
            }
            pause(round).await;
        }
        Err(Error::Unavailable("the table throttles reads".into()))
    }

    /// Ends a cluster whose items cannot be read. `false` if they can be read, or the claim item has changed. The generation is kept if
    /// it can be read.
    pub(super) async fn end_unreadable(
        &self,
        cluster_id: &str,
        now: Timestamp,
    ) -> Result<bool, Error> {
        const SEEN: [&str; 4] = [INITIAL_NODE, STATE, GENERATION, VERSION];
        let items = self.both(cluster_id).await?;
        let Some(seen) = items.get(cluster_id).cloned() else {
            return Ok(true);
        };
        if let Ok(readable) = read_items(cluster_id, items) {
            return Ok(readable.is_none_or(|items| items.claim.record.is_forgotten));
        }
        let number = |name: &str| seen.get(name)?.as_n().ok()?.parse().ok();
        let forgotten = ClaimItem::new(tombstone(cluster_id, number(GENERATION), now));
        let mark = Update::new(members_key(cluster_id))
            .attribute(STATE, Some(string(FORGOTTEN)))
            .only_if("attribute_exists(#cluster_id)");
        let _ = self.update(mark).await?;
        let mut update = Update::new(cluster_id.to_owned())
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
            Ok(_) => Ok(true),
            Err(Conflict(item)) => {
                let state = item.get(STATE).and_then(|state| state.as_s().ok());
                Ok(item.is_empty() || state.is_some_and(|state| state == FORGOTTEN))
            }
        }
    }

    /// Replaces the claim item, unless it has changed since it was read.
    pub(super) async fn write_claim(
        &self,
        seen: Option<&ClaimItem>,
        next: &ClaimItem,
    ) -> Written<(), Option<ClaimItem>> {
        let update = Update::new(next.record.cluster_id.clone()).attributes(next.attributes());
        let update = match seen {
            None => update.only_if("attribute_not_exists(#cluster_id)"),
            Some(item) => {
                // The versions of an item that was deleted and created again start at 1.
                let update = update
                    .only_if(&format!("#{INITIAL_NODE} = :stored"))
                    .value(":stored", string(&item.stored_initial_node));
                match item.version {
                    Some(version) => update.only_if_version(version),
                    // An item of the original service.
                    None => update.only_if("attribute_not_exists(#version)"),
                }
            }
        };
        let Err(Conflict(item)) = self.update(update.next_version(0)).await? else {
            return Ok(Ok(()));
        };
        let current = (!item.is_empty()).then(|| ClaimItem::read(item)).transpose()?;
        let identity = |item: &ClaimItem| (item.version, item.stored_initial_node.clone());
        if seen.map(identity) == current.as_ref().map(identity) {
            return Err(Error::Contradiction);
        }
        Ok(Err(Conflict(current)))
    }

    /// Writes the record after a rule, and returns it, unless the items have changed since they were read.
    pub(super) async fn save(
        &self,
        items: &Items,
        before: &Record,
        after: Record,
        now: Timestamp,
    ) -> Result<Record, Error> {
        let mut claim = items.claim.clone();
        claim.record = Record { members: BTreeMap::new(), ..after.clone() };
        if before.state == State::Claimed {
            claim.first_member = after.members.values().next().cloned();
            claim.copied_version = 0;
        }
        for write in writes(before, &after) {
            match write {
                Write::Claim => self.write_claim(Some(&items.claim), &claim).await??,
                Write::Members => {
                    self.write_members(items, claim.copied_version, &after, now).await?;
                }
                Write::Copy => drop(retry(|| self.consistent(&after.cluster_id)).await?),
            }
        }
        Ok(after)
    }

    /// Writes the members item of a ready claim, unless there is one of a later claim, or it has changed since it was read.
    async fn write_members(
        &self,
        items: &Items,
        copied_version: u64,
        record: &Record,
        now: Timestamp,
    ) -> Result<(), Error> {
        let update = Update::new(members_key(&record.cluster_id))
            .attributes(MembersItem::attributes(record));
        let update = if let Some(members) = &items.members {
            update.only_if_version(members.version).next_version(0)
        } else {
            let or_older = record.claimed_at.map_or("", |_| " OR #claimed_at < :claimed_at");
            update
                .only_if(&format!(
                    "(attribute_not_exists(#cluster_id) OR #generation < :generation \
                     OR #expires_at < :now{or_older})"
                ))
                .value(":now", seconds(now))
                .next_version(copied_version)
        };
        self.update(update).await??;
        Ok(())
    }
}

/// One of the writes that save a record after a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Claim,
    Members,
    /// The claim item's copy of what the members item decides.
    Copy,
}

/// The writes that save a change of the record, in an order that is safe if the process stops after any of them.
fn writes(before: &Record, after: &Record) -> &'static [Write] {
    let changes_both =
        before.cluster_uuid != after.cluster_uuid || before.kept_until != after.kept_until;
    if after.state == State::Claimed {
        &[Write::Claim]
    } else if after.is_forgotten || after.initial_node != before.initial_node {
        &[Write::Members, Write::Copy]
    } else if before.state == State::Claimed || changes_both {
        &[Write::Claim, Write::Members]
    } else {
        &[Write::Members]
    }
}

fn read_items(
    cluster_id: &str,
    mut items: HashMap<String, Item>,
) -> Result<Option<Items>, Unreadable> {
    let claim = items.remove(cluster_id).map(ClaimItem::read).transpose()?;
    let members = items.remove(&members_key(cluster_id)).map(MembersItem::read).transpose()?;
    Ok(claim.map(|claim| Items::new(claim, members)))
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
    next.record.rival_node_uuid.clone_from(&known.rival_node_uuid);
    let is_newer = members.version > claim.copied_version;
    (is_newer && next != *claim).then_some(ClaimItem {
        copied_version: members.version,
        first_member: None,
        ..next
    })
}

/// The second write of a renewal, if the members item has not got it: DynamoDB would delete the members before their claim.
fn missed_renewal(items: &Items) -> Option<Update> {
    let (claim, members) = (&items.claim.record, items.members.as_ref()?);
    let is_missed = claim.state == State::Ready
        && !claim.is_forgotten
        && !members.record.is_forgotten
        && members.record.kept_until < claim.kept_until;
    is_missed.then(|| {
        Update::new(members_key(&claim.cluster_id))
            .attribute(EXPIRES_AT, claim.kept_until.map(expires_at))
            .only_if(&format!("#{STATE} = :ready AND #{GENERATION} = :generation"))
            .value(":ready", string(State::Ready.as_str()))
            .value(":generation", count(members.record.generation))
            .only_if(&format!("#{EXPIRES_AT} < :{EXPIRES_AT}"))
    })
}

#[cfg(test)]
mod tests {
    use cbbootstrap_protocol::{
        names::{ClusterId, Node, Uuid},
        rules::{Claim, Leave, Ready},
    };

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn report(node: &str, cluster_uuid: Option<&str>) -> Ready {
        Ready {
            cluster_id: ClusterId::new("c").unwrap(),
            node: Node::new(node).unwrap(),
            node_uuid: None,
            generation: None,
            cluster_uuid: cluster_uuid.map(|uuid| Uuid::new(uuid).unwrap()),
            authority: None,
            attestation: None,
            secret: None,
            now: at(1),
        }
    }

    fn leave(node: &str, stored: &Record) -> Record {
        let Ready { cluster_id, node, now, .. } = report(node, None);
        let leave =
            Leave { cluster_id, node, node_uuid: None, generation: None, secret: None, now };
        leave.on(Some(stored.clone())).unwrap()
    }

    /// The table "Writes" of docs/protocol.md.
    #[test]
    fn each_change_is_written_in_its_order() {
        use Write::{Claim as C, Copy, Members as M};

        let Ready { cluster_id, node, now, .. } = report("a", None);
        let lease = Some(std::time::Duration::from_mins(1));
        let claim = Claim { cluster_id, node, node_uuid: None, lease, secret: None, now };
        let (_, claimed) = claim.on(None).unwrap();
        let ready = report("a", None).on(Some(claimed.clone())).unwrap();
        let joined = report("b", None).on(Some(ready.clone())).unwrap();
        let with_uuid = report("b", Some("u")).on(Some(ready.clone())).unwrap();
        let later = at(100_000);
        for (change, before, after, expected) in [
            ("ready of the first node", &claimed, ready.clone(), &[C, M][..]),
            ("ready of a joiner", &ready, joined.clone(), &[M]),
            ("ready with a UUID", &ready, with_uuid, &[C, M]),
            ("leave of the first node of a claim", &claimed, leave("a", &claimed), &[C]),
            ("leave of another member", &joined, leave("b", &joined), &[M]),
            ("leave of the node to join", &joined, leave("a", &joined), &[M, Copy]),
            ("renewal of a claim", &claimed, claimed.clone().renewed(later), &[C]),
            ("renewal of a ready cluster", &joined, joined.clone().renewed(later), &[C, M]),
            ("forget of a claim", &claimed, rules::forget(claimed.clone(), later), &[C]),
            (
                "forget of a ready cluster",
                &joined,
                rules::forget(joined.clone(), later),
                &[M, Copy],
            ),
        ] {
            assert_eq!(writes(before, &after), expected, "{change}");
        }
    }
}
