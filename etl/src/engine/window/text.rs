//! `window_start` and `window_end` in the text of a statement: they are put into words that the planner knows.
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident,
    ObjectName, OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr, Value, VisitMut as _, VisitorMut,
};

const START: &str = "window_start";
const END: &str = "window_end";

/// Replaces the two names by what they mean in each SELECT that groups by a window.
///
/// They are replaced where a group is spoken of: behind SELECT, HAVING, QUALIFY and ORDER BY, not in WHERE or FROM. With
/// a table before the dot the name is a column's, always.
pub(super) fn name_windows(statement: &mut DfStatement) {
    match statement {
        DfStatement::Statement(statement) => {
            let _done = statement.visit(&mut Queries);
        }
        DfStatement::Explain(explain) => name_windows(&mut explain.statement),
        _ => {}
    }
}

struct Queries;

impl VisitorMut for Queries {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let order = &mut query.order_by;
        match query.body.as_mut() {
            SetExpr::Select(select) => named(select, order.as_mut()),
            other => branches(other),
        }
        ControlFlow::Continue(())
    }
}

/// The SELECTs between UNION, EXCEPT and INTERSECT.
fn branches(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => named(select, None),
        SetExpr::SetOperation { left, right, .. } => {
            branches(left);
            branches(right);
        }
        _ => {}
    }
}

fn lower(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The call of a window function, and its name.
fn call(expr: &Expr) -> Option<(&Function, &'static str)> {
    let Expr::Function(function) = expr else { return None };
    let [part] = function.name.0.as_slice() else { return None };
    let name = lower(part.as_ident()?);
    let known = ["tumble", "hop", "session"].into_iter().find(|known| *known == name)?;
    function.over.is_none().then_some((function, known))
}

fn grouped_by(select: &Select) -> Option<Expr> {
    let GroupByExpr::Expressions(groups, _) = &select.group_by else { return None };
    if let Some(found) = groups.iter().find(|group| call(group).is_some()) {
        return Some(found.clone());
    }
    // GROUP BY the alias or the place of one that is selected.
    select.projection.iter().enumerate().find_map(|(at, item)| {
        let (expr, alias) = match item {
            SelectItem::UnnamedExpr(expr) => (expr, None),
            SelectItem::ExprWithAlias { expr, alias } => (expr, Some(lower(alias))),
            _ => return None,
        };
        call(expr)?;
        let meant = groups.iter().any(|group| match group {
            Expr::Value(value) => matches!(&value.value, Value::Number(n, _) if n.parse() == Ok(at + 1)),
            Expr::Identifier(ident) => Some(lower(ident)) == alias,
            _ => false,
        });
        meant.then(|| expr.clone())
    })
}

fn named(select: &mut Select, order: Option<&mut OrderBy>) {
    let Some(window) = grouped_by(select) else { return };
    let Some(mut names) = Names::of(&window) else { return };
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(Expr::Identifier(ident)) = item
            && [START, END].contains(&lower(ident).as_str())
        {
            let (alias, expr) = (ident.clone(), Expr::Identifier(ident.clone()));
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
        let _done = item.visit(&mut names);
    }
    for expr in select.having.iter_mut().chain(select.qualify.as_mut()) {
        let _done = expr.visit(&mut names);
    }
    for window in &mut select.named_window {
        let _done = window.visit(&mut names);
    }
    // ORDER BY means the columns of the result first.
    let shown = |name: &str| {
        let alias = |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if lower(alias) == name);
        select.projection.iter().any(alias)
    };
    (names.start_shown, names.end_shown) = (shown(START), shown(END));
    if let Some(OrderByKind::Expressions(exprs)) = order.map(|order| &mut order.kind) {
        for expr in exprs {
            let _done = expr.expr.visit(&mut names);
        }
    }
}

/// What the two names stand for.
struct Names {
    start: Expr,
    end: Expr,
    start_shown: bool,
    end_shown: bool,
    within: usize,
}

impl Names {
    fn of(window: &Expr) -> Option<Self> {
        let (function, name) = call(window)?;
        let FunctionArguments::List(list) = &function.args else { return None };
        let (time, size) = (list.args.first()?, list.args.last()?);
        let like = |name: &str, args: Vec<FunctionArg>| {
            let args = FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
            let name = ObjectName::from(vec![Ident::new(name)]);
            Expr::Function(Function { name, args: FunctionArguments::List(args), ..function.clone() })
        };
        let first = if name == "session" {
            // A session ends behind its last row.
            like("max", vec![time.clone()])
        } else {
            window.clone()
        };
        let end = like("window_shift", vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(first)), size.clone()]);
        Some(Self { start: window.clone(), end, start_shown: false, end_shown: false, within: 0 })
    }
}

impl VisitorMut for Names {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.within += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.within = self.within.saturating_sub(1);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(ident) = expr
            && self.within == 0
        {
            let name = lower(ident);
            if name == START && !self.start_shown {
                *expr = self.start.clone();
            } else if name == END && !self.end_shown {
                *expr = self.end.clone();
            }
        }
        ControlFlow::Continue(())
    }
}
