//! `tidemill query`: one SELECT over the lake.
use std::io::{BufWriter, IsTerminal as _, Read as _, Write};

use tidemill_etl::output;

use super::Context;
use crate::cli::{EngineName, Query, RowFormat};
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::tasks::count;

pub(super) async fn run(context: &Context, query: &Query) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let sql = if query.sql == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|error| {
            Failure::new("X0002", "cannot read the query from standard input").why(error.to_string())
        })?;
        text
    } else {
        query.sql.clone()
    };
    let default = if context.report.json() { RowFormat::Json } else { RowFormat::Table };
    let format = query.format.unwrap_or(default);
    let rows = match query.engine {
        EngineName::Datafusion => {
            let (engine, _) = house.engine_with_models().await?;
            engine.query(&sql).await?
        }
        EngineName::Polars => polars(&house, &sql).await?,
    };
    let mut out: Box<dyn Write + Send> = match &query.output {
        Some(path) => {
            let file = std::fs::File::create(path).map_err(|error| Failure::io(&error, "write", path))?;
            Box::new(BufWriter::new(file))
        }
        None if format == RowFormat::Parquet && std::io::stdout().is_terminal() => {
            return Err(Failure::new("Q0007", "a Parquet file is not for a terminal")
                .fix("give it a file: --output rows.parquet, or redirect standard output")
                .exit(Exit::Usage));
        }
        None => Box::new(BufWriter::new(std::io::stdout())),
    };
    let total = match format {
        RowFormat::Table => output::table(rows, out.as_mut()).await,
        RowFormat::Csv => output::csv(rows, out.as_mut()).await,
        RowFormat::Json => output::json(rows, out.as_mut()).await,
        RowFormat::Parquet => output::parquet(rows, out.as_mut()).await,
    };
    let total = total.map_err(quiet_if_unread)?;
    out.flush().map_err(|error| Failure::output(&error))?;
    if format == RowFormat::Table && total > output::TABLE_ROWS as u64 {
        let shown = count(output::TABLE_ROWS as u64);
        context.report.note(format_args!("{} rows, the first {shown} shown; --format csv writes all", count(total)));
    }
    Ok(Exit::Done)
}

/// Whoever read our output has gone: no failure.
fn quiet_if_unread(error: tidemill_etl::Error) -> Failure {
    match error.downcast_ref::<output::OutputError>() {
        Some(output::OutputError::Io(io)) => Failure::output(io),
        _ => error.into(),
    }
}

#[cfg(feature = "polars")]
async fn polars(house: &Lakehouse, sql: &str) -> Result<tidemill_etl::engine::Rows> {
    Ok(tidemill_etl::engine::polars::query(house.lake().await?, sql).await?)
}

#[cfg(not(feature = "polars"))]
#[expect(clippy::unused_async, reason = "the same call with the feature")]
async fn polars(_: &Lakehouse, _: &str) -> Result<tidemill_etl::engine::Rows> {
    Err(Failure::new("Q0008", "this build has no Polars").fix("build it with `--features polars`").exit(Exit::Usage))
}
