"""The optimizers of a training step by their names in Transformers, from PyTorch and bitsandbytes."""

import inspect
from collections.abc import Iterable

import torch
from torch.optim import _muon

Groups = list[dict]


def use_exact_muon() -> None:
    """Let torch.optim.Muon orthogonalize in the dtype of the gradient instead of in bfloat16.

    The function is PyTorch's own but for that dtype: its text is read, changed and run.
    """
    source = inspect.getsource(_muon._zeropower_via_newtonschulz)
    changed = source.replace("torch.bfloat16", "grad.dtype")
    if "grad.dtype" in source or changed == source:
        raise RuntimeError("torch.optim.Muon is not as expected")
    exec(changed, vars(_muon))


class Together:
    """Several optimizers as one, each with a schedule of its own, which step alike."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]):
        """In the order of their steps."""
        self.optimizers = list(optimizers)

    def step(self) -> None:
        """Step each."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)


class Schedules:
    """The schedules of `Together`; they have one learning rate."""

    def __init__(self, schedules: Iterable[torch.optim.lr_scheduler.LRScheduler]):
        """One for each optimizer."""
        self.schedules = list(schedules)

    def step(self) -> None:
        """Step each."""
        for schedule in self.schedules:
            schedule.step()

    def get_last_lr(self) -> list[float]:
        """Of the first."""
        return self.schedules[0].get_last_lr()


def adamw(optim: str, groups: Groups, **options: object) -> torch.optim.Optimizer:
    """AdamW of that name over parameter groups."""
    if optim == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **options)
    return torch.optim.AdamW(groups, **options)


def muon(matrices: list[torch.nn.Parameter], learning_rate: float, decay: float) -> torch.optim.Optimizer:
    """Muon for the learning rate of an AdamW beside it."""
    return torch.optim.Muon(
        matrices, lr=learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
    )
