//! Tables that live: their rows are remembered file by file, so that any of them can change.
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, Int64Builder, ListBuilder,
    RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use deltalake::kernel::{Action, AddCDCFile};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tidemill_etl::table::{Commit, FileWriter, Guard, Lake, Operation, TableName, WriteOptions, restore, write_file};

pub(crate) const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A number of a few.
    Small,
    /// A number of many.
    Int,
    /// A word of a few.
    Text,
    /// Cents.
    Dec,
    /// Floating-point, above zero.
    Float,
    /// True or false.
    Bool,
    /// An instant.
    Time,
    /// Some numbers.
    List,
}

impl Kind {
    fn data_type(self) -> DataType {
        match self {
            Self::Small => DataType::Int32,
            Self::Int => DataType::Int64,
            Self::Text => DataType::Utf8,
            Self::Dec => DataType::Decimal128(10, 2),
            Self::Float => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::List => DataType::List(Arc::new(Field::new("element", DataType::Int64, true))),
        }
    }

    fn values(self, n: usize, clock: i64, nulls: f64, random: &mut StdRng) -> ArrayRef {
        let some = |random: &mut StdRng| !random.random_bool(nulls);
        match self {
            Self::Small => {
                Arc::new((0..n).map(|_| some(random).then(|| random.random_range(0..6))).collect::<Int32Array>())
            }
            Self::Int => {
                Arc::new((0..n).map(|_| some(random).then(|| random.random_range(-50..1000))).collect::<Int64Array>())
            }
            Self::Text => {
                let words = ["a", "b", "", "köln", "a much longer word than thirty-two characters are", "z"];
                let word = |random: &mut StdRng| *words.choose(random).unwrap();
                Arc::new((0..n).map(|_| some(random).then(|| word(random))).collect::<StringArray>())
            }
            Self::Dec => {
                let cents = (0..n).map(|_| some(random).then(|| i128::from(random.random_range(-9_999..99_999))));
                Arc::new(cents.collect::<Decimal128Array>().with_precision_and_scale(10, 2).unwrap())
            }
            Self::Float => {
                let float = |random: &mut StdRng| {
                    if random.random_bool(0.02) { f64::NAN } else { random.random_range(0.01..1000.0) }
                };
                Arc::new((0..n).map(|_| some(random).then(|| float(random))).collect::<Float64Array>())
            }
            Self::Bool => {
                Arc::new((0..n).map(|_| some(random).then(|| random.random::<bool>())).collect::<BooleanArray>())
            }
            Self::Time => {
                // In the order of time, but for a few that come late.
                let at = |at: usize, random: &mut StdRng| {
                    let late = if random.random_bool(0.2) { random.random_range(0..7_200_000_000) } else { 0 };
                    clock * 600_000_000 + i64::try_from(at).unwrap() * 7_000_000 - late
                };
                let values = (0..n).map(|row| some(random).then(|| at(row, random)));
                Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
            }
            Self::List => {
                let mut lists = ListBuilder::new(Int64Builder::new()).with_field(Arc::new(Field::new(
                    "element",
                    DataType::Int64,
                    true,
                )));
                for _ in 0..n {
                    if some(random) {
                        for _ in 0..random.random_range(0..4) {
                            lists.values().append_option(some(random).then(|| random.random_range(0..5)));
                        }
                        lists.append(true);
                    } else {
                        lists.append_null();
                    }
                }
                Arc::new(lists.finish())
            }
        }
    }
}

/// One table and what it holds.
pub(crate) struct Input {
    pub(crate) name: TableName,
    pub(crate) columns: Vec<(String, Kind)>,
    nulls: f64,
    images: bool,
    files: Vec<(String, RecordBatch)>,
    clock: i64,
}

