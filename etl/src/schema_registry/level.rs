//! How far a subject's schemas may differ from each other.
use std::fmt;

/// Which schemas of a subject must be able to read what others wrote. The names and meanings are Confluent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Anything may follow anything.
    None,
    /// The new schema reads what the newest wrote: readers are upgraded first.
    #[default]
    Backward,
    /// The new schema reads what every version wrote.
    BackwardTransitive,
    /// The newest schema reads what the new one writes: writers are upgraded first.
    Forward,
    /// Every version reads what the new one writes.
    ForwardTransitive,
    /// Both ways, with the newest.
    Full,
    /// Both ways, with every version.
    FullTransitive,
}

impl Level {
    /// All levels, in the order of Confluent's own list.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Backward,
        Self::BackwardTransitive,
        Self::Forward,
        Self::ForwardTransitive,
        Self::Full,
        Self::FullTransitive,
    ];

    /// Its name: `BACKWARD_TRANSITIVE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    /// The level of that name, in capitals or not.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
    }

    /// Whether the new schema must read what was written before.
    pub(super) fn backward(self) -> bool {
        !matches!(self, Self::None | Self::Forward | Self::ForwardTransitive)
    }

    /// Whether older schemas must read what the new one writes.
    pub(super) fn forward(self) -> bool {
        !matches!(self, Self::None | Self::Backward | Self::BackwardTransitive)
    }

    /// Whether every version counts, and not the newest alone.
    pub(super) fn transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
