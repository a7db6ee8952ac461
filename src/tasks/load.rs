//! `load`: tables into the warehouse, each version once.
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::sink::{self, Load, Mode};
use tidemill_etl::table::TableName;
use tidemill_orchestrator::{KindSpec, Outcome, Retry, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, count, key, read, table};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "load",
        about: "lake tables into the warehouse, each version once",
        keys: &[
            key("tables", Shape::ListOfText, "tables, as schema.table"),
            key("schema", Shape::Text, "all tables of this schema"),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    tables: Vec<String>,
    schema: Option<String>,
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    let settings = read::<Settings>(settings)?;
    if settings.tables.is_empty() && settings.schema.is_none() {
        return Err(TaskError::new("D0020", "a `load` task needs `tables` or `schema`", Retry::Never)
            .fix("name what is loaded: `schema = \"gold\"`"));
    }
    Ok(Box::new(settings))
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let lake = house.lake().await?;
        let mut names: Vec<TableName> = self.tables.iter().map(|name| table(name)).collect::<Result<_, _>>()?;
        if let Some(schema) = &self.schema {
            let more = lake.tables().await?.into_iter().filter(|name| name.schema == *schema);
            names.extend(more.filter(|name| !names.contains(name)).collect::<Vec<_>>());
        }
        let models = house.models()?;
        let engine = house.engine().await?;
        let mut warehouse = house.warehouse().await?;
        let total = names.len() as u64;
        let (mut rows, mut loaded) = (0, 0);
        for (done, name) in names.into_iter().enumerate() {
            context.progress.report(done as u64, Some(total), "tables");
            if context.cancel.is_cancelled() {
                return Err(super::models::stopped().into());
            }
            let source = lake.table(&name).await?;
            let keys =
                models.models.values().find(|m| m.table == name).map(|m| m.unique_key.clone()).unwrap_or_default();
            let load = Load {
                table: name.to_string(),
                source: name.to_string(),
                table_id: source.id(),
                version: i64::try_from(source.version()).unwrap_or(i64::MAX),
                schema: source.schema()?,
                keys,
                mode: Mode::Replace,
                loaded_at: context.now,
            };
            // Exactly the version the ledger will say.
            let sql = format!("SELECT * FROM \"{}\".\"{}\"", name.schema, name.table);
            let pinned = std::sync::Arc::new(std::collections::BTreeMap::from([(name.clone(), source)]));
            let stream = engine.query_pinned(&sql, pinned).await?.into_stream();
            let outcome = sink::load(warehouse.as_mut(), &load, stream).await?;
            if !outcome.skipped {
                loaded += 1;
                rows += outcome.rows;
                metrics.loaded(&name.to_string(), outcome.rows);
                context.log.line(format!("{name}: {} rows", count(outcome.rows)));
            }
        }
        context.progress.report(total, Some(total), "tables");
        let summary = match loaded {
            0 => format!("{total} tables, nothing has changed"),
            _ => format!("{} rows of {loaded} tables loaded", count(rows)),
        };
        Ok(Outcome::done(summary).with(json!({ "tables": loaded, "rows": rows })))
    }
}
