//! Syntax tree to the form that runs.
//!
//! Every entry is decoded with its own copy of the functions it calls, so that shared-memory offsets, labels and
//! parameters are plain numbers. A modifier that no rule consumed is an error: nothing is dropped in silence.

mod bulk;
mod context;
mod control;
mod float;
mod integer;
mod matrix;
mod mbarrier;
mod memory;
mod modifiers;
mod moves;
mod sync;
mod watch;
mod wgmma;

use std::collections::HashMap;

use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Function, Instruction, Module, Space, Statement, Variable};
use context::Context;
use modifiers::Modifiers;

/// Distance between neighbouring shared variables: overruns land in it and are reported.
const SHARED_GAP: u32 = 128;

/// Decodes the entry `function`.
pub(crate) fn kernel(module: &Module<'_>, function: &Function<'_>) -> Result<Kernel, ParseError> {
    let mut program = Program {
        module,
        kernel: Kernel {
            name: function.name.to_string(),
            required_threads: function.required_threads,
            max_threads: function.max_threads,
            shared_granule: 4,
            ..Kernel::default()
        },
        entry_params: HashMap::new(),
        functions: Vec::new(),
        shared: HashMap::new(),
    };
    program.layout_params(function)?;
    program.collect(function)?;
    program.layout_shared();
    for index in 0..program.functions.len() {
        program.routine(index)?;
    }
    watch::mark(&mut program.kernel);
    Ok(program.kernel)
}

/// What the functions of one kernel share while they are decoded.
struct Program<'m, 'a> {
    module: &'m Module<'a>,
    kernel: Kernel,
    entry_params: HashMap<&'a str, u32>,
    /// The entry, then what it calls, directly or not.
    functions: Vec<&'m Function<'a>>,
    /// Offset by (function, or nothing for module scope; name).
    shared: HashMap<(&'a str, &'a str), u32>,
}

impl<'m, 'a> Program<'m, 'a> {
    fn layout_params(&mut self, function: &Function<'a>) -> Result<(), ParseError> {
        let mut end: u32 = 0;
        for param in &function.params {
            let offset = end.next_multiple_of(param.align.max(1));
            end = offset + param.size;
            if end > u32::from(u16::MAX) {
                return Err(ParseError::new(param.line, "parameters of more than 64 KiB"));
            }
            self.entry_params.insert(param.name, offset);
            self.kernel.params.push((offset, param.size));
        }
        self.kernel.param_bytes = end;
        Ok(())
    }

    /// Lists the functions that can be reached.
    fn collect(&mut self, entry: &Function<'a>) -> Result<(), ParseError> {
        let by_name: HashMap<_, _> = self.module.functions.iter().map(|f| (f.name, f)).collect();
        self.functions.push(by_name[entry.name]);
        let mut next = 0;
        while next < self.functions.len() {
            let function = self.functions[next];
            for instruction in instructions(function).filter(|i| i.opcode.starts_with("call")) {
                let name = control::callee(instruction)?;
                if self.functions.iter().any(|f| f.name == name) {
                    continue;
                }
                let Some(function) = by_name.get(name) else {
                    let message = format!("`{name}` is called but has no body in this module");
                    return Err(ParseError::new(instruction.line, message));
                };
                self.functions.push(function);
            }
            next += 1;
        }
        Ok(())
    }

