"""GAP folders, as written by gapray and by the prototype."""

import base64
import dataclasses
import json
import os
import pickle
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gapray.errors import GaprayError, InputError
from gapray.gap import folder
from gapray.gap.folder import writing
from gapray.gap.package import PackageWarning
from gapray.serve.incoming import photos_in_manifest
from tests.gap import prototype
from tests.make import package

ANGLES = tuple(range(0, 360, 45))


def same(a, b):
    assert a.product_id == b.product_id
    assert [view.azimuth_deg for view in a.views] == [view.azimuth_deg for view in b.views]
    for view, other in zip(a.views, b.views, strict=True):
        for field in ("reference", "mask", "depth", "canny", "identity"):
            assert np.array_equal(getattr(view, field), getattr(other, field)), field
        assert (view.name, view.uri, view.sha256, view.quality) == (other.name, other.uri, other.sha256, other.quality)


@pytest.mark.parametrize("by", ["degrees", "frames", "table", "order"])
def test_azimuths_by_is_kept(tmp_path, by):
    folder.write(dataclasses.replace(package(), azimuths_by=by), tmp_path / "gap")
    assert folder.read(tmp_path / "gap").azimuths_by == by


def test_round_trip(tmp_path):
    original = package(views=16)
    manifest = folder.write(original, tmp_path / "gap")
    same(original, folder.read(tmp_path / "gap"))
    read = folder.read(tmp_path / "gap")
    assert (read.key, read.depth_scale, read.depth_shift, dict(read.models)) == (
        original.key,
        original.depth_scale,
        original.depth_shift,
        dict(original.models),
    )
    data = json.loads(manifest.read_text())
    assert data["asset_name"] == "sku"
    assert data["views"]["000"]["depth"] == "view_000/geometry/depth_000.png"
    assert data["views"]["000"]["reference"] == "view_000/canonical/reference.png"


def test_reads_other_names_and_formats_where_a_manifest_says_so(tmp_path):
    """Names with the angle in them, identity as JSON, no canny."""
    views = {}
    for angle in ("000", "090", "180", "270"):
        root = tmp_path / f"view_{angle}"
        (root / "canonical").mkdir(parents=True)
        (root / "geometry").mkdir()
        cv2.imwrite(str(root / "canonical" / "reference.png"), np.full((64, 64, 3), 90, np.uint8))
        cv2.imwrite(str(root / "geometry" / f"depth_{angle}.png"), np.full((64, 64), 128, np.uint8))
        cv2.imwrite(str(root / "geometry" / f"mask_{angle}.png"), np.pad(np.full((32, 32), 255, np.uint8), 16))
        (root / "identity_embedding.json").write_text(json.dumps([0.5] * 517))
        (root / "metadata.json").write_text("{}")
        views[angle] = {
            "reference": f"view_{angle}/canonical/reference.png",
            "depth": f"view_{angle}/geometry/depth_{angle}.png",
            "mask": f"view_{angle}/geometry/mask_{angle}.png",
            "identity": f"view_{angle}/identity_embedding.json",
            "metadata": f"view_{angle}/metadata.json",
        }
    (tmp_path / "multiview_manifest.json").write_text(json.dumps({"asset_name": "old", "views": views}))
    read = folder.read(tmp_path)
    assert [view.azimuth_deg for view in read.views] == [0, 90, 180, 270]
    assert read.views[0].depth.max() == 128 * 257


def load_as_the_prototype(view):
    """The files that its loader opens in the folder of every view, always by these names."""
    return {
        "reference": Image.open(view / "canonical" / "reference.png"),
        "reference_no_bg": Image.open(view / "canonical" / "reference_no_bg.png"),
        "depth": Image.open(view / "geometry" / "depth_000.png"),
        "mask": Image.open(view / "geometry" / "mask_000.png"),
        "identity": torch.load(view / "identity_embedding.pt", weights_only=True),
        "metadata": json.loads((view / "metadata.json").read_text()),
    }


def test_every_view_of_an_export_loads_as_the_prototype_s(tmp_path):
    original = package()
    manifest = json.loads(folder.write(original, tmp_path).read_text())
    assert list(manifest["views"]) == [f"{angle:03d}" for angle in ANGLES]
    for angle, view in zip(ANGLES, original.views, strict=True):
        found = load_as_the_prototype(tmp_path / f"view_{angle:03d}")
        assert [found[role].mode for role in ("reference", "reference_no_bg", "depth", "mask")] == [
            "RGB",
            "RGBA",
            "L",
            "L",
        ]
        assert np.array_equal(np.asarray(found["reference"]), view.reference)
        assert np.array_equal(np.asarray(found["reference_no_bg"]), np.dstack([view.reference, view.mask]))
        assert np.array_equal(np.asarray(found["mask"]), view.mask)
        # On the common scale of the set, and no white where a consumer converts it to RGB.
        depth = np.asarray(found["depth"].convert("RGB"))
        assert np.abs(depth[..., 0] * 257.0 - view.depth).max() <= 257 and (depth[..., 0] == depth[..., 2]).all()
        assert np.array_equal(depth[..., 0] > 0, view.depth > 0)
        assert found["identity"].dtype == torch.float32
        assert np.array_equal(found["identity"].numpy(), view.identity)
        expected = {
            "object_name": "sku",
            "identity_embedding_shape": [517],
            "has_depth": True,
            "has_mask": True,
            "image_size": [32, 32],
        }
        assert expected.items() <= found["metadata"].items() and {"version", "source"} <= set(found["metadata"])
        names = manifest["views"][f"{angle:03d}"]
        assert {role: names[role] for role in prototype.FILES} == {
            role: f"view_{angle:03d}/{name}" for role, name in prototype.FILES.items()
        }


