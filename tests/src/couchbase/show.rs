//! What the server shows: the answers to GET.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    model::{Cluster, Member, Membership, Recovery, otp},
    node::{MIB, NO_NAME, QUOTAS, Quotas, Removal},
    rebalance::{Kind, Rebalance, Report},
    rest::{Call, HTTP, HTTPS, Reply, VERSION, allowed_services},
};

/// Each node's disk, and how much of it is used.
pub const DISK: (u64, u64) = (270_553_174_016, 59_521_698_283);

impl Call<'_> {
    fn edition(&self) -> String {
        let edition = if self.world.knobs.community { "community" } else { "enterprise" };
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

    /// The user of the request. A blank node treats everybody as its administrator.
    pub fn whoami(&self) -> Reply {
        let admin = json!([{"role": "admin"}]);
        let is_blank = self.world.cluster(self.node).is_none();
        Reply::ok(&match self.request.login() {
            Some((user, _)) if !is_blank => json!({"roles": admin, "id": user, "domain": "admin"}),
            _ => {
                let roles = if is_blank { admin } else { json!([]) };
                json!({"roles": roles, "id": "", "domain": "anonymous"})
            }
        })
    }

    /// The node in the eyes of its cluster, or in its own while it has none.
    pub fn node_info(&self, member: Option<&Member>) -> Value {
        let index = member.map_or(self.node, |member| member.node);
        let node = &self.world.nodes[index];
        let name = member.map_or(&node.name, |member| &member.name);
        let host = match name.as_str() {
            NO_NAME => &node.address.to_string(),
            _ => name,
        };
        let seen_by = self.world.nodes[self.node].cluster.zip(member);
        let status = seen_by.map(|(cluster, member)| self.world.status(cluster, member, self.now));
        let group = seen_by.map(|(cluster, member)| self.world.clusters[cluster].group_of(member));
        let services = member.map_or(&node.services, |member| &member.services);
        let services: BTreeSet<_> = services.iter().collect();
        let mut ports = json!({"direct": 11210, "distTCP": 21100, "distTLS": 21150});
        if !self.world.knobs.community {
            ports["httpsMgmt"] = json!(HTTPS);
            ports["httpsCAPI"] = json!(18092);
        }
        let membership = member.map_or(Membership::Active, |member| member.membership);
        let mut info = json!({
            "clusterMembership": membership.word(),
            "recoveryType": member.map_or(Recovery::None, |member| member.recovery).word(),
            "status": status.unwrap_or("healthy"),
            "otpNode": otp(name),
            "hostname": if host.contains(':') { format!("[{host}]:{HTTP}") } else { format!("{host}:{HTTP}") },
            "nodeUUID": member.map_or(&node.uuid, |member| &member.uuid),
            "clusterCompatibility": 458_758,
            "version": self.edition(),
            "os": "x86_64-pc-linux-gnu",
            "cpuCount": 2,
            "ports": ports,
            "services": services,
            "nodeEncryption": false,
            "nodeEncryptionClientCertVerification": false,
            "addressFamilyOnly": false,
            "configuredHostname": format!("{host}:{HTTP}"),
            "addressFamily": "inet",
            "externalListeners": [{"afamily": "inet", "nodeEncryption": false}],
            "couchApiBase": format!("http://{host}:8092/"),
            "couchApiBaseHTTPS": format!("https://{host}:18092/"),
            "nodeHash": 42_141_283,
            "systemStats": {
                "cpu_utilization_rate": 0, "cpu_stolen_rate": 0, "swap_total": 0, "swap_used": 0, "mem_total": 0,
                "mem_free": 0, "mem_limit": 0, "cpu_cores_available": 0, "allocstall": 0,
            },
            "interestingStats": {},
            "uptime": node.uptime(self.now).as_secs().to_string(),
            "memoryTotal": node.memory_total,
            "memoryFree": node.memory_total / 4 * 3,
            "mcdMemoryReserved": node.memory_total / MIB * 80 / 100,
            "mcdMemoryAllocated": node.memory_total / MIB * 80 / 100,
        });
        if !self.world.knobs.community {
            info["serverGroup"] = json!(group.unwrap_or("Group 1"));
        }
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
        let cluster = self.world.cluster(self.node);
        let quotas = cluster.map_or(&node.quotas, |cluster| &cluster.quotas);
        let quota = quotas["memoryQuota"] * MIB;
        let paths = &node.paths;
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
                "path": paths.data,
                "index_path": paths.index,
                "cbas_dirs": [paths.analytics],
                "eventing_path": paths.eventing,
                "java_home": paths.java_home,
                "quotaMb": "none",
                "state": "ok",
            }]},
        });
        show_quotas(quotas, &mut own);
        let member = cluster.and_then(|c| c.members.iter().find(|member| member.node == self.node));
        if let (Value::Object(own), Value::Object(info)) = (&mut own, self.node_info(member)) {
            own.extend(info);
        }
        Reply::ok(&own)
    }

    pub fn cluster(&self) -> &Cluster {
        let cluster = self.world.cluster(self.node);
        cluster.expect("it was checked that the node is provisioned")
    }

    pub fn pool(&self) -> Result<Reply, Reply> {
        if self.world.nodes[self.node].removed == Some(Removal::Unsafe) {
            return Err(Reply::unexpected());
        }
        let cluster = self.cluster();
        let uuid = &cluster.uuid;
        let mut members: Vec<_> = cluster.members.iter().collect();
        members.sort_by_cached_key(|member| member.otp());
        let names = cluster.buckets.iter();
        let names: Vec<_> =
            names.map(|bucket| json!({"bucketName": bucket.name, "uuid": bucket.uuid})).collect();
        let is_orphaned = cluster.orphaned.is_some_and(|until| self.now < until);
        let is_running = cluster.rebalance.is_some() || is_orphaned;
        let absent = &self.world.knobs.absent_services;
        let pending = cluster.pending_services(absent);
        let mut pool = json!({
            "name": "default",
            "nodes": [],
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
            "balanced": cluster.is_balanced(absent),
        });
        // `json!` would copy them.
        pool["nodes"] = members.into_iter().map(|member| self.node_info(Some(member))).collect();
        show_quotas(&cluster.quotas, &mut pool);
        if !self.world.knobs.community {
            pool["serverGroupsUri"] = json!("/pools/default/serverGroups?v=1");
        }
        let moves = cluster.members.iter().any(|m| !m.is_active() && m.has_data_service());
        if moves && cluster.has_data() {
            let names = cluster.buckets.iter().map(|bucket| &bucket.name);
            pool["bucketsNeedRebalance"] = json!([{
                "code": "servers_not_balanced",
                "description": "Servers of bucket are not balanced.",
                "buckets": names.collect::<Vec<_>>(),
            }]);
        }
        if !pending.is_empty() {
            pool["servicesNeedRebalance"] = json!([{
                "code": "service_not_balanced",
                "description": "Service needs rebalance.",
                "services": pending,
            }]);
        }
        Ok(Reply::ok(&pool))
    }

    /// The member that the others follow. A node that has just started does not know it.
    fn orchestrator(&self) -> String {
        let cluster = self.cluster();
        let restarted = self.world.nodes[self.node].restarted;
        let election_takes = self.world.knobs.election_takes;
        let leader =
            cluster.leader.filter(|_| restarted.is_none_or(|at| self.now >= at + election_takes));
        let mut members = cluster.members.iter();
        members
            .find(|member| Some(member.node) == leader)
            .map_or("undefined".to_owned(), Member::otp)
    }

    pub fn terse(&self) -> Reply {
        Reply::ok(&json!({
            "clusterUUID": self.cluster().uuid,
            "orchestrator": self.orchestrator(),
            "isBalanced": self.cluster().is_balanced(&self.world.knobs.absent_services),
            "clusterCompatVersion": "7.6",
        }))
    }

    /// How far the rebalance is, in percent, for each node.
    fn per_node(&self, cluster: &Cluster) -> Option<(f64, Map<String, Value>)> {
        let rebalance = cluster.rebalance.as_ref()?;
        let percent = rebalance.percent(self.now);
        let nodes = cluster.members.iter();
        let nodes = nodes
            .filter(|member| {
                !member.is_failed_over() || rebalance.kind == Kind::Graceful(member.node)
            })
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
        if cluster.and_then(|c| c.last_rebalance.as_ref()).is_some_and(|last| last.failed) {
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
            add(json!({
                "subtype": match rebalance.kind {
                    Kind::Rebalance => "rebalance",
                    Kind::Graceful(_) => "gracefulFailover",
                },
                "statusId": rebalance.status_id,
                "recommendedRefreshPeriod": 0.25,
                "status": "running",
                "progress": progress,
                "perNode": nodes,
                "detailedProgress": {},
                "stageInfo": {"data": {"startTime": false, "completedTime": false, "timeTaken": false}},
                "rebalanceId": rebalance.id,
                "nodesInfo": self.nodes_info(cluster, rebalance),
                "masterNode": self.orchestrator(),
            }));
        } else {
            add(
                json!({"status": "notRunning", "statusIsStale": false, "masterRequestTimedOut": false}),
            );
            if let Some(last) = cluster.and_then(|c| c.last_rebalance.as_ref()) {
                add(json!({
                    "subtype": last.subtype,
                    "statusId": last.status_id,
                }));
                if let Some(Report { id, .. }) = &last.report {
                    add(json!({"lastReportURI": format!("/logs/rebalanceReport?reportID={id}")}));
                }
                if last.failed {
                    add(json!({"errorMessage": FAILED}));
                }
            }
        }
        Reply::ok(&json!([task]))
    }

    /// The report of the last rebalance or failover, of which only the end is shown.
    pub fn report(&self) -> Reply {
        let cluster = self.world.cluster(self.node);
        let report = cluster.and_then(|c| c.last_rebalance.as_ref()?.report.as_ref());
        let asked = self.request.query.get("reportID");
        match report.filter(|report| asked.is_none_or(|id| id == report.id)) {
            Some(Report { rebalance, message, .. }) => Reply::ok(&json!({
                "stageInfo": {},
                "rebalanceId": rebalance,
                "masterNode": self.orchestrator(),
                "completionMessage": message,
            })),
            None => Reply::ok(&json!({})),
        }
    }

    /// Which nodes a rebalance is about.
    fn nodes_info(&self, cluster: &Cluster, rebalance: &Rebalance) -> Value {
        let of = |keep: &dyn Fn(&Member) -> bool| {
            let members = cluster.members.iter();
            members.filter(|member| keep(member)).map(Member::otp).collect::<Vec<_>>()
        };
        if let Kind::Graceful(node) = rebalance.kind {
            return json!({
                "active_nodes": of(&|_| true),
                "failover_nodes": of(&|m| m.node == node),
                "master_node": self.orchestrator(),
            });
        }
        let is_out = |m: &Member| rebalance.ejected.contains(&m.node);
        json!({
            "active_nodes": of(&|m| !m.is_failed_over()),
            "keep_nodes": of(&|m| !is_out(m)),
            "eject_nodes": of(&|m| is_out(m) && !m.is_failed_over()),
            "delta_nodes": of(&|m| m.recovery == Recovery::Delta),
            "failed_nodes": of(&Member::is_failed_over),
        })
    }

    pub fn auto_failover(&self) -> Reply {
        let cluster = self.world.cluster(self.node);
        let settings = cluster.map(|cluster| &cluster.auto_failover);
        let mut shown = json!({
            "enabled": settings.is_none_or(|settings| settings.enabled),
            "timeout": settings.map_or(120, |settings| settings.timeout),
            "count": cluster.map_or(0, |cluster| cluster.failovers),
        });
        if !self.world.knobs.community {
            shown["failoverOnDataDiskIssues"] = json!({"enabled": false, "timePeriod": 120});
            shown["disableMaxCount"] = json!(false);
            shown["maxCount"] = json!(settings.map_or(1, |settings| settings.max_count));
            shown["canAbortRebalance"] = json!(true);
            shown["failoverPreserveDurabilityMajority"] = json!(false);
        }
        Reply::ok(&shown)
    }
}

fn show_quotas(quotas: &Quotas, shown: &mut Value) {
    for (field, ..) in QUOTAS {
        shown[field] = json!(quotas.get(field));
    }
}

const FAILED: &str = "Rebalance failed. See logs for detailed reason. You can try again.";
