//! `table VERSION AS OF n` and `table TIMESTAMP AS OF 't'`.
//!
//! DataFusion's own planner parses the clause with some dialects and then ignores it, which would answer with the
//! newest rows. So every such table is opened before planning, and the relation planner hands out what was opened; a
//! clause that it does not know is an error, never ignored.
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use datafusion::catalog::TableProvider;
use datafusion::common::plan_err;
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Statement, TableFactor, TableVersion, Value, Visit as _, Visitor,
};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};

use super::error::EngineError;
use crate::table::TableName;

/// The generic dialect, with table versions.
#[derive(Debug, Default)]
pub(super) struct LakeDialect(GenericDialect);

impl Dialect for LakeDialect {
    fn dialect(&self) -> std::any::TypeId {
        // Parser branches on the dialect's identity are meant for the generic one.
        self.0.dialect()
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        self.0.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        self.0.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.0.is_identifier_part(ch)
    }

    fn supports_unicode_string_literal(&self) -> bool {
        self.0.supports_unicode_string_literal()
    }

    fn supports_group_by_expr(&self) -> bool {
        self.0.supports_group_by_expr()
    }

    fn supports_group_by_with_modifier(&self) -> bool {
        self.0.supports_group_by_with_modifier()
    }

    fn supports_left_associative_joins_without_parens(&self) -> bool {
        self.0.supports_left_associative_joins_without_parens()
    }

    fn supports_match_recognize(&self) -> bool {
        self.0.supports_match_recognize()
    }

    fn supports_parenthesized_set_variables(&self) -> bool {
        self.0.supports_parenthesized_set_variables()
    }

    fn supports_select_wildcard_except(&self) -> bool {
        self.0.supports_select_wildcard_except()
    }

    fn supports_select_wildcard_exclude(&self) -> bool {
        self.0.supports_select_wildcard_exclude()
    }

    fn supports_named_fn_args_with_eq_operator(&self) -> bool {
        self.0.supports_named_fn_args_with_eq_operator()
    }

    fn supports_limit_comma(&self) -> bool {
        self.0.supports_limit_comma()
    }

    fn supports_from_first_select(&self) -> bool {
        self.0.supports_from_first_select()
    }

    fn supports_projection_trailing_commas(&self) -> bool {
        self.0.supports_projection_trailing_commas()
    }

    fn supports_dictionary_syntax(&self) -> bool {
        self.0.supports_dictionary_syntax()
    }

    fn support_map_literal_syntax(&self) -> bool {
        self.0.support_map_literal_syntax()
    }

    fn supports_struct_literal(&self) -> bool {
        self.0.supports_struct_literal()
    }

    fn supports_interval_options(&self) -> bool {
        self.0.supports_interval_options()
    }

    fn supports_array_typedef_with_brackets(&self) -> bool {
        self.0.supports_array_typedef_with_brackets()
    }

    fn supports_window_clause_named_window_reference(&self) -> bool {
        self.0.supports_window_clause_named_window_reference()
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        self.0.supports_filter_during_aggregation()
    }

    fn supports_window_function_null_treatment_arg(&self) -> bool {
        self.0.supports_window_function_null_treatment_arg()
    }

    fn supports_lambda_functions(&self) -> bool {
        self.0.supports_lambda_functions()
    }
}

/// Which version is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum At {
    Version(u64),
    Instant(DateTime<Utc>),
}

/// One table with the version asked for.
pub(crate) type Key = (TableName, At);

/// The old versions a statement names.
pub(super) fn wanted(statement: &DfStatement) -> Result<Vec<Key>, EngineError> {
    struct Finder(Vec<Result<Key, EngineError>>);
    impl Visitor for Finder {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name, version: Some(version), .. } = factor {
                self.0.push(key(name, version));
            }
            ControlFlow::Continue(())
        }
    }
    let mut finder = Finder(Vec::new());
    let mut statement = statement;
    while let DfStatement::Explain(explain) = statement {
        statement = &explain.statement;
    }
    if let DfStatement::Statement(sql) = statement {
        let sql: &Statement = sql;
        let _done = sql.visit(&mut finder);
    }
    finder.0.into_iter().collect()
}

/// Whether the text names old versions of tables.
pub(crate) fn names_versions(sql: &str) -> bool {
    super::session::parse(sql).is_ok_and(|statement| wanted(&statement).map_or(true, |found| !found.is_empty()))
}

fn key(name: &ObjectName, version: &TableVersion) -> Result<Key, EngineError> {
    let failed =
        |why: &str| EngineError::Version { table: name.to_string(), version: version.to_string(), why: why.to_owned() };
    let parts: Vec<String> = name
        .0
        .iter()
        .filter_map(|part| part.as_ident())
        .map(|ident| if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() })
        .collect();
    let table = match parts.as_slice() {
        [schema, table] | [_, schema, table] => TableName::new(schema, table),
        _ => return Err(failed("only tables of the lake, named `schema.table`, have versions")),
    };
    let text = |expr: &Expr| match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::Number(text, _) => Some(text.clone()),
            _ => None,
        },
        Expr::TypedString(typed) => typed.value.value.clone().into_string(),
        _ => None,
    };
    match version {
        TableVersion::VersionAsOf(expr) => {
            let number = text(expr).and_then(|text| text.parse().ok());
            Ok((table, At::Version(number.ok_or_else(|| failed("the version is not a whole number"))?)))
        }
        TableVersion::TimestampAsOf(expr) | TableVersion::ForSystemTimeAsOf(expr) => {
            let at = text(expr).and_then(|text| instant(&text));
            Ok((
                table,
                At::Instant(at.ok_or_else(|| failed("the instant is not a literal such as '2026-01-31T12:00:00Z'"))?),
            ))
        }
        _ => Err(failed("write `VERSION AS OF n` or `TIMESTAMP AS OF 'instant'`")),
    }
}

/// RFC 3339, or a date with or without a time, which then is UTC.
fn instant(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc());
    }
    for format in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"] {
        if let Ok(at) = NaiveDateTime::parse_from_str(text, format) {
            return Some(at.and_utc());
        }
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc())
}

/// Hands out the tables opened for the clauses of one statement.
#[derive(Debug, Default)]
pub(crate) struct VersionPlanner(pub(crate) HashMap<Key, Arc<dyn TableProvider>>);

impl RelationPlanner for VersionPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::Table { name, alias, version: Some(version), .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let key = key(name, version).map_err(|e| DataFusionError::External(Box::new(crate::Error::from(e))))?;
        let Some(provider) = self.0.get(&key) else {
            return plan_err!("`{name} {version}` cannot be used here");
        };
        let reference = context.object_name_to_table_reference(name.clone())?;
        let plan = LogicalPlanBuilder::scan(reference, provider_as_source(Arc::clone(provider)), None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}
