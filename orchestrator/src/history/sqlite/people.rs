//! What people ask for, and whom to tell: the tables of format 2.
use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::super::step::{self, Amended};
use super::super::{Backfill, Call, Event, HistoryView, Holding, Paused};
use super::{Sql, TASK, find, from_json, instant, json, micros, task_of, write_task};
use crate::run::{TaskStep, defined};

/// Does what somebody wants of tasks of a run, or nothing of it.
pub(super) fn amend(sql: &Transaction<'_>, now: DateTime<Utc>, run: &str, steps: &[(String, TaskStep)]) -> Sql<bool> {
    let Some((mut record, number)) = find(sql, run)? else { return Ok(false) };
    let mut changed = Vec::new();
    for (name, wanted) in steps {
        let task = sql
            .prepare_cached(&format!("SELECT {TASK} FROM task_instances t WHERE t.run = ?1 AND t.task = ?2"))?
            .query_row(params![number, name], |row| task_of(row, run))
            .optional()?;
        let Some(mut task) = task else { return Ok(false) };
        match step::amend(&mut task, now, *wanted) {
            Amended::Refused => return Ok(false),
            Amended::Done => changed.push((task, *wanted == TaskStep::Clear)),
            Amended::Wanted => changed.push((task, false)),
        }
    }
    for (task, anew) in changed {
        if anew && task.item.is_none() {
            // What was made for the items of its list goes with it; their attempts stay.
            let items: Vec<String> = sql
                .prepare_cached("SELECT task FROM task_instances WHERE run = ?1 AND item >= 0")?
                .query_map([number], |row| row.get(0))?
                .collect::<Sql<_>>()?;
            for item in items.iter().filter(|item| defined(item) == task.task) {
                sql.prepare_cached("DELETE FROM task_instances WHERE run = ?1 AND task = ?2")?
                    .execute(params![number, item])?;
            }
        }
        write_task(sql, number, &task)?;
    }
    step::reopen(&mut record);
    sql.prepare_cached(
        "UPDATE runs SET amended = amended + 1, state = ?2, owner = ?3, ended_at = ?4, error_json = ?5, cancel_by = ?6 WHERE number = ?1",
    )?
    .execute(params![
        number,
        record.state.name(),
        record.owner,
        record.ended_at.map(micros),
        record.error.as_ref().map(json).transpose()?,
        record.cancel,
    ])?;
    Ok(true)
}

pub(super) fn event(sql: &Transaction<'_>, event: &Event, end_of: Option<&str>, past: bool) -> Sql<bool> {
    if let Some(run) = end_of
        && !sql.prepare_cached("SELECT 1 FROM runs WHERE id = ?1 AND ended_at IS NOT NULL")?.exists([run])?
    {
        return Ok(false);
    }
    let made = sql
        .prepare_cached("INSERT INTO events (dag, position, key, body_json, run) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING")?
        .execute(params![event.dag, event.trigger, event.key, json(&event.body)?, past.then_some(0)])?;
    Ok(made == 1)
}

