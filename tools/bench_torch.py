"""What NVIDIA's libraries do through PyTorch, at the shapes of an 8B model: our kernels' peers.

    python tools/bench_torch.py

Matrix products in bfloat16 (cuBLAS) as forward and backward of a linear layer need them, causal
attention forward and backward (cuDNN or FlashAttention, whichever PyTorch takes), a copy. Random
data, medians of single runs with a flushed cache. Prints a JSON line for each, under the names of
benches/large.rs.
"""

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

# (N, K) of the linear layers: qkv, o, gate and up, down, the output layer.
LAYERS = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]
TOKENS = [512, 4096, 16384]
# Sequences, tokens in each, heads, kv-heads, head width.
ATTENTION = [(4, 4096, 32, 8, 128), (1, 16384, 32, 8, 128), (4, 4096, 32, 8, 64)]
CACHE_BYTES = 256 << 20


class Clock:
    """Times a function on a device."""

    def __init__(self, device: str, repeats: int) -> None:
        """`repeats`: timed runs."""
        self.device = torch.device(device)
        self.repeats = repeats
        self.flush = torch.empty(CACHE_BYTES if self.on_gpu else 1, dtype=torch.int8, device=device)

    @property
    def on_gpu(self) -> bool:
        """Whether events tell the time."""
        return self.device.type == "cuda"

    def once(self, work: Callable[[], object]) -> float:
        """Seconds of one run."""
        self.flush.zero_()
        if not self.on_gpu:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def measure(self, op: str, case: str, amount: float, unit: str, work: Callable) -> None:
        """Prints the median; `amount` is what a run computes or moves, in `unit`."""
        for _ in range(3):
            work()
        seconds = statistics.median(self.once(work) for _ in range(self.repeats))
        found = {"op": op, "case": case, "seconds": seconds}
        print(json.dumps({**found, "per_second": amount / seconds, "unit": unit}), flush=True)


def products(clock: Clock, layers: list[tuple[int, int]], tokens: list[int]) -> None:
    """A linear layer: y = x w^T, dx = dy w, dw = dy^T x."""
    for m in tokens:
        for n, k in layers:
            options = {"device": clock.device, "dtype": torch.bfloat16}
            x, w, dy = (torch.randn(*shape, **options) for shape in ((m, k), (n, k), (m, n)))
            for op, product in {
                "matmul": functools.partial(functional.linear, x, w),
                "matmul NN": functools.partial(torch.matmul, dy, w),
                "matmul TN": functools.partial(torch.matmul, dy.T, x),
            }.items():
                clock.measure(op, f"{m}x{n}x{k}", 2.0 * m * n * k, "FLOP", product)


def attention(clock: Clock, shapes: list[tuple[int, ...]]) -> None:
    """Causal attention with grouped heads."""
    for batch, length, heads, kv_heads, width in shapes:
        case = f"{batch}x{length} heads {heads}/{kv_heads} x {width}"
        options = {"device": clock.device, "dtype": torch.bfloat16, "requires_grad": True}
        q = torch.randn(batch, heads, length, width, **options)
        k, v = (torch.randn(batch, kv_heads, length, width, **options) for _ in range(2))
        attend = functional.scaled_dot_product_attention
        forward = functools.partial(attend, q, k, v, is_causal=True, enable_gqa=True)
        # Half of the pairs are seen; two products forward, five backward.
        flops = 4.0 * batch * heads * width * length * length / 2
        with torch.no_grad():
            clock.measure("attention forward", case, flops, "FLOP", forward)
        out = forward()
        backward = functools.partial(out.backward, torch.randn_like(out), retain_graph=True)
        clock.measure("attention backward", case, 2.5 * flops, "FLOP", backward)


def copy(clock: Clock, count: int) -> None:
    """Memory bandwidth: bytes read and written."""
    x = torch.randn(count, device=clock.device)
    y = torch.empty_like(x)
    clock.measure("copy", f"{4 * count >> 20} MiB", 8.0 * count, "B", lambda: y.copy_(x))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--shrink", type=int, default=1, help="divides the sizes, to try it out")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU that PyTorch sees")
    clock = Clock(args.device, args.repeats)
    torch.manual_seed(0)
    by = args.shrink
    copy(clock, (1 << 28) // by)
    products(clock, [(n // by, k // by) for n, k in LAYERS], [math.ceil(m / by) for m in TOKENS])
    attention(clock, [(b, math.ceil(t / by), *heads) for b, t, *heads in ATTENTION])


if __name__ == "__main__":
    main()
