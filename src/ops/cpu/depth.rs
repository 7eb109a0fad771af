//! What one multiplication on a bf16 unit takes and gives: panels of two operands, the sums of 32 x 32
//! elements, and how deep it goes.

/// Lines of a panel: rows of A, columns of B.
pub const LINES: usize = 16;
/// Values of k in a tile.
pub const TILE_K: usize = 32;
/// Values in a tile.
pub const TILE_LEN: usize = LINES * TILE_K;
/// Rows of A, columns of B that one multiplication takes: two panels.
pub const PAIR: usize = 2 * LINES;

/// The sums of 32 x 32 elements: tiles of 16 x 16, the upper two first.
pub type Sums = [f32; PAIR * PAIR];

/// Where in [`Sums`] 16 sums of a row begin, left or right.
pub fn sums_at(row: usize, half: usize) -> usize {
    (row / LINES * 2 + half) * LINES * LINES + row % LINES * LINES
}

/// How deep a multiplication goes.
pub struct Depth {
    /// Tiles of k.
    pub tiles: usize,
    /// Planes of A and of B.
    pub planes: [usize; 2],
    /// For each plane of B, the planes of A to multiply it with: the first so many.
    pub products: Vec<usize>,
}

impl Depth {
    /// For `k` values and the planes of both operands. Products of planes whose numbers add up to more
    /// than 2 are below the last bit of an f32 and left out.
    pub fn new(k: usize, planes: [usize; 2]) -> Self {
        let [a, b] = planes;
        let products = (0..b).map(|plane| a.min(3 - plane)).collect();
        Self { tiles: k.div_ceil(TILE_K), planes, products }
    }

    /// Values in a panel of A and in one of B.
    pub fn panels(&self) -> [usize; 2] {
        self.planes.map(|planes| planes * self.tiles * TILE_LEN)
    }
}
