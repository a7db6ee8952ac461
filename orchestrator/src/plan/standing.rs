//! How a run stands: its tasks, and what follows from them for the next decision. It is kept true task by task, so that a decision costs as much as
//! what has changed, not as much as there is.
//!
//! Everything here follows from the definition and the tasks alone: [`Standing::set`] after [`Standing::new`] gives what `new` of the changed tasks
//! would give (the simulator compares the two).
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use chrono::{DateTime, Utc};

use crate::dag::{Dag, TaskDef};
use crate::history::ActiveRun;
use crate::rule::{Tally, Verdict};
use crate::run::{Choice, TaskInstance, TaskState};

/// The place of a task among those that may start: the highest priority first, then the order of the file.
pub(super) type Turn = (Reverse<i32>, usize);

/// One run. A *place* is an index into `tasks`, a *task* (`of`) one into the tasks of the definition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Standing {
    tasks: Vec<TaskInstance>,
    places: HashMap<String, usize>,
    /// The task in the definition of each place.
    of: Vec<usize>,
    /// The rest is by task of the definition: its own place, the tasks directly before and after it, the places of its items.
    place: Vec<usize>,
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
    items: Vec<Range<usize>>,
    /// Items that have not ended, and those that run.
    open_items: Vec<usize>,
    running_items: Vec<usize>,
    /// How the tasks directly before it stand; each task of a list counts for itself once the list has ended, as in Airflow.
    upstream: Vec<Tally>,
    /// Tasks with a deadline of their own.
    deadlines: Vec<usize>,
    /// Places that have not ended.
    open: usize,
    /// How many tasks have succeeded and chosen among those after them.
    choices: usize,
    running: BTreeSet<usize>,
    /// Places that wait for a time: tried again, or put off.
    later: BTreeSet<(Option<DateTime<Utc>>, usize)>,
    ready: BTreeSet<Turn>,
    /// Tasks that can be settled now: skipped, blocked, made a list, or a list that can end.
    unsettled: BTreeSet<usize>,
}

/// The standings of the runs of a view, in its order; `None` for runs that have no tasks yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Standings(pub(crate) Vec<Option<Standing>>);

impl Standings {
    pub(crate) fn of(runs: &[ActiveRun]) -> Self {
        let standing = |active: &ActiveRun| {
            let definition = active.definition.as_ref()?;
            Some(Standing::new(definition, active.tasks.clone()))
        };
        Self(runs.iter().map(standing).collect())
    }
}

impl Standing {
    pub(crate) fn new(dag: &Dag, tasks: Vec<TaskInstance>) -> Self {
        let number: HashMap<&str, usize> =
            dag.tasks.iter().enumerate().map(|(index, task)| (task.id.as_str(), index)).collect();
        let before: Vec<Vec<usize>> = dag
            .tasks
            .iter()
            .map(|task| task.after.iter().filter_map(|id| number.get(id.as_str()).copied()).collect())
            .collect();
        let mut after = vec![Vec::new(); dag.tasks.len()];
        for (task, all) in before.iter().enumerate() {
            for other in all {
                after[*other].push(task);
            }
        }
        // A task of no definition would be a broken history; it is left out of everything.
        let (tasks, of): (Vec<TaskInstance>, Vec<usize>) = tasks
            .into_iter()
            .filter_map(|task| {
                let of = number.get(task.defined()).copied()?;
                Some((task, of))
            })
            .unzip();
        let mut place = vec![usize::MAX; dag.tasks.len()];
        let mut items: Vec<Range<usize>> = vec![0..0; dag.tasks.len()];
        for (at, task) in tasks.iter().enumerate() {
            match &task.item {
                None => place[of[at]] = at,
                Some(_) if items[of[at]].is_empty() => items[of[at]] = at..at + 1,
                Some(_) => items[of[at]].end = at + 1,
            }
        }
        let deadline = |index: &usize| dag.tasks[*index].policy.deadline.is_some();
        let mut standing = Self {
            places: tasks.iter().enumerate().map(|(place, task)| (task.task.clone(), place)).collect(),
            open_items: vec![0; dag.tasks.len()],
            running_items: vec![0; dag.tasks.len()],
            upstream: vec![Tally::default(); dag.tasks.len()],
            deadlines: (0..dag.tasks.len()).filter(deadline).collect(),
            open: 0,
            choices: 0,
            running: BTreeSet::new(),
            later: BTreeSet::new(),
            ready: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            tasks,
            of,
            place,
            before,
            after,
            items,
        };
        for place in 0..standing.tasks.len() {
            standing.count(place, true);
        }
        for task in 0..dag.tasks.len() {
            standing.tally(task, true);
        }
        for task in 0..dag.tasks.len() {
            standing.judge(dag, task);
            standing.judge_items(dag, task);
        }
        standing
    }

