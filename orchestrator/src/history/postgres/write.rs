//! What changes write: the same judgements as for every store (`step`), each against what the changes before it left.
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::super::step::{self, AttemptStep};
use super::super::{Change, NewRun, TaskChange};
use super::people;
use super::read::{TASK, find, task_of, task_state};
use super::session::{Session, Sql, json, maybe, micros, text};
use crate::dag::Dag;
use crate::run::{Attempt, Cause, Choice, RunState, RunStep, TaskInstance, TaskState, TaskStep, item_name};
use crate::task::TaskError;

pub(super) fn apply(sql: &mut Session, owner: &str, now: DateTime<Utc>, change: &Change) -> Sql<bool> {
    let at = micros(now);
    let changed = match change {
        Change::Meet { dag, trigger } => sql.run(
            "INSERT INTO schedules (dag, position, first_seen) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[dag, &i64::from(*trigger), &at],
        )?,
        Change::Create(new) => return create(sql, owner, now, new),
        Change::Claim { run, from } => sql.run(
            "UPDATE runs SET owner = $1 WHERE id = $2 AND owner IS NOT DISTINCT FROM $3 AND ended_at IS NULL",
            &[&owner, run, from],
        )?,
        Change::Begin { run, definition, params } => return begin(sql, owner, now, run, definition, params),
        Change::Task(change) => return step_task(sql, owner, now, change),
        Change::Amend { run, steps } => return people::amend(sql, now, run, steps),
        Change::Cancel { run, by } => {
            sql.run("UPDATE runs SET cancel_by = $2 WHERE id = $1 AND ended_at IS NULL", &[run, &text(by)])?
        }
        Change::Event { event, end_of, past } => return people::event(sql, event, end_of.as_deref(), *past),
        Change::Pause { dag, by: Some(by) } => sql.run(
            "INSERT INTO paused (dag, by, since) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[dag, &text(by), &at],
        )?,
        Change::Pause { dag, by: None } => sql.run("DELETE FROM paused WHERE dag = $1", &[dag])?,
        Change::Backfill(new) => return people::backfill(sql, now, new),
        Change::EndBackfill { backfill } => {
            sql.run("UPDATE backfills SET whole = made WHERE id = $1 AND made < whole", &[backfill])?
        }
        Change::Missed { run, task } => sql.run(
            "INSERT INTO missed (run, task, at) SELECT number, $2, $3 FROM runs WHERE id = $1 ON CONFLICT DO NOTHING",
            &[run, task, &at],
        )?,
        Change::Call(call) => return people::call(sql, call),
        Change::Called { call, tries, again_at } => return people::called(sql, call, *tries, *again_at),
        Change::End { run, step, error } => return end(sql, owner, now, run, *step, error.as_ref()),
    };
    Ok(changed == 1)
}

fn end(
    sql: &mut Session,
    owner: &str,
    now: DateTime<Utc>,
    run: &str,
    step: RunStep,
    error: Option<&TaskError>,
) -> Sql<bool> {
    let Some((mut record, number)) = find(sql, run)? else { return Ok(false) };
    for row in sql.rows("SELECT DISTINCT state FROM task_instances WHERE run = $1", &[&number])? {
        if !task_state(&row, 0)?.ended() {
            return Ok(false);
        }
    }
    if !step::step_run(&mut record, owner, now, step, error) {
        return Ok(false);
    }
    sql.run(
        "UPDATE runs SET state = $2, ended_at = $3, error_json = $4 WHERE number = $1",
        &[&number, &record.state.name(), &record.ended_at.map(micros), &maybe(record.error.as_ref())?],
    )?;
    Ok(true)
}

