"""Text that databases, files or answers cannot hold, in every field of every API; and unreadable rows."""

import base64
import json
import time
import zipfile
from io import BytesIO

import pytest
import requests
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from gapray.errors import ConfigError, InputError
from gapray.serve.jobs import GenerationParams, JobInput, NewJob
from gapray.serve.keys import KeyRing, create
from gapray.serve.tables import UNREADABLE, connect, jobs, load_json, write_transaction
from gapray.serve.text import MAX_TEXT_LENGTH, escaped, refuse_unusable, without_unusable
from tests.serve.conftest import running, served

BAD = {
    "half a pair": "a\ud83d",
    "the other half": "\ude00\ud83d",
    "NUL": "a\0b",
    "escape": "\x1b[2J",
    "C1": "a\x85b",
    "DEL": "\x7f",
}
TEXT_FIELDS = (
    "prompt",
    "negative_prompt",
    "product_id",
    "model",
    "webhook",
    "webhook_url",
    "direction",
    "size",
    "format",
)
TEXT_FIELDS += ("names", "closing_frame", "product", "scene", "package", "response_format", "user", "azimuths")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory, postgres_server):
    """A server without workers: jobs stay queued."""
    url = {}
    if request.param == "postgresql":
        import psycopg

        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute("CREATE DATABASE hostile_text")
        url = {"jobs_url": postgres_server.removesuffix("/postgres") + "/hostile_text"}
    with served(tmp_path_factory.mktemp("text"), worker="none", limits={"queued": 100_000}, **url) as server:
        yield server


def views(photos):
    return [base64.b64encode(data).decode() for data in photos.values()]


def post_json(server, path, value, **more):
    """Post JSON with raw bytes of lone surrogates, which no usual client sends but Python's parser reads."""
    data = json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
    escaped = json.dumps(value).encode()
    kind = {"content-type": "application/json"} | more
    return [requests.post(server.url + path, data=body, headers=kind, timeout=20) for body in (data, escaped)]


def refused(answers):
    for answer in answers:
        body = answer.json()
        code = body["error"]["code"] if isinstance(body.get("error"), dict) else body.get("code", "")
        assert 400 <= answer.status_code < 500 and (code or "errors" in body), answer.text


def test_overlong_texts_are_refused(server, photos):
    """A prompt of megabytes would be stored, and returned with every list of jobs."""
    before = server.context.store.counts()
    good, long = views(photos), "a" * (MAX_TEXT_LENGTH + 1)
    for field in TEXT_FIELDS:
        refused(post_json(server, "/v1/videos", {"views": good, field: long}))
        refused(post_json(server, "/v1/videos", {"views": good, "extra_body": {field: long}}))
        refused(post_json(server, "/v2/e/run", {"input": {"images": good, field: long}}))
        form = [("input_reference[]", (name, data)) for name, data in photos.items()] + [(field, (None, long))]
        for path in ("/v1/videos", "/v1/packages", "/v1/images/edits"):
            refused([requests.post(server.url + path, files=form, timeout=20)])
    for name in ("name", "file_name"):
        named = [{"b64": data, name: long} for data in good]
        refused(post_json(server, "/v1/videos", {"views": named}))
        refused(post_json(server, "/v2/e/run", {"input": {"images": named}}))
    refused(post_json(server, "/v1/videos", {"views": [f"http://127.0.0.1/{long}"]}))
    refused(post_json(server, "/v2/e/run", {"input": {"images": good}, "webhook": f"http://127.0.0.1/{long}"}))
    assert server.context.store.counts() == before