def test_an_inline_manifest_is_whole_by_itself(tmp_path):
    original = package(views=16)
    views = json.loads(folder.write(original, tmp_path / "gap", inline=True).read_text())["views"]
    alone = folder.write(original, tmp_path / "one.json", inline=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gap", "one.json"]
    for angle, view in views.items():
        place = tmp_path / "gap" / f"view_{angle}"
        for member, name in (
            ("reference_b64", "canonical/reference.png"),
            ("depth_b64", "geometry/depth_000.png"),
            ("mask_b64", "geometry/mask_000.png"),
        ):
            assert base64.b64decode(view[member], validate=True) == (place / name).read_bytes()
        assert not [value for value in json.loads(alone.read_text())["views"][angle].values() if "/view_" in str(value)]
    same(original, folder.read(tmp_path / "gap"))
    shutil.copy(tmp_path / "gap" / folder.MANIFEST_NAME, tmp_path / "copied.json")
    for name in ("one.json", "copied.json"):
        read = folder.read(tmp_path / name)
        same(original, read)
        assert dataclasses.replace(read, views=()) == dataclasses.replace(original, views=(), azimuths_by="table")
    for manifest in (json.loads(alone.read_text()), {"views": views}):
        sent = photos_in_manifest(manifest)
        assert [photo.azimuth_deg for photo in sent] == [view.azimuth_deg for view in original.views]
        assert [photo.data for photo in sent] == [base64.b64decode(view["reference_b64"]) for view in views.values()]


INLINE_FILES = sorted(set(writing._files_of(package().views[0], "sku")) - {"reference_no_bg"})


@given(gone=st.sets(st.tuples(st.sampled_from(ANGLES), st.sampled_from(INLINE_FILES))))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_missing_beside_an_inline_manifest_are_read_from_it(tmp_path, gone):
    original = dataclasses.replace(package(), warnings=())
    views = json.loads(folder.write(original, tmp_path / "gap", inline=True).read_text())["views"]
    for angle, role in gone:
        (tmp_path / "gap" / views[f"{angle:03d}"][role]).unlink()
    read = folder.read(tmp_path / "gap")
    same(original, read)
    assert read.warnings == () and read.models == original.models


@pytest.mark.parametrize("role", INLINE_FILES)
@pytest.mark.parametrize("equal", [True, False])
def test_files_and_base64_must_agree(tmp_path, role, equal):
    """The server reads the base64 and an import the files."""
    original = package()
    views = json.loads(folder.write(original, tmp_path, inline=True).read_text())["views"]
    path = tmp_path / views["090"][role]
    if role == "metadata":
        path.write_text(json.dumps(json.loads(path.read_text()) | ({} if equal else {"sharpness": 1.0})))
    elif role == "identity":
        values = original.views[2].identity if equal else original.views[3].identity
        torch.save(torch.tensor(values), path, _use_new_zipfile_serialization=False)
    else:
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if not equal:
            pixels[16, 16] ^= 255
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert path.read_bytes() != base64.b64decode(views["090"][f"{role}_b64"])
    if equal:
        same(original, folder.read(tmp_path))
        return
    with pytest.raises(InputError, match=rf"{role}_b64 of view 90 differs from view_090/") as error:
        folder.read(tmp_path)
    assert error.value.code == "gap.invalid_folder"


def test_a_manifest_without_paths_does_not_read_what_lies_beside_it(tmp_path):
    prototype.write_package(tmp_path)
    original = package()
    read = folder.read(folder.write(original, tmp_path / "mug.json", inline=True))
    same(original, read)
    assert read.warnings is None


@pytest.mark.parametrize("value", ["%", "aGk=" * 9, "data:image/png;base64,!", 7, ["aGk="]])
def test_invalid_base64_is_refused(tmp_path, value):
    path = folder.write(package(), tmp_path / "mug.json", inline=True)
    data = json.loads(path.read_text())
    for role in folder.INLINE:
        changed = data["views"]["090"] | {f"{role}_b64": value}
        path.write_text(json.dumps(data | {"views": data["views"] | {"090": changed}}))
        with pytest.raises(InputError) as error:
            folder.read(path)
        assert error.value.code in ("gap.invalid_folder", "image.unsupported")


def test_base64_may_be_wrapped_and_a_data_uri(tmp_path):
    original = package()
    path = folder.write(original, tmp_path / "mug.json", inline=True)
    data = json.loads(path.read_text())
    view = data["views"]["090"]
    view["mask_b64"] = "data:image/png;base64," + view["mask_b64"]
    view["depth16_b64"] = base64.encodebytes(base64.b64decode(view["depth16_b64"])).decode()
    path.write_text(json.dumps(data))
    same(original, folder.read(path))


def test_a_folder_that_cannot_be_written_has_a_code(tmp_path):
    (tmp_path / "file").write_text("")
    for to, inline in (("file", False), ("file/gap", False), ("file/gap.json", True)):
        with pytest.raises(InputError) as error:
            folder.write(package(), tmp_path / to, inline=inline)
        assert error.value.code == "gap.write_failed"


def is_the_prototype_s(read, angles=ANGLES):
    """Check that every view has its own files."""
    assert [view.azimuth_deg for view in read.views] == list(angles)
    for angle, view in zip(angles, read.views, strict=True):
        inside = prototype.inside_of(angle)
        assert tuple(view.reference[0, 0]) == prototype.colour_of(angle)
        assert np.array_equal(view.mask, inside)
        expected = np.maximum(prototype.depth_of(angle).astype(int) * 257, 1) * (inside > 0)
        assert np.array_equal(view.depth, expected)
        assert np.array_equal(view.identity, prototype.identity_of(angle))
        assert view.uri == f"photos/{angle:03d}.jpg" and not view.canny.any()
    assert "depth" not in read.models


def relabelled(change):
    return {
        label: {role: change(path) for role, path in view.items()} for label, view in prototype.views_of(ANGLES).items()
    }


MANIFESTS = {
    "from where it ran": prototype.views_of(ANGLES),
    "from the manifest": relabelled(lambda path: path.removeprefix(prototype.RAN_IN + "/")),
    "from a sibling": relabelled(lambda path: "../../" + path),
    "with a dot": relabelled(lambda path: "./" + path),
    "of another machine": relabelled(lambda path: "/home/somebody/gap/" + path),
    "of Windows": relabelled(lambda path: path.replace("/", "\\")),
    "of another Windows machine": relabelled(lambda path: "C:\\gap\\" + path.replace("/", "\\")),
    "named by folders": {f"view_{label}": view for label, view in prototype.views_of(ANGLES).items()},
    "of folders alone": {label: f"{prototype.RAN_IN}/view_{label}" for label in prototype.views_of(ANGLES)},
    "without roles": {label: {} for label in prototype.views_of(ANGLES)},
    "with some roles": {
        label: {"reference": view["reference"], "mask": None, "depth": ""}
        for label, view in prototype.views_of(ANGLES).items()
    },
    "listed with angles": [view | {"angle": int(label)} for label, view in prototype.views_of(ANGLES).items()],
    "listed with names": [view | {"view": f"view_{label}"} for label, view in prototype.views_of(ANGLES).items()],
    "listed backwards": list(prototype.views_of(ANGLES[::-1]).values()),
}


@pytest.mark.parametrize("views", MANIFESTS.values(), ids=MANIFESTS)
def test_reads_the_prototype_s_own_folder(tmp_path, views):
    root = prototype.write_package(tmp_path / "supplement_mv")
    manifest = root / folder.MANIFEST_NAME
    manifest.write_text(json.dumps({"asset_name": "supplement_mv", "views": views}))
    moved = root.rename(tmp_path / "elsewhere")
    for place in (moved, moved / folder.MANIFEST_NAME):
        read = folder.read(place)
        is_the_prototype_s(read)
        assert read.product_id == "supplement_mv"


def test_reads_folders_of_views_without_a_manifest(tmp_path):
    root = prototype.write_package(tmp_path / "elsewhere")
    (root / folder.MANIFEST_NAME).unlink()
    read = folder.read(root)
    is_the_prototype_s(read)
    assert read.product_id == "supplement"


def test_reads_one_view_alone(tmp_path):
    root = prototype.write_package(tmp_path / "elsewhere")
    is_the_prototype_s(folder.read(root / "view_135"), [135])
    alone = shutil.copytree(root / "view_000", tmp_path / "bottle")
    is_the_prototype_s(folder.read(alone), [0])
    (alone / folder.MANIFEST_NAME).write_text(json.dumps({"asset_name": "b", "views": prototype.views_of([0])}))
    is_the_prototype_s(folder.read(alone), [0])


def test_what_gapray_wrote_is_exact_without_its_manifest(tmp_path):
    original = package(views=16)
    folder.write(original, tmp_path / "sku").unlink()
    same(original, folder.read(tmp_path / "sku"))
    [view] = folder.read(tmp_path / "sku" / "view_045").views
    assert view.azimuth_deg == 45 and np.array_equal(view.depth, original.views[2].depth)


@pytest.mark.parametrize("named", [True, False])
def test_without_a_mask_the_cut_out_has_one(tmp_path, named):
    prototype.write_view(tmp_path / "view_000", 0, mask=False)
    prototype.write_view(tmp_path / "view_045", 45)
    views = prototype.views_of([0, 45])
    if not named:
        del views["000"]["mask"]
    (tmp_path / folder.MANIFEST_NAME).write_text(json.dumps({"views": views}))
    is_the_prototype_s(folder.read(tmp_path), [0, 45])
    (tmp_path / "view_000" / "canonical" / "reference_no_bg.png").unlink()
    with pytest.raises(InputError) as error:
        folder.read(tmp_path)
    assert error.value.code == "gap.invalid_folder"


def test_names_of_products_become_ids(tmp_path):
    root = prototype.write_package(tmp_path / "Magnesium 400 mg")
    manifest = root / folder.MANIFEST_NAME
    for name, identifier in {"../../x": "x", "Vitamin C": "Vitamin-C", "": "supplement", 7: "supplement"}.items():
        manifest.write_text(json.dumps({"asset_name": name, "views": prototype.views_of(ANGLES)}))
        assert folder.read(root).product_id == identifier


@pytest.mark.parametrize(
    "saved",
    [
        lambda values: values[None],
        lambda values: values.half(),
        lambda values: values.bfloat16(),
        lambda values: torch.nn.Parameter(values),
        lambda values: torch.cat([values, values])[:517],
    ],
    ids=["batch of one", "half", "bfloat16", "parameter", "slice"],
)
def test_identities_of_other_types_are_read(tmp_path, saved):
    prototype.write_view(tmp_path / "view_000", 0)
    torch.save(saved(torch.tensor(prototype.identity_of(0))), tmp_path / "view_000" / "identity_embedding.pt")
    [view] = folder.read(tmp_path).views
    assert view.identity.dtype == np.float32 and np.abs(view.identity - prototype.identity_of(0)).max() < 0.005


@pytest.mark.parametrize("zipped", [True, False])
def test_identities_that_were_saved_from_a_gpu_are_read(tmp_path, monkeypatch, zipped):
    prototype.write_view(tmp_path / "view_000", 0)
    path = tmp_path / "view_000" / "identity_embedding.pt"
    with monkeypatch.context() as patched:
        # What torch writes for a tensor on the first GPU.
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(torch.tensor(prototype.identity_of(0)), path, _use_new_zipfile_serialization=zipped)
    assert b"cuda:0" in path.read_bytes()
    is_the_prototype_s(folder.read(tmp_path), [0])


class Evil:
    ran = False

    def __reduce__(self):
        return setattr, (Evil, "ran", True)


@pytest.mark.parametrize("what", ["code", "list", "nan", "short", "text", "pipe"])
def test_invalid_identities_are_refused(tmp_path, what):
    prototype.write_view(tmp_path / "view_000", 0)
    path = tmp_path / "view_000" / "identity_embedding.pt"
    path.unlink()
    if what == "code":
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    elif what == "text":
        path.write_text("identity")
    elif what == "pipe":
        os.mkfifo(path)
    else:
        torch.save({"list": [0.5] * 517, "nan": torch.full((517,), torch.nan), "short": torch.zeros(516)}[what], path)
    with pytest.raises(InputError) as error:
        folder.read(tmp_path)
    assert error.value.code == "gap.invalid_folder" and not Evil.ran


@pytest.mark.parametrize("what", ["file", "folder", "geometry", "manifest", "climbs", "absolute"])
@pytest.mark.parametrize("manifested", [True, False])
def test_nothing_outside_the_folder_is_read(tmp_path, what, manifested):
    root = prototype.write_package(tmp_path / "gap")
    outside = prototype.write_package(tmp_path / "outside")
    view, other = root / "view_045", outside / "view_045"
    views = prototype.views_of(ANGLES)
    if what == "file":
        (view / "geometry" / "mask_000.png").unlink()
        (view / "geometry" / "mask_000.png").symlink_to(other / "geometry" / "mask_000.png")
    elif what == "folder":
        shutil.rmtree(view)
        view.symlink_to(other)
    elif what == "geometry":
        shutil.rmtree(view / "geometry")
        (view / "geometry").symlink_to(other / "geometry")
    elif what == "climbs":
        views["045"]["mask"] = "../outside/view_045/geometry/other.png"
        shutil.copy(other / "geometry" / "mask_000.png", other / "geometry" / "other.png")
    elif what == "absolute":
        views["045"]["mask"] = str(other / "geometry" / "other.png")
        shutil.copy(other / "geometry" / "mask_000.png", other / "geometry" / "other.png")
    manifest = root / folder.MANIFEST_NAME
    manifest.write_text(json.dumps({"asset_name": "mug", "views": views}))
    if what == "manifest":
        manifest.rename(outside / "other.json")
        manifest.symlink_to(outside / "other.json")
    elif not manifested:
        if what in ("climbs", "absolute"):
            return
        manifest.unlink()
    with pytest.raises(InputError) as error:
        folder.read(root)
    assert error.value.code == "gap.invalid_folder"


def test_a_missing_view_is_not_taken_from_another(tmp_path):
    """`geometry/depth_000.png` exists, but belongs to another view."""
    root = prototype.write_package(tmp_path / "gap")
    shutil.copytree(root / "view_000" / "geometry", root / "geometry")
    (root / "view_045" / "geometry" / "depth_000.png").unlink()
    with pytest.raises(InputError) as error:
        folder.read(root)
    assert error.value.code == "gap.invalid_folder" and "depth of view 45" in error.value.message


PATHS = st.lists(
    st.sampled_from(["..", ".", "", "view_000", "geometry", "mask_000.png", "outside.png", "C:", "\0", "x" * 300]),
    max_size=6,
).map("/".join)
VALUES = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9) | PATHS | st.lists(PATHS)
ROLES = st.sampled_from(
    [*prototype.FILES, "depth16", "canny", "folder", "angle", "azimuth_deg", *(f"{role}_b64" for role in folder.INLINE)]
)
VIEWS = st.dictionaries(ROLES, VALUES) | VALUES
MEMBERS = st.sampled_from(["asset_name", "key", "models", "depth_scale", "depth_shift"])
DOCUMENTS = st.builds(
    lambda rest, views: rest | {"views": views},
    st.dictionaries(MEMBERS, VALUES),
    st.dictionaries(st.sampled_from(["000", "045", "view_090", "north"]), VIEWS) | st.lists(VIEWS) | VALUES,
)


