//! Compiles CUDA sources to PTX with NVRTC, each to a file beside it with the extension `.ptx`.
//!
//! `cargo run -p ptx-emulator --example compile_kernels -- sm_80 tools/ptx-emulator/tests/kernels/*.cu` makes the PTX
//! that this crate's tests run. `tools/install-nvrtc` fetches NVRTC; no GPU is needed.

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::{Library, Symbol};

type Handle = *mut c_void;

/// The functions of NVRTC that are used here, version 13.
struct Nvrtc {
    library: Library,
    /// What the compiler itself loads; dropped last.
    _builtins: Library,
}

impl Nvrtc {
    fn load(directory: &Path) -> Result<Self, Box<dyn Error>> {
        let open = |name: &str| {
            let path = directory.join(name);
            // SAFETY: loading NVIDIA's libraries runs their initialisers, which have no preconditions.
            unsafe { Library::new(&path) }
                .map_err(|e| format!("{}: {e}; run tools/install-nvrtc", path.display()))
        };
        let builtins = open("libnvrtc-builtins.so.13.0")?;
        Ok(Self { library: open("libnvrtc.so.13")?, _builtins: builtins })
    }

    fn get<T>(&self, name: &str) -> Result<Symbol<'_, T>, Box<dyn Error>> {
        // SAFETY: every caller names a function of the NVRTC API with the type its header gives.
        Ok(unsafe { self.library.get(name.as_bytes()) }?)
    }

    /// A text that NVRTC gives by size and then by content.
    fn text(&self, program: Handle, name: &str) -> Result<String, Box<dyn Error>> {
        let size: Symbol<unsafe extern "C" fn(Handle, *mut usize) -> c_int> =
            self.get(&format!("{name}Size"))?;
        let fill: Symbol<unsafe extern "C" fn(Handle, *mut c_char) -> c_int> = self.get(name)?;
        let mut length = 0;
        // SAFETY: `program` is alive, and the buffer has the size that NVRTC asked for.
        unsafe {
            size(program, &mut length);
            let mut buffer = vec![0u8; length.max(1)];
            fill(program, buffer.as_mut_ptr().cast());
            Ok(CStr::from_bytes_until_nul(&buffer)?.to_str()?.to_string())
        }
    }

    fn compile(
        &self,
        source: &str,
        name: &str,
        architecture: &str,
    ) -> Result<String, Box<dyn Error>> {
        type Create = unsafe extern "C" fn(
            *mut Handle,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        let create: Symbol<Create> = self.get("nvrtcCreateProgram")?;
        let compile: Symbol<unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int> =
            self.get("nvrtcCompileProgram")?;
        let destroy: Symbol<unsafe extern "C" fn(*mut Handle) -> c_int> =
            self.get("nvrtcDestroyProgram")?;
        let (source, name) = (CString::new(source)?, CString::new(name)?);
        let options = [
            format!("--gpu-architecture={architecture}"),
            "-lineinfo".into(),
            "--std=c++17".into(),
        ];
        let options = options.map(|o| CString::new(o).expect("options have no zero bytes"));
        let pointers = options.each_ref().map(|o| o.as_ptr());
        let mut program = std::ptr::null_mut();
        // SAFETY: the strings outlive the calls, and the program is destroyed once, after its texts were copied.
        let (status, log, ptx) = unsafe {
            create(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            );
            let status = compile(program, pointers.len() as c_int, pointers.as_ptr());
            let texts =
                (self.text(program, "nvrtcGetProgramLog")?, self.text(program, "nvrtcGetPTX")?);
            destroy(&mut program);
            (status, texts.0, texts.1)
        };
        if status != 0 {
            return Err(log.into());
        }
        Ok(ptx)
    }
}

fn library_directory() -> PathBuf {
    let root = std::env::var_os("TUNESMITH_NVRTC_DIR").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/tunesmith/nvrtc")
    });
    root.join("nvidia/cu13/lib")
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let architecture = arguments.next().ok_or("usage: compile_kernels sm_80 FILE.cu ...")?;
    let nvrtc = Nvrtc::load(&library_directory())?;
    let here = format!("\"{}/", std::env::current_dir()?.display());
    for path in arguments.map(PathBuf::from) {
        let name = path.file_name().and_then(|n| n.to_str()).ok_or("a path without a file name")?;
        let ptx = nvrtc.compile(&std::fs::read_to_string(&path)?, name, &architecture)?;
        // NVRTC makes the name absolute; the tests should not depend on where they were compiled.
        std::fs::write(path.with_extension("ptx"), ptx.replace(&here, "\""))?;
    }
    Ok(())
}
