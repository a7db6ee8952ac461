//! What is in the registry: reading it.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::Serialize;
use serde_json::Value;

use super::file::{self, IdFile, MAX_FILE, State, VersionFile, check_subject, damaged, decode, encode, understand};
use crate::error::Result;
use crate::schema_registry::error::RegistryError;
use crate::schema_registry::identity;
use crate::schema_registry::{Level, Reference, Registered, Registry};

/// How many version files are read at once where all are wanted: an object store answers each in tens of milliseconds.
const AT_ONCE: usize = 16;

/// The registry in a folder of the lake. Many may be open on one folder, in one process or in several.
pub struct EmbeddedRegistry {
    pub(super) store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Ids and versions never change, so what was read once holds.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    ids: HashMap<i32, Arc<Stored>>,
    versions: HashMap<(String, i32), i32>,
}

/// A schema as somebody writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// Its JSON text.
    pub schema: String,
    /// Where the types are that it uses and does not define. Version -1 is the newest.
    pub references: Vec<Reference>,
}

/// A schema as it is kept.
#[derive(Debug)]
pub struct Stored {
    /// The JSON text as it was written.
    pub schema: String,
    /// Where the types came from that it does not define, in the order they were given.
    pub references: Vec<Reference>,
    /// The text with those types in it; `None`: it needs none.
    pub(super) resolved: Option<String>,
    /// What makes it the same as another.
    pub(super) normal: Option<Value>,
}

impl Stored {
    /// The JSON text that can be read on its own.
    pub fn resolved(&self) -> &str {
        self.resolved.as_deref().unwrap_or(&self.schema)
    }

    pub(super) fn new(schema: String, references: Vec<Reference>, resolved: Option<String>) -> Self {
        let normal = identity::normal(&schema);
        Self { schema, references, resolved, normal }
    }

    /// Whether both are the same schema: the same JSON but for what has no meaning, with the same references in any order.
    pub(super) fn same(&self, other: &Self) -> bool {
        fn sorted(stored: &Stored) -> BTreeSet<&Reference> {
            stored.references.iter().collect()
        }
        let equal = self.schema == other.schema || (self.normal.is_some() && self.normal == other.normal);
        equal && sorted(self) == sorted(other)
    }
}

/// One version of a subject, deleted ones included.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The subject.
    pub subject: String,
    /// The version, from 1. Numbers of deleted versions are not used again.
    pub version: i32,
    /// The id that records carry.
    pub id: i32,
    /// The schema.
    pub stored: Arc<Stored>,
    /// Whether it was deleted, though not for good.
    pub deleted: bool,
}

impl From<Entry> for Registered {
    fn from(entry: Entry) -> Self {
        let schema = entry.stored.resolved().to_owned();
        Self { subject: entry.subject, version: entry.version, id: entry.id, schema }
    }
}

impl fmt::Debug for EmbeddedRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedRegistry").field("prefix", &self.prefix.as_ref()).finish_non_exhaustive()
    }
}

impl EmbeddedRegistry {
    /// The registry in the folder `prefix` of `store`. A folder that is not there is an empty registry.
    pub fn open(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix, known: Mutex::default() }
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        // Entries go in whole, so a panic elsewhere leaves nothing half done.
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ids(&self) -> Path {
        self.prefix.clone().join("ids")
    }

    pub(super) fn id_file(&self, id: i32) -> Path {
        self.ids().join(format!("{id:010}.json"))
    }

    fn folder(&self) -> Path {
        self.prefix.clone().join("subjects")
    }

    /// The file of a version, or of a mark beside it.
    pub(super) fn version_file(&self, subject: &str, version: i32, state: State) -> Path {
        self.folder().join(encode(subject)).join(state.file(version))
    }

    /// The file of a level; no subject: of the one for all.
    pub(super) fn level_file(&self, subject: Option<&str>) -> Path {
        let folder = self.prefix.clone().join("levels");
        match subject {
            None => folder.join("all.json"),
            Some(subject) => folder.join("subjects").join(format!("{}.json", encode(subject))),
        }
    }

