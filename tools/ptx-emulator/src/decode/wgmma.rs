//! `wgmma`: products of a warpgroup, and `setmaxnreg`.

use super::context::Context;
use super::integer::operands;
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Operand, Type};

type Result<T = ()> = std::result::Result<T, ParseError>;

#[expect(clippy::too_many_lines, reason = "an arm for each instruction")]
pub(super) fn wgmma<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    if !cx.function.is_entry {
        return Err(mods.error("is supported in kernels only, not in functions that they call"));
    }
    mods.require(&[("sync", ())])?;
    mods.require(&[("aligned", ())])?;
    if mods.take("fence") {
        cx.emit(Op::WgmmaFence);
        return mods.finish();
    }
    if mods.take("commit_group") {
        cx.emit(Op::WgmmaCommit);
        return mods.finish();
    }
    if mods.take("wait_group") {
        let [Operand::Int(pending)] = ops else {
            return Err(mods.error("needs a constant count of groups"));
        };
        cx.emit(Op::WgmmaWait { pending: (*pending).min(u64::from(u32::MAX)) as u32 });
        return mods.finish();
    }
    mods.require(&[("mma_async", ())])?;
    let n = mods.take_parsed(|part| {
        let n: u16 = part.strip_prefix("m64n")?.strip_suffix("k16")?.parse().ok()?;
        (8..=256).contains(&n).then_some(n).filter(|n| n % 8 == 0)
    });
    let Some(n) = n else { return Err(mods.error("has a shape that is not supported")) };
    let input = match (mods.ty()?, mods.ty()?, mods.ty()?) {
        (Type::F32, Type::Bf16, Type::Bf16) => HalfFormat::Bf16,
        (Type::F32, Type::F16, Type::F16) => HalfFormat::F16,
        _ => return Err(mods.error("is supported for .f32.bf16.bf16 and .f32.f16.f16")),
    };
    mods.finish()?;
    let [Operand::Vector(d), a, b, scale, rest @ ..] = ops else {
        return Err(mods.error("needs accumulators, A, B and a scale"));
    };
    if d.len() != usize::from(n) / 2 {
        return Err(mods.error(format!("needs {} accumulators, found {}", n / 2, d.len())));
    }
    let mut slots = d.iter().map(|item| cx.target32(item)).collect::<Result<Vec<_>>>()?;
    let immediates = rest
        .iter()
        .map(|operand| match operand {
            Operand::Int(value) => Ok(*value as i32),
            _ => Err(mods.error("needs constants after the scale of D")),
        })
        .collect::<Result<Vec<_>>>()?;
    let (a, negate, transposed) = match (a, immediates.as_slice()) {
        (Operand::Vector(items), [scale_a @ (1 | -1), scale_b @ (1 | -1), b @ (0 | 1)])
            if items.len() == 4 =>
        {
            for item in items {
                slots.push(cx.source32(item, Type::B32)?);
            }
            (WgmmaOperand::Registers, scale_a != scale_b, *b)
        }
        (a, [scale_a @ (1 | -1), scale_b @ (1 | -1), trans_a @ (0 | 1), b @ (0 | 1)]) => {
            let descriptor = cx.source64(a, Type::B64)?;
            let a = WgmmaOperand::Shared { descriptor, transposed: *trans_a == 1 };
            (a, scale_a != scale_b, *b)
        }
        _ => return Err(mods.error("has scales or transpositions that are not supported")),
    };
    let b = cx.source64(b, Type::B64)?;
    let (scale, scale_negated) = cx.source_pred(scale)?;
    let registers = cx.operand_list(slots);
    let products = &mut cx.program.kernel.products;
    let b_transposed = transposed == 1;
    products.push(Wgmma { n, input, negate, a, b, b_transposed, scale, scale_negated, registers });
    let index = products.len() as u32 - 1;
    cx.emit(Op::Wgmma { index });
    Ok(())
}

/// Registers are not counted here, so only the rules of the operand are checked.
pub(super) fn setmaxnreg<'a>(
    _: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.require(&[("inc", ()), ("dec", ())])?;
    mods.ignore(&["sync", "aligned", "u32"]);
    mods.finish()?;
    match operands(mods, ops)? {
        [Operand::Int(24..=256)] if matches!(ops, [Operand::Int(n)] if n % 8 == 0) => Ok(()),
        _ => Err(mods.error("takes a multiple of 8 between 24 and 256")),
    }
}
