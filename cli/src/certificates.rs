//! Errors of certificates, explained.

/// What to do about a server's certificate that was not accepted, by the error's text; `None` if only its authority is not trusted.
pub fn advice(error: &str) -> Option<&'static str> {
    let advice = [
        (
            "CaUsedAsEndEntity",
            "make one with `basicConstraints=CA:FALSE`: this one is an authority's",
        ),
        ("certificate expired", "renew the server's certificate, or correct the clock"),
        ("not valid yet", "correct the clock, or wait until the server's certificate is valid"),
        ("not valid for name", "use a name in the server's certificate, or add this one to it"),
    ];
    advice.into_iter().find(|(part, _)| error.contains(part)).map(|(_, advice)| advice)
}
