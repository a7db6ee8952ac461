//! A chain of 40 commands and a fan of 200, while the whole process tree is killed again and again: the run goes on each time, no task that was recorded
//! done runs again, no retry is spent, and the run succeeds. `TIDEMILL_KILLS=200` kills more often.
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::project::Project;

/// How often a tree is killed while a run goes on.
const KILLS: u32 = 10;

/// All processes below one, by what the kernel says of parents; the first is the process itself.
fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or_default()).or_default().push(pid);
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(children.get(pid).cloned().unwrap_or_default());
        next += 1;
    }
    all
}

/// Kills a process with everything below it, at one instant as far as that can be.
fn kill(mut child: Child) {
    let pids: Vec<String> = tree(child.id()).iter().map(u32::to_string).collect();
    // Some of them may have ended by themselves meanwhile.
    drop(Command::new("kill").arg("-KILL").args(&pids).stderr(Stdio::null()).status());
    drop(child.wait());
}

fn up(project: &Project) -> Child {
    let mut command = project.command(&["up", "--listen", "127.0.0.1:0", "--quiet"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Runs a DAG under kills at instants that follow from the seed; gives how often it was killed before it was done.
fn survive(project: &Project, dag: &str, seed: u64) -> u32 {
    let run = project.json(&["--json", "dags", "trigger", dag])["run"].as_str().unwrap().to_owned();
    let report = || project.json(&["--json", "runs", "show", &run]);
    let state = || report()["run"]["state"].as_str().unwrap().to_owned();
    let mut dice = seed;
    let most = std::env::vars().find_map(|(name, value)| (name == "TIDEMILL_KILLS").then(|| value.parse().unwrap()));
    let mut kills = 0;
    while kills < most.unwrap_or(KILLS) && !["success", "failed"].contains(&state().as_str()) {
        let child = up(project);
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(300 + (dice >> 33) % 900));
        kill(child);
        kills += 1;
    }
    let last = up(project);
    let begun = Instant::now();
    while !["success", "failed"].contains(&state().as_str()) {
        assert!(begun.elapsed() < Duration::from_mins(2), "it does not end: {:#}", report());
        std::thread::sleep(Duration::from_millis(100));
    }
    kill(last);
    let report = report();
    assert_eq!(report["run"]["state"], "success", "{report:#}");
    for task in report["tasks"].as_array().unwrap() {
        let instance = &task["instance"];
        assert_eq!(
            (instance["state"].as_str(), instance["attempt"].as_u64()),
            (Some("success"), Some(1)),
            "{instance:#}"
        );
    }
    kills
}

#[test]
fn a_chain_of_forty_succeeds_whatever_is_killed() {
    let project = Project::new();
    // Each notes that it ran: a task whose end was recorded must not do so again, one that was under way may.
    let chain = (0..40).map(|number| {
        let after = if number == 0 { String::new() } else { format!("after = \"t{}\"\n", number - 1) };
        format!("[tasks.t{number}]\nkind = \"shell\"\ncommand = \"echo {number} >> ran; sleep 0.06\"\n{after}")
    });
    project.write("dags/chain.toml", chain.collect::<Vec<_>>().concat());

    let kills = survive(&project, "chain", 20_261_124);

    let ran = std::fs::read_to_string(project.root().join("ran")).unwrap();
    let order: Vec<u32> = ran.lines().map(|line| line.parse().unwrap()).collect();
    let mut once = order.clone();
    once.dedup();
    assert_eq!(once, (0..40).collect::<Vec<_>>(), "in order, and again only where it was killed");
    assert!(order.len() <= 40 + kills as usize, "{} commands ran with {kills} kills", order.len());
    assert!(kills > 1, "nothing was killed: it proves nothing");
}

#[test]
fn a_fan_of_two_hundred_succeeds_whatever_is_killed() {
    let project = Project::new();
    let fan = (0..200).map(|number| {
        format!("[tasks.t{number}]\nkind = \"shell\"\ncommand = \"echo {number} > ran-{number}; sleep 0.05\"\n")
    });
    // A few at a time, so that one life is too short for all.
    project.write("dags/fan.toml", format!("max_active_tasks = 4\n\n{}", fan.collect::<Vec<_>>().concat()));

    let kills = survive(&project, "fan", 4_181);

    assert!((0..200).all(|number| project.root().join(format!("ran-{number}")).exists()));
    assert!(kills > 1, "nothing was killed: it proves nothing");
}
