//! A history in Postgres: shared by schedulers on any number of machines.
//!
//! The tables (`migrations/postgres/*.sql`) lie in a schema of their own. Whoever writes holds one lock for the length of the transaction, so that
//! changes are judged as for every other store: one after the other, each against what is there. The number in `version` is another one after every
//! change; it is what tells schedulers that there is something to read.
//!
//! The connection is made anew when it is gone. Of a commit whose answer was lost nobody knows whether it is there: whoever reads again sees it.
mod people;
mod read;
mod session;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use tokio_postgres::Config;

use self::session::{Fault, Session, Sql, from_json, json, micros, quoted, text};
use super::{Applied, Change, History, HistoryError, HistoryView, RunFilter};
use crate::dag::Dag;
use crate::owner::{Owner, OwnerRecord};
use crate::retry::fnv64;
use crate::run::{Attempt, Run, RunState, TaskInstance};
use crate::trigger::FileId;

/// The migrations in order; the format's number is how many have run.
const MIGRATIONS: &[&str] = &[include_str!("../migrations/postgres/0001.sql")];

/// A history in a schema of a Postgres database.
pub struct PostgresHistory {
    config: Config,
    schema: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    session: Option<Session>,
    /// Definitions already read, by revision; those of runs that have not ended.
    definitions: HashMap<String, Arc<Dag>>,
}

impl PostgresHistory {
    /// Opens the history in `schema` of the database at `url` (`postgres://user:password@host:port/database`), makes it if there is none, and brings
    /// older formats up to date. Connections are not encrypted: a URL that asks for that is refused.
    ///
    /// # Errors
    /// [`HistoryError::Open`] if the server cannot be reached, does not let us in, or has something else there; [`HistoryError::Newer`] if a newer
    /// version wrote it.
    pub fn open(url: &str, schema: &str) -> Result<Self, HistoryError> {
        let failed = |shown: &str, fault: Fault| HistoryError::Open { path: shown.to_owned(), source: fault.into() };
        let mut config: Config =
            url.parse().map_err(|error: tokio_postgres::Error| failed("postgres", error.into()))?;
        config.application_name(format!("tidemill history {schema}"));
        // Where it is, without the secret.
        let shown = format!("{} of {:?} {:?}", schema, config.get_dbname().unwrap_or_default(), config.get_hosts());
        let history = Self { config, schema: schema.to_owned(), inner: Mutex::default() };
        let found = history.with(Self::migrate).map_err(|fault| failed(&shown, fault))?;
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        if found > known {
            return Err(HistoryError::Newer { path: shown, found, known });
        }
        Ok(history)
    }

