//! The end of a table's log: what the next commit has to know, carried on entry by entry.
//!
//! Reading progress from the log costs a replay, and deltalake does one for each identity asked for. So all of it is
//! read at once, when first asked for, and every entry that is read or written after is folded in.
use std::collections::HashMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use delta_kernel::Snapshot;
use delta_kernel::actions::LOG_TXN_SCHEMA;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use deltalake::DeltaTableError;
use deltalake::kernel::Action;
use deltalake::logstore::LogStoreRef;
use tokio::time::Instant;

/// What is known of the newest version.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// The version.
    pub(super) version: u64,
    /// When it was committed, milliseconds since 1970, UTC; 0 if that is not known.
    pub(super) at_ms: i64,
    /// When it was last seen to be there.
    pub(super) seen: Instant,
    /// Progress by identity.
    pub(super) txns: HashMap<String, i64>,
}

impl Head {
    /// Takes in what the next version of the log says.
    pub(super) fn fold(&mut self, actions: &[Action]) {
        self.version += 1;
        self.seen = Instant::now();
        for action in actions {
            match action {
                Action::Txn(txn) => {
                    self.txns.insert(txn.app_id.clone(), txn.version);
                }
                Action::CommitInfo(info) => self.at_ms = info.timestamp.unwrap_or(0).max(self.at_ms),
                _ => {}
            }
        }
    }
}

/// All progress in the table as of `version`, in one replay of the log.
pub(super) async fn read_txns(log: &LogStoreRef, version: u64) -> Result<HashMap<String, i64>, DeltaTableError> {
    let failed = |e: String| DeltaTableError::Generic(e);
    let root = log.transaction_url(None)?;
    let engine = log.engine(None);
    let replay = tokio::task::spawn_blocking(move || -> delta_kernel::DeltaResult<HashMap<String, i64>> {
        let snapshot = Snapshot::builder_for(root).at_version(version).build(engine.as_ref())?;
        let mut txns = HashMap::new();
        // Newest first: the first one met of an identity is what counts.
        for batch in snapshot.log_segment().read_actions(engine.as_ref(), LOG_TXN_SCHEMA.clone())? {
            let batch = ArrowEngineData::try_from_engine_data(batch?.actions)?;
            let Some(column) = batch.record_batch().column_by_name("txn") else { continue };
            let entries = column.as_struct();
            let (Some(apps), Some(versions)) = (entries.column_by_name("appId"), entries.column_by_name("version"))
            else {
                continue;
            };
            let (apps, versions) = (apps.as_string::<i32>(), versions.as_primitive::<Int64Type>());
            for row in 0..entries.len() {
                if entries.is_valid(row) && apps.is_valid(row) && versions.is_valid(row) {
                    txns.entry(apps.value(row).to_owned()).or_insert_with(|| versions.value(row));
                }
            }
        }
        Ok(txns)
    });
    replay.await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
}
