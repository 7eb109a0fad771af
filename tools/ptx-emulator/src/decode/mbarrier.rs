//! `mbarrier`: barriers in shared memory.

use super::context::Context;
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Operand, Type};

type Result<T = ()> = std::result::Result<T, ParseError>;

pub(super) fn mbarrier<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    let spaces = [("shared", false), ("shared::cta", false), ("shared::cluster", false)];
    let generic = mods.choose(&spaces).unwrap_or(true);
    let kind = mods.require(&[
        ("init", 'i'),
        ("inval", 'v'),
        ("arrive", 'a'),
        ("expect_tx", 'e'),
        ("test_wait", 't'),
        ("try_wait", 'w'),
    ])?;
    let expects = kind == 'a' && mods.take("expect_tx");
    let by_parity = mods.take("parity");
    let meaning: &[&str] = match kind {
        'a' => &["release", "cta", "cluster"],
        'e' => &["relaxed", "cta", "cluster"],
        't' | 'w' => &["acquire", "cta", "cluster"],
        _ => &[],
    };
    mods.ignore(meaning);
    if mods.ty()? != Type::B64 {
        return Err(mods.error("is supported for b64 only"));
    }
    mods.finish()?;
    let wrong = || mods.error(format!("with {} operands is not supported", ops.len()));
    let (op, address) = match (kind, ops) {
        ('i', [address, count]) => {
            (MbarrierOp::Init { count: cx.source32(count, Type::U32)? }, address)
        }
        ('v', [address]) => (MbarrierOp::Invalidate, address),
        ('e', [address, bytes]) => {
            (MbarrierOp::Expect { bytes: cx.source32(bytes, Type::U32)? }, address)
        }
        ('a', _) => {
            // Without a state the address comes first.
            let (state, rest) = match ops {
                [Operand::Address(..), ..] => (NONE, ops),
                [state, rest @ ..] => (cx.target64(state)?, rest),
                [] => return Err(wrong()),
            };
            let (count, bytes, address) = match (expects, rest) {
                (false, [address]) => (NONE, NONE, address),
                (false, [address, count]) => (cx.source32(count, Type::U32)?, NONE, address),
                (true, [address, bytes]) => (NONE, cx.source32(bytes, Type::U32)?, address),
                _ => return Err(wrong()),
            };
            (MbarrierOp::Arrive { state, count, bytes }, address)
        }
        // A limit on the time that `try_wait` may take changes no result.
        ('t' | 'w', [p, address, phase] | [p, address, phase, _]) => {
            let phase = match by_parity {
                true => cx.source32(phase, Type::U32)?,
                false => cx.source64(phase, Type::B64)?,
            };
            let p = cx.target_pred(p)?;
            (MbarrierOp::Wait { p, phase, by_parity, blocking: kind == 'w' }, address)
        }
        _ => return Err(wrong()),
    };
    let address = cx.address(address)?;
    cx.emit(Op::Mbarrier(Mbarrier { op, address, generic }));
    Ok(())
}
