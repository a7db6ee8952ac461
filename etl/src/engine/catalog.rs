//! The lake as DataFusion's catalogue. A table is opened when a statement names it, once per statement.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::{Column, ScalarValue, exec_err};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use datafusion::prelude::SessionContext;

use super::session::{Pinned, parse};
use crate::table::{Lake, Publication, TableName};

/// What names mean in one session.
pub(super) struct Names {
    pub(super) lake: Lake,
    pub(super) pinned: Pinned,
    /// Tables that exist for one statement only.
    pub(super) given: HashMap<TableName, Arc<dyn TableProvider>>,
    pub(super) views: Arc<BTreeMap<TableName, String>>,
    /// Which versions readers see: looked up once, so that a statement sees one publication.
    pub(super) shown: tokio::sync::OnceCell<Arc<Publication>>,
    /// Filled once the session exists; views are planned and tables are scanned with it.
    pub(super) context: std::sync::OnceLock<Weak<parking::Session>>,
}

/// A session that a catalogue may point back to without keeping it alive.
pub(super) mod parking {
    /// See [`super::Names::context`].
    pub(crate) struct Session(pub(crate) datafusion::prelude::SessionContext);
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("lake", &self.lake).finish_non_exhaustive()
    }
}

impl Names {
    fn context(&self) -> Result<SessionContext> {
        let Some(session) = self.context.get().and_then(Weak::upgrade) else {
            return exec_err!("the session of this query is gone");
        };
        Ok(session.0.clone())
    }

    pub(super) fn state(&self) -> Result<SessionState> {
        Ok(self.context()?.state())
    }

    /// What `name` stands for: a pinned snapshot, a view, or the version of the lake's table that readers see.
    async fn table(&self, name: &TableName) -> Result<Option<Arc<dyn TableProvider>>> {
        let outer = |e: crate::error::Error| DataFusionError::External(Box::new(e));
        if let Some(provider) = self.given.get(name) {
            return Ok(Some(Arc::clone(provider)));
        }
        if let Some(table) = self.pinned.get(name) {
            return table.provider(&self.state()?).map(Some).map_err(outer);
        }
        if let Some(sql) = self.views.get(name) {
            let context = self.context()?;
            let plan = super::window::planned(&context.state(), parse(sql)?).await?;
            return Ok(Some(Arc::new(ViewTable::new(plan, Some(sql.clone())))));
        }
        let newest = async || Ok(Arc::new(self.lake.publication().await?));
        let shown = self.shown.get_or_try_init(newest).await.map_err(outer)?;
        match self.lake.shown(shown, name).await.map_err(outer)? {
            Some(table) => table.provider(&self.state()?).map(Some).map_err(outer),
            None => self.finals(shown, name).await,
        }
    }

    /// `<table>__final`: the rows of a table of windows, and whether each is `final` by the watermark of that same version.
    async fn finals(&self, shown: &Publication, name: &TableName) -> Result<Option<Arc<dyn TableProvider>>> {
        let outer = |e: crate::error::Error| DataFusionError::External(Box::new(e));
        let Some(base) = name.table.strip_suffix(FINAL) else { return Ok(None) };
        let base = TableName::new(&name.schema, base);
        let table = match self.pinned.get(&base) {
            Some(table) => table.clone(),
            None => match self.lake.shown(shown, &base).await.map_err(outer)? {
                Some(table) => table,
                None => return Ok(None),
            },
        };
        let Some(watermark) = table.txn(WATERMARK).await.map_err(outer)? else { return Ok(None) };
        let provider = table.provider(&self.state()?).map_err(outer)?;
        let end = provider.schema().field_with_name("window_end").map(|field| field.data_type().clone());
        let Ok(DataType::Timestamp(unit, zone)) = end else { return Ok(None) };
        let watermark = ScalarValue::TimestampMicrosecond(Some(watermark), Some("UTC".into()));
        let watermark = watermark.cast_to(&DataType::Timestamp(unit, zone))?;
        let scan = LogicalPlanBuilder::scan(base.table.as_str(), provider_as_source(provider), None)?.build()?;
        let mut columns: Vec<Expr> = scan.schema().columns().into_iter().map(Expr::Column).collect();
        let end = Expr::Column(Column::new(Some(base.table.as_str()), "window_end"));
        columns.push(end.lt_eq(lit(watermark)).alias("final"));
        let plan = LogicalPlanBuilder::from(scan).project(columns)?.build()?;
        Ok(Some(Arc::new(ViewTable::new(plan, None))))
    }
}

/// What is behind a table's name where `final` is asked for.
const FINAL: &str = "__final";
/// The txn that has a table's watermark: microseconds since the epoch.
pub(crate) const WATERMARK: &str = "watermark";

/// All schemas of the lake.
#[derive(Debug)]
pub(super) struct LakeCatalog {
    pub(super) names: Arc<Names>,
    /// Known schemas and tables, filled only for statements that list them.
    pub(super) listed: BTreeMap<String, Vec<String>>,
}

impl CatalogProvider for LakeCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.listed.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let tables = self.listed.get(name).cloned().unwrap_or_default();
        Some(Arc::new(LakeSchema { names: Arc::clone(&self.names), name: name.to_owned(), tables }))
    }
}

#[derive(Debug)]
struct LakeSchema {
    names: Arc<Names>,
    name: String,
    tables: Vec<String>,
}

#[async_trait]
impl SchemaProvider for LakeSchema {
    fn table_names(&self) -> Vec<String> {
        self.tables.clone()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.names.table(&TableName::new(&self.name, name)).await
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.iter().any(|table| table == name)
    }
}
