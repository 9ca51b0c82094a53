"""Errors x places: every command that writes to a place that refuses it reports what it could not write and why."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

import gapray
from gapray.catalog.runs import write_run
from gapray.catalog.storage import Folder
from gapray.cli.main import app
from gapray.errors import CatalogError, ModelError
from gapray.models.cards import FileSource, ModelCard, ModelFile
from gapray.models.store import locate, numba_cache
from gapray.profile import load_profile
from tests.conftest import ROOT
from tests.make import write_product
from tests.privileges import open_folder, without_privileges
from tests.report.test_site import add

run = CliRunner().invoke
NULL = [f"{role}.model=null-model" for role in ("mask", "depth", "identity")]
SETTINGS = [word for setting in NULL for word in ("--set", setting)]


@contextmanager
def mounted(*options):
    """A separate file system, if this user may mount one."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", folder]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("this user may mount nothing")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def read_only():
    with mounted("ro") as folder:
        yield folder


@contextmanager
def full():
    with mounted("size=64k") as folder:
        (folder / "filler").touch()
        with pytest.raises(OSError), (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        yield folder


@contextmanager
def out_of_quota():
    """Forbid files to grow, as an exhausted quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tempfile.TemporaryDirectory() as folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield Path(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def closed():
    with open_folder() as folder:
        (folder / "closed").mkdir(mode=0o555)
        os.chmod(folder / "closed", 0o555)
        with without_privileges():
            yield folder / "closed"


@contextmanager
def below_a_file():
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "file").write_text("not a folder")
        yield Path(folder) / "file"


PLACES = {
    "read-only": (read_only, {errno.EROFS}),
    "full": (full, {errno.ENOSPC}),
    "out of quota": (out_of_quota, {errno.EFBIG}),
    "closed": (closed, {errno.EACCES}),
    "below a file": (below_a_file, {errno.ENOTDIR, errno.EEXIST}),
}
"""Name -> context manager that yields a folder that cannot be written to, and the causes that may be reported."""


@pytest.fixture(scope="module")
def given():
    """Input of the commands, readable by every user: a catalogue with videos, a shoot, and GAP folders."""
    with open_folder() as folder:
        catalog = Folder.at(str(folder / "catalog"))
        add(catalog, "mug", lpips=0.05, gate="pass")
        stages = {"package.mask": {"products": 10, "seconds": 25.0, "gpu_seconds": 0.0, "retried": 0}}
        write_run(
            catalog, {"run_id": "r", "state": "finished", "updated_at": "2026-01-01T00:00:00+00:00", "stages": stages}
        )
        write_product(folder / "shoot" / "cup")
        assert run(app, ["export", str(folder / "catalog"), "mug", "--to", str(folder / "gap")]).exit_code == 0
        # The catalogue holds what it exported; changed by hand, it becomes another package.
        shutil.copytree(folder / "gap", folder / "retouched")
        for photo in (folder / "retouched" / "view_045" / "canonical").glob("reference*.png"):
            cv2.imwrite(str(photo), 255 - cv2.imread(str(photo), cv2.IMREAD_UNCHANGED))
        yield folder


WRITES = {
    "package": ["package", "{given}/shoot", "--out", "{to}/new", *SETTINGS],
    "import-gap": ["import-gap", "{given}/gap", "--out", "{to}/new"],
    "export": ["export", "{given}/catalog", "mug", "--to", "{to}/new"],
    "export --inline": ["export", "{given}/catalog", "mug", "--to", "{to}/new.json", "--inline"],
    "report": ["report", "{given}/catalog", "--out", "{to}/new"],
    "publish": ["publish", "{given}/catalog", "--to", "{to}/new"],
    "reel": ["reel", "{given}/catalog", "--to", "{to}/new.mp4"],
    "sheet": ["catalog", "sheet", "{given}/catalog", "--to", "{to}/new.png"],
    "strip": ["catalog", "strip", "{given}/catalog", "--to", "{to}/new.jpg"],
    "manifest": ["manifest", "{given}/shoot", "--to", "{to}/new.parquet"],
    "plan": ["plan", "{given}/shoot", "--cluster", str(ROOT / "cluster" / "aws.yaml"), "--from-run", "{given}/catalog", "--to", "{to}/new.yaml"],
    "capture sheet": ["capture", "sheet", "--out", "{to}/new.pdf"],
    "capture sheet (svg)": ["capture", "sheet", "--out", "{to}/new.svg"],
}  # fmt: skip
"""Every command that writes to a place given by the user, within a minute."""


def invoked(command, place, given):
    return run(app, [word.format(given=given, to=place) for word in command])


def imported(command, given):
    """Run a command while this user can read the interpreter's files, so that its imports are done; another user cannot."""
    assert invoked(command, "/proc/none", given).exit_code != 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", WRITES)
def test_what_cannot_be_written_is_named_with_its_cause(command, place, given):
    opened, causes = PLACES[place]
    if place == "closed":
        imported(WRITES[command], given)
    with opened() as folder:
        result = invoked(WRITES[command], folder, given)
        left = [path for path in folder.rglob(".*") if path.is_file() and path.stat().st_size]
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, (result.output, result.exception)
    named = tempfile.gettempdir() if place == "out of quota" else str(folder)  # temporary files count as well
    assert ".write_failed]: " in result.output and named in result.output
    assert any(os.strerror(cause) in result.output for cause in causes), result.output
    assert "Traceback" not in result.output and len(result.output.strip().splitlines()) >= 2
    assert left == [], "no half-written file stays"


@pytest.mark.parametrize("command", [name for name in WRITES if name not in ("package", "report", "reel")])
def test_a_folder_that_is_missing_is_made(command, given, tmp_path):
    result = invoked(WRITES[command], tmp_path / "not" / "there", given)
    assert result.exit_code == 0, result.output
    [made] = (tmp_path / "not" / "there").iterdir()
    assert made.stem == "new" and (made.is_dir() or made.stat().st_size > 0)


@pytest.mark.parametrize("command", [name for name, words in WRITES.items() if any("/new." in word for word in words)])
def test_a_folder_where_a_file_should_be_is_named(command, given, tmp_path):
    [name] = [word.rpartition("/")[2] for word in WRITES[command] if "/new." in word]
    (tmp_path / name).mkdir()
    result = invoked(WRITES[command], tmp_path, given)
    assert result.exit_code == 1 and ".write_failed]: " in result.output and str(tmp_path / name) in result.output


CHANGES = {
    "render": ["render", "{to}", "--set", "orbit.size=64"],
    "render with models to fetch": ["render", "{to}", "--profile", "sd15"],
    "stills": ["stills", "{to}", "--profile", "sd15"],
    "score": ["score", "{to}"],
    "compact": ["catalog", "compact", "{to}"],
    "import-gap": ["import-gap", "{given}/retouched", "--out", "{to}"],
    "package": ["package", "{given}/shoot", "--out", "{to}", *SETTINGS],
}
"""Commands that write to an existing catalogue."""


@pytest.mark.parametrize("command", CHANGES)
def test_a_catalogue_that_was_made_read_only_is_named_before_any_work(command, given, monkeypatch):
    imported(CHANGES[command], given)
    with open_folder() as folder:
        # Also before weights are searched, which can be neither fetched nor stored here.
        monkeypatch.setenv("GAPRAY_CACHE", str(folder / "closed"))
        (folder / "closed").mkdir(mode=0o700)
        place = folder / "catalog"
        shutil.copytree(given / "catalog", place)
        os.chmod(place, 0o755)
        for path in place.rglob("*"):
            os.chmod(path, 0o555 if path.is_dir() else 0o444)
        os.chmod(place, 0o555)
        with without_privileges():
            result = invoked(CHANGES[command], place, given)
    assert result.exit_code == 1 and "[catalog.write_failed]: " in result.output, (result.output, result.exception)
    assert str(place) in result.output and os.strerror(errno.EACCES) in result.output


READS = {
    "show": ["catalog", "show", "{place}"],
    "sql": ["catalog", "sql", "{place}", "SELECT * FROM products"],
    "status": ["status", "{place}"],
    "report": ["report", "{place}", "--out", "{out}"],
}


@pytest.mark.parametrize("command", READS)
def test_a_catalogue_that_cannot_be_read_is_named(command, given):
    with open_folder() as folder:
        place = folder / "catalog"
        shutil.copytree(given / "catalog", place)
        words = [word.format(place=place, out=folder / "out") for word in READS[command]]
        assert run(app, words).exit_code == 0  # and imports what it needs, while this user may read it
        os.chmod(place / "products", 0)
        with without_privileges():
            result = run(app, words)
    assert result.exit_code == 4 and "[catalog.unreadable]: " in result.output, (result.output, result.exception)
    assert str(place / "products") in result.output


@pytest.mark.parametrize("command", [*READS, "compact", "runs list", "runs show", "render", "stills", "score"])
def test_a_place_without_a_catalogue_is_named(command, tmp_path):
    """A misspelt path is not an empty catalogue."""
    words = {"compact": ["catalog", "compact", "{place}"]}.get(command) or READS.get(command)
    words = words or [*command.split(), "{place}"]
    result = run(app, [word.format(place=tmp_path / "catalgo", out=tmp_path / "out") for word in words])
    assert (
        result.exit_code == 4 and f"[catalog.not_found]: no catalogue lies at {tmp_path / 'catalgo'}" in result.output
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_parquet_is_named(given, tmp_path):
    shutil.copytree(given / "catalog", tmp_path / "c")
    [part] = (tmp_path / "c" / "products").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    result = run(app, ["catalog", "show", str(tmp_path / "c")])
    assert result.exit_code == 4 and "[catalog.unreadable]: " in result.output and str(part) in result.output


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1; SELECT 2",
        "/* nothing */",
        "SELEC 1",
        "SELECT nothing FROM products",
        "SELECT * FROM nowhere",
        "SELECT 'a'::INT",
    ],
)
def test_a_wrong_query_is_no_incompatible_catalogue(query, given):
    result = run(app, ["catalog", "sql", str(given / "catalog"), query])
    assert result.exit_code == 4 and "[catalog.invalid_query]: " in result.output and "SHOW TABLES" in result.output


