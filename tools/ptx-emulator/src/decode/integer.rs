//! Integer arithmetic, bit fields.

use super::context::{CARRY, Context};
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Operand, Type};

type Result<T = ()> = std::result::Result<T, ParseError>;

/// Sources of 16-bit arithmetic, widened to 32 bits.
fn widened<'a>(cx: &mut Context<'_, '_, 'a>, operand: &Operand<'a>, ty: Type) -> Result<Slot> {
    let slot = cx.source(operand, ty)?;
    if ty != Type::S16 {
        return Ok(slot);
    }
    let wide = cx.temp32();
    cx.emit(Op::IntUnary32 { op: IntUnary::Sext16, d: wide, a: slot });
    Ok(wide)
}

/// Cuts the result of 16-bit arithmetic.
fn narrowed(cx: &mut Context<'_, '_, '_>, d: Slot, ty: Type) {
    if ty.bytes() == 2 {
        cx.emit(Op::IntUnary32 { op: IntUnary::Zext16, d, a: d });
    }
}

fn emit_binary(cx: &mut Context<'_, '_, '_>, op: IntOp, ty: Type, d: Slot, a: Slot, b: Slot) {
    cx.emit(if ty.bytes() == 8 { Op::Int64 { op, d, a, b } } else { Op::Int32 { op, d, a, b } });
    narrowed(cx, d, ty);
}

pub(super) fn operands<'o, 'a, const N: usize>(
    mods: &Modifiers<'a>,
    ops: &'o [Operand<'a>],
) -> Result<&'o [Operand<'a>; N]> {
    ops.try_into().map_err(|_| mods.error(format!("takes {N} operands, found {}", ops.len())))
}

pub(super) fn binary<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let carry_out = mods.take("cc");
    let saturate = mods.take("sat");
    let ty = mods.ty()?;
    mods.finish()?;
    let [d, a, b] = operands(mods, ops)?;
    if ty == Type::Pred {
        let op = match mods.base {
            "and" => PredOp::And,
            "or" => PredOp::Or,
            "xor" => PredOp::Xor,
            _ => return Err(mods.error("does not work on predicates")),
        };
        let (a, b, d) = (cx.plain_pred(a)?, cx.plain_pred(b)?, cx.target_pred(d)?);
        cx.emit(Op::Pred { op, d, a, b });
        return Ok(());
    }
    if ty.bytes() == 1 {
        return Err(mods.error("does not work on bytes"));
    }
    let signed = ty.is_signed();
    let op = match (mods.base, signed) {
        ("add", true) if saturate && ty == Type::S32 => IntOp::AddSat,
        ("sub", true) if saturate && ty == Type::S32 => IntOp::SubSat,
        _ if saturate => return Err(mods.error("saturates only for s32")),
        ("add", _) => IntOp::Add,
        ("sub", _) => IntOp::Sub,
        ("div", true) => IntOp::DivS,
        ("div", false) => IntOp::DivU,
        ("rem", true) => IntOp::RemS,
        ("rem", false) => IntOp::RemU,
        ("min", true) => IntOp::MinS,
        ("min", false) => IntOp::MinU,
        ("max", true) => IntOp::MaxS,
        ("max", false) => IntOp::MaxU,
        ("and", _) => IntOp::And,
        ("or", _) => IntOp::Or,
        ("xor", _) => IntOp::Xor,
        ("shl", _) => IntOp::Shl,
        ("shr", true) => IntOp::ShrS,
        _ => IntOp::ShrU,
    };
    let shift = matches!(op, IntOp::Shl | IntOp::ShrU | IntOp::ShrS);
    let a = widened(cx, a, ty)?;
    let b = if shift { cx.source32(b, Type::U32)? } else { widened(cx, b, ty)? };
    let d = cx.target(d, ty)?;
    if carry_out {
        return emit_carry(cx, mods, ty, (d, a, b), false, true);
    }
    emit_binary(cx, op, ty, d, a, b);
    Ok(())
}

pub(super) fn carry<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let set = mods.take("cc");
    let ty = mods.ty()?;
    mods.finish()?;
    let [d, a, b] = operands(mods, ops)?;
    let registers = (cx.target(d, ty)?, cx.source(a, ty)?, cx.source(b, ty)?);
    emit_carry(cx, mods, ty, registers, true, set)
}

