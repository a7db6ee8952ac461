//! Two processes that claim one stream: the fence lets one of them commit, and what the other had under way harms nothing.
use std::fs;

use rand::Rng as _;
use tidemill_etl::failpoint::POINTS;

use super::checker::Want;
use super::log;
use super::numbers::Fate;
use super::world::{Budget, Ended, Form, Parts, World, seeds, tell};

/// It did its work, or found that somebody else does it.
fn done_or_fenced(ended: &Ended, when: &str) -> bool {
    let fenced = ended.code == Some(4) && ended.said.contains("T0005");
    assert!(fenced || ended.code == Some(0), "{when}: {ended:?}");
    fenced
}

#[test]
fn one_that_comes_back_from_any_place_is_fenced() {
    let (kind, budget) = ("zombies", Budget::new());
    for seed in seeds(kind) {
        let mut world = World::new(&Parts::default(), seed);
        let (mut stood, mut fenced) = (0, 0);
        for point in POINTS.iter().take_while(|_| budget.left()) {
            if point.starts_with("lake.") {
                world = world.again();
            }
            if point.starts_with("evolve.") {
                world.new_writer();
            }
            world.produce(140, 4);
            let place = world.place();
            let first = !point.starts_with("lake.") && !point.starts_with("evolve.");
            let nth = if first { world.random.random_range(1..=3) } else { 1 };
            let mut zombie = world.start("land", Form::Drain, &format!("{point}:{nth}:{}", place.display()));
            if zombie.until(|| place.join("reached").exists()).is_some() {
                continue;
            }
            stood += 1;

            let other = world.start("other", Form::Drain, "").wait();
            assert_eq!(other.code, Some(0), "{point}: {}", other.said);
            world.check(Want::All, &format!("while one stands at {point}"), kind, seed);
            fs::write(place.join("go"), "").unwrap();
            let zombie = zombie.wait();

            fenced += u32::from(done_or_fenced(&zombie, point));
            world.check(Want::All, &format!("after one came back from {point}"), kind, seed);
        }
        tell(&format!("{kind}: {stood} came back, {fenced} of them fenced, seed {seed}"));
        assert!(fenced > 0, "nobody was fenced");
    }
}

#[test]
fn two_that_start_at_once_do_the_work_once() {
    let (kind, budget) = ("rivals", Budget::new());
    for seed in seeds(kind) {
        let mut world = World::new(&Parts::default(), seed);
        let mut fenced = 0;
        for _ in (0..6).take_while(|_| budget.left()) {
            world.produce(300, 3);
            let one = world.start("land", Form::Drain, "");
            let other = world.start("other", Form::Drain, "");
            fenced += u32::from(done_or_fenced(&one.wait(), "one")) + u32::from(done_or_fenced(&other.wait(), "other"));
            world.check(Want::SoFar, "after two at once", kind, seed);
        }
        world.drain();
        world.check(Want::All, "at the end", kind, seed);
        tell(&format!("{kind}: 6 rounds, {fenced} fenced, seed {seed}"));
    }
}

/// The judge is judged: each harm to a lake, or to what is said to have been produced, is found and named.
#[test]
fn the_checker_finds_what_is_wrong() {
    let mut world = World::new(&Parts::default(), 7);
    world.produce(120, 3);
    world.drain();
    assert!(world.findings(Want::All).is_empty(), "{}", world.findings(Want::All));
    let whole = world.produced.clone();
    let folder = format!("bronze/{}", world.topic);
    let root = world.root().join("lake").join(&folder);
    let newest = log::read(&world.checker.files, &folder, &mut super::checker::Findings::default()).unwrap();
    let next = newest.versions.last().unwrap().number + 1;
    let live: Vec<_> = newest.live.values().cloned().collect();

    // One more was produced than there is.
    world.produced.partitions[0].insert(9999, Fate::Row(1));
    assert!(world.findings(Want::All).has("P1"));
    // A row that nobody produced; a letter that nobody produced; other content.
    let fate_of = |world: &World, row: bool| {
        let mut all = world.produced.partitions.iter().enumerate().flat_map(|(p, records)| {
            records.iter().map(move |(offset, fate)| (p, *offset, matches!(fate, Fate::Row(_))))
        });
        all.find(|(_, _, is_row)| *is_row == row).unwrap()
    };
    for (row, id) in [(true, "P2"), (false, "P5")] {
        world.produced = whole.clone();
        let (partition, offset, _) = fate_of(&world, row);
        world.produced.partitions[partition].remove(&offset);
        assert!(world.findings(Want::SoFar).has(id), "{id}");
        world.produced.partitions[partition].insert(offset, Fate::Row(1));
        assert!(world.findings(Want::SoFar).has(if row { "P1" } else { "P5" }), "{id}");
    }
    world.produced = whole;
    // A version that does harm, one at a time.
    let version = root.join(format!("_delta_log/{next:020}.json"));
    let info = r#"{"commitInfo":{"timestamp":1,"operation":"HARM"}}"#;
    let add = |path: &str| {
        format!(
            r#"{{"add":{{"path":"{path}","partitionValues":{{}},"size":1,"modificationTime":1,"dataChange":true}}}}"#
        )
    };
    let copy = "copied.parquet";
    fs::copy(root.join(&live[0].path), root.join(copy)).unwrap();
    let app = format!("torture/{}/0", world.topic);
    let harms = [
        ("P2", format!("{info}\n{}\n", add(copy))),
        ("P3", format!("{info}\n{}\n", add(copy))),
        ("P7", format!("{info}\n{}\n", add(copy))),
        ("P2", format!("{info}\n{}\n", add(&live[0].path))),
        ("P1", format!("{info}\n{{\"remove\":{{\"path\":\"{}\",\"dataChange\":true}}}}\n", live[0].path)),
        ("P4", format!("{info}\n{{\"txn\":{{\"appId\":\"{app}\",\"version\":1}}}}\n")),
        ("P4", format!("{info}\n{{\"txn\":{{\"appId\":\"{app}/epoch\",\"version\":1}}}}\n")),
        ("P6", format!("{info}\n{}\n", add("nowhere.parquet"))),
        ("P6", format!("{info}\n{info}\n")),
    ];
    for (id, text) in harms {
        fs::write(&version, &text).unwrap();
        assert!(world.findings(Want::SoFar).has(id), "{id} of {text}");
    }
    // A version that is missing.
    fs::rename(&version, root.join(format!("_delta_log/{:020}.json", next + 1))).unwrap();
    assert!(world.findings(Want::SoFar).has("P6"));
}
