//! One kernel launch, as data.

use super::{Device, View};
use crate::error::{Error, Result};
use crate::kernels::{Access, KernelSpec, Kind};
use bytemuck::Pod;

/// WebGPU's default limit of workgroups per dimension; CUDA's y and z are as small.
const MAX_GRID: u32 = 65_535;
/// The parameter block's largest size in bytes.
const MAX_PARAMS: usize = 128;
/// Views begin at multiples of this many bytes (WebGPU's `min_storage_buffer_offset_alignment`).
pub const VIEW_ALIGNMENT: usize = 256;

/// A view as Hopper's copy engine sees it: a matrix, of which it copies boxes of 128 bytes by `box_rows`
/// rows into shared memory, turned so that neither copies nor tensor cores meet a bank twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Which of the call's views.
    pub view: usize,
    /// Rows of the matrix.
    pub rows: usize,
    /// Elements of a row, which lie without gaps.
    pub columns: usize,
    /// Rows of a box.
    pub box_rows: u32,
}

/// A kernel with its arguments.
pub struct KernelCall {
    /// What to run.
    pub spec: &'static KernelSpec,
    /// Compile-time constants, the `DT_*` ones included: with the spec, the key of a pipeline.
    pub constants: Vec<(&'static str, u32)>,
    /// Buffer arguments, in binding order.
    pub views: Vec<View>,
    /// Tensor maps, in the kernel's order (CUDA fast versions only).
    pub maps: Vec<TensorMap>,
    /// The parameter block: a `#[repr(C)]` struct of u32 and f32.
    pub params: Vec<u8>,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Dynamic shared memory in bytes (CUDA fast versions only).
    pub shared_bytes: u32,
}

impl KernelCall {
    /// A call of `spec` with the buffers `views`, in binding order.
    pub fn new(spec: &'static KernelSpec, views: &[&View]) -> Self {
        let bindings = spec.bindings.iter().zip(views);
        let floats = bindings.filter(|(binding, _)| binding.kind == Kind::Float);
        let dtype_constants =
            floats.map(|(binding, view)| (dtype_constant(binding.name), view.dtype().code()));
        Self {
            spec,
            constants: dtype_constants.collect(),
            views: views.iter().map(|&view| view.clone()).collect(),
            maps: Vec::new(),
            params: Vec::new(),
            grid: [0; 3],
            shared_bytes: 0,
        }
    }

    /// Sets a compile-time constant.
    pub fn constant(mut self, name: &'static str, value: u32) -> Self {
        self.constants.push((name, value));
        self
    }

    /// Sets the parameter block.
    pub fn params<P: Pod>(mut self, params: P) -> Self {
        self.params = bytemuck::bytes_of(&params).to_vec();
        self
    }

    /// Adds a tensor map.
    pub fn map(mut self, map: TensorMap) -> Self {
        self.maps.push(map);
        self
    }

    /// Sets the dynamic shared memory.
    pub fn shared_bytes(mut self, bytes: u32) -> Self {
        self.shared_bytes = bytes;
        self
    }

    /// Sets the number of blocks and runs the call.
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn launch(mut self, device: &Device, grid: [u32; 3]) -> Result<()> {
        self.grid = grid;
        device.run(&self)
    }

    /// Compares the call with its spec: argument count, dtypes, ranges, aliasing, constants, sizes.
    ///
    /// # Errors
    /// `Error::Internal` that says what does not fit.
    pub fn check(&self) -> Result<()> {
        let fail = |what: String| Err(Error::internal(self.spec.name, what));
        let bindings = self.spec.bindings;
        if self.views.len() != bindings.len() {
            return fail(format!("{} buffers for {} bindings", self.views.len(), bindings.len()));
        }
        for (view, binding) in self.views.iter().zip(bindings) {
            let dtype = view.dtype();
            let fits = match binding.kind {
                Kind::Float => dtype.is_float(),
                Kind::F32 => dtype == crate::DType::F32,
                Kind::U32 => dtype == crate::DType::U32,
                Kind::U8 => dtype == crate::DType::U8,
            };
            if !fits {
                return fail(format!("{} cannot be {}", binding.name, dtype.name()));
            }
            if view.offset + view.len > view.buffer.len() {
                return fail(format!(
                    "{}: elements {}..{} of {}",
                    binding.name,
                    view.offset,
                    view.offset + view.len,
                    view.buffer.len()
                ));
            }
            if view.byte_offset() % VIEW_ALIGNMENT != 0 {
                return fail(format!("{} starts at byte {}", binding.name, view.byte_offset()));
            }
        }
        for (i, a) in self.views.iter().enumerate() {
            for (j, b) in self.views.iter().enumerate().skip(i + 1) {
                let only_read =
                    bindings[i].access == Access::Read && bindings[j].access == Access::Read;
                if !only_read && a.buffer.same(&b.buffer) {
                    return fail(format!("{} aliases {}", bindings[i].name, bindings[j].name));
                }
            }
        }
        for name in self.spec.constants {
            if !self.constants.iter().any(|(given, _)| given == name) {
                return fail(format!("constant {name} was not given"));
            }
        }
        for map in &self.maps {
            let TensorMap { view, rows, columns, box_rows } = map;
            // The rules of the copy engine: at least one element, rows of whole 16 bytes.
            let fits = self.views.get(*view).is_some_and(|view| {
                rows * columns == view.len
                    && view.len > 0
                    && (columns * view.dtype().size()).is_multiple_of(16)
            });
            if !fits || !(1..=256).contains(box_rows) {
                return fail(format!("{map:?}"));
            }
        }
        if self.params.len() > MAX_PARAMS || !self.params.len().is_multiple_of(4) {
            return fail(format!("a parameter block of {} bytes", self.params.len()));
        }
        if self.grid.iter().any(|&blocks| blocks > MAX_GRID) {
            return fail(format!("a grid of {:?}", self.grid));
        }
        Ok(())
    }
}

/// `DT_<NAME>` of a binding; the names are few, so each is made once and kept.
fn dtype_constant(binding: &'static str) -> &'static str {
    use std::cell::RefCell;
    use std::collections::HashMap;
    thread_local! {
        static NAMES: RefCell<HashMap<&'static str, &'static str>> = RefCell::default();
    }
    NAMES.with_borrow_mut(|names| {
        *names
            .entry(binding)
            .or_insert_with(|| Box::leak(format!("DT_{}", binding.to_uppercase()).into_boxed_str()))
    })
}
