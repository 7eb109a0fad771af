"""Train any model directory for a few steps with PEFT and print what each step logged.

    python tools/peft_trajectory.py MODEL_DIR ROWS.jsonl --mode lora --max-steps 10

ROWS.jsonl holds one `{"input_ids": [...], "labels": [...]}` per line (labels unshifted, -100 where
there is no loss), as `tunesmith train --preview N --json` prints them. Rows are taken in file
order, again from the start when they run out, and never packed. Prints one JSON line per step.
LoRA's initial A is random: `--adapter` starts from a saved adapter, and `--save-initial` saves the
one this run starts from, so that both sides can share it.
"""

import argparse
import itertools
import json
import os
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig

from exact_nf4 import use_exact_nf4_decoding
from optimizers import use_exact_muon
from peft_training import (
    Hyperparameters,
    Row,
    attach_adapter,
    load_base,
    make_optimizer,
    train_step,
    weight_dtype,
)


def read_rows(path: Path) -> list[Row]:
    """Only the two keys that matter, checked to be of one length."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            row = {key: json.loads(line)[key] for key in ("input_ids", "labels")}
            if len(row["input_ids"]) != len(row["labels"]):
                raise SystemExit(f"{path}:{number}: input_ids and labels differ in length")
            rows.append(row)
    if not rows:
        raise SystemExit(f"{path} holds no rows")
    return rows


def parse_arguments() -> argparse.Namespace:
    """Options are named as in Transformers and PEFT."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--mode", choices=("full", "lora", "qlora"), default="lora")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--optim", choices=("adamw_torch", "adamw_8bit", "muon"), default="adamw_torch")
    parser.add_argument("--max-steps", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--warmup-steps", type=int, default=0)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    parser.add_argument("--per-device-train-batch-size", type=int, default=4)
    parser.add_argument("--gradient-accumulation-steps", type=int, default=1)
    parser.add_argument("--r", type=int, default=16)
    parser.add_argument("--lora-alpha", type=int, default=32)
    parser.add_argument("--target-modules", nargs="+", default=["all-linear"])
    parser.add_argument("--use-rslora", action="store_true")
    parser.add_argument("--single-quant", action="store_true", help="no double quantization")
    parser.add_argument("--adapter", type=Path, help="start from this PEFT adapter")
    parser.add_argument("--save-initial", type=Path, help="save the adapter before the first step")
    parser.add_argument("--save", type=Path, help="save the result")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def load(args: argparse.Namespace) -> torch.nn.Module:
    """The model to train, with its adapter where the mode has one."""
    double_quant = not args.single_quant if args.mode == "qlora" else None
    model = load_base(args.model, weight_dtype(args.mode, args.dtype), double_quant)
    if args.mode == "full":
        return model
    targets = args.target_modules
    config = LoraConfig(
        r=args.r,
        lora_alpha=args.lora_alpha,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        use_rslora=args.use_rslora,
        task_type="CAUSAL_LM",
    )
    model = attach_adapter(model, config, args.adapter)
    if args.save_initial:
        model.save_pretrained(args.save_initial)
    return model


def main() -> None:
    """Train and print."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    use_exact_nf4_decoding()
    use_exact_muon()
    model = load(args)
    hyper = Hyperparameters(
        learning_rate=args.learning_rate,
        max_steps=args.max_steps,
        warmup_steps=args.warmup_steps,
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
    )
    optimizer, schedule = make_optimizer(model, hyper, args.optim)
    micro_batch_size = args.per_device_train_batch_size
    rows = itertools.cycle(read_rows(args.rows))
    for step in range(1, args.max_steps + 1):
        batch = list(itertools.islice(rows, micro_batch_size * args.gradient_accumulation_steps))
        log = train_step(
            model, optimizer, schedule, batch, micro_batch_size, hyper.max_grad_norm, args.dtype
        )
        print(json.dumps({"step": step, **asdict(log)}), flush=True)
    if args.save:
        model.save_pretrained(args.save)


if __name__ == "__main__":
    main()
