//! `cp.async.bulk`: copies by the tensor memory accelerator.

use super::context::Context;
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Operand, Type};

type Result<T = ()> = std::result::Result<T, ParseError>;

pub(super) fn copy<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.ignore(&["async", "bulk"]);
    if mods.take("commit_group") {
        cx.emit(Op::BulkCommit);
        return mods.finish();
    }
    if mods.take("wait_group") {
        // Reads end when the copy does here, so that both forms wait for the same.
        mods.ignore(&["read"]);
        mods.finish()?;
        let [Operand::Int(pending)] = ops else {
            return Err(mods.error("needs a constant count of groups"));
        };
        cx.emit(Op::BulkWait { pending: (*pending).min(u64::from(u32::MAX)) as u32 });
        return Ok(());
    }
    let tensor = mods.take("tensor");
    let rank = match tensor {
        true => mods.require(&[("1d", 1u8), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)])?,
        false => 0,
    };
    let is_load = mods.take("mbarrier::complete_tx::bytes");
    if !is_load {
        mods.require(&[("bulk_group", ())])?;
    }
    let order = mods.first_of(&["global", "shared::cta", "shared::cluster"]);
    if is_load == (order == Some("global")) {
        return Err(mods.error("does not go the way that its completion says"));
    }
    mods.ignore(&["global", "tile"]);
    let shared: &[(&str, ())] = match is_load {
        true => &[("shared::cluster", ()), ("shared::cta", ())],
        false => &[("shared::cta", ())],
    };
    mods.require(shared)?;
    let hint = mods.take("L2::cache_hint");
    mods.finish()?;
    let expected = if tensor { 2 } else { 3 } + usize::from(is_load) + usize::from(hint);
    if ops.len() != expected {
        return Err(mods.error(format!("takes {expected} operands, found {}", ops.len())));
    }
    let (shared, global) = if is_load { (&ops[0], &ops[1]) } else { (&ops[1], &ops[0]) };
    let (global, coordinates) = match (tensor, global) {
        (true, Operand::Tensor(map, coordinates)) if coordinates.len() == usize::from(rank) => {
            let slots = coordinates.iter().map(|c| cx.source32(c, Type::S32));
            let slots = slots.collect::<Result<Vec<_>>>()?;
            (cx.address(map)?, cx.operand_list(slots))
        }
        (false, global) => (cx.address(global)?, 0),
        _ => return Err(mods.error(format!("needs a tensor map and {rank} coordinates"))),
    };
    let shared = cx.address(shared)?;
    let bytes = if tensor { NONE } else { cx.source32(&ops[2], Type::U32)? };
    let barrier = match is_load {
        true => Some(cx.address(&ops[if tensor { 2 } else { 3 }])?),
        false => None,
    };
    let copies = &mut cx.program.kernel.bulk_copies;
    copies.push(BulkCopy { shared, global, barrier, rank, coordinates, bytes });
    let index = copies.len() as u32 - 1;
    cx.emit(Op::BulkCopy { index });
    Ok(())
}
