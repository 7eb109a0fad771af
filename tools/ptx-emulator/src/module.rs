//! A parsed module: decoded kernels and what messages need to name their code.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::decode;
use crate::fault::{CodePosition, SourcePosition};
use crate::isa::{Kernel, Origin};
use crate::ptx::ast::{Loc, Space};
use crate::ptx::{ParseError, parser};

/// PTX, decoded and ready to launch.
#[derive(Debug)]
pub struct Module {
    /// Tells modules apart on a device.
    pub(crate) id: u64,
    pub(crate) target: String,
    pub(crate) kernels: HashMap<String, Kernel>,
    /// Module-scope variables in `.global` and `.const`; the others have no bytes here.
    pub(crate) variables: Vec<ModuleVariable>,
    files: HashMap<u32, String>,
    locs: Vec<Loc>,
    lines: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct ModuleVariable {
    pub name: String,
    pub init: Vec<u8>,
    pub size: usize,
    pub is_const: bool,
    /// Lives in global memory.
    pub is_placed: bool,
}

impl Module {
    /// Parses and decodes PTX text.
    ///
    /// # Errors
    /// Names the line and the instruction that is malformed or not supported.
    pub fn parse(ptx: &str) -> Result<Self, ParseError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let tree = parser::parse(ptx)?;
        let mut kernels = HashMap::new();
        for function in tree.functions.iter().filter(|f| f.is_entry) {
            kernels.insert(function.name.to_string(), decode::kernel(&tree, function)?);
        }
        let variables = tree
            .variables
            .iter()
            .map(|v| ModuleVariable {
                name: v.name.to_string(),
                init: v.init.clone(),
                size: v.size as usize,
                is_const: v.space == Space::Const,
                is_placed: matches!(v.space, Space::Global | Space::Const),
            })
            .collect();
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            target: tree.target.to_string(),
            kernels,
            variables,
            files: tree.files.iter().map(|(index, name)| (*index, name.to_string())).collect(),
            locs: tree.locs,
            lines: ptx.lines().map(str::to_string).collect(),
        })
    }

    /// Names of the entries, sorted.
    pub fn entries(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Offset and size in bytes of each parameter of an entry, as [`crate::Launch::params`] packs them.
    pub fn parameters(&self, entry: &str) -> Option<&[(u32, u32)]> {
        self.kernels.get(entry).map(|k| k.params.as_slice())
    }

    /// Bytes of static shared memory of an entry.
    pub fn static_shared_bytes(&self, entry: &str) -> Option<u32> {
        self.kernels.get(entry).map(|k| k.static_bytes)
    }

    /// The target that the text was compiled for, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }

    pub(crate) fn code_position(&self, origin: Origin) -> CodePosition {
        let position = |loc: &Loc| SourcePosition {
            file: self
                .files
                .get(&loc.file)
                .cloned()
                .unwrap_or_else(|| format!("file {}", loc.file)),
            line: loc.line,
            column: loc.column,
        };
        let loc = |index: u32| &self.locs[index as usize];
        let mut inlined_at = Vec::new();
        let mut outer = origin.loc.and_then(|index| loc(index).inlined_at);
        while let Some(index) = outer.filter(|_| inlined_at.len() < 32) {
            inlined_at.push(position(loc(index)));
            outer = loc(index).inlined_at;
        }
        let line = self.lines.get(origin.line.saturating_sub(1) as usize);
        let words: Vec<_> = line.map_or("", String::as_str).split_whitespace().collect();
        CodePosition {
            source: origin.loc.map(|index| position(loc(index))),
            inlined_at,
            ptx_line: origin.line,
            instruction: shorten(&words.join(" ")),
        }
    }
}

/// An instruction with the middle of a long list of registers left out (`wgmma` names up to 128).
fn shorten(instruction: &str) -> String {
    const KEPT: usize = 8;
    let list = instruction.split_once('{').and_then(|(head, rest)| {
        let (list, tail) = rest.split_once('}')?;
        let items: Vec<_> = list.split(", ").collect();
        let (first, last) = (items.first()?, items.last()?);
        (items.len() > KEPT).then(|| format!("{head}{{{first}, ..., {last}}}{tail}"))
    });
    list.unwrap_or_else(|| instruction.to_string())
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn long_lists_are_shortened() {
        let list: Vec<_> = (0..32).map(|i| format!("%f{i}")).collect();
        let text = format!("wgmma.x {{{}}}, %rd1, p;", list.join(", "));
        assert_eq!(shorten(&text), "wgmma.x {%f0, ..., %f31}, %rd1, p;");
        assert_eq!(shorten("ld.v2.f32 {%f1, %f2}, [%rd1];"), "ld.v2.f32 {%f1, %f2}, [%rd1];");
    }
}
