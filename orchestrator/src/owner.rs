//! Who drives a run. A run belongs to one process; when that process is gone, another takes the run over.
//!
//! On the same host (host name, PID namespace and boot) the kernel knows whether the process lives, so a restart waits for nothing and a long
//! pause takes nothing away. Of other hosts we only have the lease, which the owner renews with every heartbeat.
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// How long a heartbeat is good for.
pub const LEASE: TimeDelta = TimeDelta::seconds(15);

/// How often a process renews its lease.
pub const HEARTBEAT: TimeDelta = TimeDelta::seconds(3);

/// A process that drives runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its name in the history; no two processes share one.
    pub id: String,
    /// The host and its PID namespace.
    pub host: String,
    /// The boot of the host.
    pub boot: String,
    /// The process.
    pub pid: u32,
    /// When the process started, as the kernel tells it: tells it from a later one with the same number.
    pub started: String,
}

/// An owner as the history knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRecord {
    /// The process.
    pub owner: Owner,
    /// Until when it is taken to be alive.
    pub lease_until: DateTime<Utc>,
    /// It said goodbye.
    pub retired: bool,
}

impl Owner {
    /// This process. `salt` (an instant will do) keeps ids apart where the kernel says nothing about processes.
    pub fn this_process(salt: &str) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let pid = std::process::id();
        let space = std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
        let host = format!("{} {space}", read("/proc/sys/kernel/hostname"));
        let boot = read("/proc/sys/kernel/random/boot_id");
        let started = process_started(pid).unwrap_or_default();
        let digits = crate::retry::fnv64(format!("{host}\n{boot}\n{pid}\n{started}\n{salt}").as_bytes());
        Self { id: format!("{pid}-{digits:016x}"), host, boot, pid, started }
    }

    /// Whether this process, as seen from `here`, is dead: `None` if that cannot be known.
    fn dead(&self, here: &Self) -> Option<bool> {
        if self.host != here.host || here.started.is_empty() || here.boot.is_empty() {
            return None;
        }
        Some(self.boot != here.boot || process_started(self.pid).is_none_or(|started| started != self.started))
    }
}

impl OwnerRecord {
    /// Whether the runs of this owner may be taken over by `here`.
    pub fn gone(&self, here: &Owner, now: DateTime<Utc>) -> bool {
        self.retired || self.owner.dead(here).unwrap_or(self.lease_until < now)
    }
}

/// When a process started, in ticks since boot; `None` if there is no such process (or only its remains).
pub fn process_started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; what follows the last one is numbers. State is field 3, start time field 22.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first().is_none_or(|state| ["Z", "X", "x"].contains(state)) {
        return None;
    }
    fields.get(19).map(|&ticks| ticks.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(owner: Owner, lease: &str) -> OwnerRecord {
        OwnerRecord { owner, lease_until: lease.parse().unwrap(), retired: false }
    }

    #[test]
    fn a_lease_decides_only_about_other_hosts() {
        let here = Owner::this_process("a");
        let now: DateTime<Utc> = "2026-11-20T11:00:00Z".parse().unwrap();
        let other = Owner { host: "elsewhere".to_owned(), ..here.clone() };
        assert!(record(other.clone(), "2026-11-20T10:59:59Z").gone(&here, now));
        assert!(!record(other, "2026-11-20T11:00:01Z").gone(&here, now));
        if cfg!(target_os = "linux") {
            assert!(!record(here.clone(), "2020-01-01T00:00:00Z").gone(&here, now), "we live, whatever the lease says");
            let earlier = Owner { started: "1".to_owned(), ..here.clone() };
            assert!(record(earlier, "2030-01-01T00:00:00Z").gone(&here, now), "the number is ours now");
            let boot = Owner { boot: "before".to_owned(), ..here.clone() };
            assert!(record(boot, "2030-01-01T00:00:00Z").gone(&here, now));
        }
        assert!(OwnerRecord { retired: true, ..record(here.clone(), "2030-01-01T00:00:00Z") }.gone(&here, now));
        assert_ne!(here.id, Owner::this_process("b").id);
    }
}
