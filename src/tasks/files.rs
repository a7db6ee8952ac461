//! `files`: CSV, JSON lines, Parquet and Avro files into a table, each file once.
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidemill_etl::files::{
    CsvOptions, Encoding, FileLimits, Files, FilesError, Format, LandedFiles, OnBadFile, OnChange, OnUnknown, Order,
    land_files,
};
use tidemill_etl::table::parse_type;
use tidemill_orchestrator::{KindSpec, Outcome, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, count, key, read, required, table, with_default};
use crate::failure::sentence;
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "files",
        about: "CSV, JSON lines, Parquet and Avro files (plain, .gz, .zst) into a table, each file once",
        keys: &[
            required("stream", Shape::Text, "the stable name under which the table remembers files; never change it"),
            required(
                "path",
                Shape::Text,
                "a file, a folder or a pattern (*, ?, **) below the project, or s3://bucket/prefix/*.csv",
            ),
            required("table", Shape::Text, "the table, as schema.table; made when the first rows come"),
            key("format", Shape::Text, "csv, jsonl, parquet or avro; by default what the name ends in"),
            key("root", Shape::Text, "the folder that names are remembered from; by default the part before a pattern"),
            key("columns", Shape::Table, "types that are not inferred: { id = \"bigint\", tags = \"list<text>\" }"),
            with_default(
                "on_unknown",
                Shape::Text,
                "a field without a column: evolve, ignore, or dead_letter",
                "evolve",
            ),
            key("infer_rows", Shape::Integer, "rows that types of new columns are taken from; 0: the whole file"),
            key("event_time", Shape::Text, "the column that gives `event_at`, as text or as a timestamp"),
            with_default("order", Shape::Text, "in which order files are landed: name, or modified", "name"),
            with_default("on_change", Shape::Text, "a landed file that changed: stop, ignore, or append", "stop"),
            with_default(
                "on_bad_file",
                Shape::Text,
                "a file that cannot be read: stop (the others are landed), or dead_letter",
                "stop",
            ),
            key("delimiter", Shape::Text, "CSV: between cells; by default a comma, in .tsv files a tab"),
            with_default("header", Shape::Boolean, "CSV: whether the first record names the columns", "true"),
            with_default("quote", Shape::Text, "CSV: around cells; an empty text: nothing", "\""),
            key("escape", Shape::Text, "CSV: before a quote within quotes; by default it is doubled"),
            with_default("nulls", Shape::ListOfText, "CSV: cells that are NULL unless they are in quotes", "[\"\"]"),
            with_default("encoding", Shape::Text, "CSV: utf-8, or windows-1252", "utf-8"),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    stream: String,
    path: String,
    table: String,
    format: Option<String>,
    root: Option<String>,
    #[serde(default)]
    columns: Map<String, Value>,
    on_unknown: Option<String>,
    infer_rows: Option<usize>,
    event_time: Option<String>,
    order: Option<String>,
    on_change: Option<String>,
    on_bad_file: Option<String>,
    delimiter: Option<String>,
    header: Option<bool>,
    quote: Option<String>,
    escape: Option<String>,
    nulls: Option<Vec<String>>,
    encoding: Option<String>,
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    Ok(Box::new(read::<Settings>(settings)?))
}

/// The choice that `text` names, or the first if there is no text.
fn choose<T: Copy>(key: &'static str, text: Option<&str>, choices: &[(&str, T)]) -> Result<T, FilesError> {
    let found = match text {
        None => choices.first(),
        Some(text) => choices.iter().find(|(name, _)| *name == text),
    };
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
        FilesError::Setting {
            key,
            why: format!("it is `{}`; known are {}", text.unwrap_or_default(), names.join(", ")),
        }
    })
}

/// A character of one byte; `None` for an empty text.
fn byte(key: &'static str, text: &str) -> Result<Option<u8>, FilesError> {
    match text.as_bytes() {
        [] => Ok(None),
        [byte] if byte.is_ascii() && !b"\r\n".contains(byte) => Ok(Some(*byte)),
        _ => Err(FilesError::Setting { key, why: format!("`{}` is not one ASCII character", text.escape_debug()) }),
    }
}

impl Settings {
    fn csv(&self) -> Result<CsvOptions, FilesError> {
        let defaults = CsvOptions::default();
        let csv = CsvOptions {
            delimiter: byte("delimiter", self.delimiter.as_deref().unwrap_or_default())?,
            quote: match &self.quote {
                None => defaults.quote,
                Some(text) => byte("quote", text)?,
            },
            escape: byte("escape", self.escape.as_deref().unwrap_or_default())?,
            header: self.header.unwrap_or(defaults.header),
            nulls: self.nulls.clone().unwrap_or(defaults.nulls),
            encoding: choose(
                "encoding",
                self.encoding.as_deref(),
                &[("utf-8", Encoding::Utf8), ("windows-1252", Encoding::Windows1252)],
            )?,
        };
        if csv.quote.is_some() && csv.quote == Some(csv.delimiter.unwrap_or(b',')) {
            return Err(FilesError::Setting { key: "quote", why: "it is the delimiter as well".to_owned() });
        }
        Ok(csv)
    }

