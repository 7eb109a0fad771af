//! Tokens to syntax tree: module level, declarations, function headers. Bodies are in `body.rs`.

use std::collections::HashMap;

use super::ParseError;
use super::ast::*;
use super::lexer::{Spanned, Token, tokenize};

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> Result<Module<'_>, ParseError> {
    let tokens = tokenize(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, module: Module::default() };
    parser.module()?;
    Ok(parser.module)
}

pub(super) struct Parser<'t, 'a> {
    pub(super) tokens: &'t [Spanned<'a>],
    pub(super) at: usize,
    pub(super) module: Module<'a>,
}

impl<'a> Parser<'_, 'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|s| s.token)
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |s| s.line)
    }

    pub(super) fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let token = self.peek().ok_or_else(|| self.error("the text ends too early"))?;
        self.at += 1;
        Ok(token)
    }

    pub(super) fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.line(), message)
    }

    pub(super) fn is(&self, punct: char) -> bool {
        self.peek() == Some(Token::Punct(punct))
    }

    pub(super) fn accept(&mut self, punct: char) -> bool {
        let found = self.is(punct);
        self.at += usize::from(found);
        found
    }

    pub(super) fn accept_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Token::Word(word));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, punct: char) -> Result<(), ParseError> {
        if self.accept(punct) {
            return Ok(());
        }
        Err(self.error(format!("expected `{punct}`, found {}", self.describe())))
    }

    pub(super) fn describe(&self) -> String {
        match self.peek() {
            None => "the end of the text".into(),
            Some(Token::Word(w)) => format!("`{w}`"),
            Some(Token::Text(t)) => format!("\"{t}\""),
            Some(Token::Punct(p)) => format!("`{p}`"),
            Some(Token::Int(v)) => format!("`{v}`"),
            Some(Token::F32(_) | Token::F64(_)) => "a floating-point constant".into(),
        }
    }

    pub(super) fn word(&mut self) -> Result<&'a str, ParseError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.error(format!("expected a name, found {}", self.describe()))),
        }
    }

    pub(super) fn int(&mut self) -> Result<u64, ParseError> {
        match self.peek() {
            Some(Token::Int(value)) => {
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.error(format!("expected an integer, found {}", self.describe()))),
        }
    }

    pub(super) fn int32(&mut self) -> Result<u32, ParseError> {
        let value = self.int()?;
        u32::try_from(value).map_err(|_| self.error(format!("{value} does not fit 32 bits")))
    }

    fn module(&mut self) -> Result<(), ParseError> {
        while let Some(token) = self.peek() {
            let Token::Word(word) = token else {
                if self.accept(';') {
                    continue;
                }
                return Err(self.error(format!("expected a directive, found {}", self.describe())));
            };
            match word {
                ".version" => {
                    self.at += 2;
                }
                ".target" => {
                    self.at += 1;
                    self.module.target = self.word()?;
                    while self.accept(',') {
                        self.word()?;
                    }
                }
                ".address_size" => {
                    self.at += 1;
                    if self.int()? != 64 {
                        return Err(self.error("only `.address_size 64` is supported"));
                    }
                }
                ".file" => self.file()?,
                ".section" => self.section()?,
                ".visible" | ".weak" | ".common" | ".extern" => self.at += 1,
                ".entry" | ".func" => self.function()?,
                ".global" | ".const" | ".shared" => {
                    let mut variables = Vec::new();
                    self.variables(&mut variables)?;
                    self.module.variables.append(&mut variables);
                }
                _ => {
                    return Err(self.error(format!("the directive `{word}` is not supported here")));
                }
            }
        }
        if self.module.target.is_empty() {
            return Err(ParseError::new(1, "there is no `.target`: this is not a PTX module"));
        }
        Ok(())
    }

    fn file(&mut self) -> Result<(), ParseError> {
        self.at += 1;
        let index = self.int32()?;
        let Token::Text(name) = self.next()? else {
            return Err(self.error("`.file` needs a name in quotes"));
        };
        self.module.files.insert(index, name);
        while self.accept(',') {
            self.int()?;
        }
        Ok(())
    }

    /// Debug sections carry nothing that execution needs.
    fn section(&mut self) -> Result<(), ParseError> {
        self.at += 1;
        self.word()?;
        self.expect('{')?;
        while !self.accept('}') {
            self.next()?;
        }
        Ok(())
    }

    /// `.space [.align n] .type name[size] [= init], ... ;`
    pub(super) fn variables(&mut self, out: &mut Vec<Variable<'a>>) -> Result<(), ParseError> {
        let space = match self.word()? {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            other => return Err(self.error(format!("`{other}` is not a state space"))),
        };
        loop {
            out.push(self.declarator(space)?);
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')
    }

    /// One variable after its state space.
    fn declarator(&mut self, space: Space) -> Result<Variable<'a>, ParseError> {
        let line = self.line();
        let (mut align, mut lanes) = (0, 1);
        let ty = loop {
            let word = self.word()?;
            match word {
                ".align" => align = self.int32()?,
                ".ptr" => {}
                ".global" | ".const" | ".shared" | ".local" if space == Space::Param => {}
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                _ => match word.strip_prefix('.').and_then(Type::parse) {
                    Some(ty) => break ty,
                    None => return Err(self.error(format!("`{word}` is not a type of a variable"))),
                },
            }
        };
        // `.ptr .global .align 1` follow the type in parameter lists.
        while let Some(Token::Word(word)) = self.peek() {
            match word {
                ".ptr" | ".global" | ".const" | ".shared" | ".local" => self.at += 1,
                ".align" => self.at += 2,
                _ => break,
            }
        }
        let name = self.word()?;
        let (mut size, mut unsized_array) = (ty.bytes() * lanes, false);
        while self.accept('[') {
            if self.is(']') {
                unsized_array = true;
            } else {
                let count = self.int32()?;
                size = size.checked_mul(count).ok_or_else(|| {
                    ParseError::new(line, format!("`{name}` is larger than 4 GiB"))
                })?;
            }
            self.expect(']')?;
        }
        if unsized_array {
            size = 0;
        }
        let mut init = Vec::new();
        if self.accept('=') {
            self.initialiser(ty, &mut init)?;
            if unsized_array {
                size = init.len() as u32;
            }
            init.resize(size as usize, 0);
        }
        let align = align.max(ty.bytes());
        Ok(Variable { name, space, align, size, init, line })
    }

    fn initialiser(&mut self, ty: Type, out: &mut Vec<u8>) -> Result<(), ParseError> {
        if self.accept('{') {
            while !self.accept('}') {
                self.initialiser(ty, out)?;
                self.accept(',');
            }
            return Ok(());
        }
        let negative = self.accept('-');
        let bits = match self.next()? {
            Token::Int(value) if negative => value.wrapping_neg(),
            Token::Int(value) => value,
            Token::F32(bits) if ty == Type::F32 => u64::from(bits),
            Token::F64(bits) if ty == Type::F64 => bits,
            _ => return Err(self.error("this initialiser is not supported: expected numbers")),
        };
        out.extend_from_slice(&bits.to_le_bytes()[..ty.bytes() as usize]);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<Variable<'a>>, ParseError> {
        let mut params = Vec::new();
        if !self.accept('(') {
            return Ok(params);
        }
        while !self.accept(')') {
            match self.word()? {
                ".param" => params.push(self.declarator(Space::Param)?),
                other => {
                    return Err(self.error(format!("parameters in `{other}` are not supported")));
                }
            }
            self.accept(',');
        }
        Ok(params)
    }

    fn function(&mut self) -> Result<(), ParseError> {
        let line = self.line();
        let is_entry = self.word()? == ".entry";
        let results = if is_entry { Vec::new() } else { self.parameters()? };
        let name = self.word()?;
        let params = self.parameters()?;
        let mut function = Function {
            name,
            is_entry,
            line,
            results,
            params,
            registers: Vec::new(),
            variables: Vec::new(),
            branch_targets: HashMap::new(),
            body: Vec::new(),
            required_threads: None,
            max_threads: None,
        };
        loop {
            if self.accept(';') {
                // A prototype. Calling a name that never gets a body is an error of the decoder.
                return Ok(());
            }
            if self.accept('{') {
                break;
            }
            match self.word()? {
                ".noreturn" | ".explicitcluster" => {}
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".maxclusterrank" => {
                    self.int()?;
                }
                ".reqnctapercluster" => {
                    if self.dimensions()? != [1, 1, 1] {
                        return Err(self.error("clusters of several blocks are not supported"));
                    }
                }
                ".reqntid" => {
                    let d = self.dimensions()?;
                    function.required_threads = Some(d);
                }
                ".maxntid" => {
                    let [x, y, z] = self.dimensions()?;
                    function.max_threads = Some(x.saturating_mul(y).saturating_mul(z));
                }
                ".pragma" => {
                    while !self.accept(';') && !matches!(self.next()?, Token::Punct('{')) {}
                }
                other => {
                    return Err(self.error(format!("the directive `{other}` is not supported")));
                }
            }
        }
        self.body(&mut function)?;
        self.module.functions.push(function);
        Ok(())
    }

    fn dimensions(&mut self) -> Result<[u32; 3], ParseError> {
        let mut dims = [self.int32()?, 1, 1];
        for dim in &mut dims[1..] {
            if !self.accept(',') {
                break;
            }
            *dim = self.int32()?;
        }
        Ok(dims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

    #[test]
    fn variables_and_kernels() {
        let text = format!(
            "{HEADER}.const .align 4 .b8 t[8] = {{1, 0, 0, 0, 255}};\n.extern .shared .align 16 .b8 tile[];\n\
             .visible .entry k(\n.param .u64 k_0,\n.param .align 4 .b8 k_1[12]\n)\n.maxntid 128, 1, 1\n{{\n\
             .reg .b32 %r<3>;\nL: @!%p1 bra L;\nret;\n}}\n"
        );
        assert_eq!(parse(&text).unwrap_err().message, "`%p1` is not declared");
        let text = text.replace("%r<3>;", "%r<3>; .reg .pred %p<2>;");
        let module = parse(&text).unwrap();
        assert_eq!(module.target, "sm_80");
        assert_eq!(module.variables[0].init, [1, 0, 0, 0, 255, 0, 0, 0]);
        assert!(module.variables[1].size == 0);
        let kernel = &module.functions[0];
        assert_eq!((kernel.params[1].size, kernel.max_threads), (12, Some(128)));
        assert_eq!(kernel.body.len(), 4);
        assert!(matches!(&kernel.body[1], Statement::Instruction(i) if i.guard == Some((4, true))));
    }
}
