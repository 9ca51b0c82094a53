"""The checks behind `gapray capture check`: problems with the photos of one product, photo by photo."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gapray.capture.angles import angle_difference
from gapray.capture.azimuths import MIN_VIEWS, NORMAL_GAP_DEG
from gapray.capture.capture_set import CaptureSet
from gapray.capture.decode import decode_photo
from gapray.capture.discover import DiscoverOptions, discover
from gapray.capture.kinds import counted
from gapray.capture.settings import DecodeSettings
from gapray.capture.storage import read_bytes
from gapray.errors import InputError
from gapray.gap.settings import MaskSettings, PackagingSettings
from gapray.inspect.arrangement import Arrangement, align_azimuths, arrange
from gapray.inspect.duplicates import duplicates, fingerprints
from gapray.inspect.findings import Finding
from gapray.inspect.folder import new_folder, write_table
from gapray.inspect.odd import find_outliers
from gapray.inspect.quality import PhotoQuality, measure_quality
from gapray.inspect.settings import CheckSettings
from gapray.inspect.sheet_cameras import FULL_SIDE, MIN_MARKERS, locate_cameras
from gapray.models.load import load_mask
from gapray.models.mask import MaskModel
from gapray.packaging.silhouette import silhouette

WORK_SIDE = 1024
"""Maximum longer side of the photos that are assessed [pixels]."""
PAIR_DEG = 12.0
"""Two photos are swapped if each shows the other's angle to within this."""
MAX_TRUSTED_CUT = 0.05
"""If the product covers more than this fraction of the photo's border, part of it is missing and its outline cannot be trusted."""
MAX_UNTRUSTED_FRACTION = 0.25
"""Maximum fraction of the photos that are left out because their outline cannot be trusted."""
SIDES = ("front", "front right", "right side", "back right", "back", "back left", "left side", "front left")
"""Sides of the product at azimuths 0, 45, … 315 degrees, as seen by a viewer facing its front."""

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class CheckedPhoto:
    """The result of the check for one photo."""

    name: str
    uri: str
    azimuth_deg: float
    """The azimuth that its name states."""
    seen_deg: float | None
    """The azimuth that the picture shows; None where it cannot be determined."""
    quality: PhotoQuality | None
    """None for a photo that cannot be read or shows no product."""
    state: Literal["good", "weak", "again"]
    """`weak`: usable, with a finding. `again`: the photo has to be taken again."""


