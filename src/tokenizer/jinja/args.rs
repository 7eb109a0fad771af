//! The arguments of a call, evaluated.

use std::sync::Arc;

use super::value::Value;
use super::{Error, Result};

/// Positional arguments, then those by name.
#[derive(Debug, Default)]
pub struct Arguments {
    pub positional: Vec<Value>,
    pub keyword: Vec<(Arc<str>, Value)>,
}

impl Arguments {
    /// Positional arguments alone.
    pub fn of(positional: Vec<Value>) -> Self {
        Self { positional, keyword: Vec::new() }
    }

    /// The arguments in the order of `names`, absent ones as `None`. A name that is empty can be
    /// given by place alone.
    pub fn bind<const N: usize>(self, of: &str, names: [&str; N]) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return Err(Error::new(format!(
                "{of} takes at most {N} arguments ({} given)",
                self.positional.len()
            )));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.keyword {
            let at = names.iter().position(|known| !known.is_empty() && **known == *name);
            match at.map(|at| &mut bound[at]) {
                Some(slot @ None) => *slot = Some(value),
                Some(_) => {
                    return Err(Error::new(format!("{of} got several values for {name:?}")));
                }
                None => {
                    return Err(Error::new(format!("{of} takes no keyword argument {name:?}")));
                }
            }
        }
        Ok(bound)
    }

    /// Refuses any argument.
    pub fn none(self, of: &str) -> Result<()> {
        let [] = self.bind(of, [])?;
        Ok(())
    }
}

/// The argument, or an error that names it.
pub fn required(of: &str, name: &str, value: Option<Value>) -> Result<Value> {
    value.ok_or_else(|| Error::new(format!("{of} needs the argument {name}")))
}
