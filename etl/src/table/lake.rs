//! The lake: a root URL, the storage behind it, and the tables below it.
use std::collections::HashMap;
use std::fmt;
use std::path::Path as FsPath;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::Schema;
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake::operations::create::CreateBuilder;
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{DynObjectStore, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::Serialize;
use url::Url;

use super::error::TableError;
use super::owner::{Computing, Owner, Owners};
use super::snapshot::Table;
use crate::error::Result;
use crate::failpoint::hit;

/// The two-part name of a lake table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TableName {
    /// The schema: `bronze`, `silver`, `gold`.
    pub schema: String,
    /// The table in it.
    pub table: String,
}

impl TableName {
    /// Names a table.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl FromStr for TableName {
    type Err = TableError;

    fn from_str(name: &str) -> Result<Self, TableError> {
        let good = |part: &str| {
            !part.is_empty() && part.len() <= 128 && part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
        };
        match name.split_once('.') {
            Some((schema, table)) if good(schema) && good(table) => Ok(Self::new(schema, table)),
            _ => Err(TableError::Name { name: name.to_owned() }),
        }
    }
}

/// How an S3-compatible store is reached. Empty fields leave the choice to the environment (role, profile file).
#[derive(Clone, Default)]
pub struct S3Settings {
    /// `http://minio:9000`; empty: Amazon's own.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The access key.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<String>,
    /// A session token, if the key is a temporary one.
    pub session_token: Option<String>,
    /// Whether plain HTTP is allowed.
    pub allow_http: bool,
    /// Whether the bucket is part of the path (MinIO) or of the host name (Amazon).
    pub path_style: bool,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// A folder or bucket prefix that holds tables.
#[derive(Clone)]
pub struct Lake {
    root: Url,
    store: Arc<DynObjectStore>,
    prefix: Path,
    owners: Arc<Owners>,
}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lake").field("root", &self.root.as_str()).finish_non_exhaustive()
    }
}

impl Lake {
    /// Opens the lake at `location`: a URL, or a path that is taken relative to `base`. A local folder is created.
    ///
    /// # Errors
    /// [`TableError::Lake`] if the folder cannot be made or the URL's kind is not built in.
    pub fn open(location: &str, base: &FsPath, s3: &S3Settings) -> Result<Self> {
        let failed = |why: String| TableError::Lake { url: location.to_owned(), why };
        let mut root = match Url::parse(location) {
            Ok(url) if location.contains("://") => url,
            _ => {
                let folder = base.join(location);
                std::fs::create_dir_all(&folder).map_err(|e| failed(e.to_string()))?;
                let folder = folder.canonicalize().map_err(|e| failed(e.to_string()))?;
                Url::from_directory_path(&folder).map_err(|()| failed("not an absolute path".to_owned()))?
            }
        };
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        if root.scheme() == "file"
            && let Ok(folder) = root.to_file_path()
        {
            std::fs::create_dir_all(&folder).map_err(|e| failed(e.to_string()))?;
        }
        let (store, prefix) =
            object_store::parse_url_opts(&root, options(s3)).map_err(|e| failed(unsupported(root.scheme(), &e)))?;
        Ok(Self { root, store: Arc::from(store), prefix, owners: Arc::default() })
    }

    /// The root, with a slash at its end.
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// The storage, rooted at the host or bucket.
    pub fn store(&self) -> &Arc<DynObjectStore> {
        &self.store
    }