@pytest.mark.parametrize("text", ["[" + "1," * 150_000 + "1]", "[" + '"eA==",' * 150_000 + '"eA=="]'])
def test_json_within_a_field_has_no_more_values_than_a_body(server, text):
    """An escaped comma is not counted among the body's values."""
    escaped = '{"views": ' + json.dumps(text).replace(",", "\\u002c") + "}"
    kind = {"content-type": "application/json"}
    answers = [requests.post(f"{server.url}/v1/videos", data=escaped, headers=kind, timeout=20)]
    answers.append(requests.post(f"{server.url}/v1/packages", data={"views": text}, timeout=20))
    manifest = base64.b64encode(b'{"views": ' + text.encode() + b"}").decode()
    answers.append(
        requests.post(f"{server.url}/v2/e/run", json={"input": {"manifest_b64": manifest}}, headers=kind, timeout=20)
    )
    refused(answers)
    assert all("more than 100000 values" in answer.text for answer in answers), [answer.text for answer in answers]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_every_text_of_every_api_is_checked(server, photos, bad):
    before = server.context.store.counts()
    good = views(photos)
    for path in ("/v1/videos", "/v1/packages", "/v1/images/edits", "/v1/images/generations"):
        for name in TEXT_FIELDS:
            refused(post_json(server, path, {"prompt": "x", "views": good} | {name: bad}))
        refused(post_json(server, path, {"prompt": "x", "views": good, bad: 1}))
        refused(post_json(server, path, {"prompt": "x", "views": good, "extra_body": {"prompt": bad}}))
        refused(post_json(server, path, {"prompt": "x", "views": [{"name": bad, "b64": text} for text in good]}))
        refused(post_json(server, path, {"prompt": "x", "views": [{"url": f"https://1.1.1.1/{bad}"}] * 8}))
        # JSON in a text field
        refused(
            post_json(server, path, {"prompt": "x", "views": json.dumps([{"name": bad, "b64": text} for text in good])})
        )
    for wrong in (
        {"prompt": bad},
        {"manifest_url": f"https://1.1.1.1/{bad}"},
        {"product_id": bad},
        {"prompt": {"deep": [bad]}},
        {"manifest_b64": encoded({"asset_name": bad, "views": {"000": {"reference_b64": good[0]}}})},
        {"manifest_b64": encoded({"views": {"000": {"reference_url": f"https://1.1.1.1/{bad}"}}})},
        {"reference_image": good[0], "prompt": bad},
        {"reference_image": f"data:image/png;name={bad};base64,{good[0]}"},
    ):
        for path in ("/v2/any/run", "/v2/any/runsync?wait=1000"):
            refused(post_json(server, path, {"input": {"views": good} | wrong}))
    refused(post_json(server, "/v2/any/run", {"input": {"views": good}, "webhook": f"https://1.1.1.1/{bad}"}))
    refused(post_json(server, "/v2/any/run", {"input": {"views": good}, bad: bad}))
    refused(post_json(server, "/graphql", {"query": bad}))
    assert server.context.store.counts() == before
    assert requests.get(f"{server.url}/v1/videos", timeout=5).status_code == 200


def encoded(manifest):
    return base64.b64encode(json.dumps(manifest).encode()).decode()


@pytest.mark.parametrize("bad", ["a\0b", "\x1b[2J", "a\x85b", "\x7f"])
def test_form_fields_are_checked(server, form, bad):
    for path in ("/v1/videos", "/v1/packages", "/v1/scores", "/v1/images/edits"):
        for name in TEXT_FIELDS:
            refused([requests.post(server.url + path, files=form, data={name: bad}, timeout=20)])
        refused([requests.post(server.url + path, files=form, data={bad: "x"}, timeout=20)])
        refused([requests.post(server.url + path, data={"prompt": bad}, timeout=20)])


@pytest.mark.parametrize(
    "charset", ["utf-7", "utf-16-le", "raw_unicode_escape", "unicode_escape", "zlib", "idna", "undefined"]
)
def test_no_charset_of_a_form_smuggles_text_in(server, form, charset):
    asked = requests.Request("POST", f"{server.url}/v1/videos", files=form, data={"prompt": "PROMPT"}).prepare()
    raw = {"utf-7": b"+2D0-", "utf-16-le": "\ud83d".encode("utf-16-le", "surrogatepass")}.get(charset, rb"\ud83d")
    asked.body = asked.body.replace(b"PROMPT", raw)
    asked.headers["content-length"] = str(len(asked.body))
    asked.headers["content-type"] += f"; charset={charset}"
    answer = requests.Session().send(asked, timeout=20)
    assert answer.status_code < 500, answer.text
    listed = requests.get(f"{server.url}/v1/videos", timeout=5)
    assert listed.status_code == 200


def test_file_names_are_read_but_not_stored(server, photos):
    names = [f"mug\0\x1b_{name.rpartition('_')[2]}" for name in photos]
    words = [f"=?utf-7?Q?+2D0-mug=5F{name.rpartition('_')[2]}?=" for name in photos]
    for given_names in (names, words):
        sent = [("input_reference[]", (name, data)) for name, data in zip(given_names, photos.values(), strict=True)]
        answer = requests.post(f"{server.url}/v1/videos", files=sent, timeout=20)
        assert answer.status_code < 500, answer.text
    zipped = BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, data in photos.items():
            archive.writestr(f"m\x1bug/\x85{name}", data)
    answer = requests.post(f"{server.url}/v1/videos", files=[("views", ("a.zip", zipped.getvalue()))], timeout=20)
    assert answer.status_code < 500, answer.text
    assert requests.get(f"{server.url}/v1/videos", timeout=5).status_code == 200


