//! The scheduler in a world of random crashes, slow processes, jumping clocks and unreliable tasks. Everything follows from the seed.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::dag::{
    Batch, Dag, Dags, EventOf, EventTrigger, FileTrigger, KeyUse, MapOver, OnCrash, PoolUse, ScheduleTrigger, TaskDef,
    TaskPolicy, Trigger,
};
use crate::history::memory::MemoryHistory;
use crate::history::{Applied, Backfill, Change, History, HistoryError, HistoryView, RunFilter};
use crate::invariant::{Violation, check};
use crate::plan::amend::{Wish, amend};
use crate::plan::standing::Standings;
use crate::plan::{Action, Arrived, Ended, Scope, Situation, decide, decide_on};
use crate::retry::RetryPolicy;
use crate::rule::RULES;
use crate::run::{Choice, Interval, TaskState};
use crate::schedule::Schedule;
use crate::scheduler::replica::Replica;
use crate::task::{Outcome, Retry, TaskError};
use crate::trigger::FileId;

/// What a simulation did.
#[derive(Debug, Clone, Default)]
pub struct SimReport {
    /// Runs made.
    pub runs: usize,
    /// Attempts started.
    pub attempts: usize,
    /// Processes that died.
    pub crashes: usize,
    /// Leases that were lost by processes that live.
    pub lost: usize,
    /// How often a process decided on what it had in mind, without reading the history again.
    pub followed: usize,
    /// What broke.
    pub violations: Vec<Violation>,
}

/// Runs a world of `steps` random steps, then lets it come to rest. The same seed gives the same world.
///
/// # Errors
/// If the history in memory fails, which it does not.
pub fn sim(seed: u64, steps: u32) -> Result<SimReport, HistoryError> {
    live(World::new(seed), steps)
}

/// Runs a world as [`sim`] does, where processes also lose their leases: others take their runs while they still work, and they find out later.
///
/// # Errors
/// If the history in memory fails, which it does not.
pub fn sim_of_lost_leases(seed: u64, steps: u32) -> Result<SimReport, HistoryError> {
    live(World { lossy: true, ..World::new(seed) }, steps)
}

fn live(mut world: World, steps: u32) -> Result<SimReport, HistoryError> {
    for _ in 0..steps {
        world.step()?;
        if !world.report.violations.is_empty() {
            return Ok(world.report);
        }
    }
    world.rest()?;
    Ok(world.report)
}

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides.max(1)
    }

    fn pick(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll(sides as u64)).unwrap_or_default()
    }

    fn small(&mut self, sides: u32) -> u32 {
        u32::try_from(self.roll(u64::from(sides))).unwrap_or_default()
    }

    fn seconds(&mut self, below: u32) -> TimeDelta {
        TimeDelta::seconds(i64::from(self.small(below)))
    }
}

/// One process.
struct Process {
    id: String,
    live: BTreeMap<(String, String), u32>,
    ended: Vec<Ended>,
    /// Looked at the history some time ago and has not decided yet.
    stale: Option<HistoryView>,
    /// What it keeps of the history in mind.
    replica: Replica,
}

