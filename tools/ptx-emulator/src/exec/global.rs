//! Global memory as a block sees it: checked loads and stores; parameters by address.

use super::Job;
use crate::fault::{FaultKind, RawFault, Step};
use crate::memory::Allocation;

/// Global memory as one block sees it.
#[derive(Clone, Copy)]
pub(super) struct GlobalView<'j> {
    pub job: &'j Job<'j>,
    pub tag: u64,
}

impl<'j> GlobalView<'j> {
    #[cold]
    pub fn poison(self, lane: u32, address: u64, bytes: u32) -> Box<RawFault> {
        let place = self.job.global.describe(address);
        let detail = format!("read of uninitialised memory: {bytes} bytes at {place}");
        RawFault::new(FaultKind::Uninitialised, lane, detail)
    }

    #[cold]
    fn block_conflict(self, lane: u32, address: u64, verb: &str, block: u32) -> Box<RawFault> {
        let [x, y, z] = self.job.block_index(block);
        let place = self.job.global.describe(address);
        let detail =
            format!("{verb} what block ({x},{y},{z}) of the same launch has written: {place}");
        RawFault::new(FaultKind::BlockConflict, lane, detail)
    }

    #[inline(always)]
    pub fn load(
        &self,
        hint: &mut Option<&'j Allocation>,
        lane: u32,
        address: u64,
        bytes: u32,
    ) -> Step<u64> {
        let allocation = self.job.global.locate(*hint, lane, address, bytes, bytes)?;
        *hint = Some(allocation);
        self.load_from(allocation, lane, address, bytes)
    }

    /// Reads many bytes, for a bulk copy.
    pub fn load_bytes(&self, lane: u32, address: u64, out: &mut [u8]) -> Step {
        let allocation = self.job.global.locate(None, lane, address, out.len() as u32, 1)?;
        if !allocation.is_plain(self.job.check_blocks) && self.job.check_blocks {
            for at in (0..out.len() as u64).step_by(4) {
                if let Some(block) = allocation.foreign_writer(address + at, self.tag) {
                    return Err(self.block_conflict(lane, address + at, "reads", block));
                }
            }
        }
        match allocation.load_bytes(address, out) {
            None => Ok(()),
            Some(at) => Err(self.poison(lane, address + at as u64, 1)),
        }
    }

    /// Checks the place that a bulk copy will write.
    pub fn check_store(&self, lane: u32, address: u64, bytes: u64) -> Step {
        let allocation = self.job.global.locate(None, lane, address, bytes as u32, 1)?;
        if allocation.read_only {
            let detail = format!("writes constant memory: {}", self.job.global.describe(address));
            return Err(RawFault::new(FaultKind::ReadOnly, lane, detail));
        }
        Ok(())
    }

    /// Writes many bytes, for a bulk copy; they were checked when it began.
    pub fn store_bytes(&self, lane: u32, address: u64, bytes: &[u8]) -> Step {
        let allocation = self.job.global.locate(None, lane, address, bytes.len() as u32, 1)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let left = bytes.len() - done;
            let size =
                [8, 4, 2, 1].into_iter().find(|s| *s <= left && at.is_multiple_of(*s as u64));
            let size = size.unwrap_or(1);
            let mut word = [0; 8];
            word[..size].copy_from_slice(&bytes[done..done + size]);
            self.store_to(allocation, lane, at, size as u32, u64::from_le_bytes(word))?;
            done += size;
        }
        Ok(())
    }

    /// Reads from a buffer that is known to hold the bytes.
    #[inline(always)]
    pub fn load_from(
        &self,
        allocation: &Allocation,
        lane: u32,
        address: u64,
        bytes: u32,
    ) -> Step<u64> {
        if self.job.check_blocks
            && let Some(block) = allocation.foreign_writer(address, self.tag)
        {
            return Err(self.block_conflict(lane, address, "reads", block));
        }
        allocation.load(address, bytes).ok_or_else(|| self.poison(lane, address, bytes))
    }

    #[inline(always)]
    pub fn store(
        &self,
        hint: &mut Option<&'j Allocation>,
        lane: u32,
        address: u64,
        bytes: u32,
        value: u64,
    ) -> Step {
        let allocation = self.job.global.locate(*hint, lane, address, bytes, bytes)?;
        *hint = Some(allocation);
        if allocation.read_only {
            let detail = format!("writes constant memory: {}", self.job.global.describe(address));
            return Err(RawFault::new(FaultKind::ReadOnly, lane, detail));
        }
        self.store_to(allocation, lane, address, bytes, value)
    }

    /// Writes to a buffer that is known to hold the bytes.
    #[inline(always)]
    pub fn store_to(
        &self,
        allocation: &Allocation,
        lane: u32,
        address: u64,
        bytes: u32,
        value: u64,
    ) -> Step {
        if self.job.check_blocks {
            if let Some(block) = allocation.foreign_writer(address, self.tag).filter(|_| bytes >= 4)
            {
                return Err(self.block_conflict(lane, address, "overwrites", block));
            }
            allocation.note_writer(address, bytes, self.tag);
        }
        allocation.store(address, bytes, value);
        Ok(())
    }
}

/// Reads the parameters of the kernel by address.
pub(super) fn load_parameter(job: &Job<'_>, lane: u32, address: u64, bytes: u32) -> Step<u64> {
    let (size, bytes) = (job.params.len() as u64, u64::from(bytes));
    if address.checked_add(bytes).is_none_or(|end| end > size) {
        let detail = format!("{bytes} bytes at {address} of the {size} bytes of parameters");
        return Err(RawFault::new(FaultKind::OutOfBounds, lane, detail));
    }
    if !address.is_multiple_of(bytes) {
        let detail = format!("byte {address} of the parameters is no multiple of {bytes}");
        return Err(RawFault::new(FaultKind::Misaligned, lane, detail));
    }
    Ok(job.param(address as u16, bytes as u8, false))
}
