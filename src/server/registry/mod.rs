//! The project's schemas over Confluent's HTTP API, below `/registry`: other programs' serializers work against it.
//!
//! The same callers are let in as everywhere on this server. Paths, payloads and error codes are Confluent's; what differs
//! is in `docs/decisions/0010-schema-registry-face.md`.
mod answer;
mod config;
mod request;
mod schemas;
mod subjects;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use tidemill_etl::schema_registry::EmbeddedRegistry;

pub(super) use answer::denied;

/// Where it is on the server.
pub(super) const PATH: &str = "/registry";

/// A schema of 1 MiB, the largest there may be, as a text in JSON, with room for its references.
const MAX_BODY: usize = 4 << 20;

/// What every handler works on; `None`: the project's schemas are at another registry.
#[derive(Clone)]
struct Face(Option<Arc<EmbeddedRegistry>>);

/// The routes, without [`PATH`] before them.
pub(super) fn router<S: Clone + Send + Sync + 'static>(registry: Option<Arc<EmbeddedRegistry>>) -> Router<S> {
    Router::new()
        .route("/", get(config::root))
        .route("/subjects", get(subjects::list))
        .route("/subjects/{subject}", post(subjects::look_up).delete(subjects::delete))
        .route("/subjects/{subject}/versions", get(subjects::versions).post(subjects::register))
        .route("/subjects/{subject}/versions/{version}", get(subjects::version).delete(subjects::delete_version))
        .route("/subjects/{subject}/versions/{version}/schema", get(subjects::text))
        .route("/subjects/{subject}/versions/{version}/referencedby", get(subjects::users))
        .route("/schemas", get(schemas::list))
        .route("/schemas/types", get(schemas::types))
        .route("/schemas/ids/{id}", get(schemas::by_id))
        .route("/schemas/ids/{id}/schema", get(schemas::text))
        .route("/schemas/ids/{id}/subjects", get(schemas::subjects))
        .route("/schemas/ids/{id}/versions", get(schemas::versions))
        .route("/config", get(config::level).put(config::set_level).delete(config::clear_level))
        .route(
            "/config/{subject}",
            get(config::subject_level).put(config::set_subject_level).delete(config::clear_subject_level),
        )
        .route("/compatibility/subjects/{subject}/versions", post(config::check_all))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(config::check_one))
        .route("/mode", get(config::mode).put(config::no_mode).delete(config::no_mode))
        .route("/mode/{subject}", get(config::subject_mode).put(config::no_mode).delete(config::no_mode))
        .fallback(answer::nowhere)
        .method_not_allowed_fallback(answer::no_method)
        .layer(middleware::from_fn(request::only_json))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Face(registry))
}
