import json
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gapray.catalog.parts import commit
from gapray.catalog.reader import open_catalog
from gapray.catalog.rows import reject_row
from gapray.catalog.storage import Folder
from gapray.cli.main import app
from gapray.orbit.conditions import build_conditions
from gapray.orbit.settings import OrbitSettings
from tests.catalog.test_catalog import FACTS, START, joined, rows_of
from tests.gap import prototype
from tests.make import write_product

run = CliRunner().invoke


@pytest.fixture
def catalog(tmp_path):
    commit(Folder.at(str(tmp_path / "c")), joined(rows_of("a", views=8), rows_of("b", views=8)))
    return str(tmp_path / "c")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from gapray.cli.main import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "heavy = {'ray', 'torch', 'pydantic', 'numpy', 'pyarrow', 'cv2', 'duckdb'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version():
    assert run(app, ["--version"]).output.strip() == "0.1.0"


def test_show_and_sql(catalog):
    shown = run(app, ["catalog", "show", catalog])
    assert "2 products, 0 videos, 0 rejects" in shown.output
    data = json.loads(run(app, ["catalog", "show", catalog, "--json"]).output)
    assert [row["product_id"] for row in data["products"]] == ["a", "b"]
    found = run(app, ["catalog", "sql", catalog, "SELECT count(*) AS n FROM views", "--json"])
    assert json.loads(found.output) == [{"n": 16}]


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\r\nb", r"C:\new\table", "plain", "\\\t\n", "\t", "ü\u2028ü"])
def test_separators_in_values_are_escaped(catalog, text):
    quoted = text.replace("'", "''")
    done = run(app, ["catalog", "sql", catalog, f"SELECT 1 AS a, '{quoted}' AS b, NULL AS c, 'end' AS d FROM products"])
    lines = done.stdout_bytes.decode().removesuffix("\n").split("\n")
    assert lines[0] == "a\tb\tc\td" and len(lines) == 3
    for line in lines[1:]:
        first, value, empty, last = line.split("\t")
        assert (first, empty, last) == ("1", "", "end")
        kept = re.sub(r"\\(.)", lambda found: {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}[found[1]], value)
        assert kept == text, "and it can be read back"


def test_compact_and_sheet(catalog, tmp_path):
    from PIL import Image

    assert "rows" in run(app, ["catalog", "compact", catalog]).output
    target = tmp_path / "deep" / "sheet.png"
    assert run(app, ["catalog", "sheet", catalog, "--to", str(target)]).exit_code == 0
    with Image.open(target) as sheet:
        assert sheet.width > 1000


def test_export_and_import_round_trip(catalog, tmp_path):
    assert run(app, ["export", catalog, "a", "--to", str(tmp_path / "gap")]).exit_code == 0
    assert (tmp_path / "gap" / "multiview_manifest.json").exists()
    assert run(app, ["import-gap", str(tmp_path / "gap"), "--out", str(tmp_path / "again")]).exit_code == 0
    data = json.loads(run(app, ["catalog", "show", str(tmp_path / "again"), "--json"]).output)
    assert data["products"][0]["views"] == 8
    alone = tmp_path / "a.json"
    assert run(app, ["export", catalog, "a", "--to", str(alone), "--inline"]).output.strip() == str(alone)
    assert json.loads(alone.read_text())["views"]["315"]["depth_b64"]
    assert run(app, ["import-gap", str(alone), "--out", catalog]).output.startswith(
        "a: 8 views, which the catalogue has"
    )


def test_an_import_reports_what_it_replaces(catalog, tmp_path):
    gap = str(tmp_path / "gap")
    assert run(app, ["export", catalog, "a", "--to", gap]).exit_code == 0
    output = run(app, ["import-gap", gap, "--out", catalog]).output
    assert output == "a: 8 views, which the catalogue has already: nothing was imported\n"
    commit(Folder.at(catalog), rows_of("a", key="k2", at=60, views=4))
    output = run(app, ["import-gap", gap, "--out", catalog]).output
    assert output == "a: 8 views, in place of the package that the catalogue had of this product\n"


