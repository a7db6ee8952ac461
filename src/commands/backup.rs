//! `tidemill backup` and `tidemill restore`: the history and the embedded topics, as of one moment each, while all goes on.
use std::io::Write as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use tidemill_orchestrator::{Clock as _, WallClock};

use super::{Context, health};
use crate::failure::{Exit, Failure, Result};
use crate::project::Project;
use crate::settings::Broker;

const HISTORY: &str = "history.db";
/// What a backup holds, if the project has it: SQLite files of the state folder.
const FILES: [&str; 2] = [HISTORY, "topics.db"];
/// What is in a backup, by name, size and digest.
const CONTENTS: &str = "backup.json";
const FORM: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    form: u32,
    project: String,
    at: DateTime<Utc>,
    files: Vec<Copied>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Copied {
    file: String,
    bytes: u64,
    blake3: String,
}

impl Copied {
    fn of(folder: &Path, file: &str) -> Result<Self> {
        let path = folder.join(file);
        let mut digest = blake3::Hasher::new();
        let content = std::fs::File::open(&path).map_err(|error| Failure::io(&error, "read", &path))?;
        digest.update_reader(content).map_err(|error| Failure::io(&error, "read", &path))?;
        let bytes = path.metadata().map_err(|error| Failure::io(&error, "read", &path))?.len();
        Ok(Self { file: file.to_owned(), bytes, blake3: digest.finalize().to_hex().to_string() })
    }
}

/// Copies history and embedded topics into a new folder.
pub(super) fn backup(context: &Context, to: &Path) -> Result<Exit> {
    let project = context.project()?;
    let now = WallClock.now();
    let io = |doing: &'static str| move |error: std::io::Error| Failure::io(&error, doing, to);
    std::fs::create_dir_all(to).map_err(io("create"))?;
    if std::fs::read_dir(to).map_err(io("read"))?.next().is_some() {
        return Err(Failure::new("X0013", format!("`{}` is not empty", to.display()))
            .why("a backup goes into a folder of its own, so that no older one is lost")
            .fix("name a folder that is not there yet"));
    }
    let mut files = Vec::new();
    for file in used(&project) {
        let from = project.state(file)?;
        if from.exists() {
            copy(&from, &to.join(file))?;
            files.push(Copied::of(to, file)?);
        }
    }
    if files.is_empty() {
        context.report.note("there is neither a history nor an embedded topic yet: nothing to back up");
    }
    let contents = Contents { form: FORM, project: project.settings.name.clone(), at: now, files };
    let text = serde_json::to_vec_pretty(&contents).map_err(|error| Failure::bug(error.to_string()))?;
    // Last: a backup that was cut short has none, and is refused.
    write(&to.join(CONTENTS), &text)?;
    context.report.rows(&contents.files)?;
    if !project.settings.history.url.is_empty() {
        context.report.note("the run history is in Postgres, and is backed up there");
    }
    context.report.note(format_args!("backed up to `{}`; the lake and the warehouse are not in it", to.display()));
    Ok(Exit::Done)
}

/// The files of the state folder that the project works with by its settings.
fn used(project: &Project) -> impl Iterator<Item = &'static str> {
    let (history, topics) = (project.settings.history.url.is_empty(), &project.settings.topics.broker);
    let topics = matches!(topics, Broker::Embedded);
    FILES.into_iter().filter(move |file| if *file == HISTORY { history } else { topics })
}

