//! The engine and its sessions: one per statement, all sharing one memory limit.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::Optimizer;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{self, Visit as _, Visitor};
use futures::TryStreamExt as _;

use super::catalog::{LakeCatalog, Names, parking};
use super::error::EngineError;
use super::limited::Limited;
use super::never::Never;
use super::travel::{self, At, LakeDialect, VersionPlanner};
use super::window;
use crate::error::Result;
use crate::table::{Lake, Publication, Table, TableName};

/// Tables that exist for one statement only.
pub type Given = HashMap<TableName, Arc<dyn TableProvider>>;

/// Snapshots that a statement reads instead of the newest versions.
pub type Pinned = Arc<BTreeMap<TableName, Table>>;

/// How much the engine may use.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Bytes of memory for all running statements together.
    pub memory_limit: usize,
    /// Where it spills; made when needed.
    pub spill_dir: PathBuf,
    /// How many parts a statement is split into; 0: one per core.
    pub target_partitions: usize,
    /// The folder that relative paths in `read_items` start from.
    pub base: PathBuf,
}

/// Runs SQL over the lake.
#[derive(Clone)]
pub struct Engine {
    lake: Lake,
    runtime: Arc<RuntimeEnv>,
    settings: EngineSettings,
    views: Arc<BTreeMap<TableName, String>>,
    /// Which versions readers see; without it, each statement reads the newest publication.
    shown: Option<Arc<Publication>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("lake", &self.lake).field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A running statement: its columns and its rows as they come.
pub struct Rows {
    /// The columns.
    pub schema: SchemaRef,
    stream: SendableRecordBatchStream,
    limit: usize,
    // The catalogue points back to it weakly.
    _session: Option<Arc<parking::Session>>,
}

impl Rows {
    /// Rows that are at hand already.
    #[cfg(feature = "polars")]
    pub(crate) fn of_batches(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        let rows = futures::stream::iter(batches.into_iter().map(Ok));
        let stream = datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(Arc::clone(&schema), rows);
        Self { schema, stream: Box::pin(stream), limit: 0, _session: None }
    }

    /// The next rows, or `None` after the last.
    ///
    /// # Errors
    /// [`EngineError`] if running the query failed, or its memory limit was too small.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let batch = self.stream.try_next().await;
        Ok(batch.map_err(|e| EngineError::from_datafusion(e, self.limit))?)
    }

    /// All rows. For results known to be small.
    ///
    /// # Errors
    /// As [`Rows::next`].
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The rows as DataFusion's own stream.
    pub fn into_stream(self) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let rows = futures::stream::try_unfold(self, async |mut rows| {
            Ok(rows.stream.try_next().await?.map(|batch| (batch, rows)))
        });
        Box::pin(datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(schema, rows))
    }
}

/// A session over the lake, alive while a statement is planned and run.
pub(crate) struct Session(Arc<parking::Session>);

impl Session {
    pub(crate) fn context(&self) -> &SessionContext {
        &self.0.0
    }
}

