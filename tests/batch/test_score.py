"""`gapray.score` on a real Ray: rows, resume, rejects, foreign videos, what broken files do."""

import json
import shutil

import av
import cv2
import numpy as np
import pytest

import gapray
from gapray.batch.score import pending_scores, score_facts
from gapray.batch.score_foreign import score_foreign
from gapray.batch.truth import read_truth
from gapray.capture.angles import angle_difference
from gapray.capture.discover import discover
from gapray.catalog.import_package import import_package
from gapray.catalog.parts import commit
from gapray.catalog.reader import open_catalog
from gapray.catalog.schemas import VERDICTS
from gapray.catalog.storage import Folder
from gapray.cli.options import truth_options
from gapray.errors import CatalogError, GaprayError
from gapray.packaging.build import PackagingModels, build_package
from gapray.profile import load_profile
from gapray.report.table import fidelity_table
from gapray.video.encode import encode_mp4
from tests.conftest import ONE_THREAD

pytestmark = [
    pytest.mark.usefixtures("ray_cluster", "classic_weights", "lpips_alex"),
    pytest.mark.timeout(500),
    pytest.mark.long,
]
SETTINGS = [
    "orbit.size=128",
    "orbit.voxels=48",
    "orbit.flow=false",
    "orbit.refine_camera=false",
    "orbit.engine=morph",
    "fidelity.size=128",
    "fidelity.leave_out=1",
]
TRUTH = truth_options(direction="ccw", front=0, names="auto", layout="auto")


@pytest.fixture(scope="module")
def profile():
    return load_profile("classic", overrides=SETTINGS, environment=ONE_THREAD)


def smaller(source, target, side=320):
    """Photos at a third of their size: what takes time here is the processes, and they stay whole."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        cv2.imwrite(
            str(target / file.name), cv2.resize(cv2.imread(str(file)), (side, side), interpolation=cv2.INTER_AREA)
        )
    return target


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, samples, profile, ray_cluster, classic_weights):
    """Three products with videos; the third one's file is broken."""
    root = tmp_path_factory.mktemp("scored")
    for product, source in {"mug": "mug", "supplement": "supplement", "torn": "mug"}.items():
        smaller(samples / "captures" / source, root / "photos" / product)
    catalog = root / "catalog"
    models = PackagingModels.load(profile.packaging)
    for capture in discover(str(root / "photos")):
        import_package(Folder.at(str(catalog)), build_package(capture, models, profile.packaging), uri=capture.uri)
    gapray.render(catalog, profile=profile)
    [mp4] = catalog.glob("files/videos/torn/*/turntable.mp4")
    mp4.write_bytes(mp4.read_bytes()[:2000])
    return catalog


@pytest.fixture
def catalog(rendered, tmp_path):
    return shutil.copytree(rendered, tmp_path / "catalog")


def ours(catalog):
    return {row["product_id"]: row for row in open_catalog(catalog).verdicts().to_pylist() if row["label"] == "gapray"}


def test_scoring_by_held_out_photos_and_left_out_views_with_a_damaged_file(catalog, profile, samples, tmp_path):
    truth = tmp_path / "truth"
    smaller(samples / "held_out" / "mug", truth / "mug")
    seen = []
    summary = gapray.score(
        str(catalog), profile=profile, truth=truth, options=TRUTH, on_progress=lambda summary: seen.append(summary.done)
    )
    assert (summary.products, summary.passed + summary.failed, summary.rejected) == (3, 2, 1)
    assert seen[0] == 0 and seen[-1] == 3
    assert summary.rejects_by_code == {"video.unreadable": 1}
    opened = open_catalog(catalog)
    [reject] = opened.rejects().to_pylist()
    assert (reject["product_id"], reject["stage"], reject["code"]) == ("torn", "score", "video.unreadable")
    rows = ours(catalog)
    mug, bottle = rows["mug"], rows["supplement"]
    assert (mug["angles"], mug["key_angles"], bottle["angles"], bottle["key_angles"]) == (16, 8, 1, 8)
    assert summary.pairs == opened.scores().num_rows == (24 + 4 * 16) + (9 + 4)
    nearest = next(row for row in opened.verdicts("mug").to_pylist() if row["label"] == "nearest view")
    assert mug["lpips"] < 0.7 * nearest["lpips"]
    protocol, left_out = (json.loads(row["protocol"]) for row in (mug, bottle))
    assert protocol["truth"] == "held-out" and protocol["conditions_deg"] == [45.0 * step for step in range(8)]
    assert protocol["mask"].startswith("u2netp@") and len(protocol["trunk_sha256"]) == 64
    assert left_out["truth"] == "leave-one-out" and bottle["lpips"] > bottle["key_lpips"]
    table = {row.label: row for row in fidelity_table(opened)}
    assert table["gapray"].products == 2 and "not measured" in table["Runway Gen-3"].cells()
    assert {row["product_id"]: row["lpips"] for row in opened.best_videos().to_pylist()}["mug"] == mug["lpips"]


def test_only_named_products_are_scored(catalog, profile):
    opened = open_catalog(catalog)
    facts = score_facts(str(catalog), profile)
    todo, _ = pending_scores(opened, facts, {}, ["mug"])
    assert set(todo["product_id"].to_pylist()) == {"mug"}
    with pytest.raises(CatalogError) as error:
        pending_scores(opened, facts, {}, ["mug", "nobody"])
    assert error.value.code == "catalog.product_not_found"


