//! File arrival: from what a folder shows now and showed before to files that have arrived. The state is pure; only [`list`] touches the disk.
//!
//! A file has arrived when its size and modification time were the same for the settle time. Its identity is path, size and modification time: a
//! changed file of the same name is a new one. That it starts one run and only one is the history's doing (the arrival is recorded in the
//! transaction that makes the run); what is kept here only saves asking again, and may be lost.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use chrono::{DateTime, TimeDelta, Utc};

/// A file as it is at one instant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    /// The path, relative to the project folder, with `/` between names.
    pub path: String,
    /// The size in bytes.
    pub size: u64,
    /// The modification time in nanoseconds since 1970.
    pub modified: i64,
}

/// The files one trigger watches.
#[derive(Debug, Default)]
pub struct Watch {
    files: BTreeMap<String, Sighting>,
}

#[derive(Debug)]
struct Sighting {
    id: FileId,
    since: DateTime<Utc>,
    handled: bool,
}

impl Watch {
    /// Takes what is there now and returns the files that have settled and are not known to be handled, oldest first.
    ///
    /// They are returned again with every call until [`Watch::handled`] is told, so nothing is lost when their turn has not come.
    pub fn observe(&mut self, listing: &[FileId], settle: Duration, now: DateTime<Utc>) -> Vec<FileId> {
        let mut files = BTreeMap::new();
        for id in listing {
            let sighting = match self.files.remove(&id.path) {
                // A clock that went back must not make a file wait for the past to come again.
                Some(known) if known.id == *id => Sighting { since: known.since.min(now), ..known },
                _ => Sighting { id: id.clone(), since: now, handled: false },
            };
            files.insert(id.path.clone(), sighting);
        }
        self.files = files;
        let settle = TimeDelta::from_std(settle).unwrap_or(TimeDelta::MAX);
        let mut settled: Vec<FileId> = self
            .files
            .values()
            .filter(|file| !file.handled && now - file.since >= settle)
            .map(|file| file.id.clone())
            .collect();
        settled.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
        settled
    }

    /// Notes that the history has an arrival for exactly this file.
    pub fn handled(&mut self, id: &FileId) {
        if let Some(file) = self.files.get_mut(&id.path)
            && file.id == *id
        {
            file.handled = true;
        }
    }
}

/// Says what is wrong with a file pattern.
///
/// # Errors
/// A fragment, if the pattern is absolute, leaves the project folder, or is empty.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let parts: Vec<&str> = pattern.split('/').collect();
    if pattern.is_empty() || parts.last().is_none_or(|name| name.is_empty()) {
        Err("it names a folder, not files".to_owned())
    } else if pattern.starts_with('/') || pattern.contains("://") {
        Err("it must be relative to the project folder".to_owned())
    } else if parts.contains(&"..") {
        Err("it must stay inside the project folder".to_owned())
    } else if parts.last() == Some(&"**") {
        Err("`**` stands for folders; end with a name, such as `**/*.csv`".to_owned())
    } else {
        Ok(())
    }
}

/// Lists the files under `root` that match the pattern. A folder that is missing has no files; hidden files match only a pattern that names the dot.
///
/// # Errors
/// If a folder that exists cannot be read.
pub fn list(root: &Path, pattern: &str) -> std::io::Result<Vec<FileId>> {
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let mut found = BTreeMap::new();
    walk(root, &mut PathBuf::new(), &parts, &mut found)?;
    Ok(found.into_values().collect())
}

