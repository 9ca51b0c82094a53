"""Where the files of videos and stills lie: apart from the tables, so that each table's folder holds Parquet parts alone.

Rows name their files by paths relative to the catalogue: ``files/<table>/<product_id>/<beginning of the key>/<name>``. Up to
format 1 they lay inside the tables' own folders, without the first part; rows of that format are read as they are, and
compaction moves their files (`moved_out`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, writing

FILES = "files"
"""The folder of all files that are no tables."""
FILE_COLUMNS = {"videos": "files", "stills": "file"}
"""Table -> its column of paths."""


def media_folder(table: str, product_id: str, key: str) -> str:
    """Where the files of one row lie, relative to the catalogue.

    Files of another key never share a folder: a reader of an older row keeps its own.
    """
    return f"{FILES}/{table}/{product_id}/{key[:16]}"


def media_name(path: str) -> str:
    """The name of a row's file inside its own folder: ``frames/000.png`` of ``files/videos/mug/0123…/frames/000.png``."""
    return path.removeprefix(f"{FILES}/").split("/", 3)[3]


def keys_with_files(folder: Folder, table: str, rows: pa.Table) -> pa.Array:
    """Keys of the rows whose files are all there: somebody may have removed a file by hand.

    Args:
        folder: The catalogue. In a bucket nothing is looked at: that would take a request a file.
        table: `videos` or `stills`.
        rows: With the columns ``key`` and `FILE_COLUMNS` of the table.

    Returns:
        Strings, each once.
    """
    keys = pc.unique(rows["key"])
    if not folder.is_local:
        return keys
    lacking = set()
    for key, paths in zip(rows["key"].to_pylist(), rows[FILE_COLUMNS[table]].to_pylist(), strict=True):
        if not all(os.path.exists(f"{folder.path}/{path}") for path in ([paths] if isinstance(paths, str) else paths)):
            lacking.add(key)
    return keys.filter(pc.invert(pc.is_in(keys, value_set=pa.array(sorted(lacking), pa.string()))))


def with_new_paths(table: str, rows: pa.Table) -> pa.Table:
    """Rows whose paths lead below `FILES`, whatever layout they were written for."""
    if table not in FILE_COLUMNS:
        return rows
    place = rows.schema.get_field_index(FILE_COLUMNS[table])
    field = rows.schema.field(place)
    given = rows[field.name].to_pylist()
    named = [_new_path(path) if isinstance(path, str) else list(map(_new_path, path)) for path in given]
    return rows.set_column(place, field, pa.array(named, field.type))


def copied_out(folder: Folder) -> list[str]:
    """Copy the files that lie in the folders of tables to where they belong; they are removed by `remove_old`.

    Returns:
        Their old paths, as the file system names them.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    old = list(_inside_tables(folder))
    for path in old:
        inner, _, name = _new_path(path.removeprefix(f"{folder.path}/")).rpartition("/")
        with writing(CatalogError, "catalog.write_failed", f"{folder.path}/{inner}/{name}"):
            folder.put(inner, name, pa.py_buffer(folder.filesystem.cat_file(path)))
    return old


def remove_old(folder: Folder, paths: Iterable[str]) -> None:
    """Remove what `copied_out` has copied, and the folders that are empty then.

    Raises:
        CatalogError: `catalog.write_failed`.
    """
    for path in paths:
        with writing(CatalogError, "catalog.write_failed", path):
            folder.remove(path)
    for table in FILE_COLUMNS:
        folder.prune(table)


def _new_path(path: str) -> str:
    return path if path.startswith(f"{FILES}/") else f"{FILES}/{path}"


def _inside_tables(folder: Folder) -> Iterator[str]:
    """Files below the folders of tables, but for what lies in them directly: parts."""
    for table in FILE_COLUMNS:
        base = f"{folder.path}/{table}"
        for path in folder.filesystem.find(base):
            if "/" in str(path).removeprefix(f"{base}/"):
                yield str(path)
