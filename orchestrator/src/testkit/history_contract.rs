//! The contract of [`History`], as a suite every store must pass.
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, json};

use super::script::SCRIPT;
use crate::dag::Dag;
use crate::history::{Change, History, HistoryError, NewRun, RunFilter, TaskChange};
use crate::owner::{LEASE, Owner};
use crate::run::{Cause, Interval, RunState, RunStep, TaskState, TaskStep};
use crate::task::{Retry, TaskError};
use crate::trigger::FileId;

const DAG: &str =
    "max_active_runs = 2\n[tasks.b]\nkind = \"script\"\n[tasks.a]\nkind = \"script\"\nafter = \"b\"\nretries = 1\n";

/// Puts an empty history to the test. `other` opens the same history a second time, as another process would.
///
/// # Errors
/// If the history fails.
///
/// # Panics
/// If the history breaks its contract.
#[expect(clippy::too_many_lines, reason = "one story of one history, told in order")]
pub fn history_contract(history: &dyn History, other: &dyn History) -> Result<(), HistoryError> {
    let at = |seconds: i64| DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(seconds);
    let dag = Arc::new(
        Dag::parse("movies.toml".as_ref(), DAG, SCRIPT).0.unwrap_or_else(|| unreachable!("the text above is a DAG")),
    );
    let new = |id: &str, key: Option<&str>, cause: Cause, owned: bool| {
        let interval = matches!(cause, Cause::Cron { .. }).then(|| Interval { start: at(0), end: at(60) });
        let key = key.map(str::to_owned);
        Change::Create(Box::new(NewRun {
            id: id.to_owned(),
            dag: "movies".to_owned(),
            key,
            cause,
            interval,
            params: Map::new(),
            options: Map::new(),
            owned,
        }))
    };
    let manual = || Cause::Manual { by: "me".to_owned() };
    let file = |modified| Cause::File { path: "in/a.txt".to_owned(), size: 3, modified };

    // 2: judged in order, each against what the earlier ones left; 4: one run for a key and for a file.
    let changes = [
        Change::Meet { dag: "movies".to_owned(), trigger: 0 },
        Change::Meet { dag: "movies".to_owned(), trigger: 0 },
        new("r1", Some("k"), Cause::Cron { trigger: 0 }, true),
        new("r2", Some("k"), manual(), true),
        new("r1", None, manual(), true),
        new("r3", None, file(7), true),
        new("r4", None, file(7), true),
        new("r5", None, file(8), true),
    ];
    assert_eq!(
        history.apply("me", at(60), &changes)?,
        [true, false, true, false, false, true, false, true],
        "contract 2 and 4"
    );
    let id = |modified| FileId { path: "in/a.txt".to_owned(), size: 3, modified };
    assert_eq!(other.unseen("movies", &[id(7), id(9)])?, [id(9)], "contract 4 and 5");
    assert_eq!(other.unseen("other", &[id(7)])?, [id(7)], "arrivals are per DAG");

    // Begin pins the definition and makes the tasks in file order; only so many at once.
    let begin = |run: &str| Change::Begin { run: run.to_owned(), definition: Arc::clone(&dag), params: Map::new() };
    assert_eq!(
        history.apply("me", at(61), &[begin("r1"), begin("r1"), begin("r3"), begin("r5")])?,
        [true, false, true, false],
        "max_active_runs"
    );
    assert_eq!(other.definition("r1")?.as_deref().map(Dag::revision), Some(dag.revision()), "pinned");
    let names: Vec<String> = other.tasks("r1")?.into_iter().map(|task| task.task).collect();
    assert_eq!(names, ["b", "a"], "tasks in file order");

    // 3: others change nothing; the table and the attempt number are kept.
    let step = |task: &str, step, attempt| Change::Task(Box::new(TaskChange::plain("r1", task, step, attempt)));
    assert_eq!(
        other.apply(
            "you",
            at(62),
            &[step("b", TaskStep::Start, 1), Change::End { run: "r1".to_owned(), step: RunStep::Fail, error: None }]
        )?,
        [false, false],
        "contract 3"
    );
    assert_eq!(
        history.apply(
            "me",
            at(62),
            &[
                step("b", TaskStep::Succeed, 1),
                step("b", TaskStep::Start, 2),
                step("b", TaskStep::Start, 1),
                step("b", TaskStep::Start, 1),
                step("no", TaskStep::Start, 1)
            ]
        )?,
        [false, false, true, false, false],
        "the transition table"
    );
    let mut done = TaskChange::plain("r1", "b", TaskStep::Succeed, 1);
    "8,701 items".clone_into(&mut done.summary);
    done.result = json!({"rows": 8701});
    let error = TaskError::new("X1", "no", Retry::Later).why("because").fix("do it");
    let mut retry = TaskChange::plain("r1", "a", TaskStep::Retry, 1);
    retry.retry_at = Some(at(70));
    retry.error = Some(error.clone());
    let changes = [
        Change::Task(Box::new(done)),
        step("b", TaskStep::Resume, 1),
        step("a", TaskStep::Start, 1),
        Change::Task(Box::new(retry)),
    ];
    assert_eq!(history.apply("me", at(63), &changes)?, [true, false, true, true], "R2: an ended task never runs again");
    let tasks = other.tasks("r1")?;
    assert_eq!(
        (tasks[0].state, tasks[0].result["rows"].as_i64(), tasks[0].ended_at),
        (TaskState::Success, Some(8701), Some(at(63)))
    );
    assert_eq!(
        (tasks[1].state, tasks[1].retry_at, tasks[1].error.as_ref()),
        (TaskState::UpForRetry, Some(at(70)), Some(&error))
    );

    // A process dies: its run is claimed, and its late writes are refused.
    let here =
        Owner { id: "me".to_owned(), host: "h".to_owned(), boot: "b".to_owned(), pid: 1, started: "s".to_owned() };
    history.heartbeat(&here, at(60) + LEASE)?;
    assert_eq!(
        other.owners()?.iter().map(|record| (&record.owner, record.lease_until, record.retired)).collect::<Vec<_>>(),
        [(&here, at(60) + LEASE, false)]
    );
    history.apply("me", at(64), &[step("a", TaskStep::Start, 2)])?;
    let claim = |from: &str| Change::Claim { run: "r1".to_owned(), from: Some(from.to_owned()) };
    assert_eq!(
        other.apply("you", at(90), &[claim("them"), claim("me"), claim("me"), step("a", TaskStep::Resume, 2)])?,
        [false, true, false, true],
        "one claim wins"
    );
    assert_eq!(history.apply("me", at(91), &[step("a", TaskStep::Succeed, 2)])?, [false], "contract 3: too late");
    let end = Change::End { run: "r1".to_owned(), step: RunStep::Succeed, error: None };
    assert_eq!(
        other.apply("you", at(92), &[step("a", TaskStep::Succeed, 2), end.clone(), end, claim("you")])?,
        [true, true, false, false]
    );
    let attempts: Vec<_> = history
        .attempts("r1")?
        .into_iter()
        .map(|attempt| (attempt.task, attempt.number, attempt.state, attempt.resumes, attempt.owner))
        .collect();
    let attempt =
        |task: &str, number, state, resumes, owner: &str| (task.to_owned(), number, state, resumes, owner.to_owned());
    let (failed, success) = (TaskState::Failed, TaskState::Success);
    assert_eq!(
        attempts,
        [attempt("a", 1, failed, 0, "me"), attempt("a", 2, success, 1, "you"), attempt("b", 1, success, 0, "me")]
    );

    // What is asked for by others, and what the lists say.
    let asked = other.enqueue("movies", Map::new(), Map::new(), "cli", at(100))?;
    let again = other.enqueue("movies", Map::new(), Map::new(), "cli", at(100))?;
    assert_ne!(asked, again, "two requests of one instant are two runs");
    let view = history.view(&["movies".to_owned(), "none".to_owned()])?;
    let ids: Vec<&str> = view.runs.iter().map(|active| active.run.id.as_str()).collect();
    assert_eq!(ids, ["r3", "r5", &asked, &again], "what has not ended, oldest first");
    assert_eq!(view.runs[2].run.owner, None);
    assert_eq!(view.seen[&("movies".to_owned(), 0)].last_end, Some(at(60)), "the trigger moved on with its run");
    assert_eq!(view.seen[&("movies".to_owned(), 0)].first_seen, at(60));
    assert_eq!((view.last["movies"].ended_at, view.last["movies"].failures, view.last.len()), (at(92), 0, 1));
    let list = |dag: Option<&str>, state, limit| {
        history
            .runs(&RunFilter { dag: dag.map(str::to_owned), state, limit })
            .map(|runs| runs.into_iter().map(|run| run.id).collect::<Vec<_>>())
    };
    assert_eq!(list(None, None, 3)?, [again.as_str(), &asked, "r5"]);
    assert_eq!(list(Some("movies"), Some(RunState::Success), 9)?, ["r1"]);
    assert_eq!(list(Some("other"), None, 9)?, [""; 0]);
    assert_eq!(list(None, Some(RunState::Running), 9)?, ["r3"]);
    let run: Option<(RunState, Option<DateTime<Utc>>)> = history.run("r1")?.map(|run| (run.state, run.ended_at));
    assert_eq!(run, Some((RunState::Success, Some(at(92)))));
    history.retire("me")?;
    assert!(other.owners()?.iter().all(|record| record.retired), "it said goodbye");
    Ok(())
}
