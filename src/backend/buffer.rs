//! Device memory and parts of it.

use crate::dtype::DType;
use std::any::Any;
use std::rc::Rc;

/// A block of device memory. Clones share it; the last one to go gives it back to its backend.
#[derive(Clone)]
pub struct Buffer {
    memory: Rc<dyn Any>,
    dtype: DType,
    len: usize,
}

impl Buffer {
    /// Wraps what a backend allocated for `len` elements of `dtype`.
    pub fn new(memory: impl Any, dtype: DType, len: usize) -> Self {
        Self { memory: Rc::new(memory), dtype, len }
    }

    /// The backend's own memory type, or `None` for a buffer of another backend.
    pub fn memory<M: Any>(&self) -> Option<&M> {
        self.memory.downcast_ref()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether both are the same memory.
    pub fn same(&self, other: &Buffer) -> bool {
        Rc::ptr_eq(&self.memory, &other.memory)
    }

    /// Whether this handle is the only one, so that writing in place surprises nobody.
    pub fn is_unique(&self) -> bool {
        Rc::strong_count(&self.memory) == 1
    }
}

/// A run of elements of a buffer.
#[derive(Clone)]
pub struct View {
    /// The memory.
    pub buffer: Buffer,
    /// First element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
}

impl View {
    /// The whole buffer.
    pub fn whole(buffer: Buffer) -> Self {
        let len = buffer.len();
        Self { buffer, offset: 0, len }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// First byte within the buffer.
    pub fn byte_offset(&self) -> usize {
        self.offset * self.dtype().size()
    }

    /// Length in bytes.
    pub fn byte_len(&self) -> usize {
        self.len * self.dtype().size()
    }
}
