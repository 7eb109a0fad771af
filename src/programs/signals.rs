//! The signals that ask a run to save and stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Signals, from now on.
pub struct Signals(Arc<AtomicI32>);

impl Signals {
    /// The signal that has come, if one has.
    pub fn caught(&self) -> Option<i32> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal),
        }
    }
}

#[cfg(unix)]
impl Signals {
    /// SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal has closed) are kept to be asked for; the first is
    /// answered on stderr, and a second one ends the process at once.
    pub fn catch() -> Self {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let caught = Arc::new(AtomicI32::new(0));
        let teller = teller();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && is_ignored(signal) {
                // Under nohup the closing of the terminal is to change nothing.
                continue;
            }
            let slot = caught.clone();
            // SAFETY: the handler only touches an atomic and, on the second signal, ends the process;
            // both are allowed in a signal handler.
            let registered = unsafe {
                signal_hook::low_level::register(signal, move || {
                    if slot.swap(signal, Ordering::Relaxed) != 0 {
                        signal_hook::low_level::exit(128 + signal);
                    }
                })
            };
            // Without a handler the signal ends the process as it always did.
            drop(registered);
            let told = teller.as_ref().and_then(|pipe| pipe.try_clone().ok());
            drop(told.map(|pipe| signal_hook::low_level::pipe::register(signal, pipe)));
        }
        Self(caught)
    }
}

#[cfg(not(unix))]
impl Signals {
    /// There are none here.
    pub fn catch() -> Self {
        Self(Arc::new(AtomicI32::new(0)))
    }
}

/// A pipe that a signal handler may write to; a thread at its other end answers the first signal, which a
/// handler itself must not do.
#[cfg(unix)]
fn teller() -> Option<std::os::unix::net::UnixStream> {
    use std::io::{IsTerminal, Read, Write, stderr};
    let (mut told, teller) = std::os::unix::net::UnixStream::pair().ok()?;
    let answer = move || {
        let mut byte = [0];
        if told.read_exact(&mut byte).is_ok() {
            if stderr().is_terminal() {
                // In the place of the bar, and of the terminal's ^C beside it.
                let _ = stderr().write_all(b"\r\x1b[2K");
            }
            crate::cli::say::print("saving, then leaving; press Ctrl-C again to leave at once");
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(answer).ok()?;
    Some(teller)
}

/// Whether this process was started with the signal ignored.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    const SIG_DFL: usize = 0;
    const SIG_IGN: usize = 1;
    // SAFETY: the declaration is that of the C library, which every Unix has.
    unsafe extern "C" {
        /// C's `signal`: sets how a signal is handled, and says how it was.
        #[link_name = "signal"]
        fn handle(signal: i32, handler: usize) -> usize;
    }
    // SAFETY: both handlers are constants of the system, not functions of this program.
    let was = unsafe { handle(signal, SIG_IGN) };
    if was != SIG_IGN {
        // SAFETY: as above; `was` is what the system gave.
        unsafe { handle(signal, if was == usize::MAX { SIG_DFL } else { was }) };
    }
    was == SIG_IGN
}
