"""The report in a real browser, from disk."""

import csv
import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from gapray.batch.render_stages import put_files
from gapray.catalog.import_package import import_package
from gapray.catalog.media import media_folder
from gapray.catalog.parts import commit
from gapray.catalog.reader import Catalog, open_catalog
from gapray.catalog.rows import utc_now
from gapray.catalog.schemas import REJECTS, SCORES, VERDICTS, VIDEOS
from gapray.catalog.storage import Folder
from gapray.errors import CatalogError, InputError
from gapray.report.approval import publish, read_decisions
from gapray.report.polar import PolarPoint, polar_svg
from gapray.report.reel import write_reel
from gapray.report.site import write_report
from gapray.report.table import TableRow, as_csv, as_markdown, fidelity_table
from gapray.video.decode import read_frames
from gapray.video.encode import export
from gapray.video.presets import preset_named
from gapray.video.provenance import Provenance
from tests import make
from tests.counted import counted_folder

NOW = utc_now()


def row(schema, **values):
    blank = {field.name: [] if str(field.type).startswith("list") else None for field in schema}
    return blank | {"run_id": "r", "created_at": NOW} | values


def add(folder, name, *, lpips, gate, seed=0, preset="web", frames=24):
    """A product with a video and its verdict."""
    package = dataclasses.replace(make.package(name), key=name.ljust(64, "0"))
    import_package(folder, package, uri="memory://")
    shades = np.linspace(40, 220, frames).astype(np.uint8)
    drawn = np.broadcast_to(shades[:, None, None, None], (frames, 64, 64, 3)).copy()
    files = export(
        drawn, preset_named(preset), Provenance(name, "compositeCapture", {"backend": "morph", "settings": {}})
    )
    key = f"{name}-{seed}" + ("" if preset == "web" else f"-{preset}")
    place = media_folder("videos", name, key)
    put_files(folder, place, files, name)
    video = row(
        VIDEOS, product_id=name, key=key, product_key=package.key, backend="morph", seed=seed, preset=preset, profile="classic",
        frames=frames, size=64, azimuths_deg=[360 * step / frames for step in range(frames)], key_frames=list(range(0, frames, 3)), bytes=1,
        files=[f"{place}/{file}" for file in files], source_type="compositeCapture", licence="Apache-2.0",
        elevation_deg=10.0, direction=1, seconds=1.0,
    )  # fmt: skip
    shared = {"product_id": name, "key": key, "product_key": package.key, "video_key": key, "foreign_video": False}
    numbers = {"angles": 1, "lpips": lpips, "worst_lpips": lpips, "iou": 0.9, "key_angles": 1, "key_lpips": 0.0}
    verdict = row(VERDICTS, label="gapray", protocol=json.dumps({"net": "alex"}), gate=gate, **shared, **numbers)
    if gate == "fail":
        verdict["reasons"] = [f"LPIPS {lpips} is over 0.2"]
    scores = [
        row(
            SCORES,
            label=label,
            frame=1,
            azimuth_deg=azimuth,
            kind=kind,
            lpips=value,
            product_share=0.3,
            protocol="{}",
            **shared,
        )
        for label, azimuth, kind, value in (("gapray", 15.0, "in-between", lpips), ("gapray", 45.0, "key", 0.0))
    ]
    commit(folder, {"videos": [video], "verdicts": [verdict], "scores": scores})


def reject(name):
    return row(REJECTS, product_id=name, key="x", source="s", settings="s", uri="u", stage="package", code="image.empty", message="<b>bad</b> photo")  # fmt: skip


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = Folder.at(str(tmp_path_factory.mktemp("report") / "catalog"))
    add(folder, "alpha", lpips=0.05, gate="pass")
    add(folder, "beta", lpips=0.31, gate="fail")
    add(folder, "gamma", lpips=0.12, gate="pass")
    commit(folder, {"rejects": [reject("delta")]})
    return open_catalog(folder.path)


def test_the_cost_of_a_part_does_not_grow_with_the_report(tmp_path):
    listed = []
    for count in (2, 6):
        folder = counted_folder(tmp_path / f"bucket-{count}")
        for index in range(count):
            add(folder, f"p{index}", lpips=0.1, gate="pass")
        folder.filesystem.reset()
        page = write_report(Catalog(folder), tmp_path / f"report-{count}")
        listed.append(dict(folder.filesystem.listed))
        # Footer and keys to find the packages, footer and rows to read them.
        assert [folder.filesystem.opened[path] for path in folder.parts("views")] == [4] * count
        products = json.loads((page.parent / "data.js").read_text().partition(" = ")[2].rstrip(";\n"))
        assert [product["id"] for product in products] == [f"p{index}" for index in range(count)]
        assert len(list((page.parent / "products").glob("*.photos.jpg"))) == count
    assert listed[0] == listed[1] and listed[0]["catalog/views"] == 1


