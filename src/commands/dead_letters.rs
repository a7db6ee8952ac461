//! `tidemill dead-letters`: what could not be taken, and why; and taking it after all.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::Value;
use tidemill_etl::output;
use tidemill_etl::pipeline::Landing;
use tidemill_etl::stream::{Choice, LetterId, Replayed, Replaying, replay};
use tidemill_etl::table::Table;

use super::Context;
use crate::cli::{DeadLetters, LetterChoice};
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::report::Unit;
use crate::streams::{around, find, streams};
use crate::tasks::count;

/// A letter's id, as people name it.
const ID: &str = "concat_ws('/', topic_or_file, CAST(partition AS VARCHAR), CAST(offset_or_line AS VARCHAR))";
/// Bytes of a record that `show` shows to people.
const PREVIEW: usize = 512;

pub(super) async fn run(context: &Context, command: &DeadLetters) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let dead = house.dead_letters().await?;
    let Some(table) = dead.lake().try_table(dead.name()).await? else {
        if context.report.json() {
            context.report.line("[]")?;
        }
        context.report.note("there are no dead letters");
        return Ok(Exit::Done);
    };
    let name = dead.name();
    match command {
        DeadLetters::List { choice, open, limit } => {
            let replayed = column(&table, "replayed_at", "TIMESTAMP")?;
            let open = if *open { format!(" AND {replayed} IS NULL") } else { String::new() };
            let sql = format!(
                "SELECT {ID} AS id, source, schema_id, reason, detail, seen_at, {replayed} AS replayed_at FROM {name} \
                 WHERE {}{open} ORDER BY seen_at DESC, id LIMIT {limit}",
                condition(choice)
            );
            print(context, &house, &sql).await?;
        }
        DeadLetters::Count { choice } => {
            let replayed = column(&table, "replayed_at", "TIMESTAMP")?;
            let sql = format!(
                "SELECT source AS stream, topic_or_file AS topic, reason, count(*) - count({replayed}) AS open, \
                 count({replayed}) AS replayed, min(seen_at) AS first_seen_at, max(seen_at) AS last_seen_at \
                 FROM {name} WHERE {} GROUP BY source, topic_or_file, reason ORDER BY source, topic_or_file, reason",
                condition(choice)
            );
            print(context, &house, &sql).await?;
        }
        DeadLetters::Show { id } => show(context, &house, &table, id).await?,
        DeadLetters::Replay { ids, choice, dry_run } => return again(context, &house, ids, choice, *dry_run).await,
    }
    Ok(Exit::Done)
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn condition(choice: &LetterChoice) -> String {
    let parts = [("reason", &choice.reason), ("source", &choice.stream), ("topic_or_file", &choice.topic)];
    let parts = parts.iter().filter_map(|(column, value)| Some(format!("{column} = {}", text(value.as_deref()?))));
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { "true".to_owned() } else { parts.join(" AND ") }
}

/// The column, or NULL of its type where the table is of an earlier version and lacks it.
fn column(table: &Table, name: &str, sql_type: &str) -> Result<String> {
    let there = table.schema()?.field_with_name(name).is_ok();
    Ok(if there { name.to_owned() } else { format!("CAST(NULL AS {sql_type})") })
}

async fn print(context: &Context, house: &Lakehouse, sql: &str) -> Result<()> {
    let rows = house.engine().await?.query(sql).await?;
    let mut text = Vec::new();
    if context.report.json() {
        output::json(rows, &mut text).await?;
    } else {
        output::table(rows, &mut text).await?;
    }
    context.report.output(|out| out.write_all(&text))
}

async fn show(context: &Context, house: &Lakehouse, table: &Table, id: &str) -> Result<()> {
    let sql = format!(
        "SELECT {ID} AS id, source, schema_id, reason, detail, seen_at, {produced} AS produced_at, \
         encode({key}, 'base64') AS key_base64, {headers} AS headers, {replayed} AS replayed_at, \
         encode(raw, 'base64') AS raw_base64 FROM {name} WHERE {ID} = {wanted} ORDER BY source, seen_at",
        produced = column(table, "produced_at", "TIMESTAMP")?,
        key = column(table, "key", "BYTEA")?,
        headers = column(table, "headers", "VARCHAR")?,
        replayed = column(table, "replayed_at", "TIMESTAMP")?,
        name = table.name(),
        wanted = text(id),
    );
    let rows = house.engine().await?.query(&sql).await?;
    let mut json = Vec::new();
    if output::json(rows, &mut json).await? == 0 {
        return Err(
            Failure::new("L0301", format!("there is no dead letter `{id}`")).fix("see `tidemill dead-letters list`")
        );
    }
    if context.report.json() {
        return context.report.output(|out| out.write_all(&json));
    }
    let letters: Vec<serde_json::Map<String, Value>> =
        serde_json::from_slice(&json).map_err(|error| Failure::bug(format!("rows are no JSON: {error}")))?;
    for mut letter in letters {
        let mut bytes = |name: &str| {
            let value = letter.remove(name)?;
            // The engine leaves out the padding.
            let text = value.as_str()?.trim_end_matches('=').to_owned();
            base64::prelude::BASE64_STANDARD_NO_PAD.decode(&text).or_else(|_| BASE64_STANDARD.decode(&text)).ok()
        };
        let (key, raw) = (bytes("key_base64"), bytes("raw_base64"));
        if let Some(key) = key {
            letter.insert("key".to_owned(), Value::String(shown(&key)));
        }
        letter.retain(|_, value| !value.is_null());
        let raw = raw.unwrap_or_default();
        letter.insert("bytes".to_owned(), raw.len().into());
        context.report.one(&letter)?;
        context.report.text(&preview(&raw))?;
    }
    Ok(())
}

