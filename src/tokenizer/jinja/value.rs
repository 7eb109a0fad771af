//! Values of a rendering, which behave as Python's do. They live on one thread.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::ast::{For, MacroDef};
use super::interp::Scope;
use super::limits::{self, Held, NESTING};
use super::{Error, Result, text};

/// The attributes of a namespace, in the order in which they were first set.
pub type Namespace = RefCell<Vec<(Rc<str>, Value)>>;

/// A Python value.
#[derive(Debug, Clone)]
pub enum Value {
    /// What is missing, in words.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<Text>),
    /// Text marked as safe; it prints, and little else is done with it.
    Markup(Rc<Text>),
    List(Rc<List>),
    Tuple(Rc<List>),
    Dict(Rc<Dict>),
    Range(Range),
    /// `keys()`, `values()` or `items()` of a dict.
    View(ViewKind, Rc<Dict>),
    /// A generator: what is left of it.
    Iter(Rc<Iter>),
    /// A method of a value.
    Method(Rc<Value>, &'static str),
    /// A function of the environment, by name.
    Function(&'static str),
    Namespace(Rc<Namespace>),
    Macro(Rc<Macro>),
    Loop(Rc<Loop>),
    Cycler(Rc<(Rc<List>, Cell<usize>)>),
    Joiner(Rc<(Value, Cell<bool>)>),
}

/// A text, and whether it is ASCII: then characters are bytes.
#[derive(Debug)]
pub struct Text {
    pub text: String,
    pub ascii: bool,
    _held: Held,
}

/// The items of a list or tuple.
#[derive(Debug)]
pub struct List {
    pub items: Vec<Value>,
    depth: usize,
    /// Whether it is a pair that `groupby` made.
    pub group: bool,
    _held: Held,
}

/// A dict, in the order of insertion.
#[derive(Debug)]
pub struct Dict {
    pub entries: Vec<(Value, Value)>,
    index: HashMap<Key, usize>,
    depth: usize,
    _held: Held,
}

/// A dict's key, by Python's equality: 1, 1.0 and true are one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(String),
    Tuple(Vec<Key>),
}

/// `range(start, stop, step)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: i128,
    pub stop: i128,
    pub step: i128,
}

/// Which view of a dict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewKind {
    Keys,
    Values,
    Items,
}

/// What a generator still gives.
#[derive(Debug)]
pub struct Iter {
    pub left: RefCell<VecDeque<Value>>,
    /// Whether a loop left it half-way; what Python gives then is not known here.
    pub broken: Cell<bool>,
    depth: usize,
    _held: Held,
}

/// A macro with the scope that it was defined in.
#[derive(Debug)]
pub struct Macro {
    pub def: Arc<MacroDef>,
    pub scope: Weak<Scope>,
}

/// The `loop` of a for loop.
#[derive(Debug)]
pub struct Loop {
    pub items: Rc<Vec<Value>>,
    pub index0: Cell<usize>,
    pub depth0: usize,
    pub changed: RefCell<Option<Vec<Value>>>,
    /// The loop itself and its scope, if it is recursive.
    pub recursive: Option<(Arc<For>, Weak<Scope>)>,
}

impl Range {
    /// How many numbers it has.
    pub fn len(&self) -> usize {
        let (distance, step) = if self.step > 0 {
            (self.stop - self.start, self.step)
        } else {
            (self.start - self.stop, -self.step)
        };
        if distance <= 0 { 0 } else { ((distance + step - 1) / step) as usize }
    }

    /// The number at `index`.
    pub fn get(&self, index: usize) -> Value {
        Value::Int(self.start + self.step * index as i128)
    }
}

impl Text {
    /// Characters.
    pub fn len(&self) -> usize {
        if self.ascii { self.text.len() } else { self.text.chars().count() }
    }
}

impl Dict {
    /// The value of `key`.
    pub fn get(&self, key: &Value) -> Result<Option<&Value>> {
        Ok(self.index.get(&key.key()?).map(|&at| &self.entries[at].1))
    }

