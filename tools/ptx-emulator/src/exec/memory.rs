//! Loads, stores, atomics, asynchronous copies of the active lanes.

use super::Job;
use super::global::{GlobalView, load_parameter};
use super::registers::FULL;
use super::warp::{AsyncCopy, Warp};
use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::*;
use crate::memory::{Accessor, Allocation, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Shared};

/// What memory instructions need besides their warp.
pub(crate) struct Memories<'j, 'b> {
    pub job: &'j Job<'j>,
    pub shared: &'b mut Shared,
    /// Launch and block, as writers of global memory are marked.
    pub tag: u64,
}

/// Addresses of all lanes.
#[inline(always)]
pub(super) fn addresses(warp: &Warp, address: Address) -> [u64; 32] {
    let mut out = [0; 32];
    let offset = i64::from(address.offset);
    if address.narrow {
        let base = warp.registers.r(address.base);
        for l in 0..32 {
            out[l] = u64::from(base[l].wrapping_add(offset as u32));
        }
    } else {
        let base = warp.registers.x(address.base);
        for l in 0..32 {
            out[l] = base[l].wrapping_add_signed(offset);
        }
    }
    out
}

/// Space and address within it of a generic address.
pub(super) fn resolve(space: Where, address: u64) -> (Where, u64) {
    match space {
        Where::Generic if address >= PARAM_WINDOW => (Where::Param, address - PARAM_WINDOW),
        Where::Generic if address >= LOCAL_WINDOW => (Where::Local, address - LOCAL_WINDOW),
        Where::Generic if address >= SHARED_WINDOW => (Where::Shared, address - SHARED_WINDOW),
        Where::Generic => (Where::Global, address),
        known => (known, address),
    }
}

/// Whether `address - base + size <= limit` in all lanes of `mask`, and every address is a multiple of `size`.
#[inline(always)]
fn all_inside(mask: u32, addresses: &[u64; 32], base: u64, size: u64, limit: u64) -> bool {
    let offset = |l: usize| if mask >> l & 1 != 0 { addresses[l].wrapping_sub(base) } else { 0 };
    // All bits together are at least the largest value: mostly that settles it, with cheap vector operations.
    let bits = match mask {
        FULL => addresses.iter().fold(0, |bits, address| bits | address.wrapping_sub(base)),
        _ => (0..32).fold(0, |bits, l| bits | offset(l)),
    };
    let last = match limit.checked_sub(size) {
        None => return false,
        Some(last) => last,
    };
    (bits | base) & (size - 1) == 0 && (bits <= last || (0..32).all(|l| offset(l) <= last))
}

fn sign_extend(value: u64, bytes: u32) -> u64 {
    let shift = 64 - 8 * bytes;
    ((value << shift) as i64 >> shift) as u64
}

