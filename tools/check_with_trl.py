"""Compare this trainer's preference objectives with TRL's on models and rows that are in no fixture.

    python tools/check_with_trl.py target/release/train [FAMILY ...]

For each family a tiny random model of odd sizes is made, with a tokenizer whose words are token ids and
an adapter; the same rows go through TRL's trainer and through `train`, eight steps each. Prints the
largest differences of losses, gradient norms (as a share) and rewards, and exits with 1 where one is
beyond 5e-4, 2 % and 2e-3.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from exact_nf4 import use_exact_nf4_decoding
from trl_training import Case, run, text, words

SIZES = {
    "hidden_size": 40, "intermediate_size": 52, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 96, "vocab_size": 150,
    "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, "initializer_range": 0.15,
}  # fmt: skip
FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 11},
    "qwen2": {"head_dim": None},
    "qwen3": {"tie_word_embeddings": True},
    "gemma3_text": {"sliding_window": 9, "query_pre_attn_scalar": 10},
    "phi3": {"head_dim": None, "sliding_window": None},
}
WHOLE = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
CASES = {
    "dpo sigmoid": Case("dpo", {"beta": 0.2}),
    "dpo ipo": Case("dpo", {"loss_type": ["ipo"]}),
    "dpo robust + hinge": Case(
        "dpo",
        {"loss_type": ["robust", "hinge"], "loss_weights": [0.6, 0.4], "label_smoothing": 0.1},
    ),
    "dpo apo_zero + sft": Case(
        "dpo", {"loss_type": ["apo_zero", "sft"], "loss_weights": [1.0, 0.4]}, **WHOLE
    ),
    "orpo": Case("orpo", {}, **WHOLE),
    "cpo simpo": Case("cpo", {"loss_type": "simpo", "beta": 2.0}, **WHOLE),
    "kto": Case("kto", {}),
    "reward": Case("reward", {}),
}


def make_model(family: str, directory: Path) -> None:
    """A random model with a tokenizer of ids, and adapters for text and for scores."""
    torch.manual_seed(11)
    settings = {k: v for k, v in {**SIZES, **FAMILIES[family]}.items() if v is not None or k == "sliding_window"}
    config = AutoConfig.for_model(family, **settings)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(directory)
    words(SIZES["vocab_size"]).save_pretrained(directory)
    for task, kind in (
        ("CAUSAL_LM", AutoModelForCausalLM),
        ("SEQ_CLS", AutoModelForSequenceClassification),
    ):
        more = {"num_labels": 1} if task == "SEQ_CLS" else {}
        model = kind.from_pretrained(directory, dtype=torch.float32, **more)
        lora = LoraConfig(r=5, lora_alpha=9, target_modules="all-linear", task_type=task)
        get_peft_model(model, lora).save_pretrained(directory / task)


def draw_rows() -> list[dict]:
    """Rows of ids, 2 at the end of answers."""
    stream = random.Random(5)

    def draw(least: int, most: int) -> list[int]:
        return [stream.randrange(3, SIZES["vocab_size"]) for _ in range(stream.randint(least, most))]

    rows = []
    for number in range(28):
        row = {"prompt": draw(2, 14)}
        row |= {key: [*draw(1, 13), 2] for key in ("chosen", "rejected", "completion")}
        rows.append({**row, "label": number % 4 != 2, "margin": number % 3 / 5})
    return rows


def train(binary: Path, case: Case, directory: Path, adapter: Path, rows: list[dict]) -> list[dict]:
    """What this trainer logs at every step."""
    with tempfile.TemporaryDirectory() as out:
        data = Path(out) / "rows.jsonl"
        keys = ("prompt", "completion", "label") if case.objective == "kto" else ("prompt", "chosen", "rejected", "margin")
        lines = [{k: text(r[k]) if isinstance(r[k], list) else r[k] for k in keys} for r in rows]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        section = "".join(f"{k} = {json.dumps(v)}\n" for k, v in case.settings.items())
        config = Path(out) / "run.toml"
        config.write_text(
            f'model = "{directory}"\noutput_dir = "{out}/out"\ndevice = "cpu"\ndtype = "float32"\n'
            f'objective = "{case.objective}"\n[{case.objective}]\n{section}'
            f'[lora]\nadapter = "{adapter}"\n[data]\ntrain = "{data}"\nmax_length = 64\nshuffle = false\n'
            f"[train]\nlearning_rate = {case.learning_rate}\nmax_steps = {case.max_steps}\nwarmup_steps = 2\n"
            f"per_device_train_batch_size = {case.per_device_train_batch_size}\n"
            f"gradient_accumulation_steps = {case.gradient_accumulation_steps}\n"
        )
        subprocess.run([binary, config, "--quiet"], check=True)
        return [json.loads(line) for line in (Path(out) / "out/metrics.jsonl").open()]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    use_exact_nf4_decoding()
    rows, failed = draw_rows(), False
    for family in args.families:
        with tempfile.TemporaryDirectory() as directory:
            base = Path(directory)
            make_model(family, base)
            for name, case in CASES.items():
                case.max_steps = 8
                adapter = base / ("SEQ_CLS" if case.objective == "reward" else "CAUSAL_LM")
                expected = run(case, base, adapter, rows)
                found = train(args.binary, case, base, adapter, rows)
                worst = {"loss": 0.0, "grad_norm": 0.0, "rewards": 0.0}
                for a, b in zip(found, expected, strict=True):
                    for key, value in b.items():
                        if key == "loss":
                            worst["loss"] = max(worst["loss"], abs(a[key] - value))
                        elif key == "grad_norm":
                            worst[key] = max(worst[key], abs(a[key] - value) / value)
                        elif key in ("margin", "mean_reward", "kl") or (
                            key.startswith("rewards/") and key != "rewards/accuracies"
                        ):
                            worst["rewards"] = max(worst["rewards"], abs(a[key] - value))
                passed = worst["loss"] <= 5e-4 and worst["grad_norm"] <= 0.02 and worst["rewards"] <= 2e-3
                failed |= not passed
                shown = ", ".join(f"{key} {value:.1e}" for key, value in worst.items())
                print(f"{family:12} {name:20} {'ok ' if passed else 'NOT'} {shown}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
