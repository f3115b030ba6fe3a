//! Server groups, and which nodes are in them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    model::{Group, Member, id},
    rest::{Call, Reply},
};

fn uri(group: &Group) -> String {
    format!("/pools/default/serverGroups/{}", group.id)
}

impl Call<'_> {
    pub fn groups(&self) -> Reply {
        let cluster = self.cluster();
        let show = |group: &Group| {
            let members = cluster.members.iter();
            let members = members.filter(|member| member.group == group.id);
            json!({
                "name": group.name,
                "uri": uri(group),
                "addNodeURI": format!("{}/addNode", uri(group)),
                "nodes": members.map(|member| self.node_info(Some(member))).collect::<Vec<_>>(),
            })
        };
        let groups: Vec<_> = cluster.groups.iter().map(show).collect();
        let rev = cluster.groups_rev;
        Reply::ok(&json!({
            "groups": groups,
            "uri": format!("/pools/default/serverGroups?rev={rev}"),
        }))
    }

    /// Renames a group, or makes one.
    pub fn name_group(&mut self, group: Option<&str>) -> Result<Reply, Reply> {
        let name = self.own_field("name");
        if name.is_empty() {
            return Err(Reply::json(400, &json!({"name": "cannot be empty"})));
        }
        if self.cluster().groups.iter().any(|group| group.name == name) {
            return Err(Reply::json(400, &json!({"name": "already exists"})));
        }
        self.needs_quorum(Reply::unexpected)?;
        let cluster = self.cluster_mut();
        if let Some(id) = group {
            let mut groups = cluster.groups.iter_mut();
            let group = groups.find(|group| group.id == id);
            group.ok_or_else(|| Reply::text(404, "Not found."))?.name = name;
        } else {
            cluster.groups.push(Group { id: id(), name });
        }
        cluster.groups_rev += 1;
        Ok(Reply::ok(&json!([])))
    }

    /// Puts all nodes into groups, as its documentation and its source say: nothing of it was recorded.
    pub fn move_nodes(&mut self) -> Result<Reply, Reply> {
        let rev = self.cluster().groups_rev.to_string();
        if self.request.query.get("rev") != Some(&rev) {
            return Err(Reply::json(409, &json!([])));
        }
        let body = self.request.json.clone().unwrap_or_default();
        let placed = self.placed(&body);
        let placed = placed.ok_or_else(|| Reply::json(400, &json!("Bad input")))?;
        let cluster = self.cluster_mut();
        for member in &mut cluster.members {
            if let Some(group) = placed.get(&member.otp()) {
                member.group.clone_from(group);
            }
        }
        cluster.groups_rev += 1;
        Ok(Reply::ok(&json!([])))
    }

    /// The group of each node, if the body names every group and every node once, and no other name for a group.
    fn placed(&self, body: &Value) -> Option<BTreeMap<String, String>> {
        let cluster = self.cluster();
        let mut unseen: Vec<&Group> = cluster.groups.iter().collect();
        let mut placed = BTreeMap::new();
        for shown in body["groups"].as_array()? {
            let at = unseen.iter().position(|group| shown["uri"] == uri(group))?;
            let group = unseen.swap_remove(at);
            let name = &shown["name"];
            if !name.is_null() && *name != group.name {
                return None;
            }
            for node in shown["nodes"].as_array()? {
                let otp = node["otpNode"].as_str()?;
                let is_new = placed.insert(otp.to_owned(), group.id.clone()).is_none();
                if !is_new {
                    return None;
                }
            }
        }
        let is_placed = |member: &Member| placed.contains_key(&member.otp());
        let is_complete = unseen.is_empty()
            && placed.len() == cluster.members.len()
            && cluster.members.iter().all(is_placed);
        is_complete.then_some(placed)
    }
}
