//! Files of one JSON object per line to batches.
use std::collections::HashMap;
use std::io::Read;

use arrow::datatypes::{DataType, Fields};

use super::batch::{Bad, Batch, Decoded};
use super::error::FilesError;
use super::read::Plan;
use super::target::{OnUnknown, Place, column_name};
use crate::format::infer::Seen;
use crate::format::json::{Decoder, Kind, Syntax, Text};
use crate::format::window::Window;

/// Rows of one batch at most.
const ROWS: usize = 8192;
/// More columns than this are not made of the fields of one table: they are data in the place of names.
const COLUMNS: usize = 2000;

/// A line that holds something.
struct Row {
    line: i64,
    raw: Vec<u8>,
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
                    fields.look(&row.raw, &plan);
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

    /// The next line, or why it is too long to be one; empty lines are left out.
    fn next(&mut self, plan: &Plan) -> Result<Option<Result<Row, Bad>>, FilesError> {
        loop {
            let Some(line) = self.window.line(plan.max_row).map_err(|error| plan.io(error))? else { return Ok(None) };
            self.line += 1;
            if let Some(all) = line.cut_from {
                let detail = format!("the line has {all} bytes; its first bytes are kept");
                return Ok(Some(Err(Bad { at: self.line, reason: "long", detail, raw: line.bytes })));
            }
            if !line.bytes.trim_ascii().is_empty() {
                return Ok(Some(Ok(Row { line: self.line, raw: line.bytes })));
            }
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
    /// Takes a line into account, if it is one JSON value.
    fn look(&mut self, raw: &[u8], plan: &Plan) {
        let whole = || {
            let mut text = Text::new(raw)?;
            text.skip()?;
            text.end()
        };
        if whole().is_ok() {
            // It was walked over just now: nothing in it can fail.
            let walked = self.walk(raw, plan);
            debug_assert!(walked.is_ok(), "a text that was read whole is read again");
        }
    }

    fn walk(&mut self, raw: &[u8], plan: &Plan) -> Result<(), Syntax> {
        let mut text = Text::new(raw)?;
        if text.kind()? != Kind::Object {
            return Ok(());
        }
        let mut items = text.enter()?;
        while text.more(&mut items)? {
            let name = column_name(&text.key()?);
            if text.kind()? == Kind::Null || plan.target.place(&name) != Place::Unknown {
                text.skip()?;
                continue;
            }
            let at = *self.index.entry(name.to_lowercase()).or_insert(self.all.len());
            if at == self.all.len() {
                self.all.push((name.clone(), Seen::default()));
            }
            match self.all.get_mut(at) {
                Some((first, seen)) if *first == name => seen.json(&mut text, plan.origin.zone)?,
                _ => text.skip().map(drop)?,
            }
        }
        Ok(())
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
            fields.look(&row.raw, plan);
        }
        fields.settle(plan);
    }
    let failed = |source| FilesError::Schema { file: plan.origin.shown.clone(), source };
    let mut decoder = Decoder::new(plan.target.schema()).map_err(failed)?.with_zone(plan.origin.zone);
    let mut kept = Vec::with_capacity(rows.len());
    let mut fitted = String::new();
    for row in rows {
        fitted.clear();
        let refused = match fit(&row.raw, plan, &mut fitted) {
            Ok(()) => decoder.decode(fitted.as_bytes()).err().map(|bad| (bad.word(), bad.to_string())),
            Err(Refused::Field(detail)) => Some(("unknown_field", detail)),
            // The decoder says it, as it would of any record.
            Err(Refused::Syntax) => decoder.decode(&row.raw).err().map(|bad| (bad.word(), bad.to_string())),
        };
        match refused {
            None => kept.push((row.line, row.raw)),
            Some((reason, detail)) => dead.push(Bad { at: row.line, reason, detail, raw: row.raw }),
        }
    }
    let data = decoder.flush().map_err(failed)?;
    let at = kept.iter().map(|(line, _)| *line).collect();
    let raw = |index: usize| kept.get(index).map(|(_, raw)| raw.clone()).unwrap_or_default();
    plan.origin.finish(Decoded { data, at, dead, raw: &raw })
}

enum Refused {
    Syntax,
    Field(String),
}

impl From<Syntax> for Refused {
    fn from(_: Syntax) -> Self {
        Self::Syntax
    }
}

type Fit = Result<(), Refused>;

/// Writes a line with the columns' names in the place of the fields', and refuses fields that may not be there. In
/// columns whose type was not declared, text holds any value: what is no text there, as its JSON. Every value keeps the
/// digits it was written with.
fn fit(raw: &[u8], plan: &Plan, out: &mut String) -> Fit {
    let mut text = Text::new(raw)?;
    if text.kind()? != Kind::Object {
        return Err(Refused::Syntax);
    }
    let ignored = plan.target.on_unknown == OnUnknown::Ignore;
    let mut items = text.enter()?;
    out.push('{');
    while text.more(&mut items)? {
        let key = text.key()?;
        let name = column_name(&key);
        match plan.target.place(&name) {
            Place::Column(at) => {
                separate(out);
                quote(&name, out);
                out.push(':');
                let free = !plan.target.declares(&name);
                fit_value(&mut text, plan.target.field(at).data_type(), free, &name, ignored, out)?;
            }
            place => {
                let null = text.kind()? == Kind::Null;
                let shaped = text.skip_shape()?;
                match place {
                    _ if null || ignored => {}
                    // Without evidence of a type: an object of nothing but nulls.
                    Place::Unknown if !shaped => {}
                    Place::Refused(why) => return Err(Refused::Field(why)),
                    _ if plan.target.on_unknown == OnUnknown::Evolve => {
                        return Err(Refused::Field(format!("`{name}` would be one column more than {COLUMNS}")));
                    }
                    _ => return Err(Refused::Field(format!("the table has no column `{name}`"))),
                }
            }
        }
    }
    out.push('}');
    text.end()?;
    Ok(())
}

/// A comma, unless something was just opened.
fn separate(out: &mut String) {
    if !out.ends_with(['{', '[']) {
        out.push(',');
    }
}

fn quote(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn fit_value(
    text: &mut Text<'_>,
    data_type: &DataType,
    free: bool,
    path: &str,
    ignored: bool,
    out: &mut String,
) -> Fit {
    match (data_type, text.kind()?) {
        (DataType::Utf8, Kind::Boolean | Kind::Number | Kind::Array | Kind::Object) if free => quote(text.skip()?, out),
        (DataType::List(item), Kind::Array) => {
            let mut items = text.enter()?;
            out.push('[');
            while text.more(&mut items)? {
                separate(out);
                fit_value(text, item.data_type(), free, path, ignored, out)?;
            }
            out.push(']');
        }
        (DataType::Map(entries, _), Kind::Object) => {
            let DataType::Struct(fields) = entries.data_type() else { return Err(Refused::Syntax) };
            let [_, value] = fields.as_ref() else { return Err(Refused::Syntax) };
            let mut items = text.enter()?;
            out.push('{');
            while text.more(&mut items)? {
                let key = text.key()?;
                separate(out);
                quote(&key, out);
                out.push(':');
                fit_value(text, value.data_type(), free, path, ignored, out)?;
            }
            out.push('}');
        }
        (DataType::Struct(fields), Kind::Object) => fit_struct(text, fields, free, path, ignored, out)?,
        _ => out.push_str(text.skip()?),
    }
    Ok(())
}

fn fit_struct(text: &mut Text<'_>, fields: &Fields, free: bool, path: &str, ignored: bool, out: &mut String) -> Fit {
    let mut items = text.enter()?;
    out.push('{');
    while text.more(&mut items)? {
        let name = text.key()?;
        if let Some((_, field)) = fields.find(&name) {
            separate(out);
            quote(&name, out);
            out.push(':');
            fit_value(text, field.data_type(), free, &format!("{path}.{name}"), ignored, out)?;
        } else if text.skip_shape()? && !ignored {
            return Err(Refused::Field(format!(
                "the column `{path}` has no field `{name}`, and a nested column does not grow"
            )));
        }
    }
    out.push('}');
    Ok(())
}
