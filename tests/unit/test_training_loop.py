"""The training loop: it learns, keeps its best epoch, and goes on as if it had never stopped."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from calcium.errors import SettingsError
from models.training.loop import LoopOptions, fit, half_precision, rate_at


def _batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(10):
        x = torch.randn(32, 3, generator=generator)
        yield x, x @ torch.tensor([[1.0], [-2.0], [0.5]])


def _losses(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {"loss": (network(batch[0]) - batch[1]).abs().mean()}


def _validate(network: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        return {"validation": float(_losses(network, next(_batches(10_000)))["loss"])}


def _network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(3, 1)


def _fit(network: nn.Module, folder: Path, epochs: int, **options) -> dict:
    loop = LoopOptions(epochs, mixed_precision=False, **options)
    return fit(
        network, _batches, _losses, _validate,
        options=loop, folder=folder, steps_per_epoch=10, resume=True, progress=False,
    )  # fmt: skip


def test_the_loop_learns_and_writes_its_curves(tmp_path: Path):
    network = _network()
    before = _validate(network)["validation"]
    record = _fit(network, tmp_path, 15, learning_rate=0.05)
    assert record["best"]["validation"] < before / 5
    assert _validate(network)["validation"] == pytest.approx(record["best"]["validation"])
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 16)]
    assert min(float(row["validation"]) for row in rows) == pytest.approx(
        record["best"]["validation"], rel=1e-4
    )


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path, average: float):
    whole, parts = _network(), _network()
    _fit(whole, tmp_path / "whole", 6, average=average, weight_decay=1e-3)
    _fit(parts, tmp_path / "parts", 3, average=average, weight_decay=1e-3)
    _fit(_network(), tmp_path / "parts", 6, average=average, weight_decay=1e-3)
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts")]
    for name, value in states[0]["network"].items():
        assert torch.allclose(value, states[1]["network"][name])
    assert states[0]["best"]["validation"] == pytest.approx(states[1]["best"]["validation"])


@pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 4)])
def test_the_best_or_the_last_epoch_is_kept(tmp_path: Path, keep: str, epoch: int):
    errors, seen, network = iter([3.0, 1.0, 2.0, 4.0]), {}, _network()

    def validate(net: nn.Module) -> dict[str, float]:
        seen[len(seen) + 1] = {name: value.clone() for name, value in net.state_dict().items()}
        return {"validation": next(errors)}

    record = fit(
        network, _batches, _losses, validate,
        options=LoopOptions(4, mixed_precision=False, keep=keep), folder=tmp_path, steps_per_epoch=10,
        progress=False,
    )  # fmt: skip
    assert record["best"]["epoch"] == epoch
    kept = torch.load(tmp_path / "best.pt", weights_only=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, seen[epoch][name])
        assert torch.equal(value, kept[name])


def test_another_seed_does_not_resume(tmp_path: Path):
    _fit(_network(), tmp_path, 1)
    with pytest.raises(SettingsError, match="seed 1"):
        _fit(_network(), tmp_path, 2, seed=5)


def test_the_rate_is_constant_as_in_the_paper_or_falls(tmp_path: Path):
    assert {rate_at(LoopOptions(50), at / 10) for at in range(10)} == {0.01}
    cosine = LoopOptions(50, schedule="cosine")
    assert rate_at(cosine, 0.0) < rate_at(cosine, 0.03)
    assert rate_at(cosine, 0.5) > rate_at(cosine, 0.9) >= 0.0001


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, None),  # torch would emulate it, slowly
        ({"avx2": True}, None),
    ],
)
def test_bfloat16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype | None
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert half_precision(LoopOptions(1)) is expected
    assert half_precision(LoopOptions(1, mixed_precision=False)) is None


def test_wrong_options_are_refused():
    with pytest.raises(SettingsError):
        LoopOptions(0)
    with pytest.raises(SettingsError):
        LoopOptions(1, schedule="steps")
    with pytest.raises(SettingsError, match="keep"):
        LoopOptions(1, keep="first")
