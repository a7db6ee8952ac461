//! Lands a part of a topic again, into a shadow table beside the live one; compares the two; and puts the shadow's rows
//! in the place of the live ones in one commit. The live landing goes on all the while.
//!
//! Layout of the note `_streams/STREAM.TOPIC.backfill.json` in the lake: `{"version": 1, "shadow": "bronze.t__backfill",
//! "partitions": [{"partition": 0, "from": 10, "to": 20}]}`, offsets from (inclusive) and to (exclusive).
use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::logical_expr::Expr;
use datafusion::prelude::{ident, lit};
use deltalake::kernel::Action;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::error::StreamError;
use super::replay::letters;
use super::reset::{To, adds, moved, offsets, raise};
use super::rows::{range, without};
use super::scan::{Wanted, scan};
use super::until::Until;
use crate::engine::Engine;
use crate::error::Result;
use crate::failpoint::hit;
use crate::pipeline::{Around, DeadLetter, Landed, Landing, Progress, land};
use crate::position::Offset;
use crate::table::{
    Commit, FileWriter, Guard, Lake, Operation, Table, TableError, TableName, WriteOptions, evolve, project,
};

/// The layout that this program writes.
const VERSION: u32 = 1;
/// How often others may change the live table under our hands.
const TRIES: u32 = 8;

/// What a backfill covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    version: u32,
    /// The shadow table.
    pub shadow: String,
    /// Which offsets of each partition.
    pub partitions: Vec<Span>,
}

/// Some offsets of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub from: Offset,
    /// The offset after the last.
    pub to: Offset,
}

/// The landing of the shadow: a stream of its own.
pub(super) fn shadow(landing: &Landing) -> Landing {
    Landing {
        stream: format!("{}/backfill", landing.stream),
        table: TableName::new(&landing.table.schema, format!("{}__backfill", landing.table.table)),
        drain: true,
        record_gaps: false,
        shared: false,
        ..landing.clone()
    }
}

fn path(lake: &Lake, landing: &Landing) -> Path {
    lake.path("_streams").join(format!("{}.{}.backfill.json", landing.stream, landing.topic))
}

/// The backfill of a stream's topic, if there is one.
///
/// # Errors
/// [`TableError::Storage`] if the lake cannot be read; [`StreamError::Note`] if the note in it cannot be understood.
pub async fn backfill_of(lake: &Lake, landing: &Landing) -> Result<Option<Backfill>> {
    let path = path(lake, landing);
    let failed = |e| TableError::storage("read the backfill of", &landing.table, e);
    let bytes = match lake.store().get(&path).await {
        Ok(found) => found.bytes().await.map_err(failed)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed(error).into()),
    };
    let note = |why: String| StreamError::Note { path: path.to_string(), why };
    let backfill: Backfill = serde_json::from_slice(&bytes).map_err(|e| note(e.to_string()))?;
    if backfill.version > VERSION {
        return Err(note(format!("it is of version {}, which a later Tidemill wrote", backfill.version)).into());
    }
    Ok(Some(backfill))
}

/// The backfill, or what is said where there is none.
pub(super) async fn need(lake: &Lake, landing: &Landing) -> Result<Backfill> {
    match backfill_of(lake, landing).await? {
        Some(backfill) => Ok(backfill),
        None => Err(StreamError::NoBackfill { topic: landing.topic.clone() }.into()),
    }
}

/// Lands the offsets `[from, to)` of a stream's topic into its shadow table, or goes on with it.
///
/// # Errors
/// [`StreamError::OtherBackfill`] if another range is under way; [`StreamError::Offset`] if a partition does not have an
/// offset; else as [`land`].
pub async fn backfill(
    around: &Around,
    landing: &Landing,
    (from, to): (To, To),
    progress: &Arc<Progress>,
    stop: &CancellationToken,
) -> Result<(Backfill, Landed)> {
    let live = around.lake.table(&landing.table).await?;
    let shadow = shadow(landing);
    let noted = match backfill_of(&around.lake, landing).await? {
        Some(noted) => noted,
        None => begin(around, landing, &shadow, (from, to)).await?,
    };
    check_same(around, landing, &noted, (from, to)).await?;
    let mut table = around.lake.ensure(&shadow.table, &*live.schema()?, &[]).await?;
    position(around, &shadow, &mut table, &noted).await?;
    let ends: BTreeMap<i32, Offset> = noted.partitions.iter().map(|span| (span.partition, span.to)).collect();
    let broker = Arc::new(Until { inner: Arc::clone(&around.broker), ends });
    let around = Around { broker, ..around.clone() };
    let landed = land(&around, &shadow, progress, stop).await?;
    Ok((noted, landed))
}