@dataclass(frozen=True)
class Check:
    """The result of the check for one product's photos."""

    product_id: str
    photos: tuple[CheckedPhoto, ...]
    """Sorted by named azimuth."""
    missing_deg: tuple[float, ...]
    """Azimuths from which a photo is missing."""
    findings: tuple[Finding, ...]
    direction: int
    """-1 if the photos run in the opposite direction to their names, else 1."""
    by_markers: bool
    """Whether the azimuths were measured by the markers of the printed sheet."""
    ignored: dict[str, int]
    """Counts of unused files and folders, as from `gapray.capture.kinds.counted`."""

    @property
    def good(self) -> bool:
        """Whether no photo has to be taken again."""
        return not any(finding.serious for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The check as the JSON object printed by ``--json``."""
        return {
            "product_id": self.product_id,
            "good": self.good,
            "direction": self.direction,
            "by_markers": self.by_markers,
            "missing_deg": list(self.missing_deg),
            "photos": [asdict(photo) for photo in self.photos],
            "findings": [finding.as_dict() for finding in self.findings],
            "ignored": self.ignored,
        }


def check(
    folder: str,
    packaging: PackagingSettings,
    thresholds: CheckSettings = CheckSettings(),
    *,
    options: DiscoverOptions = DiscoverOptions(layout="product"),
    network: MaskModel | None = None,
    on_step: Callable[[str], None] = lambda what: None,
) -> Check:
    """Check the photos of one product. Nothing is written.

    Args:
        folder: Folder of the photos, a local path or a URI.
        packaging: How photos are decoded and cut out.
        thresholds: What is accepted.
        options: How names become azimuths.
        network: The mask network, if loaded already; default: the one that `packaging` names.
        on_step: Called with a description of each step before it starts.

    Raises:
        InputError: A `capture.*` code when names give no azimuths or there are fewer than two photos.
        ModelError: A `model.*` code when the mask network cannot be loaded.
    """
    beside: list[str] = []
    capture = _capture_of(folder, options, beside)
    on_step("reading the photos")
    photos, unreadable = _read(capture, packaging.decode)
    on_step("cutting the product out")
    network = network or load_mask(packaging, threads=2)
    masks, maskless = _masked(photos, network, packaging.mask)
    names = [name for name in photos if name in masks]
    images, silhouettes = [photos[name] for name in names], [masks[name] for name in names]
    named = {photo.name: photo.azimuth_deg for photo in capture.photos}
    assessment = Assessment({}, (), None)
    by_markers = False
    if len(names) >= MIN_VIEWS:
        on_step("determining from where each photo was taken")
        measured = _by_markers(capture, names, [named[name] for name in names], packaging.decode)
        by_markers = measured is not None
        assessment = assess(names, images, silhouettes, [named[name] for name in names], thresholds, measured)
    arrangement, qualities = assessment.arrangement, assessment.qualities
    findings = [*unreadable, *maskless, *assessment.findings]
    missing = _missing(list(named.values()))
    findings += [
        Finding("azimuth.missing", (), f"there is no photo from {angle:.0f}° ({side_of(angle)})") for angle in missing
    ]
    seen_deg = _visible_azimuths(arrangement, assessment.arranged) if arrangement else {}
    checked = tuple(
        CheckedPhoto(
            photo.name,
            photo.uri,
            photo.azimuth_deg,
            seen_deg.get(photo.name),
            qualities.get(photo.name),
            _state(photo.name, findings),
        )
        for photo in capture.photos
    )
    return Check(
        capture.product_id,
        checked,
        missing,
        tuple(findings),
        arrangement.direction if arrangement else 1,
        by_markers,
        counted([*beside, *capture.ignored]),
    )


@dataclass(frozen=True)
class Assessment:
    """Results from the pixels of one product's photos."""

    qualities: dict[str, PhotoQuality]
    """Name -> quality."""
    findings: tuple[Finding, ...]
    arrangement: Arrangement | None
    """Arrangement of the photos named in `arranged`; None when too few can be compared."""
    arranged: tuple[str, ...] = ()
    """Names of the photos in `arrangement`, in its order."""


def assess(
    names: Sequence[str],
    photos: Images,
    masks: Images,
    azimuths_deg: Sequence[float],
    limits: CheckSettings,
    measured: Arrangement | None = None,
) -> Assessment:
    """Assess photos that are decoded and masked.

    Args:
        names: Name of each photo, at least `MIN_VIEWS`.
        photos: uint8 [H, W, 3] each.
        masks: uint8 [H, W] each, none empty.
        azimuths_deg: Named azimuth of each photo.
        limits: Thresholds of the findings.
        measured: Arrangement measured by markers; default: it is estimated from the pictures.
    """
    qualities = dict(zip(names, measure_quality(photos, masks), strict=True))
    findings = [finding for name in names for finding in _quality_findings(name, qualities[name], limits)]
    pairs = duplicates(fingerprints(photos, masks))
    findings += [Finding("azimuth.duplicate", (names[a], names[b]), "the two files show one photo") for a, b in pairs]
    outliers = find_outliers(names, photos, masks)
    findings += outliers
    # The outline of a cut-off product would falsify the angles of all others; but if nearly all photos are cropped that closely,
    # there is nothing else to go by.
    untrusted = {name for name, quality in qualities.items() if quality.cut > MAX_TRUSTED_CUT}
    untrusted = untrusted if len(untrusted) <= MAX_UNTRUSTED_FRACTION * len(names) else set()
    untrusted |= {names[b] for _, b in pairs} | {name for finding in outliers for name in finding.files}
    kept = [index for index, name in enumerate(names) if measured is not None or name not in untrusted]
    named_deg = [azimuths_deg[index] for index in kept]
    arrangement = measured
    if measured is None and len(kept) >= MIN_VIEWS:
        arrangement = arrange([photos[index] for index in kept], [masks[index] for index in kept], named_deg)
    if arrangement is not None:
        findings += _misplaced(arrangement, [names[index] for index in kept], named_deg, limits)
    return Assessment(qualities, tuple(findings), arrangement, tuple(names[index] for index in kept))


def fix(folder: str, checked: Check, out_folder: str | Path) -> dict[str, float]:
    """Copy the photos to a folder with the azimuths that they show, without duplicated and mirrored photos.

    Args:
        folder: Folder of the photos, for error messages.
        checked: Result of `check` for this folder.
        out_folder: A new or empty folder.

    Returns:
        Name -> azimuth in degrees of the copied photos.

    Raises:
        InputError: `check.nothing_to_fix` when fewer than `MIN_VIEWS` azimuths are known, or what
            `gapray.inspect.folder.new_folder` raises.
    """
    left_out = {file for finding in checked.findings if finding.code == "azimuth.mirrored" for file in finding.files}
    left_out |= {finding.files[1] for finding in checked.findings if finding.code == "azimuth.duplicate"}
    placed = {
        photo.name: photo for photo in checked.photos if photo.seen_deg is not None and photo.name not in left_out
    }
    if len(placed) < MIN_VIEWS:
        raise InputError("check.nothing_to_fix", f"{folder}: the photos do not show from where they were taken")
    azimuths = {name: round(float(photo.seen_deg or 0.0) % 360.0, 1) % 360.0 for name, photo in placed.items()}
    with new_folder(out_folder) as partial:
        for name, photo in placed.items():
            target = partial / Path(name).name
            if Path(photo.uri).exists():
                shutil.copyfile(photo.uri, target)
            else:
                target.write_bytes(read_bytes(photo.uri, 2**31))
        rows = [(Path(name).name, f"{azimuth:.1f}") for name, azimuth in azimuths.items()]
        write_table(partial, sorted(rows, key=lambda row: float(row[1])))
    return azimuths


def side_of(azimuth_deg: float) -> str:
    """Name of the side of the product that is seen from an azimuth."""
    return SIDES[round(azimuth_deg / 45.0) % 8]


def _capture_of(folder: str, options: DiscoverOptions, beside: list[str]) -> CaptureSet:
    # A missing view is a finding of the check, not an error.
    tolerant = replace(options, layout="product", azimuths=replace(options.azimuths, allow_missing=True))
    [capture] = discover(folder, tolerant, beside=beside)
    if len(capture.photos) < 2:
        raise InputError(
            "capture.missing_views", f"{len(capture.photos)} photo in {folder}; at least {MIN_VIEWS} angles are needed"
        )
    return capture


def _read(capture: CaptureSet, decode: DecodeSettings) -> tuple[dict[str, NDArray[np.uint8]], list[Finding]]:
    """Name -> pixels of the photos that can be read, and findings for the others."""
    photos: dict[str, NDArray[np.uint8]] = {}
    findings: list[Finding] = []
    small = decode.model_copy(update={"reference_side": WORK_SIDE})
    for photo in capture.photos:
        try:
            photos[photo.name] = decode_photo(read_bytes(photo.uri, small.max_bytes), small, of_product=True)
        except InputError as error:
            findings.append(Finding("photo.unreadable", (photo.name,), error.message))
    return photos, findings


def _masked(
    photos: Mapping[str, NDArray[np.uint8]], network: MaskModel, settings: MaskSettings
) -> tuple[dict[str, NDArray[np.uint8]], list[Finding]]:
    """Name -> mask of the photos that show a product, and findings for the others."""
    masks: dict[str, NDArray[np.uint8]] = {}
    findings: list[Finding] = []
    for name, photo in photos.items():
        [soft] = network.predict([photo])
        try:
            masks[name] = silhouette(photo, soft, settings)
        except InputError as error:
            findings.append(Finding("photo.mask", (name,), error.message))
    return masks, findings


def _quality_findings(name: str, quality: PhotoQuality, limits: CheckSettings) -> list[Finding]:
    """Findings for the measurements of one photo that exceed the limits."""
    drift = quality.exposure_ev
    checks = [
        ("photo.blurred", quality.blur > limits.max_blur or quality.softer > limits.max_softer, f"blur {quality.blur:.2f}, {quality.softer:.1f} times the others'"),
        ("photo.overexposed", quality.burnt > limits.max_burnt, f"{quality.burnt:.0%} of the product is burnt out"),
        ("photo.underexposed", quality.black > limits.max_black, f"{quality.black:.0%} of the product is black"),
        ("photo.exposure_drift", abs(drift) > limits.max_exposure_ev, f"{drift:+.1f} stops against the others"),
        ("photo.white_balance", quality.white_balance > limits.max_white_balance, f"colours differ by {quality.white_balance:.0%}"),
        ("photo.cut", quality.cut > limits.max_cut, f"{quality.cut:.0%} of the photo's edge is product"),
        ("photo.clutter", quality.clutter > limits.max_clutter, f"{quality.clutter:.0%} of what is behind it is edges"),
        ("photo.mask", quality.unsure > limits.max_unsure, f"the mask's outline is soft ({quality.unsure:.1f})"),
    ]  # fmt: skip
    return [Finding(code, (name,), message) for code, exceeded, message in checks if exceeded]


def _by_markers(
    capture: CaptureSet, names: Sequence[str], named_deg: Sequence[float], decode: DecodeSettings
) -> Arrangement | None:
    """Arrangement measured by the printed sheet, with its zero where it fits the names best; None unless all photos show it."""
    full = decode.model_copy(update={"reference_side": FULL_SIDE})
    uris = {photo.name: photo.uri for photo in capture.photos}
    first = locate_cameras([decode_photo(read_bytes(uris[names[0]], full.max_bytes), full)])
    if first[0] is None or first[0].markers < MIN_MARKERS:
        return None
    poses = locate_cameras([decode_photo(read_bytes(uris[name], full.max_bytes), full) for name in names])
    if any(pose is None for pose in poses):
        return None
    on_sheet = np.array([pose.azimuth_deg for pose in poses if pose is not None])
    aligned, direction = align_azimuths(on_sheet, np.asarray(named_deg, np.float64))
    views = len(names)
    yes, no = (True,) * views, (False,) * views
    return Arrangement(tuple(map(float, aligned)), direction, no, yes, yes, yes, (1.0,) * views, 0.0, 0.0)


def _misplaced(
    arrangement: Arrangement, names: Sequence[str], named_deg: Sequence[float], limits: CheckSettings
) -> list[Finding]:
    """Findings for photos whose azimuth, side or order differs from their names."""
    if not arrangement.observable:
        text = "the photos look alike from everywhere: their angles cannot be determined"
        return [Finding("azimuth.unobservable", (), text)]
    findings = []
    if arrangement.direction < 0:
        findings.append(Finding("azimuth.reversed", (), "the photos run clockwise, against their angles"))
    for name, fitting, scale in zip(names, arrangement.fitting, arrangement.scales, strict=True):
        if not fitting:
            findings.append(Finding("azimuth.misfit", (name,), "its outline fits the other photos at no angle"))
        if abs(np.log(scale)) > np.log(1 + limits.max_scale):
            findings.append(
                Finding("photo.scale", (name,), f"the product is {scale - 1:+.0%} as large as in the others")
            )
    expected = [angle if arrangement.direction > 0 else -angle for angle in named_deg]
    off = [angle_difference(seen, angle) for seen, angle in zip(arrangement.azimuths_deg, expected, strict=True)]
    reported: set[int] = set()
    for index, mirrored in enumerate(arrangement.mirrored):
        if mirrored:
            reported.add(index)
            findings.append(Finding("azimuth.mirrored", (names[index],), "left and right are exchanged"))
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            seen_a, seen_b = arrangement.azimuths_deg[a], arrangement.azimuths_deg[b]
            crossed = (
                max(abs(angle_difference(seen_a, expected[b])), abs(angle_difference(seen_b, expected[a]))) < PAIR_DEG
            )
            if crossed and {a, b}.isdisjoint(reported) and abs(off[a]) > PAIR_DEG:
                reported |= {a, b}
                text = f"each shows the other's angle ({named_deg[a]:.0f}° and {named_deg[b]:.0f}°)"
                findings.append(Finding("azimuth.swapped", (names[a], names[b]), text))
    for index, degrees in enumerate(off):
        if (
            abs(degrees) > limits.max_azimuth_deg
            and arrangement.confident[index]
            and arrangement.determined[index]
            and index not in reported
        ):
            text = f"named {named_deg[index]:.0f}°, it shows {arrangement.azimuths_deg[index] % 360:.0f}°"
            findings.append(Finding("azimuth.off", (names[index],), text))
    return findings


def _visible_azimuths(arrangement: Arrangement, names: Sequence[str]) -> dict[str, float]:
    """Name -> azimuth [degrees] of the photos that fit the others; empty for a set that is not observable."""
    if not arrangement.observable:
        return {}
    rows = zip(names, arrangement.azimuths_deg, arrangement.fitting, strict=True)
    return {name: azimuth for name, azimuth, fitting in rows if fitting}


def _missing(azimuths: Sequence[float]) -> tuple[float, ...]:
    """Azimuths [degrees] missing in a set with steps of `NORMAL_GAP_DEG`, or of its own median step if that is larger."""
    ordered = sorted(azimuths)
    gaps = [
        (after - before) % 360.0 or 360.0 for before, after in zip(ordered, [*ordered[1:], ordered[0]], strict=True)
    ]
    step = max(NORMAL_GAP_DEG, float(np.median(gaps)))
    missing: list[float] = []
    for before, gap in zip(ordered, gaps, strict=True):
        count = round(gap / step)
        missing += [(before + gap * part / count) % 360.0 for part in range(1, count)]
    return tuple(missing)


def _state(name: str, findings: Sequence[Finding]) -> Literal["good", "weak", "again"]:
    """State of a photo by its findings. Of two duplicates only the second has to be taken again."""
    own = [finding for finding in findings if name in finding.files]
    own = [finding for finding in own if finding.code != "azimuth.duplicate" or finding.files[1] == name]
    if any(finding.serious for finding in own):
        return "again"
    return "weak" if own else "good"