impl Engine {
    /// An engine over `lake`.
    ///
    /// # Errors
    /// If the spill folder cannot be used.
    pub fn new(lake: Lake, settings: EngineSettings) -> Result<Self> {
        let failed = |e: DataFusionError| EngineError::Run { source: Box::new(e) };
        std::fs::create_dir_all(&settings.spill_dir).map_err(|e| failed(e.into()))?;
        // Sorts and joins share fairly, so that one does not starve the other; the tracker names who held what.
        let pool = TrackConsumersPool::new(FairSpillPool::new(settings.memory_limit), std::num::NonZeroUsize::MIN);
        let disk =
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![settings.spill_dir.clone()]));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(failed)?;
        Ok(Self { lake, runtime, settings, views: Arc::default(), shown: None })
    }

    /// The same engine, with models that are kept as views.
    #[must_use]
    pub fn with_views(&self, views: BTreeMap<TableName, String>) -> Self {
        Self { views: Arc::new(views), ..self.clone() }
    }

    /// The same engine, for statements that belong together: they all see the tables of `shown` at its versions.
    #[must_use]
    pub fn with_publication(&self, shown: Publication) -> Self {
        Self { shown: Some(Arc::new(shown)), ..self.clone() }
    }

    /// The table as readers see it, or `None` if there is none: at the version that was published together with others, if
    /// it was, else at its newest.
    ///
    /// # Errors
    /// As [`Lake::publication`] and [`Lake::shown`].
    pub async fn table(&self, name: &TableName) -> Result<Option<Table>> {
        match &self.shown {
            Some(shown) => self.lake.shown(shown, name).await,
            None => self.lake.shown(&self.lake.publication().await?, name).await,
        }
    }

    /// The table as readers see it; see [`Engine::table`].
    ///
    /// # Errors
    /// [`TableError::Missing`](crate::table::TableError) if there is none, with names that look alike.
    pub async fn existing(&self, name: &TableName) -> Result<Table> {
        match self.table(name).await? {
            Some(table) => Ok(table),
            None => Err(self.lake.missing(name).await?.into()),
        }
    }

    /// Whether what readers see of the table is the newest that there is, `newest`.
    pub(crate) async fn shows(&self, name: &TableName, newest: u64) -> Result<bool> {
        let of = |set: &Publication| set.tables.get(&name.to_string()).is_none_or(|shown| shown.version == newest);
        match &self.shown {
            Some(set) => Ok(of(set)),
            None => Ok(of(&self.lake.publication().await?)),
        }
    }

    /// The lake it reads.
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// Bytes of memory it may use.
    pub fn memory_limit(&self) -> usize {
        self.settings.memory_limit
    }

    pub(crate) fn spill_dir(&self) -> &std::path::Path {
        &self.settings.spill_dir
    }

    /// A session for work on one table: joins that spill, nothing pinned.
    pub(crate) fn bare_session(&self) -> Session {
        let session = self.session(Pinned::default(), Given::new(), VersionPlanner::default(), BTreeMap::new());
        let state = session.context().state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        // A hash join holds one side in memory; a sort-merge join spills.
        options.optimizer.prefer_hash_join = false;
        drop(state);
        session
    }

    pub(crate) fn failed(&self, error: DataFusionError) -> crate::Error {
        // Our own errors travel through DataFusion as external ones.
        if let DataFusionError::External(_) = error.find_root()
            && let Some(text) = external(&error)
        {
            return text;
        }
        EngineError::from_datafusion(error, self.settings.memory_limit).into()
    }

    fn session(
        &self,
        pinned: Pinned,
        given: Given,
        versions: VersionPlanner,
        listed: BTreeMap<String, Vec<String>>,
    ) -> Session {
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema("datafusion", "public")
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(!listed.is_empty())
            .set_bool("datafusion.execution.parquet.schema_force_view_types", false)
            .set_bool("datafusion.execution.parquet.pushdown_filters", true)
            // A filter that a join makes while it runs is handed down by the columns' names: where a child has two of one
            // name (`t.k` and `u.k`), the first is taken for the second and rows are lost.
            .set_bool("datafusion.optimizer.enable_dynamic_filter_pushdown", false)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
            .set_bool("datafusion.sql_parser.parse_float_as_decimal", true)
            .set_str("datafusion.execution.time_zone", "+00:00")
            // Sort-merge joins spill, hash joins do not; a hash join is still taken where a side is small.
            .set_u64(
                "datafusion.execution.sort_spill_reservation_bytes",
                (self.settings.memory_limit as u64 / 32).clamp(1 << 20, 10 << 20),
            );
        if self.settings.target_partitions > 0 {
            config = config.with_target_partitions(self.settings.target_partitions);
        }
        let names = Arc::new(Names {
            lake: self.lake.clone(),
            pinned,
            given,
            views: Arc::clone(&self.views),
            shown: tokio::sync::OnceCell::new_with(self.shown.clone()),
            context: OnceLock::new(),
        });
        // First, where the plan still has the form that `window` gives it.
        let mut rules = Optimizer::new().rules;
        rules.insert(0, Arc::new(window::Panes));
        rules.push(Arc::new(Never));
        rules.push(Arc::new(Limited));
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_default_features()
            .with_optimizer_rules(rules)
            .build();
        let context = SessionContext::new_with_state(state);
        context.register_catalog("datafusion", Arc::new(LakeCatalog { names: Arc::clone(&names), listed }));
        super::function::register(&context, &self.settings.base);
        let registered = context.register_relation_planner(Arc::new(versions));
        debug_assert!(registered.is_ok(), "a fresh session takes a relation planner");
        let session = Arc::new(parking::Session(context));
        let set = names.context.set(Arc::downgrade(&session));
        debug_assert!(set.is_ok(), "a fresh session has no context yet");
        Session(session)
    }

    /// Plans one SELECT. `pinned` tables are read at the versions given, all others at their newest.
    pub(crate) async fn plan(&self, sql: &str, pinned: Pinned) -> Result<(Session, LogicalPlan)> {
        self.plan_with(sql, pinned, Given::new()).await
    }

    /// Hook of `models check`: a session to plan in, whose errors say where in the text they are.
    pub(crate) fn planning_session(&self, pinned: Pinned, given: Given) -> Session {
        let session = self.session(pinned, given, VersionPlanner::default(), BTreeMap::new());
        let state = session.context().state_ref();
        state.write().config_mut().options_mut().sql_parser.collect_spans = true;
        session
    }

    async fn plan_with(&self, sql: &str, pinned: Pinned, given: Given) -> Result<(Session, LogicalPlan)> {
        let statement = parse(sql).map_err(|e| self.failed(e))?;
        let wanted = travel::wanted(&statement)?;
        let listed = if mentions_names(sql) { self.listed().await? } else { BTreeMap::new() };
        // Old versions are scanned with a session of their own; all sessions share one runtime.
        let scratch = self.session(Arc::clone(&pinned), Given::new(), VersionPlanner::default(), BTreeMap::new());
        let mut versions = HashMap::new();
        for (name, at) in wanted {
            let opened = match &at {
                At::Version(version) => self.lake.table_at(&name, *version).await,
                At::Instant(instant) => self.lake.table_as_of(&name, *instant).await,
            };
            let table = opened.map_err(|e| EngineError::Version {
                table: name.to_string(),
                version: match &at {
                    At::Version(version) => format!("version {version}"),
                    At::Instant(instant) => instant.to_rfc3339(),
                },
                why: e.why().unwrap_or_else(|| e.to_string()),
            })?;
            let provider = table.provider(&scratch.context().state())?;
            versions.insert((name, at), provider);
        }
        let session = self.session(pinned, given, VersionPlanner(versions), listed);
        let plan = window::planned(&session.context().state(), statement).await.map_err(|e| self.failed(e))?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|e| EngineError::NotSelect { why: e.strip_backtrace() })?;
        Ok((session, plan))
    }

    /// Starts one SELECT over the newest versions.
    ///
    /// # Errors
    /// As [`Engine::query_with`].
    pub async fn query(&self, sql: &str) -> Result<Rows> {
        self.query_pinned(sql, Pinned::default()).await
    }

    /// Starts one SELECT; `pinned` tables are read at the versions given.
    ///
    /// # Errors
    /// As [`Engine::query_with`].
    pub async fn query_pinned(&self, sql: &str, pinned: Pinned) -> Result<Rows> {
        let (session, plan) = self.plan(sql, pinned).await?;
        self.start(session, plan).await
    }

    /// Starts one SELECT that may also name the tables `given`.
    ///
    /// # Errors
    /// [`EngineError`] if the text is not one SELECT, or names a table, column or version that is not there;
    /// a [`TableError`](crate::table::TableError) if a table cannot be read.
    pub async fn query_with(&self, sql: &str, given: Given) -> Result<Rows> {
        let (session, plan) = self.plan_with(sql, Pinned::default(), given).await?;
        self.start(session, plan).await
    }

    pub(crate) async fn start(&self, session: Session, plan: LogicalPlan) -> Result<Rows> {
        let frame = DataFrame::new(session.context().state(), plan);
        let stream = frame.execute_stream().await.map_err(|e| self.failed(e))?;
        Ok(Rows { schema: stream.schema(), stream, limit: self.settings.memory_limit, _session: Some(session.0) })
    }

    async fn listed(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in self.lake.tables().await?.into_iter().chain(self.views.keys().cloned()) {
            listed.entry(name.schema).or_default().push(name.table);
        }
        Ok(listed)
    }
}

