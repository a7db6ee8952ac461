//! `generate`: made-up events as records of their topics.
//!
//! A task makes its events once: the publisher's progress says how many are out, in the same step as the events, so a
//! run that is killed goes on with the next event, and a run after a finished one has nothing to do.
use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Decimal128Type, Int64Type};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::format::avro::{JsonEncoder, frame};
use tidemill_etl::generate::shoppers::{Catalogue, CatalogueItem};
use tidemill_etl::generate::{self, Encoding, GeneratorKind, Made, Making, Output, Wanted};
use tidemill_etl::record::NewRecord;
use tidemill_etl::table::TableName;
use tidemill_orchestrator::{KindSpec, Outcome, Retry, Shape, TaskContext, TaskError};
use tokio_util::sync::CancellationToken;

use super::{Failed, Kind, Work, count, key, read, table, with_default};
use crate::failure::{Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

/// Events that go out in one step.
const STEP: u64 = 5_000;
/// The generator meant where none is named.
pub(crate) const DEFAULT: &str = "shoppers";
/// The items for shoppers, at most: the catalogue is a sample.
const ITEMS: usize = 10_000;
/// Shoppers buy what is priced in this currency.
const CURRENCY: &str = "USD";

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "generate",
        about: "made-up events, each once: shoppers over the catalogue, customer_events, ecommerce_logs",
        keys: &[
            with_default(
                "generator",
                Shape::Text,
                "what is made up: shoppers, customer_events or ecommerce_logs",
                DEFAULT,
            ),
            key(
                "events",
                Shape::Integer,
                "how many events; without it shoppers until `users` have told their stories, others without end",
            ),
            with_default("seed", Shape::Integer, "the same seed makes the same events", "1"),
            key(
                "users",
                Shape::Integer,
                "how many users there are; without it 1000 shoppers, 500 customers, 401 of ecommerce_logs",
            ),
            key(
                "start",
                Shape::Text,
                "the instant events begin at, RFC 3339; without it before the run: 3 days for shoppers, 14 for ecommerce_logs",
            ),
            key(
                "rate",
                Shape::Number,
                "events per second, 0: as fast as possible; without it that, but 2 of ecommerce_logs",
            ),
            with_default("catalogue", Shape::Text, "the table of items for shoppers", "silver.movies"),
            key("topics", Shape::Table, "topics by kind of event, where they are not the generator's own"),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    #[serde(default = "shoppers")]
    generator: String,
    events: Option<u64>,
    #[serde(default = "one")]
    seed: u64,
    users: Option<u64>,
    start: Option<DateTime<Utc>>,
    rate: Option<f64>,
    #[serde(default = "movies")]
    catalogue: String,
    #[serde(default)]
    topics: BTreeMap<String, String>,
}

fn shoppers() -> String {
    DEFAULT.to_owned()
}

fn one() -> u64 {
    1
}

fn movies() -> String {
    "silver.movies".to_owned()
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    let settings = read::<Settings>(settings)?;
    let kind = generate::find(&settings.generator).map_err(|error| Failed::from(tidemill_etl::Error::from(error)).0)?;
    if let Some(unknown) = settings.topics.keys().find(|name| kind.outputs.iter().all(|known| known.kind != *name)) {
        let known: Vec<&str> = kind.outputs.iter().map(|output| output.kind).collect();
        return Err(TaskError::new("D0020", format!("there is no kind of event `{unknown}`"), Retry::Never)
            .fix(format!("the kinds are {}", known.join(", "))));
    }
    Ok(Box::new(settings))
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let name = format!("{}.{}", context.dag, context.task);
        let order = Order {
            generator: generate::find(&self.generator).map_err(tidemill_etl::Error::from)?,
            events: self.events,
            seed: self.seed,
            users: self.users,
            start: self.start,
            rate: self.rate,
            catalogue: table(&self.catalogue)?,
            topics: self.topics.clone(),
            once: Some(name),
        };
        // Events are made once: without items there would be no carts and no sales, for good.
        if order.generator.catalogue && house.lake().await?.try_table(&order.catalogue).await?.is_none() {
            return Err(TaskError::new(
                "G0105",
                format!("there are no items to shop for in `{}`", self.catalogue),
                Retry::Later,
            )
            .why("the table does not exist yet")
            .fix("run what writes it first: tidemill dags run movies_catalog --param file=data/Movies.txt")
            .into());
        }
        let progress = context.progress.clone();
        let total = self.events;
        let report = move |done: u64| progress.report(done, total, "events");
        let made = generate(house, &order, context.now, &report, &context.cancel).await?;
        for (topic, records) in &made {
            metrics.published(topic, *records);
        }
        let sum: u64 = made.values().sum();
        let summary = match sum {
            0 => "all events are there already".to_owned(),
            _ => format!("{} events to {} topics", count(sum), made.len()),
        };
        Ok(Outcome::done(summary).with(json!({ "events": sum })))
    }
}

