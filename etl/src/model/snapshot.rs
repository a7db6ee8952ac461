//! `snapshot`: what a SELECT gave over time, a row for each version of a row (slowly changing dimension, type 2).
//!
//! The table has the SELECT's columns, and dbt's: `dbt_scd_id`, `dbt_updated_at`, `dbt_valid_from`, `dbt_valid_to` (NULL:
//! still so), and with `hard_deletes='new_record'` `dbt_is_deleted`. Intervals are half-open. Only files that hold a row
//! which has come to its end are written anew; new rows are added; both, and the versions of the inputs read, are one
//! commit: after a crash the same change is found again, or none.
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::{DateTime, SecondsFormat, Utc};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::{Action, Add, MetadataExt as _, StructType};
use serde_json::{Value as Json, json};

use super::build::{opened, versions_read};
use super::error::ModelError;
use super::identity::{self, Identity};
use super::incremental::volatile;
use super::project::{Model, Project, nearest};
use super::statement::bare;
use crate::engine::{Engine, Given, Pinned, Session};
use crate::error::Result;
use crate::table::{
    Commit, FileWriter, Guard, Operation, Table, TableError, TableName, WriteOptions, storable, to_storable,
};

/// What keeping a snapshot came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The version its table is at.
    pub version: u64,
    /// Rows that were added; `None` if nothing had to be done.
    pub rows: Option<u64>,
    /// Whether nothing had to be done.
    pub unchanged: bool,
    /// Whether its SELECT may give something else each time.
    pub volatile: bool,
}

/// How a row is found to have changed.
enum Strategy {
    /// A column says when it last did.
    Timestamp(String),
    /// One of these columns differs; none named: any.
    Check(Option<Vec<String>>),
}

/// What a key that is gone means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deletes {
    /// Nothing.
    Ignore,
    /// Its last row has come to its end.
    Invalidate,
    /// The same, and a row says that it is deleted.
    NewRecord,
}

struct Rules {
    key: Vec<String>,
    strategy: Strategy,
    deletes: Deletes,
}

/// What is wrong with the rules of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The key of `config(…)` that is wrong or missing.
    pub(super) key: &'static str,
    /// What is wrong.
    pub(super) what: String,
    /// What to do, where that is known.
    pub(super) fix: Option<String>,
}

impl Fault {
    fn new(key: &'static str, what: impl Into<String>) -> Self {
        Self { key, what: what.into(), fix: None }
    }

    fn error(self, model: &Model) -> crate::Error {
        let fix = self.fix.map(|fix| format!("; {fix}")).unwrap_or_default();
        wrong(model, format!("{}{fix}", self.what))
    }
}

/// What is wrong with the rules of the snapshot `model`, whose SELECT gives `selected`.
pub(super) fn faults(model: &Model, selected: &Schema) -> Vec<Fault> {
    match Rules::read(model) {
        Ok(rules) => rules.faults(selected),
        Err(fault) => vec![fault],
    }
}

impl Rules {
    fn read(model: &Model) -> Result<Self, Fault> {
        let text = |key: &str| model.config.get(key).and_then(Json::as_str);
        if model.unique_key.is_empty() {
            return Err(Fault::new("unique_key", "the snapshot has no `unique_key`"));
        }
        let columns =
            || Fault::new("check_cols", "the strategy `check` needs `check_cols`: a list of columns, or 'all'");
        let strategy = match (text("strategy"), text("updated_at"), model.config.get("check_cols")) {
            (Some("timestamp"), Some(column), _) => Strategy::Timestamp(column.to_owned()),
            (Some("timestamp"), None, _) => {
                return Err(Fault::new("strategy", "the strategy `timestamp` needs `updated_at`"));
            }
            (Some("check"), _, Some(Json::String(all))) if all == "all" => Strategy::Check(None),
            (Some("check"), _, Some(Json::Array(names))) if !names.is_empty() => {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned));
                Strategy::Check(Some(names.collect::<Option<_>>().ok_or_else(columns)?))
            }
            (Some("check"), ..) => return Err(columns()),
            _ => return Err(Fault::new("strategy", "the snapshot's `strategy` is neither `timestamp` nor `check`")),
        };
        let legacy = model.config.get("invalidate_hard_deletes").and_then(Json::as_bool).unwrap_or(false);
        let deletes = match text("hard_deletes") {
            None if legacy => Deletes::Invalidate,
            None | Some("ignore") => Deletes::Ignore,
            Some("invalidate") => Deletes::Invalidate,
            Some("new_record") => Deletes::NewRecord,
            Some(_) => {
                let what = "the snapshot's `hard_deletes` is none of `ignore`, `invalidate` and `new_record`";
                return Err(Fault::new("hard_deletes", what));
            }
        };
        Ok(Self { key: model.unique_key.clone(), strategy, deletes })
    }

    /// The columns that are named and that the SELECT does not have.
    fn faults(&self, selected: &Schema) -> Vec<Fault> {
        let checked = match &self.strategy {
            Strategy::Check(Some(columns)) => columns.as_slice(),
            _ => &[],
        };
        let named = self.key.iter().map(|column| ("unique_key", column));
        let named = named.chain(self.updated_at().map(|column| ("updated_at", column)));
        let named = named.chain(checked.iter().map(|column| ("check_cols", column)));
        let unknown = named.filter(|(_, column)| selected.field_with_name(column).is_err());
        let there = || selected.fields().iter().map(|field| field.name().as_str());
        unknown
            .map(|(key, column)| {
                let near =
                    there().find(|known| known.eq_ignore_ascii_case(column)).or_else(|| nearest(column, there()));
                Fault {
                    fix: near.map(|near| format!("did you mean `{near}`?")),
                    ..Fault::new(key, format!("the SELECT has no column `{column}`, which `{key}` names"))
                }
            })
            .collect()
    }
}

