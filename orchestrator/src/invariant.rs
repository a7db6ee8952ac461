//! What must always hold about runs, by id: checked in the simulator and in tests.
