"""What a GPU round aims at, and how near it came: tables for the report of `tools/gpu-round`.

Kernels are compared with what NVIDIA's libraries do at the same sizes (cuBLAS, cuDNN: the lines of
`tools/bench_torch.py`), and where memory bounds them with a copy.
"""

from collections.abc import Iterable

Line = dict  # op, case, seconds, per_second, unit
Row = list[str]

# op: the peer's op, the share of its speed that is aimed at, whether only the longest batch counts.
PEERS = {
    "matmul": ("matmul", 0.7, False),
    "matmul NN": ("matmul NN", 0.7, False),
    "matmul TN": ("matmul TN", 0.7, False),
    "nf4_matmul forward": ("matmul", 0.7, True),
    "nf4_matmul backward": ("matmul NN", 0.7, True),
    "attention forward": ("attention forward", 0.5, False),
    "attention backward": ("attention backward", 0.5, False),
}
# op: the share of a copy's bandwidth that is aimed at, if any.
OF_COPY = {
    "copy": None,
    "adamw": 0.8,
    "rms_norm forward": 0.8,
    "rms_norm backward": 0.8,
    "lora forward": None,
    "lora backward": None,
}
# Shape, mode, dtype: tokens per second.
TOKENS_PER_SECOND = {("8B", "qlora", "bfloat16"): 8000}
# How far the peak may be from the plan, as a share of it.
MEMORY = 0.1

KERNEL_HEAD = ["op", "case", "median", "rate", "peer", "share of it", "aimed at", "verdict"]
TARGET_HEAD = ["target", "aimed at", "found", "verdict"]


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def rate(amount: float, unit: str) -> str:
    """An amount per second."""
    return f"{amount / 1e12:.3g} T{unit}/s" if amount >= 1e12 else f"{amount / 1e9:.3g} G{unit}/s"


def verdict(found: float, aimed_at: float) -> str:
    """In a word."""
    return "reached" if found >= aimed_at else "missed"


def kernels(ours: list[Line], peers: list[Line]) -> tuple[list[Row], list[Row]]:
    """A row for each of our lines beside its peer, and a row for each target."""
    by_name = {(line["op"], line["case"]): line for line in peers}
    # Without PyTorch, our own copy is the ceiling.
    copies = [line for line in [*peers, *ours] if line["op"] == "copy"]
    longest: dict[str, int] = {}
    for line in ours:
        longest[line["op"]] = max(longest.get(line["op"], 0), tokens(line))
    rows, shares = [], {}
    for line in ours:
        op, peer, share, aimed_at = line["op"], None, None, None
        if op in PEERS:
            name, aimed_at, only_longest = PEERS[op]
            peer = by_name.get((name, line["case"]))
            share = peer and peer["seconds"] / line["seconds"]
            if only_longest and tokens(line) < longest[op]:
                aimed_at = None
        elif op in OF_COPY and copies:
            peer, aimed_at = copies[0], OF_COPY[op]
            share = line["per_second"] / peer["per_second"]
        if share and aimed_at:
            shares.setdefault((op, aimed_at), []).append(share)
        rows.append(
            [
                op,
                line["case"],
                duration(line["seconds"]),
                rate(line["per_second"], line["unit"]),
                f"{peer['op']} {duration(peer['seconds'])}" if peer else "-",
                f"{share:.2f}" if share else "-",
                f"{aimed_at:.1f}" if aimed_at else "-",
                verdict(share, aimed_at) if share and aimed_at else "-",
            ]
        )
    targets = [
        [
            f"{op}, of {'a copy' if op in OF_COPY else 'its peer'}",
            f"{aimed_at:.1f}",
            f"{min(found):.2f} to {max(found):.2f}",
            verdict(min(found), aimed_at),
        ]
        for (op, aimed_at), found in shares.items()
    ]
    return rows, targets


def tokens(line: Line) -> int:
    """The leading number of a case."""
    leading = line["case"].split("x")[0]
    return int(leading) if leading.isdigit() else 0


def steps(found: Iterable[dict]) -> list[Row]:
    """A row for each target of training steps."""
    rows = []
    for line in found:
        key = (line["shape"], line["mode"], line["dtype"])
        again = ", layers recomputed" if line.get("gradient_checkpointing") else ""
        name = f"{' '.join(key)}{again}"
        if key in TOKENS_PER_SECOND:
            aimed_at, speed = TOKENS_PER_SECOND[key], line["tokens_per_second"]
            cells = [f"{aimed_at}", f"{speed:.0f}", verdict(speed, aimed_at)]
            rows.append([f"{name}: tokens/s", *cells])
        if line.get("planned_device_mib"):
            share = line["peak_device_mib"] / line["planned_device_mib"]
            within = "reached" if abs(share - 1) <= MEMORY else "missed"
            aimed_at = f"{1 - MEMORY:.1f} to {1 + MEMORY:.1f}"
            rows.append([f"{name}: peak memory, of the plan", aimed_at, f"{share:.3f}", within])
    return rows
