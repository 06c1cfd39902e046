"""Files of the hub, against one on this machine.

Who gets them, what is compared, what is kept, and what is said where there is none.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewvit.checkpoints import huggingface
from fewvit.checkpoints.downloads import Patience
from fewvit.checkpoints.finding import obtain
from fewvit.checkpoints.huggingface import HubFile, fetch_from_hub, hub_file, in_hub_cache
from fewvit.errors import CheckpointError, LicenseRequired, ResourceError, Unobtainable, UsageError

from fake_hub import COMMIT, STRANGER, TOKEN, Hub, Repository, point_to, running_hub

ROOT = Path(__file__).resolve().parents[1]
BODY = b"\x00\x01weights" * 100_003  # 900,027 bytes
WRONG = BODY[:-1] + b"X"
SHA256 = hashlib.sha256(BODY).hexdigest()
CONFIG = b'{"model_type": "vit_msn"}'
URL = "https://huggingface.co/open/model/resolve/main/model.safetensors"
QUICK = Patience(tries=5, wait_s=0.001, timeout_s=5)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("FEWVIT_OFFLINE", "HF_HUB_OFFLINE", "FEWVIT_WEIGHTS_DIR", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface, "Patience", lambda: QUICK)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as one:
        for access in ("open", "gated", "private"):
            one.repositories[f"{access}/model"] = Repository({"model.safetensors": BODY, "config.json": CONFIG}, access)
        point_to(one, monkeypatch.setattr, str(tmp_path / "hf"))
        yield one


def got(cache: Path, url: str = URL, **options) -> Path:
    defaults = {"license": "apache-2.0", "cache_dir": cache, "offline": False, "accept": []}
    return obtain("w.safetensors", url, **{**defaults, **options})


def get(name: str, folder: Path, file: str = "model.safetensors", **known) -> Path:
    return fetch_from_hub(HubFile(name, file), folder / "w.safetensors", **known)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# --- which addresses are the hub's


def test_addresses_of_the_hub_are_told_from_others():
    assert hub_file(URL) == HubFile("open/model", "model.safetensors")
    assert hub_file(URL.replace("model.safetensors", "a/b.bin")) == HubFile("open/model", "a/b.bin")
    for other in (
        URL.replace("https", "http"),
        URL.replace("main", "v1"),
        URL.replace(".co", ".com"),
        "https://dl.fbaipublicfiles.com/x",
    ):
        assert hub_file(other) is None


# --- fetched


def test_a_file_of_the_hub_comes_whole_with_progress_from_the_commit_that_was_asked_about(hub, tmp_path):
    told = []
    assert get("open/model", tmp_path / "new", progress=lambda *seen: told.append(seen)).read_bytes() == BODY
    assert files(tmp_path / "new") == ["w.safetensors"]
    assert told[-1] == (len(BODY), len(BODY))
    assert hub.asked == [
        ("HEAD", "model.safetensors", None, None),
        ("GET", "model.safetensors", None, None),
        ("GET", "cdn", None, None),
    ]
    assert files(tmp_path) == ["new"]  # nothing was written where huggingface_hub keeps its files


def test_json_comes_too_and_is_no_error_of_a_server(hub, tmp_path):
    target = fetch_from_hub(HubFile("open/model", "config.json"), tmp_path / "config.json")
    assert target.read_bytes() == CONFIG


def test_the_address_of_a_mirror_is_asked_instead_and_the_file_is_pinned_in_the_cache(hub, tmp_path):
    assert got(tmp_path) == tmp_path / "weights" / "w.safetensors"
    assert files(tmp_path / "weights") == ["w.safetensors", "w.safetensors.sha256"]
    hub.asked.clear()
    assert got(tmp_path).read_bytes() == BODY
    assert hub.asked == []


def test_other_bytes_than_the_hub_announces_are_refused_and_not_kept(hub, tmp_path):
    hub.repositories["open/model"] = Repository({"model.safetensors": WRONG}, announced=BODY)
    with pytest.raises(CheckpointError, match=SHA256) as error:
        get("open/model", tmp_path)
    assert error.value.exit_code == 4
    assert hashlib.sha256(WRONG).hexdigest() in str(error.value)
    assert files(tmp_path) == []


def test_a_digest_that_is_known_here_counts_more_than_the_announced_one(hub, tmp_path):
    with pytest.raises(CheckpointError, match="ab" * 32):
        get("open/model", tmp_path, sha256="ab" * 32)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.safetensors.sha256").write_text("cd" * 32)  # of a file that was here before
    with pytest.raises(CheckpointError, match="cd" * 32):
        got(tmp_path)
    assert files(tmp_path / "weights") == ["w.safetensors.sha256"]


def test_a_body_that_breaks_off_is_continued_on_the_other_host(hub, tmp_path):
    hub.repositories["open/model"].cut = 400_000
    assert get("open/model", tmp_path).read_bytes() == BODY
    assert [(how, name, part) for how, name, part, _ in hub.asked if name == "cdn"] == [
        ("GET", "cdn", None),
        ("GET", "cdn", "bytes=400000-"),
    ]
    assert files(tmp_path) == ["w.safetensors"]


def test_a_busy_hub_is_asked_again_and_a_dead_one_five_times(hub, tmp_path):
    hub.repositories["open/model"].busy = 2
    assert get("open/model", tmp_path).read_bytes() == BODY
    assert hub.file("HEAD") == ["model.safetensors"] * 3
    hub.asked.clear()
    hub.repositories["open/model"].busy = 99
    with pytest.raises(Unobtainable, match=r"answered 503[\s\S]*FEWVIT_WEIGHTS_DIR"):
        get("open/model", tmp_path / "other")
    assert hub.file("HEAD") == ["model.safetensors"] * 5


def test_a_connection_that_is_dropped_is_tried_again(hub, tmp_path):
    hub.repositories["open/model"].dropped = 2
    assert get("open/model", tmp_path).read_bytes() == BODY
    assert hub.file("HEAD") == ["model.safetensors"] * 3


def test_another_size_than_announced_is_refused_before_the_bytes_come(hub, tmp_path):
    hub.repositories["open/model"].announced = BODY + b"more"
    with pytest.raises(CheckpointError, match="900,027 bytes, 900,031 were published"):
        get("open/model", tmp_path)


def test_a_full_disk_is_a_resource_error(hub, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 99, 99))
    with pytest.raises(ResourceError) as error:
        get("open/model", tmp_path)
    assert error.value.exit_code == 6
    assert files(tmp_path) == []


# --- who may have it


@pytest.mark.parametrize("name", ["gated/model", "private/model"])
def test_a_token_opens_gated_and_private_repositories_and_goes_to_the_hub_alone(hub, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert get(name, tmp_path).read_bytes() == BODY
    assert [(file, token) for _, file, _, token in hub.asked] == [
        ("model.safetensors", TOKEN),
        ("model.safetensors", TOKEN),
        ("cdn", None),
    ]


def test_a_token_that_was_stored_by_logging_in_is_sent(hub, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN)
    assert get("gated/model", tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        (
            "gated/model",
            None,
            ["gated/model is for those only who accepted its terms", "{url}/gated/model", "HF_TOKEN"],
        ),
        ("gated/model", STRANGER, ["accepted its terms", "{url}/gated/model", "HF_TOKEN"]),
        ("private/model", None, ["no private/model", "{url}/private/model", "HF_TOKEN"]),
        ("private/model", STRANGER, ["no private/model", "{url}/private/model", "HF_TOKEN"]),
        ("nobody/none", None, ["no nobody/none", "{url}/nobody/none"]),
        ("open/model", "hf_expired", ["does not know this token", "HF_TOKEN"]),
    ],
)
def test_a_refusal_is_unobtainable_at_once_and_says_what_to_do(hub, tmp_path, monkeypatch, name, token, words):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(Unobtainable) as error:
        get(name, tmp_path)
    assert error.value.exit_code == 2
    assert [word for word in words if word.format(url=hub.url) not in str(error.value)] == []
    assert str(error.value).count("\n") == 1
    assert len(hub.asked) == 1
    assert files(tmp_path) == []


def test_a_file_that_the_repository_has_not_is_named_with_the_page_that_lists_the_others(hub, tmp_path):
    with pytest.raises(Unobtainable, match=rf"open/model has no pytorch\.bin[\s\S]*{hub.url}/open/model/tree/main"):
        get("open/model", tmp_path, "pytorch.bin")
    assert len(hub.asked) == 1


@pytest.mark.parametrize("token", ["hf_a\x01b", "hf_ü", "hf a"])
def test_what_can_be_no_token_is_refused_without_being_shown(hub, tmp_path, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match="HF_TOKEN") as error:
        get("open/model", tmp_path)
    assert token not in str(error.value)
    assert hub.asked == []


@pytest.mark.parametrize("name", ["a--b/c", "-a/b", "a/b..c", "a b/c"])
def test_a_name_that_no_repository_can_have_is_an_error_of_usage(hub, tmp_path, name):
    for ask in (lambda: get(name, tmp_path), lambda: in_hub_cache(HubFile(name, "config.json"), None)):
        with pytest.raises(UsageError, match="no name of a repository"):
            ask()
    assert hub.asked == []


# --- licences


def test_the_licence_is_asked_for_before_the_hub_is(hub, tmp_path):
    with pytest.raises(LicenseRequired, match="--accept-license cc-by-nc"):
        got(tmp_path, license="cc-by-nc-4.0")
    assert hub.asked == []
    assert got(tmp_path, license="cc-by-nc-4.0", accept=["cc-by-nc-4.0"]).read_bytes() == BODY


# --- no network


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("how", ["flag", "FEWVIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_opens_no_socket_and_says_what_to_put_where(tmp_path, monkeypatch, how):
    if how != "flag":
        monkeypatch.setenv(how, "1")
    with pytest.raises(Unobtainable) as error:
        got(tmp_path, URL.replace("open", "never"), offline=how == "flag")
    assert all(
        words in str(error.value)
        for words in ("never/model", "w.safetensors", "$FEWVIT_WEIGHTS_DIR", str(tmp_path / "weights"))
    )
    assert error.value.exit_code == 2


def test_a_hub_that_is_not_there_is_said_at_once_with_where_to_put_the_file(hub, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = Hub(f"http://127.0.0.1:{free.getsockname()[1]}")
    point_to(gone, monkeypatch.setattr, str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface.time, "sleep", lambda seconds: pytest.fail("it was asked again"))
    with pytest.raises(Unobtainable, match=r"cannot be reached[\s\S]*FEWVIT_WEIGHTS_DIR") as error:
        got(tmp_path)
    assert error.value.exit_code == 2


def test_a_mirror_without_encryption_elsewhere_is_not_asked(tmp_path, monkeypatch):
    point_to(Hub("http://mirror.example"), monkeypatch.setattr, str(tmp_path / "hf"))
    with pytest.raises(Unobtainable, match="https only"):
        get("open/model", tmp_path)


# --- what huggingface_hub has downloaded before


def cached_by_the_hubs_own_library(name: str = "open/model", file: str = "model.safetensors") -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, file))


def test_what_another_program_has_fetched_is_used_where_it_is_without_network_or_question(hub, tmp_path):
    kept = cached_by_the_hubs_own_library()
    assert str(kept).startswith(str(tmp_path / "hf"))
    hub.asked.clear()
    assert got(tmp_path, offline=True, license="cc-by-nc-4.0") == kept
    assert hub.asked == []
    assert files(tmp_path) == ["hf"]


def test_a_damaged_file_of_that_cache_is_told(hub, tmp_path):
    kept = cached_by_the_hubs_own_library()
    kept.resolve().write_bytes(WRONG)
    with pytest.raises(CheckpointError, match=SHA256) as error:
        got(tmp_path)
    assert str(kept) in str(error.value)
    kept.resolve().write_bytes(BODY)
    with pytest.raises(CheckpointError, match="ab" * 32):
        got(tmp_path, sha256="ab" * 32)


def test_a_folder_of_weights_and_the_own_cache_come_before_that_cache(hub, tmp_path, monkeypatch):
    cached_by_the_hubs_own_library()
    for folder in (tmp_path / "weights", tmp_path / "listed"):
        folder.mkdir()
        (folder / "w.safetensors").write_bytes(BODY)
        if folder.name == "listed":
            monkeypatch.setenv("FEWVIT_WEIGHTS_DIR", str(folder))
        assert got(tmp_path, offline=True) == folder / "w.safetensors"


# --- programs of their own, by the settings that users have

FETCHING = """
import sys
from pathlib import Path
from fewvit.checkpoints.huggingface import HubFile, fetch_from_hub
assert not {"torch", "timm"} & set(sys.modules)
fetch_from_hub(HubFile("open/model", "model.safetensors"), Path(sys.argv[1]))
assert not {"torch", "timm"} & set(sys.modules)
"""


def fetching(hub: Hub, target: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(target.parent / "hf")}
    return subprocess.Popen(
        [sys.executable, "-c", FETCHING, str(target)], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    )


def test_a_download_killed_in_the_middle_is_continued_by_the_next_process(hub, tmp_path):
    hub.repositories["open/model"].slow = True
    process = fetching(hub, tmp_path / "w.safetensors")
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size > 100_000 for path in tmp_path.glob(".*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [part] = tmp_path.glob(".*.part")
    have = part.stat().st_size
    assert not (tmp_path / "w.safetensors").exists()
    hub.repositories["open/model"].slow = False
    hub.asked.clear()
    process = fetching(hub, tmp_path / "w.safetensors")
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 0, told
    assert (tmp_path / "w.safetensors").read_bytes() == BODY
    assert [part for _, name, part, _ in hub.asked if name == "cdn"] == [None, f"bytes={have}-"]
    assert files(tmp_path) == ["w.safetensors"]


COMMAND = """
import sys
from fewvit_cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("token", "code", "told"),
    [(None, 2, "accepted its terms"), (TOKEN, 0, "")],
)
def test_the_command_fetches_a_timm_model_from_the_mirror_with_the_token_of_the_environment(
    hub, tmp_path, python, token, code, told
):
    hub.repositories["timm/deit_tiny_patch16_224.fb_in1k"] = Repository({"model.safetensors": BODY}, "gated")
    (tmp_path / "fewvit_cli").symlink_to(ROOT / "cli")
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), **({"HF_TOKEN": token} if token else {})}
    words = ("backbones", "fetch", "deit_vitt16", "--cache-dir", tmp_path / "cache")
    done = python(COMMAND, *words, check=False, PYTHONPATH=f"{tmp_path}:{ROOT}", **env)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "cache/weights/deit_tiny_patch16_224.fb_in1k.safetensors").exists() is (code == 0)


def test_the_revision_that_is_fetched_is_the_one_that_was_described(hub, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface, "fetch", lambda url, target, **_: asked.append(url) or target)
    get("open/model", tmp_path)
    assert asked == [f"{hub.url}/open/model/resolve/{COMMIT}/model.safetensors"]