fn walk(root: &Path, at: &mut PathBuf, parts: &[&str], found: &mut BTreeMap<String, FileId>) -> std::io::Result<()> {
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    if *part == "**" {
        walk(root, at, rest, found)?;
    } else if !part.contains(['*', '?']) {
        at.push(part);
        let result = if rest.is_empty() { note(root, at, found) } else { walk(root, at, rest, found) };
        at.pop();
        return result;
    }
    let entries = match std::fs::read_dir(root.join(&*at)) {
        Ok(entries) => entries,
        Err(error) if [std::io::ErrorKind::NotFound, std::io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        // A name that is not Unicode cannot be written into a pattern or a param.
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if name.starts_with('.') && !part.starts_with('.') {
            continue;
        }
        at.push(&name);
        let result = if *part == "**" {
            // Folders behind links are left out: they could lead in circles.
            if entry.file_type()?.is_dir() { walk(root, at, parts, found) } else { Ok(()) }
        } else if !matches(part, &name) {
            Ok(())
        } else if rest.is_empty() {
            note(root, at, found)
        } else {
            walk(root, at, rest, found)
        };
        at.pop();
        result?;
    }
    Ok(())
}

fn note(root: &Path, at: &Path, found: &mut BTreeMap<String, FileId>) -> std::io::Result<()> {
    let meta = match std::fs::metadata(root.join(at)) {
        Ok(meta) if meta.is_file() => meta,
        // Gone again, or no file: nothing has arrived.
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let modified = meta.modified()?;
    let nanos = match modified.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
    };
    let path = at.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    found.insert(path.clone(), FileId { path, size: meta.len(), modified: nanos });
    Ok(())
}

/// Matches a name against a pattern of `*` (any characters) and `?` (one).
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    p = at + 1;
                    n = taken + 1;
                    star = Some((at, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64, modified: i64) -> FileId {
        FileId { path: path.to_owned(), size, modified }
    }

    #[test]
    fn names_match_as_in_a_shell() {
        for (pattern, name, hit) in [
            ("Movies*.txt", "Movies.txt", true),
            ("Movies*.txt", "Movies-2.txt", true),
            ("Movies*.txt", "movies.txt", false),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xaxxb", true),
            ("*a*b", "ba", false),
            ("é?", "éa", true),
        ] {
            assert_eq!(matches(pattern, name), hit, "{pattern} {name}");
        }
    }

    #[test]
    fn a_growing_file_has_not_arrived_and_a_changed_one_arrives_again() {
        let mut watch = Watch::default();
        let settle = Duration::from_secs(2);
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        assert!(watch.observe(&[file("a", 1, 1)], settle, at(0)).is_empty());
        assert!(watch.observe(&[file("a", 2, 2)], settle, at(1)).is_empty());
        assert!(watch.observe(&[file("a", 2, 2)], settle, at(2)).is_empty());
        assert_eq!(watch.observe(&[file("a", 2, 2)], settle, at(3)), [file("a", 2, 2)]);
        assert_eq!(watch.observe(&[file("a", 2, 2)], settle, at(4)), [file("a", 2, 2)], "until it is handled");
        watch.handled(&file("a", 2, 2));
        assert!(watch.observe(&[file("a", 2, 2)], settle, at(5)).is_empty());
        assert!(watch.observe(&[file("a", 2, 9)], settle, at(6)).is_empty());
        assert_eq!(watch.observe(&[file("a", 2, 9)], settle, at(8)), [file("a", 2, 9)]);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_hold_a_file_for_ever() {
        let mut watch = Watch::default();
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let settle = Duration::from_secs(2);
        watch.observe(&[file("a", 1, 1)], settle, at(1_000_000));
        watch.observe(&[file("a", 1, 1)], settle, at(10));
        assert_eq!(watch.observe(&[file("a", 1, 1)], settle, at(12)).len(), 1);
    }

    #[test]
    fn listing_follows_the_pattern_only() {
        let folder = tempfile::tempdir().unwrap();
        for path in
            ["in/Movies.txt", "in/.Movies.txt", "in/other.csv", "in/2026/11/Movies-b.txt", "in/2026/Movies-c.txt"]
        {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let paths =
            |pattern| list(folder.path(), pattern).unwrap().into_iter().map(|file| file.path).collect::<Vec<_>>();
        assert_eq!(paths("in/Movies*.txt"), ["in/Movies.txt"]);
        assert_eq!(paths("./in/Movies.txt"), ["in/Movies.txt"]);
        assert_eq!(paths("in/**/Movies*.txt"), ["in/2026/11/Movies-b.txt", "in/2026/Movies-c.txt", "in/Movies.txt"]);
        assert_eq!(paths("in/*/Movies*.txt"), ["in/2026/Movies-c.txt"]);
        assert!(
            paths("nowhere/*.txt").is_empty()
                && paths("in/other.csv/*").is_empty()
                && paths("in/nothing.txt").is_empty()
        );
        for pattern in ["", "/etc/*", "../x", "in/", "in/**", "s3://bucket/x"] {
            assert!(check_pattern(pattern).is_err(), "{pattern}");
        }
        assert!(check_pattern("data/inbox/Movies*.txt").is_ok());
    }
}
