//! The proxy for a URL, by the variables that curl and the AWS CLI read.

use std::{
    ffi::{OsStr, OsString},
    fmt::{Display, Formatter},
    net::IpAddr,
};

use http::Uri;
use ipnet::IpNet;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{failure::Failure, values::is_localhost};

/// In order of precedence, as curl and the AWS CLI have it.
const HTTP_VARIABLES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const HTTPS_VARIABLES: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const EXCEPTION_VARIABLES: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// EC2's metadata service and the credentials of ECS and EKS are at link-local addresses, and at IPv6 addresses in this network.
const EC2_NETWORK: &str = "fd00:ec2::/32";

/// Begins the error of a proxy that answers, but does not connect.
pub const REFUSES: &str = "the proxy refuses the connection";

/// For the user whose proxy does not connect, by the error.
pub fn advice(error: &str) -> &'static str {
    if error.contains(REFUSES) && !error.contains("status 407") {
        "check the proxy's URL, and that it allows this host and can resolve and reach it; `NO_PROXY` lists hosts to call directly"
    } else {
        "check the proxy's URL, user and password; `NO_PROXY` lists hosts to call directly"
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `http` or `https`, host and port.
    origin: String,
    /// Percent-encoded user and password.
    credentials: Option<String>,
    variable: &'static str,
}

/// The proxies that the environment names, and the hosts that are called without one.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// Hosts that are called without a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    Network(IpNet),
    /// A name and all names below it.
    Domain(String),
}

impl Proxies {
    /// Fails if a variable is not the URL of an HTTP proxy.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        Ok(Self {
            http: Proxy::read(HTTP_VARIABLES, &variable)?,
            https: Proxy::read(HTTPS_VARIABLES, &variable)?,
            exceptions: read_exceptions(&variable),
        })
    }

    pub fn all(&self) -> impl Iterator<Item = Proxy> {
        [&self.http, &self.https].into_iter().flatten().cloned()
    }

    pub fn for_url(&self, url: &Uri) -> Option<&Proxy> {
        let proxy = if is_http(url) { &self.http } else { &self.https };
        proxy.as_ref().filter(|_| may_use_proxy(url, &self.exceptions))
    }
}

