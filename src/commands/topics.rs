//! `tidemill topics`: what the broker has, and records by hand.
use std::io::{BufRead, BufReader};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tidemill_etl::format::avro::{self, JsonEncoder, frame};
use tidemill_etl::format::json::to_json;
use tidemill_etl::position::TopicPartition;
use tidemill_etl::record::{NewRecord, Record};
use tidemill_etl::source::{Budget, Polled};
use tidemill_etl::topic::Assignment;

use super::Context;
use crate::cli::{RecordFormat, Topics};
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::tasks::count;

/// Records written in one step.
const STEP: usize = 5_000;

#[derive(Serialize)]
struct Row {
    topic: String,
    partitions: i32,
    records: i64,
}

#[derive(Serialize)]
struct Part {
    partition: usize,
    earliest: i64,
    end: i64,
}

pub(super) async fn run(context: &Context, command: &Topics) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let broker = house.broker().await?;
    match command {
        Topics::List => {
            let mut rows = Vec::new();
            for info in broker.topics().await? {
                let bounds = broker.bounds(&info.name).await?;
                let records = bounds.iter().map(|b| b.end - b.earliest).sum();
                rows.push(Row { topic: info.name, partitions: info.partitions, records });
            }
            context.report.rows(&rows)?;
        }
        Topics::Show { topic } => {
            let bounds = broker.bounds(topic).await?;
            let part = |(partition, b): (usize, &tidemill_etl::position::Bounds)| Part {
                partition,
                earliest: b.earliest,
                end: b.end,
            };
            context.report.rows(&bounds.iter().enumerate().map(part).collect::<Vec<_>>())?;
        }
        Topics::Create { topic, partitions } => {
            let created = broker.create(topic, *partitions).await?;
            let what = if created { "created" } else { "it is there already" };
            context.report.note(format_args!("{topic}: {what}"));
        }
        Topics::Tail { topic, from, limit } => tail(context, &house, topic, *from, *limit).await?,
        Topics::Produce { topic, file, format, key } => {
            let input: Box<dyn BufRead + Send> = match file {
                Some(path) => {
                    let file = std::fs::File::open(path).map_err(|error| Failure::io(&error, "read", path))?;
                    Box::new(BufReader::new(file))
                }
                None => Box::new(BufReader::new(std::io::stdin())),
            };
            produce(context, &house, topic, input, *format, key.as_deref()).await?;
        }
    }
    Ok(Exit::Done)
}

/// Prints records, decoded where they can be. Without `from`, the last `limit` of each partition.
async fn tail(context: &Context, house: &Lakehouse, topic: &str, from: Option<i64>, limit: usize) -> Result<()> {
    let broker = house.broker().await?;
    let bounds = broker.bounds(topic).await?;
    let back = i64::try_from(limit).unwrap_or(i64::MAX);
    let assignments: Vec<Assignment> = bounds
        .iter()
        .enumerate()
        .map(|(partition, bounds)| Assignment {
            partition: TopicPartition::new(topic, i32::try_from(partition).unwrap_or(i32::MAX)),
            from: from.unwrap_or(bounds.end.saturating_sub(back)).max(bounds.earliest).min(bounds.end),
            to: Some(bounds.end),
        })
        .collect();
    let mut source = broker.source(&assignments).await?;
    let mut left = limit;
    let budget = Budget { rows: 1000, bytes: 8 << 20, linger: Duration::from_millis(250) };
    while left > 0 {
        match source.poll(budget).await? {
            Polled::Records(records) => {
                for record in records.into_iter().take(left) {
                    context.report.line(&shown(house, &record).await?.to_string())?;
                    left -= 1;
                }
            }
            Polled::Idle => {}
            Polled::End => break,
        }
    }
    Ok(())
}