def test_status_counts_current_rows(catalog):
    commit(Folder.at(catalog), rows_of("a", key="k2", at=60, views=8))
    shown = run(app, ["status", catalog]).output
    assert "2 products, 16 views (and 9 superseded rows, which `gapray catalog compact` removes)" in shown.replace(
        "16 views, 2 products", "2 products, 16 views"
    )
    status = json.loads(run(app, ["status", catalog, "--json"]).output)
    assert status["rows"] == {"products": 2, "views": 16} and status["superseded"] == {"products": 1, "views": 8}
    run(app, ["catalog", "compact", catalog])
    assert "superseded" not in run(app, ["status", catalog]).output


def test_pictures_of_the_first_products_note_the_others(catalog, tmp_path):
    to = ["--to", str(tmp_path / "sheet.png")]
    assert run(app, ["catalog", "sheet", catalog, *to]).stderr == ""
    commit(Folder.at(catalog), joined(*(rows_of(name, views=4) for name in "cdef")))
    assert "the first 4 of 6 products" in run(app, ["catalog", "sheet", catalog, *to]).stderr
    assert run(app, ["catalog", "sheet", catalog, *to, "--product", "f"]).stderr == ""


def test_the_prototypes_folder_is_imported_and_rendered(tmp_path):
    root, out = prototype.write_package(tmp_path / "gap"), str(tmp_path / "c")
    assert run(app, ["import-gap", str(root), "--out", out]).output == "supplement_mv: 8 views\n"
    package = open_catalog(out).package("supplement_mv")
    assert package.models["depth"] == "imported"
    conditions = build_conditions(package, OrbitSettings(size=64, voxels=32, engine="morph", refine_camera=False))
    assert conditions.initial.shape == (24, 64, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["catalog", "show", "/nothing/here"], "catalog.not_found", 4),
        (["export", "{catalog}", "zzz", "--to", "{tmp}/x"], "catalog.product_not_found", 4),
        (["package", "/nothing/here", "--out", "{tmp}/x", "--set", "mask.model=null-model"], "capture.not_found", 4),
        (["package", "{tmp}", "--out", "{tmp}/x", "--profile", "nobody"], "profile.unknown", 2),
        (["package", "{tmp}", "--out", "{tmp}/x", "--set", "mask.nobody=1"], "config.invalid", 2),
        (["package", "{tmp}", "--out", "{tmp}/x", "--set", "mask.model=nobody"], "model.unknown", 1),
        (["package", "{tmp}", "--out", "{tmp}/x", "--set", "mask.model=a: b: c"], "config.invalid", 2),
        (["package", "{tmp}", "--out", "{tmp}/x", "--set", "mask.model=2026-13-40"], "config.invalid", 2),
        (["package", "{tmp}", "--out", "{tmp}/x", "--config", "{tmp}/latin1.yaml"], "config.invalid", 2),
        (["stills", "{catalog}", "--scenes", "{tmp}/latin1.yaml"], "config.invalid", 2),
        (["models", "path", "nobody"], "model.unknown", 1),
        (["import-gap", "{tmp}", "--out", "{tmp}/x"], "gap.invalid_folder", 4),
        (["export", "{catalog}", "a", "--to", "{tmp}/latin1.yaml"], "gap.write_failed", 1),
    ],
)
def test_errors_have_a_code_a_remedy_and_an_exit_code(catalog, tmp_path, arguments, code, exit_code):
    (tmp_path / "latin1.yaml").write_bytes("prompt: ein Kännchen".encode("latin-1"))
    result = run(app, [text.format(catalog=catalog, tmp=tmp_path) for text in arguments])
    assert result.exit_code == exit_code
    assert code in result.output
    assert len(result.output.strip().splitlines()) >= 2


