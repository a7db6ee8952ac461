//! The contract of [`History`], as a suite every store must pass.
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, json};

use super::script::SCRIPT;
use crate::dag::{CallTo, Dag};
use crate::history::{
    Applied, Backfill, Call, Change, Event, History, HistoryError, Hold, NewRun, RunFilter, TaskChange,
};
use crate::owner::{LEASE, Owner};
use crate::run::{Cause, Choice, Interval, RunState, RunStep, TaskState, TaskStep};
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
        let interval = matches!(cause, Cause::Schedule { .. }).then(|| Interval { start: at(0), end: at(60) });
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

    let before = other.version()?;
    assert_eq!(other.version()?, before, "nothing has changed");
    // 2: judged in order, each against what the earlier ones left; 4: one run for a key and for a file.
    let changes = [
        Change::Meet { dag: "movies".to_owned(), trigger: 0 },
        Change::Meet { dag: "movies".to_owned(), trigger: 0 },
        new("r1", Some("k"), Cause::Schedule { trigger: 0 }, true),
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
    assert_ne!(other.version()?, before, "another one has changed something");
    let (own, seen) = (history.version()?, other.version()?);
    history.apply("me", at(60), &[Change::Pause { dag: "none".to_owned(), by: None }])?;
    assert_ne!(history.version()?, own);
    assert!(other.version()? >= seen);
    // Whoever knows the history at a version knows it after changes of its own, and learns that others have changed something.
    let pause = |dag: &str| Change::Pause { dag: dag.to_owned(), by: Some("me\0".to_owned()) };
    let known = history.version()?;
    let applied = history.apply_at("me", at(60), &[pause("x"), pause("x")], known)?;
    assert_eq!((applied.accepted, applied.version), (vec![true, false], Some(history.version()?)));
    let known = history.version()?;
    other.apply("me", at(60), &[pause("y")])?;
    assert_eq!(history.apply_at("me", at(60), &[pause("y"), pause("z")], known)?, {
        Applied { accepted: vec![false, true], version: None }
    });
    for dag in ["x", "y", "z"] {
        other.apply("me", at(60), &[Change::Pause { dag: dag.to_owned(), by: None }])?;
    }
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
    people(history, other, &dag, at(200))?;
    assert_eq!(other.schedulers()?.iter().map(|record| record.owner.id.as_str()).collect::<Vec<_>>(), ["me"]);
    // What is forgotten is gone with all that belongs to it; what must not happen twice stays known.
    assert!(other.forget(at(92), 9)?.is_empty(), "before that instant, not at it");
    assert_eq!(other.forget(at(93), 9)?, [("movies".to_owned(), "r1".to_owned())]);
    assert!(history.run("r1")?.is_none() && history.tasks("r1")?.is_empty() && history.attempts("r1")?.is_empty());
    assert_eq!(history.forget(at(1_000), 1)?.len(), 1, "so many at once");
    assert_eq!(history.unseen("movies", &[id(7)])?, [], "a file is not new because its run is forgotten");
    assert_eq!(history.view(&[])?.seen[&("movies".to_owned(), 0)].last_end, Some(at(60)));
    history.retire("me")?;
    assert!(other.schedulers()?.is_empty());
    assert!(other.owners()?.iter().all(|record| record.retired), "it said goodbye");
    Ok(())
}

