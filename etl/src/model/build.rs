//! Brings a model's table to what its SELECT gives.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use datafusion::logical_expr::LogicalPlan;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::{Action, Add, MetadataExt as _, StructType};
use serde::Serialize;
use serde_json::json;
use tracing::{info, warn};

use super::emission::Emission;
use super::error::ModelError;
use super::identity::{self, Identity};
use super::incremental::{Class, FILE_BYTES, Reading, Refreshed, Timed, refresh, timed, volatile};
use super::project::{Materialization, Model, Project};
use crate::engine::{Engine, Pinned, Session, WATERMARK, names_versions};
use crate::error::Result;
use crate::table::{
    Commit, FileWriter, Guard, Operation, Table, TableError, TableName, WriteOptions, storable, to_storable,
};

/// Raised when a plan's table would be laid out or computed in another way: tables of before are made anew.
const LAYOUT: u32 = 1;
/// How often a model is built again because somebody else has just committed to its table.
const TRIES: u32 = 3;
/// Tables kept up to date say row by row what changed, so that what reads them is quick.
const PROPERTIES: &[(&str, &str)] = &[("delta.enableChangeDataFeed", "true")];

/// What building a model came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Built {
    /// The model.
    pub model: String,
    /// The version its table is at now; `None` for a view.
    pub version: Option<u64>,
    /// Rows in the table, where it was written.
    pub rows: Option<u64>,
    /// Whether nothing had to be done.
    pub unchanged: bool,
    /// How the table was brought up to date; `None` if nothing had to be done.
    pub class: Option<Class>,
    /// Rows that came and rows that went, where only the change was computed.
    pub changed: Option<(u64, u64)>,
    /// The first function in its SELECT that gives something else each time, such as `now`: it is never taken for unchanged.
    pub volatile: Option<String>,
    /// Why an incremental model was computed whole, if it was.
    pub full_because: Option<String>,
}

impl Built {
    fn unchanged(model: &Model, version: Option<u64>) -> Self {
        let model = model.name.clone();
        Self {
            model,
            version,
            rows: None,
            unchanged: true,
            class: None,
            changed: None,
            volatile: None,
            full_because: None,
        }
    }
}

fn in_sql(model: &Model) -> impl Fn(crate::Error) -> crate::Error {
    |source| {
        let (model, file) = (model.name.clone(), model.file.clone());
        ModelError::Sql { model, file, source: Box::new(source) }.into()
    }
}

/// The stored tables that `model` reads, each at the version that readers see.
pub(super) async fn opened(engine: &Engine, project: &Project, model: &Model) -> Result<BTreeMap<TableName, Table>> {
    let mut inputs: BTreeMap<TableName, Table> = BTreeMap::new();
    for name in project.inputs(model) {
        let Some(table) = engine.table(&name).await? else {
            let (model, file) = (model.name.clone(), model.file.clone());
            return Err(ModelError::Input { model, input: name.to_string(), file }.into());
        };
        inputs.insert(name, table);
    }
    Ok(inputs)
}

/// The model's SELECT over those versions, in the form by which it can be kept up to date.
pub(super) async fn planned(engine: &Engine, model: &Model, inputs: &BTreeMap<TableName, Table>) -> Result<Reading> {
    let pinned: Pinned = Arc::new(inputs.clone());
    let (session, plan) = engine.plan(&model.sql, pinned).await.map_err(in_sql(model))?;
    Reading::new(engine, session, plan, names_versions(&model.sql)).map_err(in_sql(model))
}

/// What the model says of a watermark and of when its windows are shown.
fn emission(model: &Model) -> Result<Emission> {
    Emission::read(&model.config).map_err(|(_, why)| wrong_emission(model, &why))
}

fn event_time(model: &Model, plan: &LogicalPlan) -> Result<Timed> {
    timed(plan)
        .ok_or_else(|| wrong_emission(model, "its SELECT does not end in a GROUP BY with `tumble`, `hop` or `session`"))
}

pub(super) fn wrong_emission(model: &Model, why: &str) -> crate::Error {
    ModelError::Emission { model: model.name.clone(), file: model.file.clone(), why: why.to_owned() }.into()
}

/// The versions that a build of `model` reads, as its progress.
pub(super) fn versions_read(model: &Model, inputs: &BTreeMap<TableName, Table>) -> Vec<(String, i64)> {
    let version = |table: &Table| i64::try_from(table.version()).unwrap_or(i64::MAX);
    inputs.iter().map(|(name, table)| (format!("{}/{name}", model.name), version(table))).collect()
}

