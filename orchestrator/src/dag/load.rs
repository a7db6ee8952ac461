//! Finding DAG files and reading them into definitions and problems.
//!
//! The TOML parser ends at its first error. A duplicate key is common and must not hide the other problems, so it is reported, renamed in place
//! (same length, so every other span stays true) and the text is parsed again.
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml_span::ErrorKind;

use super::kind::KindSpec;
use super::problem::{Problem, Problems};
use super::{Dag, Dags, EventOf, EventTrigger, Trigger, parse};
use crate::suggest;

/// The DAGs of a folder, and everything that is wrong with its files.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The DAGs without errors.
    pub dags: Dags,
    /// All problems, by file and place.
    pub problems: Vec<Problem>,
    /// The text of every file that could be read, to show problems in.
    pub sources: BTreeMap<PathBuf, String>,
}

/// No file has more duplicates than this worth naming one by one.
const MOST_DUPLICATES: usize = 32;

impl Dags {
    /// Reads every `*.toml` of `folder`, in name order. A folder that does not exist has no DAGs.
    pub fn load(folder: &Path, kinds: &[KindSpec]) -> Loaded {
        let mut loaded = Loaded::default();
        let mut files: Vec<PathBuf> = match std::fs::read_dir(folder) {
            Ok(entries) => {
                entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| is_dag_file(path)).collect()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                loaded.problems.push(unreadable(folder, "the folder of DAG files", &error.to_string()));
                Vec::new()
            }
        };
        files.sort();
        let mut dags = Vec::new();
        for path in files {
            match std::fs::read(&path)
                .map_err(|error| error.to_string())
                .and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()))
            {
                Err(error) => loaded.problems.push(unreadable(&path, "this DAG file", &error)),
                Ok(text) => {
                    let (dag, problems) = Dag::parse(&path, &text, kinds);
                    loaded.problems.extend(problems);
                    loaded.sources.insert(path, text);
                    dags.extend(dag);
                }
            }
        }
        let strangers = dags.iter().flat_map(|dag| strangers(dag, &loaded.sources));
        let strangers: Vec<(String, Problem)> = strangers.collect();
        dags.retain(|dag| strangers.iter().all(|(id, _)| *id != dag.id));
        loaded.problems.extend(strangers.into_iter().map(|(_, problem)| problem));
        loaded.dags = dags.into_iter().collect();
        loaded
    }
}

impl Dag {
    /// Reads one DAG file. Returns the DAG if nothing is wrong, else all problems in the order of the file.
    pub fn parse(path: &Path, text: &str, kinds: &[KindSpec]) -> (Option<Self>, Vec<Problem>) {
        let mut problems = Problems::new(path, text);
        let id = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        parse::check_name(&id, "a DAG", 0..0, &mut problems);
        let mut source = text.to_owned();
        let mut renamed: Vec<Range<usize>> = Vec::new();
        loop {
            let error = match toml_span::parse(&source) {
                Ok(root) => {
                    let dag = parse::dag(&id, &root, kinds, &renamed, &mut problems);
                    let mut found = problems.found;
                    found.sort_by_key(|problem| (problem.span.start, problem.span.end));
                    return (dag, found);
                }
                Err(error) => error,
            };
            let again = match &error.kind {
                ErrorKind::DuplicateKey { key, first } | ErrorKind::DuplicateTable { name: key, first } => {
                    let place = |span| name_within(text, key, span);
                    duplicate(&mut problems, key, place(error.span.into()), place((*first).into()));
                    rename(&mut source, key, error.span.into()).filter(|_| renamed.len() < MOST_DUPLICATES)
                }
                _ => {
                    syntax(&mut problems, &error);
                    None
                }
            };
            match again {
                Some(span) => renamed.push(span),
                None => return (None, problems.found),
            }
        }
    }
}

/// DAGs that a DAG's triggers name and that no file is of, with the place where it does. (One whose file is broken is there all the same.)
fn strangers(dag: &Dag, sources: &BTreeMap<PathBuf, String>) -> Vec<(String, Problem)> {
    let known = || sources.keys().filter_map(|path| path.file_stem()?.to_str());
    let mut found = Vec::new();
    for trigger in &dag.triggers {
        let Trigger::Event(EventTrigger { of: EventOf::Dag { dag: watched, .. }, .. }) = trigger else { continue };
        if known().any(|id| id == watched) {
            continue;
        }
        let text = sources.get(&dag.file).map(String::as_str).unwrap_or_default();
        let place = text.find(&format!("\"{watched}\"")).map_or(0..0, |at| at + 1..at + 1 + watched.len());
        let mut problems = Problems::new(&dag.file, text);
        problems
            .add(
                "D0008",
                place,
                format!("a trigger of DAG `{}` watches `{watched}`, which does not exist", dag.id),
                "no such DAG",
            )
            .fix(suggest::hint(watched, known().filter(|id| *id != dag.id).collect::<Vec<_>>()));
        found.extend(problems.found.into_iter().map(|problem| (dag.id.clone(), problem)));
    }
    found
}

fn is_dag_file(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    path.extension().is_some_and(|extension| extension == "toml") && !hidden && path.is_file()
}

fn unreadable(path: &Path, what: &str, error: &str) -> Problem {
    let mut problems = Problems::new(path, "");
    let problem = problems.add("D0001", 0..0, format!("{what} cannot be read"), "");
    problem.why(error).fix(Some("check that it exists, that it may be read, and that it is UTF-8 text".to_owned()));
    problem.clone()
}

fn duplicate(problems: &mut Problems<'_>, key: &str, span: Range<usize>, first: Range<usize>) {
    let related = problems.related(first, format!("`{key}` is first given here"));
    let (line, path) = (related.line, key.rsplit('.').next().unwrap_or(key));
    let problem = problems.add("D0003", span, format!("`{key}` is given twice"), format!("`{path}` again"));
    problem.why(format!("TOML allows a key once; the first is in line {line}"));
    problem.fix(Some("rename one of the two, or remove it".to_owned()));
    problem.related.push(related);
}

fn syntax(problems: &mut Problems<'_>, error: &toml_span::Error) {
    let fix = match &error.kind {
        ErrorKind::UnquotedString => Some("put text in quotes: `key = \"value\"`"),
        ErrorKind::UnterminatedString => Some("close the string with the quote it began with"),
        ErrorKind::InvalidNumber => Some("dates and times are written as strings here: \"2026-01-31\""),
        _ => None,
    };
    problems.add("D0002", error.span, "this is not TOML", error.to_string()).fix(fix.map(str::to_owned));
}

/// The place of the last part of a key within `span`: of a table's header the parser tells only the whole line.
fn name_within(text: &str, key: &str, span: Range<usize>) -> Range<usize> {
    let last = key.rsplit('.').next().unwrap_or(key);
    match text.get(span.clone()).and_then(|inside| inside.rfind(last)) {
        Some(at) => span.start + at..span.start + at + last.len(),
        None => span,
    }
}

/// Renames the last part of a key within `span` to something of the same length that is not used yet.
fn rename(source: &mut String, key: &str, span: Range<usize>) -> Option<Range<usize>> {
    let last = key.rsplit('.').next().unwrap_or(key);
    let place = name_within(source, key, span);
    if source.get(place.clone()) != Some(last) {
        return None;
    }
    let taken = source.clone();
    let fresh = (b'a'..=b'z')
        .chain(b'0'..=b'9')
        .map(|c| char::from(c).to_string().repeat(last.len()))
        .find(|word| !taken.contains(word.as_str()))?;
    source.replace_range(place.clone(), &fresh);
    Some(place)
}
