//! Fake clock, scripted tasks, the contract of histories and the simulator; always compiled, no feature.
mod clock;
mod history_contract;
mod script;
mod sim;

pub use clock::FakeClock;
pub use history_contract::history_contract;
pub use script::{SCRIPT, Script, Started};
pub use sim::{SimReport, sim, sim_of_lost_leases};
