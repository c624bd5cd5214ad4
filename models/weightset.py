"""A set of weights: a folder of safetensors files and ``manifest.json``, which names what to build from them.

The manifest chooses the scorer: its ``networks`` name architecture, configuration and files, found in
models.networks.ARCHITECTURES. Every file's SHA-256 stands in it; what differs is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from calcium.errors import WeightsError
from models.networks import build, describe
from models.networks.weigher import Weigher
from models.results import WeightsIdentity
from models.training.calibration import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BUNDLED = Path(__file__).parent / "weights"
DEFAULT = "default"
MANIFEST = "manifest.json"
FORMAT = 1
LOCALIZERS = ("axial", "coronal", "sagittal")
# roles of a scorer: one weigher gives both scores; regressors give one each
SCORERS = (("weigher",), ("agatston", "volume"))


@dataclass(frozen=True, eq=False)
class WeightSet:
    """Networks ready to use, and what is known of them.

    Parameters
    ----------
    identity
        Name, version, sha256 of the whole set, training data.
    networks
        role -> members of its ensemble (one or more), in evaluation mode, on the CPU. Roles: ``axial``,
        ``coronal``, ``sagittal``, and ``weigher`` or ``agatston`` and ``volume``.
    localizer
        Settings of models.heart.LocalizerConfig; absent ones take their default.
    calibration
        How far predicted totals lie from reference ones, or None.
    manifest
        As read.
    """

    identity: WeightsIdentity
    networks: dict[str, tuple[nn.Module, ...]]
    localizer: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def scorer(self) -> str:
        """Architecture of the scorer: ``weigher`` or ``regressor``."""
        return "weigher" if "weigher" in self.networks else "regressor"


def bundled() -> tuple[str, ...]:
    """Return the names of the bundled sets, without ``default``."""
    return tuple(sorted(path.parent.name for path in BUNDLED.glob(f"*/{MANIFEST}")))


def find(name: str | Path | None) -> Path:
    """Return the folder of a set of weights.

    Parameters
    ----------
    name
        A folder, or the name of a bundled set; None, empty or ``default``: what
        ``models/weights/default.json`` names.

    Raises
    ------
    WeightsError
        There is no such set.
    """
    if name is None or str(name) in ("", DEFAULT):
        pointer = BUNDLED / f"{DEFAULT}.json"
        if not pointer.is_file():
            raise WeightsError(
                "this installation has no bundled default weights; set AGATSTON_WEIGHTS to a folder"
            )
        name = str(json.loads(pointer.read_text(encoding="utf-8"))["folder"])
    for folder in (Path(name).expanduser(), BUNDLED / name):
        if (folder / MANIFEST).is_file():
            return folder
    raise WeightsError(
        f"no weights at {name}: AGATSTON_WEIGHTS takes a folder with {MANIFEST} or one of "
        f"{', '.join((DEFAULT, *bundled()))}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_all(networks: Mapping[str, Any], extra: Sequence[Any]) -> str:
    """Return one digest of all files, architectures, configurations and settings of a set."""
    canonical = json.dumps([networks, *extra], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def save_weights(
    folder: Path,
    networks: Mapping[str, Sequence[nn.Module]],
    *,
    name: str,
    version: str,
    training_data: str,
    date: str,
    attribution: Sequence[str] = (),
    figures: Mapping[str, Any] | None = None,
    localizer: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    validated_by_site: bool = False,
) -> str:
    """Write a set of weights and return its sha256.

    Parameters
    ----------
    folder
        Made where absent; the manifest is written last.
    networks
        role -> members of its ensemble; see WeightSet. All of LOCALIZERS, and one of SCORERS.
    name, version, date
        Of the set; the date in ISO form.
    training_data
        In words: ``simulated``, ``simulated and real anatomy``, or a site's own.
    attribution
        Lines that the licences of the training data ask for.
    figures
        What was measured, as plain JSON; above ``noise_limit_hu``, the highest noise in the heart that the
        networks were trained on, results carry a caution.
    localizer
        Settings of models.heart.LocalizerConfig.
    calibration
        From models.training.calibration.fit on validation scans.
    validated_by_site
        A site declares its own validation.
    """
    _check_roles(networks)
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Any] = {}
    for role, members in networks.items():
        architecture, config = describe(members[0])
        files = {}
        for number, member in enumerate(members):
            if describe(member) != (architecture, config):
                raise WeightsError(f"the members of {role} differ in architecture or configuration")
            path = folder / f"{role}{f'-{number}' if len(members) > 1 else ''}.safetensors"
            state = {key: value.detach().cpu().contiguous() for key, value in member.state_dict().items()}
            safetensors.torch.save_file(state, path)
            files[path.name] = _sha256(path)
        entries[role] = {"architecture": architecture, "config": config, "files": files}
    settings = dict(localizer or {})
    intervals = calibration.as_json() if calibration else None
    sha256 = _sha256_of_all(entries, (settings, intervals))
    manifest = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "date": date,
        "sha256": sha256,
        "training_data": training_data,
        "attribution": list(attribution),
        "validated_by_site": validated_by_site,
        "figures": dict(figures or {}),
        "networks": entries,
        "localizer": settings,
        "calibration": intervals,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return sha256


def load_weights(name: str | Path | None = None, *, fuse: bool = True) -> WeightSet:
    """Read a set of weights.

    Parameters
    ----------
    name
        See `find`.
    fuse
        Fold batch norms into their convolutions: faster, for scoring only.

    Raises
    ------
    WeightsError
        Absent, of another format or architecture, or a file's or the set's sha256 differs from the manifest.
    """
    folder = find(name)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise WeightsError(f"{folder.name} has format {manifest['format']}, this version reads {FORMAT}")
        _check_roles(manifest["networks"])
        calibration = manifest["calibration"]
        digest = _sha256_of_all(manifest["networks"], (manifest["localizer"], calibration))
        if digest != manifest["sha256"]:
            raise WeightsError(f"{folder.name}: the manifest was changed, its sha256 is {digest}")
        networks = {
            role: _members(folder, role, entry, fuse=fuse) for role, entry in manifest["networks"].items()
        }
        identity = WeightsIdentity(
            name=manifest["name"],
            version=manifest["version"],
            sha256=manifest["sha256"],
            training_data=manifest["training_data"],
            validated_by_site=bool(manifest.get("validated_by_site", False)),
        )
        intervals = _calibration(calibration) if calibration else None
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise WeightsError(f"{folder.name}: the manifest cannot be read: {error!r}") from error
    return WeightSet(identity, networks, dict(manifest["localizer"]), intervals, manifest)


def _calibration(values: dict[str, Any]) -> Calibration:
    """Return the table that the manifest stores."""
    return Calibration(
        coverage=float(values["coverage"]),
        knots=tuple(values["knots"]),
        low=tuple(values["low"]),
        high=tuple(values["high"]),
        group_probabilities=tuple(tuple(row) for row in values["group_probabilities"]),
    )


def _check_roles(networks: Mapping[str, object]) -> None:
    missing = [role for role in LOCALIZERS if role not in networks]
    if missing or not any(all(role in networks for role in roles) for roles in SCORERS):
        raise WeightsError(
            f"a set of weights needs {', '.join(LOCALIZERS)}, and weigher or agatston and volume; "
            f"this one has {', '.join(networks)}"
        )


def _members(folder: Path, role: str, entry: dict[str, Any], *, fuse: bool) -> tuple[nn.Module, ...]:
    """Return the networks of one role."""
    members = []
    for file_name, expected in entry["files"].items():
        path = folder / file_name
        if not path.is_file():
            raise WeightsError(f"{folder.name} lacks {file_name}")
        digest = _sha256(path)
        if digest != expected:
            raise WeightsError(f"{folder.name}/{file_name} differs from the manifest: its sha256 is {digest}")
        network = build(entry["architecture"], entry["config"])
        try:
            network.load_state_dict(safetensors.torch.load_file(path))
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise WeightsError(f"{folder.name}/{file_name} does not fit the {role} network: {error}") from error
        network.eval().requires_grad_(False)
        if fuse:
            _fuse(network)
        members.append(network)
    if not members:
        raise WeightsError(f"{folder.name} names no file for {role}")
    return tuple(members)


def _fuse(network: nn.Module) -> None:
    """Fold each batch norm that directly follows a convolution in a Sequential into it; lay out for the CPU."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not isinstance(module, nn.Sequential):
            continue
        for number in range(len(module) - 1):
            first, second = module[number], module[number + 1]
            if isinstance(first, nn.Conv2d | nn.Conv3d) and isinstance(second, nn.BatchNorm2d | nn.BatchNorm3d):
                module[number] = fuse_conv_bn_eval(first, second)
                module[number + 1] = nn.Identity()
    if isinstance(network, Weigher):
        network.split_joins()
        network.up.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