fn wrong(model: &Model, why: String) -> crate::Error {
    ModelError::Snapshot { model: model.name.clone(), file: model.file.clone(), why }.into()
}

const INCOMING: &str = "incoming";
const DELETED: &str = "dbt_is_deleted";

/// Brings the snapshot's table up to date with what its SELECT gives now.
///
/// # Errors
/// [`ModelError::Snapshot`] if its rules are incomplete or its key is not one; [`ModelError::Input`] and
/// [`ModelError::Sql`] as for any model; a [`TableError`] if it cannot be committed.
pub async fn snapshot(engine: &Engine, project: &Project, model: &Model, now: DateTime<Utc>) -> Result<Kept> {
    let rules = Rules::read(model).map_err(|fault| fault.error(model))?;
    let in_sql = |source: crate::Error| ModelError::Sql {
        model: model.name.clone(),
        file: model.file.clone(),
        source: Box::new(source),
    };
    let inputs = opened(engine, project, model).await?;
    let mut txns = versions_read(model, &inputs);
    let contents = inputs.values().map(Table::contents).collect::<Result<Vec<_>>>()?;
    let pinned: Pinned = Arc::new(inputs);
    let (_session, plan) = engine.plan(&model.sql, Arc::clone(&pinned)).await.map_err(in_sql)?;
    let volatile =
        volatile(&plan).map_err(|e| engine.failed(e))?.is_some() || identity::reads_files(project, model).is_some();
    let other = format!("{contents:?}\n{:?}", model.config);
    txns.push((format!("{}/plan", model.name), Identity::of(project, model, &plan).number(&other)));
    let selected = storable(plan.schema().as_arrow());
    if let Some(fault) = rules.faults(&selected).into_iter().next() {
        return Err(fault.error(model));
    }

    let _computing = engine.lake().compute(&model.table).await;
    let mut table = engine.lake().ensure(&model.table, &rules.schema(&selected, None), &[]).await?;
    let mut expected = Vec::new();
    for (app, _) in &txns {
        expected.push((app.clone(), table.txn(app).await?));
    }
    let same = |((app, wanted), (_, found)): (&(String, i64), &(String, Option<i64>))| {
        Some(*wanted) == *found || (!app.ends_with("/plan") && found.is_some())
    };
    if !volatile && txns.iter().zip(&expected).all(same) {
        return Ok(Kept { version: table.version(), rows: None, unchanged: true, volatile });
    }
    let has = table.schema()?;
    let schema = rules.schema(&selected, Some(&has));
    let work = Work { engine, model, rules, pinned, selected, has: Arc::clone(&has), schema: Arc::clone(&schema), now };
    let change = work.change(&table).await?;
    let mut commit = Commit::new(Operation::Upsert, Guard::Exclusive, now);
    if has.fields() != schema.fields() {
        let store = |source| ModelError::Store { model: model.name.clone(), source };
        let columns: StructType = schema.as_ref().try_into_kernel().map_err(store)?;
        let metadata = table.metadata()?.with_schema(&columns);
        let metadata = metadata.map_err(|e| TableError::delta("change the columns of", table.name(), e.into()))?;
        commit.actions.push(Action::Metadata(metadata));
    }
    let rewritten = |path: &str| change.touched.contains(path);
    commit.actions.extend(table.removes(|path| !rewritten(path), now)?.into_iter().map(Action::Remove));
    super::visible::judge(engine, project, model, &table, &schema, &change.adds, rewritten).await?;
    commit.actions.extend(change.adds.into_iter().map(Action::Add));
    commit.txns = txns;
    commit.expected = expected;
    commit.metrics = json!({ "numTargetRowsInserted": change.added, "numTargetRowsUpdated": change.closed });
    let version = table.commit(commit).await?.version;
    Ok(Kept { version, rows: Some(change.added), unchanged: false, volatile })
}

