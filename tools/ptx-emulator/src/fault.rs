//! What went wrong, and where.

use std::fmt;

/// A position in the CUDA source, from `-lineinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePosition {
    /// File name as the compiler was given it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

impl fmt::Display for SourcePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An instruction of a kernel: its source position, the calls it was inlined through, its PTX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodePosition {
    /// Innermost source position; `None` without `-lineinfo`.
    pub source: Option<SourcePosition>,
    /// Call positions, innermost first, when the instruction was inlined.
    pub inlined_at: Vec<SourcePosition>,
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The PTX instruction.
    pub instruction: String,
}

impl CodePosition {
    /// Whether the instruction, or a call it was inlined through, is on this source line.
    pub fn is_on_line(&self, line: u32) -> bool {
        self.source.iter().chain(&self.inlined_at).any(|s| s.line == line)
    }
}

impl fmt::Display for CodePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}")?;
            for call in &self.inlined_at {
                write!(f, ", called at {call}")?;
            }
            write!(f, " ")?;
        }
        write!(f, "(PTX line {}: `{}`)", self.ptx_line, self.instruction)
    }
}

/// Another access that a fault is about: the other side of a race.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherAccess {
    /// Thread index in its block; `None` when several lanes took part.
    pub thread: Option<[u32; 3]>,
    /// Warp of the block.
    pub warp: u32,
    /// The instruction.
    pub at: CodePosition,
}

/// The rule that a thread broke.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside every allocation, shared variable or local frame, or to freed memory.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// A write to constant memory.
    ReadOnly,
    /// A read of bytes that nothing has written.
    Uninitialised,
    /// An access to bytes that an unfinished asynchronous copy writes.
    AsyncInFlight,
    /// Two unordered accesses to shared memory, one of them a write.
    Race,
    /// Two blocks of one launch use the same global memory, one of them writing.
    BlockConflict,
    /// A barrier, or an instruction for a whole warp, that not all its threads reach.
    DivergentBarrier,
    /// A shuffle that reads a lane which does not take part.
    UndefinedShuffle,
    /// Every thread that is left waits for something that cannot come.
    Deadlock,
    /// Memory or registers that the asynchronous proxy uses without the fence that makes earlier accesses visible.
    MissingFence,
    /// A register that an unfinished `wgmma` uses.
    MatrixInFlight,
    /// `trap`.
    Trap,
    /// An operand outside its range (barrier number, branch-table index, copy size).
    BadOperand,
    /// More instructions or deeper calls than [`crate::Config`] allows.
    Limit,
}

/// A fault found while a kernel ran. Its `Display` form is one message with everything a reader needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The rule that was broken.
    pub kind: FaultKind,
    /// What happened, with addresses and sizes.
    pub detail: String,
    /// Entry name.
    pub kernel: String,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index in the block.
    pub thread: [u32; 3],
    /// The instruction.
    pub at: CodePosition,
    /// The other side of a race.
    pub other: Option<OtherAccess>,
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [x, y, z]) = (self.block, self.thread);
        write!(
            f,
            "kernel `{}`, block ({bx},{by},{bz}), thread ({x},{y},{z}) at {}: {}",
            self.kernel, self.at, self.detail
        )?;
        if let Some(other) = &self.other {
            match other.thread {
                Some([x, y, z]) => write!(f, "; the other access: thread ({x},{y},{z})")?,
                None => write!(f, "; the other access: several threads of warp {}", other.warp)?,
            }
            write!(f, " at {}", other.at)?;
        }
        Ok(())
    }
}

/// Why a host call failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The kernel broke a rule.
    #[error(transparent)]
    Fault(Box<Fault>),
    /// The call itself is wrong: unknown entry, bad sizes, bad pointer, poisoned read.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The fault, when it is one.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            Self::Invalid(_) => None,
        }
    }
}

/// A fault as the interpreter sees it, before names and positions are attached.
#[derive(Debug)]
pub(crate) struct RawFault {
    pub kind: FaultKind,
    pub detail: String,
    pub lane: u32,
    /// Warp, lane and instruction of the other access.
    pub other: Option<(u32, Option<u32>, u32)>,
}

impl RawFault {
    #[cold]
    pub fn new(kind: FaultKind, lane: u32, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self { kind, detail: detail.into(), lane, other: None })
    }
}

/// Result of interpreter steps.
pub(crate) type Step<T = ()> = Result<T, Box<RawFault>>;
