//! The statements of a load, and how a table may grow.
use tokio_postgres::{Client, Error};

use super::{Column, Held, Kind, Load, Loaded, Mode, SINK, SinkError, failed, keys_text, quoted, settled};
use crate::sink::{LEDGER, quoted_list, split};

/// The staging table's own column: the order rows came in.
pub(super) const ORDINAL: &str = "_tidemill_row";
const STAGE: &str = "pg_temp.\"_tidemill_stage\"";

/// A table of the database.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) schema: String,
    pub(super) name: String,
}

impl Target {
    pub(super) fn new(default_schema: &str, table: &str) -> Self {
        let (schema, name) = split(table);
        Self { schema: schema.unwrap_or(default_schema).to_owned(), name: name.to_owned() }
    }

    fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// As the ledger keeps it.
    fn text(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The name of the key's index. It has to fit a name, so a long table name goes in as its FNV-1a hash.
    fn key_index(&self) -> String {
        let name = format!("_tidemill_key_{}", self.name);
        if name.len() <= super::NAME_BYTES {
            return name;
        }
        let hash = self
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("_tidemill_key_{hash:016x}")
    }
}

/// A failure that the server reports, or one we can name better.
pub(super) enum Fault {
    Told(SinkError),
    Db(Error),
}

impl Fault {
    pub(super) fn told(self, table: &str) -> SinkError {
        match self {
            Self::Told(error) => error,
            Self::Db(cause) => failed(table, &cause),
        }
    }
}

impl From<Error> for Fault {
    fn from(cause: Error) -> Self {
        Self::Db(cause)
    }
}

impl From<SinkError> for Fault {
    fn from(error: SinkError) -> Self {
        Self::Told(error)
    }
}

/// Makes a schema if it is not there. Asking first matters: `IF NOT EXISTS` demands the right to create all the same.
async fn make_schema(client: &Client, schema: &str) -> Result<(), Error> {
    if client.query_opt("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&schema]).await?.is_none() {
        client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema))).await?;
    }
    Ok(())
}

fn ledger(schema: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(LEDGER))
}

/// Makes the ledger if it is not there.
pub(super) async fn make_ledger(client: &Client, schema: &str) -> Result<(), Error> {
    client.batch_execute("SET lock_timeout = '60s'").await?;
    let there = client
        .query_opt(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            &[&schema, &LEDGER],
        )
        .await?;
    if there.is_some() {
        return Ok(());
    }
    // Two that make it at once would both fail on the catalogue's own unique keys: one waits for the other.
    client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(hashtext('tidemill ledger'))").await?;
    let made = async {
        make_schema(client, schema).await?;
        client
            .batch_execute(&format!(
                "CREATE TABLE IF NOT EXISTS {} (
                   source text NOT NULL CONSTRAINT {LEDGER}_source PRIMARY KEY,
                   target text NOT NULL CONSTRAINT {LEDGER}_target UNIQUE,
                   table_id text NOT NULL, version bigint NOT NULL, rows bigint NOT NULL, keys text NOT NULL,
                   loaded_at timestamptz NOT NULL)",
                ledger(schema)
            ))
            .await
    }
    .await;
    client.batch_execute(if made.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    made
}

/// What the ledger says of `source`, if the table it names is still there.
pub(super) async fn held(client: &Client, schema: &str, source: &str) -> Result<Option<Held>, Error> {
    let row = client
        .query_opt(
            &format!(
                "SELECT l.table_id, l.version, l.rows FROM {} l WHERE l.source = $1 AND EXISTS (
                   SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname || '.' || c.relname = l.target)",
                ledger(schema)
            ),
            &[&source],
        )
        .await?;
    row.map(|row| {
        let rows: i64 = row.try_get(2)?;
        Ok(Held { table_id: row.try_get(0)?, version: row.try_get(1)?, rows: rows.unsigned_abs() })
    })
    .transpose()
}

