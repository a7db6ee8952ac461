//! A registry with Confluent's HTTP API: Confluent's own, Apicurio's `ccompat`, Karapace, Redpanda.
//!
//! Every answer is bounded in time and size. Schemas are remembered by id for ever, so that what is known can be read
//! while the registry is down. Which changes are compatible is the registry's own policy; if it refuses one, we look for
//! the field by ourselves, as its messages do not always name it.
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, Method, StatusCode, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;

use super::compatible::{self, MAX_SCHEMA, Problem};
use super::error::RegistryError;
use super::reference;
use super::{Level, Reference, Registered, Registry, identity};
use crate::error::Result;
use crate::secret::Secret;

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);
/// A schema as a JSON text in JSON; also enough for a hundred thousand subjects.
const MAX_ANSWER: usize = 8 * MAX_SCHEMA;
/// References of references: real ones go two or three steps.
const MAX_REFERENCES: usize = 32;
/// A message is for a person to read.
const MAX_MESSAGE: usize = 1000;
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// A registry behind HTTP.
pub struct ConfluentRegistry {
    client: Client,
    base: Url,
    login: Option<(String, Secret)>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    ids: HashMap<i32, Arc<str>>,
    /// What a version is never changes; that it is still there is asked each time.
    versions: HashMap<(String, i32), Registered>,
}

/// One version as the API tells it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    version: i32,
    id: i32,
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    schema: String,
    /// Absent: Avro.
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Given {
    id: i32,
}

#[derive(Deserialize)]
struct Verdict {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configured {
    compatibility_level: String,
}

#[derive(Deserialize)]
struct Mode {
    mode: String,
}

#[derive(Deserialize)]
struct Complaint {
    error_code: Option<i64>,
    message: Option<String>,
}

/// An answer that is not a failure of the registry or of the way to it.
enum Answer {
    Body(Vec<u8>),
    Missing,
    /// 409 and 422: what we sent does not suit it.
    Refused {
        status: u16,
        code: i64,
        message: String,
    },
}

impl fmt::Debug for ConfluentRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfluentRegistry").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl ConfluentRegistry {
    /// The registry at `url`, which may have a path: `http://host:8080/apis/ccompat/v7`. Nothing is asked of it yet.
    /// A user and password in the URL count as the login if there is no other.
    ///
    /// # Errors
    /// If `url` is no `http://` or `https://` URL.
    pub fn open(url: &str, login: Option<(String, Secret)>) -> Result<Self> {
        Ok(Self::patient(url, login, ANSWER)?)
    }

