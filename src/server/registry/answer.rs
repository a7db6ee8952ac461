//! What is answered: payloads, and failures by Confluent's codes.
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use tidemill_etl::Explain as _;
use tidemill_etl::schema_registry::{Entry, Level, RegistryError, Stored};

pub(super) const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// A failure, as Confluent's API tells it.
#[derive(Debug)]
pub(super) struct Complaint {
    status: StatusCode,
    code: u32,
    message: String,
}

pub(super) type Answer = Result<Response, Complaint>;

impl Complaint {
    /// The first three digits of a code are the HTTP status.
    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        let digits = if code > 999 { code / 100 } else { code };
        let status = u16::try_from(digits).ok().and_then(|status| StatusCode::from_u16(status).ok());
        Self { status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), code, message: message.into() }
    }

    pub(super) fn no_subject(subject: &str) -> Self {
        Self::new(40401, format!("Subject '{subject}' not found."))
    }

    pub(super) fn no_version(version: &str) -> Self {
        Self::new(40402, format!("Version {version} not found."))
    }

    pub(super) fn no_schema() -> Self {
        Self::new(40403, "Schema not found")
    }

    pub(super) fn bad_version(version: &str) -> Self {
        let allowed = "Allowed values are between [1, 2^31-1] and the string \"latest\"";
        Self::new(42202, format!("The specified version '{version}' is not a valid version id. {allowed}"))
    }

    pub(super) fn bad_level() -> Self {
        let names = Level::ALL.map(|level| level.name().to_lowercase()).join(", ");
        Self::new(42203, format!("Invalid compatibility level. Valid values are {names}"))
    }
}

impl From<RegistryError> for Complaint {
    fn from(error: RegistryError) -> Self {
        // Of a storage's own words nothing: they may hold addresses and what a person keeps in them.
        let said = format!("cannot {error}");
        let message = match error.why() {
            Some(why) => format!("{said}: {why} ({})", error.code()),
            None => format!("{said} ({})", error.code()),
        };
        match &error {
            RegistryError::NotAvro { .. } | RegistryError::NoReference { .. } => Self::new(42201, message),
            RegistryError::Incompatible { .. } | RegistryError::Unreadable { .. } => Self::new(
                409,
                format!("Schema being registered is incompatible with an earlier schema: {}", reason(&error)),
            ),
            RegistryError::NoLevel { .. } => Self::bad_level(),
            RegistryError::Referenced { .. } => Self::new(42206, message),
            RegistryError::Subject { .. } => Self::new(42208, message),
            RegistryError::Taken { .. } | RegistryError::Id { .. } => Self::new(42205, message),
            _ => Self::new(50001, message),
        }
    }
}

/// Why a schema does not fit, in one line: what, where, why.
pub(super) fn reason(error: &RegistryError) -> String {
    let parts = [Some(format!("cannot {error}")), error.place(), error.why()];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

impl IntoResponse for Complaint {
    fn into_response(self) -> Response {
        let body = json!({ "error_code": self.code, "message": self.message });
        (self.status, typed(), Json(body)).into_response()
    }
}

fn typed() -> [(header::HeaderName, HeaderValue); 1] {
    [(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))]
}

/// 200 with a payload.
#[expect(clippy::unnecessary_wraps, reason = "it ends handlers that can fail")]
pub(super) fn done(payload: &impl Serialize) -> Answer {
    // Its content type goes before the one of `Json`.
    let mut response = Json(payload).into_response();
    response.headers_mut().extend(typed());
    Ok(response)
}

/// A schema's own text.
pub(super) fn text(stored: &Stored) -> Response {
    (typed(), stored.schema.clone()).into_response()
}

/// One version of a subject.
pub(super) fn entry(entry: &Entry) -> Value {
    let mut told = json!({ "subject": entry.subject, "version": entry.version, "id": entry.id });
    told["schemaType"] = "AVRO".into();
    schema_into(&mut told, &entry.stored);
    told
}

/// The schema and its references, as the API writes them wherever a schema is told.
pub(super) fn schema_into(told: &mut Value, stored: &Stored) {
    told["schema"] = stored.schema.clone().into();
    if !stored.references.is_empty() {
        told["references"] = json!(stored.references);
    }
}

/// For callers that are not let in.
pub(in super::super) fn denied(status: StatusCode, why: &str) -> Response {
    Complaint { status, code: u32::from(status.as_u16()) * 100 + 1, message: why.trim().to_owned() }.into_response()
}

pub(super) async fn nowhere() -> Complaint {
    Complaint::new(404, "HTTP 404 Not Found")
}

pub(super) async fn no_method() -> Complaint {
    Complaint::new(405, "HTTP 405 Method Not Allowed")
}
