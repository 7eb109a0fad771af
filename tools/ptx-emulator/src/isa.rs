//! The form that runs: registers are slots, labels are indices, immediates are slots filled in advance.
//!
//! A register slot holds one value per lane: 32-bit and 64-bit registers live in two files of `[T; 32]`,
//! predicates are one 32-bit mask each. Narrower integers and halves sit zero-extended in 32-bit slots.
//! The decoder lowers rarer PTX forms to short sequences, so what follows is smaller than PTX.

mod asynchronous;
mod registers;

pub(crate) use asynchronous::*;
pub(crate) use registers::{Use, registers32};

use crate::ptx::ast::Type;

/// Index of a register slot, in the file that the operation implies.
pub(crate) type Slot = u16;

/// Index of an instruction in [`Kernel::code`].
pub(crate) type Pc = u32;

/// No predicate, or no register where one is optional.
pub(crate) const NONE: Slot = Slot::MAX;

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        (mask != 0).then(|| {
            mask &= mask - 1;
            lane
        })
    })
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Inst {
    pub op: Op,
    /// Predicate slot, or [`NONE`].
    pub guard: Slot,
    pub negated: bool,
    /// Uses a register that is an operand of `wgmma` somewhere.
    pub watched: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntOp {
    Add,
    Sub,
    Mul,
    MulHiS,
    MulHiU,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
    /// Saturating signed addition and subtraction.
    AddSat,
    SubSat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntUnary {
    Not,
    Neg,
    Abs,
    /// Sign extension from 8, 16, 32 bits, zero extension from 8, 16.
    Sext8,
    Sext16,
    Zext8,
    Zext16,
    Brev,
    Popc,
    Clz,
    /// Position of the highest set bit (of the highest bit unlike the sign), or that distance as a shift.
    BfindU,
    BfindS,
    BfindShiftU,
    BfindShiftS,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PredOp {
    And,
    Or,
    Xor,
    /// `a & !b`; with all lanes set in `a` it is a complement.
    AndNot,
}

/// Comparisons; the unordered ones hold when an operand is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatOp {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    /// NaN if either operand is.
    MinNan,
    MaxNan,
    /// Magnitude of the second operand with the sign of the first.
    CopySign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatUnary {
    Neg,
    Abs,
    Sqrt,
    Rcp,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
}

/// Rounding, with the two flags that change a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FloatMode {
    pub round: Round,
    /// Subnormal operands and results become zeros of their sign.
    pub ftz: bool,
    /// The result is clamped to [0, 1]; NaN becomes 0.
    pub sat: bool,
}

impl FloatMode {
    pub const PLAIN: Self = Self { round: Round::Nearest, ftz: false, sat: false };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even (`rn`, `rni`).
    Nearest,
    /// To nearest, ties away from zero (`rna`).
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A conversion; see `exec::convert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Convert {
    pub to: Type,
    pub from: Type,
    pub mode: FloatMode,
    /// Float to float of the same type, to an integral value (`cvt.rni.f32.f32`).
    pub integral: bool,
    /// Negative results become 0.
    pub relu: bool,
    /// Clamp to the finite range of the target.
    pub satfinite: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfFormat {
    F16,
    Bf16,
}

/// Arithmetic on halves: one per 32-bit slot, or packed pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HalfKind {
    pub format: HalfFormat,
    pub packed: bool,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfOp {
    Binary(FloatOp),
    Unary(FloatUnary),
    Fma,
}

/// Where an address points, fixed by the instruction or found at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    Generic,
    Global,
    Shared,
    Local,
    /// The parameters of the kernel.
    Param,
}

/// `[base + offset]`; without a base the offset is the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub base: Slot,
    /// The base is a 32-bit register.
    pub narrow: bool,
    pub offset: i32,
}

/// What a load or store moves per lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub space: Where,
    /// Bytes of one element: 1, 2, 4, 8.
    pub bytes: u8,
    /// Elements: 1, 2, 4, 8.
    pub count: u8,
    /// Narrow elements are sign-extended.
    pub signed: bool,
    /// The registers are 64 bits wide.
    pub wide: bool,
    /// First entry in [`Kernel::operands`].
    pub registers: u32,
    pub address: Address,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    AddF32,
    Min,
    Max,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    /// Reductions of a predicate over the threads: any, all, count.
    Or,
    And,
    Popc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MatrixInput {
    F16,
    Bf16,
    Tf32,
}

/// `mma.sync` with row-major A and column-major B; register lists are in [`Kernel::operands`]: d, a, b, c.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mma {
    pub input: MatrixInput,
    /// 4, 8 or 16; M is 16 and N is 8.
    pub k: u8,
    /// f16 accumulators (packed) instead of f32.
    pub half_accumulator: bool,
    pub registers: u32,
}

#[derive(Debug, Clone, Copy)]
#[rustfmt::skip]
pub(crate) enum Op {
    // Moves.
    Mov32 { d: Slot, a: Slot },
    Mov64 { d: Slot, a: Slot },
    Pack64 { d: Slot, lo: Slot, hi: Slot },
    Unpack64 { lo: Slot, hi: Slot, a: Slot },
    Widen { d: Slot, a: Slot, signed: bool },
    Truncate { d: Slot, a: Slot },
    Clock { d: Slot },
    ActiveMask { d: Slot },

    // Integers.
    Int32 { op: IntOp, d: Slot, a: Slot, b: Slot },
    /// Shift amounts are 32-bit slots, as in PTX.
    Int64 { op: IntOp, d: Slot, a: Slot, b: Slot },
    IntUnary32 { op: IntUnary, d: Slot, a: Slot },
    /// Counts (`popc`, `clz`, `bfind`) go to a 32-bit slot.
    IntUnary64 { op: IntUnary, d: Slot, a: Slot },
    Mad32 { d: Slot, a: Slot, b: Slot, c: Slot },
    Mad64 { d: Slot, a: Slot, b: Slot, c: Slot },
    MulWide { signed: bool, d: Slot, a: Slot, b: Slot },
    MadWide { signed: bool, d: Slot, a: Slot, b: Slot, c: Slot },
    /// Addition with the carry flag, kept in predicate slot 0; `subtract` complements `b`.
    Carry32 { d: Slot, a: Slot, b: Slot, take: bool, set: bool, subtract: bool },
    Carry64 { d: Slot, a: Slot, b: Slot, take: bool, set: bool, subtract: bool },
    Bfe32 { signed: bool, d: Slot, a: Slot, b: Slot, c: Slot },
    Bfe64 { signed: bool, d: Slot, a: Slot, b: Slot, c: Slot },
    Bfi32 { d: Slot, a: Slot, b: Slot, c: Slot, e: Slot },
    Bfi64 { d: Slot, a: Slot, b: Slot, c: Slot, e: Slot },
    Lop3 { d: Slot, a: Slot, b: Slot, c: Slot, table: u8 },
    Prmt { d: Slot, a: Slot, b: Slot, c: Slot },
    Funnel { left: bool, clamp: bool, d: Slot, a: Slot, b: Slot, c: Slot },
    DotBytes { a_signed: bool, b_signed: bool, d: Slot, a: Slot, b: Slot, c: Slot },

    // Predicates and selection.
    Pred { op: PredOp, d: Slot, a: Slot, b: Slot },
    CmpI32 { cmp: Cmp, signed: bool, d: Slot, a: Slot, b: Slot },
    CmpI64 { cmp: Cmp, signed: bool, d: Slot, a: Slot, b: Slot },
    CmpF32 { cmp: Cmp, ftz: bool, d: Slot, a: Slot, b: Slot },
    CmpF64 { cmp: Cmp, d: Slot, a: Slot, b: Slot },
    Select32 { d: Slot, a: Slot, b: Slot, p: Slot },
    Select64 { d: Slot, a: Slot, b: Slot, p: Slot },

    // Floating point.
    F32 { op: FloatOp, d: Slot, a: Slot, b: Slot },
    Fma32 { d: Slot, a: Slot, b: Slot, c: Slot },
    F32Mode { op: FloatOp, mode: FloatMode, d: Slot, a: Slot, b: Slot },
    Fma32Mode { mode: FloatMode, d: Slot, a: Slot, b: Slot, c: Slot },
    F32Unary { op: FloatUnary, ftz: bool, d: Slot, a: Slot },
    F64 { op: FloatOp, d: Slot, a: Slot, b: Slot },
    Fma64 { d: Slot, a: Slot, b: Slot, c: Slot },
    F64Unary { op: FloatUnary, d: Slot, a: Slot },
    Half { op: HalfOp, kind: HalfKind, d: Slot, a: Slot, b: Slot, c: Slot },
    Convert { index: u32, d: Slot, a: Slot },
    /// Two f32 to a packed pair: `a` becomes the high half.
    ConvertPair { index: u32, d: Slot, a: Slot, b: Slot },

    // Memory.
    Load(Access),
    Store(Access),
    /// Entry parameters are the same in every lane.
    LoadParam { d: Slot, offset: u16, bytes: u8, signed: bool, wide: bool },
    /// A parameter of a call: bytes of the current frame.
    LoadFrame { d: Slot, offset: u16, bytes: u8, signed: bool, wide: bool },
    StoreFrame { a: Slot, offset: u16, bytes: u8, wide: bool },
    /// Offset of a local variable in this frame to an address.
    LocalAddress { d: Slot, offset: u32 },
    IsSpace { d: Slot, a: Slot, space: Where },
    /// Operation on memory; `d` is [`NONE`] for `red`, `c` is the new value of `cas`.
    Atom { op: AtomOp, space: Where, wide: bool, address: Address, d: Slot, b: Slot, c: Slot },
    /// `source_bytes` is [`NONE`] when all of `bytes` are copied.
    AsyncCopy { bytes: u8, to: Address, from: Address, source_bytes: Slot },
    AsyncCommit,
    /// Waits until at most `pending` groups are in flight; `u32::MAX` waits for uncommitted copies too.
    AsyncWait { pending: u32 },

    // Matrices; register lists are in `Kernel::operands`.
    LoadMatrix { count: u8, transposed: bool, address: Address, generic: bool, registers: u32 },
    StoreMatrix { count: u8, transposed: bool, address: Address, generic: bool, registers: u32 },
    Mma(Mma),

    // Between lanes and warps.
    Shuffle { mode: ShuffleMode, d: Slot, p: Slot, a: Slot, b: Slot, c: Slot, mask: Slot },
    Vote { mode: VoteMode, negated: bool, d: Slot, a: Slot, mask: Slot },
    Match { all: bool, wide: bool, d: Slot, p: Slot, a: Slot, mask: Slot },
    Reduce { op: AtomOp, d: Slot, a: Slot, mask: Slot },
    WarpBarrier { mask: Slot },
    /// `count` is [`NONE`] for all threads of the block; `d`, `p` belong to the reductions.
    Barrier { kind: BarrierKind, aligned: bool, id: Slot, count: Slot, d: Slot, p: Slot, negated: bool },
    /// Makes one lane of the mask the leader: its number and, in it alone, the predicate.
    Elect { d: Slot, p: Slot, mask: Slot },

    // Asynchronous: see `isa::asynchronous`.
    Mbarrier(Mbarrier),
    /// A bulk copy, by its index in `Kernel::bulk_copies`.
    BulkCopy { index: u32 },
    BulkCommit,
    BulkWait { pending: u32 },
    /// Orders earlier writes of shared memory before what the asynchronous proxy does (`fence.proxy.async`), or only
    /// the initialisation of barriers.
    ProxyFence { barriers_only: bool },
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait { pending: u32 },
    /// A warpgroup's product, by its index in `Kernel::products`.
    Wgmma { index: u32 },

    /// Orders memory; nothing to do where execution is sequentially consistent.
    Fence,

    // Control.
    Branch { target: Pc },
    /// `table` is the first of `length` targets in `Kernel::operands`.
    BranchIndexed { index: Slot, table: u32, length: u32 },
    Call { site: u32 },
    Return,
    Exit,
    Trap,
}

/// The value of a slot that is filled before a frame starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    /// Address of a module variable plus an offset.
    Variable(u32, i64),
    Special(Special),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    WarpCount,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicSharedBytes,
    TotalSharedBytes,
}

/// A function of a kernel: the entry is number 0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routine {
    pub start: Pc,
    pub slots32: usize,
    pub slots64: usize,
    pub predicates: usize,
    pub constants32: Vec<(Slot, Constant)>,
    pub constants64: Vec<(Slot, Constant)>,
    /// Bytes of call parameters and results per lane; the routine's own parameters come first.
    pub frame_bytes: u32,
    /// Bytes of local variables per lane.
    pub local_bytes: u32,
}

/// Bytes copied between the frames of caller and callee.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameCopy {
    pub from: u32,
    pub to: u32,
    pub bytes: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct CallSite {
    pub routine: u32,
    pub arguments: Vec<FrameCopy>,
    pub results: Vec<FrameCopy>,
}

/// A variable in shared memory, for messages.
#[derive(Debug, Clone)]
pub(crate) struct SharedVariable {
    pub name: String,
    pub start: u32,
    pub bytes: u32,
}

/// Where an instruction came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// Line of the PTX text.
    pub line: u32,
    pub loc: Option<u32>,
}

/// A decoded entry with everything it calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    /// One per instruction.
    pub origins: Vec<Origin>,
    /// Register lists and branch tables.
    pub operands: Vec<u32>,
    pub converts: Vec<Convert>,
    pub bulk_copies: Vec<BulkCopy>,
    pub products: Vec<Wgmma>,
    /// Per 32-bit slot of the entry: whether `wgmma` uses it, directly or through copies.
    pub watched: Vec<bool>,
    /// The slots of which [`Kernel::watched`] holds.
    pub watched_slots: Vec<Slot>,
    pub routines: Vec<Routine>,
    pub calls: Vec<CallSite>,
    pub param_bytes: u32,
    /// Offset and size of each parameter.
    pub params: Vec<(u32, u32)>,
    pub shared: Vec<SharedVariable>,
    /// Where dynamic shared memory starts, guard gaps included.
    pub dynamic_start: u32,
    /// Bytes of static shared memory as declared, for the limit.
    pub static_bytes: u32,
    /// Whether the kernel declares dynamic shared memory.
    pub uses_dynamic: bool,
    /// Smallest access that may touch shared memory: 1, 2 or 4 bytes.
    pub shared_granule: u32,
    pub required_threads: Option<[u32; 3]>,
    pub max_threads: Option<u32>,
    /// Atomics order blocks, so that they run one after another.
    pub has_global_atomics: bool,
}