    /// As [`Self::open`], with a bound on the whole of each answer.
    pub(super) fn patient(url: &str, login: Option<(String, Secret)>, answer: Duration) -> Result<Self, RegistryError> {
        // The text is not repeated in the error: it may hold a password.
        let bad = |why: String| RegistryError::Url { why };
        let mut base = Url::parse(url).map_err(|error| bad(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(bad(format!("it begins with `{}:`", base.scheme())));
        }
        let mut login = login;
        if !base.username().is_empty() || base.password().is_some() {
            let plain = |text: &str| percent_decoded(text);
            let own = (plain(base.username()), Secret::new(plain(base.password().unwrap_or_default())));
            login = login.or(Some(own));
            // Both can fail only for URLs without a host, and `http` has one.
            if base.set_username("").is_err() || base.set_password(None).is_err() {
                return Err(bad("it has no host".to_owned()));
            }
        }
        base.set_query(None);
        base.set_fragment(None);
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(answer)
            .redirect(redirect::Policy::limited(3))
            .build()
            .map_err(|source| RegistryError::Unreachable { url: base.to_string(), source: source.without_url() })?;
        Ok(Self { client, base, login, known: Mutex::default() })
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The URL of a resource; every part is percent-encoded.
    fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    async fn ask(&self, method: Method, url: Url, body: Option<Value>) -> Result<Answer, RegistryError> {
        let place = url.to_string();
        let lost =
            |source: reqwest::Error| RegistryError::Unreachable { url: place.clone(), source: source.without_url() };
        let mut request = self.client.request(method, url).header("Accept", format!("{MEDIA_TYPE}, application/json"));
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, Some(password.expose()));
        }
        if let Some(body) = body {
            request = request.header("Content-Type", MEDIA_TYPE).body(body.to_string());
        }
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                let why = format!("the answer is longer than {MAX_ANSWER} bytes");
                return Err(RegistryError::Answer { url: place, status: status.as_u16(), why });
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() && !bytes.is_empty() {
            return Ok(Answer::Body(bytes));
        }
        let (code, message) = complaint(&bytes);
        match status {
            StatusCode::NOT_FOUND | StatusCode::NO_CONTENT => Ok(Answer::Missing),
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
                Ok(Answer::Refused { status: status.as_u16(), code, message })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(RegistryError::Denied { url: place, status: status.as_u16() })
            }
            _ => Err(RegistryError::Answer { url: place, status: status.as_u16(), why: message }),
        }
    }

    /// What is at a place; `None` for 404.
    async fn get<T: DeserializeOwned>(&self, parts: &[&str]) -> Result<Option<T>, RegistryError> {
        self.get_url(self.url(parts)).await
    }

    async fn get_url<T: DeserializeOwned>(&self, url: Url) -> Result<Option<T>, RegistryError> {
        match self.ask(Method::GET, url.clone(), None).await? {
            Answer::Body(body) => understand(&url, &body).map(Some),
            Answer::Missing => Ok(None),
            Answer::Refused { status, message, .. } => {
                Err(RegistryError::Answer { url: url.to_string(), status, why: message })
            }
        }
    }

    async fn version(&self, subject: &str, version: &str) -> Result<Option<Registered>, RegistryError> {
        let told: Option<Told> = self.get(&["subjects", subject, "versions", version]).await?;
        let Some(told) = told else { return Ok(None) };
        if let Some(kind) = told.schema_type.filter(|kind| kind != "AVRO") {
            return Err(RegistryError::OtherKind { subject: subject.to_owned(), version: told.version, kind });
        }
        let schema = self.whole(subject, told.schema, &told.references.unwrap_or_default(), MAX_REFERENCES).await?;
        let registered = Registered { subject: subject.to_owned(), version: told.version, id: told.id, schema };
        self.known(|known| {
            known.ids.insert(registered.id, registered.schema.as_str().into());
            known.versions.insert((subject.to_owned(), registered.version), registered.clone());
        });
        Ok(Some(registered))
    }

    async fn all(&self, subject: &str) -> Result<Vec<Registered>, RegistryError> {
        check_subject(subject)?;
        let numbers: Option<Vec<i32>> = self.get(&["subjects", subject, "versions"]).await?;
        let mut numbers = numbers.unwrap_or_default();
        numbers.sort_unstable();
        let mut versions = Vec::with_capacity(numbers.len());
        for number in numbers {
            let key = (subject.to_owned(), number);
            let known = self.known(|known| known.versions.get(&key).cloned());
            // One that was deleted since is left out.
            versions.extend(match known {
                Some(known) => Some(known),
                None => self.version(subject, &number.to_string()).await?,
            });
        }
        Ok(versions)
    }

    async fn newest(&self, subject: &str) -> Result<Option<Registered>, RegistryError> {
        check_subject(subject)?;
        self.version(subject, "latest").await
    }

    async fn text(&self, id: i32) -> Result<Option<Arc<str>>, RegistryError> {
        if id < 0 {
            return Ok(None);
        }
        if let Some(schema) = self.known(|known| known.ids.get(&id).cloned()) {
            return Ok(Some(schema));
        }
        let told: Option<Text> = self.get(&["schemas", "ids", &id.to_string()]).await?;
        let Some(told) = told else { return Ok(None) };
        let schema: Arc<str> = if let Some(kind) = told.schema_type.filter(|kind| kind != "AVRO") {
            // No Avro by accident: `{"type":"string"}` is a JSON Schema too.
            format!("({kind}, not Avro) {}", told.schema).into()
        } else {
            let references = told.references.unwrap_or_default();
            self.whole(&format!("id {id}"), told.schema, &references, MAX_REFERENCES).await?.into()
        };
        self.known(|known| known.ids.insert(id, Arc::clone(&schema)));
        Ok(Some(schema))
    }

    /// The schema with the types that it refers to in it, and those that they refer to, `left` steps far.
    async fn whole(
        &self,
        subject: &str,
        schema: String,
        references: &[Reference],
        left: usize,
    ) -> Result<String, RegistryError> {
        if references.is_empty() {
            return Ok(schema);
        }
        let mut others = Vec::with_capacity(references.len());
        for to in references {
            let mut url = self.url(&["subjects", &to.subject, "versions", &to.version.to_string()]);
            // One that was deleted since is still what records were written with.
            url.set_query(Some("deleted=true"));
            let found: Option<Told> = if left == 0 { None } else { self.get_url(url).await? };
            let Some(found) = found else {
                return Err(RegistryError::NoReference {
                    subject: subject.to_owned(),
                    name: to.name.clone(),
                    of: to.subject.clone(),
                    version: to.version,
                });
            };
            let further = found.references.unwrap_or_default();
            others.push(Box::pin(self.whole(&to.subject, found.schema, &further, left - 1)).await?);
        }
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        reference::resolve(&schema, &others).map_err(|why| RegistryError::NotAvro { subject: subject.to_owned(), why })
    }

    async fn configured(&self, subject: Option<&str>) -> Result<Option<Level>, RegistryError> {
        let parts: Vec<&str> = std::iter::once("config").chain(subject).collect();
        let Some(found) = self.get::<Configured>(&parts).await? else { return Ok(None) };
        let unknown = RegistryError::NoLevel { level: cut(&found.compatibility_level) };
        Level::parse(&found.compatibility_level).ok_or(unknown).map(Some)
    }

    async fn configure(&self, subject: Option<&str>, level: Level) -> Result<(), RegistryError> {
        subject.map_or(Ok(()), check_subject)?;
        let parts: Vec<&str> = std::iter::once("config").chain(subject).collect();
        let url = self.url(&parts);
        let (status, why) =
            match self.ask(Method::PUT, url.clone(), Some(json!({ "compatibility": level.name() }))).await? {
                Answer::Body(_) => return Ok(()),
                Answer::Missing => (404, "it has no such subject, or no levels of compatibility".to_owned()),
                Answer::Refused { status, message, .. } => (status, message),
            };
        Err(RegistryError::Answer { url: url.to_string(), status, why })
    }

    /// An id can be chosen only where the registry imports. Not every registry refuses it elsewhere: some give another id
    /// without a word, and that could not be undone. So it is asked before anything is written.
    async fn may_choose(&self, subject: &str, id: i32) -> Result<(), RegistryError> {
        let refused = |why: String| RegistryError::IdRefused { subject: subject.to_owned(), id, why };
        let mut mode = self.mode(&["mode", subject]).await?;
        if mode.is_none() {
            mode = self.mode(&["mode"]).await?;
        }
        match mode {
            Some(Mode { mode }) if mode == "IMPORT" => Ok(()),
            Some(Mode { mode }) => Err(refused(format!("the registry is in mode {mode} and gives ids by itself"))),
            None => Err(refused("the registry has no import mode and gives ids by itself".to_owned())),
        }
    }

    /// The mode set at a place; `None` too where there are no modes, which is 204, 404 or 405.
    async fn mode(&self, parts: &[&str]) -> Result<Option<Mode>, RegistryError> {
        match self.get(parts).await {
            Err(RegistryError::Answer { status: 405, .. }) => Ok(None),
            other => other,
        }
    }

    async fn put(&self, subject: &str, schema: &str, id: Option<i32>) -> Result<Registered, RegistryError> {
        check_subject(subject)?;
        if let Some(id) = id.filter(|id| *id < 0) {
            return Err(RegistryError::Id { id });
        }
        compatible::parse(subject, schema)?;
        let versions = self.all(subject).await?;
        let wanted = |known: &&Registered| id.is_none_or(|id| id == known.id);
        if let Some(known) = versions.iter().filter(wanted).find(|known| identity::same(&known.schema, schema)) {
            return Ok(known.clone());
        }
        let mut body = json!({ "schema": schema });
        if let Some(id) = id {
            match self.text(id).await? {
                Some(known) if !identity::same(&known, schema) => {
                    return Err(RegistryError::Taken { subject: subject.to_owned(), id });
                }
                // The schema has this id already, under another subject: a registry gives it the same one.
                Some(_) => {}
                None => {
                    self.may_choose(subject, id).await?;
                    body["id"] = json!(id);
                    body["version"] = json!(versions.last().map_or(1, |newest| newest.version + 1));
                }
            }
        }
        let url = self.url(&["subjects", subject, "versions"]);
        let given: Given = match self.ask(Method::POST, url.clone(), Some(body)).await? {
            Answer::Body(body) => understand(&url, &body)?,
            refusal => return Err(self.refusal(subject, schema, id, &url, refusal).await?),
        };
        if let Some(id) = id.filter(|id| *id != given.id) {
            let why = format!("the registry gave it the id {} instead", given.id);
            return Err(RegistryError::IdRefused { subject: subject.to_owned(), id, why });
        }
        // The answer has no version.
        let found = self.all(subject).await?.into_iter().rfind(|known| known.id == given.id);
        found.ok_or_else(|| RegistryError::Answer {
            url: url.to_string(),
            status: 200,
            why: format!("it says the schema has id {}, but no version of the subject has", given.id),
        })
    }

    /// What it means that a schema was not taken.
    async fn refusal(
        &self,
        subject: &str,
        schema: &str,
        id: Option<i32>,
        url: &Url,
        answer: Answer,
    ) -> Result<RegistryError, RegistryError> {
        let subject = subject.to_owned();
        Ok(match (answer, id) {
            (Answer::Refused { status: 409, message, .. }, _) => self.incompatible(&subject, schema, message).await?,
            // Codes of Confluent's API: the schema is invalid; the operation is not permitted.
            (Answer::Refused { code: 42201, message, .. }, _) => RegistryError::NotAvro { subject, why: message },
            (Answer::Refused { code: 42205, message, .. }, Some(id)) => {
                RegistryError::IdRefused { subject, id, why: message }
            }
            (Answer::Refused { status, message, .. }, _) => {
                RegistryError::Answer { url: url.to_string(), status, why: message }
            }
            _ => RegistryError::Answer { url: url.to_string(), status: 404, why: "there is no such place".to_owned() },
        })
    }

    async fn incompatible(&self, subject: &str, schema: &str, message: String) -> Result<RegistryError, RegistryError> {
        let newest = self.newest(subject).await?;
        let reader = compatible::parse(subject, schema)?;
        let own = newest.as_ref().and_then(|newest| {
            let writer = compatible::parse(subject, &newest.schema).ok()?;
            compatible::problem(&writer, &reader)
        });
        let (field, why) = match own {
            Some(Problem { field, why }) if message.is_empty() => (field, why),
            Some(Problem { field, why }) => (field, format!("{why}; the registry says: {message}")),
            None if message.is_empty() => (None, "the registry's rule for this subject does not allow it".to_owned()),
            None => (None, message),
        };
        let version = newest.map(|newest| newest.version);
        Ok(RegistryError::Incompatible { subject: subject.to_owned(), version, field, why })
    }

    async fn verdict(&self, subject: &str, schema: &str) -> Result<(), RegistryError> {
        check_subject(subject)?;
        compatible::parse(subject, schema)?;
        let own = self.configured(Some(subject)).await?;
        let level = if own.is_some() { own } else { self.configured(None).await? };
        // Registries differ in which versions count for which of the two questions (Apicurio: all, and the newest, whatever
        // the level), and some know only the second.
        let all = ["compatibility", "subjects", subject, "versions"];
        let newest = ["compatibility", "subjects", subject, "versions", "latest"];
        let questions = [&all[..], &newest[..]];
        let first = usize::from(!level.unwrap_or_default().transitive());
        let mut verdict: Option<Verdict> = None;
        for parts in questions.into_iter().skip(first) {
            let mut url = self.url(parts);
            url.set_query(Some("verbose=true"));
            match self.ask(Method::POST, url.clone(), Some(json!({ "schema": schema }))).await {
                Ok(Answer::Body(body)) => {
                    verdict = Some(understand(&url, &body)?);
                    break;
                }
                Ok(Answer::Missing) | Err(RegistryError::Answer { status: 405, .. }) => {}
                Ok(refusal) => return Err(self.refusal(subject, schema, None, &url, refusal).await?),
                Err(error) => return Err(error),
            }
        }
        // No such subject yet: any schema will do.
        let Some(verdict) = verdict else { return Ok(()) };
        if verdict.is_compatible {
            return Ok(());
        }
        Err(self.incompatible(subject, schema, cut(&verdict.messages.join("; "))).await?)
    }
}

