//! Commands and flags: types only.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::NaiveDate;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tidemill_etl::stream::To;
use tidemill_orchestrator::schedule;

use crate::tasks::DEFAULT_GENERATOR;

/// One binary that is a whole lakehouse: topics and files in, Delta tables and SQL models out.
#[derive(Debug, Parser)]
#[command(
    name = "tidemill",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 invalid settings, DAG or model, 4 a run failed, 5 a check found rows, 130 stopped.\n\nExample: tidemill demo --dir /tmp/mill"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Global {
    /// Work as if started in DIR
    #[arg(short = 'C', long = "directory", value_name = "DIR", global = true)]
    pub(crate) directory: Option<PathBuf>,
    /// Print results as JSON on standard output, and failures as JSON on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print results and failures only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log to standard error: -v what happens, -vv why, -vvv what the libraries do
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Override a setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub(crate) set: Vec<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole sample project on embedded parts: nothing to install
    #[command(after_help = "Example: tidemill demo --dir /tmp/mill --exit")]
    Demo(Demo),
    /// Write a new project: DAGs, SQL, schemas, sample data, settings
    #[command(after_help = "Example: tidemill init shop && tidemill -C shop up")]
    Init {
        /// The folder; it is created, and nothing in it is overwritten
        dir: PathBuf,
        /// Which project: `consumer_segmentation` (the demo's), `customer_events` or `ecommerce_logs`
        #[arg(long, value_name = "NAME", default_value = "consumer_segmentation")]
        pipeline: String,
    },
    /// Run the project: schedules, file arrivals, the status page, /healthz and /metrics
    #[command(after_help = "Example: tidemill up --listen 127.0.0.1:9000")]
    Up(Up),
    /// Work with DAGs
    #[command(subcommand)]
    Dags(Dags),
    /// Say when the clock will start what: of all DAGs, of one, or of an expression
    #[command(
        after_help = "Example: tidemill schedule --next 7d\n         tidemill schedule --cron '30 2 * * *' --tz America/New_York --from 2026-03-07 --next 3 --gap offset"
    )]
    Schedule(Schedule),
    /// Look at runs
    #[command(subcommand)]
    Runs(Runs),
    /// Print what the tasks of a run logged
    #[command(after_help = "Example: tidemill logs consumer_events-20260105 land -f")]
    Logs {
        /// The run, or the first letters of its id
        run: String,
        /// Only this task
        task: Option<String>,
        /// Go on until the run has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// Say why a DAG, a run or a task waits: the one fact, who holds it, since when, until when
    #[command(after_help = "Example: tidemill why daily_sales.load")]
    Why {
        /// A DAG, a run (or the first letters of its id), or either with `.TASK`
        what: String,
    },
    /// Work with topics, embedded or in Kafka
    #[command(subcommand)]
    Topics(Topics),
    /// Work with the schemas of topics
    #[command(subcommand)]
    Schemas(Schemas),
    /// Make realistic events: of shoppers over the catalogue, or of the other generators
    #[command(after_help = "Example: tidemill generate customer_events --events 100000 --seed 7")]
    Generate(Generate),
    /// Run one SQL query over the lake
    #[command(
        after_help = "Example: tidemill query \"select count(*) n from silver.movies version as of 3\" --format json"
    )]
    Query(Query),
    /// Look at tables
    #[command(subcommand)]
    Tables(Tables),
    /// Work with SQL models
    #[command(subcommand)]
    Models(Models),
    /// Work with checks
    #[command(subcommand)]
    Checks(Checks),
    /// Look at records and rows that could not be taken, and replay them
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// See where streams stand, and pause or move them
    #[command(subcommand)]
    Streams(Streams),
    /// Prove that a stream's tables are what its topics say; exit code 5 if they are not
    #[command(after_help = "Example: tidemill verify consumer_events --topic sign_in_topic")]
    Verify(Verify),
    /// Print a JSON Schema for editors
    #[command(after_help = "Example: tidemill schema dag > .vscode/dag.schema.json")]
    Schema {
        /// Which kind of file
        kind: SchemaKind,
    },
    /// List the kinds of task and their keys
    #[command(after_help = "Example: tidemill kinds publish")]
    Kinds {
        /// Only this kind
        kind: Option<String>,
    },
    /// Explain an error code
    #[command(after_help = "Example: tidemill explain S0004")]
    Explain {
        /// The code, or none to list them all
        code: Option<String>,
    },
    /// Try every connection, right and file that the project needs; exit code 4 if one fails
    #[command(after_help = "Example: tidemill doctor")]
    Doctor,
    /// Copy the history and the embedded topics into a new folder, while everything runs
    #[command(
        after_help = "The lake and the warehouse are not in it.\n\nExample: tidemill backup /backups/shop-2026-01-05"
    )]
    Backup {
        /// The folder; it is created, and must be empty
        to: PathBuf,
    },
    /// Put a backup in place of the project's history and embedded topics
    #[command(
        after_help = "Topics that are older than what the lake has of them are refused by their streams: see `tidemill streams reset`.\n\nExample: tidemill restore /backups/shop-2026-01-05 --replace"
    )]
    Restore {
        /// The folder that `tidemill backup` made
        from: PathBuf,
        /// Put aside what is there
        #[arg(long)]
        replace: bool,
    },
    /// Say whether a running `tidemill up` answers
    #[command(after_help = "Example: tidemill health && echo well")]
    Health,
    /// Show every setting, its value, and where it comes from
    #[command(after_help = "Example: tidemill settings lake")]
    Settings {
        /// Only keys that begin with this
        prefix: Option<String>,
    },
    /// Print a completion script
    #[command(after_help = "Example: tidemill completions bash > /etc/bash_completion.d/tidemill")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `tidemill demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The folder to work in; a second run there doubles nothing
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// End when the tables are shown instead of serving
    #[arg(long)]
    pub(crate) exit: bool,
    /// Serve on this port
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
}

