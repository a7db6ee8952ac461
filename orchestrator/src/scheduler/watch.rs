//! Files that arrive: which folders are listed, how often, and what is new in them.
use std::collections::BTreeSet;
use std::time::Duration;

use super::driver::Driver;
use crate::dag::{FileTrigger, Trigger};
use crate::history::HistoryError;
use crate::plan::{Arrived, Scope};
use crate::trigger::{FileId, Watch, list};

/// How often folders are listed.
const LOOK: Duration = Duration::from_millis(500);

/// How often folders are listed whose files have arrived at once.
const LOOK_AT_ONCE: Duration = Duration::from_millis(40);

/// Those files that are whole as far as size and marker say.
fn complete(mut listing: Vec<FileId>, trigger: &FileTrigger, root: &std::path::Path) -> Vec<FileId> {
    listing.retain(|file| {
        let marked = trigger.marker.as_ref().is_none_or(|marker| root.join(format!("{}{marker}", file.path)).exists());
        file.size >= trigger.min_size && marked && !is_marker(file, trigger)
    });
    listing
}

/// A marker that the pattern matches, too, is not a file of its own.
fn is_marker(file: &FileId, trigger: &FileTrigger) -> bool {
    trigger.marker.as_ref().is_some_and(|marker| file.path.ends_with(marker.as_str()))
}

impl Driver<'_> {
    /// Whether a file trigger takes files as soon as they are there.
    pub(super) fn watches_at_once(&self) -> bool {
        let at_once = |trigger: &Trigger| matches!(trigger, Trigger::File(file) if file.settle < LOOK_AT_ONCE);
        self.scheduler.dags().iter().any(|dag| dag.triggers.iter().any(at_once))
    }

    pub(super) fn look_every(&self) -> Duration {
        if self.watches_at_once() { LOOK_AT_ONCE } else { LOOK }
    }

    /// Lists the folders of file triggers, twice a second at most.
    pub(super) async fn look(&mut self) -> Result<(), HistoryError> {
        let now = tokio::time::Instant::now();
        if self.scope != Scope::All
            || self.stopping
            || self.looked.is_some_and(|looked| now - looked < self.look_every())
        {
            return Ok(());
        }
        self.looked = Some(now);
        let dags = self.scheduler.dags();
        let mut arrived = Vec::new();
        let mut watched = BTreeSet::new();
        for dag in dags.iter() {
            for (index, trigger) in dag.triggers.iter().enumerate() {
                let Trigger::File(trigger) = trigger else { continue };
                let key = (dag.id.clone(), index);
                watched.insert(key.clone());
                let (root, pattern) = (self.scheduler.config.project_dir.clone(), trigger.path.clone());
                let listing = match tokio::task::spawn_blocking(move || list(&root, &pattern)).await {
                    Ok(Ok(listing)) => complete(listing, trigger, &self.scheduler.config.project_dir),
                    Ok(Err(error)) => {
                        tracing::warn!(dag = dag.id, pattern = trigger.path, %error, "cannot list the files of a trigger");
                        continue;
                    }
                    Err(_) => continue,
                };
                let at = self.now();
                let entry = self.watches.entry(key).or_default();
                if entry.0 != trigger.path {
                    *entry = (trigger.path.clone(), Watch::default());
                }
                let settled = entry.1.observe(&listing, trigger.settle, at);
                if settled.is_empty() {
                    continue;
                }
                let (id, files) = (dag.id.clone(), settled.clone());
                let unseen = self.ask(move |history| history.unseen(&id, &files)).await?;
                if let Some((_, watch)) = self.watches.get_mut(&(dag.id.clone(), index)) {
                    settled.iter().filter(|file| !unseen.contains(file)).for_each(|file| watch.handled(file));
                }
                arrived.extend(unseen.into_iter().map(|file| Arrived { dag: dag.id.clone(), trigger: index, file }));
            }
        }
        self.watches.retain(|key, _| watched.contains(key));
        self.arrived = arrived;
        Ok(())
    }
}