    /// The value of a string key.
    pub fn get_str(&self, key: &str) -> Option<&Value> {
        if self.entries.len() <= 8 {
            let same =
                |(name, _): &&(Value, Value)| matches!(name, Value::Str(name) if name.text == key);
            return self.entries.iter().find(same).map(|(_, value)| value);
        }
        self.index.get(&Key::Str(key.to_string())).map(|&at| &self.entries[at].1)
    }
}

impl Value {
    /// A text.
    pub fn str(text: impl Into<String>) -> Value {
        Value::Str(Rc::new(Text::new(text.into())))
    }

    /// A text marked as safe.
    pub fn markup(text: impl Into<String>) -> Value {
        Value::Markup(Rc::new(Text::new(text.into())))
    }

    /// A list.
    pub fn list(items: Vec<Value>) -> Result<Value> {
        Ok(Value::List(Rc::new(List::new(items, false)?)))
    }

    /// A tuple.
    pub fn tuple(items: Vec<Value>) -> Result<Value> {
        Ok(Value::Tuple(Rc::new(List::new(items, false)?)))
    }

    /// A dict: a key that comes again keeps its place and takes the later value.
    pub fn dict(pairs: Vec<(Value, Value)>) -> Result<Value> {
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
        let mut index = HashMap::with_capacity(pairs.len());
        for (key, value) in pairs {
            let hashed = key.key()?;
            match index.get(&hashed) {
                Some(&at) => {
                    let (_, old): &mut (Value, Value) = &mut entries[at];
                    *old = value;
                }
                None => {
                    index.insert(hashed, entries.len());
                    entries.push((key, value));
                }
            }
        }
        let depth = depth_of(entries.iter().map(|(_, value)| value))?;
        let held = Held::new(entries.len() * 160);
        Ok(Value::Dict(Rc::new(Dict { entries, index, depth, _held: held })))
    }

    /// A generator.
    pub fn iter(items: Vec<Value>) -> Result<Value> {
        let depth = depth_of(items.iter())?;
        let held = Held::new(items.len() * size_of::<Value>());
        let left = RefCell::new(items.into());
        Ok(Value::Iter(Rc::new(Iter { left, broken: Cell::new(false), depth, _held: held })))
    }

    /// A missing value.
    pub fn undefined(what: impl Into<String>) -> Value {
        Value::Undefined(what.into().into())
    }

