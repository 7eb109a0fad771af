//! What the driver measures memory with; alone in its process, because all threads are counted.

use fuzz::allocator::most_during;

#[test]
fn what_was_held_for_a_moment_is_counted() {
    let (_, most) = most_during(|| drop(std::hint::black_box(vec![1u8; 5 << 20])));
    assert!((5 << 20..6 << 20).contains(&most), "{most}");
}
