//! Worlds of random crashes, clock jumps and bad luck. Every seed that ever failed is in `seeds.txt` and is tried first.
use std::time::{Duration, Instant};

use tidemill_orchestrator::testkit::{sim, sim_of_lost_leases};

const STEPS: u32 = 300;

#[test]
fn seeds_that_failed_once_hold() {
    for seed in include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let report = sim(seed.parse().unwrap(), STEPS).unwrap();
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
    }
}

#[test]
fn fresh_worlds_hold_for_three_seconds() {
    let begin = Instant::now();
    let first =
        u64::from(std::process::id()) << 32 | u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    let (mut worlds, mut runs, mut attempts, mut crashes, mut followed) = (0_u64, 0, 0, 0, 0);
    while worlds < 20 || begin.elapsed() < Duration::from_secs(3) {
        let report = sim(first + worlds, STEPS).unwrap();
        assert!(report.violations.is_empty(), "add seed {} to seeds.txt: {:?}", first + worlds, report.violations);
        worlds += 1;
        runs += report.runs;
        attempts += report.attempts;
        crashes += report.crashes;
        followed += report.followed;
    }
    assert!(runs > 0 && attempts > 0 && crashes > 0 && followed > 0, "a world where nothing happens proves nothing");
    #[expect(clippy::print_stdout, reason = "how much was tried")]
    {
        println!(
            "{worlds} worlds, {runs} runs, {attempts} attempts, {crashes} crashes, {followed} decisions from mind"
        );
    }
}

#[test]
fn worlds_where_leases_are_lost_hold() {
    let (mut lost, mut crashes) = (0, 0);
    for seed in 0..15 {
        let report = sim_of_lost_leases(seed, STEPS).unwrap();
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
        lost += report.lost;
        crashes += report.crashes;
    }
    assert!(lost > 100 && crashes > 0, "{lost} leases were lost, {crashes} processes died");
}

/// `SIM_SEED=8131 SIM_STEPS=412 cargo test … one_world`: the world of a report, again.
#[test]
#[expect(clippy::disallowed_methods, reason = "a person names the seed of the world to look at")]
fn one_world_by_its_seed() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let first = number("SIM_SEED", 8131);
    for seed in first..first + number("SIM_WORLDS", 1) {
        let report = sim(seed, u32::try_from(number("SIM_STEPS", 412)).unwrap()).unwrap();
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
    }
}

#[test]
fn a_seed_gives_the_same_world_again() {
    let (one, two) = (sim(8131, STEPS).unwrap(), sim(8131, STEPS).unwrap());
    assert_eq!((one.runs, one.attempts, one.crashes), (two.runs, two.attempts, two.crashes));
}
