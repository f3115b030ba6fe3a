//! Requests that are refused before the API: from web pages of other sites, and with bodies that are too large or too slow.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use cbbootstrap_protocol::wire::MAX_BODY_BYTES;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::problem::Problem;

/// The time limit for a body. Valid ones fit into a few packets.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of a body that are read. Those above the limit are dropped: without reading them, the connection would be reset while
/// the client still sends, and the response lost.
const MAX_DRAINED: usize = 1024 * 1024;

/// A request's extension: the local address of the connection.
#[derive(Clone, Copy, Debug)]
pub struct LocalAddress(pub IpAddr);

#[derive(Debug, Default)]
pub struct Guard {
    /// Valid values of `Host`, besides `localhost` and addresses. Without any, all names are valid except on the loopback address.
    pub allowed_hosts: Vec<String>,
}

impl Guard {
    /// Why the request is refused.
    ///
    /// Browsers let every page send requests to every address, including the loopback address. `Origin` is the page's site, and `Host`
    /// the name of the server in the request: another name that resolves to this server was rebound by the page's author (DNS
    /// rebinding). An address cannot be rebound.
    fn refusal(&self, at: IpAddr, headers: &HeaderMap) -> Option<Problem> {
        let host = authority(headers);
        let is_known = host.as_ref().is_some_and(|host| self.is_known(host.host()));
        let is_strict = at.to_canonical().is_loopback() || !self.allowed_hosts.is_empty();
        if is_strict && !is_known {
            return Some(Problem::HostNotAllowed);
        }
        let origin = headers.get(header::ORIGIN)?;
        let site = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        let site = site.and_then(|(_, authority)| authority.parse::<Authority>().ok());
        (!is_known || site.is_none() || site != host).then_some(Problem::OriginNotAllowed)
    }

    fn is_known(&self, host: &str) -> bool {
        // An absolute name is the same name.
        let relative = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let host = relative(host);
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.ends_with(".localhost")
            || address.parse::<IpAddr>().is_ok()
            || self.allowed_hosts.iter().any(|allowed| relative(allowed) == host)
    }
}

/// The `Host` of the request, if there is exactly one and it has no user.
fn authority(headers: &HeaderMap) -> Option<Authority> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none())?;
    host.to_str().ok()?.parse().ok().filter(|host: &Authority| !host.as_str().contains('@'))
}

/// Refuses the request, or passes it on with its whole body.
pub async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let at = request.extensions().get::<LocalAddress>();
    if let Some(LocalAddress(at)) = at
        && let Some(problem) = guard.refusal(*at, request.headers())
    {
        return problem.into_response();
    }
    let (head, mut body) = request.into_parts();
    let length = head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_DRAINED) {
        return Problem::BodyTooLarge.into_response();
    }
    if body.is_end_stream() {
        return next.run(Request::from_parts(head, body)).await;
    }
    let (mut whole, mut read) = (Vec::new(), 0);
    let receive = async {
        while let Some(frame) = body.frame().await {
            let data = frame
                .map_err(|_| Problem::InvalidJson("the body could not be read".to_owned()))?
                .into_data();
            let data = data.unwrap_or_default();
            read += data.len();
            if read <= MAX_BODY_BYTES {
                whole.extend_from_slice(&data);
            } else if read > MAX_DRAINED {
                break;
            }
        }
        if read > MAX_BODY_BYTES { Err(Problem::BodyTooLarge) } else { Ok(()) }
    };
    let received = timeout(BODY_TIMEOUT, receive).await;
    if let Err(problem) = received.unwrap_or(Err(Problem::BodyTimeout)) {
        return problem.into_response();
    }
    next.run(Request::from_parts(head, Body::from(whole))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(allowed: &[&str], at: &str, host: &str, origin: Option<&str>) -> &'static str {
        let guard = Guard { allowed_hosts: allowed.iter().map(|&name| name.to_owned()).collect() };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        match guard.refusal(at.parse().unwrap(), &headers) {
            None => "",
            Some(Problem::HostNotAllowed) => "host",
            Some(_) => "origin",
        }
    }

    #[test]
    fn rebound_names_are_refused() {
        for (at, host, expected) in [
            ("127.0.0.1", "127.0.0.1:8080", ""),
            ("127.0.0.1", "localhost", ""),
            ("127.0.0.1", "LocalHost:8080", ""),
            ("127.0.0.1", "localhost.:8080", ""),
            ("127.0.0.1", "localhost..", "host"),
            ("127.0.0.1", "a.localhost:8080", ""),
            ("::1", "[::1]:8080", ""),
            ("127.0.0.1", "10.0.0.1:8080", ""),
            ("::ffff:127.0.0.1", "evil.example:8080", "host"),
            ("127.0.0.1", "evil.example:8080", "host"),
            ("127.0.0.1", "localhost.evil.example", "host"),
            ("127.0.0.1", "127.0.0.1.evil.example", "host"),
            ("127.0.0.1", "x@localhost", "host"),
            ("127.0.0.1", "", "host"),
            ("10.0.0.1", "anything.example:8080", ""),
        ] {
            assert_eq!(refused(&[], at, host, None), expected, "{at} {host}");
        }
        for at in ["127.0.0.1", "10.0.0.1"] {
            for allowed in ["api.example.com", "API.example.com."] {
                let refused = |host| refused(&[allowed], at, host, None);
                assert_eq!(refused("API.example.com:8443"), "");
                assert_eq!(refused("api.example.com.:8443"), "");
                assert_eq!(refused("evil.example"), "host");
            }
        }
        let mut twice = HeaderMap::new();
        twice.append(header::HOST, "localhost".parse().unwrap());
        twice.append(header::HOST, "evil.example".parse().unwrap());
        let refusal = Guard::default().refusal([127, 0, 0, 1].into(), &twice);
        assert!(matches!(refusal, Some(Problem::HostNotAllowed)));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        for (host, origin, expected) in [
            ("10.0.0.1:80", "http://10.0.0.1:80", ""),
            ("api:80", "http://api:80", ""),
            ("api:80", "https://api:80", ""),
            ("api:80", "http://api:81", "origin"),
            ("api:80", "http://evil.example", "origin"),
            ("api:80", "null", "origin"),
        ] {
            let refused = refused(&["api"], "10.0.0.1", host, Some(origin));
            assert_eq!(refused, expected, "{host} {origin}");
        }
        // A rebound name is the page's own.
        let rebound = Some("http://evil.example");
        assert_eq!(refused(&[], "10.0.0.1", "evil.example", rebound), "origin");
    }
}
