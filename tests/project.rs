//! A project of its own for each test: the sample project in a private folder, and the real binary in it.
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{ROOT, texts, tidemill};

/// The sample project, removed with the test.
pub(crate) struct Project {
    folder: TempDir,
}

/// How a command ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Project {
    /// What `tidemill init` writes.
    pub(crate) fn new() -> Self {
        Self::of("consumer_segmentation")
    }

    /// What `tidemill init --pipeline` writes.
    pub(crate) fn of(pipeline: &str) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        let made = tidemill(project.folder.path()).args(["init", "shop", "--pipeline", pipeline]).output().unwrap();
        assert_eq!(made.status.code(), Some(0), "{}", texts(&made).1);
        project
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("shop")
    }

    /// Writes a file of the project.
    pub(crate) fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.root().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Changes a file of the project.
    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(String) -> String) {
        let path = self.root().join(file);
        let text = change(fs::read_to_string(&path).unwrap());
        fs::write(path, text).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidemill(&self.root());
        command.args(arguments);
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).stdin(Stdio::null()).output().unwrap();
        let (out, err) = texts(&output);
        Ran { code: output.status.code(), out, err }
    }

    /// Runs a command that must work; gives its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "tidemill {}\n{}{}", arguments.join(" "), ran.out, ran.err);
        ran.out
    }

    /// Runs a command that must fail with this exit code; gives its standard error.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(code), "tidemill {}\n{}{}", arguments.join(" "), ran.out, ran.err);
        ran.err
    }

    /// Starts a command and waits until it stands still at the failpoint `place`; it goes on once there is a file `go` in the
    /// folder.
    pub(crate) fn stopped_at(&self, place: &str, arguments: &[&str]) -> (Child, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut child = self
            .command(arguments)
            .env("TIDEMILL_FAILPOINT", format!("{place}:1:{}", folder.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !folder.path().join("reached").exists() {
            assert!(child.try_wait().unwrap().is_none(), "{place}: it ended by itself");
            assert!(begun.elapsed() < Duration::from_mins(1), "{place} is never reached");
            std::thread::sleep(Duration::from_millis(2));
        }
        (child, folder)
    }

    /// Starts a command, and kills it when it has come to `place` and `meanwhile` is done.
    pub(crate) fn killed_at(&self, place: &str, arguments: &[&str], meanwhile: impl FnOnce()) {
        let (mut child, _folder) = self.stopped_at(place, arguments);
        meanwhile();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Runs a command that must work; gives what it prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let out = self.ok(arguments);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{}: {error}\n{out}", arguments.join(" ")))
    }

    /// The rows of a query.
    pub(crate) fn rows(&self, sql: &str) -> Value {
        self.json(&["query", sql, "--format", "json"])
    }

    /// The only value of a query's only row.
    pub(crate) fn value(&self, sql: &str) -> Value {
        let rows = self.rows(sql);
        let row = rows[0].as_object().unwrap_or_else(|| panic!("{sql}: {rows}"));
        assert_eq!(row.len(), 1, "{sql}: {rows}");
        row.values().next().unwrap().clone()
    }

    pub(crate) fn count(&self, table: &str) -> u64 {
        self.value(&format!("select count(*) from {table}")).as_u64().unwrap()
    }

    /// Runs `movies_catalog` with this file; gives what its tasks say they did, `land` first.
    pub(crate) fn catalogue(&self, file: &str) -> [Value; 2] {
        let report = self.json(&["--json", "dags", "run", "movies_catalog", "--param", &format!("file={file}")]);
        let result = |task: &str| {
            let tasks = report["tasks"].as_array().unwrap();
            let found = tasks.iter().find(|t| t["instance"]["task"] == task);
            found.unwrap_or_else(|| panic!("{report}"))["instance"]["result"].clone()
        };
        [result("land"), result("publish")]
    }

    /// How many records a topic has ever had, over all partitions.
    pub(crate) fn end(&self, topic: &str) -> u64 {
        let partitions = self.json(&["--json", "topics", "show", topic]);
        partitions.as_array().unwrap().iter().map(|partition| partition["end"].as_u64().unwrap()).sum()
    }

    /// All tables with their rows.
    pub(crate) fn tables(&self) -> Vec<(String, u64)> {
        let tables = self.json(&["--json", "tables", "list"]);
        let row = |row: &Value| (row["table"].as_str().unwrap().to_owned(), row["rows"].as_u64().unwrap());
        tables.as_array().unwrap().iter().map(row).collect()
    }

    /// The newest version of a table.
    pub(crate) fn version(&self, table: &str) -> u64 {
        let tables = self.json(&["--json", "tables", "list"]);
        let found = tables.as_array().unwrap().iter().find(|row| row["table"] == table);
        found.unwrap_or_else(|| panic!("no {table} in {tables}"))["version"].as_u64().unwrap()
    }
}

/// Where the full catalogue is, if it is on this machine.
pub(crate) fn full_catalogue() -> Option<PathBuf> {
    let beside = || Path::new(ROOT).parent().map(|above| above.join("shared/data/Movies.txt"));
    std::env::var_os("TIDEMILL_TEST_MOVIES").map(PathBuf::from).or_else(beside).filter(|file| file.is_file())
}

/// What a variable of a real service says; `None` without it.
pub(crate) fn service(name: &str) -> Option<String> {
    let value = std::env::var_os(format!("TIDEMILL_TEST_{name}"))?.into_string().unwrap();
    (!value.is_empty()).then_some(value)
}

/// Says in one visible line that a test could not run.
#[expect(clippy::print_stdout, reason = "a skipped test must be seen")]
pub(crate) fn skipped(name: &str, why: &str) {
    let line = format!("skipped: {name}: {why}");
    println!("{line}");
    if let Some(file) = std::env::var_os("TIDEMILL_TEST_SKIPPED") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}
