//! How every program begins and ends: its environment, its errors, its exit status.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use super::say;
use crate::error::{Error, Result};

/// More threads than this gain nothing: a number mistyped in `RAYON_NUM_THREADS` would only take the memory
/// of their stacks.
const THREADS_PER_PROCESSOR: usize = 16;

/// Runs a program: an error is printed to stderr as one message, and decides the exit status.
///
/// Call it first thing in `main`: it sets up the environment while there is no other thread.
pub fn start(program: impl FnOnce() -> Result<()>) -> ExitCode {
    quiet_wayland();
    join_thread_pool();
    // A panic is a bug of this program, and no backtrace would tell its user more.
    panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let what = payload.downcast_ref::<&str>().copied();
        let what = what.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("bug");
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        say!("error: internal error{place}: {what} (please report this)");
    }));
    match panic::catch_unwind(AssertUnwindSafe(program)) {
        Ok(result) => report(result),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Makes this thread one of rayon's pool, so that handing work to the pool is not a call to another
/// thread and back: training hands over thousands of small pieces a second.
fn join_thread_pool() {
    let asked = std::env::var("RAYON_NUM_THREADS").ok();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // An error says that there is a pool already, which does as well, only slower.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(threads(asked.as_deref(), processors))
        .use_current_thread()
        .build_global();
}

/// As many threads as `RAYON_NUM_THREADS` asks for, up to [`THREADS_PER_PROCESSOR`]; 0 leaves it to rayon.
fn threads(asked: Option<&str>, processors: usize) -> usize {
    let asked = asked.and_then(|text| text.trim().parse().ok()).unwrap_or(0usize);
    asked.min(processors * THREADS_PER_PROCESSOR)
}

fn report(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error {
                // Nothing went wrong: the user asked for it.
                Error::Interrupted(_) | Error::Stopped(_) => say!("{error}"),
                _ => say!("error: {error}"),
            }
            ExitCode::from(u8::try_from(error.exit_status()).unwrap_or(1))
        }
    }
}

/// Vulkan drivers look for a Wayland display even where nothing is to be shown, and its library
/// prints an error where `XDG_RUNTIME_DIR` is not set, as in a container.
#[cfg(target_os = "linux")]
fn quiet_wayland() {
    const NAME: &str = "XDG_RUNTIME_DIR";
    if std::env::var_os(NAME).is_none() {
        // SAFETY: the first thing that a program does, so no other thread reads the environment.
        unsafe { std::env::set_var(NAME, std::env::temp_dir()) };
    }
}

#[cfg(not(target_os = "linux"))]
fn quiet_wayland() {}

#[cfg(test)]
mod tests {
    use super::threads;

    #[test]
    fn threads_are_what_is_asked_for_within_reason() {
        assert_eq!(threads(None, 2), 0);
        assert_eq!(threads(Some("3"), 2), 3);
        assert_eq!(threads(Some("100000"), 2), 32);
        assert_eq!(threads(Some("99999999999999999999999"), 2), 0);
        assert_eq!(threads(Some("many"), 2), 0);
    }
}
