"""Tokens per second and peak memory of PEFT training steps, on the CPU or a GPU.

    python tools/bench_peft.py --shape 12M --mode lora --dtype float32 --steps 5

Random weights and tokens, AdamW included, PyTorch's default attention (sdpa); nothing is computed
again but with --gradient-checkpointing. The same shapes are what this project's own benchmarks use;
1B and 8B are for a GPU, and --layers, --rows and --length make them smaller. Prints one JSON line;
the first step is not timed. Peak memory is the process's, loading included. `cpu_seconds` is the
processor time of a step: on a busy machine, with `--threads 1`, it says more than the clock.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig

from peft_training import (
    Hyperparameters,
    attach_adapter,
    load_base,
    make_base,
    make_optimizer,
    train_step,
    weight_dtype,
)

# name -> (config.json keys, rows per step, tokens per row)
SHAPES = {
    "12M": (
        {
            "hidden_size": 256,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "intermediate_size": 688,
            "vocab_size": 8192,
            "tie_word_embeddings": False,
        },
        4,
        256,
    ),
    "135M": (
        {
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        },
        2,
        256,
    ),
    "1B": (
        {
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 8192,
            "vocab_size": 128256,
            "tie_word_embeddings": True,
        },
        8,
        2048,
    ),
    "8B": (
        {
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "vocab_size": 128256,
            "tie_word_embeddings": False,
        },
        4,
        4096,
    ),
}
# Made where they are used: writing them down would take minutes.
MADE_IN_PLACE = ("1B", "8B")


def write_random_model(config: LlamaConfig, directory: str, dtype: torch.dtype) -> None:
    """Runs in a process of its own, so that its memory does not count."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(directory)


def load(args: argparse.Namespace, config: LlamaConfig) -> torch.nn.Module:
    """A random model of the shape, with what is trained."""
    dtype = weight_dtype(args.mode, args.dtype)
    double_quant = True if args.mode == "qlora" else None
    if args.shape in MADE_IN_PLACE:
        torch.manual_seed(0)
        model = make_base(config, dtype, double_quant, attention="sdpa", device=args.device)
    else:
        model = load_written(args, config, dtype, double_quant)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if args.mode == "full":
        return model
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return attach_adapter(model, config)


def load_written(
    args: argparse.Namespace, config: LlamaConfig, dtype: torch.dtype, double_quant: bool | None
) -> torch.nn.Module:
    """Loaded as a user would load a real one."""
    with tempfile.TemporaryDirectory() as directory:
        writer = multiprocessing.get_context("spawn").Process(
            target=write_random_model, args=(config, directory, dtype)
        )
        writer.start()
        writer.join()
        if writer.exitcode != 0:
            raise SystemExit("could not write the random model")
        return load_base(directory, dtype, double_quant, attention="sdpa", device=args.device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="12M")
    parser.add_argument("--mode", choices=("lora", "qlora", "full"), default="lora")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--layers", type=int, help="of the model, in place of the shape's")
    parser.add_argument("--rows", type=int, help="in a step, in place of the shape's")
    parser.add_argument("--length", type=int, help="tokens in a row, in place of the shape's")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keys, rows, length = SHAPES[args.shape]
    rows, length = args.rows or rows, args.length or length
    if args.layers:
        keys["num_hidden_layers"] = args.layers
    config = LlamaConfig(max_position_embeddings=max(length, 2048), **keys)
    model = load(args, config)
    optimizer, schedule = make_optimizer(model, Hyperparameters(2e-4, args.steps + 1))
    stream = torch.Generator().manual_seed(1)
    seconds, cpu_seconds = [], []
    on_gpu = args.device.startswith("cuda")
    for _ in range(args.steps + 1):
        ids = torch.randint(0, keys["vocab_size"], (rows, length), generator=stream).tolist()
        batch = [{"input_ids": row, "labels": row} for row in ids]
        start, cpu_start = time.perf_counter(), time.process_time()
        train_step(model, optimizer, schedule, batch, rows, max_grad_norm=1.0, dtype=args.dtype)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    step = statistics.median(seconds[1:])
    print(
        json.dumps(
            {
                "shape": args.shape,
                "mode": args.mode,
                "dtype": args.dtype,
                "threads": args.threads,
                "steps": args.steps,
                "step_seconds": round(step, 4),
                "fastest_step_seconds": round(min(seconds[1:]), 4),
                "cpu_seconds": round(statistics.median(cpu_seconds[1:]), 4),
                "tokens_per_second": round(rows * length / step, 1),
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "gradient_checkpointing": args.gradient_checkpointing,
                "peak_device_mib": torch.cuda.max_memory_allocated() >> 20 if on_gpu else None,
                "device": torch.cuda.get_device_name() if on_gpu else "cpu",
                "trainable_parameters": sum(
                    p.numel() for p in model.parameters() if p.requires_grad
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