/// What is to be generated.
pub(crate) struct Order {
    pub(crate) generator: &'static GeneratorKind,
    pub(crate) events: Option<u64>,
    pub(crate) seed: u64,
    pub(crate) users: Option<u64>,
    pub(crate) start: Option<DateTime<Utc>>,
    /// Events per second; 0: as fast as possible; `None`: as the generator has it.
    pub(crate) rate: Option<f64>,
    pub(crate) catalogue: TableName,
    pub(crate) topics: BTreeMap<String, String>,
    /// The stable name under which progress is kept; `None`: every call makes all events.
    pub(crate) once: Option<String>,
}

impl Order {
    fn topic(&self, output: &Output) -> String {
        self.topics.get(output.kind).cloned().unwrap_or_else(|| output.topic.to_owned())
    }

    fn rate(&self) -> Option<f64> {
        self.rate.or(self.generator.rate).filter(|rate| *rate > 0.0)
    }

    /// The name of the publisher. What is made is part of it: other settings are other events.
    fn publisher(&self, name: &str) -> String {
        let start = self.start.map_or_else(String::new, |start| start.to_rfc3339());
        let mut name = match (self.generator.name, self.users) {
            (DEFAULT, users) => format!("{name}-{}-{}-{start}", self.seed, users.unwrap_or(1000)),
            (generator, None) => format!("{name}-{generator}-{}-{start}", self.seed),
            (generator, Some(users)) => format!("{name}-{generator}-{}-{users}-{start}", self.seed),
        };
        for (kind, topic) in &self.topics {
            name.extend(["-", kind.as_str(), "=", topic.as_str()]);
        }
        name
    }

    /// The events, one after the other.
    pub(crate) async fn events(&self, house: &Lakehouse, now: DateTime<Utc>) -> Result<Making> {
        let mut catalogue = Catalogue::new(self.seed, ITEMS, CURRENCY);
        if self.generator.catalogue {
            self.fill(&mut catalogue, house).await?;
        }
        let wanted =
            Wanted { seed: self.seed, users: self.users, events: self.events, start: self.start, now, catalogue };
        (self.generator.open)(&wanted).map_err(|error| tidemill_etl::Error::from(error).into())
    }

    /// Takes a bounded sample of the catalogue table; none if the table is not there.
    async fn fill(&self, catalogue: &mut Catalogue, house: &Lakehouse) -> Result<()> {
        if house.lake().await?.try_table(&self.catalogue).await?.is_none() {
            return Ok(());
        }
        let sql = format!(
            "SELECT CAST(item_id AS BIGINT), CAST(list_price AS DECIMAL(10, 2)), CAST(list_price_currency AS VARCHAR) \
             FROM \"{}\".\"{}\"",
            self.catalogue.schema, self.catalogue.table
        );
        let mut rows = house.engine().await?.query(&sql).await?;
        while let Some(batch) = rows.next().await? {
            let [ids, prices, currencies] = batch.columns() else { break };
            let (ids, prices) = (ids.as_primitive::<Int64Type>(), prices.as_primitive::<Decimal128Type>());
            let currencies = currencies.as_string::<i32>();
            for row in (0..batch.num_rows()).filter(|row| ids.is_valid(*row)) {
                catalogue.offer(&CatalogueItem {
                    item_id: ids.value(row),
                    list_price_cents: prices.is_valid(row).then(|| i64::try_from(prices.value(row)).ok()).flatten(),
                    currency: currencies.is_valid(row).then(|| currencies.value(row).to_owned()),
                });
            }
        }
        Ok(())
    }
}

struct Target {
    topic: String,
    writer: Writer,
    records: Vec<NewRecord>,
    written: u64,
}

/// How a target's records are written.
enum Writer {
    /// With the schema of this id.
    Avro(i32, Box<JsonEncoder>),
    Json,
}