/// The statement that makes the staging table.
pub(super) fn stage_table(columns: &[Column]) -> String {
    let columns: Vec<_> = columns
        .iter()
        .map(|column| {
            // Decimals of more than 38 digits travel as text.
            let kind = if matches!(column.kind, Kind::WideDecimal { .. }) { Kind::Text } else { column.kind };
            format!("{} {kind}", quoted(&column.name))
        })
        .collect();
    format!(
        "CREATE TEMPORARY TABLE \"_tidemill_stage\" ({}, {ORDINAL} bigint GENERATED ALWAYS AS IDENTITY) ON COMMIT DROP",
        columns.join(", ")
    )
}

/// The statement that fills it.
pub(super) fn copy(columns: &[Column]) -> String {
    let names = quoted_list(columns.iter().map(|column| &column.name));
    format!("COPY {STAGE} ({names}) FROM STDIN (FORMAT binary)")
}

/// How the table has to change before the rows can be shown.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The table has to be made.
    fresh: bool,
    /// Columns to add.
    added: Vec<Column>,
    /// Columns whose type has to grow.
    grown: Vec<Column>,
    /// Columns of the table that the load lacks; they become NULL.
    left: Vec<String>,
    /// The key the ledger knows differs from the load's.
    rekeyed: bool,
}

pub(super) async fn plan(
    client: &Client,
    ledger_schema: &str,
    load: &Load,
    target: &Target,
    columns: &[Column],
) -> Result<Plan, Fault> {
    let existing = client
        .query(
            "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
             JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            &[&target.schema, &target.name],
        )
        .await?;
    if existing.is_empty() {
        return Ok(Plan { fresh: true, ..Plan::default() });
    }
    let taken = |owner| SinkError::Taken { sink: SINK, target: target.text(), origin: load.source.clone(), owner };
    let owner = client
        .query_opt(&format!("SELECT source, keys FROM {} WHERE target = $1", ledger(ledger_schema)), &[&target.text()])
        .await?;
    let rekeyed = if let Some(owner) = owner {
        let (source, keys): (String, String) = (owner.try_get(0)?, owner.try_get(1)?);
        if source != load.source {
            return Err(taken(Some(source)).into());
        }
        keys != keys_text(&load.keys)
    } else {
        let any = client.query_one(&format!("SELECT EXISTS (SELECT 1 FROM {})", target.sql()), &[]).await?;
        if any.try_get::<_, bool>(0)? {
            return Err(taken(None).into());
        }
        true
    };
    let mut plan = Plan { rekeyed, ..Plan::default() };
    let mut held_names = Vec::with_capacity(existing.len());
    for row in &existing {
        let (name, held): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        match columns.iter().find(|column| column.name == name) {
            None => plan.left.push(name.clone()),
            Some(column) => match growth(&held, column.kind) {
                Growth::Fits => {}
                Growth::Grows => plan.grown.push(column.clone()),
                Growth::Differs => {
                    return Err(SinkError::TypeChanged {
                        sink: SINK,
                        table: target.text(),
                        column: name,
                        held,
                        offered: column.kind.to_string(),
                    }
                    .into());
                }
            },
        }
        held_names.push(name);
    }
    plan.added = columns.iter().filter(|column| !held_names.contains(&column.name)).cloned().collect();
    Ok(plan)
}