/// What people ask for, and what is held: contract 3 (the exception), 6 and 7.
#[expect(clippy::too_many_lines, reason = "one story of one run, told in order")]
fn people(history: &dyn History, other: &dyn History, dag: &Arc<Dag>, now: DateTime<Utc>) -> Result<(), HistoryError> {
    let (run, made) = history.enqueue_once("people", Map::new(), Map::new(), "cli", Some("k"), now)?;
    assert!(made);
    assert_eq!(
        other.enqueue_once("people", Map::new(), Map::new(), "cli", Some("k"), now)?,
        (run.clone(), false),
        "a key asks once"
    );
    let definition = Arc::new(Dag { id: "people".to_owned(), ..Dag::clone(dag) });
    let step = |task: &str, step, attempt, amended| {
        Change::Task(Box::new(TaskChange { amended, ..TaskChange::plain(&run, task, step, attempt) }))
    };
    let end = |step| Change::End { run: run.clone(), step, error: None };
    let amend = |steps: &[(&str, TaskStep)]| Change::Amend {
        run: run.clone(),
        steps: steps.iter().map(|(task, step)| ((*task).to_owned(), *step)).collect(),
    };
    let begin = Change::Begin { run: run.clone(), definition, params: Map::new() };
    let mut list = TaskChange::plain(&run, "b", TaskStep::Map, 0);
    list.items = vec![json!("x"), json!({"y": 1})];
    let hold = |task: &str, slots, limit| {
        let mut change = TaskChange::plain(&run, task, TaskStep::Start, 1);
        change.holds = vec![Hold { name: "pool db".to_owned(), slots, limit }];
        Change::Task(Box::new(change))
    };
    let claim = Change::Claim { run: run.clone(), from: None };
    let accepted = history.apply(
        "me",
        now,
        &[
            claim,
            begin.clone(),
            Change::Task(Box::new(list)),
            hold("b[0]", 2, 3),
            hold("b[1]", 2, 3),
            hold("b[1]", 1, 3),
            end(RunStep::Fail),
        ],
    )?;
    assert_eq!(accepted, [true, true, true, true, false, true, false], "6: no more than there is; 7: tasks are open");
    let names: Vec<String> = other.tasks(&run)?.into_iter().map(|task| task.task).collect();
    assert_eq!(names, ["b", "b[0]", "b[1]", "a"], "items after their list");
    assert_eq!(other.tasks(&run)?[2].item, Some((1, json!({"y": 1}))));
    let in_use: u32 = other.view(&[])?.holdings.iter().map(|held| held.slots).sum();
    assert_eq!(in_use, 3);

    // People change what is not theirs: what runs is noted, the rest is done, and all of it or nothing.
    assert_eq!(
        other.apply(
            "somebody",
            now,
            &[
                amend(&[("b[0]", TaskStep::Clear), ("a", TaskStep::MarkSkipped)]),
                amend(&[("a", TaskStep::Clear), ("b", TaskStep::MarkSuccess)]),
                amend(&[("a", TaskStep::Start)]),
                amend(&[("nobody", TaskStep::Clear)]),
            ]
        )?,
        [true, false, false, false]
    );
    let tasks = history.tasks(&run)?;
    assert_eq!((tasks[1].state, tasks[1].wanted), (TaskState::Running, Some(TaskStep::Clear)));
    assert_eq!((tasks[3].state, history.run(&run)?.map(|run| run.amended)), (TaskState::Skipped, Some(1)));

    // What puts itself off holds nothing and goes on as the same attempt; what was decided before people came is refused.
    let mut defer = TaskChange::plain(&run, "b[1]", TaskStep::Defer, 1);
    defer.retry_at = Some(now + TimeDelta::minutes(1));
    "waits".clone_into(&mut defer.summary);
    assert_eq!(
        history.apply(
            "me",
            now,
            &[
                Change::Task(Box::new(defer)),
                step("b[0]", TaskStep::Cancel, 1, 0),
                amend(&[("b[0]", TaskStep::Clear)]),
                step("b[0]", TaskStep::Start, 2, 1),
                step("b[0]", TaskStep::Start, 2, 2),
                step("b[1]", TaskStep::Wake, 1, 0),
            ]
        )?,
        [true, true, true, false, true, true]
    );
    assert!(other.view(&[])?.holdings.is_empty());
    let attempts: Vec<_> =
        other.attempts(&run)?.into_iter().map(|attempt| (attempt.task, attempt.number, attempt.state)).collect();
    let attempt = |task: &str, number, state| (task.to_owned(), number, state);
    let (cancelled, running) = (TaskState::Cancelled, TaskState::Running);
    assert_eq!(attempts, [attempt("b[0]", 1, cancelled), attempt("b[0]", 2, running), attempt("b[1]", 1, running)]);

    // It ends, is opened again, waits for its turn, and may be stopped by anybody.
    let mut chose = TaskChange::plain(&run, "b", TaskStep::Succeed, 0);
    chose.choice = Choice::Only(vec!["a".to_owned()]);
    assert_eq!(
        history.apply(
            "me",
            now,
            &[
                step("b[0]", TaskStep::Succeed, 2, 0),
                step("b[1]", TaskStep::Succeed, 1, 0),
                Change::Task(Box::new(chose)),
                end(RunStep::Succeed),
            ]
        )?,
        [true; 4]
    );
    assert_eq!(other.tasks(&run)?[0].choice, Choice::Only(vec!["a".to_owned()]));
    assert_eq!(other.apply("somebody", now, &[amend(&[("b", TaskStep::Clear)])])?, [true]);
    let opened = history.run(&run)?.unwrap_or_else(|| unreachable!("it was there"));
    assert_eq!((opened.state, opened.owner, opened.ended_at, opened.amended), (RunState::Queued, None, None, 3));
    let names: Vec<(String, u32)> = history.tasks(&run)?.into_iter().map(|task| (task.task, task.base)).collect();
    assert_eq!(names, [("b".to_owned(), 0), ("a".to_owned(), 0)], "a list that is cleared is made again");
    let mut again = TaskChange::plain(&run, "b", TaskStep::Map, 0);
    (again.items, again.amended) = (vec![json!("x")], 3);
    let claim = Change::Claim { run: run.clone(), from: None };
    assert_eq!(history.apply("me", now, &[claim, begin, Change::Task(Box::new(again))])?, [true; 3]);
    let item = &other.tasks(&run)?[1];
    assert_eq!((item.task.as_str(), item.attempt, item.base), ("b[0]", 2, 2), "attempts go on counting");
    let cancel = Change::Cancel { run: run.clone(), by: "somebody".to_owned() };
    let missed = |task: &str| Change::Missed { run: run.clone(), task: task.to_owned() };
    let call = Change::Call(Box::new(Call {
        id: "c1".to_owned(),
        run: run.clone(),
        to: CallTo::Webhook("http://x/".to_owned()),
        body: json!({"event": "failure"}),
        due_at: now,
        tries: 0,
    }));
    let called = |tries, again_at| Change::Called { call: "c1".to_owned(), tries, again_at };
    assert_eq!(
        other.apply(
            "somebody",
            now,
            &[
                cancel.clone(),
                missed(""),
                missed(""),
                missed("a"),
                call.clone(),
                call,
                called(0, Some(now)),
                called(0, None)
            ]
        )?,
        [true, true, false, true, true, false, true, false]
    );
    let view = history.view(&[])?;
    assert_eq!(view.missed.iter().map(|(_, task)| task.as_str()).collect::<Vec<_>>(), ["", "a"]);
    assert_eq!(view.calls.iter().map(|call| (call.id.as_str(), call.tries)).collect::<Vec<_>>(), [("c1", 1)]);
    assert_eq!(
        history.apply(
            "me",
            now,
            &[
                called(1, None),
                step("b[0]", TaskStep::Cancel, 2, 3),
                step("b", TaskStep::Cancel, 0, 3),
                end(RunStep::Cancel),
                cancel,
            ]
        )?,
        [true, true, true, true, false]
    );

    // Events: each known once, and taken by one run.
    let event = |key: &str, end_of: Option<&str>, past| Change::Event {
        event: Box::new(Event { dag: "people".to_owned(), trigger: 1, key: key.to_owned(), body: json!(key) }),
        end_of: end_of.map(str::to_owned),
        past,
    };
    let of_events = |id: &str, keys: &[&str]| {
        Change::Create(Box::new(NewRun {
            id: id.to_owned(),
            dag: "people".to_owned(),
            key: None,
            cause: Cause::Event { trigger: 1, keys: keys.iter().map(|key| (*key).to_owned()).collect() },
            interval: None,
            params: Map::new(),
            options: Map::new(),
            owned: false,
        }))
    };
    assert_eq!(
        history.apply(
            "me",
            now,
            &[
                event("1", None, true),
                event("1", None, false),
                event("2", Some("r5"), false),
                event("2", Some(&run), false),
                event("3", None, false),
                of_events("e1", &["1"]),
                of_events("e2", &["2"]),
                of_events("e3", &["2", "3"]),
            ]
        )?,
        [true, false, false, true, true, false, true, false]
    );
    let open: Vec<String> = other.view(&[])?.events.into_iter().map(|event| event.key).collect();
    assert_eq!(
        (open, other.last_event("people", 1)?, other.last_event("people", 0)?),
        (vec!["3".to_owned()], Some("3".to_owned()), None)
    );
    let (claim, cancel) = (
        Change::Claim { run: "e2".to_owned(), from: None },
        Change::End { run: "e2".to_owned(), step: RunStep::Cancel, error: None },
    );
    assert_eq!(history.apply("me", now, &[claim, cancel])?, [true, true]);

    // Pauses and backfills.
    let pause = |by: Option<&str>| Change::Pause { dag: "people".to_owned(), by: by.map(str::to_owned) };
    let hour = |number| now + TimeDelta::hours(number);
    let backfill = Change::Backfill(Box::new(Backfill {
        id: "b1".to_owned(),
        dag: "people".to_owned(),
        intervals: (0..2).map(|number| Interval { start: hour(number), end: hour(number + 1) }).collect(),
        params: Map::new(),
        at_once: 1,
        by: "cli".to_owned(),
        made: 0,
    }));
    let of_backfill = Change::Create(Box::new(NewRun {
        id: "of-b1".to_owned(),
        dag: "people".to_owned(),
        key: Some("backfill b1 0".to_owned()),
        cause: Cause::Backfill { backfill: "b1".to_owned(), number: 0 },
        interval: Some(Interval { start: hour(0), end: hour(1) }),
        params: Map::new(),
        options: Map::new(),
        owned: false,
    }));
    assert_eq!(
        other.apply(
            "",
            now,
            &[pause(Some("me")), pause(Some("you")), backfill.clone(), backfill, of_backfill.clone(), of_backfill]
        )?,
        [true, false, true, false, true, false]
    );
    let view = history.view(&[])?;
    assert_eq!(view.paused["people"].by, "me");
    assert_eq!(view.backfills.iter().map(|known| (known.intervals.len(), known.made)).collect::<Vec<_>>(), [(2, 1)]);
    let over = Change::EndBackfill { backfill: "b1".to_owned() };
    let cancel = Change::Cancel { run: "of-b1".to_owned(), by: "cli".to_owned() };
    let claim = Change::Claim { run: "of-b1".to_owned(), from: None };
    let end = Change::End { run: "of-b1".to_owned(), step: RunStep::Cancel, error: None };
    assert_eq!(
        history.apply("me", now, &[pause(None), pause(None), over.clone(), over, cancel, claim, end])?,
        [true, false, true, false, true, true, true]
    );
    assert!(history.view(&[])?.backfills.is_empty());
    Ok(())
}
