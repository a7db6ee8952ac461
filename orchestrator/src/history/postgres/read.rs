//! What the tables hold, as records.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio_postgres::Row;

use super::super::{ActiveRun, Backfill, Call, Event, HistoryView, Holding, LastRun, Paused, Seen};
use super::session::{Session, Sql, count, from_json, instant, maybe_instant, maybe_json, strange};
use crate::dag::Dag;
use crate::owner::OwnerRecord;
use crate::run::{Attempt, Interval, Run, RunState, TaskInstance, TaskState, TaskStep};

pub(super) const RUN: &str = "id, dag, key, state, cause_json, interval_start, interval_end, params_json, options_json, revision, owner, queued_at, started_at, ended_at, error_json, cancel_by, amended, number";
pub(super) const TASK: &str = "t.task, t.state, t.attempt, t.retry_at, t.started_at, t.ended_at, t.summary, t.result_json, t.error_json, t.base, t.wanted, t.choice_json, t.item, t.item_json, t.run";

/// Everything a decision needs.
pub(super) fn view(
    sql: &mut Session,
    definitions: &mut HashMap<String, Arc<Dag>>,
    last_of: &[String],
) -> Sql<HistoryView> {
    let rows = sql.rows(&format!("SELECT {RUN} FROM runs WHERE ended_at IS NULL ORDER BY queued_at, number"), &[])?;
    let active: Vec<(Run, i64)> = rows.iter().map(|row| Ok((run_of(row)?, row.try_get(17)?))).collect::<Sql<_>>()?;
    definitions.retain(|revision, _| active.iter().any(|(run, _)| run.revision.as_ref() == Some(revision)));
    let mut tasks: HashMap<i64, Vec<TaskInstance>> = HashMap::new();
    let names: HashMap<i64, &str> = active.iter().map(|(run, number)| (*number, run.id.as_str())).collect();
    let asked = format!(
        "SELECT {TASK} FROM task_instances t JOIN runs r ON t.run = r.number WHERE r.ended_at IS NULL ORDER BY t.run, t.position, t.item"
    );
    for row in sql.rows(&asked, &[])? {
        let number: i64 = row.try_get(14)?;
        if let Some(run) = names.get(&number) {
            tasks.entry(number).or_default().push(task_of(&row, run)?);
        }
    }
    let mut runs = Vec::with_capacity(active.len());
    for (run, number) in active {
        let definition = match &run.revision {
            None => None,
            Some(revision) => {
                if !definitions.contains_key(revision) {
                    let row = sql.row("SELECT definition_json FROM definitions WHERE revision = $1", &[revision])?;
                    let read = row.ok_or_else(|| strange(format!("no definition `{revision}`")))?;
                    definitions.insert(revision.clone(), Arc::new(from_json(&read, 0)?));
                }
                definitions.get(revision).cloned()
            }
        };
        runs.push(ActiveRun { run, definition, tasks: tasks.remove(&number).unwrap_or_default() });
    }
    let mut view = HistoryView { runs, ..HistoryView::default() };
    for row in sql.rows("SELECT dag, position, first_seen, last_end FROM schedules", &[])? {
        let seen = Seen { first_seen: instant(&row, 2)?, last_end: maybe_instant(&row, 3)? };
        view.seen.insert((row.try_get(0)?, count(&row, 1)?), seen);
    }
    view.last = last(sql, last_of)?;
    others(sql, &mut view)?;
    Ok(view)
}

fn last(sql: &mut Session, last_of: &[String]) -> Sql<BTreeMap<String, LastRun>> {
    let mut last = BTreeMap::new();
    for dag in last_of {
        let asked = "SELECT ended_at, state FROM runs WHERE dag = $1 AND ended_at IS NOT NULL ORDER BY ended_at DESC, id DESC LIMIT 10";
        let ended = sql.rows(asked, &[dag])?;
        let Some(first) = ended.first() else { continue };
        let failed = |row: &&Row| row.try_get::<_, &str>(1).is_ok_and(|state| state == RunState::Failed.name());
        let failures = ended.iter().take_while(failed).count();
        let failures = u32::try_from(failures).unwrap_or(10);
        last.insert(dag.clone(), LastRun { ended_at: instant(first, 0)?, failures });
    }
    Ok(last)
}

