//! Settings: `default.toml` < `tidemill.toml` < environment < flags, checked once, all problems at once.
//!
//! `default.toml` is the list of what there is: a key that is not in it is unknown. [`layer`] reads one file into dotted
//! keys with their places; here the layers are laid over one another, references are resolved, and every value gets its
//! type. This is the only file that reads the environment.
mod layer;
mod maintenance;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use url::Url;

use crate::failure::{Failure, Result};
use crate::suggest;
use layer::{Entries, Entry, Known, Origin, Raw, SourceFile};
pub(crate) use maintenance::Maintenance;
pub(crate) use value::{Address, ByteSize, Secret, parse_duration};

/// All defaults with their reasons.
pub(crate) const DEFAULTS: &str = include_str!("default.toml");

/// The settings file that makes a folder a project.
pub(crate) const FILE: &str = "tidemill.toml";

/// Before every variable of ours.
const PREFIX: &str = "TIDEMILL_";

/// 1 MiB: a settings file is some kilobytes; more is a mistake, and would be read whole.
const MAX_FILE: u64 = 1 << 20;

/// All settings of a project, checked. Paths are absolute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// `[project] name`, or the folder's name.
    pub(crate) name: String,
    /// `[lake]`
    pub(crate) lake: Lake,
    /// `[topics]`
    pub(crate) topics: Topics,
    /// `[schemas]`
    pub(crate) schemas: Schemas,
    /// `[streams]`
    pub(crate) streams: Streams,
    /// `[files]`
    pub(crate) files: LandedFiles,
    /// `[maintenance]` and `[tables]`
    pub(crate) maintenance: Maintenance,
    /// `[engine]`
    pub(crate) engine: Engine,
    /// `[warehouse]`
    pub(crate) warehouse: Warehouse,
    /// `[history]`
    pub(crate) history: RunHistory,
    /// `[server]`
    pub(crate) server: Server,
    /// `[paths]`
    pub(crate) paths: Paths,
    /// `[pools]`: how many slots each pool of tasks has.
    pub(crate) pools: BTreeMap<String, u32>,
    /// `[vars]`: texts, numbers, true or false.
    pub(crate) vars: serde_json::Map<String, serde_json::Value>,
    /// Every setting as `tidemill settings` lists it.
    pub(crate) listing: Vec<Listed>,
}

/// Where tables live.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lake {
    /// `file:///…/` or `s3://bucket/prefix`; a folder's ends with a slash.
    pub(crate) url: Url,
    /// How to reach S3.
    pub(crate) s3: S3,
}

/// How to reach S3.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct S3 {
    /// The server; `None`: AWS.
    pub(crate) endpoint: Option<String>,
    /// The region.
    pub(crate) region: String,
    /// The access key; empty: from the machine's role.
    pub(crate) access_key_id: Secret,
    /// Its other half.
    pub(crate) secret_access_key: Secret,
    /// Goes with temporary keys.
    pub(crate) session_token: Secret,
    /// Whether `http://` is allowed.
    pub(crate) allow_http: bool,
    /// Buckets in the path, not in the host name.
    pub(crate) path_style: bool,
}

/// Where topics are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Topics {
    /// Embedded, or Kafka.
    pub(crate) broker: Broker,
    /// Properties of librdkafka by name.
    pub(crate) kafka: BTreeMap<String, Secret>,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broker {
    /// One SQLite file in the state folder.
    Embedded,
    /// `host:port[,host:port]`
    Kafka(String),
}

/// Where runs are remembered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunHistory {
    /// `postgres://…`, with the password; empty: a file in the state folder.
    pub(crate) url: Secret,
    /// The schema at Postgres.
    pub(crate) schema: String,
}

/// Where the schemas of topics are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schemas {
    /// The registry's URL; `None`: embedded.
    pub(crate) registry: Option<Address>,
    /// The user there; empty: no log-in.
    pub(crate) user: String,
    /// The user's password.
    pub(crate) password: Secret,
    /// Subjects of topics that are not `<topic>-value`.
    pub(crate) subjects: BTreeMap<String, String>,
}

