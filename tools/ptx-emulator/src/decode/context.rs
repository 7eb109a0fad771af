//! Decoding state of one function: register slots, constants, labels, frame layout.

use std::collections::HashMap;

use super::Program;
use crate::isa::*;
use crate::ptx::ParseError;
use crate::ptx::ast::{Function, Instruction, Operand, RegId, Space, Type};

/// Predicate slot of the carry flag, in every function.
pub(super) const CARRY: Slot = 0;

pub(super) struct Context<'p, 'm, 'a> {
    pub program: &'p mut Program<'m, 'a>,
    pub function: &'m Function<'a>,
    routine: Routine,
    /// Slot per register of the function.
    slots: Vec<Slot>,
    constants32: HashMap<Constant, Slot>,
    constants64: HashMap<Constant, Slot>,
    /// By scope and name.
    labels: HashMap<(usize, &'a str), Pc>,
    /// The enclosing scope of each; number 0 is the function's.
    scopes: Vec<usize>,
    scope: usize,
    /// Branches to patch, and branch-table entries.
    jumps: Vec<Jump<'a>>,
    table_entries: Vec<Jump<'a>>,
    /// Frame offsets of parameters, results and call variables.
    frame: HashMap<&'a str, u32>,
    locals: HashMap<&'a str, u32>,
    guard: Slot,
    negated: bool,
    origin: Origin,
}

impl<'p, 'm, 'a> Context<'p, 'm, 'a> {
    pub fn new(
        program: &'p mut Program<'m, 'a>,
        function: &'m Function<'a>,
    ) -> Result<Self, ParseError> {
        let start = program.kernel.code.len() as Pc;
        let routine = Routine { start, predicates: 1, ..Routine::default() };
        let mut context = Self {
            program,
            function,
            routine,
            slots: Vec::with_capacity(function.registers.len()),
            constants32: HashMap::new(),
            constants64: HashMap::new(),
            labels: HashMap::new(),
            scopes: vec![0],
            scope: 0,
            jumps: Vec::new(),
            table_entries: Vec::new(),
            frame: HashMap::new(),
            locals: HashMap::new(),
            guard: NONE,
            negated: false,
            origin: Origin { line: function.line, loc: None },
        };
        for ty in &function.registers {
            let slot = match ty {
                Type::Pred => context.temp_pred(),
                _ if ty.bytes() == 8 => context.temp64(),
                _ => context.temp32(),
            };
            context.slots.push(slot);
        }
        context.layout();
        context.check_slots()?;
        Ok(context)
    }

    /// Parameters first, then results, then the variables of call sequences; local variables apart.
    fn layout(&mut self) {
        let function = self.function;
        let own: &[_] = if function.is_entry { &[] } else { &function.params };
        let calls = function.variables.iter().filter(|v| v.space == Space::Param);
        for variable in own.iter().chain(&function.results).chain(calls) {
            let offset = self.routine.frame_bytes.next_multiple_of(variable.align.max(1));
            self.routine.frame_bytes = offset + variable.size;
            self.frame.insert(variable.name, offset);
        }
        for variable in function.variables.iter().filter(|v| v.space == Space::Local) {
            let offset = self.routine.local_bytes.next_multiple_of(variable.align.max(1));
            self.routine.local_bytes = offset + variable.size;
            self.locals.insert(variable.name, offset);
        }
        self.routine.frame_bytes = self.routine.frame_bytes.next_multiple_of(16);
        self.routine.local_bytes = self.routine.local_bytes.next_multiple_of(16);
    }

    fn check_slots(&self) -> Result<(), ParseError> {
        let most = self.routine.slots32.max(self.routine.slots64).max(self.routine.predicates);
        if most >= usize::from(NONE) {
            let message =
                format!("`{}` uses more than {NONE} registers of one kind", self.function.name);
            return Err(ParseError::new(self.function.line, message));
        }
        Ok(())
    }

    /// Guard and origin of what is emitted next.
    pub fn begin(&mut self, instruction: &Instruction<'a>) -> Result<(), ParseError> {
        self.origin = Origin { line: instruction.line, loc: instruction.loc };
        (self.guard, self.negated) = match instruction.guard {
            None => (NONE, false),
            Some((register, negated)) => {
                self.expect_type(register, |ty| ty == Type::Pred, "a predicate")?;
                (self.slots[register as usize], negated)
            }
        };
        Ok(())
    }

