"""Splitting a memory card into products, each of which starts with a slate: a photo of a QR code or barcode."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapray.capture.azimuths import AzimuthOptions, read_names
from gapray.capture.capture_set import Reject
from gapray.capture.decode import decode_photo
from gapray.capture.discover import PRODUCT_ID
from gapray.capture.kinds import no_photos, not_photos, photos_below, refuse_unfinished
from gapray.capture.names import view_name
from gapray.capture.settings import DecodeSettings
from gapray.capture.stems import by_name, natural_parts
from gapray.capture.storage import printable, read_bytes
from gapray.errors import GaprayError, InputError
from gapray.inspect.folder import new_folder, write_table
from gapray.resample import at_most

_DIGITAL_LINK = re.compile(r"^https?://[^?#]*/01/([0-9]{8}|[0-9]{12,14})(?:[/?#]|$)", re.IGNORECASE)
SLATE_SIDES = (2048, 1024)
"""Longer sides at which codes are searched for [pixels]; a code that fills the photo is easier to read when it is small."""
_TAKEN, _SUBSECONDS, _EXIF = 0x9003, 0x9291, 0x8769  # Exif 2.32: DateTimeOriginal, SubSecTimeOriginal, the IFD of both


@dataclass
class Roll:
    """A slate and the photos that follow it."""

    product_id: str
    text: str
    """Text of the slate's code."""
    slate: str
    """Name of the slate photo."""
    photos: list[Path] = field(default_factory=list)


def slate_text(photo: NDArray[np.uint8]) -> str | None:
    """Text of a QR code or an EAN / UPC barcode in a photo.

    Args:
        photo: uint8 [H, W, 3], upright.

    Returns:
        The text; None if the photo shows no such code.
    """
    for side in SLATE_SIDES:
        grey = cv2.cvtColor(at_most(photo, side), cv2.COLOR_RGB2GRAY)
        text, *_ = cv2.QRCodeDetector().detectAndDecode(grey)
        if not text:
            text, *_ = cv2.barcode.BarcodeDetector().detectAndDecode(grey)
        if text:
            return str(text).strip()
    return None