/// Moves the staged rows into the table and writes the ledger row; the caller commits, or rolls back if it was skipped.
pub(super) async fn show(
    client: &Client,
    ledger_schema: &str,
    load: &Load,
    target: &Target,
    columns: &[Column],
    rows: u64,
) -> Result<Loaded, Fault> {
    // The lock on the source's name serialises two loads of one table, also when there is no ledger row to lock yet.
    client.execute("SELECT pg_advisory_xact_lock(hashtext('tidemill'), hashtext($1))", &[&load.source]).await?;
    if let Some(held) = held(client, ledger_schema, &load.source).await?
        && let Some(loaded) = settled(&held, load)?
    {
        return Ok(loaded);
    }
    let plan = plan(client, ledger_schema, load, target, columns).await?;
    alter(client, target, columns, &plan).await?;

    let table = target.sql();
    let by_key = !load.keys.is_empty();
    let mut deleted = 0;
    let key_index = format!("{}.{}", quoted(&target.schema), quoted(&target.key_index()));
    if plan.rekeyed {
        client.batch_execute(&format!("DROP INDEX IF EXISTS {key_index}")).await?;
    }
    if load.mode == Mode::Replace && !plan.fresh && (plan.rekeyed || !by_key) {
        deleted = client.execute(&format!("DELETE FROM {table}"), &[]).await?;
    }
    if by_key && (plan.fresh || plan.rekeyed) {
        let (index, keys) = (quoted(&target.key_index()), quoted_list(&load.keys));
        client.batch_execute(&format!("CREATE UNIQUE INDEX {index} ON {table} ({keys})")).await?;
    }
    if by_key && load.mode == Mode::Replace {
        // Finds two rows with one key, and makes the comparison below quick.
        let keys = quoted_list(&load.keys);
        client.batch_execute(&format!("CREATE UNIQUE INDEX ON {STAGE} ({keys}); ANALYZE {STAGE}")).await?;
        let same: Vec<_> = load.keys.iter().map(|key| format!("s.{0} = t.{0}", quoted(key))).collect();
        let gone = format!(
            "DELETE FROM {table} AS t WHERE NOT EXISTS (SELECT 1 FROM {STAGE} AS s WHERE {})",
            same.join(" AND ")
        );
        deleted += client.execute(&gone, &[]).await?;
    }
    let written = client.execute(&insert(&table, load, columns, &plan), &[]).await?;
    client
        .execute(
            &format!(
                "INSERT INTO {} (source, target, table_id, version, rows, keys, loaded_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (source) DO UPDATE SET target = excluded.target,
                 table_id = excluded.table_id, version = excluded.version, rows = excluded.rows, keys = excluded.keys,
                 loaded_at = excluded.loaded_at",
                ledger(ledger_schema)
            ),
            &[
                &load.source,
                &target.text(),
                &load.table_id,
                &load.version,
                &i64::try_from(rows).unwrap_or(i64::MAX),
                &keys_text(&load.keys),
                &load.loaded_at,
            ],
        )
        .await?;
    Ok(Loaded { rows, written, deleted, skipped: false })
}

/// Makes the table, or gives it what it lacks.
async fn alter(client: &Client, target: &Target, columns: &[Column], plan: &Plan) -> Result<(), Fault> {
    let table = target.sql();
    if plan.fresh {
        make_schema(client, &target.schema).await?;
        let columns: Vec<_> =
            columns.iter().map(|column| format!("{} {}", quoted(&column.name), column.kind)).collect();
        client.batch_execute(&format!("CREATE TABLE {table} ({})", columns.join(", "))).await?;
    }
    let added = plan.added.iter().map(|column| format!("ADD COLUMN {} {}", quoted(&column.name), column.kind));
    let grown = plan.grown.iter().map(|column| format!("ALTER COLUMN {} TYPE {}", quoted(&column.name), column.kind));
    let changes: Vec<_> = added.chain(grown).collect();
    if !changes.is_empty() {
        client.batch_execute(&format!("ALTER TABLE {table} {}", changes.join(", "))).await?;
    }
    Ok(())
}

/// The statement that moves the staged rows.
fn insert(table: &str, load: &Load, columns: &[Column], plan: &Plan) -> String {
    let names = quoted_list(columns.iter().map(|column| &column.name));
    let values: Vec<_> = columns
        .iter()
        .map(|column| match column.kind {
            kind @ Kind::WideDecimal { .. } => format!("{}::{kind}", quoted(&column.name)),
            _ => quoted(&column.name),
        })
        .collect();
    let values = values.join(", ");
    if load.keys.is_empty() || load.mode == Mode::Append {
        return format!("INSERT INTO {table} ({names}) SELECT {values} FROM {STAGE} ORDER BY {ORDINAL}");
    }
    let keys = quoted_list(&load.keys);
    let rows = if load.mode == Mode::Upsert {
        // One statement may touch a key once only; the later staged row wins.
        format!("SELECT DISTINCT ON ({keys}) {values} FROM {STAGE} ORDER BY {keys}, {ORDINAL} DESC")
    } else {
        format!("SELECT {values} FROM {STAGE} ORDER BY {ORDINAL}")
    };
    let mut sets = Vec::new();
    let mut before = Vec::new();
    let mut after = Vec::new();
    for column in columns.iter().filter(|column| !column.key) {
        let name = quoted(&column.name);
        sets.push(format!("{name} = excluded.{name}"));
        before.push(format!("t.{name}"));
        after.push(format!("excluded.{name}"));
    }
    for name in plan.left.iter().map(|name| quoted(name)) {
        sets.push(format!("{name} = NULL"));
        before.push(format!("t.{name}"));
        after.push("NULL".to_owned());
    }
    let change = if sets.is_empty() {
        "NOTHING".to_owned()
    } else {
        let differs: Vec<_> =
            before.iter().zip(&after).map(|(before, after)| format!("{before} IS DISTINCT FROM {after}")).collect();
        format!("UPDATE SET {} WHERE {}", sets.join(", "), differs.join(" OR "))
    };
    format!("INSERT INTO {table} AS t ({names}) {rows} ON CONFLICT ({keys}) DO {change}")
}

