//! Incremental models equal their SELECT, whatever happens to their inputs.
//!
//! A seed makes a world: tables with random columns, and models with random SELECTs over them, of every class. Then the
//! tables live: rows come, come again, come late, change and go; nothing happens; small files are put together; versions are
//! restored; the process begins anew; a build stops halfway. After every cut each model's table is compared with its
//! SELECT over the same rows: by `verify`, and by plain text against a plan that the incremental code never saw.
//!
//! `TIDEMILL_MODELS` and `TIDEMILL_MODEL_CUTS` ask for more than the few of a normal run (`just models-torture`), and none
//! takes much longer than `TIDEMILL_MODEL_SECONDS`. Seeds that failed once are in `seeds.txt` and are tried first;
//! `TIDEMILL_MODEL_SEED` tries one alone.
mod inputs;
mod selects;
mod world;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use world::World;

const KEPT: &str = include_str!("seeds.txt");
/// Models of a world.
const MODELS: usize = 3;

fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var_os(name).and_then(|text| text.into_string().ok()?.parse().ok()).unwrap_or(otherwise)
}

/// What a world is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed {
    /// Which tables and SELECTs there can be: 2 has windows over event time.
    pub(crate) generation: u32,
    pub(crate) seed: u64,
}

/// The newest generation.
const GENERATION: u32 = 2;

impl Seed {
    /// `2:8131`; without a generation, the first.
    fn read(text: &str) -> Option<Self> {
        let (generation, seed) = text.trim().split_once(':').unwrap_or(("1", text.trim()));
        Some(Self { generation: generation.parse().ok()?, seed: seed.parse().ok()? })
    }
}

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.generation, self.seed)
    }
}

/// Seeds that failed once, the newest first; then ever new ones.
fn seeds() -> Vec<Seed> {
    if let Some(seed) = std::env::var_os("TIDEMILL_MODEL_SEED") {
        return vec![Seed::read(&seed.into_string().unwrap()).unwrap()];
    }
    let kept = KEPT.lines().rev().filter_map(|line| Seed::read(line.split('#').next()?));
    let fresh = (0..100_000).map(|_| Seed { generation: GENERATION, seed: RandomState::new().build_hasher().finish() });
    kept.chain(fresh).collect()
}

/// What became of one world.
type Lived = (u64, BTreeMap<String, u64>);

async fn lived(seed: Seed, cuts: u64, until: Instant) -> Lived {
    let mut world = World::new(seed, MODELS).await;
    let mut done = 0;
    for cut in 0..cuts {
        if Instant::now() > until {
            break;
        }
        world.cut(cut).await;
        done += MODELS as u64;
    }
    (done, world.classes().clone())
}

#[expect(clippy::print_stdout, reason = "how much was tried is part of what the test says")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn incremental_tables_equal_full_ones_after_every_cut() {
    let (models, cuts) = (asked("TIDEMILL_MODELS", 30), asked("TIDEMILL_MODEL_CUTS", 20));
    let alone = std::env::var_os("TIDEMILL_MODEL_SEED").is_some();
    let begun = Instant::now();
    let until = begun + Duration::from_secs(asked("TIDEMILL_MODEL_SECONDS", 170));
    let kept = KEPT.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
    let worlds = if alone { 1 } else { usize::try_from(models).unwrap().div_ceil(MODELS) + kept };
    let mut seeds = seeds().into_iter().take(worlds);
    let (mut compared, mut tried, mut failed) = (0, 0, Vec::new());
    let mut classes: BTreeMap<String, u64> = BTreeMap::new();
    let mut running: JoinSet<(Seed, Result<Lived, tokio::task::JoinError>)> = JoinSet::new();
    loop {
        while running.len() < 2
            && Instant::now() < until
            && let Some(seed) = seeds.next()
        {
            tried += MODELS;
            running.spawn(async move { (seed, tokio::spawn(lived(seed, cuts, until)).await) });
        }
        let Some(ended) = running.join_next().await else { break };
        match ended.unwrap() {
            (seed, Err(_)) => failed.push(seed.to_string()),
            (_, Ok((done, counted))) => {
                compared += done;
                for (class, times) in counted {
                    *classes.entry(class).or_default() += times;
                }
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{tried} models, compared with their SELECT {compared} times in {seconds:.0} s; builds by class: {classes:#?}"
    );
    assert!(failed.is_empty(), "these seeds failed, see above; put them into seeds.txt: {failed:?}");
    if !alone {
        let built: u64 = classes.values().sum();
        let full: u64 = classes.iter().filter(|(class, _)| class.starts_with("full")).map(|(_, times)| times).sum();
        assert!(built > 50, "too little was built to say anything");
        assert!(full * 3 < built * 2, "most models were computed whole");
    }
}
