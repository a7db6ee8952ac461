//! Trigger rules: whether a task may start, given how its upstream tasks ended. Airflow's truth table.
//!
//! The table is that of Airflow's `TriggerRuleDep`: the first half of [`TriggerRule::judge`] decides what can no longer become true, the second
//! what is true now. A task without upstream tasks is always ready.
use serde::{Deserialize, Serialize};

use crate::run::TaskState;

/// When a task starts, as a question about its upstream tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerRule {
    /// All succeeded.
    #[default]
    AllSuccess,
    /// All failed, or could not start because something before them failed.
    AllFailed,
    /// All ended, however.
    AllDone,
    /// All were skipped.
    AllSkipped,
    /// At least one succeeded; does not wait for the others.
    OneSuccess,
    /// At least one failed; does not wait for the others.
    OneFailed,
    /// At least one succeeded or failed; does not wait for the others.
    OneDone,
    /// None failed: all succeeded or were skipped.
    NoneFailed,
    /// None failed and at least one succeeded.
    NoneFailedMinOneSuccess,
    /// None was skipped, and all ended.
    NoneSkipped,
    /// Starts at once, whatever is before it.
    Always,
    /// All ended, none was skipped, and at least one succeeded.
    AllDoneMinOneSuccess,
}

/// What a trigger rule says about a task that has not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may start.
    Ready,
    /// Not yet.
    Wait,
    /// It never will, and that is no failure.
    Skip,
    /// It never will, because something before it failed.
    UpstreamFailed,
}

/// All rules by the name used in DAG files.
pub const RULES: &[(&str, TriggerRule)] = &[
    ("all_success", TriggerRule::AllSuccess),
    ("all_failed", TriggerRule::AllFailed),
    ("all_done", TriggerRule::AllDone),
    ("all_skipped", TriggerRule::AllSkipped),
    ("one_success", TriggerRule::OneSuccess),
    ("one_failed", TriggerRule::OneFailed),
    ("one_done", TriggerRule::OneDone),
    ("none_failed", TriggerRule::NoneFailed),
    ("none_failed_min_one_success", TriggerRule::NoneFailedMinOneSuccess),
    ("none_skipped", TriggerRule::NoneSkipped),
    ("always", TriggerRule::Always),
    ("all_done_min_one_success", TriggerRule::AllDoneMinOneSuccess),
];

/// How many of the upstream tasks of a task are how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    all: usize,
    success: usize,
    skipped: usize,
    failed: usize,
    blocked: usize,
}

impl Tally {
    /// Counts one more task in a state.
    pub(crate) fn add(&mut self, state: TaskState) {
        self.all += 1;
        if let Some(count) = self.of(state) {
            *count += 1;
        }
    }

    /// Counts one task less in a state that was counted before.
    pub(crate) fn take(&mut self, state: TaskState) {
        self.all = self.all.saturating_sub(1);
        if let Some(count) = self.of(state) {
            *count = count.saturating_sub(1);
        }
    }

    fn of(&mut self, state: TaskState) -> Option<&mut usize> {
        match state {
            TaskState::Success => Some(&mut self.success),
            TaskState::Skipped => Some(&mut self.skipped),
            // A cancelled task did not do its work: downstream it counts as failed.
            TaskState::Failed | TaskState::Cancelled => Some(&mut self.failed),
            TaskState::UpstreamFailed => Some(&mut self.blocked),
            TaskState::Waiting
            | TaskState::Running
            | TaskState::UpForRetry
            | TaskState::Deferred
            | TaskState::Mapped => None,
        }
    }
}

impl TriggerRule {
    /// Judges a task that has not started by the states of its upstream tasks.
    pub fn judge(self, upstream: &[TaskState]) -> Verdict {
        let mut tally = Tally::default();
        for state in upstream {
            tally.add(*state);
        }
        self.judge_tally(tally)
    }

