//! Which file of a crate uses which other one, and whether they use one another in a circle.
//!
//! An edge goes from the file that names an item to the file that defines it: `use super::x` of something
//! that the parent only exports again is an edge to where `x` is defined, and `pub use` by itself is none.
//! Paths in code count like imports. Tests at the end of a file may use anything. A file may use what the root
//! file of its own module (`mod.rs`, or the file of the folder's name) or of one above it declares, for it is
//! a part of that whole; such edges do not count. The crate's root declares nothing.

use std::collections::{BTreeMap, BTreeSet};

type Path = Vec<String>;

/// What an import brings in: a path under a name.
struct Import {
    path: Path,
    name: String,
    is_pub: bool,
}

/// A file of the crate.
struct Source {
    file: String,
    imports: Vec<Import>,
    /// All but imports, as words and punctuation.
    code: Vec<String>,
    defined: BTreeSet<String>,
}

/// The files of a crate by their modules.
struct Crate {
    modules: BTreeMap<Path, Source>,
    /// Exported macros, which live at the crate's root, and where they are defined.
    macros: BTreeMap<String, Path>,
}

/// Where a path leads.
#[derive(Clone)]
enum Target {
    Module(Path),
    Item(Path),
}

/// A circle among the files below `folder` (with a `/` at its end), as the files along it and back to the
/// first; `None` if there is none. `files` are paths with their texts. Files of one of the folders `wholes`
/// may use one another as they like.
pub fn circle(folder: &str, files: &[(String, String)], wholes: &[&str]) -> Option<Vec<String>> {
    let whole = Crate::parse(folder, files);
    let whole_of = |module: &Path| {
        let file = &whole.modules[module].file;
        wholes.iter().find(|folder| file.starts_with(**folder))
    };
    let used_by = |module: &Path| {
        let mut used = whole.used_by(module);
        used.retain(|used| whole_of(used).is_none() || whole_of(used) != whole_of(module));
        used
    };
    let edges: BTreeMap<&Path, BTreeSet<Path>> =
        whole.modules.keys().map(|module| (module, used_by(module))).collect();
    let mut done = BTreeSet::new();
    edges
        .keys()
        .find_map(|start| follow(&edges, start, &mut Vec::new(), &mut done))
        .map(|circle| circle.iter().map(|module| whole.modules[module].file.clone()).collect())
}

/// Walks on from `module`; `way` is how it was reached.
fn follow(
    edges: &BTreeMap<&Path, BTreeSet<Path>>,
    module: &Path,
    way: &mut Vec<Path>,
    done: &mut BTreeSet<Path>,
) -> Option<Vec<Path>> {
    if let Some(first) = way.iter().position(|earlier| earlier == module) {
        return Some([&way[first..], std::slice::from_ref(module)].concat());
    }
    if done.contains(module) {
        return None;
    }
    way.push(module.clone());
    let found = edges[module].iter().find_map(|next| follow(edges, next, way, done));
    way.pop();
    done.insert(module.clone());
    found
}

impl Crate {
    fn parse(folder: &str, files: &[(String, String)]) -> Self {
        let (mut modules, mut macros) = (BTreeMap::new(), BTreeMap::new());
        for (file, text) in files {
            let Some(name) = file.strip_prefix(folder).and_then(|name| name.strip_suffix(".rs"))
            else {
                continue;
            };
            let mut module: Path = name.split('/').map(str::to_owned).collect();
            if module.last().is_some_and(|last| last == "mod" || last == "lib") {
                module.pop();
            }
            let (imports, code) = imports(without_tests(words(text)));
            let after = |word: &str| -> Vec<String> {
                let pairs = code.windows(2).filter(|pair| pair[0] == word);
                pairs.map(|pair| pair[1].clone()).collect()
            };
            let kinds = ["fn", "struct", "enum", "trait", "const", "static", "type", "union"];
            let defined = kinds.iter().flat_map(|kind| after(kind)).collect();
            for exported in code.windows(3).filter(|words| words[0] == "macro_rules") {
                macros.insert(exported[2].clone(), module.clone());
            }
            modules.insert(module, Source { file: file.clone(), imports, code, defined });
        }
        Self { modules, macros }
    }