async fn begin(around: &Around, landing: &Landing, shadow: &Landing, (from, to): (To, To)) -> Result<Backfill> {
    let firsts = offsets(around, &landing.topic, None, from).await?;
    let ends: BTreeMap<i32, Offset> = offsets(around, &landing.topic, None, to).await?.into_iter().collect();
    let span = |(partition, from): (i32, Offset)| {
        let to = ends.get(&partition).copied().unwrap_or(from);
        (from < to).then_some(Span { partition, from, to })
    };
    let partitions: Vec<Span> = firsts.into_iter().filter_map(span).collect();
    if partitions.is_empty() {
        return Err(StreamError::Empty { topic: landing.topic.clone() }.into());
    }
    let noted = Backfill { version: VERSION, shadow: shadow.table.to_string(), partitions };
    let text = json!(noted).to_string();
    let put = around.lake.store().put(&path(&around.lake, landing), PutPayload::from(text.into_bytes())).await;
    put.map_err(|e| TableError::storage("note the backfill of", &landing.table, e))?;
    Ok(noted)
}

/// A backfill that is under way goes on only with the offsets it began with. Places that move, such as `latest` and
/// times, mean those.
async fn check_same(around: &Around, landing: &Landing, noted: &Backfill, (from, to): (To, To)) -> Result<()> {
    let spans = |place: To| async move {
        match place {
            To::Offset(_) => offsets(around, &landing.topic, None, place).await.map(Some),
            _ => Ok(None),
        }
    };
    let differs = |given: Option<Vec<(i32, Offset)>>, of: fn(&Span) -> Offset| {
        given.is_some_and(|given| {
            noted.partitions.iter().any(|span| !given.iter().any(|one| *one == (span.partition, of(span))))
        })
    };
    if differs(spans(from).await?, |span| span.from) || differs(spans(to).await?, |span| span.to) {
        return Err(StreamError::OtherBackfill { topic: landing.topic.clone() }.into());
    }
    Ok(())
}

/// Says in the shadow table where its landing begins, once.
async fn position(around: &Around, shadow: &Landing, table: &mut Table, noted: &Backfill) -> Result<()> {
    let mut commit = Commit::new(Operation::Fence, Guard::Append, (around.clock)());
    let mut told = Vec::new();
    for span in &noted.partitions {
        let app = shadow.app(span.partition);
        if table.txn(&app).await?.is_none() {
            commit.expected.push((app.clone(), None));
            commit.txns.push((app, span.from));
            told.push(json!({ "partition": span.partition, "to": span.from }));
        }
    }
    if commit.txns.is_empty() {
        return Ok(());
    }
    commit
        .info
        .insert("reset".to_owned(), json!({ "stream": shadow.stream, "topic": shadow.topic, "partitions": told }));
    table.commit(commit).await.map(drop)
}

/// What a swap did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Swapped {
    /// The version it made; `None` if this backfill was swapped before.
    pub version: Option<u64>,
    /// Rows of the live table taken out.
    pub removed: u64,
    /// Rows of the shadow put in their place.
    pub added: u64,
}

/// Puts the shadow's rows in the place of the live table's rows of the same offsets, in one commit. What landing commits
/// meanwhile stays.
///
/// # Errors
/// [`StreamError::NoBackfill`]; [`StreamError::NotReady`] if the shadow has not all of its range yet, or the live stream
/// has not passed it; [`StreamError::Busy`] if others change the live table's old rows all the time.
pub async fn swap(around: &Around, engine: &Engine, landing: &Landing) -> Result<Swapped> {
    let noted = need(&around.lake, landing).await?;
    let shadow = shadow(landing);
    let from = around.lake.table(&shadow.table).await?;
    let mut live = around.lake.table(&landing.table).await?;
    for _ in 0..TRIES {
        let work = Swap { around, engine, landing, shadow: &shadow, noted: &noted, from: &from };
        match work.attempt(&mut live).await {
            Err(error) if moved(&error) => live.refresh().await?,
            done => return done,
        }
    }
    Err(StreamError::Busy { table: live.name().to_string() }.into())
}

struct Swap<'a> {
    around: &'a Around,
    engine: &'a Engine,
    landing: &'a Landing,
    shadow: &'a Landing,
    noted: &'a Backfill,
    from: &'a Table,
}

