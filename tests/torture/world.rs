//! A small project with one stream, the real process in it, the records it is to land, and the judge.
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

use super::checker::{Checker, Findings, Want};
use super::files::Files;
use super::numbers::{self, Mix, Produced, Writer};
use super::topic::Topic;
use crate::project::service;
use crate::{ROOT, tidemill};

/// The stream's name.
pub(super) const STREAM: &str = "torture";
pub(super) const PARTITIONS: usize = 3;
/// How long a process may take for what takes it a second or two, on a machine that does other things.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

/// What the world is made of; nothing but embedded parts by default.
#[derive(Clone, Default)]
pub(super) struct Parts {
    pub(super) kafka: Option<String>,
    pub(super) registry: Option<String>,
    pub(super) s3: Option<S3>,
    /// A folder for the lake elsewhere.
    pub(super) lake: Option<PathBuf>,
    /// How long a run that does not drain lands; empty: a moment.
    pub(super) run_for: String,
    /// Further keys of the stream's task.
    pub(super) task: String,
    /// Retries of the stream's task.
    pub(super) retries: u32,
}

/// An S3 server.
#[derive(Clone)]
pub(super) struct S3 {
    /// Where the process finds it; there may be something in between.
    pub(super) endpoint: String,
    /// Where it is.
    pub(super) real: String,
    pub(super) bucket: String,
    pub(super) region: String,
    pub(super) access: String,
    pub(super) secret: String,
}

impl S3 {
    /// The server that the environment names.
    pub(super) fn service() -> Option<Self> {
        Some(Self {
            endpoint: service("S3")?,
            real: service("S3")?,
            bucket: service("S3_BUCKET")?,
            region: service("S3_REGION")?,
            access: service("S3_ACCESS_KEY")?,
            secret: service("S3_SECRET_KEY")?,
        })
    }
}

/// How a process is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Lands what is there and ends.
    Drain,
    /// Waits for records, lands them for a moment and ends.
    Endless,
}

/// A process that runs, and what it says.
pub(super) struct Process {
    child: Child,
    said: PathBuf,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) said: String,
}

pub(super) struct World {
    folder: TempDir,
    pub(super) topic: String,
    pub(super) records: Topic,
    pub(super) produced: Produced,
    pub(super) checker: Checker,
    pub(super) random: StdRng,
    pub(super) writers: Vec<Writer>,
    /// Whether some poison names a schema that there is not.
    pub(super) unknown_ids: bool,
    next: i64,
    started: u32,
    parts: Parts,
}