    /// The modules whose items this one names.
    fn used_by(&self, module: &Path) -> BTreeSet<Path> {
        let source = &self.modules[module];
        let mut found = BTreeSet::new();
        let mut add = |target| match target {
            Some(Target::Item(used)) if used != *module => {
                let is_whole = !used.is_empty() && module.starts_with(&used);
                if !is_whole {
                    found.insert(used);
                }
            }
            _ => {}
        };
        for import in &source.imports {
            // What is exported again and not used here is nothing that this file needs.
            if !import.is_pub || source.code.contains(&import.name) {
                add(self.resolve(module, &import.path, &mut Vec::new()));
            }
        }
        for path in paths(&source.code) {
            let prefixes = (1..=path.len()).rev();
            add(prefixes
                .into_iter()
                .find_map(|len| self.resolve(module, &path[..len], &mut Vec::new())));
        }
        found
    }

    /// Follows a path from a module. `seen` holds the names that are being looked up.
    fn resolve(
        &self,
        from: &Path,
        path: &[String],
        seen: &mut Vec<(Path, String)>,
    ) -> Option<Target> {
        let Some((name, rest)) = path.split_first() else {
            return Some(Target::Module(from.clone()));
        };
        let parent = || from[..from.len().saturating_sub(1)].to_vec();
        match name.as_str() {
            "crate" => return self.resolve(&Path::new(), rest, seen),
            "super" => return self.resolve(&parent(), rest, seen),
            "self" => return self.resolve(from, rest, seen),
            _ => {}
        }
        let child = [from.as_slice(), std::slice::from_ref(name)].concat();
        if self.modules.contains_key(&child) {
            return self.resolve(&child, rest, seen);
        }
        if from.is_empty()
            && let Some(module) = self.macros.get(name)
        {
            return Some(Target::Item(module.clone()));
        }
        let source = self.modules.get(from)?;
        let key = (from.clone(), name.clone());
        if seen.contains(&key) {
            return None;
        }
        seen.push(key);
        if let Some(import) = source.imports.iter().find(|import| import.name == *name) {
            return match self.resolve(from, &import.path, seen)? {
                Target::Module(module) => self.resolve(&module, rest, seen),
                item => Some(item),
            };
        }
        source.defined.contains(name).then(|| Target::Item(from.clone()))
    }
}

