//! Blocking work on something only one may use at a time, such as a connection or a client.
use tokio::task::{JoinError, JoinHandle};

use super::BrokerError;

/// Holds an `R` and runs blocking work on it, off the async threads.
///
/// Work goes on although the future that waits for it is dropped; whoever comes next gets its result first. So a reader
/// whose `poll` was dropped loses nothing.
pub(super) struct Held<R, T> {
    idle: Option<R>,
    busy: Option<JoinHandle<(R, T)>>,
}

impl<R: Send + 'static, T: Send + 'static> Held<R, T> {
    pub(super) fn new(held: R) -> Self {
        Self { idle: Some(held), busy: None }
    }

    /// Whether earlier work was not waited for.
    #[cfg(feature = "kafka")]
    pub(super) fn busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Runs `work`, or waits for earlier work that was not waited for.
    pub(super) async fn run(&mut self, work: impl FnOnce(&mut R) -> T + Send + 'static) -> Result<T, BrokerError> {
        if self.busy.is_none()
            && let Some(mut held) = self.idle.take()
        {
            self.busy = Some(tokio::task::spawn_blocking(move || {
                let done = work(&mut held);
                (held, done)
            }));
        }
        let Some(busy) = self.busy.as_mut() else {
            return Err(gone("earlier work on it was stopped"));
        };
        let done = busy.await;
        self.busy = None;
        let (held, done) = done.map_err(stopped)?;
        self.idle = Some(held);
        Ok(done)
    }
}

/// Runs blocking work on a thread made for it.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, BrokerError> {
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

/// Hands on a panic of a blocking thread; else the runtime is stopping.
fn stopped(error: JoinError) -> BrokerError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(stopped) => gone(&stopped.to_string()),
    }
}

fn gone(cause: &str) -> BrokerError {
    let (brokers, doing) = ("topics".to_owned(), "working with it: the process is stopping".to_owned());
    BrokerError::Client { brokers, doing, cause: cause.to_owned(), retry: true }
}
