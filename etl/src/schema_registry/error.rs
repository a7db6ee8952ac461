//! What can go wrong with schemas and the place they live in.
use super::level::Level;
use crate::error::{Explain, Retry};

/// A failure of a schema registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A text that is not an Avro schema.
    #[error("take the schema of `{subject}` as Avro")]
    NotAvro {
        /// The subject it was meant for.
        subject: String,
        /// What is wrong with it.
        why: String,
    },
    /// A reader with this schema could not read what the subject's newest schema wrote.
    #[error("read records of `{subject}` with the new schema")]
    Incompatible {
        /// The subject.
        subject: String,
        /// Its newest version, if it is known which one got in the way.
        version: Option<i32>,
        /// The field, as a path: `address.city`.
        field: Option<String>,
        /// What does not fit.
        why: String,
    },
    /// An earlier schema could not read what is written with this one.
    #[error("read new records of `{subject}` with the schema of version {version}")]
    Unreadable {
        /// The subject.
        subject: String,
        /// The version whose schema could not read.
        version: i32,
        /// The field, as a path.
        field: Option<String>,
        /// What does not fit.
        why: String,
    },
    /// A schema uses types of a version that is not there.
    #[error("find `{name}`, which the schema of `{subject}` refers to")]
    NoReference {
        /// The subject of the schema.
        subject: String,
        /// The name in the reference.
        name: String,
        /// The subject it points to.
        of: String,
        /// The version it points to.
        version: i32,
    },
    /// A version that other schemas use types of.
    #[error("delete version {version} of `{subject}`: other schemas refer to it")]
    Referenced {
        /// The subject.
        subject: String,
        /// The version.
        version: i32,
        /// The ids of the schemas that refer to it.
        by: Vec<i32>,
    },
    /// A level that the registry has or was asked for, and that we do not know.
    #[error("take `{level}` as a level of compatibility")]
    NoLevel {
        /// What was written.
        level: String,
    },
    /// The id means another schema.
    #[error("give the id {id} to the schema of `{subject}`: it means another schema")]
    Taken {
        /// The subject.
        subject: String,
        /// The id.
        id: i32,
    },
    /// An id that no record can carry.
    #[error("use {id} as the id of a schema")]
    Id {
        /// What was asked for.
        id: i32,
    },
    /// A name that no subject can have.
    #[error("use `{subject}` as the name of a subject")]
    Subject {
        /// What was written.
        subject: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The storage below the embedded registry failed.
    #[error("{doing} the schema registry at `{path}`")]
    Storage {
        /// What was being done: `read`, `write to`.
        doing: &'static str,
        /// The file.
        path: String,
        /// The cause.
        source: object_store::Error,
    },
    /// A file of the embedded registry that is not as it was written.
    #[error("understand the schema registry's file `{path}`")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Too many others register at the same time.
    #[error("register a schema for `{subject}`: others were faster each time")]
    Busy {
        /// The subject.
        subject: String,
    },
    /// The registry's server does not answer.
    #[error("reach the schema registry at `{url}`")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The registry does not let us in.
    #[error("use the schema registry at `{url}`: it answered {status}")]
    Denied {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// The registry answered with a failure, or with something that makes no sense.
    #[error("use the answer {status} of the schema registry at `{url}`")]
    Answer {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        why: String,
    },
    /// The registry's address is unusable.
    #[error("use the address of the schema registry")]
    Url {
        /// What is wrong with it.
        why: String,
    },
    /// The registry does not let us choose the id.
    #[error("give the id {id} to the schema of `{subject}`")]
    IdRefused {
        /// The subject.
        subject: String,
        /// The id.
        id: i32,
        /// What the registry said.
        why: String,
    },
    /// A subject with schemas of another language.
    #[error("use version {version} of `{subject}`: it is {kind}, not Avro")]
    OtherKind {
        /// The subject.
        subject: String,
        /// The version.
        version: i32,
        /// `JSON` or `PROTOBUF`.
        kind: String,
    },
}

impl Explain for RegistryError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotAvro { .. } => "C0101",
            Self::Incompatible { .. } => "C0102",
            Self::Taken { .. } => "C0103",
            Self::Id { .. } => "C0104",
            Self::Subject { .. } => "C0105",
            Self::Storage { .. } => "C0106",
            Self::Damaged { .. } => "C0107",
            Self::Busy { .. } => "C0108",
            Self::Unreachable { .. } => "C0111",
            Self::Denied { .. } => "C0112",
            Self::Answer { .. } => "C0113",
            Self::Url { .. } => "C0114",
            Self::IdRefused { .. } => "C0115",
            Self::OtherKind { .. } => "C0116",
            Self::Unreadable { .. } => "C0117",
            Self::NoReference { .. } => "C0118",
            Self::Referenced { .. } => "C0119",
            Self::NoLevel { .. } => "C0120",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Storage { source, .. } => match source {
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                    Retry::AfterPerson
                }
                _ => Retry::Later,
            },
            Self::Busy { .. } | Self::Unreachable { .. } => Retry::Later,
            // Too many requests, or a failure on its side.
            Self::Answer { status, .. } if *status == 429 || *status >= 500 => Retry::Later,
            Self::Damaged { .. } | Self::Denied { .. } | Self::Url { .. } => Retry::AfterPerson,
            _ => Retry::Never,
        }
    }

    fn place(&self) -> Option<String> {
        match self {
            Self::NotAvro { subject, .. }
            | Self::Taken { subject, .. }
            | Self::Busy { subject }
            | Self::IdRefused { subject, .. }
            | Self::NoReference { subject, .. }
            | Self::Referenced { subject, .. }
            | Self::OtherKind { subject, .. } => Some(format!("subject `{subject}`")),
            Self::Incompatible { subject, version, field, .. } => {
                let version = version.map(|version| format!(", version {version}")).unwrap_or_default();
                let field = field.as_ref().map(|field| format!(", field `{field}`")).unwrap_or_default();
                Some(format!("subject `{subject}`{version}{field}"))
            }
            Self::Unreadable { subject, version, field, .. } => {
                let field = field.as_ref().map(|field| format!(", field `{field}`")).unwrap_or_default();
                Some(format!("subject `{subject}`, version {version}{field}"))
            }
            Self::Storage { path, .. } | Self::Damaged { path, .. } => Some(path.clone()),
            Self::Unreachable { url, .. } | Self::Denied { url, .. } | Self::Answer { url, .. } => Some(url.clone()),
            Self::Url { .. } => Some("setting `schemas.registry`".to_owned()),
            Self::Id { .. } | Self::Subject { .. } | Self::NoLevel { .. } => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::NotAvro { why, .. }
            | Self::Incompatible { why, .. }
            | Self::Unreadable { why, .. }
            | Self::Damaged { why, .. }
            | Self::Answer { why, .. }
            | Self::Url { why }
            | Self::IdRefused { why, .. } => Some(why.clone()),
            Self::Subject { why, .. } => Some((*why).to_owned()),
            Self::NoReference { of, version, .. } => Some(format!("`{of}` has no version {version}")),
            Self::Referenced { by, .. } => {
                let ids: Vec<String> = by.iter().map(i32::to_string).collect();
                Some(format!("the schemas with the ids {} use its types", ids.join(", ")))
            }
            Self::NoLevel { .. } => Some(format!("levels are {}", Level::ALL.map(Level::name).join(", "))),
            Self::Id { .. } => Some("ids are whole numbers from 0".to_owned()),
            _ => None,
        }
    }

    fn fix(&self) -> Option<String> {
        Some(match self {
            Self::NotAvro { .. } => "correct the schema; `tidemill explain C0101` shows one that works".into(),
            Self::Incompatible { .. } => {
                "give new fields a default, keep the types of old ones, or use a new topic for the new shape".into()
            }
            Self::Unreadable { .. } => {
                "leave in fields that have no default, keep the types of old ones, or set another level \
                                        with `tidemill schemas compatibility`"
                    .into()
            }
            Self::NoReference { of, .. } => format!("register the type under `{of}` first"),
            Self::Referenced { .. } => "delete the schemas that refer to it first".into(),
            Self::NoLevel { .. } => "use one of them".into(),
            Self::Taken { id, .. } => {
                format!("leave the id out to get a free one; see what {id} is with `tidemill schemas list`")
            }
            Self::Id { .. } => "use the number that the foreign records carry".into(),
            Self::Subject { .. } => "use the topic's name with `-value` behind it".into(),
            Self::Storage { .. } => "check that the lake can be reached and written to, and that it is not full".into(),
            Self::Damaged { .. } => {
                "put the file back from a copy of the lake; it is never changed once written".into()
            }
            Self::Busy { .. } => "try again".into(),
            Self::Unreachable { .. } => {
                "start the registry, or correct `schemas.registry`; records of known schemas go on being read".into()
            }
            Self::Denied { .. } => "correct the user and password of the registry in the settings".into(),
            Self::Answer { .. } => "check that `schemas.registry` is the address of a Confluent-compatible registry, \
                                    with its path, and look at the registry's own log"
                .into(),
            Self::Url { .. } => "use `embedded`, or an address like `http://localhost:8081`".into(),
            Self::IdRefused { .. } => {
                "set the registry to mode IMPORT for this subject, or leave the id out to get a free one".into()
            }
            Self::OtherKind { .. } => "use a subject whose schemas are Avro".into(),
        })
    }
}
