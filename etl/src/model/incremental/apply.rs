//! Brings rows with weights into the stored table: what cancels out is left alone, and only files that hold a row that goes
//! are written again.
//!
//! Rows are known by the digest of all their values, so a row that goes takes one equal row out of the table, wherever it
//! is. That each such row is found is the proof that the table was what the change was computed from: if one is not, the
//! table has drifted, nothing is committed, and the caller recomputes it whole.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::catalog::{
    CatalogProvider as _, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider as _, TableProvider,
};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use deltalake::kernel::{Action, Add, AddCDCFile};
use futures::TryStreamExt as _;

use super::Refusal;
use super::delta::Stop;
use super::prune::may_hold;
use super::scratch::{Kept, Scratch};
use crate::engine::{Engine, Session, row_digest};
use crate::error::Result;
use crate::table::{FileWriter, Table, WriteOptions};

/// Files of tables that are rewritten by key are no larger than this, so that touching one costs no more.
pub(in crate::model) const FILE_BYTES: usize = 16 << 20;

/// What a change did to the table, and the entries of the log that do it.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) actions: Vec<Action>,
    /// Rows that came.
    pub(super) came: u64,
    /// Rows that went.
    pub(super) went: u64,
    /// Files written again.
    pub(super) rewritten: u64,
}

/// The parts that work on one table.
pub(super) struct Applier<'a> {
    pub(super) engine: &'a Engine,
    pub(super) table: &'a Table,
    pub(super) schema: &'a SchemaRef,
    pub(super) scratch: &'a Scratch,
    pub(super) now: DateTime<Utc>,
}

struct Names {
    session: Session,
    tables: Arc<MemorySchemaProvider>,
}

impl Names {
    fn open(engine: &Engine) -> Result<Self, DataFusionError> {
        let session = engine.bare_session();
        let context = session.context();
        {
            let state = context.state_ref();
            let mut state = state.write();
            // The side that is hashed is always the change, which is the smaller.
            state.config_mut().options_mut().optimizer.prefer_hash_join = true;
        }
        let tables = Arc::new(MemorySchemaProvider::new());
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema("s", Arc::clone(&tables) as _)?;
        context.register_catalog("w", Arc::new(catalog));
        context.register_udf(row_digest());
        Ok(Self { session, tables })
    }

    fn add(&self, name: &str, provider: Arc<dyn TableProvider>) -> Result<(), DataFusionError> {
        self.tables.register_table(name.to_owned(), provider).map(drop)
    }

    async fn rows(&self, sql: &str) -> Result<SendableRecordBatchStream, DataFusionError> {
        self.session.context().sql(sql).await?.execute_stream().await
    }

