//! Ctrl-C, and the signal that a service manager sends.

use std::{
    io, process,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

/// How often somebody asked the process to end.
static ASKED: LazyLock<watch::Sender<u32>> = LazyLock::new(watch::Sender::default);

/// Whether the command itself ends when it is interrupted.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A command that stops at the second signal has so long to tell how to go on with its work.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a shell tells that a program was ended by Ctrl-C.
const ENDED: i32 = 130;

/// Listens from here on. The first signal lets a command end in order; the second ends the process whatever it is
/// doing, so this has a thread that nothing else can hold up.
pub(crate) fn listen() -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let mut heard = async || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            for count in 1..=2 {
                heard().await;
                ASKED.send_replace(count);
            }
            let _ = timeout(LAST_WORDS, heard()).await;
            process::exit(ENDED);
        })
    })?;
    Ok(())
}

/// From here on the command waits for [`asked`] itself, as it has something to finish first.
pub(crate) fn take() {
    TAKEN.store(true, Ordering::Relaxed);
}

/// Waits until somebody asks a process to end whose command does not wait for that itself.
pub(crate) async fn interrupted_untaken() {
    interrupted().await;
    if TAKEN.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// Waits until somebody asks the process to end.
pub(crate) async fn interrupted() {
    asked(1).await;
}

/// Waits until somebody has asked so often for the process to end.
pub(crate) async fn asked(times: u32) {
    // The sender is never dropped, so this ends with a signal and not otherwise.
    let _ = ASKED.subscribe().wait_for(|count| *count >= times).await;
}