impl<'j> Memories<'j, '_> {
    fn global(&self) -> GlobalView<'j> {
        GlobalView { job: self.job, tag: self.tag }
    }

    /// A vector access is aligned as a whole.
    fn check_vector(access: &Access, lane: u32, address: u64) -> Step {
        let size = u64::from(access.bytes) * u64::from(access.count);
        if access.count > 1 && !address.is_multiple_of(size) {
            let detail = format!(
                "the address {address:#x} is not a multiple of {size}, the size of the vector"
            );
            return Err(RawFault::new(FaultKind::Misaligned, lane, detail));
        }
        Ok(())
    }

    /// The buffer, or `None` for shared memory, that an access of aligned words lies in as a whole.
    #[inline(always)]
    fn one_place(
        &self,
        mask: u32,
        access: &Access,
        at: &[u64; 32],
    ) -> Option<Option<&'j Allocation>> {
        let size = 4 * u64::from(access.count);
        match access.space {
            Where::Shared => {
                all_inside(mask, at, 0, size, self.shared.word_limit()).then_some(None)
            }
            Where::Global => {
                let allocation = self.job.global.find(at[mask.trailing_zeros() as usize & 31])?;
                all_inside(mask, at, allocation.base, size, allocation.len as u64)
                    .then_some(Some(allocation))
            }
            _ => None,
        }
    }

    /// The common case of [`Memories::load`], checked for all lanes at once: words, all in one place. False where
    /// that does not hold.
    fn load_words(
        &mut self,
        warp: &mut Warp,
        mask: u32,
        pc: Pc,
        access: &Access,
        at: &[u64; 32],
    ) -> Step<bool> {
        let Some(place) = self.one_place(mask, access, at) else { return Ok(false) };
        let global = self.global();
        for element in 0..u32::from(access.count) {
            let step = u64::from(4 * element);
            let values = match place {
                None => {
                    let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
                    self.shared.load_words(who, mask, at, step)?
                }
                Some(allocation) => {
                    let mut values = [0; 32];
                    let simple = allocation.is_plain(self.job.check_blocks);
                    for lane in lanes(mask) {
                        let address = at[lane as usize] + step;
                        values[lane as usize] = match simple {
                            true => allocation.load_plain(address),
                            false => global.load_from(allocation, lane, address, 4)? as u32,
                        };
                    }
                    values
                }
            };
            let d = self.job.kernel.operands[(access.registers + element) as usize] as Slot;
            warp.registers.write32(d, mask, &values);
        }
        Ok(true)
    }

    /// The common case of [`Memories::store`].
    fn store_words(
        &mut self,
        warp: &Warp,
        mask: u32,
        pc: Pc,
        access: &Access,
        at: &[u64; 32],
    ) -> Step<bool> {
        let Some(place) = self.one_place(mask, access, at) else { return Ok(false) };
        if place.is_some_and(|allocation| allocation.read_only) {
            return Ok(false);
        }
        let global = self.global();
        let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
        for element in 0..u32::from(access.count) {
            let step = u64::from(4 * element);
            let a = self.job.kernel.operands[(access.registers + element) as usize] as Slot;
            let values = warp.registers.r(a);
            match place {
                None => self.shared.store_words(who, mask, at, step, values)?,
                Some(allocation) => {
                    for lane in lanes(mask) {
                        let (address, value) = (at[lane as usize] + step, values[lane as usize]);
                        global.store_to(allocation, lane, address, 4, u64::from(value))?;
                    }
                }
            }
        }
        Ok(true)
    }

    pub fn load(&mut self, warp: &mut Warp, mask: u32, pc: Pc, access: &Access) -> Step {
        let addresses = addresses(warp, access.address);
        let bytes = u32::from(access.bytes);
        if bytes == 4 && !access.wide && self.load_words(warp, mask, pc, access, &addresses)? {
            return Ok(());
        }
        let (job, global) = (self.job, self.global());
        for element in 0..u32::from(access.count) {
            let step = u64::from(element * bytes);
            let mut values = [0u64; 32];
            match access.space {
                Where::Shared => {
                    let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
                    for lane in lanes(mask) {
                        let address = addresses[lane as usize];
                        Self::check_vector(access, lane, address)?;
                        values[lane as usize] =
                            self.shared.load(who, lane, address + step, bytes)?;
                    }
                }
                Where::Global => {
                    let mut hint = None;
                    for lane in lanes(mask) {
                        let address = addresses[lane as usize];
                        Self::check_vector(access, lane, address)?;
                        values[lane as usize] =
                            global.load(&mut hint, lane, address + step, bytes)?;
                    }
                }
                Where::Generic | Where::Local | Where::Param => {
                    let limit = warp.local_limit(&job.kernel.routines);
                    for lane in lanes(mask) {
                        let (space, address) = resolve(access.space, addresses[lane as usize]);
                        Self::check_vector(access, lane, address)?;
                        let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
                        values[lane as usize] = match space {
                            Where::Local => {
                                warp.local.load(lane, address + step, bytes as usize, limit)?
                            }
                            Where::Shared => self.shared.load(who, lane, address + step, bytes)?,
                            Where::Param => load_parameter(job, lane, address + step, bytes)?,
                            _ => global.load(&mut None, lane, address + step, bytes)?,
                        };
                    }
                }
            }
            if access.signed {
                values.iter_mut().for_each(|v| *v = sign_extend(*v, bytes));
            }
            let d = job.kernel.operands[(access.registers + element) as usize] as Slot;
            if access.wide {
                warp.registers.write64(d, mask, &values);
            } else {
                warp.registers.write32(d, mask, &values.map(|v| v as u32));
            }
        }
        Ok(())
    }

    pub fn store(&mut self, warp: &mut Warp, mask: u32, pc: Pc, access: &Access) -> Step {
        let addresses = addresses(warp, access.address);
        let bytes = u32::from(access.bytes);
        if bytes == 4 && !access.wide && self.store_words(warp, mask, pc, access, &addresses)? {
            return Ok(());
        }
        let (job, global) = (self.job, self.global());
        let limit = warp.local_limit(&job.kernel.routines);
        for element in 0..u32::from(access.count) {
            let step = u64::from(element * bytes);
            let a = job.kernel.operands[(access.registers + element) as usize] as Slot;
            let mut hint = None;
            for lane in lanes(mask) {
                let value = match access.wide {
                    true => warp.registers.x(a)[lane as usize],
                    false => u64::from(warp.registers.r(a)[lane as usize]),
                };
                let (space, address) = resolve(access.space, addresses[lane as usize]);
                Self::check_vector(access, lane, address)?;
                match space {
                    Where::Shared => {
                        let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
                        self.shared.store(who, lane, address + step, bytes, value)?;
                    }
                    Where::Local => {
                        warp.local.store(lane, address + step, bytes as usize, limit, value)?
                    }
                    Where::Param => {
                        let detail = "writes a parameter of the kernel";
                        return Err(RawFault::new(FaultKind::ReadOnly, lane, detail));
                    }
                    _ => global.store(&mut hint, lane, address + step, bytes, value)?,
                }
            }
        }
        Ok(())
    }

    /// An atomic operation, lane by lane.
    pub fn atom(
        &mut self,
        warp: &mut Warp,
        mask: u32,
        (op, space, wide): (AtomOp, Where, bool),
        address: Address,
        d: Slot,
        (b, c): (Slot, Slot),
    ) -> Step {
        let global = self.global();
        let addresses = addresses(warp, address);
        let bytes = if wide { 8 } else { 4 };
        let mut old = [0; 32];
        for lane in lanes(mask) {
            let l = lane as usize;
            let operand = |slot| {
                if wide { warp.registers.x(slot)[l] } else { u64::from(warp.registers.r(slot)[l]) }
            };
            let (b, c) = (operand(b), operand(c));
            let update = |old| atomic_update(op, wide, old, b, c);
            old[l] = match resolve(space, addresses[l]) {
                (Where::Shared, address) => self.shared.exchange(lane, address, bytes, update)?,
                (Where::Local, _) => {
                    return Err(RawFault::new(
                        FaultKind::BadOperand,
                        lane,
                        "an atomic operation on local memory",
                    ));
                }
                (_, address) => {
                    let allocation = self.job.global.locate(None, lane, address, bytes, bytes)?;
                    let old = allocation
                        .load(address, bytes)
                        .ok_or_else(|| global.poison(lane, address, bytes))?;
                    allocation.store(address, bytes, update(old));
                    old
                }
            };
        }
        match (d, wide) {
            (NONE, _) => {}
            (_, true) => warp.registers.write64(d, mask, &old),
            (_, false) => warp.registers.write32(d, mask, &old.map(|v| v as u32)),
        }
        Ok(())
    }

    /// `cp.async`: checks both sides now, moves the bytes when the lane waits.
    pub fn async_copy(
        &mut self,
        warp: &mut Warp,
        mask: u32,
        pc: Pc,
        bytes: u8,
        (to, from): (Address, Address),
        source_bytes: Slot,
    ) -> Step {
        let global = self.global();
        let (targets, sources) = (addresses(warp, to), addresses(warp, from));
        for lane in lanes(mask) {
            let l = lane as usize;
            let count = match source_bytes {
                NONE => u32::from(bytes),
                slot => warp.registers.r(slot)[l],
            };
            if count > u32::from(bytes) {
                let detail = format!("copies {count} bytes from the source of a copy of {bytes}");
                return Err(RawFault::new(FaultKind::BadOperand, lane, detail));
            }
            // The target may be a generic address of shared memory too.
            let (_, target) = resolve(Where::Generic, targets[l]);
            let source = sources[l];
            if count > 0 {
                let allocation =
                    self.job.global.locate(None, lane, source, count, u32::from(bytes))?;
                for byte in 0..u64::from(count) {
                    if allocation.load(source + byte, 1).is_none() {
                        return Err(global.poison(lane, source + byte, 1));
                    }
                }
            }
            let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
            self.shared.begin_copy(who, lane, target, u32::from(bytes))?;
            warp.copies.push(AsyncCopy {
                lane,
                group: warp.committed[l],
                to: target as u32,
                from: source,
                bytes,
                source_bytes: count as u8,
            });
        }
        Ok(())
    }

    /// Finishes the copies of the lanes in `mask`, but for the newest `pending` groups of each.
    pub fn async_wait(&mut self, warp: &mut Warp, mask: u32, pc: Pc, pending: u32) {
        let committed = warp.committed;
        let done = |copy: &AsyncCopy| {
            let groups = committed[copy.lane as usize];
            mask >> copy.lane & 1 != 0
                && (pending == u32::MAX || copy.group < groups && groups - copy.group > pending)
        };
        for copy in warp.copies.iter().filter(|c| done(c)) {
            let mut data = [0; 16];
            let source = self.job.global.find(copy.from).filter(|_| copy.source_bytes > 0);
            if let Some(allocation) = source {
                for (byte, value) in data[..usize::from(copy.source_bytes)].iter_mut().enumerate() {
                    *value = allocation.load(copy.from + byte as u64, 1).unwrap_or(0) as u8;
                }
            }
            let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
            self.shared.finish_copy(who, copy.lane, copy.to, &data[..usize::from(copy.bytes)]);
        }
        warp.copies.retain(|copy| !done(copy));
    }
}

