//! Files of one JSON object per line to batches.
use std::collections::HashMap;
use std::io::Read;

use arrow::datatypes::{DataType, Fields};
use chrono_tz::Tz;
use serde_json::{Map, Value};

use super::batch::{Bad, Batch, Decoded};
use super::error::FilesError;
use super::read::Plan;
use super::target::{OnUnknown, Place, column_name};
use crate::format::infer::Seen;
use crate::format::json::Decoder;
use crate::format::window::Window;

/// Rows of one batch at most.
const ROWS: usize = 8192;
/// More columns than this are not made of the fields of one table: they are data in the place of names.
const COLUMNS: usize = 2000;

struct Row {
    line: i64,
    raw: Vec<u8>,
    object: Map<String, Value>,
}

/// Reads a file twice: a sample of it for the types of fields that are new, then all of it.
pub(super) fn read(
    open: &dyn Fn() -> Result<Box<dyn Read>, FilesError>,
    mut plan: Plan,
    send: &mut dyn FnMut(Batch) -> bool,
) -> Result<(), FilesError> {
    if plan.target.on_unknown == OnUnknown::Evolve {
        let mut lines = Lines::open(open, &plan)?;
        let mut fields = NewFields::default();
        let mut rows = 0;
        while plan.infer_rows == 0 || rows < plan.infer_rows {
            match lines.next(&plan)? {
                None => break,
                Some(Err(_)) => {}
                Some(Ok(row)) => {
                    fields.look(&row.object, &plan);
                    rows += 1;
                }
            }
        }
        fields.settle(&mut plan);
    }
    let mut lines = Lines::open(open, &plan)?;
    let mut ended = false;
    while !ended {
        let mut size = 0;
        let (mut rows, mut dead) = (Vec::new(), Vec::new());
        while rows.len() < ROWS && size < plan.batch_bytes {
            match lines.next(&plan)? {
                None => {
                    ended = true;
                    break;
                }
                Some(Err(bad)) => {
                    size += bad.raw.len();
                    dead.push(bad);
                }
                Some(Ok(row)) => {
                    size += row.raw.len();
                    rows.push(row);
                }
            }
        }
        let batch = decode(rows, dead, &mut plan)?;
        if (batch.rows.num_rows() > 0 || !batch.dead.is_empty()) && !send(batch) {
            return Ok(());
        }
    }
    Ok(())
}

struct Lines {
    window: Window<Box<dyn Read>>,
    line: i64,
}

impl Lines {
    fn open(open: &dyn Fn() -> Result<Box<dyn Read>, FilesError>, plan: &Plan) -> Result<Self, FilesError> {
        let mut window = Window::new(open()?);
        window.fill().map_err(|error| plan.io(error))?;
        if window.bytes().starts_with(b"\xef\xbb\xbf") {
            window.consume(3);
        }
        let first = window.bytes().iter().copied().find(|byte| !byte.is_ascii_whitespace());
        if first == Some(b'[') {
            return Err(FilesError::Content {
                file: plan.origin.shown.clone(),
                expected: "JSON lines",
                found: "it is one JSON array; one object per line is expected".to_owned(),
            });
        }
        Ok(Self { window, line: 0 })
    }

    /// The next object, or the line that is none; empty lines are neither.
    fn next(&mut self, plan: &Plan) -> Result<Option<Result<Row, Bad>>, FilesError> {
        loop {
            let Some(line) = self.window.line(plan.max_row).map_err(|error| plan.io(error))? else { return Ok(None) };
            self.line += 1;
            if line.bytes.trim_ascii().is_empty() {
                continue;
            }
            let refused = |reason, detail| Bad { at: self.line, reason, detail, raw: Vec::new() };
            let bad = match line.cut_from {
                Some(all) => refused("long", format!("the line has {all} bytes; its first bytes are kept")),
                None => match serde_json::from_slice(&line.bytes) {
                    Ok(Value::Object(object)) => return Ok(Some(Ok(Row { line: self.line, raw: line.bytes, object }))),
                    Ok(_) => refused("syntax", "the line is JSON and no object".to_owned()),
                    Err(_) if std::str::from_utf8(&line.bytes).is_err() => {
                        refused("utf8", "the line is not UTF-8".to_owned())
                    }
                    Err(error) => refused("syntax", error.to_string()),
                },
            };
            return Ok(Some(Err(Bad { raw: line.bytes, ..bad })));
        }
    }
}

/// Fields that no column has, in the order they came.
#[derive(Default)]
struct NewFields {
    all: Vec<(String, Seen)>,
    index: HashMap<String, usize>,
}

impl NewFields {
    fn look(&mut self, object: &Map<String, Value>, plan: &Plan) {
        for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
            let name = column_name(name);
            if plan.target.place(&name) != Place::Unknown {
                continue;
            }
            let at = *self.index.entry(name.to_lowercase()).or_insert(self.all.len());
            if at == self.all.len() {
                self.all.push((name.clone(), Seen::default()));
            }
            if let Some((first, seen)) = self.all.get_mut(at)
                && *first == name
            {
                seen.value(value, plan.origin.zone);
            }
        }
    }

    fn settle(self, plan: &mut Plan) {
        let room = COLUMNS.saturating_sub(plan.target.schema().fields().len());
        for (name, seen) in self.all.into_iter().take(room) {
            if let Some(data_type) = seen.data_type() {
                plan.target.add(&name, data_type);
            }
        }
    }
}

