//! What is asked: bodies, queries, names of versions.
use std::sync::Arc;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidemill_etl::schema_registry::{Draft, EmbeddedRegistry, Entry, Reference};

use super::Face;
use super::answer::Complaint;

/// A browser sends other pages' requests here without asking, unless they carry what only scripts of this server may send:
/// JSON as its content type is such a thing. (DELETE and PUT always are.)
pub(super) async fn only_json(request: Request, next: Next) -> Response {
    let writes = matches!(*request.method(), Method::POST | Method::PUT);
    if writes && !json(request.headers()) {
        return Complaint::new(415, "HTTP 415 Unsupported Media Type: send application/vnd.schemaregistry.v1+json")
            .into_response();
    }
    next.run(request).await
}

fn json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ["application/vnd.schemaregistry.v1+json", "application/vnd.schemaregistry+json", "application/json"]
        .contains(&kind.as_str())
}

/// The registry, or 404 where the project has another one.
impl FromRequestParts<Face> for Registry {
    type Rejection = Complaint;

    async fn from_request_parts(_: &mut Parts, face: &Face) -> Result<Self, Complaint> {
        let elsewhere =
            || Complaint::new(404, "this project keeps its schemas at another registry: see `schemas.registry`");
        face.0.clone().map(Self).ok_or_else(elsewhere)
    }
}

/// The registry that is served.
pub(super) struct Registry(pub(super) Arc<EmbeddedRegistry>);

/// A body that is read as JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Face> for Body<T> {
    type Rejection = Complaint;

    async fn from_request(request: Request, face: &Face) -> Result<Self, Complaint> {
        let bytes = Bytes::from_request(request, face).await.map_err(|error: BytesRejection| {
            if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Complaint::new(413, format!("the request has more than {} bytes", super::MAX_BODY))
            } else {
                Complaint::new(400, "the request's body did not arrive")
            }
        })?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Complaint::new(422, format!("Unrecognized request: {error}")))
    }
}

/// The switches that requests have in their query; absent: off.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Switches {
    deleted: Option<String>,
    deleted_only: Option<String>,
    permanent: Option<String>,
    verbose: Option<String>,
    default_to_global: Option<String>,
    latest_only: Option<String>,
    /// `resolved`: with the types of references in it.
    pub(super) format: Option<String>,
    /// Names begin with it; empty: all.
    pub(super) subject_prefix: Option<String>,
    /// How many to leave out at the start.
    pub(super) offset: Option<usize>,
    /// How many at most; absent or below 1: all.
    pub(super) limit: Option<i64>,
}

/// As other programs write it: `true`, `True`, or nothing at all behind the name.
fn on(switch: Option<&String>) -> bool {
    switch.is_some_and(|text| text.is_empty() || text.eq_ignore_ascii_case("true"))
}

impl Switches {
    pub(super) fn permanent(&self) -> bool {
        on(self.permanent.as_ref())
    }

    pub(super) fn verbose(&self) -> bool {
        on(self.verbose.as_ref())
    }

    pub(super) fn default_to_global(&self) -> bool {
        on(self.default_to_global.as_ref())
    }

    pub(super) fn latest_only(&self) -> bool {
        on(self.latest_only.as_ref())
    }

    pub(super) fn deleted(&self) -> bool {
        on(self.deleted.as_ref())
    }

    pub(super) fn deleted_only(&self) -> bool {
        on(self.deleted_only.as_ref())
    }

    /// Whether a version with this state is wanted.
    pub(super) fn wants(&self, deleted: bool) -> bool {
        if self.deleted_only() { deleted } else { !deleted || self.deleted() }
    }

    /// The page of a list that is asked for.
    pub(super) fn page<T>(&self, all: impl IntoIterator<Item = T>) -> Vec<T> {
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        all.into_iter().skip(self.offset.unwrap_or(0)).take(limit.unwrap_or(usize::MAX)).collect()
    }
}

/// A schema as it is sent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sent {
    schema: Option<String>,
    schema_type: Option<String>,
    references: Option<Vec<Reference>>,
    id: Option<i64>,
    metadata: Option<Value>,
    rule_set: Option<Value>,
}

impl Sent {
    /// The schema, if it is one that this registry can keep.
    pub(super) fn draft(self) -> Result<Draft, Complaint> {
        let invalid = |why: &str| Err(Complaint::new(42201, format!("Invalid schema: {why}")));
        if let Some(kind) = self.schema_type.filter(|kind| !kind.eq_ignore_ascii_case("AVRO")) {
            return invalid(&format!("this registry keeps AVRO only, not {kind}"));
        }
        // Left out in silence, a rule that encrypts a field would be a promise broken.
        if self.metadata.is_some() || self.rule_set.is_some() {
            return invalid("this registry keeps no metadata and no rules");
        }
        match self.schema {
            Some(schema) => Ok(Draft { schema, references: self.references.unwrap_or_default() }),
            None => invalid("there is none"),
        }
    }

    /// Whether it asks for an id of its own.
    pub(super) fn wants_id(&self) -> bool {
        self.id.is_some_and(|id| id > 0)
    }
}

/// Which version a path names.
pub(super) enum Wanted {
    Latest,
    Number(i32),
}

impl Wanted {
    pub(super) fn parse(text: &str) -> Result<Self, Complaint> {
        match text {
            "latest" | "-1" => Ok(Self::Latest),
            number => match number.parse() {
                Ok(number) if number > 0 => Ok(Self::Number(number)),
                _ => Err(Complaint::bad_version(text)),
            },
        }
    }

    /// The version among a subject's, oldest first.
    pub(super) fn of(&self, entries: &[Entry]) -> Option<Entry> {
        match self {
            Self::Latest => entries.last().cloned(),
            Self::Number(number) => entries.iter().find(|entry| entry.version == *number).cloned(),
        }
    }
}
