"""One fine-tuning step the way Transformers and PEFT do it, without their Trainer.

The pieces are shared by the fixture generator, `peft_trajectory.py` and `bench_peft.py`:
loading a base model (plain or NF4), attaching LoRA, the optimizer's parameter groups, padding,
and a step whose loss is normalised over every token of the step.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    get_cosine_schedule_with_warmup,
)

from optimizers import Schedules, Together, adamw, muon

IGNORE = -100
# The names for which Transformers' Trainer switches weight decay off.
NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")

Row = dict[str, list[int]]  # {"input_ids": [...], "labels": [...]}, labels unshifted


@dataclass(frozen=True)
class Hyperparameters:
    """What the optimizer and its schedule need; names as in Transformers' TrainingArguments."""

    learning_rate: float
    max_steps: int
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class StepLog:
    """The numbers of one optimizer step. `grad_norm` is the norm before clipping."""

    loss: float
    grad_norm: float
    learning_rate: float
    num_tokens: int


def weight_dtype(mode: str, dtype: str) -> torch.dtype:
    """The type of the base weights: full fine-tuning keeps float32 masters under autocast."""
    return torch.float32 if mode == "full" else getattr(torch, dtype)


def quantization_config(double_quant: bool, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 in blocks of 64, as QLoRA uses it."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def load_base(
    directory: str | Path,
    dtype: torch.dtype = torch.float32,
    double_quant: bool | None = None,
    attention: str = "eager",
    device: str = "cpu",
) -> PreTrainedModel:
    """Load a model directory; `double_quant` None leaves the weights unquantized."""
    options = {}
    if double_quant is not None:
        options["quantization_config"] = quantization_config(double_quant, dtype)
        options["device_map"] = {"": device}
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation=attention, local_files_only=True, **options
    )
    if double_quant is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    else:
        model = model.to(device)
    # Training mode also keeps bitsandbytes off its bfloat16 inference path on the CPU.
    return model.train()


def make_base(
    config: PretrainedConfig,
    dtype: torch.dtype,
    double_quant: bool | None,
    attention: str,
    device: str,
) -> PreTrainedModel:
    """What `load_base` gives of a random model, made on the device without a file."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if double_quant is None:
        return model.train()
    from bitsandbytes.nn import Linear4bit, Params4bit

    for layer in model.model.layers:
        for name, linear in list(layer.named_modules()):
            if not isinstance(linear, torch.nn.Linear):
                continue
            sizes = (linear.in_features, linear.out_features)
            quantized = Linear4bit(
                *sizes, linear.bias is not None, dtype, double_quant, "nf4", device="meta"
            )
            options = {"compress_statistics": double_quant, "quant_type": "nf4"}
            weight = Params4bit(linear.weight.data, requires_grad=False, **options)
            # It is quantized as it is moved.
            quantized.weight = weight.to(device)
            layer.set_submodule(name, quantized)
    model.is_loaded_in_4bit = True
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model.train()


def attach_adapter(
    model: PreTrainedModel, config: LoraConfig | None = None, directory: str | Path | None = None
) -> PeftModel:
    """Wrap `model` with a fresh LoRA adapter, or with the saved one in `directory`."""
    if directory is not None:
        return PeftModel.from_pretrained(model, str(directory), is_trainable=True).train()
    return get_peft_model(model, config).train()


def make_optimizer(
    model: torch.nn.Module, hyper: Hyperparameters, optim: str = "adamw_torch"
) -> tuple[torch.optim.Optimizer | Together, torch.optim.lr_scheduler.LRScheduler | Schedules]:
    """No decay on biases and norm weights, and cosine decay after a linear warm-up.

    `optim` is "adamw_torch", "adamw_8bit" or "muon": that for matrices of blocks, AdamW for the rest.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizers = []
    if optim == "muon":
        matrices = [p for name, p in named if ".layers." in name and p.ndim == 2]
        optimizers.append(muon(matrices, hyper.learning_rate, hyper.weight_decay))
        named = [(name, p) for name, p in named if not (".layers." in name and p.ndim == 2)]
    groups = [
        {
            "params": [p for name, p in named if not NO_DECAY.search(name.lower())],
            "weight_decay": hyper.weight_decay,
        },
        {"params": [p for name, p in named if NO_DECAY.search(name.lower())], "weight_decay": 0.0},
    ]
    optimizers.append(
        adamw(
            optim,
            [group for group in groups if group["params"]],
            lr=hyper.learning_rate,
            betas=(hyper.adam_beta1, hyper.adam_beta2),
            eps=hyper.adam_epsilon,
        )
    )
    schedules = [
        get_cosine_schedule_with_warmup(optimizer, hyper.warmup_steps, hyper.max_steps)
        for optimizer in optimizers
    ]
    if len(optimizers) == 1:
        return optimizers[0], schedules[0]
    return Together(optimizers), Schedules(schedules)


def pad(rows: list[Row]) -> dict[str, torch.Tensor]:
    """Pad on the right to the longest row: `input_ids`, `attention_mask`, `labels`, all [B, T]."""
    width = max(len(row["input_ids"]) for row in rows)

    def filled(key: str, value: int) -> torch.Tensor:
        return torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = (torch.arange(width)[None, :] < lengths[:, None]).long()
    return {
        "input_ids": filled("input_ids", 0),
        "attention_mask": mask,
        "labels": filled("labels", IGNORE),
    }


def count_targets(rows: list[Row]) -> int:
    """Labels that carry loss once shifted: the first of each row never does."""
    return sum(label != IGNORE for row in rows for label in row["labels"][1:])


def split(rows: list[Row], size: int) -> Iterator[list[Row]]:
    """Consecutive micro-batches of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def backward(
    model: torch.nn.Module, rows: list[Row], micro_batch_size: int, dtype: str = "float32"
) -> tuple[float, int]:
    """Accumulate gradients of `sum(CE) / targets` over micro-batches; gives (loss, targets).

    With `dtype` "bfloat16" the forward pass runs under autocast, as with Transformers' `bf16=True`.
    """
    targets = count_targets(rows)
    loss = 0.0
    for micro_batch in split(rows, micro_batch_size):
        # One context per forward pass: autocast keeps its bfloat16 copies of weights until it ends.
        batch = {key: tensor.to(model.device) for key, tensor in pad(micro_batch).items()}
        with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            part = model(**batch, num_items_in_batch=targets, use_cache=False).loss
        part.backward()
        loss += part.item()
    return loss, targets


def train_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | Together,
    schedule: torch.optim.lr_scheduler.LRScheduler | Schedules,
    rows: list[Row],
    micro_batch_size: int,
    max_grad_norm: float,
    dtype: str = "float32",
) -> StepLog:
    """One optimizer step over `rows`, clipped to `max_grad_norm`."""
    learning_rate = schedule.get_last_lr()[0]
    loss, targets = backward(model, rows, micro_batch_size, dtype)
    trainable = [p for p in model.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trainable, max_grad_norm)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)
    return StepLog(loss, norm.item(), learning_rate, targets)
