//! `tidemill schemas`: the schemas of topics.
use serde::Serialize;
use tidemill_etl::schema_registry::{Level, Registry, RegistryError};

use super::Context;
use crate::cli::Schemas;
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;

/// What `schemas compatibility` says.
#[derive(Serialize)]
struct LevelRow<'a> {
    subject: Option<&'a str>,
    level: &'static str,
    /// Whether it is the subject's own.
    own: bool,
}

/// Says or sets the level of a subject, or of all that have none.
async fn compatibility(
    context: &Context,
    registry: &dyn Registry,
    subject: Option<&str>,
    level: Option<&str>,
) -> Result<()> {
    if let Some(name) = level {
        let level = Level::parse(name).ok_or_else(|| {
            let unknown = tidemill_etl::Error::from(RegistryError::NoLevel { level: name.to_owned() });
            Failure::from(unknown).exit(Exit::Usage)
        })?;
        registry.set_level(subject, level).await?;
    }
    let mut own = registry.level(subject).await?;
    let is_own = own.is_some();
    if own.is_none() {
        own = registry.level(None).await?;
    }
    let level = own.unwrap_or_default().name();
    if context.report.json() {
        return context.report.one(&LevelRow { subject, level, own: is_own });
    }
    let whose = match subject {
        None => "subjects without a level of their own".to_owned(),
        Some(subject) if is_own => subject.to_owned(),
        Some(subject) => format!("{subject} has no level of its own"),
    };
    context.report.note(format_args!("{whose}: {level}"));
    Ok(())
}

#[derive(Serialize)]
struct Row {
    subject: String,
    version: i32,
    id: i32,
}

pub(super) async fn run(context: &Context, command: &Schemas) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let registry = house.registry().await?;
    let read =
        |file: &std::path::Path| std::fs::read_to_string(file).map_err(|error| Failure::io(&error, "read", file));
    match command {
        Schemas::List => {
            let mut rows = Vec::new();
            for subject in registry.subjects().await? {
                for version in registry.versions(&subject).await? {
                    rows.push(Row { subject: version.subject, version: version.version, id: version.id });
                }
            }
            context.report.rows(&rows)?;
        }
        Schemas::Show { subject } => {
            let versions = registry.versions(subject).await?;
            if versions.is_empty() {
                let known = registry.subjects().await?;
                return Err(Failure::unknown("subject", subject, known.iter().map(String::as_str)));
            }
            context.report.rows(&versions)?;
        }
        Schemas::Add { subject, file, id } => {
            let id = id
                .map(i32::try_from)
                .transpose()
                .map_err(|_| Failure::new("C0203", "an id is at most 2147483647").exit(Exit::Usage))?;
            let added = registry
                .register(subject, &read(file)?, id)
                .await
                .map_err(|error| Failure::from(error).place(file.display().to_string()))?;
            if context.report.json() {
                context.report.one(&added)?;
            }
            context.report.note(format_args!("{subject}: version {}, id {}", added.version, added.id));
        }
        Schemas::Check { subject, file } => {
            registry
                .check(subject, &read(file)?)
                .await
                .map_err(|error| Failure::from(error).place(file.display().to_string()))?;
            context.report.note(format_args!("{subject}: it may follow"));
        }
        Schemas::Compatibility { subject, level, all } => {
            // `--all` alone is an empty text.
            let level = all.as_deref().or(level.as_deref()).filter(|level| !level.is_empty());
            compatibility(context, registry.as_ref(), subject.as_deref(), level).await?;
        }
    }
    Ok(Exit::Done)
}
