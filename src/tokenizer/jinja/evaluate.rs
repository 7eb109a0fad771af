//! Evaluates expressions.

use std::rc::Rc;

use super::args::Arguments;
use super::ast::{Args, CompareOp, Const, Expr, ExprKind};
use super::interp::{Interp, Scope};
use super::limits;
use super::value::{Value, to_text};
use super::{Error, Result, attr, filters, globals, methods, ops, tests};

impl Interp<'_> {
    /// The value of an expression.
    pub fn evaluate(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        limits::spend(1)?;
        match &expr.kind {
            ExprKind::Const(value) => Ok(constant(value)),
            ExprKind::Name(name) => Ok(self.variable(*name, scope)),
            _ => self
                .deeper(|interp| interp.compound(expr, scope))
                .map_err(|error| error.at(expr.line)),
        }
    }

    fn compound(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        match &expr.kind {
            ExprKind::List(items) => Value::list(self.all(items, scope)?),
            ExprKind::Tuple(items) => Value::tuple(self.all(items, scope)?),
            ExprKind::Dict(pairs) => {
                let mut entries = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    entries.push((self.evaluate(key, scope)?, self.evaluate(value, scope)?));
                }
                Value::dict(entries)
            }
            ExprKind::Negate(of) => ops::negate(&self.evaluate(of, scope)?),
            ExprKind::Plus(of) => ops::plus(&self.evaluate(of, scope)?),
            ExprKind::Not(of) => Ok(Value::Bool(!self.evaluate(of, scope)?.truthy())),
            ExprKind::And(a, b) => {
                let value = self.evaluate(a, scope)?;
                if value.truthy() { self.evaluate(b, scope) } else { Ok(value) }
            }
            ExprKind::Or(a, b) => {
                let value = self.evaluate(a, scope)?;
                if value.truthy() { Ok(value) } else { self.evaluate(b, scope) }
            }
            ExprKind::Binary(op, a, b) => {
                let (a, b) = (self.evaluate(a, scope)?, self.evaluate(b, scope)?);
                ops::binary(*op, &a, &b)
            }
            ExprKind::Concat(parts) => self.concat(parts, scope),
            ExprKind::Compare(first, others) => self.compare(first, others, scope),
            ExprKind::Cond(condition, value, otherwise) => {
                if self.evaluate(condition, scope)?.truthy() {
                    return self.evaluate(value, scope);
                }
                match otherwise {
                    Some(otherwise) => self.evaluate(otherwise, scope),
                    None => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was \
                         defined",
                    )),
                }
            }
            ExprKind::Attr(of, name) => attr::attribute(&self.evaluate(of, scope)?, name),
            ExprKind::Item(of, key) => {
                let of = self.evaluate(of, scope)?;
                attr::item(&of, &self.evaluate(key, scope)?)
            }
            ExprKind::Slice(of, bounds) => {
                let of = self.evaluate(of, scope)?;
                let mut values = [const { None }; 3];
                for (value, bound) in values.iter_mut().zip(bounds) {
                    if let Some(bound) = bound {
                        *value = Some(self.evaluate(bound, scope)?);
                    }
                }
                attr::slice(&of, values)
            }
            ExprKind::Filter(..) | ExprKind::Test(..) | ExprKind::Call(..) => {
                self.applied(expr, scope)
            }
            ExprKind::Const(_) | ExprKind::Name(_) => self.evaluate(expr, scope),
        }
    }

    /// Filters, tests and calls.
    fn applied(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        match &expr.kind {
            ExprKind::Filter(input, name, args) => {
                let Some(input) = input else { return Err(Error::new("a filter has no input")) };
                let value = self.evaluate(input, scope)?;
                let args = self.arguments(args, scope)?;
                filters::apply(name, value, args)
            }
            ExprKind::Test(of, name, args) => {
                let value = self.evaluate(of, scope)?;
                let args = self.arguments(args, scope)?;
                tests::apply(name, &value, args).map(Value::Bool)
            }
            ExprKind::Call(of, args) => {
                let of = self.evaluate(of, scope)?;
                let args = self.arguments(args, scope)?;
                self.call(&of, args)
            }
            _ => self.evaluate(expr, scope),
        }
    }

    fn all(&mut self, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        items.iter().map(|item| self.evaluate(item, scope)).collect()
    }

    fn concat(&mut self, parts: &[Expr], scope: &Rc<Scope>) -> Result<Value> {
        let mut out = String::new();
        for part in parts {
            match self.evaluate(part, scope)? {
                Value::Str(text) => {
                    limits::grow(out.len(), text.text.len())?;
                    out.push_str(&text.text);
                }
                other => {
                    let text = to_text(&other)?;
                    limits::grow(out.len(), text.len())?;
                    out.push_str(&text);
                }
            }
        }
        Ok(Value::str(out))
    }

    /// A chain of comparisons, each operand evaluated once, up to the first that fails.
    fn compare(
        &mut self,
        first: &Expr,
        others: &[(CompareOp, Expr)],
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let mut left = self.evaluate(first, scope)?;
        for (op, other) in others {
            let right = self.evaluate(other, scope)?;
            if !ops::compare(*op, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// The arguments of a call.
    pub fn arguments(&mut self, args: &Args, scope: &Rc<Scope>) -> Result<Arguments> {
        let mut positional = self.all(&args.positional, scope)?;
        let mut keyword = Vec::with_capacity(args.keyword.len());
        for (name, value) in &args.keyword {
            if keyword.iter().any(|(known, _)| known == name) {
                return Err(Error::new(format!("the argument {name:?} is given twice")));
            }
            keyword.push((name.clone(), self.evaluate(value, scope)?));
        }
        if let Some(spread) = &args.spread {
            let spread = self.evaluate(spread, scope)?;
            positional.extend(spread.items()?);
        }
        if let Some(spread) = &args.spread_keyword {
            let spread = self.evaluate(spread, scope)?;
            let Value::Dict(dict) = &spread else {
                return Err(Error::new(format!("** needs a mapping, not {}", spread.type_name())));
            };
            for (name, value) in &dict.entries {
                let name = name.expect_str("the name of an argument")?;
                if keyword.iter().any(|(known, _)| &**known == name) {
                    return Err(Error::new(format!("the argument {name:?} is given twice")));
                }
                keyword.push((name.into(), value.clone()));
            }
        }
        Ok(Arguments { positional, keyword })
    }

    /// Calls a value.
    pub fn call(&mut self, of: &Value, args: Arguments) -> Result<Value> {
        limits::spend(1)?;
        match of {
            Value::Method(of, name) => methods::call(of, name, args),
            Value::Function(name) => globals::call(name, args, self.clock),
            Value::Macro(of) => self.call_macro(of, args),
            Value::Loop(of) => {
                let [items] = args.bind("loop", ["iterable"])?;
                let items = super::args::required("loop", "iterable", items)?;
                self.recurse(of, items)
            }
            Value::Joiner(joiner) => {
                args.none("joiner")?;
                if joiner.1.replace(true) { Ok(joiner.0.clone()) } else { Ok(Value::str("")) }
            }
            other => {
                other.defined()?;
                Err(Error::new(format!("a {} cannot be called", other.type_name())))
            }
        }
    }
}

fn constant(value: &Const) -> Value {
    match value {
        Const::None => Value::None,
        Const::Bool(value) => Value::Bool(*value),
        Const::Int(value) => Value::Int(*value),
        Const::Float(value) => Value::Float(*value),
        Const::Str(text) => Value::str(&**text),
    }
}
