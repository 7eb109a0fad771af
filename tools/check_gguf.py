"""Load exported GGUF files in llama.cpp and compare them with Transformers.

    python tools/check_gguf.py PROGRAM [MODEL_DIR ...]

PROGRAM is the installed `tunesmith`. Small random models of every family, RoPE type and kind of
tokenizer are made, exported and compared, and so is every MODEL_DIR. Needs xllamacpp (llama.cpp
as a wheel) besides the packages of requirements.txt. Prints a JSON line per model and exits with 1
where token ids or the log-probabilities of a next token differ.
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
import xllamacpp
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

TOKENIZERS = Path(__file__).resolve().parent.parent / "tests/fixtures/tokenizers"
TEXTS = ["Once upon a time", "It's 12345 o'clock,\n\n  isn't  it? Größe 数", "a<|im_end|>b"]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "vocab_size": 416,
    "initializer_range": 0.3,
    "rms_norm_eps": 1e-5,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# How GPT-4o's tokenizer splits text, and with it Phi-4-mini's.
_WORD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_END = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
O200K = (
    rf"{_WORD}*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{_END}"
    rf"{_WORD}+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{_END}"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# A window within the texts, and the sixth layer has none.
GEMMA3 = {
    "num_hidden_layers": 7,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 6,
    "pad_token_id": 0,
}
PHI3 = {
    "num_key_value_heads": 4,
    "original_max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES = {
    "llama": ("llama", "chatml", {}),
    "llama-head-dim": ("llama", "chatml", {"head_dim": 32}),
    "llama-biases": ("llama", "chatml", {"attention_bias": True, "mlp_bias": True}),
    "llama3": ("llama", "llama3", {"rope_scaling": LLAMA3}),
    "llama-linear": ("llama", "llama3", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "llama-yarn": ("llama", "llama3", {"rope_scaling": YARN}),
    "llama-yarn-scaled": ("llama", "llama3", {"rope_scaling": YARN | {"attention_factor": 0.7}}),
    "mistral": ("mistral", "llama3", {"sliding_window": None}),
    "qwen2": ("qwen2", "qwen3", {"tie_word_embeddings": True}),
    "qwen2-yarn": ("qwen2", "qwen3", {"rope_scaling": YARN}),
    "qwen3": ("qwen3", "qwen3", {"head_dim": 32}),
    "gemma3": ("gemma3_text", "chatml", GEMMA3),
    "gemma3-pattern": (
        "gemma3_text",
        "chatml",
        GEMMA3
        | {
            "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    # (llama.cpp asks a file with "phi3" in its name for special tokens of Phi-3.)
    "fused": ("phi3", "chatml", PHI3),
    "fused-longrope": (
        "phi3",
        "chatml-o200k",
        PHI3
        | {
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            # llama.cpp's smallest context, by which it chooses the short factors.
            "original_max_position_embeddings": 256,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "short_factor": [1.0, 1.1, 1.3, 1.6],
                "long_factor": [1.0, 2.0, 4.0, 8.0],
            },
        },
    ),
}


def make(directory: Path, family: str, tokenizer: str, settings: dict) -> None:
    """Write a random model with one of the tokenizers of the tests."""
    torch.manual_seed(len(str(settings)))
    config = AutoConfig.for_model(family, **(SIZES | settings))
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    for path in (TOKENIZERS / tokenizer.removesuffix("-o200k")).glob("tokenizer*.json"):
        shutil.copy(path, directory)
    if tokenizer.endswith("-o200k"):
        path = directory / "tokenizer.json"
        content = json.loads(path.read_text())
        split = {
            "type": "Split",
            "pattern": {"Regex": O200K},
            "behavior": "Removed",
            "invert": True,
        }
        as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
        parts = [split, as_bytes | {"trim_offsets": True}]
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
        path.write_text(json.dumps(content))


def server(path: Path) -> xllamacpp.Server:
    """llama.cpp with the file loaded, on the CPU, attention and cache in float32."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 128
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = False
    params.fit_params = False
    params.verbosity = -1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


def answer(
    llama: xllamacpp.Server, prompt: str | list[int], count: int, never: list[int]
) -> tuple[int, list]:
    """How many tokens the prompt has, and the likeliest tokens of a greedy continuation."""
    request = {
        "prompt": prompt,
        "n_predict": count,
        "temperature": 0,
        "n_probs": 20,
        "cache_prompt": False,
        "logit_bias": [[token, False] for token in never],
    }
    found = llama.handle_completions(request)
    if "error" in found:
        raise RuntimeError(found["error"])
    return found["usage"]["prompt_tokens"], found["choices"][0]["logprobs"]["content"]


def check(program: str, directory: Path, work: Path) -> dict:
    """Export one model and compare it."""
    path = work / f"{directory.name}.gguf"
    command = [program, "export", "--model", directory, "--to", "gguf", "--output", path]
    subprocess.run([*command, "--dtype", "float32", "--quiet"], check=True)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    # As the file says: Transformers builds some families' tokenizers anew.
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    llama = server(path)
    # llama.cpp stops at some special tokens, and reports no part of a character.
    special = set(tokenizer.get_added_tokens_decoder())
    texts = [tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size())]
    plain = {token for token, text in enumerate(texts) if text and text.isascii()}
    never = sorted(set(range(model.config.vocab_size)) - (plain - special))
    same_ids, same_tokens, worst = True, True, 0.0
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        length, by_text = answer(llama, text, 1, never)
        _, by_ids = answer(llama, ids, 24, never)
        first, again = by_text[0], by_ids[0]
        same_ids &= length == len(ids) and first["id"] == again["id"]
        same_ids &= abs(first["logprob"] - again["logprob"]) < 1e-4
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            tokens = model.generate(
                torch.tensor([ids]), max_new_tokens=24, do_sample=False, suppress_tokens=never
            )[0, len(ids) :].tolist()
        same_tokens &= [token["id"] for token in by_ids] == tokens
        for candidate in again["top_logprobs"]:
            worst = max(worst, abs(candidate["logprob"] - expected[candidate["id"]].item()))
    passed = same_ids and same_tokens and worst < 1e-2
    return {
        "model": directory.name,
        "same_ids": same_ids,
        "same_greedy_tokens": same_tokens,
        "max_logprob_difference": worst,
        "passed": passed,
    }


def main() -> int:
    """Check every case; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", help="the tunesmith program")
    parser.add_argument("models", nargs="*", type=Path, help="further model directories")
    args = parser.parse_args()
    passed = True
    with tempfile.TemporaryDirectory() as work:
        directories = list(args.models)
        for name, (family, tokenizer, settings) in CASES.items():
            directory = Path(work) / name
            make(directory, family, tokenizer, settings)
            directories.append(directory)
        for directory in directories:
            result = check(args.program, directory.resolve(), Path(work))
            print(json.dumps(result), flush=True)
            passed &= result["passed"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
