"""What was run last is current, whatever the clocks of the machines say."""

from datetime import timedelta

import pytest

import gapray
from gapray.catalog.compact import compact
from gapray.catalog.import_package import import_package
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog, open_catalog
from gapray.catalog.rows import utc_now
from gapray.catalog.storage import Folder
from gapray.profile import load_profile
from tests.catalog.test_catalog import refused, rows_of, still_row, verdict_row, video_row
from tests.make import package, write_product

NULL = [f"{role}.model=null-model" for role in ("mask", "depth", "identity")]
AHEAD = timedelta(days=2)
"""How far the clock of the first run is ahead of that of the second."""


ROWS = {
    "products": lambda key: rows_of("a", key=key)["products"][0],
    "videos": lambda key: video_row("a", key),
    "stills": lambda key: still_row("a", key),
    "verdicts": lambda key: verdict_row("a", key, "v"),
    "rejects": lambda key: refused("a", "render", "morph/0/gif", at=0) | {"key": key},
}
"""Table -> a row of it: those with different keys take each other's place."""


@pytest.mark.parametrize("table", ROWS)
@pytest.mark.parametrize("keys", [("old", "new"), ("zzz", "aaa")], ids=" then ".join)
def test_a_row_from_the_future_does_not_stay_current(folder, table, keys):
    commit(folder, rows_of("a"))
    commit(folder, {"videos": [video_row("a", "v")]})
    catalog, now = Catalog(folder), utc_now()
    commit(folder, {table: [ROWS[table](keys[0]) | {"created_at": now + AHEAD}]})
    assert catalog.newest(table) == now + AHEAD
    commit(folder, {table: [ROWS[table](keys[1]) | {"created_at": now}]}, after=catalog.newest(table, "rejects"))
    assert catalog.newest(table) == now + AHEAD + timedelta(microseconds=1)
    assert keys[1] in catalog.table(table)["key"].to_pylist() and keys[0] not in catalog.table(table)["key"].to_pylist()
    compact(folder)
    assert keys[1] in catalog.table(table)["key"].to_pylist() and keys[0] not in catalog.table(table)["key"].to_pylist()


@pytest.mark.parametrize(("stage", "table"), [("package", "products"), ("render", "videos"), ("stills", "stills")])
def test_a_reject_from_the_future_ends_when_its_stage_succeeds(folder, stage, table):
    items = {"package": "", "render": "morph/0/web", "stills": "studio/composite/0"}
    commit(folder, rows_of("a"))
    catalog, now = Catalog(folder), utc_now()
    commit(folder, {"rejects": [refused("a", stage, items[stage], at=0) | {"created_at": now + AHEAD}]})
    assert catalog.rejects().num_rows == 1
    commit(folder, {table: [ROWS[table]("k1") | {"created_at": now}]}, after=catalog.newest(table, "rejects"))
    assert catalog.rejects().num_rows == 0


def test_rows_that_are_newer_keep_their_stamps(folder):
    now = utc_now()
    commit(folder, {"products": [ROWS["products"]("old") | {"created_at": now - AHEAD}]})
    newest = Catalog(folder).newest("products", "rejects")
    commit(folder, {"products": [ROWS["products"]("new") | {"created_at": now}]}, after=newest)
    assert Catalog(folder).newest("products") == now
    assert Catalog(folder).newest("views", "videos") is None


def from_the_future(where, key="f"):
    """A package of `mug` from a machine whose clock is ahead."""
    rows = rows_of("mug", key=key.ljust(64, "0"))
    late = utc_now() + AHEAD
    commit(Folder.at(where), {table: [row | {"created_at": late} for row in rows[table]] for table in rows})


def test_the_last_imported_package_is_current(tmp_path):
    where = str(tmp_path / "c")
    from_the_future(where)
    import_package(Folder.at(where), package("mug", key="0" * 64), uri="memory://")
    assert open_catalog(where).package("mug").key == "0" * 64


@pytest.mark.usefixtures("ray_cluster")
def test_the_last_run_is_current_and_survives_compaction(tmp_path):
    where = str(tmp_path / "c")
    from_the_future(where)
    write_product(tmp_path / "shoot" / "mug")
    profile = load_profile("classic", overrides=[*NULL, "orbit.size=64", "orbit.voxels=32", "orbit.frames=8"])
    assert gapray.package(tmp_path / "shoot", out=where, profile=profile).packaged == 1
    [current] = open_catalog(where).products().to_pylist()
    assert current["key"] != "f".ljust(64, "0")
    compact(Folder.at(where))
    assert open_catalog(where).package("mug").key == current["key"]
    assert gapray.package(tmp_path / "shoot", out=where, profile=profile).finished == 1
    future = video_row("mug", "v") | {"product_key": current["key"], "created_at": utc_now() + AHEAD}
    commit(Folder.at(where), {"videos": [future]})
    assert gapray.render(where, profile=profile).rendered == 1
    assert "v" not in open_catalog(where).videos()["key"].to_pylist()