    /// Changes a task; gives it as it was.
    pub(crate) fn set(&mut self, dag: &Dag, place: usize, new: TaskInstance) -> TaskInstance {
        let of = self.of[place];
        let is_item = new.item.is_some();
        let chosen = self.choices;
        let had_chosen = chosen_by(&self.tasks[place]).is_some();
        self.count(place, false);
        let moves = self.tasks[place].state != new.state;
        let ended = !is_item || self.state(of).is_some_and(TaskState::ended);
        if moves && ended {
            self.tally(of, false);
        }
        let old = std::mem::replace(&mut self.tasks[place], new);
        self.count(place, true);
        if moves && ended {
            self.tally(of, true);
        }
        if chosen != self.choices || had_chosen && old.choice != self.tasks[place].choice {
            (0..self.place.len()).for_each(|task| self.judge(dag, task));
        } else if moves && ended {
            for next in 0..self.after[of].len() {
                self.judge(dag, self.after[of][next]);
            }
        }
        self.judge(dag, of);
        if is_item {
            self.judge_item(dag, of, place);
        } else if moves {
            self.judge_items(dag, of);
        }
        old
    }

    /// Counts a place in, or out.
    fn count(&mut self, place: usize, counts: bool) {
        let (task, of) = (&self.tasks[place], self.of[place]);
        let change = |number: &mut usize| *number = if counts { *number + 1 } else { number.saturating_sub(1) };
        if !task.state.ended() {
            change(&mut self.open);
        }
        if chosen_by(task).is_some() {
            change(&mut self.choices);
        }
        if task.item.is_some() && !task.state.ended() {
            change(&mut self.open_items[of]);
        }
        if task.item.is_some() && task.state == TaskState::Running {
            change(&mut self.running_items[of]);
        }
        match (task.state, counts) {
            (TaskState::Running, true) => {
                self.running.insert(place);
            }
            (TaskState::Running, false) => {
                self.running.remove(&place);
            }
            (TaskState::UpForRetry | TaskState::Deferred, true) => {
                self.later.insert((task.retry_at, place));
            }
            (TaskState::UpForRetry | TaskState::Deferred, false) => {
                self.later.remove(&(task.retry_at, place));
            }
            _ => {}
        }
    }

    /// Counts a task in, or out, of what is directly before the tasks after it.
    fn tally(&mut self, of: usize, counts: bool) {
        let Some(own) = self.state(of) else { return };
        let places = if own.ended() && !self.items[of].is_empty() {
            self.items[of].clone()
        } else {
            self.place[of]..self.place[of] + 1
        };
        for next in 0..self.after[of].len() {
            let tally = &mut self.upstream[self.after[of][next]];
            for task in &self.tasks[places.clone()] {
                if counts { tally.add(task.state) } else { tally.take(task.state) }
            }
        }
    }

    /// Notes what can be done about a task now.
    fn judge(&mut self, dag: &Dag, of: usize) {
        let Some(state) = self.state(of) else { return };
        let turn = turn(dag, of, self.place[of]);
        self.unsettled.remove(&of);
        self.ready.remove(&turn);
        let lists = dag.tasks[of].policy.map.is_some();
        match state {
            TaskState::Waiting => match self.verdict(dag, of) {
                Verdict::Wait => {}
                Verdict::Ready if !lists => {
                    self.ready.insert(turn);
                }
                Verdict::Ready | Verdict::Skip | Verdict::UpstreamFailed => {
                    self.unsettled.insert(of);
                }
            },
            TaskState::Mapped if !self.items[of].is_empty() && self.open_items[of] == 0 => {
                self.unsettled.insert(of);
            }
            _ => {}
        }
    }

    fn judge_items(&mut self, dag: &Dag, of: usize) {
        for place in self.items[of].clone() {
            self.judge_item(dag, of, place);
        }
    }

    fn judge_item(&mut self, dag: &Dag, of: usize, place: usize) {
        let turn = turn(dag, of, place);
        if self.tasks[place].state == TaskState::Waiting && self.state(of) == Some(TaskState::Mapped) {
            self.ready.insert(turn);
        } else {
            self.ready.remove(&turn);
        }
    }

    fn state(&self, of: usize) -> Option<TaskState> {
        self.tasks.get(self.place[of]).map(|task| task.state)
    }

