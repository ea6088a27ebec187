//! Ctrl-C, and the signal that a service manager sends.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// Whether the command itself ends when it is interrupted.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// From here on the command waits for [`interrupted`] itself, as it has something to finish first.
pub(crate) fn take() {
    TAKEN.store(true, Ordering::Relaxed);
}

/// Waits until somebody asks a process to end whose command does not wait for that itself.
pub(crate) async fn interrupted_untaken() {
    loop {
        interrupted().await;
        if !TAKEN.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Waits until somebody asks the process to end. Where the system does not tell, it waits for ever.
pub(crate) async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut stream) => stream.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = interrupted => {}
        _ = terminated => {}
    }
}