def test_queries_paths_and_headers_are_checked(server, form):
    for text in ("%00", "%ed%a0%bd", "%1b", "x" * 5000, "%F0%9F%98%80"):
        for path in (
            "/v1/videos?after=",
            "/v1/videos?order=",
            "/v1/videos?limit=",
            "/v1/videos/",
            "/v1/models/",
            "/v1/packages/",
        ):
            assert requests.get(server.url + path + text, timeout=5).status_code in (400, 404, 422), path + text
        for path in ("/v2/{}/status/x", "/v2/any/status/{}", "/v2/any/cancel/{}", "/v2/{}/purge-queue"):
            assert requests.post(server.url + path.format(text), timeout=5).status_code in (400, 404, 422), path + text
    for key in ("x" * 256, "a\x85b", "\x7f", ""):
        headers = {"idempotency-key": key.encode("latin-1")}
        assert requests.post(f"{server.url}/v1/videos", files=form, headers=headers, timeout=10).status_code == 400, key
    long = "https://1.1.1.1/" + "x" * 9000
    refused(post_json(server, "/v2/any/run", {"input": {"manifest_url": long}}))
    refused([requests.post(f"{server.url}/v1/videos", files=form, data={"webhook": long}, timeout=20)])


def test_line_breaks_tabs_and_every_script_are_accepted(server, form):
    prompt = "a mug\r\n\ton a table, 马克杯 कप 😀 \u200f"
    answer = requests.post(f"{server.url}/v1/videos", files=form, data={"prompt": prompt}, timeout=20)
    assert answer.status_code == 200 and answer.json()["prompt"].split() == prompt.split()


def test_malformed_secrets_are_refused_without_the_database(tmp_path):
    ring = KeyRing(connect(f"sqlite:///{tmp_path}/jobs.db"))
    for secret in ("gap_\0_x", "gap_" + "g" * 12 + "_x", "gap_" + "0" * 400 + "_x"):
        with pytest.raises(Exception, match="wrong or was revoked"):
            ring.check(secret)
    assert len(ring._cache) == 1
    for name in ("", "a\0", "a\ud800", "x" * 129, "a\nb"):
        with pytest.raises(ConfigError) as error:
            create(ring._engine, name)
        assert error.value.code == "config.invalid"


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_accepted_text_can_be_stored_and_shown(text):
    try:
        refuse_unusable("a", text)
    except InputError as error:
        assert without_unusable(text) != text and error.message.encode() and escaped(text).encode()
    else:
        assert (
            without_unusable(text) == escaped(text) == text
            and json.loads(json.dumps(text).encode()) == text
            and "\0" not in text
        )
    refuse_unusable("a", without_unusable(text))
    refuse_unusable("a", escaped(text))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    )
)
def test_stored_json_is_read_unchanged(value):
    assert load_json(json.dumps(value)) == value


def test_deep_nesting_causes_no_recursion_error():
    deep = "x"
    for _ in range(100_000):
        deep = [deep]
    refuse_unusable("views", deep)


@pytest.mark.parametrize("stored", ["", "{", '{"a": NaN}', '{"a": "\\ud83d"}', "[" * 100_000, "\xff"])
def test_unreadable_json_columns_are_marked(stored):
    assert load_json(stored) == UNREADABLE


# ---- existing rows


BROKEN = {
    "half a pair in the prompt": {"making": '{"prompt": "\\ud83d"}'},
    "settings of another gapray": {"making": '{"product_id": "mug", "twirl": 3}'},
    "no object": {"making": "[]"},
    "an unknown source": {"input": '{"capture": 5}'},
    "half a pair in the result": {"status": "completed", "result": '{"files": {}, "warnings": ["\\ud83d"]}'},
    "a result of another form": {"status": "completed", "result": '{"files": {}, "video": {"name": "x"}}'},
    "a result that is a list": {"status": "completed", "result": "[1]"},
    "an unknown state": {"status": "dreaming"},
}
ON_SQLITE = {
    "no JSON": {"making": '{"prompt": '},
    "no number": {"status": "completed", "result": '{"files": {}, "scores": NaN}'},
    "text for a time": {"finished_at": "soon"},
}
"""Kinds of damage that PostgreSQL does not store in the first place."""


