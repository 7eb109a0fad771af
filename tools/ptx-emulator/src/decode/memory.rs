//! Loads, stores, atomics, asynchronous copies.

use super::context::Context;
use super::integer::operands;
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Operand, Type};

type Result<T = ()> = std::result::Result<T, ParseError>;

#[derive(Clone, Copy, PartialEq)]
enum Target {
    At(Where),
    Param,
}

/// Removes everything that says how fast or in which order, and finds the space.
fn space(mods: &mut Modifiers<'_>) -> Target {
    mods.ignore(&[
        "volatile", "relaxed", "acquire", "release", "acq_rel", "weak", "mmio", "cta", "cluster",
        "gpu", "sys", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "unified", "noftz",
    ]);
    mods.ignore_prefixes(&["L1::", "L2::", "level::"]);
    let choices = [
        ("global", Target::At(Where::Global)),
        ("const", Target::At(Where::Global)),
        ("shared", Target::At(Where::Shared)),
        ("shared::cta", Target::At(Where::Shared)),
        ("shared::cluster", Target::At(Where::Shared)),
        ("local", Target::At(Where::Local)),
        ("param", Target::Param),
        ("param::entry", Target::Param),
        ("param::func", Target::Param),
    ];
    mods.choose(&choices).unwrap_or(Target::At(Where::Generic))
}

fn elements<'o, 'a>(
    mods: &mut Modifiers<'a>,
    operand: &'o Operand<'a>,
) -> Result<&'o [Operand<'a>]> {
    let count = mods.choose(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    let items = match operand {
        Operand::Vector(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    if items.len() != count {
        return Err(mods.error(format!("moves {count} elements but names {}", items.len())));
    }
    Ok(items)
}

/// Remembers the smallest access that can reach shared memory.
fn note_shared(cx: &mut Context<'_, '_, '_>, space: Where, bytes: u32) {
    if matches!(space, Where::Shared | Where::Generic) {
        let granule = &mut cx.program.kernel.shared_granule;
        *granule = (*granule).min(bytes);
    }
}

/// A parameter: its offset, and whether it belongs to the entry.
fn parameter<'a>(cx: &Context<'_, '_, 'a>, operand: &Operand<'a>) -> Result<(u32, bool)> {
    let Operand::Address(base, offset) = operand else {
        return Err(cx.error("expected a parameter in brackets"));
    };
    let Operand::Symbol(name, _) = &**base else {
        return Err(
            cx.error("parameters must be addressed by name: index them with constants only")
        );
    };
    let (start, entry) = match cx.frame_offset(name) {
        Some(start) => (start, false),
        None if cx.function.is_entry => match cx.program.entry_params.get(name) {
            Some(start) => (*start, true),
            None => return Err(cx.error(format!("`{name}` is not a parameter"))),
        },
        None => return Err(cx.error(format!("`{name}` is not a parameter"))),
    };
    Ok(((i64::from(start) + offset) as u32, entry))
}

fn small(cx: &Context<'_, '_, '_>, offset: u32) -> Result<u16> {
    u16::try_from(offset).map_err(|_| cx.error("a parameter offset above 64 KiB"))
}

pub(super) fn load<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    // A cache-policy operand may follow the others; it changes no value.
    let ops = if mods.take("L2::cache_hint") { ops.get(..2).unwrap_or(ops) } else { ops };
    let target = space(mods);
    let [to, from] = operands(mods, ops)?;
    let items = elements(mods, to)?;
    let ty = mods.ty()?;
    mods.finish()?;
    let (bytes, signed) = (ty.bytes() as u8, ty.is_signed());
    // A parameter indexed at run time is read through its address.
    let by_register =
        matches!(from, Operand::Address(base, _) if matches!(**base, Operand::Reg(_)));
    let target = match target {
        Target::Param if by_register => Target::At(Where::Param),
        target => target,
    };
    match target {
        Target::Param => {
            let (start, entry) = parameter(cx, from)?;
            for (index, item) in items.iter().enumerate() {
                let wide = cx.is_wide(item);
                let d = if wide { cx.target64(item)? } else { cx.target32(item)? };
                let offset = small(cx, start + index as u32 * ty.bytes())?;
                cx.emit(match entry {
                    true => Op::LoadParam { d, offset, bytes, signed, wide },
                    false => Op::LoadFrame { d, offset, bytes, signed, wide },
                });
            }
        }
        Target::At(space) => {
            let address = cx.address(from)?;
            let wide = items.iter().any(|i| cx.is_wide(i)) || ty.bytes() == 8;
            let slots = items
                .iter()
                .map(|i| if wide { cx.target64(i) } else { cx.target32(i) })
                .collect::<Result<Vec<_>>>()?;
            note_shared(cx, space, ty.bytes());
            let (count, registers) = (items.len() as u8, cx.operand_list(slots));
            cx.emit(Op::Load(Access { space, bytes, count, signed, wide, registers, address }));
        }
    }
    Ok(())
}

pub(super) fn store<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let ops = if mods.take("L2::cache_hint") { ops.get(..2).unwrap_or(ops) } else { ops };
    let target = space(mods);
    let [to, from] = operands(mods, ops)?;
    let items = elements(mods, from)?;
    let ty = mods.ty()?;
    mods.finish()?;
    let bytes = ty.bytes() as u8;
    match target {
        Target::Param => {
            let (start, entry) = parameter(cx, to)?;
            if entry {
                return Err(mods.error("writes a parameter of the kernel"));
            }
            for (index, item) in items.iter().enumerate() {
                let wide = cx.is_wide(item) || ty.bytes() == 8;
                let a = if wide { cx.source64(item, ty)? } else { cx.source32(item, ty)? };
                let offset = small(cx, start + index as u32 * ty.bytes())?;
                cx.emit(Op::StoreFrame { a, offset, bytes, wide });
            }
        }
        Target::At(space) => {
            let address = cx.address(to)?;
            let wide = items.iter().any(|i| cx.is_wide(i)) || ty.bytes() == 8;
            let slots = items
                .iter()
                .map(|i| if wide { cx.source64(i, ty) } else { cx.source32(i, ty) })
                .collect::<Result<Vec<_>>>()?;
            note_shared(cx, space, ty.bytes());
            let (count, registers) = (items.len() as u8, cx.operand_list(slots));
            cx.emit(Op::Store(Access {
                space,
                bytes,
                count,
                signed: false,
                wide,
                registers,
                address,
            }));
        }
    }
    Ok(())
}

