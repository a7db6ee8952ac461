//! An input of a model between the version last read and the newest.
use std::sync::Arc;

use datafusion::common::{Column, DFSchema};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable as _, LogicalPlan, LogicalPlanBuilder, lit, when};
use datafusion::prelude::SessionContext;

use super::delta::{WEIGHT, by_name};
use crate::error::Result;
use crate::table::{Change, Changed, Lake, Table, TableName, listing};

/// One input.
pub(super) struct Input {
    /// Its newest version.
    pub(super) new: Table,
    /// A version that holds the rows last read, or why there is none any more.
    pub(super) old: Result<Table, String>,
    /// What happened between.
    pub(super) change: Change,
}

/// An input, or why its change is not known.
pub(super) type Read = Result<Input, String>;

impl Input {
    /// Looks at what happened to `table` behind version `after`.
    pub(super) async fn read(lake: &Lake, name: &TableName, new: &Table, after: u64) -> Result<Read> {
        let change = match new.change(after).await? {
            Changed::Known(change) => change,
            Changed::Unknown(why) => return Ok(Err(why)),
        };
        let old = if change.since == new.version() {
            Ok(new.clone())
        } else {
            match lake.table_at(name, change.since).await {
                Ok(old) => match new.gone(&old).await? {
                    None => Ok(old),
                    Some(why) => Err(why),
                },
                Err(error) => Err(format!("version {} of `{name}` cannot be read: {error}", change.since)),
            }
        };
        Ok(Ok(Self { new: new.clone(), old, change }))
    }

    /// An input as if some files had come, or gone too: for plans that are not run.
    pub(super) fn imagined(new: &Table, adds_only: bool) -> Self {
        let mut change = Change { since: new.version(), came: vec!["imagined".to_owned()], ..Change::default() };
        if !adds_only {
            change.went.push("imagined".to_owned());
        }
        Self { new: new.clone(), old: Ok(new.clone()), change }
    }

    /// An input as if nothing had happened.
    pub(super) fn still(new: &Table) -> Self {
        let change = Change { since: new.version(), ..Change::default() };
        Self { new: new.clone(), old: Ok(new.clone()), change }
    }

    fn listed(
        &self,
        state: &SessionState,
        files: &[String],
        alias: &str,
        images: bool,
    ) -> Result<LogicalPlan, DataFusionError> {
        let outer = |e: crate::Error| DataFusionError::External(Box::new(e));
        let context = SessionContext::new_with_state(state.clone());
        let paths: Vec<&str> = files.iter().map(String::as_str).collect();
        let mut schema = self.new.schema().map_err(outer)?;
        if images {
            let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
            fields.push(Arc::new(arrow::datatypes::Field::new("_change_type", arrow::datatypes::DataType::Utf8, true)));
            schema = Arc::new(arrow::datatypes::Schema::new(fields));
        }
        let provider = listing(&context, &self.new, &paths, schema)?;
        LogicalPlanBuilder::scan(alias, provider_as_source(Arc::new(provider)), None)?.build()
    }

    /// All rows of `files`, in the columns of `like`.
    pub(super) fn rows_of(
        &self,
        state: &SessionState,
        files: &[String],
        alias: &str,
        like: &DFSchema,
    ) -> Result<LogicalPlan, DataFusionError> {
        by_name(self.listed(state, files, alias, false)?, alias, like)
    }

    /// The rows of files of change data, in the columns of `like`, with the weight their kind has.
    pub(super) fn images_of(
        &self,
        state: &SessionState,
        files: &[String],
        alias: &str,
        like: &DFSchema,
    ) -> Result<LogicalPlan, DataFusionError> {
        let rows = self.listed(state, files, alias, true)?;
        let kind = Expr::Column(Column::new(Some(alias), "_change_type"));
        let came = kind.clone().in_list(vec![lit("insert"), lit("update_postimage")], false);
        let went = kind.in_list(vec![lit("delete"), lit("update_preimage")], false);
        let weight = when(came, lit(1_i64)).when(went, lit(-1_i64)).end()?;
        let mut exprs: Vec<Expr> = rows.schema().columns().into_iter().map(Expr::Column).collect();
        exprs.push(weight.alias(WEIGHT));
        let rows = LogicalPlanBuilder::from(rows).project(exprs)?.build()?;
        let weight = super::delta::weight(&rows);
        let mut columns: Vec<Expr> = Vec::new();
        for (relation, field) in like.iter() {
            let column = Expr::Column(Column::new(Some(alias), field.name()));
            let column = if column.get_type(rows.schema())? == *field.data_type() {
                column
            } else {
                column.cast_to(field.data_type(), rows.schema())?
            };
            columns.push(column.alias_qualified(relation.cloned(), field.name()));
        }
        columns.push(weight.alias(WEIGHT));
        LogicalPlanBuilder::from(rows).project(columns)?.build()
    }
}
