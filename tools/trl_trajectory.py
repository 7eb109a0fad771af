"""Train any model directory for a few steps with TRL's trainers and print what each step logged.

    python tools/trl_trajectory.py MODEL_DIR ROWS.jsonl --objective dpo --adapter DIR \\
        --settings '{"beta": 0.2, "loss_type": ["ipo"]}'

ROWS.jsonl holds rows of token ids: `{"prompt": [...], "chosen": [...], "rejected": [...]}`, for kto
`{"prompt": [...], "completion": [...], "label": true}`. No id is 0, which pads, and each answer ends
with 2. Rows are taken in file order, again from the start when they run
out. Prints one JSON line per step.
"""

import argparse
import json
from pathlib import Path

import torch

from exact_nf4 import use_exact_nf4_decoding
from trl_training import TRAINERS, Case, run


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--objective", choices=TRAINERS, default="dpo")
    parser.add_argument("--settings", type=json.loads, default={}, help="of TRL's config, as JSON")
    parser.add_argument("--mode", choices=("full", "lora", "qlora"), default="lora")
    parser.add_argument("--adapter", type=Path, help="the adapter that LoRA and QLoRA start from")
    parser.add_argument("--max-steps", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--per-device-train-batch-size", type=int, default=2)
    parser.add_argument("--gradient-accumulation-steps", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    use_exact_nf4_decoding()
    rows = [json.loads(line) for line in args.rows.read_text().splitlines() if line.strip()]
    case = Case(
        objective=args.objective,
        settings=args.settings,
        mode=args.mode,
        learning_rate=args.learning_rate,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
    )
    for step, log in enumerate(run(case, args.model, args.adapter, rows), start=1):
        print(json.dumps({"step": step, **log}), flush=True)


if __name__ == "__main__":
    main()
