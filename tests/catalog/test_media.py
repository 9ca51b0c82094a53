"""Files of videos and stills that somebody removed by hand."""

import pytest

from gapray.catalog.media import keys_with_files, media_folder
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError
from tests.catalog.test_catalog import rows_of, still_row, video_row


@pytest.fixture
def folder(tmp_path):
    """Two videos and two stills, of which the second ones' files are gone."""
    found = Folder.at(str(tmp_path / "c"))
    videos, stills = [], []
    for name in ("a", "b"):
        files = [f"{media_folder('videos', name, name)}/{file}" for file in ("turntable.mp4", "frames/000.png")]
        videos.append(video_row(name, name) | {"files": files})
        stills.append(still_row(name, name) | {"file": f"{media_folder('stills', name, name)}/still.png"})
        for path in [*files, stills[-1]["file"]]:
            place = tmp_path / "c" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"x")
    commit(
        found,
        {"videos": videos, "stills": stills} | {"products": [*rows_of("a")["products"], *rows_of("b")["products"]]},
    )
    (tmp_path / "c" / videos[1]["files"][1]).unlink()
    (tmp_path / "c" / stills[1]["file"]).unlink()
    return found


@pytest.mark.parametrize(("table", "column"), [("videos", "files"), ("stills", "file")])
def test_a_row_with_missing_files_does_not_count_as_finished(folder, table, column):
    rows = Catalog(folder).table(table, columns=["key", column])
    assert sorted(rows["key"].to_pylist()) == ["a", "b"]
    assert keys_with_files(folder, table, rows).to_pylist() == ["a"]


def test_a_missing_file_has_its_own_code(folder):
    with pytest.raises(CatalogError) as error:
        folder.read(f"{media_folder('stills', 'b', 'b')}/still.png")
    assert error.value.code == "catalog.file_missing"
