//! Runs the statements of a template.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::args::Arguments;
use super::ast::{Expr, ExprKind, For, MacroDef, Name, Stmt, StmtKind, Target};
use super::limits::{self, DEPTH, Held};
use super::value::{Loop, Macro, Value, to_text};
use super::{Clock, Error, Rendered, Result, Template};

/// Variables of a loop's turn, a macro's call or the whole template, and those around them.
#[derive(Debug)]
pub struct Scope {
    vars: RefCell<Vec<(Name, Value)>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    /// A scope within `parent`.
    pub fn within(parent: Option<&Rc<Scope>>) -> Rc<Self> {
        Rc::new(Self { vars: RefCell::default(), parent: parent.cloned() })
    }

    /// Sets a variable of this scope.
    pub fn set(&self, name: Name, value: Value) {
        let mut vars = self.vars.borrow_mut();
        match vars.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => vars.push((name, value)),
        }
    }

    /// The variable here or around.
    pub fn get(&self, name: Name) -> Option<Value> {
        let mut scope = self;
        loop {
            let vars = scope.vars.borrow();
            if let Some((_, value)) = vars.iter().find(|(known, _)| *known == name) {
                return Some(value.clone());
            }
            drop(vars);
            scope = scope.parent.as_deref()?;
        }
    }
}

/// How statements ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// Text that is being written, counted as held.
#[derive(Default)]
struct Output {
    text: String,
    held: Vec<Held>,
}

/// One rendering.
pub struct Interp<'t> {
    pub template: &'t Template,
    /// Variables that the caller gave, by the number of their name.
    pub given: Vec<Option<Value>>,
    pub clock: Clock,
    /// The whole's output, then those of what is being captured.
    outputs: Vec<Output>,
    depth: usize,
    marks: Vec<(usize, usize)>,
    /// Whether a mark lies in captured text, so that its place in the whole is not known.
    marks_lost: bool,
}

impl<'t> Interp<'t> {
    /// A rendering of `template`.
    pub fn new(template: &'t Template, given: Vec<Option<Value>>, clock: Clock) -> Self {
        Self {
            template,
            given,
            clock,
            outputs: vec![Output::default()],
            depth: 0,
            marks: Vec::new(),
            marks_lost: false,
        }
    }

    /// Renders the whole.
    pub fn run(mut self) -> Result<Rendered> {
        let scope = Scope::within(None);
        let flow = self.statements(&self.template.parsed.body, &scope)?;
        debug_assert_eq!(flow, Flow::On);
        let text = self.outputs.pop().unwrap_or_default().text;
        let generation = if self.marks_lost { None } else { Some(self.marks) };
        Ok(Rendered { text, generation })
    }

