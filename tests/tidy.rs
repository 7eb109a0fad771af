//! The rules of the house: who may import whom, how long files are, that kernel twins are twins, and
//! that the README's table of ops says what the code does.

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/manifests.rs"]
mod manifests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tunesmith::backend::cpu::Cpu;
use tunesmith::backend::{self, Backend, Buffer, KernelCall, LocalFuture, MemoryUse, View};
use tunesmith::kernels::{Access, KernelSpec, Kind};
use tunesmith::{DType, Device, Result, conformance};

/// Longest files, in lines.
const SOURCE_LINES: usize = 600;
const KERNEL_LINES: usize = 500;

/// The only files with `unsafe` code, and what they need it for.
const UNSAFE: &[(&str, &str)] = &[
    ("src/backend/cpu/", "kernels borrow several buffers of one pool at once"),
    ("src/backend/cuda/", "the driver's and NVRTC's functions"),
    ("src/backend/wgpu/pipeline.rs", "shaders without run-time checks"),
    ("src/cli/start.rs", "the environment, before there are threads"),
    ("src/model/tensor_file.rs", "files mapped into memory"),
    ("src/ops/cpu/amx.rs", "instructions of the matrix unit"),
    ("src/ops/cpu/avx512.rs", "AVX-512 intrinsics"),
    ("src/ops/cpu/sgemm.rs", "the crate gemm-f32 takes pointers"),
    ("src/ops/cpu/pack.rs", "AVX-512 intrinsics"),
    ("src/ops/cpu/unit.rs", "calls code compiled for AVX-512"),
    ("src/ops/simd.rs", "code compiled for wider vector units"),
    ("src/programs/signals.rs", "signal handlers"),
    ("src/quant/decode.rs", "AVX-512 intrinsics"),
    ("tools/fuzz/src/allocator.rs", "an allocator that counts"),
    ("tools/ptx-emulator/examples/compile_kernels.rs", "NVRTC's functions"),
    ("tools/ptx-emulator/src/exec/product.rs", "code compiled for wider vector units"),
    ("tools/ptx-emulator/src/exec/step.rs", "code compiled for wider vector units"),
    ("tools/ptx-emulator/src/memory/global.rs", "device memory as bytes and as words"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files with one of these extensions below a folder: (path from the root, text), in order.
fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let (mut found, mut pending) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}")) {
            let path: PathBuf = entry.unwrap().path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                pending.push(path);
            } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Every Rust file of the repository.
fn rust_files() -> Vec<(String, String)> {
    ["src", "tests", "tools", "examples"].iter().flat_map(|folder| files(folder, &["rs"])).collect()
}

/// A line without its `//` comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether a word stands in a text by itself.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)
    })
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn modules_know_only_whom_they_may() {
    /// Files, what they must not name, and why.
    type Rule = (&'static [&'static str], &'static [&'static str], &'static str);
    const RULES: &[Rule] = &[
        (
            &["src/backend/"],
            &["crate::tensor", "crate::tape", "crate::ops", "crate::Tensor", "crate::Tape"],
            "a backend moves bytes and launches kernels",
        ),
        (
            &["src/kernels/"],
            &["crate::tensor", "crate::tape", "crate::ops", "crate::backend"],
            "a kernel's spec knows no op and no backend",
        ),
        (&["src/tensor/"], &["crate::tape", "crate::ops"], "tensors do no arithmetic"),
        (
            &["src/ops/cpu/"],
            &["ops::attention", "ops::matmul", "ops::nf4", "crate::tensor", "crate::tape"],
            "the CPU's products know no op",
        ),
        (
            &["src/adapter/", "src/data/", "src/evaluate.rs", "src/generate/", "src/model/"],
            &["KernelCall", "backend::cpu", "backend::wgpu", "backend::cuda", "backend::reference"],
            "only ops launch kernels, and only programs choose a backend",
        ),
        (
            &["src/nn/", "src/optim/", "src/quant/", "src/tape/", "src/tensor/", "src/train/"],
            &["KernelCall", "backend::cpu", "backend::wgpu", "backend::cuda"],
            "only ops launch kernels, and only programs choose a backend",
        ),
    ];
    let mut problems = Vec::new();
    for (name, text) in files("src", &["rs"]) {
        // Tests at the end of a file may use anything.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            for (folders, forbidden, why) in RULES {
                let applies = folders.iter().any(|folder| name.starts_with(folder));
                if let Some(what) = forbidden.iter().find(|what| has_word(code(line), what))
                    && applies
                {
                    problems.push(format!("{name}:{}: names {what}, but {why}", number + 1));
                }
            }
        }
    }
    report(problems);
}