/// `tidemill up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Serve here instead of at `server.listen`
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
}

/// A value for a param of a DAG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl std::str::FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
        if key.trim().is_empty() {
            return Err("the key is missing: write it as KEY=VALUE".to_owned());
        }
        Ok(Self { key: key.trim().to_owned(), value: value.to_owned() })
    }
}

/// `tidemill dags …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Dags {
    /// List the DAGs with their triggers and latest runs
    #[command(after_help = "Example: tidemill dags list")]
    List,
    /// Show one DAG: tasks, order, params
    #[command(after_help = "Example: tidemill dags show movies_catalog")]
    Show {
        /// The DAG
        id: String,
    },
    /// Run a DAG here and now; the exit code says how it went
    #[command(after_help = "Example: tidemill dags run movies_catalog --param file=data/Movies.txt")]
    Run {
        /// The DAG
        id: String,
        /// Give a param; may be repeated
        #[arg(long = "param", value_name = "KEY=VALUE")]
        params: Vec<Assignment>,
        /// Of a streaming DAG: take what is there, finish, and end
        #[arg(long)]
        drain: bool,
    },
    /// Ask the running `tidemill up` for a run
    #[command(after_help = "Example: tidemill dags trigger movies_catalog --param file=data/Movies.txt")]
    Trigger {
        /// The DAG
        id: String,
        /// Give a param; may be repeated
        #[arg(long = "param", value_name = "KEY=VALUE")]
        params: Vec<Assignment>,
        /// Only if no run of the DAG was asked for with this key before; else that run is named
        #[arg(long)]
        key: Option<String>,
    },
    /// Let a DAG start no runs by itself; people still can
    #[command(after_help = "Example: tidemill dags pause movies_catalog")]
    Pause {
        /// The DAG
        id: String,
    },
    /// Let a paused DAG start runs again
    #[command(after_help = "Example: tidemill dags resume movies_catalog")]
    Resume {
        /// The DAG
        id: String,
    },
    /// Ask the running `tidemill up` for the runs of a range of time, with a limit of its own
    #[command(after_help = "Example: tidemill dags backfill daily_sales --from 2026-01-01 --to 2026-02-01 --missing")]
    Backfill(BackfillDag),
    /// Run a whole DAG in this process, without a trace in the history: waits are skipped, not waited for
    #[command(
        after_help = "Example: tidemill dags test daily_sales --at 2026-01-05 --fixtures tests/daily_sales.toml --dry"
    )]
    Test(TestDag),
}

