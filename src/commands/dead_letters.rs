//! `tidemill dead-letters`: what could not be taken, and why.
use tidemill_etl::output;

use super::Context;
use crate::cli::DeadLetters;
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;

pub(super) async fn run(context: &Context, command: &DeadLetters) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let name = tidemill_etl::table::TableName::new("bronze", "dead_letters");
    if house.lake().await?.try_table(&name).await?.is_none() {
        if context.report.json() {
            context.report.line("[]")?;
        }
        context.report.note("there are no dead letters");
        return Ok(Exit::Done);
    }
    let id = "concat_ws('/', topic_or_file, CAST(partition AS VARCHAR), CAST(offset_or_line AS VARCHAR))";
    let sql = match command {
        DeadLetters::List { limit } => format!(
            "SELECT {id} AS id, source, schema_id, reason, detail, seen_at FROM bronze.dead_letters \
             ORDER BY seen_at DESC, id LIMIT {limit}"
        ),
        DeadLetters::Show { id: wanted } => format!(
            "SELECT {id} AS id, source, schema_id, reason, detail, seen_at, encode(raw, 'base64') AS raw_base64 \
             FROM bronze.dead_letters WHERE {id} = '{}'",
            wanted.replace('\'', "''")
        ),
    };
    let rows = house.engine().await?.query(&sql).await?;
    let mut text = Vec::new();
    let total = if context.report.json() {
        output::json(rows, &mut text).await?
    } else {
        output::table(rows, &mut text).await?
    };
    if let DeadLetters::Show { id } = command
        && total == 0
    {
        return Err(
            Failure::new("L0301", format!("there is no dead letter `{id}`")).fix("see `tidemill dead-letters list`")
        );
    }
    context.report.output(|out| out.write_all(&text))?;
    Ok(Exit::Done)
}
