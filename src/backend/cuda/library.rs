//! Where NVIDIA's run-time compiler (NVRTC) may be on this machine.
//!
//! It comes with the CUDA toolkit, with `tools/install-nvrtc`, and inside the Python package
//! `nvidia-cuda-nvrtc` that frameworks bring along; it is loaded from wherever it lies.

use crate::error::Error;
use libloading::Library;
use std::env;
use std::path::{Path, PathBuf};

/// Versions whose interface is the one that is called here, newest first.
const MAJORS: [u32; 2] = [13, 12];

/// Loads NVRTC, of at most version `max_major` (what the driver takes), and gives it to `check`,
/// which refuses what is none; returns what the first library that passes makes.
///
/// # Errors
/// `Error::Device` that says how to install it.
pub(super) fn find<T>(
    max_major: u32,
    check: impl Fn(Library) -> Result<T, libloading::Error>,
) -> Result<T, Error> {
    let directories = directories();
    for major in MAJORS.into_iter().filter(|&major| major <= max_major) {
        let name = file_name(major);
        let beside = directories.iter().map(|directory| directory.join(&name));
        let paths = beside.filter(|path| path.is_file()).chain([PathBuf::from(&name)]);
        for path in paths {
            preload_builtins(path.parent());
            // SAFETY: loading NVIDIA's library runs its initialisers, which have no preconditions.
            if let Ok(found) = unsafe { Library::new(&path) }.and_then(&check) {
                return Ok(found);
            }
        }
    }
    Err(missing(max_major))
}

fn missing(max_major: u32) -> Error {
    let (package, newest) = match max_major {
        ..=12 => ("nvidia-cuda-nvrtc-cu12", 12),
        _ => ("\"nvidia-cuda-nvrtc>=13,<14\"", 13),
    };
    Error::device(format!(
        "NVIDIA's run-time compiler NVRTC (version 12 to {newest}), which compiles the CUDA kernels, \
         was not found; run tools/install-nvrtc or `pip install {package}`, or set CUDA_HOME to a \
         CUDA toolkit, or TUNESMITH_NVRTC_DIR to the directory of {}; no toolkit and no GPU are \
         needed for it",
        file_name(newest)
    ))
}

fn file_name(major: u32) -> String {
    match cfg!(windows) {
        true => format!("nvrtc64_{major}0_0.dll"),
        false => format!("libnvrtc.so.{major}"),
    }
}

/// NVRTC loads a second library by its bare name; one that is loaded already is found.
fn preload_builtins(directory: Option<&Path>) {
    let entries = directory.and_then(|directory| directory.read_dir().ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains("nvrtc-builtins") && !name.contains(".alt.") {
            // SAFETY: as above.
            if let Ok(library) = unsafe { Library::new(entry.path()) } {
                std::mem::forget(library);
            }
        }
    }
}

/// The directories to look in before the system's loader is asked: what the user named, then what
/// `tools/install-nvrtc` made, toolkits, and the Python environments on the path.
fn directories() -> Vec<PathBuf> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let mut found = Vec::new();
    if let Some(root) = variable("TUNESMITH_NVRTC_DIR").or_else(default_install) {
        found.extend(in_packages(&root));
        found.push(root);
    }
    let toolkits = [variable("CUDA_HOME"), variable("CUDA_PATH"), Some("/usr/local/cuda".into())];
    for toolkit in toolkits.into_iter().flatten() {
        found.extend(["lib64", "lib", "bin/x64", "bin"].map(|part| toolkit.join(part)));
    }
    let mut prefixes: Vec<_> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable).collect();
    prefixes.extend(env::home_dir().map(|home| home.join(".local")));
    let programs = env::var_os("PATH").unwrap_or_default();
    prefixes.extend(env::split_paths(&programs).filter_map(|p| p.parent().map(Path::to_path_buf)));
    found.extend(
        prefixes
            .iter()
            .flat_map(|prefix| site_packages(prefix))
            .flat_map(|site| in_packages(&site)),
    );
    found
}

/// Where `tools/install-nvrtc` installs when it is not told.
fn default_install() -> Option<PathBuf> {
    env::home_dir().map(|home| home.join(".cache/tunesmith/nvrtc"))
}

/// Where the Python packages of NVRTC 13 and 12 keep the library, on Linux and on Windows.
fn in_packages(site: &Path) -> Vec<PathBuf> {
    ["cu13/lib", "cu13/bin/x86_64", "cuda_nvrtc/lib", "cuda_nvrtc/bin"]
        .map(|part| site.join("nvidia").join(part))
        .to_vec()
}

/// The package directories of the Python installations under a prefix.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let mut found = vec![prefix.join("Lib/site-packages")];
    let versions = prefix.join("lib").read_dir().into_iter().flatten().flatten();
    for version in versions.filter(|e| e.file_name().to_string_lossy().starts_with("python3")) {
        found.extend(["site-packages", "dist-packages"].map(|name| version.path().join(name)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_packages_are_found_under_a_prefix() {
        let prefix = tempfile::tempdir().unwrap();
        let library = "lib/python3.12/site-packages/nvidia/cu13/lib";
        std::fs::create_dir_all(prefix.path().join(library)).unwrap();
        let found: Vec<_> =
            site_packages(prefix.path()).iter().flat_map(|site| in_packages(site)).collect();
        assert!(found.contains(&prefix.path().join(library)));
    }

    #[test]
    fn the_message_names_the_version_that_the_driver_takes() {
        assert!(missing(12).to_string().contains("nvidia-cuda-nvrtc-cu12"));
        assert!(missing(13).to_string().contains("tools/install-nvrtc"));
    }
}