def test_scored_videos_are_skipped_unless_the_truth_changes(catalog, profile, samples):
    facts = score_facts(str(catalog), profile)
    photos = read_truth(str(samples / "held_out"), TRUTH).photos
    opened = open_catalog(catalog)
    todo, finished = pending_scores(opened, facts, photos)
    assert (todo.num_rows, finished) == (3, 0)
    keys = dict(zip(todo["product_id"].to_pylist(), todo["key"].to_pylist(), strict=True))
    video = next(row for row in opened.videos().to_pylist() if row["product_id"] == "mug")
    commit(opened.folder, {"verdicts": [verdict_row(video, 0.1, "pass") | {"key": keys["mug"]}]})
    assert pending_scores(opened, facts, photos)[1] == 1
    assert pending_scores(opened, facts, {})[1] == 0


def verdict_row(video, lpips, gate):
    columns = {name: video[name] for name in ("product_id", "product_key", "created_at")}
    numbers = {"angles": 1, "lpips": lpips, "key_angles": 0, "gate": gate, "reasons": [], "notes": []}
    named = {"key": video["key"], "video_key": video["key"], "label": "gapray", "foreign_video": False}
    return dict.fromkeys(VERDICTS.names) | columns | numbers | named | {"protocol": "{}", "run_id": "r"}


def turn_of(samples, order=1):
    files = sorted(
        [*(samples / "captures" / "mug").iterdir(), *(samples / "held_out" / "mug").iterdir()],
        key=lambda path: path.stem[-3:],
    )
    # As large as the photos of `rendered`: at another size the mask network sees another outline, and the frames that are laid at
    # the right angle differ by their boxes.
    frames = [cv2.resize(cv2.imread(str(file))[..., ::-1], (320, 320), interpolation=cv2.INTER_AREA) for file in files]
    return np.ascontiguousarray(np.stack(frames)[::order])


def test_a_foreign_video_is_aligned_with_the_photos(catalog, profile, samples, tmp_path):
    path = tmp_path / "runway.mp4"
    path.write_bytes(encode_mp4(turn_of(samples, -1), fps=24))
    found = score_foreign(
        catalog,
        path,
        label="Runway Gen-3",
        product_id="mug",
        profile=profile,
        truth=samples / "held_out",
        options=TRUTH,
    )
    theirs, ours = found.verdicts
    assert (theirs.label, ours.label) == ("Runway Gen-3", "gapray (aligned)")
    assert theirs.lpips < 0.05 and theirs.angles == 16 and theirs.key_angles == 8
    laid = [score for score in open_catalog(catalog).table("scores").to_pylist() if score["label"] == "Runway Gen-3"]
    # Frame f of the film, which runs backwards, is the photo at 15 degrees x (23 - f).
    assert (
        all(abs(angle_difference(score["azimuth_deg"], 15.0 * (23 - score["frame"]))) <= 15 for score in laid)
        and len(laid) == 24
    )
    assert any("against the azimuths" in note for note in found.notes)
    assert "truth of other products: supplement" in found.notes
    row = next(row for row in open_catalog(catalog).verdicts("mug").to_pylist() if row["label"] == "Runway Gen-3")
    assert row["foreign_video"] and json.loads(row["protocol"])["aligned"]
    table = {row.label: row for row in fidelity_table(open_catalog(catalog))}
    assert table["Runway Gen-3"].products == 1 and table["Runway Gen-3"].note == "aligned"
    assert "single-image diffusion" in table and table["single-image diffusion"].lpips is None


def test_a_video_of_another_product_is_rejected(catalog, profile, samples, tmp_path):
    path = tmp_path / "mug.mp4"
    path.write_bytes(encode_mp4(turn_of(samples), fps=24))
    with pytest.raises(GaprayError) as error:
        score_foreign(catalog, path, label="x", product_id="supplement", profile=profile)
    assert error.value.code == "score.not_this_product"
    assert open_catalog(catalog).verdicts().num_rows == 0


def alpha_gif(path):
    from PIL import Image

    frames = [Image.new("RGBA", (80, 80), (200, 30, 30, 90 + index)) for index in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[20, 400, 90])


def variable_rate(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index, time in enumerate((0, 3, 4, 19)):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * index, np.uint8), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "write", "code"),
    [
        ("empty.mp4", lambda path: path.write_bytes(b""), "video.unreadable"),
        ("broken.mp4", lambda path: path.write_bytes(b"\0\0\0 ftypisom" + b"x" * 500), "video.unreadable"),
        ("text.webm", lambda path: path.write_text("hello"), "video.unreadable"),
        (
            "one.mp4",
            lambda path: path.write_bytes(encode_mp4(np.full((1, 64, 64, 3), 90, np.uint8), fps=1)),
            "score.too_short",
        ),
        ("alpha.gif", alpha_gif, "score.not_this_product"),
        ("variable.mp4", variable_rate, "score.not_this_product"),
    ],
)
def test_unusable_files_raise_errors_with_codes(catalog, profile, tmp_path, name, write, code):
    path = tmp_path / name
    write(path)
    with pytest.raises(GaprayError) as error:
        score_foreign(catalog, path, label="x", product_id="mug", profile=profile)
    assert error.value.code == code


def test_the_better_of_two_seeds_is_the_best_video(catalog):
    """The gate counts first, then LPIPS."""
    opened = open_catalog(catalog)
    video = next(row for row in opened.videos().to_pylist() if row["product_id"] == "mug")
    second = {**video, "key": "second".ljust(64, "0"), "seed": 1}
    verdicts = [verdict_row(video, 0.1, "fail"), verdict_row(second, 0.2, "pass")]
    commit(opened.folder, {"videos": [second], "verdicts": verdicts})
    best = {row["product_id"]: row for row in opened.best_videos().to_pylist()}
    assert (best["mug"]["seed"], best["mug"]["gate"]) == (1, "pass")
    assert best["supplement"]["gate"] is None
    assert fidelity_table(opened)[0].lpips.mean == 0.2
