//! Scratch memory that a thread keeps between calls, so that steps allocate nothing after the first.

use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with `len` floats of undefined contents. May be nested.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    let result = work(&mut memory[..len]);
    FREE.with_borrow_mut(|free| free.push(memory));
    result
}

/// [`with_scratch`] at an address that is a multiple of 64, so that no row of a tile straddles cache
/// lines.
#[cfg(target_arch = "x86_64")]
pub fn with_aligned<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    with_scratch(len + 16, |scratch| {
        let skip = scratch.as_ptr().align_offset(64).min(16);
        work(&mut scratch[skip..][..len])
    })
}
