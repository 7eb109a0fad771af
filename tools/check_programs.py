"""Use the programs as a user does, on models that no fixture holds, and compare with PEFT.

    cargo build --release && python tools/check_programs.py [--device cpu wgpu] [--only NAME ...]

For every model of `unseen_models.py`: the rows that `train --preview` shows, the losses and
gradient norms of a run, its evaluations, the adapter it wrote (read by PEFT), greedy tokens and
`evaluate` with and without it and merged, and a run that was stopped and resumed. Prints PASS or
FAIL per check; exits with 1 if any failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from exact_nf4 import use_exact_nf4_decoding
from optimizers import use_exact_muon
from peft_training import (
    Hyperparameters,
    Row,
    StepLog,
    attach_adapter,
    count_targets,
    load_base,
    make_optimizer,
    pad,
    split,
    train_step,
)
from unseen_models import (
    MODELS,
    Model,
    as_messages,
    examples,
    expected_rows,
    write_data,
    write_model,
)

STEPS = 12
STOP = 5  # The checkpoint from which a copy of the run is resumed.
NEW_TOKENS = 24
LOSS = 2e-5  # absolute; float32 sums in another order differ by less than half of it
NORM = 1e-3  # relative


class Checks:
    """Counts what passed and failed, and says so."""

    failed = 0

    def that(self, passed: bool, what: str) -> None:
        """One check."""
        self.failed += not passed
        print(f"{'PASS' if passed else 'FAIL'}  {what}", flush=True)

    def close(self, actual: list[float], expected: list[float], limit: float, what: str) -> None:
        """Equal in number and value; a NaN is not."""
        worst = max((abs(a - e) for a, e in zip(actual, expected, strict=False)), default=0.0)
        same = len(actual) == len(expected) and all(
            abs(a - e) <= limit for a, e in zip(actual, expected, strict=True)
        )
        self.that(same, f"{what}: {len(actual)} values, largest difference {worst:.1e}")


@dataclass(frozen=True)
class Programs:
    """Runs the release binaries in a directory."""

    directory: Path

    def run(self, program: str, *arguments: Any) -> str:
        """The program's stdout; its failure ends everything."""
        command = [str(self.directory / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\nstatus {done.returncode}\n{done.stderr}")
        return done.stdout

    def json(self, program: str, *arguments: Any) -> Any:
        """What the program prints with --json: one object, and nothing else."""
        return json.loads(self.run(program, *arguments, "--json"))


def write_config(model: Model, path: Path, output: Path, device: str) -> None:
    """The run as a TOML file."""
    adapter = '\n[lora]\nadapter = "adapter"\n' if model.mode != "full" else ""
    quantization = "\n[quantization]\nload_in_4bit = true\n" if model.mode == "qlora" else ""
    path.write_text(
        f"""model = "model"
output_dir = "{output.name}"
device = "{device}"
dtype = "float32"
{quantization}{adapter}
[data]
train = "data.json"
eval = "data.json"
max_length = {model.max_length}
packing = {str(model.packing).lower()}
shuffle = false

[train]
optim = "{model.optim}"
per_device_train_batch_size = {model.batch}
per_device_eval_batch_size = 3
gradient_accumulation_steps = {model.accumulation}
max_steps = {STEPS}
learning_rate = {learning_rate(model)}
warmup_steps = {model.warmup}
weight_decay = {model.weight_decay}
max_grad_norm = {model.max_grad_norm}
save_steps = {STOP}
save_total_limit = 0
"""
    )


def learning_rate(model: Model) -> float:
    """High enough that a wrong update shows in the next loss."""
    return 3e-3 if model.mode == "full" else 1e-2


def base(model: Model, directory: Path, attention: str = "eager") -> PreTrainedModel:
    """The model as this mode trains it."""
    double_quant = True if model.mode == "qlora" else None
    return load_base(directory / "model", double_quant=double_quant, attention=attention)


def steps_of(model: Model, rows: list[list[Row]]) -> Iterator[list[Row]]:
    """The examples of each optimizer step; an epoch's last one may have fewer."""
    while True:
        for step in split(rows, model.batch * model.accumulation):
            yield [example for row in step for example in row]


def mean_loss(network: torch.nn.Module, rows: list[Row]) -> float:
    """Cross-entropy per token with loss."""
    total = 0.0
    with torch.no_grad():
        for batch in split(rows, 4):
            total += network(**pad(batch), num_items_in_batch=1, use_cache=False).loss.item()
    return total / count_targets(rows)


@dataclass(frozen=True)
class Reference:
    """The same steps by Transformers and PEFT: their logs, and the loss before and after."""

    logs: list[StepLog]
    before: float
    after: float

    def apart(self, other: "Reference") -> tuple[float, float]:
        """The largest differences of a loss, and of a gradient norm as a share of it."""
        pairs = list(zip(self.logs, other.logs, strict=True))
        losses = [abs(a.loss - b.loss) for a, b in pairs]
        losses += [abs(self.before - other.before), abs(self.after - other.after)]
        return max(losses), max(abs(a.grad_norm / b.grad_norm - 1) for a, b in pairs)


def reference(
    model: Model,
    directory: Path,
    rows: list[list[Row]],
    size: int = 64,
    attention: str = "eager",
    dtype: torch.dtype = torch.float32,
) -> Reference:
    """Train in micro-batches of `size` rows."""
    adapter = directory / "adapter" if model.mode != "full" else None
    network = base(model, directory, attention)
    if adapter:
        network = attach_adapter(network, directory=adapter)
    network = network if dtype == torch.float32 else network.to(dtype)
    warmup = model.warmup if model.warmup >= 1 else -(-model.warmup * STEPS // 1)
    hyper = Hyperparameters(
        learning_rate(model), STEPS, int(warmup), model.weight_decay,
        max_grad_norm=model.max_grad_norm or float("inf"),
    )  # fmt: skip
    optimizer, schedule = make_optimizer(network, hyper, model.optim)
    flat = [example for row in rows for example in row]
    before = mean_loss(network, flat)
    logs = [
        train_step(network, optimizer, schedule, step, size, hyper.max_grad_norm)
        for step, _ in zip(steps_of(model, rows), range(STEPS), strict=False)
    ]
    return Reference(logs, before, mean_loss(network, flat))


def check_run(
    checks: Checks, model: Model, directory: Path, rows: list[list[Row]], output: Path, what: str
) -> None:
    """Compare the records of a run with the same steps by Transformers and PEFT."""
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    actual = [record for record in records if "loss" in record]
    evaluated = [record["eval_loss"] for record in records if "eval_loss" in record]
    expected = reference(model, directory, rows)
    loss, norm = LOSS, NORM
    if model.optim == "adamw_8bit":
        # Rounding moves codes from one to the next, so what is right is what float64 gives, and PyTorch's
        # own float32 runs say how far rounding leads from it.
        expected = reference(model, directory, rows, dtype=torch.float64)
        ways = [(64, "eager"), (1, "eager"), (64, "sdpa"), (1, "sdpa")]
        apart = [expected.apart(reference(model, directory, rows, *way)) for way in ways]
        loss, norm = max(LOSS, *(2 * a for a, _ in apart)), max(NORM, *(2 * b for _, b in apart))
        what += f" (to {loss:.1e})"
    logs = expected.logs
    checks.close([r["loss"] for r in actual], [log.loss for log in logs], loss, f"{what} losses")
    norms = [r["grad_norm"] / log.grad_norm for r, log in zip(actual, logs, strict=True)]
    checks.close(norms, [1.0] * STEPS, norm, f"{what} gradient norms (ratio)")
    rates = [log.learning_rate for log in logs]
    checks.close([r["learning_rate"] for r in actual], rates, 1e-12, f"{what} learning rates")
    found = [evaluated[0], evaluated[-1]]
    checks.close(found, [expected.before, expected.after], loss, f"{what} evaluations")


def greedy(network: PreTrainedModel, ids: list[int], stop: int) -> list[int]:
    """What Transformers generates, without the stop token."""
    with torch.no_grad():
        found = network.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False,
            max_new_tokens=NEW_TOKENS, eos_token_id=stop, pad_token_id=stop,
        )  # fmt: skip
    new = found[0, len(ids) :].tolist()
    return new[:-1] if new[-1] == stop else new


def check_use(
    checks: Checks,
    programs: Programs,
    model: Model,
    directory: Path,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[Row],
    output: Path,
) -> None:
    """`generate` and `evaluate` of the result, and of the base, against Transformers and PEFT."""
    common = ["--device", "cpu", "--dtype", "float32"]
    plain = load_base(directory / "model").eval()
    uses = [(plain, ["--model", directory / "model"], "base")]
    if model.mode == "full":
        tuned = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
        uses.append((tuned.eval(), ["--model", output], "result"))
    else:
        # Training mode (no dropout here) keeps bitsandbytes off its bfloat16 path on the CPU.
        tuned = PeftModel.from_pretrained(base(model, directory), str(output)).train()
        uses.append((tuned, ["--adapter", output], "adapter"))
        merged = directory / "merged"
        shutil.rmtree(merged, ignore_errors=True)
        programs.run("export", "--to", "merged", "--adapter", output, "--output", merged, *common)
        in_merged = PeftModel.from_pretrained(load_base(directory / "model"), str(output))
        uses.append((in_merged.merge_and_unload().eval(), ["--model", merged], "merged"))
        theirs = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
        uses.append((theirs.eval(), ["--model", merged], "merged, read by Transformers"))
    if model.mode == "qlora":
        four_bit = base(model, directory)
        uses.append((four_bit, ["--model", directory / "model", "--load-in-4bit"], "4-bit base"))
    stop = tokenizer.eos_token_id
    losses = {}
    data = ["--data", directory / "data.json", "--max-length", model.max_length]
    for network, which, what in uses:
        prompt = "Who feeds the"
        found = programs.json(
            "generate", *which, *common, "--prompt", prompt, "--temperature", 0,
            "--max-new-tokens", NEW_TOKENS,
        )  # fmt: skip
        ids = tokenizer(prompt).input_ids
        checks.that(found["prompt_token_ids"] == ids, f"{what}: prompt tokens")
        checks.that(found["token_ids"] == greedy(network, ids, stop), f"{what}: greedy tokens")
        text = tokenizer.decode(found["token_ids"], skip_special_tokens=True)
        checks.that(found["text"] == text, f"{what}: text")
        measured = programs.json("evaluate", *which, *common, *data)
        losses[what] = mean_loss(network, rows)
        checks.close([measured["loss"]], [losses[what]], LOSS, f"{what}: evaluate")
        checks.that(measured["tokens"] == count_targets(rows), f"{what}: tokens with loss")
        if "base_loss" in measured:
            with network.disable_adapter():
                untuned = mean_loss(network, rows)
            checks.close([measured["base_loss"]], [untuned], LOSS, f"{what}: base loss")
    if not any(key in example for example in examples(model.data) for key in ("text", "prompt")):
        messages = as_messages(examples(model.data)[0])[:-1]
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        system = ["--system", messages[0]["content"]] if len(messages) > 1 else []
        found = programs.json(
            "generate", "--model", directory / "model", *common, "--chat", "--prompt",
            messages[-1]["content"], *system, "--max-new-tokens", 1,
        )  # fmt: skip
        ids = tokenizer(rendered, add_special_tokens=False).input_ids
        checks.that(found["prompt_token_ids"] == ids, "chat prompt tokens")


def check_resumed(checks: Checks, programs: Programs, config: Path, output: Path) -> None:
    """A copy of the run, as it was after its first checkpoint, resumed."""
    copy = output.with_name("resumed")
    copy.mkdir()
    first = f"checkpoint-{STOP}"
    shutil.copytree(output / first, copy / first)
    lines = (output / "metrics.jsonl").read_text().splitlines(keepends=True)
    # What a run that was killed leaves: the lines of steps that were not saved.
    (copy / "metrics.jsonl").write_text("".join(lines[: STOP + 3]))
    programs.run("train", config, "--set", f"output_dir={copy}", "--resume", "--quiet")

    def records(path: Path) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in r.items() if k != "tokens_per_second"} for r in found]

    checks.that(records(copy) == records(output), "resumed: the same metrics")
    for path in sorted(output.glob("*.safetensors")):
        same = path.read_bytes() == (copy / path.name).read_bytes()
        checks.that(same, f"resumed: the same {path.name}")


