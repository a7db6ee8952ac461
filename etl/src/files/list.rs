//! Which files are there: a file, a folder, or a pattern, on disk or in an object store.
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};
use url::Url;

use super::error::FilesError;
use crate::table::S3Settings;

/// In which order files are landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By name, from the listing's root.
    #[default]
    Name,
    /// By time of change, oldest first, then by name.
    Modified,
}

/// One file as it is now.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Its name from the listing's root: what the table remembers it by.
    pub(crate) name: String,
    /// As errors and reports call it.
    pub(crate) shown: String,
    pub(crate) meta: ObjectMeta,
}

impl Listed {
    /// A number of 63 bits that tells this content from another under the same name: by size and tag in an object store,
    /// by size and time of change on disk. Never 0.
    pub(crate) fn fingerprint(&self, local: bool) -> i64 {
        let tag = if local { None } else { self.meta.e_tag.clone() };
        let tag = tag.unwrap_or_else(|| self.meta.last_modified.timestamp_micros().to_string());
        let digest = blake3::hash(format!("{}\n{tag}", self.meta.size).as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest.as_bytes()[..8]);
        i64::from_be_bytes(bytes).checked_abs().unwrap_or(i64::MAX).max(1)
    }

    pub(crate) fn modified(&self) -> DateTime<Utc> {
        self.meta.last_modified
    }
}

/// Where files are, and what is there.
pub(crate) struct Listing {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) local: bool,
    pub(crate) files: Vec<Listed>,
}

/// The place as parts: the storage, the folder that is listed, the pattern below it.
struct Place {
    store: Arc<dyn ObjectStore>,
    local: bool,
    /// What is listed: parts from the storage's root.
    root: Path,
    /// What a name is shown behind.
    shown: String,
    /// Parts of the pattern below the root; empty: everything in the folder, or the root itself if it is a file.
    pattern: Vec<String>,
}

/// Lists what `place` names, sorted by `order`. `root`, if given, is the folder that names are remembered from.
pub(crate) async fn list(
    place: &str,
    root: Option<&str>,
    base: &FsPath,
    s3: &S3Settings,
    order: Order,
) -> Result<Listing, FilesError> {
    let located =
        if place.contains("://") && !place.starts_with("file://") { remote(place, s3)? } else { local(place, base)? };
    let names_from = match root {
        None => None,
        Some(root) if root.contains("://") && !root.starts_with("file://") => {
            let at = remote(root, s3)?;
            Some((at.root, root.trim_end_matches('/').to_owned()))
        }
        Some(root) => Some((local(root, base)?.root, root.trim_end_matches('/').to_owned())),
    };
    let failed = |source| FilesError::Storage { doing: "list", place: place.to_owned(), source };
    let mut found: Vec<(Vec<String>, ObjectMeta)> = Vec::new();
    let mut single = false;
    if located.pattern.is_empty() {
        match located.store.head(&located.root).await {
            Ok(meta) => {
                single = true;
                found.push((Vec::new(), meta));
            }
            Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(failed(source)),
        }
    }
    if !single {
        let prefix = (!located.root.as_ref().is_empty()).then_some(&located.root);
        let mut entries = located.store.list(prefix);
        while let Some(meta) = entries.try_next().await.map_err(failed)? {
            let Some(parts) = meta.location.prefix_match(&located.root) else { continue };
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
            // Hidden files and those that other tools keep beside data are meant by nobody's folder.
            let hidden = parts.iter().any(|part| part.starts_with(['.', '_']));
            let wanted = if located.pattern.is_empty() { !hidden } else { matches(&located.pattern, &parts) };
            if wanted && !parts.is_empty() {
                found.push((parts, meta));
            }
        }
        if found.is_empty() && located.pattern.is_empty() && !folder(&located) {
            let why = "there is no such file or folder".to_owned();
            return Err(FilesError::Location { place: place.to_owned(), why });
        }
    }
    let mut files = Vec::new();
    for (parts, meta) in found {
        let below = parts.join("/");
        let own = meta.location.filename().unwrap_or_default().to_owned();
        let shown = if single { located.shown.clone() } else { format!("{}/{below}", located.shown) };
        let name = match &names_from {
            None => {
                if single {
                    own
                } else {
                    below
                }
            }
            Some((root, text)) => match meta.location.prefix_match(root) {
                Some(parts) => parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"),
                None => {
                    return Err(FilesError::Setting { key: "root", why: format!("`{shown}` is not below `{text}`") });
                }
            },
        };
        files.push(Listed { name, shown, meta });
    }
    match order {
        Order::Name => files.sort_by(|a, b| a.name.cmp(&b.name)),
        Order::Modified => files.sort_by(|a, b| (a.modified(), &a.name).cmp(&(b.modified(), &b.name))),
    }
    Ok(Listing { store: located.store, local: located.local, files })
}

fn folder(place: &Place) -> bool {
    // An object store has no folders: a prefix without files is an empty one.
    !place.local || FsPath::new("/").join(place.root.as_ref()).is_dir() || FsPath::new(&place.shown).is_dir()
}

