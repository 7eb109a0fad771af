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

/// A view as Hopper's TMA sees it: a matrix, of which it copies boxes of 128 bytes by `box_rows` rows into
/// shared memory, swizzled so that neither copies nor tensor cores meet a bank twice.
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

    /// Sets the dynamic shared memory. The constant `SHARED_BYTES` or one of another name tells the kernel's
    /// text, which asserts that its tiles fit.
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
    #[expect(clippy::too_many_lines, reason = "one check after the other, each with its message")]
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
            // The rules of TMA: at least one element, rows of whole 16 bytes.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::backend::cpu::Cpu;
    use crate::kernel_text;
    use crate::kernels::{Binding, KernelText, Requires};

    static TEXT: KernelText = kernel_text!("add");

    static SPEC: KernelSpec = KernelSpec {
        name: "two_buffers",
        text: &TEXT,
        bindings: &[Binding::read("x", Kind::Float), Binding::write("y", Kind::F32)],
        constants: &["TILE"],
        block: [32, 1, 1],
        requires: Requires::Portable,
        reference_f32: |_| {},
        reference_f64: |_| {},
        cpu: |_| {},
    };

    fn view(device: &Device, dtype: DType, len: usize) -> Result<View> {
        Ok(View::whole(device.alloc(dtype, len)?))
    }

    fn call(views: &[&View]) -> KernelCall {
        KernelCall {
            grid: [1; 3],
            ..KernelCall::new(&SPEC, views).constant("TILE", 8).params(1u32)
        }
    }

    /// What does not fit the spec is named, and nothing runs.
    #[test]
    fn a_call_that_breaks_its_spec_is_refused() -> Result<()> {
        let device = Device::new(Cpu::new());
        let x = view(&device, DType::BF16, 256)?;
        let y = view(&device, DType::F32, 256)?;
        device.run(&call(&[&x, &y]))?;
        let (beyond, askew) =
            (View { offset: 128, ..x.clone() }, View { offset: 8, len: 8, ..x.clone() });
        let without_tile = KernelCall { constants: Vec::new(), ..call(&[&x, &y]) };
        let map = TensorMap { view: 0, rows: 4, columns: 64, box_rows: 8 };
        device.run(&call(&[&x, &y]).map(map.clone()))?;
        let mapped = |map: TensorMap| call(&[&x, &y]).map(map);
        for (wrong, part) in [
            (call(&[&x]), "1 buffers for 2 bindings"),
            (call(&[&x, &x]), "y cannot be bfloat16"),
            (call(&[&beyond, &y]), "x: elements 128..384 of 256"),
            (call(&[&askew, &y]), "x starts at byte 16"),
            (call(&[&y, &y]), "x aliases y"),
            (without_tile, "constant TILE was not given"),
            (call(&[&x, &y]).params([0u32; 33]), "a parameter block of 132 bytes"),
            (KernelCall { grid: [1, 65_536, 1], ..call(&[&x, &y]) }, "a grid of [1, 65536, 1]"),
            (mapped(TensorMap { view: 2, ..map.clone() }), "view: 2"),
            (mapped(TensorMap { rows: 5, ..map.clone() }), "rows: 5"),
            (mapped(TensorMap { rows: 64, columns: 4, ..map.clone() }), "columns: 4"),
            (mapped(TensorMap { box_rows: 257, ..map.clone() }), "box_rows: 257"),
            (mapped(TensorMap { box_rows: 0, ..map }), "box_rows: 0"),
        ] {
            let message =
                device.run(&wrong).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(
                message.contains(part) && message.contains("two_buffers"),
                "{part}: {message:?}"
            );
        }
        Ok(())
    }
}
