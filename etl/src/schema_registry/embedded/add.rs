//! Registering: what a schema means, whether it fits, and its place.
use apache_avro::Schema;

use super::file::{FORMAT, FORMAT_REFERENCES, IdFile, State, VersionFile, check_subject};
use super::registry::{Draft, EmbeddedRegistry, Entry, Stored};
use crate::schema_registry::compatible::{self, Conflict};
use crate::schema_registry::error::RegistryError;
use crate::schema_registry::{Level, reference};

/// A round is lost only to another process that registers, so this many lost in a row means a storm.
const ROUNDS: usize = 100;

impl EmbeddedRegistry {
    /// Registers a schema; one that the subject already has keeps its version and id. `id` asks for a certain id.
    ///
    /// # Errors
    /// If the schema is not Avro, refers to what is not there, breaks the subject's level of compatibility, or the id means
    /// another schema.
    pub async fn add(&self, subject: &str, draft: &Draft, id: Option<i32>) -> Result<Entry, RegistryError> {
        check_subject(subject)?;
        if let Some(id) = id.filter(|id| *id < 0) {
            return Err(RegistryError::Id { id });
        }
        let (new, parsed) = self.understood(subject, draft).await?;
        for _ in 0..ROUNDS {
            let slots = self.slots(subject).await?;
            let mut live = Vec::new();
            for (version, state) in slots.iter().filter(|(_, state)| **state == State::Live) {
                live.push(self.entry(subject, *version, *state).await?);
            }
            let wanted = |known: &&Entry| id.is_none_or(|id| id == known.id);
            if let Some(known) = live.iter().filter(wanted).find(|known| known.stored.same(&new)) {
                return Ok(known.clone());
            }
            let level = self.level_of(subject).await?;
            if let Some(conflict) = conflicts(level, &live, &parsed)?.into_iter().next() {
                return Err(refused(subject, conflict));
            }
            let id = match id {
                Some(id) => {
                    self.take(subject, &new, id).await?;
                    id
                }
                None => match self.choose(&new).await? {
                    Some(id) => id,
                    None => continue,
                },
            };
            // Behind deleted ones too: a version has one meaning for ever, as an id has.
            let version = slots.last_key_value().map_or(1, |(newest, _)| newest + 1);
            let file = VersionFile { format: FORMAT, subject: subject.to_owned(), version, id };
            if self.create(&self.version_file(subject, version, State::Live), &file).await? {
                return self.entry(subject, version, State::Live).await;
            }
        }
        Err(RegistryError::Busy { subject: subject.to_owned() })
    }

    /// The version of a subject that has this schema: the newest, if several do. `deleted`: deleted ones count too.
    ///
    /// # Errors
    /// If the schema is not Avro or refers to what is not there, or the storage fails.
    pub async fn find(&self, subject: &str, draft: &Draft, deleted: bool) -> Result<Option<Entry>, RegistryError> {
        let (wanted, _) = self.understood(subject, draft).await?;
        let entries = self.entries(subject).await?;
        Ok(entries.into_iter().rfind(|known| (deleted || !known.deleted) && known.stored.same(&wanted)))
    }

    /// Whether a schema may be the next of a subject.
    ///
    /// # Errors
    /// If it may not, or is no schema.
    pub async fn follows(&self, subject: &str, draft: &Draft) -> Result<(), RegistryError> {
        let level = self.level_of(subject).await?;
        let live = self.live(subject).await?;
        match self.against(subject, draft, level, &live).await?.into_iter().next() {
            Some(conflict) => Err(conflict),
            None => Ok(()),
        }
    }

    /// What keeps a schema from following these versions, oldest first, of a subject; nothing if it may.
    ///
    /// # Errors
    /// If it is no schema, or refers to what is not there.
    pub async fn against(
        &self,
        subject: &str,
        draft: &Draft,
        level: Level,
        versions: &[Entry],
    ) -> Result<Vec<RegistryError>, RegistryError> {
        let (_, parsed) = self.understood(subject, draft).await?;
        let found = conflicts(level, versions, &parsed)?;
        Ok(found.into_iter().map(|conflict| refused(subject, conflict)).collect())
    }