/// `tidemill dags backfill`.
#[derive(Debug, Args)]
pub(crate) struct BackfillDag {
    /// The DAG
    pub(crate) id: String,
    /// The first instant of the range; without an offset it is taken in the schedule's time zone
    #[arg(long, value_name = "INSTANT", required_unless_present = "cancel")]
    pub(crate) from: Option<String>,
    /// The first instant after the range
    #[arg(long, value_name = "INSTANT", required_unless_present = "cancel")]
    pub(crate) to: Option<String>,
    /// Only intervals that no run has covered with success, or is about to
    #[arg(long)]
    pub(crate) missing: bool,
    /// The latest interval first
    #[arg(long)]
    pub(crate) reverse: bool,
    /// How many of its runs may be open at once; the DAG's own limit does not count them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) at_once: u32,
    /// Which trigger of the DAG by the clock, from 0; without it, the only one
    #[arg(long)]
    pub(crate) trigger: Option<usize>,
    /// Give a param; may be repeated
    #[arg(long = "param", value_name = "KEY=VALUE")]
    pub(crate) params: Vec<Assignment>,
    /// Only list the intervals
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Make no more runs of this backfill
    #[arg(long, value_name = "BACKFILL", conflicts_with_all = ["from", "to"])]
    pub(crate) cancel: Option<String>,
}

/// `tidemill dags test`.
#[derive(Debug, Args)]
pub(crate) struct TestDag {
    /// The DAG
    pub(crate) id: String,
    /// Run for the interval that contains this instant
    #[arg(long, value_name = "INSTANT")]
    pub(crate) at: Option<String>,
    /// Give a param; may be repeated
    #[arg(long = "param", value_name = "KEY=VALUE")]
    pub(crate) params: Vec<Assignment>,
    /// A file with `[tasks.NAME]` tables (`state`, `result`, `summary`): these tasks do that and nothing else
    #[arg(long, value_name = "FILE")]
    pub(crate) fixtures: Option<PathBuf>,
    /// Tasks without a fixture do nothing and are done
    #[arg(long)]
    pub(crate) dry: bool,
}

/// `tidemill schedule`.
#[derive(Debug, Args)]
pub(crate) struct Schedule {
    /// Only this DAG
    #[arg(conflicts_with = "cron")]
    pub(crate) dag: Option<String>,
    /// An expression of five fields, or six with seconds first, instead of the project's DAGs
    #[arg(long, value_name = "EXPR")]
    pub(crate) cron: Option<String>,
    /// The time zone of the expression, from the IANA database [default: UTC]
    #[arg(long = "tz", value_name = "ZONE", requires = "cron")]
    pub(crate) timezone: Option<String>,
    /// Only what comes after this instant; without an offset it is taken in the time zone [default: now]
    #[arg(long, value_name = "INSTANT")]
    pub(crate) from: Option<String>,
    /// How many, or how far: `10`, `365d`
    #[arg(long, value_name = "N|TIME", default_value = "10")]
    pub(crate) next: Reach,
    /// What a fixed time does that a change of clocks leaves out: not tick, tick at the first instant after it, or when
    /// it would have come by the old clock
    #[arg(long, value_enum, requires = "cron", default_value_t = Gap::Next)]
    pub(crate) gap: Gap,
    /// When a fixed time ticks that comes twice
    #[arg(long, value_enum, requires = "cron", default_value_t = Overlap::First)]
    pub(crate) overlap: Overlap,
    /// Only on this day; may be repeated
    #[arg(long = "include-date", value_name = "DATE", requires = "cron")]
    pub(crate) include_dates: Vec<NaiveDate>,
    /// Not on this day; may be repeated
    #[arg(long = "exclude-date", value_name = "DATE", requires = "cron")]
    pub(crate) exclude_dates: Vec<NaiveDate>,
}

/// How far a list goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// So many.
    Count(usize),
    /// So long.
    Span(Duration),
}

impl std::str::FromStr for Reach {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count) => Ok(Self::Count(count)),
            Err(_) => crate::settings::parse_duration(text).map(Self::Span),
        }
    }
}

/// What a fixed time does that does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Gap {
    /// Not tick
    Skip,
    /// Tick at the first instant after the gap
    Next,
    /// Tick when it would have come by the old clock
    Offset,
}

impl From<Gap> for schedule::Gap {
    fn from(gap: Gap) -> Self {
        match gap {
            Gap::Skip => Self::Skip,
            Gap::Next => Self::Next,
            Gap::Offset => Self::Offset,
        }
    }
}

/// When a fixed time ticks that comes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Overlap {
    /// When it comes first
    First,
    /// When it comes again
    Second,
    /// Both times
    Both,
}

