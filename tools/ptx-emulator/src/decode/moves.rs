//! Moves, conversions, comparisons, selection.

use super::context::Context;
use super::integer::operands;
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ptx::ParseError;
use crate::ptx::ast::{Operand, Type};

type Result<T = ()> = std::result::Result<T, ParseError>;

pub(super) fn mov<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let ty = mods.ty()?;
    mods.finish()?;
    let [d, a] = operands(mods, ops)?;
    match (d, a) {
        (Operand::Vector(parts), _) => return unpack(cx, mods, parts, a, ty),
        (_, Operand::Vector(parts)) => return pack(cx, mods, d, parts, ty),
        _ => {}
    }
    if ty == Type::Pred {
        let (a, d) = (cx.plain_pred(a)?, cx.target_pred(d)?);
        cx.emit(Op::Pred { op: PredOp::And, d, a, b: a });
        return Ok(());
    }
    let (a, d) = (cx.source(a, ty)?, cx.target(d, ty)?);
    cx.emit(if ty.bytes() == 8 { Op::Mov64 { d, a } } else { Op::Mov32 { d, a } });
    Ok(())
}

/// `mov.b64 d, {lo, hi}` and its narrower forms.
fn pack<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &Modifiers<'a>,
    d: &Operand<'a>,
    parts: &[Operand<'a>],
    ty: Type,
) -> Result {
    match (ty.bytes(), parts) {
        (8, [lo, hi]) => {
            let (lo, hi, d) =
                (cx.source32(lo, Type::B32)?, cx.source32(hi, Type::B32)?, cx.target64(d)?);
            cx.emit(Op::Pack64 { d, lo, hi });
        }
        (8, [a, b, c, e]) => {
            let (lo, hi) = (join_halves(cx, a, b)?, join_halves(cx, c, e)?);
            let d = cx.target64(d)?;
            cx.emit(Op::Pack64 { d, lo, hi });
        }
        (4, [lo, hi]) => {
            let joined = join_halves(cx, lo, hi)?;
            let d = cx.target32(d)?;
            cx.emit(Op::Mov32 { d, a: joined });
        }
        _ => return Err(mods.error(format!("with {} parts is not supported", parts.len()))),
    }
    Ok(())
}

fn join_halves<'a>(
    cx: &mut Context<'_, '_, 'a>,
    lo: &Operand<'a>,
    hi: &Operand<'a>,
) -> Result<Slot> {
    let (lo, hi) = (cx.source32(lo, Type::B16)?, cx.source32(hi, Type::B16)?);
    let joined = cx.temp32();
    let sixteen = cx.constant32(Constant::Bits(16));
    cx.emit(Op::Bfi32 { d: joined, a: hi, b: lo, c: sixteen, e: sixteen });
    Ok(joined)
}

fn unpack<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &Modifiers<'a>,
    parts: &[Operand<'a>],
    a: &Operand<'a>,
    ty: Type,
) -> Result {
    match (ty.bytes(), parts) {
        (8, [lo, hi]) => {
            let (a, lo, hi) = (cx.source64(a, ty)?, cx.target32(lo)?, cx.target32(hi)?);
            cx.emit(Op::Unpack64 { lo, hi, a });
        }
        (8, [a0, a1, a2, a3]) => {
            let (a, lo, hi) = (cx.source64(a, ty)?, cx.temp32(), cx.temp32());
            cx.emit(Op::Unpack64 { lo, hi, a });
            split_halves(cx, a0, a1, lo)?;
            split_halves(cx, a2, a3, hi)?;
        }
        (4, [lo, hi]) => {
            let a = cx.source32(a, ty)?;
            let copy = cx.temp32();
            cx.emit(Op::Mov32 { d: copy, a });
            split_halves(cx, lo, hi, copy)?;
        }
        _ => return Err(mods.error(format!("with {} parts is not supported", parts.len()))),
    }
    Ok(())
}

fn split_halves<'a>(
    cx: &mut Context<'_, '_, 'a>,
    lo: &Operand<'a>,
    hi: &Operand<'a>,
    a: Slot,
) -> Result {
    let (lo, hi) = (cx.target32(lo)?, cx.target32(hi)?);
    let sixteen = cx.constant32(Constant::Bits(16));
    cx.emit(Op::IntUnary32 { op: IntUnary::Zext16, d: lo, a });
    cx.emit(Op::Int32 { op: IntOp::ShrU, d: hi, a, b: sixteen });
    Ok(())
}

