"""Train an adapter in every form on any model, and compare what is written with PEFT.

    cargo build --release
    python tools/check_adapters.py MODEL_DIR [--bin target/release] [FORM ...]

MODEL_DIR is a small model with a tokenizer. Each form is trained for four steps; the loss that
`evaluate` gives of it must be PEFT's of the same directory, and that of the merged model.
Prints one JSON line per form; exits with 1 where a difference is above the tolerance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 2e-5
TEXTS = (
    "the quick brown fox jumps over it",
    "a lazy dog sleeps on the red mat all day",
    "one two three four five six",
    "hello world again and again",
)
TABLES = 'target_modules = ["q_proj", "lm_head", "embed_tokens"]'
FORMS = {
    "patterns": 'target_modules = ".*\\\\.self_attn\\\\.(q|v)_proj"\n'
    'rank_pattern = { "v_proj" = 2 }\nalpha_pattern = { "layers.1.*q_proj" = 64 }',
    "layers": 'layers_to_transform = [1]\nexclude_modules = ["up_proj"]',
    "saved": 'modules_to_save = ["lm_head", "embed_tokens", "norm"]',
    "saved-head": 'modules_to_save = ["lm_head"]',
    "tables": TABLES,
    "tokens": "trainable_token_indices = [3, 5, 9]",
    "tokens-head": 'trainable_token_indices = { "embed_tokens" = [3, 5], "lm_head" = [4] }',
    "dora": "use_dora = true",
    "dora-embedding": 'use_dora = true\ntarget_modules = ["v_proj", "embed_tokens"]',
    "bias": "lora_bias = true",
    "loraplus": "loraplus_lr_ratio = 4",
    "gaussian": 'init_lora_weights = "gaussian"',
    "false": "init_lora_weights = false",
    "pissa": 'init_lora_weights = "pissa"\nrank_pattern = { "v_proj" = 2 }',
    "pissa-niter": 'init_lora_weights = "pissa_niter_4"',
    "pissa-tables": f'init_lora_weights = "pissa"\n{TABLES}',
    "olora": 'init_lora_weights = "olora"\nuse_rslora = true',
}


def run(program: Path, *args: str | Path) -> str:
    """The program's output, or its message as an error."""
    done = subprocess.run([program, *args], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{program.name}: {done.stderr[-400:]}")
    return done.stdout


def loss(model: torch.nn.Module, tokenizer: AutoTokenizer, eos: int) -> float:
    """Mean cross-entropy per token of the texts, each with an end."""
    total, count = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        ids = torch.tensor([ids if ids[-1] == eos else [*ids, eos]])
        with torch.no_grad():
            logits = model.eval()(input_ids=ids).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    return total / count


def check(name: str, model: Path, programs: Path, work: Path) -> dict[str, float]:
    """Train a form; how far PEFT's loss and the merged model's are from what `evaluate` says."""
    data, config, result = work / "rows.jsonl", work / f"{name}.toml", work / name
    data.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    config.write_text(
        f'model = "{model}"\noutput_dir = "{result}"\ndevice = "cpu"\ndtype = "float32"\n'
        f'[lora]\nr = 4\nlora_alpha = 8\n{FORMS[name]}\n[data]\ntrain = "{data}"\n'
        "[train]\nmax_steps = 4\nlearning_rate = 2e-2\nwarmup_steps = 0\n"
        "per_device_train_batch_size = 2\n"
    )
    run(programs / "train", config)
    common = ("--model", model, "--adapter", result, "--dtype", "float32", "--device", "cpu")
    found = json.loads(run(programs / "evaluate", *common, "--data", data, "--json"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    eos = json.loads((model / "config.json").read_text())["eos_token_id"]

    def base(directory: Path) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)

    peft = PeftModel.from_pretrained(base(model), str(result))
    outcome = {
        "base": found["base_loss"],
        "loss": found["loss"],
        "peft": loss(peft, tokenizer, eos) - found["loss"],
    }
    # A bias of an update has no place in a layer that has none.
    if name != "bias":
        merged = work / f"{name}-merged"
        run(programs / "export", *common, "--to", "merged", "--output", merged)
        outcome["merged"] = loss(base(merged), tokenizer, eos) - found["loss"]
    return outcome


def main() -> int:
    """Check every form; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("forms", nargs="*", metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--bin", type=Path, default=Path("target/release"))
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as work:
        for name in args.forms or FORMS:
            outcome = check(name, args.model.resolve(), args.bin.resolve(), Path(work))
            differences = [abs(outcome[key]) for key in ("peft", "merged") if key in outcome]
            passed = all(difference <= TOLERANCE for difference in differences)
            failed |= not passed
            print(json.dumps({"form": name, **outcome, "passed": passed}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
