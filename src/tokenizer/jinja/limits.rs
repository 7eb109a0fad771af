//! What one rendering may use: work, memory, depth.
//!
//! A template comes with a model from anywhere, so it is not trusted to end. Every rendering runs
//! on a thread ([`on_own_stack`]) with a stack that holds [`DEPTH`] nested calls: one of its own, or
//! one of those that [`deep_threads`] keeps for who renders thousands of conversations. The counters
//! below belong to that thread. They count, and never look at a clock: the same
//! template with the same conversation is refused on every machine or on none.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Error, Result};

/// Steps of one rendering: an expression, a statement, or [`BYTES_PER_STEP`] bytes of text or list.
/// A conversation of a thousand turns needs some 100,000.
const STEPS: u64 = 12_000_000;

/// Bytes that are written, searched or copied in one step.
const BYTES_PER_STEP: u64 = 64;

/// Bytes that the values of one rendering, its output among them, may hold at once beyond what the
/// conversation itself holds.
const MEMORY: usize = 80 << 20;

/// Depth of nested calls and expressions in a rendering.
pub const DEPTH: usize = 500;

/// Depth of nested expressions and statements in a source, and of lists within lists in a value.
pub const NESTING: usize = 150;

/// Bytes of the rendering thread's stack; touched only as deep as the template goes.
const STACK: usize = 64 << 20;

thread_local! {
    /// Whether this thread has a stack of [`STACK`] bytes.
    static IS_DEEP: Cell<bool> = const { Cell::new(false) };
    static SPENT: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<usize> = const { Cell::new(0) };
    static GIVEN: Cell<usize> = const { Cell::new(0) };
}

/// Takes `steps` from what this rendering may use.
pub fn spend(steps: u64) -> Result<()> {
    let spent = SPENT.get().saturating_add(steps);
    SPENT.set(spent);
    if spent > STEPS {
        return Err(Error::new(format!("it did not finish within {STEPS} steps")));
    }
    Ok(())
}

/// Takes the steps that touching `bytes` costs.
pub fn touch(bytes: usize) -> Result<()> {
    spend(1 + bytes as u64 / BYTES_PER_STEP)
}

/// Asks for `bytes` more, before they are allocated, and takes the steps that filling them costs.
pub fn room(bytes: usize) -> Result<()> {
    grow(0, bytes)
}

/// As [`room`], for `bytes` more of a text that has `length` and is not counted yet.
pub fn grow(length: usize, bytes: usize) -> Result<()> {
    if HELD.get().saturating_sub(GIVEN.get()).saturating_add(length.saturating_add(bytes)) > MEMORY
    {
        return Err(Error::new(format!("it needs more than {} MiB of memory", MEMORY >> 20)));
    }
    touch(bytes)
}

/// What is held now is the conversation's own and does not count.
pub fn start() {
    GIVEN.set(HELD.get());
    SPENT.set(0);
}

/// Bytes that count as held until this is dropped.
#[derive(Debug)]
pub struct Held(usize);

impl Held {
    /// Counts `bytes`.
    pub fn new(bytes: usize) -> Self {
        HELD.set(HELD.get() + bytes);
        Self(bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // During the thread's end the counter may be gone already; nothing reads it then.
        let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(self.0)));
    }
}

/// As many threads as rayon has, with stacks that are deep enough for a rendering; `None` where the system
/// gives no more threads.
pub fn deep_threads() -> Option<&'static ThreadPool> {
    static THREADS: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
        let threads = ThreadPoolBuilder::new()
            .num_threads(rayon::current_num_threads())
            .thread_name(|index| format!("chat-template-{index}"))
            .stack_size(STACK)
            .start_handler(|_| IS_DEEP.set(true));
        threads.build().ok()
    });
    THREADS.as_ref()
}

/// Runs `work` where the stack is deep enough for it: here, on one of the [`deep_threads`], else on a thread
/// made for it.
pub fn on_own_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if IS_DEEP.get() {
        // A panic here would be a fault of the interpreter; the caller says so.
        return catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(Error::new("the template interpreter failed")));
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat-template".into())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|error| Error::new(format!("no thread to render on: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(Error::new("the template interpreter failed")))
    })
}
