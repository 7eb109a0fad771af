//! From tokens to statements, with Jinja2's grammar (`jinja2/parser.py`). Expressions are parsed in
//! [`super::expressions`].

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Args, Expr, ExprKind, For, MacroDef, Name, Param, Stmt, StmtKind, Target};
use super::lexer::{Token, lex};
use super::limits::NESTING;
use super::{Error, Result};

/// Statements of a source, the names in it, and whether it marks what an assistant says.
pub struct Parsed {
    pub body: Vec<Stmt>,
    pub names: Vec<Arc<str>>,
    pub marks_generation: bool,
}

/// Parses a source.
pub fn parse(source: &str) -> Result<Parsed> {
    let mut parser = Parser {
        tokens: lex(source)?,
        at: 0,
        names: Vec::new(),
        numbers: HashMap::new(),
        depth: 0,
        loops: 0,
        macros: Vec::new(),
        marks_generation: false,
    };
    let body = parser.statements(&[])?;
    if *parser.peek() != Token::End {
        return Err(parser.unexpected("nothing more"));
    }
    Ok(Parsed { body, names: parser.names, marks_generation: parser.marks_generation })
}

/// What a macro's body asks for.
#[derive(Debug, Default, Clone, Copy)]
pub struct Uses {
    caller: bool,
    kwargs: bool,
    varargs: bool,
}

pub struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Name>,
    /// How deep the parser is within expressions and statements.
    depth: usize,
    /// Loops around, within the nearest macro.
    loops: usize,
    macros: Vec<Uses>,
    marks_generation: bool,
}