@given(
    manifest=DOCUMENTS | VALUES,
    metadata=st.dictionaries(st.sampled_from(["azimuth_deg", "sharpness"]), VALUES) | VALUES,
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_manifest_is_a_package_or_a_code(tmp_path, manifest, metadata):
    root = tmp_path / "gap"
    if not root.exists():
        prototype.write_view(root / "view_000", 0)
        cv2.imwrite(str(tmp_path / "outside.png"), prototype.inside_of(90))
    (root / "view_000" / "metadata.json").write_text(json.dumps(metadata))
    (root / folder.MANIFEST_NAME).write_text(json.dumps(manifest))
    try:
        for view in folder.read(root).views:
            assert np.array_equal(view.mask, prototype.inside_of(0))
    except GaprayError as error:
        assert error.code.split(".")[0] in ("gap", "image")


@pytest.mark.parametrize("change", ["gone", "outside", "size", "identity", "text", "empty", "twice", "scale", "models"])
def test_refused(tmp_path, change):
    path = folder.write(package(), tmp_path / "gap")
    data = json.loads(path.read_text())
    view = data["views"]["090"]
    if change == "gone":
        (tmp_path / "gap" / view["mask"]).unlink()
    elif change == "outside":
        (tmp_path / "mask.png").write_bytes((tmp_path / "gap" / view["mask"]).read_bytes())
        view["mask"] = "../mask.png"
    elif change == "size":
        cv2.imwrite(str(tmp_path / "gap" / view["mask"]), np.zeros((20, 20), np.uint8))
    elif change == "identity":
        torch.save(torch.zeros(516), tmp_path / "gap" / view["identity"])
    elif change == "text":
        data = []
    elif change == "empty":
        data["views"] = {}
    elif change == "twice":
        data["views"]["view_090"] = view
    elif change == "scale":
        data["depth_scale"] = "wide"
    elif change == "models":
        data["models"] = ["m"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError) as error:
        folder.read(tmp_path / "gap")
    assert error.value.code in {"gap.invalid_folder", "image.unreadable"}


def mask_path(root, angle=90):
    return root / f"view_{angle:03d}" / "geometry" / "mask_000.png"


@pytest.mark.parametrize("most", [1, 255, 65535])
@pytest.mark.parametrize("angles", [ANGLES, (90,)])
def test_masks_of_any_two_levels_are_read_alike(tmp_path, most, angles):
    """Label images with the values 0 and 1, in 8 or 16 bits."""
    root = prototype.write_package(tmp_path / "gap")
    for angle in angles:
        inside = prototype.inside_of(angle) > 0
        cv2.imwrite(str(mask_path(root, angle)), (inside * most).astype(np.uint16 if most > 255 else np.uint8))
    is_the_prototype_s(folder.read(root))
    cv2.imwrite(str(mask_path(root)), (prototype.inside_of(90) > 0).astype(np.uint16))
    is_the_prototype_s(folder.read(root))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (np.zeros_like, "mask.too_small"),
        (lambda mask: (mask > 0).astype(np.uint8) * 100, "mask.too_small"),
        (lambda mask: np.full_like(mask, 255), "mask.too_large"),
        (lambda mask: np.ones_like(mask), "mask.too_large"),
        (lambda mask: 255 - mask, "mask.inverted"),
        (lambda mask: 1 - mask // 255, "mask.inverted"),
    ],
    ids=["empty", "too dark", "full", "full of ones", "inverted", "inverted ones"],
)
@pytest.mark.parametrize("cut_out", [True, False])
def test_masks_that_show_no_product_are_refused(tmp_path, change, code, cut_out):
    root = prototype.write_package(tmp_path / "gap")
    path = mask_path(root)
    mask = change(prototype.inside_of(90))
    if cut_out:
        if mask.max() == 1:
            return
        path.unlink()
        path = root / "view_090" / "canonical" / "reference_no_bg.png"
        (root / folder.MANIFEST_NAME).unlink()
        mask = np.dstack([cv2.imread(str(path)), mask])
    cv2.imwrite(str(path), mask)
    with pytest.raises(InputError) as error:
        folder.read(root)
    assert error.value.code == code and "view 90" in error.value.message


