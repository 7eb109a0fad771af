//! Keys and values of the tokens so far, for generation.

use crate::backend::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// The cache of one layer: room for a fixed number of tokens.
pub struct LayerCache {
    k: Tensor,
    v: Tensor,
    len: usize,
}

impl LayerCache {
    /// Room for `capacity` tokens of `kv_heads` heads of `head_dim`.
    pub fn new(
        device: &Device,
        capacity: usize,
        kv_heads: usize,
        head_dim: usize,
        dtype: DType,
    ) -> Result<Self> {
        let shape = [capacity, kv_heads, head_dim];
        Ok(Self {
            k: Tensor::empty(device, &shape, dtype)?,
            v: Tensor::empty(device, &shape, dtype)?,
            len: 0,
        })
    }

    /// Adds new keys and values [T, NKV, HD] and returns all so far, [S, NKV, HD].
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let end = self.len + k.dim(0);
        if end > self.k.dim(0) {
            let what = format!("{end} tokens in a cache of {}", self.k.dim(0));
            return Err(Error::internal("LayerCache", what));
        }
        ops::write_rows(k, &self.k, self.len)?;
        ops::write_rows(v, &self.v, self.len)?;
        self.len = end;
        Ok((self.k.narrow(0, end)?, self.v.narrow(0, end)?))
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for `capacity` tokens in all; those that are held stay.
    pub fn reserve(&mut self, capacity: usize) -> Result<()> {
        if capacity <= self.k.dim(0) {
            return Ok(());
        }
        let [heads, width] = [self.k.dim(1), self.k.dim(2)];
        let grown = Self::new(self.k.device(), capacity, heads, width, self.k.dtype())?;
        if self.len > 0 {
            ops::write_rows(&self.k.narrow(0, self.len)?, &grown.k, 0)?;
            ops::write_rows(&self.v.narrow(0, self.len)?, &grown.v, 0)?;
        }
        *self = Self { len: self.len, ..grown };
        Ok(())
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