impl From<Overlap> for schedule::Overlap {
    fn from(overlap: Overlap) -> Self {
        match overlap {
            Overlap::First => Self::First,
            Overlap::Second => Self::Second,
            Overlap::Both => Self::Both,
        }
    }
}

/// `tidemill runs …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    /// List runs, newest first
    #[command(after_help = "Example: tidemill runs list --dag movies_catalog --limit 5")]
    List {
        /// Only runs of this DAG
        #[arg(long)]
        dag: Option<String>,
        /// Only in this state: queued, running, success, failed or cancelled
        #[arg(long)]
        state: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Show one run: its tasks, attempts and times
    #[command(after_help = "Example: tidemill runs show consumer_events-20260105")]
    Show {
        /// The run, or the first letters of its id
        run: String,
    },
    /// Draw when each task of a run ran
    #[command(after_help = "Example: tidemill runs gantt consumer_events-20260105")]
    Gantt {
        /// The run, or the first letters of its id
        run: String,
    },
    /// Forget runs that ended long ago, with their logs; files and events that started them stay known
    #[command(after_help = "Example: tidemill runs forget --older-than 90d")]
    Forget {
        /// How long ago they ended at least
        #[arg(long, value_name = "TIME", value_parser = crate::settings::parse_duration)]
        older_than: Duration,
    },
    /// Stop a run: its tasks are asked to stop, and it ends as cancelled
    #[command(after_help = "Example: tidemill runs cancel consumer_events-20260105")]
    Cancel {
        /// The run, or the first letters of its id
        run: String,
    },
    /// Let tasks of a run be done again, with what had no chance because of them; a run that has ended goes on
    #[command(after_help = "Example: tidemill runs clear consumer_events-20260105 land --downstream")]
    Clear {
        /// The run, or the first letters of its id
        run: String,
        /// The tasks; without any, all that failed
        tasks: Vec<String>,
        /// And all tasks after them
        #[arg(long)]
        downstream: bool,
    },
    /// Say how tasks of a run have ended; what had no chance because of them gets another
    #[command(after_help = "Example: tidemill runs mark consumer_events-20260105 land --as success")]
    Mark {
        /// The run, or the first letters of its id
        run: String,
        /// The tasks
        #[arg(required = true)]
        tasks: Vec<String>,
        /// How
        #[arg(long = "as", value_enum)]
        state: MarkAs,
    },
}

/// How a task is said to have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MarkAs {
    /// Done
    Success,
    /// Failed
    Failed,
    /// Not needed
    Skipped,
}

/// `tidemill topics …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Topics {
    /// List topics with partitions and records
    #[command(after_help = "Example: tidemill topics list")]
    List,
    /// Show the partitions of a topic and what is left of each
    #[command(after_help = "Example: tidemill topics show sign_in_topic")]
    Show {
        /// The topic
        topic: String,
    },
    /// Print records, decoded
    #[command(after_help = "Example: tidemill topics tail sign_in_topic --limit 3")]
    Tail {
        /// The topic
        topic: String,
        /// The first offset of each partition; without it, the newest records
        #[arg(long, value_name = "OFFSET")]
        from: Option<i64>,
        /// At most this many
        #[arg(long, default_value_t = 10)]
        limit: usize,
    },
    /// Create a topic; one that exists is left as it is
    #[command(after_help = "Example: tidemill topics create sign_in_topic --partitions 4")]
    Create {
        /// The topic
        topic: String,
        /// How many partitions
        #[arg(long, default_value_t = 1)]
        partitions: i32,
    },
    /// Write records: one per line, from a file or standard input
    #[command(
        after_help = "Example: echo '{\"timestamp\":\"2026-01-05T10:00:00Z\",\"event_name\":\"sign_in\",\"user_id\":\"7\"}' | tidemill topics produce sign_in_topic --key user_id"
    )]
    Produce {
        /// The topic
        topic: String,
        /// Read from here instead of standard input
        #[arg(long)]
        file: Option<PathBuf>,
        /// What a line is
        #[arg(long, value_enum, default_value_t = RecordFormat::Json)]
        format: RecordFormat,
        /// The field whose value becomes the record's key
        #[arg(long, value_name = "FIELD")]
        key: Option<String>,
    },
}

/// What one line of input to `topics produce` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordFormat {
    /// A JSON object, encoded by the subject's schema
    Json,
    /// The raw value of the record, in base64
    Base64,
}

