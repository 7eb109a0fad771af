"""Compare logits written by this project with those Transformers and PEFT compute.

    python tools/check_with_peft.py MODEL_DIR LOGITS.safetensors [--adapter DIR] [--merge]

LOGITS holds `input_ids.<i>` [T] (any integer type) and `logits.<i>` [T, V] for i = 0, 1, ...
Prints one JSON line per row and one for the whole; exits with 1 above the tolerance.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import PeftModel
from safetensors.torch import load_file

from exact_nf4 import use_exact_nf4_decoding
from peft_training import load_base


def load(args: argparse.Namespace) -> torch.nn.Module:
    """The base, with the adapter attached or merged into it where one is given."""
    double_quant = not args.single_quant if args.load_in_4bit else None
    model = load_base(args.model, getattr(torch, args.dtype), double_quant)
    if args.adapter:
        model = PeftModel.from_pretrained(model, str(args.adapter))
        if args.merge:
            model = model.merge_and_unload()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # Training mode keeps bitsandbytes off its bfloat16 inference path on the CPU.
    return model.train()


def main() -> int:
    """Compare every row; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="base model directory")
    parser.add_argument("logits", type=Path, help="safetensors file with input_ids.<i>, logits.<i>")
    parser.add_argument("--adapter", type=Path, help="PEFT adapter directory")
    parser.add_argument("--merge", action="store_true", help="merge the adapter before comparing")
    parser.add_argument("--load-in-4bit", action="store_true", help="NF4 base, double quantization")
    parser.add_argument("--single-quant", action="store_true", help="without double quantization")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest absolute difference")
    args = parser.parse_args()
    use_exact_nf4_decoding()
    model = load(args)
    tensors = load_file(args.logits)
    rows = sum(name.startswith("logits.") for name in tensors)
    if rows == 0:
        parser.error(f"{args.logits} holds no logits.<i>")
    differences = []
    for i in range(rows):
        ids = tensors[f"input_ids.{i}"].long()[None]
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits[0].float()
        actual = tensors[f"logits.{i}"].float()
        if actual.shape != expected.shape:
            parser.error(f"logits.{i} is {tuple(actual.shape)}, expected {tuple(expected.shape)}")
        difference = (actual - expected).abs().max().item()
        agree = (actual.argmax(-1) == expected.argmax(-1)).float().mean().item()
        print(json.dumps({"row": i, "max_difference": difference, "argmax_agreement": agree}))
        differences.append(difference)
    # Compared one by one, because max() loses a NaN and a NaN must not pass.
    passed = all(difference <= args.tolerance for difference in differences)
    worst = max(differences, key=lambda d: (math.isnan(d), d))
    print(json.dumps({"max_difference": worst, "tolerance": args.tolerance, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