/// Trainer, data, checkpoints, memory plan and programs know the trait and the list, and no objective.
#[test]
fn only_its_own_folder_names_an_objective() {
    let objectives = fs::read_dir(root().join("src/objective")).unwrap();
    let folders = objectives.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir());
    let names: Vec<String> =
        folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!names.is_empty(), "src/objective has no folders");
    let mut problems = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        // Tests at the end of a file may use anything.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let code = code(line);
            let named = |name: &&String| {
                has_word(code, &format!("objective::{name}"))
                    || code.contains(&format!("{name:?}"))
                    || code.contains(&format!("\\\"{name}\\\""))
            };
            if let Some(name) = names.iter().find(named)
                && !path.starts_with("src/objective/")
                && path != "src/config/tests.rs"
            {
                problems.push(format!("{path}:{}: names the objective {name}", number + 1));
            }
        }
    }
    report(problems);
}

#[test]
fn no_files_use_one_another_in_a_circle() {
    // An interpreter calls itself: values hold scopes, filters apply tests, tests know filters.
    const WHOLES: &[&str] = &["src/tokenizer/jinja/"];
    let circle = imports::circle("src/", &files("src", &["rs"]), WHOLES);
    report(circle.into_iter().map(|circle| circle.join(" -> ")).collect());
}

