//! Rows taken out of a table by a condition: files that hold such rows are written anew without them.
use std::collections::BTreeSet;

use arrow::array::AsArray as _;
use chrono::{DateTime, Utc};
use datafusion::logical_expr::Expr;
use datafusion::prelude::{ident, lit};
use deltalake::kernel::Action;

use super::scan::{Wanted, path_of, scan};
use crate::engine::Engine;
use crate::error::Result;
use crate::table::{FileWriter, Table, WriteOptions};

/// The rows of a topic's partition from one offset (inclusive) to another (exclusive); `None`: to the last.
pub(super) fn range(topic: &str, partition: i32, from: i64, to: Option<i64>) -> Expr {
    let lane = ident("_topic").eq(lit(topic)).and(ident("_partition").eq(lit(partition)));
    let above = lane.and(ident("_offset").gt_eq(lit(from)));
    match to {
        Some(to) => above.and(ident("_offset").lt(lit(to))),
        None => above,
    }
}

/// What takes rows out of a table: to be part of a commit with [`Guard::Rearrange`](crate::table::Guard).
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) actions: Vec<Action>,
    /// Rows taken out.
    pub(super) rows: u64,
}

/// Prepares to take out the rows that `condition` is true of. Files are written, but no commit names them yet.
pub(super) async fn without(engine: &Engine, table: &Table, condition: &Expr, now: DateTime<Utc>) -> Result<Taken> {
    // Any column tells how many there are.
    let first = table.schema()?.fields().first().map(|field| field.name().clone());
    let wanted = Wanted {
        columns: first.into_iter().collect(),
        filter: Some(condition.clone()),
        file: true,
        ..Wanted::default()
    };
    let mut found = scan(engine, table, wanted).await?;
    let mut files: BTreeSet<String> = BTreeSet::new();
    let mut taken = Taken::default();
    while let Some(batch) = found.next().await? {
        taken.rows += batch.num_rows() as u64;
        let urls: BTreeSet<&str> = batch.column(1).as_string::<i32>().iter().flatten().collect();
        files.extend(urls.into_iter().map(|url| path_of(url, table)));
    }
    if files.is_empty() {
        return Ok(taken);
    }
    let wanted = Wanted {
        files: Some(files.iter().cloned().collect()),
        filter: Some(condition.clone().is_not_true()),
        ..Wanted::default()
    };
    let mut kept = scan(engine, table, wanted).await?;
    let mut writer = FileWriter::new(table, table.schema()?, WriteOptions::default(), now);
    while let Some(batch) = kept.next().await? {
        writer.write(&crate::table::project(&batch, &table.schema()?, table.name())?).await?;
    }
    taken.actions.extend(table.removes(|path| !files.contains(path), now)?.into_iter().map(Action::Remove));
    taken.actions.extend(writer.finish().await?.into_iter().map(Action::Add));
    Ok(taken)
}
