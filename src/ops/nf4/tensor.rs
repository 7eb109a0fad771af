//! An NF4 weight on a device: quantizing it there, moving it to and from the host.

use super::params::{Params, THREADS};
use super::specs::NF4_QUANTIZE;
use crate::backend::{Device, KernelCall};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels::grid_1d;
use crate::quant::nf4::{Absmax, BLOCKSIZE, CODEBOOK, NESTED_BLOCKSIZE, Nf4Weight, THRESHOLDS};
use crate::tensor::Tensor;

/// A frozen weight matrix in NF4 on a device: 4 bits per element and 0.127 bits (with double
/// quantization; else 0.5) for the scales.
#[derive(Clone, Debug)]
pub struct Nf4Tensor {
    pub(super) shape: [usize; 2],
    /// u8 [ceil(N K / 2)], the even element of the flattened matrix in the high half.
    pub(super) codes: Tensor,
    /// u8 [blocks]: quantized scales; one unused byte where they are not.
    pub(super) scales: Tensor,
    /// f32: levels [16], then absmax [blocks], or map [256], offset [1], nested absmax [..].
    pub(super) tables: Tensor,
    pub(super) nested: bool,
    pub(super) blocksize: usize,
    pub(super) nested_blocksize: usize,
}

impl Nf4Tensor {
    /// Copies a quantized matrix to a device.
    pub fn from_host(device: &Device, weight: &Nf4Weight) -> Result<Self> {
        let codes = Tensor::from_bytes(device, &[weight.codes.len()], DType::U8, &weight.codes)?;
        Self::with_scales(weight.shape, codes, &weight.absmax, weight.blocksize)
    }

    /// Quantizes `w` [N, K] (any float dtype) in blocks of 64 on its device, and the scales too if
    /// `double_quant`.
    ///
    /// # Errors
    /// `Error::Unsupported` when N K is no multiple of 8; `Error::Input` for an infinite weight.
    pub fn quantize(w: &Tensor, double_quant: bool) -> Result<Self> {
        let &[n, k] = w.shape() else {
            return Err(Error::internal("nf4_quantize", format!("{w:?} is no matrix")));
        };
        if !w.len().is_multiple_of(8) {
            return Err(Error::Unsupported {
                op: "nf4_quantize",
                backend: w.device().capabilities().description.clone(),
                why: format!("{n} x {k} elements are no multiple of 8"),
            });
        }
        let device = w.device();
        let thresholds = Tensor::from_f32(device, &[15], DType::F32, &THRESHOLDS)?;
        let codes = Tensor::empty(device, &[w.len() / 2], DType::U8)?;
        let absmax = Tensor::empty(device, &[w.len().div_ceil(BLOCKSIZE)], DType::F32)?;
        let views = [w.view(), thresholds.view(), codes.view(), absmax.view()];
        KernelCall::new(&NF4_QUANTIZE, &views)
            .constant("NESTED", 0)
            .params(Params::new(w.len(), BLOCKSIZE, NESTED_BLOCKSIZE))
            .launch(device, grid_1d(w.len() / 8, THREADS))?;
        let absmax = absmax.read_f32()?;
        if let Some(block) = absmax.iter().position(|absmax| !absmax.is_finite()) {
            return Err(Error::input(format!(
                "a weight among elements {} to {} is not finite, which NF4 cannot hold",
                block * BLOCKSIZE,
                (block + 1) * BLOCKSIZE - 1
            )));
        }
        let absmax = Absmax::F32(absmax);
        let absmax = if double_quant { absmax.double_quantize() } else { absmax };
        Self::with_scales([n, k], codes, &absmax, BLOCKSIZE)
    }

    fn with_scales(
        shape: [usize; 2],
        codes: Tensor,
        absmax: &Absmax,
        blocksize: usize,
    ) -> Result<Self> {
        let blocks = (shape[0] * shape[1]).div_ceil(blocksize.max(1));
        if blocksize == 0 || absmax.len() != blocks || codes.len() * 2 < shape[0] * shape[1] {
            let what = format!("{} scales and {codes:?} for {shape:?}", absmax.len());
            return Err(Error::internal("nf4", what));
        }
        let mut tables = CODEBOOK.to_vec();
        let mut scales: &[u8] = &[0];
        let mut nested_blocksize = NESTED_BLOCKSIZE;
        match absmax {
            Absmax::F32(values) => tables.extend(values),
            Absmax::Nested { codes, map, absmax, offset, blocksize } => {
                scales = codes;
                nested_blocksize = *blocksize;
                tables.extend(map.iter());
                tables.push(*offset);
                tables.extend(absmax);
            }
        }
        let device = codes.device();
        Ok(Self {
            shape,
            scales: Tensor::from_bytes(device, &[scales.len()], DType::U8, scales)?,
            tables: Tensor::from_f32(device, &[tables.len()], DType::F32, &tables)?,
            codes,
            nested: matches!(absmax, Absmax::Nested { .. }),
            blocksize,
            nested_blocksize,
        })
    }

    /// A weight over tensors that are on the device already, in the forms this type keeps; blocks of 64
    /// and 256.
    pub(crate) fn from_tensors(
        shape: [usize; 2],
        codes: &Tensor,
        scales: &Tensor,
        tables: &Tensor,
        nested: bool,
    ) -> Self {
        Self {
            shape,
            codes: codes.clone(),
            scales: scales.clone(),
            tables: tables.clone(),
            nested,
            blocksize: BLOCKSIZE,
            nested_blocksize: NESTED_BLOCKSIZE,
        }
    }

    /// Reads the matrix back to the host, for files.
    pub fn to_host(&self) -> Result<Nf4Weight> {
        let tables = self.tables.read_f32()?;
        let absmax = if self.nested {
            let mut map = Box::new([0.0; 256]);
            map.copy_from_slice(&tables[16..272]);
            Absmax::Nested {
                codes: self.scales.read_bytes()?,
                map,
                absmax: tables[273..].to_vec(),
                offset: tables[272],
                blocksize: self.nested_blocksize,
            }
        } else {
            Absmax::F32(tables[16..].to_vec())
        };
        let codes = self.codes.read_bytes()?;
        Ok(Nf4Weight { shape: self.shape, codes, absmax, blocksize: self.blocksize })
    }

    /// [N, K]: [out, in] of a linear layer.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.codes.device()
    }

    /// The packed codes: u8 [ceil(N K / 2)].
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// Bytes on the device.
    pub fn byte_len(&self) -> usize {
        self.codes.len() + self.scales.len() + 4 * self.tables.len()
    }
}
