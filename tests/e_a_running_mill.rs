//! `tidemill up`: the status page answers, a new file in the inbox starts one run and no second one, another process
//! may ask for a run, and a stop signal ends it with everything landed that was read.
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::project::Project;

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running `tidemill up`, ended with the test.
pub(crate) struct Mill {
    child: Child,
    address: String,
}

impl Mill {
    pub(crate) fn start(project: &Project) -> Self {
        let mut child = project
            .command(&["up", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| Some(line.split_once(" is up at http://")?.1.to_owned()));
        // A pipe nobody reads would stop whoever writes to it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.unwrap() }
    }

    /// Where it answers: host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(asked.success());
        until("it ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Mill {
    fn drop(&mut self) {
        // Ends only what a failed assertion left; a process that has ended is left alone.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The states of the runs of a DAG, newest first.
fn states(project: &Project, dag: &str) -> Vec<String> {
    let runs = project.json(&["--json", "runs", "list", "--dag", dag]);
    runs.as_array().unwrap().iter().map(|run| run["state"].as_str().unwrap().to_owned()).collect()
}

fn succeeded(project: &Project, dag: &str, runs: usize) -> Option<()> {
    let states = states(project, dag);
    (states.len() >= runs && states.iter().all(|state| state == "success")).then_some(())
}

/// Puts a file into the inbox as a careful sender does: written elsewhere, then moved.
fn arrives(project: &Project, name: &str, text: &str) {
    project.write("data/unfinished", text);
    let inbox = project.root().join("data/inbox");
    fs::create_dir_all(&inbox).unwrap();
    fs::rename(project.root().join("data/unfinished"), inbox.join(name)).unwrap();
}

#[test]
fn a_file_starts_one_run_and_what_is_read_lands() {
    let project = Project::new();
    project.catalogue("data/Movies.txt");
    let mill = Mill::start(&project);

    let health = mill.get("/healthz");
    arrives(&project, "Movies2.txt", "ITEM 900001\nTitle=New\nListPrice=500USD$5.00\n");
    until("the file is in", || succeeded(&project, "movies_catalog", 2));
    project.ok(&["dags", "trigger", "user_events", "--param", "events=500"]);
    until("the events are made", || succeeded(&project, "user_events", 1));
    until("some have landed", || {
        project.tables().iter().any(|(name, rows)| name == "bronze.item_view_topic" && *rows > 0).then_some(())
    });
    let metrics = mill.get("/metrics");
    let ended = mill.stop();

    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(metrics.contains("\ntidemill_uptime_seconds ") && metrics.contains("tidemill_runs_total{"), "{metrics}");
    assert_eq!(ended.code(), Some(130), "as the table of exit codes says");
    assert_eq!(project.count("silver.movies"), 176);

    // Another start finds the same files and has no more to do with them than the first.
    let mill = Mill::start(&project);
    arrives(&project, "Movies3.txt", "ITEM 900002\nTitle=Newer\n");
    until("the other file is in", || succeeded(&project, "movies_catalog", 3));
    mill.stop();

    assert_eq!(states(&project, "movies_catalog").len(), 3, "one by hand, one for each file");
    assert_eq!(project.count("silver.movies"), 177);
    project.ok(&["dags", "run", "consumer_events", "--drain"]);
    for topic in ["item_view_topic", "sign_in_topic", "movies_catalog_enriched"] {
        let table = format!("bronze.{topic}");
        let distinct = project.value(&format!("select count(distinct _offset) from {table}"));
        assert_eq!(
            (project.count(&table), distinct.as_u64().unwrap()),
            (project.end(topic), project.end(topic)),
            "{topic}"
        );
    }
}