impl Schemas {
    /// The subject of a topic's values.
    pub(crate) fn subject(&self, topic: &str) -> String {
        self.subjects.get(topic).cloned().unwrap_or_else(|| format!("{topic}-value"))
    }
}

/// How streams are cut into micro-batches.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Streams {
    /// How long to wait for more after the first record.
    pub(crate) linger: Duration,
    /// At most this many rows.
    pub(crate) max_rows: usize,
    /// About this many bytes.
    pub(crate) max_bytes: ByteSize,
    /// The zone of timestamps written without one.
    pub(crate) timestamps_without_zone: chrono_tz::Tz,
}

/// What landing files may use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LandedFiles {
    /// Rows in memory.
    pub(crate) memory: ByteSize,
    /// The longest row.
    pub(crate) max_row: ByteSize,
    /// Rows that types are taken from; 0: all.
    pub(crate) infer_rows: usize,
    /// Small files in one commit.
    pub(crate) commit_files: usize,
}

/// What the query engine may use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Engine {
    /// Memory before it spills.
    pub(crate) memory_limit: ByteSize,
    /// Where it spills to.
    pub(crate) spill_dir: PathBuf,
    /// Lanes of a query; `None`: one per core.
    pub(crate) target_partitions: Option<usize>,
}

/// Where results are loaded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Warehouse {
    /// Which database.
    pub(crate) place: Database,
    /// The password at Postgres.
    pub(crate) password: Secret,
    /// The schema at Postgres.
    pub(crate) schema: String,
}

/// A database.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// `postgres://…`
    Postgres(Address),
}

/// How `tidemill up` serves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Server {
    /// The address.
    pub(crate) listen: SocketAddr,
    /// What callers present; empty only on loopback.
    pub(crate) token: Secret,
    /// How long work under way may take to finish.
    pub(crate) grace: Duration,
}

/// The folders of a project, absolute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Paths {
    /// New files.
    pub(crate) inbox: PathBuf,
    /// Models.
    pub(crate) sql: PathBuf,
    /// DAGs.
    pub(crate) dags: PathBuf,
    /// Avro schemas.
    pub(crate) schemas: PathBuf,
    /// What is remembered besides tables.
    pub(crate) state: PathBuf,
}

/// One setting as a person sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Listed {
    /// The key in full.
    pub(crate) key: String,
    /// The value; secrets as dots.
    pub(crate) value: serde_json::Value,
    /// `default`, the file's line, the variable, `--set`.
    pub(crate) from: String,
}

/// The environment as it was when the process started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads the process's environment. Variables that are not Unicode cannot be settings and are left out.
    pub(crate) fn read() -> Self {
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// Whether the variable is there and not empty.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_empty())
    }

    /// All variables, for whoever is asked about one by a person's own text.
    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Where tests want the process to stand still, if they do (CONTRIBUTING.md). No setting: nobody lists it.
    pub(crate) fn failpoint(&self) -> Option<&str> {
        self.0.get("TIDEMILL_FAILPOINT").map(String::as_str).filter(|text| !text.is_empty())
    }
}

/// What settings are made of.
pub(crate) struct Inputs<'a> {
    /// The project's folder: relative paths start there.
    pub(crate) root: &'a Path,
    /// The process's environment.
    pub(crate) environment: &'a Environment,
    /// `key=value` from the command line.
    pub(crate) flags: &'a [String],
}