@pytest.mark.parametrize("colour", [0, 255])
def test_a_mask_that_is_all_of_one_colour_is_read_by_its_transparency(tmp_path, colour):
    root = prototype.write_package(tmp_path / "gap")
    inside = prototype.inside_of(90)
    cv2.imwrite(str(mask_path(root)), np.dstack([np.full((*inside.shape, 3), colour, np.uint8), inside]))
    is_the_prototype_s(folder.read(root))


def test_a_product_that_touches_the_border_is_no_inverted_mask(tmp_path):
    root = prototype.write_package(tmp_path / "gap")
    mask = prototype.inside_of(90)
    mask[20:], mask[:, :9] = 255, 255
    cv2.imwrite(str(mask_path(root)), mask)
    assert np.array_equal(folder.read(root).views[2].mask, mask)


CONTRADICTIONS = {
    "member and key": ({"azimuth_deg": 315}, None),
    "two members": ({"azimuth_deg": 45, "angle": 90}, None),
    "metadata and key": ({}, 90.0),
    "metadata and member": ({"azimuth": 45}, "view_090"),
}


@pytest.mark.parametrize(("members", "exact"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradicting_azimuths_are_refused(tmp_path, members, exact):
    root = prototype.write_package(tmp_path / "gap", (0, 45))
    views = prototype.views_of((0, 45))
    views["045"] |= members
    (root / folder.MANIFEST_NAME).write_text(json.dumps({"views": views}))
    if exact is not None:
        path = root / "view_045" / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"azimuth_deg": exact}))
    with pytest.raises(InputError) as error:
        folder.read(root)
    assert error.value.code == "gap.invalid_folder"
    other = "315" if members == {"azimuth_deg": 315} else "90"
    assert {"45", other} <= set(re.findall(r"says (\d+)", error.value.message))


