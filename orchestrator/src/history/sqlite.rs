//! A history in one SQLite file: durable, and shared by the processes of one machine.
//!
//! WAL with `synchronous = FULL`: a transaction that returned survives a power cut, and costs one fsync; all changes of one decision share it. Writers
//! take the lock at `BEGIN IMMEDIATE`, so that a decision between reading and writing never meets a conflict, and wait for each other up to
//! `BUSY`. The layout is `migrations/*.sql`; the format's number is `PRAGMA user_version`.
mod people;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::step::{self, AttemptStep};
use super::{
    ActiveRun, Applied, Change, History, HistoryError, HistoryView, LastRun, NewRun, RunFilter, Seen, TaskChange,
};
use crate::dag::Dag;
use crate::owner::{Owner, OwnerRecord};
use crate::run::{
    Attempt, Cause, Choice, Interval, Run, RunState, RunStep, TaskInstance, TaskState, TaskStep, item_name,
};
use crate::trigger::FileId;

/// The migrations in order; the format's number is how many have run.
const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001.sql"), include_str!("migrations/0002.sql"), include_str!("migrations/0003.sql")];

/// How long a writer waits for another.
const BUSY: Duration = Duration::from_secs(30);

/// How often a new file is tried again while others set it up.
const STEP: Duration = Duration::from_millis(10);

const RUN: &str = "id, dag, key, state, cause_json, interval_start, interval_end, params_json, options_json, revision, owner, queued_at, started_at, ended_at, error_json, cancel_by, amended, number";
const TASK: &str = "t.task, t.state, t.attempt, t.retry_at, t.started_at, t.ended_at, t.summary, t.result_json, t.error_json, t.base, t.wanted, t.choice_json, t.item, t.item_json";

/// A history in a file.
pub struct SqliteHistory {
    inner: Mutex<Inner>,
}

struct Inner {
    connection: Connection,
    /// Definitions already read, by revision; those of runs that have not ended.
    definitions: HashMap<String, Arc<Dag>>,
    /// How often this connection has changed something.
    own: u64,
}

type Sql<T> = Result<T, rusqlite::Error>;

