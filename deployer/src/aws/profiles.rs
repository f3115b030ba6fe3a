//! The AWS profiles, read as the AWS CLI reads them: it takes files that the SDK's parser refuses or misunderstands.

use std::{borrow::Cow, io::ErrorKind, path::PathBuf};

use aws_config::profile::{Profile, ProfileFileLoadError, ProfileSet};
use aws_runtime::env_config::file::{
    Builder as EnvConfigFilesBuilder, EnvConfigFileKind as Kind, EnvConfigFiles,
};
use aws_types::os_shim_internal::{Env, Fs};
use cbbootstrap_cli::{
    environment::{variable, variable_os},
    signer::{invalid_key, is_printable},
    text,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{
    causes::{causes, chain},
    failure::Failure,
    network::{Bundle, Endpoint, Network, origin},
};

/// What a name may contain for the SDK, except for `%`.
const IDENTIFIER: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'-')
    .remove(b'/')
    .remove(b'.')
    .remove(b'@')
    .remove(b':')
    .remove(b'+');

/// The properties whose values are names of sections.
const REFERENCES: [&str; 3] = ["source_profile", "sso_session", "services"];

/// The source of credentials that stands for [`SsoSession`], and the profile that has it. [`encode`] makes no such name.
pub const SSO_SOURCE: &str = "%sso";

/// The properties that are signed with, or sent.
const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// The properties that keys come from, in the SDK's order.
const SOURCES: [&str; 7] = [
    "credential_source",
    "web_identity_token_file",
    "sso_session",
    "sso_start_url",
    "login_session",
    "credential_process",
    "aws_access_key_id",
];

/// The profiles of the configuration and credentials files.
#[derive(Clone, Debug)]
pub struct Profiles {
    /// For the SDK.
    pub files: EnvConfigFiles,
    /// The name of the profile in use, for the SDK.
    pub selected: String,
    set: ProfileSet,
    /// The keys' source, if the SDK would get it wrong.
    pub sso: Option<SsoSession>,
}

/// A session of IAM Identity Center whose name the SDK's parser refuses. Its token is in a file named after the hash of this name,
/// and the SDK would use that of the encoded one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SsoSession {
    pub name: String,
    pub region: String,
    pub start_url: String,
    pub account_id: String,
    pub role_name: String,
}

/// A setting, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    /// For messages: the variable, or the property of a profile.
    pub source: String,
}

impl Profiles {
    /// Reads the files, of which the profile with this name is in use, or else the default one.
    pub async fn read(name: Option<&str>) -> Result<Self, Failure> {
        let mut files = EnvConfigFiles::builder();
        for (kind, variable, default) in [
            (Kind::Config, "AWS_CONFIG_FILE", "~/.aws/config"),
            (Kind::Credentials, "AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        ] {
            let text = read_file(variable, default)?;
            let text = normalize(&text, matches!(kind, Kind::Config));
            let file = EnvConfigFiles::builder().with_contents(kind, &text).build();
            let invalid = |error: ProfileFileLoadError| {
                let reason = chain(&error).last().map(ToString::to_string).unwrap_or_default();
                let reason = reason.replace("error parsing  on line", "line");
                let path = variable_os(variable).unwrap_or_else(|| default.into());
                Failure::new(format!(
                    "cannot read the AWS profiles in `{}`: {reason}",
                    path.display()
                ))
                .hint("correct that line; the AWS CLI reads the same file")
            };
            load(&file, "default").await.map_err(invalid)?;
            files = files.with_contents(kind, text);
        }
        let selected = encode(name.unwrap_or("default")).into_owned();
        Self::load(files, selected).await.map_err(|error| Failure::new(causes(&error)))
    }

    async fn load(
        files: EnvConfigFilesBuilder,
        selected: String,
    ) -> Result<Self, ProfileFileLoadError> {
        let set = load(&files.clone().build(), &selected).await?;
        let mut profiles = Self { files: files.clone().build(), selected, set, sso: None };
        if let Some((session, text)) = profiles.find_sso() {
            profiles.files = files.with_contents(Kind::Config, text).build();
            profiles.sso = Some(session);
        }
        Ok(profiles)
    }

    /// The names of all profiles, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.set.profiles().map(decode).collect();
        names.sort_unstable();
        names
    }

    /// Checks that the profile in use exists: the SDK would use other credentials.
    pub fn check_selected(&self) -> Result<(), Failure> {
        self.check_exists(&self.selected)
    }

