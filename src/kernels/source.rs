//! Kernel text, and how constants are put into it.
//!
//! WGSL: file, then its headers and `common.wgsl`, then the constants, so that the compiler's line numbers
//! are the file's own. CUDA: constants, `common.cuh` and headers first, each behind a `#line` of its own.
//!
//! Constants are what a call decides (layout, dtypes, a tile that suits the sizes), what the host and the text
//! must agree on (tile sizes, stages), and the slots of the step state. Each number stands once, in Rust; the
//! texts assert what they need of it.

use super::slots;

/// Names and values.
pub type Constants = &'static [(&'static str, u32)];

/// The text of one kernel file in both languages.
pub struct KernelText {
    /// File name without extension, the same in `kernels-wgsl/` and `kernels-cuda/`.
    pub stem: &'static str,
    /// `kernels-wgsl/<stem>.wgsl`; none for a CUDA-only fast version.
    pub wgsl: Option<&'static str>,
    /// `kernels-cuda/<stem>.cu`.
    pub cuda: &'static str,
    /// What comes before it, besides `common.cuh`.
    pub headers: &'static [Header],
    /// Tile sizes, stages and whatever else the host and the text must agree on.
    pub constants: &'static [Constants],
}

impl KernelText {
    /// The same text with these headers.
    pub const fn with_headers(self, headers: &'static [Header]) -> Self {
        Self { headers, ..self }
    }

    /// The same text with these constants.
    pub const fn with_constants(self, constants: &'static [Constants]) -> Self {
        Self { constants, ..self }
    }

    /// All constants of a call: its own, those of the text, those of its headers, and the slots.
    fn all_constants<'a>(&self, of_call: &[(&'a str, u32)]) -> Vec<(&'a str, u32)> {
        let mut all = of_call.to_vec();
        all.extend(self.constants.iter().copied().flatten());
        all.extend(self.headers.iter().flat_map(|header| header.constants));
        all.extend(slots::TABLE);
        all
    }
}

/// A file that several kernels share.
#[derive(Clone, Copy)]
pub struct Header {
    /// File name without extension.
    pub stem: &'static str,
    /// `kernels-wgsl/<stem>.wgsl`; none for one that only CUDA's fast versions need.
    pub wgsl: Option<&'static str>,
    /// `kernels-cuda/<stem>.cuh`.
    pub cuda: &'static str,
    /// What the host and the file must agree on.
    pub constants: Constants,
}

/// k of a slab of a product on tensor cores.
pub const SLAB_K: u32 = 32;

/// Elements of 16 bits in a row of a box that TMA copies.
pub const BOX_WIDTH: u32 = 64;

/// `kernels-cuda/mma.cuh`: tensor cores from sm_80 on.
pub const MMA: Header = cuda_header!("mma", &[("SLAB_K", SLAB_K)]);

/// `kernels-cuda/wgmma.cuh`: tensor cores and TMA of sm_90a.
pub const WGMMA: Header = cuda_header!("wgmma", &[("BOX_WIDTH", BOX_WIDTH)]);

/// A [`Header`] of a stem that both directories have.
#[macro_export]
macro_rules! kernel_header {
    ($stem:literal) => {
        $crate::kernels::Header {
            wgsl: Some(include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/kernels-wgsl/",
                $stem,
                ".wgsl"
            ))),
            ..$crate::cuda_header!($stem, &[])
        }
    };
}

/// A [`Header`] of a stem in `kernels-cuda/` alone, with its constants.
#[macro_export]
macro_rules! cuda_header {
    ($stem:literal, $constants:expr) => {
        $crate::kernels::Header {
            stem: $stem,
            wgsl: None,
            cuda: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/kernels-cuda/",
                $stem,
                ".cuh"
            )),
            constants: $constants,
        }
    };
}
use cuda_header;

