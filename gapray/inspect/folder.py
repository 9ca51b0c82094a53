"""Writing a product's folder atomically."""

from __future__ import annotations

import csv
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gapray.capture.discover import PRODUCT_ID
from gapray.errors import InputError


@contextmanager
def new_folder(out_folder: str | Path) -> Iterator[Path]:
    """Yield a hidden folder that is renamed to `out_folder` on success; nothing is ever overwritten.

    Args:
        out_folder: A folder that does not exist or is empty; its name becomes the product's id.

    Raises:
        InputError: `capture.invalid_product_id`, `capture.out_not_empty`, `capture.write_failed`, or what the body raises.
    """
    out = Path(out_folder).absolute()
    if PRODUCT_ID.fullmatch(out.name) is None:
        raise InputError("capture.invalid_product_id", f"{out.name!r} cannot be a product id")
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise InputError("capture.out_not_empty", f"{out} is there already")
        partial.mkdir(parents=True)
        yield partial
        os.rename(partial, out)  # replaces an empty folder, and fails if it has been filled in the meantime
    except OSError as error:
        raise InputError("capture.write_failed", f"{out}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_table(folder: Path, rows: Sequence[tuple[str, ...]], *more: str) -> None:
    """Write `capture.csv`, which `gapray.capture.discover` reads.

    Args:
        folder: The folder that holds the photos.
        rows: File name, azimuth in degrees, and a text for each of `more`.
        more: Names of additional columns, which gapray does not read.
    """
    with (folder / "capture.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "azimuth", *more), *rows])
