//! Branches, calls, ends.

use super::context::Context;
use super::modifiers::Modifiers;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Instruction, Operand, Type, Variable};

type Result<T = ()> = std::result::Result<T, ParseError>;

/// Name of the function that a `call` enters.
pub(super) fn callee<'a>(instruction: &Instruction<'a>) -> Result<&'a str> {
    let name = instruction.operands.iter().find_map(|operand| match operand {
        Operand::Symbol(name, 0) => Some(*name),
        _ => None,
    });
    name.ok_or_else(|| {
        ParseError::new(instruction.line, "calls through a register are not supported")
    })
}

pub(super) fn bra<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.ignore(&["uni"]);
    mods.finish()?;
    let [Operand::Symbol(label, 0)] = ops else {
        return Err(mods.error("needs a label"));
    };
    cx.emit_branch(label);
    Ok(())
}

pub(super) fn brx<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.ignore(&["uni", "idx"]);
    mods.finish()?;
    let [index, Operand::Symbol(list, 0)] = ops else {
        return Err(mods.error("needs an index and a list of targets"));
    };
    let Some(targets) = cx.function.branch_targets.get(list) else {
        return Err(mods.error(format!("names `{list}`, which is not a list of targets")));
    };
    let index = cx.source32(index, Type::U32)?;
    let table = cx.branch_table(targets);
    cx.emit(Op::BranchIndexed { index, table, length: targets.len() as u32 });
    Ok(())
}

/// Offsets of parameters and results in the frame of a callee, as `Context::layout` places them.
fn frame_layout(variables: &[&Variable<'_>]) -> Vec<u32> {
    let mut end = 0u32;
    let place = |variable: &&Variable<'_>| {
        let offset = end.next_multiple_of(variable.align.max(1));
        end = offset + variable.size;
        offset
    };
    variables.iter().map(place).collect()
}

pub(super) fn call<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.ignore(&["uni"]);
    mods.finish()?;
    let none: &[Operand<'a>] = &[];
    let (results, name, arguments) = match ops {
        [Operand::List(results), Operand::Symbol(name, 0), Operand::List(arguments)] => {
            (results.as_slice(), *name, arguments.as_slice())
        }
        [Operand::List(results), Operand::Symbol(name, 0)] => (results.as_slice(), *name, none),
        [Operand::Symbol(name, 0), Operand::List(arguments)] => (none, *name, arguments.as_slice()),
        [Operand::Symbol(name, 0)] => (none, *name, none),
        _ => return Err(mods.error("has a form that is not supported")),
    };
    let functions = &cx.program.functions;
    let Some(routine) = functions.iter().position(|f| f.name == name) else {
        return Err(mods.error(format!("calls `{name}`, which has no body")));
    };
    let callee = functions[routine];
    let variables: Vec<_> = callee.params.iter().chain(&callee.results).collect();
    if callee.params.len() != arguments.len() || callee.results.len() != results.len() {
        return Err(mods.error(format!("does not match the parameters of `{name}`")));
    }
    let offsets = frame_layout(&variables);
    let mut copies = Vec::new();
    for (index, operand) in arguments.iter().chain(results).enumerate() {
        let Operand::Symbol(own, 0) = operand else {
            return Err(mods.error("passes something other than a parameter variable"));
        };
        let from =
            cx.frame_offset(own).ok_or_else(|| cx.error(format!("`{own}` is not declared")))?;
        copies.push(FrameCopy { from, to: offsets[index], bytes: variables[index].size });
    }
    let mut returned = copies.split_off(arguments.len());
    for copy in &mut returned {
        std::mem::swap(&mut copy.from, &mut copy.to);
    }
    let calls = &mut cx.program.kernel.calls;
    calls.push(CallSite { routine: routine as u32, arguments: copies, results: returned });
    let site = calls.len() as u32 - 1;
    cx.emit(Op::Call { site });
    Ok(())
}

pub(super) fn leave<'a>(
    cx: &mut Context<'_, '_, 'a>,
    mods: &mut Modifiers<'a>,
    ops: &[Operand<'a>],
) -> Result {
    mods.ignore(&["uni"]);
    mods.finish()?;
    if !ops.is_empty() {
        return Err(mods.error("takes no operands"));
    }
    let op = match mods.base {
        "exit" => Op::Exit,
        "ret" if cx.function.is_entry => Op::Exit,
        "ret" => Op::Return,
        _ => Op::Trap,
    };
    cx.emit(op);
    Ok(())
}