fn emit_carry(
    cx: &mut Context<'_, '_, '_>,
    mods: &Modifiers<'_>,
    ty: Type,
    (d, a, b): (Slot, Slot, Slot),
    take: bool,
    set: bool,
) -> Result {
    debug_assert_eq!(CARRY, 0);
    let subtract = mods.base.starts_with("sub");
    match (ty.bytes(), mods.base) {
        (4, "add" | "sub" | "addc" | "subc") => {
            cx.emit(Op::Carry32 { d, a, b, take, set, subtract })
        }
        (8, "add" | "sub" | "addc" | "subc") => {
            cx.emit(Op::Carry64 { d, a, b, take, set, subtract })
        }
        _ => return Err(mods.error("has no form with a carry")),
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Lo,
    Hi,
    Wide,
}

/// `mul`, `mad`, `sad` on integers.
pub(super) fn product<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    if mods.base == "sad" {
        return sad(cx, mods, ops);
    }
    let part = mods.require(&[("lo", Part::Lo), ("hi", Part::Hi), ("wide", Part::Wide)])?;
    let ty = mods.ty()?;
    mods.finish()?;
    let signed = ty.is_signed();
    let with_sum = mods.base == "mad";
    let expected = if with_sum { 4 } else { 3 };
    if ops.len() != expected {
        return Err(mods.error(format!("takes {expected} operands, found {}", ops.len())));
    }
    let (a, b) = (widened(cx, &ops[1], ty)?, widened(cx, &ops[2], ty)?);
    let result = match (part, ty.bytes()) {
        (Part::Wide, 4) => Type::U64,
        (Part::Wide, 2) => Type::U32,
        (Part::Wide, _) => return Err(mods.error("is too wide")),
        _ => ty,
    };
    let d = cx.target(&ops[0], result)?;
    let c = if with_sum { Some(widened(cx, &ops[3], result)?) } else { None };
    match (part, ty.bytes(), c) {
        (Part::Wide, 4, None) => cx.emit(Op::MulWide { signed, d, a, b }),
        (Part::Wide, 4, Some(c)) => cx.emit(Op::MadWide { signed, d, a, b, c }),
        (Part::Lo, 4, Some(c)) | (Part::Wide, 2, Some(c)) => cx.emit(Op::Mad32 { d, a, b, c }),
        (Part::Lo, 8, Some(c)) => cx.emit(Op::Mad64 { d, a, b, c }),
        (Part::Lo, 2, Some(c)) => {
            cx.emit(Op::Mad32 { d, a, b, c });
            narrowed(cx, d, ty);
        }
        (Part::Hi, 2, _) => return Err(mods.error("is not supported for 16 bits")),
        (Part::Hi, _, c) => {
            let op = if signed { IntOp::MulHiS } else { IntOp::MulHiU };
            let high = match c {
                None => d,
                Some(_) if ty.bytes() == 8 => cx.temp64(),
                Some(_) => cx.temp32(),
            };
            emit_binary(cx, op, ty, high, a, b);
            if let Some(c) = c {
                emit_binary(cx, IntOp::Add, ty, d, high, c);
            }
        }
        (_, _, None) => emit_binary(cx, IntOp::Mul, result, d, a, b),
        _ => return Err(mods.error("is not supported")),
    }
    Ok(())
}

/// `d = c + |a - b|`.
fn sad<'a>(cx: &mut Context<'_, '_, 'a>, mods: &mut Modifiers<'a>, ops: &[Operand<'a>]) -> Result {
    let ty = mods.ty()?;
    mods.finish()?;
    let [d, a, b, c] = operands(mods, ops)?;
    if ty.bytes() != 4 {
        return Err(mods.error("is supported for 32 bits only"));
    }
    let (a, b, c, d) = (cx.source(a, ty)?, cx.source(b, ty)?, cx.source(c, ty)?, cx.target(d, ty)?);
    let (low, high) = (cx.temp32(), cx.temp32());
    let (min, max) =
        if ty.is_signed() { (IntOp::MinS, IntOp::MaxS) } else { (IntOp::MinU, IntOp::MaxU) };
    emit_binary(cx, min, ty, low, a, b);
    emit_binary(cx, max, ty, high, a, b);
    emit_binary(cx, IntOp::Sub, ty, high, high, low);
    emit_binary(cx, IntOp::Add, ty, d, high, c);
    Ok(())
}