#[async_trait]
impl Registry for ConfluentRegistry {
    async fn subjects(&self) -> Result<Vec<String>> {
        let subjects: Option<Vec<String>> = self.get(&["subjects"]).await?;
        let Some(mut subjects) = subjects else {
            let why = "there is no schema registry at this address".to_owned();
            return Err(RegistryError::Answer { url: self.base.to_string(), status: 404, why }.into());
        };
        subjects.sort_unstable();
        Ok(subjects)
    }

    async fn versions(&self, subject: &str) -> Result<Vec<Registered>> {
        Ok(self.all(subject).await?)
    }

    async fn latest(&self, subject: &str) -> Result<Option<Registered>> {
        Ok(self.newest(subject).await?)
    }

    async fn by_id(&self, id: i32) -> Result<Option<String>> {
        Ok(self.text(id).await?.map(|schema| schema.as_ref().to_owned()))
    }

    async fn register(&self, subject: &str, schema: &str, id: Option<i32>) -> Result<Registered> {
        Ok(self.put(subject, schema, id).await?)
    }

    async fn check(&self, subject: &str, schema: &str) -> Result<()> {
        Ok(self.verdict(subject, schema).await?)
    }

    async fn level(&self, subject: Option<&str>) -> Result<Option<Level>> {
        subject.map_or(Ok(()), check_subject)?;
        Ok(self.configured(subject).await?)
    }