impl Parser {
    pub fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    /// The token after the next one.
    pub fn peek_second(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    pub fn line(&self) -> u32 {
        self.tokens[self.at].1
    }

    pub fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    /// One token back.
    pub fn back(&mut self) {
        self.at = self.at.saturating_sub(1);
    }

    pub fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Token::Op(found) if *found == op)
    }

    pub fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if &**found == name)
    }

    pub fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        if found {
            self.next();
        }
        found
    }

    pub fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    pub fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.skip_op(op) { Ok(()) } else { Err(self.unexpected(&format!("`{op}`"))) }
    }

    pub fn expect_name(&mut self) -> Result<Arc<str>> {
        match self.peek().clone() {
            Token::Name(name) => {
                self.next();
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::new(message).at(self.line())
    }

    pub fn unexpected(&self, expected: &str) -> Error {
        let found = match self.peek() {
            Token::Data(_) => "text".to_string(),
            Token::BlockBegin => "`{%`".into(),
            Token::BlockEnd => "`%}`".into(),
            Token::VariableBegin => "`{{`".into(),
            Token::VariableEnd => "`}}`".into(),
            Token::Name(name) => format!("`{name}`"),
            Token::Str(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
            Token::Int(value) => value.to_string(),
            Token::Float(value) => value.to_string(),
            Token::Op(op) => format!("`{op}`"),
            Token::End => "the end".into(),
        };
        self.error(format!("expected {expected}, found {found}"))
    }

    /// The number of a name.
    pub fn name(&mut self, name: &Arc<str>) -> Name {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.names.len() as Name;
        self.names.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }

    /// A name that is read: macros around learn which of their special arguments they need.
    pub fn read_name(&mut self, name: &Arc<str>) -> Name {
        for uses in &mut self.macros {
            match &**name {
                "caller" => uses.caller = true,
                "kwargs" => uses.kwargs = true,
                "varargs" => uses.varargs = true,
                _ => {}
            }
        }
        self.name(name)
    }

    /// Runs `parse` one level deeper.
    pub fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > NESTING {
            return Err(self.error(format!("it is nested deeper than {NESTING}")));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Statements up to a block that begins with one of `ends`, whose name is the next token then.
    fn statements(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            match self.peek().clone() {
                Token::End if ends.is_empty() => return Ok(body),
                Token::End => {
                    return Err(self.unexpected(&format!("`{{% {} %}}`", ends.join("` or `"))));
                }
                Token::Data(text) => {
                    self.next();
                    body.push(Stmt { line, kind: StmtKind::Text(text) });
                }
                Token::VariableBegin => {
                    self.next();
                    let value = self.tuple(true)?;
                    if self.next() != Token::VariableEnd {
                        self.back();
                        return Err(self.unexpected("`}}`"));
                    }
                    body.push(Stmt { line, kind: StmtKind::Print(value) });
                }
                Token::BlockBegin => {
                    self.next();
                    if let Token::Name(name) = self.peek()
                        && ends.contains(&&**name)
                    {
                        return Ok(body);
                    }
                    let kind = self.nested(Self::statement)?;
                    body.push(Stmt { line, kind });
                }
                _ => return Err(self.unexpected("text or a tag")),
            }
        }
    }

    pub fn block_end(&mut self) -> Result<()> {
        if *self.peek() != Token::BlockEnd {
            return Err(self.unexpected("`%}`"));
        }
        self.next();
        Ok(())
    }

    /// The body of a block and its end tag.
    fn body(&mut self, end: &str) -> Result<Vec<Stmt>> {
        self.block_end()?;
        let body = self.statements(&[end])?;
        self.next();
        self.block_end()?;
        Ok(body)
    }

    fn statement(&mut self) -> Result<StmtKind> {
        let name = self.expect_name()?;
        match &*name {
            "if" => self.branches(),
            "for" => self.for_loop(),
            "set" => self.set(),
            "with" => self.with(),
            "macro" => {
                let name = self.expect_name()?;
                let number = self.name(&name);
                let (params, defaults) = self.signature()?;
                let def = self.macro_body(name.to_string(), params, defaults, "endmacro")?;
                Ok(StmtKind::Macro(number, Arc::new(def)))
            }
            "call" => {
                let (params, defaults) =
                    if self.is_op("(") { self.signature()? } else { Default::default() };
                let call = self.expression()?;
                if !matches!(call.kind, ExprKind::Call(..)) {
                    return Err(self.error("a call block needs a call"));
                }
                let def = self.macro_body(String::new(), params, defaults, "endcall")?;
                Ok(StmtKind::CallBlock(call, Arc::new(def)))
            }
            "filter" => {
                let filter = self.filters(None, true)?;
                Ok(StmtKind::FilterBlock(filter, self.body("endfilter")?))
            }
            "generation" => {
                self.marks_generation = true;
                // A function of its own in Jinja2, which no loop's tag reaches through.
                let loops = std::mem::take(&mut self.loops);
                let body = self.body("endgeneration")?;
                self.loops = loops;
                Ok(StmtKind::Generation(body))
            }
            "break" | "continue" if self.loops == 0 => {
                Err(self.error(format!("`{name}` outside of a loop")))
            }
            "break" => self.block_end().map(|()| StmtKind::Break),
            "continue" => self.block_end().map(|()| StmtKind::Continue),
            "print" => {
                let value = self.tuple(true)?;
                self.block_end()?;
                Ok(StmtKind::Print(value))
            }
            "extends" | "include" | "import" | "from" | "block" | "autoescape" => {
                Err(self.error(format!("`{{% {name} %}}` is not supported")))
            }
            _ => Err(self.error(format!("unknown tag `{name}`"))),
        }
    }

    fn branches(&mut self) -> Result<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false)?;
            self.block_end()?;
            let body = self.statements(&["elif", "else", "endif"])?;
            branches.push((Some(condition), body));
            if self.skip_name("elif") {
                continue;
            }
            if self.skip_name("else") {
                self.block_end()?;
                branches.push((None, self.statements(&["endif"])?));
            }
            self.next();
            self.block_end()?;
            return Ok(StmtKind::If(branches));
        }
    }

    fn for_loop(&mut self) -> Result<StmtKind> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            return Err(self.unexpected("`in`"));
        }
        let iter = self.tuple(false)?;
        let filter = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.block_end()?;
        self.loops += 1;
        let body = self.statements(&["endfor", "else"])?;
        self.loops -= 1;
        let mut otherwise = Vec::new();
        if self.skip_name("else") {
            self.block_end()?;
            otherwise = self.statements(&["endfor"])?;
        }
        self.next();
        self.block_end()?;
        // `loop` is a name that every body may read.
        self.name(&"loop".into());
        Ok(StmtKind::For(Arc::new(For { target, iter, filter, recursive, body, otherwise })))
    }

    fn set(&mut self) -> Result<StmtKind> {
        let target = self.target(true)?;
        if self.skip_op("=") {
            let value = self.tuple(true)?;
            self.block_end()?;
            return Ok(StmtKind::Set(target, value));
        }
        let filter = if self.is_op("|") { Some(self.filters(None, false)?) } else { None };
        Ok(StmtKind::SetBlock(target, filter, self.body("endset")?))
    }

    fn with(&mut self) -> Result<StmtKind> {
        let mut assignments = Vec::new();
        while *self.peek() != Token::BlockEnd {
            if !assignments.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target(false)?;
            self.expect_op("=")?;
            assignments.push((target, self.expression()?));
        }
        Ok(StmtKind::With(assignments, self.body("endwith")?))
    }

    /// What is assigned to; `attributes`: also an attribute of a namespace.
    fn target(&mut self, attributes: bool) -> Result<Target> {
        let first = self.one_target(attributes)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.skip_op(",") {
            if !matches!(self.peek(), Token::Name(name) if &**name != "in") && !self.is_op("(") {
                break;
            }
            targets.push(self.one_target(attributes)?);
        }
        Ok(Target::Tuple(targets))
    }

    fn one_target(&mut self, attributes: bool) -> Result<Target> {
        if self.skip_op("(") {
            let target = self.nested(|parser| parser.target(attributes))?;
            self.expect_op(")")?;
            return Ok(target);
        }
        let name = self.expect_name()?;
        if matches!(
            &*name,
            "true" | "false" | "none" | "True" | "False" | "None" | "self" | "super"
        ) {
            return Err(self.error(format!("cannot assign to {name:?}")));
        }
        if attributes && self.skip_op(".") {
            let attribute = self.expect_name()?;
            let number = self.read_name(&name);
            return Ok(Target::Attr(number, attribute));
        }
        Ok(Target::Name(self.name(&name)))
    }

    fn signature(&mut self) -> Result<(Vec<Param>, Vec<Expr>)> {
        let (mut params, mut defaults) = (Vec::new(), Vec::new());
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !params.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.expect_name()?;
            params.push((self.name(&name), name));
            if self.skip_op("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return Err(self.error("a parameter without a default follows one with"));
            }
        }
        self.expect_op(")")?;
        Ok((params, defaults))
    }

    fn macro_body(
        &mut self,
        name: String,
        params: Vec<Param>,
        defaults: Vec<Expr>,
        end: &str,
    ) -> Result<MacroDef> {
        if params.iter().any(|(_, name)| matches!(&**name, "caller" | "kwargs" | "varargs")) {
            return Err(self.error("parameters called caller, kwargs or varargs are not supported"));
        }
        let loops = std::mem::take(&mut self.loops);
        self.macros.push(Uses::default());
        let body = self.body(end)?;
        self.loops = loops;
        let uses = self.macros.pop().unwrap_or_default();
        for special in ["caller", "kwargs", "varargs"] {
            self.name(&special.into());
        }
        Ok(MacroDef {
            name,
            params,
            defaults,
            body,
            uses_caller: uses.caller,
            uses_kwargs: uses.kwargs,
            uses_varargs: uses.varargs,
        })
    }

    /// The arguments of a call, after its opening bracket.
    pub fn arguments(&mut self) -> Result<Args> {
        let mut args = Args::default();
        let mut first = true;
        while !self.is_op(")") {
            if !first {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            first = false;
            if self.skip_op("*") {
                if args.spread.is_some() || args.spread_keyword.is_some() {
                    return Err(self.error("invalid syntax for function call expression"));
                }
                args.spread = Some(Box::new(self.expression()?));
            } else if self.skip_op("**") {
                if args.spread_keyword.is_some() {
                    return Err(self.error("invalid syntax for function call expression"));
                }
                args.spread_keyword = Some(Box::new(self.expression()?));
            } else if let (Token::Name(name), Token::Op("=")) =
                (self.peek().clone(), self.peek_second())
            {
                if args.spread_keyword.is_some() {
                    return Err(self.error("invalid syntax for function call expression"));
                }
                self.next();
                self.next();
                args.keyword.push((name, self.expression()?));
            } else {
                if args.spread.is_some()
                    || args.spread_keyword.is_some()
                    || !args.keyword.is_empty()
                {
                    return Err(self.error("invalid syntax for function call expression"));
                }
                args.positional.push(self.expression()?);
            }
        }
        self.expect_op(")")?;
        Ok(args)
    }
}
