//! Fake clock, scripted tasks, contract suites and the simulator; always compiled, no feature.
