//! Answers a claim as if the node were the first, without looking.

use axum::{Json, Router, body::Bytes, http::StatusCode, routing::post};
use lambda_http::Error;
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_http::run(Router::new().route("/cluster", post(claim))).await
}

/// `curl -d` calls the body a form, whatever it is.
async fn claim(body: Bytes) -> Result<Json<Value>, StatusCode> {
    let claim: Value = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok(Json(json!({
        "cluster_id": claim["cluster_id"],
        "initial_node_ip_addr_or_hostname": claim["node_ip_addr_or_hostname"],
        "is_initial_node": true,
        "state": "claimed",
        "generation": 1,
    })))
}