    async fn keep(&self, scratch: &Scratch, sql: &str) -> Result<Kept, DataFusionError> {
        let plan = self.session.context().sql(sql).await?.into_unoptimized_plan();
        scratch.keep(&self.session.context().state(), plan).await
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn outer(error: crate::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl Applier<'_> {
    /// `delta`: the stored columns, then the weight.
    pub(super) async fn apply(&self, delta: &Kept) -> Result<Applied, Stop> {
        let names = Names::open(self.engine)?;
        let state = names.session.context().state();
        let n = self.schema.fields().len();
        let kept = (0..n).map(|at| format!("c{at}")).collect::<Vec<_>>().join(", ");
        names.add("delta", delta.provider())?;
        // Digests and what is left of their weights: `c0`, `c1`.
        let net = names
            .keep(
                self.scratch,
                &format!(
                    "SELECT d, n FROM (SELECT d, CAST(sum(w) AS BIGINT) AS n FROM (SELECT row_digest({kept}) AS d, c{n} AS w \
                     FROM w.s.delta) GROUP BY d) WHERE n <> 0"
                ),
            )
            .await?;
        names.add("net", net.provider())?;
        let mut applied = Applied::default();
        if net.rows == 0 {
            return Ok(applied);
        }
        // One row for each digest, as often as its weight says.
        let rows_of = |sign: &str, times: &str| {
            format!(
                "SELECT {columns}, {times} AS w FROM w.s.net JOIN (SELECT {kept}, d, row_number() OVER (PARTITION BY d) AS r \
                 FROM (SELECT {kept}, row_digest({kept}) AS d FROM w.s.delta)) x ON w.s.net.c0 = x.d \
                 WHERE r = 1 AND w.s.net.c1 {sign} 0",
                columns = (0..n).map(|at| format!("x.c{at}")).collect::<Vec<_>>().join(", "),
            )
        };
        let (came, went) = (rows_of(">", "w.s.net.c1"), rows_of("<", "-w.s.net.c1"));
        let mut options = WriteOptions { file_bytes: FILE_BYTES, ..WriteOptions::default() };
        let mut writer = FileWriter::new(self.table, Arc::clone(self.schema), options.clone(), self.now);
        let gone = names.keep(self.scratch, &went).await?;
        let mut touched = BTreeSet::new();
        if gone.rows > 0 {
            let (files, count) = self.find(&names, &net, &gone).await?;
            applied.went = count;
            touched = files;
            names.add(
                "touched",
                self.table.scan(&state, Some(touched.iter().cloned().collect()), None).map_err(outer)?,
            )?;
            for sql in self.kept_rows() {
                self.write(&mut writer, names.rows(&sql).await?, false).await?;
            }
        }
        let before = writer.rows();
        self.write(&mut writer, names.rows(&came).await?, true).await?;
        applied.came = writer.rows() - before;
        let adds = writer.finish().await.map_err(outer)?;
        applied.rewritten = touched.len() as u64;
        if !touched.is_empty() {
            let removes = self.table.removes(|path| !touched.contains(path), self.now).map_err(outer)?;
            applied.actions.extend(removes.into_iter().map(Action::Remove));
            if self.table.keeps_changes() {
                names.add("gone", gone.provider())?;
                options.folder = "_change_data";
                let images = self.images(&names, &came, options).await?;
                applied.actions.extend(images.into_iter().map(|file| {
                    Action::Cdc(AddCDCFile {
                        path: file.path,
                        size: file.size,
                        partition_values: file.partition_values,
                        data_change: false,
                        tags: None,
                    })
                }));
            }
        }
        applied.actions.extend(adds.into_iter().map(Action::Add));
        Ok(applied)
    }

    fn digest(&self) -> String {
        let columns = self.schema.fields().iter().map(|f| quote(f.name())).collect::<Vec<_>>().join(", ");
        format!("row_digest({columns})")
    }

    /// The files that hold the rows that go, as few as possible, and how many rows that are.
    async fn find(&self, names: &Names, net: &Kept, gone: &Kept) -> Result<(BTreeSet<String>, u64), Stop> {
        let state = names.session.context().state();
        let mut left: HashMap<Vec<u8>, i64> = HashMap::new();
        let mut rows = names.rows("SELECT c0, c1 FROM w.s.net WHERE c1 < 0").await?;
        while let Some(batch) = rows.try_next().await? {
            let (digests, weights) = (bytes(batch.column(0))?, batch.column(1).as_primitive::<Int64Type>());
            for (at, digest) in digests.into_iter().enumerate() {
                left.insert(digest, -weights.value(at));
            }
        }
        debug_assert!(left.len() as u64 <= net.rows, "no more than there are");
        let count: i64 = left.values().sum();
        let all: Vec<String> = self.table.files().map_err(outer)?.into_iter().map(|file| file.path).collect();
        let candidates = may_hold(self.table, self.schema, gone).map_err(outer)?.unwrap_or(all);
        let mut touched = BTreeSet::new();
        if !candidates.is_empty() {
            names.add("stored", self.table.scan(&state, Some(candidates), Some("__file")).map_err(outer)?)?;
            let sql = format!(
                "SELECT f, s.d, count(*) AS n FROM w.s.net JOIN (SELECT CAST(__file AS VARCHAR) AS f, {} AS d FROM w.s.stored) s \
                 ON w.s.net.c0 = s.d WHERE w.s.net.c1 < 0 GROUP BY f, s.d",
                self.digest()
            );
            let mut rows = names.rows(&sql).await?;
            let root = self.table.log_store().root_url().to_string();
            while let Some(batch) = rows.try_next().await? {
                let files = batch.column(0).as_string::<i32>();
                let (digests, counts) = (bytes(batch.column(1))?, batch.column(2).as_primitive::<Int64Type>());
                for (at, digest) in digests.into_iter().enumerate() {
                    if let Some(wanted) = left.get_mut(&digest)
                        && *wanted > 0
                    {
                        *wanted -= counts.value(at).min(*wanted);
                        let file = files.value(at);
                        touched.insert(file.strip_prefix(root.as_str()).unwrap_or(file).to_owned());
                    }
                }
            }
        }
        let missing: i64 = left.values().sum();
        if missing > 0 {
            let refusal = format!(
                "`{}` does not hold {missing} of the {count} rows that should go: it is not what its inputs gave before",
                self.table.name()
            );
            return Err(Stop::Refused(Refusal(refusal)));
        }
        Ok((touched, u64::try_from(count).unwrap_or_default()))
    }

    /// What stays of the touched files: rows that nothing is known of, and those beyond how many go.
    fn kept_rows(&self) -> [String; 2] {
        let digest = self.digest();
        let columns = self.schema.fields().iter().map(|f| quote(f.name())).collect::<Vec<_>>().join(", ");
        let going = "(SELECT c0 AS __gd, -c1 AS __gn FROM w.s.net WHERE c1 < 0) g";
        let touched = format!("(SELECT *, {digest} AS __d FROM w.s.touched) t");
        [
            format!("SELECT {columns} FROM {going} RIGHT JOIN {touched} ON __gd = __d WHERE __gd IS NULL"),
            format!(
                "SELECT {columns} FROM (SELECT t.*, __gn, row_number() OVER (PARTITION BY __d) AS __r FROM {going} \
                 JOIN {touched} ON __gd = __d) WHERE __r > __gn"
            ),
        ]
    }

    async fn write(
        &self,
        writer: &mut FileWriter,
        mut rows: SendableRecordBatchStream,
        weighted: bool,
    ) -> Result<(), Stop> {
        while let Some(batch) = rows.try_next().await? {
            let batch = if weighted { repeated(&batch)? } else { batch };
            let batch = RecordBatch::try_new(Arc::clone(writer.schema()), batch.columns().to_vec())
                .map_err(DataFusionError::from)?;
            writer.write(&batch).await.map_err(outer)?;
        }
        Ok(())
    }

    async fn images(&self, names: &Names, came: &str, options: WriteOptions) -> Result<Vec<Add>, Stop> {
        let n = self.schema.fields().len();
        let mut fields: Vec<_> = self.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("_change_type", DataType::Utf8, true)));
        let mut writer = FileWriter::new(self.table, Arc::new(Schema::new(fields)), options, self.now);
        let kept = (0..n).map(|at| format!("c{at}")).collect::<Vec<_>>().join(", ");
        let went = format!("SELECT {kept}, 'delete' AS k, c{n} AS w FROM w.s.gone");
        let came = format!("SELECT {kept}, 'insert' AS k, w FROM ({came})");
        for sql in [went, came] {
            self.write(&mut writer, names.rows(&sql).await?, true).await?;
        }
        Ok(writer.finish().await.map_err(outer)?)
    }
}

/// The batch without its last column, each row as often as that says.
fn repeated(batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let last = batch.num_columns().saturating_sub(1);
    let times = batch.column(last).as_primitive::<Int64Type>();
    let columns: Vec<usize> = (0..last).collect();
    let rows = batch.project(&columns)?;
    if times.values().iter().all(|times| *times == 1) {
        return Ok(rows);
    }
    let mut which = Vec::new();
    for (at, times) in times.values().iter().enumerate() {
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        which.extend((0..*times).map(|_| at));
    }
    Ok(arrow::compute::take_record_batch(&rows, &UInt32Array::from(which))?)
}

/// Digests as bytes, in whichever form of binary they come.
fn bytes(column: &ArrayRef) -> Result<Vec<Vec<u8>>, DataFusionError> {
    let column = arrow::compute::cast(column, &DataType::Binary)?;
    let values = column.as_binary::<i32>();
    Ok((0..values.len()).map(|at| values.value(at).to_vec()).collect())
}
