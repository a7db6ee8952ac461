//! One connection to Postgres, spoken to as a blocking one: a statement is prepared once and kept.
use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Statement};

/// How long a statement may take, with what it waits for: other writers, and the server itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can go wrong with a statement.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The server or the connection.
    #[error("{}", .0.as_db_error().map_or_else(|| .0.to_string(), |error| error.message().to_owned()))]
    Postgres(#[from] tokio_postgres::Error),
    /// No answer.
    #[error("no answer within {PATIENCE:?}")]
    Silent,
    /// The runtime of the connection.
    #[error("the connection has no runtime")]
    Runtime(#[from] std::io::Error),
    /// Something there that was not written by us.
    #[error("{0}")]
    Strange(String),
    /// A value that cannot be written.
    #[error("a value cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

pub(super) type Sql<T> = Result<T, Fault>;
pub(super) type Params<'p> = &'p [&'p (dyn ToSql + Sync)];

/// A connection and what it has prepared.
pub(super) struct Session {
    runtime: Option<Runtime>,
    client: Client,
    prepared: HashMap<String, Statement>,
}

impl Session {
    /// Connects and takes the tables of `schema` for its own.
    pub(super) fn connect(config: &tokio_postgres::Config, schema: &str) -> Sql<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let connecting = tokio::time::timeout(PATIENCE, config.connect(NoTls));
            let (client, connection) = connecting.await.map_err(|_| Fault::Silent)??;
            tokio::spawn(async move {
                if let Err(cause) = connection.await {
                    tracing::debug!(%cause, "the connection to the run history ended");
                }
            });
            Ok::<_, Fault>(client)
        })?;
        let mut session = Self { runtime: Some(runtime), client, prepared: HashMap::new() };
        session.batch(&format!("SET search_path TO {}", quoted(schema)))?;
        Ok(session)
    }

    /// Whether the connection is gone.
    pub(super) fn closed(&self) -> bool {
        self.client.is_closed()
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Sql<T> {
        let Some(runtime) = &self.runtime else { return Err(Fault::Silent) };
        let within = async { tokio::time::timeout(PATIENCE, work).await };
        Ok(runtime.block_on(within).map_err(|_| Fault::Silent)??)
    }

    /// Runs statements without params.
    pub(super) fn batch(&mut self, sql: &str) -> Sql<()> {
        self.wait(self.client.batch_execute(sql))
    }

    fn prepare(&mut self, sql: &str) -> Sql<Statement> {
        if let Some(known) = self.prepared.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.wait(self.client.prepare(sql))?;
        self.prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// The rows of a query.
    pub(super) fn rows(&mut self, sql: &str, params: Params<'_>) -> Sql<Vec<Row>> {
        let statement = self.prepare(sql)?;
        self.wait(self.client.query(&statement, params))
    }

    /// The one row of a query, if there is one.
    pub(super) fn row(&mut self, sql: &str, params: Params<'_>) -> Sql<Option<Row>> {
        Ok(self.rows(sql, params)?.into_iter().next())
    }

    /// Whether a query has rows.
    pub(super) fn any(&mut self, sql: &str, params: Params<'_>) -> Sql<bool> {
        Ok(!self.rows(sql, params)?.is_empty())
    }

    /// Runs a statement; gives how many rows it changed.
    pub(super) fn run(&mut self, sql: &str, params: Params<'_>) -> Sql<u64> {
        let statement = self.prepare(sql)?;
        self.wait(self.client.execute(&statement, params))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Dropped in an async function a runtime would wait, which is not allowed there.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A name as Postgres takes it for one, whatever it holds.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Text as Postgres can hold it: it has no character zero.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

pub(super) fn micros(instant: DateTime<Utc>) -> i64 {
    instant.timestamp_micros()
}

pub(super) fn json<T: Serialize>(value: &T) -> Sql<String> {
    Ok(serde_json::to_string(value)?)
}

pub(super) fn maybe<T: Serialize>(value: Option<&T>) -> Sql<Option<String>> {
    value.map(json).transpose()
}

pub(super) fn strange(what: impl Into<String>) -> Fault {
    Fault::Strange(what.into())
}

pub(super) fn instant(row: &Row, column: usize) -> Sql<DateTime<Utc>> {
    maybe_instant(row, column)?.ok_or_else(|| strange("no instant"))
}

pub(super) fn maybe_instant(row: &Row, column: usize) -> Sql<Option<DateTime<Utc>>> {
    let micros: Option<i64> = row.try_get(column)?;
    let instant =
        |micros| DateTime::from_timestamp_micros(micros).ok_or_else(|| strange(format!("{micros} is no instant")));
    micros.map(instant).transpose()
}

/// A number that is never negative.
pub(super) fn count(row: &Row, column: usize) -> Sql<u32> {
    let number: i64 = row.try_get(column)?;
    u32::try_from(number).map_err(|_| strange(format!("{number} is no count")))
}

pub(super) fn from_json<T: DeserializeOwned>(row: &Row, column: usize) -> Sql<T> {
    maybe_json(row, column)?.ok_or_else(|| strange("nothing there"))
}

pub(super) fn maybe_json<T: DeserializeOwned>(row: &Row, column: usize) -> Sql<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| strange(error.to_string()))).transpose()
}