impl Warp {
    /// Bytes of local memory that the lanes of the current frame may use.
    fn local_limit(&self, routines: &[Routine]) -> u32 {
        let frame = &self.frames[self.current.frame];
        frame.local_base + routines[frame.routine].local_bytes
    }

    /// A call parameter of the current frame.
    pub(super) fn load_frame_memory(
        &mut self,
        job: &Job<'_>,
        mask: u32,
        d: Slot,
        part: (u16, u8),
        flags: (bool, bool),
    ) {
        let ((offset, bytes), (signed, wide)) = (part, flags);
        let frame = &self.frames[self.current.frame];
        let size = job.kernel.routines[frame.routine].frame_bytes;
        let mut values = [0u64; 32];
        for lane in lanes(mask) {
            let at = (lane * size) as usize + usize::from(offset);
            let mut raw = [0; 8];
            raw[..usize::from(bytes)].copy_from_slice(&frame.memory[at..at + usize::from(bytes)]);
            let value = u64::from_le_bytes(raw);
            values[lane as usize] =
                if signed { sign_extend(value, u32::from(bytes)) } else { value };
        }
        if wide {
            self.registers.write64(d, mask, &values);
        } else {
            self.registers.write32(d, mask, &values.map(|v| v as u32));
        }
    }

    pub(super) fn store_frame_memory(
        &mut self,
        job: &Job<'_>,
        mask: u32,
        a: Slot,
        (offset, bytes): (u16, u8),
        wide: bool,
    ) {
        let frame = &mut self.frames[self.current.frame];
        let size = job.kernel.routines[frame.routine].frame_bytes;
        for lane in lanes(mask) {
            let l = lane as usize;
            let value =
                if wide { self.registers.x(a)[l] } else { u64::from(self.registers.r(a)[l]) };
            let at = (lane * size) as usize + usize::from(offset);
            frame.memory[at..at + usize::from(bytes)]
                .copy_from_slice(&value.to_le_bytes()[..usize::from(bytes)]);
        }
    }
}

fn atomic_update(op: AtomOp, wide: bool, old: u64, b: u64, c: u64) -> u64 {
    let signed = |v: u64| if wide { v as i64 } else { i64::from(v as i32) };
    match op {
        AtomOp::Add => old.wrapping_add(b),
        AtomOp::AddF32 => {
            u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits())
        }
        AtomOp::Min => old.min(b),
        AtomOp::Max => old.max(b),
        AtomOp::MinS => signed(old).min(signed(b)) as u64,
        AtomOp::MaxS => signed(old).max(signed(b)) as u64,
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}
