//! Matrix fragments: `ldmatrix`, `stmatrix`, `mma.sync`.

use super::context::Context;
use super::integer::operands;
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Operand, Type};

type Result<T = ()> = std::result::Result<T, ParseError>;

fn list<'o, 'a>(
    mods: &Modifiers<'a>,
    operand: &'o Operand<'a>,
    count: usize,
) -> Result<&'o [Operand<'a>]> {
    let items = match operand {
        Operand::Vector(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    if items.len() != count {
        return Err(mods.error(format!("needs {count} registers here, found {}", items.len())));
    }
    Ok(items)
}

pub(super) fn ldmatrix<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let is_load = mods.base == "ldmatrix";
    mods.ignore(&["sync", "aligned"]);
    mods.require(&[("m8n8", ())])?;
    let count = mods.require(&[("x1", 1u8), ("x2", 2), ("x4", 4)])?;
    let transposed = mods.take("trans");
    let generic = mods.choose(&[("shared", ()), ("shared::cta", ())]).is_none();
    if mods.ty()? != Type::B16 {
        return Err(mods.error("is supported for b16 only"));
    }
    mods.finish()?;
    let [first, second] = operands(mods, ops)?;
    let (registers, address) = if is_load { (first, second) } else { (second, first) };
    let items = list(mods, registers, usize::from(count))?;
    let slots = items
        .iter()
        .map(|i| if is_load { cx.target32(i) } else { cx.source32(i, Type::B32) })
        .collect::<Result<Vec<_>>>()?;
    let (registers, address) = (cx.operand_list(slots), cx.address(address)?);
    if !is_load {
        let granule = &mut cx.program.kernel.shared_granule;
        *granule = (*granule).min(2);
    }
    cx.emit(match is_load {
        true => Op::LoadMatrix { count, transposed, address, generic, registers },
        false => Op::StoreMatrix { count, transposed, address, generic, registers },
    });
    Ok(())
}

pub(super) fn mma<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.ignore(&["sync", "aligned", "row", "col"]);
    let k = mods.require(&[("m16n8k4", 4u8), ("m16n8k8", 8), ("m16n8k16", 16)])?;
    let (d_type, a_type, b_type, c_type) = (mods.ty()?, mods.ty()?, mods.ty()?, mods.ty()?);
    mods.finish()?;
    let input = match a_type {
        Type::F16 => MatrixInput::F16,
        Type::Bf16 => MatrixInput::Bf16,
        Type::Tf32 => MatrixInput::Tf32,
        _ => return Err(mods.error("is supported for f16, bf16 and tf32 operands")),
    };
    let half_accumulator = d_type == Type::F16;
    let supported = a_type == b_type
        && d_type == c_type
        && (d_type == Type::F32 || half_accumulator && input == MatrixInput::F16)
        && if input == MatrixInput::Tf32 { k <= 8 } else { k >= 8 };
    if !supported {
        return Err(mods.error("combines types and shape in a way that is not supported"));
    }
    let [d, a, b, c] = operands(mods, ops)?;
    let words = if input == MatrixInput::Tf32 { usize::from(k) / 2 } else { usize::from(k) / 4 };
    let accumulators = if half_accumulator { 2 } else { 4 };
    let mut slots = Vec::with_capacity(14);
    for item in list(mods, d, accumulators)? {
        slots.push(cx.target32(item)?);
    }
    for (operand, count) in [(a, words), (b, words / 2), (c, accumulators)] {
        for item in list(mods, operand, count)? {
            slots.push(cx.source32(item, Type::B32)?);
        }
    }
    let registers = cx.operand_list(slots);
    cx.emit(Op::Mma(Mma { input, k, half_accumulator, registers }));
    Ok(())
}
