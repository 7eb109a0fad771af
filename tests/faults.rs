//! Faults put into kernels on purpose, and that the case table finds every one: this is what shows that
//! a pass of the table means something.
//!
//! Each of `tests/faults/*.patch` says on its first line what is wrong, on its second as what it must be
//! found (wrong `values`, or a word of what the emulator reports), and changes one kernel file. It is
//! applied in memory: a device reads the faulty text in place of the crate's.

use std::fs;
use std::path::Path;
use tunesmith::kernels::Texts;
use tunesmith::{Device, Result, conformance};

/// A change of one file.
struct Fault {
    patch: String,
    what: String,
    found_as: String,
    /// The file from the root of the repository.
    path: String,
    /// Lines with their context, before and after.
    hunks: Vec<[Vec<String>; 2]>,
}

impl Fault {
    fn parse(patch: &str, text: &str) -> Self {
        let mut lines = text.lines();
        let mut header = |prefix: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(prefix));
            line.unwrap_or_else(|| panic!("{patch}: no line with {prefix:?}")).to_owned()
        };
        let (what, found_as) = (header(""), header("Caught as: "));
        let path = header("--- ");
        assert_eq!(path, header("+++ "), "{patch}: a patch changes one file");
        let mut hunks: Vec<[Vec<String>; 2]> = Vec::new();
        for line in lines {
            if line.starts_with("@@") {
                hunks.push(Default::default());
                continue;
            }
            let [before, after] = hunks.last_mut().unwrap_or_else(|| panic!("{patch}: no hunk"));
            let (kind, text) = line.split_at_checked(1).unwrap_or((" ", ""));
            assert!([" ", "-", "+"].contains(&kind), "{patch}: {line}");
            if kind != "+" {
                before.push(text.to_owned());
            }
            if kind != "-" {
                after.push(text.to_owned());
            }
        }
        Self { patch: patch.to_owned(), what, found_as, path, hunks }
    }

    /// The faulty text; a message where a hunk does not fit in exactly one place.
    fn apply(&self, text: &str) -> std::result::Result<String, String> {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for [before, after] in &self.hunks {
            let places: Vec<_> = (0..lines.len())
                .filter(|&at| lines[at..].starts_with(before) && before != after)
                .collect();
            let &[at] = places.as_slice() else {
                let Self { patch, path, .. } = self;
                let hunk = before.join("\n");
                return Err(format!("{patch} fits {path} in {} places:\n{hunk}", places.len()));
            };
            lines.splice(at..at + before.len(), after.iter().cloned());
        }
        Ok(lines.join("\n") + "\n")
    }

    fn stem(&self) -> &str {
        Path::new(&self.path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }
}

/// The faults of the kernels in `folder`. Tests run at the root of the repository.
fn faults(folder: &str) -> Vec<Fault> {
    let mut paths: Vec<_> =
        fs::read_dir("tests/faults").unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let parse = |path: &std::path::PathBuf| {
        Fault::parse(&path.display().to_string(), &fs::read_to_string(path).unwrap())
    };
    paths.iter().map(parse).filter(|fault| fault.path.starts_with(folder)).collect()
}

fn elements(case: &conformance::Case) -> usize {
    case.inputs.iter().map(|input| input.shape.iter().product::<usize>()).sum()
}

/// What is wrong with a case on a device.
fn complaint(case: &conformance::Case, device: &Device) -> Option<String> {
    match conformance::verify(case, device) {
        Ok(found) => found
            .iter()
            .find(|found| !found.passed())
            .map(|found| format!("wrong values: {found:?}")),
        Err(error) => Some(error.to_string()),
    }
}

/// Runs the cases that launch kernels of the faulty file, smallest first, until one complains; the
/// same case must have nothing to complain of without the fault.
fn check(
    fault: &Fault,
    open: &dyn Fn(Texts) -> Result<Device>,
    sound: &Device,
) -> Result<Option<String>> {
    let text = fs::read_to_string(&fault.path).unwrap();
    let text = match fault.apply(&text) {
        Ok(text) => text,
        Err(problem) => return Ok(Some(problem)),
    };
    let faulty = open(Texts::replacing(&fault.path, text))?;
    let mut cases = conformance::cases();
    cases.sort_by_key(elements);
    for case in &cases {
        let capabilities = sound.capabilities().clone();
        let launches = conformance::launches_of(std::slice::from_ref(case), capabilities)?;
        if !launches.iter().any(|launch| launch.spec.text.stem == fault.stem()) {
            continue;
        }
        let Some(found) = complaint(case, &faulty) else { continue };
        let Fault { patch, what, found_as, .. } = fault;
        let label = format!("{patch} ({what})\n    {} {}", case.op, case.variant);
        eprintln!("{label}: {found}");
        return Ok(match complaint(case, sound) {
            Some(other) => Some(format!("{label} fails without the fault too: {other}")),
            None if !found.contains(found_as.as_str()) => {
                Some(format!("{label}: to be found as {found_as}, not as {found}"))
            }
            None => None,
        });
    }
    Ok(Some(format!("{} is not found: {}", fault.patch, fault.what)))
}

fn check_all(
    faults: &[Fault],
    at_least: usize,
    open: &dyn Fn(Texts) -> Result<Device>,
) -> Result<()> {
    assert!(faults.len() >= at_least, "{} faults", faults.len());
    let sound = open(Texts::default())?;
    let mut problems = Vec::new();
    for fault in faults {
        problems.extend(check(fault, open, &sound)?);
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    Ok(())
}

#[cfg(feature = "cuda-emulated")]
#[test]
fn every_fault_of_a_cuda_kernel_is_found() -> Result<()> {
    use tunesmith::backend::cuda::{EmulatedOptions, Nvrtc, open_emulated_reading};
    if let Err(error) = Nvrtc::find(u32::MAX)
        && std::env::var_os("TUNESMITH_REQUIRE_ALL").is_none()
    {
        eprintln!("skipped: {error}");
        return Ok(());
    }
    // The kernels of Hopper alone need another emulated GPU than the rest.
    let (hopper, others): (Vec<_>, Vec<_>) =
        faults("kernels-cuda").into_iter().partition(|fault| fault.stem().ends_with("_wgmma"));
    for (faults, at_least, capability) in [(others, 12, 80), (hopper, 6, 90)] {
        let options = EmulatedOptions { seed: 1, capability };
        check_all(&faults, at_least, &|texts| open_emulated_reading(texts, options))?;
    }
    Ok(())
}

#[cfg(feature = "wgpu")]
#[test]
fn every_fault_of_a_wgsl_kernel_is_found() -> Result<()> {
    use tunesmith::backend::wgpu::{Options, Wgpu};
    let options = Options { strict: true };
    let open = |texts| Ok(Device::new(Wgpu::open(0, options)?.reading(texts)));
    check_all(&faults("kernels-wgsl"), 8, &open)
}

#[test]
fn a_patch_fits_in_one_place_or_not_at_all() {
    let patch = "Two for one\nCaught as: values\n--- f\n+++ f\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n";
    let fault = Fault::parse("two.patch", patch);
    assert_eq!(fault.apply("x\na\nb\ny\n"), Ok("x\na\nc\ny\n".to_owned()));
    for text in ["x\na\nc\n", "a\nb\na\nb\n", "xa\nb\n", "a\n"] {
        assert!(fault.apply(text).is_err(), "{text}");
    }
}
