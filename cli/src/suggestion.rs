//! "did you mean": the known name that is nearest to a wrong one.

/// Asks whether the nearest of the known names was meant; `None` if none is near. Case does not matter.
pub fn did_you_mean<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
    /// Half of the longer name. Jaro's measure, which clap uses, finds `dev` near to `default_environment`.
    const NEAR: f64 = 0.5;
    let folded = name.to_lowercase();
    let nearness =
        |known: &str| strsim::normalized_damerau_levenshtein(&folded, &known.to_lowercase());
    let (nearness, nearest) = known
        .map(|known| (nearness(known), known))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (nearness >= NEAR).then(|| format!("did you mean `{nearest}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_if_it_is_near() {
        let known = ["stack_name", "table_name", "role_arn", "MemorySize", "password_file"];
        for (name, suggested) in [
            ("stak_name", Some("stack_name")),
            ("stack-name", Some("stack_name")),
            ("tablename", Some("table_name")),
            ("Memory", Some("MemorySize")),
            ("role", Some("role_arn")),
            ("memorysize", Some("MemorySize")),
            ("password", Some("password_file")),
            ("quorum", None),
            ("mem", None),
            ("", None),
        ] {
            let hint = did_you_mean(name, known.into_iter());
            let expected = suggested.map(|known| format!("did you mean `{known}`?"));
            assert_eq!(hint, expected, "{name:?}");
        }
        assert_eq!(did_you_mean("name", [].into_iter()), None);
    }
}
