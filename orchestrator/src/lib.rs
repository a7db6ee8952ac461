//! When and in what order. No notion of data.
