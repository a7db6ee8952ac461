//! Rows into a table by key, in memory that does not grow with them.
//!
//! The rows are staged first, as Parquet files in the table's folder that no commit names yet. If the table is empty
//! and the keys came in rising order, those files *are* the table. Otherwise the staged and the current rows are
//! compared by (key, digest); only files that hold a changed row are rewritten, and the change itself is kept as
//! change data (`_change_data/`), so that a reader of changes sees what was inserted and what was updated, not a
//! delete of everything. All of it is one commit.
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::catalog::{CatalogProvider, MemTable, MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;
use deltalake::kernel::{Action, Add, AddCDCFile};
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use serde_json::json;

use super::commit::{Commit, Guard, Operation};
use super::error::TableError;
use super::snapshot::Table;
use super::write::{FileWriter, WriteOptions};
use crate::engine::{Engine, row_digest};
use crate::error::Result;

/// Rows waiting in the table's folder.
#[derive(Debug)]
pub struct Staged {
    /// The files.
    pub files: Vec<Add>,
    /// Rows in them.
    pub rows: u64,
    /// Whether the keys rise strictly through all files in order, so that none comes twice.
    pub rising: bool,
    /// A column, not of the table, that tells which of two rows with one key came later. Needed unless `rising`.
    pub order: Option<String>,
}

/// What an upsert did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpsertOutcome {
    /// The version it made; `None` if every row was there already.
    pub version: Option<u64>,
    /// Keys that were new.
    pub inserted: u64,
    /// Keys whose row changed.
    pub updated: u64,
    /// Keys whose row was the same.
    pub unchanged: u64,
    /// Rows that a later row with the same key replaced.
    pub replaced: u64,
}

/// Brings `staged` into `table` by `key`, whose values are never NULL.
///
/// # Errors
/// [`TableError::Conflict`] if another writer changed rows meanwhile; nothing was written then.
pub async fn upsert(
    engine: &Engine,
    table: &mut Table,
    staged: Staged,
    key: &str,
    info: serde_json::Map<String, serde_json::Value>,
    now: DateTime<Utc>,
) -> Result<UpsertOutcome> {
    let mut commit = Commit::new(Operation::Upsert, Guard::Exclusive, now);
    commit.info = info;
    if staged.rows == 0 {
        return Ok(UpsertOutcome::default());
    }
    if table.files()?.is_empty() && staged.rising {
        let inserted = staged.rows;
        commit.metrics = json!({ "numTargetRowsInserted": inserted, "numTargetFilesAdded": staged.files.len() });
        commit.actions = staged.files.into_iter().map(Action::Add).collect();
        let version = Some(table.commit(commit).await?.version);
        return Ok(UpsertOutcome { version, inserted, ..UpsertOutcome::default() });
    }
    let work = Work::open(engine, table, &staged, key)?;
    let outcome = work.run(table, &staged, commit, now).await;
    // What was only staged is of no more use; should this fail, vacuum takes it.
    if !matches!(&outcome, Ok((_, true))) {
        let store = table.log_store().object_store(None);
        for file in &staged.files {
            if let Err(error) = store.delete(&Path::from(file.path.as_str())).await {
                tracing::debug!(%error, file = file.path, "staged file left behind");
            }
        }
    }
    Ok(outcome?.0)
}

