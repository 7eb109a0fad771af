//! State of a warp: groups of lanes that run together, call frames, copies in flight.
//!
//! Lanes that take different ways form groups. The group at the lowest instruction runs first, in the deepest call
//! first, so that groups meet again where the ways join. A group that reaches an instruction for more lanes than it
//! has (a barrier, a shuffle) waits there until the others arrive.

use super::registers::{FULL, Registers};
use super::wgmma::Products;
use crate::isa::{Constant, Kernel, Pc, Routine, Slot, Special, lanes};
use crate::memory::{Clock, Local};

/// Why a group does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Waits at its instruction for more lanes of its warp.
    Converging,
    /// Waits at a barrier of the block.
    Barrier(u32),
    /// Waits for a phase of the block's mbarrier of this number.
    Mbarrier(u32),
    /// Waits for the other warps of its warpgroup to issue what it has issued.
    Warpgroup,
}

/// Lanes at one instruction of one frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub pc: Pc,
    pub lanes: u32,
    pub frame: usize,
    pub state: State,
}

/// A call in progress; the entry's frame is number 0.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub routine: usize,
    pub parent: usize,
    pub depth: u32,
    pub site: usize,
    pub return_pc: Pc,
    /// Lanes that have not returned.
    pub lanes: u32,
    /// Registers, while another frame's are in use.
    registers: Registers,
    /// Call parameters, `frame_bytes` per lane.
    pub memory: Vec<u8>,
    /// Where this frame's local variables start.
    pub local_base: u32,
}

/// A `cp.async` that has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsyncCopy {
    pub lane: u32,
    /// Group of the lane, counted from 0.
    pub group: u32,
    pub to: u32,
    pub from: u64,
    pub bytes: u8,
    /// Bytes that are read; the rest becomes zero.
    pub source_bytes: u8,
}

#[derive(Debug)]
pub(crate) struct Warp {
    pub index: u32,
    /// Lanes that have a thread, and those of them that have not left.
    pub threads: u32,
    pub live: u32,
    pub groups: Vec<Group>,
    /// The group that runs.
    pub current: Group,
    /// Registers of the current frame.
    pub registers: Registers,
    pub frames: Vec<Frame>,
    /// The frame whose registers are in `registers`.
    loaded: usize,
    pub clock: Clock,
    pub local: Local,
    pub copies: Vec<AsyncCopy>,
    /// Copy groups that each lane has committed.
    pub committed: [u32; 32],
    /// Bulk groups that each lane has committed.
    pub bulk_committed: [u32; 32],
    /// Lanes whose `try_wait` gave up since it last held.
    pub impatient: u32,
    pub products: Products,
    pub executed: u64,
    /// The entry's constants are in their slots.
    filled: bool,
}

/// What is constant during a block, for special registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    pub grid: [u32; 3],
    pub block_dim: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_bytes: u32,
    pub static_bytes: u32,
}

/// Thread index of a thread by its number in the block.
pub(crate) fn thread_index(number: u32, block_dim: [u32; 3]) -> [u32; 3] {
    [
        number % block_dim[0],
        number / block_dim[0] % block_dim[1],
        number / block_dim[0] / block_dim[1],
    ]
}

impl Position {
    fn special(&self, special: Special, warp: u32, lane: u32) -> u32 {
        match special {
            Special::Tid(axis) => thread_index(warp * 32 + lane, self.block_dim)[usize::from(axis)],
            Special::Ntid(axis) => self.block_dim[usize::from(axis)],
            Special::Ctaid(axis) => self.block[usize::from(axis)],
            Special::Nctaid(axis) => self.grid[usize::from(axis)],
            Special::LaneId => lane,
            Special::WarpId => warp,
            Special::WarpCount => self.block_dim.iter().product::<u32>().div_ceil(32),
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLt => (1 << lane) - 1,
            Special::LaneMaskLe => u32::MAX >> (31 - lane),
            Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
            Special::LaneMaskGe => !((1 << lane) - 1),
            Special::DynamicSharedBytes => self.dynamic_bytes,
            Special::TotalSharedBytes => self.dynamic_bytes + self.static_bytes,
        }
    }
}

