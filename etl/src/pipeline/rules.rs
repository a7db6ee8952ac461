//! Rules that a row has to keep: SQL over its columns. The first one that is not TRUE makes its record a dead letter.
//!
//! What a record says about itself (`is_valid`) is no more than a column. NULL is not TRUE: `amount > 0` also refuses a
//! row without an amount. A later rule is asked only about rows that kept those before it, so it may rely on them.
use arrow::array::{Array as _, AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;

use super::error::LandingError;
use super::expression::{Compiler, Expression};
use crate::error::Result;

/// One rule, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name: the reason of the dead letters it makes.
    pub name: String,
    /// A SQL expression over the row's columns that is TRUE for rows that keep it.
    pub expr: String,
}

/// The rules of one stream, in their order.
#[derive(Debug)]
pub(super) struct Rules {
    compiler: Compiler,
    written: Vec<Rule>,
    compiled: Vec<Expression>,
}

/// A row that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    /// The row, in the batch that was asked about.
    pub(super) row: usize,
    /// The rule's name.
    pub(super) rule: String,
    /// The rule and the values it saw.
    pub(super) detail: String,
}

impl Rules {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        Self { compiler: Compiler::new(), written: rules, compiled: Vec::new() }
    }

    /// Compiles the rules for rows of these columns. `open`: more columns may come, and one that is missing is NULL.
    ///
    /// # Errors
    /// [`LandingError::Rule`] if a rule is not SQL, not TRUE or FALSE, or names a column that is not there.
    pub(super) fn compile(&mut self, topic: &str, columns: &Schema, open: bool) -> Result<()> {
        self.compiled.clear();
        for rule in &self.written {
            let unusable = |column: Option<String>, why: String| LandingError::Rule {
                topic: topic.to_owned(),
                rule: rule.name.clone(),
                column,
                why,
            };
            let expression =
                self.compiler.compile(&rule.expr, columns, open).map_err(|bad| unusable(bad.column, bad.why))?;
            if !matches!(expression.data_type, DataType::Boolean | DataType::Null) {
                let why = format!("it gives {} where TRUE or FALSE is asked for", expression.data_type);
                return Err(unusable(None, why).into());
            }
            self.compiled.push(expression);
        }
        Ok(())
    }

    /// Which rows keep all rules, and for each other row the first rule it broke.
    pub(super) fn ask(&self, rows: &RecordBatch) -> std::result::Result<(BooleanArray, Vec<Broken>), ArrowError> {
        let mut good = vec![true; rows.num_rows()];
        let mut broken = Vec::new();
        // The rows still in question, and where each was.
        let mut left = rows.clone();
        let mut places: Vec<usize> = (0..rows.num_rows()).collect();
        for (rule, expression) in self.written.iter().zip(&self.compiled) {
            let (kept, failed) = expression.run(&left)?;
            let kept = kept.as_boolean_opt();
            let keeps: Vec<bool> = (0..left.num_rows())
                .map(|row| kept.is_some_and(|kept| kept.is_valid(row) && kept.value(row)))
                .collect();
            if keeps.iter().all(|keeps| *keeps) {
                continue;
            }
            for (row, place) in places.iter().enumerate().filter(|(row, _)| keeps.get(*row) == Some(&false)) {
                let saw = expression.read(&left, row);
                let detail = match failed.iter().find(|(at, _)| *at == row) {
                    Some((_, why)) => format!("`{}` cannot be answered: {why}; {saw}", expression.sql),
                    None => format!("`{}` is not true: {saw}", expression.sql),
                };
                broken.push(Broken { row: *place, rule: rule.name.clone(), detail });
                if let Some(good) = good.get_mut(*place) {
                    *good = false;
                }
            }
            left = filter_record_batch(&left, &BooleanArray::from(keeps.clone()))?;
            places = places.into_iter().zip(keeps).filter_map(|(place, keeps)| keeps.then_some(place)).collect();
        }
        Ok((BooleanArray::from(good), broken))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, StringArray};
    use arrow::datatypes::Field;

    use super::*;

    fn rows() -> RecordBatch {
        let columns = vec![
            Field::new("id", DataType::Utf8, true),
            Field::new("kind", DataType::Utf8, true),
            Field::new("amount", DataType::Float64, true),
            Field::new("text", DataType::Utf8, true),
        ];
        RecordBatch::try_new(
            Arc::new(Schema::new(columns)),
            vec![
                Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("d"), Some("e")])),
                Arc::new(StringArray::from(vec![Some("PAY"), Some("PAY"), Some("PAY"), Some("CLICK"), Some("PAY")])),
                Arc::new(Float64Array::from(vec![Some(1.5), Some(-1.0), Some(2.0), Some(2.0), None])),
                Arc::new(StringArray::from(vec![Some("1"), Some("2"), Some("3"), Some("x"), Some("5")])),
            ],
        )
        .unwrap()
    }

    fn rules(rules: &[(&str, &str)]) -> Rules {
        let rule = |(name, expr): &(&str, &str)| Rule { name: (*name).to_owned(), expr: (*expr).to_owned() };
        Rules::new(rules.iter().map(rule).collect())
    }

    fn refused(expr: &str, open: bool) -> crate::Error {
        rules(&[("it", expr)]).compile("t", &rows().schema(), open).unwrap_err()
    }

    #[test]
    fn the_first_rule_that_is_not_true_is_the_reason() {
        let mut rules = rules(&[
            ("customer", "id IS NOT NULL AND id <> ''"),
            ("kind", "kind IN ('PAY', 'VIEW')"),
            ("amount", "amount > 0"),
        ]);
        rules.compile("t", &rows().schema(), false).unwrap();

        let (good, broken) = rules.ask(&rows()).unwrap();

        assert_eq!(good, BooleanArray::from(vec![true, false, false, false, false]));
        let found: Vec<_> = broken.iter().map(|b| (b.row, b.rule.as_str(), b.detail.as_str())).collect();
        assert_eq!(
            found,
            [
                (1, "customer", "`id IS NOT NULL AND id <> ''` is not true: id = NULL"),
                (2, "customer", "`id IS NOT NULL AND id <> ''` is not true: id = ''"),
                (3, "kind", "`kind IN ('PAY', 'VIEW')` is not true: kind = 'CLICK'"),
                (4, "amount", "`amount > 0` is not true: amount = NULL"),
            ]
        );
    }

    #[test]
    fn a_row_that_cannot_be_asked_costs_no_other() {
        let mut rules = rules(&[("number", "CAST(text AS INTEGER) > 0"), ("small", "CAST(text AS INTEGER) < 5")]);
        rules.compile("t", &rows().schema(), false).unwrap();

        let (good, broken) = rules.ask(&rows()).unwrap();

        assert_eq!(good, BooleanArray::from(vec![true, true, true, false, false]));
        assert_eq!((broken[0].row, broken[0].rule.as_str()), (3, "number"));
        assert!(
            broken[0].detail.contains("cannot be answered") && broken[0].detail.contains("text = 'x'"),
            "{broken:?}"
        );
        assert_eq!((broken[1].row, broken[1].rule.as_str()), (4, "small"));
    }

    #[test]
    fn a_column_that_is_not_there_is_an_error_or_null() {
        let error = refused("amonut > 0", false);
        assert_eq!(error.code(), "L0351");
        assert!(error.why().unwrap().contains("`amonut`") && error.why().unwrap().contains("`amount`"), "{error:?}");
        assert!(error.to_string().contains("`it`"), "{error}");

        let mut rules = rules(&[("there", "later IS NULL OR later > 3"), ("not yet", "kind = 'CLICK' OR later > 3")]);
        rules.compile("t", &rows().schema(), true).unwrap();
        let (good, broken) = rules.ask(&rows()).unwrap();
        assert_eq!(good, BooleanArray::from(vec![false, false, false, true, false]));
        assert!(broken.iter().all(|broken| broken.rule == "not yet"));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for expr in ["amount +", "amount", "random() > 0.5", "sum(amount) > 1", "now() > now()", "amount > (SELECT 1)"]
        {
            assert_eq!(refused(expr, false).code(), "L0350", "{expr}");
        }
    }
}
