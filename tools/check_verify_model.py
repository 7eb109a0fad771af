"""Runs `verify --model --python` on the small models of tests/fixtures, and the script that it prints.

    python tools/check_verify_model.py PROGRAM [--write]

PROGRAM is the directory of the built programs, such as target/release. With --write, what Transformers and
PEFT compute is kept in tests/fixtures/gradients.
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/fixtures"
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3"]


def main():
    programs, write = pathlib.Path(sys.argv[1]), "--write" in sys.argv
    failed = []
    for name in FAMILIES:
        model = FIXTURES / "models" / name
        verify = [programs / "verify", "--device", "cpu", "--quiet", "--python", "--model", model]
        script = subprocess.run(verify, check=True, capture_output=True, text=True).stdout
        if write:
            found = subprocess.run(
                [sys.executable, "-", "--json"], input=script, check=True, capture_output=True, text=True
            )
            path = FIXTURES / "gradients" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(found.stdout.splitlines()[-1] + "\n")
        ran = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True)
        print(f"{name}: {'agrees' if ran.returncode == 0 else 'DIFFERS'}")
        if ran.returncode:
            failed.append(name)
            print(ran.stdout, ran.stderr)
    sys.exit(f"these differ: {', '.join(failed)}" if failed else 0)


main()