    /// Brings the tables up to date; returns the format found or made.
    fn migrate(&self, inner: &mut Inner) -> Sql<i64> {
        let lock = self.lock();
        let sql = self.session(inner)?;
        let result = Self::in_transaction(sql, &lock, |sql| {
            sql.batch(&format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(&self.schema)))?;
            let there = "SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'version'";
            let found: i64 = if sql.any(there, &[&self.schema])? {
                sql.row("SELECT format FROM version", &[])?.map_or(Ok(0), |row| row.try_get(0))?
            } else {
                0
            };
            let done = usize::try_from(found).unwrap_or_default();
            for migration in MIGRATIONS.iter().skip(done) {
                sql.batch(migration)?;
            }
            let format = found.max(i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX));
            sql.run("UPDATE version SET format = $1", &[&format])?;
            Ok(format)
        });
        if result.is_err() {
            inner.session = None;
        }
        result
    }

    /// Takes the one lock of this history until the transaction ends.
    fn lock(&self) -> String {
        let key = fnv64(format!("tidemill history {}", self.schema).as_bytes()).cast_signed();
        format!("SELECT pg_advisory_xact_lock({key})")
    }

    fn session<'i>(&self, inner: &'i mut Inner) -> Sql<&'i mut Session> {
        if inner.session.as_ref().is_none_or(Session::closed) {
            inner.session = None;
        }
        match &mut inner.session {
            Some(session) => Ok(session),
            none => Ok(none.insert(Session::connect(&self.config, &self.schema)?)),
        }
    }

    /// Works on a thread of its own: callers may be in the middle of async code, where a connection cannot be waited for.
    fn with<T: Send>(&self, work: impl FnOnce(&Self, &mut Inner) -> Sql<T> + Send) -> Sql<T> {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| work(self, &mut self.inner.lock().unwrap_or_else(PoisonError::into_inner)));
            done.join().unwrap_or_else(|_| Err(session::strange("the thread of the connection panicked")))
        })
    }

    fn in_transaction<T>(sql: &mut Session, lock: &str, work: impl FnOnce(&mut Session) -> Sql<T>) -> Sql<T> {
        sql.batch(&format!("BEGIN; {lock}"))?;
        let value = work(sql)?;
        sql.batch("COMMIT")?;
        Ok(value)
    }

    fn read<T: Send>(
        &self,
        read: impl FnOnce(&mut Session, &mut HashMap<String, Arc<Dag>>) -> Sql<T> + Send,
    ) -> Result<T, HistoryError> {
        self.with(|history, inner| {
            let mut definitions = std::mem::take(&mut inner.definitions);
            let sql = history.session(inner)?;
            // One snapshot for all the reads.
            let value = sql.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").and_then(|()| {
                let value = read(sql, &mut definitions)?;
                sql.batch("COMMIT")?;
                Ok(value)
            });
            history.settle(inner, definitions, value)
        })
        .map_err(|fault| HistoryError::Store { doing: "read", source: fault.into() })
    }

    /// Asks one question, which is a snapshot by itself.
    fn ask<T: Send>(&self, ask: impl FnOnce(&mut Session) -> Sql<T> + Send) -> Result<T, HistoryError> {
        self.with(|history, inner| {
            let value = ask(history.session(inner)?);
            if value.is_err() {
                inner.session = None;
            }
            value
        })
        .map_err(|fault| HistoryError::Store { doing: "read", source: fault.into() })
    }

    fn write<T: Send>(&self, write: impl FnOnce(&mut Session) -> Sql<T> + Send) -> Result<T, HistoryError> {
        self.with(|history, inner| {
            let lock = history.lock();
            let sql = history.session(inner)?;
            let value = Self::in_transaction(sql, &lock, write);
            let definitions = std::mem::take(&mut inner.definitions);
            history.settle(inner, definitions, value)
        })
        .map_err(|fault| HistoryError::Store { doing: "written", source: fault.into() })
    }

    /// After a fault the connection is in the middle of something: the next one is another.
    #[expect(clippy::unused_self, reason = "one of the steps above")]
    fn settle<T>(&self, inner: &mut Inner, definitions: HashMap<String, Arc<Dag>>, value: Sql<T>) -> Sql<T> {
        inner.definitions = definitions;
        if value.is_err() {
            inner.session = None;
        }
        value
    }
}

/// Makes the history another version; gives the number it had.
fn count_up(sql: &mut Session) -> Sql<u64> {
    let row = sql.row("UPDATE version SET number = number + 1 RETURNING number - 1", &[])?;
    let number: i64 = row.map_or(Ok(0), |row| row.try_get(0))?;
    Ok(number.cast_unsigned())
}

