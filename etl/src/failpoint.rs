//! Places on the way of a write where a test can make the process stand still, and kill it there.
//!
//! Always compiled, so that what is tortured is what ships; while nothing is armed a place costs one relaxed load.
//! Armed by [`arm`], which only the binary calls, and only if a person or a test asks for it (CONTRIBUTING.md). At the
//! n-th time that an armed place is passed the process writes the file `reached` into a folder and stands still there
//! until a file `go` appears beside it: whoever watches kills it, or lets it go on when others have moved past it.
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Explain;

/// Every place, by name. A test compares this list with the calls of [`hit`] and [`hit_blocking`] in the source.
pub const POINTS: &[&str] = &[
    "lake.before_create",
    "lake.after_create",
    "evolve.before_commit",
    "evolve.after_commit",
    "write.before_encode",
    "write.encoding",
    "write.encoded",
    "write.before_bytes",
    "write.after_bytes",
    "write.before_close",
    "write.after_close",
    "commit.begin",
    "commit.before_put",
    "commit.after_put",
    "commit.before_look",
    "commit.before_follow",
    "commit.before_refresh",
    "commit.done",
    "dead_letter.before_lock",
    "dead_letter.before_open",
    "dead_letter.before_progress",
    "dead_letter.before_write",
    "dead_letter.before_commit",
    "dead_letter.after_commit",
    "land.before_open",
    "land.after_poll",
    "land.after_decode",
    "land.take_over",
    "land.taken_over",
    "land.before_evolve",
    "land.after_dead_letters",
    "land.after_write",
    "land.after_commit",
    "land.before_gap",
    "dead_letter.before_mark",
    "dead_letter.after_mark",
    "replay.before_commit",
    "replay.after_commit",
    "reset.before_commit",
    "reset.after_commit",
    "swap.before_commit",
    "swap.after_commit",
    "publication.before_put",
    "publication.after_put",
];

/// How often a process that stands still looks for its `go`.
const LOOK: Duration = Duration::from_millis(5);

static ARMED: AtomicBool = AtomicBool::new(false);
static PLACES: OnceLock<Vec<Place>> = OnceLock::new();

#[derive(Debug)]
struct Place {
    name: &'static str,
    nth: u64,
    passed: AtomicU64,
    folder: PathBuf,
}

/// A place that cannot be armed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailpointError {
    /// The text is not `name:nth:/folder` with a number from 1.
    #[error("arm the failpoint `{text}`")]
    Form {
        /// What was asked for.
        text: String,
    },
    /// No place has this name.
    #[error("arm the failpoint `{name}`: there is none of that name")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// Some were armed before; it is done once.
    #[error("arm failpoints a second time")]
    Second,
}

impl Explain for FailpointError {
    fn code(&self) -> &'static str {
        "X0010"
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Form { .. } => {
                Some("write it as `name:nth:/folder`, with nth from 1; several with `;` between them".to_owned())
            }
            Self::Unknown { .. } => Some(format!("there are: {}", POINTS.join(", "))),
            Self::Second => None,
        }
    }
}

/// Arms places for the life of the process: `name:nth:/folder`, nth from 1, several with `;` between them. The folders
/// must be there.
///
/// # Errors
/// [`FailpointError`] if the text is of another form, there is no such place, or some are armed already.
pub fn arm(text: &str) -> Result<(), FailpointError> {
    let places = text.split(';').map(parse).collect::<Result<_, _>>()?;
    PLACES.set(places).map_err(|_| FailpointError::Second)?;
    ARMED.store(true, Ordering::Release);
    Ok(())
}

fn parse(text: &str) -> Result<Place, FailpointError> {
    let form = || FailpointError::Form { text: text.to_owned() };
    let mut parts = text.splitn(3, ':');
    let (Some(name), Some(nth), Some(folder)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(form());
    };
    let nth = nth.parse().ok().filter(|nth| *nth > 0).ok_or_else(form)?;
    let known = POINTS.iter().find(|point| **point == name);
    let name = known.ok_or_else(|| FailpointError::Unknown { name: name.to_owned() })?;
    Ok(Place { name, nth, passed: AtomicU64::new(0), folder: PathBuf::from(folder) })
}

/// Passes a place; stands still if it is the armed one and this is its turn.
#[inline]
pub async fn hit(name: &'static str) {
    if ARMED.load(Ordering::Relaxed)
        && let Some(place) = due(name)
    {
        while !place.released() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// [`hit`] on a thread that may block.
#[inline]
pub fn hit_blocking(name: &'static str) {
    if ARMED.load(Ordering::Relaxed)
        && let Some(place) = due(name)
    {
        while !place.released() {
            std::thread::sleep(LOOK);
        }
    }
}

/// The armed place, if it is this one and its turn has come; then the file `reached` has been written.
#[cold]
fn due(name: &str) -> Option<&'static Place> {
    let mut places = PLACES.get()?.iter().filter(|place| place.name == name);
    places.find(|place| place.turn())
}

impl Place {
    /// Counts one pass; whether it is the n-th.
    fn turn(&self) -> bool {
        let turn = self.passed.fetch_add(1, Ordering::Relaxed) + 1 == self.nth;
        if turn && let Err(error) = std::fs::write(self.folder.join("reached"), self.name) {
            tracing::error!(%error, place = self.name, "cannot tell that a failpoint was reached");
        }
        turn
    }

    fn released(&self) -> bool {
        self.folder.join("go").exists()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The names in `hit("…")` and `hit_blocking("…")`, in all source files below `folder`.
    fn calls(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                calls(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("failpoint.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for call in ["hit(\"", "hit_blocking(\""] {
                    for rest in text.split(call).skip(1) {
                        let name = rest.split('"').next().unwrap();
                        found.insert(name.to_owned());
                    }
                }
            }
        }
    }

    #[test]
    fn the_list_names_exactly_the_places_that_are_passed() {
        let mut found = BTreeSet::new();
        calls(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);

        let listed: BTreeSet<String> = POINTS.iter().map(|point| (*point).to_owned()).collect();
        assert_eq!(listed.len(), POINTS.len(), "a name is listed twice");
        assert_eq!(listed, found);
    }

    #[test]
    fn what_is_asked_for_must_be_a_place_and_a_turn() {
        assert!(matches!(parse("commit.before_put"), Err(FailpointError::Form { .. })));
        assert!(matches!(parse("commit.before_put:0:/tmp"), Err(FailpointError::Form { .. })));
        assert!(matches!(parse("commit.befor_put:1:/tmp"), Err(FailpointError::Unknown { .. })));
        let place = parse("commit.before_put:3:/a:b").unwrap();
        assert_eq!((place.name, place.nth, place.folder), ("commit.before_put", 3, PathBuf::from("/a:b")));
    }

    #[test]
    fn it_stands_still_at_its_turn_and_goes_on_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let place = parse(&format!("commit.before_put:2:{}", folder.path().display())).unwrap();

        assert!(!place.turn() && !folder.path().join("reached").exists());
        assert!(place.turn());
        assert_eq!(std::fs::read_to_string(folder.path().join("reached")).unwrap(), "commit.before_put");
        assert!(!place.released());
        std::fs::write(folder.path().join("go"), "").unwrap();
        assert!(place.released());
        assert!(!place.turn(), "a turn comes once");
    }
}
