"""Ingesting a source that mixes photos, videos and exports."""

import shutil

import pyarrow.parquet as pq
import pytest

from gapray.errors import ConfigError
from gapray.inspect.intake import ingest
from tests.inspect.polycam_export import Make, turn, zipped
from tests.inspect.turns import Shot, film, sample_turn
from tests.make import write_product
from tests.privileges import open_folder, without_privileges

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "turn.mp4"
    film(path, sample_turn("mug"), Shot(turns=1.15, seconds=5))
    return path


def products(manifest):
    rows = pq.read_table(manifest).to_pylist()
    return {row["product_id"]: row["error_code"] for row in rows}


def test_photos_alone_stay_as_they_are(tmp_path):
    write_product(tmp_path / "shoot" / "box")
    assert ingest(str(tmp_path / "shoot"), str(tmp_path / "catalog")) == str(tmp_path / "shoot")
    assert ingest(str(tmp_path / "shoot" / "box"), "s3://bucket/catalog") == str(tmp_path / "shoot" / "box")
    assert not (tmp_path / "catalog").exists()


def test_a_folder_that_mixes_them(tmp_path, video, samples):
    shoot = tmp_path / "shoot"
    write_product(shoot / "box")
    shutil.copytree(shoot / "box", shoot / "gaps")
    (shoot / "gaps" / "box_090.png").unlink()
    shutil.copy(video, shoot / "mug.MP4")
    (shoot / "bottle").mkdir()
    shutil.copy(video, shoot / "bottle" / "IMG_0001.mov")
    (shoot / "broken.mp4").write_bytes(b"no video")
    toy = Make(samples, depth=False).write(tmp_path / "toy", turn(40))
    shutil.move(zipped(toy), shoot / "toy.zip")
    shutil.copytree(toy, shoot / "walk")
    seen = []
    manifest = ingest(str(shoot), str(tmp_path / "catalog"), on_raw=seen.append)
    found = products(manifest)
    assert found.pop("gaps") is not None and found.pop("broken") == "video.unreadable"
    assert found == dict.fromkeys(("bottle", "box", "mug", "toy", "walk"))
    assert seen == ["bottle", "broken", "mug", "toy", "walk"]
    assert sorted(path.name for path in (tmp_path / "catalog" / "captures" / "toy").glob("*.jpg"))[0] == "toy_000.jpg"
    seen.clear()
    assert products(ingest(str(shoot), str(tmp_path / "catalog"), on_raw=seen.append))["mug"] is None
    assert seen == ["broken"], "what is there is not made again"
    shutil.copy(video, shoot / "mug.MP4")
    ingest(str(shoot), str(tmp_path / "catalog"), on_raw=seen.append)
    assert "mug" in seen, "a new file is a new capture"


def test_one_raw_capture_is_a_source_too(tmp_path, video, samples):
    assert products(ingest(str(video), str(tmp_path / "catalog"))) == {"turn": None}
    Make(samples, depth=False).write(tmp_path / "toy", turn(40))
    assert products(ingest(str(tmp_path / "toy"), str(tmp_path / "other"))) == {"toy": None}


def test_the_uri_of_a_product_is_that_of_its_raw_capture(tmp_path, video):
    """Videos of the same name share a folder in the catalogue; a package of one must not be taken for the other's."""
    for folder in ("monday", "tuesday"):
        (tmp_path / folder).mkdir()
        shutil.copy(video, tmp_path / folder / "turn.mp4")
        manifest = ingest(str(tmp_path / folder), str(tmp_path / "catalog"))
        assert pq.read_table(manifest)["uri"].to_pylist() == [str(tmp_path / folder / "turn.mp4")]


def test_a_video_beside_the_photos_of_a_product_is_no_product(tmp_path, video):
    folder = write_product(tmp_path / "box")
    shutil.copy(video, folder / "making_of.mp4")
    assert ingest(str(folder), str(tmp_path / "catalog")) == str(folder)


def test_views_cannot_go_to_a_bucket(video):
    with pytest.raises(ConfigError, match="local catalogue"):
        ingest(str(video), "s3://bucket/catalog")


def test_a_missing_source_is_passed_on(tmp_path):
    assert ingest(str(tmp_path / "nothing"), str(tmp_path / "catalog")) == str(tmp_path / "nothing")
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "clip.mp4").write_bytes(b"no video")
    assert products(ingest(str(tmp_path / "both"), str(tmp_path / "catalog"))) == {"clip": "video.unreadable"}


def test_a_folder_that_cannot_be_listed_ends_nothing():
    with open_folder() as root:
        write_product(root / "shoot" / "box")
        closed = write_product(root / "shoot" / "closed")
        (root / "shoot" / "mug.mp4").write_bytes(b"no video")
        expected = {"box": None, "closed": None, "mug": "video.unreadable"}
        assert products(ingest(str(root / "shoot"), str(root / "one"))) == expected
        closed.chmod(0)
        with without_privileges():
            found = products(ingest(str(root / "shoot"), str(root / "other")))
        closed.chmod(0o755)
    assert found == expected | {"closed": "capture.unreadable"}


def test_a_name_shared_by_two_captures_is_a_reject(tmp_path):
    """Neither is used: it is unknown which one was meant, and the other would be lost silently."""
    shoot = tmp_path / "shoot"
    write_product(shoot / "box")
    write_product(shoot / "cup")
    for name in ("box.mp4", "lamp.mp4", "lamp.mov"):
        (shoot / name).write_bytes(b"never read")
    manifest = ingest(str(shoot), str(tmp_path / "catalog"))
    assert products(manifest) == {"box": "capture.same_id", "cup": None, "lamp": "capture.same_id"}
    messages = {row["product_id"]: row["error_message"] for row in pq.read_table(manifest).to_pylist()}
    assert "box.mp4" in messages["box"] and str(shoot / "box") in messages["box"]
    assert "lamp.mp4" in messages["lamp"] and "lamp.mov" in messages["lamp"]


def test_an_empty_folder_next_to_a_video_is_only_reported(tmp_path, video):
    shoot = tmp_path / "shoot"
    (shoot / "mug").mkdir(parents=True)
    (shoot / "mug" / "notes.txt").write_text("matt glaze")
    shutil.copy(video, shoot / "mug.mp4")
    assert products(ingest(str(shoot), str(tmp_path / "catalog"))) == {"mug": None}
