"""A gate that was changed, over rows that were scored before."""

import pytest

from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog
from gapray.catalog.rejudge import rejudge_stills, rejudge_videos
from gapray.catalog.storage import Folder
from gapray.fidelity.settings import GateSettings
from tests.catalog.test_catalog import rows_of, still_row, verdict_row, video_row

LABELS = ("gapray", "nearest view", "cross-fade")


@pytest.fixture
def catalog(tmp_path):
    folder = Folder.at(str(tmp_path / "catalog"))
    for index, lpips in enumerate((0.05, 0.15)):
        name, video, score = f"p{index}", f"video{index}", f"score{index}"
        verdicts = [verdict_row(name, score, video, label, lpips=lpips, worst_lpips=0.3, iou=0.9) for label in LABELS]
        commit(folder, rows_of(name) | {"videos": [video_row(name, video)]})
        commit(folder, {"verdicts": [verdicts[0], *(verdict | {"gate": "none"} for verdict in verdicts[1:])]})
    return Catalog(folder)


def gates(catalog):
    return {(row["product_id"], row["label"]): (row["gate"], *row["reasons"]) for row in catalog.verdicts().to_pylist()}


def test_only_changed_verdicts_are_written(catalog):
    assert rejudge_videos(catalog, GateSettings(), "run-b") == 0
    assert len(catalog.folder.parts("verdicts")) == 2
    before = catalog.table("verdicts")
    assert rejudge_videos(catalog, GateSettings(max_lpips=0.1), "run-b") == 1
    found = gates(catalog)
    assert found["p0", "gapray"] == ("pass",) and found["p1", "gapray"] == ("fail", "LPIPS 0.15 is over 0.1")
    assert {found[name, label] for name in ("p0", "p1") for label in LABELS[1:]} == {("none",)}, "baselines stay"
    judged = ["gate", "reasons", "run_id", "created_at"]
    assert catalog.table("verdicts").drop_columns(judged).equals(before.drop_columns(judged)), "no number changed"
    [row] = [row for row in catalog.verdicts("p1").to_pylist() if row["label"] == "gapray"]
    assert row["run_id"] == "run-b"
    assert rejudge_videos(catalog, GateSettings(max_lpips=0.1), "run-c") == 0
    assert rejudge_videos(catalog, GateSettings(), "run-d") == 1 and gates(catalog)["p1", "gapray"] == ("pass",)


def test_nothing_is_judged_without_scores(tmp_path):
    folder = Folder.at(str(tmp_path))
    commit(folder, rows_of("a"))
    assert rejudge_videos(Catalog(folder), GateSettings(), "r") == 0
    assert rejudge_stills(Catalog(folder), 0.5, {"x"}, "r") == 0


def test_stills_are_judged_again_and_keep_what_no_gate_decides(tmp_path):
    folder = Folder.at(str(tmp_path))
    commit(folder, rows_of("a"))
    lost = still_row("a", "lost", seed=2, percentile=0.0, gate="fail", reasons=["its detail is lost"])
    commit(
        folder, {"stills": [still_row("a", "s0", percentile=0.3), still_row("a", "s1", seed=1, percentile=0.6), lost]}
    )
    catalog = Catalog(folder)

    def found():
        return {row["key"]: (row["gate"], row["reasons"]) for row in catalog.stills().to_pylist()}

    keys = {"s0", "s1", "lost"}
    assert rejudge_stills(catalog, 0.05, keys, "r") == 0
    assert rejudge_stills(catalog, 0.5, {"s1"}, "r") == 0, "other stills are not this run's"
    assert rejudge_stills(catalog, 0.5, keys, "r") == 1
    assert found() == {
        "s0": ("fail", ["70% of real photos of a product are more alike"]),
        "s1": ("pass", []),
        "lost": ("fail", ["its detail is lost"]),
    }
    assert rejudge_stills(catalog, None, keys, "r") == 1
    assert found()["s0"] == ("pass", []) and found()["lost"] == ("fail", ["its detail is lost"])
