//! `emit='append'`: each window is shown once, when it is final. Rows that come for a window that was shown go into
//! `<model>__late`.
//!
//! The watermark of a version of the table is in its txn `watermark`: all windows that end by then have been shown. What comes
//! after that is late if a window that it is in ends by then. Late rows are committed first, with the versions of the inputs that
//! were looked at; after a crash between the two commits the next build looks for late rows behind those versions only, and by the
//! same watermark, since the table's has not moved. So each late row is there once.
use deltalake::kernel::Action;
use serde_json::json;
use tracing::info;

use super::build::{Built, Consumed, Work, versions_read, wrong_emission};
use super::incremental::{Class, Emitter, Reading, Since};
use crate::error::Result;
use crate::table::{Commit, Guard, Operation, Table, TableName};

impl Work<'_> {
    /// Shows the windows that have become final.
    pub(super) async fn append(&mut self, reading: &Reading, consumed: Consumed) -> Result<Built> {
        let Some(times) = self.times.clone() else { return Err(wrong_emission(self.model, "it has no watermark")) };
        let emitter = Emitter::new(reading, &times).map_err(|why| wrong_emission(self.model, &why))?;
        // Without versions that it was made from, or by another SELECT, it begins anew.
        let (since, because) = match consumed {
            Ok(since) => (Some(since), None),
            Err(because) => (None, because),
        };
        let before = if since.is_some() { self.watermark } else { None };
        self.watermark = before;
        let newest = match &since {
            Some(since) => {
                if let Some(watermark) = before {
                    self.late(&emitter, since, watermark).await?;
                }
                match emitter.newest_since(self.engine, since).await? {
                    Ok(newest) => newest,
                    Err(_) => emitter.newest(self.engine).await?,
                }
            }
            None => emitter.newest(self.engine).await?,
        };
        self.advance(newest);
        let (adds, rows) = match self.watermark {
            None => (Vec::new(), 0),
            Some(until) => emitter.windows(self.engine, (&self.table, &self.schema), before, until, self.now).await?,
        };
        self.judge(&adds, |_| since.is_none()).await?;
        let operation = if since.is_some() { Operation::Append } else { Operation::Overwrite };
        let mut commit = self.commit(operation, &adds, |_| since.is_none())?;
        if since.is_none() {
            commit.actions.extend(self.columns(&self.table, &self.schema)?);
            commit.actions.extend(self.table.removes(|_| false, self.now)?.into_iter().map(Action::Remove));
        }
        commit.actions.extend(adds.into_iter().map(Action::Add));
        commit.metrics = json!({ "numOutputRows": rows });
        let version = self.table.commit(commit).await?.version;
        Ok(Built {
            model: self.model.name.clone(),
            version: Some(version),
            rows: self.table.rows()?,
            unchanged: false,
            class: Some(if since.is_some() { Class::RowWise } else { Class::Full }),
            changed: since.is_some().then_some((rows, 0)),
            volatile: self.volatile.clone(),
            full_because: because,
        })
    }

    /// Keeps the rows that came for windows that were shown.
    async fn late(&self, emitter: &Emitter<'_>, since: &Since, watermark: i64) -> Result<()> {
        let name = TableName::new(&self.model.table.schema, format!("{}__late", self.model.table.table));
        let schema = emitter.late_columns();
        let mut table: Table = self.engine.lake().ensure(&name, &schema, &[]).await?;
        let app = |input: &TableName| format!("{}/{input}", self.model.name);
        let mut expected = Vec::new();
        for input in since.keys() {
            expected.push((app(input), table.txn(&app(input)).await?));
        }
        // If the last build got no farther than this, what it found is here.
        let looked: Option<Since> = since
            .iter()
            .zip(&expected)
            .map(|((input, (newest, _)), (_, found))| {
                Some((input.clone(), (newest.clone(), u64::try_from((*found)?).ok()?)))
            })
            .collect();
        let ahead =
            |looked: &Since| looked.iter().any(|(input, (_, at))| since.get(input).is_some_and(|(_, was)| at > was));
        let since = looked.filter(ahead).unwrap_or_else(|| since.clone());
        // Going on would pass over them for ever.
        let late = emitter.late(self.engine, &since, watermark, (&table, &schema), self.now).await?;
        let adds = late.map_err(|why| {
            wrong_emission(
                self.model,
                &format!("which rows came late cannot be told: {why}; drop the table to begin anew"),
            )
        })?;
        if adds.is_empty() {
            return Ok(());
        }
        info!(model = self.model.name, files = adds.len(), "rows came late");
        let mut commit = Commit::new(Operation::Append, Guard::Exclusive, self.now);
        let newest = since.iter().map(|(input, (newest, _))| (input.clone(), newest.clone())).collect();
        commit.txns = versions_read(self.model, &newest);
        commit.expected = expected;
        commit.actions.extend(self.columns(&table, &schema)?);
        commit.actions.extend(adds.into_iter().map(Action::Add));
        table.commit(commit).await?;
        Ok(())
    }
}
