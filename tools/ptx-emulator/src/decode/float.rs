//! Floating-point arithmetic.

use super::context::Context;
use super::integer::operands;
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Operand, Type};

type Result<T = ()> = std::result::Result<T, ParseError>;

/// Operation and flags of one instruction, before its type is looked at.
struct Shape {
    mode: FloatMode,
    /// `.approx` or `.full`: some precision may be lost, so any rounding is within the rules.
    approximate: bool,
    nan: bool,
    relu: bool,
}

pub(super) fn arithmetic<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let round = mods.round();
    let mode = FloatMode {
        round: round.unwrap_or(Round::Nearest),
        ftz: mods.take("ftz"),
        sat: mods.take("sat"),
    };
    let approximate = mods.take("approx") || mods.take("full");
    let shape = Shape { mode, approximate, nan: mods.take("NaN"), relu: mods.take("relu") };
    let ty = mods.ty()?;
    mods.finish()?;
    match ty {
        Type::F32 => single(cx, mods, ops, shape),
        Type::F64 => double(cx, mods, ops, shape),
        Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 => half(cx, mods, ops, shape, ty),
        _ => Err(mods.error("is not supported for this type")),
    }
}

fn binary_op(mods: &Modifiers<'_>, nan: bool) -> Option<FloatOp> {
    Some(match mods.base {
        "add" => FloatOp::Add,
        "sub" => FloatOp::Sub,
        "mul" => FloatOp::Mul,
        "div" => FloatOp::Div,
        "min" if nan => FloatOp::MinNan,
        "min" => FloatOp::Min,
        "max" if nan => FloatOp::MaxNan,
        "max" => FloatOp::Max,
        "copysign" => FloatOp::CopySign,
        _ => return None,
    })
}

fn unary_op(mods: &Modifiers<'_>) -> Option<FloatUnary> {
    Some(match mods.base {
        "neg" => FloatUnary::Neg,
        "abs" => FloatUnary::Abs,
        "sqrt" => FloatUnary::Sqrt,
        "rcp" => FloatUnary::Rcp,
        "rsqrt" => FloatUnary::Rsqrt,
        "ex2" => FloatUnary::Ex2,
        "lg2" => FloatUnary::Lg2,
        "sin" => FloatUnary::Sin,
        "cos" => FloatUnary::Cos,
        "tanh" => FloatUnary::Tanh,
        _ => return None,
    })
}

fn single<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &Modifiers<'a>,
    ops: &[Operand<'a>],
    shape: Shape,
) -> Result {
    let ty = Type::F32;
    let mode = shape.mode;
    if shape.relu {
        return Err(mods.error("has `.relu`, which f32 has not"));
    }
    if let Some(op) = binary_op(mods, shape.nan) {
        let [d, a, b] = operands(mods, ops)?;
        let (a, b, d) = (cx.source(a, ty)?, cx.source(b, ty)?, cx.target(d, ty)?);
        cx.emit(match mode == FloatMode::PLAIN {
            true => Op::F32 { op, d, a, b },
            false => Op::F32Mode { op, mode, d, a, b },
        });
        return Ok(());
    }
    if let Some(op) = unary_op(mods) {
        let [d, a] = operands(mods, ops)?;
        if mode.sat || (mode.round != Round::Nearest && !shape.approximate) {
            return Err(mods.error("has a rounding or saturation that is not supported"));
        }
        let (a, d) = (cx.source(a, ty)?, cx.target(d, ty)?);
        cx.emit(Op::F32Unary { op, ftz: mode.ftz, d, a });
        return Ok(());
    }
    let [d, a, b, c] = operands(mods, ops)?;
    let (a, b, c, d) = (cx.source(a, ty)?, cx.source(b, ty)?, cx.source(c, ty)?, cx.target(d, ty)?);
    cx.emit(match mode == FloatMode::PLAIN {
        true => Op::Fma32 { d, a, b, c },
        false => Op::Fma32Mode { mode, d, a, b, c },
    });
    Ok(())
}

fn double<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &Modifiers<'a>,
    ops: &[Operand<'a>],
    shape: Shape,
) -> Result {
    let ty = Type::F64;
    let approximate_only = matches!(mods.base, "ex2" | "lg2" | "sin" | "cos" | "tanh");
    if shape.mode.round != Round::Nearest
        || shape.mode.sat
        || shape.nan
        || shape.relu
        || approximate_only
    {
        return Err(mods.error("is supported for f64 only with rounding to nearest"));
    }
    if let Some(op) = binary_op(mods, false) {
        let [d, a, b] = operands(mods, ops)?;
        let (a, b, d) = (cx.source(a, ty)?, cx.source(b, ty)?, cx.target(d, ty)?);
        cx.emit(Op::F64 { op, d, a, b });
    } else if let Some(op) = unary_op(mods) {
        let [d, a] = operands(mods, ops)?;
        let (a, d) = (cx.source(a, ty)?, cx.target(d, ty)?);
        cx.emit(Op::F64Unary { op, d, a });
    } else {
        let [d, a, b, c] = operands(mods, ops)?;
        let (a, b, c, d) =
            (cx.source(a, ty)?, cx.source(b, ty)?, cx.source(c, ty)?, cx.target(d, ty)?);
        cx.emit(Op::Fma64 { d, a, b, c });
    }
    Ok(())
}

fn half<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &Modifiers<'a>,
    ops: &[Operand<'a>],
    shape: Shape,
    ty: Type,
) -> Result {
    let kind = HalfKind {
        format: if matches!(ty, Type::F16 | Type::F16x2) {
            HalfFormat::F16
        } else {
            HalfFormat::Bf16
        },
        packed: matches!(ty, Type::F16x2 | Type::Bf16x2),
        ftz: shape.mode.ftz,
        sat: shape.mode.sat,
        relu: shape.relu,
    };
    if shape.mode.round != Round::Nearest {
        return Err(mods.error("rounds halves to nearest only"));
    }
    let (op, count) = if let Some(op) = binary_op(mods, shape.nan) {
        (HalfOp::Binary(op), 2)
    } else if let Some(op) = unary_op(mods) {
        (HalfOp::Unary(op), 1)
    } else {
        (HalfOp::Fma, 3)
    };
    if ops.len() != count + 1 {
        return Err(mods.error(format!("takes {} operands, found {}", count + 1, ops.len())));
    }
    let d = cx.target32(&ops[0])?;
    let mut sources = [0; 3];
    for (slot, operand) in sources.iter_mut().zip(&ops[1..]) {
        *slot = cx.source32(operand, ty)?;
    }
    let [a, b, c] = sources;
    cx.emit(Op::Half { op, kind, d, a, b, c });
    Ok(())
}
