//! Local memory: private to a lane.

use super::super::fault::{FaultKind, RawFault, Step};

/// Stack of one warp: for each lane the same range of addresses, growing with calls.
#[derive(Debug, Default)]
pub(crate) struct Local {
    bytes: Vec<u8>,
    /// Which bytes have been written.
    valid: Vec<bool>,
    per_lane: usize,
}

impl Local {
    /// Makes room for `size` bytes per lane and poisons what lies above `from`.
    pub fn grow(&mut self, from: u32, size: u32) {
        if size as usize > self.per_lane {
            let per_lane = (size as usize).next_power_of_two();
            let (mut bytes, mut valid) = (vec![0; per_lane * 32], vec![false; per_lane * 32]);
            for lane in 0..32 {
                let (old, new) = (lane * self.per_lane, lane * per_lane);
                bytes[new..new + self.per_lane]
                    .copy_from_slice(&self.bytes[old..old + self.per_lane]);
                valid[new..new + self.per_lane]
                    .copy_from_slice(&self.valid[old..old + self.per_lane]);
            }
            *self = Self { bytes, valid, per_lane };
        }
        for lane in 0..32 {
            let start = lane * self.per_lane;
            self.valid[start + from as usize..start + size as usize].fill(false);
        }
    }

    fn range(&self, lane: u32, address: u64, bytes: usize, limit: u32) -> Step<usize> {
        if address.checked_add(bytes as u64).is_none_or(|end| end > u64::from(limit)) {
            let detail = format!(
                "{bytes} bytes at local address {address} are outside the {limit} of this thread"
            );
            return Err(RawFault::new(FaultKind::OutOfBounds, lane, detail));
        }
        if !address.is_multiple_of(bytes as u64) {
            let detail = format!("the local address {address} is not a multiple of {bytes}");
            return Err(RawFault::new(FaultKind::Misaligned, lane, detail));
        }
        Ok(lane as usize * self.per_lane + address as usize)
    }

    /// Reads up to 8 bytes, zero-extended.
    pub fn load(&self, lane: u32, address: u64, bytes: usize, limit: u32) -> Step<u64> {
        let at = self.range(lane, address, bytes, limit)?;
        if !self.valid[at..at + bytes].iter().all(|v| *v) {
            let detail =
                format!("read of uninitialised memory: {bytes} bytes at local address {address}");
            return Err(RawFault::new(FaultKind::Uninitialised, lane, detail));
        }
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&self.bytes[at..at + bytes]);
        Ok(u64::from_le_bytes(value))
    }

    /// Writes up to 8 bytes.
    pub fn store(&mut self, lane: u32, address: u64, bytes: usize, limit: u32, value: u64) -> Step {
        let at = self.range(lane, address, bytes, limit)?;
        self.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        self.valid[at..at + bytes].fill(true);
        Ok(())
    }
}
