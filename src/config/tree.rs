//! One value tree for both syntaxes: what was written, and where.
//!
//! TOML and YAML are both read into [`Node`]s that carry their file and line, so everything after
//! this file is independent of the syntax.

use std::fmt;
use std::path::Path;
use std::rc::Rc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// The syntax of a config file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// TOML 1.
    Toml,
    /// YAML 1.2, with YAML 1.1's booleans (`yes`, `no`, `on`, `off`).
    Yaml,
}

impl Syntax {
    /// The syntax that a file's extension stands for.
    ///
    /// # Errors
    /// [`Error::Input`] for any other than `toml`, `yaml` and `yml`.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Ok(Self::Toml),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            _ => Err(Error::input(format!(
                "{}: expected a config file whose name ends in .toml, .yaml or .yml",
                path.display()
            ))),
        }
    }
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A line (from 1) of a config file.
    Line(Rc<str>, usize),
    /// The command line, as the user typed it: `--set lora.r=8`, `--model DIR`.
    CommandLine(Rc<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, line) => write!(out, "{file}:{line}"),
            Self::CommandLine(text) => write!(out, "{text}"),
        }
    }
}

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// YAML's `null`, `~` or nothing: the key counts as not given.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Node>),
    /// A table: keys and values in the order in which they were written.
    Table(Vec<Entry>),
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What was written.
    pub value: Value,
    /// Where.
    pub place: Place,
    /// The text of a command-line value, for keys that want text even where it looks like a
    /// number (`--set output_dir=2026`).
    pub raw: Option<String>,
}

/// A key of a table, with the place of the key.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    pub place: Place,
    pub node: Node,
}

impl Node {
    /// The same value replaced by `value`, at the same place: for translated keys.
    pub fn with(&self, value: Value) -> Self {
        Self { value, place: self.place.clone(), raw: None }
    }

    /// A command-line value: TOML where it parses as TOML, else the text itself.
    pub fn from_command_line(text: &str, place: Place) -> Self {
        let parsed = DeValue::parse(text).ok();
        let node = parsed.and_then(|value| convert(value, &|_| place.clone()).ok());
        let value = node.map_or_else(|| Value::Text(text.to_owned()), |node| node.value);
        Self { value, place, raw: Some(text.to_owned()) }
    }
}

/// The largest text that is read as a config, in bytes: some hundred times the longest that sets every key.
const LARGEST: usize = 1 << 20;

/// Reads the text of a config file. `file` is the name that messages use.
pub(super) fn parse(text: &str, syntax: Syntax, file: &str) -> Result<Vec<Entry>> {
    if text.len() > LARGEST {
        return Err(Error::input(format!(
            "{file} has {} bytes, and a config has at most {LARGEST}: is it a data file?",
            text.len()
        )));
    }
    match syntax {
        Syntax::Toml => parse_toml(text, file),
        Syntax::Yaml => parse_yaml(text, file),
    }
}

fn parse_toml(text: &str, file: &str) -> Result<Vec<Entry>> {
    let file: Rc<str> = file.into();
    let newlines: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let place = |offset: usize| {
        Place::Line(file.clone(), newlines.partition_point(|&newline| newline < offset) + 1)
    };
    let table = DeTable::parse(text).map_err(|error| {
        let place = place(error.span().map_or(0, |span| span.start));
        Error::input(format!("{place}: not valid TOML: {}", error.message()))
    })?;
    convert_table(table.into_inner(), &place)
}

/// The place of a byte offset.
type PlaceOf<'a> = &'a dyn Fn(usize) -> Place;

fn convert_table(table: DeTable<'_>, place: PlaceOf) -> Result<Vec<Entry>> {
    let mut table: Vec<_> = table.into_iter().collect();
    // The parser's table is sorted by name; messages follow the order of the file.
    table.sort_by_key(|(key, _)| key.span().start);
    table
        .into_iter()
        .map(|(key, value)| {
            Ok(Entry {
                place: place(key.span().start),
                name: key.into_inner().into_owned(),
                node: convert(value, place)?,
            })
        })
        .collect()
}

fn convert(value: toml::Spanned<DeValue<'_>>, place: PlaceOf) -> Result<Node> {
    let place_here = place(value.span().start);
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Integer)
            .map_err(|_| Error::input(format!("{place_here}: {number} does not fit in 64 bits")))?,
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map(Value::Float)
            .map_err(|_| Error::input(format!("{place_here}: {number} is not a number")))?,
        DeValue::Datetime(date) => Value::Text(date.to_string()),
        DeValue::Array(items) => {
            Value::List(items.into_iter().map(|item| convert(item, place)).collect::<Result<_>>()?)
        }
        DeValue::Table(table) => Value::Table(convert_table(table, place)?),
    };
    Ok(Node { value, place: place_here, raw: None })
}

fn parse_yaml(text: &str, file: &str) -> Result<Vec<Entry>> {
    let file: Rc<str> = file.into();
    let options = serde_saphyr::Options::default();
    let root: Option<Spanned<Yaml>> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line() as usize);
            let place = Place::Line(file.clone(), line);
            Error::input(format!("{place}: not valid YAML: {}", error.without_snippet()))
        })?;
    match root.map(|root| convert_yaml(root, &file)) {
        None => Ok(Vec::new()),
        Some(Node { value: Value::Table(entries), .. }) => Ok(entries),
        Some(node) => Err(Error::input(format!(
            "{}: expected `key: value` lines, found {}",
            node.place,
            node.describe()
        ))),
    }
}

fn convert_yaml(yaml: Spanned<Yaml>, file: &Rc<str>) -> Node {
    let place = |line: u64| Place::Line(file.clone(), line as usize);
    let at = yaml.referenced.line();
    let value = match yaml.value {
        Yaml::Scalar(value) => value,
        Yaml::List(items) => {
            Value::List(items.into_iter().map(|item| convert_yaml(item, file)).collect())
        }
        Yaml::Table(entries) => Value::Table(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    place: place(key.referenced.line()),
                    name: key.value,
                    node: convert_yaml(value, file),
                })
                .collect(),
        ),
    };
    Node { value, place: place(at), raw: None }
}

/// A YAML value as serde hands it over; its places come from the [`Spanned`] around it.
enum Yaml {
    Scalar(Value),
    List(Vec<Spanned<Yaml>>),
    Table(Vec<(Spanned<String>, Spanned<Yaml>)>),
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Integer(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Yaml, E> {
        let value = i64::try_from(value)
            .map_err(|_| E::custom(format!("{value} does not fit in 64 bits with a sign")))?;
        Ok(Yaml::Scalar(Value::Integer(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Yaml::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        Ok(Yaml::Table(table))
    }
}
