//! The files of a project, read once.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::ModelProblem;
use super::layout::{Layout, Part};

/// One file.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) part: Part,
    pub(super) path: PathBuf,
    /// The name without its ending.
    pub(super) name: String,
    /// The folders within the part's folder, with `/`.
    pub(super) folder: String,
    /// The text; of a seed, nothing: it is read when it is loaded.
    pub(super) text: Arc<str>,
}

/// Everything there is to read.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) sql: Vec<File>,
    pub(super) seeds: Vec<File>,
    pub(super) properties: Vec<File>,
    pub(super) docs: Vec<File>,
}

/// Reads all files of `layout`, in the order of their paths. A folder that is not there is empty.
pub(super) fn read(layout: &Layout, problems: &mut Vec<ModelProblem>) -> Files {
    let mut files = Files::default();
    for (part, folder) in &layout.folders {
        walk(layout, *part, folder, folder, &mut files, problems);
    }
    for list in [&mut files.sql, &mut files.seeds, &mut files.properties, &mut files.docs] {
        list.sort_by(|a, b| a.path.cmp(&b.path));
        list.dedup_by(|a, b| a.path == b.path);
    }
    files
}

fn walk(layout: &Layout, part: Part, root: &Path, folder: &Path, files: &mut Files, problems: &mut Vec<ModelProblem>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            // A folder of another part within this one is walked as that.
            if !layout.folders.iter().any(|(other, folder)| *other != part && *folder == path) {
                walk(layout, part, root, &path, files, problems);
            }
            continue;
        }
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let list = match (ending, part) {
            ("sql", Part::Seed) => continue,
            ("sql", _) => &mut files.sql,
            ("csv" | "tsv", Part::Seed) => &mut files.seeds,
            ("yml" | "yaml", _) => &mut files.properties,
            ("md", _) => &mut files.docs,
            _ => continue,
        };
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let below = folder.strip_prefix(root).map(|p| p.to_string_lossy().replace('\\', "/")).unwrap_or_default();
        let text = if ending == "csv" || ending == "tsv" { Ok(String::new()) } else { std::fs::read_to_string(&path) };
        match text {
            Ok(text) => {
                // A generic test is a macro, wherever it stands among the tests.
                let part =
                    if part == Part::Check && below.split('/').next() == Some("generic") { Part::Macro } else { part };
                list.push(File { part, path, name, folder: below, text: text.into() });
            }
            Err(error) => problems.push(ModelProblem::new(&path, format!("it cannot be read: {error}"))),
        }
    }
}

/// The `{% docs name %}` blocks of a Markdown file.
pub(super) fn docs(text: &str) -> Vec<(String, String)> {
    let pieces = crate::model::template::pieces(text);
    let mut open: Option<(String, usize)> = None;
    let mut found = Vec::new();
    for piece in pieces {
        match piece.word(text) {
            Some("docs") => {
                let (_, inside) = piece.inside(text);
                open = inside.split_whitespace().nth(1).map(|name| (name.to_owned(), piece.span.end));
            }
            Some("enddocs") => {
                if let Some((name, from)) = open.take() {
                    found.push((name, text.get(from..piece.span.start).unwrap_or_default().trim().to_owned()));
                }
            }
            _ => {}
        }
    }
    found
}