/// Whether none of these events has started a run.
pub(super) fn open_events(sql: &Transaction<'_>, dag: &str, trigger: u32, keys: &[String]) -> Sql<bool> {
    let mut open =
        sql.prepare_cached("SELECT 1 FROM events WHERE dag = ?1 AND position = ?2 AND key = ?3 AND run IS NULL")?;
    for key in keys {
        if !open.exists(params![dag, trigger, key])? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn take_events(sql: &Transaction<'_>, dag: &str, trigger: u32, keys: &[String], run: i64) -> Sql<()> {
    let mut take = sql.prepare_cached("UPDATE events SET run = ?4 WHERE dag = ?1 AND position = ?2 AND key = ?3")?;
    for key in keys {
        take.execute(params![dag, trigger, key, run])?;
    }
    Ok(())
}

pub(super) fn pause(sql: &Transaction<'_>, now: DateTime<Utc>, dag: &str, by: Option<&str>) -> Sql<bool> {
    let changed = match by {
        Some(by) => sql
            .prepare_cached("INSERT INTO paused (dag, by, since) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
            .execute(params![dag, by, micros(now)])?,
        None => sql.prepare_cached("DELETE FROM paused WHERE dag = ?1")?.execute([dag])?,
    };
    Ok(changed == 1)
}

pub(super) fn backfill(sql: &Transaction<'_>, now: DateTime<Utc>, new: &Backfill) -> Sql<bool> {
    let made = sql
        .prepare_cached(
            "INSERT INTO backfills (id, dag, intervals_json, params_json, at_once, by, asked_at, whole) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            new.id,
            new.dag,
            json(&new.intervals)?,
            json(&new.params)?,
            new.at_once,
            new.by,
            micros(now),
            i64::try_from(new.intervals.len()).unwrap_or(i64::MAX),
        ])?;
    Ok(made == 1)
}

pub(super) fn call(sql: &Transaction<'_>, call: &Call) -> Sql<bool> {
    let made = sql
        .prepare_cached(
            "INSERT INTO calls (id, run, call_json, body_json, due_at, tries) \
             SELECT ?2, number, ?3, ?4, ?5, ?6 FROM runs WHERE id = ?1 ON CONFLICT DO NOTHING",
        )?
        .execute(params![call.run, call.id, json(&call.to)?, json(&call.body)?, micros(call.due_at), call.tries])?;
    Ok(made == 1)
}

pub(super) fn called(sql: &Transaction<'_>, call: &str, tries: u32, again_at: Option<DateTime<Utc>>) -> Sql<bool> {
    let changed = match again_at {
        Some(at) => sql
            .prepare_cached("UPDATE calls SET tries = tries + 1, due_at = ?3 WHERE id = ?1 AND tries = ?2")?
            .execute(params![call, tries, micros(at)])?,
        None => sql.prepare_cached("DELETE FROM calls WHERE id = ?1 AND tries = ?2")?.execute(params![call, tries])?,
    };
    Ok(changed == 1)
}

/// Adds what these tables say to a view.
pub(super) fn view(sql: &Transaction<'_>, view: &mut HistoryView) -> Sql<()> {
    view.holdings = sql
        .prepare_cached(
            "SELECT h.name, r.id, h.task, h.slots, h.since FROM holdings h JOIN runs r ON h.run = r.number",
        )?
        .query_map([], |row| {
            Ok(Holding {
                name: row.get(0)?,
                run: row.get(1)?,
                task: row.get(2)?,
                slots: row.get(3)?,
                since: instant(row, 4)?,
            })
        })?
        .collect::<Sql<_>>()?;
    view.paused = sql
        .prepare_cached("SELECT dag, by, since FROM paused")?
        .query_map([], |row| Ok((row.get(0)?, Paused { by: row.get(1)?, since: instant(row, 2)? })))?
        .collect::<Sql<_>>()?;
    view.events = sql
        .prepare_cached("SELECT dag, position, key, body_json FROM events WHERE run IS NULL ORDER BY number")?
        .query_map([], |row| {
            Ok(Event { dag: row.get(0)?, trigger: row.get(1)?, key: row.get(2)?, body: from_json(row, 3)? })
        })?
        .collect::<Sql<_>>()?;
    view.backfills = sql
        .prepare_cached("SELECT id, dag, intervals_json, params_json, at_once, by, made FROM backfills WHERE made < whole ORDER BY asked_at, id")?
        .query_map([], |row| {
            Ok(Backfill {
                id: row.get(0)?,
                dag: row.get(1)?,
                intervals: from_json(row, 2)?,
                params: from_json(row, 3)?,
                at_once: row.get(4)?,
                by: row.get(5)?,
                made: row.get(6)?,
            })
        })?
        .collect::<Sql<_>>()?;
    view.missed = sql
        .prepare_cached("SELECT r.id, m.task FROM missed m JOIN runs r ON m.run = r.number WHERE r.ended_at IS NULL")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Sql<_>>()?;
    view.calls = sql
        .prepare_cached("SELECT c.id, r.id, c.call_json, c.body_json, c.due_at, c.tries FROM calls c JOIN runs r ON c.run = r.number ORDER BY c.due_at")?
        .query_map([], |row| {
            Ok(Call {
                id: row.get(0)?,
                run: row.get(1)?,
                to: from_json(row, 2)?,
                body: from_json(row, 3)?,
                due_at: instant(row, 4)?,
                tries: row.get(5)?,
            })
        })?
        .collect::<Sql<_>>()?;
    Ok(())
}

pub(super) fn forget(sql: &Transaction<'_>, before: DateTime<Utc>, most: usize) -> Sql<Vec<(String, String)>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let old: Vec<(i64, String, String)> = sql
        .prepare_cached("SELECT number, dag, id FROM runs WHERE ended_at < ?1 ORDER BY ended_at, number LIMIT ?2")?
        .query_map(params![micros(before), most], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Sql<_>>()?;
    for (number, ..) in &old {
        for table in ["task_instances", "attempts", "holdings", "calls", "missed"] {
            sql.prepare_cached(&format!("DELETE FROM {table} WHERE run = ?1"))?.execute([number])?;
        }
        sql.prepare_cached("DELETE FROM runs WHERE number = ?1")?.execute([number])?;
    }
    if !old.is_empty() {
        // The definitions that nobody is pinned to any more, and backfills that are over and forgotten.
        sql.execute(
            "DELETE FROM definitions WHERE NOT EXISTS (SELECT 1 FROM runs WHERE runs.revision = definitions.revision)",
            [],
        )?;
        sql.execute("DELETE FROM backfills WHERE made >= whole AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.backfill = backfills.id)", [])?;
    }
    Ok(old.into_iter().map(|(_, dag, run)| (dag, run)).collect())
}
