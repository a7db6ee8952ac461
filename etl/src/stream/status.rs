//! Where a stream stands.
use std::time::Duration;

use serde::Serialize;

use crate::error::Result;
use crate::pipeline::{Around, Landing};
use crate::position::{Offset, TopicPartition};
use crate::source::{Budget, Polled};
use crate::topic::Assignment;

/// One partition, as its table has it and as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The partition.
    pub partition: i32,
    /// The first offset left in the topic.
    pub earliest: Offset,
    /// The next offset to read; `None` before the first commit.
    pub next: Option<Offset>,
    /// The offset the next record will get.
    pub end: Offset,
    /// Records not read yet.
    pub lag: i64,
    /// How long ago the first of them was produced, in seconds; `None` if there is none.
    pub delay_s: Option<i64>,
    /// How often the partition was taken over.
    pub epoch: i64,
}

/// Where each partition of a stream's topic stands.
///
/// # Errors
/// If the table or the topic cannot be read.
pub async fn standing(around: &Around, landing: &Landing) -> Result<Vec<Standing>> {
    let table = around.lake.try_table(&landing.table).await?;
    let now = (around.clock)().timestamp_millis();
    let mut all = Vec::new();
    for (index, bounds) in around.broker.bounds(&landing.topic).await?.into_iter().enumerate() {
        let partition = i32::try_from(index).unwrap_or(i32::MAX);
        let (mut next, mut epoch) = (None, None);
        if let Some(table) = &table {
            next = table.txn(&landing.app(partition)).await?;
            epoch = table.txn(&landing.epoch_app(partition)).await?;
        }
        let from = next.unwrap_or(bounds.earliest).max(bounds.earliest);
        let lag = (bounds.end - from).max(0);
        let delay_s = if lag > 0 {
            let first = first(around, TopicPartition::new(&landing.topic, partition), from, bounds.end).await?;
            first.map(|produced| ((now - produced) / 1000).max(0))
        } else {
            None
        };
        let epoch = epoch.unwrap_or(0);
        all.push(Standing { partition, earliest: bounds.earliest, next, end: bounds.end, lag, delay_s, epoch });
    }
    Ok(all)
}

/// When the first record at or after `from` was produced, milliseconds since 1970.
async fn first(around: &Around, partition: TopicPartition, from: Offset, to: Offset) -> Result<Option<i64>> {
    let mut source = around.broker.source(&[Assignment { partition, from, to: Some(to) }]).await?;
    let budget = Budget { rows: 1, bytes: 1, linger: Duration::from_millis(500) };
    // A broker far away may take a moment; one that has nothing to say is not waited for.
    for _ in 0..10 {
        match source.poll(budget).await? {
            Polled::Records(records) => return Ok(records.first().map(|record| record.timestamp_ms)),
            Polled::Idle => {}
            Polled::End => return Ok(None),
        }
    }
    Ok(None)
}
