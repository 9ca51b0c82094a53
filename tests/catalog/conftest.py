"""A catalogue on a disk and one elsewhere."""

import pytest

from gapray.catalog.storage import Folder


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        yield Folder.at(str(tmp_path / "catalog"))
        return
    folder = Folder.at(f"memory://catalog-{tmp_path.name}")
    yield folder
    if folder.filesystem.exists(folder.path):
        folder.filesystem.rm(folder.path, recursive=True)