pub(super) fn cvt<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let integral_round = mods.round_integer();
    let round = mods.round();
    let mode = FloatMode {
        round: integral_round.or(round).unwrap_or(Round::Nearest),
        ftz: mods.take("ftz"),
        sat: mods.take("sat"),
    };
    let (relu, satfinite) = (mods.take("relu"), mods.take("satfinite"));
    let (to, from) = (mods.ty()?, mods.ty()?);
    mods.finish()?;
    let integral = integral_round.is_some() && to.is_float();
    let convert = Convert { to, from, mode, integral, relu, satfinite };
    if matches!(to, Type::F16x2 | Type::Bf16x2) {
        let [d, a, b] = operands(mods, ops)?;
        if from != Type::F32 {
            return Err(mods.error("is supported from f32 only"));
        }
        let to = if to == Type::F16x2 { Type::F16 } else { Type::Bf16 };
        let index = cx.convert_index(Convert { to, ..convert });
        let (a, b, d) = (cx.source32(a, from)?, cx.source32(b, from)?, cx.target32(d)?);
        cx.emit(Op::ConvertPair { index, d, a, b });
        return Ok(());
    }
    let [d, a] = operands(mods, ops)?;
    if to == Type::Pred
        || from == Type::Pred
        || from == Type::Tf32
        || (to == Type::Tf32 && from != Type::F32)
    {
        return Err(mods.error("is not a conversion that is supported"));
    }
    // Narrow conversions may name wider registers (`cvt.u8.u32 %rs, %r` or `cvt.u32.u16 %r, %r`).
    let a = match cx.is_wide(a) && from.bytes() < 8 {
        true => {
            let (wide, low) = (cx.source64(a, Type::U64)?, cx.temp32());
            cx.emit(Op::Truncate { d: low, a: wide });
            low
        }
        false => cx.source(a, from)?,
    };
    let wide_target = cx.is_wide(d) && to.bytes() < 8;
    let target = if wide_target { cx.temp32() } else { cx.target(d, to)? };
    emit_convert(cx, convert, target, a);
    // A signed result fills the whole of a wider register.
    let register = cx.register_type(d).map_or(4, Type::bytes);
    if to.is_signed() && to.bytes() < register.min(4) {
        let op = if to.bytes() == 1 { IntUnary::Sext8 } else { IntUnary::Sext16 };
        cx.emit(Op::IntUnary32 { op, d: target, a: target });
        if register == 2 {
            cx.emit(Op::IntUnary32 { op: IntUnary::Zext16, d: target, a: target });
        }
    }
    if wide_target {
        let d = cx.target64(d)?;
        cx.emit(Op::Widen { d, a: target, signed: to.is_signed() });
    }
    Ok(())
}

/// Common integer conversions have operations of their own.
fn emit_convert(cx: &mut Context<'_, '_, '_>, convert: Convert, d: Slot, a: Slot) {
    let Convert { to, from, mode, .. } = convert;
    if to.is_integer() && from.is_integer() && !mode.sat {
        match (to.bytes(), from.bytes()) {
            (8, 8) => return cx.emit(Op::Mov64 { d, a }),
            (4, 8) => return cx.emit(Op::Truncate { d, a }),
            (8, 4) => return cx.emit(Op::Widen { d, a, signed: from.is_signed() }),
            (4, 4) => return cx.emit(Op::Mov32 { d, a }),
            (2 | 4, 1 | 2) if !from.is_signed() => {
                let op = if from.bytes() == 1 { IntUnary::Zext8 } else { IntUnary::Zext16 };
                return cx.emit(Op::IntUnary32 { op, d, a });
            }
            (4, 1 | 2) => {
                let op = if from.bytes() == 1 { IntUnary::Sext8 } else { IntUnary::Sext16 };
                return cx.emit(Op::IntUnary32 { op, d, a });
            }
            _ => {}
        }
    }
    let index = cx.convert_index(convert);
    cx.emit(Op::Convert { index, d, a });
}