    fn check_exists(&self, name: &str) -> Result<(), Failure> {
        if self.set.get_profile(name).is_some() {
            return Ok(());
        }
        let hint = match self.names().as_slice() {
            [] => "there are no profiles: `aws configure --profile NAME` makes one".to_owned(),
            known => format!("there are: {}", known.join(", ")),
        };
        Err(Failure::new(format!("there is no AWS profile `{}`", decode(name))).hint(hint))
    }

    /// The value of a variable, or else of the profile's property.
    pub fn setting(&self, name: &str, property: &str) -> Option<Setting> {
        if let Some(value) = variable(name) {
            return Some(Setting { value, source: format!("`{name}`") });
        }
        let value = self.set.get(property)?.to_owned();
        let profile = decode(&self.selected);
        Some(Setting { value, source: format!("`{property}` of the profile `{profile}`") })
    }

    pub fn region(&self) -> Option<String> {
        self.set.get("region").map(ToOwned::to_owned)
    }

    pub fn network(&self) -> Result<Network, Failure> {
        let bundle = self.setting("AWS_CA_BUNDLE", "ca_bundle").map(|bundle| Bundle {
            path: expand_home(bundle.value.into()),
            setting: bundle.source,
        });
        let endpoint = self.setting("AWS_ENDPOINT_URL", "endpoint_url").and_then(|endpoint| {
            let origin = origin(&endpoint.value.parse().ok()?)?;
            Some(Endpoint { origin, setting: endpoint.source })
        });
        Network::new(bundle, endpoint)
    }

    /// Checks the profiles that the credentials come from. The SDK would panic at some of their keys, and ignores what it cannot do.
    pub fn check_credentials(&self) -> Result<(), Failure> {
        self.chain().into_iter().try_for_each(|profile| {
            check_profile(profile)?;
            let Some(source) = source_profile(profile) else {
                return Ok(());
            };
            self.check_exists(source).map_err(|failure| {
                let name = decode(profile.name());
                failure.about(format_args!("`source_profile` of the profile `{name}`"))
            })
        })
    }

    /// Where the keys come from, for messages: the property of the profile at the end of the roles; `None` without a profile.
    pub fn source(&self) -> Option<String> {
        let profile = self.chain().pop()?;
        let property = SOURCES.iter().find(|property| profile.get(property).is_some())?;
        Some(format!("`{property}` of the profile `{}`", decode(profile.name())))
    }

    /// Whether the profile in use says where credentials come from, even if that is wrong.
    pub fn has_credentials(&self) -> bool {
        let profile = self.set.get_profile(&self.selected);
        let is_set = |property: &&str| profile.is_some_and(|it| it.get(property).is_some());
        SOURCES.iter().chain(&["role_arn", "source_profile"]).any(is_set)
    }

    /// The session with the keys, if the SDK cannot use it, and the text of a file that makes the SDK take the keys from [`SSO_SOURCE`]
    /// instead. `None` for an incomplete session, because the SDK's error names what is missing.
    fn find_sso(&self) -> Option<(SsoSession, String)> {
        let profile = self.chain().pop()?;
        let (id, name) = (profile.get("sso_session")?, profile.name());
        let other_sources =
            ["credential_source", "web_identity_token_file", "sso_start_url", "sso_region"];
        if decode(id) == id || other_sources.iter().any(|property| profile.get(property).is_some())
        {
            return None;
        }
        let text = match (profile.get("role_arn"), profile.get("source_profile")) {
            (None, _) => format!("[profile {name}]\ncredential_source = {SSO_SOURCE}\n"),
            // It has a role and its keys.
            (Some(_), Some(source)) if source == name => format!(
                "[profile {name}]\nsource_profile = {SSO_SOURCE}\n[profile {SSO_SOURCE}]\ncredential_source = {SSO_SOURCE}\n"
            ),
            _ => return None,
        };
        let session = self.set.sso_session(id)?;
        let session = SsoSession {
            name: decode(id),
            region: session.get("sso_region")?.to_owned(),
            start_url: session.get("sso_start_url")?.to_owned(),
            account_id: profile.get("sso_account_id")?.to_owned(),
            role_name: profile.get("sso_role_name")?.to_owned(),
        };
        Some((session, text))
    }

    /// The profile in use, and those of which each takes the keys of the next one for its role.
    fn chain(&self) -> Vec<&Profile> {
        let mut chain: Vec<&Profile> = Vec::new();
        let mut next = self.set.get_profile(&self.selected);
        while let Some(profile) = next
            && chain.iter().all(|seen| seen.name() != profile.name())
        {
            chain.push(profile);
            next = source_profile(profile).and_then(|source| self.set.get_profile(source));
        }
        chain
    }
}