def test_a_folder_s_name_and_its_metadata_must_agree(tmp_path):
    root = prototype.write_package(tmp_path / "gap", (0, 45))
    (root / folder.MANIFEST_NAME).unlink()
    path = root / "view_045" / "metadata.json"
    for exact, right in ((45.4, True), (44.5, True), (46, False)):
        path.write_text(json.dumps({"azimuth_deg": exact}))
        if right:
            assert folder.read(root).views[1].azimuth_deg == exact
            continue
        with pytest.raises(InputError, match="46"):
            folder.read(root)
    # A folder without degrees in its name contradicts nothing.
    [view] = folder.read((root / "view_045").rename(tmp_path / "alone")).views
    assert view.azimuth_deg == 46


def test_a_replaced_reference_gets_a_warning(tmp_path):
    original = dataclasses.replace(package(), warnings=())
    folder.write(original, tmp_path / "gap")
    assert folder.read(tmp_path / "gap").warnings == ()
    path = tmp_path / "gap" / "view_090" / "canonical" / "reference.png"
    Image.fromarray(original.views[2].reference).save(path, compress_level=0)
    assert folder.read(tmp_path / "gap").warnings == (), "the same pixels"
    Image.fromarray(original.views[2].reference[:, ::-1]).save(path)
    [warning] = folder.read(tmp_path / "gap").warnings
    assert warning.code == "gap.reference_changed" and original.views[2].name in warning.message