/// The environment's proxy for one URL. Fails if the variable that names it is not the URL of an HTTP proxy.
pub fn read_for_url(
    url: &Uri,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Proxy>, Failure> {
    if !may_use_proxy(url, &read_exceptions(&variable)) {
        return Ok(None);
    }
    Proxy::read(if is_http(url) { HTTP_VARIABLES } else { HTTPS_VARIABLES }, variable)
}

fn is_http(url: &Uri) -> bool {
    url.scheme_str() == Some("http")
}

fn may_use_proxy(url: &Uri, exceptions: &[Exception]) -> bool {
    let (Some("http" | "https"), Some(host)) = (url.scheme_str(), url.host()) else {
        return false;
    };
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let port = url.port_u16().unwrap_or(if is_http(url) { 80 } else { 443 });
    !is_local(&host) && !exceptions.iter().any(|exception| exception.contains(&host, port))
}

fn read_exceptions(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Exception> {
    let list = EXCEPTION_VARIABLES.into_iter().find_map(variable).unwrap_or_default();
    parse_exceptions(&list.to_string_lossy())
}

impl Proxy {
    /// The proxy that the first of these variables names.
    fn read(
        names: [&'static str; 4],
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, Failure> {
        let set = names.into_iter().find_map(|name| Some((name, variable(name)?)));
        set.map(|(name, url)| Self::parse(name, &url)).transpose()
    }

    fn parse(variable: &'static str, url: &OsStr) -> Result<Self, Failure> {
        // The message does not repeat the URL, as it may hold a password.
        let invalid = || {
            Failure::usage(format!("`{variable}` is not the URL of an HTTP proxy")).hint(
                "supported are HTTP proxies at http://HOST:PORT or https://HOST:PORT, also with USER:PASSWORD@ before HOST; SOCKS proxies are not",
            )
        };
        let url = url.to_str().ok_or_else(invalid)?;
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let scheme = scheme.to_ascii_lowercase();
        // The last `@`: passwords are not always encoded.
        let (credentials, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, rest),
        };
        let host = host.split(['/', '?', '#']).next().unwrap_or_default();
        let origin = format!("{scheme}://{host}");
        let is_url = origin.parse::<Uri>().is_ok_and(|url| {
            let name = url.host().unwrap_or_default();
            !name.is_empty() && (host.len() == name.len() || url.port_u16().is_some())
        });
        if !["http", "https"].contains(&scheme.as_str()) || !is_url {
            return Err(invalid());
        }
        let encode = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8_lossy().into_owned();
            utf8_percent_encode(&decoded, NON_ALPHANUMERIC).to_string()
        };
        let credentials = credentials.filter(|credentials| !credentials.is_empty());
        let credentials = credentials.map(|credentials| {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            format!("{}:{}", encode(user), encode(password))
        });
        Ok(Self { origin, credentials, variable })
    }

    /// The URL with the credentials.
    pub fn url(&self) -> String {
        match (&self.credentials, self.origin.split_once("://")) {
            (Some(credentials), Some((scheme, host))) => format!("{scheme}://{credentials}@{host}"),
            _ => self.origin.clone(),
        }
    }
}

impl Display for Proxy {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` (`{}`)", self.origin, self.variable)
    }
}

/// Without the password.
impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Display::fmt(self, f)
    }
}

/// Whether the host is this machine, or one that no proxy can reach.
fn is_local(host: &str) -> bool {
    let Ok(address) = host.parse::<IpAddr>() else {
        return is_localhost(host);
    };
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_ec2 = EC2_NETWORK.parse::<IpNet>().is_ok_and(|network| network.contains(&address));
    address.is_loopback() || address.is_unspecified() || is_link_local || is_ec2
}

fn parse_exceptions(list: &str) -> Vec<Exception> {
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    entries.filter(|entry| !entry.is_empty()).map(Exception::parse).collect()
}

impl Exception {
    fn parse(entry: &str) -> Self {
        let entry = entry.to_ascii_lowercase();
        let network = |text: &str| {
            let text = text.trim_matches(['[', ']']);
            let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
            text.parse::<IpNet>().ok().or_else(address)
        };
        // An IPv6 address has colons without a port, too.
        if let Some(network) = network(&entry) {
            return Self { hosts: Hosts::Network(network), port: None };
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
            _ => (entry.as_str(), None),
        };
        let domain = host.strip_prefix('*').unwrap_or(host).trim_matches('.');
        let hosts = match network(host) {
            Some(network) => Hosts::Network(network),
            None if host == "*" => Hosts::All,
            None => Hosts::Domain(domain.to_owned()),
        };
        Self { hosts, port }
    }

    fn contains(&self, host: &str, port: u16) -> bool {
        let has_host = match &self.hosts {
            Hosts::All => true,
            Hosts::Network(network) => host
                .parse::<IpAddr>()
                .is_ok_and(|address| network.contains(&address.to_canonical())),
            Hosts::Domain(domain) => host.strip_suffix(domain.as_str()).is_some_and(|below| {
                !domain.is_empty() && (below.is_empty() || below.ends_with('.'))
            }),
        };
        has_host && self.port.is_none_or(|only| only == port)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    /// The proxy for a URL in this environment.
    fn choose(variables: &[(&str, &str)], url: &str) -> Result<Option<String>, Failure> {
        let variable = |name: &str| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(value.into())
        };
        let proxies = Proxies::read(variable)?;
        Ok(proxies.for_url(&url.parse().unwrap()).map(Proxy::url))
    }

    #[test]
    fn variables_choose_the_proxy() {
        const AWS: &str = "https://sts.us-east-1.amazonaws.com";
        let proxy = "http://proxy:3128";
        for (variables, url, expected) in [
            (&[][..], AWS, None),
            (&[("HTTPS_PROXY", proxy)][..], AWS, Some(proxy)),
            (&[("https_proxy", proxy)], AWS, Some(proxy)),
            (&[("https_proxy", proxy), ("HTTPS_PROXY", "http://other")], AWS, Some(proxy)),
            (&[("ALL_PROXY", proxy)], AWS, Some(proxy)),
            (&[("all_proxy", proxy)], "http://a.example", Some(proxy)),
            (&[("ALL_PROXY", "http://other"), ("HTTPS_PROXY", proxy)], AWS, Some(proxy)),
            (&[("HTTP_PROXY", proxy)], AWS, None),
            (&[("HTTP_PROXY", proxy)], "http://a.example", Some(proxy)),
            (&[("HTTPS_PROXY", proxy)], "http://a.example", None),
            (&[("HTTPS_PROXY", "proxy:3128")], AWS, Some(proxy)),
            (&[("HTTPS_PROXY", "HTTP://proxy:3128/path?x")], AWS, Some(proxy)),
            (&[("HTTPS_PROXY", "https://proxy")], AWS, Some("https://proxy")),
            (&[("HTTPS_PROXY", "http://[fd00::1]:3128")], AWS, Some("http://[fd00::1]:3128")),
            (&[("HTTPS_PROXY", "u:p@proxy:3128")], AWS, Some("http://u:p@proxy:3128")),
            (&[("HTTPS_PROXY", "http://u@proxy:3128")], AWS, Some("http://u:@proxy:3128")),
            (&[("HTTPS_PROXY", "http://@proxy:3128")], AWS, Some(proxy)),
            (
                &[("HTTPS_PROXY", "http://d%5cu:p%40/#:s@proxy:3128")],
                AWS,
                Some("http://d%5Cu:p%40%2F%23%3As@proxy:3128"),
            ),
            (
                &[("HTTPS_PROXY", "http://u:p@ss@proxy:3128")],
                AWS,
                Some("http://u:p%40ss@proxy:3128"),
            ),
        ] {
            let actual = choose(variables, url).unwrap();
            assert_eq!(actual.as_deref(), expected, "{variables:?} {url}");
        }
    }

    #[test]
    fn an_invalid_proxy_matters_only_where_it_is_used() {
        let variable = |name: &str| match name {
            "ALL_PROXY" => Some("socks5h://proxy:1080".into()),
            "HTTPS_PROXY" => Some("http://proxy:3128".into()),
            "NO_PROXY" => Some("api.internal".into()),
            _ => None,
        };
        let read = |url: &str| read_for_url(&url.parse().unwrap(), variable);
        for direct in ["http://api.internal", "https://api.internal", "http://127.0.0.1:8080"] {
            assert_eq!(read(direct).unwrap(), None, "{direct}");
        }
        assert_eq!(read("https://a.example").unwrap().unwrap().url(), "http://proxy:3128");
        assert!(read("http://a.example").unwrap_err().to_string().contains("`ALL_PROXY`"));
    }

    #[test]
    fn variables_that_are_not_utf8_are_not_ignored() {
        let read = |set: &str, value: &[u8]| {
            let variable = |name: &str| match name {
                _ if name == set => Some(OsStr::from_bytes(value).to_owned()),
                "ALL_PROXY" => Some("http://proxy:3128".into()),
                _ => None,
            };
            let url = "https://a.example".parse().unwrap();
            let one = read_for_url(&url, variable).map_err(|failure| failure.to_string());
            let all = Proxies::read(variable).map(|proxies| proxies.for_url(&url).cloned());
            assert_eq!(all.map_err(|failure| failure.to_string()), one);
            one
        };
        let refused = read("HTTPS_PROXY", b"http://127.0.0.1:27700/\xff").unwrap_err();
        assert_eq!(refused, "`HTTPS_PROXY` is not the URL of an HTTP proxy");
        assert_eq!(read("NO_PROXY", b"\xff,a.example"), Ok(None));
        assert!(read("NO_PROXY", b"\xff").unwrap().is_some());
    }

    #[test]
    fn invalid_proxies_are_refused_without_their_password() {
        for url in [
            "socks5://u:geheim@proxy:1080",
            "socks5h://proxy:1080",
            "ftp://proxy",
            "http://",
            "http://u:geheim@",
            "http://u:geheim@proxy:port",
            "http://u:geheim@proxy:",
            "http://u:geheim@pro xy:3128",
            "://",
        ] {
            let failure = choose(&[("HTTPS_PROXY", url)], "https://a.example").unwrap_err();
            let text = format!("{failure} {:?}", failure.hint);
            assert!(text.contains("`HTTPS_PROXY`"), "{url}: {text}");
            assert!(!text.contains("geheim"), "{url}: {text}");
        }
        let proxy = Proxy::parse("ALL_PROXY", "http://u:geheim@proxy:3128".as_ref()).unwrap();
        assert_eq!(format!("{proxy} {proxy:?}").matches("geheim").count(), 0);
        assert_eq!(proxy.to_string(), "`http://proxy:3128` (`ALL_PROXY`)");
    }

    #[test]
    fn exceptions_are_called_directly() {
        for (list, url, is_direct) in [
            ("", "https://a.example", false),
            ("*", "https://a.example", true),
            ("b.example,*", "https://a.example", true),
            ("example", "https://a.example", true),
            (".example", "https://a.example", true),
            ("*.example", "https://a.example", true),
            ("*.a.example", "https://a.example", true),
            ("A.Example", "https://a.EXAMPLE", true),
            ("a.example.", "https://a.example", true),
            ("a.example", "https://a.example./", true),
            ("a.example", "https://b.a.example", true),
            ("a.example", "https://ba.example", false),
            ("b.a.example", "https://a.example", false),
            ("b.example a.example", "https://a.example", true),
            (" b.example ,\ta.example , ", "https://a.example", true),
            (",", "https://a.example", false),
            (".", "https://a.example", false),
            ("a.example:443", "https://a.example", true),
            ("a.example:80", "https://a.example", false),
            ("a.example:8443", "https://a.example:8443", true),
            (".example:443", "https://a.example", true),
            ("*:443", "https://a.example", true),
            ("*:80", "https://a.example", false),
            ("10.0.0.0/8", "https://10.1.2.3", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("10.1.2.3", "https://10.1.2.3:8443", true),
            ("10.1.2.3:8443", "https://10.1.2.3:8443", true),
            ("10.1.2.3:443", "https://10.1.2.3:8443", false),
            ("10.0.0.0/8", "https://10.example", false),
            ("fd12::/16", "https://[fd12::1]", true),
            ("fd12::1", "https://[fd12::1]:8443", true),
            ("[fd12::1]", "https://[fd12::1]", true),
            ("[fd12::1]:443", "https://[fd12::1]", true),
            ("[fd12::1]:80", "https://[fd12::1]", false),
            ("10.0.0.0/8", "https://[::ffff:10.1.2.3]", true),
        ] {
            for name in ["NO_PROXY", "no_proxy"] {
                let proxy = choose(&[("ALL_PROXY", "http://proxy"), (name, list)], url).unwrap();
                assert_eq!(proxy.is_none(), is_direct, "{name}={list:?} {url}");
            }
        }
    }

    #[test]
    fn this_machine_and_metadata_are_called_directly() {
        for (host, is_direct) in [
            ("localhost", true),
            ("x.execute-api.localhost:4566", true),
            ("LOCALHOST.", true),
            ("127.0.0.1:8080", true),
            ("127.1.2.3", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("0.0.0.0:80", true),
            ("169.254.169.254", true),
            ("[fd00:ec2::254]", true),
            ("169.254.170.2", true),
            ("[fd00:ec2::23]", true),
            ("169.254.170.23", true),
            ("[fe80::1]", true),
            ("169.255.0.1", false),
            ("[fd00:ec3::1]", false),
            ("localhost.example", false),
            ("128.0.0.1", false),
        ] {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://{host}");
                let proxy = choose(&[("ALL_PROXY", "http://proxy")], &url).unwrap();
                assert_eq!(proxy.is_none(), is_direct, "{url}");
            }
        }
    }
}
