//! `generate`: made-up shoppers over the real catalogue, as Avro records of their topics.
//!
//! A task makes its events once: the publisher's progress says how many are out, in the same step as the events, so a
//! run that is killed goes on with the next event, and a run after a finished one has nothing to do.
use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Decimal128Type, Int64Type};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::format::avro::{JsonEncoder, frame};
use tidemill_etl::generate::{Catalogue, CatalogueItem, Event, EventKind, Extent, Generator, Settings as Shop};
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

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "generate",
        about: "made-up shoppers over the catalogue: registrations, sessions, views, carts, check-outs",
        keys: &[
            key("events", Shape::Integer, "how many events; without it, until `users` have told their stories"),
            with_default("seed", Shape::Integer, "the same seed makes the same shoppers", "1"),
            with_default("users", Shape::Integer, "how many users register", "1000"),
            key(
                "start",
                Shape::Text,
                "the instant of the first event, RFC 3339; without it, three days before the run",
            ),
            key("rate", Shape::Number, "events per second; without it, as fast as possible"),
            with_default("catalogue", Shape::Text, "the table of items", "silver.movies"),
            key("topics", Shape::Table, "topics by kind of event, where they are not <kind>_topic"),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    events: Option<u64>,
    #[serde(default = "one")]
    seed: u64,
    #[serde(default = "thousand")]
    users: u64,
    start: Option<DateTime<Utc>>,
    rate: Option<f64>,
    #[serde(default = "movies")]
    catalogue: String,
    #[serde(default)]
    topics: BTreeMap<String, String>,
}

fn one() -> u64 {
    1
}

fn thousand() -> u64 {
    1000
}

fn movies() -> String {
    "silver.movies".to_owned()
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    let settings = read::<Settings>(settings)?;
    if let Some(unknown) = settings.topics.keys().find(|kind| EventKind::ALL.iter().all(|known| known.name() != *kind))
    {
        let known: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        return Err(TaskError::new("D0020", format!("there is no kind of event `{unknown}`"), Retry::Never)
            .fix(format!("the kinds are {}", known.join(", "))));
    }
    Ok(Box::new(settings))
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let name = format!("{}.{}", context.dag, context.task);
        let shoppers = Shoppers {
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
        if house.lake().await?.try_table(&shoppers.catalogue).await?.is_none() {
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
        let made = generate(house, &shoppers, context.now, &report, &context.cancel).await?;
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
pub(crate) struct Shoppers {
    pub(crate) events: Option<u64>,
    pub(crate) seed: u64,
    pub(crate) users: u64,
    pub(crate) start: Option<DateTime<Utc>>,
    pub(crate) rate: Option<f64>,
    pub(crate) catalogue: TableName,
    pub(crate) topics: BTreeMap<String, String>,
    /// The stable name under which progress is kept; `None`: every call makes all events.
    pub(crate) once: Option<String>,
}

impl Shoppers {
    fn topic(&self, kind: EventKind) -> String {
        self.topics.get(kind.name()).cloned().unwrap_or_else(|| kind.default_topic().to_owned())
    }

    /// The events, in event-time order.
    pub(crate) async fn events(&self, house: &Lakehouse, now: DateTime<Utc>) -> Result<Generator> {
        let start = self.start.unwrap_or(now - TimeDelta::days(3));
        let mut shop = Shop::new(self.seed, start);
        shop.users = self.users;
        shop.extent = self.events.map_or(Extent::Users, Extent::Events);
        let catalogue = self.catalogue(house, &shop).await?;
        Generator::new(shop, catalogue).map_err(|error| tidemill_etl::Error::from(error).into())
    }

    /// A bounded sample of the catalogue table; none if the table is not there.
    async fn catalogue(&self, house: &Lakehouse, shop: &Shop) -> Result<Catalogue> {
        let mut catalogue = Catalogue::new(shop.seed, shop.max_items, shop.currency.clone());
        if house.lake().await?.try_table(&self.catalogue).await?.is_none() {
            return Ok(catalogue);
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
        Ok(catalogue)
    }
}

struct Target {
    topic: String,
    id: i32,
    encoder: JsonEncoder,
    records: Vec<NewRecord>,
    written: u64,
}

impl Target {
    fn take(&mut self, event: Event) -> Result<()> {
        let body = self.encoder.encode(&event.body).map_err(tidemill_etl::Error::from)?;
        let mut value = Vec::with_capacity(body.len() + frame::HEADER);
        frame::write(self.id, &mut value);
        value.extend(body);
        self.records.push(NewRecord {
            // The time of writing, not of the event: a broker's retention counts from here, and would throw away what
            // happened long ago as soon as it is written.
            timestamp_ms: None,
            key: Some(Bytes::from(event.key)),
            value: Some(Bytes::from(value)),
            ..NewRecord::default()
        });
        Ok(())
    }
}

/// Makes the events and writes them; returns how many went to each topic.
pub(crate) async fn generate(
    house: &Lakehouse,
    shoppers: &Shoppers,
    now: DateTime<Utc>,
    progress: &(dyn Fn(u64) + Send + Sync),
    stop: &CancellationToken,
) -> Result<BTreeMap<String, u64>> {
    let broker = house.broker().await?;
    let registry = house.registry().await?;
    let mut targets = BTreeMap::new();
    for kind in EventKind::ALL {
        let topic = shoppers.topic(kind);
        let subject = house.subject(&topic);
        let Some(registered) = registry.latest(&subject).await? else {
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
        broker.create(&topic, 1).await?;
        targets.insert(kind, Target { topic, id: registered.id, encoder, records: Vec::new(), written: 0 });
    }
    let mut events = shoppers.events(house, now).await?;
    // What is made is part of the name: other settings are other events.
    let mut publisher = match &shoppers.once {
        None => None,
        Some(name) => {
            let start = shoppers.start.map_or_else(String::new, |start| start.to_rfc3339());
            let mut name = format!("{name}-{}-{}-{start}", shoppers.seed, shoppers.users);
            for (kind, topic) in &shoppers.topics {
                name.extend(["-", kind.as_str(), "=", topic.as_str()]);
            }
            Some(broker.publisher(&name).await?)
        }
    };
    let mut done: u64 = publisher.as_ref().and_then(|p| p.progress()).and_then(|text| text.parse().ok()).unwrap_or(0);
    let begun = tokio::time::Instant::now();
    let first = done;
    for _ in 0..done {
        if events.next().is_none() {
            break;
        }
    }
    // With a rate, ten steps a second at most.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, and the cast saturates")]
    let most = shoppers.rate.map_or(STEP, |rate| ((rate / 10.0).ceil().max(1.0) as u64).min(STEP));
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
        if let Some(rate) = shoppers.rate {
            let due = begun + Duration::from_secs_f64((done - first) as f64 / rate);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = stop.cancelled() => break,
            }
        }
    }
    Ok(targets.into_values().filter(|t| t.written > 0).map(|t| (t.topic, t.written)).collect())
}
