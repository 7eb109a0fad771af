"""Runs of training that are killed at random moments and resumed must end with the same bits.

    python3 tools/kill_runs.py target/release/train --runs 200 --seed 1

Each run trains a small model with the starter's tokenizer for some steps: LoRA, QLoRA or full, in
float32 or bfloat16, with a checkpoint at every, every fourth or every seventh step, with and
without evaluations and the best model at the end. It is killed (SIGKILL) after a random time,
started again with --resume, killed again perhaps, and at last left to end. What it leaves is
compared byte for byte with a run that went through: weights, trainer_state.json, and metrics.jsonl
without the one value that depends on the clock. Needs Python alone. Exits with 1 where a run ends
otherwise.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

METHODS = {
    "LoRA": ["lora.r=4", "lora.lora_dropout=0.1"],
    "QLoRA": ["lora.r=4", "quantization.load_in_4bit=true"],
    "full": ["lora=false"],
}
SAVING = {
    "every step": ["save_steps=1"],
    "every 4th step, evaluations, best model": [
        "save_steps=4", "data.eval_split=0.2", "eval_steps=2", "load_best_model_at_end=true"],
    "every 7th step, two micro-batches, packed": [
        "save_steps=7", "gradient_accumulation_steps=2", "data.packing=true", "logging_steps=4"],
}


def processor():
    """Return the name of this machine's processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def command(train, work, settings, output):
    """Return the command line of a run."""
    arguments = [train, "--model", work / "model", "--data", work / "data.jsonl", "--quiet"]
    common = [
        "device=cpu", "max_length=48", "per_device_train_batch_size=2", "max_steps=16", "seed=5",
        "learning_rate=1e-3", "lr_scheduler_type=cosine", "save_total_limit=2",
        f"output_dir={output}",
    ]
    for setting in common + settings:
        arguments += ["--set", setting]
    return [str(argument) for argument in arguments]


def make_model(train, work):
    """A model that is small enough for hundreds of runs, with random weights."""
    starter, shape = ROOT / "examples/starter", work / "shape"
    shape.mkdir()
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]:
        shutil.copy(starter / name, shape / name)
    config = json.loads((starter / "config.json").read_text())
    config.update(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )
    (shape / "config.json").write_text(json.dumps(config))
    arguments = [train, "--model", shape, "--data", work / "data.jsonl", "--quiet"]
    for setting in ["device=cpu", "init=random", "lora=false", "max_steps=1", "dtype=float32"]:
        arguments += ["--set", setting]
    arguments += ["--set", f"output_dir={work / 'model'}"]
    run([str(argument) for argument in arguments])


def run(arguments, seconds=None):
    """Whether it ended by itself, within the time."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)}: {errors.decode()}")
    return True


def without_clock(value):
    """Return the value without what depends on the clock, at any depth."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key != "tokens_per_second"}
        return {key: without_clock(item) for key, item in kept.items()}
    return [without_clock(item) for item in value] if isinstance(value, list) else value


def resume(output):
    """Return the option that goes on with a run, if there is one."""
    return ["--resume"] if output.exists() else []


def digest(output):
    """Return what is compared of a run."""
    found = {}
    for name in ["adapter_model.safetensors", "model.safetensors"]:
        if (output / name).exists():
            found[name] = hashlib.sha256((output / name).read_bytes()).hexdigest()
    lines = (output / "metrics.jsonl").read_text().splitlines()
    found["metrics.jsonl"] = [without_clock(json.loads(line)) for line in lines]
    state = json.loads((output / "trainer_state.json").read_text())
    found["trainer_state.json"] = without_clock(state)
    names = [path.name for path in output.iterdir()]
    found["left behind"] = sorted(name for name in names if name.startswith("."))
    return found


def main():
    """Kill, resume and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    train = os.path.abspath(options.train)
    rng = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="kill-runs-"))
    rows = (ROOT / "examples/quickstart/train.jsonl").read_text().splitlines()[:60]
    (work / "data.jsonl").write_text("\n".join(rows) + "\n")
    make_model(train, work)
    kinds = list(itertools.product(METHODS, ["float32", "bfloat16"], SAVING))
    expected, counts = {}, {}
    runs = kills = wrong = 0
    number = 0
    while runs < options.runs:
        number += 1
        kind = kinds[number % len(kinds)]
        method, dtype, saving = kind
        settings = METHODS[method] + SAVING[saving] + [f"dtype={dtype}"]
        if kind not in expected:
            output = work / f"straight-{number}"
            started = time.monotonic()
            run(command(train, work, settings, output))
            expected[kind] = (digest(output), time.monotonic() - started)
            counts[kind] = 0
        straight, seconds = expected[kind]
        output = work / "killed"
        shutil.rmtree(output, ignore_errors=True)
        arguments = command(train, work, settings, output)
        times = 0
        while times < 3 and not run(arguments + resume(output), rng.uniform(0, seconds)):
            times += 1
        if times == 0:
            # It was through before its time had come.
            continue
        if times == 3:
            run(arguments + resume(output))
        runs += 1
        kills += times
        counts[kind] += 1
        if digest(output) != straight:
            wrong += 1
            shutil.copytree(output, work / f"wrong-{wrong}")
            kept = f"{work}/wrong-{wrong}"
            print(f"run {number}, {kind}: another result, kept in {kept}", file=sys.stderr)
    print(f"processor: {processor()}")
    print(f"seed: {options.seed}")
    print(f"{runs} runs, killed {kills} times: {runs - wrong} ended with the same bits")
    for (method, dtype, saving), count in counts.items():
        print(f"{method}, {dtype}, checkpoint {saving}: {count} runs")
    if not wrong:
        shutil.rmtree(work)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