struct Work<'a> {
    engine: &'a Engine,
    session: crate::engine::Session,
    tables: Arc<MemorySchemaProvider>,
    schema: SchemaRef,
    key: String,
    columns: String,
    name: String,
    root: String,
    scratch: tempfile::TempDir,
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl<'a> Work<'a> {
    fn open(engine: &'a Engine, table: &Table, staged: &Staged, key: &str) -> Result<Self> {
        let session = engine.bare_session();
        let context = session.context();
        let state = context.state();
        let tables = Arc::new(MemorySchemaProvider::new());
        let catalog = MemoryCatalogProvider::new();
        let failed = |e| engine.failed(e);
        catalog.register_schema("s", Arc::clone(&tables) as _).map_err(failed)?;
        context.register_catalog("w", Arc::new(catalog));
        context.register_udf(row_digest());

        let schema = table.schema()?;
        let current = table.scan(&state, None, Some("__file"))?;
        let register = |name: &str, provider| {
            use datafusion::catalog::SchemaProvider as _;
            tables.register_table(name.to_owned(), provider).map(drop).map_err(failed)
        };
        register("current", current)?;
        let mut staged_fields: Vec<_> = schema.fields().iter().cloned().collect();
        if let Some(order) = &staged.order {
            staged_fields.push(Arc::new(Field::new(order, DataType::Int64, true)));
        }
        let paths: Vec<_> = staged.files.iter().map(|file| file.path.as_str()).collect();
        let listing = listing(context, table, &paths, Arc::new(Schema::new(staged_fields))).map_err(failed)?;
        register("staged", Arc::new(listing))?;
        let columns = schema.fields().iter().map(|f| quote(f.name())).collect::<Vec<_>>().join(", ");
        let scratch = tempfile::tempdir_in(engine.spill_dir()).map_err(|e| {
            TableError::storage(
                "stage rows for",
                table.name(),
                object_store::Error::Generic { store: "spill folder", source: e.into() },
            )
        })?;
        Ok(Self {
            engine,
            session,
            tables,
            schema,
            key: quote(key),
            columns,
            name: table.name().to_string(),
            root: table.log_store().root_url().to_string(),
            scratch,
        })
    }

    async fn rows(&self, sql: &str) -> Result<SendableRecordBatchStream> {
        let failed = |e| self.engine.failed(e);
        let frame = self.session.context().sql(sql).await.map_err(failed)?;
        frame.execute_stream().await.map_err(failed)
    }

    /// The staged rows, each key once: its last.
    fn incoming(&self, staged: &Staged) -> String {
        let columns = &self.columns;
        match &staged.order {
            None => format!("(SELECT {columns} FROM w.s.staged)"),
            Some(order) => format!(
                "(SELECT {columns} FROM (SELECT {columns}, row_number() OVER (PARTITION BY {key} ORDER BY {order} DESC) AS __n \
                 FROM w.s.staged) WHERE __n = 1)",
                key = self.key,
                order = quote(order),
            ),
        }
    }

    /// Returns the outcome and whether the staged files themselves became part of the table.
    async fn run(
        &self,
        table: &mut Table,
        staged: &Staged,
        mut commit: Commit,
        now: DateTime<Utc>,
    ) -> Result<(UpsertOutcome, bool)> {
        let incoming = self.incoming(staged);
        let (changed, keys) = self.changes(&incoming).await?;
        let Changed { inserted, updated, touched } = changed;
        let mut outcome = UpsertOutcome {
            version: None,
            inserted,
            updated,
            unchanged: keys - inserted - updated,
            replaced: staged.rows - keys,
        };
        if inserted + updated == 0 {
            return Ok((outcome, false));
        }
        commit.metrics = json!({ "numTargetRowsInserted": inserted, "numTargetRowsUpdated": updated });
        if updated == 0 && staged.rising && inserted == staged.rows {
            commit.actions = staged.files.iter().cloned().map(Action::Add).collect();
            outcome.version = Some(table.commit(commit).await?.version);
            return Ok((outcome, true));
        }
        let (columns, key) = (&self.columns, &self.key);
        let prefixed = |prefix: &str| {
            let names = self.schema.fields().iter().map(|f| format!("{prefix}.{}", quote(f.name())));
            names.collect::<Vec<_>>().join(", ")
        };
        let state = self.session.context().state();
        {
            use datafusion::catalog::SchemaProvider as _;
            let provider: Arc<dyn datafusion::catalog::TableProvider> = if touched.is_empty() {
                Arc::new(MemTable::try_new(Arc::clone(&self.schema), vec![vec![]]).map_err(|e| self.engine.failed(e))?)
            } else {
                table.scan(&state, Some(touched.iter().cloned().collect()), None)?
            };
            self.tables.register_table("touched".to_owned(), provider).map_err(|e| self.engine.failed(e))?;
        }
        let kept = format!(
            "SELECT {columns} FROM w.s.touched t WHERE NOT EXISTS (SELECT 1 FROM w.s.changed c WHERE c.k = t.{key})"
        );
        let news = format!("SELECT {} FROM {incoming} i JOIN w.s.changed c ON c.k = i.{key}", prefixed("i"));
        let rewritten = self
            .write(table, &format!("SELECT * FROM ({kept} UNION ALL {news}) ORDER BY {key}"), &self.schema, "", now)
            .await?;
        let touched_set: BTreeSet<&str> = touched.iter().map(String::as_str).collect();
        commit.actions =
            table.removes(|path| !touched_set.contains(path), now)?.into_iter().map(Action::Remove).collect();
        commit.actions.extend(rewritten.into_iter().map(Action::Add));
        if updated > 0 {
            let before = format!(
                "SELECT {}, 'update_preimage' AS _change_type FROM w.s.touched t JOIN w.s.changed c ON c.k = t.{key}",
                prefixed("t")
            );
            let after = format!(
                "SELECT {}, CASE WHEN c.f IS NULL THEN 'insert' ELSE 'update_postimage' END AS _change_type \
                 FROM {incoming} i JOIN w.s.changed c ON c.k = i.{key}",
                prefixed("i")
            );
            let mut fields: Vec<_> = self.schema.fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new("_change_type", DataType::Utf8, true)));
            let schema = Arc::new(Schema::new(fields));
            let files = self.write(table, &format!("{before} UNION ALL {after}"), &schema, "_change_data", now).await?;
            commit.actions.extend(files.into_iter().map(|file| {
                Action::Cdc(AddCDCFile {
                    path: file.path,
                    size: file.size,
                    partition_values: file.partition_values,
                    data_change: false,
                    tags: None,
                })
            }));
        }
        outcome.version = Some(table.commit(commit).await?.version);
        Ok((outcome, false))
    }

    /// Finds keys that are new or whose row differs, into the scratch table `changed (k, f)`: `f` is the file that
    /// holds the old row, NULL for a new key. Also returns how many keys came in.
    async fn changes(&self, incoming: &str) -> Result<(Changed, u64)> {
        let (key, columns) = (&self.key, &self.columns);
        let sql = format!(
            "SELECT i.k AS k, c.f AS f, c.k IS NULL OR i.d <> c.d AS differs \
             FROM (SELECT {key} AS k, row_digest({columns}) AS d FROM {incoming} x) i \
             LEFT JOIN (SELECT {key} AS k, row_digest({columns}) AS d, CAST(__file AS VARCHAR) AS f FROM w.s.current) c \
             ON i.k = c.k"
        );
        let mut rows = self.rows(&sql).await?;
        let schema = rows.schema();
        let kept: SchemaRef = Arc::new(schema.project(&[0, 1]).map_err(|e| self.engine.failed(e.into()))?);
        let path = self.scratch.path().join("changed.parquet");
        let io = |e: std::io::Error| self.engine.failed(e.into());
        let parquet = |source| TableError::Parquet { doing: "compare rows of", table: self.name.clone(), source };
        let file = std::fs::File::create(&path).map_err(io)?;
        let mut writer = ArrowWriter::try_new(file, Arc::clone(&kept), None).map_err(parquet)?;
        let mut changed = Changed::default();
        let mut keys = 0;
        while let Some(batch) = rows.try_next().await.map_err(|e| self.engine.failed(e))? {
            keys += batch.num_rows() as u64;
            let differs = batch.column(2).as_boolean();
            let batch =
                arrow::compute::filter_record_batch(&batch, differs).map_err(|e| self.engine.failed(e.into()))?;
            let batch = batch.project(&[0, 1]).map_err(|e| self.engine.failed(e.into()))?;
            let files = batch.column(1).as_string::<i32>();
            for row in 0..files.len() {
                if files.is_null(row) {
                    changed.inserted += 1;
                } else {
                    changed.updated += 1;
                    if !changed.touched.contains(files.value(row)) {
                        changed.touched.insert(files.value(row).to_owned());
                    }
                }
            }
            writer.write(&batch).map_err(parquet)?;
            if writer.in_progress_size() > 4 << 20 {
                writer.flush().map_err(parquet)?;
            }
        }
        writer.close().map_err(parquet)?;
        // The scan names files by URL; the log names them relative to the table.
        changed.touched = changed.touched.iter().map(|url| relative(url, &self.root)).collect();
        let url = ListingTableUrl::parse(path.to_string_lossy()).map_err(|e| self.engine.failed(e))?;
        let config = ListingTableConfig::new(url)
            .with_listing_options(ListingOptions::new(Arc::new(ParquetFormat::new())))
            .with_schema(kept);
        let listing = ListingTable::try_new(config).map_err(|e| self.engine.failed(e))?;
        {
            use datafusion::catalog::SchemaProvider as _;
            self.tables.register_table("changed".to_owned(), Arc::new(listing)).map_err(|e| self.engine.failed(e))?;
        }
        Ok((changed, keys))
    }

    async fn write(
        &self,
        table: &Table,
        sql: &str,
        schema: &SchemaRef,
        folder: &'static str,
        now: DateTime<Utc>,
    ) -> Result<Vec<Add>> {
        let mut rows = self.rows(sql).await?;
        let options = WriteOptions { folder, ..WriteOptions::default() };
        let mut writer = FileWriter::new(table, Arc::clone(schema), options, now);
        while let Some(batch) = rows.try_next().await.map_err(|e| self.engine.failed(e))? {
            // Same types; nullability as the table states it.
            let batch = arrow::array::RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec());
            writer.write(&batch.map_err(|e| self.engine.failed(e.into()))?).await?;
        }
        writer.finish().await
    }
}

#[derive(Debug, Default)]
struct Changed {
    inserted: u64,
    updated: u64,
    touched: BTreeSet<String>,
}

/// A file's path as the log names it.
fn relative(url: &str, root: &str) -> String {
    url.strip_prefix(root).unwrap_or(url).to_owned()
}

/// A provider of some files of `table`, read as `schema`.
pub(crate) fn listing(
    context: &SessionContext,
    table: &Table,
    paths: &[&str],
    schema: SchemaRef,
) -> datafusion::error::Result<ListingTable> {
    let root = table.log_store().root_url().clone();
    table
        .delta()
        .update_datafusion_session(&context.state())
        .map_err(|e| datafusion::error::DataFusionError::External(Box::new(e)))?;
    let urls = paths
        .iter()
        .map(|path| {
            let url = root.join(path).map_err(|e| datafusion::error::DataFusionError::External(Box::new(e)))?;
            ListingTableUrl::parse(url.as_str())
        })
        .collect::<datafusion::error::Result<Vec<_>>>()?;
    let config = ListingTableConfig::new_with_multi_paths(urls)
        .with_listing_options(ListingOptions::new(Arc::new(ParquetFormat::new())))
        .with_schema(schema);
    ListingTable::try_new(config)
}
