//! A Delta log, read by its specification: `_delta_log/{version:020}.json`, one action a line, and Parquet checkpoints.
use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::checker::Findings;
use super::files::Files;

/// A file that a version adds.
#[derive(Clone, Debug)]
pub(super) struct Added {
    /// Below the table's folder.
    pub(super) path: String,
    /// Whether its rows are new; not so for what only rewrites others.
    pub(super) data_change: bool,
    pub(super) stats: Option<Value>,
}

/// One version.
#[derive(Default, Debug)]
pub(super) struct Version {
    pub(super) number: u64,
    pub(super) info: Value,
    pub(super) added: Vec<Added>,
    pub(super) removed: Vec<String>,
    pub(super) txns: Vec<(String, i64)>,
}

/// All of a table's log that is left.
#[derive(Default)]
pub(super) struct Log {
    /// The table's folder.
    pub(super) folder: String,
    pub(super) versions: Vec<Version>,
    /// What is visible, by path.
    pub(super) live: BTreeMap<String, Added>,
    /// The newest progress.
    pub(super) txns: BTreeMap<String, i64>,
}

/// Reads a table's log from version 0, or from the newest checkpoint that what is left begins at. `None`: no table.
pub(super) fn read(files: &Files, folder: &str, findings: &mut Findings) -> Option<Log> {
    let names = files.list(&format!("{folder}/_delta_log"));
    // While a file is written it has another name; one that was left so by a kill is none of the log's.
    let number = |name: &str, ending: &str| {
        let digits = name.strip_suffix(ending)?;
        (digits.len() == 20).then(|| digits.parse::<u64>().ok()).flatten()
    };
    let numbers: BTreeSet<u64> = names.iter().filter_map(|name| number(name, ".json")).collect();
    let checkpoints: BTreeSet<u64> = names.iter().filter_map(|name| number(name, ".checkpoint.parquet")).collect();
    let (Some(first), Some(last)) = (numbers.first().copied(), numbers.last().copied()) else {
        if !checkpoints.is_empty() {
            findings.add("P6", format!("{folder}: a checkpoint without a version"));
        }
        return None;
    };
    let mut log = Log { folder: folder.to_owned(), ..Log::default() };
    if first > 0 {
        // Older versions were cleaned up: something must stand for them.
        let Some(start) = checkpoints.range(..).next().copied().filter(|start| *start + 1 >= first) else {
            findings
                .add("P6", format!("{folder}: version {first} is the first and no checkpoint stands for those before"));
            return None;
        };
        checkpoint(files, &format!("{folder}/_delta_log/{start:020}.checkpoint.parquet"), &mut log, findings);
        apply_all(files, &mut log, start + 1..=last, &numbers, findings);
    } else {
        apply_all(files, &mut log, 0..=last, &numbers, findings);
    }
    // Any checkpoint must say what the versions up to it say.
    for number in checkpoints {
        let mut of_checkpoint = Log::default();
        let path = format!("{folder}/_delta_log/{number:020}.checkpoint.parquet");
        checkpoint(files, &path, &mut of_checkpoint, findings);
        if first == 0 && number <= last {
            let mut replayed = Log { folder: folder.to_owned(), ..Log::default() };
            apply_all(files, &mut replayed, 0..=number, &numbers, &mut Findings::default());
            let paths = |log: &Log| log.live.keys().cloned().collect::<Vec<_>>();
            if paths(&replayed) != paths(&of_checkpoint) || replayed.txns != of_checkpoint.txns {
                findings.add("P6", format!("{folder}: the checkpoint of version {number} differs from its versions"));
            }
        }
    }
    Some(log)
}