fn create(sql: &mut Session, owner: &str, now: DateTime<Utc>, new: &NewRun) -> Sql<bool> {
    if let Cause::File { path, size, modified } = &new.cause {
        let known = "SELECT 1 FROM arrivals WHERE dag = $1 AND path = $2 AND size = $3 AND modified = $4";
        if sql.any(known, &[&new.dag, &text(path), &bytes(*size), modified])? {
            return Ok(false);
        }
    }
    if let Cause::Event { trigger, keys } = &new.cause
        && !people::open_events(sql, &new.dag, *trigger, keys)?
    {
        return Ok(false);
    }
    let run = step::create(new, owner, now);
    let made = sql.row(
        "INSERT INTO runs (id, dag, key, state, cause_json, interval_start, interval_end, params_json, options_json, owner, queued_at, backfill) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING RETURNING number",
        &[
            &run.id,
            &run.dag,
            &run.key.as_deref().map(text),
            &run.state.name(),
            &json(&run.cause)?,
            &run.interval.map(|interval| micros(interval.start)),
            &run.interval.map(|interval| micros(interval.end)),
            &json(&run.params)?,
            &json(&run.options)?,
            &run.owner,
            &micros(now),
            &run.backfill(),
        ],
    )?;
    let Some(made) = made else { return Ok(false) };
    let number: i64 = made.try_get(0)?;
    match &new.cause {
        Cause::File { path, size, modified } => {
            sql.run(
                "INSERT INTO arrivals (dag, path, size, modified, run) VALUES ($1, $2, $3, $4, $5)",
                &[&new.dag, &text(path), &bytes(*size), modified, &number],
            )?;
        }
        Cause::Schedule { trigger } => {
            let end = new.interval.map(|interval| micros(interval.end));
            sql.run(
                "UPDATE schedules SET last_end = greatest(last_end, $3) WHERE dag = $1 AND position = $2",
                &[&new.dag, &i64::from(*trigger), &end],
            )?;
        }
        Cause::Event { trigger, keys } => {
            sql.run(
                "UPDATE events SET run = $4 WHERE dag = $1 AND position = $2 AND key = ANY ($3)",
                &[&new.dag, &i64::from(*trigger), keys, &number],
            )?;
        }
        Cause::Backfill { backfill, number } => {
            sql.run(
                "UPDATE backfills SET made = greatest(made, $2) WHERE id = $1",
                &[backfill, &i64::from(number + 1)],
            )?;
        }
        Cause::Manual { .. } | Cause::Continuous => {}
    }
    Ok(true)
}

fn begin(
    sql: &mut Session,
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
    let counted =
        "SELECT count(*) FROM runs WHERE dag = $1 AND state = 'running' AND ended_at IS NULL AND backfill IS NULL";
    let running: i64 = sql.row(counted, &[&definition.id])?.map_or(Ok(0), |row| row.try_get(0))?;
    if record.backfill().is_none() && running >= i64::from(definition.max_active_runs) {
        return Ok(false);
    }
    let (state, at) = (record.state.name(), micros(now));
    if record.revision.is_some() {
        // It waited for its turn again; what it began with is as it was.
        sql.run("UPDATE runs SET state = $2, started_at = $3 WHERE number = $1", &[&number, &state, &at])?;
        return Ok(true);
    }
    let revision = definition.revision();
    sql.run(
        "INSERT INTO definitions (revision, dag, definition_json, first_used) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        &[&revision, &definition.id, &json(definition.as_ref())?, &at],
    )?;
    sql.run(
        "UPDATE runs SET state = $2, started_at = $3, params_json = $4, revision = $5 WHERE number = $1",
        &[&number, &state, &at, &json(params)?, &revision],
    )?;
    let ids: Vec<&str> = definition.tasks.iter().map(|task| task.id.as_str()).collect();
    sql.run(
        "INSERT INTO task_instances (run, position, task, state, attempt, summary, result_json) \
         SELECT $1, t.place - 1, t.id, 'waiting', 0, '', 'null' FROM unnest($2::text[]) WITH ORDINALITY AS t (id, place)",
        &[&number, &ids],
    )?;
    Ok(true)
}