/// `tidemill schemas …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Schemas {
    /// List subjects with versions and ids
    #[command(after_help = "Example: tidemill schemas list")]
    List,
    /// Show the versions of a subject
    #[command(after_help = "Example: tidemill schemas show sign_in_topic-value")]
    Show {
        /// The subject
        subject: String,
    },
    /// Register a schema
    #[command(after_help = "Example: tidemill schemas add sign_in_topic-value old.avsc --id 100002")]
    Add {
        /// The subject
        subject: String,
        /// The schema, as Avro JSON
        file: PathBuf,
        /// Give it this id, as another registry did
        #[arg(long)]
        id: Option<u32>,
    },
    /// Say whether a schema can follow the latest of its subject
    #[command(after_help = "Example: tidemill schemas check sign_in_topic-value schemas/sign_in_topic.avsc")]
    Check {
        /// The subject
        subject: String,
        /// The schema, as Avro JSON
        file: PathBuf,
    },
    /// Say how far the schemas of a subject may differ, or set it
    #[command(after_help = "Example: tidemill schemas compatibility sign_in_topic-value FULL_TRANSITIVE")]
    Compatibility {
        /// The subject
        #[arg(required_unless_present = "all")]
        subject: Option<String>,
        /// NONE, BACKWARD, FORWARD or FULL, the last three also with _TRANSITIVE; without it, say what it is
        level: Option<String>,
        /// The level of all subjects that have none of their own
        #[arg(long, value_name = "LEVEL", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["subject", "level"])]
        all: Option<String>,
    },
}

/// `tidemill generate`.
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// What is made up: shoppers, `customer_events` or `ecommerce_logs`
    #[arg(default_value = DEFAULT_GENERATOR)]
    pub(crate) generator: String,
    /// How many events; without it, until stopped
    #[arg(long)]
    pub(crate) events: Option<u64>,
    /// The same seed gives the same events
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Events per second, 0: as fast as possible; without it that, but 2 of `ecommerce_logs`
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// How many users there are; without it, as many as the generator has by itself
    #[arg(long)]
    pub(crate) users: Option<u64>,
    /// The instant events begin at, as RFC 3339; without it, some days ago
    #[arg(long, value_name = "INSTANT")]
    pub(crate) start: Option<String>,
    /// Only show what would be written, as JSON lines
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `tidemill query`.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// The query, or `-` for standard input
    pub(crate) sql: String,
    /// How to print the rows; `--json` is `--format json`
    #[arg(long, value_enum)]
    pub(crate) format: Option<RowFormat>,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Which engine runs it
    #[arg(long, value_enum, default_value_t = EngineName::Datafusion)]
    pub(crate) engine: EngineName,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RowFormat {
    /// For people
    Table,
    /// RFC 4180, with a header line
    Csv,
    /// One array of objects
    Json,
    /// A Parquet file
    Parquet,
}

/// Which engine runs a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// `DataFusion`, the engine of every model
    Datafusion,
    /// Polars, an independent second opinion
    Polars,
}

