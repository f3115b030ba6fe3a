use super::*;

/// The profiles of these files.
async fn parse(config: &str, credentials: &str, name: &str) -> Profiles {
    let files = EnvConfigFiles::builder()
        .with_contents(Kind::Config, normalize(config, true))
        .with_contents(Kind::Credentials, normalize(credentials, false));
    let profiles = Profiles::load(files, encode(name).into_owned()).await;
    profiles.unwrap_or_else(|error| panic!("{}", causes(&error)))
}

#[tokio::test]
async fn files_are_read_as_the_aws_cli_reads_them() {
    for (config, name, expected) in [
        ("[default]\nregion = eu-west-1", "default", Some("eu-west-1")),
        ("[profile a]\nregion=eu-west-1", "a", Some("eu-west-1")),
        ("[profile a]\r\nregion = eu-west-1\r\n", "a", Some("eu-west-1")),
        ("[profile a]\rregion = eu-west-1\r", "a", Some("eu-west-1")),
        ("[profile a]\nregion: eu-west-1", "a", Some("eu-west-1")),
        ("[profile a]\nREGION =\teu-west-1 \t", "a", Some("eu-west-1")),
        ("  [profile a]\n  output = json\n  region = eu-west-1", "a", Some("eu-west-1")),
        ("\t[profile a]\n\t\toutput = json\n\t\tregion = eu-west-1", "a", Some("eu-west-1")),
        ("[profile a]\n    output = json\n    region = eu-west-1", "a", Some("eu-west-1")),
        ("[profile a]\n  s3 =\n    a = b\n    c = d\n  region = eu-west-1", "a", Some("eu-west-1")),
        ("[profile a]\nregion = eu-west-1\n  # comment\n  ; another", "a", Some("eu-west-1")),
        ("[profile a]\nregion =\n# comment\noutput = json", "a", None),
        ("[profile a]\nregion =", "a", None),
        ("[profile a]\nregion =\n[profile b]\nregion = eu-west-1", "a", None),
        ("[profile \"my team\"]\nregion = eu-west-1", "my team", Some("eu-west-1")),
        ("[profile 'my team']\nregion = eu-west-1", "my team", Some("eu-west-1")),
        ("[profile   my team ]\nregion = eu-west-1", "my team", Some("eu-west-1")),
        ("[profile Größe]\nregion = eu-west-1", "Größe", Some("eu-west-1")),
        ("[profile 50%]\nregion = eu-west-1", "50%", Some("eu-west-1")),
        ("[profile a] ; comment\nregion = eu-west-1", "a", Some("eu-west-1")),
        ("[ default ]\nregion = eu-west-1", "default", Some("eu-west-1")),
        ("[profile b]\nregion = eu-west-1", "a", None),
        ("", "default", None),
    ] {
        let region = parse(config, "", name).await.region();
        assert_eq!(region.as_deref(), expected, "{config:?}");
    }
    let credentials = "  [my team]\r\n  region: eu-west-1\r\n";
    assert_eq!(parse("", credentials, "my team").await.region().as_deref(), Some("eu-west-1"));
}

#[tokio::test]
async fn references_follow_names_with_spaces() {
    let config = "[profile a]\nsource_profile = my team\nsso_session = my session\n[sso-session my session]\n\
         sso_region = eu-west-1\n[profile my team]\nregion = eu-west-1";
    let profiles = parse(config, "", "a").await;
    let profile = profiles.set.get_profile("a").unwrap();
    let source = profiles.set.get_profile(profile.get("source_profile").unwrap());
    assert_eq!(source.unwrap().get("region"), Some("eu-west-1"));
    assert!(profiles.set.sso_session(profile.get("sso_session").unwrap()).is_some());
    let missing = parse(config, "", "our team").await.check_selected().unwrap_err();
    assert_eq!(missing.to_string(), "there is no AWS profile `our team`");
    assert_eq!(missing.hint.as_deref(), Some("there are: a, my team"));
}

