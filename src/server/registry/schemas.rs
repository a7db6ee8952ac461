//! `/schemas`: what ids mean.
use std::collections::BTreeSet;

use axum::extract::{Path, Query};
use axum::response::Response;
use serde_json::{Value, json};
use tidemill_etl::schema_registry::{EmbeddedRegistry, Entry};

use super::answer::{self, Answer, Complaint, done};
use super::request::{Registry, Switches};

pub(super) async fn types() -> Answer {
    done(&["AVRO"])
}

/// The versions that have this id, deleted ones included; none of them is 40403.
async fn of(registry: &EmbeddedRegistry, id: &str) -> Result<Vec<Entry>, Complaint> {
    let id: i32 = id.parse().map_err(|_| Complaint::new(404, "HTTP 404 Not Found"))?;
    let mut entries = registry.everything().await?;
    entries.retain(|entry| entry.id == id);
    if entries.is_empty() { Err(Complaint::no_schema()) } else { Ok(entries) }
}

async fn first(registry: &EmbeddedRegistry, id: &str) -> Result<Entry, Complaint> {
    of(registry, id).await?.into_iter().next().ok_or_else(Complaint::no_schema)
}

pub(super) async fn by_id(
    Registry(registry): Registry,
    Path(id): Path<String>,
    Query(switches): Query<Switches>,
) -> Answer {
    let entry = first(&registry, &id).await?;
    let mut told = json!({ "schemaType": "AVRO" });
    answer::schema_into(&mut told, &entry.stored);
    if switches.format.as_deref() == Some("resolved") {
        told["schema"] = entry.stored.resolved().into();
    }
    done(&told)
}

pub(super) async fn text(Registry(registry): Registry, Path(id): Path<String>) -> Result<Response, Complaint> {
    Ok(answer::text(&first(&registry, &id).await?.stored))
}

pub(super) async fn subjects(
    Registry(registry): Registry,
    Path(id): Path<String>,
    Query(switches): Query<Switches>,
) -> Answer {
    let entries = of(&registry, &id).await?;
    let shown = entries.into_iter().filter(|entry| switches.wants(entry.deleted));
    done(&switches.page(shown.map(|entry| entry.subject).collect::<BTreeSet<_>>()))
}

pub(super) async fn versions(
    Registry(registry): Registry,
    Path(id): Path<String>,
    Query(switches): Query<Switches>,
) -> Answer {
    let entries = of(&registry, &id).await?;
    let shown = entries.into_iter().filter(|entry| switches.wants(entry.deleted));
    let told = shown.map(|entry| json!({ "subject": entry.subject, "version": entry.version }));
    done(&switches.page(told))
}

pub(super) async fn list(Registry(registry): Registry, Query(switches): Query<Switches>) -> Answer {
    let mut entries = registry.everything().await?;
    let prefix = switches.subject_prefix.as_deref().filter(|prefix| *prefix != ":*:").unwrap_or_default();
    entries.retain(|entry| switches.wants(entry.deleted) && entry.subject.starts_with(prefix));
    if switches.latest_only() {
        // They come by subject and version: the last of each subject is its newest.
        entries.reverse();
        entries.dedup_by(|later, kept| later.subject == kept.subject);
        entries.reverse();
    }
    let told: Vec<Value> = entries.iter().map(answer::entry).collect();
    done(&switches.page(told))
}