/// Words and punctuation of a text, without comments, strings and characters; `::` is one.
fn words(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let mut words: Vec<String> = Vec::new();
    let mut at = 0;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let ends = |at: usize, end: &[char]| text[at..].windows(end.len()).position(|part| part == end);
    while at < text.len() {
        let next = text.get(at + 1).copied().unwrap_or(' ');
        match text[at] {
            '/' if next == '/' => at += ends(at, &['\n']).unwrap_or(text.len() - at),
            '/' if next == '*' => at += 2 + ends(at, &['*', '/']).unwrap_or(text.len() - at),
            'r' if next == '#' || next == '"' => {
                let marks = text[at + 1..].iter().take_while(|c| **c == '#').count();
                if text.get(at + 1 + marks) == Some(&'"') {
                    let end: Vec<char> = [&['"'][..], &vec!['#'; marks]].concat();
                    let start = at + 2 + marks;
                    at = start + end.len() + ends(start, &end).unwrap_or(text.len() - start);
                } else {
                    at += 1;
                }
            }
            '"' => {
                at += 1;
                while at < text.len() && text[at] != '"' {
                    at += if text[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
            }
            '\'' if next == '\\' => at += 2 + ends(at + 2, &['\'']).unwrap_or(0).max(1) + 1,
            '\'' if text.get(at + 2) == Some(&'\'') => at += 3,
            ':' if next == ':' => {
                words.push("::".to_owned());
                at += 2;
            }
            c if is_word(c) => {
                let end = text[at..].iter().position(|c| !is_word(*c)).unwrap_or(text.len() - at);
                words.push(text[at..at + end].iter().collect());
                at += end;
            }
            c => {
                if !c.is_whitespace() {
                    words.push(c.to_string());
                }
                at += 1;
            }
        }
    }
    words
}

/// Up to the tests at the end; without items that are for tests alone.
fn without_tests(words: Vec<String>) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut rest = words.as_slice();
    while let Some((word, after)) = rest.split_first() {
        if rest.len() > MARK.len() && rest.iter().zip(MARK).all(|(word, mark)| word == mark) {
            rest = &rest[MARK.len()..];
            let end = rest.iter().position(|word| word == ";" || word == "{");
            match end.map(|end| (end, rest[end].as_str())) {
                Some((end, ";")) => rest = &rest[end + 1..],
                _ if rest[0] == "mod" => break,
                _ => {}
            }
            continue;
        }
        kept.push(word.clone());
        rest = after;
    }
    kept
}

/// The imports of a text, and what is left.
fn imports(words: Vec<String>) -> (Vec<Import>, Vec<String>) {
    let (mut imports, mut code): (Vec<Import>, Vec<String>) = Default::default();
    let mut at = 0;
    while at < words.len() {
        if words[at] != "use" {
            code.push(words[at].clone());
            at += 1;
            continue;
        }
        let end = at + words[at..].iter().position(|word| word == ";").unwrap_or(words.len() - at);
        // `pub` or `pub(..)` stands before it.
        let is_pub = code.last().is_some_and(|last| last == "pub")
            || (code.last().is_some_and(|last| last == ")")
                && code.iter().rev().take(5).any(|word| word == "pub"));
        expand(&words[at + 1..end], &[], is_pub, &mut imports);
        at = end + 1;
    }
    (imports, code)
}

/// The paths of an import's tree.
fn expand(tree: &[String], before: &[String], is_pub: bool, imports: &mut Vec<Import>) {
    if let Some(open) = tree.iter().position(|word| word == "{") {
        let names = tree[..open].iter().filter(|word| *word != "::").cloned();
        let before = [before, &names.collect::<Vec<_>>()].concat();
        let inner = &tree[open + 1..tree.len().saturating_sub(1)];
        let mut depth = 0;
        let branches = inner.split(|word| {
            depth += i32::from(word == "{") - i32::from(word == "}");
            depth == 0 && word == ","
        });
        for branch in branches.filter(|branch| !branch.is_empty()) {
            expand(branch, &before, is_pub, imports);
        }
        return;
    }
    let (tree, alias) = match tree.iter().position(|word| word == "as") {
        Some(at) => (&tree[..at], tree.get(at + 1).cloned()),
        None => (tree, None),
    };
    let names = tree.iter().filter(|word| *word != "::" && *word != "self").cloned();
    let path = [before, &names.collect::<Vec<_>>()].concat();
    if let Some(last) = path.last() {
        let name = alias.unwrap_or_else(|| last.clone());
        imports.push(Import { path, name, is_pub });
    }
}

/// The paths of two names or more in a text.
fn paths(code: &[String]) -> Vec<Path> {
    let is_name = |word: &String| word.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let (mut found, mut at) = (Vec::new(), 0);
    while at < code.len() {
        let starts =
            is_name(&code[at]) && (at == 0 || !["::", "."].contains(&code[at - 1].as_str()));
        let mut path = vec![code[at].clone()];
        at += 1;
        while starts && at + 1 < code.len() && code[at] == "::" && is_name(&code[at + 1]) {
            path.push(code[at + 1].clone());
            at += 2;
        }
        if path.len() > 1 {
            found.push(path);
        }
    }
    found
}