impl Settings {
    /// Reads, merges and checks all layers.
    ///
    /// # Errors
    /// One failure that holds every problem found, S0002 to S0012.
    pub(crate) fn load(inputs: &Inputs<'_>) -> Result<Self> {
        let mut problems = Vec::new();
        let (known, mut entries) = defaults(&mut problems);
        let path = inputs.root.join(FILE);
        match read_file(&path) {
            Ok(Some(file)) => entries.extend(layer::read(&file, Some(&known), &mut Vec::new(), &mut problems)),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
        from_environment(inputs.environment, &known, &mut entries, &mut problems);
        from_flags(inputs.flags, &known, &mut entries, &mut problems);

        let mut typed = Typed {
            root: inputs.root,
            environment: inputs.environment,
            entries,
            problems,
            asked: BTreeSet::new(),
            listing: Vec::new(),
        };
        let settings = typed.settings();
        let Typed { mut problems, mut listing, .. } = typed;
        if problems.is_empty() && !settings.server.listen.ip().is_loopback() && settings.server.token.is_empty() {
            problems.push(open_server(settings.server.listen));
        }
        listing.sort_by(|left, right| left.key.cmp(&right.key));
        Failure::all(problems).map_or(Ok(Self { listing, ..settings }), Err)
    }
}

/// The refusal to serve beyond loopback without a token.
pub(crate) fn open_server(listen: SocketAddr) -> Failure {
    Failure::new("S0010", format!("cannot serve on `{listen}` without a token"))
        .place("server.listen")
        .why("whoever reaches that address could read every table and start runs")
        .fix("set `server.token = \"${env:TIDEMILL_TOKEN}\"`, or listen on 127.0.0.1")
}

/// What can be set, and the lowest layer.
fn defaults(problems: &mut Vec<Failure>) -> (Known, Entries) {
    let file = SourceFile { name: "default.toml".to_owned(), text: DEFAULTS.into() };
    let mut known = Known::default();
    let entries = layer::read(&file, None, &mut known.sections, problems);
    known.keys = entries.keys().cloned().collect();
    (known, entries)
}

/// The project's file, or `None` if there is none.
fn read_file(path: &Path) -> Result<Option<SourceFile>> {
    let unreadable = |why: String| {
        Failure::new("S0002", format!("cannot read `{}`", path.display()))
            .why(why)
            .fix("it must be a text file in UTF-8, at most 1 MiB, that this user may read")
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
        Ok(found) if found.len() > MAX_FILE => return Err(unreadable(format!("it has {} bytes", found.len()))),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    Ok(Some(SourceFile { name: FILE.to_owned(), text: text.into() }))
}

fn from_environment(environment: &Environment, known: &Known, entries: &mut Entries, problems: &mut Vec<Failure>) {
    for (name, value) in &environment.0 {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let key = rest.split("__").map(str::to_lowercase).collect::<Vec<_>>().join(".");
        if known.takes(&key) {
            entries.insert(key, Entry { raw: Raw::Text(value.clone()), origin: Origin::Environment(name.clone()) });
        } else if rest.contains("__") {
            problems.push(
                Failure::new("S0004", format!("unknown key `{key}`"))
                    .place(format!("the environment variable `{name}`"))
                    .maybe_fix(known.hint(&key)),
            );
        } else if let Some(meant) = known.keys.iter().find(|known| known.replace('.', "_") == key) {
            // Other variables with our prefix (tests, images) are nobody's mistake.
            problems.push(
                Failure::new("S0012", format!("`{name}` sets nothing"))
                    .place(format!("the environment variable `{name}`"))
                    .why("two underscores go between section and key")
                    .fix(format!("did you mean `{PREFIX}{}`?", meant.replace('.', "__").to_uppercase())),
            );
        }
    }
}

fn from_flags(flags: &[String], known: &Known, entries: &mut Entries, problems: &mut Vec<Failure>) {
    for flag in flags {
        match flag.split_once('=') {
            None => problems.push(
                Failure::new("S0011", format!("`--set {flag}` has no value"))
                    .fix("write it as `--set key=value`")
                    .exit(crate::failure::Exit::Usage),
            ),
            Some((key, value)) if known.takes(key.trim()) => {
                entries.insert(key.trim().to_owned(), Entry { raw: Raw::Text(value.to_owned()), origin: Origin::Flag });
            }
            Some((key, _)) => {
                let key = key.trim();
                problems.push(
                    Failure::new("S0004", format!("unknown key `{key}`"))
                        .place("--set")
                        .maybe_fix(known.hint(key))
                        .exit(crate::failure::Exit::Usage),
                );
            }
        }
    }
}

/// The merged entries on their way to types. A wrong value is noted and replaced by the type's own default, so that
/// the next one is checked too; nothing of it gets out, because one problem fails the whole.
struct Typed<'a> {
    root: &'a Path,
    environment: &'a Environment,
    entries: Entries,
    problems: Vec<Failure>,
    asked: BTreeSet<String>,
    listing: Vec<Listed>,
}

impl Typed<'_> {
    fn settings(&mut self) -> Settings {
        let state = self.path("paths.state");
        Settings {
            name: self.optional("project.name").unwrap_or_else(|| folder_name(self.root)),
            lake: Lake {
                url: self.lake_url(),
                s3: S3 {
                    endpoint: self.endpoint(),
                    region: self.text("lake.s3.region"),
                    access_key_id: self.secret("lake.s3.access_key_id"),
                    secret_access_key: self.secret("lake.s3.secret_access_key"),
                    session_token: self.secret("lake.s3.session_token"),
                    allow_http: self.boolean("lake.s3.allow_http"),
                    path_style: self.boolean("lake.s3.path_style"),
                },
            },
            topics: Topics {
                broker: self.broker(),
                kafka: self.names("topics.kafka").into_iter().map(|(key, name)| (name, self.secret(&key))).collect(),
            },
            schemas: Schemas {
                registry: self.registry(),
                user: self.text("schemas.user"),
                password: self.secret("schemas.password"),
                subjects: self
                    .names("schemas.subjects")
                    .into_iter()
                    .map(|(key, topic)| (topic, self.text(&key)))
                    .collect(),
            },
            streams: Streams {
                linger: Duration::from_millis(self.integer("streams.linger_ms", 0, 3_600_000)),
                max_rows: usize::try_from(self.integer("streams.max_rows", 1, 100_000_000)).unwrap_or(usize::MAX),
                max_bytes: self.size("streams.max_bytes", 1 << 10),
                timestamps_without_zone: self
                    .parsed("streams.timestamps_without_zone", |text| {
                        text.parse().map_err(|_| {
                            suggest::nearest(text, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())).map_or_else(
                                || "not a time zone such as `Europe/Lisbon`".to_owned(),
                                |near| format!("not a time zone; did you mean `{near}`?"),
                            )
                        })
                    })
                    .unwrap_or(chrono_tz::UTC),
            },
            files: LandedFiles {
                // Below it not even one batch of wide rows fits.
                memory: self.size("files.memory", 16 << 20),
                max_row: self.size("files.max_row", 1 << 10),
                infer_rows: usize::try_from(self.integer("files.infer_rows", 0, 1_000_000_000)).unwrap_or(usize::MAX),
                commit_files: usize::try_from(self.integer("files.commit_files", 1, 100_000)).unwrap_or(usize::MAX),
            },
            maintenance: self.maintenance(),
            engine: Engine {
                // 32 MB: below it even a sort of one batch cannot start.
                memory_limit: self.size("engine.memory_limit", 32_000_000),
                spill_dir: self
                    .optional("engine.spill_dir")
                    .map_or_else(|| state.join("spill"), |path| self.root.join(path)),
                target_partitions: match self.integer("engine.target_partitions", 0, 1024) {
                    0 => None,
                    lanes => usize::try_from(lanes).ok(),
                },
            },
            warehouse: Warehouse {
                place: self.database(),
                password: self.secret("warehouse.password"),
                schema: self.text("warehouse.schema"),
            },
            history: RunHistory { url: self.secret("history.url"), schema: self.text("history.schema") },
            server: Server {
                listen: self
                    .parsed("server.listen", |text| {
                        text.parse().map_err(|_| "expected an address and a port such as 127.0.0.1:8080".to_owned())
                    })
                    .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
                token: self.secret("server.token"),
                grace: self.parsed("server.grace", parse_duration).unwrap_or_default(),
            },
            paths: Paths {
                inbox: self.path("paths.inbox"),
                sql: self.path("paths.sql"),
                dags: self.path("paths.dags"),
                schemas: self.path("paths.schemas"),
                state,
            },
            pools: self
                .names("pools")
                .into_iter()
                .map(|(key, name)| (name, u32::try_from(self.integer(&key, 1, 1_000_000)).unwrap_or(u32::MAX)))
                .collect(),
            vars: self.names("vars").into_iter().filter_map(|(key, name)| Some((name, self.var(&key)?))).collect(),
            listing: Vec::new(),
        }
    }

    fn take(&mut self, key: &str) -> Option<Entry> {
        self.asked.insert(key.to_owned());
        self.entries.get(key).cloned()
    }

    /// Notes a wrong value.
    fn wrong(&mut self, code: &'static str, key: &str, origin: &Origin, label: &str, secret: bool) {
        let fix = match code {
            "S0007" => Some("set it where Tidemill is started; `$${` stands for a plain `${`".to_owned()),
            "S0008" => {
                Some("check the path and that this user may read it; it is taken from the project's folder".to_owned())
            }
            _ => None,
        };
        let failure = Failure::new(code, format!("`{key}` is not valid")).maybe_fix(fix);
        self.problems.push(origin.point(failure, label, secret));
    }

    fn list(&mut self, key: &str, value: serde_json::Value, origin: &Origin) {
        self.listing.push(Listed { key: key.to_owned(), value, from: origin.name() });
    }

    /// The full keys under a free section, and what is left of each without it.
    fn names(&self, section: &str) -> Vec<(String, String)> {
        let name = |key: &String| Some((key.clone(), key.strip_prefix(section)?.strip_prefix('.')?.to_owned()));
        self.entries.keys().filter_map(name).collect()
    }

    /// A text with its references resolved, and its origin.
    fn resolved(&mut self, key: &str, secret: bool) -> Option<(String, Origin)> {
        let Entry { raw, origin } = self.take(key)?;
        let Raw::Text(text) = raw else {
            self.wrong("S0005", key, &origin, &format!("expected a string, found {}", raw.article()), secret);
            return None;
        };
        let resolved = expand(&text, self.environment).and_then(|text| match text.strip_prefix("file:") {
            Some(path) if secret => read_secret(&self.root.join(path)),
            _ => Ok(text),
        });
        match resolved {
            Ok(text) => Some((text, origin)),
            Err((code, label)) => {
                self.wrong(code, key, &origin, &label, secret);
                None
            }
        }
    }

    fn text(&mut self, key: &str) -> String {
        let Some((text, origin)) = self.resolved(key, false) else { return String::new() };
        self.list(key, text.clone().into(), &origin);
        text
    }

    fn optional(&mut self, key: &str) -> Option<String> {
        Some(self.text(key)).filter(|text| !text.is_empty())
    }

    fn secret(&mut self, key: &str) -> Secret {
        let Some((text, origin)) = self.resolved(key, true) else { return Secret::default() };
        let secret = Secret::new(text);
        self.list(key, secret.to_string().into(), &origin);
        secret
    }

    fn path(&mut self, key: &str) -> PathBuf {
        match self
            .parsed(key, |text| if text.is_empty() { Err("a path is needed".to_owned()) } else { Ok(text.to_owned()) })
        {
            Some(path) => self.root.join(path),
            None => self.root.to_path_buf(),
        }
    }

    /// A text that `parse` turns into something else.
    fn parsed<T>(&mut self, key: &str, parse: impl Fn(&str) -> std::result::Result<T, String>) -> Option<T> {
        let (text, origin) = self.resolved(key, false)?;
        match parse(text.trim()) {
            Ok(value) => {
                self.list(key, text.into(), &origin);
                Some(value)
            }
            Err(label) => {
                self.wrong("S0006", key, &origin, &label, false);
                None
            }
        }
    }

    fn boolean(&mut self, key: &str) -> bool {
        let Some(Entry { raw, origin }) = self.take(key) else { return false };
        let value = match &raw {
            Raw::Boolean(yes) => Some(*yes),
            Raw::Text(text) if origin.untyped() => text.trim().parse().ok(),
            _ => None,
        };
        if let Some(value) = value {
            self.list(key, value.into(), &origin);
        } else {
            self.wrong("S0005", key, &origin, &format!("expected true or false, found {}", raw.article()), false);
        }
        value.unwrap_or_default()
    }

    fn integer(&mut self, key: &str, least: u64, most: u64) -> u64 {
        let Some(Entry { raw, origin }) = self.take(key) else { return least };
        let number = match &raw {
            Raw::Integer(number) => Some(*number),
            Raw::Text(text) if origin.untyped() => text.trim().replace('_', "").parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            self.wrong("S0005", key, &origin, &format!("expected an integer, found {}", raw.article()), false);
            return least;
        };
        match u64::try_from(number) {
            Ok(number) if (least..=most).contains(&number) => {
                self.list(key, number.into(), &origin);
                number
            }
            _ => {
                self.wrong("S0006", key, &origin, &format!("must be from {least} to {most}"), false);
                least
            }
        }
    }

    fn size(&mut self, key: &str, least: u64) -> ByteSize {
        if let Some(Entry { raw: Raw::Integer(bytes), .. }) = self.entries.get(key)
            && let Some(entry) = self.entries.get(key).cloned()
        {
            // A plain number is bytes.
            self.entries.insert(key.to_owned(), Entry { raw: Raw::Text(bytes.to_string()), ..entry });
        }
        let parse = |text: &str| {
            let size = ByteSize::parse(text)?;
            if size.0 < least { Err(format!("must be at least {}", ByteSize(least))) } else { Ok(size) }
        };
        self.parsed(key, parse).unwrap_or_default()
    }

    fn lake_url(&mut self) -> Url {
        let root = self.root.to_path_buf();
        let parse = |text: &str| match text.split_once("://") {
            Some(("s3" | "s3a", _)) => {
                Url::parse(&text.replacen("s3a://", "s3://", 1)).map_err(|error| error.to_string())
            }
            Some(("file", _)) => Url::parse(text).map_err(|error| error.to_string()),
            Some((scheme, _)) => Err(format!("`{scheme}://` is no kind of lake: use a folder or s3://bucket/prefix")),
            None if text.is_empty() => Err("a folder or s3://bucket/prefix is needed".to_owned()),
            None => folder_url(&root.join(text)),
        };
        let url = self.address("lake.url", |text| parse(text).and_then(without_user));
        url.or_else(|| folder_url(&root).ok()).unwrap_or_else(nowhere)
    }

    fn endpoint(&mut self) -> Option<String> {
        let parse = |text: &str| match (text, http(text)) {
            ("", _) => Ok(None),
            (_, Ok(url)) => without_user(url).map(|_| Some(text.trim_end_matches('/').to_owned())),
            (_, Err(label)) => Err(label),
        };
        self.address("lake.s3.endpoint", parse).flatten()
    }

    fn broker(&mut self) -> Broker {
        let parse = |text: &str| {
            if text == "embedded" {
                return Ok(Broker::Embedded);
            }
            let hosts =
                text.strip_prefix("kafka://").ok_or("expected \"embedded\" or kafka://host:port[,host:port]")?;
            let hosts = hosts.trim_end_matches('/');
            let valid = |host: &str| matches!(host.rsplit_once(':'), Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok());
            match hosts.split(',').map(str::trim).find(|host| !valid(host)) {
                Some(wrong) => Err(format!("`{wrong}` is not host:port")),
                None => Ok(Broker::Kafka(hosts.to_owned())),
            }
        };
        self.parsed("topics.broker", parse).unwrap_or(Broker::Embedded)
    }

    fn registry(&mut self) -> Option<Address> {
        self.address("schemas.registry", |text| match text {
            "embedded" => Ok(None),
            text => http(text)
                .map(|url| Some(Address::new(url)))
                .map_err(|label| format!("expected \"embedded\" or a URL: {label}")),
        })
        .flatten()
    }

    fn database(&mut self) -> Database {
        let root = self.root.to_path_buf();
        let parse = |text: &str| match text.split_once("://") {
            Some(("postgres" | "postgresql", _)) => {
                Url::parse(text).map(|url| Database::Postgres(Address::new(url))).map_err(|error| error.to_string())
            }
            Some(("sqlite" | "file", path)) if !path.is_empty() => Ok(Database::Sqlite(root.join(path))),
            Some((scheme, _)) => Err(format!("`{scheme}://` is no kind of warehouse: use a file or postgres://…")),
            None if text.is_empty() => Err("a file or postgres://… is needed".to_owned()),
            None => Ok(Database::Sqlite(root.join(text))),
        };
        self.address("warehouse.url", parse).unwrap_or_else(|| Database::Sqlite(root.join("warehouse.db")))
    }

    /// A text that may be a URL with a password: it is listed without it, and its line is not shown.
    fn address<T>(&mut self, key: &str, parse: impl Fn(&str) -> std::result::Result<T, String>) -> Option<T> {
        let (text, origin) = self.resolved(key, false)?;
        match parse(text.trim()) {
            Ok(value) => {
                let shown = Url::parse(&text).map_or_else(|_| text.clone(), |url| Address::new(url).to_string());
                self.list(key, shown.into(), &origin);
                Some(value)
            }
            Err(label) => {
                self.wrong("S0006", key, &origin, &label, text.contains('@'));
                None
            }
        }
    }

    fn var(&mut self, key: &str) -> Option<serde_json::Value> {
        let Entry { raw, origin } = self.take(key)?;
        // What stands for a secret is listed as it was written.
        let written = match &raw {
            Raw::Text(text) if text.contains("${") => Some(text.clone()),
            _ => None,
        };
        let value = match raw {
            Raw::Integer(number) => number.into(),
            Raw::Float(number) => number.into(),
            Raw::Boolean(yes) => yes.into(),
            Raw::Text(_) => {
                let (text, _) = self.resolved(key, false)?;
                let scalar = origin.untyped().then(|| serde_json::from_str(&text).ok()).flatten();
                scalar
                    .filter(|value: &serde_json::Value| value.is_number() || value.is_boolean())
                    .unwrap_or_else(|| text.into())
            }
        };
        self.list(key, written.map_or_else(|| value.clone(), Into::into), &origin);
        Some(value)
    }
}