impl World {
    pub(super) fn new(parts: &Parts, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let topic = format!("numbers_{}_{seed}", SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos());
        // Many small commits; fewer where each is a dozen requests to a server in Python.
        let rows = if parts.s3.is_some() { 100 } else { 40 };
        let mut settings = format!("[streams]\nlinger_ms = 20\nmax_rows = {rows}\n");
        let mut files = Files::Folder(folder.path().join("lake"));
        if let Some(kafka) = &parts.kafka {
            writeln!(settings, "[topics]\nbroker = \"kafka://{kafka}\"").unwrap();
        }
        if let Some(registry) = &parts.registry {
            writeln!(settings, "[schemas]\nregistry = \"{registry}\"").unwrap();
        }
        if let Some(lake) = &parts.lake {
            writeln!(settings, "[lake]\nurl = \"{}\"", lake.display()).unwrap();
            files = Files::Folder(lake.clone());
        }
        if let Some(S3 { endpoint, real, bucket, region, access, secret }) = &parts.s3 {
            writeln!(
                settings,
                "[lake]\nurl = \"s3://{bucket}/{topic}\"\n[lake.s3]\nendpoint = \"{endpoint}\"\nregion = \"{region}\"\n\
                 access_key_id = \"{access}\"\nsecret_access_key = \"{secret}\"\nallow_http = true"
            )
            .unwrap();
            let options = [
                ("aws_endpoint", real.as_str()),
                ("aws_region", region),
                ("aws_access_key_id", access),
                ("aws_secret_access_key", secret),
                ("aws_allow_http", "true"),
                ("aws_virtual_hosted_style_request", "false"),
            ];
            files = Files::bucket(&format!("s3://{bucket}/{topic}"), &options);
        }
        fs::write(folder.path().join("tidemill.toml"), settings).unwrap();
        fs::create_dir(folder.path().join("dags")).unwrap();
        // Two DAGs of one stream: what one of them has begun does not keep the other waiting.
        let run_for = if parts.run_for.is_empty() { "400ms" } else { parts.run_for.as_str() };
        for dag in ["land", "other"] {
            let text = format!(
                "max_active_runs = 1\n[tasks.land]\nkind = \"stream\"\nstream = \"{STREAM}\"\ntopics = [\"{topic}\"]\n\
                 partitions = {PARTITIONS}\nrun_for = \"{run_for}\"\nretries = {}\nretry_delay = \"200ms\"\n{}\n",
                parts.retries, parts.task
            );
            fs::write(folder.path().join(format!("dags/{dag}.toml")), text).unwrap();
        }
        let records = match &parts.kafka {
            None => Topic::Embedded { file: folder.path().join(".tidemill/topics.db"), topic: topic.clone() },
            Some(kafka) => Topic::kafka(kafka, &topic),
        };
        let mut world = Self {
            folder,
            checker: Checker::new(files, STREAM, &topic),
            records,
            produced: Produced { partitions: vec![std::collections::BTreeMap::new(); PARTITIONS] },
            random: StdRng::seed_from_u64(seed),
            writers: Vec::new(),
            unknown_ids: true,
            next: 0,
            started: 0,
            parts: parts.clone(),
            topic,
        };
        let topic = world.topic.clone();
        world.ok(&["topics", "create", &topic, "--partitions", &PARTITIONS.to_string()]);
        world.new_writer();
        world.new_writer();
        world.new_writer();
        world
    }

    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// A world like this one and apart from it.
    pub(super) fn again(&mut self) -> Self {
        let seed = self.random.random();
        Self::new(&self.parts.clone(), seed)
    }

    /// Registers a schema with one more field; from now on some records are written with it.
    pub(super) fn new_writer(&mut self) {
        self.new_writer_at(None);
    }

    /// [`World::new_writer`] at a registry that the project does not go to.
    pub(super) fn new_writer_at(&mut self, registry: Option<&str>) {
        let fields = self.writers.len();
        fs::write(self.root().join("schema.avsc"), numbers::schema(fields)).unwrap();
        let subject = format!("{}-value", self.topic);
        let elsewhere = registry.map(|registry| format!("schemas.registry={registry}"));
        let mut arguments = vec!["--json", "schemas", "add", &subject, "schema.avsc"];
        if let Some(elsewhere) = &elsewhere {
            arguments.splice(0..0, ["--set", elsewhere.as_str()]).for_each(drop);
        }
        let added = self.ok(&arguments);
        let added: serde_json::Value = serde_json::from_str(&added).unwrap();
        self.writers.push(Writer { id: i32::try_from(added["id"].as_i64().unwrap()).unwrap(), fields });
    }

    /// Produces records, some of them poison, at least `poisons`.
    pub(super) fn produce(&mut self, many: usize, poisons: usize) {
        let kinds = if self.unknown_ids { 4 } else { 3 };
        let mix = Mix { many, poisons, kinds, partitions: PARTITIONS, writers: &self.writers };
        let numbers = numbers::mixed(&mix, &mut self.next, &mut self.random);
        self.records.append(&numbers, &mut self.produced);
    }

    /// Retention deletes, of what was produced since all was landed, the first `many` of a partition.
    pub(super) fn pass_over(&mut self, partition: usize, many: i64) {
        let app = format!("{STREAM}/{}/{partition}", self.topic);
        let table = format!("bronze/{}", self.topic);
        let log = super::log::read(&self.checker.files, &table, &mut Findings::default());
        let from = log.and_then(|log| log.txns.get(&app).copied()).unwrap_or(0);
        self.records.delete_before(partition, from + many);
        self.checker.gaps.push((partition, from..from + many));
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidemill(self.root());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command that must work; gives what it prints.
    pub(super) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let (out, err) = crate::texts(&output);
        assert_eq!(output.status.code(), Some(0), "tidemill {}\n{out}{err}", arguments.join(" "));
        out
    }

