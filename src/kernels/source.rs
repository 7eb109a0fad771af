//! Kernel text, and how constants are put into it.
//!
//! WGSL: file, then `common.wgsl`, then the constants, so that the compiler's line numbers are the
//! file's own. CUDA: constants and `common.cuh` first, each behind a `#line` of its own.

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
}

/// A file that several kernels share.
pub struct Header {
    path: &'static str,
    text: &'static str,
}

/// `kernels-cuda/mma.cuh`: tensor cores from sm_80 on.
pub const MMA: Header =
    Header { path: "kernels-cuda/mma.cuh", text: include_str!("../../kernels-cuda/mma.cuh") };

/// `kernels-cuda/wgmma.cuh`: tensor cores and copy engine of sm_90a.
pub const WGMMA: Header =
    Header { path: "kernels-cuda/wgmma.cuh", text: include_str!("../../kernels-cuda/wgmma.cuh") };

/// The [`KernelText`] of a stem that both directories have.
#[macro_export]
macro_rules! kernel_text {
    ($stem:literal) => {
        $crate::kernels::KernelText {
            stem: $stem,
            wgsl: Some(include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/kernels-wgsl/",
                $stem,
                ".wgsl"
            ))),
            cuda: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-cuda/", $stem, ".cu")),
            headers: &[],
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
        let common = self.file("kernels-wgsl/common.wgsl", COMMON_WGSL);
        let mut source = format!("{wgsl}\n{common}\n");
        for (name, value) in with_other_dtypes(wgsl, constants) {
            source += &format!("const {name}: u32 = {value}u;\n");
        }
        Some(source)
    }

    /// The complete CUDA translation unit.
    pub fn cuda(&self, text: &KernelText, constants: &[(&str, u32)]) -> String {
        let (common_path, path) =
            ("kernels-cuda/common.cuh", format!("kernels-cuda/{}.cu", text.stem));
        let (common, cuda) = (self.file(common_path, COMMON_CUDA), self.file(&path, text.cuda));
        let mut source = String::from("#line 1 \"constants\"\n");
        for (name, value) in with_other_dtypes(cuda, constants) {
            source += &format!("constexpr unsigned {name} = {value};\n");
        }
        source += &format!("#line 1 \"{common_path}\"\n{common}\n");
        for Header { path, text } in text.headers {
            source += &format!("#line 1 \"{path}\"\n{}\n", self.file(path, text));
        }
        source += &format!("#line 1 \"{path}\"\n{cuda}");
        source
    }
}

/// `constants`, and a `DT_*` of 0 for each that the text names besides: those of the file's other
/// entry points, which are compiled along but not run.
fn with_other_dtypes<'a>(text: &'a str, constants: &[(&'a str, u32)]) -> Vec<(&'a str, u32)> {
    let mut all = constants.to_vec();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with("DT_")) {
        if !all.iter().any(|(name, _)| *name == word) {
            all.push((word, 0));
        }
    }
    all
}