    /// The file's text, or `None` if there is no such file.
    pub(super) async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, RegistryError> {
        let failed = |source| RegistryError::Storage { doing: "read", path: path.to_string(), source };
        let file = match self.store.get(path).await {
            Ok(file) => file,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        if file.meta.size > MAX_FILE {
            return Err(damaged(path, format!("it has {} bytes", file.meta.size)));
        }
        Ok(Some(file.bytes().await.map_err(failed)?.to_vec()))
    }

    /// Writes the file if it is absent; says whether it was.
    pub(super) async fn create(&self, path: &Path, content: &impl Serialize) -> Result<bool, RegistryError> {
        let text = serde_json::to_vec(content).map_err(|error| damaged(path, error.to_string()))?;
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(path, PutPayload::from(text), create).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(RegistryError::Storage { doing: "write to", path: path.to_string(), source }),
        }
    }

    async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, RegistryError> {
        match self.store.list(Some(folder)).try_collect().await {
            Ok(files) => Ok(files),
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(source) => Err(RegistryError::Storage { doing: "list", path: folder.to_string(), source }),
        }
    }

    /// The ids that have a meaning, in order.
    pub(super) async fn taken(&self) -> Result<BTreeSet<i32>, RegistryError> {
        let folder = self.ids();
        let id = |file: &ObjectMeta| {
            let mut parts = file.location.prefix_match(&folder)?;
            let name = parts.next()?;
            parts.next().is_none().then(|| file::id(name.as_ref())).flatten()
        };
        Ok(self.list(&folder).await?.iter().filter_map(id).collect())
    }

    /// The version numbers of a subject in order, with what became of each; gone ones included.
    pub(super) async fn slots(&self, subject: &str) -> Result<BTreeMap<i32, State>, RegistryError> {
        let folder = self.folder().join(encode(subject));
        let files = self.list(&folder).await?;
        Ok(files.iter().filter_map(|file| slot(&file.location, &folder)).fold(BTreeMap::new(), marked))
    }

    async fn all_slots(&self) -> Result<BTreeMap<String, BTreeMap<i32, State>>, RegistryError> {
        let folder = self.folder();
        let mut found: BTreeMap<String, BTreeMap<i32, State>> = BTreeMap::new();
        for file in self.list(&folder).await? {
            let Some(name) = file.location.prefix_match(&folder).and_then(|mut parts| parts.next()) else { continue };
            let own = folder.clone().join(name.as_ref());
            if let (Some(subject), Some(slot)) = (decode(name.as_ref()), slot(&file.location, &own)) {
                let slots = found.remove(&subject).unwrap_or_default();
                found.insert(subject, marked(slots, slot));
            }
        }
        Ok(found)
    }

    /// The schema with this id, whatever became of the versions that had it: records with it may still come.
    pub(super) async fn schema(&self, id: i32) -> Result<Option<Arc<Stored>>, RegistryError> {
        if let Some(schema) = self.known(|known| known.ids.get(&id).cloned()) {
            return Ok(Some(schema));
        }
        let path = self.id_file(id);
        let Some(text) = self.read(&path).await? else { return Ok(None) };
        let file: IdFile = understand(&path, &text, |file: &IdFile| file.format, file::FORMAT_REFERENCES)?;
        if file.id != id {
            return Err(damaged(&path, format!("it says it is of id {}", file.id)));
        }
        let schema = Arc::new(Stored::new(file.schema, file.references, file.resolved));
        self.known(|known| known.ids.insert(id, Arc::clone(&schema)));
        Ok(Some(schema))
    }

    async fn id_of(&self, subject: &str, version: i32) -> Result<i32, RegistryError> {
        let key = (subject.to_owned(), version);
        if let Some(id) = self.known(|known| known.versions.get(&key).copied()) {
            return Ok(id);
        }
        let path = self.version_file(subject, version, State::Live);
        let text = self.read(&path).await?.ok_or_else(|| damaged(&path, "it is gone".to_owned()))?;
        let file: VersionFile = understand(&path, &text, |file: &VersionFile| file.format, file::FORMAT)?;
        if (file.subject.as_str(), file.version) != (subject, version) {
            let why = format!("it says it is version {} of `{}`", file.version, file.subject);
            return Err(damaged(&path, why));
        }
        self.known(|known| known.versions.insert(key, file.id));
        Ok(file.id)
    }