    /// Runs `work` one level deeper.
    pub fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Error::new(format!("it calls itself deeper than {DEPTH} levels")));
        }
        let done = work(self);
        self.depth -= 1;
        done
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let Some(output) = self.outputs.last_mut() else { return Ok(()) };
        limits::room(text.len())?;
        output.text.push_str(text);
        // A count per kilobyte or so, not one per piece.
        let counted: usize = output.held.len() << 10;
        if output.text.len() > counted {
            let more = (output.text.len() - counted) / 1024 + 1;
            output.held.extend((0..more).map(|_| Held::new(1024)));
        }
        Ok(())
    }

    /// The text that statements write.
    fn captured(&mut self, body: &[Stmt], scope: &Rc<Scope>) -> Result<String> {
        self.outputs.push(Output::default());
        let flow = self.statements(body, scope);
        let output = self.outputs.pop().unwrap_or_default();
        flow?;
        Ok(output.text)
    }

    fn statements(&mut self, body: &[Stmt], scope: &Rc<Scope>) -> Result<Flow> {
        for stmt in body {
            limits::spend(1)?;
            let flow = self.statement(stmt, scope).map_err(|error| error.at(stmt.line))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn statement(&mut self, stmt: &Stmt, scope: &Rc<Scope>) -> Result<Flow> {
        match &stmt.kind {
            StmtKind::Text(text) => self.write(text)?,
            StmtKind::Print(value) => match self.evaluate(value, scope)? {
                Value::Str(text) => self.write(&text.text)?,
                value => {
                    let text = to_text(&value)?;
                    self.write(&text)?;
                }
            },
            StmtKind::If(branches) => {
                for (condition, body) in branches {
                    let holds = match condition {
                        Some(condition) => self.evaluate(condition, scope)?.truthy(),
                        None => true,
                    };
                    if holds {
                        return self.deeper(|interp| interp.statements(body, scope));
                    }
                }
            }
            StmtKind::For(of) => {
                let items = self.evaluate(&of.iter, scope)?;
                self.deeper(|interp| interp.for_loop(of, items, scope, 0))?;
            }
            StmtKind::Set(target, value) => {
                let value = self.evaluate(value, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::Macro(name, def) => {
                let value = Macro { def: def.clone(), scope: Rc::downgrade(scope) };
                scope.set(*name, Value::Macro(Rc::new(value)));
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
            _ => return self.deeper(|interp| interp.block(stmt, scope)),
        }
        Ok(Flow::On)
    }

    /// Statements with a body and a scope of their own.
    fn block(&mut self, stmt: &Stmt, scope: &Rc<Scope>) -> Result<Flow> {
        let inner = Scope::within(Some(scope));
        match &stmt.kind {
            StmtKind::SetBlock(target, filter, body) => {
                let text = Value::str(self.captured(body, &inner)?);
                let value = match filter {
                    Some(filter) => self.filtered(filter, text, scope)?,
                    None => text,
                };
                self.assign(target, value, scope)?;
            }
            StmtKind::With(assignments, body) => {
                for (target, value) in assignments {
                    let value = self.evaluate(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.statements(body, &inner);
            }
            StmtKind::CallBlock(call, def) => {
                let ExprKind::Call(of, args) = &call.kind else { return Ok(Flow::On) };
                let caller = Macro { def: def.clone(), scope: Rc::downgrade(scope) };
                let of = self.evaluate(of, scope)?;
                let mut args = self.arguments(args, scope)?;
                args.keyword.push(("caller".into(), Value::Macro(Rc::new(caller))));
                let value = self.call(&of, args)?;
                let text = to_text(&value)?;
                self.write(&text)?;
            }
            StmtKind::FilterBlock(filter, body) => {
                let text = Value::str(self.captured(body, &inner)?);
                let value = self.filtered(filter, text, scope)?;
                let text = to_text(&value)?;
                self.write(&text)?;
            }
            StmtKind::Generation(body) => {
                let start = self.outputs.last().map_or(0, |output| output.text.len());
                self.statements(body, &inner)?;
                let end = self.outputs.last().map_or(0, |output| output.text.len());
                self.marks.push((start, end));
                self.marks_lost |= self.outputs.len() > 1;
            }
            _ => {}
        }
        Ok(Flow::On)
    }

    /// Applies a chain of filters whose first has no input of its own.
    fn filtered(&mut self, filter: &Expr, text: Value, scope: &Rc<Scope>) -> Result<Value> {
        let ExprKind::Filter(inner, name, args) = &filter.kind else {
            return Err(Error::new("a block can only be filtered").at(filter.line));
        };
        let input = match inner {
            Some(inner) => self.filtered(inner, text, scope)?,
            None => text,
        };
        let args = self.arguments(args, scope)?;
        super::filters::apply(name, input, args).map_err(|error| error.at(filter.line))
    }

    fn assign(&mut self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(*name, value),
            Target::Attr(name, attribute) => {
                let Value::Namespace(attributes) = self.variable(*name, scope) else {
                    return Err(Error::new("cannot assign attribute on non-namespace object"));
                };
                if attribute.starts_with('_') {
                    return Err(Error::new("a namespace takes no attribute that begins with _"));
                }
                if value.holds_reference()? {
                    return Err(Error::new("a namespace cannot hold a namespace or a loop"));
                }
                let mut attributes = attributes.borrow_mut();
                match attributes.iter_mut().find(|(known, _)| **known == **attribute) {
                    Some((_, old)) => *old = value,
                    None => attributes.push(((&**attribute).into(), value)),
                }
            }
            Target::Tuple(targets) => {
                value.defined()?;
                let items = value.items()?;
                if items.len() != targets.len() {
                    return Err(Error::new(format!(
                        "expected {} values to unpack, found {}",
                        targets.len(),
                        items.len()
                    )));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, scope)?;
                }
            }
        }
        Ok(())
    }

    /// A variable, or what is said of its absence.
    pub fn variable(&self, name: Name, scope: &Rc<Scope>) -> Value {
        if let Some(value) = scope.get(name) {
            return value;
        }
        if let Some(Some(value)) = self.given.get(name as usize) {
            return value.clone();
        }
        let name = &self.template.parsed.names[name as usize];
        match super::globals::find(name) {
            Some(value) => value,
            None => Value::undefined(format!("{name:?} is undefined")),
        }
    }

    /// A loop over `items`, `depth` recursive calls deep.
    fn for_loop(
        &mut self,
        of: &Arc<For>,
        items: Value,
        scope: &Rc<Scope>,
        depth: usize,
    ) -> Result<()> {
        let mut list = items.items()?;
        if let Some(filter) = &of.filter {
            let mut kept = Vec::new();
            for item in list {
                let inner = Scope::within(Some(scope));
                self.assign(&of.target, item.clone(), &inner)?;
                if self.evaluate(filter, &inner)?.truthy() {
                    kept.push(item);
                }
            }
            list = kept;
        }
        if list.is_empty() {
            let inner = Scope::within(Some(scope));
            self.statements(&of.otherwise, &inner)?;
            return Ok(());
        }
        let looped = Rc::new(Loop {
            items: Rc::new(list),
            index0: Cell::new(0),
            depth0: depth,
            changed: RefCell::default(),
            recursive: of.recursive.then(|| (of.clone(), Rc::downgrade(scope))),
        });
        for index in 0..looped.items.len() {
            limits::spend(1)?;
            looped.index0.set(index);
            let inner = Scope::within(Some(scope));
            self.assign(&of.target, looped.items[index].clone(), &inner)?;
            if let Some(name) = self.template.loop_name {
                inner.set(name, Value::Loop(looped.clone()));
            }
            if self.statements(&of.body, &inner)? == Flow::Break {
                if let Value::Iter(iter) = &items {
                    iter.broken.set(true);
                }
                break;
            }
        }
        Ok(())
    }

    /// `loop(items)` of a recursive loop.
    pub fn recurse(&mut self, looped: &Loop, items: Value) -> Result<Value> {
        let Some((of, scope)) = &looped.recursive else {
            return Err(Error::new(
                "The loop must have the 'recursive' marker to be called recursively.",
            ));
        };
        let scope = scope.upgrade().ok_or_else(|| Error::new("the loop has ended"))?;
        self.outputs.push(Output::default());
        let done = self.deeper(|i| i.for_loop(of, items, &scope, looped.depth0 + 1));
        let output = self.outputs.pop().unwrap_or_default();
        done?;
        Ok(Value::str(output.text))
    }

    /// Calls a macro.
    pub fn call_macro(&mut self, of: &Macro, args: Arguments) -> Result<Value> {
        let def: &MacroDef = &of.def;
        let scope = of.scope.upgrade().ok_or_else(|| {
            Error::new(format!("the macro {:?} outlived the block it was made in", def.name))
        })?;
        let scope = Scope::within(Some(&scope));
        let Arguments { mut positional, mut keyword } = args;
        let extra = positional.split_off(positional.len().min(def.params.len()));
        let mut values = positional.into_iter();
        let required = def.params.len() - def.defaults.len();
        for (index, (param, name)) in def.params.iter().enumerate() {
            let value = values.next().or_else(|| {
                let at = keyword.iter().position(|(key, _)| **key == **name)?;
                Some(keyword.remove(at).1)
            });
            let value = match value {
                Some(value) => value,
                None if index >= required => {
                    self.evaluate(&def.defaults[index - required], &scope)?
                }
                None => Value::undefined(format!("parameter {name:?} was not provided")),
            };
            scope.set(*param, value);
        }
        if def.uses_caller {
            let at = keyword.iter().position(|(key, _)| &**key == "caller");
            let caller = match at {
                Some(at) => keyword.remove(at).1,
                None => Value::undefined("No caller defined"),
            };
            self.set_special("caller", caller, &scope);
        }
        if def.uses_kwargs {
            let dict = super::filters::keyword_dict(&std::mem::take(&mut keyword))?;
            self.set_special("kwargs", dict, &scope);
        }
        if let Some((name, _)) = keyword.first() {
            return Err(Error::new(format!(
                "macro {:?} takes no keyword argument {name:?}",
                def.name
            )));
        }
        if def.uses_varargs {
            let tuple = Value::tuple(extra)?;
            self.set_special("varargs", tuple, &scope);
        } else if !extra.is_empty() {
            return Err(Error::new(format!(
                "macro {:?} takes not more than {} argument(s)",
                def.name,
                def.params.len()
            )));
        }
        self.deeper(|interp| Ok(Value::str(interp.captured(&def.body, &scope)?)))
    }

    fn set_special(&self, name: &str, value: Value, scope: &Rc<Scope>) {
        if let Some(name) = self.template.number(name) {
            scope.set(name, value);
        }
    }
}