def damaged(server, photos):
    """Submit a job for each kind of damage, each between two intact ones; returns the ids of the damaged ones."""
    postgres = server.context.store.engine.dialect.name == "postgresql"
    found = []
    for change in (BROKEN if postgres else BROKEN | ON_SQLITE).values():
        [_, answer] = [post_json(server, "/v1/videos", {"views": views(photos)}) for _ in range(2)]
        job_id = answer[0].json()["id"].removeprefix("video_")
        cast = {name: f"CAST(:{name} AS JSON)" for name in ("making", "input", "result") if postgres}
        sets = ", ".join(f"{name} = {cast.get(name, ':' + name)}" for name in change)
        with write_transaction(server.context.store.engine) as connection:
            connection.execute(sa.text(f"UPDATE gapray_jobs SET {sets} WHERE id = :id"), change | {"id": job_id})
        found.append(job_id)
    return found


def test_a_bad_row_does_not_break_lists(server, photos):
    broken = damaged(server, photos)
    for order in ("asc", "desc"):
        seen, after = {}, {}
        while True:
            page = requests.get(f"{server.url}/v1/videos?limit=7&order={order}", params=after, timeout=20)
            assert page.status_code == 200, page.text
            seen |= {item["id"].removeprefix("video_"): item for item in page.json()["data"]}
            if not page.json()["has_more"]:
                break
            after = {"after": page.json()["last_id"]}
        assert {job_id for job_id, video in seen.items() if video["status"] == "failed"} >= set(broken)
        assert {seen[job_id]["error"]["code"] for job_id in broken} == {"job.unreadable"}
        assert [video for video in seen.values() if video["status"] == "queued"]
    for job_id in broken:
        response = requests.get(f"{server.url}/v1/videos/{job_id}", timeout=5)
        assert response.status_code == 200 and response.json()["error"]["code"] == "job.unreadable"
        assert requests.get(f"{server.url}/v1/videos/{job_id}/content", timeout=5).status_code in (400, 404)
        assert requests.get(f"{server.url}/v1/videos/{job_id}/events", timeout=20).text.startswith("event: done")
        assert requests.get(f"{server.url}/v2/any/status/{job_id}", timeout=5).json()["status"] == "FAILED"
        assert requests.post(f"{server.url}/v2/any/cancel/{job_id}", timeout=5).status_code == 200
        assert requests.delete(f"{server.url}/v1/videos/{job_id}", timeout=5).status_code == 200
        assert requests.get(f"{server.url}/v1/videos/{job_id}", timeout=5).status_code == 404


def test_a_bad_row_fails_and_other_jobs_are_processed(tmp_path, photos):
    from gapray.serve.work import run_null_engine

    with served(tmp_path, worker="none") as found:
        store = found.context.store
        bad = store.submit(
            NewJob("anybody", "openai", "video", GenerationParams(), JobInput()), max_queued=9, keep_s=60
        )
        with write_transaction(store.engine) as connection:
            connection.execute(jobs.update().values(making={"prompt": "\ud83d"}))
        good = post_json(found, "/v1/videos", {"views": views(photos)})[0].json()["id"].removeprefix("video_")
        with running(found.context, lambda job, report: run_null_engine(job, found.context.artifacts, report)):
            end = time.monotonic() + 20
            while not store.get(good, None).final:
                assert time.monotonic() < end
                time.sleep(0.05)
        assert store.get(good, None).status == "completed"
        assert store.get(bad.id, None).error_code == "job.unreadable"
        with store.engine.connect() as connection:
            assert connection.execute(sa.select(jobs.c.status).where(jobs.c.id == bad.id)).scalar_one() == "failed"


def test_any_error_message_of_a_worker_is_stored(server):
    store = server.context.store
    new = store.submit(NewJob("words", "openai", "video", GenerationParams(), JobInput()), max_queued=10**6, keep_s=60)
    with write_transaction(store.engine) as connection:
        connection.execute(jobs.update().where(jobs.c.id == new.id).values(status="running", attempt=1))
    assert store.fail(new.id, 1, "job.failed", "a\0b \ud83d")
    assert store.get(new.id, None).error_message == "a\\x00b \\ud83d"