def test_a_replaced_reference_of_the_prototype_s_is_detected_by_its_cut_out(tmp_path):
    root = prototype.write_package(tmp_path / "gap")
    assert folder.read(root).warnings is None
    shutil.copy(root / "view_225" / "canonical" / "reference.png", root / "view_090" / "canonical" / "reference.png")
    [warning] = folder.read(root).warnings
    assert warning.code == "gap.reference_changed" and "view_090" in warning.message


@pytest.mark.parametrize("by", [0, 1, 2, -90])
def test_a_changed_8_bit_depth_gets_a_warning(tmp_path, by):
    original = dataclasses.replace(package(), warnings=())
    folder.write(original, tmp_path)
    path = tmp_path / "view_090" / "geometry" / "depth_000.png"
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int)
    inside = (depth > 100) & (depth < 250)
    cv2.imwrite(str(path), np.where(inside, depth + by, depth).astype(np.uint8))
    read = folder.read(tmp_path)
    same(original, read)
    assert [warning.code for warning in read.warnings] == (["gap.depth_changed"] if abs(by) > 1 else [])
    assert all(original.views[2].name in warning.message for warning in read.warnings)
    cv2.imwrite(str(path), np.zeros((16, 16), np.uint8))
    assert [warning.code for warning in folder.read(tmp_path).warnings] == ["gap.depth_changed"]
    path.unlink()
    assert folder.read(tmp_path).warnings == ()


