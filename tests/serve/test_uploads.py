"""Every encoding in which clients send eight views, and everything that must be refused."""

import base64
import io
import json
import warnings
import zipfile
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapray.capture.azimuths import AzimuthOptions
from gapray.capture.settings import DecodeSettings
from gapray.errors import GaprayError, InputError
from gapray.serve.incoming import IncomingPhoto, ignored_members, photos_in_fields, photos_in_manifest
from gapray.serve.settings import Limits
from gapray.serve.uploads import open_capture, prepare_upload

EIGHT = [45.0 * step for step in range(8)]


def come(sent, azimuths=None, options=AzimuthOptions(), limits=Limits(), fetch=None):
    return prepare_upload(sent, azimuths=azimuths, options=options, limits=limits, decode=DecodeSettings(), fetch=fetch)


def b64(data):
    return base64.b64encode(data).decode()


def zipped(files):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def twice(archive, photos):
    """Return a zip with a second member that has the name of the first one but another picture."""
    sink = io.BytesIO(archive)
    name, *_, last = photos
    with zipfile.ZipFile(sink, "a") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        opened.writestr(name, photos[last])
    return sink.getvalue()


def as_jpeg(data):
    return cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()


def test_a_base64_jpeg_is_not_mistaken_for_a_path(photos):
    texts = [b64(as_jpeg(data)) for data in photos.values()]
    assert all(text.startswith("/9j/") for text in texts)
    assert list(come(photos_in_fields([("views", texts)])).azimuths_deg) == EIGHT


ENCODINGS = {
    "openai: repeated input_reference[]": lambda p: [("input_reference[]", (n, d)) for n, d in p.items()],
    "openai: extra_body views[]": lambda p: [("views[]", "data:image/png;base64," + b64(d)) for d in p.values()],
    "litellm: views repeated": lambda p: [("views", b64(d)) for d in p.values()],
    "hosted_vllm: one JSON string": lambda p: [("views", json.dumps([b64(d) for d in p.values()]))],
    "JSON body: list of objects": lambda p: [
        ("views", [{"azimuth_deg": a, "b64_json": b64(d)} for a, d in zip(EIGHT, p.values(), strict=True)])
    ],
    "JSON body: angle to photo": lambda p: [
        ("views", {f"{a:03.0f}": b64(d) for a, d in zip(EIGHT, p.values(), strict=True)})
    ],
    "vLLM-Omni: image_reference": lambda p: [
        ("image_reference", json.dumps([{"image_url": {"url": "data:image/png;base64," + b64(d)}} for d in p.values()]))
    ],
    "indices, not in order": lambda p: [
        (f"input_reference[{step}]", ("blob", d)) for step, d in reversed(list(enumerate(p.values())))
    ],
    "indices of members, not in order": lambda p: [
        (f"views[{step}][image]", b64(d)) for step, d in reversed(list(enumerate(p.values())))
    ],
    "one zip": lambda p: [("input_reference", ("capture.zip", zipped(p)))],
    "one zip with a folder in it": lambda p: [
        ("input_reference", ("x.zip", zipped({f"mug/{n}": d for n, d in p.items()})))
    ],
}


@pytest.mark.parametrize("count", [8, 12])
def test_fields_sorted_by_their_names_are_put_in_order(count):
    """Go's clients send a map sorted by key: [0] [1] [10] [11] [2] …"""
    names = sorted(f"photos[{index}]" for index in range(count))
    sent = [(name, (name, b"x")) for name in names]
    assert [photo.name for photo in photos_in_fields(sent)] == [f"photos[{index}]" for index in range(count)]


def test_fields_of_other_names_stay_where_they_are():
    sent = [
        ("views[1]", ("b", b"x")),
        ("photo", ("c", b"x")),
        ("views[0]", ("a", b"x")),
        ("image[image_url]", "http://h/d"),
    ]
    assert [photo.name for photo in photos_in_fields(sent)] == ["a", "c", "b", "d"]


