//! Function bodies: scopes, labels, instructions, operands, `.loc`.

use std::collections::HashMap;

use super::ParseError;
use super::ast::*;
use super::lexer::Token;
use super::parser::Parser;

/// Registers declared in one `{ }`: a family `%r<n>` under its stem, or a single name.
#[derive(Default)]
struct Scope<'a> {
    families: HashMap<&'a str, (RegId, u32)>,
    names: HashMap<&'a str, RegId>,
}

struct Body<'a> {
    scopes: Vec<Scope<'a>>,
    loc: Option<u32>,
    /// The newest `.loc` at each position, to chain `inlined_at`.
    positions: HashMap<(u32, u32, u32), u32>,
}

impl<'a> Body<'a> {
    fn register(&self, name: &str) -> Option<RegId> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let index = name[stem.len()..].parse::<u32>().ok();
        self.scopes.iter().rev().find_map(|scope| {
            scope.names.get(name).copied().or_else(|| {
                let (base, count) = *scope.families.get(stem)?;
                index.filter(|i| *i < count).map(|i| base + i)
            })
        })
    }
}

impl<'a> Parser<'_, 'a> {
    /// The statements after `{`, through the matching `}`.
    pub(super) fn body(&mut self, function: &mut Function<'a>) -> Result<(), ParseError> {
        let mut body =
            Body { scopes: vec![Scope::default()], loc: None, positions: HashMap::new() };
        while !body.scopes.is_empty() {
            match self.next()? {
                Token::Punct('{') => {
                    body.scopes.push(Scope::default());
                    function.body.push(Statement::Open);
                }
                Token::Punct('}') => {
                    body.scopes.pop();
                    function.body.push(Statement::Close);
                }
                Token::Punct(';') => {}
                Token::Punct('@') => {
                    let negated = self.accept('!');
                    let name = self.word()?;
                    let guard = self.lookup(&body, name)?;
                    let opcode = self.word()?;
                    self.instruction(function, &body, opcode, Some((guard, negated)))?;
                }
                Token::Word(word) if word.starts_with('.') => {
                    self.directive(function, &mut body, word)?
                }
                Token::Word(word) if self.accept(':') => {
                    if self.accept_word(".branchtargets") {
                        let targets = self.names()?;
                        function.branch_targets.insert(word, targets);
                    } else {
                        function.body.push(Statement::Label(word));
                    }
                }
                Token::Word(word) => self.instruction(function, &body, word, None)?,
                _ => {
                    self.at -= 1;
                    return Err(
                        self.error(format!("expected a statement, found {}", self.describe()))
                    );
                }
            }
        }
        Ok(())
    }

    fn names(&mut self) -> Result<Vec<&'a str>, ParseError> {
        let mut names = vec![self.word()?];
        while self.accept(',') {
            names.push(self.word()?);
        }
        self.expect(';')?;
        Ok(names)
    }

    fn directive(
        &mut self,
        function: &mut Function<'a>,
        body: &mut Body<'a>,
        word: &'a str,
    ) -> Result<(), ParseError> {
        match word {
            ".reg" => self.registers(function, body),
            ".loc" => self.loc(body),
            ".pragma" => {
                while !self.accept(';') {
                    self.next()?;
                }
                Ok(())
            }
            ".shared" | ".local" | ".param" => {
                self.at -= 1;
                let mut variables = Vec::new();
                self.variables(&mut variables)?;
                for variable in variables {
                    // Call sequences declare `param0`, `retval0` anew each time, in their own scope.
                    match function.variables.iter_mut().find(|v| v.name == variable.name) {
                        Some(known) if known.space == Space::Param => {
                            known.size = known.size.max(variable.size);
                            known.align = known.align.max(variable.align);
                        }
                        _ => function.variables.push(variable),
                    }
                }
                Ok(())
            }
            _ => {
                self.at -= 1;
                Err(self.error(format!("the directive `{word}` is not supported in a function")))
            }
        }
    }

    fn registers(
        &mut self,
        function: &mut Function<'a>,
        body: &mut Body<'a>,
    ) -> Result<(), ParseError> {
        let name = self.word()?;
        let ty = name
            .strip_prefix('.')
            .and_then(Type::parse)
            .ok_or_else(|| self.error(format!("registers of type `{name}` are not supported")))?;
        loop {
            let name = self.word()?;
            let base = function.registers.len() as RegId;
            let scope = body.scopes.last_mut().expect("a body has a scope");
            if self.accept('<') {
                let count = self.int32()?;
                if count > 1 << 20 {
                    return Err(self.error(format!("{count} registers `{name}` are too many")));
                }
                self.expect('>')?;
                let scope = body.scopes.last_mut().expect("a body has a scope");
                scope.families.insert(name, (base, count));
                function.registers.extend(std::iter::repeat_n(ty, count as usize));
            } else {
                scope.names.insert(name, base);
                function.registers.push(ty);
            }
            if !self.accept(',') {
                return self.expect(';');
            }
        }
    }

    /// `.loc file line column [, function_name label [+ n], inlined_at file line column]`, to the end of the line.
    fn loc(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        let text_line = self.tokens[self.at - 1].line;
        let position = (self.int32()?, self.int32()?, self.int32()?);
        let mut inlined_at = None;
        while self.at < self.tokens.len() && self.line() == text_line {
            if self.accept_word("inlined_at") {
                let call = (self.int32()?, self.int32()?, self.int32()?);
                inlined_at = Some(match body.positions.get(&call) {
                    Some(known) => *known,
                    None => self.push_loc(body, call, None),
                });
            } else {
                self.at += 1;
            }
        }
        // Line 0 marks code without a source line: the last real line is the better answer.
        if position.1 != 0 || body.loc.is_none() {
            body.loc = Some(self.push_loc(body, position, inlined_at));
        }
        Ok(())
    }

    fn push_loc(
        &mut self,
        body: &mut Body<'a>,
        at: (u32, u32, u32),
        inlined_at: Option<u32>,
    ) -> u32 {
        let index = self.module.locs.len() as u32;
        self.module.locs.push(Loc { file: at.0, line: at.1, column: at.2, inlined_at });
        body.positions.insert(at, index);
        index
    }

    fn lookup(&self, body: &Body<'a>, name: &str) -> Result<RegId, ParseError> {
        body.register(name).ok_or_else(|| self.error(format!("`{name}` is not declared")))
    }

    fn instruction(
        &mut self,
        function: &mut Function<'a>,
        body: &Body<'a>,
        opcode: &'a str,
        guard: Option<(RegId, bool)>,
    ) -> Result<(), ParseError> {
        let line = self.tokens[self.at - 1].line;
        let mut operands = Vec::new();
        while !self.accept(';') {
            operands.push(self.operand(body)?);
            if !self.accept(',') && !self.is(';') {
                return Err(self.error(format!(
                    "expected `,` or `;` in `{opcode}`, found {}",
                    self.describe()
                )));
            }
        }
        let instruction = Instruction { guard, opcode, operands, line, loc: body.loc };
        function.body.push(Statement::Instruction(instruction));
        Ok(())
    }

    fn operand(&mut self, body: &Body<'a>) -> Result<Operand<'a>, ParseError> {
        let first = self.single_operand(body)?;
        if !self.accept('|') {
            return Ok(first);
        }
        let second = self.single_operand(body)?;
        Ok(Operand::Pair(Box::new(first), Box::new(second)))
    }

    fn list(&mut self, body: &Body<'a>, end: char) -> Result<Vec<Operand<'a>>, ParseError> {
        let mut items = Vec::new();
        while !self.accept(end) {
            items.push(self.operand(body)?);
            self.accept(',');
        }
        Ok(items)
    }

    fn single_operand(&mut self, body: &Body<'a>) -> Result<Operand<'a>, ParseError> {
        Ok(match self.next()? {
            Token::Punct('{') => Operand::Vector(self.list(body, '}')?),
            Token::Punct('(') => Operand::List(self.list(body, ')')?),
            Token::Punct('[') => {
                let base = self.single_operand(body)?;
                let (base, mut offset) = match base {
                    Operand::Symbol(name, offset) => (Operand::Symbol(name, 0), offset),
                    other => (other, 0),
                };
                offset += self.offset()?;
                let address = Operand::Address(Box::new(base), offset);
                if self.accept(']') {
                    return Ok(address);
                }
                self.expect(',')?;
                self.expect('{')?;
                let coordinates = self.list(body, '}')?;
                self.expect(']')?;
                Operand::Tensor(Box::new(address), coordinates)
            }
            Token::Punct('!') => {
                let name = self.word()?;
                Operand::NotReg(self.lookup(body, name)?)
            }
            Token::Punct('-') => match self.next()? {
                Token::Int(value) => Operand::Int(value.wrapping_neg()),
                Token::F32(bits) => Operand::F32(bits ^ 1 << 31),
                Token::F64(bits) => Operand::F64(bits ^ 1 << 63),
                _ => return Err(self.error("expected a number after `-`")),
            },
            Token::Int(value) => Operand::Int(value),
            Token::F32(bits) => Operand::F32(bits),
            Token::F64(bits) => Operand::F64(bits),
            Token::Word("_") => Operand::Sink,
            Token::Word(name) => match body.register(name) {
                Some(register) => Operand::Reg(register),
                None if is_special(name) => Operand::Special(name),
                None if name.starts_with('%') => {
                    return Err(self.error(format!("`{name}` is not declared")));
                }
                None => Operand::Symbol(name, self.offset()?),
            },
            _ => {
                self.at -= 1;
                return Err(self.error(format!("expected an operand, found {}", self.describe())));
            }
        })
    }

    /// `+n`, `-n`, `+-n`, or nothing.
    fn offset(&mut self) -> Result<i64, ParseError> {
        let plus = self.accept('+');
        let minus = self.accept('-');
        if !plus && !minus {
            return Ok(0);
        }
        let value = self.int()? as i64;
        Ok(if minus { value.wrapping_neg() } else { value })
    }
}

/// Whether `name` is a special register; which ones are supported is the decoder's business.
fn is_special(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name);
    matches!(
        stem,
        "%tid"
            | "%ntid"
            | "%ctaid"
            | "%nctaid"
            | "%laneid"
            | "%warpid"
            | "%nwarpid"
            | "%gridid"
            | "%smid"
            | "%nsmid"
            | "%clock"
            | "%clock64"
            | "%globaltimer"
            | "WARP_SZ"
            | "%dynamic_smem_size"
            | "%total_smem_size"
            | "%is_explicit_cluster"
            | "%clusterid"
            | "%nclusterid"
            | "%cluster_ctaid"
            | "%cluster_nctaid"
            | "%cluster_ctarank"
            | "%cluster_nctarank"
    ) || name.starts_with("%lanemask_")
}
