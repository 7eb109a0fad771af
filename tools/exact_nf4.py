"""A correct NF4 decoder for bitsandbytes on the CPU.

The AVX-512 decoder of bitsandbytes 0.50.2 takes the wrong `absmax` for some matrices whose rows
do not end on a block boundary (row lengths such as 16, 32, 48 or 688, which are multiples of 16
but not of 64). Its portable decoder, like the CUDA one, is right; references must use that.
"""

from collections.abc import Sequence
from functools import cache

import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.functional import get_4bit_type


def _dequantize_4bit(
    packed: torch.Tensor,
    absmax: torch.Tensor,
    blocksize: int,
    quant_type: str,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    code = get_4bit_type(quant_type, device=packed.device)
    flat = packed.reshape(-1).view(torch.uint8)
    return _dequantize_4bit_compute(flat, absmax.float(), code, blocksize, shape, dtype)


@cache
def use_exact_nf4_decoding() -> torch.library.Library:
    """Replace the CPU decoder for the rest of the process: for as long as the cache holds this."""
    library = torch.library.Library("bitsandbytes", "IMPL")
    library.impl("dequantize_4bit", _dequantize_4bit, "CPU", allow_override=True)
    return library