    pub(super) async fn entry(&self, subject: &str, version: i32, state: State) -> Result<Entry, RegistryError> {
        let id = self.id_of(subject, version).await?;
        let gone = || damaged(&self.version_file(subject, version, State::Live), format!("there is no schema {id}"));
        let stored = self.schema(id).await?.ok_or_else(gone)?;
        Ok(Entry { subject: subject.to_owned(), version, id, stored, deleted: state == State::Deleted })
    }

    /// The versions of a subject, oldest first, with those that were deleted but not for good.
    ///
    /// # Errors
    /// If the storage fails or a file is damaged.
    pub async fn entries(&self, subject: &str) -> Result<Vec<Entry>, RegistryError> {
        let mut entries = Vec::new();
        for (version, state) in self.slots(subject).await? {
            if state != State::Gone {
                entries.push(self.entry(subject, version, state).await?);
            }
        }
        Ok(entries)
    }

    /// The versions of all subjects, by subject and version, with those that were deleted but not for good.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub async fn everything(&self) -> Result<Vec<Entry>, RegistryError> {
        let mut wanted = Vec::new();
        for (subject, slots) in self.all_slots().await? {
            let left = slots.into_iter().filter(|(_, state)| *state != State::Gone);
            wanted.extend(left.map(|(version, state)| (subject.clone(), version, state)));
        }
        futures::stream::iter(wanted)
            .map(|(subject, version, state): (String, i32, State)| async move { self.entry(&subject, version, state).await })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    /// All subjects with a version that was not deleted, by name; with `deleted`, those that have deleted ones only too.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn names(&self, deleted: bool) -> Result<Vec<String>, RegistryError> {
        let shown = |state: &State| *state == State::Live || (deleted && *state == State::Deleted);
        let all = self.all_slots().await?;
        Ok(all.into_iter().filter(|(_, slots)| slots.values().any(shown)).map(|(subject, _)| subject).collect())
    }

    pub(super) async fn live(&self, subject: &str) -> Result<Vec<Entry>, RegistryError> {
        Ok(self.entries(subject).await?.into_iter().filter(|entry| !entry.deleted).collect())
    }
}

/// The version and mark of a file of `folder`.
fn slot(file: &Path, folder: &Path) -> Option<(i32, State)> {
    let mut parts = file.prefix_match(folder)?;
    let name = parts.next()?;
    if parts.next().is_some() { None } else { file::version(name.as_ref()) }
}

/// The furthest mark counts.
fn marked(mut slots: BTreeMap<i32, State>, (version, state): (i32, State)) -> BTreeMap<i32, State> {
    let slot = slots.entry(version).or_insert(state);
    *slot = state.max(*slot);
    slots
}

#[async_trait]
impl Registry for EmbeddedRegistry {
    async fn subjects(&self) -> Result<Vec<String>> {
        Ok(self.names(false).await?)
    }

    async fn versions(&self, subject: &str) -> Result<Vec<Registered>> {
        Ok(self.live(subject).await?.into_iter().map(Registered::from).collect())
    }

    async fn latest(&self, subject: &str) -> Result<Option<Registered>> {
        let slots = self.slots(subject).await?;
        let Some((newest, state)) = slots.into_iter().rfind(|(_, state)| *state == State::Live) else {
            return Ok(None);
        };
        Ok(Some(self.entry(subject, newest, state).await?.into()))
    }

    async fn by_id(&self, id: i32) -> Result<Option<String>> {
        if id < 0 {
            return Ok(None);
        }
        Ok(self.schema(id).await?.map(|stored| stored.resolved().to_owned()))
    }

    async fn register(&self, subject: &str, schema: &str, id: Option<i32>) -> Result<Registered> {
        let draft = Draft { schema: schema.to_owned(), references: Vec::new() };
        Ok(self.add(subject, &draft, id).await?.into())
    }

    async fn check(&self, subject: &str, schema: &str) -> Result<()> {
        let draft = Draft { schema: schema.to_owned(), references: Vec::new() };
        Ok(self.follows(subject, &draft).await?)
    }

    async fn level(&self, subject: Option<&str>) -> Result<Option<Level>> {
        let set = self.own_level(subject).await?;
        Ok(if subject.is_none() { set.or(Some(Level::default())) } else { set })
    }

    async fn set_level(&self, subject: Option<&str>, level: Level) -> Result<()> {
        if let Some(subject) = subject {
            check_subject(subject)?;
        }
        Ok(self.write_level(subject, level).await?)
    }
}