impl Warp {
    pub fn new(index: u32, kernel: &Kernel) -> Self {
        let entry = &kernel.routines[0];
        Self {
            index,
            threads: 0,
            live: 0,
            groups: Vec::new(),
            current: Group { pc: 0, lanes: 0, frame: 0, state: State::Ready },
            registers: Registers::new(entry.slots32, entry.slots64, entry.predicates),
            frames: vec![Frame::default()],
            loaded: 0,
            clock: Clock::new(0, 1),
            local: Local::default(),
            copies: Vec::new(),
            committed: [0; 32],
            bulk_committed: [0; 32],
            impatient: 0,
            products: Products::default(),
            executed: 0,
            filled: false,
        }
    }

    /// Puts the warp at the start of a block.
    pub fn reset(&mut self, kernel: &Kernel, position: &Position, variables: &[u64]) {
        let threads: u32 = position.block_dim.iter().product();
        let own = (threads - self.index * 32).min(32);
        self.threads = if own == 32 { FULL } else { (1 << own) - 1 };
        self.live = self.threads;
        self.load_frame(0);
        self.frames.truncate(1);
        let entry = &kernel.routines[0];
        self.frames[0] = Frame { lanes: self.threads, ..Frame::default() };
        self.frames[0].memory.resize(entry.frame_bytes as usize * 32, 0);
        if self.filled {
            // Instructions never write the slots of constants; between blocks only the block's index changes.
            let changes =
                |c: &&(Slot, Constant)| matches!(c.1, Constant::Special(Special::Ctaid(_)));
            for (slot, constant) in entry.constants32.iter().filter(changes) {
                self.registers.narrow[usize::from(*slot)].0 =
                    constant32(*constant, position, variables, self.index);
            }
        } else {
            fill_constants(&mut self.registers, entry, position, variables, self.index);
            self.filled = true;
        }
        self.local.grow(0, entry.local_bytes);
        self.groups.clear();
        self.groups.push(Group {
            pc: entry.start,
            lanes: self.threads,
            frame: 0,
            state: State::Ready,
        });
        self.current.lanes = 0;
        self.clock = Clock::new(self.index as usize, threads.div_ceil(32) as usize);
        self.copies.clear();
        self.committed = [0; 32];
        self.bulk_committed = [0; 32];
        self.impatient = 0;
        self.products.reset(kernel);
        self.executed = 0;
    }

    fn load_frame(&mut self, frame: usize) {
        if frame != self.loaded {
            std::mem::swap(&mut self.registers, &mut self.frames[self.loaded].registers);
            std::mem::swap(&mut self.registers, &mut self.frames[frame].registers);
            self.loaded = frame;
        }
    }

    /// Registers of a frame, loaded or not.
    pub fn registers_of(&mut self, frame: usize) -> &mut Registers {
        if frame == self.loaded { &mut self.registers } else { &mut self.frames[frame].registers }
    }

    /// Makes the group that should run the current one; false when none can. The current one must be parked.
    pub fn select(&mut self) -> bool {
        debug_assert_eq!(self.current.lanes, 0);
        let frames = &self.frames;
        let ready = self.groups.iter().enumerate().filter(|(_, g)| g.state == State::Ready);
        let best = ready.min_by_key(|(_, g)| (u32::MAX - frames[g.frame].depth, g.pc, g.frame));
        let Some((index, _)) = best else { return false };
        self.current = self.groups.swap_remove(index);
        // Others at the same place join.
        let (pc, frame) = (self.current.pc, self.current.frame);
        let mut joined = 0;
        self.groups.retain(|g| {
            let same = g.pc == pc && g.frame == frame && g.state == State::Ready;
            joined |= if same { g.lanes } else { 0 };
            !same
        });
        self.current.lanes |= joined;
        self.load_frame(frame);
        true
    }

    /// The lowest instruction of the other ready groups in the current frame: there the current one must stop.
    pub fn horizon(&self) -> Pc {
        let others =
            self.groups.iter().filter(|g| g.state == State::Ready && g.frame == self.current.frame);
        others.map(|g| g.pc).min().unwrap_or(Pc::MAX)
    }

    /// Puts the current group among the others.
    pub fn park(&mut self, pc: Pc, state: State) {
        if self.current.lanes != 0 {
            self.groups.push(Group { pc, state, ..self.current });
            self.current.lanes = 0;
        }
    }

    /// Takes the lanes that wait at `pc` of the current frame into the current group.
    pub fn gather(&mut self, pc: Pc) {
        let frame = self.current.frame;
        let mut joined = 0;
        self.groups.retain(|g| {
            let same = g.pc == pc && g.frame == frame && g.state == State::Converging;
            joined |= if same { g.lanes } else { 0 };
            !same
        });
        self.current.lanes |= joined;
    }

