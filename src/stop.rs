//! Ctrl-C and SIGTERM: the first asks all work to finish, the second ends the process at once.
use tokio_util::sync::CancellationToken;

/// Waits for signals for ever: cancels `stop` at the first, returns at the second.
///
/// If signals cannot be listened for, it never returns and the system's own default applies.
pub(crate) async fn twice(stop: CancellationToken) {
    for _ in 0..2 {
        if once().await.is_err() {
            std::future::pending::<()>().await;
        }
        stop.cancel();
    }
}

#[cfg(unix)]
async fn once() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn once() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
