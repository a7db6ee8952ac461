//! The storage fails: an S3 server that refuses, is slow, and loses the answers of what it did; a disk that is full.
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::checker::Want;
use super::proxy::{Proxy, Weather};
use super::world::{Budget, Form, Parts, S3, World, asked, seeds, tell};
use crate::project::skipped;

const STORM: Weather = Weather { refused: 0.06, slow: 0.04, lost: 0.04, cut: 0.03, silent: false, hang: false };

#[test]
fn a_storage_that_fails_in_every_way_loses_and_doubles_nothing() {
    let Some(s3) = S3::service() else {
        return skipped("a_storage_that_fails_in_every_way_loses_and_doubles_nothing", "needs TIDEMILL_TEST_S3");
    };
    let (kind, budget) = ("storms", Budget::new());
    let rounds = asked("TIDEMILL_TORTURE_RANDOM", 100) / 10;
    for seed in seeds(kind) {
        let proxy = Proxy::new(s3.real.trim_start_matches("http://"), seed);
        let s3 = S3 { endpoint: format!("http://{}", proxy.address), ..s3.clone() };
        let mut world = World::new(&Parts { s3: Some(s3), retries: 50, ..Parts::default() }, seed);
        let (mut done, mut kills) = (0, 0);
        let mut hang = true;
        while done < rounds && budget.left() {
            world.produce(120, 2);
            world.forget_runs();
            proxy.weather(Weather { hang, ..STORM });
            hang = false;
            let mut process = world.start("land", Form::Drain, "");
            let kill = world.random.random_range(0..3) == 0;
            let moment = Instant::now() + Duration::from_millis(world.random.random_range(500..5000));
            if let Some(ended) = process.until(|| kill && Instant::now() >= moment) {
                // Whatever the storage does is tried again, by the store, by the commit, or by the task.
                assert_eq!(ended.code, Some(0), "{}", ended.said);
            } else {
                process.kill();
                kills += 1;
            }
            proxy.weather(Weather::default());
            world.check(Want::SoFar, &format!("after {done} rounds"), kind, seed);
            done += 1;
        }
        world.drain();
        world.check(Want::All, "at the end", kind, seed);
        tell(&format!("{kind}: {done} of {rounds} rounds, {kills} kills, requests {:?}, seed {seed}", proxy.done()));
        assert!(proxy.done().contains_key("lost"), "no answer was lost");
    }
}

/// A small file system of its own; unmounted when it goes.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(folder: &'a Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        let grown = Command::new("mount").args(["-o", &options]).arg(self.0).status().unwrap();
        assert!(grown.success());
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0).status());
    }
}

#[test]
fn a_full_disk_stops_the_stream_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path(), "size=400k") else {
        return skipped("a_full_disk_stops_the_stream_and_harms_nothing", "needs the right to mount a tmpfs");
    };
    let (kind, seed) = ("full-disk", *seeds("full-disk").last().unwrap());
    let mut world = World::new(&Parts { lake: Some(folder.path().to_owned()), ..Parts::default() }, seed);
    let mut said = None;
    for _ in 0..20 {
        world.produce(400, 3);
        let ended = world.start("land", Form::Drain, "").wait();
        world.check(Want::SoFar, "as the disk fills", kind, seed);
        if ended.code != Some(0) {
            said = Some(ended);
            break;
        }
    }
    let ended = said.unwrap();

    assert_eq!(ended.code, Some(4), "{}", ended.said);
    assert!(ended.said.contains("error[T0009]"), "{}", ended.said);
    // Still full: it fails again, and that is no harm either.
    let ended = world.start("other", Form::Drain, "").wait();
    assert_eq!(ended.code, Some(4), "{}", ended.said);
    world.check(Want::SoFar, "on the full disk", kind, seed);
    disk.grow("64m");
    world.drain();
    world.check(Want::All, "with space again", kind, seed);
}