def test_a_report_shows_how_azimuths_were_determined(tmp_path):
    folder = Folder.at(str(tmp_path / "catalog"))
    ways = ["degrees", "frames", "table", "order", None]
    for index, by in enumerate(ways):
        package = dataclasses.replace(make.package(f"p{index}"), key=f"p{index}".ljust(64, "0"), azimuths_by=by)
        import_package(folder, package, uri="memory://")
    page = write_report(Catalog(folder), tmp_path / "report")
    products = json.loads((page.parent / "data.js").read_text().partition(" = ")[2].rstrip(";\n"))
    assert [product["azimuths_by"] for product in products] == ways
    pages = [(page.parent / "products" / f"p{index}.html").read_text() for index in range(len(ways))]
    assert [text.count('<p class="fail">Azimuths by') for text in pages] == [0, 0, 0, 1, 0]
    assert "Azimuths by frame numbers" in pages[1] and "order of the photos" in pages[3]


def test_a_package_without_its_views_is_an_error_of_the_report(tmp_path):
    folder = Folder.at(str(tmp_path / "catalog"))
    add(folder, "whole", lpips=0.1, gate="pass")
    add(folder, "torn", lpips=0.1, gate="pass")
    [part] = [path for path in folder.parts("views") if "torn" in pq.read_table(path)["product_id"].to_pylist()]
    folder.remove(part)
    with pytest.raises(CatalogError, match="torn has 0 of 8 views"):
        write_report(Catalog(folder), tmp_path / "report")


@pytest.fixture
def page(chromium):
    context = chromium.new_context(accept_downloads=True, reduced_motion="reduce")
    page = context.new_page()
    page.trouble = []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("requestfailed", lambda request: page.trouble.append(request.url))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "blob:", "data:")) else page.trouble.append(request.url)
        ),
    )
    yield page
    assert page.trouble == []
    context.close()


def names(page):
    return page.locator("#products tbody tr td:nth-child(2)").all_inner_texts()


def test_overview_sorts_filters_and_downloads_decisions(catalog, page, tmp_path):
    index = write_report(catalog, tmp_path / "report")
    page.goto(index.as_uri())
    assert names(page) == ["alpha", "beta", "delta", "gamma"]
    page.click("[data-sort=lpips]")
    assert names(page) == ["alpha", "gamma", "beta", "delta"]
    page.click("[data-sort=lpips]")
    assert names(page) == ["beta", "gamma", "alpha", "delta"]  # no number comes last either way
    page.select_option("#status", "pass")
    assert names(page) == ["gamma", "alpha"]
    page.select_option("#status", "rejected")
    assert names(page) == ["delta"] and "<b>bad</b> photo" in page.inner_text("#products")
    page.select_option("#status", "")
    page.fill("#least", "0.1")
    assert names(page) == ["beta", "gamma"]
    page.fill("#find", "BET")
    assert names(page) == ["beta"]
    page.click("text=beta")
    page.click("[data-decide=rejected]")
    page.goto((index.parent / "products" / "alpha.html").as_uri())
    page.click("[data-decide=approved]")
    assert page.get_attribute("[data-decide=approved]", "aria-pressed") == "true"
    page.goto(index.as_uri())
    assert "2 decided" in page.inner_text("#decided")
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "decisions.csv")
    assert read_decisions(tmp_path / "decisions.csv") == {
        "alpha": ("alpha-0", "approved"),
        "beta": ("beta-0", "rejected"),
    }
    copied, skipped, _ = publish(catalog, str(tmp_path / "shop"), tmp_path / "decisions.csv")
    assert copied == ["alpha"] and skipped == ["beta: rejected", "gamma: undecided"]
    assert (tmp_path / "shop" / "alpha" / "turntable.mp4").stat().st_size > 0