#[test]
fn a_circle_is_found_where_items_are_defined() {
    let files = |inner: &str| {
        [
            ("src/lib.rs", "mod a; mod b; pub use b::Thing;"),
            ("src/a.rs", "use crate::Thing;\npub const SIZE: usize = 1;"),
            ("src/b/mod.rs", "mod inner; mod other; pub use inner::Thing; pub struct Whole;"),
            (
                "src/b/other.rs",
                "use super::Whole;\n#[cfg(test)]\nmod tests { use crate::a::SIZE; }",
            ),
            ("src/b/inner.rs", inner),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
    };
    let circle = |inner: &str| imports::circle("src/", &files(inner), &[]);
    let found = ["src/a.rs", "src/b/inner.rs", "src/a.rs"].map(str::to_owned).to_vec();
    for inner in [
        "pub struct Thing;\nuse crate::{a::{SIZE as OTHER}};",
        "pub struct Thing([u8; crate::a::SIZE]);",
        "use super::super::a;\npub struct Thing([u8; a::SIZE]);",
    ] {
        assert_eq!(circle(inner), Some(found.clone()), "{inner}");
    }
    for inner in [
        "pub struct Thing; // crate::a::SIZE",
        "pub struct Thing;\npub use crate::a::SIZE;",
        "use super::Whole;\npub struct Thing(Whole, &'static str);",
    ] {
        assert_eq!(circle(inner), None, "{inner}");
    }
    let own = "use super::other::Part;\npub struct Thing(Part);";
    let other =
        ("src/b/other.rs".to_owned(), "use super::inner::Thing; pub struct Part;".to_owned());
    let mut files = files(own).to_vec();
    files[3] = other;
    assert!(imports::circle("src/", &files, &[]).is_some());
    assert_eq!(imports::circle("src/", &files, &["src/b/"]), None);
}

#[test]
fn files_are_short() {
    let kernels = ["kernels-wgsl", "kernels-cuda"]
        .iter()
        .flat_map(|folder| files(folder, &["wgsl", "cu", "cuh"]))
        .map(|file| (file, KERNEL_LINES));
    let sources = rust_files().into_iter().map(|file| (file, SOURCE_LINES));
    let too_long = kernels.chain(sources).filter(|((_, text), most)| text.lines().count() > *most);
    report(
        too_long
            .map(|((name, text), most)| {
                format!("{name}: {} lines, {most} allowed", text.lines().count())
            })
            .collect(),
    );
}

#[test]
fn nothing_is_left_undone() {
    // Put together here, so that this file does not find itself.
    let marks = ["todo", "unimplemented"].map(|mark| format!("{mark}!"));
    let ignored = concat!("#[", "ignore");
    let mut problems = Vec::new();
    for (name, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            let found = marks.iter().any(|mark| code(line).contains(mark.as_str()));
            if found || code(line).contains(ignored) {
                problems.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report(problems);
}

#[test]
fn unsafe_code_is_rare_and_says_why_it_is_sound() {
    let word = concat!("un", "safe");
    let mut problems = Vec::new();
    for (name, text) in rust_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = code(line);
            // An attribute or a type that names it, or a test's string, is no such code.
            let opens = ["{", "fn", "impl", "extern"]
                .iter()
                .any(|next| has_word(code, word) && code.contains(&format!("{word} {next}")));
            let is_type = code.contains(&format!("{word} extern \"C\" fn("));
            if !opens || is_type {
                continue;
            }
            if !UNSAFE.iter().any(|(file, _)| name.starts_with(file)) {
                problems.push(format!("{name}:{}: no file for {word} code", number + 1));
            }
            let explained = lines[number.saturating_sub(8)..=number]
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            if !explained {
                problems.push(format!("{name}:{}: no SAFETY comment", number + 1));
            }
        }
    }
    report(problems);
}

/// What the versions of a kernel add to its name, slowest first.
const VERSIONS: [&str; 7] = ["_naive", "_tiled", "", "_wide", "_mma", "_f32_mma", "_wgmma"];

/// The `Versions` line that a kernel file must have: all versions of its kernel, as the files say;
/// `None` where there is one.
fn versions_of(stem: &str, stems: &BTreeSet<String>) -> Option<String> {
    let bases = VERSIONS.iter().filter_map(|suffix| stem.strip_suffix(suffix));
    let base = bases.min_by_key(|base| base.len())?;
    let all = VERSIONS.iter().map(|suffix| format!("{base}{suffix}"));
    let all: Vec<_> = all.filter(|version| stems.contains(version)).collect();
    let this = |version: &String| if version == stem { "this one" } else { version }.to_owned();
    (all.len() > 1).then(|| all.iter().map(this).collect::<Vec<_>>().join(", "))
}

/// The entry points of a kernel file in order: (name, parameters, body up to the next one).
fn entry_points<'a>(text: &'a str, marker: &str) -> Vec<(&'a str, &'a str, &'a str)> {
    let starts: Vec<usize> = text.match_indices(marker).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| {
            // The rest of the marker's line is its attributes; the next line starts with the name.
            let text = &text[start..end];
            let text = &text[text.find('\n').expect("a line after the marker") + 1..];
            let (name, rest) = text.split_once('(').expect("parameters");
            let (parameters, body) = rest.split_once(") {").unwrap_or((rest, ""));
            (name.trim().trim_start_matches("fn "), parameters, body)
        })
        .collect()
}

const WGSL_ENTRY: &str = "@compute";
const CUDA_ENTRY: &str = "extern \"C\" __global__";