/// The profile with the keys for the role of this one.
fn source_profile(profile: &Profile) -> Option<&str> {
    profile.get("role_arn").and(profile.get("source_profile"))
}

fn check_profile(profile: &Profile) -> Result<(), Failure> {
    let name = decode(profile.name());
    for key in KEYS {
        if profile.get(key).is_some_and(|value| !is_printable(value)) {
            return Err(invalid_key(&format!("`{key}` of the profile `{name}`")));
        }
    }
    let takes_role =
        profile.get("role_arn").is_some() && profile.get("web_identity_token_file").is_none();
    if takes_role && profile.get("mfa_serial").is_some() {
        return Err(Failure::new(format!(
            "the profile `{name}` requires an MFA code (`mfa_serial`), which cbbootstrap cannot ask for"
        ))
        .hint(format!(
            "let the AWS CLI ask: `eval \"$(aws configure export-credentials --profile '{name}' --format env)\"`, and omit `--profile`"
        )));
    }
    Ok(())
}

async fn load(files: &EnvConfigFiles, name: &str) -> Result<ProfileSet, ProfileFileLoadError> {
    let name = Some(Cow::Owned(name.to_owned()));
    aws_config::profile::load(&Fs::real(), &Env::real(), files, name).await
}

/// The text of the file that the variable names, or of the default one; empty if it does not exist.
fn read_file(name: &str, default: &str) -> Result<String, Failure> {
    let set = variable_os(name);
    let is_default = set.is_none();
    let path = expand_home(set.map_or_else(|| default.into(), PathBuf::from));
    match text::read_text(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        // A container may run as another user than the owner of `HOME`.
        Err(error) if is_default && error.kind() == ErrorKind::PermissionDenied => {
            Ok(String::new())
        }
        Err(error) => {
            Err(Failure::new(error.to_string()).hint(format!("`{name}` names another file")))
        }
    }
}

fn expand_home(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), dirs::home_dir()) {
        (Ok(below), Some(home)) => home.join(below),
        _ => path,
    }
}

/// The text of a file in the form that the SDK's parser takes, line by line: without indentation (of more than nested
/// properties), comments and empty properties, with `=` after each name, and with names that it accepts.
fn normalize(text: &str, is_config: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    // The indentation of the last property: lines that are indented more continue it.
    let mut property: Option<usize> = None;
    // The line of the last property, if it has no value yet.
    let mut empty: Option<usize> = None;
    for line in text.split(['\n', '\r']) {
        let content = line.trim();
        let indentation = line.len() - line.trim_start().len();
        if content.is_empty() || content.starts_with(['#', ';']) {
            lines.push(String::new());
            continue;
        }
        if property.is_some_and(|property| indentation > property) {
            empty = None;
            lines.push(format!("  {content}"));
            continue;
        }
        if let Some(line) = empty.take() {
            lines[line].clear();
        }
        let section = content.strip_prefix('[').and_then(|rest| rest.rsplit_once(']'));
        if let Some((section, _)) = section {
            property = None;
            lines.push(format!("[{}]", normalize_section(section, is_config)));
            continue;
        }
        property = Some(indentation);
        let Some((name, value)) = content.split_once(['=', ':']) else {
            lines.push(content.to_owned());
            continue;
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let name = match name.as_str() {
            "aws_security_token" => "aws_session_token",
            name => name,
        };
        if value.is_empty() {
            empty = Some(lines.len());
        }
        let value = if REFERENCES.contains(&name) { encode(value) } else { value.into() };
        lines.push(format!("{name} = {value}"));
    }
    if let Some(line) = empty {
        lines[line].clear();
    }
    lines.join("\n")
}

/// The name of a section: in the configuration file with its kind, such as `profile`.
fn normalize_section(section: &str, is_config: bool) -> String {
    let section = section.trim();
    match section.split_once(char::is_whitespace) {
        Some((kind, name)) if is_config => {
            let name = name.trim();
            let quoted = |quote: char| name.strip_prefix(quote)?.strip_suffix(quote);
            format!("{kind} {}", encode(quoted('"').or_else(|| quoted('\'')).unwrap_or(name)))
        }
        _ => encode(section).into_owned(),
    }
}

/// A name as an identifier of the SDK's parser.
fn encode(name: &str) -> Cow<'_, str> {
    utf8_percent_encode(name, IDENTIFIER).into()
}

fn decode(name: &str) -> String {
    percent_decode_str(name).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests;
