//! CSV files to batches.
use std::io::Read;

use super::batch::{Bad, Batch, Decoded};
use super::error::FilesError;
use super::read::{Plan, show};
use super::target::{OnUnknown, Place, column_name};
use crate::format::column::Columns;
use crate::format::csv::{self, Cells, Found, Splitter};
use crate::format::infer::Seen;
use crate::table::type_name;

/// Rows of one batch at most.
const ROWS: usize = 8192;

/// One column of the file.
struct Slot {
    name: String,
    /// The table's column; `None`: there is none, or not yet.
    column: Option<usize>,
    /// What was seen while there is none.
    seen: Seen,
}

/// A record kept until its batch is made.
#[derive(Default)]
struct Row {
    line: u64,
    cells: Cells,
    raw: Vec<u8>,
}

/// Reads a CSV file twice: a sample of it for the types of columns that are new, then all of it.
pub(super) fn read(
    open: &dyn Fn() -> Result<Box<dyn Read>, FilesError>,
    mut plan: Plan,
    send: &mut dyn FnMut(Batch) -> bool,
) -> Result<(), FilesError> {
    let mut first = Cells::default();
    let mut splitter = start(open, &plan)?;
    let Some(mut slots) = slots(open, &mut splitter, &mut first, &plan)? else { return Ok(()) };
    if let Some(field) = &plan.origin.event_time
        && !slots.iter().any(|slot| slot.name == *field)
    {
        let (file, why) = (plan.origin.shown.clone(), "the file has no such column".to_owned());
        return Err(FilesError::EventTime { file, field: field.clone(), why });
    }
    if plan.target.on_unknown == OnUnknown::Evolve && slots.iter().any(|slot| slot.column.is_none()) {
        sample(&mut splitter, &mut slots, &plan)?;
        settle(&mut slots, &mut plan);
    }
    drop(splitter);

    let mut splitter = start(open, &plan)?;
    if plan.header {
        next(&mut splitter, &mut first, &plan)?;
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut ended = false;
    while !ended {
        let (mut count, mut size) = (0, 0);
        let mut dead = Vec::new();
        while count < ROWS && size < plan.batch_bytes {
            if rows.len() == count {
                rows.push(Row::default());
            }
            let Some(row) = rows.get_mut(count) else { break };
            match next(&mut splitter, &mut row.cells, &plan)? {
                None => {
                    ended = true;
                    break;
                }
                Some(Found::Bad { line, why, raw }) => {
                    let cut = raw.cut_from.map(|all| format!("; the first bytes of {all}")).unwrap_or_default();
                    size += raw.bytes.len();
                    dead.push(Bad { at: at(line), reason: "quote", detail: format!("{why}{cut}"), raw: raw.bytes });
                }
                Some(Found::Record { line }) => {
                    row.line = line;
                    row.raw.clear();
                    row.raw.extend_from_slice(splitter.raw());
                    size += row.raw.len();
                    count += 1;
                }
            }
        }
        let chunk = rows.get(..count).unwrap_or_default();
        let batch = decode(chunk, dead, &mut slots, &mut plan)?;
        if (batch.rows.num_rows() > 0 || !batch.dead.is_empty()) && !send(batch) {
            return Ok(());
        }
    }
    Ok(())
}

fn at(line: u64) -> i64 {
    i64::try_from(line).unwrap_or(i64::MAX)
}

fn start(
    open: &dyn Fn() -> Result<Box<dyn Read>, FilesError>,
    plan: &Plan,
) -> Result<Splitter<Box<dyn Read>>, FilesError> {
    let mut splitter = Splitter::new(open()?, plan.dialect, plan.max_row);
    splitter.skip_mark().map_err(|error| plan.io(error))?;
    Ok(splitter)
}

fn next(splitter: &mut Splitter<Box<dyn Read>>, cells: &mut Cells, plan: &Plan) -> Result<Option<Found>, FilesError> {
    splitter.next(cells).map_err(|error| plan.io(error))
}

/// The columns by the first record; `None` if there is none.
fn slots(
    open: &dyn Fn() -> Result<Box<dyn Read>, FilesError>,
    splitter: &mut Splitter<Box<dyn Read>>,
    cells: &mut Cells,
    plan: &Plan,
) -> Result<Option<Vec<Slot>>, FilesError> {
    let refused = |why: String| FilesError::Header { file: plan.origin.shown.clone(), why };
    let names: Vec<String> = match next(splitter, cells, plan)? {
        None => return Ok(None),
        Some(Found::Bad { why, .. }) if plan.header => return Err(refused(why.to_owned())),
        Some(found) => {
            if plan.header {
                let text = cells.iter().map(|(cell, _)| std::str::from_utf8(cell).map(column_name));
                let names = text.collect::<Result<Vec<_>, _>>();
                names.map_err(|_| refused("it is not UTF-8; set `encoding` if the file has another".to_owned()))?
            } else if !plan.names.is_empty() {
                plan.names.clone()
            } else if let Found::Record { .. } = found {
                vec![String::new(); cells.len()]
            } else {
                return Err(refused("the first line cannot be read, so the number of columns is unknown".to_owned()));
            }
        }
    };
    let mut slots: Vec<Slot> = Vec::new();
    for (place, name) in names.into_iter().enumerate() {
        let name = if name.is_empty() { format!("column_{}", place + 1) } else { name };
        if slots.iter().any(|slot| slot.name.eq_ignore_ascii_case(&name)) {
            return Err(refused(format!("two columns are called `{name}`")));
        }
        let column = match plan.target.place(&name) {
            Place::Column(at) => Some(at),
            Place::Unknown => None,
            Place::Refused(why) => return Err(refused(why)),
        };
        slots.push(Slot { name, column, seen: Seen::default() });
    }
    if !plan.header {
        // The record just read is data: it is part of the sample.
        *splitter = start(open, plan)?;
    }
    Ok(Some(slots))
}

fn sample(splitter: &mut Splitter<Box<dyn Read>>, slots: &mut [Slot], plan: &Plan) -> Result<(), FilesError> {
    let mut cells = Cells::default();
    let mut rows = 0;
    while plan.infer_rows == 0 || rows < plan.infer_rows {
        let Some(found) = next(splitter, &mut cells, plan)? else { break };
        if matches!(found, Found::Record { .. }) && cells.len() == slots.len() {
            look(&cells, slots, plan);
            rows += 1;
        }
    }
    Ok(())
}

/// Takes a record's cells into account for the columns that are not there yet.
fn look(cells: &Cells, slots: &mut [Slot], plan: &Plan) {
    for ((cell, quoted), slot) in cells.iter().zip(slots) {
        if slot.column.is_none()
            && let Ok(text) = std::str::from_utf8(cell)
            && (quoted || !plan.is_null(text))
        {
            slot.seen.cell(text, plan.origin.zone);
        }
    }
}

/// Makes columns of what was seen.
fn settle(slots: &mut [Slot], plan: &mut Plan) {
    for slot in slots.iter_mut().filter(|slot| slot.column.is_none()) {
        if let Some(data_type) = std::mem::take(&mut slot.seen).data_type() {
            slot.column = Some(plan.target.add(&slot.name, data_type));
        }
    }
}

fn decode(rows: &[Row], mut dead: Vec<Bad>, slots: &mut [Slot], plan: &mut Plan) -> Result<Batch, FilesError> {
    if plan.target.on_unknown == OnUnknown::Evolve && slots.iter().any(|slot| slot.column.is_none()) {
        for row in rows {
            if row.cells.len() == slots.len() {
                look(&row.cells, slots, plan);
            }
        }
        settle(slots, plan);
    }
    let schema = plan.target.schema();
    let used: Vec<usize> = slots.iter().filter_map(|slot| slot.column).collect();
    let failed = |source| FilesError::Rows { file: plan.origin.shown.clone(), source };
    let schema = std::sync::Arc::new(schema.project(&used).map_err(failed)?);
    let mut columns =
        Columns::new(schema).map_err(|source| FilesError::Schema { file: plan.origin.shown.clone(), source })?;
    let mut kept: Vec<&Row> = Vec::with_capacity(rows.len());
    for row in rows {
        let outcome = append(row, slots, &mut columns, plan);
        match columns.end_row(outcome) {
            Ok(()) => kept.push(row),
            Err((reason, detail)) => dead.push(Bad { at: at(row.line), reason, detail, raw: row.raw.clone() }),
        }
    }
    let data = columns.flush().map_err(|source| FilesError::Schema { file: plan.origin.shown.clone(), source })?;
    let lines = kept.iter().map(|row| at(row.line)).collect();
    let raw = |index: usize| kept.get(index).map(|row| row.raw.clone()).unwrap_or_default();
    plan.origin.finish(Decoded { data, at: lines, dead, raw: &raw })
}

fn append(row: &Row, slots: &[Slot], columns: &mut Columns, plan: &Plan) -> Result<(), (&'static str, String)> {
    if row.cells.len() != slots.len() {
        let detail = format!("{} cells in a file of {} columns", row.cells.len(), slots.len());
        return Err(("ragged", detail));
    }
    let mut place = 0;
    for ((cell, quoted), slot) in row.cells.iter().zip(slots) {
        let text = std::str::from_utf8(cell)
            .map_err(|_| ("utf8", format!("column `{}`: the text is not UTF-8", slot.name)))?;
        let value = (quoted || !plan.is_null(text)).then_some(text);
        let Some(at) = slot.column else {
            if value.is_some() && plan.target.on_unknown == OnUnknown::DeadLetter {
                return Err(("unknown_field", format!("the table has no column `{}`", slot.name)));
            }
            continue;
        };
        if let Some(column) = columns.all.get_mut(place) {
            csv::append(column, value, plan.origin.zone).map_err(|problem| {
                let there = type_name(plan.target.field(at).data_type());
                let found = value.map_or_else(|| "nothing".to_owned(), |text| format!("`{}`", show(text)));
                ("type", format!("column `{}` is {there}: expected {}, found {found}", slot.name, problem.0))
            })?;
        }
        place += 1;
    }
    Ok(())
}
