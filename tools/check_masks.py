"""Compare what carries loss with the marks of templates that are made for training.

    cargo build --release && python tools/check_masks.py [--program PATH] [--only NAME ...] [--shown]

TRL brings many chat templates twice: as their models have them, and with `{% generation %}` marks. Rows of
many forms are shown to `train --preview` under the first; where both write the same text, the tokens that
carry loss must be those that Transformers marks under the second, but for the white space behind an end of
turn, which is learned here whether it is marked or not. Prints a line per template; exits with 1 if any
differs, and where an answer is refused that the marks have.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import trl
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fixtures.rendered import TOOLS

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
ENDS = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|return|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<|user|>", "</s>"]  # fmt: skip
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 4096,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": True,
}  # fmt: skip


def _call(arguments: Any) -> dict[str, Any]:
    return {"id": "abcdef123", "type": "function", "function": {"name": "find_flight", "arguments": arguments}}


def rows() -> list[dict[str, Any]]:
    """Conversations of every form."""

    def say(*texts: str, **more: Any) -> list[dict[str, Any]]:
        turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]
        turns[-1] |= more
        return turns

    thinks = ["<think>\nEasy.\n</think>\n\n4", "<think>\nTwo threes.\n</think>\n\n6"]
    called = [{"role": "user", "content": "Fly!"}, {"role": "assistant", "content": "", "tool_calls": [_call({"from": "A", "n": 2})]}]
    result = {"role": "tool", "content": '{"found": 2}', "tool_call_id": "abcdef123", "name": "find_flight"}
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    return [
        {"messages": say("hi", "yes")},
        {"messages": say("hi", "yes"), **off},
        {"messages": say("a", "b", "c", "d")},
        {"messages": say("a", "b", "c", "d", "e", "f"), **off},
        {"messages": [{"role": "system", "content": "S"}, *say("yes", "yes", "yes", "yes", "no?")]},
        {"messages": say("2 + 2?", thinks[0], "3 + 3?", thinks[1])},
        {"messages": say("2 + 2?", "4", "3 + 3?", "6", reasoning_content="Two threes.")},
        {"messages": say("2 + 2?", "4", reasoning="Twos.") + say("3 + 3?", "6", thinking="Two threes."), **off},
        {"messages": [*called, result, {"role": "assistant", "content": "Two."}], "tools": TOOLS},
        {"messages": [*called, result, *say("Two.", "x")[:0], {"role": "assistant", "content": "Two."}, *say("And?", "No.")], "tools": TOOLS},
        {"messages": say("a", "b", "c", "d"), "tools": TOOLS},
        {"messages": say(" a\n", "<b>\n x </b>", "<think>", " y\n")},
        {"messages": [{"role": "assistant", "content": "Hello!"}, *say("a", "b")]},
        {"messages": say("Größe", "naïve 你好 🙂", "c", "12 * 12 = 144")},
    ]  # fmt: skip


def lay_out(directory: Path, source: str) -> PreTrainedTokenizerBase:
    """A model directory with the template and a tokenizer that has its special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "tests/fixtures/tokenizers/qwen3", local_files_only=True)
    marks = re.findall(r"<[|｜]?[A-Za-z_▁]+[|｜]?>|\[/?[A-Z_]+\]|</s>", source)
    special = sorted({mark for mark in marks if "end_of" in mark or mark[1] in "|｜" or mark[-2] in "|｜" or "turn" in mark or mark == "</s>" or mark[0] == "["})
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(m, special=True, normalized=False) for m in special]})
    tokenizer.eos_token = next((end for end in ENDS if end in source), "<|im_end|>")
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = source
    tokenizer.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tokenizer


def marked(tokenizer: PreTrainedTokenizerBase, source: str, row: dict[str, Any]) -> tuple[str, list[int], list[int]]:
    """Text, ids and mask that Transformers gives."""
    given = {"chat_template": source, "tools": row.get("tools"), **row.get("chat_template_kwargs", {})}
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False, **given)
    out = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True, **given)
    return text, out["input_ids"], out["assistant_masks"]


def shown(program: str, directory: Path, row: dict[str, Any]) -> dict[str, Any] | str:
    """What `train --preview` shows of a row, or what it says against it."""
    data = directory / "row.jsonl"
    data.write_text(json.dumps(row) + "\n", encoding="utf-8")
    command = [program, "--model", directory, "--data", data, "--set", "init=random", "--set", "data.max_length=4096", "--set", "output_dir=" + str(directory / "run"), "--preview", "1", "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip()


def stretches(tokenizer: PreTrainedTokenizerBase, ids: list[int], mask: list[int]) -> list[str]:
    """The texts that are learned."""
    found, current = [], []
    for token, learned in [*zip(ids, mask, strict=True), (0, 0)]:
        if learned:
            current.append(token)
        elif current:
            found.append(tokenizer.decode(current))
            current = []
    return found


def compare(learned: list[str], expected: list[str]) -> str:
    """Whether the same is learned, or the same from a later place on: some marks hold the opening of a turn."""
    # Some templates end the whole text with one more token, behind the turn.
    ends = [re.sub(r"(<\|end\|>)\s*<\|end\|>$", r"\1", text.rstrip()) for text in expected]
    starts = [text.rstrip() for text in learned]
    if starts == ends:
        return "same"
    later = len(starts) == len(ends) and all(end.endswith(start) for start, end in zip(starts, ends, strict=True))
    return "begins later" if later else "DIFFERENT"


def main() -> None:
    """Compare all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default=str(ROOT / "target/release/train"))
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--shown", action="store_true", help="print what agrees, too")
    args = parser.parse_args()
    wrong = 0
    for path in sorted(TEMPLATES.glob("*_training.jinja")):
        name = path.name.removesuffix("_training.jinja")
        if args.only and name not in args.only:
            continue
        source, training = path.with_name(f"{name}.jinja").read_text(), path.read_text()
        counts: dict[str, int] = {}
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = lay_out(Path(folder), source)
            shows = tokenizer.apply_chat_template(rows()[0]["messages"], tokenize=False)
            for row in rows():
                try:
                    text, ids, mask = marked(tokenizer, training, row)
                    own = tokenizer.apply_chat_template(row["messages"], tokenize=False, tools=row.get("tools"), **row.get("chat_template_kwargs", {}))
                except Exception:
                    continue
                # Some write contents only if they are lists.
                if text != own or "yes" not in shows:
                    counts["another text"] = counts.get("another text", 0) + 1
                    continue
                found = shown(args.program, Path(folder), row)
                expected = stretches(tokenizer, ids, mask)
                if isinstance(found, str):
                    verdict, what = "refused", found[-300:]
                else:
                    learned = stretches(tokenizer, found["input_ids"], [label != -100 for label in found["labels"]])
                    verdict, what = compare(learned, expected), f"{found['masks']} {learned}"
                    if found["input_ids"] != ids:
                        verdict, what = "OTHER TOKENS", tokenizer.decode(found["input_ids"])
                counts[verdict] = counts.get(verdict, 0) + 1
                if verdict != "same" or args.shown:
                    print(f"  {verdict}: {text!r:.300}\n    marked {expected}\n    here   {what}")
        wrong += sum(count for verdict, count in counts.items() if verdict not in ("same", "begins later", "another text"))
        print(name, counts)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
