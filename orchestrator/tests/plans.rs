//! What is decided, step by step, without a clock or a process: limits, lists, choices, what people want, and why something waits.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use tidemill_orchestrator::history::{Backfill, Change, Event, History, HistoryView, RunFilter};
use tidemill_orchestrator::plan::amend::{Wish, amend};
use tidemill_orchestrator::plan::why::{Facts, of_dag, of_run, of_task};
use tidemill_orchestrator::plan::{Action, Ended, Scope, Situation, decide};
use tidemill_orchestrator::run::Interval;
use tidemill_orchestrator::testkit::SCRIPT;
use tidemill_orchestrator::{
    Choice, Dag, Dags, MemoryHistory, Outcome, Retry, Run, RunState, TaskError, TaskInstance, TaskState,
};

/// One process that does what it is told, on a history in memory.
struct Bench {
    history: MemoryHistory,
    dags: Dags,
    now: DateTime<Utc>,
    live: BTreeMap<(String, String), u32>,
    ended: Vec<Ended>,
    pools: BTreeMap<String, u32>,
    slots: usize,
    me: String,
    gone: BTreeSet<String>,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let dags = files.iter().map(|(id, text)| {
            let (dag, problems) = Dag::parse(Path::new(&format!("{id}.toml")), text, SCRIPT);
            assert!(problems.is_empty(), "{problems:#?}");
            dag.unwrap()
        });
        Self {
            history: MemoryHistory::default(),
            dags: dags.collect(),
            now: "2026-11-20T11:00:00Z".parse().unwrap(),
            live: BTreeMap::new(),
            ended: Vec::new(),
            pools: BTreeMap::new(),
            slots: 99,
            me: "me".to_owned(),
            gone: BTreeSet::new(),
        }
    }

    /// Asks for a run and lets it begin; gives what started at once.
    fn run(&mut self, dag: &str) -> (String, Vec<String>) {
        let id = self.history.enqueue(dag, Map::new(), Map::new(), "test", self.now).unwrap();
        (id, self.turn())
    }

    /// Decides and does until nothing more is to be done; gives what started, as `task#attempt`, in order.
    fn turn(&mut self) -> Vec<String> {
        let mut started = Vec::new();
        for _ in 0..50 {
            let view = self.history.view(&[]).unwrap();
            let live: BTreeSet<(String, String)> = self.live.keys().cloned().collect();
            let situation = Situation {
                now: self.now,
                me: &self.me,
                scope: &Scope::All,
                gone: &self.gone,
                live: &live,
                ended: &self.ended,
                arrived: &[],
                cancelled: &BTreeSet::new(),
                slots: self.slots,
                pools: &self.pools,
                stopping: false,
            };
            let actions = decide(&self.dags, &view, &situation);
            if actions.is_empty() {
                return started;
            }
            let changes: Vec<Change> = actions
                .iter()
                .map(|action| match action {
                    Action::Record(change) | Action::Launch(change, _) => change.clone(),
                })
                .collect();
            let accepted = self.history.apply(&self.me, self.now, &changes).unwrap();
            self.ended.clear();
            for (action, accepted) in actions.into_iter().zip(accepted) {
                if let (Action::Launch(_, work), true) = (action, accepted) {
                    started.push(format!("{}#{}", work.task.id, work.attempt));
                    self.live.insert((work.run.id.clone(), work.task.id.clone()), work.attempt);
                }
            }
        }
        panic!("it does not come to rest");
    }

    /// Ends an attempt and gives what started because of it.
    fn end(&mut self, run: &str, task: &str, how: Result<Outcome, TaskError>) -> Vec<String> {
        let attempt = self.live.remove(&(run.to_owned(), task.to_owned())).unwrap_or_else(|| panic!("{task} runs not"));
        self.ended.push(Ended { run: run.to_owned(), task: task.to_owned(), attempt, how: Some(how) });
        self.turn()
    }

    /// The attempt stopped because it was asked to.
    fn stopped(&mut self, run: &str, task: &str) -> Vec<String> {
        let attempt = self.live.remove(&(run.to_owned(), task.to_owned())).unwrap();
        self.ended.push(Ended { run: run.to_owned(), task: task.to_owned(), attempt, how: None });
        self.turn()
    }

    fn done(&mut self, run: &str, task: &str) -> Vec<String> {
        self.end(run, task, Ok(Outcome::done("done")))
    }

    fn fail(&mut self, run: &str, task: &str) -> Vec<String> {
        self.end(run, task, Err(TaskError::new("X0001", "no luck", Retry::Later)))
    }

    fn pass(&mut self, minutes: i64) -> Vec<String> {
        self.now += TimeDelta::minutes(minutes);
        self.turn()
    }

    fn record(&self, run: &str) -> Run {
        self.history.run(run).unwrap().unwrap()
    }

    fn tasks(&self, run: &str) -> Vec<TaskInstance> {
        self.history.tasks(run).unwrap()
    }

    fn task(&self, run: &str, task: &str) -> TaskInstance {
        self.tasks(run).into_iter().find(|known| known.task == task).unwrap()
    }

    /// `task state` of each.
    fn states(&self, run: &str) -> Vec<String> {
        self.tasks(run).iter().map(|task| format!("{} {}", task.task, task.state)).collect()
    }

    fn ask(&self, change: Change) -> bool {
        self.history.apply("somebody", self.now, &[change]).unwrap()[0]
    }

    fn wish(&self, run: &str, of: &str, wish: Wish) -> bool {
        let definition = self.history.definition(run).unwrap().unwrap();
        let change = amend(&definition, run, &self.tasks(run), &[of.to_owned()], wish);
        change.is_some_and(|change| self.ask(change))
    }

    fn view(&self) -> HistoryView {
        self.history.view(&[]).unwrap()
    }

    fn why(&self, of: &str, task: Option<&str>) -> String {
        let (view, usual) = (self.view(), BTreeMap::from([("a".to_owned(), TimeDelta::minutes(7))]));
        let alive = BTreeSet::from([self.me.clone()]);
        let facts =
            Facts { dags: &self.dags, view: &view, now: self.now, alive: &alive, pools: &self.pools, usual: &usual };
        let active = view.runs.iter().find(|active| active.run.id == of);
        let why = match (active, task) {
            (Some(active), Some(task)) => of_task(&facts, active, task),
            (Some(active), None) => of_run(&facts, active).remove(0),
            (None, _) => of_dag(&facts, self.dags.get(of).unwrap()),
        };
        let time = |at: Option<DateTime<Utc>>| at.map(|at| at.format(" %H:%M").to_string()).unwrap_or_default();
        let holder = why.holder.map(|holder| format!(" [{holder}]")).unwrap_or_default();
        format!("{}{holder}{} ..{}", why.what, time(why.since), time(why.until))
    }
}

