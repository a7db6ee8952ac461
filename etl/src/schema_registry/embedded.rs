//! Schemas beside the tables they describe: a folder of the lake, so that the lake can be read on its own.
//!
//! ```text
//! {prefix}/ids/0000000001.json                   {"format":1,"id":1,"schema":"{…}"}
//! {prefix}/subjects/orders-value/000001.json     {"format":1,"subject":"orders-value","version":1,"id":1}
//! ```
//!
//! No file is ever changed. Both are written only if they are absent, and that is what decides between processes: whoever
//! creates `ids/N` has given N its one meaning, whoever creates the next version of a subject has appended it; the other
//! starts again. A crash between the two files leaves an id without subject: harmless, the same schema takes it next time.
//! Two processes that register one schema at once may give it two ids; they never give one id to two schemas.
//!
//! Subjects are folder names: letters, digits, `_`, `-` and inner dots stand for themselves, other bytes are `=XX`.
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};

use super::compatible::{self, MAX_SCHEMA};
use super::error::RegistryError;
use super::{Registered, Registry};
use crate::error::Result;

const FORMAT: u32 = 1;
/// A round is lost only to another process that registers, so this many lost in a row means a storm.
const ROUNDS: usize = 100;
/// JSON escapes can make a text six times as long.
const MAX_FILE: u64 = 6 * MAX_SCHEMA as u64 + 4096;
/// Folder names may have 255 bytes, and a byte may need three.
const MAX_SUBJECT: usize = 250;

#[derive(Serialize, Deserialize)]
struct IdFile {
    format: u32,
    id: i32,
    schema: String,
}

#[derive(Serialize, Deserialize)]
struct VersionFile {
    format: u32,
    subject: String,
    version: i32,
    id: i32,
}

/// The registry in a folder of the lake. Many may be open on one folder, in one process or in several.
pub struct EmbeddedRegistry {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Files are never changed, so what was read once holds.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    ids: HashMap<i32, Arc<str>>,
    versions: HashMap<(String, i32), i32>,
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

    fn id_file(&self, id: i32) -> Path {
        self.ids().join(format!("{id:010}.json"))
    }

    fn folder(&self) -> Path {
        self.prefix.clone().join("subjects")
    }

    fn subject_folder(&self, subject: &str) -> Path {
        self.folder().join(encode(subject))
    }

    fn version_file(&self, subject: &str, version: i32) -> Path {
        self.subject_folder(subject).join(format!("{version:06}.json"))
    }