struct World {
    dice: Dice,
    dags: Dags,
    history: MemoryHistory,
    now: DateTime<Utc>,
    processes: Vec<Process>,
    gone: BTreeSet<String>,
    files: Vec<Arrived>,
    born: u32,
    /// Whether leases are lost.
    lossy: bool,
    /// Processes that lost their lease and have not looked since.
    astray: BTreeSet<String>,
    report: SimReport,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let dags = (0..=dice.small(3)).map(|number| random_dag(number, &mut dice)).collect();
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + dice.seconds(86_400);
        let mut world = Self {
            dice,
            dags,
            history: MemoryHistory::default(),
            now,
            processes: Vec::new(),
            gone: BTreeSet::new(),
            files: Vec::new(),
            born: 0,
            lossy: false,
            astray: BTreeSet::new(),
            report: SimReport::default(),
        };
        for _ in 0..=world.dice.small(2) {
            world.start();
        }
        world
    }

    fn start(&mut self) {
        self.born += 1;
        let id = format!("process-{}", self.born);
        self.processes.push(Process {
            id,
            live: BTreeMap::new(),
            ended: Vec::new(),
            stale: None,
            replica: Replica::default(),
        });
    }

    fn step(&mut self) -> Result<(), HistoryError> {
        let who = self.dice.pick(self.processes.len());
        if self.lossy && self.dice.roll(10) == 0 {
            // Its lease has run out; it is renewed when it looks again.
            let id = self.processes[who].id.clone();
            self.gone.insert(id.clone());
            self.astray.insert(id);
            self.report.lost += 1;
        }
        match self.dice.roll(20) {
            0 => {
                let dead = self.processes.swap_remove(who);
                self.astray.remove(&dead.id);
                self.gone.insert(dead.id);
                self.report.crashes += 1;
                self.start();
            }
            1 => {
                // A clock jump, either way.
                let by = self.dice.seconds(7_200) - TimeDelta::hours(1);
                self.now += by;
            }
            2 | 3 => self.arrive(),
            4 => {
                let dags: Vec<String> = self.dags.iter().map(|dag| dag.id.clone()).collect();
                let dag = &dags[self.dice.pick(dags.len())];
                self.history.enqueue(
                    dag,
                    serde_json::Map::default(),
                    serde_json::Map::default(),
                    "somebody",
                    self.now,
                )?;
            }
            5 => self.processes[who].stale = Some(self.history.view(&self.continuous())?),
            6 => self.wish()?,
            7..=11 => self.finish(who, false),
            _ => {
                self.now += self.dice.seconds(20);
                self.turn(who)?;
            }
        }
        self.judge()
    }

    fn arrive(&mut self) {
        let now = self.now.timestamp_micros();
        let places: Vec<(String, usize)> = self
            .dags
            .iter()
            .flat_map(|dag| {
                dag.triggers
                    .iter()
                    .enumerate()
                    .filter(|(_, trigger)| matches!(trigger, Trigger::File(_)))
                    .map(|(index, _)| (dag.id.clone(), index))
            })
            .collect();
        for (dag, trigger) in places {
            let file = FileId {
                path: format!("in/{}.txt", self.dice.roll(3)),
                size: self.dice.roll(2),
                modified: now / 60_000_000,
            };
            self.files.push(Arrived { dag, trigger, file });
        }
    }

    /// Somebody pauses a DAG or lets it go on, cancels a run, asks for a backfill, or wants something of tasks.
    fn wish(&mut self) -> Result<(), HistoryError> {
        let dags: Vec<Arc<Dag>> = self.dags.iter().cloned().collect();
        let dag = Arc::clone(&dags[self.dice.pick(dags.len())]);
        let runs = self.history.runs(&RunFilter { limit: 8, ..RunFilter::default() })?;
        let run = (!runs.is_empty()).then(|| runs[self.dice.pick(runs.len())].id.clone());
        let change = match (self.dice.roll(8), run) {
            (0, _) => {
                let by = (self.dice.roll(2) == 0).then(|| "somebody".to_owned());
                Change::Pause { dag: dag.id.clone(), by }
            }
            (1, Some(run)) => Change::Cancel { run, by: "somebody".to_owned() },
            (2, _) => {
                let hour = |number: i64| self.now + TimeDelta::hours(number);
                let intervals = (0..4).map(|number| Interval { start: hour(number), end: hour(number + 1) }).collect();
                let at_once = 1 + self.dice.small(2);
                Change::Backfill(Box::new(Backfill {
                    id: format!("backfill-{}", self.dice.roll(1_000_000)),
                    dag: dag.id.clone(),
                    intervals,
                    params: serde_json::Map::default(),
                    at_once,
                    by: "somebody".to_owned(),
                    made: 0,
                }))
            }
            (_, Some(run)) => {
                let (Some(definition), tasks) = (self.history.definition(&run)?, self.history.tasks(&run)?) else {
                    return Ok(());
                };
                let of: Vec<String> = vec![tasks[self.dice.pick(tasks.len())].task.clone()];
                let wish = match self.dice.roll(5) {
                    0 => Wish::Success,
                    1 => Wish::Failed,
                    2 => Wish::Skip,
                    number => Wish::Clear { downstream: number == 3 },
                };
                let Some(change) = amend(&definition, &run, &tasks, &of, wish) else { return Ok(()) };
                change
            }
            _ => return Ok(()),
        };
        // Whatever people want, what does not fit is refused.
        self.history.apply("somebody", self.now, &[change])?;
        Ok(())
    }

    fn continuous(&self) -> Vec<String> {
        self.dags.iter().filter(|dag| dag.triggers.contains(&Trigger::Continuous)).map(|dag| dag.id.clone()).collect()
    }

    /// Ends one attempt of a process; kindly when the world comes to rest.
    fn finish(&mut self, who: usize, kindly: bool) {
        let process = &mut self.processes[who];
        let choice = self.dice.pick(process.live.len());
        let Some(((run, task), attempt)) =
            process.live.iter().nth(choice).map(|(key, attempt)| (key.clone(), *attempt))
        else {
            return;
        };
        let how = match self.dice.roll(13) {
            0 | 1 if !kindly => Err(TaskError::new("X0001", "bad luck", Retry::Later)),
            2 if !kindly => Err(TaskError::new("X0002", "hopeless", Retry::Never)),
            3 => Ok(Outcome::skipped("nothing")),
            4 if !kindly => Ok(Outcome::later(self.now + TimeDelta::minutes(5), "waits")),
            5 => Ok(Outcome::done("chose").choosing(Choice::Only(vec!["t3".to_owned(), "t4".to_owned()]))),
            6 => Ok(Outcome::done("stopped").choosing(if kindly { Choice::NotNext } else { Choice::Nothing })),
            7 => Ok(Outcome::done("listed").with(serde_json::json!([1, 2, 3]))),
            _ => Ok(Outcome::done("done")),
        };
        process.live.remove(&(run.clone(), task.clone()));
        process.ended.push(Ended { run, task, attempt, how: Some(how) });
    }

    /// One turn of the loop: look (or use what was seen earlier), decide, record, start.
    fn turn(&mut self, who: usize) -> Result<bool, HistoryError> {
        let stale = self.processes[who].stale.take();
        let decided_on_mind = stale.is_none();
        let version = self.history.version()?;
        let view = match stale {
            Some(view) => view,
            None => self.history.view(&self.continuous())?,
        };
        if decided_on_mind {
            self.remember(who, &view, version);
            self.come_back(who, &view);
        }
        let mut arrived = Vec::new();
        for file in &self.files {
            if !self.history.unseen(&file.dag, std::slice::from_ref(&file.file))?.is_empty() {
                arrived.push(file.clone());
            }
        }
        let process = &mut self.processes[who];
        let live: BTreeSet<(String, String)> = process.live.keys().cloned().collect();
        let none = BTreeSet::new();
        let pools: BTreeMap<String, u32> = [("few".to_owned(), 2)].into();
        let situation = Situation {
            now: self.now,
            me: &process.id,
            scope: &Scope::All,
            gone: &self.gone,
            live: &live,
            ended: &process.ended,
            arrived: &arrived,
            cancelled: &none,
            slots: 4,
            pools: &pools,
            stopping: false,
        };
        let actions = if decided_on_mind {
            let replica = &mut process.replica;
            decide_on(&self.dags, &replica.view, &mut replica.standings, &situation)
        } else {
            decide(&self.dags, &view, &situation)
        };
        if decided_on_mind && process.replica.standings != Standings::of(&view.runs) {
            self.report.violations.push(Violation { id: "R10", what: "a decision left something behind".to_owned() });
        }
        let changes: Vec<Change> = actions
            .iter()
            .map(|action| match action {
                Action::Record(change) | Action::Launch(change, _) => change.clone(),
            })
            .collect();
        let me = process.id.clone();
        // What has ended is kept until it is recorded: a stale view may not have known the attempt.
        let before: BTreeSet<(String, String)> = self.ended_tasks(&view);
        let Applied { accepted, version } = self.history.apply_at(&me, self.now, &changes, version)?;
        let fresh = self.history.view(&[])?;
        let process = &mut self.processes[who];
        let followed = changes.iter().zip(&accepted).filter(|(_, accepted)| **accepted).map(|(change, _)| change);
        // What was decided on an older view does not follow from what is in mind.
        process.replica.follow(&me, self.now, followed, version.filter(|_| decided_on_mind));
        process.ended.retain(|ended| {
            fresh.runs.iter().any(|active| {
                active.run.id == ended.run
                    && active.run.owner.as_ref() == Some(&me)
                    && active.tasks.iter().any(|task| {
                        task.task == ended.task && task.attempt == ended.attempt && task.state == TaskState::Running
                    })
            })
        });
        let mut moved = false;
        for (action, accepted) in actions.into_iter().zip(accepted) {
            moved |= accepted;
            let Action::Launch(_, work) = action else { continue };
            if !accepted {
                continue;
            }
            let key = (work.run.id.clone(), work.task.id.clone());
            if before.contains(&key) {
                self.report
                    .violations
                    .push(Violation { id: "R2", what: format!("{key:?} started after it had ended") });
            }
            // Whoever is astray does not know yet that it is somebody else's; nothing it says of it is taken.
            let aware = |process: &&Process| !self.astray.contains(&process.id);
            if self.processes.iter().filter(aware).any(|process| process.live.contains_key(&key)) {
                self.report.violations.push(Violation { id: "R1", what: format!("{key:?} started twice") });
            }
            self.report.attempts += 1;
            // An attempt that put itself off until now goes on in the same step: its end is recorded.
            self.processes[who].ended.retain(|ended| (&ended.run, &ended.task) != (&key.0, &key.1));
            self.processes[who].live.insert(key, work.attempt);
        }
        Ok(moved)
    }

    /// A process that lost its lease has it again, and stops what it runs of runs that are not its own any more.
    fn come_back(&mut self, who: usize, view: &HistoryView) {
        let process = &mut self.processes[who];
        if self.astray.remove(&process.id) {
            self.gone.remove(&process.id);
            let owner = |run: &str| view.runs.iter().find(|active| active.run.id == run)?.run.owner.as_ref();
            process.live.retain(|(run, _), _| owner(run) == Some(&process.id));
        }
    }

    /// Reads what a process does not know of the history, and compares what it knows with what is so.
    fn remember(&mut self, who: usize, view: &HistoryView, version: u64) {
        let last_of = self.continuous();
        let replica = &mut self.processes[who].replica;
        if !replica.is(version, &last_of) {
            replica.load(view.clone(), last_of, version);
            return;
        }
        let mut known = replica.view.clone();
        for (active, standing) in known.runs.iter_mut().zip(&replica.standings.0) {
            active.tasks = standing.as_ref().map(|standing| standing.tasks().to_vec()).unwrap_or_default();
        }
        self.report.followed += 1;
        if known != *view {
            let (known, view) = (format!("{known:?}"), format!("{view:?}"));
            let same = known.chars().zip(view.chars()).take_while(|(one, other)| one == other).count();
            let from = |text: &str| text.chars().skip(same.saturating_sub(80)).take(200).collect::<String>();
            let what = format!("a process has `{}` in mind, the history has `{}`", from(&known), from(&view));
            self.report.violations.push(Violation { id: "R10", what });
        }
    }

    fn ended_tasks(&self, view: &HistoryView) -> BTreeSet<(String, String)> {
        view.runs
            .iter()
            .flat_map(|active| self.history.tasks(&active.run.id).unwrap_or_default())
            .filter(|task| task.state.ended())
            .map(|task| (task.run, task.task))
            .collect()
    }

    /// What is held, and how many runs of each backfill are open.
    fn limits(&mut self) -> Result<(), HistoryError> {
        let view = self.history.view(&[])?;
        let mut held: BTreeMap<&str, u32> = BTreeMap::new();
        for holding in &view.holdings {
            *held.entry(&holding.name).or_default() += holding.slots;
            let runs = self.history.tasks(&holding.run)?.into_iter();
            let running = runs.filter(|task| task.task == holding.task && task.state == TaskState::Running).count();
            if running != 1 {
                let what = format!("{}.{} holds {} and does not run", holding.run, holding.task, holding.name);
                self.report.violations.push(Violation { id: "R8", what });
            }
        }
        for (name, slots) in held {
            let limit = match name.split_once(' ') {
                Some(("pool", _)) => 2,
                Some(("dag", dag)) => self.dags.get(dag).and_then(|dag| dag.max_active_tasks).unwrap_or(u32::MAX),
                _ => 1,
            };
            if slots > limit {
                self.report
                    .violations
                    .push(Violation { id: "R8", what: format!("{slots} of {limit} of {name} are held") });
            }
        }
        for backfill in &view.backfills {
            let open = view.runs.iter().filter(|active| active.run.backfill() == Some(&backfill.id)).count();
            // Runs that somebody opened again are not made by the backfill.
            let reopened = view.runs.iter().filter(|active| active.run.amended > 0).count();
            if open > backfill.at_once as usize + reopened {
                self.report
                    .violations
                    .push(Violation { id: "R9", what: format!("{open} runs of {} are open", backfill.id) });
            }
        }
        Ok(())
    }

    fn judge(&mut self) -> Result<(), HistoryError> {
        self.report.violations.extend(check(&self.history)?);
        self.limits()?;
        self.report.runs = self.history.runs(&RunFilter { limit: usize::MAX, ..Default::default() })?.len();
        Ok(())
    }

    /// No more disturbances: everything must end. Triggers are taken away, definitions stay.
    fn rest(&mut self) -> Result<(), HistoryError> {
        self.files.clear();
        self.dags = self.dags.iter().map(|dag| Dag { triggers: Vec::new(), ..Dag::clone(dag) }).collect();
        for _ in 0..10_000 {
            self.now += TimeDelta::hours(2);
            let paused: Vec<String> = self.history.view(&[])?.paused.into_keys().collect();
            for dag in paused {
                self.history.apply("somebody", self.now, &[Change::Pause { dag, by: None }])?;
            }
            for who in 0..self.processes.len() {
                let id = &self.processes[who].id;
                (self.lossy && self.astray.remove(id)).then(|| self.gone.remove(id));
                self.processes[who].stale = None;
                self.turn(who)?;
                while !self.processes[who].live.is_empty() {
                    self.finish(who, true);
                }
                self.turn(who)?;
            }
            let view = self.history.view(&[])?;
            if view.runs.is_empty() && view.backfills.is_empty() {
                return self.judge();
            }
        }
        let open: Vec<String> = self
            .history
            .view(&[])?
            .runs
            .into_iter()
            .map(|active| {
                let tasks = active.tasks.iter().filter(|task| !task.state.ended());
                let tasks: Vec<String> =
                    tasks.map(|task| format!("{} {} wanted {:?}", task.task, task.state, task.wanted)).collect();
                format!("{} {} cancel {:?}: {tasks:?}", active.run.id, active.run.state, active.run.cancel)
            })
            .collect();
        self.report.violations.push(Violation { id: "R7", what: format!("still open: {open:?}") });
        self.judge()
    }
}

