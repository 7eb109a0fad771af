//! Places for buffers within a few large regions of memory: the bookkeeping alone, so that a device which
//! only counts finds the same places as one that computes, and a plan knows the peak to the byte.
//!
//! Best fit; neighbours that are free are one piece. Memory that was never handed out is never touched, and
//! taken only where no free piece is large enough. What lives longer than a training step lies where loading
//! put it, and a step gives back what it took: so every step begins with the same free pieces, and one that
//! was seen before takes nothing new.

use std::collections::{BTreeMap, BTreeSet};

/// Sizes are multiples of this, a cache line.
pub const LINE: u64 = 64;

/// The smallest region: mapped, and touched only as far as it is used.
const SMALLEST_REGION: u64 = 64 << 20;

/// The most that a region is larger than the first buffer in it needs.
const LARGEST_SURPLUS: u64 = 4 << 30;

/// Regions lie this far apart in the numbering of places, so that no piece crosses from one to the next.
const REGION_BITS: u32 = 44;

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    address: u64,
    /// Its bytes.
    pub bytes: u64,
}

impl Place {
    /// The region.
    pub fn region(self) -> usize {
        (self.address >> REGION_BITS) as usize
    }

    /// The first byte within the region.
    pub fn offset(self) -> u64 {
        self.address & ((1 << REGION_BITS) - 1)
    }
}

/// A region.
#[derive(Debug)]
struct Region {
    bytes: u64,
    /// What was ever handed out; the rest is untouched.
    used: u64,
}

/// Which places are free.
#[derive(Debug, Default)]
pub struct Arena {
    regions: Vec<Region>,
    /// Free pieces of what was used: bytes by address, and addresses by bytes.
    free: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
    in_use: u64,
    touched: u64,
}

impl Arena {
    /// A place for `bytes`, or `None` where another region is needed.
    pub fn take(&mut self, bytes: u64) -> Option<Place> {
        let bytes = padded(bytes);
        let address = match self.by_size.range((bytes, 0)..).next().copied() {
            Some((found, address)) => {
                self.remove(address, found);
                self.insert(address + bytes, found - bytes);
                address
            }
            None => self.grow(bytes)?,
        };
        self.in_use += bytes;
        Some(Place { address, bytes })
    }

    /// A place at the end of what is used, in the region with the least room that is enough.
    fn grow(&mut self, bytes: u64) -> Option<u64> {
        let room = |(number, region): (usize, &Region)| {
            let end = address(number, region.used);
            // A free piece at the end is part of the place.
            let last = self.free.range(address(number, 0)..end).next_back();
            let start = last.filter(|(start, free)| *start + *free == end).map_or(end, |(s, _)| *s);
            let left = region.bytes - (start - address(number, 0));
            (left >= bytes).then_some((left, number, start, end - start))
        };
        let (_, number, start, free) = self.regions.iter().enumerate().filter_map(room).min()?;
        if free > 0 {
            self.remove(start, free);
        }
        self.regions[number].used += bytes - free;
        self.touched += bytes - free;
        Some(start)
    }

    /// The bytes of the next region, in which `bytes` fit: as many as all so far have, within limits.
    pub fn next_region(&self, bytes: u64) -> u64 {
        let so_far: u64 = self.regions.iter().map(|region| region.bytes).sum();
        smallest_region(bytes).max(so_far.clamp(SMALLEST_REGION, LARGEST_SURPLUS))
    }

    /// Adds a region.
    pub fn add_region(&mut self, bytes: u64) {
        self.regions.push(Region { bytes, used: 0 });
    }

    /// Takes a place back.
    pub fn give_back(&mut self, place: Place) {
        let Place { mut address, mut bytes } = place;
        self.in_use -= bytes;
        let before = self.free.range(..address).next_back().map(|(&start, &bytes)| (start, bytes));
        if let Some((start, free)) = before.filter(|(start, free)| start + free == address) {
            self.remove(start, free);
            (address, bytes) = (start, bytes + free);
        }
        if let Some(&free) = self.free.get(&(address + bytes)) {
            self.remove(address + bytes, free);
            bytes += free;
        }
        self.insert(address, bytes);
    }

