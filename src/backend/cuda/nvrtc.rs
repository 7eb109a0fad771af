//! NVIDIA's run-time compiler: CUDA C++ to PTX, or to machine code (cubin).
//!
//! The functions are called directly, not through a crate that would end the process where the
//! library is missing.

use super::library;
use crate::error::{Error, Result};
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;

type Program = *mut c_void;
type Status = c_int;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> Status;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
type Destroy = unsafe extern "C" fn(*mut Program) -> Status;
type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
type Fill = unsafe extern "C" fn(Program, *mut c_char) -> Status;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;
type Architectures = unsafe extern "C" fn(*mut c_int) -> Status;

/// What to compile to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// NVIDIA's portable assembly, as text.
    Ptx,
    /// Machine code of one architecture.
    Cubin,
}

/// A compiled translation unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// PTX text or cubin.
    pub bytes: Vec<u8>,
    /// What the compiler had to say: warnings, and for a cubin the resources of each kernel.
    pub log: String,
}

/// NVRTC, loaded.
pub struct Nvrtc {
    create: Create,
    compile: Compile,
    destroy: Destroy,
    ptx: (Size, Fill),
    cubin: (Size, Fill),
    log: (Size, Fill),
    version: (u32, u32),
    architectures: Vec<u32>,
    /// Never unloaded: the compiler keeps threads and static state of its own.
    _library: ManuallyDrop<Library>,
}

impl Nvrtc {
    /// Finds NVRTC on this machine, of at most version `max_major`.
    ///
    /// # Errors
    /// `Error::Device` that says how to install it.
    pub fn find(max_major: u32) -> Result<Self> {
        library::find(max_major, Self::load)
    }