    /// Places static shared variables with gaps between them, dynamic ones behind.
    fn layout_shared(&mut self) {
        let module = self.module.variables.iter().map(|v| ("", v));
        let own = self.functions.iter().flat_map(|f| f.variables.iter().map(|v| (f.name, v)));
        let (dynamic, fixed): (Vec<_>, Vec<_>) = module
            .chain(own)
            .filter(|(_, v)| v.space == Space::Shared)
            .filter(|(scope, v)| !scope.is_empty() || self.mentions(v.name))
            .partition(|(_, v)| v.size == 0);
        let mut end = 0u32;
        for (scope, variable) in fixed {
            let start = end.next_multiple_of(variable.align.max(16));
            end = start + variable.size + SHARED_GAP;
            self.place_shared(scope, variable, start);
            self.kernel.static_bytes =
                self.kernel.static_bytes.next_multiple_of(variable.align.max(1)) + variable.size;
        }
        // No better aligned than declared, so that a kernel that needs more does not have it by chance.
        let align = dynamic.iter().map(|(_, v)| v.align.max(16)).max().unwrap_or(1024);
        let start = end.next_multiple_of(1024) + if align < 1024 { align } else { 0 };
        for (scope, variable) in dynamic {
            self.kernel.uses_dynamic = true;
            self.shared.insert((scope, variable.name), start);
        }
        self.kernel.dynamic_start = start;
    }

    fn place_shared(&mut self, scope: &'a str, variable: &Variable<'a>, start: u32) {
        self.shared.insert((scope, variable.name), start);
        let name = plain_name(variable.name).to_string();
        self.kernel.shared.push(SharedVariable { name, start, bytes: variable.size });
    }

    /// Whether any reachable function names the module variable `name`.
    fn mentions(&self, name: &str) -> bool {
        fn inside(operand: &crate::ptx::ast::Operand<'_>, name: &str) -> bool {
            use crate::ptx::ast::Operand::*;
            match operand {
                Symbol(symbol, _) => *symbol == name,
                Address(base, _) => inside(base, name),
                Tensor(base, items) => inside(base, name) || items.iter().any(|o| inside(o, name)),
                Vector(items) | List(items) => items.iter().any(|o| inside(o, name)),
                _ => false,
            }
        }
        let mut all = self.functions.iter().flat_map(|f| instructions(f));
        all.any(|i| i.operands.iter().any(|o| inside(o, name)))
    }

    fn routine(&mut self, index: usize) -> Result<(), ParseError> {
        let function = self.functions[index];
        let mut context = Context::new(self, function)?;
        for statement in &function.body {
            match statement {
                Statement::Label(name) => context.label(name),
                Statement::Open => context.open_scope(),
                Statement::Close => context.close_scope(),
                Statement::Instruction(instruction) => {
                    context.begin(instruction)?;
                    dispatch(&mut context, instruction)?;
                }
            }
        }
        // Control that falls off the end leaves, as a `ret` would.
        context.end_of_body();
        let routine = context.finish()?;
        self.kernel.routines.push(routine);
        Ok(())
    }
}

/// The name that the source has for a variable in a function, `_ZZ<function>E<length><name>` when mangled.
fn plain_name(name: &str) -> &str {
    let local = |(at, _): (usize, &str)| {
        let rest = &name[at + 1..];
        let start = rest.find(|c: char| !c.is_ascii_digit())?;
        let end = start.checked_add(rest[..start].parse().ok()?)?;
        // A number may follow where a function has several variables of one name.
        let tail = rest.get(end..)?;
        (tail.is_empty() || tail.starts_with('_')).then(|| &rest[start..end])
    };
    let mangled = name.starts_with("_ZZ").then(|| name.rmatch_indices('E').find_map(local));
    mangled.flatten().unwrap_or(name)
}

fn instructions<'m, 'a>(function: &'m Function<'a>) -> impl Iterator<Item = &'m Instruction<'a>> {
    function.body.iter().filter_map(|s| match s {
        Statement::Instruction(i) => Some(i),
        _ => None,
    })
}

/// Instruction families that need hardware this crate does not model yet.
const LATER: [&str; 8] = [
    "tcgen05",
    "tensormap",
    "griddepcontrol",
    "mapa",
    "getctarank",
    "wmma",
    "multimem",
    "clusterlaunchcontrol",
];

