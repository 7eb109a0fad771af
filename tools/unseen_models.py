"""Small random models and data that no fixture holds, with the rows that training should see.

The rows are worked out here a second time, from the rules (those of TRL) and with the tokenizer
libraries of Hugging Face, so that nothing of this project's own reading of data is trusted.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from fixtures.families import COMMON, draw_weights, generator
from fixtures.files import write_json
from peft_training import IGNORE, Row

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|end|>\\n\\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\\n\\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Template:
    """A chat template, the token that ends its turns and the white space after that."""

    source: str
    end_of_turn: str
    tail: str
    eos: str = "</s>"
    add_bos: bool = True


TEMPLATES = {
    "chatml": Template(CHATML, "<|im_end|>", "\n", eos="<|im_end|>", add_bos=False),
    "headers": Template(HEADERS, "<|eot_id|>", ""),
    "inst": Template(INST, "</s>", ""),
}
SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start|>",
    "<|end|>",
    "<|eot_id|>",
]

FACTS = [
    ("What colour is the barn?", "The barn is red, and its door is white."),
    ("Who feeds the hens?", "Ada does, before the school bus comes."),
    ("How far is the mill?", "Two miles -- along the river; three by road."),
    ("Name a fruit.", "Quince."),
    ("Was hei\u00dft \u201ecow\u201c?", "Die Kuh \U0001f404, naturally."),
    ("Count to five", "1, 2, 3, 4, 5"),
    ("Is the bridge open?", "No.\nIt closed in May;\tit opens again in June."),
    ("Why?", "Because the ferry is slow and the children are late for everything."),
    ("Where does the road end?", "At the harbour."),
    ("When is the fair", "On the second Sunday of September, when the hay is in."),
    ("Say hello", "Hello, hello!"),
]


@dataclass(frozen=True)
class Model:
    """A model directory to write, the data to train it on, and the run's settings."""

    name: str
    model_type: str
    mode: str  # full, lora or qlora
    data: str
    config: dict[str, Any]
    dtype: str = "float32"
    max_shard_size: str | None = None
    template: str = "chatml"
    max_length: int = 96
    packing: bool = False
    batch: int = 2
    accumulation: int = 1
    warmup: float = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora: dict[str, Any] = field(default_factory=dict)
    optim: str = "adamw_torch"


def _size(hidden: int, mlp: int, layers: int, heads: int, kv: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 331,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128,
        **more,
    }