@pytest.mark.parametrize(
    "brackets",
    [
        ["[0]", "[0]"],
        ["[0]", "[2]"],
        ["[1]", "[2]"],
        ["[0]", "[]"],
        ["[0]", ""],
        ["[000]", "[045]"],
        ["[front]", "[left]"],
        ["[-45]"],
    ],
)
def test_indices_that_give_no_order_are_refused(brackets):
    with pytest.raises(InputError, match="brackets|no index") as error:
        photos_in_fields([(f"views{index}", (str(at), b"x")) for at, index in enumerate(brackets)])
    assert error.value.code == "request.invalid"


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_every_encoding_gives_the_same_capture(photos, encoding, tmp_path):
    found = come(photos_in_fields([("prompt", "p"), *encoding(photos)]))
    assert list(found.azimuths_deg) == EIGHT
    capture = open_capture(found.capture, tmp_path, "mug")
    assert [photo.azimuth_deg for photo in capture.photos] == EIGHT
    archive = zipfile.ZipFile(io.BytesIO(found.capture))
    assert [archive.read(photo.name) for photo in capture.photos] == list(photos.values())


def test_other_files_in_a_zip_are_counted(photos):
    files = {f"mug/{name}": data for name, data in photos.items()}
    beside = {"mug/notes.txt": b"as shot", "__MACOSX/mug/._a.png": b"x", "readme.md": b"read"}
    found = come(photos_in_fields([("input_reference", ("x.zip", zipped(files | beside)))]))
    assert found.ignored == {".md": 1, ".txt": 1, "system": 1}
    assert come(photos_in_fields([("input_reference", ("x.zip", zipped(files)))])).ignored == {}


def test_angles_of_photos_and_of_the_field_must_agree(photos):
    sent = [("views", [{"azimuth_deg": a, "b64": b64(d)} for a, d in zip(EIGHT, photos.values(), strict=True)])]
    assert list(come(photos_in_fields(sent), azimuths=EIGHT).azimuths_deg) == EIGHT
    with pytest.raises(InputError, match="`azimuths` says 315 degrees and photo 2 says 45 degrees") as error:
        come(photos_in_fields(sent), azimuths=[0.0, *EIGHT[:0:-1]])
    assert error.value.code == "request.invalid"


@pytest.mark.parametrize("key", ["{:g}", "{:03.0f}", "{:g}°", "{:g} deg", "{:g}.0"])
def test_keys_of_an_object_of_views_are_degrees(photos, key):
    sent = photos_in_fields([("views", {key.format(a): b64(d) for a, d in zip(EIGHT, photos.values(), strict=True)})])
    assert [photo.azimuth_deg for photo in sent] == EIGHT


def test_two_angles_of_one_view_must_agree(photos):
    first, second, *_ = photos.values()
    views = {
        f"{azimuth:03.0f}": {"reference_b64": b64(data)} for azimuth, data in zip(EIGHT, photos.values(), strict=True)
    }
    assert [
        photo.azimuth_deg
        for photo in photos_in_fields([("views", views | {"045": {**views["045"], "azimuth_deg": 405}})])
    ] == EIGHT
    with pytest.raises(InputError, match="the photo says 315 degrees and its key '045' says 45 degrees"):
        photos_in_fields([("views", views | {"045": {**views["045"], "azimuth_deg": 315}})])
    with pytest.raises(InputError, match="b64 and as image_b64, which differ"):
        photos_in_fields([("views", views | {"045": {"image_b64": b64(first), "b64": b64(second)}})])
    assert photos_in_fields([("photo", {"image_b64": b64(first), "b64": b64(first), "url": ""})])[0].data == first


def test_a_closing_photo_is_reported_as_ignored(photos):
    closing = {f"mug_{azimuth:03.0f}.jpg": data for azimuth, data in zip(EIGHT, photos.values(), strict=True)}
    closing["mug_360.jpg"] = next(iter(photos.values()))
    found = come(photos_in_fields([("input_reference", item) for item in closing.items()]))
    assert list(found.azimuths_deg) == EIGHT and found.ignored == {".jpg": 1}
    assert come([IncomingPhoto(data=zipped(closing))]).ignored == {".jpg": 1}


def test_keys_that_are_not_degrees_are_named(photos):
    with pytest.raises(InputError, match="'front' is no angle"):
        photos_in_fields([("views", {"front": b64(next(iter(photos.values())))})])


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"", "image.empty", "photo 1 holds no bytes"),
        (zipped({}), "request.no_photos", "the zip is empty"),
        (zipped({"inner.zip": zipped({"a.txt": b"x"})}), "capture.no_photos", "the zip"),
        (zipped({f"m_{a}.jpg": b"x" * 999 for a in range(8)})[:3000], "capture.invalid_archive", "the zip"),
    ],
    ids=["empty file", "empty zip", "zip in a zip", "truncated zip"],
)
def test_errors_of_files_name_no_server_paths(data, code, message):
    with pytest.raises(InputError) as error:
        come(photos_in_fields([("input_reference", ("x.zip", data))]))
    assert error.value.code == code and message in error.value.message and "/tmp" not in error.value.message


