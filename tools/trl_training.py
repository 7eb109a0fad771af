"""Train a few steps with TRL's own trainers, on rows of token ids.

The pieces are shared by the fixture generator and `trl_trajectory.py`: a tokenizer whose words are
token ids, the trainers with rows in file order, and the log of every step.
"""

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

TRAINERS = {
    "dpo": (DPOConfig, DPOTrainer),
    "orpo": (ORPOConfig, ORPOTrainer),
    "cpo": (CPOConfig, CPOTrainer),
    "kto": (KTOConfig, KTOTrainer),
    "reward": (RewardConfig, RewardTrainer),
}
# What a step logs that is not a number of the objective.
OTHERS = {"epoch", "num_tokens", "step", "total_flos", "train_loss", "train_runtime", "learning_rate"}
PAD = 0
END = 2


@dataclass
class Case:
    """An objective with its settings, and how it is trained."""

    objective: str
    settings: dict[str, Any] = field(default_factory=dict)
    mode: str = "lora"
    learning_rate: float = 5e-3
    max_steps: int = 10
    per_device_train_batch_size: int = 2
    gradient_accumulation_steps: int = 2


def word(token: int) -> str:
    """No word is a part of another: special ones are found within words."""
    return f"<{token}>"


def words(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the ids; END ends a text, PAD pads."""
    vocabulary = {word(i): i for i in range(vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=word(PAD)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=word(END), pad_token=word(PAD), unk_token=word(PAD)
    )


def text(ids: list[int]) -> str:
    """The text of some ids, after a space."""
    return "".join(f" {word(i)}" for i in ids)


def dataset(objective: str, rows: list[dict]) -> Dataset:
    """Rows of ids (`prompt`, `chosen`, `rejected`, or `completion` and `label`) as texts."""
    kept = {"kto": ("prompt", "completion", "label"), "reward": ("prompt", "chosen", "rejected", "margin")}
    keys = kept.get(objective, ("prompt", "chosen", "rejected"))
    return Dataset.from_list(
        [{k: text(v) if isinstance(v, list) else v for k, v in r.items() if k in keys} for r in rows]
    )


def load(directory: Path, mode: str, adapter: Path | None, classifier: bool) -> PreTrainedModel:
    """The model, in 4 bits for QLoRA, with the adapter to train."""
    options: dict[str, Any] = {}
    if mode == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        options["device_map"] = {"": "cpu"}
    kind = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    if classifier:
        options["num_labels"] = 1
    model = kind.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True, **options
    )
    model.config.pad_token_id = PAD
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    return model


def run(case: Case, model_directory: Path, adapter: Path | None, rows: list[dict]) -> list[dict]:
    """What TRL logs at every step."""
    config_class, trainer_class = TRAINERS[case.objective]
    classifier = case.objective == "reward"
    head = load_file(adapter / "adapter_model.safetensors") if classifier else {}
    adapter = None if case.mode == "full" else adapter
    model = load(model_directory, case.mode, adapter, classifier)
    if classifier and adapter is None:
        model.score.weight.data.copy_(head["base_model.model.score.weight"])
    started = (
        {k: v.clone() for k, v in get_peft_model_state_dict(model).items()} if adapter else None
    )

    class Ordered(trainer_class):
        """Rows in the order of the file."""

        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    vocab_size = json.loads((model_directory / "config.json").read_text())["vocab_size"]
    with tempfile.TemporaryDirectory() as directory:
        arguments = {
            "output_dir": directory,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": [],
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_length": None if classifier else 64,
            "learning_rate": case.learning_rate,
            "max_steps": case.max_steps,
            "per_device_train_batch_size": case.per_device_train_batch_size,
            "gradient_accumulation_steps": case.gradient_accumulation_steps,
            **case.settings,
        }
        trainer = Ordered(
            model=model,
            args=config_class(**arguments),
            train_dataset=dataset(case.objective, rows),
            processing_class=words(vocab_size),
        )
        if started is not None:
            # TRL makes adapters of quantized models bfloat16; this project keeps float32.
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            set_peft_model_state_dict(trainer.model, started)
        trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [{k: v for k, v in log.items() if k not in OTHERS} for log in logs]
