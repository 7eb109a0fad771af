//! The processor's bf16 unit, if it has one that is faster than f32 arithmetic.

use super::amx::{self, Tiles};
use super::avx512;
use super::depth::{Depth, Sums};
use super::pack;

/// Products of planes that are still faster than f32 arithmetic.
const FEW_PRODUCTS: usize = 3;

/// The unit that multiplies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// [`super::amx`].
    Amx,
    /// [`super::avx512`].
    Avx512,
}

impl Unit {
    /// The unit that this processor has for operands of so many planes, if one is worth its while.
    pub fn of(planes: [usize; 2]) -> Option<Self> {
        let few = Depth::new(1, planes).products.iter().sum::<usize>() <= FEW_PRODUCTS;
        (few && pack::available()).then(|| match amx::available() {
            true => Self::Amx,
            false => Self::Avx512,
        })
    }

    /// The multiplication of two panels of A with two of B, for this thread: sums [32, 32] of all
    /// products that the depth lists, plus what they held if the flag says so.
    pub fn multiplier(self) -> impl Fn(&Depth, &[u16], &[u16], bool, &mut Sums) {
        let tiles = if self == Self::Amx { Tiles::configure() } else { None };
        move |depth, a, b, add, sums| match &tiles {
            Some(tiles) => tiles.multiply(depth, a, b, add, sums),
            // SAFETY: there is no unit without these features.
            None => unsafe { avx512::multiply(depth, a, b, add, sums) },
        }
    }
}