#[derive(Debug, PartialEq, Eq)]
enum Growth {
    /// Every value offered fits the column as it is.
    Fits,
    /// Every value the column holds fits the type offered.
    Grows,
    Differs,
}

/// How a column of type `held`, in the words of `format_type`, relates to the kind offered.
fn growth(held: &str, offered: Kind) -> Growth {
    if held == offered.to_string() {
        return Growth::Fits;
    }
    let offered_text = offered.to_string();
    if let (Some(held), Some(offered)) = (digits(held), digits(&offered_text)) {
        let (held_digits, held_scale) = held;
        let (offered_digits, offered_scale) = offered;
        if offered_digits <= held_digits && offered_scale <= held_scale {
            return Growth::Fits;
        }
        if held_digits <= offered_digits && held_scale <= offered_scale {
            return Growth::Grows;
        }
        return Growth::Differs;
    }
    match (held, offered) {
        ("double precision", Kind::Float | Kind::Small | Kind::Integer) | ("real", Kind::Small) => Growth::Fits,
        ("real" | "smallint" | "integer", Kind::Double) | ("smallint", Kind::Float) => Growth::Grows,
        (held, Kind::Text) if held.starts_with("character varying") => Growth::Grows,
        _ => Growth::Differs,
    }
}

/// Digits before and after the point that a whole or decimal type always holds.
fn digits(name: &str) -> Option<(u32, u32)> {
    match name {
        "smallint" => return Some((5, 0)),
        "integer" => return Some((10, 0)),
        "bigint" => return Some((19, 0)),
        // Without precision: anything.
        "numeric" => return Some((131_072, 16_383)),
        _ => {}
    }
    let inner = name.strip_prefix("numeric(")?.strip_suffix(')')?;
    let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
    let (precision, scale): (u32, u32) = (precision.parse().ok()?, scale.parse().ok()?);
    Some((precision.checked_sub(scale)?, scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_grow_and_never_shrink() {
        let decimal = |precision, scale| Kind::Decimal { precision, scale };

        assert_eq!(growth("bigint", Kind::Big), Growth::Fits);
        assert_eq!(growth("bigint", Kind::Integer), Growth::Fits);
        assert_eq!(growth("integer", Kind::Big), Growth::Grows);
        assert_eq!(growth("numeric(10,2)", decimal(20, 2)), Growth::Grows);
        assert_eq!(growth("numeric(20,4)", decimal(10, 2)), Growth::Fits);
        assert_eq!(growth("numeric(10,2)", decimal(10, 4)), Growth::Differs);
        assert_eq!(growth("numeric(10,2)", Kind::Big), Growth::Differs);
        assert_eq!(growth("numeric", decimal(38, 18)), Growth::Fits);
        assert_eq!(growth("text", Kind::Big), Growth::Differs);
        assert_eq!(growth("bigint", Kind::Text), Growth::Differs);
        assert_eq!(growth("character varying(20)", Kind::Text), Growth::Grows);
        assert_eq!(growth("bigint", Kind::Double), Growth::Differs);
        assert_eq!(growth("date", Kind::Instant), Growth::Differs);
    }
}
