//! Deleting, in two steps: out of sight, then for good.
use super::file::{FORMAT, MarkFile, State};
use super::registry::{EmbeddedRegistry, Entry};
use crate::schema_registry::error::RegistryError;

impl EmbeddedRegistry {
    /// Deletes a version: out of sight, or, `for_good`, as if it had never been. Its number is not given again, its id keeps
    /// its meaning. A version that is deleted already, or that never was, is left alone.
    ///
    /// # Errors
    /// [`RegistryError::Referenced`] if another schema uses its types, or the storage fails.
    pub async fn delete(&self, subject: &str, version: i32, for_good: bool) -> Result<(), RegistryError> {
        let wanted = if for_good { State::Gone } else { State::Deleted };
        if self.slots(subject).await?.get(&version).is_none_or(|state| *state >= wanted) {
            return Ok(());
        }
        // Deleted ones do not count: they keep a copy of the types, and stay readable.
        let by: Vec<i32> = self.users(subject, version).await?.into_iter().map(|entry| entry.id).collect();
        if !by.is_empty() {
            return Err(RegistryError::Referenced { subject: subject.to_owned(), version, by });
        }
        self.create(&self.version_file(subject, version, wanted), &MarkFile { format: FORMAT }).await?;
        Ok(())
    }

    /// The versions, not deleted, whose schemas refer to this one; an id comes once.
    ///
    /// # Errors
    /// As [`Self::everything`].
    pub async fn users(&self, subject: &str, version: i32) -> Result<Vec<Entry>, RegistryError> {
        let mut users: Vec<Entry> = self.everything().await?;
        users.retain(|entry| {
            !entry.deleted && entry.stored.references.iter().any(|to| to.subject == subject && to.version == version)
        });
        users.sort_by_key(|entry| entry.id);
        users.dedup_by_key(|entry| entry.id);
        Ok(users)
    }
}
