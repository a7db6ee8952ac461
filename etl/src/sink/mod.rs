//! Where table versions go: each sink keeps its own progress.