    /// Counts what is free at the end of a region as untouched again.
    pub fn forget_the_ends(&mut self) {
        for number in 0..self.regions.len() {
            let (start, end) = (address(number, 0), address(number, self.regions[number].used));
            let last = self.free.range(start..end).next_back().map(|(&at, &bytes)| (at, bytes));
            if let Some((at, bytes)) = last.filter(|(at, bytes)| at + bytes == end) {
                self.remove(at, bytes);
                self.regions[number].used -= bytes;
                self.touched -= bytes;
            }
        }
    }

    /// Bytes handed out.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Bytes that were ever handed out: what the process holds.
    pub fn touched(&self) -> u64 {
        self.touched
    }

    fn insert(&mut self, address: u64, bytes: u64) {
        if bytes > 0 {
            self.free.insert(address, bytes);
            self.by_size.insert((bytes, address));
        }
    }

    fn remove(&mut self, address: u64, bytes: u64) {
        self.free.remove(&address);
        self.by_size.remove(&(bytes, address));
    }
}

/// The smallest region that `bytes` fit into.
pub fn smallest_region(bytes: u64) -> u64 {
    padded(bytes).next_multiple_of(4096)
}

fn padded(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(LINE)
}

fn address(region: usize, offset: u64) -> u64 {
    ((region as u64) << REGION_BITS) + offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    fn take(arena: &mut Arena, bytes: u64) -> Place {
        arena.take(bytes).unwrap_or_else(|| {
            arena.add_region(arena.next_region(bytes));
            arena.take(bytes).unwrap()
        })
    }

    #[test]
    fn the_smallest_piece_that_is_enough_is_taken_and_neighbours_become_one() {
        let mut arena = Arena::default();
        let places: Vec<Place> =
            [128, 64, 256, 64, 192, 64].map(|bytes| take(&mut arena, bytes)).to_vec();
        for i in [0, 2, 4] {
            arena.give_back(places[i]);
        }
        assert_eq!(take(&mut arena, 150), places[4]);
        assert_eq!(take(&mut arena, 100).offset(), 0);
        arena.give_back(places[3]);
        // 256 and 64 bytes are one piece now.
        assert_eq!(take(&mut arena, 320).offset(), places[2].offset());
        assert_eq!((arena.in_use(), arena.touched()), (768, 768));
        // The piece at the end is part of what comes next.
        arena.give_back(places[5]);
        let last = take(&mut arena, 640);
        assert_eq!((last.offset(), arena.touched()), (places[5].offset(), 768 - 64 + 640));
        arena.give_back(last);
        arena.forget_the_ends();
        assert_eq!((arena.touched(), arena.in_use()), (768 - 64, 768 - 64));
    }

    #[test]
    fn places_never_overlap_and_equal_rounds_take_next_to_nothing_new() {
        let mut arena = Arena::default();
        let mut live: Vec<Place> = Vec::new();
        let mut after_second = 0;
        for round in 0..4 {
            let mut rng = Rng::new(1, "arena", 0);
            for _ in 0..2000 {
                if rng.next_f32() < 0.55 || live.is_empty() {
                    let bytes = (rng.next_f32() * 3e6) as u64;
                    let place = take(&mut arena, bytes);
                    let end = place.address + place.bytes;
                    let apart = |other: &Place| {
                        other.address >= end || other.address + other.bytes <= place.address
                    };
                    assert!(place.bytes >= bytes && live.iter().all(apart));
                    live.push(place);
                } else {
                    let which = (rng.next_f32() * live.len() as f32) as usize;
                    arena.give_back(live.swap_remove(which));
                }
            }
            live.drain(..).for_each(|place| arena.give_back(place));
            assert_eq!(arena.in_use(), 0);
            // The first round begins with nothing, the others with all free, in ever fewer pieces.
            match round {
                0 | 1 => after_second = arena.touched(),
                _ => assert!(arena.touched() * 20 <= after_second * 21),
            }
        }
    }
}
