//! `/config`, `/compatibility` and `/mode`: what may follow what, and trying it out.
use axum::extract::{Path, Query};
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::schema_registry::{EmbeddedRegistry, Entry, Level, Registry as _, RegistryError};

use super::answer::{Answer, Complaint, done, reason};
use super::request::{Body, Registry, Sent, Switches, Wanted};

pub(super) async fn root() -> Answer {
    done(&json!({}))
}

#[derive(Debug, Deserialize)]
pub(super) struct Wish {
    compatibility: Option<String>,
}

fn told(level: Level) -> Value {
    json!({ "compatibilityLevel": level.name() })
}

async fn own(registry: &EmbeddedRegistry, subject: Option<&str>) -> Result<Option<Level>, Complaint> {
    registry.level(subject).await.map_err(|error| plain(&error))
}

async fn set(registry: &EmbeddedRegistry, subject: Option<&str>, wish: &Wish) -> Answer {
    let name = wish.compatibility.as_deref().unwrap_or_default();
    let level = Level::parse(name).ok_or_else(Complaint::bad_level)?;
    registry.set_level(subject, level).await.map_err(|error| plain(&error))?;
    done(&json!({ "compatibility": level.name() }))
}

/// What the trait's methods fail with.
fn plain(error: &tidemill_etl::Error) -> Complaint {
    let code = if matches!(error.downcast_ref(), Some(RegistryError::Subject { .. })) { 42208 } else { 50001 };
    Complaint::new(code, format!("cannot {error} ({})", error.code()))
}

pub(super) async fn level(Registry(registry): Registry) -> Answer {
    done(&told(own(&registry, None).await?.unwrap_or_default()))
}

pub(super) async fn set_level(Registry(registry): Registry, Body(wish): Body<Wish>) -> Answer {
    set(&registry, None, &wish).await
}

pub(super) async fn clear_level(Registry(registry): Registry) -> Answer {
    done(&told(registry.clear_level(None).await?.unwrap_or_default()))
}

pub(super) async fn subject_level(
    Registry(registry): Registry,
    Path(subject): Path<String>,
    Query(switches): Query<Switches>,
) -> Answer {
    if switches.default_to_global() {
        return done(&told(registry.level_of(&subject).await?));
    }
    let none = || {
        let why = format!("Subject '{subject}' does not have subject-level compatibility configured");
        Complaint::new(40408, why)
    };
    done(&told(own(&registry, Some(&subject)).await?.ok_or_else(none)?))
}

pub(super) async fn set_subject_level(
    Registry(registry): Registry,
    Path(subject): Path<String>,
    Body(wish): Body<Wish>,
) -> Answer {
    set(&registry, Some(&subject), &wish).await
}

pub(super) async fn clear_subject_level(Registry(registry): Registry, Path(subject): Path<String>) -> Answer {
    let was = registry.clear_level(Some(&subject)).await?;
    done(&told(was.ok_or_else(|| Complaint::no_subject(&subject))?))
}

async fn check(
    registry: &EmbeddedRegistry,
    subject: &str,
    sent: Sent,
    versions: &[Entry],
    switches: &Switches,
) -> Answer {
    let level = registry.level_of(subject).await?;
    let conflicts = registry.against(subject, &sent.draft()?, level, versions).await?;
    let mut verdict = json!({ "is_compatible": conflicts.is_empty() });
    if switches.verbose() {
        verdict["messages"] = conflicts.iter().map(reason).collect();
    }
    done(&verdict)
}

/// Against the versions that the subject's level names.
pub(super) async fn check_all(
    Registry(registry): Registry,
    Path(subject): Path<String>,
    Query(switches): Query<Switches>,
    Body(sent): Body<Sent>,
) -> Answer {
    let mut versions = registry.entries(&subject).await?;
    versions.retain(|entry| !entry.deleted);
    check(&registry, &subject, sent, &versions, &switches).await
}

/// Against one version, by the subject's level.
pub(super) async fn check_one(
    Registry(registry): Registry,
    Path((subject, version)): Path<(String, String)>,
    Query(switches): Query<Switches>,
    Body(sent): Body<Sent>,
) -> Answer {
    let wanted = Wanted::parse(&version)?;
    let mut versions = registry.entries(&subject).await?;
    versions.retain(|entry| !entry.deleted);
    if versions.is_empty() {
        return Err(Complaint::no_subject(&subject));
    }
    let one = wanted.of(&versions).ok_or_else(|| Complaint::no_version(&version))?;
    check(&registry, &subject, sent, &[one], &switches).await
}

pub(super) async fn mode(Registry(_): Registry) -> Answer {
    done(&json!({ "mode": "READWRITE" }))
}

pub(super) async fn subject_mode(
    Registry(_): Registry,
    Path(subject): Path<String>,
    Query(switches): Query<Switches>,
) -> Answer {
    if switches.default_to_global() {
        return done(&json!({ "mode": "READWRITE" }));
    }
    Err(Complaint::new(40409, format!("Subject '{subject}' does not have subject-level mode configured")))
}

pub(super) async fn no_mode(Registry(_): Registry) -> Complaint {
    Complaint::new(42205, "this registry has one mode, READWRITE")
}
