//! Checks before visibility: what a model's table would hold is asked before readers see it.
//!
//! The would-be content is the snapshot without the files that the commit takes out, and the files that it puts in,
//! which nothing names yet. A check that finds rows keeps the commit from being made: readers keep the version before.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::{TableType, ViewTable, empty::EmptyTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::physical_plan::ExecutionPlan;
use deltalake::kernel::Add;

use super::check::{self, CheckOutcome};
use super::error::ModelError;
use super::project::{Check, Model, Project, Severity};
use crate::engine::{self, Engine, Given, Pinned};
use crate::error::Result;
use crate::table::{Table, TableName};

/// Runs the checks of `model` over what `table` would hold with `adds` put in and the files that are `gone` taken out.
/// What checks found that only warn is kept in [`Project::found`].
///
/// # Errors
/// [`ModelError::Rejected`] if a check found more rows than it allows; then nothing must be committed.
pub(super) async fn judge(
    engine: &Engine,
    project: &Project,
    model: &Model,
    table: &Table,
    schema: &SchemaRef,
    adds: &[Add],
    gone: impl Fn(&str) -> bool,
) -> Result<()> {
    let checks: Vec<&Check> = project.checks_before(model).collect();
    if checks.is_empty() {
        return Ok(());
    }
    // Alive while the checks run: it holds where the staged files are.
    let session = engine.planning_session(Pinned::default(), Given::new());
    let content = would_be(&session, table, schema, adds, gone).map_err(|e| engine.failed(e))?;
    let mut found = Vec::new();
    for check in checks {
        let given = Given::from([(model.table.clone(), Arc::clone(&content))]);
        let outcome = check::check_given(engine, check, given).await?;
        if outcome.fails(check) {
            found.push(outcome);
        } else if outcome.warns(check) {
            project.note(outcome);
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(ModelError::Rejected { model: model.name.clone(), file: model.file.clone(), found }.into())
}

impl Project {
    /// The checks that a new version of the model's table has to pass before it is seen: those about it, and SELECTs that
    /// read it alone.
    pub fn checks_before<'p>(&'p self, model: &'p Model) -> impl Iterator<Item = &'p Check> {
        self.checks.values().filter(move |check| match &check.subject {
            Some(subject) => {
                subject.name == model.name && check.refs.iter().all(|name| !self.comes_after(name, &model.name))
            }
            None => check.sources.is_empty() && check.refs.len() == 1 && check.refs.contains(&model.name),
        })
    }

    /// Whether the model `name` reads, through others or not, the model `other`.
    pub(super) fn comes_after(&self, name: &str, other: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut above = vec![name];
        while let Some(name) = above.pop() {
            let Some(model) = self.models.get(name) else { continue };
            if model.refs.contains(other) {
                return true;
            }
            above.extend(model.refs.iter().map(String::as_str).filter(|name| seen.insert(*name)));
        }
        false
    }
}

impl CheckOutcome {
    /// Whether it found more than the check allows.
    pub fn fails(&self, check: &Check) -> bool {
        check.severity == Severity::Error && check.fails.holds(self.rows)
    }

    /// Whether what it found is worth a word.
    pub fn warns(&self, check: &Check) -> bool {
        check.warns.holds(self.rows)
    }
}

/// The table as it would be.
fn would_be(
    session: &engine::Session,
    table: &Table,
    schema: &SchemaRef,
    adds: &[Add],
    gone: impl Fn(&str) -> bool,
) -> datafusion::error::Result<Arc<dyn TableProvider>> {
    let outer = |e: crate::Error| DataFusionError::External(Box::new(e));
    let state = session.context().state();
    let mut parts = Vec::new();
    let files = table.files().map_err(outer)?;
    let kept: Vec<String> = files.iter().filter(|file| !gone(&file.path)).map(|file| file.path.clone()).collect();
    if !kept.is_empty() {
        let some = (kept.len() < files.len()).then_some(kept);
        let provider = table.scan(&state, some, None).map_err(outer)?;
        parts.push(columns("kept", provider, schema, &BTreeMap::new())?);
    }
    // Rows of a table partition do not hold its values: the log does.
    let mut staged: BTreeMap<BTreeMap<String, Option<String>>, Vec<&Add>> = BTreeMap::new();
    for add in adds {
        let values = add.partition_values.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        staged.entry(values).or_default().push(add);
    }
    let store = ObjectStoreUrl::parse(format!("staged://{}", place(table.name())))?;
    state.runtime_env().register_object_store(store.as_ref(), table.log_store().object_store(None));
    for (values, adds) in staged {
        let fields = schema.fields().iter().filter(|field| !values.contains_key(field.name())).cloned();
        let file = |add: &&Add| PartitionedFile::new(add.path.clone(), add.size.unsigned_abs());
        let staged = Staged {
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            store: store.clone(),
            files: adds.iter().map(file).collect(),
        };
        parts.push(columns("staged", Arc::new(staged), schema, &values)?);
    }
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else { return Ok(Arc::new(EmptyTable::new(Arc::clone(schema)))) };
    let mut all = LogicalPlanBuilder::from(first);
    for part in parts {
        all = all.union(part)?;
    }
    Ok(Arc::new(ViewTable::new(all.build()?, None)))
}

/// Parquet files that no log names.
#[derive(Debug)]
struct Staged {
    schema: SchemaRef,
    store: ObjectStoreUrl,
    files: Vec<PartitionedFile>,
}

#[async_trait]
impl TableProvider for Staged {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let source = Arc::new(ParquetSource::new(Arc::clone(&self.schema)));
        let config = FileScanConfigBuilder::new(self.store.clone(), source)
            .with_file_groups(self.files.iter().map(|file| FileGroup::new(vec![file.clone()])).collect())
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// A name for where the table's files are that fits into a URL.
fn place(name: &TableName) -> String {
    blake3::hash(name.to_string().as_bytes()).to_hex().chars().take(32).collect()
}

/// The rows of `provider` in the columns of `schema`.
fn columns(
    name: &str,
    provider: Arc<dyn TableProvider>,
    schema: &SchemaRef,
    partition: &BTreeMap<String, Option<String>>,
) -> datafusion::error::Result<LogicalPlan> {
    let has = provider.schema();
    let scan = LogicalPlanBuilder::scan(name, provider_as_source(provider), None)?;
    let column = |field: &arrow::datatypes::FieldRef| -> Expr {
        let value = match (partition.get(field.name()), has.field_with_name(field.name())) {
            (Some(Some(text)), _) => cast(lit(text.clone()), field.data_type().clone()),
            (None, Ok(found)) => {
                let column = Expr::Column(Column::new(Some(name), field.name()));
                if found.data_type() == field.data_type() { column } else { cast(column, field.data_type().clone()) }
            }
            _ => cast(Expr::Literal(ScalarValue::Null, None), field.data_type().clone()),
        };
        value.alias(field.name())
    };
    scan.project(schema.fields().iter().map(column).collect::<Vec<_>>())?.build()
}