fn dispatch<'a>(
    cx: &mut Context<'_, '_, 'a>,
    instruction: &Instruction<'a>,
) -> Result<(), ParseError> {
    let mut mods = Modifiers::new(instruction);
    let base = mods.base;
    if LATER.contains(&base) {
        return Err(mods.error("is not supported: the emulator has no model of it"));
    }
    let ops = instruction.operands.as_slice();
    match base {
        "mov" => moves::mov(cx, &mut mods, ops),
        "cvt" => moves::cvt(cx, &mut mods, ops),
        "cvta" => moves::cvta(cx, &mut mods, ops),
        "setp" => moves::setp(cx, &mut mods, ops),
        "set" => moves::set(cx, &mut mods, ops),
        "selp" => moves::selp(cx, &mut mods, ops),
        "slct" => moves::slct(cx, &mut mods, ops),
        "testp" => moves::testp(cx, &mut mods, ops),
        "isspacep" => moves::isspacep(cx, &mut mods, ops),
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "min" | "max" | "neg" | "abs"
            if mods.is_float() =>
        {
            float::arithmetic(cx, &mut mods, ops)
        }
        "sqrt" | "rsqrt" | "rcp" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" => {
            float::arithmetic(cx, &mut mods, ops)
        }
        "add" | "sub" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor" | "shl" | "shr" => {
            integer::binary(cx, &mut mods, ops)
        }
        "addc" | "subc" => integer::carry(cx, &mut mods, ops),
        "mul" | "mad" | "sad" => integer::product(cx, &mut mods, ops),
        "neg" | "abs" | "not" | "cnot" | "popc" | "clz" | "brev" | "bfind" => {
            integer::unary(cx, &mut mods, ops)
        }
        "bfe" | "bfi" | "lop3" | "prmt" | "shf" | "dp4a" => integer::fields(cx, &mut mods, ops),
        "ld" | "ldu" => memory::load(cx, &mut mods, ops),
        "st" => memory::store(cx, &mut mods, ops),
        "atom" | "red" => memory::atom(cx, &mut mods, ops),
        "cp" if instruction.opcode.starts_with("cp.async.bulk") => bulk::copy(cx, &mut mods, ops),
        "cp" => memory::cp_async(cx, &mut mods, ops),
        "prefetch" | "prefetchu" | "nanosleep" | "discard" | "applypriority" => Ok(()),
        "ldmatrix" | "stmatrix" => matrix::ldmatrix(cx, &mut mods, ops),
        "mma" => matrix::mma(cx, &mut mods, ops),
        "wgmma" => wgmma::wgmma(cx, &mut mods, ops),
        "setmaxnreg" => wgmma::setmaxnreg(cx, &mut mods, ops),
        "mbarrier" => mbarrier::mbarrier(cx, &mut mods, ops),
        "elect" => sync::elect(cx, &mut mods, ops),
        "shfl" => sync::shfl(cx, &mut mods, ops),
        "vote" => sync::vote(cx, &mut mods, ops),
        "match" => sync::match_lanes(cx, &mut mods, ops),
        "redux" => sync::redux(cx, &mut mods, ops),
        "activemask" => sync::activemask(cx, &mut mods, ops),
        "bar" | "barrier" => sync::barrier(cx, &mut mods, ops),
        "membar" | "fence" => sync::fence(cx, &mut mods, ops),
        "bra" => control::bra(cx, &mut mods, ops),
        "brx" => control::brx(cx, &mut mods, ops),
        "call" => control::call(cx, &mut mods, ops),
        "ret" | "exit" | "trap" | "brkpt" => control::leave(cx, &mut mods, ops),
        _ => Err(mods.error("is not an instruction this emulator knows")),
    }
}

#[cfg(test)]
mod tests {
    use super::plain_name;

    #[test]
    fn local_variables_have_their_own_names() {
        assert_eq!(plain_name("_ZZ10copy_tilesIL5Fault1EEvRK9TensorMapS3_jE6source"), "source");
        assert_eq!(plain_name("_ZZ4tileE4tile_0"), "tile");
        assert_eq!(plain_name("_ZZ1kE5E2E10"), "E2E10");
        assert_eq!(plain_name("shared"), "shared");
    }
}