def test_a_file_that_a_query_cannot_write_is_named(given, tmp_path):
    query = f"COPY products TO '{tmp_path}/not/there/p.csv'"
    result = run(app, ["catalog", "sql", str(given / "catalog"), query])
    assert result.exit_code == 4 and "[catalog.query_failed]: " in result.output and str(tmp_path) in result.output


def test_a_picture_of_no_known_kind_is_refused(given, tmp_path):
    result = run(app, ["catalog", "sheet", str(given / "catalog"), "--to", str(tmp_path / "sheet.docx")])
    assert result.exit_code == 2 and "[config.invalid]: " in result.output and ".png" in result.output


@pytest.mark.parametrize("place", PLACES)
def test_a_store_of_weights_that_cannot_be_written_names_the_variable(place, tmp_path, monkeypatch):
    (tmp_path / "weights.bin").write_bytes(b"weights" * 1000)
    os.chmod(tmp_path, 0o755)
    source = FileSource(kind="file", path=str(tmp_path / "weights.bin"))
    card = ModelCard(
        name="one",
        role="mask",
        licence="MIT",
        licence_url="https://example.com",
        files=[ModelFile(name="w.bin", sources=[source])],
    )
    opened, causes = PLACES[place]
    with opened() as folder:
        monkeypatch.setenv("GAPRAY_CACHE", str(folder / "cache"))
        with pytest.raises(ModelError) as caught:
            locate(card)
    assert caught.value.code == "model.write_failed" and "GAPRAY_CACHE" in caught.value.remedy
    assert str(folder) in caught.value.message
    assert any(os.strerror(cause) in caught.value.message for cause in causes)


