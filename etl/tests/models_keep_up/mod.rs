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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use world::World;

const KEPT: &str = include_str!("seeds.txt");
/// Models of a world.
const MODELS: usize = 3;

fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var_os(name).and_then(|text| text.into_string().ok()?.parse().ok()).unwrap_or(otherwise)
}

/// Seeds that failed once, the newest first; then ever new ones.
fn seeds() -> Vec<u64> {
    if let Some(seed) = std::env::var_os("TIDEMILL_MODEL_SEED") {
        return vec![seed.into_string().unwrap().parse().unwrap()];
    }
    let kept = KEPT.lines().rev().filter_map(|line| line.split('#').next()?.trim().parse().ok());
    let fresh = (0..100_000).map(|_| RandomState::new().build_hasher().finish());
    kept.chain(fresh).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn incremental_tables_equal_full_ones_after_every_cut() {
    let (models, cuts) = (asked("TIDEMILL_MODELS", 30), asked("TIDEMILL_MODEL_CUTS", 20));
    let alone = std::env::var_os("TIDEMILL_MODEL_SEED").is_some();
    let worlds = if alone { 1 } else { usize::try_from(models).unwrap().div_ceil(MODELS) };
    let begun = Instant::now();
    let until = begun + Duration::from_secs(asked("TIDEMILL_MODEL_SECONDS", 170));
    let seeds = Arc::new(seeds());
    let next = Arc::new(AtomicUsize::new(0));
    let compared = Arc::new(AtomicU64::new(0));
    let kept = if alone {
        1
    } else {
        KEPT.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()).count()
    };
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (seeds, next, compared) = (Arc::clone(&seeds), Arc::clone(&next), Arc::clone(&compared));
        workers.push(tokio::spawn(async move {
            let mut classes: BTreeMap<String, u64> = BTreeMap::new();
            let mut done = (0_u64, 0_u64);
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= (worlds + kept).min(seeds.len()) || Instant::now() > until {
                    return (done, classes);
                }
                let seed = seeds[at];
                let mut world = World::new(seed, MODELS).await;
                let mut lived = 0;
                for cut in 0..cuts {
                    if Instant::now() > until {
                        break;
                    }
                    world.cut(cut).await;
                    lived += 1;
                    compared.fetch_add(MODELS as u64, Ordering::Relaxed);
                }
                for (class, times) in world.classes() {
                    *classes.entry(class.clone()).or_default() += times;
                }
                done = (done.0 + MODELS as u64, done.1 + lived * MODELS as u64);
            }
        }));
    }
    let (mut total, mut steps) = (0, 0);
    let mut classes: BTreeMap<String, u64> = BTreeMap::new();
    for worker in workers {
        let ((models, cuts), counted) = worker.await.unwrap();
        total += models;
        steps += cuts;
        for (class, times) in counted {
            *classes.entry(class).or_default() += times;
        }
    }
    eprintln!(
        "{total} models, {steps} cuts compared in {:.0} s; builds by class: {classes:?}",
        begun.elapsed().as_secs_f64()
    );
    if !alone {
        let built: u64 = classes.values().sum();
        let full: u64 = classes.iter().filter(|(class, _)| class.starts_with("full")).map(|(_, times)| times).sum();
        assert!(built > 50, "too little was built to say anything: {classes:?}");
        assert!(full * 3 < built * 2, "most models were computed whole: {classes:?}");
    }
}