/// Puts a backup in place of the project's state, which is kept beside it.
pub(super) async fn restore(context: &Context, from: &Path, replace: bool) -> Result<Exit> {
    let project = context.project()?;
    let contents = checked(from)?;
    if contents.project != project.settings.name {
        return Err(refused(
            &format!("this is a backup of `{}`, not of `{}`", contents.project, project.settings.name),
            "a history names the DAGs of its own project",
            "restore it in its own project",
        ));
    }
    let listen = project.settings.server.listen;
    if health::answers(listen).await {
        return Err(refused(
            &format!("`tidemill up` runs at {listen}"),
            "it has the files open that would be replaced",
            "stop it first",
        ));
    }
    let there: Vec<&str> =
        FILES.into_iter().filter(|file| project.state(file).is_ok_and(|path| path.exists())).collect();
    if !there.is_empty() && !replace {
        return Err(refused(
            &format!("the project has {} already", there.join(" and ")),
            "they would be put aside, and what happened since the backup with them",
            "say `--replace` if that is what you want",
        ));
    }
    let now = WallClock.now();
    let aside = put_aside(&project, &there, now)?;
    for copied in &contents.files {
        // Under another name first: a crash leaves no half file where a whole one is looked for.
        let (to, beside) = (project.state(&copied.file)?, project.state(&format!("{}.restored", copied.file))?);
        std::fs::copy(from.join(&copied.file), &beside).map_err(|error| Failure::io(&error, "write", &beside))?;
        std::fs::File::open(&beside).and_then(|file| file.sync_all()).map_err(|e| Failure::io(&e, "write", &beside))?;
        std::fs::rename(&beside, &to).map_err(|error| Failure::io(&error, "write", &to))?;
    }
    context.report.rows(&contents.files)?;
    let at = contents.at.to_rfc3339_opts(SecondsFormat::Secs, true);
    context.report.note(format_args!("restored as of {at}"));
    if let Some(aside) = aside {
        context.report.note(format_args!("what was there is in `{}`", project.shown(&aside)));
    }
    Ok(Exit::Done)
}

/// Moves what is there, with SQLite's own files beside it, into a folder of its own.
fn put_aside(project: &Project, there: &[&str], now: DateTime<Utc>) -> Result<Option<PathBuf>> {
    if there.is_empty() {
        return Ok(None);
    }
    let folder = project.state(&format!("before-restore-{}", now.format("%Y%m%dT%H%M%S%3fZ")))?;
    std::fs::create_dir_all(&folder).map_err(|error| Failure::io(&error, "create", &folder))?;
    for file in there {
        // The log goes first: a database without it is whole as of its last checkpoint, a log without its database is nothing.
        for name in [format!("{file}-wal"), format!("{file}-shm"), (*file).to_owned()] {
            let path = project.state(&name)?;
            match std::fs::rename(&path, folder.join(&name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::io(&error, "move", &path));
                }
                _ => {}
            }
        }
    }
    Ok(Some(folder))
}

/// The contents of a backup, each file proven to be what was backed up.
fn checked(from: &Path) -> Result<Contents> {
    let path = from.join(CONTENTS);
    let broken = |why: String| {
        refused(
            &format!("`{}` is no whole backup", from.display()),
            &why,
            "take another one; `tidemill backup` makes them",
        )
    };
    let text = std::fs::read(&path).map_err(|error| broken(format!("`{CONTENTS}` cannot be read: {error}")))?;
    let contents: Contents = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if contents.form != FORM {
        return Err(broken(format!("it has form {}, and this program knows {FORM}", contents.form)));
    }
    for wanted in &contents.files {
        if !FILES.contains(&wanted.file.as_str()) {
            return Err(broken(format!("it names `{}`, which is no part of a project's state", wanted.file)));
        }
        if Copied::of(from, &wanted.file)? != *wanted {
            return Err(broken(format!("`{}` is not what was backed up", wanted.file)));
        }
    }
    Ok(contents)
}

fn refused(what: &str, why: &str, fix: &str) -> Failure {
    Failure::new("X0014", format!("cannot restore: {what}")).why(why).fix(fix)
}

/// Copies a SQLite database as of one moment, whoever writes meanwhile.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = |error: rusqlite::Error| {
        Failure::new("X0002", format!("cannot copy `{}`", from.display())).why(error.to_string())
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(from, flags).map_err(failed)?;
    database.busy_timeout(std::time::Duration::from_secs(30)).map_err(failed)?;
    database.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(failed)?;
    std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(|error| Failure::io(&error, "write", to))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| Failure::io(&error, "write", path);
    let mut file = std::fs::File::create(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(())
}