/// A record as JSON: its place, its key, and its value decoded by the schema it names; else as text or base64.
async fn shown(house: &Lakehouse, record: &Record) -> Result<Value> {
    let key = record.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
    let mut shown = json!({
        "partition": record.partition.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": key,
    });
    let Some(fields) = shown.as_object_mut() else { return Ok(shown) };
    let Some(value) = &record.value else {
        fields.insert("value".to_owned(), Value::Null);
        return Ok(shown);
    };
    match decoded(house, value).await? {
        Some((id, decoded)) => {
            fields.insert("schema_id".to_owned(), json!(id));
            fields.insert("value".to_owned(), decoded);
        }
        None => match std::str::from_utf8(value) {
            Ok(text) => {
                let value = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
                fields.insert("value".to_owned(), value);
            }
            Err(_) => {
                fields.insert("value_base64".to_owned(), json!(BASE64_STANDARD.encode(value)));
            }
        },
    }
    Ok(shown)
}

async fn decoded(house: &Lakehouse, value: &[u8]) -> Result<Option<(i32, Value)>> {
    let Ok((id, body)) = frame::split(value) else { return Ok(None) };
    let Some(text) = house.registry().await?.by_id(id).await? else { return Ok(None) };
    let Ok(schema) = apache_avro::Schema::parse_str(&text) else { return Ok(None) };
    let columns = avro::arrow_schema(&schema).map_err(tidemill_etl::Error::from)?;
    let mut decoder = avro::Decoder::new(&schema, columns.into()).map_err(tidemill_etl::Error::from)?;
    if decoder.decode(body).is_err() {
        return Ok(None);
    }
    let row = decoder.flush().map_err(tidemill_etl::Error::from)?;
    Ok(to_json(&row, 0).ok().map(|value| (id, value)))
}

async fn produce(
    context: &Context,
    house: &Lakehouse,
    topic: &str,
    input: Box<dyn BufRead + Send>,
    format: RecordFormat,
    key: Option<&str>,
) -> Result<()> {
    let broker = house.broker().await?;
    let encoder = match format {
        RecordFormat::Base64 => None,
        RecordFormat::Json => {
            let subject = house.subject(topic);
            let Some(registered) = house.registry().await?.latest(&subject).await? else {
                return Err(Failure::new(
                    "C0201",
                    format!("the subject `{subject}` has no schema to write `{topic}` with"),
                )
                .fix(format!("register one: tidemill schemas add {subject} FILE")));
            };
            let schema = apache_avro::Schema::parse_str(&registered.schema).map_err(|error| {
                Failure::new("C0202", format!("the schema of `{subject}` is not Avro")).why(error.to_string())
            })?;
            Some((registered.id, JsonEncoder::new(&schema).map_err(tidemill_etl::Error::from)?))
        }
    };
    broker.create(topic, 1).await?;
    let mut records = Vec::new();
    let mut written = 0;
    for (number, line) in input.lines().enumerate() {
        let line = line.map_err(|error| Failure::new("X0002", "cannot read the records").why(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let bad = |why: String| {
            Failure::new("G0103", format!("line {} is not a record of `{topic}`", number + 1))
                .why(why)
                .fix(format!("{} records before it were written; mend the line and go on from it", count(written)))
        };
        records.push(match &encoder {
            None => {
                let value = BASE64_STANDARD.decode(line.trim()).map_err(|error| bad(error.to_string()))?;
                NewRecord { value: Some(value.into()), ..NewRecord::default() }
            }
            Some((id, encoder)) => {
                let value: Value = serde_json::from_str(&line).map_err(|error| bad(error.to_string()))?;
                let body = encoder.encode(&value).map_err(|error| bad(error.to_string()))?;
                let mut framed = Vec::with_capacity(body.len() + frame::HEADER);
                frame::write(*id, &mut framed);
                framed.extend(body);
                let key = key.and_then(|field| value.get(field)).map(|key| match key {
                    Value::String(text) => Bytes::from(text.clone()),
                    other => Bytes::from(other.to_string()),
                });
                NewRecord { key, value: Some(framed.into()), ..NewRecord::default() }
            }
        });
        if records.len() >= STEP {
            written += records.len() as u64;
            broker.produce(topic, std::mem::take(&mut records)).await?;
        }
    }
    written += records.len() as u64;
    if !records.is_empty() {
        broker.produce(topic, records).await?;
    }
    context.report.note(format_args!("{} records to {topic}", count(written)));
    Ok(())
}
