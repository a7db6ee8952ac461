//! A sink that counts rows and drops them. It holds nothing, so every load runs.
use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::FutureExt;

use super::{Connection, Held, Load, Loaded, Opening, Sink};
use crate::error::Result;

/// Counts and drops.
#[derive(Debug, Default)]
pub struct BlackholeSink {
    rows: u64,
}

pub(super) fn open(_connection: Connection) -> Opening {
    async { Ok(Box::new(BlackholeSink::default()) as Box<dyn Sink>) }.boxed()
}

#[async_trait]
impl Sink for BlackholeSink {
    async fn progress(&mut self, _source: &str) -> Result<Option<Held>> {
        Ok(None)
    }

    async fn begin(&mut self, _load: &Load) -> Result<()> {
        self.rows = 0;
        Ok(())
    }

    async fn stage(&mut self, batch: RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    async fn commit(&mut self) -> Result<Loaded> {
        let rows = std::mem::take(&mut self.rows);
        Ok(Loaded { rows, written: rows, ..Loaded::default() })
    }

    async fn abort(&mut self) -> Result<()> {
        self.rows = 0;
        Ok(())
    }
}