/// Brings the table of `model` up to date, unless its plan and all its inputs are what it was made from.
///
/// The output commit carries txn `{model}/{input}` = the version read, for each input, txn `{model}/plan` = a number for the
/// SELECT and the files it read, for incremental models txn `{model}/select` = a number for the SELECT and the former, and txn `{model}/rows` = a number for the files
/// that the table then has, so that a
/// crash at any point leaves either the old table or the new one with its progress. An incremental model whose plan is
/// the same is brought up to date by what changed in its inputs, or, where that is not proven to give the same rows,
/// computed whole: [`Built::full_because`] then says why.
///
/// Two who build the same model at once do it once: who comes second finds it done.
///
/// # Errors
/// [`ModelError::Input`] if an input is not there, [`ModelError::Sql`] if the SELECT cannot be planned or run; a
/// [`TableError`] if a table cannot be read or the result cannot be committed.
pub async fn build(engine: &Engine, project: &Project, model: &Model, now: DateTime<Utc>) -> Result<Built> {
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt(engine, project, model, now).await {
            Err(error) if tries < TRIES && overtaken(&error) => {
                info!(model = model.name, %error, "somebody else has built it meanwhile: looking again");
            }
            done => return done,
        }
    }
}

/// Whether another commit was first.
fn overtaken(error: &crate::Error) -> bool {
    matches!(error.downcast_ref(), Some(TableError::Conflict { .. } | TableError::Fenced { .. }))
}

async fn attempt(engine: &Engine, project: &Project, model: &Model, now: DateTime<Utc>) -> Result<Built> {
    if model.materialization == Materialization::View {
        // Planning it proves that it can be read.
        drop(engine.plan(&model.sql, Pinned::default()).await.map_err(in_sql(model))?);
        return Ok(Built::unchanged(model, None));
    }
    let inputs = opened(engine, project, model).await?;
    let mut txns = versions_read(model, &inputs);
    // A version without new rows (a fence, a checkpoint) is no change: what counts is which files there are.
    let contents = inputs.values().map(Table::contents).collect::<Result<Vec<_>>>()?;
    let incremental = model.materialization == Materialization::Incremental;
    let reading = if incremental {
        let reading = planned(engine, model, &inputs).await?;
        Kind::Incremental(Box::new(reading))
    } else {
        let (session, plan) = engine.plan(&model.sql, Arc::new(inputs.clone())).await.map_err(in_sql(model))?;
        Kind::Whole(session, Box::new(plan))
    };
    let emission = emission(model)?;
    let volatile = reading.volatile().map_err(|e| engine.failed(e))?.or_else(|| identity::reads_files(project, model));
    let identity = Identity::of(project, model, reading.plan());
    let number = |other: &str| identity.number(other);
    let shown_by = emission.lateness.map(|_| emission);
    let plan = number(&format!("{contents:?}\n{shown_by:?}"));
    txns.push((format!("{}/plan", model.name), plan));
    // With the number of the plan that the table shows: one that was since made in another way has another.
    let tables: Vec<String> = inputs.values().map(Table::id).collect();
    let select = |plan: i64| number(&format!("{tables:?} {LAYOUT} {} {plan}", emission.append));
    if incremental {
        txns.push((format!("{}/select", model.name), select(plan)));
    }

    let schema = storable(reading.plan().schema().as_arrow());
    let _computing = engine.lake().compute(&model.table).await;
    let properties = if incremental { PROPERTIES } else { &[] };
    let table = engine.lake().ensure(&model.table, &schema, properties).await?;
    let mut expected = Vec::new();
    for (app, _) in &txns {
        expected.push((app.clone(), table.txn(app).await?));
    }
    let is_hash = |app: &str| app.ends_with("/plan") || app.ends_with("/select");
    let same = |((app, wanted), (_, found)): (&(String, i64), &(String, Option<i64>))| {
        Some(*wanted) == *found || (!is_hash(app) && found.is_some())
    };
    // A table that somebody else has written to is not what it was made as.
    let rows = format!("{}/rows", model.name);
    let found = table.txn(&rows).await?;
    let ours = found == Some(identity::of_text(&table.contents()?));
    if volatile.is_none() && ours && txns.iter().zip(&expected).all(same) {
        return Ok(Built::unchanged(model, Some(table.version())));
    }
    let shown = expected.iter().find(|(app, _)| app.ends_with("/plan")).and_then(|(_, found)| *found);
    let select = shown.map(select);
    expected.push((rows, found));
    let (times, lateness) = match emission.lateness {
        None => (None, 0),
        Some(lateness) => (Some(event_time(model, reading.plan())?), lateness),
    };
    let watermark = table.txn(WATERMARK).await?;
    expected.push((WATERMARK.to_owned(), watermark));
    let mut work = Work {
        engine,
        project,
        model,
        table,
        schema,
        txns,
        expected,
        select,
        ours,
        volatile,
        times,
        lateness,
        watermark,
        now,
    };
    let reading = match reading {
        Kind::Whole(_, _) if emission.append => {
            return Err(wrong_emission(model, "`emit='append'` is for models with `materialized='incremental'`"));
        }
        Kind::Whole(session, plan) => return work.whole(session, *plan, None).await,
        Kind::Incremental(reading) => reading,
    };
    if emission.append {
        let consumed = work.consumed(&inputs)?;
        return Box::pin(work.append(&reading, consumed)).await;
    }
    if let (Some(times), None) = (&work.times, work.watermark) {
        let newest = times.newest(&reading.state()).await.map_err(|e| in_sql(model)(engine.failed(e)))?;
        work.advance(newest);
    }
    let because = match work.consumed(&inputs)? {
        Err(why) => why,
        Ok(consumed) => {
            let refreshed =
                Box::pin(refresh(engine, &reading, &consumed, &work.table, &work.schema, work.times.as_ref(), now));
            match refreshed.await? {
                Ok(refreshed) => return work.changed(refreshed).await,
                Err(refusal) => Some(refusal.to_string()),
            }
        }
    };
    let (session, plan) = reading.into_parts();
    work.whole(session, plan, because).await
}