MODELS = [
    Model(
        "llama3-rope-sharded", "llama", "full", "text",
        _size(60, 100, 3, 6, 2, tie_word_embeddings=True, rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
        max_shard_size="60KB", template="headers", accumulation=2, warmup=3, weight_decay=0.1,
    ),
    Model(
        "llama-yarn-packed", "llama", "lora", "prompt-completion",
        _size(56, 90, 2, 7, 1, tie_word_embeddings=False, rope_theta=20000.0, rope_scaling={
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
        template="inst", packing=True, warmup=0.2, max_grad_norm=0.5,
        lora={"r": 3, "lora_alpha": 12},
    ),
    Model(
        "llama-linear-bfloat16", "llama", "qlora", "messages",
        _size(64, 80, 2, 4, 4, tie_word_embeddings=False, rope_theta=10000.0,
              rope_scaling={"type": "linear", "factor": 2.5}),
        dtype="bfloat16", template="headers", max_grad_norm=0.3, warmup=2,
        lora={"r": 5, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    ),
    Model(
        "llama-dynamic-biases", "llama", "lora", "alpaca",
        _size(48, 72, 2, 4, 2, head_dim=10, tie_word_embeddings=True, attention_bias=True,
              mlp_bias=True, rope_theta=10000.0, rope_scaling={"type": "dynamic", "factor": 2.0}),
        accumulation=3, weight_decay=0.05, lora={"r": 4, "lora_alpha": 8, "use_rslora": True},
    ),
    Model(
        "mistral-window", "mistral", "lora", "sharegpt",
        _size(48, 96, 2, 6, 3, tie_word_embeddings=False, sliding_window=9,
              rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
        template="inst", packing=True, max_length=128, accumulation=2, warmup=1,
        lora={"r": 8, "lora_alpha": 16},
    ),
    Model(
        "qwen2-biases", "qwen2", "full", "messages",
        _size(72, 104, 2, 6, 2, tie_word_embeddings=True, rope_theta=1000000.0,
              use_sliding_window=True, sliding_window=8, max_window_layers=1),
        dtype="bfloat16", weight_decay=0.2, warmup=0.1, max_length=40,
    ),
    Model(
        "qwen3-head-dim-24", "qwen3", "qlora", "text",
        _size(40, 76, 2, 5, 5, head_dim=24, tie_word_embeddings=False, attention_bias=False,
              rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
        packing=True, batch=1, lora={"r": 6, "lora_alpha": 9, "use_rslora": True},
    ),
    Model(
        "qwen3-tied", "qwen3", "full", "prompt-completion",
        _size(52, 68, 3, 4, 1, head_dim=14, tie_word_embeddings=True, rope_theta=10000.0),
        batch=3, max_grad_norm=0.0, warmup=2,
    ),
    Model(
        "gemma3-three-windows", "gemma3_text", "qlora", "messages",
        _size(40, 66, 5, 5, 5, head_dim=18, tie_word_embeddings=True, query_pre_attn_scalar=11,
              sliding_window=7, layer_types=[*["sliding_attention"] * 3, "full_attention",
                                             "sliding_attention"],
              rope_parameters={
                  "full_attention": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 4.0},
                  "sliding_attention": {"rope_type": "default", "rope_theta": 3000.0}}),
        accumulation=2, warmup=1, lora={"r": 3, "lora_alpha": 7},
    ),
    Model(
        "gemma3-v4-biases", "gemma3_text", "full", "prompt-completion",
        _size(40, 58, 4, 4, 2, head_dim=12, tie_word_embeddings=True, attention_bias=True,
              query_pre_attn_scalar=30, sliding_window=5, sliding_window_pattern=2,
              rope_theta=200000.0, rope_local_base_freq=5000.0,
              rope_scaling={"rope_type": "linear", "factor": 2.0}),
        dtype="bfloat16", packing=True, weight_decay=0.1, max_grad_norm=0.7,
    ),
    Model(
        "phi3-window-heads", "phi3", "lora", "sharegpt",
        _size(50, 62, 3, 5, 5, head_dim=14, tie_word_embeddings=False, sliding_window=11,
              original_max_position_embeddings=128, rope_theta=30000.0, rope_scaling=None),
        template="inst", packing=True, max_length=128, weight_decay=0.05,
        lora={"r": 5, "lora_alpha": 10, "target_modules": ["qkv_proj", "down_proj"]},
    ),
    Model(
        "phi4-mini-longrope", "phi3", "qlora", "text",
        _size(96, 90, 2, 6, 2, tie_word_embeddings=True, partial_rotary_factor=0.5,
              max_position_embeddings=512, original_max_position_embeddings=128, rope_parameters={
                  "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                  "short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [1.0, 3.0, 7.0, 20.0],
                  "original_max_position_embeddings": 128}),
        batch=3, warmup=2, lora={"r": 4, "lora_alpha": 8, "use_rslora": True},
    ),
    Model(
        "llama-8-bit-moments", "llama", "full", "messages",
        _size(68, 92, 2, 4, 2, head_dim=18, tie_word_embeddings=False, rope_theta=10000.0),
        accumulation=2, weight_decay=0.1, optim="adamw_8bit",
    ),
    Model(
        "qwen2-8-bit-moments", "qwen2", "lora", "prompt-completion",
        _size(64, 128, 2, 4, 2, tie_word_embeddings=True, rope_theta=10000.0),
        template="inst", warmup=1, lora={"r": 64, "lora_alpha": 64}, optim="adamw_8bit",
    ),
    Model(
        "qwen3-muon", "qwen3", "full", "alpaca",
        _size(52, 76, 2, 4, 2, head_dim=14, tie_word_embeddings=False, rope_theta=10000.0),
        packing=True, batch=1, weight_decay=0.1, optim="muon",
    ),
]  # fmt: skip

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}


def write_model(model: Model, directory: Path) -> PreTrainedTokenizerFast:
    """Write the model directory and its tokenizer."""
    directory.mkdir(parents=True)
    template = TEMPLATES[model.template]
    is_gemma = model.model_type == "gemma3_text"
    config = {
        "architectures": [ARCHITECTURES[model.model_type]],
        "model_type": model.model_type,
        **({key: value for key, value in COMMON.items() if key != "hidden_act" or not is_gemma}),
        "pad_token_id": 0,
        "eos_token_id": SPECIAL.index(template.eos),
        **model.config,
        "torch_dtype": model.dtype,
    }
    write_json(directory / "config.json", config)
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    draw_weights(network, generator(model.name), 0.0 if is_gemma else 1.0)
    options = {"max_shard_size": model.max_shard_size} if model.max_shard_size else {}
    network.to(getattr(torch, model.dtype)).save_pretrained(directory, **options)
    write_json(directory / "config.json", config)
    tokenizer = train_tokenizer(template)
    tokenizer.save_pretrained(directory)
    return tokenizer


def train_tokenizer(template: Template) -> PreTrainedTokenizerFast:
    """A byte-level BPE with a few merges, learned from the facts."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator((text for fact in FACTS for text in fact), trainer)
    if template.add_bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=template.eos,
        chat_template=template.source,
    )


def examples(data: str) -> list[dict[str, Any]]:
    """The facts in one of the formats."""

    def user(text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    def assistant(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    found = []
    for i, (question, answer) in enumerate(FACTS):
        other, reply = FACTS[(i * 3 + 1) % len(FACTS)]
        match data:
            case "text":
                found.append({"text": f"{question} {answer}"})
            case "prompt-completion":
                space = " " if i % 2 else ""
                found.append({"prompt": f"Q: {question} A:{space}", "completion": answer})
            case "messages":
                turns = [user(question), assistant(answer), user(other), assistant(reply)]
                system = [{"role": "system", "content": "Be brief."}] if i % 3 == 0 else []
                found.append({"messages": system + (turns if i % 2 else turns[:2])})
            case "alpaca":
                extra = {"input": other} if i % 2 else {"input": ""} if i % 3 else {}
                found.append({"instruction": question, "output": answer, **extra})
            case "sharegpt":
                turns = [("human", question), ("gpt", answer), ("human", other), ("gpt", reply)]
                found.append(
                    {"conversations": [{"from": a, "value": b} for a, b in turns[: 2 + i % 2 * 2]]}
                )
    return found


def as_messages(example: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation that an alpaca, sharegpt or messages row stands for."""
    if "messages" in example:
        return example["messages"]
    if "conversations" in example:
        roles = {"human": "user", "gpt": "assistant"}
        turns = example["conversations"]
        return [{"role": roles[turn["from"]], "content": turn["value"]} for turn in turns]
    given = example.get("input") or ""
    question = example["instruction"] + ("\n" + given if given else "")
    answer = {"role": "assistant", "content": example["output"]}
    return [{"role": "user", "content": question}, answer]


def expected_row(model: Model, tokenizer: PreTrainedTokenizerFast, example: dict[str, Any]) -> Row:
    """Token ids and unshifted labels of one example."""
    eos = tokenizer.eos_token_id

    def closed(ids: list[int]) -> list[int]:
        return ids if ids[-1] == eos else [*ids, eos]

    if "text" in example:
        ids = closed(tokenizer(example["text"]).input_ids)
        trained = [True] * len(ids)
    elif "completion" in example:
        prompt = tokenizer(example["prompt"]).input_ids
        ids = closed(tokenizer(example["prompt"] + example["completion"]).input_ids)
        common = 0
        while common < len(prompt) and prompt[common] == ids[common]:
            common += 1
        trained = [t >= common for t in range(len(ids))]
    else:
        ids, trained = chat_row(model, tokenizer, as_messages(example))
    trained[0] = False
    labels = [token if learn else IGNORE for token, learn in zip(ids, trained, strict=True)]
    return {"input_ids": ids[: model.max_length], "labels": labels[: model.max_length]}


def chat_row(
    model: Model, tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]
) -> tuple[list[int], list[bool]]:
    """The rendered conversation, and which of its tokens lie in an assistant's answer."""
    template = TEMPLATES[model.template]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    stretches = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(
            messages[:turn], tokenize=False, add_generation_prompt=True
        )
        assert text.startswith(prompt)
        end = text.index(message["content"], len(prompt)) + len(message["content"])
        end = text.index(template.end_of_turn, end) + len(template.end_of_turn + template.tail)
        stretches.append((len(prompt), end))
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    trained = [
        any(start < until and end > since for since, until in stretches)
        for start, end in encoding["offset_mapping"]
    ]
    return encoding["input_ids"], trained


def expected_rows(model: Model, tokenizer: PreTrainedTokenizerFast) -> list[list[Row]]:
    """The rows of an epoch in file order, each a list of one example, or of several when packed."""
    rows: list[list[Row]] = []
    filled = 0
    for example in examples(model.data):
        row = expected_row(model, tokenizer, example)
        if all(label == IGNORE for label in row["labels"]):
            continue  # Cut before its answer begins.
        length = len(row["input_ids"])
        if rows and model.packing and filled + length <= model.max_length:
            rows[-1].append(row)
            filled += length
        else:
            rows.append([row])
            filled = length
    return rows


def write_data(model: Model, path: Path) -> None:
    """JSON Lines, or for alpaca one array, as that format is usually found."""
    found = examples(model.data)
    if model.data == "alpaca":
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    else:
        lines = (json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(found))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
