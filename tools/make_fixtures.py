"""Write tests/fixtures: outside reference values from PyTorch, Transformers, PEFT, bitsandbytes.

    pip install -r tools/requirements.txt
    python tools/make_fixtures.py [GROUP ...]

Everything is drawn from fixed seeds on one CPU thread: running it again changes nothing on the
same machine. tests/fixtures/README.md documents the files.
"""

import argparse
import os
import shutil
from pathlib import Path

# Before torch is imported: one thread, no compiler, and no contact with a model hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from exact_nf4 import use_exact_nf4_decoding
from fixtures.adapters import write_adapters
from fixtures.families import FAMILIES, write_model
from fixtures.forms import write_forms
from fixtures.gguf import write_gguf
from fixtures.nf4 import write_nf4
from fixtures.ops import write_ops
from fixtures.optimizers import write_optimizers
from fixtures.references import write_reference
from fixtures.rendered import write_text
from fixtures.pieces import write_pieces
from fixtures.rope import write_rope
from fixtures.preferences import write_preferences
from fixtures.rows import write_rows
from fixtures.sampling import write_sampling
from fixtures.text import write_tokenizers
from fixtures.trajectories import write_trajectories
from optimizers import use_exact_muon

ROOT = Path(__file__).resolve().parent.parent / "tests" / "fixtures"


def models(root: Path) -> None:
    """models/<family>: a tiny model and its references."""
    for family in FAMILIES:
        write_model(family, root / family.name)
        write_reference(family, root / family.name)


def trajectories(root: Path) -> None:
    """trajectories/<family>: ten steps of every training mode. Needs `models`."""
    for family in FAMILIES:
        if family.trajectory:
            write_trajectories(family, ROOT / "models" / family.name, root / family.name)


def preferences(root: Path) -> None:
    """preferences: ten steps of TRL's trainers. Needs `models` and `trajectories`."""
    write_preferences(ROOT / "models", ROOT / "trajectories", root)


def nf4(root: Path) -> None:
    """nf4: quantized vectors and bitsandbytes checkpoints. Needs `models`."""
    write_nf4(ROOT / "models", root)


# Each writes the folder of its name.
GROUPS = {
    "models": models,
    "trajectories": trajectories,
    "preferences": preferences,
    "adapters": write_adapters,
    "nf4": nf4,
    "rope": write_rope,
    "ops": write_ops,
    "optimizers": write_optimizers,
    "sampling": write_sampling,
    "tokenizers": write_tokenizers,
    "text": write_text,
    "forms": write_forms,
    "pieces": write_pieces,
    "rows": write_rows,
    "gguf": write_gguf,
}


def main() -> None:
    """Write the groups named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    args = parser.parse_args()
    unknown = set(args.groups) - set(GROUPS)
    if unknown:
        parser.error(f"unknown group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    use_exact_nf4_decoding()
    use_exact_muon()
    for name in args.groups or GROUPS:
        shutil.rmtree(ROOT / name, ignore_errors=True)
        GROUPS[name](ROOT / name)


if __name__ == "__main__":
    main()