/// A URL that holds no password: it is part of many messages.
fn without_user(url: Url) -> std::result::Result<Url, String> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(url);
    }
    Err("keys belong into `lake.s3.access_key_id` and `lake.s3.secret_access_key`, not into the URL".to_owned())
}

fn folder_name(root: &Path) -> String {
    root.file_name().map_or_else(|| "tidemill".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn folder_url(folder: &Path) -> std::result::Result<Url, String> {
    Url::from_directory_path(folder).map_err(|()| format!("`{}` is not an absolute folder", folder.display()))
}

/// Stands for a URL that was wrong; a problem was noted with it.
fn nowhere() -> Url {
    #[expect(clippy::expect_used, reason = "a constant")]
    Url::parse("file:///").expect("it is a URL")
}

fn http(text: &str) -> std::result::Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(_)) => Ok(url),
        _ => Err("expected http:// or https:// and a host".to_owned()),
    }
}

/// Replaces `${env:NAME}` by the variable and `$${` by `${`.
fn expand(text: &str, environment: &Environment) -> std::result::Result<String, (&'static str, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (reference, tail) = after.split_once('}').ok_or(("S0009", "`${` is not closed by `}`".to_owned()))?;
        let name = reference.strip_prefix("env:").ok_or_else(|| {
            ("S0009", format!("`${{{reference}}}` is no reference: write `${{env:NAME}}`, or `$${{` for a plain `${{`"))
        })?;
        let value =
            environment.0.get(name).ok_or_else(|| ("S0007", format!("the environment has no variable `{name}`")))?;
        out.push_str(value);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// The content of a secret's file without its last line break; at most 64 KiB, which any key or certificate fits.
fn read_secret(path: &Path) -> std::result::Result<String, (&'static str, String)> {
    use std::io::Read as _;

    let unreadable =
        |why: &dyn std::fmt::Display| ("S0008", format!("cannot read the secret's file `{}`: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
    let mut text = String::new();
    file.take((64 << 10) + 1).read_to_string(&mut text).map_err(|error| unreadable(&error))?;
    if text.len() > 64 << 10 {
        return Err(unreadable(&"more than 64 KiB"));
    }
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests;