def test_a_sheet_of_no_package_has_a_code(tmp_path):
    reject = reject_row(product_id="a", source="s", uri="u", code="c", message="m", facts=FACTS, now=START)
    commit(Folder.at(str(tmp_path / "c")), {"rejects": [reject]})
    result = run(app, ["catalog", "sheet", str(tmp_path / "c"), "--to", str(tmp_path / "sheet.png")])
    assert result.exit_code == 4 and "catalog.product_not_found" in result.output


def test_usage_errors_exit_with_2():
    assert run(app, ["package"]).exit_code == 2
    assert run(app, ["package", "x", "--out", "y", "--direction", "up"]).exit_code == 2


def test_json_errors_are_json(tmp_path):
    result = run(app, ["catalog", "show", str(tmp_path / "none"), "--json"])
    assert json.loads(result.stdout)["error"]["code"] == "catalog.not_found"


def test_manifest(tmp_path):
    write_product(tmp_path / "shoot" / "p")
    result = run(
        app, ["manifest", str(tmp_path / "shoot"), "--to", str(tmp_path / "m.parquet"), "--layout", "products"]
    )
    assert "1 products" in result.output


def test_manifest_reports_rejects_and_requires_parquet(tmp_path):
    write_product(tmp_path / "in" / "cup")
    (tmp_path / "in" / "torn").mkdir()
    (tmp_path / "in" / "torn" / "front.jpg").write_bytes(b"x")
    result = run(app, ["manifest", str(tmp_path / "in"), "--to", str(tmp_path / "m.parquet")])
    assert result.exit_code == 3 and "1 products in" in result.output and "rejected torn: " in result.output
    wrong = run(app, ["manifest", str(tmp_path / "in"), "--to", str(tmp_path / "m.csv")])
    assert wrong.exit_code == 2 and "m.parquet" in wrong.output and not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["package", "", "--out", "c"],
        ["package", "in", "--out", ""],
        ["package", "in", "--out="],
        ["run", " ", "--out", "c"],
        ["report", "c", "--out", ""],
        ["catalog", "show", ""],
        ["capture", "check", ""],
    ],
    ids=" ".join,
)
def test_an_empty_argument_is_rejected(words, tmp_path, monkeypatch):
    """A variable that a script did not set: as a path it would be the folder in which one stands."""
    monkeypatch.chdir(tmp_path)
    write_product(tmp_path / "in" / "cup")
    result = run(app, words)
    assert result.exit_code == 2 and "is empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("setting", "meant"),
    [("mask.modle=u2net", "mask.model"), ("orbti.size=4", "orbit"), ("orbit.sise=4", "orbit.size"), ("zzz=1", None)],
)
def test_a_misspelt_setting_gets_a_suggestion(setting, meant, tmp_path):
    result = run(app, ["package", str(tmp_path), "--out", str(tmp_path / "c"), "--set", setting])
    assert (
        result.exit_code == 2 and f"there is no setting {setting.partition('.')[0].partition('=')[0]}" in result.output
    )
    assert ("did you mean" in result.output) == (meant is not None) and (meant or "") in result.output


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["render", "{c}", "--frames", "6", "--set", "orbit.frames=8"], "6 by --frames and 8 by --set"),
        (["render", "{c}", "--backend", "animatediff", "--set", "video.backend=morph"], "by --backend and morph by"),
        (["run", "{c}", "--out", "{c}/x", "--frames", "6", "--set", "orbit.frames=8"], "6 by --frames and 8 by --set"),
        (["stills", "{c}", "--backend", "sdxl", "--set", "stills.backend=composite"], "by --backend and composite by"),
    ],
)
def test_a_setting_with_two_values_is_refused(catalog, words, named):
    result = run(app, [word.format(c=catalog) for word in words])
    assert result.exit_code == 2 and "[config.invalid]" in result.output and named in result.output