/// `tidemill tables …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Tables {
    /// List the tables of the lake
    #[command(after_help = "Example: tidemill tables list")]
    List,
    /// Show the columns of a table, its size and its version
    #[command(after_help = "Example: tidemill tables show silver.movies")]
    Show {
        /// The table
        table: String,
    },
    /// Show the versions of a table
    #[command(after_help = "Example: tidemill tables history silver.movies")]
    History {
        /// The table
        table: String,
    },
    /// Put small files of a table together and write a checkpoint of its log
    #[command(after_help = "Example: tidemill tables optimize bronze.events")]
    Optimize {
        /// The table
        table: String,
    },
    /// Delete files that no version of a table within the retention reads
    #[command(after_help = "Example: tidemill tables vacuum bronze.events --dry-run")]
    Vacuum {
        /// The table
        table: String,
        /// Only name the files
        #[arg(long)]
        dry_run: bool,
        /// How long files are kept that no version names any more, such as 7d; without it, as set for the table
        #[arg(long, value_name = "TIME", value_parser = crate::settings::parse_duration)]
        retain: Option<Duration>,
    },
    /// Put an older version of a table back, with its progress: what came after it is landed or built again
    #[command(after_help = "Example: tidemill tables restore silver.movies --to 3")]
    Restore {
        /// The table
        table: String,
        /// The version to put back
        #[arg(long, value_name = "VERSION")]
        to: u64,
    },
    /// Delete a table with all its versions; a stream that fills it starts over from the beginning
    #[command(after_help = "Example: tidemill tables drop bronze.events --yes")]
    Drop {
        /// The table
        table: String,
        /// Really: there is no way back
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// `tidemill models …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// List seeds and models in build order
    #[command(after_help = "Example: tidemill models list --select +movie_sales")]
    List(Choice),
    /// Find what is wrong with models and checks, without running any; exit code 3 if something is
    #[command(after_help = "Example: tidemill models check")]
    Check,
    /// Show one model: its SQL after templating, its inputs
    #[command(after_help = "Example: tidemill models show movie_sales")]
    Show {
        /// The model
        model: String,
    },
    /// Say how a model is brought up to date when its inputs change, and why not more cheaply
    #[command(after_help = "Example: tidemill models explain movie_sales")]
    Explain {
        /// The model
        model: String,
    },
    /// Compare a model's table with all of its SELECT, row by row
    #[command(
        after_help = "The inputs are read at the versions that the table was made from. Exit code 5 if a row differs.\n\nExample: tidemill models verify movie_sales"
    )]
    Verify {
        /// The model
        model: String,
        /// What computes the SELECT
        #[arg(long, value_enum, default_value_t = EngineName::Datafusion)]
        engine: EngineName,
    },
    /// Load seeds and build models, inputs first; a model's checks run before its new version is seen
    #[command(
        after_help = "Example: tidemill models build movie_sales\n         tidemill models build --select staging+ --exclude tag:slow"
    )]
    Build {
        #[command(flatten)]
        choice: Choice,
        /// How many at the same time; without it, one a core
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        jobs: Option<u16>,
    },
    /// List what was published together: the versions of tables that readers saw, and see
    #[command(after_help = "Example: tidemill models publications")]
    Publications,
    /// Show readers again what an earlier publication showed: its tables are restored with their progress
    #[command(after_help = "Example: tidemill models rollback --to 41")]
    Rollback {
        /// The publication; without it, the one before the newest
        #[arg(long)]
        to: Option<u64>,
    },
    /// Run the checks of models over their tables; exit code 5 if one finds rows
    #[command(after_help = "Example: tidemill models test --select tag:nightly")]
    Test(Choice),
    /// Show what a model's columns are made of
    #[command(after_help = "Example: tidemill models lineage movie_sales.revenue")]
    Lineage {
        /// The model, or MODEL.COLUMN
        what: String,
    },
}

/// Which models.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// Names, folders, `tag:NAME`, `path:PATH`, `source:NAME`; `+name` with all it reads, `name+` with all that read it;
    /// without it, all
    #[arg(value_name = "SELECT")]
    pub(crate) names: Vec<String>,
    /// The same, as dbt has it; a comma means both
    #[arg(short, long, num_args = 1.., value_name = "SELECT")]
    select: Vec<String>,
    /// All but these
    #[arg(long, num_args = 1.., value_name = "SELECT")]
    pub(crate) exclude: Vec<String>,
}

impl Choice {
    /// What was selected, however it was said.
    pub(crate) fn selected(&self) -> Vec<String> {
        self.names.iter().chain(&self.select).cloned().collect()
    }
}

/// `tidemill checks …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Checks {
    /// Run checks; exit code 5 if one finds rows
    #[command(after_help = "Example: tidemill checks run")]
    Run {
        /// Which; without it, all
        select: Vec<String>,
    },
}