    /// The name of its Python type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Markup(_) => "Markup",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Range(_) => "range",
            Value::View(ViewKind::Keys, _) => "dict_keys",
            Value::View(ViewKind::Values, _) => "dict_values",
            Value::View(ViewKind::Items, _) => "dict_items",
            Value::Iter(_) => "generator",
            Value::Method(..) => "method",
            Value::Function(_) => "function",
            Value::Namespace(_) => "Namespace",
            Value::Macro(_) => "Macro",
            Value::Loop(_) => "LoopContext",
            Value::Cycler(_) => "Cycler",
            Value::Joiner(_) => "Joiner",
        }
    }

    /// The text of a `str`.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(&text.text),
            _ => None,
        }
    }

    /// The integer of an `int` or `bool`.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(value) => Some(*value),
            Value::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    /// An integer where one is needed.
    pub fn expect_int(&self, what: &str) -> Result<i128> {
        self.defined()?;
        self.as_int().ok_or_else(|| {
            Error::new(format!("{what} must be an integer, not {}", self.type_name()))
        })
    }

    /// A text where one is needed.
    pub fn expect_str(&self, what: &str) -> Result<&str> {
        self.defined()?;
        self.as_str()
            .ok_or_else(|| Error::new(format!("{what} must be str, not {}", self.type_name())))
    }

    /// Whether it is missing.
    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    /// An error if it is missing.
    pub fn defined(&self) -> Result<()> {
        match self {
            Value::Undefined(what) => Err(Error::new(what.to_string())),
            _ => Ok(()),
        }
    }

    /// Python's `bool(value)`.
    pub fn truthy(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) | Value::Markup(text) => !text.text.is_empty(),
            Value::List(list) | Value::Tuple(list) => !list.items.is_empty(),
            Value::Dict(dict) | Value::View(_, dict) => !dict.entries.is_empty(),
            Value::Range(range) => range.len() > 0,
            Value::Loop(looped) => !looped.items.is_empty(),
            _ => true,
        }
    }

    /// Python's `len(value)`.
    pub fn len(&self) -> Result<usize> {
        match self {
            Value::Undefined(_) => Ok(0),
            Value::Str(text) | Value::Markup(text) => {
                limits::touch(text.text.len())?;
                Ok(text.len())
            }
            Value::List(list) | Value::Tuple(list) => Ok(list.items.len()),
            Value::Dict(dict) | Value::View(_, dict) => Ok(dict.entries.len()),
            Value::Range(range) => Ok(range.len()),
            Value::Loop(looped) => Ok(looped.items.len()),
            other => Err(Error::new(format!("object of type {} has no len()", other.type_name()))),
        }
    }

    /// All that iterating over it gives.
    pub fn items(&self) -> Result<Vec<Value>> {
        let items: Vec<Value> = match self {
            Value::Undefined(_) => Vec::new(),
            Value::Str(text) => {
                limits::room(text.text.len() * 100)?;
                text.text.chars().map(Value::str).collect()
            }
            Value::List(list) | Value::Tuple(list) => list.items.clone(),
            Value::Dict(dict) | Value::View(ViewKind::Keys, dict) => {
                dict.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            Value::View(ViewKind::Values, dict) => {
                dict.entries.iter().map(|(_, value)| value.clone()).collect()
            }
            Value::View(ViewKind::Items, dict) => {
                limits::room(dict.entries.len() * 160)?;
                let pair =
                    |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()]);
                dict.entries.iter().map(pair).collect::<Result<_>>()?
            }
            Value::Range(range) => (0..range.len()).map(|index| range.get(index)).collect(),
            Value::Iter(iter) => {
                iter.whole()?;
                iter.left.borrow_mut().drain(..).collect()
            }
            other => {
                return Err(Error::new(format!("{} is not iterable", other.type_name())));
            }
        };
        limits::touch(items.len() * size_of::<Value>())?;
        Ok(items)
    }

    /// Its hash, by which it is a key.
    pub fn key(&self) -> Result<Key> {
        Ok(match self {
            Value::None => Key::None,
            Value::Bool(value) => Key::Int(i128::from(*value)),
            Value::Int(value) => Key::Int(*value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => {
                Key::Int(*value as i128)
            }
            Value::Float(value) => Key::Float(value.to_bits()),
            Value::Str(text) => {
                limits::touch(text.text.len())?;
                Key::Str(text.text.clone())
            }
            Value::Tuple(list) => {
                limits::touch(list.items.len() * 32)?;
                Key::Tuple(list.items.iter().map(Value::key).collect::<Result<_>>()?)
            }
            other => {
                return Err(Error::new(format!("unhashable type: {}", other.type_name())));
            }
        })
    }

    /// How deep lists and dicts are nested in it.
    fn depth(&self) -> usize {
        match self {
            Value::List(list) | Value::Tuple(list) => list.depth,
            Value::Dict(dict) | Value::View(_, dict) => dict.depth,
            Value::Iter(iter) => iter.depth,
            Value::Method(of, _) => of.depth() + 1,
            Value::Cycler(cycler) => cycler.0.depth + 1,
            Value::Joiner(joiner) => joiner.0.depth() + 1,
            _ => 0,
        }
    }

    /// Whether a namespace, a loop or a macro can be reached from it: what could hold itself.
    pub fn holds_reference(&self) -> Result<bool> {
        limits::spend(1)?;
        let any = |items: &mut dyn Iterator<Item = &Value>| -> Result<bool> {
            for item in items {
                if item.holds_reference()? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match self {
            Value::Namespace(_) | Value::Loop(_) => Ok(true),
            Value::List(list) | Value::Tuple(list) => any(&mut list.items.iter()),
            Value::Dict(dict) | Value::View(_, dict) => {
                any(&mut dict.entries.iter().map(|(_, value)| value))
            }
            Value::Iter(iter) => any(&mut iter.left.borrow().iter()),
            Value::Cycler(cycler) => any(&mut cycler.0.items.iter()),
            Value::Joiner(joiner) => joiner.0.holds_reference(),
            Value::Method(of, _) => of.holds_reference(),
            _ => Ok(false),
        }
    }
}

impl Iter {
    /// An error if a loop left it half-way.
    pub fn whole(&self) -> Result<()> {
        if self.broken.get() {
            return Err(Error::new("a generator that a loop broke off is used again"));
        }
        Ok(())
    }
}

impl Text {
    fn new(text: String) -> Self {
        let held = Held::new(text.len() + 64);
        Self { ascii: text.is_ascii(), text, _held: held }
    }
}

impl List {
    /// The items, none of them nested too deep.
    pub fn new(items: Vec<Value>, group: bool) -> Result<Self> {
        let depth = depth_of(items.iter())?;
        let held = Held::new(64 + items.len() * size_of::<Value>());
        limits::touch(items.len())?;
        Ok(Self { items, depth, group, _held: held })
    }
}

fn depth_of<'v>(items: impl Iterator<Item = &'v Value>) -> Result<usize> {
    let depth = 1 + items.map(Value::depth).max().unwrap_or(0);
    if depth > NESTING {
        return Err(Error::new(format!("lists and dicts are nested deeper than {NESTING}")));
    }
    Ok(depth)
}

/// A text as Python's `str(value)` gives it.
pub fn to_text(value: &Value) -> Result<String> {
    let mut out = String::new();
    match value {
        Value::Undefined(_) => {}
        Value::Str(text) | Value::Markup(text) => {
            limits::room(text.text.len())?;
            out.push_str(&text.text);
        }
        other => write_repr(other, &mut out)?,
    }
    Ok(out)
}

/// Appends what Python's `repr(value)` gives.
pub fn write_repr(value: &Value, out: &mut String) -> Result<()> {
    limits::grow(out.len(), 40)?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Float(value) => out.push_str(&text::float(*value)),
        Value::Str(text) => {
            limits::grow(out.len(), text.text.len() * 2)?;
            out.push_str(&text::repr(&text.text));
        }
        Value::Markup(text) => {
            limits::grow(out.len(), text.text.len() * 2)?;
            out.push_str(&format!("Markup({})", text::repr(&text.text)));
        }
        Value::List(list) => write_items(&list.items, "[", "]", out)?,
        Value::Tuple(list) => {
            let close = if list.items.len() == 1 { ",)" } else { ")" };
            write_items(&list.items, "(", close, out)?;
        }
        Value::Dict(dict) => {
            out.push('{');
            for (index, (key, value)) in dict.entries.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(key, out)?;
                out.push_str(": ");
                write_repr(value, out)?;
            }
            out.push('}');
        }
        Value::Range(Range { start, stop, step: 1 }) => {
            out.push_str(&format!("range({start}, {stop})"));
        }
        Value::Range(Range { start, stop, step }) => {
            out.push_str(&format!("range({start}, {stop}, {step})"));
        }
        Value::View(..) => {
            out.push_str(value.type_name());
            write_items(&value.items()?, "([", "])", out)?;
        }
        Value::Macro(of) if of.def.name.is_empty() => out.push_str("<Macro anonymous>"),
        Value::Macro(of) => out.push_str(&format!("<Macro {}>", text::repr(&of.def.name))),
        Value::Loop(of) => {
            let (index, length) = (of.index0.get() + 1, of.items.len());
            out.push_str(&format!("<LoopContext {index}/{length}>"));
        }
        other => {
            return Err(Error::new(format!("a {} cannot be printed", other.type_name())));
        }
    }
    Ok(())
}

fn write_items(items: &[Value], open: &str, close: &str, out: &mut String) -> Result<()> {
    out.push_str(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(item, out)?;
    }
    out.push_str(close);
    Ok(())
}