    /// Judges as [`TriggerRule::judge`] does, from how many are in which state.
    pub(crate) fn judge_tally(self, tally: Tally) -> Verdict {
        let Tally { all, success, skipped, failed, blocked } = tally;
        if all == 0 {
            return Verdict::Ready;
        }
        let broken = failed + blocked;
        let done = success + skipped + broken == all;

        let never = match self {
            Self::AllSuccess | Self::NoneFailed | Self::NoneFailedMinOneSuccess if broken > 0 => {
                Some(Verdict::UpstreamFailed)
            }
            Self::AllSuccess | Self::NoneSkipped | Self::AllDoneMinOneSuccess if skipped > 0 => Some(Verdict::Skip),
            Self::AllFailed if success + skipped > 0 => Some(Verdict::Skip),
            Self::AllSkipped if success + broken > 0 => Some(Verdict::Skip),
            Self::OneSuccess if done && skipped == all => Some(Verdict::Skip),
            Self::OneSuccess | Self::AllDoneMinOneSuccess if done && success == 0 => Some(Verdict::UpstreamFailed),
            Self::OneFailed if done && broken == 0 => Some(Verdict::Skip),
            Self::OneDone if done && success + failed == 0 => Some(Verdict::Skip),
            Self::NoneFailedMinOneSuccess if skipped == all => Some(Verdict::Skip),
            _ => None,
        };
        if let Some(verdict) = never {
            return verdict;
        }
        let ready = match self {
            Self::AllSuccess => success == all,
            Self::AllFailed => broken == all,
            Self::AllDone | Self::NoneSkipped | Self::AllDoneMinOneSuccess => done,
            Self::AllSkipped => skipped == all,
            Self::OneSuccess => success > 0,
            Self::OneFailed => broken > 0,
            Self::OneDone => success + failed > 0,
            Self::NoneFailed | Self::NoneFailedMinOneSuccess => success + skipped == all,
            Self::Always => true,
        };
        if ready { Verdict::Ready } else { Verdict::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskState::{Failed as F, Running as R, Skipped as K, Success as S, UpstreamFailed as U, Waiting as W};
    use Verdict::{Ready, Skip, UpstreamFailed, Wait};

    /// Airflow's documented table: columns are the rules in the order of `RULES`.
    #[test]
    fn the_truth_table_is_airflows() {
        #[rustfmt::skip]
        let table: &[(&[TaskState], [Verdict; 12])] = &[
            //          all_success     all_failed all_done all_skipped one_success     one_failed one_done none_failed     nf_min_one      none_skipped always all_done_min_one_success
            (&[S, S],  [Ready,          Skip,      Ready,   Skip,       Ready,          Skip,      Ready,   Ready,          Ready,          Ready,       Ready,  Ready]),
            (&[S, W],  [Wait,           Skip,      Wait,    Skip,       Ready,          Wait,      Ready,   Wait,           Wait,           Wait,        Ready,  Wait]),
            (&[S, R],  [Wait,           Skip,      Wait,    Skip,       Ready,          Wait,      Ready,   Wait,           Wait,           Wait,        Ready,  Wait]),
            (&[S, F],  [UpstreamFailed, Skip,      Ready,   Skip,       Ready,          Ready,     Ready,   UpstreamFailed, UpstreamFailed, Ready,       Ready,  Ready]),
            (&[S, U],  [UpstreamFailed, Skip,      Ready,   Skip,       Ready,          Ready,     Ready,   UpstreamFailed, UpstreamFailed, Ready,       Ready,  Ready]),
            (&[S, K],  [Skip,           Skip,      Ready,   Skip,       Ready,          Skip,      Ready,   Ready,          Ready,          Skip,        Ready,  Skip]),
            (&[F, F],  [UpstreamFailed, Ready,     Ready,   Skip,       UpstreamFailed, Ready,     Ready,   UpstreamFailed, UpstreamFailed, Ready,       Ready,  UpstreamFailed]),
            (&[F, U],  [UpstreamFailed, Ready,     Ready,   Skip,       UpstreamFailed, Ready,     Ready,   UpstreamFailed, UpstreamFailed, Ready,       Ready,  UpstreamFailed]),
            (&[U, U],  [UpstreamFailed, Ready,     Ready,   Skip,       UpstreamFailed, Ready,     Skip,    UpstreamFailed, UpstreamFailed, Ready,       Ready,  UpstreamFailed]),
            (&[F, W],  [UpstreamFailed, Wait,      Wait,    Skip,       Wait,           Ready,     Ready,   UpstreamFailed, UpstreamFailed, Wait,        Ready,  Wait]),
            (&[F, K],  [UpstreamFailed, Skip,      Ready,   Skip,       UpstreamFailed, Ready,     Ready,   UpstreamFailed, UpstreamFailed, Skip,        Ready,  Skip]),
            (&[K, K],  [Skip,           Skip,      Ready,   Ready,      Skip,           Skip,      Skip,    Ready,          Skip,           Skip,        Ready,  Skip]),
            (&[K, W],  [Skip,           Skip,      Wait,    Wait,       Wait,           Wait,      Wait,    Wait,           Wait,           Skip,        Ready,  Skip]),
            (&[W, W],  [Wait,           Wait,      Wait,    Wait,       Wait,           Wait,      Wait,    Wait,           Wait,           Wait,        Ready,  Wait]),
            (&[],      [Ready,          Ready,     Ready,   Ready,      Ready,          Ready,     Ready,   Ready,          Ready,          Ready,       Ready,  Ready]),
        ];
        for (upstream, verdicts) in table {
            for ((name, rule), verdict) in RULES.iter().zip(verdicts) {
                assert_eq!(rule.judge(upstream), *verdict, "{name} over {upstream:?}");
            }
        }
    }
}