    /// The file's text, or `None` if there is no such file.
    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, RegistryError> {
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
    async fn create(&self, path: &Path, content: &impl Serialize) -> Result<bool, RegistryError> {
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

    /// The numbers that name the files of a folder, in order.
    async fn numbers(&self, folder: &Path) -> Result<BTreeSet<i32>, RegistryError> {
        let files = self.list(folder).await?;
        Ok(files.iter().filter_map(|file| number(&file.location, folder)).collect())
    }

    async fn schema(&self, id: i32) -> Result<Option<Arc<str>>, RegistryError> {
        if let Some(schema) = self.known(|known| known.ids.get(&id).cloned()) {
            return Ok(Some(schema));
        }
        let path = self.id_file(id);
        let Some(text) = self.read(&path).await? else { return Ok(None) };
        let file: IdFile = understand(&path, &text, |file: &IdFile| file.format)?;
        if file.id != id {
            return Err(damaged(&path, format!("it says it is of id {}", file.id)));
        }
        let schema: Arc<str> = file.schema.into();
        self.known(|known| known.ids.insert(id, Arc::clone(&schema)));
        Ok(Some(schema))
    }

    async fn id_of(&self, subject: &str, version: i32) -> Result<i32, RegistryError> {
        let key = (subject.to_owned(), version);
        if let Some(id) = self.known(|known| known.versions.get(&key).copied()) {
            return Ok(id);
        }
        let path = self.version_file(subject, version);
        let text = self.read(&path).await?.ok_or_else(|| damaged(&path, "it is gone".to_owned()))?;
        let file: VersionFile = understand(&path, &text, |file: &VersionFile| file.format)?;
        if (file.subject.as_str(), file.version) != (subject, version) {
            let why = format!("it says it is version {} of `{}`", file.version, file.subject);
            return Err(damaged(&path, why));
        }
        self.known(|known| known.versions.insert(key, file.id));
        Ok(file.id)
    }

    async fn version(&self, subject: &str, version: i32) -> Result<Registered, RegistryError> {
        let id = self.id_of(subject, version).await?;
        let gone = || damaged(&self.version_file(subject, version), format!("there is no schema {id}"));
        let schema = self.schema(id).await?.ok_or_else(gone)?;
        Ok(Registered { subject: subject.to_owned(), version, id, schema: schema.as_ref().to_owned() })
    }

    async fn all(&self, subject: &str) -> Result<Vec<Registered>, RegistryError> {
        let mut versions = Vec::new();
        for number in self.numbers(&self.subject_folder(subject)).await? {
            versions.push(self.version(subject, number).await?);
        }
        Ok(versions)
    }

    async fn newest(&self, subject: &str) -> Result<Option<Registered>, RegistryError> {
        match self.numbers(&self.subject_folder(subject)).await?.last() {
            Some(version) => Ok(Some(self.version(subject, *version).await?)),
            None => Ok(None),
        }
    }

    /// Gives the schema the id asked for.
    async fn take(&self, subject: &str, schema: &str, id: i32) -> Result<(), RegistryError> {
        if self.create(&self.id_file(id), &id_file(id, schema)).await? {
            return Ok(());
        }
        match self.schema(id).await? {
            Some(known) if compatible::same(&known, schema) => Ok(()),
            _ => Err(RegistryError::Taken { subject: subject.to_owned(), id }),
        }
    }

    /// An id for the schema: one that it has already, else the lowest free one. Low ones, so that ids do not grow into a
    /// range that foreign records use. `None`: somebody else took it just now.
    async fn choose(&self, schema: &str) -> Result<Option<i32>, RegistryError> {
        let mut free = 1;
        for taken in self.numbers(&self.ids()).await? {
            if self.schema(taken).await?.is_some_and(|known| compatible::same(&known, schema)) {
                return Ok(Some(taken));
            }
            if taken == free {
                free += 1;
            }
        }
        Ok(self.create(&self.id_file(free), &id_file(free, schema)).await?.then_some(free))
    }

    async fn put(&self, subject: &str, schema: &str, id: Option<i32>) -> Result<Registered, RegistryError> {
        check_subject(subject)?;
        if let Some(id) = id.filter(|id| *id < 0) {
            return Err(RegistryError::Id { id });
        }
        let parsed = compatible::parse(subject, schema)?;
        for _ in 0..ROUNDS {
            let versions = self.all(subject).await?;
            let wanted = |known: &&Registered| id.is_none_or(|id| id == known.id);
            if let Some(known) = versions.iter().filter(wanted).find(|known| compatible::same(&known.schema, schema)) {
                return Ok(known.clone());
            }
            if let Some(newest) = versions.last() {
                readable(newest, &parsed)?;
            }
            let id = match id {
                Some(id) => {
                    self.take(subject, schema, id).await?;
                    id
                }
                None => match self.choose(schema).await? {
                    Some(id) => id,
                    None => continue,
                },
            };
            let version = versions.last().map_or(1, |newest| newest.version + 1);
            let file = VersionFile { format: FORMAT, subject: subject.to_owned(), version, id };
            if self.create(&self.version_file(subject, version), &file).await? {
                return self.version(subject, version).await;
            }
        }
        Err(RegistryError::Busy { subject: subject.to_owned() })
    }
}

#[async_trait]
impl Registry for EmbeddedRegistry {
    async fn subjects(&self) -> Result<Vec<String>> {
        let folder = self.folder();
        let mut subjects = BTreeSet::new();
        for file in self.list(&folder).await? {
            let Some(mut parts) = file.location.prefix_match(&folder) else { continue };
            if let (Some(subject), Some(_)) = (parts.next(), parts.next()) {
                subjects.extend(decode(subject.as_ref()));
            }
        }
        Ok(subjects.into_iter().collect())
    }

    async fn versions(&self, subject: &str) -> Result<Vec<Registered>> {
        Ok(self.all(subject).await?)
    }

    async fn latest(&self, subject: &str) -> Result<Option<Registered>> {
        Ok(self.newest(subject).await?)
    }

    async fn by_id(&self, id: i32) -> Result<Option<String>> {
        if id < 0 {
            return Ok(None);
        }
        Ok(self.schema(id).await?.map(|schema| schema.as_ref().to_owned()))
    }

    async fn register(&self, subject: &str, schema: &str, id: Option<i32>) -> Result<Registered> {
        Ok(self.put(subject, schema, id).await?)
    }

    async fn check(&self, subject: &str, schema: &str) -> Result<()> {
        let parsed = compatible::parse(subject, schema)?;
        match self.newest(subject).await? {
            Some(newest) => Ok(readable(&newest, &parsed)?),
            None => Ok(()),
        }
    }
}

fn id_file(id: i32, schema: &str) -> IdFile {
    IdFile { format: FORMAT, id, schema: schema.to_owned() }
}

/// Whether a reader with `reader` can read what was written with `newest`.
fn readable(newest: &Registered, reader: &apache_avro::Schema) -> Result<(), RegistryError> {
    let writer = compatible::parse(&newest.subject, &newest.schema)?;
    match compatible::problem(&writer, reader) {
        None => Ok(()),
        Some(problem) => Err(RegistryError::Incompatible {
            subject: newest.subject.clone(),
            version: Some(newest.version),
            field: problem.field,
            why: problem.why,
        }),
    }
}

fn understand<T: serde::de::DeserializeOwned>(
    path: &Path,
    text: &[u8],
    format: impl FnOnce(&T) -> u32,
) -> Result<T, RegistryError> {
    let file: T = serde_json::from_slice(text).map_err(|error| damaged(path, error.to_string()))?;
    match format(&file) {
        FORMAT => Ok(file),
        other => Err(damaged(path, format!("it has format {other}; this version knows format {FORMAT}"))),
    }
}

fn damaged(path: &Path, why: String) -> RegistryError {
    RegistryError::Damaged { path: path.to_string(), why }
}

fn check_subject(subject: &str) -> Result<(), RegistryError> {
    let bad = |why| Err(RegistryError::Subject { subject: subject.to_owned(), why });
    if subject.is_empty() {
        return bad("it is empty");
    }
    if encode(subject).len() > MAX_SUBJECT {
        return bad("it is too long for a folder");
    }
    Ok(())
}

/// The number that names a file of `folder`: 17 of `folder/0000000017.json`.
fn number(file: &Path, folder: &Path) -> Option<i32> {
    let mut parts = file.prefix_match(folder)?;
    let digits = parts.next()?.as_ref().strip_suffix(".json")?.to_owned();
    if parts.next().is_some() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

fn encode(subject: &str) -> String {
    let mut name = String::with_capacity(subject.len());
    for (place, byte) in subject.bytes().enumerate() {
        // A leading dot would hide the folder, and `..` would leave it.
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || (byte == b'.' && place > 0) {
            name.push(char::from(byte));
        } else {
            name.push('=');
            name.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])));
        }
    }
    name
}

fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'=' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
