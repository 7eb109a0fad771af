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

# Before torch is imported: one thread, and no contact with a model hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from fixtures.families import FAMILIES, write_model
from fixtures.references import write_reference
from fixtures.trajectories import write_trajectories

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


GROUPS = {f.__name__: f for f in (models, trajectories)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    args = parser.parse_args()
    unknown = set(args.groups) - set(GROUPS)
    if unknown:
        parser.error(f"unknown group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in args.groups or GROUPS:
        shutil.rmtree(ROOT / name, ignore_errors=True)
        GROUPS[name](ROOT / name)


if __name__ == "__main__":
    main()