def test_the_scenes_that_are_asked_for_are_listed(tmp_path):
    (tmp_path / "moon.yml").write_text('prompt: "{product} on the moon"\n')
    found = json.loads(run(app, ["stills", "--list", "--scenes", str(tmp_path), "--json"]).stdout)
    assert list(found) == ["moon"]
    assert len(json.loads(run(app, ["stills", "--list", "--json"]).stdout)) == 15
    for scenes in ("marble-kitchen,", "marble-kitchen,,gym-studio", ","):
        result = run(app, ["stills", "--list", "--scenes", scenes])
        assert result.exit_code == 2 and "[scene.unknown]" in result.output


@pytest.mark.parametrize(
    ("words", "stops", "resumes"),
    [
        (["package", "{tmp}", "--out", "{tmp}/c"], "gapray.batch.package.package", True),
        (["render", "{tmp}/c"], "gapray.batch.render.render", True),
        (["render", "{tmp}/c", "--estimate"], "gapray.batch.render.estimate", False),
        (["stills", "{tmp}/c"], "gapray.batch.stills.stills", True),
        (["capture", "check", "{tmp}"], "gapray.inspect.check.check", False),
        (["capture", "day", "{tmp}", "--out", "{tmp}/d"], "gapray.inspect.shoot_day.split", False),
    ],
)
def test_only_commands_that_resume_say_so_when_stopped(tmp_path, monkeypatch, words, stops, resumes):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stops, stop)
    result = run(app, [word.format(tmp=tmp_path) for word in words])
    assert result.exit_code == 130 and "stopped" in result.output
    assert ("run the same command again" in result.output) == resumes


def test_options_of_foreign_videos_are_not_ignored(catalog):
    assert run(app, ["score", catalog, "--label", "runway"]).exit_code == 2
    result = run(app, ["score", catalog, "--product", "nobody"])
    assert result.exit_code == 4 and "[catalog.product_not_found]" in result.output


def test_models_list_marks_unverified_figures():
    rows = {row["card"]: row for row in json.loads(run(app, ["models", "list", "--json"]).output)}
    assert rows["u2netp"]["sha256"] == "309c8469258d"
    assert rows["clip-vit-b-32-openai"]["vram"] == "unverified"


def test_doctor():
    result = run(app, ["doctor", "--json"])
    findings = {check["check"]: check["state"] for check in json.loads(result.stdout)}
    assert findings["python"] == findings["torch"] == findings["onnxruntime"] == "ok"


def test_settings_have_the_documented_precedence(tmp_path, monkeypatch):
    from gapray.profile import load_profile

    (tmp_path / "c.yaml").write_text("packaging: {canny: {low_threshold: 1, high_threshold: 2}}\n")
    monkeypatch.setenv("GAPRAY_SET_CANNY__HIGH_THRESHOLD", "3")
    profile = load_profile("classic", config_file=tmp_path / "c.yaml", overrides=["mask.cleanup=false"])
    assert (profile.packaging.canny.low_threshold, profile.packaging.canny.high_threshold) == (1, 3)
    assert profile.packaging.mask.cleanup is False
    assert os.environ["GAPRAY_SET_CANNY__HIGH_THRESHOLD"] == "3"


def test_presets_are_listed():
    shown = run(app, ["presets"])
    assert "amazon-360" in shown.output and "viewer.html" in shown.output
    assert json.loads(run(app, ["presets", "--json"]).output)["gif"]["files"][0]["fps"] == 8


@pytest.mark.usefixtures("ray_cluster")
def test_render_and_show(tmp_path):
    from gapray.catalog.import_package import import_package
    from gapray.catalog.storage import Folder
    from tests.orbit.test_conditions import solid_package

    where = str(tmp_path / "c")
    import_package(Folder.at(where), solid_package(size=96), uri="memory://")
    small = ["orbit.size=64", "orbit.voxels=40", "orbit.engine=morph", "orbit.refine_camera=false"]
    small = [*(word for item in small for word in ("--set", item)), "--frames", "8"]
    done = run(app, ["render", where, *small, "--json"])
    assert done.exit_code == 0
    summary = json.loads(done.stdout)
    assert (summary["rendered"], summary["frames"], summary["rejected"]) == (1, 8, 0)
    assert "solid\tmorph\t0\tweb\t8" in run(app, ["catalog", "show", where]).output
    strip = tmp_path / "strip.png"
    assert run(app, ["catalog", "strip", where, "--to", str(strip)]).exit_code == 0 and strip.stat().st_size > 1000
    refused = run(app, ["render", where, "--preset", "betamax"])
    assert refused.exit_code == 2 and "video.unknown_preset" in refused.output
    nothing = run(app, ["catalog", "strip", where, "--to", str(strip), "--product", "other"])
    assert nothing.exit_code == 4