/// The steps `// [n] what` of a text, without what follows a comma or semicolon: twins may differ in
/// how they do a step.
fn steps(text: &str) -> Vec<String> {
    let labels = text.lines().filter_map(|line| line.trim().strip_prefix("// ["));
    let labels = labels.filter(|label| label.contains("] "));
    labels.map(|label| label.split([',', ';']).next().unwrap_or_default().to_owned()).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one rule after the other, over the same two files")]
fn kernel_twins_are_twins() {
    let by_stem = |folder: &str, extension: &str| -> BTreeMap<String, String> {
        let stem = |name: &str| Path::new(name).file_stem().unwrap().to_str().unwrap().to_owned();
        files(folder, &[extension]).into_iter().map(|(name, text)| (stem(&name), text)).collect()
    };
    let mut wgsl = by_stem("kernels-wgsl", "wgsl");
    let cuda = by_stem("kernels-cuda", "cu");
    // Headers are no kernels.
    let headers = conformance::kernels().into_iter().flat_map(|spec| spec.text.headers);
    let shared = headers.filter(|header| header.wgsl.is_some()).map(|header| header.stem);
    for stem in shared.chain(["common"]).collect::<BTreeSet<_>>() {
        assert!(wgsl.remove(stem).is_some(), "kernels-wgsl/{stem}.wgsl is a header");
        assert!(root().join(format!("kernels-cuda/{stem}.cuh")).exists(), "{stem}.cuh is its twin");
    }
    let cuda_stems: BTreeSet<String> = cuda.keys().cloned().collect();
    let wgsl_stems: BTreeSet<String> = wgsl.keys().cloned().collect();
    let cuda_only: BTreeSet<&str> = conformance::kernels()
        .iter()
        .filter(|spec| spec.text.wgsl.is_none())
        .map(|spec| spec.text.stem)
        .collect();
    const SECTIONS: [&str; 5] = ["Tensors", "Mapping", "Launch", "Cost", "Numerics"];
    let section = |text: &str, name: &str| -> Option<String> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("// "));
        lines.find_map(|line| line.strip_prefix(name)).map(str::to_owned)
    };
    let mut problems = Vec::new();
    for stem in wgsl.keys().chain(cuda.keys()).collect::<BTreeSet<_>>() {
        let Some(cuda) = cuda.get(stem) else {
            problems.push(format!("kernels-wgsl/{stem}.wgsl has no twin in kernels-cuda"));
            continue;
        };
        let expected = versions_of(stem, &cuda_stems);
        for text in [Some(cuda), wgsl.get(stem)].into_iter().flatten() {
            let found = section(text, "Versions");
            let list =
                found.as_deref().map(|list| list.split(';').next().unwrap_or_default().trim());
            if list != expected.as_deref() {
                problems.push(format!("{stem}: Versions should be {expected:?}, not {found:?}"));
            }
        }
        let Some(wgsl) = wgsl.get(stem) else {
            if !cuda_only.contains(stem.as_str()) {
                problems.push(format!("kernels-cuda/{stem}.cu has no twin in kernels-wgsl"));
            }
            // A fast version is compared with a portable one, which its header names.
            for name in SECTIONS.iter().filter(|name| section(cuda, name).is_none()) {
                problems.push(format!("{stem}.cu: the header says nothing of {name}"));
            }
            let portable = section(cuda, "Portable").unwrap_or_default();
            if !wgsl_stems.iter().any(|stem| portable.contains(&format!("kernels-cuda/{stem}.cu")))
            {
                problems.push(format!("{stem}.cu: {portable:?} is no portable kernel"));
            }
            continue;
        };
        for name in SECTIONS.iter().chain(&["Twin"]) {
            for (text, file) in [(wgsl, format!("{stem}.wgsl")), (cuda, format!("{stem}.cu"))] {
                if section(text, name).is_none() {
                    problems.push(format!("{file}: the header says nothing of {name}"));
                }
            }
        }
        let (wgsl, cuda) = (entry_points(wgsl, WGSL_ENTRY), entry_points(cuda, CUDA_ENTRY));
        let names = |entries: &[(&str, &str, &str)]| -> Vec<String> {
            entries.iter().map(|(name, ..)| (*name).to_owned()).collect()
        };
        if names(&wgsl) != names(&cuda) {
            let (wgsl, cuda) = (names(&wgsl), names(&cuda));
            problems.push(format!("{stem}: entry points {wgsl:?} in WGSL, {cuda:?} in CUDA"));
            continue;
        }
        for ((name, _, wgsl), (.., cuda)) in wgsl.iter().zip(&cuda) {
            if steps(wgsl) != steps(cuda) {
                let (wgsl, cuda) = (steps(wgsl), steps(cuda));
                problems.push(format!("{name}: steps {wgsl:?} in WGSL, {cuda:?} in CUDA"));
            }
        }
    }
    report(problems);
}