pub(super) fn cvta<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let to = mods.take("to");
    mods.ignore(&["u64"]);
    let window = mods.require(&[
        ("global", 0),
        ("const", 0),
        ("shared", SHARED_WINDOW),
        ("shared::cta", SHARED_WINDOW),
        ("shared::cluster", SHARED_WINDOW),
        ("local", LOCAL_WINDOW),
        ("param", PARAM_WINDOW),
        ("param::entry", PARAM_WINDOW),
    ])?;
    mods.finish()?;
    let [d, a] = operands(mods, ops)?;
    let (a, d) = (cx.source64(a, Type::U64)?, cx.target64(d)?);
    if window == 0 {
        cx.emit(Op::Mov64 { d, a });
        return Ok(());
    }
    let b = cx.constant64(Constant::Bits(window));
    cx.emit(Op::Int64 { op: if to { IntOp::Sub } else { IntOp::Add }, d, a, b });
    Ok(())
}

pub(super) fn isspacep<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let space = mods.require(&[
        ("global", Where::Global),
        ("shared", Where::Shared),
        ("shared::cta", Where::Shared),
        ("shared::cluster", Where::Shared),
        ("local", Where::Local),
        ("param", Where::Param),
        ("param::entry", Where::Param),
    ])?;
    mods.finish()?;
    let [d, a] = operands(mods, ops)?;
    let (a, d) = (cx.source64(a, Type::U64)?, cx.target_pred(d)?);
    cx.emit(Op::IsSpace { d, a, space });
    Ok(())
}

const COMPARISONS: [(&str, Cmp); 18] = [
    ("eq", Cmp::Eq),
    ("ne", Cmp::Ne),
    ("lt", Cmp::Lt),
    ("le", Cmp::Le),
    ("gt", Cmp::Gt),
    ("ge", Cmp::Ge),
    ("lo", Cmp::Lt),
    ("ls", Cmp::Le),
    ("hi", Cmp::Gt),
    ("hs", Cmp::Ge),
    ("equ", Cmp::Equ),
    ("neu", Cmp::Neu),
    ("ltu", Cmp::Ltu),
    ("leu", Cmp::Leu),
    ("gtu", Cmp::Gtu),
    ("geu", Cmp::Geu),
    ("num", Cmp::Num),
    ("nan", Cmp::Nan),
];

/// Emits a comparison of `a` and `b` into predicate `d`.
fn compare<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &Modifiers<'a>,
    (cmp, ty, ftz): (Cmp, Type, bool),
    d: Slot,
    a: &Operand<'a>,
    b: &Operand<'a>,
) -> Result {
    let (mut a, mut b) = (cx.source(a, ty)?, cx.source(b, ty)?);
    let signed = ty.is_signed();
    match ty {
        Type::F32 => cx.emit(Op::CmpF32 { cmp, ftz, d, a, b }),
        Type::F64 => cx.emit(Op::CmpF64 { cmp, d, a, b }),
        Type::F16 | Type::Bf16 => {
            let convert = Convert {
                to: Type::F32,
                from: ty,
                mode: FloatMode::PLAIN,
                integral: false,
                relu: false,
                satfinite: false,
            };
            let index = cx.convert_index(convert);
            for operand in [&mut a, &mut b] {
                let wide = cx.temp32();
                cx.emit(Op::Convert { index, d: wide, a: *operand });
                *operand = wide;
            }
            cx.emit(Op::CmpF32 { cmp, ftz: false, d, a, b });
        }
        Type::S16 => {
            for operand in [&mut a, &mut b] {
                let wide = cx.temp32();
                cx.emit(Op::IntUnary32 { op: IntUnary::Sext16, d: wide, a: *operand });
                *operand = wide;
            }
            cx.emit(Op::CmpI32 { cmp, signed, d, a, b });
        }
        _ if !ty.is_integer() || ty.bytes() == 1 => {
            return Err(mods.error("compares a type that is not supported"));
        }
        _ if ty.bytes() == 8 => cx.emit(Op::CmpI64 { cmp, signed, d, a, b }),
        _ => cx.emit(Op::CmpI32 { cmp, signed, d, a, b }),
    }
    Ok(())
}