def retouched(root, cut=slice(8, 12), grown=slice(24, 28), angle=90):
    """Cut rows of the product off the mask of one view of `package`, and add others below it; return the mask."""
    mask = cv2.imread(str(mask_path(root, angle)), cv2.IMREAD_UNCHANGED)
    mask[cut] = 0
    mask[grown, 8:24] = 255
    cv2.imwrite(str(mask_path(root, angle)), mask)
    return mask


@pytest.mark.parametrize("exact", [True, False])
def test_depth_follows_a_retouched_mask_with_a_warning(tmp_path, exact):
    original = dataclasses.replace(package(), warnings=())
    folder.write(original, tmp_path)
    if not exact:
        for path in tmp_path.rglob("depth16_000.png"):
            path.unlink()
    assert folder.read(tmp_path).warnings == ()
    before = folder.read(tmp_path).views[2]
    mask = retouched(tmp_path)
    read = folder.read(tmp_path)
    [warning] = read.warnings
    assert warning.code == "gap.mask_changed" and original.views[2].name in warning.message
    view = read.views[2]
    assert np.array_equal(view.mask, mask) and np.array_equal(view.depth > 0, mask >= 128)
    assert np.array_equal(view.depth[12:24], before.depth[12:24])
    assert (view.depth[24:28, 8:24] == before.depth[23, 8:24]).all()
    assert np.array_equal(view.identity[:512], before.identity[:512])
    inside = view.depth[mask >= 128] / 65535
    wanted = [inside.mean(), inside.std(), inside.min(), inside.max(), (mask >= 128).mean()]
    assert np.allclose(view.identity[512:], wanted, atol=1e-6)
    again = folder.write(read, tmp_path / "again").parent
    same(read, folder.read(again))
    assert [warning.code for warning in folder.read(again).warnings] == ["gap.mask_changed"], "that of the manifest"


@pytest.mark.parametrize("moved", [0, 255])
def test_a_mask_that_shares_nothing_with_the_depth_has_depth_all_the_same(tmp_path, moved):
    folder.write(dataclasses.replace(package(), warnings=()), tmp_path)
    if not moved:
        cv2.imwrite(str(tmp_path / "view_090" / "geometry" / "depth16_000.png"), np.zeros((32, 32), np.uint16))
    retouched(tmp_path, cut=slice(0, 32), grown=slice(26, 30))
    view = folder.read(tmp_path).views[2]
    assert np.array_equal(view.depth > 0, view.mask >= 128) and (view.mask >= 128).sum() == 4 * 16


def test_a_mask_saved_again_with_a_softer_edge_is_no_other_outline(tmp_path):
    folder.write(dataclasses.replace(package(), warnings=()), tmp_path)
    mask = cv2.imread(str(mask_path(tmp_path)), cv2.IMREAD_UNCHANGED)
    mask[8, 8:24] = 200
    cv2.imwrite(str(mask_path(tmp_path)), mask)
    assert folder.read(tmp_path).warnings == ()


@pytest.mark.parametrize(
    "change", ["erased", "painted", "flattened", "cropped", "saved again", "with the mask", "gone"]
)
def test_a_changed_cut_out_gets_a_warning(tmp_path, change):
    original = dataclasses.replace(package(), warnings=())
    folder.write(original, tmp_path)
    path = tmp_path / "view_090" / "canonical" / "reference_no_bg.png"
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if change == "erased":
        image[8:12, :, 3] = 0
    elif change == "painted":
        image[14:16, 14:16, :3] = 255 - image[14:16, 14:16, :3]
    elif change == "flattened":
        image = image[..., :3]
    elif change == "cropped":
        image = image[4:-4, 4:-4]
    elif change == "saved again":
        image[image[..., 3] == 0] = 0  # programs that do not keep the colours of transparent pixels
    elif change == "with the mask":
        image[..., 3] = retouched(tmp_path)
    cv2.imwrite(str(path), image)
    if change == "gone":
        path.unlink()
    wanted = {"saved again": [], "gone": [], "with the mask": ["gap.mask_changed"]}.get(change, ["gap.cutout_changed"])
    read = folder.read(tmp_path)
    assert [warning.code for warning in read.warnings] == wanted
    assert all(original.views[2].name in warning.message for warning in read.warnings)


