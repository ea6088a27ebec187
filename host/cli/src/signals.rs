//! Ctrl-C, and the signal that a service manager sends.

use tokio::signal::unix::{SignalKind, signal};

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
