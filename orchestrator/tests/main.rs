//! The orchestrator from outside: problems in files, histories, whole runs, crashes, and worlds of them.
#[cfg(test)]
mod histories;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod problems;
#[cfg(test)]
mod runs;
#[cfg(test)]
#[cfg(feature = "postgres")]
mod shared;
#[cfg(test)]
mod worlds;