impl History for PostgresHistory {
    fn apply(&self, owner: &str, now: DateTime<Utc>, changes: &[Change]) -> Result<Vec<bool>, HistoryError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.apply_at(owner, now, changes, u64::MAX)?.accepted)
    }

    fn apply_at(
        &self,
        owner: &str,
        now: DateTime<Utc>,
        changes: &[Change],
        version: u64,
    ) -> Result<Applied, HistoryError> {
        self.write(|sql| {
            let before = count_up(sql)?;
            let accepted =
                changes.iter().map(|change| write::apply(sql, owner, now, change)).collect::<Sql<Vec<bool>>>()?;
            Ok(Applied { accepted, version: (before == version).then_some(before + 1) })
        })
    }

    fn view(&self, last_of: &[String]) -> Result<HistoryView, HistoryError> {
        self.read(|sql, definitions| read::view(sql, definitions, last_of))
    }

    fn version(&self) -> Result<u64, HistoryError> {
        self.ask(|sql| {
            let number: i64 = sql.row("SELECT number FROM version", &[])?.map_or(Ok(0), |row| row.try_get(0))?;
            Ok(number.cast_unsigned())
        })
    }

    fn unseen(&self, dag: &str, files: &[FileId]) -> Result<Vec<FileId>, HistoryError> {
        self.read(|sql, _| {
            let known = "SELECT 1 FROM arrivals WHERE dag = $1 AND path = $2 AND size = $3 AND modified = $4";
            let mut unseen = Vec::new();
            for file in files {
                if !sql.any(known, &[&dag, &text(&file.path), &write::bytes(file.size), &file.modified])? {
                    unseen.push(file.clone());
                }
            }
            Ok(unseen)
        })
    }

    fn heartbeat(&self, owner: &Owner, lease_until: DateTime<Utc>) -> Result<(), HistoryError> {
        // No part of a view: no reason to read one again.
        self.write(|sql| {
            sql.run(
                "INSERT INTO owners (id, owner_json, lease_until) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET lease_until = $3, retired = FALSE",
                &[&owner.id, &json(owner)?, &micros(lease_until)],
            )
        })
        .map(drop)
    }

    fn retire(&self, owner: &str) -> Result<(), HistoryError> {
        self.write(|sql| {
            count_up(sql)?;
            sql.run("UPDATE owners SET retired = TRUE WHERE id = $1", &[&owner])?;
            // Owners without unfinished runs tell nobody anything.
            sql.batch("DELETE FROM owners o WHERE retired AND NOT EXISTS (SELECT 1 FROM runs WHERE ended_at IS NULL AND owner = o.id)")
        })
    }

    fn owners(&self) -> Result<Vec<OwnerRecord>, HistoryError> {
        self.ask(|sql| {
            let asked = "SELECT owner_json, lease_until, retired FROM owners WHERE id IN (SELECT owner FROM runs WHERE ended_at IS NULL) ORDER BY id";
            sql.rows(asked, &[])?.iter().map(read::owner_of).collect()
        })
    }

    fn schedulers(&self) -> Result<Vec<OwnerRecord>, HistoryError> {
        self.ask(|sql| {
            let asked = "SELECT owner_json, lease_until, retired FROM owners WHERE NOT retired ORDER BY id";
            sql.rows(asked, &[])?.iter().map(read::owner_of).collect()
        })
    }

    fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>, HistoryError> {
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let state = filter.state.map(RunState::name);
        let (place, order) = ("SELECT", "ORDER BY queued_at DESC, number DESC LIMIT $1");
        let runs = read::RUN;
        self.ask(|sql| {
            // Four plain statements, so that each has its index.
            let rows = match (&filter.dag, &state) {
                (None, None) => sql.rows(&format!("{place} {runs} FROM runs {order}"), &[&limit]),
                (Some(dag), None) => {
                    sql.rows(&format!("{place} {runs} FROM runs WHERE dag = $2 {order}"), &[&limit, dag])
                }
                (None, Some(state)) => {
                    sql.rows(&format!("{place} {runs} FROM runs WHERE state = $2 {order}"), &[&limit, state])
                }
                (Some(dag), Some(state)) => sql.rows(
                    &format!("{place} {runs} FROM runs WHERE dag = $2 AND state = $3 {order}"),
                    &[&limit, dag, state],
                ),
            };
            rows?.iter().map(read::run_of).collect()
        })
    }

    fn run(&self, id: &str) -> Result<Option<Run>, HistoryError> {
        self.ask(|sql| Ok(read::find(sql, id)?.map(|(run, _)| run)))
    }

    fn run_of_key(&self, key: &str) -> Result<Option<String>, HistoryError> {
        self.ask(|sql| {
            let row = sql.row("SELECT id FROM runs WHERE key = $1", &[&text(key)])?;
            Ok(row.map(|row| row.try_get(0)).transpose()?)
        })
    }

    fn last_event(&self, dag: &str, trigger: u32) -> Result<Option<String>, HistoryError> {
        self.ask(|sql| {
            let asked = "SELECT key FROM events WHERE dag = $1 AND position = $2 ORDER BY number DESC LIMIT 1";
            let row = sql.row(asked, &[&dag, &i64::from(trigger)])?;
            Ok(row.map(|row| row.try_get(0)).transpose()?)
        })
    }

    fn tasks(&self, run: &str) -> Result<Vec<TaskInstance>, HistoryError> {
        self.ask(|sql| {
            let asked = format!(
                "SELECT {} FROM task_instances t JOIN runs r ON t.run = r.number WHERE r.id = $1 ORDER BY t.position, t.item",
                read::TASK
            );
            sql.rows(&asked, &[&run])?.iter().map(|row| read::task_of(row, run)).collect()
        })
    }

    fn attempts(&self, run: &str) -> Result<Vec<Attempt>, HistoryError> {
        self.ask(|sql| {
            let asked = "SELECT a.task, a.number, a.state, a.owner, a.started_at, a.ended_at, a.resumes, a.error_json \
                         FROM attempts a JOIN runs r ON a.run = r.number WHERE r.id = $1 ORDER BY a.task, a.number";
            sql.rows(asked, &[&run])?.iter().map(|row| read::attempt_of(row, run)).collect()
        })
    }

    fn forget(&self, before: DateTime<Utc>, most: usize) -> Result<Vec<(String, String)>, HistoryError> {
        self.write(|sql| {
            count_up(sql)?;
            people::forget(sql, before, most)
        })
    }

    fn definition(&self, run: &str) -> Result<Option<Arc<Dag>>, HistoryError> {
        self.ask(|sql| {
            let asked =
                "SELECT d.definition_json FROM runs r JOIN definitions d ON r.revision = d.revision WHERE r.id = $1";
            sql.row(asked, &[&run])?.map(|row| from_json(&row, 0).map(Arc::new)).transpose()
        })
    }
}
