"""Repeats `verify --model` with Transformers and PEFT.

The same rows go through the model's embedding, its first and its last block with a LoRA adapter of the same
numbers, and its head. The loss, and of each gradient the norm and the product with a wave, are compared with
what Tunesmith's definition gives in f64. With --json, prints what it finds and compares nothing.
"""

import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

CHECK = json.loads(
    r"""@CHECK@"""
)
DTYPE = getattr(torch, CHECK["dtype"])


def wave(shape, step, phase, size):
    k = torch.arange(shape[0] * shape[1], dtype=torch.float64)
    return (size * torch.sin(step * k + phase)).to(torch.float32).reshape(shape)


def load():
    model = AutoModelForCausalLM.from_pretrained(
        CHECK["model"], dtype=DTYPE, attn_implementation="eager"
    )
    # The first and the last block.
    body, config = model.model, model.model.config
    body.layers = torch.nn.ModuleList([body.layers[i] for i in CHECK["layers"]])
    config.num_hidden_layers = len(CHECK["layers"])
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in CHECK["layers"]]
    for index, layer in enumerate(body.layers):
        layer.self_attn.layer_idx = index
    # Weights are those of the dtype, sums are float32.
    for module in model.modules():
        if isinstance(getattr(module, "embed_scale", None), torch.Tensor):
            module.embed_scale = module.embed_scale.to(DTYPE).float()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    rank, scale = CHECK["rank"], CHECK["scale"]
    lora = LoraConfig(r=rank, lora_alpha=rank * scale, target_modules="all-linear")
    model = get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.data = wave(parameter.shape, 0.7, 0.1, parameter.shape[1] ** -0.5)
        elif ".lora_B." in name:
            parameter.data = wave(parameter.shape, 0.3, 0.2, 0.02)
    return model.eval()


def main():
    model = load()
    rows = CHECK["rows"]
    total = sum(label != -100 for row in rows for label in row["labels"][1:])
    loss = 0.0
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
        losses = torch.nn.functional.cross_entropy(
            logits[:-1], labels[1:], ignore_index=-100, reduction="sum"
        )
        (losses / total).backward()
        loss += losses.item() / total
    found = {"loss": [loss, 0.0]}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            name = name.removeprefix("base_model.model.").replace(".default.weight", "")
            values = parameter.grad.double().flatten()
            k = torch.arange(1, values.numel() + 1, dtype=torch.float64)
            found[name] = [values.norm().item(), (values * torch.sin(k)).sum().item()]
    if "--json" in sys.argv:
        print(json.dumps(found))
        return
    wrong = 0
    for name, expected in CHECK["expected"].items():
        size = max(abs(expected[0]), 1e-30)
        off = max(abs(a - b) for a, b in zip(found[name], expected)) / size
        agrees = off <= 1e-4
        wrong += not agrees
        print(f"{name:<48} {expected[0]:.6e} here {found[name][0]:.6e}  {'ok' if agrees else 'OFF'}")
    sys.exit(f"{wrong} of {len(CHECK['expected'])} differ" if wrong else 0)


main()