impl Input {
    pub(crate) async fn new(lake: &Lake, name: &str, generation: u32, random: &mut StdRng) -> Self {
        let mut columns =
            vec![("id".to_owned(), Kind::Int), ("k".to_owned(), Kind::Small), ("w".to_owned(), Kind::Text)];
        let more = [Kind::Small, Kind::Int, Kind::Text, Kind::Dec, Kind::Float, Kind::Bool, Kind::Time, Kind::List];
        for n in 0..random.random_range(2..7) {
            columns.push((format!("x{n}"), *more.choose(random).unwrap()));
        }
        if generation > 1 {
            columns.push(("at".to_owned(), Kind::Time));
        }
        let images = random.random();
        let properties: &[(&str, &str)] = if images { &[("delta.enableChangeDataFeed", "true")] } else { &[] };
        let nulls = *[0.0, 0.1, 0.3].choose(random).unwrap();
        let input = Self { name: TableName::new("bronze", name), columns, nulls, images, files: Vec::new(), clock: 0 };
        lake.ensure(&input.name, &input.schema(), properties).await.unwrap();
        input
    }

    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.columns.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect::<Vec<_>>(),
        ))
    }

    fn rows(&mut self, n: usize, random: &mut StdRng) -> RecordBatch {
        self.clock += 1;
        let columns = self.columns.iter().map(|(_, kind)| kind.values(n, self.clock, self.nulls, random)).collect();
        let batch = RecordBatch::try_new(self.schema(), columns).unwrap();
        if n > 1 && random.random_bool(0.3) {
            // Some of them twice.
            let which: Vec<u32> = (0..n).map(|_| random.random_range(0..u32::try_from(n).unwrap())).collect();
            return take_record_batch(&batch, &UInt32Array::from(which)).unwrap();
        }
        batch
    }

    /// Lets something happen; says what.
    pub(crate) async fn live(&mut self, lake: &Lake, random: &mut StdRng) -> String {
        match random.random_range(0..100) {
            0..45 => {
                let n = random.random_range(1..25);
                let mut rows = self.rows(n, random);
                if let Some((_, old)) = self.files.choose(random)
                    && random.random_bool(0.2)
                {
                    rows = concat_batches(&self.schema(), [&rows, old]).unwrap();
                }
                self.replace(lake, &[], Some(rows), Operation::Append).await;
                format!("{n} rows came")
            }
            45..70 => self.change(lake, random).await,
            70..78 => {
                let empty = self.rows(0, random);
                self.replace(lake, &[], Some(empty), Operation::Append).await;
                "an empty commit".to_owned()
            }
            78..90 => self.rearrange(lake).await,
            90..94 => {
                let n = random.random_range(0..20);
                let rows = self.rows(n, random);
                let all: Vec<String> = self.files.iter().map(|(path, _)| path.clone()).collect();
                self.replace(lake, &all, Some(rows), Operation::Overwrite).await;
                format!("overwritten with {n}")
            }
            94..97 => {
                let mut table = lake.table(&self.name).await.unwrap();
                let to = random.random_range(0..=table.version());
                let old = lake.table_at(&self.name, to).await.unwrap();
                let paths: Vec<String> = old.files().unwrap().into_iter().map(|file| file.path).collect();
                if table.version() == to || restore(lake, &self.name, to, NOW).await.is_err() {
                    return "nothing".to_owned();
                }
                table.refresh().await.unwrap();
                self.reread(&paths, lake);
                format!("version {to} restored")
            }
            _ => "nothing".to_owned(),
        }
    }

    /// Reads again what the files of a restored version hold.
    fn reread(&mut self, paths: &[String], lake: &Lake) {
        let mut files = Vec::new();
        for path in paths {
            let url = lake.root().join(&format!("{}/{}/{path}", self.name.schema, self.name.table)).unwrap();
            let file = std::fs::File::open(url.to_file_path().unwrap()).unwrap();
            let reader =
                parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
            let columns = |batch: &RecordBatch| RecordBatch::try_new(self.schema(), batch.columns().to_vec()).unwrap();
            let batches: Vec<RecordBatch> = batches.iter().map(columns).collect();
            files.push((path.clone(), concat_batches(&self.schema(), &batches).unwrap()));
        }
        self.files = files;
    }

    /// Rows of one file change or go.
    async fn change(&mut self, lake: &Lake, random: &mut StdRng) -> String {
        let Some((path, rows)) = self.files.choose(random).cloned() else { return "nothing".to_owned() };
        let n = rows.num_rows();
        let fate: Vec<u32> = (0..n).map(|_| random.random_range(0..10)).collect();
        let which = |wanted: &dyn Fn(u32) -> bool| -> RecordBatch {
            let at: Vec<u32> = (0..n).filter(|at| wanted(fate[*at])).map(|at| u32::try_from(at).unwrap()).collect();
            take_record_batch(&rows, &UInt32Array::from(at)).unwrap()
        };
        let (kept, gone, before) = (which(&|f| f > 3), which(&|f| f < 2), which(&|f| f == 2 || f == 3));
        // A change keeps some columns and draws others anew.
        let fresh = self.rows(before.num_rows(), random);
        let columns = (0..before.num_columns()).map(|at| {
            Arc::clone(if at == 0 || random.random_bool(0.4) { before.column(at) } else { fresh.column(at) })
        });
        let after = RecordBatch::try_new(self.schema(), columns.collect()).unwrap();
        let all = concat_batches(&self.schema(), [&kept, &after]).unwrap();
        let mut commit = self.removal(lake, &[path], true).await;
        let table = lake.table(&self.name).await.unwrap();
        if self.images {
            let kinds = [(&gone, "delete"), (&before, "update_preimage"), (&after, "update_postimage")];
            let mut fields: Vec<_> = self.schema().fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new("_change_type", DataType::Utf8, true)));
            let schema = Arc::new(Schema::new(fields));
            let mut options = WriteOptions::default();
            options.folder = "_change_data";
            let mut writer = FileWriter::new(&table, Arc::clone(&schema), options, NOW);
            for (rows, kind) in kinds {
                let mut columns = rows.columns().to_vec();
                columns.push(Arc::new(StringArray::from(vec![kind; rows.num_rows()])));
                writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()).await.unwrap();
            }
            commit.actions.extend(writer.finish().await.unwrap().into_iter().map(|file| {
                Action::Cdc(AddCDCFile {
                    path: file.path,
                    size: file.size,
                    partition_values: file.partition_values,
                    data_change: false,
                    tags: None,
                })
            }));
        }
        let said = format!("{} rows went, {} changed", gone.num_rows(), before.num_rows());
        self.put(lake, commit, Some(all), true).await;
        said
    }

    /// The same rows in one file.
    async fn rearrange(&mut self, lake: &Lake) -> String {
        if self.files.len() < 2 {
            return "nothing".to_owned();
        }
        let some: Vec<(String, RecordBatch)> = self.files.iter().take(3).cloned().collect();
        let (paths, rows): (Vec<String>, Vec<RecordBatch>) = some.into_iter().unzip();
        let commit = self.removal(lake, &paths, false).await;
        let all = concat_batches(&self.schema(), &rows).unwrap();
        self.put(lake, commit, Some(all), false).await;
        format!("{} files put together", paths.len())
    }

    async fn replace(&mut self, lake: &Lake, out: &[String], rows: Option<RecordBatch>, operation: Operation) {
        let mut commit = self.removal(lake, out, true).await;
        commit.operation = operation;
        self.put(lake, commit, rows, true).await;
    }

    async fn removal(&mut self, lake: &Lake, out: &[String], data_change: bool) -> Commit {
        let table = lake.table(&self.name).await.unwrap();
        let mut commit = Commit::new(Operation::Overwrite, Guard::Exclusive, NOW);
        for mut remove in table.removes(|path| !out.iter().any(|out| out == path), NOW).unwrap() {
            remove.data_change = data_change;
            commit.actions.push(Action::Remove(remove));
        }
        self.files.retain(|(path, _)| !out.contains(path));
        commit
    }

    async fn put(&mut self, lake: &Lake, mut commit: Commit, rows: Option<RecordBatch>, data_change: bool) {
        let mut table = lake.table(&self.name).await.unwrap();
        if let Some(rows) = rows
            && let Some(mut add) = write_file(&table, &rows, NOW).await.unwrap()
        {
            add.data_change = data_change;
            self.files.push((add.path.clone(), rows));
            commit.actions.push(Action::Add(add));
        }
        table.commit(commit).await.unwrap();
    }
}