impl SqliteHistory {
    /// Opens the history at `path`, makes it if there is none, and brings older formats up to date.
    ///
    /// # Errors
    /// [`HistoryError::Open`] if the file cannot be opened or is something else, [`HistoryError::Newer`] if a newer version wrote it.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let shown = path.display().to_string();
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| HistoryError::Open { path: shown.clone(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(error.into()))?;
        }
        let mut connection = Connection::open(path).map_err(|error| failed(error.into()))?;
        let found = migrate(&mut connection).map_err(|error| failed(error.into()))?;
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        if found > known {
            return Err(HistoryError::Newer { path: shown, found, known });
        }
        Ok(Self { inner: Mutex::new(Inner { connection, definitions: HashMap::new(), own: 0 }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> Sql<T>) -> Result<T, HistoryError> {
        read(&self.inner().connection).map_err(|error| HistoryError::Store { doing: "read", source: error.into() })
    }

    fn write<T>(&self, write: impl FnOnce(&Transaction<'_>) -> Sql<T>) -> Result<T, HistoryError> {
        let mut inner = self.inner();
        // Also for what fails: nobody can be sure of that.
        inner.own += 1;
        Self::transact(&mut inner, write)
    }

    fn transact<T>(inner: &mut Inner, write: impl FnOnce(&Transaction<'_>) -> Sql<T>) -> Result<T, HistoryError> {
        let run = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = write(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run(&mut inner.connection)
            .map_err(|error: rusqlite::Error| HistoryError::Store { doing: "written", source: error.into() })
    }
}

/// Sets the connection up and runs the migrations that are missing; returns the format found or made.
fn migrate(connection: &mut Connection) -> Sql<i64> {
    connection.busy_timeout(BUSY)?;
    write_ahead(connection)?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or_default();
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
        version += 1;
        transaction.pragma_update(None, "user_version", version)?;
    }
    transaction.commit()?;
    Ok(version)
}

/// Turns a new file to WAL, which it then is for good.
///
/// That needs the file alone, and `SQLite` does not call the busy handler for it, because it holds a read lock by then:
/// of several that open a new file at once all but one would fail. So this waits by itself, as long as a writer would.
fn write_ahead(connection: &Connection) -> Sql<()> {
    let mut waited = Duration::ZERO;
    loop {
        match connection.pragma_update(None, "journal_mode", "wal") {
            Err(error) if waited < BUSY && error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                std::thread::sleep(STEP);
                waited += STEP;
            }
            done => return done,
        }
    }
}

impl History for SqliteHistory {
    fn apply(&self, owner: &str, now: DateTime<Utc>, changes: &[Change]) -> Result<Vec<bool>, HistoryError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        self.write(|sql| changes.iter().map(|change| apply(sql, owner, now, change)).collect())
    }

    fn apply_at(
        &self,
        owner: &str,
        now: DateTime<Utc>,
        changes: &[Change],
        version: u64,
    ) -> Result<Applied, HistoryError> {
        let mut inner = self.inner();
        let before = inner.own;
        inner.own += 1;
        // Within the transaction nobody else writes: what it sees of others is all there is of them before its own changes.
        let (accepted, others) = Self::transact(&mut inner, |sql| {
            let others = others(sql)?;
            let accepted: Vec<bool> =
                changes.iter().map(|change| apply(sql, owner, now, change)).collect::<Sql<_>>()?;
            Ok((accepted, others))
        })?;
        let alone = stamp(before, others) == version;
        Ok(Applied { accepted, version: alone.then(|| stamp(before + 1, others)) })
    }

    fn view(&self, last_of: &[String]) -> Result<HistoryView, HistoryError> {
        let mut inner = self.inner();
        let Inner { connection, definitions, .. } = &mut *inner;
        let view = |connection: &mut Connection, definitions: &mut HashMap<String, Arc<Dag>>| {
            // One snapshot for all the reads.
            let sql = connection.transaction()?;
            let view = view(&sql, definitions, last_of)?;
            sql.commit()?;
            Ok(view)
        };
        view(connection, definitions)
            .map_err(|error: rusqlite::Error| HistoryError::Store { doing: "read", source: error.into() })
    }

    fn version(&self) -> Result<u64, HistoryError> {
        let inner = self.inner();
        match others(&inner.connection) {
            Ok(others) => Ok(stamp(inner.own, others)),
            Err(error) => Err(HistoryError::Store { doing: "read", source: error.into() }),
        }
    }

    fn unseen(&self, dag: &str, files: &[FileId]) -> Result<Vec<FileId>, HistoryError> {
        self.read(|sql| {
            let mut statement = sql.prepare_cached(
                "SELECT 1 FROM arrivals WHERE dag = ?1 AND path = ?2 AND size = ?3 AND modified = ?4",
            )?;
            let mut unseen = Vec::new();
            for file in files {
                if !statement.exists(params![dag, file.path, size(file.size), file.modified])? {
                    unseen.push(file.clone());
                }
            }
            Ok(unseen)
        })
    }

    fn heartbeat(&self, owner: &Owner, lease_until: DateTime<Utc>) -> Result<(), HistoryError> {
        // No part of a view: no reason to read one again.
        Self::transact(&mut self.inner(), |sql| {
            sql.prepare_cached("INSERT INTO owners (id, owner_json, lease_until) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET lease_until = ?3, retired = 0")?
                .execute(params![owner.id, json(owner)?, micros(lease_until)])?;
            Ok(())
        })
    }

    fn retire(&self, owner: &str) -> Result<(), HistoryError> {
        self.write(|sql| {
            sql.execute("UPDATE owners SET retired = 1 WHERE id = ?1", [owner])?;
            // Owners without unfinished runs tell nobody anything.
            sql.execute("DELETE FROM owners WHERE retired = 1 AND id NOT IN (SELECT owner FROM runs WHERE ended_at IS NULL AND owner IS NOT NULL)", [])?;
            Ok(())
        })
    }

    fn owners(&self) -> Result<Vec<OwnerRecord>, HistoryError> {
        self.read(|sql| {
            sql.prepare_cached("SELECT owner_json, lease_until, retired FROM owners WHERE id IN (SELECT owner FROM runs WHERE ended_at IS NULL) ORDER BY id")?
                .query_map([], owner_of)?
                .collect()
        })
    }

    fn schedulers(&self) -> Result<Vec<OwnerRecord>, HistoryError> {
        self.read(|sql| {
            sql.prepare_cached("SELECT owner_json, lease_until, retired FROM owners WHERE retired = 0 ORDER BY id")?
                .query_map([], owner_of)?
                .collect()
        })
    }

    fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>, HistoryError> {
        // Four plain statements, so that each has its index.
        let place = match (&filter.dag, filter.state) {
            (None, None) => "?1 IS NULL AND ?2 IS NULL",
            (Some(_), None) => "dag = ?1 AND ?2 IS NULL",
            (None, Some(_)) => "?1 IS NULL AND state = ?2",
            (Some(_), Some(_)) => "dag = ?1 AND state = ?2",
        };
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        self.read(|sql| {
            sql.prepare_cached(&format!(
                "SELECT {RUN} FROM runs WHERE {place} ORDER BY queued_at DESC, number DESC LIMIT ?3"
            ))?
            .query_map(params![filter.dag, filter.state.map(RunState::name), limit], run_of)?
            .collect()
        })
    }

    fn run(&self, id: &str) -> Result<Option<Run>, HistoryError> {
        self.read(|sql| Ok(find(sql, id)?.map(|(run, _)| run)))
    }

    fn run_of_key(&self, key: &str) -> Result<Option<String>, HistoryError> {
        self.read(|sql| {
            sql.prepare_cached("SELECT id FROM runs WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()
        })
    }

    fn last_event(&self, dag: &str, trigger: u32) -> Result<Option<String>, HistoryError> {
        self.read(|sql| {
            sql.prepare_cached("SELECT key FROM events WHERE dag = ?1 AND position = ?2 ORDER BY number DESC LIMIT 1")?
                .query_row(params![dag, trigger], |row| row.get(0))
                .optional()
        })
    }

    fn tasks(&self, run: &str) -> Result<Vec<TaskInstance>, HistoryError> {
        self.read(|sql| {
            sql.prepare_cached(&format!("SELECT {TASK} FROM task_instances t JOIN runs r ON t.run = r.number WHERE r.id = ?1 ORDER BY t.position, t.item"))?
                .query_map([run], |row| task_of(row, run))?
                .collect()
        })
    }

    fn attempts(&self, run: &str) -> Result<Vec<Attempt>, HistoryError> {
        self.read(|sql| {
            sql.prepare_cached(
                "SELECT a.task, a.number, a.state, a.owner, a.started_at, a.ended_at, a.resumes, a.error_json \
                 FROM attempts a JOIN runs r ON a.run = r.number WHERE r.id = ?1 ORDER BY a.task, a.number",
            )?
            .query_map([run], |row| {
                Ok(Attempt {
                    run: run.to_owned(),
                    task: row.get(0)?,
                    number: row.get(1)?,
                    state: task_state(row, 2)?,
                    owner: row.get(3)?,
                    started_at: instant(row, 4)?,
                    ended_at: maybe_instant(row, 5)?,
                    resumes: row.get(6)?,
                    error: maybe_json(row, 7)?,
                })
            })?
            .collect()
        })
    }

    fn forget(&self, before: DateTime<Utc>, most: usize) -> Result<Vec<(String, String)>, HistoryError> {
        self.write(|sql| people::forget(sql, before, most))
    }

    fn definition(&self, run: &str) -> Result<Option<Arc<Dag>>, HistoryError> {
        self.read(|sql| {
            sql.query_row(
                "SELECT d.definition_json FROM runs r JOIN definitions d ON r.revision = d.revision WHERE r.id = ?1",
                [run],
                |row| from_json(row, 0).map(Arc::new),
            )
            .optional()
        })
    }
}

/// What other connections have committed, by number; what this one does `SQLite` does not count.
fn others(sql: &Connection) -> Sql<u32> {
    sql.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

/// The version of the history: what this connection has changed, and what others have.
fn stamp(own: u64, others: u32) -> u64 {
    own.wrapping_shl(32) | u64::from(others)
}

fn apply(sql: &Transaction<'_>, owner: &str, now: DateTime<Utc>, change: &Change) -> Sql<bool> {
    match change {
        Change::Meet { dag, trigger } => {
            let made = sql
                .prepare_cached(
                    "INSERT INTO schedules (dag, position, first_seen) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                )?
                .execute(params![dag, trigger, micros(now)])?;
            Ok(made == 1)
        }
        Change::Create(new) => create(sql, owner, now, new),
        Change::Claim { run, from } => {
            let changed = sql
                .prepare_cached("UPDATE runs SET owner = ?1 WHERE id = ?2 AND owner IS ?3 AND ended_at IS NULL")?
                .execute(params![owner, run, from])?;
            Ok(changed == 1)
        }
        Change::Begin { run, definition, params } => begin(sql, owner, now, run, definition, params),
        Change::Task(change) => step_task(sql, owner, now, change),
        Change::Amend { run, steps } => people::amend(sql, now, run, steps),
        Change::Cancel { run, by } => {
            let changed = sql
                .prepare_cached("UPDATE runs SET cancel_by = ?2 WHERE id = ?1 AND ended_at IS NULL")?
                .execute(params![run, by])?;
            Ok(changed == 1)
        }
        Change::Event { event, end_of, past } => people::event(sql, event, end_of.as_deref(), *past),
        Change::Pause { dag, by } => people::pause(sql, now, dag, by.as_deref()),
        Change::Backfill(new) => people::backfill(sql, now, new),
        Change::EndBackfill { backfill } => {
            let changed = sql
                .prepare_cached("UPDATE backfills SET whole = made WHERE id = ?1 AND made < whole")?
                .execute([backfill])?;
            Ok(changed == 1)
        }
        Change::Missed { run, task } => {
            let made = sql
                .prepare_cached("INSERT INTO missed (run, task, at) SELECT number, ?2, ?3 FROM runs WHERE id = ?1 ON CONFLICT DO NOTHING")?
                .execute(params![run, task, micros(now)])?;
            Ok(made == 1)
        }
        Change::Call(call) => people::call(sql, call),
        Change::Called { call, tries, again_at } => people::called(sql, call, *tries, *again_at),
        Change::End { run, step, error } => {
            let Some((mut record, number)) = find(sql, run)? else { return Ok(false) };
            let open = sql
                .prepare_cached("SELECT state FROM task_instances WHERE run = ?1")?
                .query_map([number], |row| task_state(row, 0))?
                .any(|state| state.is_ok_and(|state| !state.ended()));
            if open {
                return Ok(false);
            }
            if !step::step_run(&mut record, owner, now, *step, error.as_ref()) {
                return Ok(false);
            }
            sql.prepare_cached("UPDATE runs SET state = ?2, ended_at = ?3, error_json = ?4 WHERE number = ?1")?
                .execute(params![
                    number,
                    record.state.name(),
                    record.ended_at.map(micros),
                    maybe(record.error.as_ref())?
                ])?;
            Ok(true)
        }
    }
}

fn create(sql: &Transaction<'_>, owner: &str, now: DateTime<Utc>, new: &NewRun) -> Sql<bool> {
    if let Cause::File { path, size: bytes, modified } = &new.cause {
        let known = sql
            .prepare_cached("SELECT 1 FROM arrivals WHERE dag = ?1 AND path = ?2 AND size = ?3 AND modified = ?4")?
            .exists(params![new.dag, path, size(*bytes), modified])?;
        if known {
            return Ok(false);
        }
    }
    if let Cause::Event { trigger, keys } = &new.cause
        && !people::open_events(sql, &new.dag, *trigger, keys)?
    {
        return Ok(false);
    }
    let run = step::create(new, owner, now);
    let made = sql
        .prepare_cached(
            "INSERT INTO runs (id, dag, key, state, cause_json, interval_start, interval_end, params_json, options_json, owner, queued_at, backfill) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            run.id,
            run.dag,
            run.key,
            run.state.name(),
            json(&run.cause)?,
            run.interval.map(|interval| micros(interval.start)),
            run.interval.map(|interval| micros(interval.end)),
            json(&run.params)?,
            json(&run.options)?,
            run.owner,
            micros(now),
            run.backfill(),
        ])?;
    if made == 0 {
        return Ok(false);
    }
    let number = sql.last_insert_rowid();
    match &new.cause {
        Cause::File { path, size: bytes, modified } => {
            sql.prepare_cached("INSERT INTO arrivals (dag, path, size, modified, run) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![new.dag, path, size(*bytes), modified, number])?;
        }
        Cause::Schedule { trigger } => {
            let end = new.interval.map(|interval| micros(interval.end));
            sql.prepare_cached(
                "UPDATE schedules SET last_end = max(coalesce(last_end, ?3), ?3) WHERE dag = ?1 AND position = ?2",
            )?
            .execute(params![new.dag, trigger, end])?;
        }
        Cause::Event { trigger, keys } => people::take_events(sql, &new.dag, *trigger, keys, number)?,
        Cause::Backfill { backfill, number } => {
            sql.prepare_cached("UPDATE backfills SET made = max(made, ?2) WHERE id = ?1")?
                .execute(params![backfill, number + 1])?;
        }
        Cause::Manual { .. } | Cause::Continuous => {}
    }
    Ok(true)
}

fn begin(
    sql: &Transaction<'_>,
    owner: &str,
    now: DateTime<Utc>,
    run: &str,
    definition: &Arc<Dag>,
    params: &Map<String, Value>,
) -> Sql<bool> {
    let Some((mut record, number)) = find(sql, run)? else { return Ok(false) };
    if !step::step_run(&mut record, owner, now, RunStep::Begin, None) {
        return Ok(false);
    }
    let running: u32 = sql
        .prepare_cached(
            "SELECT count(*) FROM runs WHERE dag = ?1 AND state = 'running' AND ended_at IS NULL AND backfill IS NULL",
        )?
        .query_row([&definition.id], |row| row.get(0))?;
    if record.backfill().is_none() && running >= definition.max_active_runs {
        return Ok(false);
    }
    if record.revision.is_some() {
        // It waited for its turn again; what it began with is as it was.
        sql.prepare_cached("UPDATE runs SET state = ?2, started_at = ?3 WHERE number = ?1")?.execute(params![
            number,
            record.state.name(),
            micros(now)
        ])?;
        return Ok(true);
    }
    let revision = definition.revision();
    sql.prepare_cached("INSERT INTO definitions (revision, dag, definition_json, first_used) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
        .execute(params![revision, definition.id, json(definition.as_ref())?, micros(now)])?;
    sql.prepare_cached(
        "UPDATE runs SET state = ?2, started_at = ?3, params_json = ?4, revision = ?5 WHERE number = ?1",
    )?
    .execute(params![number, record.state.name(), micros(now), json(params)?, revision])?;
    let mut insert = sql.prepare_cached(
        "INSERT INTO task_instances (run, position, task, state, attempt, summary, result_json) VALUES (?1, ?2, ?3, ?4, 0, '', 'null')",
    )?;
    for (position, task) in definition.tasks.iter().enumerate() {
        insert.execute(params![
            number,
            i64::try_from(position).unwrap_or(i64::MAX),
            task.id,
            TaskState::Waiting.name()
        ])?;
    }
    Ok(true)
}

fn step_task(sql: &Transaction<'_>, owner: &str, now: DateTime<Utc>, change: &TaskChange) -> Sql<bool> {
    let run: Option<(i64, u32)> = sql
        .prepare_cached("SELECT number, amended, state FROM runs WHERE id = ?1 AND owner = ?2 AND ended_at IS NULL")?
        .query_row(params![change.run, owner], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))
        .optional()?
        .filter(|(_, _, state)| RunState::named(state).is_some_and(|state| step::open_to(state, change.step)))
        .map(|(number, amended, _)| (number, amended));
    let Some((number, amended)) = run else { return Ok(false) };
    let task = sql
        .prepare_cached(&format!("SELECT {TASK} FROM task_instances t WHERE t.run = ?1 AND t.task = ?2"))?
        .query_row(params![number, change.task], |row| task_of(row, &change.run))
        .optional()?;
    let Some(mut task) = task else { return Ok(false) };
    let held = matches!(task.state, TaskState::Running);
    if !step::current(amended, task.state, change) {
        return Ok(false);
    }
    let Some(attempt) = step::step_task(&mut task, owner, now, change) else { return Ok(false) };
    if !hold(sql, now, number, change, held)? {
        return Ok(false);
    }
    write_task(sql, number, &task)?;
    if !change.items.is_empty() {
        map(sql, number, change)?;
    }
    match attempt {
        AttemptStep::None => {}
        AttemptStep::New(attempt) => {
            sql.prepare_cached("INSERT INTO attempts (run, task, number, state, owner, started_at, resumes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)")?
                .execute(params![number, attempt.task, attempt.number, attempt.state.name(), owner, micros(now)])?;
        }
        AttemptStep::Resumed => {
            sql.prepare_cached(
                "UPDATE attempts SET resumes = resumes + 1, owner = ?4 WHERE run = ?1 AND task = ?2 AND number = ?3",
            )?
            .execute(params![number, change.task, change.attempt, owner])?;
        }
        AttemptStep::Ended => {
            let mut ended = Attempt {
                run: change.run.clone(),
                task: change.task.clone(),
                number: change.attempt,
                state: TaskState::Running,
                owner: owner.to_owned(),
                started_at: now,
                ended_at: None,
                resumes: 0,
                error: None,
            };
            step::end_attempt(&mut ended, now, change);
            sql.prepare_cached("UPDATE attempts SET state = ?4, ended_at = ?5, error_json = ?6 WHERE run = ?1 AND task = ?2 AND number = ?3")?
                .execute(params![number, change.task, change.attempt, ended.state.name(), micros(now), maybe(ended.error.as_ref())?])?;
        }
    }
    Ok(true)
}

/// Writes what a task is now.
fn write_task(sql: &Transaction<'_>, number: i64, task: &TaskInstance) -> Sql<()> {
    let choice = (task.choice != Choice::All).then(|| json(&task.choice)).transpose()?;
    sql.prepare_cached(
        "UPDATE task_instances SET state = ?3, attempt = ?4, retry_at = ?5, started_at = ?6, ended_at = ?7, summary = ?8, result_json = ?9, error_json = ?10, \
         base = ?11, wanted = ?12, choice_json = ?13 WHERE run = ?1 AND task = ?2",
    )?
    .execute(params![
        number,
        task.task,
        task.state.name(),
        task.attempt,
        task.retry_at.map(micros),
        task.started_at.map(micros),
        task.ended_at.map(micros),
        task.summary,
        json(&task.result)?,
        maybe(task.error.as_ref())?,
        task.base,
        task.wanted.map(TaskStep::name),
        choice,
    ])?;
    Ok(())
}

/// Gives back what a task held and takes what it is to hold; false, and nothing taken, if there is not enough.
fn hold(sql: &Transaction<'_>, now: DateTime<Utc>, number: i64, change: &TaskChange, held: bool) -> Sql<bool> {
    for hold in &change.holds {
        let others: u32 = sql
            .prepare_cached(
                "SELECT coalesce(sum(slots), 0) FROM holdings WHERE name = ?1 AND NOT (run = ?2 AND task = ?3)",
            )?
            .query_row(params![hold.name, number, change.task], |row| row.get(0))?;
        if others.saturating_add(hold.slots) > hold.limit {
            return Ok(false);
        }
    }
    if held {
        sql.prepare_cached("DELETE FROM holdings WHERE run = ?1 AND task = ?2")?
            .execute(params![number, change.task])?;
    }
    for hold in &change.holds {
        sql.prepare_cached("INSERT INTO holdings (name, run, task, slots, since) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![hold.name, number, change.task, hold.slots, micros(now)])?;
    }
    Ok(true)
}

/// Makes a task for each item of a list.
fn map(sql: &Transaction<'_>, number: i64, change: &TaskChange) -> Sql<()> {
    // The list may have been there before it was cleared: attempts go on counting.
    let mut insert = sql.prepare_cached(
        "INSERT INTO task_instances (run, position, task, state, attempt, base, summary, result_json, item, item_json) \
         SELECT ?1, p.position, ?3, 'waiting', a.last, a.last, '', 'null', ?4, ?5 \
         FROM (SELECT position FROM task_instances WHERE run = ?1 AND task = ?2) p, \
              (SELECT coalesce(max(number), 0) AS last FROM attempts WHERE run = ?1 AND task = ?3) a",
    )?;
    for (place, item) in change.items.iter().enumerate() {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        insert.execute(params![number, change.task, item_name(&change.task, place), place, json(item)?])?;
    }
    Ok(())
}

fn view(sql: &Transaction<'_>, definitions: &mut HashMap<String, Arc<Dag>>, last_of: &[String]) -> Sql<HistoryView> {
    let active: Vec<(Run, i64)> = sql
        .prepare_cached(&format!("SELECT {RUN} FROM runs WHERE ended_at IS NULL ORDER BY queued_at, number"))?
        .query_map([], |row| Ok((run_of(row)?, row.get(17)?)))?
        .collect::<Sql<_>>()?;
    definitions.retain(|revision, _| active.iter().any(|(run, _)| run.revision.as_ref() == Some(revision)));
    let mut runs = Vec::with_capacity(active.len());
    for (run, number) in active {
        let tasks = sql
            .prepare_cached(&format!(
                "SELECT {TASK} FROM task_instances t WHERE t.run = ?1 ORDER BY t.position, t.item"
            ))?
            .query_map([number], |row| task_of(row, &run.id))?
            .collect::<Sql<_>>()?;
        let definition = match &run.revision {
            None => None,
            Some(revision) => {
                if !definitions.contains_key(revision) {
                    let read = sql
                        .prepare_cached("SELECT definition_json FROM definitions WHERE revision = ?1")?
                        .query_row([revision], |row| from_json(row, 0).map(Arc::new))?;
                    definitions.insert(revision.clone(), read);
                }
                definitions.get(revision).cloned()
            }
        };
        runs.push(ActiveRun { run, definition, tasks });
    }
    let seen = sql
        .prepare_cached("SELECT dag, position, first_seen, last_end FROM schedules")?
        .query_map([], |row| {
            Ok(((row.get(0)?, row.get(1)?), Seen { first_seen: instant(row, 2)?, last_end: maybe_instant(row, 3)? }))
        })?
        .collect::<Sql<_>>()?;
    let mut last = BTreeMap::new();
    for dag in last_of {
        let ended: Vec<(DateTime<Utc>, String)> = sql
            .prepare_cached("SELECT ended_at, state FROM runs WHERE dag = ?1 AND ended_at IS NOT NULL ORDER BY ended_at DESC, id DESC LIMIT 10")?
            .query_map([dag], |row| Ok((instant(row, 0)?, row.get(1)?)))?
            .collect::<Sql<_>>()?;
        if let Some((ended_at, _)) = ended.first() {
            let failures = ended.iter().take_while(|(_, state)| state == RunState::Failed.name()).count();
            last.insert(dag.clone(), LastRun { ended_at: *ended_at, failures: u32::try_from(failures).unwrap_or(10) });
        }
    }
    let mut view = HistoryView { runs, seen, last, ..HistoryView::default() };
    people::view(sql, &mut view)?;
    Ok(view)
}

fn find(sql: &Connection, id: &str) -> Sql<Option<(Run, i64)>> {
    sql.prepare_cached(&format!("SELECT {RUN} FROM runs WHERE id = ?1"))?
        .query_row([id], |row| Ok((run_of(row)?, row.get(17)?)))
        .optional()
}

fn run_of(row: &Row<'_>) -> Sql<Run> {
    let start = maybe_instant(row, 5)?;
    let state: String = row.get(3)?;
    Ok(Run {
        id: row.get(0)?,
        dag: row.get(1)?,
        key: row.get(2)?,
        state: RunState::named(&state).ok_or_else(|| strange(3, format!("unknown state `{state}`")))?,
        cause: from_json(row, 4)?,
        interval: start.zip(maybe_instant(row, 6)?).map(|(start, end)| Interval { start, end }),
        logical_date: start,
        params: from_json(row, 7)?,
        options: from_json(row, 8)?,
        revision: row.get(9)?,
        owner: row.get(10)?,
        queued_at: instant(row, 11)?,
        started_at: maybe_instant(row, 12)?,
        ended_at: maybe_instant(row, 13)?,
        error: maybe_json(row, 14)?,
        cancel: row.get(15)?,
        amended: row.get(16)?,
    })
}

fn task_of(row: &Row<'_>, run: &str) -> Sql<TaskInstance> {
    Ok(TaskInstance {
        run: run.to_owned(),
        task: row.get(0)?,
        state: task_state(row, 1)?,
        attempt: row.get(2)?,
        retry_at: maybe_instant(row, 3)?,
        started_at: maybe_instant(row, 4)?,
        ended_at: maybe_instant(row, 5)?,
        summary: row.get(6)?,
        result: from_json(row, 7)?,
        error: maybe_json(row, 8)?,
        base: row.get(9)?,
        wanted: match row.get::<_, Option<String>>(10)? {
            None => None,
            Some(name) => Some(TaskStep::named(&name).ok_or_else(|| strange(10, format!("unknown step `{name}`")))?),
        },
        choice: maybe_json(row, 11)?.unwrap_or_default(),
        item: match row.get::<_, i64>(12)? {
            -1 => None,
            number => Some((u32::try_from(number).unwrap_or(u32::MAX), maybe_json(row, 13)?.unwrap_or_default())),
        },
    })
}

fn owner_of(row: &Row<'_>) -> Sql<OwnerRecord> {
    Ok(OwnerRecord { owner: from_json(row, 0)?, lease_until: instant(row, 1)?, retired: row.get(2)? })
}

fn task_state(row: &Row<'_>, column: usize) -> Sql<TaskState> {
    let state: String = row.get(column)?;
    TaskState::named(&state).ok_or_else(|| strange(column, format!("unknown state `{state}`")))
}

fn micros(instant: DateTime<Utc>) -> i64 {
    instant.timestamp_micros()
}

fn instant(row: &Row<'_>, column: usize) -> Sql<DateTime<Utc>> {
    maybe_instant(row, column)?.ok_or_else(|| strange(column, "no instant".to_owned()))
}

fn maybe_instant(row: &Row<'_>, column: usize) -> Sql<Option<DateTime<Utc>>> {
    let micros: Option<i64> = row.get(column)?;
    micros
        .map(|micros| {
            DateTime::from_timestamp_micros(micros).ok_or_else(|| strange(column, format!("{micros} is no instant")))
        })
        .transpose()
}

fn json<T: Serialize>(value: &T) -> Sql<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn maybe<T: Serialize>(value: Option<&T>) -> Sql<Option<String>> {
    value.map(json).transpose()
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Sql<T> {
    maybe_json(row, column)?.ok_or_else(|| strange(column, "nothing there".to_owned()))
}

fn maybe_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Sql<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| strange(column, error.to_string()))).transpose()
}

fn strange(column: usize, what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.into())
}

/// SQLite has signed integers only; no file is larger.
fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
