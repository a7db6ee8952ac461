//! The loop around [`super::decide`]: one topic into one table.
//!
//! While one micro-batch is being written, the next is read and decoded: at most two are in memory. When both are full
//! nothing is polled, the client's own queue fills up to its limit, and the broker keeps the rest.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::Schema;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::body::{self, Blocked, BodySettings};
use super::commit::{Committer, Sealed, ends};
use super::decide::{Action, Event, Filling, decide};
use super::decode::{Decoder, ours};
use super::error::LandingError;
use super::hold::{assign, look};
use super::landing::{Around, Landed, Landing};
use super::parked::Parked;
use super::progress::Progress;
use super::share::{Mine, Share};
use super::unique::Unique;
use crate::error::{Error, Result};
use crate::failpoint::hit;
use crate::record::Record;
use crate::source::{Polled, Source};
use crate::table::{Appender, Table, TableError};
use crate::topic::BrokerError;

/// How often in a row others may be quicker before it is an error.
const LOST_RACES: u32 = 20;

/// Lands a topic until it is drained, or `stop` is cancelled; then what was read is committed and the loop ends.
///
/// # Errors
/// [`LandingError::Gap`] and [`LandingError::Ahead`] if the topic no longer has what comes next;
/// `TableError::Fenced` if another process has taken a partition over. Nothing is lost: the next start goes on.
pub async fn land(
    around: &Around,
    landing: &Landing,
    progress: &Arc<Progress>,
    stop: &CancellationToken,
) -> Result<Landed> {
    let mut share = Share::join(around, landing).await?;
    let mut landed = Landed::default();
    let mut lost = 0;
    loop {
        let Some(mine) = share.wait(stop).await? else { return Ok(landed) };
        let outcome = match Round::open(around, landing, progress, mine, landed).await {
            Ok(mut round) => {
                let end = round.run(&mut share, stop).await;
                if round.landed.commits > landed.commits {
                    lost = 0;
                }
                // Also where it failed: what was committed before that stays.
                landed = round.landed;
                end
            }
            Err(error) => Err(error),
        };
        share.released();
        match outcome {
            Ok(End::Done) => return Ok(landed),
            Ok(End::Again) => {}
            Err(error) if is_overtaken(&error, landing.shared) && lost < LOST_RACES => {
                info!(topic = landing.topic, %error, "others were quicker, reading where the table stands");
                // Who takes over from a slow one needs longer than who merely met another: 0.1 s to 2 s, about half a minute in all.
                let wait = std::time::Duration::from_millis(100) * 2_u32.pow(lost.min(5));
                lost += 1;
                tokio::time::sleep(wait.min(std::time::Duration::from_secs(2))).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether others changed the table such that looking again is all that is needed: its columns, or, where processes share
/// a stream, a partition that was in other hands for a moment after it was handed over.
fn is_overtaken(error: &Error, shared: bool) -> bool {
    match error.downcast_ref::<TableError>() {
        Some(TableError::Conflict { .. }) => true,
        Some(TableError::Fenced { .. }) => shared,
        _ => false,
    }
}

/// The table's columns without those that landing adds.
fn own_columns(schema: &Schema, event_time: bool) -> Schema {
    let own = schema.fields().iter().filter(|field| !ours(field.name(), event_time));
    Schema::new(own.cloned().collect::<Vec<_>>())
}

/// Opens the stream's decoder, with the columns of the table if there is one.
///
/// # Errors
/// [`LandingError::NoFormat`], or what the format needs before the first record.
pub async fn decoder(around: &Around, landing: &Landing, table: Option<&Table>) -> Result<Decoder> {
    let there = match table {
        Some(table) => Some(own_columns(&*table.schema()?, landing.event_time.is_some())),
        None => None,
    };
    let settings = BodySettings {
        topic: landing.topic.clone(),
        subject: landing.subject.clone(),
        registry: Arc::clone(&around.registry),
        // With a `select` the table does not tell what records look like.
        there: there.clone().filter(|_| landing.select.is_empty()),
        zone: landing.zone,
        on_incompatible: landing.on_incompatible,
        declared: landing.columns.clone(),
        on_unknown: landing.on_unknown,
    };
    let body = body::open(&landing.format, settings)
        .await
        .ok_or_else(|| LandingError::NoFormat { topic: landing.topic.clone(), format: landing.format.clone() })??;
    Decoder::new(&landing.stream, &landing.topic, body, landing.event_time.as_deref(), landing.zone)?
        .reading(landing.reading)
        .rules(landing.rules.clone())?
        .select(landing.select.clone(), there)
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Drained or stopped.
    Done,
    /// The topic has to be read from elsewhere, or by other hands.
    Again,
}

/// From one opening of the source to the next.
struct Round<'a> {
    landing: &'a Landing,
    progress: &'a Progress,
    decoder: Decoder,
    unique: Unique,
    source: Option<Box<dyn Source>>,
    /// Idle, or at work on the micro-batch before.
    committer: Option<Box<Committer>>,
    writing: Option<JoinHandle<(Box<Committer>, Result<()>)>>,
    landed: Landed,
    records: Vec<Record>,
    filling: Filling,
    parked: Parked,
    paused: bool,
}

impl<'a> Round<'a> {
    async fn open(
        around: &Around,
        landing: &'a Landing,
        progress: &'a Arc<Progress>,
        mine: Mine,
        landed: Landed,
    ) -> Result<Self> {
        let there = around.lake.try_table(&landing.table).await?;
        let decoder = decoder(around, landing, there.as_ref()).await?;
        let mut table = match there {
            Some(table) => table,
            None => around.lake.ensure(&landing.table, decoder.schema(), &[]).await?,
        };
        crate::table::evolve(&mut table, decoder.schema(), (around.clock)()).await?;
        let bounds = around.broker.bounds(&landing.topic).await?;
        let partitions = match mine {
            Mine::All => (0..i32::try_from(bounds.len()).unwrap_or(i32::MAX)).collect(),
            Mine::These(partitions) => partitions,
        };
        let table = Appender::open(&table).await?;
        let mut holding = look(&table, landing, &partitions);
        let (assignments, gaps) = assign(landing, &bounds, &mut holding)?;
        let mut committer = Box::new(Committer {
            around: around.clone(),
            landing: landing.clone(),
            progress: Arc::clone(progress),
            landed: Landed { version: table.version(), ..landed },
            table,
            columns: Arc::clone(decoder.schema()),
            holding,
            fenced: false,
        });
        committer.record_gaps(&gaps).await?;
        // A stream begins where it is first opened, also if nothing is there yet: what is deleted from then on is a gap.
        if committer.holding.values().any(|held| held.committed.is_none()) && !committer.take_over().await? {
            let (table, version) = (landing.table.to_string(), committer.table.version());
            return Err(TableError::Conflict { table, version }.into());
        }
        committer.tell();
        let drained = landing.drain && assignments.iter().all(|one| one.to.is_some_and(|to| one.from >= to));
        hit("land.before_open").await;
        let source = if drained { None } else { Some(around.broker.source(&assignments).await?) };
        Ok(Self {
            landing,
            progress,
            decoder,
            unique: Unique::new(around.lake.clone(), landing),
            source,
            landed: committer.landed,
            committer: Some(committer),
            writing: None,
            records: Vec::new(),
            filling: Filling::default(),
            parked: Parked::default(),
            paused: false,
        })
    }

    async fn run(&mut self, share: &mut Share, stop: &CancellationToken) -> Result<End> {
        let mut event = Event::Start;
        let mut end = End::Done;
        let mut trouble = None;
        let mut opened = Instant::now();
        loop {
            if self.filling.rows > 0 {
                self.filling.age = opened.elapsed();
            }
            self.unpark().await?;
            match decide(&self.filling, event, &self.landing.limits) {
                Action::Poll(budget) => {
                    let Some(source) = self.source.as_mut() else {
                        event = Event::End;
                        continue;
                    };
                    let next = tokio::select! {
                        biased;
                        () = stop.cancelled() => Next::Stop,
                        done = written(&mut self.writing) => Next::Written(done?),
                        () = share.changed() => Next::Changed,
                        polled = source.poll(budget) => Next::Polled(polled),
                    };
                    hit("land.after_poll").await;
                    event = match next {
                        Next::Stop => Event::Stop,
                        Next::Changed => {
                            end = End::Again;
                            Event::Stop
                        }
                        Next::Written(committer) => {
                            self.idle(committer);
                            Event::Idle
                        }
                        Next::Polled(Ok(Polled::Records(more))) => {
                            if self.committer.as_ref().is_some_and(|committer| !committer.fenced)
                                && !self.fence().await?
                            {
                                return Ok(End::Again);
                            }
                            if self.records.is_empty() {
                                opened = Instant::now();
                            }
                            self.gather(more);
                            Event::Records
                        }
                        Next::Polled(Ok(Polled::Idle)) => Event::Idle,
                        Next::Polled(Ok(Polled::End)) => Event::End,
                        Next::Polled(Err(error)) => {
                            // What was read is kept; then the reading is begun anew, or ends.
                            (end, trouble) = judge(error);
                            Event::Stop
                        }
                    };
                }
                Action::Commit => {
                    self.seal().await?;
                    event = Event::Committed;
                }
                Action::CommitAndEnd => {
                    self.seal().await?;
                    event = Event::End;
                }
                Action::End => {
                    if let Some(writing) = self.writing.take() {
                        let committer = joined(writing).await?;
                        self.idle(committer);
                    }
                    return match trouble {
                        Some(error) => Err(error),
                        None => Ok(end),
                    };
                }
            }
        }
    }

    fn idle(&mut self, committer: Box<Committer>) {
        self.landed = committer.landed;
        self.progress.held.store(self.filling.bytes as u64, Ordering::Relaxed);
        self.committer = Some(committer);
    }

    /// Raises the fence before anything is kept of what was read.
    async fn fence(&mut self) -> Result<bool> {
        match &mut self.committer {
            Some(committer) => committer.take_over().await,
            None => Ok(true),
        }
    }

    /// Adds records that were read to the open micro-batch.
    fn gather(&mut self, mut more: Vec<Record>) {
        self.parked.queue(&mut more);
        self.filling.rows += more.len();
        self.filling.bytes += more.iter().map(Record::size).sum::<usize>();
        if self.records.is_empty() {
            self.records = more;
        } else {
            self.records.append(&mut more);
        }
        let full = self.parked.bytes() >= self.landing.limits.bytes;
        if full && !self.paused {
            self.pause(true);
        }
    }

    fn pause(&mut self, paused: bool) {
        self.paused = paused;
        if let Some(source) = self.source.as_mut() {
            let none = BTreeSet::new();
            source.pause(if paused { self.parked.partitions() } else { &none });
        }
    }

    /// Asks again for what parked records wait for.
    async fn unpark(&mut self) -> Result<()> {
        if !self.parked.due() {
            return Ok(());
        }
        let mut waiting = self.parked.release();
        if let Err(blocked) = self.decoder.prepare(&waiting).await {
            self.parked.park(&mut waiting, blocked)?;
        } else {
            self.parked.well();
        }
        // What does not wait any more goes first: the partition's later records were behind it.
        let rows = waiting.len();
        self.filling.rows += rows;
        self.filling.bytes += waiting.iter().map(Record::size).sum::<usize>();
        self.records.append(&mut waiting);
        self.progress.waiting.store(self.parked.len() as u64, Ordering::Relaxed);
        if self.parked.is_empty() && self.paused {
            self.pause(false);
        }
        Ok(())
    }

    /// Decodes the open micro-batch and hands it to the committer, once that has written the one before.
    async fn seal(&mut self) -> Result<()> {
        let mut records = std::mem::take(&mut self.records);
        self.filling = Filling::default();
        while let Err(blocked) = self.decoder.prepare(&records).await {
            if self.landing.drain {
                return Err(self.give_up(records, blocked).await);
            }
            self.parked.park(&mut records, blocked)?;
        }
        self.progress.waiting.store(self.parked.len() as u64, Ordering::Relaxed);
        if !records.is_empty() {
            self.write(records).await?;
        }
        Ok(())
    }

    /// A drain does not wait: what can be read is committed, then the failure is told.
    async fn give_up(&mut self, mut records: Vec<Record>, blocked: Blocked) -> Error {
        records.truncate(blocked.index);
        let kept = async {
            if !records.is_empty() {
                self.write(records).await?;
            }
            if let Some(writing) = self.writing.take() {
                joined(writing).await?;
            }
            Ok::<_, Error>(())
        };
        match kept.await {
            Ok(()) => blocked.error,
            Err(error) => error,
        }
    }

    async fn write(&mut self, records: Vec<Record>) -> Result<()> {
        let decoded = self.decoder.decode(&records)?;
        let decoded = self.unique.settle(decoded, &records).await?;
        hit("land.after_decode").await;
        let sealed = Sealed {
            schema: Arc::clone(self.decoder.schema()),
            rows: decoded.rows,
            dead: decoded.dead,
            ends: ends(&records),
            produced: records.iter().map(|record| record.timestamp_ms).collect(),
            bytes: records.iter().map(Record::size).sum::<usize>() as u64,
        };
        drop(records);
        if let Some(writing) = self.writing.take() {
            let committer = joined(writing).await?;
            self.idle(committer);
        }
        let Some(mut committer) = self.committer.take() else { return Ok(()) };
        self.progress.held.store(sealed.bytes, Ordering::Relaxed);
        self.writing = Some(tokio::spawn(async move {
            let outcome = committer.commit(sealed).await;
            (committer, outcome)
        }));
        Ok(())
    }
}

/// What to do after the source failed.
fn judge(error: Error) -> (End, Option<Error>) {
    match error.downcast_ref::<BrokerError>() {
        // The next opening sees it too, and says or records it.
        Some(BrokerError::Gap { .. } | BrokerError::PastEnd { .. }) => (End::Again, None),
        _ => (End::Done, Some(error)),
    }
}

/// What happened while the loop waited.
enum Next {
    Stop,
    Changed,
    Written(Box<Committer>),
    Polled(Result<Polled>),
}

/// The committer when it has written; never, if it is not at work.
async fn written(writing: &mut Option<JoinHandle<(Box<Committer>, Result<()>)>>) -> Result<Box<Committer>> {
    match writing {
        Some(handle) => {
            let done = handle.await;
            *writing = None;
            unwrapped(done)
        }
        None => std::future::pending().await,
    }
}

async fn joined(writing: JoinHandle<(Box<Committer>, Result<()>)>) -> Result<Box<Committer>> {
    unwrapped(writing.await)
}

fn unwrapped(
    done: std::result::Result<(Box<Committer>, Result<()>), tokio::task::JoinError>,
) -> Result<Box<Committer>> {
    match done {
        Ok((committer, Ok(()))) => Ok(committer),
        Ok((_, Err(error))) => Err(error),
        Err(panic) => match panic.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(LandingError::Stopping.into()),
        },
    }
}
