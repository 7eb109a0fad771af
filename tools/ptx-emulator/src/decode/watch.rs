//! Marks the instructions that use registers of `wgmma`, which the interpreter watches.

use crate::isa::*;

/// Sets [`Inst::watched`] in a kernel that has products.
///
/// Compilers copy accumulators from register to register where values meet at the ends of loops. Such copies are no
/// uses, so that what they connect is watched too.
pub(super) fn mark(kernel: &mut Kernel) {
    if kernel.products.is_empty() {
        return;
    }
    let end = kernel.routines.get(1).map_or(kernel.code.len(), |r| r.start as usize);
    let mut watched = vec![false; kernel.routines[0].slots32];
    let mut copies = Vec::new();
    for inst in &kernel.code[..end] {
        match inst.op {
            Op::Wgmma { .. } => {
                registers32(kernel, &inst.op, &mut |slot, _| {
                    if slot != NONE {
                        watched[usize::from(slot)] = true;
                    }
                });
            }
            Op::Mov32 { d, a } => copies.push((usize::from(d), usize::from(a))),
            _ => {}
        }
    }
    let constants: Vec<_> =
        kernel.routines[0].constants32.iter().map(|(slot, _)| usize::from(*slot)).collect();
    copies.retain(|(_, a)| !constants.contains(a));
    loop {
        let mut grown = false;
        for (d, a) in &copies {
            grown |= watched[*d] != watched[*a];
            let either = watched[*d] || watched[*a];
            (watched[*d], watched[*a]) = (either, either);
        }
        if !grown {
            break;
        }
    }
    let marks: Vec<bool> = kernel.code[..end]
        .iter()
        .map(|inst| {
            let mut found = false;
            registers32(kernel, &inst.op, &mut |slot, _| {
                found |= slot != NONE && watched[usize::from(slot)];
            });
            found && !matches!(inst.op, Op::Wgmma { .. })
        })
        .collect();
    for (inst, mark) in kernel.code.iter_mut().zip(marks) {
        inst.watched = mark;
    }
    kernel.watched_slots = (0..).zip(&watched).filter(|(_, w)| **w).map(|(slot, _)| slot).collect();
    kernel.watched = watched;
}