pub(super) fn unary<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let shift_amount = mods.take("shiftamt");
    let ty = mods.ty()?;
    mods.finish()?;
    let [d, a] = operands(mods, ops)?;
    if ty == Type::Pred {
        let (a, d, all) = (cx.plain_pred(a)?, cx.target_pred(d)?, cx.all_lanes());
        cx.emit(Op::Pred { op: PredOp::AndNot, d, a: all, b: a });
        return Ok(());
    }
    let op = match (mods.base, ty.is_signed()) {
        ("not", _) => IntUnary::Not,
        ("neg", _) => IntUnary::Neg,
        ("abs", _) => IntUnary::Abs,
        ("popc", _) => IntUnary::Popc,
        ("clz", _) => IntUnary::Clz,
        ("brev", _) => IntUnary::Brev,
        ("bfind", true) if shift_amount => IntUnary::BfindShiftS,
        ("bfind", false) if shift_amount => IntUnary::BfindShiftU,
        ("bfind", true) => IntUnary::BfindS,
        ("bfind", false) => IntUnary::BfindU,
        _ => return Err(mods.error("is not supported")),
    };
    let counts = matches!(mods.base, "popc" | "clz" | "bfind");
    let a = widened(cx, a, ty)?;
    let d = cx.target(d, if counts { Type::U32 } else { ty })?;
    cx.emit(if ty.bytes() == 8 {
        Op::IntUnary64 { op, d, a }
    } else {
        Op::IntUnary32 { op, d, a }
    });
    narrowed(cx, d, if counts { Type::U32 } else { ty });
    Ok(())
}

/// Bit fields, three-input logic, byte permutation, funnel shifts, dot products of bytes.
#[expect(clippy::too_many_lines, reason = "an arm for each instruction")]
pub(super) fn fields<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    match mods.base {
        "bfe" => {
            let ty = mods.ty()?;
            let [d, a, b, c] = operands(mods, ops)?;
            let (d, a) = (cx.target(d, ty)?, cx.source(a, ty)?);
            let (b, c) = (cx.source32(b, Type::U32)?, cx.source32(c, Type::U32)?);
            let signed = ty.is_signed();
            cx.emit(if ty.bytes() == 8 {
                Op::Bfe64 { signed, d, a, b, c }
            } else {
                Op::Bfe32 { signed, d, a, b, c }
            });
        }
        "bfi" => {
            let ty = mods.ty()?;
            let [d, a, b, c, e] = operands(mods, ops)?;
            let (d, a, b) = (cx.target(d, ty)?, cx.source(a, ty)?, cx.source(b, ty)?);
            let (c, e) = (cx.source32(c, Type::U32)?, cx.source32(e, Type::U32)?);
            cx.emit(if ty.bytes() == 8 {
                Op::Bfi64 { d, a, b, c, e }
            } else {
                Op::Bfi32 { d, a, b, c, e }
            });
        }
        "lop3" => {
            let ty = mods.ty()?;
            let [d, a, b, c, table] = operands(mods, ops)?;
            let Operand::Int(table @ 0..=255) = table else {
                return Err(mods.error("needs an 8-bit constant table"));
            };
            let table = *table as u8;
            let (d, a, b, c) =
                (cx.target(d, ty)?, cx.source(a, ty)?, cx.source(b, ty)?, cx.source(c, ty)?);
            cx.emit(Op::Lop3 { d, a, b, c, table });
        }
        "prmt" => {
            let ty = mods.ty()?;
            let [d, a, b, c] = operands(mods, ops)?;
            let (d, a, b, c) =
                (cx.target(d, ty)?, cx.source(a, ty)?, cx.source(b, ty)?, cx.source(c, ty)?);
            cx.emit(Op::Prmt { d, a, b, c });
        }
        "shf" => {
            let left = mods.require(&[("l", true), ("r", false)])?;
            let clamp = mods.require(&[("clamp", true), ("wrap", false)])?;
            let ty = mods.ty()?;
            let [d, a, b, c] = operands(mods, ops)?;
            let (d, a, b, c) =
                (cx.target(d, ty)?, cx.source(a, ty)?, cx.source(b, ty)?, cx.source(c, ty)?);
            cx.emit(Op::Funnel { left, clamp, d, a, b, c });
        }
        _ => {
            let a_signed = mods.ty()? == Type::S32;
            let b_signed = mods.ty()? == Type::S32;
            let [d, a, b, c] = operands(mods, ops)?;
            let ty = Type::B32;
            let (d, a, b, c) =
                (cx.target(d, ty)?, cx.source(a, ty)?, cx.source(b, ty)?, cx.source(c, ty)?);
            cx.emit(Op::DotBytes { a_signed, b_signed, d, a, b, c });
        }
    }
    mods.finish()
}
