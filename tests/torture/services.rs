//! The broker restarts, retention deletes what was not read, the registry does not answer.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::checker::Want;
use super::proxy::{Proxy, Weather};
use super::world::{Form, Parts, World, seeds};
use crate::ROOT;
use crate::project::{service, skipped};

/// A Kafka of the test's own, which it may kill.
struct Kafka {
    folder: PathBuf,
    address: String,
    again: Option<Child>,
    _kept: tempfile::TempDir,
}

impl Kafka {
    fn up() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let folder = kept.path().to_owned();
        let output = script("up", &folder).arg("kafka").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let address = said.trim().strip_prefix("export TIDEMILL_TEST_KAFKA=").unwrap_or_else(|| panic!("{said}"));
        Self { address: address.to_owned(), folder, again: None, _kept: kept }
    }

    /// SIGKILL, and the same program with the same data once more.
    fn restart(&mut self) {
        let process = fs::read_to_string(self.folder.join("kafka/process")).unwrap();
        let id = process.split(' ').next().unwrap();
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap();
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8(word.to_vec()).unwrap()).collect();
        if let Some(child) = &mut self.again {
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            assert!(Command::new("kill").args(["-KILL", id]).status().unwrap().success());
        }
        while self.again.is_none() && Path::new(&format!("/proc/{id}/cmdline")).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut command = Command::new(&words[0]);
        command.args(words[1..].iter().filter(|word| !word.is_empty()));
        self.again = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(child) = &mut self.again {
            drop(child.kill());
            drop(child.wait());
        }
        drop(script("down", &self.folder).output());
    }
}

fn script(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(Path::new(ROOT).join("tests/services").join(name));
    command.env("TIDEMILL_SERVICES_DIR", folder).stdin(Stdio::null());
    command
}

#[test]
fn a_broker_that_is_killed_and_comes_back_is_waited_for() {
    if service("KAFKA").is_none() || !Path::new("/proc/self/cmdline").exists() {
        return skipped("a_broker_that_is_killed_and_comes_back_is_waited_for", "needs TIDEMILL_TEST_KAFKA and /proc");
    }
    let (kind, seed) = ("broker", *seeds("broker").last().unwrap());
    let mut kafka = Kafka::up();
    let parts = Parts { kafka: Some(kafka.address.clone()), retries: 100, ..Parts::default() };
    let mut world = World::new(&parts, seed);
    let place = world.place();
    world.produce(300, 3);
    let mut process = world.start("land", Form::Drain, &format!("commit.before_put:3:{}", place.display()));
    assert!(process.until(|| place.join("reached").exists()).is_none());

    kafka.restart();
    fs::write(place.join("go"), "").unwrap();

    let ended = process.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    world.check(Want::All, "after the broker came back", kind, seed);
    world.produce(100, 1);
    world.drain();
    world.check(Want::All, "at the end", kind, seed);
}

/// What retention deleted before it was read stops the stream, or is noted and passed over: as it was asked to.
fn retention(parts: &Parts, kind: &str) {
    let seed = *seeds(kind).last().unwrap();
    for record in [false, true] {
        let task = if record { "on_gap = \"record\"" } else { "" }.to_owned();
        let mut world = World::new(&Parts { task, ..parts.clone() }, seed);
        world.produce(150, 2);
        world.drain();
        world.produce(300, 2);
        world.pass_over(1, 40);
        let to = world.checker.gaps[0].1.end;

        let ended = world.start("other", Form::Drain, "").wait();

        if record {
            assert_eq!(ended.code, Some(0), "{}", ended.said);
            world.check(Want::All, "with a gap", kind, seed);
        } else {
            assert_eq!(ended.code, Some(4), "{}", ended.said);
            assert!(ended.said.contains("error[L0203]") && ended.said.contains(&to.to_string()), "{}", ended.said);
            world.check(Want::SoFar, "before a gap", kind, seed);
        }
    }
}

#[test]
fn retention_that_was_quicker_is_an_incident() {
    retention(&Parts::default(), "retention");
}

#[test]
fn retention_that_was_quicker_is_an_incident_on_kafka() {
    match service("KAFKA") {
        Some(kafka) => retention(&Parts { kafka: Some(kafka), ..Parts::default() }, "retention-kafka"),
        None => skipped("retention_that_was_quicker_is_an_incident_on_kafka", "needs TIDEMILL_TEST_KAFKA"),
    }
}

#[test]
fn a_registry_that_does_not_answer_delays_only_what_needs_it() {
    let Some(registry) = service("REGISTRY") else {
        return skipped("a_registry_that_does_not_answer_delays_only_what_needs_it", "needs TIDEMILL_TEST_REGISTRY");
    };
    let (kind, seed) = ("registry", *seeds("registry").last().unwrap());
    let url: url::Url = registry.parse().unwrap();
    let proxy = Proxy::new(&format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()), seed);
    let mut through = url.clone();
    through.set_port(Some(proxy.address.port())).unwrap();
    let run_for = "1h".to_owned();
    let parts = Parts { registry: Some(through.to_string()), retries: 100, run_for, ..Parts::default() };
    let mut world = World::new(&parts, seed);
    // Whether an id that nobody gave is one can only be said by a registry.
    world.unknown_ids = false;
    world.produce(100, 3);
    let mut process = world.start("land", Form::Endless, "");
    let landed = |world: &mut World| world.findings(Want::All).is_empty();
    assert!(process.until(|| landed(&mut world)).is_none());

    // Ids that it knows go on.
    proxy.weather(Weather { silent: true, ..Weather::default() });
    world.produce(60, 2);
    assert!(process.until(|| landed(&mut world)).is_none(), "it ended while the registry was down");
    // A new one waits, and is no dead letter.
    world.new_writer_at(Some(&registry));
    world.produce(60, 2);
    std::thread::sleep(Duration::from_secs(3));
    world.check(Want::SoFar, "while the registry is down", kind, seed);
    proxy.weather(Weather::default());

    let ended = process.until(|| landed(&mut world));
    assert!(ended.is_none(), "{ended:?}");
    process.kill();
    world.check(Want::All, "with the registry back", kind, seed);
}