    async fn set_level(&self, subject: Option<&str>, level: Level) -> Result<()> {
        Ok(self.configure(subject, level).await?)
    }
}

fn understand<T: DeserializeOwned>(url: &Url, body: &[u8]) -> Result<T, RegistryError> {
    serde_json::from_slice(body).map_err(|error| RegistryError::Answer {
        url: url.to_string(),
        status: 200,
        why: format!("this is not what a schema registry answers: {error}"),
    })
}

/// The registry's own code and message.
fn complaint(body: &[u8]) -> (i64, String) {
    match serde_json::from_slice::<Complaint>(body) {
        Ok(complaint) => (complaint.error_code.unwrap_or(0), cut(&complaint.message.unwrap_or_default())),
        Err(_) => (0, cut(&String::from_utf8_lossy(body))),
    }
}

fn cut(text: &str) -> String {
    text.trim().chars().take(MAX_MESSAGE).collect()
}

fn check_subject(subject: &str) -> Result<(), RegistryError> {
    let why = match subject {
        "" => "it is empty",
        // They would be taken out of the URL's path.
        "." | ".." => "it means a folder",
        _ => return Ok(()),
    };
    Err(RegistryError::Subject { subject: subject.to_owned(), why })
}

/// `%40` as `@`: URLs hold users and passwords encoded.
fn percent_decoded(text: &str) -> String {
    // A query's value is decoded by the same rules, once a plus is kept from meaning a space.
    let pair = format!("x={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}