impl Swap<'_> {
    /// The identity of swaps into the live table, and the number of this shadow: it is swapped once.
    fn mark(&self) -> (String, i64) {
        let hash = blake3::hash(self.from.id().as_bytes());
        let mut head = [0; 8];
        head.copy_from_slice(hash.as_bytes().split_at(8).0);
        // Positive, as readers of a log expect.
        (format!("{}/{}", self.shadow.stream, self.shadow.topic), i64::from_le_bytes(head) & i64::MAX)
    }

    fn condition(&self) -> Expr {
        let spans = self.noted.partitions.iter();
        let spans = spans.map(|span| range(&self.landing.topic, span.partition, span.from, Some(span.to)));
        spans.reduce(Expr::or).unwrap_or_else(|| lit(false))
    }

    async fn attempt(&self, live: &mut Table) -> Result<Swapped> {
        let (mark, number) = self.mark();
        let known = live.txn(&mark).await?;
        if known == Some(number) {
            return Ok(Swapped { version: None, removed: 0, added: 0 });
        }
        for span in &self.noted.partitions {
            let has = |at: Option<i64>| at.is_some_and(|at| at >= span.to);
            let (ours, theirs) = (
                self.from.txn(&self.shadow.app(span.partition)).await?,
                live.txn(&self.landing.app(span.partition)).await?,
            );
            if !has(ours) || !has(theirs) {
                let (topic, partition) = (self.landing.topic.clone(), span.partition);
                return Err(StreamError::NotReady { topic, partition, to: span.to, shadow: ours, live: theirs }.into());
            }
        }
        let now = (self.around.clock)();
        self.bring_letters().await?;
        evolve(live, &self.from.schema()?, now).await?;
        let mut commit = Commit::new(Operation::Amend, Guard::Rearrange, now);
        raise(&mut commit, live, self.landing).await?;
        commit.expected.push((mark.clone(), known));
        commit.txns.push((mark, number));
        let condition = self.condition();
        let taken = without(self.engine, live, &condition, now).await?;
        commit.actions = taken.actions;
        let wanted = Wanted {
            filter: Some(condition),
            order: ["_partition", "_offset"].map(|name| ident(name).sort(true, true)).to_vec(),
            ..Wanted::default()
        };
        let mut rows = scan(self.engine, self.from, wanted).await?;
        let mut writer = FileWriter::new(live, live.schema()?, WriteOptions::default(), now);
        while let Some(batch) = rows.next().await? {
            writer.write(&project(&batch, &live.schema()?, live.name())?).await?;
        }
        let added = writer.rows();
        commit.actions.extend(adds(writer.finish().await?));
        commit.info.insert(
            "swap".to_owned(),
            json!({
                "stream": self.landing.stream, "topic": self.landing.topic, "partitions": self.noted.partitions,
            }),
        );
        commit.metrics = json!({ "numDeletedRows": taken.rows, "numOutputRows": added });
        hit("swap.before_commit").await;
        let version = live.commit(commit).await?.version;
        hit("swap.after_commit").await;
        Ok(Swapped { version: Some(version), removed: taken.rows, added })
    }

    /// What the shadow could not read becomes the live stream's dead letters, before its rows go.
    async fn bring_letters(&self) -> Result<()> {
        let dead = &self.around.dead;
        let Some(table) = dead.lake().try_table(dead.name()).await? else { return Ok(()) };
        let mut rows =
            scan(self.engine, &table, Wanted { filter: Some(of_shadow(self.shadow)), file: true, ..Wanted::default() })
                .await?;
        while let Some(batch) = rows.next().await? {
            let brought: Vec<DeadLetter> = letters(&batch, &table)
                .into_iter()
                .map(|found| DeadLetter { source: self.landing.stream.clone(), ..found.letter })
                .collect();
            dead.keep(&brought, &[], |_| (0, 0), (self.around.clock)()).await?;
        }
        Ok(())
    }
}

fn of_shadow(shadow: &Landing) -> Expr {
    ident("source").eq(lit(&shadow.stream)).and(ident("topic_or_file").eq(lit(&shadow.topic)))
}

/// Removes a backfill: its dead letters, its shadow table, and the note. The live table is left as it is.
///
/// # Errors
/// [`StreamError::NoBackfill`], or if the lake cannot be changed; doing it again goes on from there.
pub async fn drop_backfill(around: &Around, engine: &Engine, landing: &Landing) -> Result<()> {
    need(&around.lake, landing).await?;
    let shadow = shadow(landing);
    let dead = &around.dead;
    if let Some(mut table) = dead.lake().try_table(dead.name()).await? {
        forget(around, engine, &shadow, &mut table).await?;
    }
    let lake = &around.lake;
    let failed = |e| TableError::storage("drop", &shadow.table, e);
    let folder = lake.path(&format!("{}/{}", shadow.table.schema, shadow.table.table));
    let files: Vec<Path> =
        lake.store().list(Some(&folder)).map_ok(|file| file.location).try_collect().await.map_err(failed)?;
    for file in files {
        match lake.store().delete(&file).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error).into()),
        }
    }
    lake.store().delete(&path(lake, landing)).await.map_err(failed)?;
    Ok(())
}

async fn forget(around: &Around, engine: &Engine, shadow: &Landing, table: &mut Table) -> Result<()> {
    for _ in 0..TRIES {
        let now = (around.clock)();
        let taken = taken_letters(engine, table, shadow, now).await?;
        if taken.is_empty() {
            return Ok(());
        }
        let mut commit = Commit::new(Operation::Amend, Guard::Rearrange, now);
        commit.actions = taken;
        match table.commit(commit).await {
            Err(error) if moved(&error) => table.refresh().await?,
            done => return done.map(drop),
        }
    }
    Err(StreamError::Busy { table: table.name().to_string() }.into())
}

async fn taken_letters(
    engine: &Engine,
    table: &Table,
    shadow: &Landing,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Vec<Action>> {
    Ok(without(engine, table, &of_shadow(shadow), now).await?.actions)
}
