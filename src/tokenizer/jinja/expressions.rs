//! The grammar of expressions, from the loosest operator to the tightest.

use std::sync::Arc;

use super::Result;
use super::ast::{Args, BinaryOp, CompareOp, Const, Expr, ExprKind};
use super::lexer::Token;
use super::limits::NESTING;
use super::parser::Parser;

impl Parser {
    /// An expression, and no deeper one than an evaluation can follow.
    fn node(&self, line: u32, depth: usize, kind: ExprKind) -> Result<Expr> {
        if depth > NESTING {
            return Err(self.error(format!("it is nested deeper than {NESTING}")));
        }
        Ok(Expr { line, depth: depth + 1, kind })
    }

    fn constant(&self, line: u32, value: Const) -> Expr {
        Expr { line, depth: 1, kind: ExprKind::Const(value) }
    }

    /// One expression, or several with commas between, which are a tuple.
    pub fn tuple(&mut self, conditional: bool) -> Result<Expr> {
        self.tuple_until(conditional, false)
    }

    /// `empty`: a tuple of nothing is one, as within brackets.
    fn tuple_until(&mut self, conditional: bool, empty: bool) -> Result<Expr> {
        let line = self.line();
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            if !items.is_empty() {
                if !self.skip_op(",") {
                    break;
                }
                comma = true;
            }
            let ended = matches!(self.peek(), Token::VariableEnd | Token::BlockEnd)
                || self.is_op(")")
                || (!conditional && self.is_name("recursive"));
            if ended {
                break;
            }
            items.push(if conditional { self.expression()? } else { self.unconditional()? });
        }
        match (items.len(), comma) {
            (1, false) => Ok(items.remove(0)),
            (0, _) if !empty => Err(self.unexpected("an expression")),
            _ => {
                let depth = deepest(&items);
                self.node(line, depth, ExprKind::Tuple(items))
            }
        }
    }

    /// An expression: `a if b else c` and all that binds tighter.
    pub fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let line = parser.line();
            let mut value = parser.or()?;
            while parser.skip_name("if") {
                let condition = parser.or()?;
                let otherwise = if parser.skip_name("else") {
                    Some(Box::new(parser.expression()?))
                } else {
                    None
                };
                let depth = value.depth.max(condition.depth);
                let depth = depth.max(otherwise.as_ref().map_or(0, |other| other.depth));
                let kind = ExprKind::Cond(Box::new(condition), Box::new(value), otherwise);
                value = parser.node(line, depth, kind)?;
            }
            Ok(value)
        })
    }

    fn unconditional(&mut self) -> Result<Expr> {
        self.nested(Self::or)
    }

    fn or(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            let depth = left.depth.max(right.depth);
            left = self.node(line, depth, ExprKind::Or(Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            let depth = left.depth.max(right.depth);
            left = self.node(line, depth, ExprKind::And(Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        if self.skip_name("not") {
            let of = self.nested(Self::not)?;
            return self.node(line, of.depth, ExprKind::Not(Box::new(of)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let op = match self.peek() {
                Token::Op("==") => CompareOp::Eq,
                Token::Op("!=") => CompareOp::Ne,
                Token::Op("<") => CompareOp::Lt,
                Token::Op("<=") => CompareOp::Le,
                Token::Op(">") => CompareOp::Gt,
                Token::Op(">=") => CompareOp::Ge,
                Token::Name(name) if &**name == "in" => CompareOp::In,
                Token::Name(name)
                    if &**name == "not"
                        && matches!(self.peek_second(), Token::Name(next) if &**next == "in") =>
                {
                    self.next();
                    CompareOp::NotIn
                }
                _ => break,
            };
            self.next();
            others.push((op, self.sum()?));
        }
        if others.is_empty() {
            return Ok(first);
        }
        let depth = others.iter().map(|(_, other)| other.depth).max().unwrap_or(0).max(first.depth);
        self.node(line, depth, ExprKind::Compare(Box::new(first), others))
    }

    /// Operators of one level, from the left.
    fn binary(
        &mut self,
        ops: &[(&str, BinaryOp)],
        operand: fn(&mut Self) -> Result<Expr>,
    ) -> Result<Expr> {
        let line = self.line();
        let mut left = operand(self)?;
        while let Some(&(_, op)) = ops.iter().find(|(op, _)| self.is_op(op)) {
            self.next();
            let right = operand(self)?;
            let depth = left.depth.max(right.depth);
            let kind = ExprKind::Binary(op, Box::new(left), Box::new(right));
            left = self.node(line, depth, kind)?;
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expr> {
        self.binary(&[("+", BinaryOp::Add), ("-", BinaryOp::Sub)], Self::concat)
    }

    fn concat(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_op("~") {
            parts.push(self.product()?);
        }
        let depth = deepest(&parts);
        self.node(line, depth, ExprKind::Concat(parts))
    }

    fn product(&mut self) -> Result<Expr> {
        let ops = [
            ("*", BinaryOp::Mul),
            ("/", BinaryOp::Div),
            ("//", BinaryOp::FloorDiv),
            ("%", BinaryOp::Mod),
        ];
        self.binary(&ops, Self::power)
    }

    fn power(&mut self) -> Result<Expr> {
        self.binary(&[("**", BinaryOp::Pow)], |parser| parser.unary(true))
    }

    fn unary(&mut self, with_filter: bool) -> Result<Expr> {
        let line = self.line();
        let value = if self.is_op("-") || self.is_op("+") {
            let negative = self.is_op("-");
            self.next();
            let of = self.nested(|parser| parser.unary(false))?;
            let depth = of.depth;
            let of = Box::new(of);
            let kind = if negative { ExprKind::Negate(of) } else { ExprKind::Plus(of) };
            self.node(line, depth, kind)?
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if with_filter { self.filters(Some(value), false) } else { Ok(value) }
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let token = self.next();
        if let Some(number) = token.number() {
            return Ok(self.constant(line, number));
        }
        match token {
            Token::Name(name) => Ok(match &*name {
                "true" | "True" => self.constant(line, Const::Bool(true)),
                "false" | "False" => self.constant(line, Const::Bool(false)),
                "none" | "None" => self.constant(line, Const::None),
                _ => {
                    let name = self.read_name(&name);
                    Expr { line, depth: 1, kind: ExprKind::Name(name) }
                }
            }),
            Token::Str(text) => {
                let mut whole = text.to_string();
                while let Token::Str(more) = self.peek().clone() {
                    whole.push_str(&more);
                    self.next();
                }
                Ok(self.constant(line, Const::Str(whole.into())))
            }
            Token::Op("(") => {
                let value = self.nested(|parser| parser.tuple_until(true, true))?;
                self.expect_op(")")?;
                Ok(value)
            }
            Token::Op("[") => {
                let mut items = Vec::new();
                while !self.is_op("]") {
                    if !items.is_empty() {
                        self.expect_op(",")?;
                        if self.is_op("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                self.expect_op("]")?;
                let depth = deepest(&items);
                self.node(line, depth, ExprKind::List(items))
            }
            Token::Op("{") => self.dict(line),
            _ => {
                self.back();
                Err(self.unexpected("an expression"))
            }
        }
    }

    fn dict(&mut self, line: u32) -> Result<Expr> {
        let mut pairs: Vec<(Expr, Expr)> = Vec::new();
        while !self.is_op("}") {
            if !pairs.is_empty() {
                self.expect_op(",")?;
                if self.is_op("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect_op(":")?;
            pairs.push((key, self.expression()?));
        }
        self.expect_op("}")?;
        let depth = pairs.iter().map(|(key, value)| key.depth.max(value.depth)).max().unwrap_or(0);
        self.node(line, depth, ExprKind::Dict(pairs))
    }

    /// Attributes, items and calls behind a value.
    fn postfix(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            let line = self.line();
            if self.skip_op(".") {
                let depth = value.depth;
                let kind = match self.next() {
                    Token::Name(name) => ExprKind::Attr(Box::new(value), name),
                    Token::Int(index) => {
                        let index = self.constant(line, Const::Int(index));
                        ExprKind::Item(Box::new(value), Box::new(index))
                    }
                    _ => {
                        self.back();
                        return Err(self.unexpected("a name or a number"));
                    }
                };
                value = self.node(line, depth, kind)?;
            } else if self.skip_op("[") {
                value = self.subscript(value, line)?;
            } else if self.is_op("(") {
                value = self.call(value, line)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn call(&mut self, of: Expr, line: u32) -> Result<Expr> {
        self.expect_op("(")?;
        let args = self.nested(Self::arguments)?;
        let depth = of.depth.max(args_depth(&args));
        self.node(line, depth, ExprKind::Call(Box::new(of), args))
    }

    /// An item or a slice, after the opening bracket.
    fn subscript(&mut self, of: Expr, line: u32) -> Result<Expr> {
        let mut bounds = [None, None, None];
        let mut colons = 0;
        while !self.is_op("]") {
            if self.skip_op(":") {
                colons += 1;
                if colons > 2 {
                    return Err(self.unexpected("`]`"));
                }
            } else if bounds[colons].is_some() {
                return Err(self.unexpected("`]`"));
            } else {
                bounds[colons] = Some(Box::new(self.expression()?));
            }
        }
        self.expect_op("]")?;
        let depth = bounds.iter().flatten().map(|bound| bound.depth).max().unwrap_or(0);
        let depth = depth.max(of.depth);
        let of = Box::new(of);
        let kind = match (colons, bounds) {
            (0, [Some(item), ..]) => ExprKind::Item(of, item),
            (0, _) => return Err(self.error("a subscript is empty")),
            (_, bounds) => ExprKind::Slice(of, bounds),
        };
        self.node(line, depth, kind)
    }

    /// Filters, tests and calls behind a value. Without a value, the first filter has no input;
    /// `inline`: it comes without a bar.
    pub fn filters(&mut self, value: Option<Expr>, inline: bool) -> Result<Expr> {
        let mut value = value;
        let mut inline = inline;
        loop {
            let line = self.line();
            if inline || self.skip_op("|") {
                inline = false;
                let name = self.dotted_name()?;
                let args =
                    if self.skip_op("(") { self.nested(Self::arguments)? } else { Args::default() };
                let depth = value.as_ref().map_or(0, |value| value.depth).max(args_depth(&args));
                let kind = ExprKind::Filter(value.map(Box::new), name, args);
                value = Some(self.node(line, depth, kind)?);
                continue;
            }
            match value {
                None => return Err(self.unexpected("a filter")),
                Some(of) if self.skip_name("is") => value = Some(self.test(of, line)?),
                Some(of) if self.is_op("(") => value = Some(self.call(of, line)?),
                Some(of) => return Ok(of),
            }
        }
    }

    fn dotted_name(&mut self) -> Result<Arc<str>> {
        let mut name = self.expect_name()?;
        while self.skip_op(".") {
            name = format!("{name}.{}", self.expect_name()?).into();
        }
        Ok(name)
    }

    fn test(&mut self, of: Expr, line: u32) -> Result<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut args = Args::default();
        let operand = match self.peek() {
            Token::Name(name) => !matches!(&**name, "else" | "or" | "and"),
            Token::Str(_) | Token::Int(_) | Token::Float(_) => true,
            Token::Op(op) => matches!(*op, "[" | "{"),
            _ => false,
        };
        if self.skip_op("(") {
            args = self.nested(Self::arguments)?;
        } else if operand {
            if self.is_name("is") {
                return Err(self.error("You cannot chain multiple tests with is"));
            }
            let operand = self.primary()?;
            args.positional.push(self.postfix(operand)?);
        }
        let depth = of.depth.max(args_depth(&args));
        let test = self.node(line, depth, ExprKind::Test(Box::new(of), name, args))?;
        if !negated {
            return Ok(test);
        }
        let depth = test.depth;
        self.node(line, depth, ExprKind::Not(Box::new(test)))
    }
}

fn deepest(items: &[Expr]) -> usize {
    items.iter().map(|item| item.depth).max().unwrap_or(0)
}

fn args_depth(args: &Args) -> usize {
    let spread = args.spread.iter().chain(&args.spread_keyword).map(|of| of.depth);
    let keyword = args.keyword.iter().map(|(_, of)| of.depth);
    args.positional.iter().map(|of| of.depth).chain(keyword).chain(spread).max().unwrap_or(0)
}