/// What people ask for, what is held, and whom to tell.
fn others(sql: &mut Session, view: &mut HistoryView) -> Sql<()> {
    let holdings = "SELECT h.name, r.id, h.task, h.slots, h.since FROM holdings h JOIN runs r ON h.run = r.number ORDER BY h.name, h.run, h.task";
    for row in sql.rows(holdings, &[])? {
        view.holdings.push(Holding {
            name: row.try_get(0)?,
            run: row.try_get(1)?,
            task: row.try_get(2)?,
            slots: count(&row, 3)?,
            since: instant(&row, 4)?,
        });
    }
    for row in sql.rows("SELECT dag, by, since FROM paused", &[])? {
        view.paused.insert(row.try_get(0)?, Paused { by: row.try_get(1)?, since: instant(&row, 2)? });
    }
    for row in sql.rows("SELECT dag, position, key, body_json FROM events WHERE run IS NULL ORDER BY number", &[])? {
        let (dag, trigger, key, body) = (row.try_get(0)?, count(&row, 1)?, row.try_get(2)?, from_json(&row, 3)?);
        view.events.push(Event { dag, trigger, key, body });
    }
    let backfills = "SELECT id, dag, intervals_json, params_json, at_once, by, made FROM backfills WHERE made < whole ORDER BY asked_at, id";
    for row in sql.rows(backfills, &[])? {
        view.backfills.push(Backfill {
            id: row.try_get(0)?,
            dag: row.try_get(1)?,
            intervals: from_json(&row, 2)?,
            params: from_json(&row, 3)?,
            at_once: count(&row, 4)?,
            by: row.try_get(5)?,
            made: count(&row, 6)?,
        });
    }
    let missed = "SELECT r.id, m.task FROM missed m JOIN runs r ON m.run = r.number WHERE r.ended_at IS NULL";
    for row in sql.rows(missed, &[])? {
        view.missed.insert((row.try_get(0)?, row.try_get(1)?));
    }
    let calls = "SELECT c.id, r.id, c.call_json, c.body_json, c.due_at, c.tries FROM calls c JOIN runs r ON c.run = r.number ORDER BY c.due_at";
    for row in sql.rows(calls, &[])? {
        view.calls.push(Call {
            id: row.try_get(0)?,
            run: row.try_get(1)?,
            to: from_json(&row, 2)?,
            body: from_json(&row, 3)?,
            due_at: instant(&row, 4)?,
            tries: count(&row, 5)?,
        });
    }
    Ok(())
}

pub(super) fn find(sql: &mut Session, id: &str) -> Sql<Option<(Run, i64)>> {
    let row = sql.row(&format!("SELECT {RUN} FROM runs WHERE id = $1"), &[&id])?;
    row.map(|row| Ok((run_of(&row)?, row.try_get(17)?))).transpose()
}

pub(super) fn run_of(row: &Row) -> Sql<Run> {
    let start = maybe_instant(row, 5)?;
    let state: &str = row.try_get(3)?;
    Ok(Run {
        id: row.try_get(0)?,
        dag: row.try_get(1)?,
        key: row.try_get(2)?,
        state: RunState::named(state).ok_or_else(|| strange(format!("unknown state `{state}`")))?,
        cause: from_json(row, 4)?,
        interval: start.zip(maybe_instant(row, 6)?).map(|(start, end)| Interval { start, end }),
        logical_date: start,
        params: from_json(row, 7)?,
        options: from_json(row, 8)?,
        revision: row.try_get(9)?,
        owner: row.try_get(10)?,
        queued_at: instant(row, 11)?,
        started_at: maybe_instant(row, 12)?,
        ended_at: maybe_instant(row, 13)?,
        error: maybe_json(row, 14)?,
        cancel: row.try_get(15)?,
        amended: count(row, 16)?,
    })
}

pub(super) fn task_of(row: &Row, run: &str) -> Sql<TaskInstance> {
    let wanted: Option<&str> = row.try_get(10)?;
    let item: i64 = row.try_get(12)?;
    Ok(TaskInstance {
        run: run.to_owned(),
        task: row.try_get(0)?,
        state: task_state(row, 1)?,
        attempt: count(row, 2)?,
        retry_at: maybe_instant(row, 3)?,
        started_at: maybe_instant(row, 4)?,
        ended_at: maybe_instant(row, 5)?,
        summary: row.try_get(6)?,
        result: from_json(row, 7)?,
        error: maybe_json(row, 8)?,
        base: count(row, 9)?,
        wanted: wanted
            .map(|name| TaskStep::named(name).ok_or_else(|| strange(format!("unknown step `{name}`"))))
            .transpose()?,
        choice: maybe_json(row, 11)?.unwrap_or_default(),
        item: match u32::try_from(item) {
            Err(_) => None,
            Ok(number) => Some((number, maybe_json(row, 13)?.unwrap_or_default())),
        },
    })
}

pub(super) fn attempt_of(row: &Row, run: &str) -> Sql<Attempt> {
    Ok(Attempt {
        run: run.to_owned(),
        task: row.try_get(0)?,
        number: count(row, 1)?,
        state: task_state(row, 2)?,
        owner: row.try_get(3)?,
        started_at: instant(row, 4)?,
        ended_at: maybe_instant(row, 5)?,
        resumes: count(row, 6)?,
        error: maybe_json(row, 7)?,
    })
}

pub(super) fn owner_of(row: &Row) -> Sql<OwnerRecord> {
    Ok(OwnerRecord { owner: from_json(row, 0)?, lease_until: instant(row, 1)?, retired: row.try_get(2)? })
}

pub(super) fn task_state(row: &Row, column: usize) -> Sql<TaskState> {
    let state: &str = row.try_get(column)?;
    TaskState::named(state).ok_or_else(|| strange(format!("unknown state `{state}`")))
}
