//! The nodes' certificates and authorities, and the requests about them.

use std::{
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use serde_json::{Value, json};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use super::{
    node::{NO_NAME, Node},
    rest::{Call, HTTP, Reply},
};

/// The name in a generated certificate while the node has none.
const LOCALHOST: &str = "127.0.0.1";
const DAY: Duration = Duration::from_hours(24);
/// Where an administrator puts certificates for the server to load.
const INBOX: &str = "/opt/couchbase/var/lib/couchbase/inbox";
const ENTERPRISE_ONLY: &str = "This http API endpoint requires enterprise edition";
const NODE_NOT_FOUND: &str = "Node is not found, make sure the ip address/hostname matches the ip address/hostname \
                              used by Couchbase";

/// All node certificates have this key; a real server makes one for each.
static NODE_KEY: LazyLock<KeyPair> = LazyLock::new(new_key);

fn new_key() -> KeyPair {
    KeyPair::generate().expect("keys can be made")
}

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub subject: String,
    /// Whether the server made it; otherwise it is the administrator's.
    pub is_generated: bool,
    valid: (SystemTime, SystemTime),
    loaded: SystemTime,
}

impl Authority {
    pub fn generated() -> Arc<Self> {
        let name = format!("Couchbase Server {:08x}", fastrand::u32(..));
        // From 2013 to 2049.
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Self::new(&name, true, (at(1_356_998_400), at(2_524_607_999)))
    }

    /// The administrator's, valid for 30 days.
    pub fn custom() -> Arc<Self> {
        let now = SystemTime::now();
        let valid = (now - DAY / 24, now + 30 * DAY);
        Self::new("Couchbase Server stand-in", false, valid)
    }

    fn new(name: &str, is_generated: bool, valid: (SystemTime, SystemTime)) -> Arc<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        set_validity(&mut params, valid);
        let issuer = CertifiedIssuer::self_signed(params, new_key());
        Arc::new(Self {
            issuer: issuer.expect("certificates can be made"),
            subject: format!("CN={name}"),
            is_generated,
            valid,
            loaded: SystemTime::now(),
        })
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }
}

/// A node's certificate and the means to serve TLS with it.
#[derive(Clone)]
pub struct Identity {
    pub authority: Arc<Authority>,
    pub subject: String,
    /// The host that it is for.
    pub name: String,
    pub pem: String,
    pub acceptor: TlsAcceptor,
    issued: SystemTime,
}