pub(super) fn setp<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let cmp = mods.require(&COMPARISONS)?;
    let combine = mods.choose(&[("and", PredOp::And), ("or", PredOp::Or), ("xor", PredOp::Xor)]);
    let ftz = mods.take("ftz");
    let ty = mods.ty()?;
    mods.finish()?;
    let expected = if combine.is_some() { 4 } else { 3 };
    if ops.len() != expected {
        return Err(mods.error(format!("takes {expected} operands, found {}", ops.len())));
    }
    let (p, q) = match &ops[0] {
        Operand::Pair(p, q) => (cx.target_pred(p)?, Some(cx.target_pred(q)?)),
        p => (cx.target_pred(p)?, None),
    };
    if combine.is_none() && q.is_none() {
        return compare(cx, mods, (cmp, ty, ftz), p, &ops[1], &ops[2]);
    }
    let plain = cx.temp_pred();
    compare(cx, mods, (cmp, ty, ftz), plain, &ops[1], &ops[2])?;
    let all = cx.all_lanes();
    let complement = cx.temp_pred();
    cx.emit(Op::Pred { op: PredOp::AndNot, d: complement, a: all, b: plain });
    let other = match combine {
        Some(_) => cx.plain_pred(&ops[3])?,
        None => all,
    };
    let op = combine.unwrap_or(PredOp::And);
    // The second result combines the complement of the comparison; write it first, `other` may be `p`.
    let held = cx.temp_pred();
    cx.emit(Op::Pred { op, d: held, a: plain, b: other });
    if let Some(q) = q {
        cx.emit(Op::Pred { op, d: q, a: complement, b: other });
    }
    cx.emit(Op::Pred { op: PredOp::And, d: p, a: held, b: held });
    Ok(())
}

/// `set`: all ones (or 1.0) where the comparison holds.
pub(super) fn set<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let cmp = mods.require(&COMPARISONS)?;
    let ftz = mods.take("ftz");
    let (to, from) = (mods.ty()?, mods.ty()?);
    mods.finish()?;
    let [d, a, b] = operands(mods, ops)?;
    let yes = match to {
        Type::F32 => u64::from(1f32.to_bits()),
        Type::U32 | Type::S32 => u64::from(u32::MAX),
        _ => return Err(mods.error("is not supported for this result")),
    };
    let p = cx.temp_pred();
    compare(cx, mods, (cmp, from, ftz), p, a, b)?;
    let (yes, no) = (cx.constant32(Constant::Bits(yes)), cx.constant32(Constant::Bits(0)));
    let d = cx.target32(d)?;
    cx.emit(Op::Select32 { d, a: yes, b: no, p });
    Ok(())
}

fn emit_select(cx: &mut Context<'_, '_, '_>, ty: Type, d: Slot, a: Slot, b: Slot, p: Slot) {
    cx.emit(if ty.bytes() == 8 {
        Op::Select64 { d, a, b, p }
    } else {
        Op::Select32 { d, a, b, p }
    });
}

pub(super) fn selp<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let ty = mods.ty()?;
    mods.finish()?;
    let [d, a, b, p] = operands(mods, ops)?;
    let (a, b, d) = (cx.source(a, ty)?, cx.source(b, ty)?, cx.target(d, ty)?);
    let (p, negated) = cx.source_pred(p)?;
    let (a, b) = if negated { (b, a) } else { (a, b) };
    emit_select(cx, ty, d, a, b, p);
    Ok(())
}

/// `d = c >= 0 ? a : b`.
pub(super) fn slct<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let ftz = mods.take("ftz");
    let (ty, by) = (mods.ty()?, mods.ty()?);
    mods.finish()?;
    let [d, a, b, c] = operands(mods, ops)?;
    let p = cx.temp_pred();
    let zero = if by == Type::F32 { Operand::F32(0) } else { Operand::Int(0) };
    compare(cx, mods, (Cmp::Ge, by, ftz), p, c, &zero)?;
    let (a, b, d) = (cx.source(a, ty)?, cx.source(b, ty)?, cx.target(d, ty)?);
    emit_select(cx, ty, d, a, b, p);
    Ok(())
}

/// Properties of f32 values.
pub(super) fn testp<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let cmp = mods.require(&[
        ("finite", Cmp::Lt),
        ("infinite", Cmp::Eq),
        ("number", Cmp::Num),
        ("notanumber", Cmp::Nan),
    ])?;
    let ty = mods.ty()?;
    mods.finish()?;
    let [d, a] = operands(mods, ops)?;
    if ty != Type::F32 {
        return Err(mods.error("is supported for f32 only"));
    }
    let (a, d, magnitude) = (cx.source32(a, ty)?, cx.target_pred(d)?, cx.temp32());
    cx.emit(Op::F32Unary { op: FloatUnary::Abs, ftz: false, d: magnitude, a });
    let infinity = cx.constant32(Constant::Bits(u64::from(f32::INFINITY.to_bits())));
    cx.emit(Op::CmpF32 { cmp, ftz: false, d, a: magnitude, b: infinity });
    Ok(())
}
