"""In-between frames against photos that were hidden: nearest view, cross-fade, flow morph, gapray's view morph, and gapray.

python benchmarks/orbit.py [DATASET…]

A dataset is `samples` (default), or a folder of spins with a `views.json` each. From spins the frames nearest to 45-degree
steps are given (ETH-80: every other one) and the frames nearest to the other 15-degree steps are hidden (ETH-80: all
others). All images are compared at 256 px on white, LPIPS with AlexNet. ETH-80 photos are each cropped to their own product, so
truth and result are both re-centred there by their mask's box. `cut` is the IoU with the mask that gapray cuts out of the
hidden photo, `true` that with the data set's own mask. The backbone: GAPRAY_MODELS=FOLDER with alexnet_features.pth.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gapray.capture.decode import decode_photo
from gapray.fidelity.baselines import blend, blend_along_flow
from gapray.fidelity.lpips import Lpips
from gapray.gap.settings import MaskSettings
from gapray.geometry.frame import Placement, mask_box, to_frame
from gapray.models.load import load_mask
from gapray.models.mask import MaskModel
from gapray.orbit.engines import Engine, draw_between
from gapray.orbit.reconstruct import Calibration, build_scene
from gapray.orbit.settings import OrbitSettings
from gapray.orbit.weights import neighbours
from gapray.packaging.silhouette import silhouette
from gapray.profile import load_profile

SIDE = 256
WORSE = 0.005
"""An object is reported if its LPIPS exceeds that of its best baseline by more than this."""
SAMPLES = Path(__file__).resolve().parent.parent / "samples"


@dataclass(frozen=True)
class Shot:
    azimuth_deg: float
    photo: np.ndarray
    mask: np.ndarray
    true_mask: np.ndarray | None


@dataclass(frozen=True)
class Object:
    name: str
    group: str
    given: list[Shot]
    hidden: list[Shot]


def shot(path: Path, azimuth: float, network: MaskModel, true: Path | None) -> Shot:
    photo = decode_photo(path.read_bytes())
    [soft] = network.predict([photo])
    known = cv2.imread(str(true), cv2.IMREAD_GRAYSCALE) if true and true.exists() else None
    return Shot(azimuth, photo, silhouette(photo, soft, MaskSettings()), known)


def objects(dataset: str, network: MaskModel) -> Iterator[Object]:
    if dataset == "samples":
        for folder in sorted((SAMPLES / "captures").iterdir()):
            name = folder.name
            shots = {
                kind: [
                    shot(file, float(file.stem[-3:]), network, SAMPLES / "truth" / name / f"mask_{file.stem[-3:]}.png")
                    for file in sorted((SAMPLES / kind / name).glob("*.jpg"))
                ]
                for kind in ("captures", "held_out")
            }
            yield Object(name, "samples", shots["captures"], shots["held_out"])
        return
    for folder in sorted(Path(dataset).iterdir()):
        if not (folder / "views.json").exists():
            continue
        frames = json.loads((folder / "views.json").read_text())["frames"]
        azimuths = np.array([frame["azimuth_deg"] for frame in frames])
        away = [np.abs((azimuths - 15 * step + 180) % 360 - 180) for step in range(24)]
        eth = folder.name.startswith("eth80")
        given = list(range(0, len(frames), 2)) if eth else [int(away[step].argmin()) for step in range(0, 24, 3)]
        hidden = list(range(1, len(frames), 2)) if eth else [int(away[step].argmin()) for step in range(24) if step % 3]
        made = [
            [
                shot(
                    folder / frames[index]["file"],
                    float(azimuths[index]),
                    network,
                    folder / "masks" / frames[index]["file"],
                )
                for index in chosen
            ]
            for chosen in (given, hidden)
        ]
        yield Object(folder.name, "ETH-80" if eth else "product spins", *made)


def framed(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return to_frame(image, Placement(width / 2, height / 2, max(height, width) / 2), SIDE)


def on_white(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    alpha = mask[..., None] / 255
    return np.rint(photo * alpha + 255 * (1 - alpha)).astype(np.uint8)


def recentred(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, right, upper, lower = mask_box(mask >= 128)
    place = Placement((left + right) / 2, (upper + lower) / 2, 0.55 * max(right - left, lower - upper))
    return to_frame(image, place, SIDE, outside=255), to_frame(mask, place, SIDE)


Drawer = Callable[[float], tuple[np.ndarray, np.ndarray]]


def baselines(item: Object) -> dict[str, Drawer]:
    masks = [framed(shot.mask) for shot in item.given]
    images = [on_white(framed(shot.photo), mask) for shot, mask in zip(item.given, masks, strict=True)]

    def around(azimuth: float) -> tuple[int, int, float]:
        return neighbours({index: shot.azimuth_deg - azimuth for index, shot in enumerate(item.given)})

    def nearest(azimuth: float) -> tuple[np.ndarray, np.ndarray]:
        low, high, fraction = around(azimuth)
        chosen = low if fraction <= 0.5 else high
        return images[chosen], masks[chosen]

    def both(mix: Callable[[np.ndarray, np.ndarray, float], np.ndarray]) -> Drawer:
        def draw(azimuth: float) -> tuple[np.ndarray, np.ndarray]:
            low, high, fraction = around(azimuth)
            grey = [np.repeat(mask[..., None], 3, 2) for mask in (masks[low], masks[high])]
            return mix(images[low], images[high], fraction), mix(*grey, fraction)[..., 0]

        return draw

    return {"nearest": nearest, "cross-fade": both(blend), "flow": both(blend_along_flow)}


def ours(item: Object) -> tuple[dict[str, Drawer], Calibration]:
    """The view morph, and what a render draws: with the engine that is best at withheld photos."""
    scene, calibration = build_scene(
        [shot.photo for shot in item.given],
        [shot.mask for shot in item.given],
        [shot.azimuth_deg for shot in item.given],
        OrbitSettings(size=SIDE, framing="photo"),
    )

    def by(engine: Engine) -> Drawer:
        def draw(azimuth: float) -> tuple[np.ndarray, np.ndarray]:
            [frame] = draw_between(scene, [azimuth], engine)
            mask = (frame.alpha * 255).round().byte().numpy()
            return on_white((frame.colour * 255).permute(1, 2, 0).round().byte().numpy(), mask), mask

        return draw

    return {"morph": by("morph"), "gapray": by(calibration.engine)}, calibration


def score(item: Object, draw: Drawer, metric: Lpips) -> list[float]:
    """LPIPS, PSNR, IoU with the cut-out and with the true mask; means over the hidden photos."""
    images, truths, overlaps = [], [], []
    for hidden in item.hidden:
        # Samples have exact masks; for real photos gapray's own cut-out is the truth, as for the given ones.
        cut = framed(hidden.true_mask if item.group == "samples" and hidden.true_mask is not None else hidden.mask)
        truth = on_white(framed(hidden.photo), cut)
        true = framed(hidden.true_mask) if hidden.true_mask is not None else None
        image, mask = draw(hidden.azimuth_deg)
        if item.group == "ETH-80":
            image, mask = recentred(image, mask)
            truth, cut = recentred(truth, cut)
            true = recentred(true, true)[1] if true is not None else None
        images.append(image)
        truths.append(truth)
        overlaps.append([iou(mask, cut), iou(mask, true) if true is not None else np.nan])
    errors = [np.mean((a.astype(float) - b) ** 2) for a, b in zip(images, truths, strict=True)]
    lpips = metric.distance(np.stack(images), np.stack(truths)).mean()
    return [float(lpips), float(np.mean(10 * np.log10(255**2 / np.array(errors)))), *np.mean(overlaps, 0)]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a > 127) & (b > 127)).sum() / max(1, ((a > 127) | (b > 127)).sum()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("datasets", nargs="*", default=["samples"])
    parser.add_argument("--json", type=Path, help="also write the table here")
    chosen = parser.parse_args()
    network = load_mask(load_profile("classic", environment={}).packaging, threads=2)
    metric = Lpips()
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    seconds: dict[str, float] = {}
    for dataset in chosen.datasets:
        for item in objects(dataset, network):
            begun = time.process_time()
            drawers, calibration = ours(item)
            seconds[item.name] = time.process_time() - begun
            results = {name: score(item, draw, metric) for name, draw in (baselines(item) | drawers).items()}
            table.setdefault(item.group, {})[item.name] = results
            best = min(results[name][0] for name in ("nearest", "cross-fade", "flow"))
            worse = results["gapray"][0] - best
            print(
                f"{item.name}: scene {seconds[item.name]:.0f} CPU s, elevation {calibration.elevation_deg:.1f}, {calibration.engine} "
                f"({', '.join(f'{engine} {error:.4f}' for engine, error in calibration.engine_errors.items())})"
                f"{f', WORSE than the best baseline by {worse:.3f}' if worse > WORSE else ''}",
                flush=True,
            )
            for name, (lpips, psnr, cut, true) in results.items():
                print(f"    {name:10s} LPIPS {lpips:.3f}  PSNR {psnr:5.2f}  IoU cut {cut:.3f} true {true:.3f}")
    print(
        f"\n{'group':14s} {'method':10s} {'objects':>7s} {'LPIPS':>6s} {'PSNR':>6s} {'cut':>6s} {'true':>6s} / nearest"
    )
    for group, members in table.items():
        nearest = np.mean([scores["nearest"][0] for scores in members.values()])
        for name in next(iter(members.values())):
            mean = np.nanmean([scores[name] for scores in members.values()], 0)
            better = sum(scores[name][0] < scores["nearest"][0] for scores in members.values())
            print(
                f"{group:14s} {name:10s} {len(members):7d} {mean[0]:6.3f} {mean[1]:6.2f} {mean[2]:6.3f} {mean[3]:6.3f} "
                f"{mean[0] / nearest:5.2f}, better on {better}"
            )
    median, slowest = np.median(list(seconds.values())), max(seconds, key=seconds.__getitem__)
    print(f"\nscene: median {median:.0f} CPU s; slowest {slowest}, {seconds[slowest] / median:.1f} times the median")
    if chosen.json:
        chosen.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