@pytest.mark.parametrize("place", [name for name in PLACES if name != "full"])  # a folder more fits in there
def test_a_server_s_state_that_cannot_be_written_names_the_variable(place, monkeypatch):
    run(app, ["keys", "list", "--jobs", "sqlite://"])  # imports what it needs, while this user may read it
    opened, causes = PLACES[place]
    with opened() as folder:
        monkeypatch.setenv("GAPRAY_STATE", str(folder / "state"))
        result = run(app, ["keys", "list"])
        assert [path for path in folder.rglob("webhook_secret") if not path.read_text()] == []
    assert result.exit_code == 1 and "[serve.write_failed]: " in result.output, (result.output, result.exception)
    assert "GAPRAY_STATE" in result.output and str(folder) in result.output
    assert any(os.strerror(cause) in result.output for cause in causes), result.output


@pytest.mark.parametrize(
    ("words", "code", "variable"),
    [
        (["models", "path", "u2netp"], "model.write_failed", "GAPRAY_CACHE"),
        (["keys", "list"], "serve.write_failed", "GAPRAY_STATE"),
        (["serve"], "serve.write_failed", "GAPRAY_STATE"),
    ],
)
def test_without_a_home_the_variable_is_named(words, code, variable, monkeypatch):
    for name in ("GAPRAY_CACHE", "GAPRAY_MODELS", "GAPRAY_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/none")
    result = run(app, words)
    assert result.exit_code == 1 and f"[{code}]: " in result.output and variable in result.output