    pub fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.origin.line, message)
    }

    pub fn emit(&mut self, op: Op) {
        let inst = Inst { op, guard: self.guard, negated: self.negated, watched: false };
        self.program.kernel.code.push(inst);
        self.program.kernel.origins.push(self.origin);
    }

    pub fn end_of_body(&mut self) {
        (self.guard, self.negated) = (NONE, false);
        self.emit(if self.function.is_entry { Op::Exit } else { Op::Return });
    }

    pub fn label(&mut self, name: &'a str) {
        self.labels.insert((self.scope, name), self.program.kernel.code.len() as Pc);
    }

    pub fn open_scope(&mut self) {
        self.scopes.push(self.scope);
        self.scope = self.scopes.len() - 1;
    }

    pub fn close_scope(&mut self) {
        self.scope = self.scopes[self.scope];
    }

    fn jump(&self, at: usize, label: &'a str) -> Jump<'a> {
        Jump { at, label, scope: self.scope, line: self.origin.line }
    }

    pub fn emit_branch(&mut self, label: &'a str) {
        self.jumps.push(self.jump(self.program.kernel.code.len(), label));
        self.emit(Op::Branch { target: 0 });
    }

    /// Appends a branch table to the operands.
    pub fn branch_table(&mut self, labels: &[&'a str]) -> u32 {
        let start = self.program.kernel.operands.len();
        for (index, label) in labels.iter().enumerate() {
            self.table_entries.push(self.jump(start + index, label));
            self.program.kernel.operands.push(0);
        }
        start as u32
    }

    /// Appends register slots to the operands.
    pub fn operand_list(&mut self, slots: impl IntoIterator<Item = Slot>) -> u32 {
        let start = self.program.kernel.operands.len() as u32;
        self.program.kernel.operands.extend(slots.into_iter().map(u32::from));
        start
    }

    pub fn convert_index(&mut self, convert: Convert) -> u32 {
        let converts = &mut self.program.kernel.converts;
        let known = converts.iter().position(|c| *c == convert);
        known.unwrap_or_else(|| {
            converts.push(convert);
            converts.len() - 1
        }) as u32
    }

    /// Resolves labels and hands the routine over.
    pub fn finish(mut self) -> Result<Routine, ParseError> {
        self.check_slots()?;
        let find = |jump: &Jump<'a>| {
            let mut scope = jump.scope;
            loop {
                if let Some(target) = self.labels.get(&(scope, jump.label)) {
                    return Ok(*target);
                }
                if scope == 0 {
                    let message = format!("the label `{}` does not exist", jump.label);
                    return Err(ParseError::new(jump.line, message));
                }
                scope = self.scopes[scope];
            }
        };
        for jump in &self.jumps {
            self.program.kernel.code[jump.at].op = Op::Branch { target: find(jump)? };
        }
        for jump in &self.table_entries {
            self.program.kernel.operands[jump.at] = find(jump)?;
        }
        let mut routine = std::mem::take(&mut self.routine);
        routine.constants32 = self.constants32.iter().map(|(c, s)| (*s, *c)).collect();
        routine.constants64 = self.constants64.iter().map(|(c, s)| (*s, *c)).collect();
        Ok(routine)
    }

    pub fn temp32(&mut self) -> Slot {
        self.routine.slots32 += 1;
        (self.routine.slots32 - 1) as Slot
    }

    pub fn temp64(&mut self) -> Slot {
        self.routine.slots64 += 1;
        (self.routine.slots64 - 1) as Slot
    }

    pub fn temp_pred(&mut self) -> Slot {
        self.routine.predicates += 1;
        (self.routine.predicates - 1) as Slot
    }

    pub fn constant32(&mut self, constant: Constant) -> Slot {
        if let Some(slot) = self.constants32.get(&constant) {
            return *slot;
        }
        let slot = self.temp32();
        self.constants32.insert(constant, slot);
        slot
    }

    pub fn constant64(&mut self, constant: Constant) -> Slot {
        if let Some(slot) = self.constants64.get(&constant) {
            return *slot;
        }
        let slot = self.temp64();
        self.constants64.insert(constant, slot);
        slot
    }

    fn expect_type(
        &self,
        register: RegId,
        ok: impl Fn(Type) -> bool,
        what: &str,
    ) -> Result<(), ParseError> {
        let ty = self.function.registers[register as usize];
        if ok(ty) {
            return Ok(());
        }
        Err(self.error(format!("an operand is a {ty:?} register where {what} is expected")))
    }

    /// Type of a register operand.
    pub fn register_type(&self, operand: &Operand<'a>) -> Option<Type> {
        match operand {
            Operand::Reg(register) => Some(self.function.registers[*register as usize]),
            _ => None,
        }
    }

    pub fn is_wide(&self, operand: &Operand<'a>) -> bool {
        self.register_type(operand).is_some_and(|ty| ty.bytes() == 8)
    }

    /// A source of 32 bits or fewer, read as `ty`.
    pub fn source32(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Slot, ParseError> {
        let bits = match operand {
            Operand::Reg(register) => {
                self.expect_type(
                    *register,
                    |t| t != Type::Pred && t.bytes() <= 4,
                    "at most 32 bits",
                )?;
                return Ok(self.slots[*register as usize]);
            }
            Operand::Special(name) => {
                if *name == "WARP_SZ" {
                    32
                } else {
                    return self.special32(name);
                }
            }
            Operand::Symbol(..) => match self.symbol(operand)? {
                Symbol::Constant(Constant::Bits(bits)) => bits,
                _ => return Err(self.error("the address of this variable does not fit 32 bits")),
            },
            Operand::Int(value) if ty.bytes() == 2 => value & 0xffff,
            Operand::Int(value) if ty.bytes() == 1 => value & 0xff,
            Operand::Int(value) => u64::from(*value as u32),
            Operand::F32(bits) => u64::from(*bits),
            Operand::F64(bits) if ty == Type::F32 => {
                u64::from((f64::from_bits(*bits) as f32).to_bits())
            }
            other => return Err(self.error(format!("{other:?} is not a 32-bit operand"))),
        };
        Ok(self.constant32(Constant::Bits(bits)))
    }

    fn special32(&mut self, name: &str) -> Result<Slot, ParseError> {
        if matches!(name, "%clock" | "%clock64" | "%globaltimer") {
            let slot = self.temp32();
            self.emit(Op::Clock { d: slot });
            return Ok(slot);
        }
        let (stem, part) = name.split_once('.').unwrap_or((name, ""));
        let axis = match part {
            "x" | "" => 0,
            "y" => 1,
            "z" => 2,
            _ => return Err(self.error(format!("`{name}` is not supported"))),
        };
        let special = match stem {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            "%laneid" => Special::LaneId,
            "%warpid" => Special::WarpId,
            "%nwarpid" => Special::WarpCount,
            "%lanemask_eq" => Special::LaneMaskEq,
            "%lanemask_lt" => Special::LaneMaskLt,
            "%lanemask_le" => Special::LaneMaskLe,
            "%lanemask_gt" => Special::LaneMaskGt,
            "%lanemask_ge" => Special::LaneMaskGe,
            "%dynamic_smem_size" => Special::DynamicSharedBytes,
            "%total_smem_size" => Special::TotalSharedBytes,
            // Every block is a cluster of its own.
            "%cluster_ctarank" | "%cluster_ctaid" | "%is_explicit_cluster" => {
                return Ok(self.constant32(Constant::Bits(0)));
            }
            "%cluster_nctarank" | "%cluster_nctaid" => {
                return Ok(self.constant32(Constant::Bits(1)));
            }
            _ => return Err(self.error(format!("the special register `{name}` is not supported"))),
        };
        Ok(self.constant32(Constant::Special(special)))
    }

    /// A 64-bit source, read as `ty`.
    pub fn source64(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Slot, ParseError> {
        let constant = match operand {
            Operand::Reg(register) => {
                self.expect_type(*register, |t| t.bytes() == 8, "64 bits")?;
                return Ok(self.slots[*register as usize]);
            }
            Operand::Special(_) => {
                let narrow = self.source32(operand, Type::U32)?;
                let wide = self.temp64();
                self.emit(Op::Widen { d: wide, a: narrow, signed: false });
                return Ok(wide);
            }
            Operand::Symbol(..) => match self.symbol(operand)? {
                Symbol::Constant(constant) => constant,
                Symbol::Local(offset) => {
                    let d = self.temp64();
                    self.emit(Op::LocalAddress { d, offset });
                    return Ok(d);
                }
            },
            Operand::Int(value) => Constant::Bits(*value),
            Operand::F64(bits) => Constant::Bits(*bits),
            Operand::F32(bits) if ty == Type::F64 => {
                Constant::Bits(f64::from(f32::from_bits(*bits)).to_bits())
            }
            other => return Err(self.error(format!("{other:?} is not a 64-bit operand"))),
        };
        Ok(self.constant64(constant))
    }

    /// A source in the file that `ty` implies.
    pub fn source(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Slot, ParseError> {
        if ty.bytes() == 8 { self.source64(operand, ty) } else { self.source32(operand, ty) }
    }

    /// The 32-bit register an operand names; a sink gets a scratch slot.
    pub fn target32(&mut self, operand: &Operand<'a>) -> Result<Slot, ParseError> {
        match operand {
            Operand::Reg(register) => {
                self.expect_type(
                    *register,
                    |t| t != Type::Pred && t.bytes() <= 4,
                    "at most 32 bits",
                )?;
                Ok(self.slots[*register as usize])
            }
            Operand::Sink => Ok(self.temp32()),
            _ => Err(self.error("the destination is not a register")),
        }
    }

    pub fn target64(&mut self, operand: &Operand<'a>) -> Result<Slot, ParseError> {
        match operand {
            Operand::Reg(register) => {
                self.expect_type(*register, |t| t.bytes() == 8, "64 bits")?;
                Ok(self.slots[*register as usize])
            }
            Operand::Sink => Ok(self.temp64()),
            _ => Err(self.error("the destination is not a register")),
        }
    }

    pub fn target(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Slot, ParseError> {
        if ty.bytes() == 8 { self.target64(operand) } else { self.target32(operand) }
    }

    pub fn target_pred(&mut self, operand: &Operand<'a>) -> Result<Slot, ParseError> {
        match operand {
            Operand::Reg(register) => {
                self.expect_type(*register, |t| t == Type::Pred, "a predicate")?;
                Ok(self.slots[*register as usize])
            }
            Operand::Sink => Ok(self.temp_pred()),
            _ => Err(self.error("the destination is not a predicate")),
        }
    }

    /// A predicate source and whether it is negated.
    pub fn source_pred(&mut self, operand: &Operand<'a>) -> Result<(Slot, bool), ParseError> {
        match operand {
            Operand::Reg(register) | Operand::NotReg(register) => {
                self.expect_type(*register, |t| t == Type::Pred, "a predicate")?;
                Ok((self.slots[*register as usize], matches!(operand, Operand::NotReg(_))))
            }
            Operand::Int(value) => {
                let slot = self.all_lanes();
                Ok((slot, *value == 0))
            }
            _ => Err(self.error("an operand is not a predicate")),
        }
    }

    /// A predicate source without a negation left to do.
    pub fn plain_pred(&mut self, operand: &Operand<'a>) -> Result<Slot, ParseError> {
        let (slot, negated) = self.source_pred(operand)?;
        if !negated {
            return Ok(slot);
        }
        let (d, all) = (self.temp_pred(), self.all_lanes());
        self.emit(Op::Pred { op: PredOp::AndNot, d, a: all, b: slot });
        Ok(d)
    }

    /// A predicate that holds in every lane that runs.
    pub fn all_lanes(&mut self) -> Slot {
        let zero = self.constant32(Constant::Bits(0));
        let d = self.temp_pred();
        self.emit(Op::CmpI32 { cmp: Cmp::Eq, signed: false, d, a: zero, b: zero });
        d
    }

    /// `[base + offset]` of a load or store; for addresses in a named variable the variable becomes the base.
    pub fn address(&mut self, operand: &Operand<'a>) -> Result<Address, ParseError> {
        let Operand::Address(base, offset) = operand else {
            return Err(self.error("expected an address in brackets"));
        };
        let offset32 = i32::try_from(*offset).ok();
        match (&**base, offset32) {
            (Operand::Reg(register), Some(offset)) => {
                let narrow = !self.is_wide(base);
                self.expect_type(*register, |t| t.bytes() >= 4, "an address")?;
                Ok(Address { base: self.slots[*register as usize], narrow, offset })
            }
            (Operand::Symbol(..) | Operand::Int(_), Some(offset)) => {
                let base = self.source64(base, Type::U64)?;
                Ok(Address { base, narrow: false, offset })
            }
            _ => Err(self.error("this form of address is not supported")),
        }
    }

    /// Offset of a name in the frame of this function.
    pub fn frame_offset(&self, name: &str) -> Option<u32> {
        self.frame.get(name).copied()
    }

    fn symbol(&self, operand: &Operand<'a>) -> Result<Symbol, ParseError> {
        let Operand::Symbol(name, offset) = operand else {
            return Err(self.error("expected a name"));
        };
        if let Some(local) = self.locals.get(name) {
            return Ok(Symbol::Local((i64::from(*local) + offset) as u32));
        }
        let shared = &self.program.shared;
        if let Some(start) = shared.get(&(self.function.name, name)).or(shared.get(&("", name))) {
            return Ok(Symbol::Constant(Constant::Bits((i64::from(*start) + offset) as u64)));
        }
        if let Some(start) = self.program.entry_params.get(name).filter(|_| self.function.is_entry)
        {
            return Ok(Symbol::Constant(Constant::Bits((i64::from(*start) + offset) as u64)));
        }
        let variables = &self.program.module.variables;
        if let Some(index) = variables.iter().position(|v| v.name == *name) {
            return Ok(Symbol::Constant(Constant::Variable(index as u32, *offset)));
        }
        Err(self.error(format!("`{name}` is not a variable whose address can be taken here")))
    }
}

/// A use of a label: an instruction or operand to patch.
struct Jump<'a> {
    at: usize,
    label: &'a str,
    scope: usize,
    line: u32,
}

enum Symbol {
    Constant(Constant),
    Local(u32),
}
