//! SIGKILL at every place of the write path, and at any moment.
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use tidemill_etl::failpoint::POINTS;

use super::checker::Want;
use super::world::{Budget, Form, Parts, S3, World, asked, seeds, tell};
use crate::project::{service, skipped};

/// After this many kills a fresh lake is begun: a log of many versions takes longer to open, and that is no crash test.
const LIFE: u64 = 16;
/// On S3, where every look at the log is a request.
const LIFE_ON_S3: u64 = 5;

/// Places that only commands on a stream pass; `r_streams_by_hand.rs` kills them there.
const OF_COMMANDS: [&str; 6] =
    ["replay.", "reset.", "swap.", "publication.", "dead_letter.before_mark", "dead_letter.after_mark"];

/// The places that landing passes.
fn places() -> Vec<&'static str> {
    POINTS.iter().copied().filter(|point| !OF_COMMANDS.iter().any(|name| point.starts_with(name))).collect()
}

/// What has to happen for a place to be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// Records and poison.
    Plain,
    /// A schema with a new field.
    Evolving,
    /// A lake without tables.
    Fresh,
    /// Another writer makes the version that is about to be put.
    Conflict,
    /// Retention deleted what was not read, and the stream may pass over it.
    Gap,
}

const SCENES: [Scene; 5] = [Scene::Plain, Scene::Evolving, Scene::Fresh, Scene::Conflict, Scene::Gap];

/// A stream that notes gaps and goes on.
const PASSING: &str = "on_gap = \"record\"";

fn real_parts() -> Option<Parts> {
    let (kafka, s3) = (service("KAFKA")?, S3::service()?);
    Some(Parts { kafka: Some(kafka), s3: Some(s3), registry: service("REGISTRY"), ..Parts::default() })
}

/// Brings a process to `point` in a scene and kills it there; whether it came there.
fn kill_at(world: &mut World, point: &str, scene: Scene) -> bool {
    let place = world.place();
    let nth = if scene == Scene::Plain { world.random.random_range(1..=3) } else { 1 };
    let mut armed = format!("{point}:{nth}:{}", place.display());
    let mut conflict = None;
    match scene {
        Scene::Plain | Scene::Fresh => {}
        Scene::Evolving => world.new_writer(),
        Scene::Gap => {
            world.drain();
            world.produce(200, 0);
            world.pass_over(1, 20);
        }
        Scene::Conflict => {
            let before = world.place();
            armed = format!("commit.before_put:2:{};{armed}", before.display());
            conflict = Some(before);
        }
    }
    world.produce(140, 4);
    let mut process = world.start("land", Form::Drain, &armed);
    if let Some(before) = conflict
        && process.until(|| before.join("reached").exists()).is_none()
    {
        foreign_version(world);
        fs::write(before.join("go"), "").unwrap();
    }
    let ended = process.until(|| place.join("reached").exists());
    if let Some(ended) = &ended {
        assert_eq!(ended.code, Some(0), "{point} in {scene:?}: {}", ended.said);
        return false;
    }
    if world.random.random_range(0..4) == 0 {
        // Standing still and going on is no harm either.
        fs::write(place.join("go"), "").unwrap();
        std::thread::sleep(Duration::from_millis(world.random.random_range(0..40)));
    }
    process.kill();
    true
}

/// Another writer's version of each table: nothing but a commitInfo.
fn foreign_version(world: &World) {
    for table in [world.topic.as_str(), "dead_letters"] {
        let log = world.root().join("lake/bronze").join(table).join("_delta_log");
        let Ok(entries) = fs::read_dir(&log) else { continue };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let newest = entries.filter_map(|entry| name(entry.unwrap()).strip_suffix(".json")?.parse::<u64>().ok()).max();
        let info = r#"{"commitInfo":{"timestamp":1700000000000,"operation":"TORTURE"}}"#;
        fs::write(log.join(format!("{:020}.json", newest.unwrap() + 1)), info).unwrap();
    }
}