NAMELESS = """
import os
from typer.testing import CliRunner
from gapray.cli.main import app
CliRunner().invoke(app, ["models", "path", "u2netp"])  # imports, while the interpreter's files can be read
del os.environ["HOME"], os.environ["GAPRAY_CACHE"]
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
result = CliRunner().invoke(app, ["models", "path", "u2netp"])
print(result.output)
raise SystemExit(result.exit_code)
"""


def test_a_user_without_a_name_and_a_home_is_told_what_to_set(tmp_path):
    """As in containers on OpenShift: an unknown user id, and no HOME."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    environment = {name: value for name, value in os.environ.items() if name != "GAPRAY_MODELS"}
    environment |= {"PYTHONPATH": str(ROOT), "GAPRAY_CACHE": str(tmp_path), "HOME": "/"}
    command = [sys.executable, "-c", NAMELESS]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "[model.write_failed]: " in done.stdout and "GAPRAY_CACHE" in done.stdout, (
        done.stderr
    )


def test_numba_caches_in_a_writable_folder(monkeypatch):
    with open_folder() as folder:
        (folder / "compiled").mkdir(mode=0o755)
        (folder / "compiled" / "__init__.py").touch()
        (folder / "cache").mkdir()
        os.chmod(folder / "cache", 0o777)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("GAPRAY_CACHE", str(folder / "cache"))
        os.chmod(folder / "compiled", 0o777)
        with without_privileges():
            assert numba_cache("compiled") == {}, "beside the package, as numba does"
        os.chmod(folder / "compiled", 0o555)
        with without_privileges():
            assert numba_cache("compiled") == {"NUMBA_CACHE_DIR": str(folder / "cache" / "numba")}
        os.chmod(folder / "cache", 0o555)
        with without_privileges():
            monkeypatch.setenv("GAPRAY_CACHE", str(folder / "cache" / "other"))
            place = Path(numba_cache("compiled")["NUMBA_CACHE_DIR"])
        assert not place.is_relative_to(folder) and place.is_dir()
        place.rmdir()


@pytest.mark.usefixtures("ray_cluster")
def test_an_error_of_a_worker_keeps_its_code_and_cause(tmp_path):
    """A part cannot be written because `views` is a file; the error reaches the driver through Ray Data and Ray."""
    write_product(tmp_path / "shoot" / "cup")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "views").write_text("no folder")
    with pytest.raises(CatalogError) as caught:
        gapray.package(tmp_path / "shoot", out=tmp_path / "c", profile=load_profile("classic", overrides=NULL))
    assert caught.value.code == "catalog.write_failed" and caught.value.exit_code == 1
    assert str(tmp_path / "c" / "views") in caught.value.message