fn step_task(sql: &mut Session, owner: &str, now: DateTime<Utc>, change: &TaskChange) -> Sql<bool> {
    // Run and task in one question: what is asked most often by far.
    let asked = format!(
        "SELECT {TASK}, r.amended, r.state FROM runs r JOIN task_instances t ON t.run = r.number \
         WHERE r.id = $1 AND r.owner = $2 AND r.ended_at IS NULL AND t.task = $3"
    );
    let Some(row) = sql.row(&asked, &[&change.run, &owner, &change.task])? else { return Ok(false) };
    let (mut task, number) = (task_of(&row, &change.run)?, row.try_get::<_, i64>(14)?);
    let (amended, state) = (row.try_get::<_, i64>(15)?, row.try_get::<_, &str>(16)?);
    let open = RunState::named(state).is_some_and(|state| step::open_to(state, change.step));
    let held = task.state == TaskState::Running;
    if !open || !step::current(u32::try_from(amended).unwrap_or(u32::MAX), task.state, change) {
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
    let of = i64::from(change.attempt);
    match attempt {
        AttemptStep::None => {}
        AttemptStep::New(attempt) => {
            sql.run(
                "INSERT INTO attempts (run, task, number, state, owner, started_at, resumes) VALUES ($1, $2, $3, $4, $5, $6, 0)",
                &[&number, &attempt.task, &i64::from(attempt.number), &attempt.state.name(), &owner, &micros(now)],
            )?;
        }
        AttemptStep::Resumed => {
            sql.run(
                "UPDATE attempts SET resumes = resumes + 1, owner = $4 WHERE run = $1 AND task = $2 AND number = $3",
                &[&number, &change.task, &of, &owner],
            )?;
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
            sql.run(
                "UPDATE attempts SET state = $4, ended_at = $5, error_json = $6 WHERE run = $1 AND task = $2 AND number = $3",
                &[&number, &change.task, &of, &ended.state.name(), &micros(now), &maybe(ended.error.as_ref())?],
            )?;
        }
    }
    Ok(true)
}

/// Writes what a task is now.
pub(super) fn write_task(sql: &mut Session, number: i64, task: &TaskInstance) -> Sql<()> {
    let choice = (task.choice != Choice::All).then(|| json(&task.choice)).transpose()?;
    sql.run(
        "UPDATE task_instances SET state = $3, attempt = $4, retry_at = $5, started_at = $6, ended_at = $7, summary = $8, result_json = $9, error_json = $10, \
         base = $11, wanted = $12, choice_json = $13 WHERE run = $1 AND task = $2",
        &[
            &number,
            &task.task,
            &task.state.name(),
            &i64::from(task.attempt),
            &task.retry_at.map(micros),
            &task.started_at.map(micros),
            &task.ended_at.map(micros),
            &text(&task.summary),
            &json(&task.result)?,
            &maybe(task.error.as_ref())?,
            &i64::from(task.base),
            &task.wanted.map(TaskStep::name),
            &choice,
        ],
    )?;
    Ok(())
}

/// Gives back what a task held and takes what it is to hold; false, and nothing taken, if there is not enough.
fn hold(sql: &mut Session, now: DateTime<Utc>, number: i64, change: &TaskChange, held: bool) -> Sql<bool> {
    for hold in &change.holds {
        let asked =
            "SELECT coalesce(sum(slots), 0)::bigint FROM holdings WHERE name = $1 AND NOT (run = $2 AND task = $3)";
        let others: i64 =
            sql.row(asked, &[&text(&hold.name), &number, &change.task])?.map_or(Ok(0), |row| row.try_get(0))?;
        if others.saturating_add(i64::from(hold.slots)) > i64::from(hold.limit) {
            return Ok(false);
        }
    }
    if held {
        sql.run("DELETE FROM holdings WHERE run = $1 AND task = $2", &[&number, &change.task])?;
    }
    for hold in &change.holds {
        sql.run(
            "INSERT INTO holdings (name, run, task, slots, since) VALUES ($1, $2, $3, $4, $5)",
            &[&text(&hold.name), &number, &change.task, &i64::from(hold.slots), &micros(now)],
        )?;
    }
    Ok(true)
}

/// Makes a task for each item of a list.
fn map(sql: &mut Session, number: i64, change: &TaskChange) -> Sql<()> {
    let names: Vec<String> = (0..).take(change.items.len()).map(|place| item_name(&change.task, place)).collect();
    let items: Vec<String> = change.items.iter().map(json).collect::<Sql<_>>()?;
    // The list may have been there before it was cleared: attempts go on counting.
    sql.run(
        "INSERT INTO task_instances (run, position, task, state, attempt, base, summary, result_json, item, item_json) \
         SELECT $1, l.position, i.name, 'waiting', coalesce(a.last, 0), coalesce(a.last, 0), '', 'null', i.place - 1, i.item \
         FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS i (name, item, place) \
         CROSS JOIN (SELECT position FROM task_instances WHERE run = $1 AND task = $2) l \
         LEFT JOIN (SELECT task, max(number) AS last FROM attempts WHERE run = $1 GROUP BY task) a ON a.task = i.name",
        &[&number, &change.task, &names, &items],
    )?;
    Ok(())
}

/// Postgres has signed integers only; no file is larger.
pub(super) fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
