"""`gapray stills` on a real Ray: rows, files, resume, rejects, the report's page."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from gapray.batch.package import package
from gapray.capture.decode import decode_photo
from gapray.catalog.import_package import import_package
from gapray.catalog.reader import open_catalog
from gapray.cli.main import app
from gapray.profile import load_profile
from gapray.report.site import write_report
from tests.batch.test_score import smaller
from tests.conftest import ONE_THREAD

pytestmark = [
    pytest.mark.usefixtures("ray_cluster", "classic_weights", "lpips_alex"),
    pytest.mark.timeout(500),
    pytest.mark.long,
]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory, samples, ray_cluster, classic_weights):
    root = tmp_path_factory.mktemp("stills")
    for product in ("mug", "supplement"):
        smaller(samples / "captures" / product, root / "photos" / product)
    package(str(root / "photos"), out=str(root / "catalog"), profile=load_profile("classic", environment=ONE_THREAD))
    return root / "catalog"


def run(catalog, *arguments):
    done = CliRunner().invoke(
        app, ["stills", str(catalog), "--set", "stills.megapixels=0.1", *arguments, "--json"], catch_exceptions=False
    )
    return done.exit_code, json.loads(done.stdout)


def test_three_scenes_for_both_products_then_nothing_to_do(catalog, tmp_path):
    code, told = run(catalog, "--per-scene", "2", "--report", str(tmp_path / "report"))
    assert code == 0 and (told["products"], told["passed"], told["stills"]) == (6, 6, 12), told
    opened = open_catalog(str(catalog))
    rows = opened.stills().to_pylist()
    assert len(rows) == 12 and {row["gate"] for row in rows} == {"pass"} and all(row["pasted"] for row in rows)
    for row in rows:
        picture = decode_photo(opened.folder.read(row["file"]))
        assert picture.shape[:2] == (row["height"], row["width"]) and row["width"] % 8 == 0
        assert b"compositeCapture" in opened.folder.read(row["file"])
    best = {(row["product_id"], row["scene"]): row["score"] for row in opened.best_stills().to_pylist()}
    assert len(best) == 6
    assert all(best[row["product_id"], row["scene"]] >= row["score"] for row in rows)
    page = (tmp_path / "report" / "products" / "mug.html").read_text()
    assert "marble-kitchen" in page and "prove nothing about a diffusion model" in page
    assert (tmp_path / "report" / "products" / "mug.still-gym-studio.jpg").stat().st_size > 1000
    code, again = run(catalog, "--per-scene", "2")
    assert code == 0 and (again["finished"], again["stills"]) == (6, 0)
    code, more = run(catalog, "--per-scene", "3", "--product", "mug", "--scenes", "gym-studio")
    assert code == 0 and more["stills"] == 1


def test_what_cannot_be_drawn_is_a_reject_and_the_others_go_on(catalog, tmp_path):
    (tmp_path / "empty.yaml").write_text('prompt: "   "\n')
    code, told = run(catalog, "--scenes", f"{tmp_path / 'empty.yaml'},white-studio", "--product", "mug")
    assert code == 3 and told["rejects_by_code"] == {"still.empty_prompt": 1} and told["passed"] == 1
    code, told = run(catalog, "--scenes", "nowhere")
    assert code == 2 and told["error"]["code"] == "scene.unknown"
    code, told = run(catalog, "--product", "nobody")
    assert code == 4 and told["error"]["code"] == "catalog.product_not_found"


def test_warnings_about_the_photos_are_told(catalog):
    opened = open_catalog(str(catalog))
    mug = opened.package("mug")
    first, second, *others = mug.views
    copied = replace(second, reference=first.reference, mask=first.mask)
    import_package(
        opened.folder, replace(mug, product_id="twin", key="", views=(first, copied, *others)), uri="memory://"
    )
    code, told = run(catalog, "--scenes", "white-studio", "--product", "twin")
    assert code in (0, 3) and told["warned"] == 1
    [warning] = told["warnings"]
    assert (warning["product_id"], warning["code"]) == ("twin", "azimuth.duplicate")


def test_the_report_of_a_catalogue_without_stills_has_no_scenes(catalog, tmp_path):
    write_report(open_catalog(str(catalog)), tmp_path / "site")
    done = CliRunner().invoke(app, ["stills", "--list"])
    assert done.exit_code == 0 and "marble-kitchen" in done.output