/// `tidemill dead-letters …`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List dead letters, newest first
    #[command(after_help = "Example: tidemill dead-letters list --stream consumer_events --limit 5")]
    List {
        #[command(flatten)]
        choice: LetterChoice,
        /// Only those not replayed
        #[arg(long)]
        open: bool,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Count dead letters by stream, topic and reason
    #[command(after_help = "Example: tidemill dead-letters count --topic sign_in_topic")]
    Count {
        #[command(flatten)]
        choice: LetterChoice,
    },
    /// Show one dead letter with its raw bytes
    #[command(after_help = "Example: tidemill dead-letters show sign_in_topic/0/4181")]
    Show {
        /// Its id
        id: String,
    },
    /// Decode dead letters again and append to their tables what can be read now, each once
    #[command(after_help = "Example: tidemill dead-letters replay --reason unknown_schema --dry-run")]
    Replay {
        /// Which; without any, all that the options leave
        ids: Vec<String>,
        #[command(flatten)]
        choice: LetterChoice,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LetterChoice {
    /// Only with this reason
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Only of this stream or task
    #[arg(long)]
    pub(crate) stream: Option<String>,
    /// Only of this topic or file
    #[arg(long)]
    pub(crate) topic: Option<String>,
}

/// `tidemill streams …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Streams {
    /// List streams: topics, tables, next offsets to read, what is not read yet, dead letters
    #[command(after_help = "Example: tidemill streams list --json")]
    List,
    /// Show the partitions of a stream's topics
    #[command(after_help = "Example: tidemill streams show consumer_events")]
    Show {
        /// The stream
        stream: String,
    },
    /// Pause a stream, in every process that shares the lake
    #[command(after_help = "Example: tidemill streams pause consumer_events")]
    Pause {
        /// The stream
        stream: String,
    },
    /// Let a paused stream go on
    #[command(after_help = "Example: tidemill streams resume consumer_events")]
    Resume {
        /// The stream
        stream: String,
    },
    /// Move a stream to other offsets of a topic, to read again or to skip
    #[command(
        after_help = "Example: tidemill streams reset consumer_events --topic sign_in_topic --to earliest --truncate --yes"
    )]
    Reset(ResetStream),
    /// Land a part of a topic again beside the live table, compare, and swap it in
    #[command(
        after_help = "Example: tidemill streams backfill consumer_events --topic sign_in_topic --from 2026-01-05T00:00:00Z --to 2026-01-06T00:00:00Z\n         tidemill streams backfill consumer_events compare --topic sign_in_topic"
    )]
    Backfill(BackfillStream),
}

/// `tidemill streams backfill`.
#[derive(Debug, Args)]
pub(crate) struct BackfillStream {
    /// The stream
    pub(crate) stream: String,
    /// What to do
    #[arg(value_enum, default_value_t = BackfillStep::Land)]
    pub(crate) step: BackfillStep,
    /// The topic
    #[arg(long)]
    pub(crate) topic: String,
    /// Of `land`, the first offset: earliest, an offset, or an instant as RFC 3339
    #[arg(long, value_name = "PLACE", default_value = "earliest")]
    pub(crate) from: To,
    /// Of `land`, the offset to end before: latest, an offset, or an instant as RFC 3339
    #[arg(long, value_name = "PLACE", default_value = "latest")]
    pub(crate) to: To,
}

/// A step of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackfillStep {
    /// Land the range into the shadow table, or go on with it
    Land,
    /// Show how the shadow differs from the live table
    Compare,
    /// Put the shadow's rows in the place of the live ones, in one commit
    Swap,
    /// Remove the shadow
    Drop,
}

/// `tidemill verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The stream
    pub(crate) stream: String,
    /// Only this topic
    #[arg(long)]
    pub(crate) topic: Option<String>,
}

/// `tidemill streams reset`.
#[derive(Debug, Args)]
pub(crate) struct ResetStream {
    /// The stream
    pub(crate) stream: String,
    /// The topic
    #[arg(long)]
    pub(crate) topic: String,
    /// Only this partition
    #[arg(long)]
    pub(crate) partition: Option<i32>,
    /// Where to: earliest, latest, an offset, or an instant as RFC 3339
    #[arg(long, value_name = "PLACE")]
    pub(crate) to: To,
    /// Take the rows from there on out of the table, in the same commit
    #[arg(long)]
    pub(crate) truncate: bool,
    /// Do it; without, what would be done is only told
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What `tidemill schema` describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaKind {
    /// `dags/*.toml`
    Dag,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.has_subcommands() {
                command.get_subcommands().for_each(|inner| walk(inner, &path));
            } else {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example: "), "{path} has no example");
                assert!(help.contains(command.get_name()), "the example of {path} is about something else: {help}");
            }
        }
        Cli::command().get_subcommands().for_each(|command| walk(command, "tidemill"));
    }

    #[test]
    fn a_directory_works_before_and_after_the_command() {
        for line in [["tidemill", "-C", "x", "health"], ["tidemill", "health", "-C", "x"]] {
            assert_eq!(Cli::try_parse_from(line).unwrap().global.directory, Some(PathBuf::from("x")));
        }
    }

    #[test]
    fn a_param_keeps_further_equals_signs() {
        assert_eq!("k=a=b".parse(), Ok(Assignment { key: "k".to_owned(), value: "a=b".to_owned() }));
        assert!("k".parse::<Assignment>().is_err());
    }
}