    /// Checks and fills in everything but the parts of the project.
    fn files<'a>(&self, house: &'a Lakehouse, around: Around<'a>, context: &TaskContext) -> Result<Files<'a>, Failed> {
        let bad = |error: FilesError| Failed::from(tidemill_etl::Error::from(error));
        let mut columns = Vec::new();
        for (name, data_type) in &self.columns {
            let text = data_type.as_str().ok_or_else(|| {
                bad(FilesError::Setting { key: "columns", why: format!("the type of `{name}` is not a text") })
            })?;
            columns.push((name.clone(), parse_type(text).map_err(tidemill_etl::Error::from)?));
        }
        if self.stream.trim().is_empty() {
            return Err(bad(FilesError::Setting { key: "stream", why: "it is empty".to_owned() }));
        }
        let formats = [
            ("csv", Some(Format::Csv)),
            ("jsonl", Some(Format::JsonLines)),
            ("parquet", Some(Format::Parquet)),
            ("avro", Some(Format::Avro)),
        ];
        let format = match self.format.as_deref() {
            None => None,
            text => choose("format", text, &formats).map_err(bad)?,
        };
        let settings = &house.project.settings;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let progress = context.progress.clone();
        Ok(Files {
            lake: around.lake,
            dead: around.dead,
            stream: self.stream.clone(),
            place: self.path.clone(),
            root: self.root.clone(),
            base: &house.project.root,
            s3: around.s3,
            table: table(&self.table)?,
            format,
            columns,
            csv: self.csv().map_err(bad)?,
            event_time: self.event_time.clone(),
            zone: settings.streams.timestamps_without_zone,
            order: choose("order", self.order.as_deref(), &[("name", Order::Name), ("modified", Order::Modified)])
                .map_err(bad)?,
            on_change: choose(
                "on_change",
                self.on_change.as_deref(),
                &[("stop", OnChange::Stop), ("ignore", OnChange::Ignore), ("append", OnChange::Append)],
            )
            .map_err(bad)?,
            on_unknown: choose(
                "on_unknown",
                self.on_unknown.as_deref(),
                &[("evolve", OnUnknown::Evolve), ("ignore", OnUnknown::Ignore), ("dead_letter", OnUnknown::DeadLetter)],
            )
            .map_err(bad)?,
            on_bad_file: choose(
                "on_bad_file",
                self.on_bad_file.as_deref(),
                &[("stop", OnBadFile::Stop), ("dead_letter", OnBadFile::DeadLetter)],
            )
            .map_err(bad)?,
            limits: FileLimits {
                memory: size(settings.files.memory.0),
                max_row: size(settings.files.max_row.0),
                infer_rows: self.infer_rows.unwrap_or(settings.files.infer_rows),
                commit_files: settings.files.commit_files,
            },
            spool: settings.engine.spill_dir.clone(),
            progress: Arc::new(move |done, total| progress.report(done, Some(total), "bytes")),
            stop: context.cancel.clone(),
            now: context.now,
        })
    }
}

/// Parts of the project that the landing borrows.
#[derive(Clone, Copy)]
struct Around<'a> {
    lake: &'a tidemill_etl::table::Lake,
    dead: &'a tidemill_etl::pipeline::DeadLetters,
    s3: &'a tidemill_etl::table::S3Settings,
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let s3 = house.s3();
        let around = Around { lake: house.lake().await?, dead: house.dead_letters().await?, s3: &s3 };
        let files = self.files(house, around, context)?;
        let landed = Box::pin(land_files(&files)).await?;
        metrics.rows(&self.table, landed.rows);
        metrics.dead_letters("files", landed.dead);
        let summary = summary(&landed);
        if landed.ignored > 0 {
            context.log.line(format!("{} files changed since they were landed; ignored", count(landed.ignored)));
        }
        for problem in &landed.problems {
            let why = problem.why().map(|why| format!(": {why}")).unwrap_or_default();
            context.log.line(format!("{}{why}", sentence(&problem.to_string())));
        }
        if let Some(problem) = landed.problems.into_iter().next() {
            context.log.line(format!("the other files are landed: {summary}"));
            return Err(problem.into());
        }
        let result = json!({
            "files": landed.files,
            "files_known": landed.known,
            "rows": landed.rows,
            "dead_letters": landed.dead,
            "commits": landed.commits,
        });
        Ok(Outcome::done(summary).with(result))
    }
}

fn summary(landed: &LandedFiles) -> String {
    let mut text = format!("{} files landed, {} rows", count(landed.files), count(landed.rows));
    if landed.dead > 0 {
        text = format!("{text}, {} dead letters", count(landed.dead));
    }
    if landed.known > 0 {
        text = format!("{text}; {} were there before", count(landed.known));
    }
    text
}
