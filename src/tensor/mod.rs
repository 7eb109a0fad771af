//! A tensor: a run of device memory, a shape, and a place for its gradient. Row-major, always
//! contiguous. Tensors do no arithmetic; that is the work of [`crate::ops`].

mod saved;
mod slot;

pub(crate) use saved::{Origin, Saved};
pub use slot::GradSlot;

use crate::backend::{Buffer, Device, View};
use crate::dtype::{DType, bytes_to_f32, f32_to_bytes};
use crate::error::{Error, Result};
use std::rc::Rc;

/// A handle; clones share memory, shape and gradient slot.
#[derive(Clone)]
pub struct Tensor {
    device: Device,
    view: View,
    shape: Rc<[usize]>,
    slot: Option<Rc<GradSlot>>,
    origin: Option<Rc<dyn Origin>>,
}

impl Tensor {
    /// A tensor with undefined contents, for a kernel to write.
    pub fn empty(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        let buffer = device.alloc(dtype, shape.iter().product())?;
        Ok(Self::from_buffer(device, buffer, shape))
    }

    /// A tensor over a whole buffer.
    pub fn from_buffer(device: &Device, buffer: Buffer, shape: &[usize]) -> Self {
        debug_assert_eq!(buffer.len(), shape.iter().product::<usize>());
        let (device, view) = (device.clone(), View::whole(buffer));
        Self { device, view, shape: shape.into(), slot: None, origin: None }
    }

    /// A float tensor of `dtype` from host f32 values.
    pub fn from_f32(
        device: &Device,
        shape: &[usize],
        dtype: DType,
        values: &[f32],
    ) -> Result<Self> {
        Self::from_bytes(device, shape, dtype, &f32_to_bytes(values, dtype))
    }

    /// A u32 tensor from host values.
    pub fn from_u32(device: &Device, shape: &[usize], values: &[u32]) -> Result<Self> {
        Self::from_bytes(device, shape, DType::U32, bytemuck::cast_slice(values))
    }

    /// A tensor from the bytes of its elements.
    pub fn from_bytes(
        device: &Device,
        shape: &[usize],
        dtype: DType,
        bytes: &[u8],
    ) -> Result<Self> {
        let tensor = Self::empty(device, shape, dtype)?;
        if !bytes.is_empty() || !tensor.is_empty() {
            device.upload(&tensor.view, bytes)?;
        }
        Ok(tensor)
    }

    /// Overwrites the elements with the bytes of new ones.
    pub fn set_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.device.upload(&self.view, bytes)
    }

    /// Reads the elements back as bytes; waits for everything launched before.
    pub async fn to_bytes(&self) -> Result<Vec<u8>> {
        self.device.download(&self.view).await
    }

    /// Reads a float tensor back; waits for everything launched before.
    pub async fn to_f32(&self) -> Result<Vec<f32>> {
        Ok(bytes_to_f32(&self.to_bytes().await?, self.dtype()))
    }

    /// [`Tensor::to_f32`], blocking.
    pub fn read_f32(&self) -> Result<Vec<f32>> {
        pollster::block_on(self.to_f32())
    }

    /// [`Tensor::to_bytes`], blocking.
    pub fn read_bytes(&self) -> Result<Vec<u8>> {
        pollster::block_on(self.to_bytes())
    }

    /// Reads a float tensor back with all digits the device has, blocking.
    pub fn read_f64(&self) -> Result<Vec<f64>> {
        pollster::block_on(self.device.download_f64(&self.view))
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The memory.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The size of one dimension.
    pub fn dim(&self, index: usize) -> usize {
        self.shape[index]
    }

    /// The size of the innermost dimension (1 for a scalar).
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The number of innermost rows.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.view.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.view.len == 0
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.view.dtype()
    }

    /// The same elements under another shape. The gradient slot is shared: gradients are runs of
    /// elements too.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            let what = format!("{:?} cannot become {shape:?}", self.shape);
            return Err(Error::internal("reshape", what));
        }
        Ok(Self { shape: shape.into(), ..self.clone() })
    }

    /// `count` entries of the outermost dimension from `start` on, sharing the memory but not the
    /// gradient.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        if self.shape.is_empty() || start + count > self.shape[0] {
            let what = format!("entries {start}..{} of {:?}", start + count, self.shape);
            return Err(Error::internal("narrow", what));
        }
        let stride: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.to_vec();
        shape[0] = count;
        let view = View {
            buffer: self.view.buffer.clone(),
            offset: self.view.offset + start * stride,
            len: count * stride,
        };
        Ok(Self { view, shape: shape.into(), ..self.detach() })
    }

    /// The same tensor with a slot for a gradient of dtype `grad_dtype`; `name` is for messages.
    pub fn with_grad(&self, name: &str, grad_dtype: DType) -> Self {
        self.with_slot(Some(Rc::new(GradSlot::new(name, grad_dtype))))
    }

    /// The same tensor with this place for its gradient.
    pub(crate) fn with_slot(&self, slot: Option<Rc<GradSlot>>) -> Self {
        Self { slot, ..self.clone() }
    }

    /// The same tensor, whose values `origin` can compute again: [`Saved::of`] then keeps that.
    pub(crate) fn with_origin(&self, origin: Rc<dyn Origin>) -> Self {
        Self { origin: Some(origin), ..self.clone() }
    }

    /// The same elements, and nothing of where they come from: no gradient slot, no origin.
    pub fn detach(&self) -> Self {
        Self { slot: None, origin: None, ..self.clone() }
    }

    /// Whether a gradient is wanted.
    pub fn needs_grad(&self) -> bool {
        self.slot.is_some()
    }

    /// Where the gradient goes, if one is wanted.
    pub fn slot(&self) -> Option<&Rc<GradSlot>> {
        self.slot.as_ref()
    }

    /// The gradient, if one has arrived.
    pub fn grad(&self) -> Option<Tensor> {
        self.slot.as_ref()?.get()
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor{:?} {}", self.shape, self.dtype().name())
    }
}
