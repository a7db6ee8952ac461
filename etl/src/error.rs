//! What every failure of this crate can say about itself: what, where, why, and what to do.
use std::fmt;

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The cause may pass by itself: a broker that restarts, a lost connection.
    Later,
    /// The same input gives the same failure.
    Never,
    /// Somebody has to change something first: a password, a setting, a full disk.
    AfterPerson,
}

/// A failure that explains itself. `Display` is the *what*: one lowercase fragment without a full stop.
pub trait Explain: std::error::Error + Send + Sync + 'static {
    /// The stable code, one page each in `docs/errors/`.
    fn code(&self) -> &'static str;

    /// Whether trying again can help.
    fn retry(&self) -> Retry {
        Retry::Never
    }

    /// The place: a file with its line, a topic with partition and offset, a table.
    fn place(&self) -> Option<String> {
        None
    }

    /// The cause, if it is more than the chain of `source()`.
    fn why(&self) -> Option<String> {
        None
    }

    /// What a person can do about it.
    fn fix(&self) -> Option<String> {
        None
    }
}

/// Any failure of this crate.
pub struct Error(Box<dyn Explain>);

/// The result of anything here that can fail in more than one way.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The explanation behind the failure.
    pub fn explain(&self) -> &dyn Explain {
        self.0.as_ref()
    }

    /// The stable code of the failure.
    pub fn code(&self) -> &'static str {
        self.0.code()
    }

    /// The cause as one line: the explanation's own, else the chain of causes.
    pub fn why(&self) -> Option<String> {
        self.0.why().or_else(|| chain(self.0.as_ref()))
    }

    /// The failure as the concrete type `E`, if that is what it is.
    pub fn downcast_ref<E: Explain>(&self) -> Option<&E> {
        let any: &(dyn std::error::Error + 'static) = self.0.as_ref();
        any.downcast_ref::<E>()
    }
}

impl<E: Explain> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.0.code(), self.0)?;
        self.why().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Joins the causes behind `error`, outermost first, or `None` if there is none.
pub fn chain(error: &dyn std::error::Error) -> Option<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // Many libraries repeat their cause in their own text.
        if !causes.iter().any(|said| said.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    (!causes.is_empty()).then(|| causes.join(": "))
}