#[tokio::test]
async fn credentials_that_cannot_be_used_are_refused() {
    for (config, part) in [
        ("[default]\naws_access_key_id = AKIA", None),
        ("[default]\naws_access_key_id = AK\u{1b}IA", Some("`aws_access_key_id` of the profile")),
        ("[default]\naws_secret_access_key = a b", Some("`aws_secret_access_key` of")),
        ("[default]\naws_session_token = tökën", Some("`aws_session_token` of")),
        ("[default]\naws_session_token = a\n  b", Some("`aws_session_token` of")),
        ("[profile other]\naws_access_key_id = a\tb", None),
        ("[default]\nmfa_serial = arn:aws:iam::123456789012:mfa/me", None),
        (
            "[default]\nrole_arn = r\nsource_profile = b\nmfa_serial = m",
            Some("`default` requires an MFA"),
        ),
        (
            "[default]\nrole_arn = r\nsource_profile = b\n[profile b]\nrole_arn = r\nsource_profile = c\nmfa_serial = m",
            Some("`b` requires an MFA"),
        ),
        (
            "[default]\nrole_arn = r\nsource_profile = b\n[profile b]\naws_access_key_id = a b",
            Some("of the profile `b`"),
        ),
        ("[default]\nrole_arn = r\nsource_profile = default", None),
        ("[default]\nrole_arn = r\nweb_identity_token_file = f\nmfa_serial = m", None),
    ] {
        let error = parse(config, "", "default").await.check_credentials().err();
        let text = error.map(|error| error.to_string());
        match part {
            Some(part) => assert!(
                text.as_ref().is_some_and(|text| text.contains(part)),
                "{config:?}: {text:?}"
            ),
            None => assert_eq!(text, None, "{config:?}"),
        }
    }
}

#[tokio::test]
async fn sessions_keep_the_names_that_their_tokens_are_stored_under() {
    const SESSION: &str = "[sso-session 'my company']\nsso_region = eu-west-1\nsso_start_url = https://company.example\n\
         [sso-session company]\nsso_region = eu-west-1\nsso_start_url = https://company.example\n\
         [sso-session Größe 50%]\nsso_region = eu-west-1\nsso_start_url = https://company.example\n";
    const ACCOUNT: &str = "sso_account_id = 1\nsso_role_name = r";
    for (profiles, expected) in [
        (format!("[default]\nsso_session = company\n{ACCOUNT}"), None),
        (format!("[default]\nsso_session = my company\n{ACCOUNT}"), Some("my company")),
        (format!("[default]\nsso_session = Größe 50%\n{ACCOUNT}"), Some("Größe 50%")),
        (
            format!(
                "[default]\nrole_arn = r\nsource_profile = my team\n[profile my team]\nsso_session = my company\n{ACCOUNT}"
            ),
            Some("my company"),
        ),
        (
            format!(
                "[default]\nrole_arn = r\nsource_profile = default\nsso_session = my company\n{ACCOUNT}"
            ),
            Some("my company"),
        ),
        // These are the SDK's to refuse, or have other keys.
        ("[default]\nsso_session = my company".to_owned(), None),
        (format!("[default]\nsso_session = our company\n{ACCOUNT}"), None),
        (format!("[default]\nsso_session = my company\nsso_region = a\n{ACCOUNT}"), None),
        (format!("[default]\nrole_arn = r\nsso_session = my company\n{ACCOUNT}"), None),
        (
            format!(
                "[default]\nrole_arn = r\ncredential_source = Environment\nsso_session = my company\n{ACCOUNT}"
            ),
            None,
        ),
    ] {
        let parsed = parse(&format!("{profiles}\n{SESSION}"), "", "default").await;
        let name = parsed.sso.map(|session| session.name);
        assert_eq!(name.as_deref(), expected, "{profiles:?}");
    }
}