WRITINGS = {
    "as it is": str,
    "without padding": lambda text: text.rstrip("="),
    "url-safe": lambda text: text.translate(str.maketrans("+/", "-_")),
    "url-safe, without padding": lambda text: text.translate(str.maketrans("+/", "-_")).rstrip("="),
    "lines of MIME": lambda text: "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
    "lines that a shell joined": lambda text: " ".join(text[at : at + 76] for at in range(0, len(text), 76)),
    "lines, indented": lambda text: "".join(f"\n\t{text[at : at + 64]}" for at in range(0, len(text), 64)),
    "+ turned to a blank": lambda text: text.replace("+", " "),
    "+ turned to a blank, without padding": lambda text: text.replace("+", " ").rstrip("="),
    "percent-encoded": lambda text: quote(text, safe=""),
}
AROUND = {
    "plain": str,
    "data": lambda text: "data:image/png;base64," + text,
    "DATA, BASE64": lambda text: "DATA:Image/PNG;BASE64," + text,
    "no type": lambda text: "data:;base64," + text,
    "more parameters": lambda text: "data:image/png;name=a.png;charset=utf-8; base64," + text,
    "a JSON string": json.dumps,
}


@given(
    data=st.binary(min_size=120, max_size=600),
    writing=st.sampled_from(sorted(WRITINGS)),
    around=st.sampled_from(sorted(AROUND)),
    step=st.sampled_from([4, 160, 2**20]),
)
@settings(max_examples=400)
def test_every_form_of_base64_is_decoded(data, writing, around, step):
    """Data between a JPEG's first bytes, which make the text begin like a path, and its last ones, which are no spaces."""
    data = b"\xff\xd8\xff\xe0" + data + b"\xff\xd9"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gapray.serve.base64_forms._STEP", step)
        [found] = photos_in_fields([("views", AROUND[around](WRITINGS[writing](b64(data))))])
    assert found.data == data


@pytest.mark.parametrize("length", range(120, 126))
@pytest.mark.parametrize("width", [60, 64, 76])
@pytest.mark.parametrize("padded", [True, False])
def test_a_blank_where_a_line_could_end_is_a_plus_unless_it_is_a_line_break(length, width, padded):
    """The only ``+`` of a text, at the end of what could be a line of MIME, PEM or a shell."""
    text = b64(b"\xff\xd8\xff\xe0" + bytes(length))
    text = text[:width] + "+" + text[width + 1 :]
    data = base64.b64decode(text)
    sent = (text if padded else text.rstrip("=")).replace("+", " ")
    [found] = photos_in_fields([("views", sent)])
    assert found.data == data


@pytest.mark.parametrize(
    ("text", "message"),
    [("iVBORw0KG!o", "'!' at character 10"), ("iVBORw0KG", "9 characters"), ("iVBO=Rw0KGgo", "'=' at character 5")],
)
def test_invalid_base64_is_explained(text, message):
    with pytest.raises(InputError, match=message) as error:
        photos_in_fields([("views", text)])
    assert error.value.code == "request.invalid" and "not base64" in error.value.message


@pytest.mark.parametrize("path", ["/etc/passwd", "/data/photos/mug000", "./mug", "~/mug_000", "C:\\mug", "..\\mug"])
def test_a_path_of_base64_characters_is_refused_as_a_path(path):
    with pytest.raises(InputError) as error:
        photos_in_fields([("views", [path])])
    assert error.value.code == "request.path_refused"


def test_the_name_in_a_data_uri_is_read(photos):
    texts = [f"data:image/png;name=mug%20{name[4:]};base64,{b64(data)}" for name, data in photos.items()]
    found = come(photos_in_fields([("views", texts[::-1])]))
    assert found.azimuths_by == "degrees" and sorted(found.azimuths_deg) == EIGHT and found.azimuths_deg[0] == 315