fn apply_all(
    files: &Files,
    log: &mut Log,
    numbers: std::ops::RangeInclusive<u64>,
    there: &BTreeSet<u64>,
    findings: &mut Findings,
) {
    let folder = log.folder.clone();
    for number in numbers {
        let text = files.read(&format!("{folder}/_delta_log/{number:020}.json")).filter(|_| there.contains(&number));
        let Some(text) = text else {
            findings.add("P6", format!("{folder}: version {number} is missing"));
            continue;
        };
        let version = parse(number, &String::from_utf8_lossy(&text), &folder, findings);
        for path in &version.removed {
            if log.live.remove(path).is_none() {
                findings.add("P6", format!("{folder}: version {number} removes {path}, which is not there"));
            }
        }
        for added in &version.added {
            if log.live.insert(added.path.clone(), added.clone()).is_some() {
                findings.add("P2", format!("{folder}: version {number} adds {}, which is there already", added.path));
            }
        }
        for (app, next) in &version.txns {
            let before = log.txns.insert(app.clone(), *next);
            let fence = app.ends_with("/epoch");
            if before.is_some_and(|before| *next < before || (fence && *next == before)) {
                findings.add("P4", format!("{folder}: version {number} takes `{app}` from {before:?} to {next}"));
            }
        }
        log.versions.push(version);
    }
}

fn parse(number: u64, text: &str, folder: &str, findings: &mut Findings) -> Version {
    let mut version = Version { number, ..Version::default() };
    let mut infos = 0;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let Ok(action) = serde_json::from_str::<Value>(line) else {
            findings.add("P6", format!("{folder}: version {number} has a line that is not JSON"));
            continue;
        };
        for (kind, body) in action.as_object().into_iter().flatten() {
            match kind.as_str() {
                "commitInfo" => {
                    infos += 1;
                    version.info = body.clone();
                }
                "add" => version.added.push(Added {
                    path: decoded(body["path"].as_str().unwrap_or_default()),
                    data_change: body["dataChange"].as_bool().unwrap_or(true),
                    stats: body["stats"].as_str().and_then(|stats| serde_json::from_str(stats).ok()),
                }),
                "remove" => version.removed.push(decoded(body["path"].as_str().unwrap_or_default())),
                "txn" => {
                    let app = body["appId"].as_str().unwrap_or_default().to_owned();
                    version.txns.push((app, body["version"].as_i64().unwrap_or(i64::MIN)));
                }
                _ => {}
            }
        }
    }
    if infos != 1 {
        findings.add("P6", format!("{folder}: version {number} has {infos} commitInfo"));
    }
    version
}

/// Paths in the log are URL-encoded.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = if *first == b'%' { tail.get(..2) } else { None };
        let byte = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap()
}

/// Takes over what a checkpoint says is visible, and its progress.
fn checkpoint(files: &Files, path: &str, log: &mut Log, findings: &mut Findings) {
    let Some(bytes) = files.read(path) else {
        findings.add("P6", format!("{path} cannot be read"));
        return;
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(ParquetRecordBatchReaderBuilder::build);
    let Ok(reader) = reader else {
        findings.add("P6", format!("{path} is not Parquet"));
        return;
    };
    for batch in reader {
        let batch = batch.unwrap();
        for row in 0..batch.num_rows() {
            if let Some(path) = text(&batch, row, "add", "path") {
                let stats = text(&batch, row, "add", "stats").and_then(|stats| serde_json::from_str(&stats).ok());
                let path = decoded(&path);
                log.live.insert(path.clone(), Added { path, data_change: true, stats });
            }
            if let (Some(app), Some(next)) = (text(&batch, row, "txn", "appId"), number(&batch, row, "txn", "version"))
            {
                log.txns.insert(app, next);
            }
        }
    }
}

fn text(batch: &RecordBatch, row: usize, action: &str, field: &str) -> Option<String> {
    let action = batch.column_by_name(action)?.as_struct_opt()?;
    let field = action.column_by_name(field)?;
    let there = action.is_valid(row) && field.is_valid(row);
    there.then(|| arrow::util::display::array_value_to_string(field, row).ok()).flatten()
}

fn number(batch: &RecordBatch, row: usize, action: &str, field: &str) -> Option<i64> {
    let action = batch.column_by_name(action)?.as_struct_opt()?;
    let field = action.column_by_name(field)?;
    if !action.is_valid(row) || !field.is_valid(row) {
        return None;
    }
    field
        .as_primitive_opt::<Int64Type>()
        .map(|numbers| numbers.value(row))
        .or_else(|| Some(field.as_primitive_opt::<Int32Type>()?.value(row).into()))
}