/// One of our own errors that came back through DataFusion.
fn external(error: &DataFusionError) -> Option<crate::Error> {
    #[derive(Debug, thiserror::Error)]
    #[error("{what}")]
    struct Carried {
        what: String,
        code: &'static str,
        why: Option<String>,
        fix: Option<String>,
        place: Option<String>,
    }
    impl crate::Explain for Carried {
        fn code(&self) -> &'static str {
            self.code
        }

        fn why(&self) -> Option<String> {
            self.why.clone()
        }

        fn fix(&self) -> Option<String> {
            self.fix.clone()
        }

        fn place(&self) -> Option<String> {
            self.place.clone()
        }
    }
    let DataFusionError::External(inner) = error.find_root() else { return None };
    let ours = inner.downcast_ref::<crate::Error>()?;
    Some(
        Carried {
            what: ours.to_string(),
            code: ours.code(),
            why: ours.why(),
            fix: ours.explain().fix(),
            place: ours.explain().place(),
        }
        .into(),
    )
}

/// Whether a statement asks for the names of tables, which costs a listing.
fn mentions_names(sql: &str) -> bool {
    let sql = sql.to_lowercase();
    sql.contains("information_schema")
        || sql.trim_start().starts_with("show")
        || sql.trim_start().starts_with("describe")
}