    /// The schema with its references resolved, and parsed.
    async fn understood(&self, subject: &str, draft: &Draft) -> Result<(Stored, Schema), RegistryError> {
        if draft.references.is_empty() {
            let parsed = compatible::parse(subject, &draft.schema)?;
            return Ok((Stored::new(draft.schema.clone(), Vec::new(), None), parsed));
        }
        let mut references = draft.references.clone();
        let mut others = Vec::new();
        for reference in &mut references {
            let entries = self.entries(&reference.subject).await?;
            let found = match reference.version {
                -1 => entries.into_iter().rfind(|known| !known.deleted),
                version => entries.into_iter().find(|known| known.version == version),
            };
            let Some(found) = found else {
                return Err(RegistryError::NoReference {
                    subject: subject.to_owned(),
                    name: reference.name.clone(),
                    of: reference.subject.clone(),
                    version: reference.version,
                });
            };
            reference.version = found.version;
            others.push(found.stored);
        }
        let texts: Vec<&str> = others.iter().map(|stored| stored.resolved()).collect();
        let resolved = reference::resolve(&draft.schema, &texts)
            .map_err(|why| RegistryError::NotAvro { subject: subject.to_owned(), why })?;
        let parsed = compatible::parse(subject, &resolved)?;
        Ok((Stored::new(draft.schema.clone(), references, Some(resolved)), parsed))
    }

    /// Gives the schema the id asked for.
    async fn take(&self, subject: &str, schema: &Stored, id: i32) -> Result<(), RegistryError> {
        if self.create(&self.id_file(id), &id_file(id, schema)).await? {
            return Ok(());
        }
        match self.schema(id).await? {
            Some(known) if known.same(schema) => Ok(()),
            _ => Err(RegistryError::Taken { subject: subject.to_owned(), id }),
        }
    }

    /// An id for the schema: one that it has already, else the lowest free one. Low ones, so that ids do not grow into a
    /// range that foreign records use. `None`: somebody else took it just now.
    async fn choose(&self, schema: &Stored) -> Result<Option<i32>, RegistryError> {
        let mut free = 1;
        for taken in self.taken().await? {
            if self.schema(taken).await?.is_some_and(|known| known.same(schema)) {
                return Ok(Some(taken));
            }
            if taken == free {
                free += 1;
            }
        }
        Ok(self.create(&self.id_file(free), &id_file(free, schema)).await?.then_some(free))
    }
}

fn id_file(id: i32, stored: &Stored) -> IdFile {
    let format = if stored.references.is_empty() { FORMAT } else { FORMAT_REFERENCES };
    let (schema, references, resolved) = (stored.schema.clone(), stored.references.clone(), stored.resolved.clone());
    IdFile { format, id, schema, references, resolved }
}

fn conflicts(level: Level, earlier: &[Entry], new: &Schema) -> Result<Vec<Conflict>, RegistryError> {
    if level == Level::None {
        return Ok(Vec::new());
    }
    // Parsing is what costs; only what is compared is parsed.
    let counted = if level.transitive() { earlier.len() } else { earlier.len().min(1) };
    let mut parsed = Vec::with_capacity(counted);
    for entry in earlier.iter().skip(earlier.len() - counted) {
        parsed.push((entry.version, compatible::parse(&entry.subject, entry.stored.resolved())?));
    }
    Ok(compatible::conflicts(level, &parsed, new))
}

fn refused(subject: &str, conflict: Conflict) -> RegistryError {
    let subject = subject.to_owned();
    let (version, field, why) = (conflict.version, conflict.problem.field, conflict.problem.why);
    if conflict.forward {
        RegistryError::Unreadable { subject, version, field, why }
    } else {
        RegistryError::Incompatible { subject, version: Some(version), field, why }
    }
}
