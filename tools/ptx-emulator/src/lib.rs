//! Runs the PTX that NVRTC emits for CUDA kernels, on a machine without a GPU, and finds their faults.
//!
//! [`Module::parse`] turns PTX text into a compact form; [`Device::launch`] executes it, a warp of 32 lanes at a time.
//! Every access is checked: bounds, alignment, memory that nothing has written, bytes that an asynchronous copy is
//! still writing, races in shared memory, blocks that touch one another's output. Barriers that only some threads
//! reach are reported, and warps are pre-empted in an order drawn from a seed. A [`Fault`] names kernel, block, thread,
//! source line and PTX. Hopper's asynchronous instructions (mbarriers, bulk copies through a [`TensorMap`], `wgmma`)
//! run too, with the fences and waits that they need.
//!
//! Reading order: [`ptx`](Module) text to tree (`ptx/`), tree to the form that runs (`isa.rs`, `decode/`), execution
//! (`exec/block.rs`, `exec/step.rs`, then its families; `exec/mbarrier.rs`, `exec/bulk.rs` and `exec/wgmma.rs` for
//! Hopper), memory and the race detector (`memory/`).
//!
//! ```
//! use ptx_emulator::{Config, Device, Launch, Module};
//!
//! let ptx = "
//!     .version 9.0
//!     .target sm_80
//!     .address_size 64
//!     .visible .entry double(.param .u64 data) {
//!         .reg .b64 %rd<4>; .reg .b32 %r<2>; .reg .f32 %f<2>;
//!         ld.param.u64 %rd0, [data];
//!         cvta.to.global.u64 %rd1, %rd0;
//!         mov.u32 %r0, %tid.x;
//!         mul.wide.u32 %rd2, %r0, 4;
//!         add.s64 %rd3, %rd1, %rd2;
//!         ld.global.f32 %f0, [%rd3];
//!         add.f32 %f1, %f0, %f0;
//!         st.global.f32 [%rd3], %f1;
//!         ret;
//!     }";
//! let module = Module::parse(ptx)?;
//! let mut device = Device::new(Config::default());
//! let data = device.alloc(8);
//! device.write(data, &[1.0f32, 2.5].map(f32::to_le_bytes).concat())?;
//! let launch = Launch { grid: [1, 1, 1], block: [2, 1, 1], shared_bytes: 0, params: &[data.into()] };
//! device.launch(&module, "double", launch)?;
//! assert_eq!(device.read(data, 8)?, [2.0f32, 5.0].map(f32::to_le_bytes).concat());
//!
//! // A third thread is one too many.
//! let launch = Launch { block: [3, 1, 1], ..launch };
//! let error = device.launch(&module, "double", launch).unwrap_err();
//! assert!(error.to_string().contains("thread (2,0,0)") && error.to_string().contains("outside global memory"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod decode;
mod device;
mod exec;
mod fault;
mod isa;
mod math;
mod memory;
mod module;
mod ptx;

pub use device::{Config, Device, DevicePtr, Launch, LaunchStats, Param};
pub use fault::{CodePosition, Error, Fault, FaultKind, OtherAccess, SourcePosition};
pub use memory::{Swizzle, TensorMap};
pub use module::Module;
pub use ptx::ParseError;
