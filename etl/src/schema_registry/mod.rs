//! Where schemas live: subjects with versions, and ids that records carry.
//!
//! [`EmbeddedRegistry`] keeps them in a folder of the lake, [`ConfluentRegistry`] asks a server. Both kinds pass
//! `testkit::registry_contract`.
mod avro_name;
mod compatible;
mod confluent;
mod embedded;
mod error;
mod identity;
mod level;
mod reference;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use serde::Serialize;

use crate::error::Result;

pub use confluent::ConfluentRegistry;
pub use embedded::{Draft, EmbeddedRegistry, Entry, Stored};
pub use error::RegistryError;
pub use level::Level;
pub use reference::Reference;

/// One version of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registered {
    /// The subject; by default `{topic}-value`.
    pub subject: String,
    /// The version in its subject, from 1.
    pub version: i32,
    /// The id that records written with it carry. Never given to another schema.
    pub id: i32,
    /// The schema's JSON text; if it refers to other schemas, with their types in it.
    pub schema: String,
}

/// Everything Tidemill asks of a schema registry.
///
/// Contract: an id, once given, means the same schema for ever, so it may be cached for ever.
#[async_trait]
pub trait Registry: Send + Sync {
    /// All subjects, by name.
    async fn subjects(&self) -> Result<Vec<String>>;

    /// The versions of a subject, oldest first; none if there is no such subject.
    async fn versions(&self, subject: &str) -> Result<Vec<Registered>>;

    /// The newest version of a subject.
    async fn latest(&self, subject: &str) -> Result<Option<Registered>>;

    /// The schema with this id, deleted or not; if it refers to other schemas, with their types in it.
    async fn by_id(&self, id: i32) -> Result<Option<String>>;

    /// Registers a schema; one that the subject already has keeps its version and id. `id` asks for a certain id.
    ///
    /// # Errors
    /// If the schema is not Avro, breaks the subject's level of compatibility, or the id means another schema.
    async fn register(&self, subject: &str, schema: &str, id: Option<i32>) -> Result<Registered>;

    /// Whether `schema` may follow the subject's versions, by its level of compatibility.
    ///
    /// # Errors
    /// If it may not: which field, and why.
    async fn check(&self, subject: &str, schema: &str) -> Result<()>;

    /// The level set for a subject, `None` if none is; without a subject, the one that counts for all others.
    async fn level(&self, subject: Option<&str>) -> Result<Option<Level>>;

    /// Sets the level of a subject, or the one that counts for all others.
    async fn set_level(&self, subject: Option<&str>, level: Level) -> Result<()>;
}