fn decode(rows: Vec<Row>, mut dead: Vec<Bad>, plan: &mut Plan) -> Result<Batch, FilesError> {
    if plan.target.on_unknown == OnUnknown::Evolve {
        let mut fields = NewFields::default();
        for row in &rows {
            fields.look(&row.object, plan);
        }
        fields.settle(plan);
    }
    let failed = |source| FilesError::Schema { file: plan.origin.shown.clone(), source };
    let mut decoder = Decoder::new(plan.target.schema()).map_err(failed)?.with_zone(plan.origin.zone);
    let mut kept = Vec::with_capacity(rows.len());
    for mut row in rows {
        let outcome = fit(&mut row.object, plan).and_then(|changed| {
            // As it stands if it can be: the text has every digit of its numbers.
            let decoded = if changed {
                decoder.decode(Value::Object(row.object).to_string().as_bytes())
            } else {
                decoder.decode(row.raw.trim_ascii())
            };
            decoded.map_err(|bad| (bad.word(), bad.to_string()))
        });
        match outcome {
            Ok(()) => kept.push((row.line, row.raw)),
            Err((reason, detail)) => dead.push(Bad { at: row.line, reason, detail, raw: row.raw }),
        }
    }
    let data = decoder.flush().map_err(failed)?;
    let at = kept.iter().map(|(line, _)| *line).collect();
    let raw = |index: usize| kept.get(index).map(|(_, raw)| raw.clone()).unwrap_or_default();
    plan.origin.finish(Decoded { data, at, dead, raw: &raw })
}

/// Whether the value was changed.
type Fit = Result<bool, (&'static str, String)>;

/// Gives fields their columns' names and looks for those that have none. In columns whose type was not declared, text
/// holds any value: what is no text there, as its JSON.
fn fit(object: &mut Map<String, Value>, plan: &Plan) -> Fit {
    let mut changed = false;
    let renamed: Vec<String> = object.keys().filter(|name| column_name(name) != **name).cloned().collect();
    for name in renamed {
        let column = column_name(&name);
        if object.contains_key(&column) {
            return Err(("unknown_field", format!("the fields `{name}` and `{column}` have one name as columns")));
        }
        if let Some(value) = object.remove(&name) {
            object.insert(column, value);
            changed = true;
        }
    }
    for (name, value) in object.iter_mut().filter(|(_, value)| !value.is_null()) {
        match plan.target.place(name) {
            Place::Column(at) => {
                let free = !plan.target.declares(name);
                changed |= fit_value(value, plan.target.field(at).data_type(), free, name, plan)?;
            }
            Place::Unknown | Place::Refused(_) if plan.target.on_unknown == OnUnknown::Ignore => {}
            // Without evidence of a type: an empty object, or one that holds nulls only.
            Place::Unknown if plan.target.on_unknown == OnUnknown::Evolve && is_bare(value, plan.origin.zone) => {}
            Place::Unknown if plan.target.on_unknown == OnUnknown::Evolve => {
                return Err(("unknown_field", format!("`{name}` would be one column more than {COLUMNS}")));
            }
            Place::Unknown => return Err(("unknown_field", format!("the table has no column `{name}`"))),
            Place::Refused(why) => return Err(("unknown_field", why)),
        }
    }
    Ok(changed)
}

fn is_bare(value: &Value, zone: Tz) -> bool {
    let mut seen = Seen::default();
    seen.value(value, zone);
    seen.data_type().is_none()
}

fn fit_value(value: &mut Value, data_type: &DataType, free: bool, path: &str, plan: &Plan) -> Fit {
    let mut changed = false;
    match (data_type, &mut *value) {
        (_, Value::Null) | (DataType::Utf8, Value::String(_)) => {}
        (DataType::Utf8, other) if free => {
            *value = Value::String(other.to_string());
            changed = true;
        }
        (DataType::List(item), Value::Array(items)) => {
            for item_value in items {
                changed |= fit_value(item_value, item.data_type(), free, path, plan)?;
            }
        }
        (DataType::Map(entries, _), Value::Object(object)) => {
            if let DataType::Struct(fields) = entries.data_type()
                && let [_, item] = fields.as_ref()
            {
                for item_value in object.values_mut() {
                    changed |= fit_value(item_value, item.data_type(), free, path, plan)?;
                }
            }
        }
        (DataType::Struct(fields), Value::Object(object)) => {
            changed |= fit_struct(object, fields, free, path, plan)?;
        }
        _ => {}
    }
    Ok(changed)
}

fn fit_struct(object: &mut Map<String, Value>, fields: &Fields, free: bool, path: &str, plan: &Plan) -> Fit {
    let mut changed = false;
    for (name, value) in object.iter_mut().filter(|(_, value)| !value.is_null()) {
        match fields.find(name) {
            Some((_, field)) => {
                changed |= fit_value(value, field.data_type(), free, &format!("{path}.{name}"), plan)?;
            }
            None if plan.target.on_unknown == OnUnknown::Ignore || is_bare(value, plan.origin.zone) => {}
            None => {
                return Err((
                    "unknown_field",
                    format!("the column `{path}` has no field `{name}`, and a nested column does not grow"),
                ));
            }
        }
    }
    Ok(changed)
}
