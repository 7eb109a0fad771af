#!/usr/bin/env python3
"""Measures the memory of training runs on the CPU against `--plan`, and prints a table for benches/results.

    python tools/memory.py TRAIN WORK_DIR [NAME...]

TRAIN is the program `train`. A run's memory is its anonymous resident memory (RssAnon of Linux: what is no
file's), read every 5 ms; the mapped weights are a file's and stand apart (RssFile at the end). Models are made
with `init = "random"`, of the shapes of SmolLM2 135M and of a model of 12M parameters, and the starter as it is.
"""

import json
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
STARTER = ROOT / "examples/starter"

SHAPES = {
    "12M": dict(hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=4,
                num_key_value_heads=2, vocab_size=16384),
    "135M": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                 num_key_value_heads=3, vocab_size=49152),
}

# Name: model, keys before the first section, [data], [train], the sections after.
LORA = "[lora]\nr = 16\n"
NF4 = "[quantization]\nload_in_4bit = true\n"
RUNS = {
    "starter QLoRA f32": ("starter", "", "max_length = 512", "", LORA + NF4),
    "starter LoRA f32": ("starter", "", "max_length = 256", "", LORA),
    "starter full bf16": ("starter", 'dtype = "bfloat16"', "max_length = 256", "", ""),
    "starter LoRA f32, eval 16": ("starter", "", "max_length = 512",
                                  "per_device_eval_batch_size = 16\nper_device_train_batch_size = 1", LORA),
    "12M full f32": ("12M", "", "max_length = 256", "", ""),
    "12M full f32, recomputed": ("12M", "", "max_length = 512", "gradient_checkpointing = true", ""),
    "12M full bf16": ("12M", 'dtype = "bfloat16"', "max_length = 512", "", ""),
    "12M LoRA f32": ("12M", "", "max_length = 512", "", LORA),
    "12M LoRA bf16, packed": ("12M", 'dtype = "bfloat16"', "max_length = 512\npacking = true", "", LORA),
    "12M QLoRA f32": ("12M", "", "max_length = 256", "", LORA + NF4),
    "12M QLoRA bf16": ("12M", 'dtype = "bfloat16"', "max_length = 256", "", LORA + NF4),
    "12M LoRA f32, eval 16": ("12M", "", "max_length = 512",
                              "per_device_eval_batch_size = 16\nper_device_train_batch_size = 2", LORA),
    "12M LoRA f32, recomputed": ("12M", "", "max_length = 512", "gradient_checkpointing = true", LORA),
    "12M LoRA f32, eager": ("12M", 'attn_implementation = "eager"', "max_length = 256", "", LORA),
    "135M LoRA f32": ("135M", "", "max_length = 256", "per_device_train_batch_size = 2", LORA),
    "135M LoRA bf16": ("135M", 'dtype = "bfloat16"', "max_length = 256", "per_device_train_batch_size = 2", LORA),
    "135M QLoRA f32": ("135M", "", "max_length = 256", "per_device_train_batch_size = 2", LORA + NF4),
    "135M QLoRA bf16, recomputed": ("135M", 'dtype = "bfloat16"', "max_length = 256",
                                    "per_device_train_batch_size = 2\ngradient_checkpointing = true", LORA + NF4),
    "135M full f32": ("135M", "", "max_length = 128", "per_device_train_batch_size = 2", ""),
    "135M full bf16": ("135M", 'dtype = "bfloat16"', "max_length = 128", "per_device_train_batch_size = 2", ""),
}


def rows(path, count, seed):
    """Texts of 20 to 400 words."""
    rng = random.Random(seed)
    words = "the of a river stone and light under green paper morning in window where people walk".split()
    with open(path, "w") as out:
        for _ in range(count):
            text = " ".join(rng.choice(words) for _ in range(rng.randint(20, 400)))
            out.write(json.dumps({"text": text}) + "\n")