/// `[tasks.NAME]` tables of scripted tasks with these lines each.
fn tasks(all: &[(&str, &str)]) -> String {
    let table = |(name, lines): &(&str, &str)| format!("[tasks.{name}]\nkind = \"script\"\n{lines}\n");
    all.iter().map(table).collect::<Vec<_>>().concat()
}

#[test]
fn the_highest_priority_goes_first_then_the_oldest_run() {
    let text = tasks(&[("a", ""), ("b", "priority = 5"), ("c", "priority = -1")]);
    let mut bench = Bench::new(&[("one", &text)]);
    bench.slots = 2;
    let (run, started) = bench.run("one");
    assert_eq!(started, ["b#1", "a#1"]);
    assert_eq!(bench.done(&run, "a"), ["c#1"]);
}

#[test]
fn pools_keys_and_shares_are_never_exceeded_whoever_asks() {
    let mut bench = Bench::new(&[
        (
            "pools",
            &tasks(&[
                ("a", "pool = \"db\""),
                ("b", "pool = \"db\"\npool_slots = 2"),
                ("c", "pool = \"db\""),
                ("d", ""),
            ]),
        ),
        ("keys", &format!("max_active_runs = 9\n{}", tasks(&[("a", "concurrency_key = \"customer-{{ run.dag }}\"")]))),
        (
            "shares",
            &format!("max_active_runs = 9\nmax_active_tasks = 2\n{}", tasks(&[("a", ""), ("b", ""), ("c", "")])),
        ),
        ("whole", &tasks(&[("a", "pool = \"db\"\npool_slots = 99")])),
    ]);
    bench.pools.insert("db".to_owned(), 2);

    let (run, started) = bench.run("pools");
    assert_eq!(started, ["a#1", "c#1", "d#1"], "what fits goes before what does not");
    assert!(bench.done(&run, "a").is_empty());
    assert_eq!(bench.done(&run, "c"), ["b#1"]);
    bench.done(&run, "b");
    assert_eq!(bench.run("whole").1, ["a#1"], "more than there is means all there is");

    let (first, started) = bench.run("keys");
    assert_eq!(started, ["a#1"]);
    let (second, started) = bench.run("keys");
    assert!(started.is_empty(), "one at a time, in all runs");
    assert_eq!(
        bench.why(&second, Some("a")),
        format!("waits for key customer-keys: 1 of 1 in use, 1 needed [{first}.a] 11:00 ..")
    );
    assert_eq!(bench.done(&first, "a"), ["a#1"]);

    assert_eq!(bench.run("shares").1, ["a#1", "b#1"]);
    assert!(bench.run("shares").1.is_empty());
    let holdings = bench.view().holdings;
    assert_eq!(holdings.iter().filter(|held| held.name == "dag shares").count(), 2);
}

