//! A broker whose topics end where we say, so that a landing that drains lands a part of a topic and ends.
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::position::{Bounds, Offset, Positions, TopicPartition};
use crate::record::NewRecord;
use crate::source::Source;
use crate::topic::{Assignment, Broker, Membership, Publisher, TopicInfo};

/// Partitions end before `ends`; one that is not named is empty.
pub(super) struct Until {
    pub(super) inner: Arc<dyn Broker>,
    pub(super) ends: BTreeMap<i32, Offset>,
}

#[async_trait]
impl Broker for Until {
    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.inner.topics().await
    }

    async fn create(&self, topic: &str, partitions: i32) -> Result<bool> {
        self.inner.create(topic, partitions).await
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>> {
        let mut all = self.inner.bounds(topic).await?;
        for (partition, bounds) in (0..).zip(&mut all) {
            bounds.end = self.ends.get(&partition).map_or(bounds.earliest, |end| (*end).min(bounds.end));
        }
        Ok(all)
    }

    async fn offsets_at(&self, topic: &str, timestamp_ms: i64) -> Result<Vec<Offset>> {
        self.inner.offsets_at(topic, timestamp_ms).await
    }

    async fn delete_before(&self, partition: &TopicPartition, offset: Offset) -> Result<Offset> {
        self.inner.delete_before(partition, offset).await
    }

    async fn source(&self, assignments: &[Assignment]) -> Result<Box<dyn Source>> {
        self.inner.source(assignments).await
    }

    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<(i32, Offset)>> {
        self.inner.produce(topic, records).await
    }

    async fn join(&self, _: &str, _: &str) -> Result<Option<Box<dyn Membership>>> {
        Ok(None)
    }

    async fn note(&self, _: &str, _: &Positions) {}

    async fn publisher(&self, name: &str) -> Result<Box<dyn Publisher>> {
        self.inner.publisher(name).await
    }
}