def test_urls_are_left_for_later_or_fetched(photos):
    urls = [f"https://photos.example/{name}?token=1" for name in photos]
    sent = photos_in_fields([("views", urls)])
    later = come(sent)
    assert later.capture is None and [photo.url for photo in later.photos] == urls
    assert list(later.azimuths_deg) == EIGHT and later.azimuths_by == "degrees"
    now = come(sent, fetch=lambda url, left: photos[url.rpartition("/")[2].partition("?")[0]])
    assert now.capture is not None


def test_sources_of_azimuths_in_order_of_precedence(photos):
    named = [IncomingPhoto(name=name, data=data) for name, data in photos.items()]
    plain = [IncomingPhoto(name="image.png", data=data) for data in photos.values()]
    assert come(named).azimuths_by == "degrees"
    assert come(plain).azimuths_by == "order"
    assert come(named, azimuths=[10 + a for a in EIGHT]).azimuths_deg[0] == 10
    turned = come(plain, options=AzimuthOptions(direction="cw"))
    assert turned.azimuths_deg[1] == 315
    with pytest.raises(InputError) as error:
        come(named, azimuths=[0, 45])
    assert error.value.code == "request.invalid"


def test_the_prototype_s_manifest(photos):
    views = {
        f"{a:03.0f}": {"reference_b64": b64(d), "depth_b64": "x"} for a, d in zip(EIGHT, photos.values(), strict=True)
    }
    assert list(come(photos_in_manifest({"asset_name": "mug", "views": views})).azimuths_deg) == EIGHT


SECRET = "/etc/passwd"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([("views", [SECRET])], "request.path_refused"),
        ([("views", "file:///etc/passwd")], None),
        ([("views", "../../jobs.db")], "request.path_refused"),
        ([("views", [{"image_url": "C:\\photos\\mug_000.jpg"}])], "request.path_refused"),
        ([("views", [1, 2, 3])], "request.invalid"),
        ([("views", [{"nothing": 1}])], "request.invalid"),
        ([("views", "[[[[")], "request.invalid"),
        ([("views", "!!! not base64 !!!")], "request.invalid"),
        ([("views", "data:image/png,plain")], "request.invalid"),
        ([("views", {"000": {"image_url": 5}})], "request.invalid"),
    ],
)
def test_fields_that_hold_no_photo_are_refused(values, code):
    if code is None:  # a URL with an unsupported scheme is refused later, when URLs are checked
        assert photos_in_fields(values)[0].url.startswith("file:")
        return
    with pytest.raises(InputError) as error:
        photos_in_fields(values)
    assert error.value.code == code


def test_manifests_that_point_at_the_server_s_disk_are_refused():
    for member in ("reference", "reference_no_bg"):
        with pytest.raises(InputError) as error:
            photos_in_manifest({"views": {"000": {member: "view_000/canonical/reference.png"}}})
        assert error.value.code == "request.path_refused"
    for manifest in (None, [], {}, {"views": {}}, {"views": 3}):
        with pytest.raises(InputError) as error:
            photos_in_manifest(manifest)
        assert error.value.code == "request.invalid"
    with pytest.raises(InputError) as error:
        photos_in_manifest({"views": {"000": {"depth_b64": "x"}}})
    assert error.value.code == "request.no_photos"


def png(side=96, fill=200):
    return cv2.imencode(".png", np.full((side, side, 3), fill, np.uint8))[1].tobytes()


