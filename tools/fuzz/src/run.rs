//! Holds inputs to the limits.

use crate::allocator::most_during;
use crate::mutate::{Rng, mutate};
use crate::targets::Target;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest that an input may take.
pub const LONGEST: Duration = Duration::from_secs(5);

/// Bytes that an input may take beyond its own.
pub const MEMORY: usize = 64 << 20;

/// What a run of one target found.
#[derive(Debug, Default)]
pub struct Report {
    /// Inputs tried, and those of them that were accepted.
    pub inputs: u64,
    /// Inputs that were read without an error.
    pub accepted: u64,
    /// The longest time, and the most memory beyond the input's own.
    pub slowest: Duration,
    /// The most bytes beyond the input's own.
    pub most: usize,
    /// Numbers of inputs that broke a limit, and how.
    pub findings: Vec<(u64, String)>,
}

/// Tries inputs number `first` and on, as many as asked for.
pub fn run(target: &mut dyn Target, seed: u64, first: u64, count: u64) -> Report {
    let mut report = Report::default();
    let watch = Watch::start(target.name());
    for number in first..first + count {
        let input = input(target, seed, number);
        watch.at(number);
        let started = Instant::now();
        let read = || catch_unwind(AssertUnwindSafe(|| target.read(&input)));
        let (outcome, most) = most_during(read);
        let time = started.elapsed();
        let beyond = most.saturating_sub(input.len());
        report.inputs += 1;
        report.slowest = report.slowest.max(time);
        report.most = report.most.max(beyond);
        let what = match outcome {
            Err(panic) => Some(format!("panic: {}", message(&*panic))),
            // A panic that was caught further down.
            Ok(Err(error)) if error.contains("interpreter failed") => Some(error),
            Ok(Err(_)) if time <= LONGEST && beyond <= MEMORY => None,
            Ok(Ok(())) if time <= LONGEST && beyond <= MEMORY => {
                report.accepted += 1;
                None
            }
            Ok(_) if time > LONGEST => Some(format!("{time:?}")),
            Ok(_) => Some(format!("{} MiB beyond its own", beyond >> 20)),
        };
        report.findings.extend(what.map(|what| (number, what)));
    }
    report
}

/// Input number `number`. The first ones are the seeds themselves.
pub fn input(target: &dyn Target, seed: u64, number: u64) -> Vec<u8> {
    match target.seeds().get(number as usize) {
        Some(seed) => seed.clone(),
        None => {
            let mut rng = Rng::new(seed, target.name(), number);
            mutate(&mut rng, target.seeds(), target.words())
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// Ends the program where an input hangs, as nothing else can.
struct Watch(std::sync::Arc<AtomicU64>);

/// Times [`LONGEST`] after which an input hangs.
const HANGS: u32 = 12;

impl Watch {
    fn start(name: &'static str) -> Self {
        let at = std::sync::Arc::new(AtomicU64::new(u64::MAX));
        let seen = std::sync::Arc::downgrade(&at);
        std::thread::spawn(move || {
            let (mut last, mut since) = (u64::MAX, Instant::now());
            while let Some(at) = seen.upgrade() {
                let number = at.load(Ordering::Relaxed);
                drop(at);
                if number != last {
                    (last, since) = (number, Instant::now());
                } else if number != u64::MAX && since.elapsed() > LONGEST * HANGS {
                    eprintln!("{name}: input {number} hangs");
                    std::process::abort();
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Self(at)
    }

    fn at(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.at(u64::MAX);
    }
}