impl Rules {
    fn updated_at(&self) -> Option<&String> {
        match &self.strategy {
            Strategy::Timestamp(column) => Some(column),
            Strategy::Check(_) => None,
        }
    }

    /// The table's columns: those it has, those that the SELECT has besides, and the snapshot's own.
    fn schema(&self, selected: &SchemaRef, has: Option<&SchemaRef>) -> SchemaRef {
        let at = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let mut fields: Vec<Arc<Field>> = has.map(|has| has.fields().iter().cloned().collect()).unwrap_or_default();
        let mut own = vec![
            ("dbt_scd_id", DataType::Utf8),
            ("dbt_updated_at", at()),
            ("dbt_valid_from", at()),
            ("dbt_valid_to", at()),
        ];
        if self.deletes == Deletes::NewRecord {
            own.push((DELETED, DataType::Utf8));
        }
        let own = own.into_iter().map(|(name, data_type)| Arc::new(Field::new(name, data_type, true)));
        for field in selected.fields().iter().cloned().chain(own) {
            if !fields.iter().any(|known| known.name() == field.name()) {
                fields.push(field);
            }
        }
        Arc::new(Schema::new(fields))
    }
}

/// Files that go and come.
struct Change {
    touched: BTreeSet<String>,
    adds: Vec<Add>,
    added: u64,
    closed: usize,
}

struct Work<'w> {
    engine: &'w Engine,
    model: &'w Model,
    rules: Rules,
    pinned: Pinned,
    /// What the SELECT gives.
    selected: SchemaRef,
    /// What the table has.
    has: SchemaRef,
    /// What it will have.
    schema: SchemaRef,
    now: DateTime<Utc>,
}

fn name(column: &str) -> String {
    format!("\"{}\"", column.replace('"', "\"\""))
}

/// An instant as the table stores it.
fn instant(expression: &str) -> String {
    format!("arrow_cast({expression}, 'Timestamp(Microsecond, Some(\"UTC\"))')")
}