def test_runs_and_status_show_runs(catalog):
    from datetime import UTC, datetime, timedelta

    from gapray.catalog.runs import write_run
    from gapray.catalog.storage import Folder

    now = datetime.now(UTC)
    record = {
        "run_id": "20260101T000000-aa",
        "kind": "package",
        "source": "shoot",
        "state": "running",
        "started_at": now - timedelta(seconds=100),
        "updated_at": now,
        "counts": {"products": 40, "finished": 10, "rejected": 1},
        "done": 20,
        "pieces": {"unit": "views", "count": 72},
        "rejects_by_code": {"image.empty": 1},
        "seconds": 100.0,
        "stages": {"package.mask": {"products": 10, "seconds": 25.0, "gpu_seconds": 0.0, "retried": 2}},
        "cluster": {"CPU": 16.0, "nodes": 2.0},
        "held": {"cpu_hours": 0.44, "gpu_hours": 0.0},
        "spilled_bytes": 5_000_000,
        "cost": 1.5,
        "code": {"version": "0.1.0", "revision": "abc"},
        "error": None,
    }
    write_run(Folder.at(catalog), record)
    for command in (["runs", "show", catalog], ["status", catalog]):
        shown = run(app, command).output
        assert "20/40 products (10 already there, 1 rejected)" in shown and "about 3 min left" in shown
        assert "2.500 s each, 2 products again" in shown and "rejected image.empty: 1" in shown
        assert "at most 16 CPU, 2 nodes" in shown and "cost 1.50" in shown and "spilled 5 MB" in shown
    assert "16 views, 2 products" in run(app, ["status", catalog]).output
    assert [record["done"] for record in json.loads(run(app, ["status", catalog, "--json"]).output)["running"]] == [20]
    assert (
        "20260101T000000-aa\tpackage\trunning\t20/40\t1\t72 views\t100\t1.50"
        in run(app, ["runs", "list", catalog]).output
    )
    write_run(Folder.at(catalog), record | {"updated_at": now - timedelta(hours=1)})
    assert "no sign of life" in run(app, ["runs", "show", catalog, "2026"]).output
    assert "nothing runs here" in run(app, ["status", catalog, "--watch"]).output
    missing = run(app, ["runs", "show", catalog, "nope"])
    assert missing.exit_code == 4 and "catalog.run_not_found" in missing.output


def test_plan_of_recorded_runs(catalog, tmp_path):
    from gapray.catalog.runs import write_run
    from gapray.catalog.storage import Folder
    from tests.conftest import ROOT

    stages = {"package.mask": {"products": 10, "seconds": 25.0, "gpu_seconds": 0.0, "retried": 0}}
    record = {"run_id": "r", "state": "finished", "updated_at": "2026-01-01T00:00:00+00:00", "stages": stages}
    write_run(Folder.at(catalog), record)
    write_product(tmp_path / "shoot" / "one")
    command = ["plan", str(tmp_path / "shoot"), "--cluster", str(ROOT / "cluster" / "aws.yaml"), "--from-run", catalog]
    found = json.loads(run(app, [*command, "--to", str(tmp_path / "b.yaml"), "--json"]).output)
    assert found["products"] == 1 and found["bottleneck"] == "package.mask" and found["cost"] is None
    assert found["stages"][0]["seconds"] == 2.5 and "max_cpus" in (tmp_path / "b.yaml").read_text()
    assert "bound by package.mask" in run(app, command).output
