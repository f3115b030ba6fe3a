//! What the server shows: the answers to GET.

use serde_json::{Map, Value, json};

use super::{
    model::{Bucket, Cluster, MIB, Member, Membership, NO_NAME, otp},
    rest::{Call, HTTP, HTTPS, Reply, VERSION, allowed_services},
};

/// Each node's disk, and how much of it is used.
pub const DISK: (u64, u64) = (270_553_174_016, 59_521_698_283);

impl Call<'_> {
    fn edition(&self) -> String {
        let edition = if self.world.knobs.community {
            "community"
        } else {
            "enterprise"
        };
        format!("{VERSION}-{edition}")
    }

    pub fn pools(&self) -> Reply {
        let version = self.edition();
        let mut shown = json!({
            "isAdminCreds": true,
            "isROAdminCreds": false,
            "isEnterprise": !self.world.knobs.community,
            "configProfile": "default",
            "allowedServices": allowed_services(self.world),
            "isDeveloperPreview": false,
            "packageVariant": "",
            "pools": [],
            "settings": [],
            "uuid": [],
            "implementationVersion": version,
            "componentsVersion": {
                "os_mon": "2.8", "crypto": "5.1.2", "lhttpc": "1", "ns_server": version, "kernel": "8.5.3", "sasl": "4.2",
                "esaml": "4.4.0", "ssl": "10.8.7", "inets": "8.2.2", "public_key": "1.13.2", "chronicle": "0.0.1",
                "stdlib": "4.2", "xmerl": "1.3.30", "asn1": "5.0.21", "ale": "0.0.0",
            },
        });
        if let Some(cluster) = self.world.cluster(self.node) {
            let uuid = &cluster.uuid;
            shown["uuid"] = json!(uuid);
            shown["pools"] = json!([{
                "name": "default",
                "uri": format!("/pools/default?uuid={uuid}"),
                "streamingUri": format!("/poolsStreaming/default?uuid={uuid}"),
            }]);
            shown["settings"] = json!({
                "maxParallelIndexers": format!("/settings/maxParallelIndexers?uuid={uuid}"),
                "viewUpdateDaemon": format!("/settings/viewUpdateDaemon?uuid={uuid}"),
            });
        }
        Reply::ok(&shown)
    }

    /// The node in the eyes of its cluster, or in its own while it has none.
    fn node_info(&self, member: Option<&Member>) -> Value {
        let index = member.map_or(self.node, |member| member.node);
        let node = &self.world.nodes[index];
        let name = member.map_or(&node.name, |member| &member.name);
        let host = match name.as_str() {
            NO_NAME => &node.address.to_string(),
            _ => name,
        };
        let seen_by = self.world.nodes[self.node].cluster.zip(member);
        let is_healthy = seen_by
            .is_none_or(|(cluster, member)| self.world.is_healthy(cluster, member, self.now));
        let group = seen_by.map(|(cluster, member)| self.world.clusters[cluster].group_of(member));
        let mut ports = json!({"direct": 11210, "distTCP": 21100, "distTLS": 21150});
        if !self.world.knobs.community {
            ports["httpsMgmt"] = json!(HTTPS);
            ports["httpsCAPI"] = json!(18092);
        }
        let membership = member.map_or(Membership::Active, |member| member.membership);
        let mut info = json!({
            "clusterMembership": membership.word(),
            "recoveryType": "none",
            "status": if is_healthy { "healthy" } else { "unhealthy" },
            "otpNode": otp(name),
            "hostname": format!("{host}:{HTTP}"),
            "nodeUUID": member.map_or(&node.uuid, |member| &member.uuid),
            "clusterCompatibility": 458_758,
            "version": self.edition(),
            "os": "x86_64-pc-linux-gnu",
            "cpuCount": 2,
            "ports": ports,
            "services": member.map_or(&node.services, |member| &member.services),
            "nodeEncryption": false,
            "nodeEncryptionClientCertVerification": false,
            "addressFamilyOnly": false,
            "configuredHostname": format!("{host}:{HTTP}"),
            "addressFamily": "inet",
            "externalListeners": [{"afamily": "inet", "nodeEncryption": false}],
            "serverGroup": group.unwrap_or("Group 1"),
            "couchApiBase": format!("http://{host}:8092/"),
            "couchApiBaseHTTPS": format!("https://{host}:18092/"),
            "nodeHash": 42_141_283,
            "systemStats": {
                "cpu_utilization_rate": 0, "cpu_stolen_rate": 0, "swap_total": 0, "swap_used": 0, "mem_total": 0,
                "mem_free": 0, "mem_limit": 0, "cpu_cores_available": 0, "allocstall": 0,
            },
            "interestingStats": {},
            "uptime": "204",
            "memoryTotal": node.memory_total,
            "memoryFree": node.memory_total / 4 * 3,
            "mcdMemoryReserved": node.memory_total / MIB * 80 / 100,
            "mcdMemoryAllocated": node.memory_total / MIB * 80 / 100,
        });
        if index == self.node {
            info["thisNode"] = json!(true);
        }
        if !node.alternate.is_null() {
            info["alternateAddresses"] = json!({"external": node.alternate});
        }
        info
    }

    pub fn own(&self) -> Reply {
        let node = &self.world.nodes[self.node];
        let quota = self
            .world
            .cluster(self.node)
            .map_or(node.quota, |cluster| cluster.quota)
            * MIB;
        let data = "/opt/couchbase/var/lib/couchbase/data";
        let mut own = json!({
            "availableStorage": {"hdd": [
                {"path": "/dev", "sizeKBytes": 12_334_524, "usagePercent": 0},
                {"path": "/dev/shm", "sizeKBytes": 24_684_096, "usagePercent": 0},
                {"path": "/", "sizeKBytes": DISK.0 / 1024, "usagePercent": 22},
            ]},
            "storageTotals": {
                "ram": {
                    "total": node.memory_total,
                    "quotaTotal": quota,
                    "quotaUsed": 0,
                    "used": node.memory_total / 4,
                    "usedByData": 0,
                    "quotaUsedPerNode": 0,
                    "quotaTotalPerNode": quota,
                },
                "hdd": {
                    "total": DISK.0,
                    "quotaTotal": DISK.0,
                    "used": DISK.1,
                    "usedByData": 0,
                    "free": DISK.0 - DISK.1,
                },
            },
            "storage": {"ssd": [], "hdd": [{
                "path": data,
                "index_path": data,
                "cbas_dirs": [data],
                "eventing_path": data,
                "java_home": "",
                "quotaMb": "none",
                "state": "ok",
            }]},
            "memoryQuota": quota / MIB,
        });
        let member = self.world.cluster(self.node);
        let member = member.and_then(|c| c.members.iter().find(|member| member.node == self.node));
        if let (Value::Object(own), Value::Object(info)) = (&mut own, self.node_info(member)) {
            own.extend(info);
        }
        Reply::ok(&own)
    }

    fn cluster(&self) -> &Cluster {
        let cluster = self.world.cluster(self.node);
        cluster.expect("it was looked whether the node is provisioned")
    }

    pub fn pool(&self) -> Reply {
        let cluster = self.cluster();
        let uuid = &cluster.uuid;
        let nodes: Vec<_> = cluster
            .members
            .iter()
            .map(|m| self.node_info(Some(m)))
            .collect();
        let names = cluster.buckets.iter();
        let names: Vec<_> = names
            .map(|bucket| json!({"bucketName": bucket.name, "uuid": bucket.uuid}))
            .collect();
        let is_running = cluster.rebalance.is_some();
        let is_balanced = cluster.is_balanced();
        let mut pool = json!({
            "name": "default",
            "nodes": nodes,
            "buckets": {
                "uri": format!("/pools/default/buckets?v=6308748&uuid={uuid}"),
                "terseBucketsBase": "/pools/default/b/",
                "terseStreamingBucketsBase": "/pools/default/bs/",
            },
            "bucketNames": names,
            "remoteClusters": {
                "uri": format!("/pools/default/remoteClusters?uuid={uuid}"),
                "validateURI": "/pools/default/remoteClusters?just_validate=1",
            },
            "alerts": [],
            "alertsSilenceURL": format!("/controller/resetAlerts?token=0&uuid={uuid}"),
            "controllers": {
                "addNode": {"uri": format!("/controller/addNodeV2?uuid={uuid}")},
                "rebalance": {"uri": format!("/controller/rebalance?uuid={uuid}")},
                "ejectNode": {"uri": format!("/controller/ejectNode?uuid={uuid}")},
            },
            "rebalanceStatus": if is_running { "running" } else { "none" },
            "rebalanceProgressUri": format!("/pools/default/rebalanceProgress?uuid={uuid}"),
            "tasks": {"uri": format!("/pools/default/tasks?v=1&uuid={uuid}")},
            "clusterName": cluster.name,
            "balanced": is_balanced,
            "memoryQuota": cluster.quota,
        });
        if !self.world.knobs.community {
            pool["serverGroupsUri"] = json!("/pools/default/serverGroups?v=1");
        }
        if !is_balanced {
            pool["servicesNeedRebalance"] = json!([{
                "code": "service_not_balanced",
                "description": "Service needs rebalance.",
                "services": ["kv"],
            }]);
        }
        Reply::ok(&pool)
    }

    /// The member that the others follow: the first that is well.
    fn orchestrator(&self) -> String {
        let index = self.world.nodes[self.node]
            .cluster
            .expect("it is provisioned");
        let mut members = self.cluster().members.iter();
        let leads = |member: &&Member| {
            member.membership == Membership::Active
                && self.world.is_healthy(index, member, self.now)
        };
        members
            .find(leads)
            .map_or("undefined".to_owned(), Member::otp)
    }

    pub fn terse(&self) -> Reply {
        Reply::ok(&json!({
            "clusterUUID": self.cluster().uuid,
            "orchestrator": self.orchestrator(),
            "isBalanced": self.cluster().is_balanced(),
            "clusterCompatVersion": "7.6",
        }))
    }

    /// How far the rebalance is, in percent, for each node.
    fn per_node(&self, cluster: &Cluster) -> Option<(f64, Map<String, Value>)> {
        let rebalance = cluster.rebalance.as_ref()?;
        let whole = (rebalance.ends - rebalance.began).as_secs_f64();
        let part = (self.now - rebalance.began).as_secs_f64();
        let percent = (part / whole * 100.0).floor();
        let nodes = cluster.members.iter();
        let nodes = nodes
            .map(|member| (member.otp(), json!({"progress": percent})))
            .collect();
        Some((percent, nodes))
    }

    pub fn progress(&self) -> Reply {
        let cluster = self.world.cluster(self.node);
        if let Some((_, mut nodes)) = cluster.and_then(|cluster| self.per_node(cluster)) {
            nodes.insert("status".to_owned(), json!("running"));
            return Reply::ok(&json!(nodes));
        }
        let mut progress = json!({"status": "none"});
        if cluster
            .and_then(|c| c.last_rebalance.as_ref())
            .is_some_and(|last| last.failed)
        {
            progress["errorMessage"] = json!(FAILED);
        }
        Reply::ok(&progress)
    }

    pub fn tasks(&self) -> Reply {
        let cluster = self.world.cluster(self.node);
        let mut task = json!({"type": "rebalance", "subtype": "rebalance"});
        let mut add = |more: Value| {
            if let (Value::Object(task), Value::Object(more)) = (&mut task, more) {
                task.extend(more);
            }
        };
        let running = cluster.and_then(|c| Some((c, c.rebalance.as_ref()?, self.per_node(c)?)));
        if let Some((cluster, rebalance, (progress, nodes))) = running {
            let of = |keep: &dyn Fn(&Member) -> bool| {
                let members = cluster.members.iter();
                members
                    .filter(|member| keep(member))
                    .map(Member::otp)
                    .collect::<Vec<_>>()
            };
            let is_failed = |m: &Member| m.membership == Membership::InactiveFailed;
            let is_out = |m: &Member| rebalance.ejected.contains(&m.node);
            add(json!({
                "statusId": rebalance.status_id,
                "recommendedRefreshPeriod": 0.25,
                "status": "running",
                "progress": progress,
                "perNode": nodes,
                "detailedProgress": {},
                "stageInfo": {"data": {"startTime": false, "completedTime": false, "timeTaken": false}},
                "rebalanceId": rebalance.id,
                "nodesInfo": {
                    "active_nodes": of(&|m| !is_failed(m)),
                    "keep_nodes": of(&|m| !is_out(m)),
                    "eject_nodes": of(&|m| is_out(m) && !is_failed(m)),
                    "delta_nodes": [],
                    "failed_nodes": of(&is_failed),
                },
                "masterNode": self.orchestrator(),
            }));
        } else {
            add(
                json!({"status": "notRunning", "statusIsStale": false, "masterRequestTimedOut": false}),
            );
            if let Some(last) = cluster.and_then(|c| c.last_rebalance.as_ref()) {
                add(json!({
                    "statusId": last.status_id,
                    "lastReportURI": format!("/logs/rebalanceReport?reportID={}", last.report),
                }));
                if last.failed {
                    add(json!({"errorMessage": FAILED}));
                }
            }
        }
        Reply::ok(&json!([task]))
    }

    pub fn buckets(&self, name: Option<&str>) -> Reply {
        let cluster = self.cluster();
        let nodes = cluster.members.len() as u64;
        let show = |bucket: &Bucket| {
            json!({
                "name": bucket.name,
                "uuid": bucket.uuid,
                "bucketType": bucket.kind,
                "replicaNumber": bucket.replicas,
                "quota": {"ram": bucket.quota * MIB * nodes, "rawRAM": bucket.quota * MIB},
                "basicStats": {"itemCount": cluster.items, "quotaPercentUsed": 0},
            })
        };
        let Some(name) = name else {
            return Reply::ok(&cluster.buckets.iter().map(show).collect());
        };
        match cluster.buckets.iter().find(|bucket| bucket.name == name) {
            Some(bucket) => Reply::ok(&show(bucket)),
            None => Reply::text(404, "Requested resource not found.\r\n"),
        }
    }

    pub fn groups(&self) -> Reply {
        let cluster = self.cluster();
        let show = |group: &super::model::Group| {
            let uri = format!("/pools/default/serverGroups/{}", group.id);
            let members = cluster
                .members
                .iter()
                .filter(|member| member.group == group.id);
            json!({
                "name": group.name,
                "uri": uri,
                "addNodeURI": format!("{uri}/addNode"),
                "nodes": members.map(|member| self.node_info(Some(member))).collect::<Vec<_>>(),
            })
        };
        let groups: Vec<_> = cluster.groups.iter().map(show).collect();
        Reply::ok(&json!({"groups": groups, "uri": "/pools/default/serverGroups?rev=1"}))
    }

    pub fn auto_failover(&self) -> Reply {
        let cluster = self.world.cluster(self.node);
        Reply::ok(&json!({
            "enabled": cluster.is_none_or(|cluster| cluster.auto_failover),
            "timeout": 120,
            "count": cluster.map_or(0, |cluster| cluster.failovers),
            "failoverOnDataDiskIssues": {"enabled": false, "timePeriod": 120},
            "disableMaxCount": false,
            "maxCount": 1,
            "canAbortRebalance": true,
            "failoverPreserveDurabilityMajority": false,
        }))
    }
}

const FAILED: &str = "Rebalance failed. See logs for detailed reason. You can try again.";
