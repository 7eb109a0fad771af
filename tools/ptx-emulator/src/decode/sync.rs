//! Exchange between lanes, votes, barriers.

use super::context::Context;
use super::integer::operands;
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Operand, Type};

type Result<T = ()> = std::result::Result<T, ParseError>;

/// `d|p` with an optional predicate.
fn target_and_pred<'a>(
    cx: &mut Context<'_, '_, 'a>,
    operand: &Operand<'a>,
) -> Result<(Slot, Slot)> {
    match operand {
        Operand::Pair(d, p) => Ok((cx.target32(d)?, cx.target_pred(p)?)),
        d => Ok((cx.target32(d)?, NONE)),
    }
}

pub(super) fn shfl<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.require(&[("sync", ())])?;
    let mode = mods.require(&[
        ("up", ShuffleMode::Up),
        ("down", ShuffleMode::Down),
        ("bfly", ShuffleMode::Butterfly),
        ("idx", ShuffleMode::Index),
    ])?;
    mods.require(&[("b32", ())])?;
    mods.finish()?;
    let [d, a, b, c, mask] = operands(mods, ops)?;
    let (d, p) = target_and_pred(cx, d)?;
    let a = cx.source32(a, Type::B32)?;
    let (b, c) = (cx.source32(b, Type::U32)?, cx.source32(c, Type::U32)?);
    let mask = cx.source32(mask, Type::U32)?;
    cx.emit(Op::Shuffle { mode, d, p, a, b, c, mask });
    Ok(())
}

pub(super) fn vote<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.require(&[("sync", ())])?;
    let mode = mods.require(&[
        ("all", VoteMode::All),
        ("any", VoteMode::Any),
        ("uni", VoteMode::Uniform),
        ("ballot", VoteMode::Ballot),
    ])?;
    mods.ty()?;
    mods.finish()?;
    let [d, a, mask] = operands(mods, ops)?;
    let (a, negated) = cx.source_pred(a)?;
    let mask = cx.source32(mask, Type::U32)?;
    let d = if mode == VoteMode::Ballot { cx.target32(d)? } else { cx.target_pred(d)? };
    cx.emit(Op::Vote { mode, negated, d, a, mask });
    Ok(())
}

pub(super) fn match_lanes<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let all = mods.require(&[("any", false), ("all", true)])?;
    mods.require(&[("sync", ())])?;
    let ty = mods.ty()?;
    mods.finish()?;
    let [d, a, mask] = operands(mods, ops)?;
    let (d, p) = target_and_pred(cx, d)?;
    let (a, mask) = (cx.source(a, ty)?, cx.source32(mask, Type::U32)?);
    cx.emit(Op::Match { all, wide: ty.bytes() == 8, d, p, a, mask });
    Ok(())
}

pub(super) fn redux<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.require(&[("sync", ())])?;
    let op = mods.require(&[
        ("add", AtomOp::Add),
        ("min", AtomOp::Min),
        ("max", AtomOp::Max),
        ("and", AtomOp::And),
        ("or", AtomOp::Or),
        ("xor", AtomOp::Xor),
    ])?;
    let ty = mods.ty()?;
    mods.finish()?;
    if ty.is_float() {
        return Err(mods.error("is supported for integers only"));
    }
    let op = match (op, ty.is_signed()) {
        (AtomOp::Min, true) => AtomOp::MinS,
        (AtomOp::Max, true) => AtomOp::MaxS,
        (op, _) => op,
    };
    let [d, a, mask] = operands(mods, ops)?;
    let (a, mask, d) = (cx.source32(a, ty)?, cx.source32(mask, Type::U32)?, cx.target32(d)?);
    cx.emit(Op::Reduce { op, d, a, mask });
    Ok(())
}

pub(super) fn activemask<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.ty()?;
    mods.finish()?;
    let [d] = operands(mods, ops)?;
    let d = cx.target32(d)?;
    cx.emit(Op::ActiveMask { d });
    Ok(())
}

/// `bar` and `barrier`, of a warp or of the block.
pub(super) fn barrier<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    if mods.take("cluster") {
        return Err(mods.error("is not supported: clusters are not emulated yet"));
    }
    if mods.take("warp") {
        mods.require(&[("sync", ())])?;
        mods.finish()?;
        let [mask] = operands(mods, ops)?;
        let mask = cx.source32(mask, Type::U32)?;
        cx.emit(Op::WarpBarrier { mask });
        return Ok(());
    }
    mods.ignore(&["cta"]);
    let aligned = mods.take("aligned") || mods.base == "bar";
    let kind = mods.require(&[
        ("sync", BarrierKind::Sync),
        ("arrive", BarrierKind::Arrive),
        ("red", BarrierKind::Popc),
    ])?;
    let (mut d, mut p, mut negated, mut kind, mut rest) = (NONE, NONE, false, kind, ops);
    if kind == BarrierKind::Popc {
        kind = mods.require(&[
            ("popc", BarrierKind::Popc),
            ("and", BarrierKind::And),
            ("or", BarrierKind::Or),
        ])?;
        mods.ty()?;
        let [result, middle @ .., predicate] = ops else {
            return Err(mods.error("needs a result and a predicate"));
        };
        d = if kind == BarrierKind::Popc { cx.target32(result)? } else { cx.target_pred(result)? };
        (p, negated) = cx.source_pred(predicate)?;
        rest = middle;
    }
    mods.finish()?;
    let (id, count) = match rest {
        [id] => (id, None),
        [id, count] => (id, Some(count)),
        _ => return Err(mods.error("needs a barrier number")),
    };
    let id = cx.source32(id, Type::U32)?;
    let count = match count {
        Some(count) => cx.source32(count, Type::U32)?,
        None if kind == BarrierKind::Arrive => return Err(mods.error("needs a count of threads")),
        None => NONE,
    };
    cx.emit(Op::Barrier { kind, aligned, id, count, d, p, negated });
    Ok(())
}

pub(super) fn elect<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.require(&[("sync", ())])?;
    mods.finish()?;
    let [target, mask] = operands(mods, ops)?;
    let mask = cx.source32(mask, Type::U32)?;
    let (d, p) = target_and_pred(cx, target)?;
    cx.emit(Op::Elect { d, p, mask });
    Ok(())
}

pub(super) fn fence<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    _: &[Operand<'a>],
) -> Result {
    if mods.take("proxy") {
        mods.require(&[("async", ())])?;
        let global = mods.take("global");
        mods.ignore(&["shared::cta", "shared::cluster"]);
        mods.finish()?;
        cx.emit(if global { Op::Fence } else { Op::ProxyFence { barriers_only: false } });
        return Ok(());
    }
    if mods.take("mbarrier_init") {
        mods.require(&[("release", ())])?;
        mods.require(&[("cluster", ())])?;
        mods.finish()?;
        cx.emit(Op::ProxyFence { barriers_only: true });
        return Ok(());
    }
    mods.ignore(&["sc", "acq_rel", "acquire", "release", "cta", "cluster", "gpu", "sys", "gl"]);
    mods.finish()?;
    cx.emit(Op::Fence);
    Ok(())
}
