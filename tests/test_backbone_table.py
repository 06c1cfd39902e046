"""What the table of backbones says of each row: licence, tokens, pixels, size, and numbers of others than authors."""

from __future__ import annotations

import pytest

from fewvit.backbones import Architecture, Family, Variant, families
from fewvit.backbones._licences import COMMERCIAL, known_licences, licence_of
from fewvit.backbones._third_party import sixteen_shot
from fewvit.backbones._tokens import Tokens
from fewvit.checkpoints.licences import meaning, require_license
from fewvit.errors import LicenseRequired, Unobtainable
from fewvit.models.obtaining import obtain_variant
from fewvit.models.spec import Access

from fake_hub import STRANGER, Repository, point_to, running_hub

ROWS = [(name, family, row) for family, kind in families().items() for name, row in kind.variants.items()]


@pytest.mark.parametrize(
    ("licence", "commercial", "free"),
    [
        ("Apache-2.0", "yes", True),
        ("MIT", "yes", True),
        ("CC-BY-NC-4.0", "no", False),
        ("DINOv3-License", "yes", False),
        ("FAIR-Noncommercial-Research-License", "no", False),
        ("NVIDIA-Open-Model-License", "yes", False),
        ("house-rules-7", "unknown", False),
    ],
)
def test_a_licence_says_whether_commerce_is_allowed_and_whether_it_is_asked_for(licence, commercial, free, tmp_path):
    assert licence_of(licence.upper()).commercial == commercial
    how = {"cache_dir": tmp_path, "ask": None}
    if free:
        require_license(licence, "x.pth", accept=(), **how)
        return
    with pytest.raises(LicenseRequired, match=f"--accept-license {licence.lower()}") as error:
        require_license(licence, "x.pth", accept=("cc-by-4.0",), **how)
    said = {"yes": "commercial use allowed", "no": "non-commercial", "unknown": "commercial use unknown"}[commercial]
    assert said in str(error.value)
    assert "nothing was downloaded" in str(error.value)
    require_license(licence, "x.pth", accept=(licence.lower(),), **how)
    require_license(licence.lower(), "y.pth", accept=(), **how)  # a yes is kept


def test_a_yes_to_one_licence_is_none_to_another(tmp_path):
    require_license("DINOv3-License", "x.pth", cache_dir=tmp_path, accept=("dinov3-license",), ask=None)
    with pytest.raises(LicenseRequired, match="--accept-license fair-noncommercial-research-license"):
        require_license("FAIR-Noncommercial-Research-License", "y.pth", cache_dir=tmp_path, accept=(), ask=None)


def test_every_licence_of_the_table_is_known_with_its_text_and_every_question_says_where_that_is():
    used = {row.license or families()[family].license for _, family, row in ROWS}
    assert used <= set(known_licences())
    for name in known_licences():
        licence = licence_of(name)
        assert licence.commercial in COMMERCIAL
        assert licence.text.startswith("https://")
        assert licence.text in meaning(licence)


def test_sixteen_shot_numbers_are_those_of_others_and_say_whose():
    """Three cells of the published table, by hand."""
    small, giant = sixteen_shot("dinov2_vits14"), sixteen_shot("dinov2_vitg14")
    assert (small.numbers["cifar10"], giant.numbers["mnist"], giant.numbers["imagenet"]) == (92.95, 85.82, 78.70)
    assert sixteen_shot("dinov3_vitb16").numbers == {"cifar10": 94.74}
    assert small.source != sixteen_shot("dinov3_vits16").source
    assert all("third party" in sixteen_shot(name).source for name in ("dinov2_vits14", "dinov3_vits16"))
    assert sixteen_shot("dino_vits16").numbers == {}  # nobody measured it


@pytest.mark.parametrize(
    ("tokens", "pool"),
    [
        (Tokens(1, 4, "mean", official="cls"), "cls"),  # DINOv3 and EUPE
        (Tokens(1, 0, "mean"), "mean"),
        (Tokens(1, 7, "cls"), "cls"),
        (Tokens(1, 0, "attn"), "attn"),
        (Tokens(0, 0, "attn"), "attn"),
        (Tokens(0, 0, "mean"), "mean"),
    ],
)
def test_a_model_of_timm_is_read_as_its_authors_or_its_head_read_it(tokens, pool):
    assert tokens.pool == pool


# ---- what may not be downloaded by everyone


def gated(page: str, url: str) -> Variant:
    return Variant(Architecture(384, 12, 6, 16), url, gated=page, license="DINOv3-License")


def test_weights_that_are_given_out_by_their_authors_say_where_to_ask_and_open_no_socket(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket", lambda *_, **__: pytest.fail("the network was asked"))
    row = gated("https://example.org/ask", "https://example.org/files/some-7c1d.pth")
    with pytest.raises(Unobtainable) as error:
        obtain_variant("some", Family, row, Access(tmp_path, accept=("dinov3-license",)))
    said = str(error.value)
    assert error.value.exit_code == 2
    assert said.count("\n") == 1
    words = ("https://example.org/ask", "some-7c1d.pth", "$FEWVIT_WEIGHTS_DIR", "--weights FILE", "HF_TOKEN")
    assert [word for word in words if word not in said] == []


def test_a_gated_file_that_is_here_is_taken_without_a_question(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/some-7c1d.pth").write_bytes(b"bytes")
    monkeypatch.setenv("FEWVIT_WEIGHTS_DIR", str(tmp_path / "own"))
    row = gated("https://example.org/ask", "https://example.org/files/some-7c1d.pth")
    assert obtain_variant("some", Family, row, Access(tmp_path)).read_bytes() == b"bytes"


@pytest.mark.parametrize(
    ("token", "said"), [(None, "no token was given"), (STRANGER, "the account of this token did not")]
)
def test_a_gated_repository_says_what_to_accept_and_how_a_token_or_a_file_is_given(tmp_path, monkeypatch, token, said):
    row = gated("https://huggingface.co/org/gated", "https://huggingface.co/org/gated/resolve/main/model.safetensors")
    with running_hub() as one:
        one.repositories["org/gated"] = Repository({"model.safetensors": b"x"}, "gated")
        point_to(one, monkeypatch.setattr, str(tmp_path / "hf"))
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(LicenseRequired, match="commercial use allowed"):  # its own licence comes first
            obtain_variant("some", Family, row, Access(tmp_path / "cache"))
        with pytest.raises(Unobtainable) as error:
            obtain_variant("some", Family, row, Access(tmp_path / "cache", accept=("dinov3-license",)))
        words = (said, f"{one.url}/org/gated", "HF_TOKEN", "hf auth login", "--weights FILE")
    assert [word for word in words if word not in str(error.value)] == []
    assert error.value.exit_code == 2
