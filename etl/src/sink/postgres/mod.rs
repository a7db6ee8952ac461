//! Tables of a Postgres database: rows go in by binary COPY, and are shown in the transaction that writes the ledger.
//!
//! `begin` opens a transaction, makes a temporary staging table in it and starts one COPY, which `stage` feeds. `commit`
//! ends the COPY, takes the ledger row (which serialises two loads of one table), changes the table where columns are
//! new, moves the rows, and commits. Readers are never blocked by the rows: they see the old ones until the commit. Only
//! a new or wider column takes the table's lock, for the length of `commit`.
//!
//! Lists, maps and structs become `jsonb`. Types may grow (`integer` to `bigint`, `numeric(10,2)` to `numeric(20,2)`).
mod connect;
mod sql;

use std::pin::Pin;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, SinkExt};
use pgpq::ArrowToPostgresBinaryEncoder;
use pgpq::encoders::{EncoderBuilder, StringEncoderBuilder};
use pgpq::pg_schema::PostgresType;
use tokio_postgres::{Client, CopyInSink};

pub use self::connect::{PostgresSettings, Tls};
use self::sql::Target;
use super::column::{self, Column, Kind};
use super::{Connection, Held, Load, Loaded, Mode, Opening, Sink, SinkError, keys_text, quoted, settled};
use crate::error::Result;

const SINK: &str = "Postgres";
/// Postgres cuts longer names without a word.
const NAME_BYTES: usize = 63;
/// Sent to the server in pieces of about this size; one is in flight while the next is encoded.
const PIECE_ROWS: usize = 4096;

/// A Postgres database as a sink.
pub struct PostgresSink {
    settings: PostgresSettings,
    client: Option<Client>,
    open: Option<Open>,
}

/// A load between `begin` and `commit`.
struct Open {
    load: Load,
    target: Target,
    columns: Vec<Column>,
    encoder: ArrowToPostgresBinaryEncoder,
    copy: Pin<Box<CopyInSink<Bytes>>>,
    rows: u64,
}

pub(super) fn open(connection: Connection) -> Opening {
    async move {
        let settings = PostgresSettings::from_connection(&connection)?;
        Ok(Box::new(PostgresSink::connect(settings).await?) as Box<dyn Sink>)
    }
    .boxed()
}

impl PostgresSink {
    /// Connects, within ten seconds.
    ///
    /// # Errors
    /// [`SinkError::Unreachable`], [`SinkError::Login`], or rights that miss for the ledger.
    pub async fn connect(settings: PostgresSettings) -> Result<Self> {
        let mut sink = Self { settings, client: None, open: None };
        sink.client().await?;
        Ok(sink)
    }

    /// The connection, made anew if the old one is gone.
    async fn client(&mut self) -> Result<&Client, SinkError> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = None;
            let client = self.settings.connect().await?;
            sql::make_ledger(&client, &self.settings.schema).await.map_err(|cause| failed("the ledger", &cause))?;
            self.client = Some(client);
        }
        self.client.as_ref().ok_or_else(not_begun)
    }

    /// Ends what was begun and rolls back; the server may be gone already.
    async fn forget(&mut self) {
        // Dropping the COPY makes the server end it with an error.
        self.open = None;
        if let Some(client) = &self.client
            && let Err(cause) = client.batch_execute("ROLLBACK").await
        {
            tracing::debug!(%cause, "rollback on a lost connection");
            self.client = None;
        }
    }
}

#[async_trait]
impl Sink for PostgresSink {
    async fn progress(&mut self, source: &str) -> Result<Option<Held>> {
        let schema = self.settings.schema.clone();
        let client = self.client().await?;
        Ok(sql::held(client, &schema, source).await.map_err(|cause| failed(source, &cause))?)
    }

    async fn begin(&mut self, load: &Load) -> Result<()> {
        self.forget().await;
        let columns = column::columns(SINK, load)?;
        let target = Target::new(&self.settings.schema, &load.table);
        check_names(load, &target, &columns)?;
        let told = |cause: tokio_postgres::Error| failed(&load.table, &cause);

        let ledger_schema = self.settings.schema.clone();
        let encoder = encoder(&columns).map_err(|cause| SinkError::Refused {
            sink: SINK,
            table: load.table.clone(),
            reason: cause.to_string(),
        })?;
        let client = self.client().await?;
        // Fails early on what `commit` would refuse; nothing is changed yet.
        sql::plan(client, &ledger_schema, load, &target, &columns).await.map_err(|fault| fault.told(&load.table))?;
        client.batch_execute("BEGIN").await.map_err(told)?;
        client.batch_execute(&sql::stage_table(&columns)).await.map_err(told)?;
        let statement = client.prepare(&sql::copy(&columns)).await.map_err(told)?;
        let copy = Box::pin(client.copy_in(&statement).await.map_err(told)?);
        let mut open = Open { load: load.clone(), target, columns, encoder, copy, rows: 0 };
        let mut header = BytesMut::new();
        open.encoder.write_header(&mut header).map_err(|cause| open.refused(&cause))?;
        open.send(header.freeze()).await?;
        self.open = Some(open);
        Ok(())
    }