def taken_at(data: bytes) -> datetime | None:
    """Time at which a photo was taken, by its EXIF; None if it does not state one."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif().get_ifd(_EXIF)
        text = str(exif.get(_TAKEN, "")).strip("\0 ")
        fraction = re.sub(r"\D", "", str(exif.get(_SUBSECONDS, "")))[:6].ljust(6, "0")
        return datetime.strptime(f"{text}.{fraction}", "%Y:%m:%d %H:%M:%S.%f")
    except MemoryError:
        raise
    except Exception:  # damaged EXIF counts as none
        return None


def rolls(card: str | Path, settings: DecodeSettings = DecodeSettings()) -> tuple[list[Roll], list[Path]]:
    """Split the photos of a card at its slates.

    Photos are sorted by the time at which they were taken or, if any of them lacks it, by the numbers in their names.

    Returns:
        One roll per slate, in the order of the card, and the photos before the first slate. A slate that is photographed several
        times in a row starts a single roll.

    Raises:
        InputError: `capture.not_found`, `capture.no_photos`, `capture.unfinished`, `slate.none`.
    """
    folder = Path(card)
    if not folder.is_dir():
        raise InputError("capture.not_found", f"there is no folder {card}")
    files = photos_below(folder)
    if not files:
        raise no_photos(str(card), not_photos(folder))
    refuse_unfinished(not_photos(folder), [file.relative_to(folder).as_posix() for file in files])
    times = {file: taken_at(read_bytes(str(file), settings.max_bytes)) for file in files}
    rank = {name: index for index, name in enumerate(by_name([file.name for file in files]))}
    if all(times.values()):
        files.sort(key=lambda file: (times[file] or datetime.min, rank[file.name]))
    else:
        files.sort(key=lambda file: (natural_parts(str(file.parent)), rank[file.name]))
    result: list[Roll] = []
    before: list[Path] = []
    for file in files:
        text = _slate_text(file, settings)
        if text is None:
            (result[-1].photos if result else before).append(file)
        elif not (result and result[-1].text == text and not result[-1].photos):
            result.append(Roll(product_id_of(text), text, file.name))
    if not result:
        raise InputError("slate.none", f"none of {len(files)} photos in {card} shows a QR code or barcode")
    return result, before


def product_id_of(text: str) -> str:
    """The product id in a slate's text; empty if nothing in it can be one.

    The GTIN of a GS1 Digital Link (URI Syntax 1.4: the digits after ``/01/``, whatever lot or date follows), the last part of
    any other URL, or the text itself.
    """
    if (gtin := _DIGITAL_LINK.search(text)) is not None:
        return gtin[1]
    last = text.rstrip("/").rpartition("/")[2] if "://" in text else text
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")[:128]
    return name if PRODUCT_ID.fullmatch(name) else ""


def split(
    card: str | Path,
    out: str | Path,
    *,
    azimuths: AzimuthOptions = AzimuthOptions(names="index"),
    template: str = "degrees",
    settings: DecodeSettings = DecodeSettings(),
    on_product: Callable[[str, int], None] = lambda name, photos: None,
    on_before: Callable[[list[str]], None] = lambda names: None,
) -> list[Path | Reject]:
    """Copy a card's photos into one folder per product, at the azimuths given by their order.

    Args:
        card: Folder of the card, which is not changed.
        out: Parent of the product folders; products whose folder exists already are rejected.
        azimuths: Direction, the front's position in the order, and whether the last photo shows the front again.
        template: A template of file names, as in `gapray.capture.names.TEMPLATES`.
        settings: Limits on the photos.
        on_product: Called with the id and the number of photos of each product before they are copied.
        on_before: Called with the names of the photos before the first slate, which belong to no product.

    Returns:
        A folder or a reject for each product, in the order of the card. Several slates with the same product id are one reject,
        because their photos may be one turn, two turns or two products.

    Raises:
        InputError: `capture.not_found`, `capture.no_photos`, `capture.unfinished`, `slate.none`.
        ConfigError: `config.invalid` for the template.
    """
    results: list[Path | Reject] = []
    on_card, before = rolls(card, settings)
    on_before([photo.name for photo in before])
    for group in _by_product(on_card):
        roll = group[0]
        name = roll.product_id or printable(roll.text)
        on_product(name, sum(len(roll.photos) for roll in group))
        try:
            _check_slates(group)
            results.append(_write(roll, Path(out) / roll.product_id, azimuths, template))
        except GaprayError as error:
            results.append(Reject.of(name, str(card), error))
    return results


def _by_product(on_card: Sequence[Roll]) -> list[list[Roll]]:
    """Group rolls by product. Ids that differ only in case are the same, as their folders are on many systems."""
    groups: dict[str, list[Roll]] = {}
    for roll in on_card:
        groups.setdefault(roll.product_id.casefold() or roll.text, []).append(roll)
    return list(groups.values())


def _check_slates(group: Sequence[Roll]) -> None:
    """Refuse slates without a product id, and several slates with the same id.

    Raises:
        InputError: `slate.no_id`, `slate.same_id` or `slate.again`.
    """
    texts = {roll.text for roll in group}
    details = "; ".join(f"{roll.slate} {roll.text!r}: {len(roll.photos)} photos" for roll in group)
    if not group[0].product_id:
        raise InputError("slate.no_id", f"nothing in the slate's text can be a product id: {details}")
    if len(texts) > 1:
        raise InputError("slate.same_id", f"slates with other texts give the id {group[0].product_id}: {details}")
    if len(group) > 1:
        raise InputError("slate.again", f"the slate comes {len(group)} times: {details}")


def _write(roll: Roll, target: Path, options: AzimuthOptions, template: str) -> Path:
    """Write the folder of one product, and return it.

    Raises:
        InputError: `capture.no_photos`, or what `read_names` and `new_folder` raise.
        ConfigError: `config.invalid` for the template.
    """
    if not roll.photos:
        raise InputError("capture.no_photos", f"no photo follows the slate {roll.slate}")
    # Reading numbered names takes care of closing frames, front and direction.
    numbered = {f"{index:05d}": file for index, file in enumerate(roll.photos)}
    placed = read_names(list(numbered), options).azimuths
    rows: list[tuple[str, ...]] = []
    with new_folder(target) as partial:
        for index, (number, azimuth) in enumerate(placed.items()):
            file = numbered[number]
            name = view_name(template, roll.product_id, azimuth, index)
            if name is None:
                continue
            (partial / f"{name}{file.suffix.lower()}").write_bytes(file.read_bytes())
            rows.append((f"{name}{file.suffix.lower()}", f"{azimuth:.3f}", file.name))
        write_table(partial, rows, "original")
    return target


def _slate_text(file: Path, settings: DecodeSettings) -> str | None:
    try:
        full = settings.model_copy(update={"reference_side": max(SLATE_SIDES)})
        return slate_text(decode_photo(read_bytes(str(file), settings.max_bytes), full))
    except InputError:
        return None  # an unreadable file counts as a photo of its product, and is reported with that
