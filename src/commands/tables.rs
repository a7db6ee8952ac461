//! `tidemill tables`: what the lake has.
use serde::Serialize;
use serde_json::json;
use tidemill_etl::table::{HistoryEntry, TableName};

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
    }
    Ok(Exit::Done)
}

fn row(table: &tidemill_etl::table::Table) -> Result<Row> {
    let files = table.files()?;
    Ok(Row {
        table: table.name().to_string(),
        version: table.version(),
        rows: table.rows()?,
        files: files.len(),
        bytes: files.iter().map(|file| file.size).sum(),
    })
}
