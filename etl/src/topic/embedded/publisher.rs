//! Records and progress in one transaction, held by one process at a time.
use std::sync::Arc;

use async_trait::async_trait;

use super::broker::{Shared, size};
use super::writer::Placed;
use crate::error::Result;
use crate::record::NewRecord;
use crate::topic::{BrokerError, Publisher};

/// Staged bytes kept in memory; more goes to the file and is moved at the commit.
const IN_MEMORY: usize = 8 << 20;

/// The holder of a publisher's name.
pub(super) struct EmbeddedPublisher {
    shared: Arc<Shared>,
    name: String,
    epoch: i64,
    progress: Option<String>,
    staged: Vec<Placed>,
    bytes: usize,
    aside: bool,
}

impl EmbeddedPublisher {
    /// Raises the epoch of `name`, so that earlier holders cannot commit.
    pub(super) async fn take_over(shared: Arc<Shared>, name: &str) -> Result<Self, BrokerError> {
        let publisher = name.to_owned();
        let (epoch, progress) = shared.writer.write(move |group| group.take_over(&publisher).map(Ok)).await?;
        Ok(Self { shared, name: name.to_owned(), epoch, progress, staged: Vec::new(), bytes: 0, aside: false })
    }

    fn fenced(&self) -> BrokerError {
        BrokerError::Fenced { publisher: self.name.clone() }
    }

    async fn set_aside(&mut self) -> Result<(), BrokerError> {
        let (name, epoch, fenced) = (self.name.clone(), self.epoch, self.fenced());
        let staged = std::mem::take(&mut self.staged);
        self.bytes = 0;
        self.aside = true;
        let write = self.shared.writer.write(move |group| {
            if !group.holds(&name, epoch)? {
                return Ok(Err(fenced));
            }
            group.set_aside(&name, epoch, &staged).map(Ok)
        });
        write.await
    }
}

#[async_trait]
impl Publisher for EmbeddedPublisher {
    fn progress(&self) -> Option<&str> {
        self.progress.as_deref()
    }

    async fn stage(&mut self, topic: &str, records: Vec<NewRecord>) -> Result<()> {
        let lanes = self.shared.lanes(topic).await?;
        self.bytes += records.iter().map(|record| size(record) + size_of::<Placed>()).sum::<usize>();
        self.staged.extend(self.shared.place(&lanes, records)?);
        if self.bytes > IN_MEMORY {
            self.set_aside().await?;
        }
        Ok(())
    }

    async fn commit(&mut self, progress: &str) -> Result<()> {
        let (name, epoch, fenced) = (self.name.clone(), self.epoch, self.fenced());
        let staged = std::mem::take(&mut self.staged);
        let aside = std::mem::take(&mut self.aside);
        let note = progress.to_owned();
        self.bytes = 0;
        let write = self.shared.writer.write(move |group| {
            if !group.holds(&name, epoch)? {
                return Ok(Err(fenced));
            }
            if aside {
                group.bring_in(&name, epoch)?;
            }
            group.append(&staged)?;
            group.note(&name, &note).map(Ok)
        });
        let outcome = write.await;
        if outcome.is_err() && aside {
            // What was put aside must not come in with the next step. If this fails too, the next holder clears it.
            self.aside = true;
            self.abort().await?;
        }
        outcome?;
        self.progress = Some(progress.to_owned());
        Ok(())
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged.clear();
        self.bytes = 0;
        if self.aside {
            let (name, epoch) = (self.name.clone(), self.epoch);
            self.shared.writer.write(move |group| group.discard(&name, epoch).map(Ok)).await?;
            self.aside = false;
        }
        Ok(())
    }
}