    /// What the rule of a task says, and what the tasks before it have chosen.
    pub(super) fn verdict(&self, dag: &Dag, of: usize) -> Verdict {
        if self.choices > 0 && self.left_out(dag, of) {
            return Verdict::Skip;
        }
        dag.tasks[of].rule.judge_tally(self.upstream[of])
    }

    /// Whether a task before this one has chosen others.
    fn left_out(&self, dag: &Dag, of: usize) -> bool {
        let choice = |of: usize| self.tasks.get(self.place[of]).and_then(chosen_by).unwrap_or(&Choice::All);
        let directly = self.before[of].iter().any(|before| match choice(*before) {
            Choice::All => false,
            Choice::NotNext | Choice::Nothing => true,
            // What is chosen brings what comes after it along, as in Airflow.
            Choice::Only(chosen) => {
                let chosen = |of: usize| chosen.contains(&dag.tasks[of].id);
                !chosen(of) && !self.all_before(of).into_iter().any(chosen)
            }
        });
        directly || self.all_before(of).into_iter().any(|before| *choice(before) == Choice::Nothing)
    }

    /// The tasks before a task, directly or not, nearest first.
    pub(super) fn all_before(&self, of: usize) -> Vec<usize> {
        let mut known = vec![false; self.before.len()];
        let (mut found, mut open) = (Vec::new(), vec![of]);
        while let Some(next) = open.pop() {
            for before in &self.before[next] {
                if !std::mem::replace(&mut known[*before], true) {
                    found.push(*before);
                    open.push(*before);
                }
            }
        }
        found
    }

    /// All tasks, each list followed by its items.
    pub(crate) fn tasks(&self) -> &[TaskInstance] {
        &self.tasks
    }

    /// Where a task is.
    pub(crate) fn find(&self, task: &str) -> Option<usize> {
        self.places.get(task).copied()
    }

    /// The task at a place.
    pub(super) fn at(&self, place: usize) -> &TaskInstance {
        &self.tasks[place]
    }

    /// The task of the definition that a place is of.
    pub(super) fn of(&self, place: usize) -> usize {
        self.of[place]
    }

    /// The instance of a task of the definition.
    pub(super) fn own(&self, of: usize) -> Option<&TaskInstance> {
        self.tasks.get(self.place[of])
    }

    /// The tasks of the items of a list, in its order.
    pub(super) fn items(&self, of: usize) -> &[TaskInstance] {
        &self.tasks[self.items[of].clone()]
    }

    /// How many items of a list run.
    pub(super) fn running_items(&self, of: usize) -> usize {
        self.running_items[of]
    }

    /// The tasks directly before a task.
    pub(super) fn before(&self, of: usize) -> &[usize] {
        &self.before[of]
    }

    /// The definitions of the tasks directly after a task.
    pub(super) fn after<'d>(&self, dag: &'d Dag, of: usize) -> impl Iterator<Item = &'d TaskDef> {
        self.after[of].iter().map(|next| &dag.tasks[*next])
    }

    /// Whether every task has ended.
    pub(super) fn over(&self) -> bool {
        self.open == 0
    }

    /// Places that run.
    pub(super) fn running(&self) -> impl Iterator<Item = usize> {
        self.running.iter().copied()
    }

    /// Places that wait for a time: which has come, and whichever.
    pub(super) fn due(&self, now: DateTime<Utc>) -> impl Iterator<Item = usize> {
        self.later.range(..=(Some(now), usize::MAX)).map(|(_, place)| *place)
    }

    /// Places that wait for a time.
    pub(super) fn later(&self) -> impl Iterator<Item = usize> {
        self.later.iter().map(|(_, place)| *place)
    }

    /// The next place that may start, after a turn.
    pub(super) fn next_ready(&self, after: Option<Turn>) -> Option<Turn> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.ready.range((from, Unbounded)).next().copied()
    }

    /// The first task that can be settled.
    pub(super) fn first_unsettled(&self, from: usize) -> Option<usize> {
        self.unsettled.range(from..).next().copied()
    }

    /// Tasks with a deadline of their own.
    pub(super) fn deadlines(&self) -> &[usize] {
        &self.deadlines
    }
}

/// The turn of a place that is of a task.
fn turn(dag: &Dag, of: usize, place: usize) -> Turn {
    (Reverse(dag.tasks[of].policy.priority), place)
}

/// The choice of a task that has succeeded and made one.
fn chosen_by(task: &TaskInstance) -> Option<&Choice> {
    (task.state == TaskState::Success && task.choice != Choice::All).then_some(&task.choice)
}
