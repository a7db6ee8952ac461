//! `/subjects`: names, versions, registering, deleting.
use axum::extract::{Path, Query};
use axum::response::Response;
use serde_json::json;
use tidemill_etl::schema_registry::{EmbeddedRegistry, Entry, RegistryError};

use super::answer::{self, Answer, Complaint, done};
use super::request::{Body, Registry, Sent, Switches, Wanted};

pub(super) async fn list(Registry(registry): Registry, Query(switches): Query<Switches>) -> Answer {
    let mut names = registry.names(switches.deleted() || switches.deleted_only()).await?;
    if switches.deleted_only() {
        let live = registry.names(false).await?;
        names.retain(|name| live.binary_search(name).is_err());
    }
    // `:*:` is how clients say "in all contexts"; there are no contexts here.
    let prefix = switches.subject_prefix.as_deref().filter(|prefix| *prefix != ":*:").unwrap_or_default();
    names.retain(|name| name.starts_with(prefix));
    done(&switches.page(names))
}

/// The versions that are wanted, oldest first; none of them is 40401.
async fn of(registry: &EmbeddedRegistry, subject: &str, switches: &Switches) -> Result<Vec<Entry>, Complaint> {
    let mut entries = registry.entries(subject).await?;
    entries.retain(|entry| switches.wants(entry.deleted));
    if entries.is_empty() { Err(Complaint::no_subject(subject)) } else { Ok(entries) }
}

async fn one(
    registry: &EmbeddedRegistry,
    subject: &str,
    version: &str,
    switches: &Switches,
) -> Result<Entry, Complaint> {
    let wanted = Wanted::parse(version)?;
    let entries = of(registry, subject, switches).await?;
    wanted.of(&entries).ok_or_else(|| Complaint::no_version(version))
}

pub(super) async fn versions(
    Registry(registry): Registry,
    Path(subject): Path<String>,
    Query(switches): Query<Switches>,
) -> Answer {
    let entries = of(&registry, &subject, &switches).await?;
    done(&switches.page(entries.iter().map(|entry| entry.version)))
}

pub(super) async fn version(
    Registry(registry): Registry,
    Path((subject, version)): Path<(String, String)>,
    Query(switches): Query<Switches>,
) -> Answer {
    done(&answer::entry(&one(&registry, &subject, &version, &switches).await?))
}

pub(super) async fn text(
    Registry(registry): Registry,
    Path((subject, version)): Path<(String, String)>,
    Query(switches): Query<Switches>,
) -> Result<Response, Complaint> {
    Ok(answer::text(&one(&registry, &subject, &version, &switches).await?.stored))
}

/// The ids of the schemas that refer to a version.
pub(super) async fn users(
    Registry(registry): Registry,
    Path((subject, version)): Path<(String, String)>,
    Query(switches): Query<Switches>,
) -> Answer {
    let entry = one(&registry, &subject, &version, &Switches::default()).await?;
    let users = registry.users(&subject, entry.version).await?;
    done(&switches.page(users.iter().map(|user| user.id)))
}

pub(super) async fn register(
    Registry(registry): Registry,
    Path(subject): Path<String>,
    Body(sent): Body<Sent>,
) -> Answer {
    if sent.wants_id() {
        let why = format!("Subject {subject} is not in import mode: this registry gives ids by itself");
        return Err(Complaint::new(42205, why));
    }
    let entry = registry.add(&subject, &sent.draft()?, None).await?;
    done(&json!({ "id": entry.id, "version": entry.version }))
}

pub(super) async fn look_up(
    Registry(registry): Registry,
    Path(subject): Path<String>,
    Query(switches): Query<Switches>,
    Body(sent): Body<Sent>,
) -> Answer {
    let draft = sent.draft()?;
    of(&registry, &subject, &switches).await?;
    let found = registry.find(&subject, &draft, switches.deleted()).await?;
    done(&answer::entry(&found.ok_or_else(Complaint::no_schema)?))
}

/// All versions of a subject: out of sight first, for good after that.
pub(super) async fn delete(
    Registry(registry): Registry,
    Path(subject): Path<String>,
    Query(switches): Query<Switches>,
) -> Answer {
    let mut entries = registry.entries(&subject).await?;
    if entries.is_empty() {
        return Err(Complaint::no_subject(&subject));
    }
    let live = entries.iter().any(|entry| !entry.deleted);
    if switches.permanent() && live {
        let why = format!("Subject '{subject}' was not deleted first before being permanently deleted");
        return Err(Complaint::new(40405, why));
    }
    if !switches.permanent() {
        if !live {
            let why = format!("Subject '{subject}' was soft deleted. Set permanent=true to delete permanently");
            return Err(Complaint::new(40404, why));
        }
        entries.retain(|entry| !entry.deleted);
    }
    // All or none, but for what others do meanwhile.
    for entry in &entries {
        let by: Vec<i32> = registry.users(&subject, entry.version).await?.iter().map(|user| user.id).collect();
        if !by.is_empty() {
            return Err(RegistryError::Referenced { subject, version: entry.version, by }.into());
        }
    }
    for entry in &entries {
        registry.delete(&subject, entry.version, switches.permanent()).await?;
    }
    registry.clear_level(Some(&subject)).await?;
    done(&entries.iter().map(|entry| entry.version).collect::<Vec<_>>())
}

pub(super) async fn delete_version(
    Registry(registry): Registry,
    Path((subject, version)): Path<(String, String)>,
    Query(switches): Query<Switches>,
) -> Answer {
    let wanted = Wanted::parse(&version)?;
    let mut entries = registry.entries(&subject).await?;
    if entries.is_empty() {
        return Err(Complaint::no_subject(&subject));
    }
    if matches!(wanted, Wanted::Latest) {
        entries.retain(|entry| entry.deleted == switches.permanent());
    }
    let entry = wanted.of(&entries).ok_or_else(|| Complaint::no_version(&version))?;
    let named = format!("Subject '{subject}' Version {}", entry.version);
    if switches.permanent() && !entry.deleted {
        return Err(Complaint::new(40407, format!("{named} was not deleted first before being permanently deleted")));
    }
    if !switches.permanent() && entry.deleted {
        return Err(Complaint::new(
            40406,
            format!("{named} was soft deleted. Set permanent=true to delete permanently"),
        ));
    }
    registry.delete(&subject, entry.version, switches.permanent()).await?;
    done(&entry.version)
}