def status(pid):
    """RssAnon and RssFile in bytes."""
    found = {}
    with open(f"/proc/{pid}/status") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name in ("RssAnon", "RssFile"):
                found[name] = int(value.split()[0]) << 10
    return found["RssAnon"], found["RssFile"]


def run(train, config):
    """The plan; the anonymous memory over time, and the file memory at the end; the seconds of a step."""
    plan = json.loads(subprocess.run([train, config, "--plan", "--json", "--quiet"], check=True,
                                     capture_output=True).stdout)
    process = subprocess.Popen([train, config, "--quiet"], stderr=subprocess.PIPE)
    seen, mapped = [], 0
    while process.poll() is None:
        try:
            anonymous, mapped = status(process.pid)
            seen.append(anonymous)
        except (KeyError, FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.005)
    if process.returncode:
        sys.exit(f"{config}: {process.stderr.read().decode()}")
    return plan, seen, mapped


def model(train, work, shape):
    """A model of this shape with random weights, saved by a run of one step."""
    if shape == "starter":
        return STARTER
    place = work / f"model-{shape}"
    if not (place / "model.safetensors").exists():
        source = work / f"source-{shape}"
        source.mkdir(parents=True, exist_ok=True)
        config = json.loads((STARTER / "config.json").read_text())
        config.update(SHAPES[shape], max_position_embeddings=2048, head_dim=64)
        (source / "config.json").write_text(json.dumps(config))
        for path in STARTER.iterdir():
            if "token" in path.name or "template" in path.name:
                (source / path.name).write_bytes(path.read_bytes())
        toml = work / f"make-{shape}.toml"
        toml.write_text(f'model = "{source}"\noutput_dir = "{place}"\ninit = "random"\ndevice = "cpu"\n'
                        f'[data]\ntrain = "{work}/eval.jsonl"\nmax_length = 32\n'
                        "[train]\nmax_steps = 1\nper_device_train_batch_size = 1\n")
        subprocess.run([train, toml, "--quiet"], check=True)
    return place


def main():
    train, work = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    rows(work / "train.jsonl", 400, 1)
    rows(work / "eval.jsonl", 16, 2)
    names = sys.argv[3:] or list(RUNS)
    print("| run | plan, MiB | measured, MiB | measured / plan | middle third to last | mapped, MiB | step, s |")
    print("|---|---|---|---|---|---|---|")
    for number, name in enumerate(names):
        shape, top, data, training, rest = RUNS[name]
        place = model(train, work, shape)
        output = work / f"out-{number}-{time.time_ns()}"
        toml = work / f"run-{number}.toml"
        steps = {"starter": 24, "12M": 8, "135M": 4}[shape]
        toml.write_text(
            f'model = "{place}"\noutput_dir = "{output}"\ndevice = "cpu"\n{top}\n'
            f'[data]\ntrain = "{work}/train.jsonl"\neval = "{work}/eval.jsonl"\n{data}\n'
            f"[train]\nmax_steps = {steps}\neval_steps = {steps // 2}\nsave_steps = {steps // 2}\n{training}\n{rest}")
        plan, seen, mapped = run(train, toml)
        planned, peak = plan["peak_bytes"], max(seen)
        thirds = max(seen[len(seen) // 3: 2 * len(seen) // 3]), max(seen[2 * len(seen) // 3:])
        metrics = [json.loads(line) for line in open(output / "metrics.jsonl")]
        rates = [m["tokens_per_second"] for m in metrics if "tokens_per_second" in m]
        tokens = [m["num_input_tokens_seen"] for m in metrics if "num_input_tokens_seen" in m]
        each = [b - a for a, b in zip([0] + tokens, tokens)]
        seconds = sorted(t / r for t, r in zip(each, rates))[len(rates) // 2]
        print(f"| {name} | {planned / 2**20:.1f} | {peak / 2**20:.1f} | {peak / planned:.3f} | "
              f"{(thirds[1] - thirds[0]) / 2**20:+.1f} MiB | {mapped / 2**20:.1f} | {seconds:.3f} |", flush=True)


if __name__ == "__main__":
    main()
