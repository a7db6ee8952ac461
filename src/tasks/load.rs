//! `load`: tables into the warehouse, each version once; or only the rows that were added, each once.
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::engine::Engine;
use tidemill_etl::sink::{self, AppendedLoad, Load, Mode};
use tidemill_etl::table::TableName;
use tidemill_orchestrator::{KindSpec, Outcome, Retry, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, count, key, read, table, with_default};
use crate::failure::Failure;
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "load",
        about: "lake tables into the warehouse, each version once",
        keys: &[
            key("tables", Shape::ListOfText, "tables, as schema.table"),
            key("schema", Shape::Text, "all tables of this schema"),
            with_default(
                "mode",
                Shape::Text,
                "replace: the whole table; append: what was added since the last load, of a table that only grows",
                "replace",
            ),
            key("into", Shape::Text, "with append: the target of the one table, where it has another name"),
            key("sql", Shape::Text, "with append: a SELECT over `changes`, the rows that were added"),
            key(
                "unique_key",
                Shape::ListOfText,
                "with append: columns that no two rows of the target share the values of",
            ),
            key(
                "batch_rows",
                Shape::Integer,
                "with append: a transaction takes whole versions of the table up to so many rows",
            ),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    tables: Vec<String>,
    schema: Option<String>,
    #[serde(default)]
    mode: How,
    into: Option<String>,
    sql: Option<String>,
    #[serde(default)]
    unique_key: Vec<String>,
    batch_rows: Option<u64>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum How {
    #[default]
    Replace,
    Append,
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    let settings = read::<Settings>(settings)?;
    if settings.tables.is_empty() && settings.schema.is_none() {
        return Err(TaskError::new("D0020", "a `load` task needs `tables` or `schema`", Retry::Never)
            .fix("name what is loaded: `schema = \"gold\"`"));
    }
    let wrong = |what: &str, fix: &str| Err(TaskError::new("D0117", what, Retry::Never).fix(fix));
    let only_appended = settings.into.is_some()
        || settings.sql.is_some()
        || settings.batch_rows.is_some()
        || !settings.unique_key.is_empty();
    if settings.mode == How::Replace && only_appended {
        return wrong(
            "`into`, `sql`, `unique_key` and `batch_rows` are for rows that are added",
            "set `mode = \"append\"`, or leave them out",
        );
    }
    if (settings.into.is_some() || settings.sql.is_some()) && (settings.tables.len() != 1 || settings.schema.is_some())
    {
        return wrong("`into` and `sql` are for one table", "name it alone: `tables = [\"silver.events\"]`");
    }
    if settings.batch_rows == Some(0) {
        return wrong("`batch_rows` is 0", "set it to at least 1");
    }
    Ok(Box::new(settings))
}

impl Settings {
    /// Adds the rows that were added.
    async fn append(
        &self,
        house: &Lakehouse,
        metrics: &Metrics,
        context: &TaskContext,
        names: Vec<TableName>,
    ) -> Result<Outcome, Failed> {
        let engine = one_set(house).await?;
        let mut warehouse = house.warehouse().await?;
        let (mut rows, mut batches) = (0, 0);
        for name in names {
            let work = AppendedLoad {
                table: name.clone(),
                into: self.into.clone(),
                sql: self.sql.clone(),
                keys: self.unique_key.clone(),
                batch_rows: self.batch_rows,
                loaded_at: context.now,
            };
            let done = sink::load_appended(&engine, warehouse.as_mut(), &work, &context.cancel).await?;
            rows += done.rows;
            batches += done.batches;
            metrics.loaded(&name.to_string(), done.rows);
            context.progress.report(rows, None, "rows");
            if context.cancel.is_cancelled() {
                return Err(super::models::stopped().into());
            }
        }
        let summary = match rows {
            0 => "nothing new for the warehouse".to_owned(),
            _ => format!("{} rows added in {} batches", count(rows), count(batches)),
        };
        Ok(Outcome::done(summary).with(json!({ "rows": rows, "batches": batches })))
    }
}

/// The engine for a load: all its tables are of one publication.
async fn one_set(house: &Lakehouse) -> Result<Engine, Failed> {
    let shown = house.lake().await?.publication().await?;
    Ok(house.engine().await?.with_publication(shown))
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
        if self.mode == How::Append {
            return self.append(house, metrics, context, names).await;
        }
        let models = house.models()?;
        let views = models.views();
        if let Some(view) = self.tables.iter().find(|name| table(name).is_ok_and(|name| views.contains_key(&name))) {
            return Err(Failure::new("D0129", format!("`{view}` is a view, and only tables can be loaded"))
                .why("a view has no versions, so nobody could tell what of it the warehouse has")
                .fix("say `materialized='table'` or `'incremental'` in the model")
                .into());
        }
        // A table that is left over from before its model became a view.
        names.retain(|name| !views.contains_key(name));
        let engine = one_set(house).await?;
        let mut warehouse = house.warehouse().await?;
        let total = names.len() as u64;
        let (mut rows, mut loaded) = (0, 0);
        for (done, name) in names.into_iter().enumerate() {
            context.progress.report(done as u64, Some(total), "tables");
            if context.cancel.is_cancelled() {
                return Err(super::models::stopped().into());
            }
            let source = engine.existing(&name).await?;
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
