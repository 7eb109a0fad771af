//! The syntax tree of a module: what the text says, names of registers resolved, opcodes still text.

use std::collections::HashMap;

/// A fundamental type of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
}

impl Type {
    /// The type named by a modifier, without its dot.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    /// Size in bytes; a predicate has none.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Pred => 0,
            Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
            _ => 4,
        }
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    pub fn is_float(self) -> bool {
        matches!(
            self,
            Self::F16
                | Self::F16x2
                | Self::Bf16
                | Self::Bf16x2
                | Self::Tf32
                | Self::F32
                | Self::F64
        )
    }

    pub fn is_integer(self) -> bool {
        self != Self::Pred && !self.is_float()
    }
}

/// A register of one function: an index into [`Function::registers`].
pub(crate) type RegId = u32;

/// Where a variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A declared variable or parameter.
#[derive(Debug, Clone)]
pub(crate) struct Variable<'a> {
    pub name: &'a str,
    pub space: Space,
    pub align: u32,
    /// Bytes; 0 for an unsized `extern .shared` array.
    pub size: u32,
    pub init: Vec<u8>,
    pub line: u32,
}

/// An operand as written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand<'a> {
    Reg(RegId),
    NotReg(RegId),
    Special(&'a str),
    Int(u64),
    F32(u32),
    F64(u64),
    /// A variable, function or label, with a byte offset.
    Symbol(&'a str, i64),
    /// `[base + offset]`.
    Address(Box<Operand<'a>>, i64),
    /// `[base + offset, {coordinates}]`: an address (as above) of a tensor map, and coordinates.
    Tensor(Box<Operand<'a>>, Vec<Operand<'a>>),
    Vector(Vec<Operand<'a>>),
    /// `a|b`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `(a, b)` of a call.
    List(Vec<Operand<'a>>),
    /// `_`.
    Sink,
}

/// A source position from `.loc`, with the call it was inlined into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loc {
    pub file: u32,
    pub line: u32,
    pub column: u32,
    /// Index into [`Module::locs`].
    pub inlined_at: Option<u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct Instruction<'a> {
    /// Predicate register and whether it is negated.
    pub guard: Option<(RegId, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    pub line: u32,
    /// Index into [`Module::locs`].
    pub loc: Option<u32>,
}

#[derive(Debug, Clone)]
pub(crate) enum Statement<'a> {
    Label(&'a str),
    Instruction(Instruction<'a>),
    /// `{` and `}`: labels between them are known there only.
    Open,
    Close,
}

#[derive(Debug, Clone)]
pub(crate) struct Function<'a> {
    pub name: &'a str,
    pub is_entry: bool,
    pub line: u32,
    pub results: Vec<Variable<'a>>,
    pub params: Vec<Variable<'a>>,
    pub registers: Vec<Type>,
    /// Shared, local and call-parameter variables of the body.
    pub variables: Vec<Variable<'a>>,
    /// `.branchtargets` lists by label.
    pub branch_targets: HashMap<&'a str, Vec<&'a str>>,
    pub body: Vec<Statement<'a>>,
    /// Threads per block from `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// Threads per block from `.maxntid`.
    pub max_threads: Option<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Module<'a> {
    pub target: &'a str,
    pub files: HashMap<u32, &'a str>,
    pub locs: Vec<Loc>,
    pub variables: Vec<Variable<'a>>,
    pub functions: Vec<Function<'a>>,
}