fn remote(place: &str, s3: &S3Settings) -> Result<Place, FilesError> {
    let failed = |why: String| FilesError::Location { place: place.to_owned(), why };
    let (scheme, rest) = place.split_once("://").ok_or_else(|| failed("it is no URL".to_owned()))?;
    let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
    let url = Url::parse(&format!("{scheme}://{host}/")).map_err(|e| failed(e.to_string()))?;
    let (store, _) =
        object_store::parse_url_opts(&url, crate::table::options(s3)).map_err(|e| failed(e.to_string()))?;
    let (root, pattern) = cut(key);
    let shown =
        if root.is_empty() { format!("{scheme}://{host}") } else { format!("{scheme}://{host}/{}", root.join("/")) };
    let root = Path::parse(root.join("/")).map_err(|e| failed(e.to_string()))?;
    Ok(Place { store: Arc::from(store), local: false, root, shown, pattern })
}

fn local(place: &str, base: &FsPath) -> Result<Place, FilesError> {
    let failed = |why: String| FilesError::Location { place: place.to_owned(), why };
    let text = place.strip_prefix("file://").unwrap_or(place);
    let (parts, pattern) = cut(text);
    let mut shown = parts.join("/");
    if text.starts_with('/') {
        shown.insert(0, '/');
    }
    let full: PathBuf = base.join(&shown);
    let full = full.canonicalize().unwrap_or(full);
    let root = Path::from_absolute_path(&full).map_err(|e| failed(e.to_string()))?;
    if shown.is_empty() {
        shown.push('.');
    }
    Ok(Place { store: Arc::new(LocalFileSystem::new()), local: true, root, shown, pattern })
}

/// The parts before the first that is a pattern, and the rest.
fn cut(text: &str) -> (Vec<String>, Vec<String>) {
    let mut parts = text.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).peekable();
    let mut root = Vec::new();
    while let Some(part) = parts.next_if(|part| !part.contains(['*', '?'])) {
        root.push(part);
    }
    (root, parts.collect())
}

/// `**` stands for any number of folders, `*` and `?` for characters of one name. What begins with a dot is matched
/// only by a part that begins with one.
fn matches(pattern: &[String], parts: &[String]) -> bool {
    match (pattern.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            matches(rest, parts)
                || parts.split_first().is_some_and(|(part, more)| !part.starts_with('.') && matches(pattern, more))
        }
        (Some((first, rest)), Some((part, more))) => {
            (!part.starts_with('.') || first.starts_with('.'))
                && name_matches(&first.chars().collect::<Vec<_>>(), &part.chars().collect::<Vec<_>>())
                && matches(rest, more)
        }
        _ => false,
    }
}

fn name_matches(pattern: &[char], name: &[char]) -> bool {
    // The usual walk with one place to come back to: linear in most cases, never exponential.
    let (mut p, mut n) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || Some(c) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => match back {
                Some((star, at)) => {
                    back = Some((star, at + 1));
                    p = star + 1;
                    n = at + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn names(place: &str, root: Option<&str>, base: &FsPath) -> Vec<String> {
        let listing = list(place, root, base, &S3Settings::default(), Order::Name).await.unwrap();
        listing.files.into_iter().map(|file| file.name).collect()
    }

    #[tokio::test]
    async fn a_file_a_folder_and_a_pattern() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        for file in ["in/b.csv", "in/a é+#%.csv", "in/deep/c.csv.gz", "in/.hidden.csv", "in/_SUCCESS", "other/d.csv"] {
            std::fs::create_dir_all(base.join(file).parent().unwrap()).unwrap();
            std::fs::write(base.join(file), "x").unwrap();
        }
        assert_eq!(names("in", None, base).await, ["a é+#%.csv", "b.csv", "deep/c.csv.gz"]);
        assert_eq!(names("in/*.csv", None, base).await, ["a é+#%.csv", "b.csv"]);
        assert_eq!(names("*/b.csv", None, base).await, ["in/b.csv"]);
        assert_eq!(names("**/?.csv*", None, base).await, ["in/b.csv", "in/deep/c.csv.gz", "other/d.csv"]);
        assert_eq!(names("in/deep/c.csv.gz", None, base).await, ["c.csv.gz"]);
        assert_eq!(names("in/deep/c.csv.gz", Some("in"), base).await, ["deep/c.csv.gz"]);
        assert_eq!(names("in/.*.csv", None, base).await, [".hidden.csv"]);
        let absolute = base.join("in/b.csv").display().to_string();
        assert_eq!(names(&absolute, None, base).await, ["b.csv"]);
        assert!(names("none/*.csv", None, base).await.is_empty());
        for (place, root) in [("none", None), ("in/b.csv", Some("other")), ("gopher://x/y", None)] {
            assert!(list(place, root, base, &S3Settings::default(), Order::Name).await.is_err(), "{place}");
        }
    }
}
