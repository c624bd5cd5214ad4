"""One training loop for all networks: epochs, curves, checkpoints, resume, best epoch.

Seeds are recorded, and the order of batches depends only on the seed and the epoch, so that a resumed run sees
what an uninterrupted one would have seen.
"""

from __future__ import annotations

import csv
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from calcium.errors import SettingsError
from models.memory import keep_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
CURVES = "curves.csv"


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How a network is trained; recorded beside its checkpoint.

    Parameters
    ----------
    epochs
        Passes over the training set.
    learning_rate
        Of Adam with decay rates 0.9 and 0.999 (paper, section "Method").
    seed
        Of initial weights, order and augmentation.
    schedule
        ``constant`` (the paper) or ``cosine`` (a short warm-up, then down to a hundredth).
    weight_decay
        Of AdamW; 0 is plain Adam (the paper).
    device
        ``cpu`` or ``cuda``.
    mixed_precision
        float16 on a GPU; bfloat16 on a CPU that has instructions for it (five times as fast there).
    clip_norm
        Gradients are scaled down to this norm; 0 for no limit (the paper).
    average
        Decay per step of an exponential moving average of the weights, which is what is validated and kept;
        0 for the last weights themselves (the paper).
    keep
        Whose weights the training gives: of the ``best`` epoch by validation (the paper), or of the ``last``.
    """

    epochs: int
    learning_rate: float = 0.01
    seed: int = 1
    schedule: str = "constant"
    weight_decay: float = 0.0
    device: str = "cpu"
    mixed_precision: bool = True
    clip_norm: float = 0.0
    average: float = 0.0
    keep: str = "best"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise SettingsError(f"--epochs must be at least 1, not {self.epochs}")
        if self.schedule not in ("constant", "cosine"):
            raise SettingsError(f"schedule must be constant or cosine, not {self.schedule}")
        if self.keep not in ("best", "last"):
            raise SettingsError(f"keep must be best or last, not {self.keep}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("--device cuda: torch finds no CUDA device; use --device cpu")


class Curves:
    """Writes a row of figures for each epoch: a CSV file, and TensorBoard where it is installed."""

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self._path = folder / CURVES
        if not resume:
            self._path.unlink(missing_ok=True)
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an optional library)

            self._board: Any = SummaryWriter(str(folder / "tensorboard"))
        except ImportError:
            self._board = None

    def add(self, epoch: int, figures: dict[str, float]) -> None:
        """Append one epoch's figures."""
        new = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["epoch", *figures])
            writer.writerow([epoch, *(f"{value:.6g}" for value in figures.values())])
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Flush what TensorBoard holds back."""
        if self._board is not None:
            self._board.close()


def rate_at(options: LoopOptions, progress: float) -> float:
    """Return the learning rate at `progress` (0..1) of the whole training."""
    if options.schedule == "constant":
        return options.learning_rate
    warm_up = 0.03
    if progress < warm_up:
        return options.learning_rate * max(progress / warm_up, 0.02)
    cosine = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (progress - warm_up) / (1 - warm_up)))))
    return options.learning_rate * max(cosine, 0.01)


def half_precision(options: LoopOptions) -> torch.dtype | None:
    """Return the shorter number format to train in, or None for float32 throughout."""
    if not options.mixed_precision:
        return None
    if options.device == "cuda":
        return torch.float16
    # Elsewhere torch emulates bfloat16, at half the speed of float32.
    able = any(has is True for name, has in torch.cpu.get_capabilities().items() if "bf16" in name)
    return torch.bfloat16 if able else None


def fit(
    network: nn.Module,
    batches: Callable[[int], Iterable[Any]],
    loss_of: Callable[[nn.Module, Any], dict[str, Tensor]],
    validate: Callable[[nn.Module], dict[str, float]],
    *,
    options: LoopOptions,
    folder: Path,
    steps_per_epoch: int,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train `network` in place, leave it at its best or last epoch, and return the record of the training.

    Parameters
    ----------
    network
        To train; its weights are the start unless `resume` finds a checkpoint.
    batches
        Epoch number -> batches; depends on nothing but the epoch (and a seed of its own).
    loss_of
        (network, batch) -> named losses; ``loss`` is minimised, the others are only recorded.
    validate
        network -> named figures; the epoch with the lowest ``validation`` is the best (paper: the error on the
        validation set).
    options
        See LoopOptions.
    folder
        Where checkpoint, best weights and curves are written after every epoch.
    steps_per_epoch
        Batches in an epoch, for progress and schedule.
    resume
        Go on from the checkpoint in `folder` where there is one.
    progress
        Show a bar.

    Returns
    -------
    dict
        Options, the kept epoch and its figures (``best``), seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keep_memory(all_of_it=True)
    device = torch.device(options.device)
    network.to(device)
    # AdamW without decay is Adam.
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, betas=(0.9, 0.999), weight_decay=options.weight_decay
    )
    half = half_precision(options)
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    averaged = {name: value.detach().clone() for name, value in network.state_dict().items()}
    first, best, seconds = 1, {"epoch": 0, "validation": float("inf")}, 0.0
    checkpoint = folder / CHECKPOINT
    resume = resume and checkpoint.exists()
    if resume:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["options"]["seed"] != options.seed:
            raise SettingsError(
                f"{checkpoint} was made with seed {state['options']['seed']}, not {options.seed}"
            )
        network.load_state_dict(state["network"])
        averaged = state["averaged"]
        optimizer.load_state_dict(state["optimizer"])
        first, best, seconds = state["epoch"] + 1, state["best"], state["seconds"]
    curves = Curves(folder, resume=resume)
    for epoch in range(first, options.epochs + 1):
        started = time.monotonic()
        torch.manual_seed(options.seed * 100_003 + epoch)
        network.train()
        sums: dict[str, float] = {}
        steps = 0
        bar = tqdm(
            batches(epoch), total=steps_per_epoch, desc=f"epoch {epoch}", disable=not progress, mininterval=5
        )
        for batch in bar:
            rate = rate_at(options, (epoch - 1 + steps / max(1, steps_per_epoch)) / options.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=half, enabled=half is not None):
                losses = loss_of(network, batch)
            scaler.scale(losses["loss"]).backward()  # type: ignore[no-untyped-call]
            if options.clip_norm > 0:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            steps += 1
            _average(averaged, network, options.average, (epoch - 1) * max(1, steps_per_epoch) + steps)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            bar.set_postfix(loss=sums["loss"] / steps)
        last = {name: value.detach().clone() for name, value in network.state_dict().items()}
        network.load_state_dict(averaged)
        network.eval()
        figures = {f"train_{name}": value / max(1, steps) for name, value in sums.items()} | validate(network)
        seconds += time.monotonic() - started
        figures["seconds"] = time.monotonic() - started
        curves.add(epoch, figures)
        logger.info("epoch %d: %s", epoch, {name: round(value, 5) for name, value in figures.items()})
        if options.keep == "last" or figures["validation"] < best["validation"]:
            best = {"epoch": epoch, **figures}
            torch.save(averaged, folder / BEST)
        network.load_state_dict(last)
        partial = checkpoint.with_suffix(".partial")
        torch.save(
            {
                "network": last,
                "averaged": averaged,
                "optimizer": optimizer.state_dict(),
                "epoch": epoch,
                "best": best,
                "options": asdict(options),
                "seconds": seconds,
            },
            partial,
        )
        partial.replace(checkpoint)
    curves.close()
    if (folder / BEST).exists():
        network.load_state_dict(torch.load(folder / BEST, map_location=device, weights_only=True))
    network.eval()
    record = {
        "options": asdict(options),
        "best": best,
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def _average(averaged: dict[str, Tensor], network: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the current weights; young averages follow faster."""
    decay = min(decay, step / (10 + step)) if decay > 0 else 0.0
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point and decay > 0:
                averaged[name].lerp_(value, 1 - decay)
            else:
                averaged[name].copy_(value)
