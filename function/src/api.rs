//! The routes. Each reads its request, asks the [`Store`] once and answers with a pure function of the record.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use serde_json::{Map, Value};

use crate::{
    CONTRACT, docs,
    problem::Problem,
    protocol::{ClusterId, InvalidName, Node},
    store::Store,
    wire::{About, Cluster, MAX_BODY_BYTES},
};

type Answer = Result<Json<Cluster>, Problem>;

/// The whole API over one store.
pub fn router(store: Store) -> Router {
    Router::new()
        .route("/", get(about))
        .route("/swagger.yaml", get(contract))
        .route("/cluster", post(claim))
        .route("/cluster/get_status", post(status))
        // A wildcard, for API Gateway decodes `%2F`: an id with a slash arrives as several segments.
        .route("/cluster/{*cluster_id}", get(status_by_path))
        .merge(docs::router())
        .fallback(async || Problem::RouteNotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(store)
}

async fn about() -> Json<About> {
    let links = [("contract", "swagger.yaml"), ("docs", "docs")];
    Json(About {
        name: "cbbootstrap".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        links: BTreeMap::from(links.map(|(name, path)| (name.to_owned(), path.to_owned()))),
    })
}

async fn contract() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/yaml")], CONTRACT)
}

async fn claim(State(store): State<Store>, body: Result<Bytes, BytesRejection>) -> Answer {
    let fields = Fields::parse(body)?;
    let (cluster_id, node) = (
        fields.cluster_id()?,
        fields.node()?.ok_or(Problem::MissingField(NODE))?,
    );
    Ok(Json(
        store.claim(&cluster_id, &node).await?.answer(Some(&node)),
    ))
}

async fn status(State(store): State<Store>, body: Result<Bytes, BytesRejection>) -> Answer {
    let fields = Fields::parse(body)?;
    let (cluster_id, node) = (fields.cluster_id()?, fields.node()?);
    let record = store
        .status(&cluster_id)
        .await?
        .ok_or(Problem::ClusterNotFound)?;
    Ok(Json(record.answer(node.as_ref())))
}

async fn status_by_path(
    State(store): State<Store>,
    path: Result<Path<String>, PathRejection>,
) -> Answer {
    let Path(text) =
        path.map_err(|_| Problem::InvalidField(CLUSTER_ID, "must be UTF-8".to_owned()))?;
    let cluster_id =
        ClusterId::new(text).map_err(|reason| Problem::invalid_name(CLUSTER_ID, reason))?;
    let record = store
        .status(&cluster_id)
        .await?
        .ok_or(Problem::ClusterNotFound)?;
    Ok(Json(record.answer(None)))
}

const CLUSTER_ID: &str = "cluster_id";
const NODE: &str = "node_ip_addr_or_hostname";

/// A request's body: a JSON object whatever `Content-Type` says, since `curl -d` calls it a form. Fields that we do not
/// know are let through, as the original did.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(body: Result<Bytes, BytesRejection>) -> Result<Self, Problem> {
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::BodyTooLarge,
            _ => Problem::InvalidJson("the body could not be read".to_owned()),
        })?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|error| Problem::InvalidJson(error.to_string()))
    }

    fn cluster_id(&self) -> Result<ClusterId, Problem> {
        self.name(CLUSTER_ID, ClusterId::new)?
            .ok_or(Problem::MissingField(CLUSTER_ID))
    }

    fn node(&self) -> Result<Option<Node>, Problem> {
        self.name(NODE, Node::new)
    }

    /// The field as a valid name; `None` where there is no such field.
    fn name<T>(
        &self,
        field: &'static str,
        valid: fn(String) -> Result<T, InvalidName>,
    ) -> Result<Option<T>, Problem> {
        match self.0.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => valid(text.clone())
                .map(Some)
                .map_err(|reason| Problem::invalid_name(field, reason)),
            Some(_) => Err(Problem::InvalidField(field, "must be a string".to_owned())),
        }
    }
}
