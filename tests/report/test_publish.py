"""Exports of the same frames lie side by side; publishing takes the preset asked for."""

import csv
import json

import pytest
from typer.testing import CliRunner

from gapray.catalog.compact import compact
from gapray.catalog.parts import commit
from gapray.catalog.reader import open_catalog
from gapray.catalog.storage import Folder
from gapray.cli.main import app
from gapray.errors import CatalogError, ConfigError, InputError
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
    """But for the record of them."""
    found = (path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.endswith("/published.json"))


def approval(tmp_path, key):
    with (tmp_path / "approved.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("product_id", "video_key", "decision"), ("mug", key, "approved")])
    return tmp_path / "approved.csv"


WEB = ["mug/poster.jpg", "mug/provenance.json", "mug/turntable.mp4"]
GIF = ["mug/provenance.json", "mug/turntable.gif"]


@pytest.mark.parametrize("lpips", [None, 0.2, 0.01], ids=["not scored", "worse", "better"])
def test_a_further_export_does_not_replace_the_published_one(catalog, tmp_path, lpips):
    if lpips is not None:
        scored(catalog, lpips)
    compact(catalog.folder)
    assert sorted(catalog.videos()["preset"].to_pylist()) == ["gif", "web"]
    assert publish(catalog, str(tmp_path / "shop"), None) == (["mug"], [], [])
    assert files_in(tmp_path / "shop") == WEB


def test_the_requested_preset_is_published(catalog, tmp_path):
    assert publish(catalog, str(tmp_path / "shop"), None, "gif") == ([], ["mug: gate: not scored"], [])
    assert publish(catalog, str(tmp_path / "shop"), None, "spin") == ([], ["mug: no video of preset spin"], [])
    scored(catalog, 0.2)
    assert publish(catalog, str(tmp_path / "shop"), None, "gif") == (["mug"], [], [])
    assert files_in(tmp_path / "shop") == GIF
    with pytest.raises(ConfigError) as caught:
        publish(catalog, str(tmp_path / "shop"), None, "betamax")
    assert caught.value.code == "video.unknown_preset"


def test_an_approved_video_is_published_in_the_requested_preset(catalog, tmp_path):
    approved = approval(tmp_path, "mug-0")
    add(catalog.folder, "mug", lpips=0.01, gate="pass", seed=1)
    assert catalog.best_videos()["key"].to_pylist() == ["mug-1"]
    assert publish(catalog, str(tmp_path / "shop"), approved) == (["mug"], [], []), (
        "what was approved, not what is better"
    )
    assert publish(catalog, str(tmp_path / "gifs"), approved, "gif") == (["mug"], [], [])
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


def test_an_approval_of_a_product_without_a_video_is_reported(catalog, tmp_path):
    [web] = [row["key"] for row in catalog.videos().to_pylist() if row["preset"] == "web"]
    lamp = Folder.at(str(tmp_path / "lamp"))
    add(lamp, "lamp", lpips=0.05, gate="pass")
    commit(catalog.folder, {"products": open_catalog(lamp.path).products().to_pylist()})
    chosen = decisions(tmp_path, ("mug", web, "approved"), ("lamp", "k", "approved"), ("box", "k", "undecided"))
    copied, skipped, _ = publish(catalog, str(tmp_path / "shop"), chosen)
    assert copied == ["mug"]
    assert [text.partition(":")[0] for text in skipped] == ["lamp"]


EAN, SHORT = "4006381333931", "0012345678905"


@pytest.mark.parametrize("decision", ["approved", "rejected"])
@pytest.mark.parametrize(
    ("written", "key", "meant", "spreadsheet"),
    [
        ("4.00638E+12", f"{EAN}-0", EAN, True),
        ("4,00638E+12", "k", "", True),
        (SHORT.lstrip("0"), f"{SHORT}-0", SHORT, True),
        (SHORT.lstrip("0"), "k", SHORT, True),
        ("Mug", "k", "mug", False),
        ("lamp", "k", "", False),
    ],
)
def test_decisions_about_unknown_products_publish_nothing(
    catalog, tmp_path, decision, written, key, meant, spreadsheet
):
    for product in (EAN, SHORT):
        add(catalog.folder, product, lpips=0.05, gate="pass")
    [web] = [row["key"] for row in catalog.videos("mug").to_pylist() if row["preset"] == "web"]
    chosen = decisions(tmp_path, ("mug", web, "approved"), (written, key, decision))
    done = CliRunner().invoke(
        app, ["publish", catalog.folder.path, "--to", str(tmp_path / "shop"), "--approved", str(chosen), "--json"]
    )
    error = json.loads(done.stdout)["error"]
    assert done.exit_code == 4 and error["code"] == "report.no_approval" and not (tmp_path / "shop").exists()
    assert repr(written) in error["message"] and (f"({meant}?)" in error["message"]) == bool(meant)
    assert ("as text" in error["message"]) == spreadsheet


def test_contradictory_decisions_publish_nothing(catalog, tmp_path):
    [web] = [row["key"] for row in catalog.videos().to_pylist() if row["preset"] == "web"]
    chosen = decisions(tmp_path, ("mug", web, "rejected"), ("mug", web, "approved"))
    with pytest.raises(InputError, match="mug") as error:
        publish(catalog, str(tmp_path / "shop"), chosen)
    assert error.value.code == "report.no_approval" and not (tmp_path / "shop").exists()


def test_rejected_products_are_withdrawn(catalog, tmp_path):
    shop, [web] = tmp_path / "shop", [row["key"] for row in catalog.videos().to_pylist() if row["preset"] == "web"]
    add(catalog.folder, "pan", lpips=0.05, gate="pass")
    approved = decisions(tmp_path, ("mug", web, "approved"), ("pan", "pan-0", "approved"))
    assert publish(catalog, str(shop), approved).copied == ["mug", "pan"]
    publish(catalog, str(shop), approved, "gif")
    (shop / "mug" / "notes.txt").write_text("somebody else's")
    done = publish(catalog, str(shop), decisions(tmp_path, ("mug", web, "rejected")))
    assert (done.copied, done.withdrawn) == ([], ["mug"])
    rejected, undecided = done.skipped
    assert rejected == f"mug: rejected; what was published of it was removed from {shop}/mug"
    assert undecided == f"pan: undecided; what was published of it before still lies in {shop}/pan"
    pan = [name.replace("mug", "pan") for name in WEB]
    assert files_in(shop) == ["mug/notes.txt", *pan], "nobody decided about the pan"
    assert publish(catalog, str(shop), decisions(tmp_path, ("mug", web, "rejected"))).withdrawn == []
    (shop / "mug" / "notes.txt").unlink()
    publish(catalog, str(shop), decisions(tmp_path, ("mug", web, "approved")))
    publish(catalog, str(shop), decisions(tmp_path, ("mug", web, "rejected"), ("pan", "pan-0", "rejected")))
    assert list(shop.iterdir()) == []


def test_products_that_fail_the_gate_are_withdrawn(catalog, tmp_path):
    shop = tmp_path / "shop"
    publish(catalog, str(shop), None)
    scored(catalog, 0.05)
    assert publish(catalog, str(shop), None, "gif").copied == ["mug"]
    assert files_in(shop) == sorted({*WEB, *GIF}), "presets of the same frames lie side by side"
    add(catalog.folder, "mug", lpips=0.4, gate="fail", preset="gif")
    assert publish(catalog, str(shop), None, "gif").withdrawn == ["mug"]
    assert files_in(shop) == WEB, "the video in the other preset passes"
    add(catalog.folder, "mug", lpips=0.4, gate="fail")
    done = CliRunner().invoke(app, ["publish", catalog.folder.path, "--to", str(shop)])
    assert (
        "mug: gate: fail; what was published of it was removed" in done.output and "1 of them withdrawn" in done.output
    )
    assert not (shop / "mug").exists()


def test_files_of_earlier_frames_are_removed(catalog, tmp_path):
    shop = tmp_path / "shop"
    scored(catalog, 0.05)
    for preset in ("web", "gif"):
        publish(catalog, str(shop), None, preset)
    add(catalog.folder, "mug", lpips=0.01, gate="pass", seed=1)
    assert publish(catalog, str(shop), None).copied == ["mug"]
    assert files_in(shop) == WEB, "the GIF showed the other seed"


def test_other_products_and_unknown_files_are_kept(catalog, tmp_path):
    shop, other = tmp_path / "shop", Folder.at(str(tmp_path / "other"))
    add(other, "lamp", lpips=0.05, gate="pass")
    publish(open_catalog(other.path), str(shop), None)
    (shop / "mug").mkdir()
    (shop / "mug" / "turntable.mp4").write_bytes(b"an earlier release wrote no record")
    [web] = [row["key"] for row in catalog.videos().to_pylist() if row["preset"] == "web"]
    done = publish(catalog, str(shop), decisions(tmp_path, ("mug", web, "rejected")))
    assert done.withdrawn == [] and [line for line in done.skipped if "nothing says who put them there" in line]
    assert len(done.skipped) == 1 and "mug/turntable.mp4" in files_in(shop) and "lamp/turntable.mp4" in files_in(shop)


@pytest.mark.parametrize("name", ["../lamp/turntable.mp4", "/etc/hostname", "a/../../b", "", "..", "a\\b"])
def test_a_record_cannot_lead_outside_its_folder(catalog, tmp_path, name):
    shop, [web] = tmp_path / "shop", [row["key"] for row in catalog.videos().to_pylist() if row["preset"] == "web"]
    publish(catalog, str(shop), None)
    (shop / "mug" / "published.json").write_text(
        json.dumps({"exports": [{"preset": "web", "frames": "f", "files": [name]}]})
    )
    with pytest.raises(CatalogError) as caught:
        publish(catalog, str(shop), decisions(tmp_path, ("mug", web, "rejected")))
    assert caught.value.code == "catalog.unreadable" and files_in(shop) == WEB


@pytest.mark.parametrize("word", ["reject", "no", "aproved", "approved?"])
def test_an_invalid_decision_is_named(catalog, tmp_path, word):
    """Taken for undecided, a video that was turned down would stay published."""
    chosen = decisions(tmp_path, ("mug", "mug-0", word))
    with pytest.raises(InputError) as error:
        publish(catalog, str(tmp_path / "shop"), chosen)
    assert error.value.code == "report.no_approval" and repr(word) in error.value.message
    assert "rejected" in error.value.message and not (tmp_path / "shop").exists()
