//! Adding nodes to clusters, which takes time in which other requests are served.

use std::net::Ipv4Addr;

use serde_json::json;
use tokio::time::sleep;

use super::{
    lock,
    model::{Addition, NotAdded, World},
    net::Shared,
    node::NO_NAME,
    rest::{Form, HTTP, HTTPS, Reply, Request, check_combination, parts, services},
};

/// A member adds the node that the request names.
pub async fn to_cluster(
    shared: &Shared,
    node: usize,
    request: &Request,
    group: &str,
) -> Result<Reply, Reply> {
    let form = &request.form;
    let unknown = form.unknown(&["hostname", "user", "password", "services"]);
    let target = Target::of(&lock(&shared.world), request, &unknown)?;
    let login = login(form).unwrap_or_default();
    let added = add(shared, node, &target, login, group).await;
    let otp = added.map_err(|why| Reply::refused(&why))?;
    Ok(Reply::ok(&json!({"otpNode": otp})))
}

/// A node asks the member that the request names to add it.
pub async fn join(shared: &Shared, node: usize, request: &Request) -> Result<Reply, Reply> {
    let (member, own) = joining(&lock(&shared.world), node, request)?;
    let added = add(shared, member, &own, ("", ""), "0").await;
    added.map_err(|why| Reply::refused(&why))?;
    Ok(Reply::empty(200))
}

/// The member, and the node as it tells it about itself.
fn joining(world: &World, node: usize, request: &Request) -> Result<(usize, Target), Reply> {
    let own = &world.nodes[node];
    if own.cluster.is_some() {
        let why = "Node is already provisioned. To join use controller/addNode api of the cluster";
        return Err(Reply::refused(why));
    }
    let target = Target::of(world, request, &[])?;
    let member = target.node(world).map_err(|why| Reply::refused(&why))?;
    if !world.admits(member, login(&request.form)) {
        let why = "Authentication failed. Verify username and password.";
        return Err(Reply::refused(why));
    }
    let (host, address) = match request.form.get("newNodeHostname") {
        Some(host) if !["", "127.0.0.1"].contains(&host) => {
            (host.to_owned(), request.resolved.get(host).copied())
        }
        _ if own.name == NO_NAME => (own.address.to_string(), Some(own.address)),
        _ => (own.name.clone(), Some(own.address)),
    };
    let port = default_port(&target.scheme);
    let own = Target { host, port, address, ..target };
    Ok((member, own))
}

fn login(form: &Form) -> Option<(&str, &str)> {
    form.get("user").zip(form.get("password"))
}

fn default_port(scheme: &str) -> u16 {
    if scheme == "http" { HTTP } else { HTTPS }
}

/// Where a request points, and for which services.
struct Target {
    scheme: String,
    host: String,
    port: u16,
    /// What the host's name resolves to.
    address: Option<Ipv4Addr>,
    services: Vec<String>,
}

