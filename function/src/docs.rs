//! `GET /docs`: Swagger UI for the OpenAPI document. All files are in the binary, so the page sends no requests to other sites.
//! These routes do not call the table.

use axum::{Router, http::header, response::IntoResponse, routing::get};

const PAGE: &str = include_str!("docs/index.html");
const INIT: &str = include_str!("docs/init.js");

/// Swagger UI's files as gzip (see `build.rs`), which every browser accepts. Unpacked, they would make each response four times as
/// large.
const STYLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz"));
const BUNDLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.gz"));

/// The page may load this site's files and call this API. Swagger UI's icons are `data:` URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// An hour: long enough for a visit, and short enough to replace all files soon after an update.
const CACHE: &str = "public, max-age=3600";

const CSS: &str = "text/css; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/docs", get(page))
        .route("/docs/init.js", get(async || file(JAVASCRIPT, INIT)))
        .route("/docs/swagger-ui.css", get(async || gzip(CSS, STYLE)))
        .route("/docs/swagger-ui-bundle.js", get(async || gzip(JAVASCRIPT, BUNDLE)))
}

/// The page's links are relative, because the path may begin with a stage.
async fn page() -> impl IntoResponse {
    (
        [(header::CONTENT_SECURITY_POLICY, POLICY), (header::REFERRER_POLICY, "no-referrer")],
        file(HTML, PAGE),
    )
}

fn gzip(content_type: &'static str, body: &'static [u8]) -> impl IntoResponse {
    ([(header::CONTENT_ENCODING, "gzip")], file(content_type, body))
}

fn file(content_type: &'static str, body: impl IntoResponse) -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, content_type),
            (header::CACHE_CONTROL, CACHE),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        body,
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use base64::{Engine, prelude::BASE64_STANDARD};
    use flate2::read::GzDecoder;
    use serde_json::{Value, json};

    use super::*;
    use crate::event::respond;

    /// The response to a `GET` of this path through an HTTP API with a stage.
    async fn get(path: &str) -> Value {
        let event = json!({
            "version": "2.0", "rawPath": format!("/prod{path}"),
            "requestContext": {"stage": "prod", "http": {"method": "GET"}},
        });
        let router = router::<()>().with_state(());
        respond(router, event.to_string().as_bytes(), "id", "").await
    }

    #[tokio::test]
    async fn the_page_loads_only_files_of_its_site_and_stage() {
        let answer = get("/docs").await;
        assert_eq!(answer["statusCode"], 200);
        let policy = answer["headers"]["content-security-policy"].as_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let page = answer["body"].as_str().unwrap();
        let links: Vec<_> = ["src=\"", "href=\""]
            .iter()
            .flat_map(|attribute| page.split(attribute).skip(1))
            .filter_map(|rest| rest.split('"').next())
            .filter(|link| *link != "data:,")
            .collect();
        assert_eq!(links.len(), 4, "{links:?}");
        for link in links.iter().filter(|link| **link != "swagger.yaml") {
            assert_eq!(get(&format!("/{link}")).await["statusCode"], 200, "{link}");
        }
    }

    #[tokio::test]
    async fn swagger_ui_is_sent_as_gzip() {
        for (path, content_type, has) in [
            ("/docs/swagger-ui.css", CSS, ".swagger-ui"),
            ("/docs/swagger-ui-bundle.js", JAVASCRIPT, "SwaggerUIBundle"),
        ] {
            let answer = get(path).await;
            let headers = &answer["headers"];
            assert_eq!(headers["content-type"], content_type);
            assert_eq!(headers["content-encoding"], "gzip");
            assert_eq!(headers["cache-control"], CACHE);
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(answer["isBase64Encoded"], true);
            let body = BASE64_STANDARD.decode(answer["body"].as_str().unwrap());
            let mut text = String::new();
            GzDecoder::new(&*body.unwrap()).read_to_string(&mut text).unwrap();
            assert!(text.contains(has), "{path}");
        }
    }
}
