//! `tidemill schemas`: the schemas of topics.
use serde::Serialize;

use super::Context;
use crate::cli::Schemas;
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;

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
            context.report.note(format_args!("{subject}: it can follow the newest version"));
        }
    }
    Ok(Exit::Done)
}