impl Target {
    /// The target, or all that is wrong with the request.
    fn of(world: &World, request: &Request, unknown: &[&str]) -> Result<Self, Reply> {
        let form = &request.form;
        let mut wrong = Vec::new();
        for name in ["user", "password"] {
            if form.get(name).is_none() {
                wrong.push(format!("{name} is missing"));
            }
        }
        let hostname = form.get("hostname").unwrap_or_default().trim();
        if hostname.is_empty() {
            wrong.push("Hostname is required.".to_owned());
        }
        if !unknown.is_empty() {
            wrong.push(format!("Got unknown parameters: {unknown:?}"));
        }
        let services = services(world, form.get("services").unwrap_or("kv"));
        let services = services.map_err(|why| wrong.push(why)).unwrap_or_default();
        if login(form).is_some_and(|(user, password)| !user.is_empty() && password.is_empty()) {
            wrong.push("A password must be supplied.".to_owned());
        }
        if !wrong.is_empty() {
            return Err(Reply::json(400, &json!(wrong)));
        }
        let (scheme, host, port) = parts(hostname);
        let usual = if world.knobs.community { "http" } else { "https" };
        let scheme = scheme.unwrap_or(usual);
        Ok(Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port: port.unwrap_or_else(|| default_port(scheme)),
            address: request.resolved.get(host).copied(),
            services,
        })
    }

    /// The node that listens there.
    fn node(&self, world: &World) -> Result<usize, String> {
        let is_open = self.port == default_port(&self.scheme)
            && !(world.knobs.community && self.scheme == "https");
        let mut nodes = world.nodes.iter();
        let node =
            nodes.position(|node| is_open && node.is_up && Some(node.address) == self.address);
        let node = node.filter(|node| !world.is_closed(*node, world.now()));
        node.ok_or_else(|| {
            let Self { scheme, host, port, .. } = self;
            let why = self.unreachable();
            format!("Failed to connect to {scheme}://{host}:{port}. Could not connect to {why}")
        })
    }

    fn unreachable(&self) -> String {
        format!(
            "\"{}\" on port {}.  This could be due to an incorrect host/port combination or a firewall in place \
             between the servers.",
            self.host, self.port
        )
    }
}

/// Adds a node through another, or says why not. A member adds one node after the other.
async fn add(
    shared: &Shared,
    through: usize,
    target: &Target,
    login: (&str, &str),
    group: &str,
) -> Result<String, String> {
    let _turn = shared.turns[through].lock().await;
    let found = {
        let mut world = lock(&shared.world);
        let now = world.now();
        world.settle(now);
        find(&world, through, target, group)
    };
    let added = match found {
        Ok(joiner) => {
            let addition = Addition {
                through,
                joiner,
                host: target.host.clone(),
                user: login.0.to_owned(),
                password: login.1.to_owned(),
                services: target.services.clone(),
                group: group.to_owned(),
            };
            Adding { shared, addition }.run().await
        }
        Err(why) => Err(NotAdded::Refused(why)),
    };
    added.map_err(|why| {
        let why = match why {
            NotAdded::Refused(why) => why,
            NotAdded::TimedOut => {
                let why = target.unreachable();
                format!("Prepare join failed. Timeout connecting to {why}")
            }
        };
        if let Some(cluster) = lock(&shared.world).cluster_mut(through) {
            cluster.refused.push(why.clone());
        }
        why
    })
}

/// The node, if it can be asked.
fn find(world: &World, through: usize, target: &Target, group: &str) -> Result<usize, String> {
    let cluster = world.may_add(through)?;
    let joiner = target.node(world)?;
    if target.scheme == "http" && !world.knobs.community {
        return Err("http is prohibited due to security reasons, please use https".to_owned());
    }
    let mut groups = world.clusters[cluster].groups.iter();
    if !groups.any(|known| known.id == group) {
        return Err(format!("Could not find group with uuid: {group}"));
    }
    let combination = check_combination(world, &target.services);
    combination.map_err(|why| format!("Prepare join failed. {why}"))?;
    Ok(joiner)
}

/// A node that is being added. It ends with this, also when the member is switched off.
struct Adding<'a> {
    shared: &'a Shared,
    addition: Addition,
}

impl Adding<'_> {
    async fn run(&self) -> Result<String, NotAdded> {
        let (takes, timeout) = {
            let mut world = lock(&self.shared.world);
            let now = world.now();
            world.begin_to_add(&self.addition, now)?;
            (world.knobs.add_takes, world.knobs.add_timeout)
        };
        sleep(takes).await;
        let added = {
            let mut world = lock(&self.shared.world);
            let now = world.now();
            world.settle(now);
            world.add(&self.addition, now)
        };
        if let Err(NotAdded::TimedOut) = added {
            sleep(timeout.saturating_sub(takes)).await;
        }
        added
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        lock(&self.shared.world).end_to_add(&self.addition);
    }
}