def test_a_product_turns_by_drag_keys_and_slider(catalog, page, tmp_path):
    index = write_report(catalog, tmp_path / "report")
    page.goto((index.parent / "products" / "alpha.html").as_uri())
    assert page.inner_text("#at") == "0°, a captured angle"
    page.wait_for_timeout(400)
    assert page.inner_text("#at").startswith("0°")  # reduced motion: it stands still
    page.focus("#spin")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#at") == "15°, in between" and page.inner_text("#photo-at") == "0°"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#at") == "345°, in between"
    page.fill("#angle", "12")
    assert page.inner_text("#at") == "180°, a captured angle"
    box = page.locator("#spin").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - box["width"] / 4, y)
    page.mouse.up()
    assert page.inner_text("#at") == "225°, a captured angle"
    page.locator("#ring .stage").nth(2).click()
    assert page.inner_text("#at").startswith("90°")
    page.click("#play")
    page.wait_for_timeout(400)
    page.click("#play")
    assert not page.inner_text("#at").startswith("90°")
    sprite = page.evaluate("getComputedStyle(document.getElementById('spin')).backgroundImage")
    assert "alpha.turn.jpg" in sprite
    assert page.locator("svg.polar").count() == 1


def test_the_page_moves_unless_reduced_motion_is_preferred(catalog, chromium, tmp_path):
    index = write_report(catalog, tmp_path / "report")
    page = chromium.new_page()
    page.goto((index.parent / "products" / "alpha.html").as_uri())
    page.wait_for_timeout(500)
    assert not page.inner_text("#at").startswith("0°")
    page.close()


def test_a_thousand_products_stay_usable(page, tmp_path, catalog):
    index = write_report(catalog, tmp_path / "report")
    rows = [{"id": f"sku-{n:04d}", "video": "v", "status": "pass", "lpips": n / 1000, "worst": None, "iou": None, "reason": "", "thumb": "", "page": ""} for n in range(1000)]  # fmt: skip
    (index.parent / "data.js").write_text(f"window.GAPRAY_PRODUCTS = {json.dumps(rows)};")
    page.goto(index.as_uri())
    assert len(names(page)) == 50 and "1000 products, page 1 of 20" in page.inner_text("#page")
    page.click("#after")
    assert names(page)[0] == "sku-0050"
    page.fill("#find", "sku-0999")
    assert names(page) == ["sku-0999"]
    assert index.stat().st_size < 20_000


def test_publishing_without_a_file_takes_what_passed(catalog, tmp_path):
    copied, skipped, _ = publish(catalog, str(tmp_path / "shop"), None)
    assert copied == ["alpha", "gamma"] and skipped == ["beta: gate: fail"]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", b"\xff\xfe\x00bad"])
def test_invalid_decisions(tmp_path, text):
    path = tmp_path / "d.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        read_decisions(path)
    assert error.value.code == "report.no_approval"


def test_the_table_marks_what_was_not_measured(catalog):
    table = fidelity_table(catalog)
    assert table[0].label == "gapray" and table[0].products == 3
    assert "| Runway Gen-3 | 0 | not measured |" in as_markdown(table)
    parsed = list(csv.DictReader(as_csv(table).splitlines()))
    assert float(parsed[0]["lpips"]) == pytest.approx(0.16) and parsed[-1]["lpips"] == "not measured"


def test_the_reel_shows_three_columns(catalog, tmp_path):
    files = write_reel(catalog, tmp_path / "reel.mp4", products=["alpha"])
    assert [file.suffix for file in files] == [".mp4", ".md", ".csv"]
    frames = read_frames(files[0])
    assert len(frames) == 48
    height, width = frames[0].shape[:2]
    ours = [frame[height // 2, width // 2].mean() for frame in frames[:24]]
    assert ours == sorted(ours) and ours[-1] - ours[0] > 120


def test_polar_distinguishes_captured_and_in_between_angles():
    svg = polar_svg(
        {"<x>": [PolarPoint(0, 0.1, True), PolarPoint(90, 0.2, False), PolarPoint(180, 0.1, False)]}, title="t & t"
    )
    assert "&lt;x&gt;" in svg and "t &amp; t" in svg and svg.count("<circle") >= 4 and svg.count("<rect") == 2


def test_labels_are_text_in_tables():
    rows = [TableRow(label, 1, None, None, None, None, None) for label in ("=cmd|'/C calc'!A0", "a|b\n<script>", "@x")]
    assert [row["method"] for row in csv.DictReader(as_csv(rows).splitlines())][::2] == ["'=cmd|'/C calc'!A0", "'@x"]
    markdown = as_markdown(rows)
    assert "| a\\|b &lt;script&gt; | 0 |" in markdown and len(markdown.splitlines()) == 5
