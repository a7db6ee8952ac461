//! Tables in this process, for tests and demos. The same rules as the databases, and the only sink that grows.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::common::ScalarValue;
use futures::FutureExt;

use super::column::{self, Column, Kind};
use super::{Connection, Held, Load, Loaded, Mode, Opening, Sink, SinkError, settled};
use crate::error::Result;

const SINK: &str = "memory";

/// What the sinks opened on it have shown.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<String, Table>>>);

/// One table and its ledger row.
#[derive(Debug, Clone)]
struct Table {
    source: String,
    held: Held,
    columns: Vec<(String, Kind)>,
    rows: Vec<Vec<ScalarValue>>,
}

impl Memory {
    /// Returns column names and rows of a table, in the order they were written.
    pub fn rows(&self, table: &str) -> Option<(Vec<String>, Vec<Vec<ScalarValue>>)> {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let table = tables.get(table)?;
        Some((table.columns.iter().map(|(name, _)| name.clone()).collect(), table.rows.clone()))
    }
}

/// A sink onto a [`Memory`].
#[derive(Debug)]
pub struct MemorySink {
    memory: Memory,
    open: Option<(Load, Vec<Column>, Vec<Vec<ScalarValue>>)>,
}

impl MemorySink {
    /// Opens a sink onto `memory`.
    pub fn new(memory: &Memory) -> Self {
        Self { memory: memory.clone(), open: None }
    }
}

pub(super) fn open(_connection: Connection) -> Opening {
    async { Ok(Box::new(MemorySink::new(&Memory::default())) as Box<dyn Sink>) }.boxed()
}

#[async_trait]
impl Sink for MemorySink {
    async fn progress(&mut self, source: &str) -> Result<Option<Held>> {
        let tables = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tables.values().find(|table| table.source == source).map(|table| table.held.clone()))
    }

    async fn begin(&mut self, load: &Load) -> Result<()> {
        self.open = None;
        let columns = column::columns(SINK, load)?;
        let tables = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(&load.table) {
            check(table, load, &columns)?;
        }
        drop(tables);
        self.open = Some((load.clone(), columns, Vec::new()));
        Ok(())
    }

    async fn stage(&mut self, batch: RecordBatch) -> Result<()> {
        let Some((load, columns, rows)) = &mut self.open else { return Err(not_begun().into()) };
        let arrays = column::normal(SINK, load, columns, &batch, rows.len() as u64 + 1)?;
        for row in 0..batch.num_rows() {
            let cells = arrays.iter().map(|array| ScalarValue::try_from_array(array, row));
            rows.push(
                cells
                    .collect::<Result<_, _>>()
                    .map_err(|cause| SinkError::Rows { table: load.table.clone(), cause })?,
            );
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<Loaded> {
        let Some((load, columns, staged)) = self.open.take() else { return Err(not_begun().into()) };
        let mut tables = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = match tables.get(&load.table) {
            Some(table) => {
                if let Some(loaded) = settled(&table.held, &load)? {
                    return Ok(loaded);
                }
                check(table, &load, &columns)?;
                table.clone()
            }
            None => Table {
                source: load.source.clone(),
                held: Held { table_id: String::new(), version: 0, rows: 0 },
                columns: Vec::new(),
                rows: Vec::new(),
            },
        };
        let loaded = table.show(&load, &columns, staged)?;
        table.held = Held { table_id: load.table_id, version: load.version, rows: loaded.rows };
        tables.insert(load.table, table);
        Ok(loaded)
    }

    async fn abort(&mut self) -> Result<()> {
        self.open = None;
        Ok(())
    }
}

fn not_begun() -> SinkError {
    SinkError::Mismatch { table: String::new(), reason: "no load was begun".to_owned() }
}

fn check(table: &Table, load: &Load, columns: &[Column]) -> Result<(), SinkError> {
    if table.source != load.source {
        return Err(SinkError::Taken {
            sink: SINK,
            target: load.table.clone(),
            origin: load.source.clone(),
            owner: Some(table.source.clone()),
        });
    }
    for column in columns {
        if let Some((_, held)) = table.columns.iter().find(|(name, held)| *name == column.name && *held != column.kind)
        {
            return Err(SinkError::TypeChanged {
                sink: SINK,
                table: load.table.clone(),
                column: column.name.clone(),
                held: held.to_string(),
                offered: column.kind.to_string(),
            });
        }
    }
    Ok(())
}

impl Table {
    fn show(&mut self, load: &Load, columns: &[Column], staged: Vec<Vec<ScalarValue>>) -> Result<Loaded, SinkError> {
        for column in columns {
            if !self.columns.iter().any(|(name, _)| *name == column.name) {
                self.columns.push((column.name.clone(), column.kind));
                let null = ScalarValue::try_from(&column.kind.arrow())
                    .map_err(|cause| SinkError::Rows { table: load.table.clone(), cause })?;
                for row in &mut self.rows {
                    row.push(null.clone());
                }
            }
        }
        // Where each column of the table is in a staged row.
        let from: Vec<_> =
            self.columns.iter().map(|(name, _)| columns.iter().position(|column| column.name == *name)).collect();
        let rows = staged.len() as u64;
        let staged = staged.into_iter().map(|row| {
            from.iter()
                .map(|at| at.and_then(|at| row.get(at).cloned()).unwrap_or(ScalarValue::Null))
                .collect::<Vec<_>>()
        });
        let before = std::mem::take(&mut self.rows);
        let mut loaded = Loaded { rows, ..Loaded::default() };
        if load.keys.is_empty() || load.mode == Mode::Append {
            if load.mode == Mode::Append {
                self.rows = before;
            } else {
                loaded.deleted = before.len() as u64;
            }
            self.rows.extend(staged);
            loaded.written = rows;
            return Ok(loaded);
        }
        let keys: Vec<_> =
            load.keys.iter().filter_map(|key| self.columns.iter().position(|(name, _)| name == key)).collect();
        let key = |row: &Vec<ScalarValue>| keys.iter().filter_map(|at| row.get(*at).cloned()).collect::<Vec<_>>();
        let old: HashMap<_, _> = before.iter().map(|row| (key(row), row.clone())).collect();
        let mut places = HashMap::new();
        if load.mode == Mode::Upsert {
            self.rows = before;
            places = self.rows.iter().enumerate().map(|(at, row)| (key(row), at)).collect();
        }
        for row in staged {
            let this = key(&row);
            if old.get(&this) != Some(&row) {
                loaded.written += 1;
            }
            match places.get(&this) {
                Some(_) if load.mode == Mode::Replace => {
                    return Err(SinkError::Key {
                        table: load.table.clone(),
                        reason: "two rows have the same key".to_owned(),
                        fix: "correct `unique_key` of the model, or aggregate by it".to_owned(),
                    });
                }
                Some(at) => {
                    if let Some(place) = self.rows.get_mut(*at) {
                        *place = row;
                    }
                }
                None => {
                    places.insert(this, self.rows.len());
                    self.rows.push(row);
                }
            }
        }
        if load.mode == Mode::Replace {
            loaded.deleted = old.keys().filter(|key| !places.contains_key(*key)).count() as u64;
        }
        Ok(loaded)
    }
}
