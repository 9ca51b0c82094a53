"""Exports of the same frames lie side by side; publishing takes the preset asked for."""

import csv

import pytest

from gapray.catalog.compact import compact
from gapray.catalog.parts import commit
from gapray.catalog.reader import open_catalog
from gapray.catalog.storage import Folder
from gapray.errors import ConfigError, InputError
from gapray.report.approval import publish
from tests.report.test_site import add


@pytest.fixture
def catalog(tmp_path):
    """A product whose web video passed, then rendered as GIF, which was not scored."""
    folder = Folder.at(str(tmp_path / "c"))
    add(folder, "mug", lpips=0.05, gate="pass")
    add(folder, "mug", lpips=0.05, gate="pass", preset="gif")
    opened = open_catalog(folder.path)
    [gif] = [row for row in opened.videos().to_pylist() if row["preset"] == "gif"]
    kept = [row for row in opened.verdicts().to_pylist() if row["video_key"] != gif["key"]]
    for part in folder.parts("verdicts"):
        folder.remove(part)
    commit(folder, {"verdicts": kept})
    return opened


def scored(catalog, lpips):
    """The GIF is scored too."""
    add(catalog.folder, "mug", lpips=lpips, gate="pass", preset="gif")


def files_in(place):
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def approval(tmp_path, key):
    with (tmp_path / "approved.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("product_id", "video_key", "decision"), ("mug", key, "approved")])
    return tmp_path / "approved.csv"


WEB = ["mug/poster.jpg", "mug/provenance.json", "mug/turntable.mp4"]
GIF = ["mug/provenance.json", "mug/turntable.gif"]


@pytest.mark.parametrize("lpips", [None, 0.2, 0.01], ids=["not scored", "worse", "better"])
def test_one_more_export_takes_no_place(catalog, tmp_path, lpips):
    if lpips is not None:
        scored(catalog, lpips)
    compact(catalog.folder)
    assert sorted(catalog.videos()["preset"].to_pylist()) == ["gif", "web"]
    assert publish(catalog, str(tmp_path / "shop"), None) == (["mug"], [])
    assert files_in(tmp_path / "shop") == WEB


def test_the_preset_that_is_asked_for_is_published(catalog, tmp_path):
    assert publish(catalog, str(tmp_path / "shop"), None, "gif") == ([], ["mug: gate: not scored"])
    assert publish(catalog, str(tmp_path / "shop"), None, "spin") == ([], ["mug: no video of preset spin"])
    scored(catalog, 0.2)
    assert publish(catalog, str(tmp_path / "shop"), None, "gif") == (["mug"], [])
    assert files_in(tmp_path / "shop") == GIF
    with pytest.raises(ConfigError) as caught:
        publish(catalog, str(tmp_path / "shop"), None, "betamax")
    assert caught.value.code == "video.unknown_preset"


def test_of_an_approved_video_the_export_of_its_frames_is_published(catalog, tmp_path):
    approved = approval(tmp_path, "mug-0")
    add(catalog.folder, "mug", lpips=0.01, gate="pass", seed=1)
    assert catalog.best_videos()["key"].to_pylist() == ["mug-1"]
    assert publish(catalog, str(tmp_path / "shop"), approved) == (["mug"], []), "what was approved, not what is better"
    assert publish(catalog, str(tmp_path / "gifs"), approved, "gif") == (["mug"], [])
    assert files_in(tmp_path / "gifs") == GIF
    other = approval(tmp_path, "mug-1")
    assert publish(catalog, str(tmp_path / "none"), other, "gif")[1] == [
        "mug: the approved video has no export of preset gif"
    ]
    assert publish(catalog, str(tmp_path / "none"), approval(tmp_path, "gone"))[1] == [
        "mug: the approved video is not current any more"
    ]


def decisions(tmp_path, *rows):
    with (tmp_path / "approved.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("product_id", "video_key", "decision"), *rows])
    return tmp_path / "approved.csv"


def test_an_approval_of_what_is_not_there_is_told(catalog, tmp_path):
    [web] = [row["key"] for row in catalog.videos().to_pylist() if row["preset"] == "web"]
    chosen = decisions(
        tmp_path,
        ("mug", web, "approved"),
        ("Mug", web, "approved"),
        ("lamp", "k", "approved"),
        ("box", "k", "rejected"),
    )
    copied, skipped = publish(catalog, str(tmp_path / "shop"), chosen)
    assert copied == ["mug"]
    assert [text.partition(":")[0] for text in skipped] == ["Mug", "lamp"]


def test_rows_that_contradict_one_another_publish_nothing(catalog, tmp_path):
    [web] = [row["key"] for row in catalog.videos().to_pylist() if row["preset"] == "web"]
    chosen = decisions(tmp_path, ("mug", web, "rejected"), ("mug", web, "approved"))
    with pytest.raises(InputError, match="mug") as error:
        publish(catalog, str(tmp_path / "shop"), chosen)
    assert error.value.code == "report.no_approval" and not (tmp_path / "shop").exists()
