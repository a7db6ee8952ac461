//! `tidemill tables`: what the lake has, and what can be done to it.
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tidemill_etl::table::maintain::Compaction;
use tidemill_etl::table::{self, HistoryEntry, Lake, TableName, VacuumOptions};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::cli::Tables;
use crate::failure::{Exit, Result};
use crate::lakehouse::Lakehouse;

/// How many versions `history` shows.
const VERSIONS: usize = 100;

#[derive(Serialize)]
struct Row {
    table: String,
    version: u64,
    rows: Option<u64>,
    files: usize,
    bytes: i64,
}

pub(super) async fn run(context: &Context, command: &Tables) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let lake = house.lake().await?;
    let name = |text: &str| text.parse::<TableName>().map_err(tidemill_etl::Error::from);
    match command {
        Tables::List => {
            let mut rows = Vec::new();
            for name in lake.tables().await? {
                rows.push(row(&lake.table(&name).await?)?);
            }
            context.report.rows(&rows)?;
            if rows.is_empty() {
                context.report.note("the lake has no table yet; `tidemill dags list` shows what makes some");
            }
        }
        Tables::Show { table } => {
            let table = lake.table(&name(table)?).await?;
            let Row { table: shown, version, rows, files, bytes } = row(&table)?;
            let fields = table.fields()?;
            if context.report.json() {
                context.report.one(&json!({
                    "table": shown, "version": version, "rows": rows, "files": files, "bytes": bytes, "columns": fields,
                }))?;
            } else {
                context.report.rows(&fields)?;
                let rows = rows.map_or_else(String::new, |rows| format!("{} rows, ", crate::tasks::count(rows)));
                let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
                let size = crate::settings::ByteSize(u64::try_from(bytes).unwrap_or(0));
                context.report.note(format_args!("{shown} version {version}: {rows}{files}, {size}"));
            }
        }
        Tables::History { table } => {
            let history: Vec<HistoryEntry> = lake.table(&name(table)?).await?.history(VERSIONS).await?;
            context.report.rows(&history)?;
        }
        Tables::Optimize { table } => optimize(context, &house, lake, &name(table)?).await?,
        Tables::Vacuum { table, dry_run, retain } => {
            let settings = &house.project.settings.maintenance;
            let name = name(table)?;
            let retention = retain.unwrap_or(settings.policies.of(&name).vacuum_retention);
            let least = if retain.is_some() { settings.vacuum_least } else { retention };
            let options = VacuumOptions { retention, least, dry_run: *dry_run };
            let done = table::vacuum(lake, &lake.table(&name).await?, options, house.clock.now()).await?;
            if context.report.json() {
                context.report.one(&json!({
                    "table": name.to_string(), "dry_run": dry_run, "files": done.files, "bytes": done.bytes,
                }))?;
            } else {
                if *dry_run {
                    done.files.iter().try_for_each(|file| context.report.line(file))?;
                }
                let size = crate::settings::ByteSize(done.bytes);
                let verb = if *dry_run { "would be deleted" } else { "deleted" };
                context.report.note(format_args!("{name}: {} {verb}, {size}", files(done.files.len() as u64)));
            }
        }
        Tables::Restore { table, to } => {
            let name = name(table)?;
            let done = table::restore(lake, &name, *to, house.clock.now()).await?;
            if context.report.json() {
                context.report.one(&json!({ "table": name.to_string(), "result": done }))?;
            } else {
                context.report.note(format_args!(
                    "{name} is as it was in version {to}, now as version {}; its progress is too: what came after is \
                     landed or built again",
                    done.version
                ));
            }
        }
        Tables::Drop { table, yes: _ } => {
            let name = name(table)?;
            let count = table::drop_table(lake, &name).await?;
            if context.report.json() {
                context.report.one(&json!({ "table": name.to_string(), "files": count }))?;
            } else {
                context.report.note(format_args!(
                    "{name} is gone, {}; its progress went with it: a stream that fills it starts over from the beginning",
                    files(count)
                ));
            }
        }
    }
    Ok(Exit::Done)
}

/// Puts small files together, whatever their age and however few, and writes a checkpoint.
async fn optimize(context: &Context, house: &Lakehouse, lake: &Lake, name: &TableName) -> Result<()> {
    let policy = house.project.settings.maintenance.policies.of(name);
    let compaction = Compaction { min_files: 2, min_age: Duration::ZERO, ..policy.compaction };
    let now = house.clock.now();
    let done = table::optimize(&lake.table(name).await?, &compaction, now, &CancellationToken::new()).await?;
    let newest = lake.table(name).await?;
    table::checkpoint(&newest).await?;
    if context.report.json() {
        context.report.one(&json!({ "table": name.to_string(), "version": newest.version(), "result": done }))?;
    } else if done.removed == 0 {
        context.report.note(format_args!("{name}: no small files to put together; checkpoint written"));
    } else {
        let (before, after) = (files(done.removed), files(done.added));
        context
            .report
            .note(format_args!("{name} version {}: {before} became {after}; checkpoint written", newest.version()));
    }
    if done.given_up > 0 {
        context.report.note("some files were changed by others meanwhile and stay as they are");
    }
    Ok(())
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{} files", crate::tasks::count(count)) }
}

fn row(table: &table::Table) -> Result<Row> {
    let files = table.files()?;
    Ok(Row {
        table: table.name().to_string(),
        version: table.version(),
        rows: table.rows()?,
        files: files.len(),
        bytes: files.iter().map(|file| file.size).sum(),
    })
}
