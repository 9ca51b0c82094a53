"""What may go along with work, and what stays where it is."""

from hypothesis import given
from hypothesis import strategies as st

from gapray.environment import HIDDEN, without_password, worker_environment

WORD = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1)
PASSWORD = st.text(st.characters(codec="ascii", exclude_characters="@ \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f&?#"), min_size=1)


def test_workers_get_what_they_need_and_no_secret():
    needed = {
        "GAPRAY_MODELS": "/models",
        "GAPRAY_CACHE": "/cache",
        "GAPRAY_SET_MASK__MODEL": "u2net",
        "HF_HOME": "/hf",
        "HF_HUB_OFFLINE": "1",
        "TORCH_HOME": "/torch",
        "AWS_ENDPOINT_URL": "http://minio:9000",
    }
    secret = {
        "GAPRAY_JOBS_URL": "postgresql://gapray:secret@db/jobs",
        "GAPRAY_WEBHOOK_SECRET": "whsec_c2VjcmV0",
        "GAPRAY_API_KEY": "gap_x_y",
        "GAPRAY_NEW_TOKEN": "x",
        "HF_TOKEN": "hf_x",
        "HF_TOKEN_PATH": "/home/me/token",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HF_ENDPOINT": "https://me:secret@mirror",
    }
    assert worker_environment(needed | secret | {"PATH": "/bin"}) == needed


@given(WORD, PASSWORD, WORD)
def test_no_password_of_a_database_is_shown(user, password, host):
    shown = without_password(f"postgresql://{user}:{password}@{host}/jobs?password={password}&x=1")
    assert shown == f"postgresql://{user}:{HIDDEN}@{host}/jobs?password={HIDDEN}&x=1"
    assert without_password(shown) == shown


@given(WORD, WORD, WORD)
def test_passwords_of_other_urls_are_hidden_and_urls_without_one_stay(user, password, host):
    assert without_password(f"ftp://{user}:{password}@{host}/a@b") == f"ftp://{user}:{HIDDEN}@{host}/a@b"
    for url in (f"s3://{host}/a:b@c", f"https://{host}:8080/a@b", "/a/b:c@d", f"postgresql://{user}@{host}/jobs"):
        assert without_password(url) == url
