//! Jinja2 as Transformers runs it: chat templates give the same text, byte for byte, or an error.
//!
//! Chat templates are written against Jinja2 and Python: they print floats, dicts and `None` as
//! Python does, call Python's string methods, and lean on what is undefined. So this is an
//! interpreter of Jinja2's language over Python's values, in the setting of
//! `transformers/utils/chat_template_utils.py`: an immutable sandbox with `trim_blocks` and
//! `lstrip_blocks`, the loop controls, the `generation` tag, and `tojson`, `raise_exception` and
//! `strftime_now` as there. Source: Jinja2 3.1.6 (`lexer.py`, `parser.py`, `compiler.py`,
//! `filters.py`, `tests.py`, `runtime.py`, `sandbox.py`) and CPython 3.11.
//!
//! Why not a library: engines that are like Jinja2 differ in what values are (how a float or a nested
//! string prints, what can be iterated, what `%` and `~` do, which arguments a macro takes), and filters
//! and methods of ours cannot reach there. Nor do they bound memory and depth for a template from anywhere.
//!
//! What is left different is an error here, never another text:
//!
//! | what | here |
//! |---|---|
//! | `extends`, `include`, `import`, `block`, `autoescape`; `self`, `super` | refused when the template is read |
//! | parameters of macros called `caller`, `kwargs`, `varargs` | refused when the template is read |
//! | filters `forceescape`, `pprint`, `random`, `striptags`, `urlize`, `wordwrap`, `xmlattr`; `lipsum` | error when used |
//! | texts marked `safe` or escaped | print, join and compare; filters, methods, `+` and `%` are errors |
//! | integers beyond 127 bits, quotients of integers beyond 53 bits, complex numbers, rounding to tens | error |
//! | methods `encode`, `translate`, `maketrans`, `isidentifier` and `casefold` beyond ASCII; attributes of numbers | error |
//! | letters, digits and title case of rare scripts (`isalpha`, `wordcount`, ...) | error |
//! | printing a generator, a method, a function, a namespace, a `cycler` or `joiner` | error (Python prints an address) |
//! | comparing dict views, methods, generators or loops; `sameas` beyond `none`, booleans and namespaces | error |
//! | a namespace that holds a namespace or a loop | error |
//! | directives of `strftime_now` beyond the common ones, `%` formats with `%a` or `%c` of a number, grouped digits with zero padding | error |
//! | a generator used again after `break` | error |
//! | lists, expressions and calls nested deeper than [`limits`] says, more steps, more memory | error |
//! | filters and tests that fail on items nobody looks at (`map`, `select` are lazy in Python) | error |

mod args;
mod ast;
mod attr;
mod evaluate;
mod expressions;
mod filters;
mod globals;
mod interp;
mod json;
mod lexer;
mod limits;
mod methods;
mod ops;
mod parser;
mod printf;
mod tests;
mod text;
mod text_filters;
mod value;

pub use limits::deep_threads;

use jiff::civil::DateTime;

use interp::Interp;
use parser::Parsed;

/// `Result` of this module.
type Result<T, E = Error> = std::result::Result<T, E>;

/// What time it is for a template.
type Clock = DateTime;

/// What went wrong in a template.
#[derive(Debug, Clone)]
pub struct Error {
    /// In words.
    pub message: String,
    /// The line of the source.
    pub line: Option<u32>,
    /// Whether the template itself raised it (`raise_exception`).
    pub raised: bool,
}

impl Error {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None, raised: false }
    }

    fn raised(message: String) -> Self {
        Self { message, line: None, raised: true }
    }

    /// The innermost line stays.
    fn at(mut self, line: u32) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

/// A template that was read.
pub struct Template {
    parsed: Parsed,
    loop_name: Option<ast::Name>,
}

/// The text of a rendering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The bytes that stand between `{% generation %}` and `{% endgeneration %}`, in order; `None`
    /// if a mark lies within a macro or another block whose text is used elsewhere.
    pub generation: Option<Vec<(usize, usize)>>,
}

/// A JSON value as the filter `tojson` writes it, which is Python's way.
pub fn json_text(value: &serde_json::Value) -> Result<String> {
    limits::on_own_stack(|| {
        limits::start();
        json::text_of(value)
    })
}

impl Template {
    /// Reads a source.
    pub fn parse(source: &str) -> Result<Self> {
        let parsed = limits::on_own_stack(|| parser::parse(source))?;
        let mut template = Self { parsed, loop_name: None };
        template.loop_name = template.number("loop");
        Ok(template)
    }

    /// Whether it says where an assistant speaks.
    pub fn marks_generation(&self) -> bool {
        self.parsed.marks_generation
    }

    /// Renders it with variables by name; a later one takes the place of an earlier. `now` is what
    /// `strftime_now` tells.
    pub fn render(
        &self,
        variables: &[(&str, &serde_json::Value)],
        now: DateTime,
    ) -> Result<Rendered> {
        limits::on_own_stack(|| {
            let mut given = vec![None; self.parsed.names.len()];
            for (name, value) in variables {
                // What the template does not name it cannot see.
                if let Some(number) = self.number(name) {
                    given[number as usize] = Some(json::to_value(value)?);
                }
            }
            limits::start();
            Interp::new(self, given, now).run()
        })
    }

    /// The number of a name, if the source has it.
    fn number(&self, name: &str) -> Option<ast::Name> {
        let at = self.parsed.names.iter().position(|known| **known == *name)?;
        ast::Name::try_from(at).ok()
    }
}
