//! Random SELECTs that are valid by construction: each relation knows the names and kinds of its columns.
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::inputs::Kind;

/// What can be read: how it is named in a template, and its columns.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) text: String,
    pub(crate) columns: Vec<(String, Kind)>,
}

/// A SELECT and what it gives.
#[derive(Clone)]
pub(crate) struct Select {
    pub(crate) sql: String,
    pub(crate) columns: Vec<(String, Kind)>,
    /// Whether rows could be taken for one another where it numbers them: then a second plan may give others.
    pub(crate) ties: bool,
}

/// Makes them.
pub(crate) struct Maker<'a> {
    pub(crate) random: &'a mut StdRng,
    pub(crate) sources: &'a [Source],
    pub(crate) names: u32,
    /// Which SELECTs there are: seeds of before mean what they meant.
    pub(crate) generation: u32,
}

impl Maker<'_> {
    fn alias(&mut self) -> String {
        self.names += 1;
        format!("t{}", self.names)
    }

    fn of(&mut self, columns: &[(String, Kind)], kinds: &[Kind]) -> Option<(String, Kind)> {
        let some: Vec<_> = columns.iter().filter(|(_, kind)| kinds.contains(kind)).cloned().collect();
        some.choose(self.random).cloned()
    }

    fn key(&mut self, columns: &[(String, Kind)]) -> Option<(String, Kind)> {
        self.of(columns, &[Kind::Small, Kind::Text, Kind::Bool, Kind::Small, Kind::Text, Kind::Int])
    }

    /// A condition, which may be NULL.
    fn condition(&mut self, columns: &[(String, Kind)]) -> String {
        let Some((name, kind)) = columns.choose(self.random).cloned() else { return "true".to_owned() };
        let n = self.random.random_range(0..6);
        match kind {
            Kind::Small => format!("{name} {} {n}", ["<", "<>", "=", ">="].choose(self.random).unwrap()),
            Kind::Int => format!("{name} % 3 <> {}", n % 3),
            Kind::Text => format!("{name} {} ('a', 'z', '')", ["IN", "NOT IN"].choose(self.random).unwrap()),
            Kind::Dec => format!("{name} > {}.50", n * 100),
            Kind::Bool => {
                format!("{name} IS {}", ["TRUE", "NOT TRUE", "NOT NULL", "FALSE"].choose(self.random).unwrap())
            }
            Kind::Time => format!("date_part('minute', {name}) < {}", 10 + n * 10),
            Kind::Float | Kind::List => format!("{name} IS NOT NULL"),
        }
    }

    /// An expression of the same kind as some column.
    fn expression(&mut self, columns: &[(String, Kind)]) -> (String, Kind) {
        let (name, kind) = columns.choose(self.random).cloned().unwrap();
        let condition = self.condition(columns);
        let sql = match (kind, self.random.random_range(0..4)) {
            (Kind::Small, 0) => format!("CAST({name} * 2 - 1 AS INT)"),
            (Kind::Small, 1) => format!("CAST(coalesce({name}, 3) AS INT)"),
            (Kind::Int, 0) => format!("{name} + 7"),
            (Kind::Text, 0) => format!("upper({name})"),
            (Kind::Text, 1) => format!("coalesce({name}, 'none')"),
            (Kind::Dec, 0) => format!("CAST({name} * 2 AS DECIMAL(10, 2))"),
            (Kind::Time, 0) => format!("date_trunc('hour', {name})"),
            (Kind::Bool, 0) => format!("NOT {name}"),
            (Kind::List, _) => name,
            (_, 2) => format!("CASE WHEN {condition} THEN {name} END"),
            _ => name,
        };
        (sql, kind)
    }

    /// Any relation.
    pub(crate) fn select(&mut self, depth: u32) -> Select {
        if depth == 0 {
            return self.source();
        }
        let kinds = if self.generation > 1 { 30 } else { 22 };
        match self.random.random_range(0..kinds) {
            22.. => self.in_windows(depth),
            0..3 => self.filtered(depth),
            3..5 => self.projected(depth),
            5..7 => self.united(depth),
            7..11 => self.joined(depth),
            11..16 => self.aggregated(depth),
            16 => self.distinct(depth),
            17..20 => self.windowed(depth),
            20 => self.unnested(depth),
            _ => self.awkward(depth),
        }
    }

    fn source(&mut self) -> Select {
        let source = self.sources.choose(self.random).cloned().unwrap();
        let alias = self.alias();
        let names: Vec<String> = source.columns.iter().map(|(name, _)| format!("{alias}.{name}")).collect();
        Select {
            sql: format!("SELECT {} FROM {} {alias}", names.join(", "), source.text),
            columns: source.columns,
            ties: false,
        }
    }

    fn filtered(&mut self, depth: u32) -> Select {
        let from = self.select(depth - 1);
        let (alias, condition) = (self.alias(), self.condition(&from.columns));
        Select { sql: format!("SELECT * FROM ({}) {alias} WHERE {condition}", from.sql), ..from }
    }

    fn projected(&mut self, depth: u32) -> Select {
        let from = self.select(depth - 1);
        let alias = self.alias();
        let mut columns = Vec::new();
        let mut exprs = Vec::new();
        for n in 0..self.random.random_range(1..6) {
            let (sql, kind) = self.expression(&from.columns);
            exprs.push(format!("{sql} AS p{n}"));
            columns.push((format!("p{n}"), kind));
        }
        Select { sql: format!("SELECT {} FROM ({}) {alias}", exprs.join(", "), from.sql), columns, ties: from.ties }
    }

    /// Columns of these kinds out of a relation, NULL where it has none.
    fn shaped(&mut self, from: &Select, kinds: &[Kind]) -> String {
        let alias = self.alias();
        let exprs: Vec<String> = kinds
            .iter()
            .enumerate()
            .map(|(n, kind)| {
                let column = self.of(&from.columns, &[*kind]).map_or("NULL".to_owned(), |(name, _)| name);
                let sql = match kind {
                    Kind::Small => "INT",
                    Kind::Int => "BIGINT",
                    Kind::Dec => "DECIMAL(10, 2)",
                    Kind::Float => "DOUBLE",
                    Kind::Bool => "BOOLEAN",
                    Kind::Text | Kind::Time | Kind::List => "VARCHAR",
                };
                format!("CAST({column} AS {sql}) AS u{n}")
            })
            .collect();
        format!("SELECT {} FROM ({}) {alias}", exprs.join(", "), from.sql)
    }

    fn united(&mut self, depth: u32) -> Select {
        let (one, two) = (self.select(depth - 1), self.select(depth - 1));
        let all = [Kind::Small, Kind::Int, Kind::Text, Kind::Dec, Kind::Float, Kind::Bool];
        let mut kinds = vec![Kind::Small, Kind::Text];
        for _ in 0..self.random.random_range(0..3) {
            kinds.push(*all.choose(self.random).unwrap());
        }
        let how = if !kinds.contains(&Kind::Float) && self.random.random_bool(0.25) {
            *["UNION", "EXCEPT", "INTERSECT"].choose(self.random).unwrap()
        } else {
            "UNION ALL"
        };
        let sql = format!("{} {how} {}", self.shaped(&one, &kinds), self.shaped(&two, &kinds));
        let columns = kinds.into_iter().enumerate().map(|(n, kind)| (format!("u{n}"), kind)).collect();
        Select { sql, columns, ties: one.ties || two.ties }
    }

    fn joined(&mut self, depth: u32) -> Select {
        let one = self.select(depth - 1);
        let deep = if self.random.random_bool(0.5) { 0 } else { depth - 1 };
        let two = self.select(deep);
        let (left, right) = (self.alias(), self.alias());
        let pairs: Vec<(String, String)> = one
            .columns
            .iter()
            .flat_map(|(l, lk)| {
                two.columns
                    .iter()
                    .filter(move |(_, rk)| lk == rk && !matches!(lk, Kind::Float | Kind::List))
                    .map(move |(r, _)| (l.clone(), r.clone()))
            })
            .collect();
        let Some((l, r)) = pairs.choose(self.random).cloned() else { return one };
        let mut on = format!("{left}.{l} = {right}.{r}");
        if self.random.random_bool(0.2)
            && let Some((l, r)) = pairs.choose(self.random)
        {
            on = format!("{on} AND {left}.{l} = {right}.{r}");
        }
        if self.random.random_bool(0.2)
            && let Some((name, _)) = self.of(&two.columns, &[Kind::Small])
        {
            on = format!("{on} AND {right}.{name} < 4");
        }
        let ties = one.ties || two.ties;
        if self.random.random_bool(0.3) {
            let how = *["EXISTS", "NOT EXISTS"].choose(self.random).unwrap();
            let sql = match self.random.random_range(0..5) {
                0 => format!(
                    "SELECT * FROM ({}) {left} WHERE {left}.{l} NOT IN (SELECT {right}.{r} FROM ({}) {right})",
                    one.sql, two.sql
                ),
                1 => format!(
                    "SELECT * FROM ({}) {left} WHERE {left}.{l} IN (SELECT {right}.{r} FROM ({}) {right})",
                    one.sql, two.sql
                ),
                _ => format!(
                    "SELECT * FROM ({}) {left} WHERE {how} (SELECT 1 FROM ({}) {right} WHERE {on})",
                    one.sql, two.sql
                ),
            };
            return Select { sql, columns: one.columns, ties };
        }
        let how = *["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "JOIN", "LEFT JOIN"].choose(self.random).unwrap();
        let mut exprs = Vec::new();
        let mut columns = Vec::new();
        for (side, from) in [(&left, &one), (&right, &two)] {
            for (name, kind) in &from.columns {
                if self.random.random_bool(0.6) || columns.is_empty() {
                    let n = columns.len();
                    exprs.push(format!("{side}.{name} AS j{n}"));
                    columns.push((format!("j{n}"), *kind));
                }
            }
        }
        let sql = format!("SELECT {} FROM ({}) {left} {how} ({}) {right} ON {on}", exprs.join(", "), one.sql, two.sql);
        Select { sql, columns, ties }
    }

    /// An aggregate of something; what it gives is of a kind that aggregates further.
    fn aggregate(&mut self, columns: &[(String, Kind)]) -> (String, Kind) {
        let filter = if self.random.random_bool(0.15) {
            format!(" FILTER (WHERE {})", self.condition(columns))
        } else {
            String::new()
        };
        let orderly = [Kind::Small, Kind::Int, Kind::Text, Kind::Dec, Kind::Time];
        let (call, kind) = match self.random.random_range(0..9) {
            0 => ("count(*)".to_owned(), Kind::Int),
            1 => {
                let (name, _) = columns.choose(self.random).unwrap();
                (format!("count({name})"), Kind::Int)
            }
            2 => match self.of(columns, &[Kind::Small, Kind::Text, Kind::Int]) {
                Some((name, _)) => (format!("count(DISTINCT {name})"), Kind::Int),
                None => ("count(*)".to_owned(), Kind::Int),
            },
            3 | 4 => match self.of(columns, &[Kind::Dec, Kind::Int, Kind::Small, Kind::Float]) {
                Some((name, Kind::Dec)) => (format!("CAST(sum({name}){filter} AS DECIMAL(10, 2))"), Kind::Dec),
                Some((name, Kind::Float)) => (format!("sum({name}){filter}"), Kind::Float),
                Some((name, _)) => (format!("sum({name}){filter}"), Kind::Int),
                None => ("count(*)".to_owned(), Kind::Int),
            },
            5 => match self.of(columns, &[Kind::Int, Kind::Small]) {
                Some((name, _)) => (format!("avg({name})"), Kind::Float),
                None => ("count(*)".to_owned(), Kind::Int),
            },
            6 => match self.of(columns, &[Kind::Dec]) {
                Some((name, _)) => (format!("CAST(avg({name}) AS DECIMAL(10, 2))"), Kind::Dec),
                None => ("count(*)".to_owned(), Kind::Int),
            },
            _ => match self.of(columns, &orderly) {
                Some((name, kind)) => {
                    let what = *["min", "max"].choose(self.random).unwrap();
                    return (format!("{what}({name}){filter}"), kind);
                }
                None => ("count(*)".to_owned(), Kind::Int),
            },
        };
        (call, kind)
    }

    fn aggregated(&mut self, depth: u32) -> Select {
        let from = self.select(depth - 1);
        let Some((key, kind)) = self.key(&from.columns) else { return from };
        let alias = self.alias();
        let mut groups = vec![(key, kind)];
        if self.random.random_bool(0.3)
            && let Some((name, _)) = self.of(&from.columns, &[Kind::Time])
        {
            groups.push((format!("date_bin(INTERVAL '1 hour', {name})"), Kind::Time));
        } else if self.random.random_bool(0.3)
            && let Some(other) = self.key(&from.columns)
            && other != groups[0]
        {
            groups.push(other);
        }
        let (mut exprs, mut columns) = (Vec::new(), Vec::new());
        // Now and then the result does not say what it is grouped by.
        let hidden = self.random.random_bool(0.2);
        for (n, (group, kind)) in groups.iter().enumerate() {
            if !(hidden && n == 0) {
                exprs.push(format!("{group} AS g{n}"));
                columns.push((format!("g{n}"), *kind));
            }
        }
        for n in 0..self.random.random_range(1..4) {
            let (call, kind) = self.aggregate(&from.columns);
            exprs.push(format!("{call} AS a{n}"));
            columns.push((format!("a{n}"), kind));
        }
        let by: Vec<String> = groups.into_iter().map(|(group, _)| group).collect();
        let having = if self.random.random_bool(0.2) {
            format!(" HAVING count(*) > {}", self.random.random_range(0..3))
        } else {
            String::new()
        };
        let sql = format!("SELECT {} FROM ({}) {alias} GROUP BY {}{having}", exprs.join(", "), from.sql, by.join(", "));
        Select { sql, columns, ties: from.ties }
    }

    /// Groups by windows over event time, of all three kinds.
    fn in_windows(&mut self, depth: u32) -> Select {
        let from = self.select(depth - 1);
        let Some((time, _)) = self.of(&from.columns, &[Kind::Time]) else { return self.aggregated(depth) };
        let alias = self.alias();
        let interval = |text: &str| format!("INTERVAL '{text}'");
        let window = match self.random.random_range(0..3) {
            0 => {
                let size = *["1 minute", "10 minutes", "1 hour", "1 day"].choose(self.random).unwrap();
                format!("tumble({alias}.{time}, {})", interval(size))
            }
            1 => {
                let pairs = [
                    ("10 minutes", "30 minutes"),
                    ("20 minutes", "30 minutes"),
                    ("1 hour", "10 minutes"),
                    ("1 minute", "7 minutes"),
                ];
                let (slide, size) = *pairs.choose(self.random).unwrap();
                format!("hop({alias}.{time}, {}, {})", interval(slide), interval(size))
            }
            _ => {
                let gap = *["10 seconds", "2 minutes", "10 minutes", "1 hour"].choose(self.random).unwrap();
                format!("session({alias}.{time}, {})", interval(gap))
            }
        };
        let mut groups = vec![window];
        let (mut exprs, mut columns) = (Vec::new(), Vec::new());
        for (name, shown) in [("window_start", "ws"), ("window_end", "we")] {
            if self.random.random_bool(0.8) {
                exprs.push(format!("{name} AS {shown}"));
                columns.push((shown.to_owned(), Kind::Time));
            }
        }
        for n in 0..self.random.random_range(0..3) {
            let Some((name, kind)) = self.key(&from.columns) else { break };
            let key = format!("{alias}.{name}");
            if groups.contains(&key) {
                continue;
            }
            if self.random.random_bool(0.8) {
                exprs.push(format!("{key} AS g{n}"));
                columns.push((format!("g{n}"), kind));
            }
            groups.push(key);
        }
        for n in 0..self.random.random_range(1..4) {
            let (call, kind) = self.aggregate(&from.columns);
            exprs.push(format!("{call} AS a{n}"));
            columns.push((format!("a{n}"), kind));
        }
        let having = match self.random.random_range(0..8) {
            0 => format!(" HAVING count(*) > {}", self.random.random_range(0..3)),
            1 => " HAVING date_part('minute', window_end) < 45".to_owned(),
            _ => String::new(),
        };
        let sql =
            format!("SELECT {} FROM ({}) {alias} GROUP BY {}{having}", exprs.join(", "), from.sql, groups.join(", "));
        Select { sql, columns, ties: from.ties }
    }

    fn distinct(&mut self, depth: u32) -> Select {
        let from = self.select(depth - 1);
        let alias = self.alias();
        let columns: Vec<(String, Kind)> =
            from.columns.iter().filter(|(_, kind)| !matches!(kind, Kind::Float)).take(3).cloned().collect();
        if columns.is_empty() {
            return from;
        }
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        Select {
            sql: format!("SELECT DISTINCT {} FROM ({}) {alias}", names.join(", "), from.sql),
            columns,
            ties: from.ties,
        }
    }

    fn windowed(&mut self, depth: u32) -> Select {
        let from = self.select(depth - 1);
        let Some((key, _)) = self.key(&from.columns) else { return from };
        let Some((order, _)) = self.of(&from.columns, &[Kind::Int, Kind::Time, Kind::Small, Kind::Dec]) else {
            return from;
        };
        let alias = self.alias();
        let way = *["", " DESC", " NULLS FIRST"].choose(self.random).unwrap();
        let over = format!("OVER (PARTITION BY {key} ORDER BY {order}{way})");
        let (call, kind, ties) = match self.random.random_range(0..7) {
            0 => (format!("row_number() {over}"), Kind::Int, true),
            1 => (format!("rank() {over}"), Kind::Int, false),
            2 => (format!("count(*) OVER (PARTITION BY {key})"), Kind::Int, false),
            3 => match self.of(&from.columns, &[Kind::Int, Kind::Small]) {
                Some((name, _)) => (format!("sum({name}) {over}"), Kind::Int, false),
                None => (format!("dense_rank() {over}"), Kind::Int, false),
            },
            4 => match self.of(&from.columns, &[Kind::Int, Kind::Text, Kind::Dec, Kind::Time]) {
                Some((name, kind)) => {
                    (format!("{}({name}) {over}", ["lag", "lead"].choose(self.random).unwrap()), kind, true)
                }
                None => (format!("dense_rank() {over}"), Kind::Int, false),
            },
            5 => match self.of(&from.columns, &[Kind::Int]) {
                Some((name, kind)) => (
                    format!(
                        "sum({name}) OVER (PARTITION BY {key} ORDER BY {order} ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"
                    ),
                    kind,
                    true,
                ),
                None => (format!("dense_rank() {over}"), Kind::Int, false),
            },
            _ => match self.of(&from.columns, &[Kind::Int, Kind::Text, Kind::Small]) {
                Some((name, kind)) => (format!("max({name}) OVER (PARTITION BY {key})"), kind, false),
                None => (format!("count(*) {over}"), Kind::Int, false),
            },
        };
        let mut columns: Vec<(String, Kind)> = from.columns.clone();
        columns.retain(|_| self.random.random_bool(0.8));
        let names: Vec<String> = columns.iter().map(|(name, _)| format!("{name}, ")).collect();
        columns.push(("v".to_owned(), kind));
        let inner = format!("SELECT {}{call} AS v FROM ({}) {alias}", names.concat(), from.sql);
        // A name that is there already would be there twice.
        if columns.iter().filter(|(name, _)| name == "v").count() > 1 {
            return from;
        }
        let outer = self.alias();
        let sql = if self.random.random_bool(0.4) && kind == Kind::Int {
            format!("SELECT * FROM ({inner}) {outer} WHERE v <= 2")
        } else {
            inner
        };
        Select { sql, columns, ties: from.ties || ties }
    }

    fn unnested(&mut self, depth: u32) -> Select {
        let from = self.select(depth - 1);
        let Some((list, _)) = self.of(&from.columns, &[Kind::List]) else { return self.filtered(depth) };
        let mut columns: Vec<(String, Kind)> = from.columns.iter().filter(|(name, _)| *name != list).cloned().collect();
        let alias = self.alias();
        let names: Vec<String> = columns.iter().map(|(name, _)| format!("{name}, ")).collect();
        let column = format!("e{}", self.names);
        let sql = format!("SELECT {}unnest({list}) AS {column} FROM ({}) {alias}", names.concat(), from.sql);
        columns.push((column, Kind::Int));
        Select { sql, columns, ties: from.ties }
    }

    /// What has no key: it is computed whole.
    fn awkward(&mut self, depth: u32) -> Select {
        let from = self.select(depth - 1);
        let (alias, inner) = (self.alias(), self.alias());
        match self.random.random_range(0..3) {
            0 => Select {
                sql: format!("SELECT count(*) AS n FROM ({}) {alias}", from.sql),
                columns: vec![("n".to_owned(), Kind::Int)],
                ties: from.ties,
            },
            1 => match self.of(&from.columns, &[Kind::Int, Kind::Small]) {
                Some((name, _)) => Select {
                    sql: format!(
                        "SELECT * FROM ({}) {alias} WHERE {name} >= (SELECT avg({name}) FROM ({}) {inner})",
                        from.sql, from.sql
                    ),
                    ..from
                },
                None => from,
            },
            _ => Select { sql: format!("SELECT * FROM ({}) {alias} WHERE random() >= 0", from.sql), ..from },
        }
    }
}