/// A planned SELECT, by how its model is kept.
enum Kind {
    Whole(Session, Box<LogicalPlan>),
    Incremental(Box<Reading>),
}

impl Kind {
    fn volatile(&self) -> datafusion::error::Result<Option<String>> {
        match self {
            Self::Whole(_, plan) => volatile(plan),
            Self::Incremental(reading) => Ok(reading.volatile.clone()),
        }
    }

    fn plan(&self) -> &LogicalPlan {
        match self {
            Self::Whole(_, plan) => plan,
            Self::Incremental(reading) => reading.plan(),
        }
    }
}

/// One model on its way into its table.
pub(super) struct Work<'a> {
    pub(super) engine: &'a Engine,
    project: &'a Project,
    pub(super) model: &'a Model,
    pub(super) table: Table,
    pub(super) schema: SchemaRef,
    txns: Vec<(String, i64)>,
    expected: Vec<(String, Option<i64>)>,
    /// What the table says of its SELECT if it was made by this one, incrementally.
    select: Option<i64>,
    /// Whether nobody else has written to the table.
    ours: bool,
    pub(super) volatile: Option<String>,
    /// The event time of its windows, if it has a watermark.
    pub(super) times: Option<Timed>,
    lateness: i64,
    /// The watermark, in microseconds.
    pub(super) watermark: Option<i64>,
    pub(super) now: DateTime<Utc>,
}

/// Each input with the version last read, or why it does not matter; without a reason, because there is nothing yet.
pub(super) type Consumed = Result<BTreeMap<TableName, (Table, u64)>, Option<String>>;