impl Identity {
    /// A certificate of this authority for a host.
    pub fn issue(authority: &Arc<Authority>, name: &str) -> Self {
        let subject = if authority.is_generated {
            format!("Couchbase Server Node ({name})")
        } else {
            name.to_owned()
        };
        let mut params = CertificateParams::new([name.to_owned()]).expect("a host is a name");
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name.push(DnType::CommonName, subject.clone());
        let issued = SystemTime::now();
        set_validity(&mut params, (issued - DAY, issued + 822 * DAY));
        let certificate =
            params.signed_by(&*NODE_KEY, &authority.issuer).expect("certificates can be made");
        let chain = vec![certificate.der().clone(), authority.issuer.der().clone()];
        let secret = PrivateKeyDer::try_from(NODE_KEY.serialize_der()).expect("it is a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("there are protocols")
            .with_no_client_auth()
            .with_single_cert(chain, secret);
        Self {
            authority: Arc::clone(authority),
            subject: format!("CN={subject}"),
            name: name.to_owned(),
            pem: certificate.pem(),
            acceptor: TlsAcceptor::from(Arc::new(config.expect("the key fits"))),
            issued,
        }
    }
}

fn set_validity(params: &mut CertificateParams, (from, to): (SystemTime, SystemTime)) {
    let time = |time| date_time_ymd(1970, 1, 1) + since_1970(time);
    (params.not_before, params.not_after) = (time(from), time(to));
}

fn since_1970(time: SystemTime) -> Duration {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.expect("it is after 1970")
}

fn timestamp(time: SystemTime) -> String {
    let seconds = i64::try_from(since_1970(time).as_secs()).expect("it is before 2262");
    let time = Timestamp::from_second(seconds).expect("it is a usual time");
    time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

/// An authority that a node or a cluster trusts.
#[derive(Clone)]
pub struct Trusted {
    pub id: usize,
    pub authority: Arc<Authority>,
    /// The host that loaded it.
    host: Option<String>,
}

impl Trusted {
    pub fn generated(authority: &Arc<Authority>) -> Self {
        Self { id: 0, authority: Arc::clone(authority), host: None }
    }

    pub fn custom(authority: &Arc<Authority>, host: &str) -> Self {
        Self { id: 1, authority: Arc::clone(authority), host: Some(host.to_owned()) }
    }

    /// What anybody may see of it.
    fn show(&self) -> Value {
        let authority = &self.authority;
        json!({
            "id": self.id,
            "subject": authority.subject,
            "notBefore": timestamp(authority.valid.0),
            "notAfter": timestamp(authority.valid.1),
            "pem": authority.pem(),
        })
    }

    /// All of it but the nodes that use it.
    fn show_all(&self) -> Value {
        let mut shown = self.show();
        shown["loadTimestamp"] = json!(timestamp(self.authority.loaded));
        shown["type"] = json!("generated");
        if let Some(host) = &self.host {
            shown["type"] = json!("uploaded");
            shown["loadHost"] = json!(host);
            shown["loadFile"] = json!(format!("{INBOX}/CA/ca.pem"));
        }
        shown
    }

    fn warnings(&self) -> Value {
        if self.authority.is_generated {
            return self_signed();
        }
        json!([{
            "name": "expires_soon",
            "message": "Certificate will expire soon.",
            "expires": timestamp(self.authority.valid.1),
            "severity": 3,
            "severityName": "significant",
        }])
    }
}

fn self_signed() -> Value {
    json!([{
        "name": "self_signed",
        "message": "Out-of-the-box (self-signed) certificate is used.",
        "severity": 2,
        "severityName": "moderate",
    }])
}

impl Node {
    /// A generated certificate for the node's name, of the authority that it has now.
    pub fn reissue(&mut self) {
        if self.identity.authority.is_generated {
            self.generate_certificate();
        }
    }

    pub fn generate_certificate(&mut self) {
        let name = match self.name.as_str() {
            NO_NAME => LOCALHOST,
            name => name,
        };
        self.identity = Identity::issue(&self.authority, name);
    }

    /// A new authority of the node's own and a certificate of it; custom certificates are gone.
    pub fn start_over(&mut self) {
        self.authority = Authority::generated();
        self.trusted = vec![Trusted::generated(&self.authority)];
        self.generate_certificate();
    }

    /// Makes the administrator's authority trusted and uses a certificate of it.
    pub fn use_custom_certificate(&mut self, authority: &Arc<Authority>, name: &str) {
        if self.trusted.iter().all(|trusted| trusted.id == 0) {
            self.trusted.insert(0, Trusted::custom(authority, name));
        }
        self.identity = Identity::issue(authority, name);
    }

    fn host(&self) -> String {
        host(&self.name, self.address)
    }
}

fn host(name: &str, address: Ipv4Addr) -> String {
    match name {
        NO_NAME => format!("{address}:{HTTP}"),
        name => format!("{name}:{HTTP}"),
    }
}

impl Call<'_> {
    fn trusted(&self) -> &[Trusted] {
        match self.world.cluster(self.node) {
            Some(cluster) => &cluster.trusted,
            None => &self.world.nodes[self.node].trusted,
        }
    }

    fn trusted_mut(&mut self) -> &mut Vec<Trusted> {
        match self.world.nodes[self.node].cluster {
            Some(cluster) => &mut self.world.clusters[cluster].trusted,
            None => &mut self.world.nodes[self.node].trusted,
        }
    }

    /// The nodes of the cluster with their host names, or this one.
    fn certified(&self) -> Vec<(String, &Node)> {
        let own = &self.world.nodes[self.node];
        let Some(cluster) = self.world.cluster(self.node) else {
            return vec![(own.host(), own)];
        };
        let members = cluster.members.iter();
        members
            .map(|member| {
                let node = &self.world.nodes[member.node];
                (host(&member.name, node.address), node)
            })
            .collect()
    }

    fn users(&self, trusted: &Trusted) -> Vec<String> {
        let nodes = self.certified().into_iter();
        nodes
            .filter(|(_, node)| Arc::ptr_eq(&node.identity.authority, &trusted.authority))
            .map(|(host, _)| host)
            .collect()
    }

    /// The trusted authorities. Anybody may see them.
    pub fn authorities(&self) -> Result<Reply, Reply> {
        self.needs_enterprise()?;
        let shown: Vec<_> = self
            .trusted()
            .iter()
            .map(|trusted| {
                if !self.is_admin() {
                    return trusted.show();
                }
                let mut shown = trusted.show_all();
                shown["warnings"] = trusted.warnings();
                shown["nodes"] = json!(self.users(trusted));
                shown["client_cert_nodes"] = json!(self.users(trusted));
                shown
            })
            .collect();
        Ok(Reply::ok(&json!(shown)))
    }

    /// The only authority, as it was before there could be several.
    pub fn authority(&self) -> Result<Reply, Reply> {
        self.needs_enterprise()?;
        if let [only] = self.trusted() {
            return Ok(Reply::text(200, &only.authority.pem()));
        }
        let why = "this API is disabled, please use GET /pools/default/trustedCAs, see documentation for details";
        Err(Reply::text(400, why))
    }

    fn show_certificate(node: &Node) -> Value {
        let identity = &node.identity;
        let is_generated = identity.authority.is_generated;
        json!({
            "warnings": if is_generated { self_signed() } else { json!([]) },
            "subject": identity.subject,
            "expires": timestamp(identity.issued + 822 * DAY),
            "loadTimestamp": timestamp(identity.issued),
            "pem": identity.pem,
            "privateKeyPassphrase": {},
            "type": if is_generated { "generated" } else { "uploaded" },
        })
    }

    pub fn certificates(&self) -> Reply {
        if self.world.knobs.community {
            return Reply::ok(&json!([]));
        }
        let nodes = self.certified().into_iter();
        let shown = nodes.map(|(host, node)| {
            let mut shown = Self::show_certificate(node);
            shown["node"] = json!(host);
            shown
        });
        Reply::ok(&shown.collect())
    }

    /// The certificate of a node that is active.
    pub fn certificate(&self, name: &str) -> Result<Reply, Reply> {
        self.needs_enterprise()?;
        let name = name.split(':').next().unwrap_or_default();
        let cluster = self.world.cluster(self.node);
        let is_active = cluster.is_none_or(|cluster| {
            let mut members = cluster.members.iter();
            members.any(|member| member.name == name && member.is_active())
        });
        let mut nodes = self.certified().into_iter();
        let node = nodes.find(|(host, _)| is_active && host.starts_with(&format!("{name}:")));
        let node = node.ok_or_else(|| Reply::text(404, NODE_NOT_FOUND))?.1;
        Ok(Reply::ok(&Self::show_certificate(node)))
    }

    pub fn delete_authority(&mut self, id: &str) -> Result<Reply, Reply> {
        self.needs_enterprise()?;
        let trusted = self.trusted().iter().find(|trusted| trusted.id.to_string() == id);
        let trusted = trusted.ok_or_else(|| Reply::text(404, "Not found."))?;
        let users: Vec<_> = self
            .users(trusted)
            .iter()
            .map(|host| host.split(':').next().unwrap_or_default().to_owned())
            .collect();
        if !users.is_empty() {
            let users = users.join(", ");
            let why = format!("The CA certificate is in use by the following nodes: {users}");
            return Err(Reply::error("_", &why));
        }
        let id = trusted.id;
        self.trusted_mut().retain(|trusted| trusted.id != id);
        Ok(Reply::empty(200))
    }

    /// Trusts the authority in the node's inbox, in the whole cluster.
    pub fn load_authorities(&mut self) -> Result<Reply, Reply> {
        self.needs_enterprise()?;
        if !self.world.nodes[self.node].has_inbox {
            let why =
                format!("Couldn't load CA certificate from {INBOX}/CA. The file does not exist.");
            return Err(Reply::json(400, &json!(why)));
        }
        let authority = Arc::clone(&self.world.administrator);
        let own = &self.world.nodes[self.node];
        let mut loaded = Trusted::custom(&authority, &own.name);
        let mut ids = self.trusted().iter();
        if ids.any(|trusted| Arc::ptr_eq(&trusted.authority, &authority)) {
            return Ok(Reply::ok(&json!([])));
        }
        let last = self.trusted().iter().map(|trusted| trusted.id).max();
        loaded.id = last.map_or(0, |id| id + 1);
        let shown = loaded.show_all();
        self.trusted_mut().insert(0, loaded);
        Ok(Reply::ok(&json!([shown])))
    }

    /// Uses the certificate in the node's inbox.
    pub fn reload_certificate(&mut self) -> Result<Reply, Reply> {
        self.needs_enterprise()?;
        let refused = |why: &str| Reply::json(400, &json!(why));
        if !self.world.nodes[self.node].has_inbox {
            let why = format!(
                "Unable to read certificate chain file {INBOX}/chain.pem. The file does not exist."
            );
            return Err(refused(&why));
        }
        let authority = Arc::clone(&self.world.administrator);
        let mut trusted = self.trusted().iter();
        if !trusted.any(|trusted| Arc::ptr_eq(&trusted.authority, &authority)) {
            let why = "CA certificate for this chain is not found in the list of trusted CA's";
            return Err(refused(why));
        }
        let own = &mut self.world.nodes[self.node];
        let name = match own.name.as_str() {
            NO_NAME => own.address.to_string(),
            name => name.to_owned(),
        };
        own.identity = Identity::issue(&authority, &name);
        Ok(Reply::ok(&json!({"warnings": []})))
    }

    pub fn needs_enterprise(&self) -> Result<(), Reply> {
        if self.world.knobs.community {
            return Err(Reply::text(400, ENTERPRISE_ONLY));
        }
        Ok(())
    }
}
