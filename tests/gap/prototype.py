"""GAP folders as written by the prototype: the same file names in every view, and paths relative to its working directory."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch

RAN_IN = "output/gaps/supplement_mv"
SIZE = 40
FILES = {
    "reference": "canonical/reference.png",
    "reference_no_bg": "canonical/reference_no_bg.png",
    "depth": "geometry/depth_000.png",
    "mask": "geometry/mask_000.png",
    "identity": "identity_embedding.pt",
    "metadata": "metadata.json",
}


def write_view(folder: Path, angle: int, *, mask: bool = True) -> None:
    """Write one view, whose colour, depth and identity encode its angle."""
    (folder / "canonical").mkdir(parents=True)
    (folder / "geometry").mkdir()
    photo = np.full((SIZE, SIZE, 3), colour_of(angle), np.uint8)
    inside = inside_of(angle)
    cv2.imwrite(str(folder / FILES["reference"]), photo[..., ::-1])
    cv2.imwrite(str(folder / FILES["reference_no_bg"]), np.dstack([photo[..., ::-1], inside]))
    cv2.imwrite(str(folder / FILES["depth"]), depth_of(angle))
    if mask:
        cv2.imwrite(str(folder / FILES["mask"]), inside)
    torch.save(torch.tensor(identity_of(angle)), folder / FILES["identity"])
    metadata = {
        "object_name": "supplement",
        "version": "1.0",
        "source": f"photos/{angle:03d}.jpg",
        "identity_embedding_shape": [517],
        "has_depth": True,
        "has_mask": mask,
        "image_size": [SIZE, SIZE],
    }
    (folder / FILES["metadata"]).write_text(json.dumps(metadata))


def colour_of(angle):
    return angle % 251, 2 * angle % 241, 100


def inside_of(angle):
    inside = np.zeros((SIZE, SIZE), np.uint8)
    inside[10:30, 10 : 20 + angle // 30] = 255
    return inside


def depth_of(angle):
    """8-bit depth that spans 0 to 255 in each view, including the background."""
    ramp = np.linspace(0, 255, SIZE, dtype=np.float32)[None].repeat(SIZE, 0)
    return (ramp if angle % 2 else ramp.T).astype(np.uint8)


def identity_of(angle):
    return np.linspace(0, 1 + angle / 360, 517, dtype=np.float32)


def views_of(angles, folder=RAN_IN):
    return {
        f"{angle:03d}": {role: f"{folder}/view_{angle:03d}/{name}" for role, name in FILES.items()} for angle in angles
    }


def write_package(folder: Path, angles=tuple(range(0, 360, 45))) -> Path:
    for angle in angles:
        write_view(folder / f"view_{angle:03d}", angle)
    manifest = folder / "multiview_manifest.json"
    manifest.write_text(json.dumps({"asset_name": "supplement_mv", "views": views_of(angles)}))
    return folder