def bomb():
    """Return a PNG of 12,000 x 12,000 pixels in a few kilobytes."""
    sink = io.BytesIO()
    from PIL import Image

    Image.new("1", (12_000, 12_000)).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({f"mug_{a:03.0f}.png": b"" for a in EIGHT}, "image.empty"),
        ({f"mug_{a:03.0f}.png": b"hello" for a in EIGHT}, "image.unsupported"),
        ({f"mug_{a:03.0f}.png": png(8) for a in EIGHT}, "image.too_small"),
        ({f"mug_{a:03.0f}.png": bomb() for a in EIGHT}, "image.too_many_pixels"),
        ({f"mug_{a:03.0f}.png": png() for a in (0, 45)}, "capture.missing_views"),
        ({f"mug_{a:03.0f}.png": png() for a in (0, 45, 90, 135)}, "capture.missing_views"),
        ({f"m_{a}.png": png() for a in range(100)}, "request.too_many_images"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_photos_are_refused_on_upload(files, code):
    with pytest.raises(InputError) as error:
        come([IncomingPhoto(name=name, data=data) for name, data in files.items()])
    assert error.value.code == code


def test_bad_zips_are_refused(photos):
    good = zipped(photos)
    evil = {
        "cut off": (good[: len(good) // 2], "capture.invalid_archive"),
        "climbs out": (zipped({f"../{name}": data for name, data in photos.items()}), "capture.unsafe_path"),
        "two products": (zipped({f"{p}/{n}": d for p in "ab" for n, d in photos.items()}), "capture.ambiguous_layout"),
        "one name twice": (twice(good, photos), "capture.invalid_archive"),
        "no photo": (zipped({"a.txt": b"x"}), "capture.no_photos"),
        "unfinished": (
            zipped({f"mug-{n}.png" + ".part" * (n > 4): d for n, d in enumerate(photos.values(), 1)}),
            "capture.unfinished",
        ),
        "no table": (zipped(photos | {"capture.csv": b"file,azimuth\na\rb\n"}), "capture.invalid_table"),
    }
    for what, (data, code) in evil.items():
        with pytest.raises(InputError) as error:
            come([IncomingPhoto(data=data)])
        assert error.value.code == code, what


def test_a_zip_that_unpacks_to_too_many_bytes_is_refused(photos):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for azimuth in EIGHT:
            archive.writestr(f"mug_{azimuth:03.0f}.png", png() + bytes(3 * 2**20))
    with pytest.raises(InputError) as error:
        come([IncomingPhoto(data=sink.getvalue())], limits=Limits(photo_bytes=8 * 2**20))
    assert error.value.code == "request.too_large"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


@given(values=st.lists(st.tuples(st.sampled_from(["views", "input_reference[]", "image_reference", "prompt"]), JSON)))
@settings(max_examples=200, deadline=None)
def test_any_json_gives_photos_or_an_error_code(values):
    try:
        come(photos_in_fields(values))
    except GaprayError as error:
        assert error.code.split(".")[0] in {"request", "capture", "image"}


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_any_manifest_gives_photos_or_an_error_code(manifest):
    try:
        come(photos_in_manifest({"views": manifest}))
    except GaprayError as error:
        assert error.code.split(".")[0] in {"request", "capture", "image"}


def listed(photos, **more):
    return [{"azimuth_deg": a, "b64_json": b64(d), **more} for a, d in zip(EIGHT, photos.values(), strict=True)]


@pytest.mark.parametrize("stated", ["cw", "clockwise", "CCW", "sideways"])
def test_a_direction_beside_a_photo_must_be_the_requests(photos, stated):
    views = {f"{a:03.0f}": {"reference_b64": b64(d)} for a, d in zip(EIGHT, photos.values(), strict=True)}
    ways = [
        photos_in_fields([("views", listed(photos, direction=stated))]),
        photos_in_manifest({"direction": stated, "views": views}),
        photos_in_manifest({"views": {at: view | {"direction": stated} for at, view in views.items()}}),
    ]
    for sent in ways:
        for direction in ("ccw", "cw"):
            options = AzimuthOptions(direction=direction)
            if {"clockwise": "cw"}.get(stated, stated.lower()) == direction:
                assert come(sent, options=options).azimuths_deg[1] == (45 if direction == "ccw" else 315)
                continue
            with pytest.raises(InputError, match=f"direction '{stated}', and azimuths are read as {direction}"):
                come(sent, options=options)


def test_members_without_effect_are_named(photos):
    views = listed(photos, rotate=90, mirror=True, file_name="a.png", yaw=None)
    assert ignored_members(photos_in_fields([("images[]", views)])) == ["images.mirror", "images.rotate"]
    assert ignored_members(photos_in_fields([("views", listed(photos, name="a.png"))])) == []
    views = [{"image_url": {"url": "https://photos.example/a.png", "detail": "high"}}]
    assert ignored_members(photos_in_fields([("views", views)])) == ["views.image_url.detail"]
    view = {"azimuth_deg": 0, "reference_b64": b64(b"x"), "mask_b64": "x", "depth_b64": "x"}
    manifest = {"asset_name": "mug", "key": "k", "models": {}, "rotation": 90, "views": {"000": view}}
    named = ignored_members(photos_in_manifest(manifest))
    assert named == ["manifest.depth_b64", "manifest.mask_b64", "manifest.rotation"]
