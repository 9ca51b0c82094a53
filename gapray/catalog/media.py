"""Locations of the files of videos and stills, which are kept apart from the tables, whose folders contain only Parquet parts.

Rows name their files by paths relative to the catalogue: ``files/<table>/<product_id>/<prefix of the key>/<name>``. Format 1 had
them in the tables' own folders, without ``files/``; rows of that format are read as they are, and compaction moves their files
(`copy_old_files`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, writing

FILES = "files"
"""Folder of all files that are not tables."""
FILE_COLUMNS = {"videos": "files", "stills": "file"}
"""Table -> its column of file paths."""


def media_folder(table: str, product_id: str, key: str) -> str:
    """Return the folder of one row's files, relative to the catalogue.

    Each key has its own folder, so that files of an older row are never overwritten.
    """
    return f"{FILES}/{table}/{product_id}/{key[:16]}"


def media_name(path: str) -> str:
    """Return a file's name within its row's folder, e.g. ``frames/000.png`` for ``files/videos/mug/0123…/frames/000.png``."""
    return path.removeprefix(f"{FILES}/").split("/", 3)[3]


def keys_with_files(folder: Folder, table: str, rows: pa.Table) -> pa.Array:
    """Return the keys of the rows whose files all exist, since files may have been removed manually.

    Args:
        folder: The catalogue. In a bucket files are not checked, because that would take one request per file.
        table: `videos` or `stills`.
        rows: Rows with the column ``key`` and the table's column of `FILE_COLUMNS`.

    Returns:
        Unique keys, a string array.
    """
    keys = pc.unique(rows["key"])
    if not folder.is_local:
        return keys
    incomplete = set()
    for key, paths in zip(rows["key"].to_pylist(), rows[FILE_COLUMNS[table]].to_pylist(), strict=True):
        if not all(os.path.exists(f"{folder.path}/{path}") for path in ([paths] if isinstance(paths, str) else paths)):
            incomplete.add(key)
    return keys.filter(pc.invert(pc.is_in(keys, value_set=pa.array(sorted(incomplete), pa.string()))))


def with_current_paths(table: str, rows: pa.Table) -> pa.Table:
    """Convert the file paths in rows of either layout to the present one, below `FILES`."""
    if table not in FILE_COLUMNS:
        return rows
    index = rows.schema.get_field_index(FILE_COLUMNS[table])
    field = rows.schema.field(index)
    paths = rows[field.name].to_pylist()
    current = [_current_path(path) if isinstance(path, str) else list(map(_current_path, path)) for path in paths]
    return rows.set_column(index, field, pa.array(current, field.type))


def copy_old_files(folder: Folder) -> list[str]:
    """Copy files from the tables' folders, where format 1 had them, to their present location.

    Returns:
        Their old paths, absolute, to be passed to `remove_old_files`.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    old = list(_old_files(folder))
    for path in old:
        inner, _, name = _current_path(path.removeprefix(f"{folder.path}/")).rpartition("/")
        with writing(CatalogError, "catalog.write_failed", f"{folder.path}/{inner}/{name}"):
            folder.put(inner, name, pa.py_buffer(folder.filesystem.cat_file(path)))
    return old


def remove_old_files(folder: Folder, paths: Iterable[str]) -> None:
    """Remove the files that `copy_old_files` has copied, and folders that become empty.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    for path in paths:
        with writing(CatalogError, "catalog.write_failed", path):
            folder.remove(path)
    for table in FILE_COLUMNS:
        folder.prune(table)


def _current_path(path: str) -> str:
    return path if path.startswith(f"{FILES}/") else f"{FILES}/{path}"


def _old_files(folder: Folder) -> Iterator[str]:
    """Yield the paths of files in subfolders of the tables' folders; parts are directly in the tables' folders."""
    for table in FILE_COLUMNS:
        base = f"{folder.path}/{table}"
        for path in folder.filesystem.find(base):
            if "/" in str(path).removeprefix(f"{base}/"):
                yield str(path)