    /// A path below the root.
    pub fn path(&self, below: &str) -> Path {
        below.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), Path::join)
    }

    /// Proves that the storage refuses to overwrite on a conditional put; commits rest on it.
    ///
    /// # Errors
    /// [`TableError::Lake`] if the storage lets the second put through, [`TableError::Storage`] if it cannot be reached.
    pub async fn probe(&self) -> Result<()> {
        let failed = |why: String| TableError::Lake { url: self.root.to_string(), why };
        let path = self.path(&format!("_tidemill/probe-{}", uuid::Uuid::new_v4()));
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put =
            |text: &'static str| self.store.put_opts(&path, PutPayload::from_static(text.as_bytes()), create.clone());
        let refused = |put: &object_store::Result<_>| {
            use object_store::Error::{AlreadyExists, Precondition};
            matches!(put, Err(AlreadyExists { .. } | Precondition { .. }))
        };
        let unreachable = |e| TableError::storage("reach", &self.root, e);
        let first = put("first").await;
        // Nobody else puts here: refused at once means that the put landed, its answer was lost, and it was sent again.
        if !refused(&first) {
            first.map_err(unreachable)?;
        }
        let second = put("second").await;
        if let Err(error) = self.store.delete(&path).await {
            tracing::debug!(%error, %path, "a probe was left behind");
        }
        if refused(&second) {
            return Ok(());
        }
        second.map_err(unreachable)?;
        Err(failed("the storage ignores `If-None-Match`, so two writers could overwrite each other".into()).into())
    }

    /// How far the storage's clock is ahead of `now`, to the second at best; measured by a file that is put and deleted.
    ///
    /// # Errors
    /// [`TableError::Storage`] if the storage fails.
    pub async fn clock_difference(&self, now: chrono::DateTime<chrono::Utc>) -> Result<chrono::TimeDelta> {
        let failed = |e| TableError::storage("read the clock of", &self.root, e);
        let path = self.path(&format!("_tidemill/clock-{}", uuid::Uuid::new_v4()));
        self.store.put(&path, PutPayload::from_static(b"now")).await.map_err(failed)?;
        let found = self.store.head(&path).await;
        if let Err(error) = self.store.delete(&path).await {
            tracing::debug!(%error, %path, "a file was left behind");
        }
        Ok(found.map_err(failed)?.last_modified - now)
    }

    pub(crate) fn log_store(&self, name: &TableName) -> Result<LogStoreRef> {
        let url = self
            .root
            .join(&format!("{}/{}/", name.schema, name.table))
            .map_err(|e| TableError::Lake { url: self.root.to_string(), why: e.to_string() })?;
        let prefixed: Arc<DynObjectStore> = Arc::new(object_store::prefix::PrefixStore::new(
            Arc::clone(&self.store),
            self.path(&format!("{}/{}", name.schema, name.table)),
        ));
        Ok(default_logstore(prefixed, Arc::clone(&self.store), &url, &StorageConfig::default()))
    }

    /// All tables, by name. Folders whose names begin with `_` are ours and not tables.
    ///
    /// # Errors
    /// [`TableError::Storage`] if the storage cannot be listed.
    pub async fn tables(&self) -> Result<Vec<TableName>> {
        let list = async |path: Option<&Path>| {
            self.store.list_with_delimiter(path).await.map_err(|e| TableError::storage("list", &self.root, e))
        };
        let mut tables = Vec::new();
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        for schema in list(prefix).await?.common_prefixes {
            let Some(schema_name) = schema.filename().filter(|name| !name.starts_with('_') && !name.starts_with('.'))
            else {
                continue;
            };
            for table in list(Some(&schema)).await?.common_prefixes {
                let log = table.clone().join("_delta_log");
                let mut entries = self.store.list(Some(&log));
                let found = entries.try_next().await.map_err(|e| TableError::storage("list", &table, e))?;
                if let (Some(name), Some(_)) = (table.filename(), found) {
                    tables.push(TableName::new(schema_name, name));
                }
            }
        }
        tables.sort();
        Ok(tables)
    }

    /// The table at its newest version, or `None` if there is none.
    ///
    /// # Errors
    /// [`TableError::Delta`] if there is a table that cannot be read, [`TableError::Storage`] if the storage fails.
    pub async fn try_table(&self, name: &TableName) -> Result<Option<Table>> {
        let mut delta = DeltaTable::new(self.log_store(name)?);
        match delta.load().await {
            Ok(()) => Ok(Some(self.handle(name, delta))),
            Err(DeltaTableError::NotATable(_) | DeltaTableError::InvalidVersion(_)) => Ok(None),
            Err(other) => {
                // A folder without a log is reported in several ways; a look settles it.
                if self.has_log(name).await? { Err(TableError::delta("read", name, other).into()) } else { Ok(None) }
            }
        }
    }

    /// Keeps compactions of this process off the table while the guard lives. Taken before the table is opened by who
    /// computes from its files what to commit.
    pub(crate) async fn compute(&self, name: &TableName) -> Computing {
        self.owners.of(name).compute().await
    }

    pub(super) fn owner(&self, name: &TableName) -> Arc<Owner> {
        self.owners.of(name)
    }

    fn handle(&self, name: &TableName, delta: DeltaTable) -> Table {
        Table::new(name.clone(), delta, self.owners.of(name))
    }

    async fn has_log(&self, name: &TableName) -> Result<bool> {
        let log = self.path(&format!("{}/{}/_delta_log", name.schema, name.table));
        let mut entries = self.store.list(Some(&log));
        Ok(entries.try_next().await.map_err(|e| TableError::storage("list", name, e))?.is_some())
    }

    /// The table at its newest version.
    ///
    /// # Errors
    /// [`TableError::Missing`] if there is none, with names that look alike.
    pub async fn table(&self, name: &TableName) -> Result<Table> {
        if let Some(table) = self.try_table(name).await? {
            return Ok(table);
        }
        Err(self.missing(name).await?.into())
    }

    /// That there is no table `name`, with names that look alike.
    pub(crate) async fn missing(&self, name: &TableName) -> Result<TableError> {
        let near = self.tables().await?.into_iter().filter(|t| t.table == name.table).map(|t| t.to_string()).collect();
        Ok(TableError::Missing { table: name.to_string(), near })
    }

    /// The table as of `version`.
    ///
    /// # Errors
    /// [`TableError::Delta`] if there is no such version, or it cannot be read.
    pub async fn table_at(&self, name: &TableName, version: u64) -> Result<Table> {
        let mut delta = DeltaTable::new(self.log_store(name)?);
        delta.load_version(version).await.map_err(|e| TableError::delta("read an old version of", name, e))?;
        Ok(self.handle(name, delta))
    }

    /// The table as of the newest version committed at or before `at`, by the times that its history shows.
    ///
    /// # Errors
    /// [`TableError::Delta`] if the table cannot be read as of then, or if `at` is before its first version.
    pub async fn table_as_of(&self, name: &TableName, at: chrono::DateTime<chrono::Utc>) -> Result<Table> {
        match self.table(name).await?.version_as_of(at).await? {
            Ok(version) => self.table_at(name, version).await,
            Err(first) => {
                let first = first.map_or_else(|| "unknown".to_owned(), |at| at.to_rfc3339());
                let none = DeltaTableError::Generic(format!("its first version known is of {first}"));
                Err(TableError::delta("read an old version of", name, none).into())
            }
        }
    }

    /// The table, created empty with `schema` if there is none. `properties` are Delta table properties.
    ///
    /// # Errors
    /// [`TableError::Lake`] if `schema` has a type that Delta lacks; otherwise as [`Lake::try_table`], and
    /// [`TableError::Delta`] if the table cannot be created.
    pub async fn ensure(&self, name: &TableName, schema: &Schema, properties: &[(&str, &str)]) -> Result<Table> {
        if let Some(table) = self.try_table(name).await? {
            return Ok(table);
        }
        let columns: StructType = schema.try_into_kernel().map_err(|e| TableError::Lake {
            url: name.to_string(),
            why: format!("its columns cannot be stored: {e}"),
        })?;
        let configuration = properties.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())));
        hit("lake.before_create").await;
        let created = CreateBuilder::new()
            .with_log_store(self.log_store(name)?)
            .with_table_name(name.to_string())
            .with_columns(columns.fields().cloned())
            .with_configuration(configuration.collect::<HashMap<_, _>>())
            .await;
        hit("lake.after_create").await;
        match created {
            Ok(delta) => Ok(self.handle(name, delta)),
            // Somebody else was quicker: theirs is as good.
            Err(error) => match self.try_table(name).await? {
                Some(table) => Ok(table),
                None => Err(TableError::delta("create", name, error).into()),
            },
        }
    }
}

/// The storage options of an S3-compatible store.
pub(crate) fn options(s3: &S3Settings) -> Vec<(String, String)> {
    let mut options = Vec::new();
    let mut set = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            options.push((key.to_owned(), value.clone()));
        }
    };
    set("aws_endpoint", &s3.endpoint);
    set("aws_region", &s3.region);
    set("aws_access_key_id", &s3.access_key_id);
    set("aws_secret_access_key", &s3.secret_access_key);
    set("aws_session_token", &s3.session_token);
    set("aws_allow_http", &s3.allow_http.then(|| "true".to_owned()));
    set("aws_virtual_hosted_style_request", &s3.path_style.then(|| "false".to_owned()));
    options
}

fn unsupported(scheme: &str, error: &object_store::Error) -> String {
    if matches!(error, object_store::Error::NotImplemented { .. }) || error.to_string().contains("feature") {
        format!("this build has no support for `{scheme}://`: {error}")
    } else {
        error.to_string()
    }
}