fn random_dag(number: u32, dice: &mut Dice) -> Dag {
    let tasks = (0..=dice.small(6))
        .map(|index| TaskDef {
            id: format!("t{index}"),
            kind: "script".to_owned(),
            after: (0..index).filter(|_| dice.roll(3) == 0).map(|before| format!("t{before}")).collect(),
            retry: RetryPolicy { retries: dice.small(3), ..RetryPolicy::default() },
            timeout: None,
            rule: if dice.roll(2) == 0 { RULES[dice.pick(RULES.len())].1 } else { RULES[0].1 },
            policy: TaskPolicy {
                priority: i32::try_from(dice.small(3)).unwrap_or_default(),
                pool: (dice.roll(3) == 0).then(|| PoolUse { name: "few".to_owned(), slots: 1 + dice.small(3) }),
                key: (dice.roll(4) == 0).then(|| KeyUse { key: "{{ run.dag }}".to_owned(), limit: 1 }),
                on_crash: if dice.roll(4) == 0 { OnCrash::Fail } else { OnCrash::Rerun },
                map: (dice.roll(5) == 0).then(|| MapOver {
                    over: serde_json::json!([1, "two", {"three": 3}]),
                    at_once: (dice.roll(2) == 0).then_some(1),
                }),
                ..TaskPolicy::default()
            },
            about: String::new(),
            settings: serde_json::Map::new(),
        })
        .collect();
    let mut triggers = Vec::new();
    if dice.roll(2) == 0
        && let Ok(schedule) = Schedule::cron("*/5 * * * *", chrono_tz::UTC)
    {
        let catch_up = dice.roll(2) == 0;
        let catch_up_limit = (dice.roll(2) == 0).then(|| 1 + dice.small(4));
        triggers.push(Trigger::Schedule(Box::new(ScheduleTrigger { schedule, start: None, catch_up, catch_up_limit })));
    }
    if dice.roll(2) == 0 {
        triggers.push(Trigger::File(FileTrigger {
            path: "in/*.txt".to_owned(),
            param: None,
            settle: std::time::Duration::ZERO,
            marker: None,
            min_size: 0,
        }));
    }
    if dice.roll(3) == 0 {
        triggers.push(Trigger::Continuous);
    }
    if number > 0 && dice.roll(2) == 0 {
        let of = EventOf::Dag { dag: format!("dag{}", number - 1), any_end: dice.roll(2) == 0 };
        let batch = if dice.roll(2) == 0 { Batch::Each } else { Batch::All };
        triggers.push(Trigger::Event(EventTrigger { of, batch, param: None }));
    }
    Dag {
        id: format!("dag{number}"),
        description: String::new(),
        tags: Vec::new(),
        max_active_runs: 1 + dice.small(3),
        max_active_tasks: (dice.roll(3) == 0).then(|| 1 + dice.small(2)),
        deadline: None,
        calls: Vec::new(),
        triggers,
        params: Vec::new(),
        tasks,
        file: std::path::PathBuf::new(),
    }
}