    async fn stage(&mut self, batch: RecordBatch) -> Result<()> {
        let open = self.open.as_mut().ok_or_else(not_begun)?;
        let first = open.rows + 1;
        let arrays = column::normal(SINK, &open.load, &open.columns, &batch, first)?;
        for (column, array) in open.columns.iter().zip(&arrays) {
            if let Some(row) = column::nul_row(column.kind, array) {
                return Err(SinkError::Value {
                    sink: SINK,
                    table: open.load.table.clone(),
                    column: column.name.clone(),
                    row: first + row as u64,
                    reason: "the text holds a NUL character (U+0000), which Postgres cannot keep".to_owned(),
                    fix: format!("take it out in the model: `replace({}, chr(0), '')`", column.name),
                }
                .into());
            }
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let normal = RecordBatch::try_new_with_options(column::normal_schema(&open.columns), arrays, &options)
            .map_err(|cause| SinkError::Mismatch { table: open.load.table.clone(), reason: cause.to_string() })?;
        let mut at = 0;
        while at < normal.num_rows() {
            let rows = PIECE_ROWS.min(normal.num_rows() - at);
            let mut piece = BytesMut::new();
            open.encoder.write_batch(&normal.slice(at, rows), &mut piece).map_err(|cause| open.refused(&cause))?;
            open.send(piece.freeze()).await?;
            at += rows;
        }
        open.rows += batch.num_rows() as u64;
        Ok(())
    }

    async fn commit(&mut self) -> Result<Loaded> {
        let mut open = self.open.take().ok_or_else(not_begun)?;
        let ledger_schema = self.settings.schema.clone();
        let outcome = async {
            let mut footer = BytesMut::new();
            open.encoder.write_footer(&mut footer).map_err(|cause| open.refused(&cause))?;
            open.send(footer.freeze()).await?;
            let copied = open.copy.as_mut().finish().await.map_err(|cause| failed(&open.load.table, &cause))?;
            if copied != open.rows {
                let reason = format!("{} rows were sent and {copied} arrived", open.rows);
                return Err(SinkError::Refused { sink: SINK, table: open.load.table.clone(), reason });
            }
            let client = self.client.as_ref().ok_or_else(not_begun)?;
            let shown = sql::show(client, &ledger_schema, &open.load, &open.target, &open.columns, open.rows).await;
            let loaded = shown.map_err(|fault| fault.told(&open.load.table))?;
            if !loaded.skipped {
                client.batch_execute("COMMIT").await.map_err(|cause| failed(&open.load.table, &cause))?;
            }
            Ok(loaded)
        }
        .await;
        if !matches!(outcome, Ok(Loaded { skipped: false, .. })) {
            self.forget().await;
        }
        Ok(outcome?)
    }

    async fn abort(&mut self) -> Result<()> {
        self.forget().await;
        Ok(())
    }
}

impl Open {
    fn refused(&self, cause: &pgpq::error::ErrorKind) -> SinkError {
        SinkError::Refused { sink: SINK, table: self.load.table.clone(), reason: cause.to_string() }
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), SinkError> {
        if let Err(cause) = self.copy.send(piece).await {
            // The server ended the COPY: its reason comes with the end, not with the send.
            let cause = self.copy.as_mut().finish().await.err().unwrap_or(cause);
            return Err(failed(&self.load.table, &cause));
        }
        Ok(())
    }
}

fn not_begun() -> SinkError {
    SinkError::Mismatch { table: String::new(), reason: "no load was begun".to_owned() }
}

fn check_names(load: &Load, target: &Target, columns: &[Column]) -> Result<(), SinkError> {
    let names = columns.iter().map(|column| (column.name.as_str(), column.name.as_str()));
    for (column, name) in names.chain([("*", target.schema.as_str()), ("*", target.name.as_str())]) {
        let reason = if name.len() > NAME_BYTES {
            format!("`{name}` is longer than the {NAME_BYTES} bytes of a Postgres name")
        } else if name.is_empty() || name.contains('\0') || name == super::LEDGER || name == sql::ORDINAL {
            format!("`{name}` cannot be used as a name")
        } else {
            continue;
        };
        return Err(SinkError::Unsupported {
            sink: SINK,
            table: load.table.clone(),
            column: column.to_owned(),
            reason,
        });
    }
    Ok(())
}

fn encoder(columns: &[Column]) -> Result<ArrowToPostgresBinaryEncoder, pgpq::error::ErrorKind> {
    let schema = column::normal_schema(columns);
    let builders = columns.iter().zip(schema.fields()).map(|(column, field)| {
        let builder = if column.kind == Kind::Json {
            let builder = StringEncoderBuilder::new_with_output(std::sync::Arc::clone(field), PostgresType::Jsonb)?;
            EncoderBuilder::String(builder)
        } else {
            EncoderBuilder::try_new(std::sync::Arc::clone(field))?
        };
        Ok((column.name.clone(), builder))
    });
    ArrowToPostgresBinaryEncoder::try_new_with_encoders(&schema, &builders.collect::<Result<_, _>>()?)
}

/// What Postgres's own error means to a person.
fn failed(table: &str, cause: &tokio_postgres::Error) -> SinkError {
    let table = table.to_owned();
    let Some(db) = cause.as_db_error() else {
        let reason = crate::error::chain(cause).unwrap_or_else(|| cause.to_string());
        return SinkError::Lost { sink: SINK, table, reason };
    };
    let mut reason = format!("{} (SQLSTATE {})", db.message(), db.code().code());
    for more in [db.detail(), db.where_()].into_iter().flatten() {
        reason = format!("{reason}; {more}");
    }
    match db.code().code() {
        "42501" => SinkError::Rights { sink: SINK, table, reason },
        "55P03" | "40P01" | "40001" => SinkError::Busy { sink: SINK, table, reason },
        "23505" if db.constraint().is_some_and(|name| name.starts_with(super::LEDGER)) => {
            SinkError::Taken { sink: SINK, target: table.clone(), origin: table, owner: None }
        }
        "23505" => {
            SinkError::Key { table, reason, fix: "correct `unique_key` of the model, or aggregate by it".to_owned() }
        }
        // The server was shut down or somebody ended our session.
        code if code.starts_with("57P") || code.starts_with("08") => SinkError::Lost { sink: SINK, table, reason },
        _ => SinkError::Refused { sink: SINK, table, reason },
    }
}