    fn load(library: Library) -> Result<Self, libloading::Error> {
        // SAFETY: each name is a function of NVRTC, and each type is the one its header gives.
        unsafe {
            let get_version: Version = *library.get(b"nvrtcVersion\0")?;
            let count: Architectures = *library.get(b"nvrtcGetNumSupportedArchs\0")?;
            let list: Architectures = *library.get(b"nvrtcGetSupportedArchs\0")?;
            let (mut major, mut minor, mut length) = (0, 0, 0);
            get_version(&mut major, &mut minor);
            count(&mut length);
            let mut architectures = vec![0; length.max(0) as usize];
            list(architectures.as_mut_ptr());
            Ok(Self {
                create: *library.get(b"nvrtcCreateProgram\0")?,
                compile: *library.get(b"nvrtcCompileProgram\0")?,
                destroy: *library.get(b"nvrtcDestroyProgram\0")?,
                ptx: (*library.get(b"nvrtcGetPTXSize\0")?, *library.get(b"nvrtcGetPTX\0")?),
                cubin: (*library.get(b"nvrtcGetCUBINSize\0")?, *library.get(b"nvrtcGetCUBIN\0")?),
                log: (
                    *library.get(b"nvrtcGetProgramLogSize\0")?,
                    *library.get(b"nvrtcGetProgramLog\0")?,
                ),
                version: (major as u32, minor as u32),
                architectures: architectures.into_iter().map(|sm| sm as u32).collect(),
                _library: ManuallyDrop::new(library),
            })
        }
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Compute capabilities, times ten, that it compiles for.
    pub fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    /// The options of a compilation for `arch` (`sm_80`, `compute_80`).
    ///
    /// A product that feeds a sum becomes one fused multiply-add: faster and more exact. Where the
    /// bits must be those of two roundings, a kernel says so (`__fmul_rn`, `__fadd_rn`).
    pub(super) fn options(arch: &str, output: Output) -> Vec<String> {
        let mut options = vec![
            format!("--gpu-architecture={arch}"),
            "--std=c++17".to_owned(),
            "--fmad=true".to_owned(),
            "-lineinfo".to_owned(),
        ];
        if output == Output::Cubin {
            options.push("--ptxas-options=-v".to_owned());
        }
        options
    }

    /// Compiles `source`; `name` is the kernel, for messages. Warnings are in the image's log.
    ///
    /// # Errors
    /// `Error::Device` with the compiler's log, which names file and line; also where the assembler
    /// says that it ignores an instruction.
    pub fn compile(&self, source: &str, name: &str, arch: &str, output: Output) -> Result<Image> {
        let c_string = |text: &str| {
            CString::new(text).map_err(|_| Error::internal(name, "a zero byte in the kernel text"))
        };
        let text = c_string(source)?;
        let options =
            Self::options(arch, output).iter().map(|o| c_string(o)).collect::<Result<Vec<_>>>()?;
        let pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: the strings outlive the calls; without headers their lists may be null.
        let status = unsafe {
            let none = std::ptr::null();
            (self.create)(&mut program, text.as_ptr(), c"kernel.cu".as_ptr(), 0, none, none)
        };
        if status != 0 {
            return Err(Error::device(format!(
                "NVRTC cannot start to compile {name}: status {status}"
            )));
        }
        // SAFETY: `program` is alive until it is destroyed, once, after everything was copied.
        let (status, log, bytes) = unsafe {
            let status = (self.compile)(program, pointers.len() as c_int, pointers.as_ptr());
            let log = read(program, self.log);
            let bytes = match output {
                _ if status != 0 => Vec::new(),
                Output::Ptx => read(program, self.ptx),
                Output::Cubin => read(program, self.cubin),
            };
            (self.destroy)(&mut program);
            (status, log, bytes)
        };
        let log = relative(&String::from_utf8_lossy(&log));
        if status != 0 || ignores_an_instruction(&log) {
            let (major, minor) = self.version;
            return Err(Error::device(format!(
                "kernel {name} does not compile for {arch} with NVRTC {major}.{minor}:\n{log}"
            )));
        }
        let bytes = match output {
            Output::Ptx => relative(&String::from_utf8_lossy(&bytes)).into_bytes(),
            Output::Cubin => bytes,
        };
        Ok(Image { bytes, log })
    }
}

/// A text or image that NVRTC gives by size and then by content; texts end in a zero, which goes.
///
/// # Safety
/// `program` must be alive, and the functions must be NVRTC's.
unsafe fn read(program: Program, (size, fill): (Size, Fill)) -> Vec<u8> {
    let mut length = 0;
    // SAFETY: the buffer has the size that NVRTC asks for.
    unsafe {
        if size(program, &mut length) != 0 || length == 0 {
            return Vec::new();
        }
        let mut buffer = vec![0u8; length];
        if fill(program, buffer.as_mut_ptr().cast()) != 0 {
            return Vec::new();
        }
        if buffer.starts_with(b"\x7fELF") {
            return buffer;
        }
        buffer.truncate(buffer.iter().position(|&byte| byte == 0).unwrap_or(length));
        buffer
    }
}

/// NVRTC puts the current directory before the file names of `#line`; nobody needs it.
fn relative(text: &str) -> String {
    match std::env::current_dir() {
        Ok(directory) => text.replace(&format!("{}/", directory.display()), ""),
        Err(_) => text.to_owned(),
    }
}

/// ptxas warns (C7508 and its kin) where it drops an instruction that the target lacks: the kernel
/// would silently do something else.
fn ignores_an_instruction(log: &str) -> bool {
    log.lines().any(|line| line.contains("warning") && line.contains("ignored"))
}

/// The lines of a compiler log that complain.
pub fn warnings(log: &str) -> Vec<&str> {
    // Where the assembler makes a program slower, it says so as information, with a number.
    let complains =
        |line: &&str| line.to_ascii_lowercase().contains("warning") || line.contains("(C7");
    log.lines().filter(complains).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_instruction_is_seen() {
        assert!(ignores_an_instruction(
            "ptxas warning : (C7508) Instruction 'setmaxnreg' ignored to maintain compatibility"
        ));
        assert!(!ignores_an_instruction("ptxas info    : Used 32 registers"));
        assert_eq!(warnings("a\nkernels-cuda/a.cu(3): warning #177-D: unused\nb").len(), 1);
        let serialized = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async ...";
        assert_eq!(warnings(serialized), [serialized]);
    }
}