def check(checks: Checks, programs: Programs, model: Model, directory: Path, args: Any) -> None:
    """Everything about one model."""
    print(f"== {model.name}: {model.mode}, {model.data}", flush=True)
    tokenizer = write_model(model, directory / "model")
    write_data(model, directory / "data.json")
    if model.mode != "full":
        torch.manual_seed(7)
        config = LoraConfig(**{"target_modules": "all-linear", **model.lora}, task_type="CAUSAL_LM")
        attach_adapter(base(model, directory), config).save_pretrained(directory / "adapter")
    rows = expected_rows(model, tokenizer)
    for device in args.device:
        output = directory / f"result-{device}"
        config = directory / f"config-{device}.toml"
        write_config(model, config, output, device)
        if device == args.device[0]:
            shown = programs.run("train", config, "--preview", 1000, "--json").splitlines()
            checks.that([json.loads(line) for line in shown] == as_preview(rows), "preview")
        programs.run("train", config, "--quiet")
        check_run(checks, model, directory, rows, output, device)
    output = directory / f"result-{args.device[0]}"
    check_use(checks, programs, model, directory, tokenizer, sum(rows, []), output)
    check_resumed(checks, programs, directory / f"config-{args.device[0]}.toml", output)


def as_preview(rows: list[list[Row]]) -> list[dict[str, list[int]]]:
    """The rows as `--preview --json` prints them."""
    return [
        {
            "input_ids": sum((example["input_ids"] for example in row), []),
            "labels": sum((example["labels"] for example in row), []),
            "position_ids": sum((list(range(len(e["input_ids"]))) for e in row), []),
            "sequence_ids": sum(([i] * len(e["input_ids"]) for i, e in enumerate(row)), []),
        }
        for row in rows
    ]


def main() -> int:
    """Check every model; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", type=Path, default=Path("target/release"), help="the programs")
    parser.add_argument("--device", nargs="+", default=["cpu"], help="devices to train on")
    parser.add_argument("--only", nargs="+", default=[m.name for m in MODELS], help="model names")
    parser.add_argument("--keep", type=Path, help="leave the models and results in this directory")
    args = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    use_exact_nf4_decoding()
    use_exact_muon()
    checks, programs = Checks(), Programs(args.bin.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        for model in MODELS:
            if model.name in args.only:
                directory = (args.keep or Path(scratch)).resolve() / model.name
                check(checks, programs, model, directory, args)
    print(f"{checks.failed} checks failed" if checks.failed else "all checks passed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