    /// Starts the process that lands, with failpoints if there are any.
    pub(super) fn start(&mut self, dag: &str, form: Form, failpoints: &str) -> Process {
        self.started += 1;
        let said = self.root().join(format!("said-{}", self.started));
        let mut arguments = vec!["dags", "run", dag];
        if form == Form::Drain {
            arguments.push("--drain");
        }
        let mut command = self.command(&arguments);
        if !failpoints.is_empty() {
            command.env("TIDEMILL_FAILPOINT", failpoints);
        }
        let file = File::create(&said).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Process { child, said }
    }

    /// A fresh folder for a failpoint.
    pub(super) fn place(&mut self) -> PathBuf {
        self.started += 1;
        let folder = self.root().join(format!("place-{}", self.started));
        fs::create_dir(&folder).unwrap();
        folder
    }

    /// Forgets all runs: what matters is in the tables.
    pub(super) fn forget_runs(&self) {
        for ending in ["", "-wal", "-shm"] {
            drop(fs::remove_file(self.root().join(format!(".tidemill/history.db{ending}"))));
        }
    }

    /// Lands everything, undisturbed; says how long it took.
    pub(super) fn drain(&mut self) -> Duration {
        self.forget_runs();
        let begun = Instant::now();
        let ended = self.start("land", Form::Drain, "").wait();
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        begun.elapsed()
    }

    pub(super) fn findings(&mut self, want: Want) -> Findings {
        self.checker.judge(&self.produced, want)
    }

    /// Fails if the lake is not what it has to be; keeps it for whoever looks into it.
    pub(super) fn check(&mut self, want: Want, when: &str, kind: &str, seed: u64) {
        let findings = self.findings(want);
        if !findings.is_empty() {
            remember(kind, seed);
            let kept = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap()).keep();
            panic!("{kind}, seed {seed}, {when}:\n{findings}kept in {}", kept.display());
        }
    }
}

impl Process {
    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        let status = self.child.try_wait().unwrap()?;
        Some(Ended { code: status.code(), said: fs::read_to_string(&self.said).unwrap_or_default() })
    }

    /// Waits until `done` or the process's end; says how it ended, if it did.
    pub(super) fn until(&mut self, mut done: impl FnMut() -> bool) -> Option<Ended> {
        let begun = Instant::now();
        loop {
            let ended = self.ended();
            if ended.is_some() || done() {
                return ended;
            }
            if begun.elapsed() > PATIENCE {
                self.kill();
                panic!("it takes too long: {}", fs::read_to_string(&self.said).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end.
    pub(super) fn wait(mut self) -> Ended {
        self.until(|| false).unwrap()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test that failed leaves none behind; one that has ended cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How much a chapter may do.
pub(super) struct Budget {
    begun: Instant,
    seconds: u64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), seconds: asked("TIDEMILL_TORTURE_SECONDS", 170) }
    }

    pub(super) fn left(&self) -> bool {
        self.begun.elapsed().as_secs() < self.seconds
    }

    pub(super) fn spent(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// A number that the environment may ask for.
#[expect(clippy::disallowed_methods, reason = "how much is tortured is said from outside")]
pub(super) fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Seeds for a chapter: those that failed once, then the one asked for, or a fresh one.
#[expect(clippy::print_stdout, reason = "a failure must be repeatable")]
pub(super) fn seeds(kind: &str) -> Vec<u64> {
    let known = fs::read_to_string(Path::new(ROOT).join("tests/seeds.txt")).unwrap_or_default();
    let of_kind = |line: &str| line.strip_prefix(kind)?.strip_prefix(' ')?.split(' ').next()?.parse().ok();
    let mut seeds: Vec<u64> = known.lines().filter_map(of_kind).collect();
    seeds.push(asked("TIDEMILL_TEST_SEED", rand::random::<u32>().into()));
    println!("{kind}: seeds {seeds:?}; again with TIDEMILL_TEST_SEED");
    seeds
}

fn remember(kind: &str, seed: u64) {
    let mut file = fs::OpenOptions::new().append(true).open(Path::new(ROOT).join("tests/seeds.txt")).unwrap();
    writeln!(file, "{kind} {seed}").unwrap();
}

/// Says how much was done, where a passing test's output is not shown.
#[expect(clippy::explicit_write, reason = "what is printed by a macro is hidden when a test passes")]
pub(super) fn tell(what: &str) {
    writeln!(std::io::stderr(), "torture: {what}").unwrap();
}