/// Bytes as text where they are text, else in hexadecimal.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text.to_owned(),
        _ => bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")),
    }
}

/// The first bytes of a record: text as it is, anything else as offsets, hexadecimal and what of it is text.
fn preview(raw: &[u8]) -> String {
    use std::fmt::Write as _;

    let head = raw.get(..PREVIEW.min(raw.len())).unwrap_or_default();
    let mut shown = match std::str::from_utf8(raw) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
            format!("{}\n", text.chars().take(PREVIEW).collect::<String>())
        }
        _ => {
            let mut lines = String::new();
            for (line, bytes) in head.chunks(16).enumerate() {
                let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let printable = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' };
                let text: String = bytes.iter().map(printable).collect();
                // Writing to a String cannot fail.
                let _ok = writeln!(lines, "{:06x}  {:47}  {text}", line * 16, hex.join(" "));
            }
            lines
        }
    };
    if raw.len() > PREVIEW {
        let _ok = writeln!(shown, "… {} bytes in all; `--json` has them", raw.len());
    }
    shown
}

/// A line of `replay`'s report.
#[derive(Serialize)]
struct Row {
    stream: String,
    topic: String,
    letters: u64,
    rows: u64,
    there_already: u64,
    nothing: u64,
    not_reached: u64,
    still_dead: u64,
    reasons: BTreeMap<String, u64>,
}

impl From<Replayed> for Row {
    fn from(done: Replayed) -> Self {
        Self {
            stream: done.stream,
            topic: done.topic,
            letters: done.letters,
            rows: done.rows,
            there_already: done.there,
            nothing: done.nothing,
            not_reached: done.ahead,
            still_dead: done.refused.values().sum(),
            reasons: done.refused,
        }
    }
}

async fn again(
    context: &Context,
    house: &Lakehouse,
    ids: &[String],
    choice: &LetterChoice,
    dry_run: bool,
) -> Result<Exit> {
    let ids =
        ids.iter().map(|id| id.parse()).collect::<Result<Vec<LetterId>, _>>().map_err(tidemill_etl::Error::from)?;
    let mut landings: Vec<Landing> = match &choice.stream {
        Some(stream) => find(house, stream, choice.topic.as_deref())?,
        None => streams(house).into_iter().flat_map(|stream| stream.landings).collect(),
    };
    landings.retain(|landing| choice.topic.as_ref().is_none_or(|topic| *topic == landing.topic));
    let around = around(house).await?;
    let engine = house.engine().await?;
    let chosen = Choice { ids, reason: choice.reason.clone() };
    let done = AtomicU64::new(0);
    let work = Replaying { around: &around, engine, landings: &landings, choice: &chosen, dry_run, done: &done };
    let bar = context.report.bar("dead letters", None, Unit::Things);
    let watch = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bar.set(done.load(Ordering::Relaxed));
        }
    };
    let replayed = tokio::select! {
        replayed = replay(&work) => replayed?,
        () = context.stop.cancelled() => return Ok(Exit::Stopped),
        never = watch => never,
    };
    let rows: u64 = replayed.iter().map(|topic| topic.rows).sum();
    let still: u64 = replayed.iter().flat_map(|topic| topic.refused.values()).sum();
    let said = if dry_run { "would become rows" } else { "became rows" };
    bar.done(format_args!("{} {said}, {} stay", count(rows), count(still)));
    context.report.rows(&replayed.into_iter().map(Row::from).collect::<Vec<_>>())?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_in_hexadecimal() {
        assert_eq!(preview(b"{\"a\":1}"), "{\"a\":1}\n");
        let shown = preview(b"\x00\x00\x00\x00\x07abc");
        assert_eq!(shown, format!("000000  {:47}  .....abc\n", "00 00 00 00 07 61 62 63"));
        assert!(preview(&[0; 2000]).ends_with("… 2000 bytes in all; `--json` has them\n"));
    }

    #[test]
    fn a_condition_quotes_what_people_write() {
        let choice = LetterChoice { reason: Some("it's".to_owned()), stream: None, topic: Some("t".to_owned()) };
        assert_eq!(condition(&choice), "reason = 'it''s' AND topic_or_file = 't'");
        assert_eq!(condition(&LetterChoice::default()), "true");
    }
}
