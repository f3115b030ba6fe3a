//! Values of options that both programs have.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    ops::RangeInclusive,
    time::Duration,
};

use clap::{ValueEnum, builder::TypedValueParser};
use http::Uri;
use serde::{Deserialize, Serialize};

/// How the API authorizes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Anyone who knows the URL; a cluster secret still protects the cluster's record
    #[default]
    None,
    /// Callers that sign requests with AWS credentials that allow `execute-api:Invoke`
    Iam,
}

impl Auth {
    /// The value of the template's parameter `AuthorizationType`.
    pub fn authorization_type(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Iam => "AWS_IAM",
        }
    }
}

/// The longest time that an option accepts. Deadlines do not overflow with it, and a log may be kept for ten years.
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);

/// A time with its unit, such as `90s`, `10m` or `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|time| Duration::try_from(time).ok())
        .filter(|time| *time <= LONGEST)
        .ok_or_else(|| {
            "a time is a number with a unit, such as 90s, 10m or 2h, at most ten years".to_owned()
        })
}

/// A whole number in this range, whose end can be the largest one.
pub fn number<N>(range: RangeInclusive<u64>) -> impl TypedValueParser<Value = N>
where
    N: TryFrom<u64> + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| N::try_from(number).ok()).ok_or_else(|| match *range.end() {
            u64::MAX => format!("it must be a whole number of at least {}", range.start()),
            end => format!("it must be a whole number from {} to {end}", range.start()),
        })
    }
}

/// The value of a flag in a variable or a file.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err("it must be `true` or `false`".to_owned()),
    }
}

/// A URL whose default scheme is `https`, or `http` for this machine.
pub fn url_of_host(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return url(text);
    }
    let host = match text.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => text.split(['/', ':']).next(),
    };
    let scheme = if host.is_some_and(is_this_machine) { "http" } else { "https" };
    url(&format!("{scheme}://{text}"))
}

/// Whether requests to a host stay on this machine. An IPv6 address has no brackets.
pub fn is_this_machine(host: &str) -> bool {
    is_localhost(host)
        || host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

/// The addresses of this machine's own names. IPv6 may be off.
pub fn loopback_addresses() -> impl Iterator<Item = IpAddr> {
    let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    addresses.into_iter().filter(|it| it.is_ipv4() || UdpSocket::bind((*it, 0)).is_ok())
}

/// Whether a name is `localhost` or below it. These are this machine's (RFC 6761), but not every resolver knows them.
pub fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// A URL: `http` or `https`, a host, and optionally a port and a path. Slashes at its end are removed. The error does not contain the URL,
/// which may contain a password.
pub fn url(text: &str) -> Result<String, String> {
    const RULE: &str = "a URL is https://HOST or http://HOST:PORT";
    if text.contains('@') {
        return Err(format!("{RULE}, with no user name or password in it"));
    }
    let uri: Uri = text.parse().map_err(|_| RULE.to_owned())?;
    let has_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let is_base = uri.query().is_none() && !text.contains('#');
    if !has_scheme || uri.host().is_none_or(str::is_empty) || !is_base {
        return Err(RULE.to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_limit() {
        for (text, seconds) in [
            ("90s", Some(90)),
            ("1h30m", Some(5400)),
            ("1h 30m", Some(5400)),
            ("0s", Some(0)),
            ("87840h", Some(87_840 * 3600)),
            ("87841h", None),
            ("9223372036854775807s", None),
            ("-5s", None),
            ("30", None),
            ("soon", None),
            ("", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(duration(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_and_flags_are_refused_in_words() {
        let refusal = |range: RangeInclusive<u64>, text: &str| {
            let arg = Arg::new("n").value_parser(number::<u16>(range));
            let parsed = Command::new("c").arg(arg).try_get_matches_from(["c", text]);
            parsed.err().map(|error| error.to_string())
        };
        assert_eq!(refusal(1..=9, "9"), None);
        for (range, text, words) in [
            (1..=9, "10", "it must be a whole number from 1 to 9"),
            (1..=9, "many", "it must be a whole number from 1 to 9"),
            (1..=u64::MAX, "0", "it must be a whole number of at least 1"),
            (1..=u64::MAX, "70000", "it must be a whole number of at least 1"),
        ] {
            assert!(refusal(range, text).unwrap().contains(words), "{text}");
        }
        for (text, expected) in [("yes", Some(true)), ("FALSE", Some(false)), ("maybe", None)] {
            assert_eq!(boolean(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn urls_have_a_host_and_no_password() {
        for (text, expected) in [
            ("http://127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("https://a.example/prod/", Some("https://a.example/prod")),
            ("a.example", Some("https://a.example")),
            ("127.a.example", Some("https://127.a.example")),
            ("localhost:8080", Some("http://localhost:8080")),
            ("127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("[::1]:8080", Some("http://[::1]:8080")),
            ("[::ffff:127.0.0.1]", Some("http://[::ffff:127.0.0.1]")),
            ("[2001:db8::1]:8080", Some("https://[2001:db8::1]:8080")),
            ("LocalHost.:8080", Some("http://LocalHost.:8080")),
            ("a.localhost/prod", Some("http://a.localhost/prod")),
            ("alocalhost", Some("https://alocalhost")),
            ("a b", None),
            ("ftp://a.example", None),
            ("https://user:pw@a.example", None),
            ("https://a.example/?x", None),
            ("https://a.example/#x", None),
            ("https://", None),
            ("", None),
        ] {
            assert_eq!(url_of_host(text).ok().as_deref(), expected, "{text:?}");
        }
        assert!(url("a.example").is_err());
        assert!(!url("https://user:pw@a.example").unwrap_err().contains("pw"));
    }
}