impl Work<'_> {
    async fn change(&self, table: &Table) -> Result<Change> {
        let session = self.engine.planning_session(Arc::clone(&self.pinned), Given::new());
        let kept = table.scan(&session.context().state(), None, Some("__file"))?;
        let given = Given::from([(TableName::new("snapshot", "kept"), kept)]);
        self.keys_are_keys(&given).await?;

        let closings = self.closings();
        let found = self.rows(&closings, &given).await?;
        let mut touched = BTreeSet::new();
        let mut closed = 0;
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut columns = None;
        let mut found = found;
        while let Some(batch) = found.next().await.map_err(|e| self.in_sql(e))? {
            if let Some(files) = batch.column(1).as_string_opt::<i32>() {
                touched.extend(files.iter().flatten().map(str::to_owned));
            }
            closed += batch.num_rows();
            columns = Some(batch.schema());
            batches.push(batch);
        }
        // The scan names files by URL; the log names them relative to the table.
        let files = table.files()?;
        let named = |url: &String| {
            let path = |path: &str| url.strip_suffix(path).is_some_and(|root| root.is_empty() || root.ends_with('/'));
            files.iter().map(|file| file.path.clone()).find(|file| path(file))
        };
        let touched: BTreeSet<String> = match touched.iter().map(named).collect() {
            Some(touched) => touched,
            None => {
                return Err(wrong(self.model, "a file of its table has a name that its log does not have".to_owned()));
            }
        };
        let mut writer = FileWriter::new(table, Arc::clone(&self.schema), WriteOptions::default(), self.now);
        self.write(&mut writer, &self.news(), &given).await?;
        let added = writer.rows();
        if let Some(columns) = columns {
            let batch = concat_batches(&columns, &batches)
                .map_err(|source| ModelError::Store { model: self.model.name.clone(), source })?;
            let ends: Arc<dyn TableProvider> =
                Arc::new(MemTable::try_new(columns, vec![vec![batch]]).map_err(|e| self.engine.failed(e))?);
            let files: Vec<String> = touched.iter().cloned().collect();
            let rows = table.scan(&session.context().state(), Some(files), None)?;
            let given = Given::from([
                (TableName::new("snapshot", "ends"), ends),
                (TableName::new("snapshot", "touched"), rows),
            ]);
            self.write(&mut writer, &self.ended(), &given).await?;
        }
        Ok(Change { touched, adds: writer.finish().await?, added, closed })
    }

    fn in_sql(&self, source: crate::Error) -> crate::Error {
        let (model, file) = (self.model.name.clone(), self.model.file.clone());
        ModelError::Sql { model, file, source: Box::new(source) }.into()
    }

    async fn rows(&self, sql: &str, given: &Given) -> Result<crate::engine::Rows> {
        let session: Session = self.engine.planning_session(Arc::clone(&self.pinned), given.clone());
        let statement = crate::engine::parse(sql).map_err(|e| self.engine.failed(e))?;
        let planned = crate::engine::window::planned(&session.context().state(), statement).await;
        let plan = planned.map_err(|e| self.in_sql(self.engine.failed(e)))?;
        self.engine.start(session, plan).await.map_err(|e| self.in_sql(e))
    }

    async fn write(&self, writer: &mut FileWriter, sql: &str, given: &Given) -> Result<()> {
        let mut rows = self.rows(sql, given).await?;
        while let Some(batch) = rows.next().await.map_err(|e| self.in_sql(e))? {
            let batch = to_storable(&batch, &self.schema)
                .map_err(|source| ModelError::Store { model: self.model.name.clone(), source })?;
            writer.write(&batch).await?;
        }
        Ok(())
    }

    async fn keys_are_keys(&self, given: &Given) -> Result<()> {
        let keys = self.rules.key.iter().map(|key| name(key)).collect::<Vec<_>>();
        let none = keys.iter().map(|key| format!("{key} is null")).collect::<Vec<_>>().join(" or ");
        let keys = keys.join(", ");
        let sql = format!(
            "{} select {keys}, count(*) as n from {INCOMING} group by {keys} having count(*) > 1 or {none} limit 1",
            self.with_incoming()
        );
        let found = self.rows(&sql, given).await?.collect().await.map_err(|e| self.in_sql(e))?;
        let Some(batch) = found.iter().find(|batch| batch.num_rows() > 0) else { return Ok(()) };
        let value =
            |column: usize| arrow::util::display::array_value_to_string(batch.column(column), 0).unwrap_or_default();
        let values: Vec<String> = (0..self.rules.key.len()).map(value).collect();
        let why = format!(
            "its `unique_key` ({}) is no key: `{}` is there {} times, or is NULL",
            self.rules.key.join(", "),
            values.join(", "),
            value(self.rules.key.len())
        );
        Err(wrong(self.model, why))
    }

    fn with_incoming(&self) -> String {
        format!("with {INCOMING} as (select * from (\n{}\n) as q)", bare(&self.model.sql))
    }

    fn on(&self) -> String {
        let same = |key: &String| format!("i.{0} = o.{0}", name(key));
        self.rules.key.iter().map(same).collect::<Vec<_>>().join(" and ")
    }

    fn now(&self) -> String {
        instant(&format!("'{}'", self.now.to_rfc3339_opts(SecondsFormat::Micros, true)))
    }

    /// When an incoming row began to be so.
    fn since(&self) -> String {
        self.rules.updated_at().map_or_else(|| self.now(), |column| instant(&format!("i.{}", name(column))))
    }

    /// Whether the incoming row `i` is another than the open row `o`.
    fn changed(&self) -> String {
        let differs = match &self.rules.strategy {
            Strategy::Timestamp(_) => format!("(o.dbt_valid_from < {})", self.since()),
            Strategy::Check(columns) => {
                let named =
                    |column: &&Arc<Field>| columns.as_ref().is_none_or(|columns| columns.contains(column.name()));
                let old = |column: &str| self.has.field_with_name(column).is_ok();
                let compare = |field: &Arc<Field>| {
                    let column = name(field.name());
                    if old(field.name()) {
                        format!("(i.{column} is distinct from o.{column})")
                    } else {
                        format!("(i.{column} is not null)")
                    }
                };
                let fields = self.selected.fields().iter().filter(named).map(compare).collect::<Vec<_>>();
                if fields.is_empty() { "false".to_owned() } else { format!("({})", fields.join(" or ")) }
            }
        };
        if self.has_deleted() { format!("({differs} or (o.{DELETED} = 'True'))") } else { differs }
    }

    fn has_deleted(&self) -> bool {
        self.has.field_with_name(DELETED).is_ok()
    }

    /// Open rows of keys that are gone.
    fn gone(&self) -> String {
        let deleted =
            if self.has_deleted() { format!(" and (o.{DELETED} is distinct from 'True')") } else { String::new() };
        format!(
            "from snapshot.kept o where o.dbt_valid_to is null{deleted} and not exists (select 1 from {INCOMING} i where {})",
            self.on()
        )
    }

    /// The key's columns of `of` as `key_0`, `key_1`, …
    fn keys(&self, of: &str) -> String {
        let named = |(at, key): (usize, &String)| format!("{of}.{} as key_{at}", name(key));
        self.rules.key.iter().enumerate().map(named).collect::<Vec<_>>().join(", ")
    }

    /// Rows that have come to their end: id, file, when, and the key.
    fn closings(&self) -> String {
        let keys = self.keys("o");
        let mut sql = format!(
            "{} select o.dbt_scd_id as id, cast(o.__file as varchar) as file, {} as ended, {keys} from snapshot.kept o join {INCOMING} i on {} where o.dbt_valid_to is null and {}",
            self.with_incoming(),
            self.since(),
            self.on(),
            self.changed()
        );
        if self.rules.deletes != Deletes::Ignore {
            sql += " union all select o.dbt_scd_id, cast(o.__file as varchar), ";
            sql += &self.now();
            sql += ", ";
            sql += &keys;
            sql += " ";
            sql += &self.gone();
        }
        sql
    }

    /// dbt's id. The parts of a key of several columns are told apart whatever is in them: `\` goes before `|` and `\`.
    fn id(&self, of: &str, since: &str) -> String {
        let text = |key: &String| format!("cast({of}.{} as varchar)", name(key));
        let told = |key: &String| format!(r"replace(replace({}, '\', '\\'), '|', '\|')", text(key));
        let keys = self.rules.key.iter().map(|key| if self.rules.key.len() > 1 { told(key) } else { text(key) });
        format!("md5(concat_ws('|', {}, cast({since} as varchar)))", keys.collect::<Vec<_>>().join(", "))
    }

    /// Rows that begin: new keys, changed ones, and marks of deleted ones.
    fn news(&self) -> String {
        let (since, now) = (self.since(), self.now());
        let column = |of: &str, since: &str, deleted: &str, known: &dyn Fn(&str) -> bool| {
            let value = |field: &Arc<Field>| {
                let column = name(field.name());
                match field.name().as_str() {
                    "dbt_scd_id" => format!("{} as {column}", self.id(of, since)),
                    "dbt_updated_at" | "dbt_valid_from" => format!("{since} as {column}"),
                    "dbt_valid_to" => format!("{} as {column}", instant("null")),
                    DELETED => format!("'{deleted}' as {column}"),
                    known_name if known(known_name) => format!("{of}.{column} as {column}"),
                    _ => format!("null as {column}"),
                }
            };
            self.schema.fields().iter().map(value).collect::<Vec<_>>().join(", ")
        };
        let selected = |column: &str| self.selected.field_with_name(column).is_ok();
        let had = |column: &str| self.has.field_with_name(column).is_ok();
        let mut sql = format!(
            "{} select {} from {INCOMING} i left join (select * from snapshot.kept where dbt_valid_to is null) o on {} where o.dbt_scd_id is null or {}",
            self.with_incoming(),
            column("i", &since, "False", &selected),
            self.on(),
            self.changed()
        );
        if self.rules.deletes == Deletes::NewRecord {
            sql += " union all select ";
            sql += &column("o", &now, "True", &had);
            sql += " ";
            sql += &self.gone();
        }
        sql
    }

    /// The rows of the touched files, with their ends.
    fn ended(&self) -> String {
        let value = |field: &Arc<Field>| {
            let column = name(field.name());
            match field.name().as_str() {
                "dbt_valid_to" => format!("coalesce(e.ended, t.{column}) as {column}"),
                known if self.has.field_with_name(known).is_ok() => format!("t.{column} as {column}"),
                _ => format!("null as {column}"),
            }
        };
        let columns = self.schema.fields().iter().map(value).collect::<Vec<_>>().join(", ");
        let same = |(at, key): (usize, &String)| format!("e.key_{at} = t.{}", name(key));
        let same = self.rules.key.iter().enumerate().map(same).collect::<Vec<_>>().join(" and ");
        // An id says which version of a row it is, and not in every table whose: ids of before may fall together.
        format!(
            "select {columns} from snapshot.touched t left join snapshot.ends e on e.id = t.dbt_scd_id and {same} and t.dbt_valid_to is null"
        )
    }
}
