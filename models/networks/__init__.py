"""The networks, one readable file each, and the table that finds them by the name in a weights manifest."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from calcium.errors import WeightsError
from models.networks.localizer import SliceClassifier, SliceClassifierConfig
from models.networks.regressor import Regressor, RegressorConfig
from models.networks.weigher import Weigher, WeigherConfig

if TYPE_CHECKING:
    from torch import nn

# architecture name in the manifest -> (network, its configuration)
ARCHITECTURES: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "slice_classifier": (SliceClassifier, SliceClassifierConfig),
    "regressor": (Regressor, RegressorConfig),
    "weigher": (Weigher, WeigherConfig),
}


def build(architecture: str, config: dict[str, Any]) -> nn.Module:
    """Return an untrained network.

    Parameters
    ----------
    architecture
        A key of ARCHITECTURES.
    config
        Fields of its configuration; absent ones take their default, lists become tuples.

    Raises
    ------
    WeightsError
        Unknown architecture or field.
    """
    if architecture not in ARCHITECTURES:
        raise WeightsError(f"unknown architecture {architecture!r}; known are {', '.join(ARCHITECTURES)}")
    network, config_type = ARCHITECTURES[architecture]
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    try:
        return network(config_type(**values))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{architecture} does not take the configuration {config}: {error}") from error


def describe(network: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return (architecture name, configuration as plain JSON) of a network made by `build`."""
    for name, (kind, _) in ARCHITECTURES.items():
        if type(network) is kind:
            config = asdict(network.config)  # type: ignore[call-overload]
            return name, {
                key: list(value) if isinstance(value, tuple) else value for key, value in config.items()
            }
    raise WeightsError(f"{type(network).__name__} is not in the table of architectures")