impl Target {
    async fn open(house: &Lakehouse, topic: String, encoding: Encoding) -> Result<Self> {
        let writer = match encoding {
            Encoding::Json => Writer::Json,
            Encoding::Avro => {
                let subject = house.subject(&topic);
                let Some(registered) = house.registry().await?.latest(&subject).await? else {
                    return Err(Failure::new(
                        "G0101",
                        format!("the subject `{subject}` has no schema to write `{topic}` with"),
                    )
                    .fix(format!("add `schemas/{topic}.avsc`, or register one: tidemill schemas add {subject} FILE")));
                };
                let schema = apache_avro::Schema::parse_str(&registered.schema).map_err(|error| {
                    Failure::new("G0102", format!("the schema of `{subject}` is not Avro")).why(error.to_string())
                })?;
                let encoder = JsonEncoder::new(&schema).map_err(tidemill_etl::Error::from)?;
                Writer::Avro(registered.id, Box::new(encoder))
            }
        };
        Ok(Self { topic, writer, records: Vec::new(), written: 0 })
    }

    fn take(&mut self, event: Made) -> Result<()> {
        let value = match &self.writer {
            Writer::Json => event.body.to_string().into_bytes(),
            Writer::Avro(id, encoder) => {
                let body = encoder.encode(&event.body).map_err(tidemill_etl::Error::from)?;
                let mut value = Vec::with_capacity(body.len() + frame::HEADER);
                frame::write(*id, &mut value);
                value.extend(body);
                value
            }
        };
        self.records.push(NewRecord {
            // The time of writing, not of the event: a broker's retention counts from here, and would throw away what
            // happened long ago as soon as it is written.
            timestamp_ms: None,
            key: event.key.map(Bytes::from),
            value: Some(Bytes::from(value)),
            ..NewRecord::default()
        });
        Ok(())
    }
}

/// Makes the events and writes them; returns how many went to each topic.
pub(crate) async fn generate(
    house: &Lakehouse,
    order: &Order,
    now: DateTime<Utc>,
    progress: &(dyn Fn(u64) + Send + Sync),
    stop: &CancellationToken,
) -> Result<BTreeMap<String, u64>> {
    let broker = house.broker().await?;
    let mut targets = BTreeMap::new();
    for output in order.generator.outputs {
        let topic = order.topic(output);
        broker.create(&topic, output.partitions).await?;
        targets.insert(output.kind, Target::open(house, topic, output.encoding).await?);
    }
    let mut events = order.events(house, now).await?;
    let mut publisher = match &order.once {
        None => None,
        Some(name) => Some(broker.publisher(&order.publisher(name)).await?),
    };
    let mut done: u64 = publisher.as_ref().and_then(|p| p.progress()).and_then(|text| text.parse().ok()).unwrap_or(0);
    let begun = tokio::time::Instant::now();
    let first = done;
    if let Some(last) = done.checked_sub(1) {
        drop(events.nth(usize::try_from(last).unwrap_or(usize::MAX)));
    }
    // With a rate, ten steps a second at most.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, and the cast saturates")]
    let most = order.rate().map_or(STEP, |rate| ((rate / 10.0).ceil().max(1.0) as u64).min(STEP));
    loop {
        let mut staged = 0;
        for event in events.by_ref().take(usize::try_from(most).unwrap_or(usize::MAX)) {
            if let Some(target) = targets.get_mut(&event.kind) {
                target.take(event)?;
                staged += 1;
            }
        }
        if staged == 0 {
            break;
        }
        for target in targets.values_mut().filter(|target| !target.records.is_empty()) {
            let records = std::mem::take(&mut target.records);
            target.written += records.len() as u64;
            match &mut publisher {
                Some(publisher) => publisher.stage(&target.topic, records).await?,
                None => drop(broker.produce(&target.topic, records).await?),
            }
        }
        done += staged;
        if let Some(publisher) = &mut publisher {
            publisher.commit(&done.to_string()).await?;
        }
        progress(done);
        if stop.is_cancelled() {
            break;
        }
        if let Some(rate) = order.rate() {
            let due = begun + Duration::from_secs_f64((done - first) as f64 / rate);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = stop.cancelled() => break,
            }
        }
    }
    Ok(targets.into_values().filter(|t| t.written > 0).map(|t| (t.topic, t.written)).collect())
}
