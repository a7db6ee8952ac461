//! What people ask for, what happened, and whom to tell.
use chrono::{DateTime, Utc};

use super::super::step::{self, Amended};
use super::super::{Backfill, Call, Event};
use super::read::{TASK, find, task_of};
use super::session::{Session, Sql, json, maybe, micros, text};
use super::write::write_task;
use crate::run::{TaskStep, defined};

/// Does what somebody wants of tasks of a run, or nothing of it.
pub(super) fn amend(sql: &mut Session, now: DateTime<Utc>, run: &str, steps: &[(String, TaskStep)]) -> Sql<bool> {
    let Some((mut record, number)) = find(sql, run)? else { return Ok(false) };
    let asked = format!("SELECT {TASK} FROM task_instances t WHERE t.run = $1 AND t.task = $2");
    let mut changed = Vec::new();
    for (name, wanted) in steps {
        let Some(row) = sql.row(&asked, &[&number, name])? else { return Ok(false) };
        let mut task = task_of(&row, run)?;
        match step::amend(&mut task, now, *wanted) {
            Amended::Refused => return Ok(false),
            Amended::Done => changed.push((task, *wanted == TaskStep::Clear)),
            Amended::Wanted => changed.push((task, false)),
        }
    }
    for (task, anew) in changed {
        if anew && task.item.is_none() {
            // What was made for the items of its list goes with it; their attempts stay.
            for row in sql.rows("SELECT task FROM task_instances WHERE run = $1 AND item >= 0", &[&number])? {
                let item: String = row.try_get(0)?;
                if defined(&item) == task.task {
                    sql.run("DELETE FROM task_instances WHERE run = $1 AND task = $2", &[&number, &item])?;
                }
            }
        }
        write_task(sql, number, &task)?;
    }
    step::reopen(&mut record);
    sql.run(
        "UPDATE runs SET amended = amended + 1, state = $2, owner = $3, ended_at = $4, error_json = $5, cancel_by = $6 WHERE number = $1",
        &[
            &number,
            &record.state.name(),
            &record.owner,
            &record.ended_at.map(micros),
            &maybe(record.error.as_ref())?,
            &record.cancel,
        ],
    )?;
    Ok(true)
}

pub(super) fn event(sql: &mut Session, event: &Event, end_of: Option<&str>, past: bool) -> Sql<bool> {
    if let Some(run) = end_of
        && !sql.any("SELECT 1 FROM runs WHERE id = $1 AND ended_at IS NOT NULL", &[&run])?
    {
        return Ok(false);
    }
    let made = sql.run(
        "INSERT INTO events (dag, position, key, body_json, run) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        &[&event.dag, &i64::from(event.trigger), &event.key, &json(&event.body)?, &past.then_some(0_i64)],
    )?;
    Ok(made == 1)
}

/// Whether none of these events has started a run.
pub(super) fn open_events(sql: &mut Session, dag: &str, trigger: u32, keys: &[String]) -> Sql<bool> {
    let asked = "SELECT count(*) FROM events WHERE dag = $1 AND position = $2 AND key = ANY ($3) AND run IS NULL";
    let open: i64 = sql.row(asked, &[&dag, &i64::from(trigger), &keys])?.map_or(Ok(0), |row| row.try_get(0))?;
    Ok(usize::try_from(open).is_ok_and(|open| open == keys.len()))
}

pub(super) fn backfill(sql: &mut Session, now: DateTime<Utc>, new: &Backfill) -> Sql<bool> {
    let made = sql.run(
        "INSERT INTO backfills (id, dag, intervals_json, params_json, at_once, by, asked_at, whole) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        &[
            &new.id,
            &new.dag,
            &json(&new.intervals)?,
            &json(&new.params)?,
            &i64::from(new.at_once),
            &text(&new.by),
            &micros(now),
            &i64::try_from(new.intervals.len()).unwrap_or(i64::MAX),
        ],
    )?;
    Ok(made == 1)
}

pub(super) fn call(sql: &mut Session, call: &Call) -> Sql<bool> {
    let made = sql.run(
        "INSERT INTO calls (id, run, call_json, body_json, due_at, tries) \
         SELECT $2, number, $3, $4, $5, $6 FROM runs WHERE id = $1 ON CONFLICT DO NOTHING",
        &[&call.run, &call.id, &json(&call.to)?, &json(&call.body)?, &micros(call.due_at), &i64::from(call.tries)],
    )?;
    Ok(made == 1)
}

pub(super) fn called(sql: &mut Session, call: &str, tries: u32, again_at: Option<DateTime<Utc>>) -> Sql<bool> {
    let tries = i64::from(tries);
    let changed = match again_at {
        Some(at) => sql.run(
            "UPDATE calls SET tries = tries + 1, due_at = $3 WHERE id = $1 AND tries = $2",
            &[&call, &tries, &micros(at)],
        )?,
        None => sql.run("DELETE FROM calls WHERE id = $1 AND tries = $2", &[&call, &tries])?,
    };
    Ok(changed == 1)
}

pub(super) fn forget(sql: &mut Session, before: DateTime<Utc>, most: usize) -> Sql<Vec<(String, String)>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let old = sql.rows(
        "SELECT number, dag, id FROM runs WHERE ended_at < $1 ORDER BY ended_at, number LIMIT $2",
        &[&micros(before), &most],
    )?;
    let numbers: Vec<i64> = old.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    for table in ["task_instances", "attempts", "holdings", "calls", "missed"] {
        sql.run(&format!("DELETE FROM {table} WHERE run = ANY ($1)"), &[&numbers])?;
    }
    sql.run("DELETE FROM runs WHERE number = ANY ($1)", &[&numbers])?;
    // The definitions that nobody is pinned to any more, and backfills that are over and forgotten.
    sql.batch(
        "DELETE FROM definitions d WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.revision = d.revision); \
         DELETE FROM backfills b WHERE made >= whole AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.backfill = b.id)",
    )?;
    old.iter().map(|row| Ok((row.try_get(1)?, row.try_get(2)?))).collect()
}
