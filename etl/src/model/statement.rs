//! What stands in a file, as far as its text says it: one SELECT, and where that ends.
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{SetExpr, Statement as Sql};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::template::offset;

/// The SELECT without a `;` behind it and what follows that, so that it can stand in parentheses on lines of its own.
pub(super) fn bare(sql: &str) -> &str {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap_or_default();
    let end = tokens.iter().find(|token| token.token == Token::SemiColon).map(|token| token.span.start);
    let end = end.map_or(sql.len(), |place| offset(sql, place.line, place.column));
    sql.get(..end).unwrap_or(sql).trim()
}

/// What a statement is that is no SELECT, in the words that it begins with: `CREATE TABLE`.
pub(super) fn other_than_select(statement: &Statement) -> Option<String> {
    if let Statement::Statement(sql) = statement {
        match sql.as_ref() {
            Sql::Query(query) => match query.body.as_ref() {
                SetExpr::Insert(_) => return Some("INSERT".to_owned()),
                SetExpr::Update(_) => return Some("UPDATE".to_owned()),
                SetExpr::Delete(_) => return Some("DELETE".to_owned()),
                SetExpr::Merge(_) => return Some("MERGE".to_owned()),
                SetExpr::Select(select) if select.into.is_some() => return Some("SELECT INTO".to_owned()),
                _ => return None,
            },
            Sql::CreateTable(_) => return Some("CREATE TABLE".to_owned()),
            Sql::CreateView(_) => return Some("CREATE VIEW".to_owned()),
            _ => {}
        }
    }
    statement.to_string().split_whitespace().next().map(str::to_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_select_ends_before_its_semicolon() {
        assert_eq!(bare("select 1;"), "select 1");
        assert_eq!(bare(" select ';' as x -- ; no\n ; -- the end ;\n"), "select ';' as x -- ; no");
        assert_eq!(bare("select \"ä;\" from t /* ; */;\n/* done */"), "select \"ä;\" from t /* ; */");
        assert_eq!(bare("select 1 -- all"), "select 1 -- all");
    }

    #[test]
    fn what_is_no_select_is_named() {
        let other = |sql: &str| other_than_select(&crate::engine::parse(sql).unwrap());

        for select in ["select 1", "with a as (select 1) select * from a", "values (1)", "(select 1) union (select 2)"]
        {
            assert_eq!(other(select), None, "{select}");
        }
        assert_eq!(other("create table x as select 1").as_deref(), Some("CREATE TABLE"));
        assert_eq!(other("create or replace view x as select 1").as_deref(), Some("CREATE VIEW"));
        assert_eq!(other("insert into x select 1").as_deref(), Some("INSERT"));
        assert_eq!(other("with a as (select 1) insert into x select * from a").as_deref(), Some("INSERT"));
        assert_eq!(other("select 1 as a into x").as_deref(), Some("SELECT INTO"));
        assert_eq!(other("explain select 1").as_deref(), Some("EXPLAIN"));
        assert_eq!(other("copy x to 'y.csv'").as_deref(), Some("COPY"));
    }
}
