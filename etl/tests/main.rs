//! The tests of this package that need more than one module, in one binary.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
mod models003;
mod models_keep_up;
mod windows_shown;
