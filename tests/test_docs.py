"""The documents say what the code does."""

import re
from pathlib import Path

from gapray.errors import REMEDIES, GaprayError, InputError, as_gapray_error

ROOT = Path(__file__).resolve().parent.parent


def test_every_code_is_documented_and_every_documented_code_exists():
    text = (ROOT / "docs" / "errors.md").read_text()
    documented = set(re.findall(r"^\| `([a-z]+\.[a-z_]+)`", text, re.MULTILINE))
    assert documented == set(REMEDIES)


def test_every_code_is_raised_somewhere():
    source = "".join(path.read_text() for path in (ROOT / "gapray").rglob("*.py") if path.name != "errors.py")
    source += (ROOT / "gapray" / "errors.py").read_text().split("class GaprayError")[1]
    unused = {code for code in REMEDIES if f'"{code}"' not in source}
    assert not unused


def test_errors_survive_a_trip_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(InputError("image.empty", "nothing in a.jpg")))
    assert (type(error), error.code, error.message) == (InputError, "image.empty", "nothing in a.jpg")
    assert str(error) == "nothing in a.jpg [image.empty]"
    assert isinstance(as_gapray_error(OSError("x")), GaprayError)


def test_links_in_documents_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_host_of_a_registry_and_no_machine_path_is_committed():
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    forbidden = re.compile("p[y]pi[.]org|pythonh[o]sted|registry[.]npm[j]s|deb[.]deb[i]an")
    for name in listed:
        path = ROOT / name
        if path.suffix in {".jpg", ".png"} or not path.exists():
            continue
        assert not forbidden.search(path.read_text(errors="ignore")), name