/// The parameters of kernels in several files are a header's; those with one member can stand where they are.
#[test]
fn parameters_of_kernels_stand_once() {
    let mut problems = Vec::new();
    for (folder, extensions) in [("kernels-cuda", ["cu", "cuh"]), ("kernels-wgsl", ["wgsl"; 2])] {
        let mut places = BTreeMap::new();
        for (name, text) in files(folder, &extensions) {
            for part in text.split("\nstruct ").skip(1).filter_map(|rest| rest.split('}').next()) {
                let members: Vec<&str> =
                    part.lines().skip(1).map(|line| code(line).trim()).collect();
                if part.contains("Params {") && members.len() > 2 {
                    places.entry(members.join(" ")).or_insert_with(Vec::new).push(name.clone());
                }
            }
        }
        let twice = places.into_values().filter(|places| places.len() > 1);
        problems
            .extend(twice.map(|places| format!("the same parameters in {}", places.join(", "))));
    }
    report(problems);
}

/// The host grants shared memory that a text cuts into tiles by itself: each text must say that both agree.
#[test]
fn kernels_assert_the_shared_memory_that_the_host_grants() {
    let mut problems = Vec::new();
    for (name, text) in files("kernels-cuda", &["cu"]) {
        let kernels = text.lines().filter(|line| code(line).contains("extern __shared__")).count();
        let asserts = |line: &&str| line.contains("static_assert(") && line.contains("_BYTES ==");
        let asserted = text.lines().filter(asserts).count();
        if asserted != kernels {
            problems
                .push(format!("{name}: {kernels} kernels with such memory, {asserted} asserts"));
        }
    }
    report(problems);
}

/// How a kernel takes a matrix that TMA copies.
const TENSOR_MAP: &str = "const __grid_constant__ TensorMap ";

/// Naga checks the WGSL twin against the spec (`tests/shaders.rs`); a pointer of the wrong kind or in
/// the wrong place would be silent in CUDA.
#[test]
fn cuda_parameters_are_the_bindings_of_the_spec() {
    let mut problems = Vec::new();
    for spec in conformance::kernels() {
        let entries = entry_points(spec.text.cuda, CUDA_ENTRY);
        let Some((_, parameters, _)) = entries.iter().find(|(name, ..)| *name == spec.name) else {
            problems.push(format!("{}.cu has no {}", spec.text.stem, spec.name));
            continue;
        };
        let mut found: Vec<String> = parameters
            .split(',')
            .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        // The block of scalars comes last, before it tensor maps: matrices by the names of bindings, whose
        // pointers then have none.
        found.pop();
        let mut maps = Vec::new();
        while let Some(name) = found.last().and_then(|last| last.strip_prefix(TENSOR_MAP)) {
            maps.push(name.to_owned());
            found.pop();
        }
        let pointers = spec.bindings.iter().map(|binding| {
            let access = if binding.access == Access::Read { "const " } else { "" };
            let kinds: &[&str] = match binding.kind {
                // A kernel that moves whole words may see a float buffer as words.
                Kind::Float => &["void", "u32"],
                Kind::F32 => &["float"],
                Kind::U32 => &["u32"],
                Kind::U8 => &["u8", "u32", "unsigned char", "uint2", "uint4"],
            };
            let name = match maps.iter().any(|map| map == binding.name) {
                true => String::new(),
                false => format!(" {}", binding.name),
            };
            kinds.iter().map(|kind| format!("{access}{kind}*{name}")).collect::<Vec<_>>()
        });
        let expected: Vec<Vec<String>> = pointers.collect();
        let fits = found.len() == expected.len()
            && found.iter().zip(&expected).all(|(found, expected)| expected.contains(found));
        if !fits {
            problems.push(format!("{}: CUDA has {found:?}, the spec {expected:?}", spec.name));
        }
    }
    report(problems);
}

