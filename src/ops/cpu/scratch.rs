//! Scratch memory that a thread keeps between calls, so that steps allocate nothing after the first.

use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with `len` floats of undefined contents. May be nested.
///
/// A thread's pieces are as many as were ever taken within one another: the smallest that is large enough is
/// taken, else the largest is replaced, so that not every piece grows to the largest size that is wanted.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    if len == 0 {
        return work(&mut []);
    }
    let mut memory = FREE.with_borrow_mut(|free| {
        // Sorted by length.
        let at = free.partition_point(|piece| piece.len() < len).min(free.len().wrapping_sub(1));
        if at < free.len() { free.remove(at) } else { Vec::new() }
    });
    if memory.len() < len {
        // Not resized: the old contents are not needed, and both would be held for a moment.
        drop(memory);
        memory = vec![0.0; len];
    }
    let result = work(&mut memory[..len]);
    FREE.with_borrow_mut(|free| {
        let at = free.partition_point(|piece| piece.len() < memory.len());
        free.insert(at, memory);
    });
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
