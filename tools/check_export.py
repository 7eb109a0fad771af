"""Export small models and load the directories with Transformers, PEFT and bitsandbytes.

    python tools/check_export.py PROGRAM

PROGRAM is the installed `tunesmith`. The models are those of the tests, their adapters random.
Merged logits are compared with PEFT's over the same base. A 4-bit directory is decoded by
bitsandbytes and, exported once more, by the program: bit by bit the same. Against what bitsandbytes
quantizes itself it may be off by a rounding, because the mean of the scales depends on the order of
a sum. Prints a JSON line per export; exits with 1 where one is off.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from bitsandbytes import functional
from peft import PeftModel
from safetensors.torch import load_file, save_file

from exact_nf4 import use_exact_nf4_decoding
from peft_training import load_base

FIXTURES = Path(__file__).resolve().parent.parent / "tests/fixtures"
FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]


def export(program: str, model: Path, adapter: Path | None, output: Path, *options: str) -> None:
    """Run the program."""
    command = [program, "export", "--model", model, "--output", output, "--device", "cpu", *options]
    if adapter is not None:
        command += ["--adapter", adapter]
    subprocess.run([*command, "--dtype", "float32", "--quiet"], check=True)


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits of a few rows."""
    ids = torch.arange(1, 97).reshape(3, 32) % model.config.vocab_size
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def decoded(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The decoded weights of every 4-bit layer."""
    return {
        name: functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        for name, module in model.named_modules()
        if hasattr(getattr(module, "weight", None), "quant_state")
    }


def linears(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of the blocks' linear layers."""
    modules = model.named_modules()
    return {name: module.weight.data for name, module in modules if name.endswith("_proj")}


def requantized(weight: torch.Tensor) -> torch.Tensor:
    """What bitsandbytes makes of a weight."""
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    return functional.dequantize_4bit(packed, state)


def random_adapter(source: Path, output: Path) -> Path:
    """A copy of the adapter whose second factors are not zero."""
    shutil.copytree(source, output)
    torch.manual_seed(1)
    tensors = load_file(output / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensors[name] = 0.1 * torch.randn_like(tensor)
    save_file(tensors, output / "adapter_model.safetensors", {"format": "pt"})
    return output


def check(program: str, family: str, work: Path) -> bool:
    """Every kind of export of one family; whether all are right."""
    model = FIXTURES / "models" / family
    fresh = FIXTURES / "trajectories" / family / "adapter"
    adapter = random_adapter(fresh, work / f"{family}-adapter")
    passed = True

    def report(what: str, difference: float, tolerance: float, changed: float = 1.0) -> None:
        nonlocal passed
        good = difference <= tolerance and changed > 1e-3
        passed &= good
        line = {"family": family, "export": what, "difference": difference, "passed": good}
        print(json.dumps(line), flush=True)

    def difference(a: torch.nn.Module, b: torch.nn.Module) -> float:
        return (logits(a) - logits(b)).abs().max().item()

    bases = {"original": None, "dequantized": True}
    for into, double_quant in bases.items():
        output = work / f"{family}-{into}"
        export(program, model, adapter, output, "--to", "merged", "--merge-into", into)
        tuned = PeftModel.from_pretrained(load_base(model, double_quant=double_quant), str(adapter))
        merged = load_base(output)
        changed = difference(merged, load_base(model))
        report(f"merged into {into}", difference(merged, tuned.train()), 1e-4, changed)

    plain = work / f"{family}-plain"
    export(program, model, None, plain, "--to", "merged")
    report("merged, no adapter", difference(load_base(plain), load_base(model)), 0.0)

    for name, with_adapter in {"nf4": None, "nf4 with adapter": adapter}.items():
        output = work / f"{family}-{name.replace(' ', '-')}"
        export(program, model, with_adapter, output, "--to", "nf4")
        # The directory's own quantization_config applies.
        found = decoded(load_base(output))
        again = work / f"{output.name}-decoded"
        export(program, output, None, again, "--to", "merged")
        ours = linears(load_base(again))
        same = found.keys() == ours.keys() and all(torch.equal(found[k], ours[k]) for k in ours)
        report(f"{name}, decoded", 0.0 if same else 1.0, 0.0)
        source = work / f"{family}-original" if with_adapter else model
        theirs = {key: requantized(weight) for key, weight in linears(load_base(source)).items()}
        off = max(((found[k] - theirs[k]).abs() / theirs[k].abs().max()).max() for k in theirs)
        report(f"{name}, quantized", off.item(), 5e-7)
    return passed


def main() -> int:
    """Check every family; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", help="the tunesmith program")
    args = parser.parse_args()
    use_exact_nf4_decoding()
    with tempfile.TemporaryDirectory() as work:
        results = [check(args.program, family, Path(work)) for family in FAMILIES]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