@pytest.mark.parametrize("listed", ["paths", "nothing", "no manifest"])
def test_a_view_that_the_manifest_does_not_list_gets_a_warning(tmp_path, listed):
    root = prototype.write_package(tmp_path / "gap", (0, 90, 180, 270))
    prototype.write_view(root / "view_100", 100)
    (root / "view_200").mkdir()  # no view
    manifest = root / folder.MANIFEST_NAME
    if listed == "nothing":
        manifest.write_text(json.dumps({"views": {f"{angle:03d}": {} for angle in (0, 90, 180, 270)}}))
    elif listed == "no manifest":
        manifest.unlink()
        (root / "view_200").rmdir()
        assert len(folder.read(root).views) == 5 and folder.read(root).warnings is None
        return
    [warning] = folder.read(root).warnings
    assert warning.code == "gap.unlisted_view" and warning.message.startswith("view_100: ")


@pytest.mark.parametrize("change", ["white", "inverted", "gone", "black", None])
def test_a_canny_map_that_is_none_is_not_named_after_the_edge_detector(tmp_path, change):
    folder.write(dataclasses.replace(package(), warnings=()), tmp_path)
    path = tmp_path / "view_090" / "geometry" / "canny_000.png"
    canny = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if change == "gone":
        path.unlink()
    elif change is not None:
        new = {"white": np.full_like(canny, 255), "inverted": 255 - canny, "black": np.zeros_like(canny)}[change]
        cv2.imwrite(str(path), new)
    read = folder.read(tmp_path)
    assert [warning.code for warning in read.warnings] == ["gap.canny_changed"] * (change in ("white", "inverted"))
    assert ("canny" in read.models) == (change in ("black", None))


def test_the_manifest_s_warnings_are_kept_beside_new_ones(tmp_path):
    earlier = PackageWarning("photo.turned", "p_0.jpg: turned")
    folder.write(dataclasses.replace(package(), warnings=(earlier,)), tmp_path)
    prototype.write_view(tmp_path / "view_100", 100)
    assert [warning.code for warning in folder.read(tmp_path).warnings] == ["photo.turned", "gap.unlisted_view"]


def everything_in(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_export_replaces_an_earlier_one_of_the_same_product_whole(tmp_path):
    folder.write(package(views=16), tmp_path / "gap")
    folder.write(package(views=8), tmp_path / "new")
    (tmp_path / "gap" / "readme.txt").write_text("mine")
    (tmp_path / "gap" / "view_022" / "mine.txt").write_text("mine")
    folder.write(package(views=8), tmp_path / "gap")
    assert everything_in(tmp_path / "gap") == everything_in(tmp_path / "new") | {
        "readme.txt": b"mine",
        "view_022/mine.txt": b"mine",
    }


@pytest.mark.parametrize("what", ["other product", "without its manifest", "manifest alone", "other JSON", "views"])
def test_an_export_is_not_mixed_with_anything_else(tmp_path, what):
    to = tmp_path / "gap"
    if what == "views":
        (to / "view_045").mkdir(parents=True)
        (to / "view_045" / "metadata.json").write_text("[]")
    elif what == "other JSON":
        to.mkdir()
        (to / folder.MANIFEST_NAME).write_text("{}")
    else:
        folder.write(package("cup"), to, inline=what == "manifest alone")
        if what == "without its manifest":
            (to / folder.MANIFEST_NAME).unlink()
    before = everything_in(to)
    with pytest.raises(InputError) as error:
        folder.write(package("mug"), to)
    assert error.value.code == "gap.other_product" and everything_in(to) == before
    if what == "other product":
        assert "cup" in error.value.message


def test_a_file_of_another_product_is_not_overwritten(tmp_path):
    path = folder.write(package("cup"), tmp_path / "gap.json", inline=True)
    folder.write(package("cup", views=4), path, inline=True)
    with pytest.raises(InputError) as error:
        folder.write(package("mug"), path, inline=True)
    assert error.value.code == "gap.other_product" and json.loads(path.read_text())["asset_name"] == "cup"


def test_a_refused_export_leaves_nothing(tmp_path):
    views = package().views
    close = dataclasses.replace(views[1], azimuth_deg=0.4)
    with pytest.raises(InputError) as error:
        folder.write(dataclasses.replace(package(), views=(views[0], views[2], close)), tmp_path / "gap")
    assert error.value.code == "gap.invalid_folder" and not (tmp_path / "gap").exists()