    pub fn is_ready(&self) -> bool {
        self.current.lanes != 0 || self.groups.iter().any(|g| g.state == State::Ready)
    }

    /// Lets the groups that `is_woken` holds for try their instruction again.
    pub fn wake(&mut self, is_woken: impl Fn(State) -> bool) {
        for group in self.groups.iter_mut().filter(|g| is_woken(g.state)) {
            group.state = State::Ready;
        }
    }

    /// `lanes` leave the kernel.
    pub fn exit(&mut self, lanes: u32) {
        self.live &= !lanes;
        self.current.lanes &= !lanes;
    }

    /// Enters a function with the lanes of the current group; they come back at `return_pc`.
    pub fn call(
        &mut self,
        kernel: &Kernel,
        site: usize,
        return_pc: Pc,
        position: &Position,
        variables: &[u64],
    ) -> Pc {
        let call = &kernel.calls[site];
        let routine = &kernel.routines[call.routine as usize];
        let caller = self.current.frame;
        let above = &kernel.routines[self.frames[caller].routine];
        let mut frame = Frame {
            routine: call.routine as usize,
            parent: caller,
            depth: self.frames[caller].depth + 1,
            site,
            return_pc,
            lanes: self.current.lanes,
            registers: Registers::new(routine.slots32, routine.slots64, routine.predicates),
            memory: vec![0; routine.frame_bytes as usize * 32],
            local_base: self.frames[caller].local_base + above.local_bytes,
        };
        fill_constants(&mut frame.registers, routine, position, variables, self.index);
        self.local.grow(frame.local_base, frame.local_base + routine.local_bytes);
        for copy in &call.arguments {
            for lane in lanes(self.current.lanes) {
                let from = (lane * above.frame_bytes + copy.from) as usize;
                let to = (lane * routine.frame_bytes + copy.to) as usize;
                let bytes = &self.frames[caller].memory[from..from + copy.bytes as usize];
                frame.memory[to..to + copy.bytes as usize].copy_from_slice(bytes);
            }
        }
        // A slot whose lanes have all returned is free again.
        let free = (1..self.frames.len()).find(|f| self.frames[*f].lanes == 0 && *f != self.loaded);
        let index = match free {
            Some(index) => {
                self.frames[index] = frame;
                index
            }
            None => {
                self.frames.push(frame);
                self.frames.len() - 1
            }
        };
        self.current.frame = index;
        self.load_frame(index);
        routine.start
    }

    /// The lanes of `mask` return from the current frame; the caller parks what is left of the current group.
    pub fn return_from(&mut self, kernel: &Kernel, mask: u32) {
        let index = self.current.frame;
        let (parent, site) = (self.frames[index].parent, self.frames[index].site);
        let own = kernel.routines[self.frames[index].routine].frame_bytes;
        let above = kernel.routines[self.frames[parent].routine].frame_bytes;
        for copy in &kernel.calls[site].results {
            for lane in lanes(mask) {
                let (from, to) =
                    ((lane * own + copy.from) as usize, (lane * above + copy.to) as usize);
                for byte in 0..copy.bytes as usize {
                    self.frames[parent].memory[to + byte] = self.frames[index].memory[from + byte];
                }
            }
        }
        self.frames[index].lanes &= !mask;
        self.current.lanes &= !mask;
        let pc = self.frames[index].return_pc;
        self.groups.push(Group { pc, lanes: mask, frame: parent, state: State::Ready });
    }
}

fn constant32(constant: Constant, position: &Position, variables: &[u64], warp: u32) -> [u32; 32] {
    constant64(constant, position, variables, warp).map(|v| v as u32)
}

fn constant64(constant: Constant, position: &Position, variables: &[u64], warp: u32) -> [u64; 32] {
    match constant {
        Constant::Bits(bits) => [bits; 32],
        Constant::Variable(index, offset) => {
            [variables[index as usize].wrapping_add_signed(offset); 32]
        }
        Constant::Special(special) => {
            std::array::from_fn(|l| u64::from(position.special(special, warp, l as u32)))
        }
    }
}

fn fill_constants(
    registers: &mut Registers,
    routine: &Routine,
    position: &Position,
    variables: &[u64],
    warp: u32,
) {
    for (slot, constant) in &routine.constants32 {
        registers.narrow[usize::from(*slot)].0 = constant32(*constant, position, variables, warp);
    }
    for (slot, constant) in &routine.constants64 {
        registers.wide[usize::from(*slot)].0 = constant64(*constant, position, variables, warp);
    }
}
