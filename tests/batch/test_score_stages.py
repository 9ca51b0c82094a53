"""What draws left-out views, stage by stage in this process: each video's own settings, by its own record."""

import json
import shutil

import numpy as np
import pytest

from gapray.batch.render import pending_videos
from gapray.batch.render_stages import Draw, VideoFacts, load, save, write_videos
from gapray.batch.score import pending_scores
from gapray.batch.score_rows import picture_of
from gapray.batch.score_stages import DrawLeftOut, ScoreFacts, gather
from gapray.catalog.reader import open_catalog
from gapray.fidelity.left_out import draw_left_out
from gapray.profile import load_profile
from gapray.video.load import load_backend, video_revisions
from tests.batch.test_render import catalog_of, product
from tests.conftest import ONE_THREAD
from tests.video import tiny

SMALL = [
    "orbit.size=64",
    "orbit.voxels=40",
    "orbit.frames=8",
    "orbit.flow=false",
    "orbit.margin=0.2",
    "orbit.refine_camera=false",
    "orbit.engine=morph",
]
DIFFUSION = ["video.backend=animatediff", "video.animatediff.steps=2", "run.generators_on_cpu=true", *SMALL]
SCORING = load_profile(
    "classic",
    overrides=["fidelity.leave_out=1", "video.animatediff.decode_chunk=3", "run.generators_on_cpu=true"],
    environment=ONE_THREAD,
)


def with_weights(folder, monkeypatch, seed=0):
    monkeypatch.setenv("GAPRAY_MODELS", str(folder / "mirror"))
    monkeypatch.setenv("GAPRAY_CACHE", str(folder / "cache"))
    (folder / "mirror").mkdir(parents=True)
    tiny.write_mirror(folder / "mirror", seed=seed)


def rendered(catalog, profile):
    facts = VideoFacts("run", catalog, profile, "web", video_revisions(profile.video, profile.orbit))
    todo, _ = pending_videos(open_catalog(catalog), facts, seeds=1, products=None, limit=None)
    write_videos(
        save(Draw(facts=facts, gpu=None, threads=1)(load(todo, catalog=catalog)), facts=facts),
        catalog=catalog,
        after=None,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """One product with a video of each backend."""
    folder = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patched:
        with_weights(folder, patched)
        catalog = catalog_of(folder / "catalog", product("one"))
        for overrides in (SMALL, DIFFUSION):
            rendered(catalog, load_profile("classic", overrides=overrides, environment=ONE_THREAD))
    return folder


@pytest.fixture
def folder(both, monkeypatch):
    monkeypatch.setenv("GAPRAY_MODELS", str(both / "mirror"))
    monkeypatch.setenv("GAPRAY_CACHE", str(both / "cache"))
    return both


def left_out(catalog, profile=SCORING):
    """Backend -> the row of its video after its left-out views were drawn."""
    facts = ScoreFacts("run", str(catalog), profile, "mask@1", "identity@1", "trunk")
    todo, _ = pending_scores(open_catalog(str(catalog)), facts, {})
    rows = DrawLeftOut(facts=facts, gpu=None, threads=1)(gather(todo, facts=facts)).to_pylist()
    return dict(zip(todo["backend"].to_pylist(), rows, strict=True))


def test_left_out_views_are_drawn_with_the_videos_own_settings(folder):
    rows = left_out(folder / "catalog")
    assert set(rows) == {"morph", "animatediff"}
    package = open_catalog(str(folder / "catalog")).package("one")
    for backend, overrides in (("morph", SMALL), ("animatediff", DIFFUSION)):
        drew = load_profile("classic", overrides=overrides, environment=ONE_THREAD)
        [wanted] = draw_left_out(
            package, load_backend(drew.video, device="cpu"), drew.orbit, drew.video, engine="morph", views=1
        )
        assert rows[backend]["error_code"] is None, rows[backend]["error_message"]
        [drawn] = rows[backend]["left_out"]
        assert drawn["view"] == wanted.view
        # In chunks of another size the decoder rounds otherwise.
        assert np.abs(picture_of(drawn).astype(int) - wanted.image).max() <= 1, backend


def test_other_weights_or_settings_are_detected_before_drawing(folder, tmp_path, monkeypatch):
    catalog = shutil.copytree(folder / "catalog", tmp_path / "catalog")
    [record] = [
        path for path in catalog.glob("files/videos/*/*/provenance.json") if '"backend": "morph"' in path.read_text()
    ]
    provenance = json.loads(record.read_text())
    provenance["settings"]["orbit"]["margin"] = 0.3
    record.write_text(json.dumps(provenance))
    with_weights(tmp_path, monkeypatch, seed=1)
    assert {row["error_code"] for row in left_out(catalog).values()} == {"score.not_as_drawn"}
    provenance["settings"]["orbit"]["fisheye"] = True
    record.write_text(json.dumps(provenance))
    assert left_out(catalog)["morph"]["error_code"] == "score.not_as_drawn"


def test_a_generator_without_a_gpu_rejects_only_its_own_videos(folder):
    rows = left_out(
        folder / "catalog", load_profile("classic", overrides=["fidelity.leave_out=1"], environment=ONE_THREAD)
    )
    assert rows["morph"]["error_code"] is None
    assert rows["animatediff"]["error_code"] == "resource.insufficient"
