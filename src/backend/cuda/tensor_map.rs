//! Tensor maps as the driver wants them, and as the emulator does.

use crate::backend::{KernelCall, TensorMap};
use crate::dtype::DType;
use crate::kernels::BOX_WIDTH;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys;
use std::mem::MaybeUninit;

/// Bytes of a row of a box: what TMA can swizzle.
const BOX_ROW_BYTES: usize = 2 * BOX_WIDTH as usize;

/// A matrix of a call: element size, sizes and bytes between rows, innermost first, and the box.
struct Matrix {
    address: u64,
    dtype: DType,
    sizes: [u64; 2],
    row_bytes: u64,
    boxes: [u32; 2],
}

fn matrix(call: &KernelCall, map: &TensorMap, pointers: &[u64]) -> Matrix {
    let dtype = call.views[map.view].dtype();
    Matrix {
        address: pointers[map.view],
        dtype,
        sizes: [map.columns as u64, map.rows as u64],
        row_bytes: (map.columns * dtype.size()) as u64,
        boxes: [(BOX_ROW_BYTES / dtype.size()) as u32, map.box_rows],
    }
}

/// For the TMA of a GPU.
pub(super) fn of_driver(
    call: &KernelCall,
    map: &TensorMap,
    pointers: &[u64],
) -> Result<sys::CUtensorMap, DriverError> {
    use sys::CUtensorMapDataType as Type;
    let Matrix { address, dtype, sizes, row_bytes, boxes } = matrix(call, map, pointers);
    let element = match dtype {
        DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        DType::BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::U32 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        DType::U8 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
    };
    let mut encoded = MaybeUninit::uninit();
    // SAFETY: every array has the rank's 2 elements, or 1 of strides; the driver writes the map.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            encoded.as_mut_ptr(),
            element,
            2,
            address as *mut _,
            sizes.as_ptr(),
            [row_bytes].as_ptr(),
            boxes.as_ptr(),
            [1, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()?;
        Ok(encoded.assume_init())
    }
}

/// For the emulator's.
#[cfg(feature = "cuda-emulated")]
pub(super) fn emulated(
    call: &KernelCall,
    map: &TensorMap,
    pointers: &[u64],
) -> Result<[u8; 128], ptx_emulator::Error> {
    let Matrix { address, dtype, sizes, row_bytes, boxes } = matrix(call, map, pointers);
    ptx_emulator::TensorMap {
        address: ptx_emulator::DevicePtr(address),
        element_bytes: dtype.size() as u32,
        dims: sizes.to_vec(),
        strides: vec![row_bytes],
        box_dims: boxes.to_vec(),
        swizzle: ptx_emulator::Swizzle::B128,
    }
    .encode()
}