impl Work<'_> {
    /// What the table was made from, if the change since can be brought into it.
    fn consumed(&self, inputs: &BTreeMap<TableName, Table>) -> Result<Consumed> {
        let found = |app: &str| self.expected.iter().find(|(known, _)| known == app).and_then(|(_, found)| *found);
        let select = format!("{}/select", self.model.name);
        let Some(before) = found(&select) else { return Ok(Err(None)) };
        if !self.ours {
            return Ok(Err(Some("somebody else has written to the table".to_owned())));
        }
        if self.select != Some(before) {
            return Ok(Err(Some(
                "the table was made by another SELECT, or of other columns, or was kept in another way".to_owned(),
            )));
        }
        if self.table.schema()?.fields() != self.schema.fields() {
            return Ok(Err(Some("the table has other columns than the SELECT".to_owned())));
        }
        let mut consumed = BTreeMap::new();
        for (name, table) in inputs {
            let version = found(&format!("{}/{name}", self.model.name)).and_then(|version| u64::try_from(version).ok());
            let Some(version) = version else {
                return Ok(Err(Some(format!("the table does not say which version of `{name}` it was made from"))));
            };
            consumed.insert(name.clone(), (table.clone(), version));
        }
        Ok(Ok(consumed))
    }

    /// A commit that carries what the table is made from, and what it holds then.
    pub(super) fn commit(&self, operation: Operation, adds: &[Add], gone: impl Fn(&str) -> bool) -> Result<Commit> {
        let mut commit = Commit::new(operation, Guard::Exclusive, self.now);
        let holds = self.table.contents_with(adds.iter().map(|add| add.path.as_str()), gone)?;
        commit.txns.clone_from(&self.txns);
        commit.txns.push((format!("{}/rows", self.model.name), identity::of_text(&holds)));
        if self.times.is_some() {
            commit.txns.extend(self.watermark.map(|at| (WATERMARK.to_owned(), at)));
        }
        commit.expected.clone_from(&self.expected);
        Ok(commit)
    }

    /// Moves the watermark on; it never falls.
    pub(super) fn advance(&mut self, newest: Option<i64>) {
        let at = newest.map(|newest| newest.saturating_sub(self.lateness));
        self.watermark = self.watermark.max(at);
    }

    /// Asks the model's checks about what its table would hold: nothing is seen that they refuse.
    pub(super) async fn judge(&self, adds: &[Add], gone: impl Fn(&str) -> bool) -> Result<()> {
        super::visible::judge(self.engine, self.project, self.model, &self.table, &self.schema, adds, gone).await
    }

    /// Commits what was computed from the change.
    async fn changed(&mut self, refreshed: Refreshed) -> Result<Built> {
        let Refreshed { class, actions, came, went, steps, newest } = refreshed;
        self.advance(newest);
        info!(model = self.model.name, %class, came, went, keys = ?steps, "changed");
        let put = |action: &Action| if let Action::Add(add) = action { Some(add.clone()) } else { None };
        let taken =
            |action: &Action| if let Action::Remove(remove) = action { Some(remove.path.clone()) } else { None };
        let adds: Vec<Add> = actions.iter().filter_map(put).collect();
        let gone: BTreeSet<String> = actions.iter().filter_map(taken).collect();
        self.judge(&adds, |path| gone.contains(path)).await?;
        let operation = if went > 0 { Operation::Upsert } else { Operation::Append };
        let mut commit = self.commit(operation, &adds, |path| gone.contains(path))?;
        commit.actions = actions;
        commit.metrics = json!({ "numTargetRowsInserted": came, "numTargetRowsDeleted": went });
        commit.info.insert("class".to_owned(), json!(class));
        let version = self.table.commit(commit).await?.version;
        Ok(Built {
            model: self.model.name.clone(),
            version: Some(version),
            rows: self.table.rows()?,
            unchanged: false,
            class: Some(class),
            changed: Some((came, went)),
            volatile: self.volatile.clone(),
            full_because: None,
        })
    }

    /// What gives `table` the columns of `schema`, if it has others.
    pub(super) fn columns(&self, table: &Table, schema: &SchemaRef) -> Result<Option<Action>> {
        if table.schema()?.fields() == schema.fields() {
            return Ok(None);
        }
        let store = |source| ModelError::Store { model: self.model.name.clone(), source };
        let columns: StructType = schema.as_ref().try_into_kernel().map_err(store)?;
        let changed = table.metadata()?.with_schema(&columns);
        let changed = changed.map_err(|e| TableError::delta("change the columns of", table.name(), e.into()))?;
        Ok(Some(Action::Metadata(changed)))
    }

    /// Computes all of it.
    async fn whole(&mut self, session: Session, plan: LogicalPlan, because: Option<String>) -> Result<Built> {
        if let Some(why) = &because {
            warn!(model = self.model.name, why, "computed whole");
        }
        let failed = in_sql(self.model);
        if let Some(times) = &self.times {
            let newest = times.newest(&session.context().state()).await;
            self.advance(newest.map_err(|e| failed(self.engine.failed(e)))?);
        }
        let mut rows = self.engine.start(session, plan).await.map_err(&failed)?;
        let mut options = WriteOptions::default();
        if self.model.materialization == Materialization::Incremental {
            options.file_bytes = FILE_BYTES;
        }
        let mut writer = FileWriter::new(&self.table, Arc::clone(&self.schema), options, self.now);
        let store = |source| ModelError::Store { model: self.model.name.clone(), source };
        while let Some(batch) = rows.next().await.map_err(&failed)? {
            writer.write(&to_storable(&batch, &self.schema).map_err(store)?).await?;
        }
        let written = writer.rows();
        let adds = writer.finish().await?;
        self.judge(&adds, |_| true).await?;
        let mut commit = self.commit(Operation::Overwrite, &adds, |_| true)?;
        commit.actions.extend(self.columns(&self.table, &self.schema)?);
        commit.actions.extend(self.table.removes(|_| false, self.now)?.into_iter().map(Action::Remove));
        commit.actions.extend(adds.into_iter().map(Action::Add));
        commit.metrics = json!({ "numOutputRows": written });
        let version = self.table.commit(commit).await?.version;
        Ok(Built {
            model: self.model.name.clone(),
            version: Some(version),
            rows: Some(written),
            unchanged: false,
            class: Some(Class::Full),
            changed: None,
            volatile: self.volatile.clone(),
            full_because: because,
        })
    }
}