/// The [`KernelText`] of a stem that both directories have.
#[macro_export]
macro_rules! kernel_text {
    ($stem:literal) => {
        $crate::kernels::KernelText {
            wgsl: Some(include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/kernels-wgsl/",
                $stem,
                ".wgsl"
            ))),
            ..$crate::cuda_text!($stem)
        }
    };
}

/// The [`KernelText`] of a stem in `kernels-cuda/` alone: a fast version of a portable kernel, with the
/// headers that it needs.
#[macro_export]
macro_rules! cuda_text {
    ($stem:literal $(, $header:expr)*) => {
        $crate::kernels::KernelText {
            stem: $stem,
            wgsl: None,
            cuda: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-cuda/", $stem, ".cu")),
            headers: &[$($header),*],
            constants: &[],
        }
    };
}

const COMMON_WGSL: &str = include_str!("../../kernels-wgsl/common.wgsl");
const COMMON_CUDA: &str = include_str!("../../kernels-cuda/common.cuh");

/// Where a device takes kernel text from: the crate, but for files that a test replaces to see what a
/// faulty kernel does.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    replaced: Vec<(String, String)>,
}

impl Texts {
    /// The crate's own text but for the file `path`, such as `kernels-cuda/rope.cu` or
    /// `kernels-wgsl/common.wgsl`.
    pub fn replacing(path: &str, text: String) -> Self {
        Self { replaced: vec![(path.to_owned(), text)] }
    }

    fn file<'a>(&'a self, path: &str, own: &'a str) -> &'a str {
        let replaced = self.replaced.iter().find(|(replaced, _)| replaced == path);
        replaced.map_or(own, |(_, text)| text)
    }

    /// The complete WGSL module, or `None` where the kernel has no WGSL text.
    pub fn wgsl(&self, text: &KernelText, constants: &[(&str, u32)]) -> Option<String> {
        let wgsl = self.file(&format!("kernels-wgsl/{}.wgsl", text.stem), text.wgsl?);
        let mut source = format!("{wgsl}\n");
        for Header { stem, wgsl, .. } in text.headers {
            let path = format!("kernels-wgsl/{stem}.wgsl");
            source += &wgsl.map(|wgsl| format!("{}\n", self.file(&path, wgsl))).unwrap_or_default();
        }
        source += self.file("kernels-wgsl/common.wgsl", COMMON_WGSL);
        for (name, value) in with_other_dtypes(wgsl, text.all_constants(constants)) {
            source += &format!("\nconst {name}: u32 = {value}u;");
        }
        Some(source + "\n")
    }

    /// The complete CUDA translation unit.
    pub fn cuda(&self, text: &KernelText, constants: &[(&str, u32)]) -> String {
        let (common_path, path) =
            ("kernels-cuda/common.cuh", format!("kernels-cuda/{}.cu", text.stem));
        let (common, cuda) = (self.file(common_path, COMMON_CUDA), self.file(&path, text.cuda));
        let mut source = String::from("#line 1 \"constants\"\n");
        for (name, value) in with_other_dtypes(cuda, text.all_constants(constants)) {
            source += &format!("constexpr unsigned {name} = {value};\n");
        }
        source += &format!("#line 1 \"{common_path}\"\n{common}\n");
        for Header { stem, cuda, .. } in text.headers {
            let path = format!("kernels-cuda/{stem}.cuh");
            source += &format!("#line 1 \"{path}\"\n{}\n", self.file(&path, cuda));
        }
        source += &format!("#line 1 \"{path}\"\n{cuda}");
        source
    }
}

/// `constants`, and a `DT_*` of 0 for each that the text names besides: those of the file's other
/// entry points, which are compiled along but not run.
fn with_other_dtypes<'a>(text: &'a str, mut all: Vec<(&'a str, u32)>) -> Vec<(&'a str, u32)> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with("DT_")) {
        if !all.iter().any(|(name, _)| *name == word) {
            all.push((word, 0));
        }
    }
    all
}