/// Every place, `times` each. Scenes that need to meddle with a local lake's log are left out elsewhere.
fn every_place(kind: &str, parts: &Parts) {
    let budget = Budget::new();
    let life = if parts.s3.is_some() { LIFE_ON_S3 } else { LIFE };
    let times = asked("TIDEMILL_TORTURE_PER_POINT", 2);
    for seed in seeds(kind) {
        let mut world = World::new(parts, seed);
        let mut scenes: BTreeMap<&str, Scene> = BTreeMap::new();
        let mut kills: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut round, mut of_life) = (0, 0);
        'all: while round < times {
            round += 1;
            let mut points = places();
            points.shuffle(&mut world.random);
            for point in points {
                let tried = scenes.get(point).map_or(SCENES.as_slice(), std::slice::from_ref);
                for scene in tried {
                    if !budget.left() {
                        break 'all;
                    }
                    if *scene == Scene::Conflict && parts.s3.is_some() {
                        continue;
                    }
                    if *scene == Scene::Fresh || of_life > life {
                        world.drain();
                        world.check(Want::All, "at the end of a life", kind, seed);
                        world = world.again();
                        of_life = 0;
                    }
                    let killed = kill_at(&mut world, point, *scene);
                    world.check(Want::SoFar, &format!("after {point} in {scene:?}"), kind, seed);
                    if killed {
                        *kills.entry(point).or_default() += 1;
                        scenes.insert(point, *scene);
                        of_life += 1;
                        break;
                    }
                }
            }
        }
        world.drain();
        world.check(Want::All, "at the end", kind, seed);
        let all = places();
        let never: Vec<_> = all.iter().filter(|point| !kills.contains_key(**point)).collect();
        tell(&format!(
            "{kind}: {} kills at {} of {} places, {times} each wanted, in {:.0} s, seed {seed}; not reached: {never:?}",
            kills.values().sum::<u64>(),
            kills.len(),
            all.len(),
            budget.spent().as_secs_f64()
        ));
        if budget.left() && parts.s3.is_none() {
            assert!(never.is_empty(), "{never:?}: no scene passes there; add one to tests/torture/kills.rs");
        }
    }
}

/// Kills at any moment, until there were as many as asked for.
fn any_moment(kind: &str, parts: &Parts) {
    let budget = Budget::new();
    let life = if parts.s3.is_some() { LIFE_ON_S3 } else { LIFE };
    let wanted = asked("TIDEMILL_TORTURE_RANDOM", 100);
    for seed in seeds(kind) {
        let mut world = World::new(parts, seed);
        let (mut kills, mut of_life) = (0, 0);
        world.produce(200, 2);
        let mut longest = world.drain();
        while kills < wanted && budget.left() {
            if of_life > life {
                world.drain();
                world.check(Want::All, "at the end of a life", kind, seed);
                world = world.again();
                world.produce(200, 2);
                longest = world.drain();
                of_life = 0;
            }
            let many = world.random.random_range(50..250);
            world.produce(many, 0);
            if world.random.random_range(0..5) == 0 {
                world.forget_runs();
            }
            let form = if world.random.random() { Form::Drain } else { Form::Endless };
            let dag = if form == Form::Drain { "land" } else { "other" };
            let mut process = world.start(dag, form, "");
            let moment = Instant::now() + longest.mul_f64(1.1 * world.random.random::<f64>());
            let mut more = form == Form::Endless;
            let ended = process.until(|| {
                if more && Instant::now() + longest / 3 >= moment {
                    // Records that come while it runs.
                    world.produce(30, 0);
                    more = false;
                }
                Instant::now() >= moment
            });
            if let Some(ended) = ended {
                assert_eq!(ended.code, Some(0), "a crash is a pause, and fails no run: {}", ended.said);
            } else {
                process.kill();
                kills += 1;
                of_life += 1;
            }
            world.check(Want::SoFar, &format!("after {kills} kills"), kind, seed);
        }
        world.drain();
        world.check(Want::All, "at the end", kind, seed);
        tell(&format!("{kind}: {kills} of {wanted} kills in {:.0} s, seed {seed}", budget.spent().as_secs_f64()));
        assert!(kills > 0, "nothing was tortured");
    }
}

#[test]
fn killed_at_every_place_of_the_write_path() {
    every_place("places", &Parts { task: PASSING.to_owned(), ..Parts::default() });
}

#[test]
fn killed_at_any_moment() {
    any_moment("moments", &Parts::default());
}

#[test]
fn killed_at_every_place_on_kafka_and_s3() {
    match real_parts() {
        Some(parts) => every_place("places-real", &Parts { task: PASSING.to_owned(), ..parts }),
        None => skipped("killed_at_every_place_on_kafka_and_s3", "needs TIDEMILL_TEST_KAFKA and TIDEMILL_TEST_S3"),
    }
}

#[test]
fn killed_at_any_moment_on_kafka_and_s3() {
    match real_parts() {
        Some(parts) => any_moment("moments-real", &parts),
        None => skipped("killed_at_any_moment_on_kafka_and_s3", "needs TIDEMILL_TEST_KAFKA and TIDEMILL_TEST_S3"),
    }
}