#[test]
fn a_branch_runs_what_it_chose_and_what_joins_it() {
    // As in Airflow: `join` is directly after the branch, too, and is run because the chosen one leads to it.
    let text = tasks(&[
        ("branch", ""),
        ("left", "after = \"branch\""),
        ("right", "after = \"branch\""),
        ("far", "after = \"right\""),
        ("join", "after = [\"branch\", \"left\", \"right\"]\ntrigger_rule = \"none_failed_min_one_success\""),
    ]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    let chosen = Outcome::done("left").choosing(Choice::Only(vec!["left".to_owned()]));
    assert_eq!(bench.end(&run, "branch", Ok(chosen)), ["left#1"]);
    assert_eq!(bench.done(&run, "left"), ["join#1"]);
    bench.done(&run, "join");
    assert_eq!(bench.states(&run), ["branch success", "left success", "right skipped", "far skipped", "join success"]);
    assert_eq!(bench.record(&run).state, RunState::Success);

    let (run, _) = bench.run("one");
    bench.end(&run, "branch", Ok(Outcome::done("none").choosing(Choice::Only(Vec::new()))));
    assert_eq!(bench.states(&run), ["branch success", "left skipped", "right skipped", "far skipped", "join skipped"]);
}

#[test]
fn a_condition_that_is_not_so_skips_all_or_only_the_next() {
    let text = tasks(&[
        ("gate", ""),
        ("next", "after = \"gate\""),
        ("last", "after = \"next\"\ntrigger_rule = \"all_done\""),
        ("beside", ""),
    ]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    assert!(bench.end(&run, "gate", Ok(Outcome::done("no").choosing(Choice::Nothing))).is_empty());
    assert_eq!(bench.states(&run), ["gate success", "next skipped", "last skipped", "beside running"]);
    bench.done(&run, "beside");

    let (run, _) = bench.run("one");
    assert_eq!(bench.end(&run, "gate", Ok(Outcome::done("no").choosing(Choice::NotNext))), ["last#1"]);
}

#[test]
fn who_waits_holds_nothing_spends_nothing_and_goes_on_as_the_same_attempt() {
    let text = tasks(&[("wait", "pool = \"one\"\npriority = 1"), ("work", "pool = \"one\"")]);
    let mut bench = Bench::new(&[("one", &text)]);
    bench.pools.insert("one".to_owned(), 1);
    let (run, started) = bench.run("one");
    assert_eq!(started, ["wait#1"]);
    let later = Outcome::later(bench.now + TimeDelta::minutes(10), "waits for a file");
    assert_eq!(bench.end(&run, "wait", Ok(later.clone())), ["work#1"], "the pool is free meanwhile");
    assert_eq!(bench.why(&run, Some("wait")), "waits for a file 11:00 .. 11:10");
    bench.done(&run, "work");
    assert!(bench.pass(9).is_empty());
    assert_eq!(bench.pass(1), ["wait#1"]);
    bench.end(&run, "wait", Ok(Outcome { again_at: Some(bench.now + TimeDelta::minutes(1)), ..later }));
    assert_eq!(bench.pass(1), ["wait#1"]);
    bench.done(&run, "wait");
    assert_eq!((bench.record(&run).state, bench.task(&run, "wait").attempt), (RunState::Success, 1));
    assert_eq!(bench.history.attempts(&run).unwrap().len(), 2, "one of each task");
}

#[test]
fn a_list_is_run_item_by_item_and_hands_on_all_results_in_order() {
    let text = tasks(&[
        ("list", ""),
        (
            "each",
            "after = \"list\"\nmap = \"{{ tasks.list.result }}\"\nmap_limit = 2\nretries = 1\nretry_delay = \"1m\"\nfile = \"{{ index }}-{{ item.name }}\"",
        ),
        ("sum", "after = \"each\"\nfile = \"{{ tasks.each.result | length }}\""),
    ]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    let list = json!([{"name": "x"}, {"name": "y"}, {"name": "z"}]);
    assert_eq!(bench.end(&run, "list", Ok(Outcome::done("3").with(list))), ["each[0]#1", "each[1]#1"]);
    assert_eq!(bench.why(&run, Some("each")), "waits for the tasks of its list [each[0]] ..");
    assert!(bench.fail(&run, "each[1]").contains(&"each[2]#1".to_owned()), "its place is free while it waits");
    assert!(bench.end(&run, "each[2]", Ok(Outcome::done("").with(json!("Z")))).is_empty());
    assert!(bench.end(&run, "each[0]", Ok(Outcome::done("").with(json!("X")))).is_empty());
    assert_eq!(bench.pass(1), ["each[1]#2"], "a task of a list is tried again like any other");
    assert_eq!(bench.end(&run, "each[1]", Ok(Outcome::done("").with(json!("Y")))), ["sum#1"]);
    assert_eq!(bench.task(&run, "each").result, json!(["X", "Y", "Z"]));
    bench.done(&run, "sum");
    assert_eq!(bench.record(&run).state, RunState::Success);

    // One of them is cleared: the list is open again, the others stay.
    assert!(bench.wish(&run, "each[1]", Wish::Clear { downstream: true }));
    assert_eq!(bench.turn(), ["each[1]#3"]);
    assert_eq!(bench.end(&run, "each[1]", Ok(Outcome::done("").with(json!("why")))), ["sum#2"]);
    assert_eq!(bench.task(&run, "each").result, json!(["X", "why", "Z"]));
    bench.done(&run, "sum");

    // The whole list is cleared: its attempts go on counting.
    assert!(bench.wish(&run, "each", Wish::Clear { downstream: false }));
    assert_eq!(bench.turn(), ["each[0]#2", "each[1]#4"]);
}

#[test]
fn lists_that_are_empty_fail_or_are_none() {
    let text = tasks(&[
        ("list", ""),
        ("each", "after = \"list\"\nmap = \"{{ tasks.list.result }}\""),
        ("all", "after = \"each\""),
        ("one", "after = \"each\"\ntrigger_rule = \"one_failed\""),
    ]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    bench.end(&run, "list", Ok(Outcome::done("0").with(json!([]))));
    assert_eq!(bench.states(&run), ["list success", "each skipped", "all skipped", "one skipped"]);

    let (run, _) = bench.run("one");
    bench.end(&run, "list", Ok(Outcome::done("2").with(json!([1, 2]))));
    assert!(bench.fail(&run, "each[0]").is_empty(), "the list ends when all its tasks have");
    assert_eq!(bench.done(&run, "each[1]"), ["one#1"]);
    let each = bench.task(&run, "each");
    assert_eq!(
        (each.state, each.error.unwrap().what.as_str()),
        (TaskState::Failed, "1 of 2 items failed, the first one: no luck")
    );
    assert_eq!(bench.task(&run, "all").state, TaskState::UpstreamFailed);
    bench.done(&run, "one");

    for bad in [json!(7), Value::Null, json!(vec![0; 10_001])] {
        let (run, _) = bench.run("one");
        bench.end(&run, "list", Ok(Outcome::done("").with(bad)));
        assert_eq!(&*bench.task(&run, "each").error.unwrap().code, "D0127");
        bench.done(&run, "one");
    }
}

#[test]
fn a_retry_waits_its_time_and_only_named_errors_get_one() {
    let text = tasks(&[
        ("a", "retries = 2\nretry_delay = \"10m\""),
        ("b", "retries = 2\nretry_delay = \"10m\"\nretry_on = [\"K*\", \"F0101\"]"),
    ]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    assert!(bench.fail(&run, "a").is_empty(), "not at once");
    assert!(bench.fail(&run, "b").is_empty());
    assert_eq!(bench.task(&run, "b").state, TaskState::Failed, "X0001 is not named");
    assert!(bench.pass(7).is_empty());
    assert_eq!(bench.pass(3), ["a#2"]);
    bench.fail(&run, "a");
    assert!(bench.pass(14).is_empty(), "the second wait is twice as long");
    assert_eq!(bench.pass(6), ["a#3"]);
    bench.fail(&run, "a");
    assert_eq!(bench.record(&run).state, RunState::Failed);
}

#[test]
fn an_attempt_whose_process_died_runs_again_or_has_failed_as_the_task_says() {
    let text = tasks(&[("a", ""), ("b", "on_crash = \"fail\"\nretries = 1\nretry_delay = \"1m\"")]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    bench.gone.insert("me".to_owned());
    bench.me = "you".to_owned();
    bench.live.clear();
    assert_eq!(bench.turn(), ["a#1"]);
    let b = bench.task(&run, "b");
    assert_eq!((b.state, &*b.error.unwrap().code), (TaskState::UpForRetry, "D0126"));
    assert_eq!(bench.pass(1), ["b#2"]);
}

#[test]
fn a_failed_run_goes_on_when_its_task_is_cleared_with_a_fresh_count_of_retries() {
    let text = tasks(&[
        ("a", ""),
        ("b", "after = \"a\"\nretries = 1\nretry_delay = \"1m\""),
        ("c", "after = \"b\""),
        ("d", "after = \"a\""),
    ]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    bench.done(&run, "a");
    bench.done(&run, "d");
    bench.fail(&run, "b");
    bench.pass(1);
    bench.fail(&run, "b");
    assert_eq!(bench.states(&run), ["a success", "b failed", "c upstream_failed", "d success"]);
    assert_eq!(bench.record(&run).state, RunState::Failed);

    assert!(bench.wish(&run, "b", Wish::Clear { downstream: false }));
    let opened = bench.record(&run);
    assert_eq!((opened.state, opened.owner, opened.ended_at), (RunState::Queued, None, None));
    assert_eq!(bench.turn(), ["b#3"], "attempts go on counting, and what was done stays done");
    bench.fail(&run, "b");
    assert_eq!(bench.task(&run, "b").state, TaskState::UpForRetry, "one retry again");
    assert_eq!(bench.pass(1), ["b#4"]);
    assert_eq!(bench.done(&run, "b"), ["c#1"]);
    bench.done(&run, "c");
    assert_eq!(bench.record(&run).state, RunState::Success);
    assert!(tidemill_orchestrator::invariant::check(&bench.history).unwrap().is_empty());

    // With all that comes after it.
    assert!(bench.wish(&run, "a", Wish::Clear { downstream: true }));
    assert_eq!(bench.states(&run), ["a waiting", "b waiting", "c waiting", "d waiting"]);
    assert_eq!(bench.turn(), ["a#2"]);
}

#[test]
fn marking_a_task_gives_what_it_blocked_another_chance() {
    let text = tasks(&[("a", ""), ("b", "after = \"a\""), ("c", "after = \"b\"")]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    bench.fail(&run, "a");
    assert_eq!(bench.states(&run), ["a failed", "b upstream_failed", "c upstream_failed"]);
    assert!(bench.wish(&run, "a", Wish::Success));
    assert_eq!(bench.turn(), ["b#1"]);
    // A task that waits can be left out, too.
    assert!(bench.wish(&run, "c", Wish::Skip));
    bench.done(&run, "b");
    assert_eq!(
        (bench.states(&run).join(" "), bench.record(&run).state),
        ("a success b success c skipped".to_owned(), RunState::Success)
    );
    assert!(bench.wish(&run, "b", Wish::Failed));
    bench.turn();
    assert_eq!(bench.states(&run), ["a success", "b failed", "c upstream_failed"]);
    assert!(!bench.wish(&run, "nobody", Wish::Success));
}

#[test]
fn what_somebody_wants_of_a_running_task_is_done_when_it_has_stopped() {
    let text = tasks(&[("a", "retries = 5"), ("b", "after = \"a\"")]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    assert!(bench.wish(&run, "a", Wish::Success));
    assert!(bench.turn().is_empty());
    assert_eq!(bench.task(&run, "a").state, TaskState::Running);
    assert_eq!(bench.stopped(&run, "a"), ["b#1"]);
    assert_eq!(bench.task(&run, "a").state, TaskState::Success);
    assert!(bench.wish(&run, "b", Wish::Clear { downstream: false }));
    assert_eq!(bench.stopped(&run, "b"), ["b#2"]);
    bench.done(&run, "b");
    assert_eq!(bench.record(&run).state, RunState::Success);
    assert!(tidemill_orchestrator::invariant::check(&bench.history).unwrap().is_empty());
}

#[test]
fn anybody_can_cancel_a_run_and_one_that_waits_for_its_turn() {
    let text = tasks(&[("a", ""), ("b", "after = \"a\"")]);
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    let (second, started) = bench.run("one");
    assert!(started.is_empty());
    assert_eq!(bench.why(&second, None), format!("waits for {run} to end (max_active_runs = 1) [{run}] 11:00 .."));
    assert!(bench.ask(Change::Cancel { run: second.clone(), by: "somebody".to_owned() }));
    bench.turn();
    assert_eq!(bench.record(&second).state, RunState::Cancelled);
    assert!(bench.ask(Change::Cancel { run: run.clone(), by: "somebody".to_owned() }));
    bench.stopped(&run, "a");
    assert_eq!(
        (bench.states(&run), bench.record(&run).state),
        (vec!["a cancelled".to_owned(), "b cancelled".to_owned()], RunState::Cancelled)
    );
    assert!(!bench.ask(Change::Cancel { run, by: "somebody".to_owned() }), "it has ended");
}

#[test]
fn a_paused_dag_makes_no_runs_and_people_still_can() {
    let text = format!("[[triggers]]\nkind = \"cron\"\ncron = \"0 * * * *\"\n{}", tasks(&[("a", "")]));
    let mut bench = Bench::new(&[("one", &text)]);
    bench.pass(30);
    assert_eq!(bench.why("one", None), "waits for its next tick .. 12:00");
    assert!(bench.ask(Change::Pause { dag: "one".to_owned(), by: Some("somebody".to_owned()) }));
    assert!(!bench.ask(Change::Pause { dag: "one".to_owned(), by: Some("else".to_owned()) }));
    assert!(bench.pass(61).is_empty());
    assert_eq!(bench.why("one", None), "is paused: only people start runs of it [somebody] 11:30 ..");
    let (run, started) = bench.run("one");
    assert_eq!(started, ["a#1"]);
    bench.done(&run, "a");
    assert!(bench.ask(Change::Pause { dag: "one".to_owned(), by: None }));
    assert_eq!(bench.turn(), ["a#1"], "the tick it missed last");
}

#[test]
fn a_key_asks_for_one_run_only() {
    let bench = Bench::new(&[("one", &tasks(&[("a", "")]))]);
    let ask = |key| bench.history.enqueue_once("one", Map::new(), Map::new(), "test", Some(key), bench.now).unwrap();
    let (first, made) = ask("order-7");
    assert!(made);
    assert_eq!(ask("order-7"), (first.clone(), false));
    assert_ne!(ask("order-8").0, first);
    assert_eq!(bench.view().runs.len(), 2);
}

#[test]
fn a_backfill_makes_its_runs_in_order_beside_the_dags_own() {
    let text = format!("[[triggers]]\nkind = \"cron\"\ncron = \"0 0 * * *\"\n{}", tasks(&[("a", "")]));
    let mut bench = Bench::new(&[("one", &text)]);
    let (own, _) = bench.run("one");
    let day = |number: i64| bench.now - TimeDelta::hours(11) + TimeDelta::days(number);
    let intervals: Vec<Interval> = [2, 1, 0].map(|number| Interval { start: day(number), end: day(number + 1) }).into();
    let backfill = Backfill {
        id: "b".to_owned(),
        dag: "one".to_owned(),
        intervals: intervals.clone(),
        params: Map::new(),
        at_once: 2,
        by: "test".to_owned(),
        made: 0,
    };
    assert!(bench.ask(Change::Backfill(Box::new(backfill.clone()))));
    assert!(!bench.ask(Change::Backfill(Box::new(backfill))), "once");
    assert_eq!(bench.turn(), ["a#1", "a#1"], "two, though the DAG itself allows one run");
    let runs = || {
        let mut runs = bench.history.runs(&RunFilter { limit: 9, ..RunFilter::default() }).unwrap();
        runs.retain(|run| run.backfill().is_some());
        runs.reverse();
        runs
    };
    let first = runs()[0].clone();
    assert_eq!(runs().iter().map(|run| run.interval.unwrap()).collect::<Vec<_>>(), intervals[..2]);
    assert_eq!(bench.done(&first.id, "a"), ["a#1"]);
    let all = bench.history.runs(&RunFilter { limit: 9, ..RunFilter::default() }).unwrap();
    assert_eq!(all.len(), 4);
    for run in all.iter().filter(|run| !run.state.ended()) {
        bench.done(&run.id, "a");
    }
    assert!(bench.view().backfills.is_empty() && bench.record(&own).state == RunState::Success);
    assert!(!bench.ask(Change::EndBackfill { backfill: "b".to_owned() }), "nothing is left to make");
    assert!(tidemill_orchestrator::invariant::check(&bench.history).unwrap().is_empty());
}

#[test]
fn the_end_of_a_run_starts_others_each_time_or_once_for_all() {
    let watch = |name: &str, lines: &str, kind: &str| {
        let param = format!("[params.{name}]\ntype = \"{kind}\"\n");
        format!(
            "[[triggers]]\nkind = \"dag\"\ndag = \"source\"\n{lines}\nparam = \"{name}\"\n{param}{}",
            tasks(&[("w", "")])
        )
    };
    let mut bench = Bench::new(&[
        ("all", &watch("ends", "batch = \"all\"", "array")),
        ("each", &watch("end", "", "object")),
        ("any", &format!("max_active_runs = 9\n{}", watch("end", "when = \"any\"", "object"))),
        ("source", &format!("max_active_runs = 9\n{}", tasks(&[("a", "")]))),
    ]);
    let sources: Vec<String> = (0..4).map(|_| bench.run("source").0).collect();
    assert_eq!(bench.done(&sources[0], "a"), ["w#1", "w#1", "w#1"], "in the same step");
    bench.done(&sources[1], "a");
    bench.fail(&sources[2], "a");
    bench.done(&sources[3], "a");
    let runs = |bench: &Bench, dag: &str| {
        let filter = RunFilter { dag: Some(dag.to_owned()), limit: 9, ..RunFilter::default() };
        let mut runs = bench.history.runs(&filter).unwrap();
        runs.reverse();
        runs
    };
    assert_eq!(runs(&bench, "any").len(), 4);
    assert_eq!(runs(&bench, "each").len(), 3, "one failed");
    assert_eq!(runs(&bench, "each")[2].params["end"]["run"], json!(sources[3]));
    // The second of `all` was asked for when one more had ended; what came later is for the third.
    let ends = |bench: &Bench| {
        let all = runs(bench, "all").into_iter().map(|run| run.params["ends"].as_array().unwrap().len());
        all.collect::<Vec<_>>()
    };
    assert_eq!(ends(&bench), [1, 1]);
    let first = runs(&bench, "all")[0].id.clone();
    bench.done(&first, "w");
    assert_eq!(ends(&bench), [1, 1, 1]);
    assert!(bench.view().events.is_empty(), "each has started its runs");
    assert!(tidemill_orchestrator::invariant::check(&bench.history).unwrap().is_empty());
}

#[test]
fn what_happened_while_a_run_waits_is_one_run_with_all() {
    let text = format!(
        "[[triggers]]\nkind = \"table\"\ntable = \"silver.movies\"\nbatch = \"all\"\nparam = \"versions\"\n[params.versions]\ntype = \"array\"\n{}",
        tasks(&[("w", "")])
    );
    let mut bench = Bench::new(&[("one", &text)]);
    assert_eq!(bench.why("one", None), "waits for a new version of `silver.movies` ..");
    let version = |number: u32, past| Change::Event {
        event: Box::new(Event { dag: "one".to_owned(), trigger: 0, key: number.to_string(), body: json!(number) }),
        end_of: None,
        past,
    };
    assert!(bench.ask(version(7, true)) && !bench.ask(version(7, false)), "it was there before anybody watched");
    assert!(bench.turn().is_empty());
    for number in 8..12 {
        assert!(bench.ask(version(number, false)));
    }
    assert_eq!(bench.turn(), ["w#1"]);
    assert_eq!(bench.view().runs[0].run.params["versions"], json!([8, 9, 10, 11]));
}

#[test]
fn people_are_told_in_the_transaction_of_what_happened_and_of_a_missed_deadline_once() {
    let text = format!(
        "deadline = \"1h\"\non_failure = {{ command = \"cat\" }}\non_deadline = [{{ webhook = \"http://127.0.0.1:9/x\" }}]\n{}",
        tasks(&[(
            "a",
            "deadline = \"30m\"\non_deadline = { command = \"cat\" }\nretries = 1\nretry_delay = \"1m\"\non_retry = { command = \"cat\" }\non_success = { command = \"cat\" }"
        )])
    );
    let mut bench = Bench::new(&[("one", &text)]);
    let (run, _) = bench.run("one");
    let told = |bench: &Bench| {
        let calls = bench.view().calls;
        calls
            .iter()
            .map(|call| format!("{} {}", call.body["event"], call.body["task"]))
            .collect::<Vec<_>>()
            .join(", ")
            .replace('"', "")
    };
    bench.fail(&run, "a");
    assert_eq!(told(&bench), "retry a");
    bench.pass(29);
    assert_eq!(told(&bench), "retry a");
    bench.pass(1);
    bench.pass(1);
    assert_eq!(told(&bench), "retry a, deadline a", "once");
    bench.pass(60);
    assert_eq!(told(&bench), "retry a, deadline a, deadline null");
    bench.fail(&run, "a");
    assert_eq!(told(&bench), "retry a, deadline a, deadline null, failure null");
    let last = bench.view().calls.pop().unwrap();
    assert_eq!((&last.body["run"], &last.body["error"]["code"]), (&json!(run), &json!("X0001")));
    let again =
        |tries| Change::Called { call: last.id.clone(), tries, again_at: Some(bench.now + TimeDelta::minutes(1)) };
    assert!(bench.ask(again(0)) && !bench.ask(again(0)), "each try is counted once");
    assert!(bench.ask(Change::Called { call: last.id.clone(), tries: 1, again_at: None }));
    assert_eq!(bench.view().calls.len(), 3);
}

#[test]
fn waiting_is_explained_by_one_fact() {
    let text = tasks(&[("a", "retries = 1\nretry_delay = \"10m\""), ("b", "after = \"a\"")]);
    let mut bench = Bench::new(&[("one", &text)]);
    assert_eq!(bench.why("one", None), "is started by people only: `tidemill dags trigger` ..");
    let (run, _) = bench.run("one");
    assert_eq!(bench.why(&run, Some("b")), "waits for task `a`, which is running [a] 11:00 .. 11:07");
    assert_eq!(bench.why(&run, Some("a")), "is running, attempt 1 11:00 .. 11:07");
    bench.fail(&run, "a");
    assert!(bench.why(&run, Some("a")).starts_with("waits to be tried again after attempt 1: no luck .. 11:"));
    assert_eq!(bench.why(&run, Some("nobody")), "is no task of this run ..");
}

#[test]
fn a_run_that_ends_before_it_begins_is_told_of_and_starts_what_waits_for_its_end() {
    let watched = format!(
        "on_failure = {{ webhook = \"http://127.0.0.1:9/\" }}\n[params.day]\ntype = \"integer\"\ndefault = 1\n{}",
        tasks(&[("a", "")])
    );
    let watching = format!("[[triggers]]\nkind = \"dag\"\ndag = \"one\"\nwhen = \"any\"\n{}", tasks(&[("b", "")]));
    let mut bench = Bench::new(&[("one", &watched), ("two", &watching)]);
    let of_two = |bench: &Bench| {
        let filter = RunFilter { dag: Some("two".to_owned()), limit: 9, ..RunFilter::default() };
        bench.history.runs(&filter).unwrap().len()
    };

    // Waits for its turn, and is stopped there.
    bench.run("one");
    let (waiting, started) = bench.run("one");
    assert!(started.is_empty());
    assert!(bench.ask(Change::Cancel { run: waiting.clone(), by: "somebody".to_owned() }));
    assert_eq!(bench.turn(), ["b#1"]);
    assert_eq!((bench.record(&waiting).state, of_two(&bench)), (RunState::Cancelled, 1));
    assert!(bench.view().calls.is_empty(), "who stops it knows");

    // Cannot begin with what it was given.
    let params = json!({"day": "monday"}).as_object().unwrap().clone();
    let mut bench = Bench::new(&[("one", &watched), ("two", &watching)]);
    let broken = bench.history.enqueue("one", params, Map::new(), "test", bench.now).unwrap();
    assert_eq!(bench.turn(), ["b#1"]);
    assert_eq!((bench.record(&broken).state, of_two(&bench)), (RunState::Failed, 1));
    let told: Vec<Value> = bench.view().calls.into_iter().map(|call| call.body).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["event"], &told[0]["run"]), (&json!("failure"), &json!(broken)));
}

/// Thousands of tasks in a row, or before one, must not cost their square.
#[test]
fn a_wide_and_a_deep_run_come_to_their_end() {
    const COUNT: usize = 2_000;
    let mut all: Vec<(String, String)> = (0..COUNT).map(|number| (format!("w{number}"), String::new())).collect();
    let names: Vec<String> = all.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    all.push(("last".to_owned(), format!("after = [{}]", names.join(", "))));
    let deep = (0..COUNT).map(|number| {
        let after = if number == 0 { String::new() } else { format!("after = \"d{}\"", number - 1) };
        (format!("d{number}"), after)
    });
    all.extend(deep);
    let all: Vec<(&str, &str)> = all.iter().map(|(name, lines)| (name.as_str(), lines.as_str())).collect();
    let mut bench = Bench::new(&[("big", &tasks(&all))]);
    bench.slots = usize::MAX;
    let (run, started) = bench.run("big");
    assert_eq!(started.len(), COUNT + 1);
    for (run, task) in bench.live.keys().cloned().collect::<Vec<_>>() {
        let attempt = bench.live.remove(&(run.clone(), task.clone())).unwrap();
        bench.ended.push(Ended { run, task, attempt, how: Some(Ok(Outcome::done("done"))) });
    }
    let mut started = bench.turn();
    started.sort();
    assert_eq!(started, ["d1#1", "last#1"]);
    assert!(bench.done(&run, "last").is_empty());
    assert_eq!(bench.fail(&run, "d1"), [""; 0]);
    assert_eq!(bench.record(&run).state, RunState::Failed, "what comes after it was settled in one step");
    assert_eq!(bench.task(&run, &format!("d{}", COUNT - 1)).state, TaskState::UpstreamFailed);
}
