//! How a backfill's shadow differs from the live table.
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use serde::Serialize;

use super::backfill::{Span, need, shadow};
use super::digest::{at_offset, differing, seen};
use super::error::StreamError;
use crate::engine::Engine;
use crate::error::Result;
use crate::pipeline::{Around, Landing};

/// Offsets compared together.
const CHUNK: i64 = 50_000;
/// Differences told one by one.
const TOLD: usize = 20;

/// What differs in one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The partition.
    pub partition: i32,
    /// The first offset compared.
    pub from: i64,
    /// The offset after the last.
    pub to: i64,
    /// Offsets whose rows are the same in both.
    pub same: u64,
    /// Offsets whose rows differ.
    pub changed: u64,
    /// Offsets with rows in the live table only.
    pub only_live: u64,
    /// Offsets with rows in the shadow only.
    pub only_shadow: u64,
    /// The first differences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Differing>,
}

/// One offset that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Differing {
    /// The offset.
    pub offset: i64,
    /// The first column that differs; `None` if the numbers of rows do.
    pub column: Option<String>,
    /// The live table's value, or number of rows.
    pub live: String,
    /// The shadow's.
    pub shadow: String,
}

/// Compares the shadow with the live table over the backfill's offsets, in the columns that both have.
///
/// # Errors
/// [`StreamError::NoBackfill`], or if a table cannot be read.
pub async fn compare(around: &Around, engine: &Engine, landing: &Landing) -> Result<Vec<Compared>> {
    let noted = need(&around.lake, landing).await?;
    let live = around.lake.table(&landing.table).await?;
    let beside = around.lake.table(&shadow(landing).table).await?;
    let there = beside.schema()?;
    let both = |schema: &Schema| {
        let common = schema.fields().iter().filter(|field| there.field_with_name(field.name()).is_ok());
        Schema::new(common.cloned().collect::<Vec<_>>())
    };
    let columns = Arc::new(both(&*live.schema()?));
    let mut all = Vec::new();
    for Span { partition, from, to } in noted.partitions {
        let mut found = Compared { partition, from, to, ..Compared::default() };
        let lane = (landing.topic.as_str(), partition);
        let mut at = from;
        while at < to {
            let span = (at, (at + CHUNK).min(to));
            let left = seen(engine, &live, &columns, lane, span).await?;
            let right = seen(engine, &beside, &columns, lane, span).await?;
            let offsets: BTreeSet<i64> = left.keys().chain(right.keys()).copied().collect();
            for offset in offsets {
                let (a, b) = (left.get(&offset), right.get(&offset));
                match (a, b) {
                    (Some(a), Some(b)) if a == b && a.same => {
                        found.same += 1;
                        continue;
                    }
                    (Some(_), Some(_)) => found.changed += 1,
                    (Some(_), None) => found.only_live += 1,
                    (None, _) => found.only_shadow += 1,
                }
                if found.differences.len() >= TOLD {
                    continue;
                }
                let rows = |seen: Option<&super::digest::Seen>| seen.map_or(0, |seen| seen.rows);
                let mut told = Differing {
                    offset,
                    column: None,
                    live: format!("{} rows", rows(a)),
                    shadow: format!("{} rows", rows(b)),
                };
                if rows(a) == 1 && rows(b) == 1 {
                    let a = at_offset(engine, &live, &columns, lane, offset).await?;
                    let b = at_offset(engine, &beside, &columns, lane, offset).await?;
                    if let (Some(a), Some(b)) = (a.first(), b.first()) {
                        let columns = differing((a, 0), (b, 0)).map_err(StreamError::arrow(live.name()))?;
                        if let Some((column, live, shadow)) = columns.into_iter().next() {
                            told = Differing { offset, column: Some(column), live, shadow };
                        }
                    }
                }
                found.differences.push(told);
            }
            at = span.1;
        }
        all.push(found);
    }
    Ok(all)
}