pub(super) fn atom<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let returns = mods.base == "atom";
    let Target::At(space) = space(mods) else {
        return Err(mods.error("does not work on parameters"));
    };
    let op = mods.require(&[
        ("add", AtomOp::Add),
        ("min", AtomOp::Min),
        ("max", AtomOp::Max),
        ("and", AtomOp::And),
        ("or", AtomOp::Or),
        ("xor", AtomOp::Xor),
        ("exch", AtomOp::Exch),
        ("cas", AtomOp::Cas),
        ("inc", AtomOp::Inc),
        ("dec", AtomOp::Dec),
    ])?;
    let ty = mods.ty()?;
    mods.finish()?;
    let op = match (op, ty) {
        (AtomOp::Add, Type::F32) => AtomOp::AddF32,
        (_, ty) if ty.is_float() || ty.bytes() < 4 => {
            return Err(mods.error("is not supported for this type"));
        }
        (AtomOp::Min, ty) if ty.is_signed() => AtomOp::MinS,
        (AtomOp::Max, ty) if ty.is_signed() => AtomOp::MaxS,
        (op, _) => op,
    };
    let first = usize::from(returns);
    let expected = first + if op == AtomOp::Cas { 3 } else { 2 };
    if ops.len() != expected {
        return Err(mods.error(format!("takes {expected} operands, found {}", ops.len())));
    }
    let d = if returns { cx.target(&ops[0], ty)? } else { NONE };
    let address = cx.address(&ops[first])?;
    let b = cx.source(&ops[first + 1], ty)?;
    let c = if op == AtomOp::Cas { cx.source(&ops[first + 2], ty)? } else { b };
    cx.program.kernel.has_global_atomics |= space != Where::Shared;
    note_shared(cx, space, 4);
    cx.emit(Op::Atom { op, space, wide: ty.bytes() == 8, address, d, b, c });
    Ok(())
}

/// `cp.async` and its groups.
pub(super) fn cp_async<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    if !mods.take("async") {
        return Err(mods.error("is not supported"));
    }
    if mods.take("commit_group") {
        cx.emit(Op::AsyncCommit);
        return mods.finish();
    }
    if mods.take("wait_all") {
        cx.emit(Op::AsyncWait { pending: u32::MAX });
        return mods.finish();
    }
    if mods.take("wait_group") {
        let [Operand::Int(pending)] = ops else {
            return Err(mods.error("needs a constant count of groups"));
        };
        cx.emit(Op::AsyncWait { pending: (*pending).min(u64::from(u32::MAX - 1)) as u32 });
        return mods.finish();
    }
    let hint = mods.take("L2::cache_hint");
    mods.ignore(&["ca", "cg", "global"]);
    mods.ignore_prefixes(&["L2::"]);
    mods.require(&[("shared", ()), ("shared::cta", ())])?;
    mods.finish()?;
    let ops = if hint { &ops[..ops.len().saturating_sub(1)] } else { ops };
    let (Some(Operand::Int(bytes @ (4 | 8 | 16))), 3 | 4) = (ops.get(2), ops.len()) else {
        return Err(mods.error("copies 4, 8 or 16 bytes"));
    };
    let (to, from) = (cx.address(&ops[0])?, cx.address(&ops[1])?);
    let source_bytes = match ops.get(3) {
        Some(operand) => cx.source32(operand, Type::U32)?,
        None => NONE,
    };
    cx.emit(Op::AsyncCopy { bytes: *bytes as u8, to, from, source_bytes });
    Ok(())
}
