//! Brings a model's table to what its SELECT gives.
use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::{Action, MetadataExt as _, StructType};
use serde::Serialize;
use serde_json::json;

use super::error::ModelError;
use super::project::{Materialization, Model, Project};
use crate::engine::{Engine, Pinned};
use crate::error::Result;
use crate::table::{Commit, FileWriter, Guard, Operation, Table, TableName, WriteOptions, storable, to_storable};

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
}

/// Recomputes `model` unless its plan and all its inputs are what its table was made from.
///
/// The output commit carries txn `{model}/{input}` = the version read, for each input, and txn `{model}/plan` = a hash
/// of the resolved plan and of the files it read, so that a crash at any point leaves either the old table or the new
/// one with its progress.
///
/// # Errors
/// [`ModelError::Input`] if an input is not there, [`ModelError::Sql`] if the SELECT cannot be planned or run; a
/// [`TableError`](crate::table::TableError) if a table cannot be read or the result cannot be committed.
pub async fn build(engine: &Engine, project: &Project, model: &Model, now: DateTime<Utc>) -> Result<Built> {
    let in_sql = |source: crate::Error| ModelError::Sql {
        model: model.name.clone(),
        file: model.file.clone(),
        source: Box::new(source),
    };
    if model.materialization == Materialization::View {
        // Planning it proves that it can be read.
        drop(engine.plan(&model.sql, Pinned::default()).await.map_err(in_sql)?);
        return Ok(Built { model: model.name.clone(), version: None, rows: None, unchanged: true });
    }
    let lake = engine.lake();
    let mut inputs: BTreeMap<TableName, Table> = BTreeMap::new();
    for name in project.inputs(model) {
        let Some(table) = lake.try_table(&name).await? else {
            let (model, file) = (model.name.clone(), model.file.clone());
            return Err(ModelError::Input { model, input: name.to_string(), file }.into());
        };
        inputs.insert(name, table);
    }
    let mut txns: Vec<(String, i64)> = inputs
        .iter()
        .map(|(name, table)| (format!("{}/{name}", model.name), i64::try_from(table.version()).unwrap_or(i64::MAX)))
        .collect();
    // A version without new rows (a fence, a checkpoint) is no change: what counts is which files there are.
    let contents = inputs.values().map(Table::contents).collect::<Result<Vec<_>>>()?;
    let pinned: Pinned = Arc::new(inputs);
    let (session, plan) = engine.plan(&model.sql, pinned).await.map_err(in_sql)?;
    // The resolved plan, not the text: comments and format do not count, `SELECT *` over new columns does.
    let text = format!("{}\n{contents:?}\n{}", plan.display_indent_schema(), env!("CARGO_PKG_VERSION"));
    let hash = blake3::hash(text.as_bytes());
    let (head, _) = hash.as_bytes().split_at(8);
    txns.push((format!("{}/plan", model.name), i64::from_le_bytes(head.try_into().unwrap_or_default()) & i64::MAX));

    let arrow_schema = plan.schema().as_arrow().clone();
    let schema = storable(&arrow_schema);
    let _computing = lake.compute(&model.table).await;
    let mut table = lake.ensure(&model.table, &schema, &[]).await?;
    let mut expected = Vec::new();
    for (app, _) in &txns {
        expected.push((app.clone(), table.txn(app).await?));
    }
    let same = |((app, wanted), (_, found)): (&(String, i64), &(String, Option<i64>))| {
        Some(*wanted) == *found || (!app.ends_with("/plan") && found.is_some())
    };
    if txns.iter().zip(&expected).all(same) {
        return Ok(Built { model: model.name.clone(), version: Some(table.version()), rows: None, unchanged: true });
    }

    let mut rows = engine.start(session, plan).await.map_err(in_sql)?;
    let mut writer = FileWriter::new(&table, Arc::clone(&schema), WriteOptions::default(), now);
    while let Some(batch) = rows.next().await.map_err(in_sql)? {
        let batch =
            to_storable(&batch, &schema).map_err(|source| ModelError::Store { model: model.name.clone(), source })?;
        writer.write(&batch).await?;
    }
    let written = writer.rows();
    let mut commit = Commit::new(Operation::Overwrite, Guard::Exclusive, now);
    if table.schema()?.fields() != schema.fields() {
        let columns: StructType = schema
            .as_ref()
            .try_into_kernel()
            .map_err(|source| ModelError::Store { model: model.name.clone(), source })?;
        commit.actions.push(Action::Metadata(
            table
                .metadata()?
                .with_schema(&columns)
                .map_err(|e| crate::table::TableError::delta("change the columns of", table.name(), e.into()))?,
        ));
    }
    commit.actions.extend(table.removes(|_| false, now)?.into_iter().map(Action::Remove));
    commit.actions.extend(writer.finish().await?.into_iter().map(Action::Add));
    commit.txns = txns;
    commit.expected = expected;
    commit.metrics = json!({ "numOutputRows": written });
    let version = table.commit(commit).await?.version;
    Ok(Built { model: model.name.clone(), version: Some(version), rows: Some(written), unchanged: false })
}