/// Parses exactly one statement.
/// How deep expressions may be nested: planning goes down by calls, and the stack is what the threads have (`src/main.rs`).
/// `1 + 1 + 1` is two deep.
const DEEPEST: usize = 1_000;

fn too_deep(statement: &Statement) -> bool {
    struct Depth(usize);
    impl Visitor for Depth {
        type Break = ();

        fn pre_visit_expr(&mut self, _: &ast::Expr) -> ControlFlow<()> {
            self.0 += 1;
            if self.0 > DEEPEST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }

        fn post_visit_expr(&mut self, _: &ast::Expr) -> ControlFlow<()> {
            self.0 -= 1;
            ControlFlow::Continue(())
        }
    }
    match statement {
        Statement::Statement(statement) => statement.visit(&mut Depth(0)).is_break(),
        _ => false,
    }
}

/// The tables that a text names with their schemas, whatever they are: views and tables that are not there too.
pub(crate) fn names(sql: &str) -> BTreeSet<TableName> {
    let Ok(statement) = parse(sql) else { return BTreeSet::new() };
    let found = datafusion::sql::resolve::resolve_table_references(&statement, true);
    let (tables, _) = found.unwrap_or_default();
    let two = |name: &TableReference| Some(TableName::new(name.schema()?, name.table()));
    tables.iter().filter_map(two).collect()
}

/// The text without comments and format: two texts with one such form mean the same. One that cannot be read is itself.
pub(crate) fn normal_form(sql: &str) -> String {
    parse(sql).map_or_else(|_| sql.to_owned(), |statement| statement.to_string())
}

pub(crate) fn parse(sql: &str) -> datafusion::error::Result<Statement> {
    let dialect = LakeDialect::default();
    let mut statements = DFParserBuilder::new(sql).with_dialect(&dialect).build()?.parse_statements()?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) if too_deep(&statement) => datafusion::common::plan_err!(
            "an expression is nested more than {DEEPEST} deep: make parts of it columns of a subquery, or use a list"
        ),
        (Some(statement), 0) => Ok(statement),
        (None, _) => datafusion::common::plan_err!("there is no statement in the text"),
        _ => datafusion::common::plan_err!("there is more than one statement in the text"),
    }
}
