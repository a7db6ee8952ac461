//! Levels of compatibility: for all subjects, and for single ones.
use object_store::{ObjectStoreExt as _, PutPayload};

use super::file::{FORMAT, LevelFile, damaged, understand};
use super::registry::EmbeddedRegistry;
use crate::schema_registry::Level;
use crate::schema_registry::error::RegistryError;

impl EmbeddedRegistry {
    /// The level that counts for a subject: its own, else the one for all.
    ///
    /// # Errors
    /// If the storage fails or a file is damaged.
    pub async fn level_of(&self, subject: &str) -> Result<Level, RegistryError> {
        if let Some(own) = self.own_level(Some(subject)).await? {
            return Ok(own);
        }
        Ok(self.own_level(None).await?.unwrap_or_default())
    }

    /// Takes the level of a subject, or the one for all, away; says what it was.
    ///
    /// # Errors
    /// As [`Self::level_of`].
    pub async fn clear_level(&self, subject: Option<&str>) -> Result<Option<Level>, RegistryError> {
        let set = self.own_level(subject).await?;
        let path = self.level_file(subject);
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(set),
            Err(source) => Err(RegistryError::Storage { doing: "write to", path: path.to_string(), source }),
        }
    }

    /// What is set at just this place.
    pub(super) async fn own_level(&self, subject: Option<&str>) -> Result<Option<Level>, RegistryError> {
        let path = self.level_file(subject);
        let Some(text) = self.read(&path).await? else { return Ok(None) };
        let file: LevelFile = understand(&path, &text, |file: &LevelFile| file.format, FORMAT)?;
        let unknown = || damaged(&path, format!("it has the level `{}`", file.level));
        Level::parse(&file.level).ok_or_else(unknown).map(Some)
    }

    pub(super) async fn write_level(&self, subject: Option<&str>, level: Level) -> Result<(), RegistryError> {
        let path = self.level_file(subject);
        let file = LevelFile { format: FORMAT, level: level.name().to_owned() };
        let text = serde_json::to_vec(&file).map_err(|error| damaged(&path, error.to_string()))?;
        match self.store.put(&path, PutPayload::from(text)).await {
            Ok(_) => Ok(()),
            Err(source) => Err(RegistryError::Storage { doing: "write to", path: path.to_string(), source }),
        }
    }
}