/// The kernels that were launched since it was last asked, by name.
type Launched = Rc<RefCell<BTreeMap<&'static str, &'static KernelSpec>>>;

/// The CPU, which passes for a GPU that can run every version of a kernel, and notes what is launched.
struct Recorder {
    cpu: Cpu,
    capabilities: backend::Capabilities,
    launched: Launched,
}

impl Backend for Recorder {
    fn capabilities(&self) -> &backend::Capabilities {
        &self.capabilities
    }
    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        self.cpu.alloc(dtype, len)
    }
    fn upload(&self, view: &View, bytes: &[u8]) -> Result<()> {
        self.cpu.upload(view, bytes)
    }
    fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>> {
        self.cpu.download(view)
    }
    fn launch(&self, call: &KernelCall) -> Result<()> {
        self.launched.borrow_mut().insert(call.spec.name, call.spec);
        self.cpu.launch(call)
    }
    fn synchronize(&self) -> LocalFuture<'_, Result<()>> {
        self.cpu.synchronize()
    }
    fn memory(&self) -> MemoryUse {
        self.cpu.memory()
    }
}

/// The README's table, as the code has it: what every op of the case table launches.
fn table_of_ops() -> String {
    let launched = Launched::default();
    let cpu = Cpu::new();
    let capabilities = backend::Capabilities {
        compute_capability: Some(90),
        many_blocks: true,
        ..cpu.capabilities().clone()
    };
    let device = Device::new(Recorder { cpu, capabilities, launched: launched.clone() });
    let mut rows: BTreeMap<&str, (BTreeMap<&str, &KernelSpec>, bool)> = BTreeMap::new();
    for case in conformance::cases() {
        conformance::verify(&case, &device)
            .unwrap_or_else(|e| panic!("{} {}: {e}", case.op, case.variant));
        let row = rows.entry(case.op).or_default();
        row.0.extend(launched.take());
        row.1 |= case.inputs.iter().any(|input| input.grad.is_some());
    }
    for spec in conformance::kernels() {
        let tested = rows.values().any(|(kernels, _)| kernels.contains_key(spec.name));
        assert!(tested, "no case runs {}", spec.name);
    }
    let mut table = String::from("| op | cpu | wgsl | cuda | backward | kernel files |\n");
    table += "|---|---|---|---|---|---|\n";
    for (op, (kernels, backward)) in rows {
        let yes = |yes: bool| if yes { "yes" } else { "-" };
        let files: BTreeSet<&str> = kernels.values().map(|spec| spec.text.stem).collect();
        // A row of the table of cases may be about a CUDA version alone; its name says which.
        let wgsl = kernels.get(op).is_none_or(|spec| spec.text.wgsl.is_some());
        let files = files.into_iter().map(|stem| format!("`{stem}`")).collect::<Vec<_>>().join(" ");
        table += &format!("| `{op}` | yes | {} | yes | {} | {files} |\n", yes(wgsl), yes(backward));
    }
    table
}

#[test]
fn every_kernel_has_a_case_and_the_readme_lists_the_ops() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (start, end) = ("<!-- table of ops -->\n", "<!-- end of the table of ops -->");
    let (_, rest) = readme.split_once(start).expect("README.md marks the table of ops");
    let (found, _) = rest.split_once(end).expect("README.md marks the table's end");
    let expected = table_of_ops();
    assert!(found == expected, "README.md: the table of ops should be\n{expected}");
}

#[test]
fn the_links_of_the_readme_lead_somewhere() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let missing = targets
        .filter(|target| !target.starts_with("http") && !target.starts_with('#'))
        .filter(|target| !root().join(target).exists());
    report(missing.map(|target| format!("README.md: there is no {target}")).collect());
}
