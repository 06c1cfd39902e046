"""The settled way from bytes to features: what changes its fingerprint, what does not, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fewvit.backbones import Architecture, families
from fewvit.backbones._tokens import Tokens
from fewvit.digests import DigestMemory
from fewvit.errors import UnknownName, UsageError
from fewvit.extraction import pipeline
from fewvit.extraction.notes import oversized
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access, BackboneSpec
from fewvit.models.told import Told

ARCHITECTURE = Architecture(128, 7, 2, 16)
SPEC = BackboneSpec(
    "toy", "dino", ARCHITECTURE, "dino/1", "3" * 64, file=Path("a.pth"), license="Apache-2.0", published={"knn": 7}
)
OPTIONS = FeatureOptions(device="cpu")

# for every option a value that is not its default
CHANGED = {
    "protocol": "msn/1",
    "pool": "mean",
    "layers": "3",
    "img_size": "96",
    "precision": "bf16",
    "decode": "pil",
    "reading": {"stretched": True},
}


def of(variant: str, family: str = "supervised") -> BackboneSpec:
    row = families()[family].variants[variant]
    return dataclasses.replace(
        SPEC,
        name=variant,
        family=family,
        architecture=row.architecture,
        protocol=families()[family].protocol,
        preprocess=row.preprocess,
        tokens=row.tokens,
    )


def test_every_option_changes_the_fingerprint_but_the_device():
    assert set(CHANGED) | {"device"} == {field.name for field in dataclasses.fields(FeatureOptions)}
    prints = {settle(SPEC, OPTIONS).fingerprint}
    for name, value in CHANGED.items():
        prints.add(settle(SPEC, dataclasses.replace(OPTIONS, **{name: value})).fingerprint)
    assert len(prints) == 1 + len(CHANGED)
    assert settle(SPEC, FeatureOptions(device="auto")).fingerprint in prints


SPEC_CHANGES = {
    "family": "mae",
    "weights_sha256": "7" * 64,
    "checkpoint_key": "student",
    "preprocess": {"mean": (0.5, 0.5, 0.5)},
    "protocol": "msn/1",
    "architecture": dataclasses.replace(ARCHITECTURE, heads=4),
    "base": dataclasses.replace(SPEC, weights_sha256="c" * 64),  # whose adapter the file then is
}
LABELS = {"name": "other", "file": Path("b.pth"), "license": "MIT", "published": {}, "tuned": True}
LABELS["tokens"] = Tokens(1, 4)  # what they change is the pool
LABELS["told"] = Told(heads=4)  # what it changed stands in the architecture and the transform


def test_everything_that_decides_a_feature_changes_the_fingerprint_and_names_do_not():
    assert set(SPEC_CHANGES) | set(LABELS) | {"seed"} == {field.name for field in dataclasses.fields(BackboneSpec)}
    base = settle(SPEC, OPTIONS).fingerprint
    changed = {
        settle(dataclasses.replace(SPEC, **{name: value}), OPTIONS).fingerprint for name, value in SPEC_CHANGES.items()
    }
    assert len(changed | {base}) == 1 + len(SPEC_CHANGES)
    for name, value in LABELS.items():
        assert settle(dataclasses.replace(SPEC, **{name: value}), OPTIONS).fingerprint == base


def test_the_seed_matters_for_random_weights_only():
    random = dataclasses.replace(SPEC, weights_sha256="random")
    assert random.is_random
    assert random.fingerprint != dataclasses.replace(random, seed=3).fingerprint
    assert not SPEC.is_random
    assert SPEC.fingerprint == dataclasses.replace(SPEC, seed=3).fingerprint


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Architecture)])
def test_every_part_of_an_architecture_changes_the_fingerprint(field):
    old = getattr(ARCHITECTURE, field)
    others = {bool: lambda: not old, int: lambda: old + 1, float: lambda: 2 * old, tuple: lambda: (*old, (1, 8))}
    new = others.get(type(old), lambda: old + "x")()
    other = dataclasses.replace(SPEC, architecture=dataclasses.replace(ARCHITECTURE, **{field: new}))
    assert other.fingerprint != SPEC.fingerprint


def test_images_far_larger_than_those_of_the_training_are_noted_with_the_size_that_fits():
    small = dataclasses.replace(SPEC, architecture=Architecture(192, 6, 3, 4, grid=8))  # trained at 32 px
    note = oversized(settle(small, OPTIONS), OPTIONS)
    assert note is not None
    assert "trained at 32 px" in note
    assert "3136 patches in place of 64; --img-size 32" in note
    for size in ("224", "32"):
        asked = dataclasses.replace(OPTIONS, img_size=size)
        assert oversized(settle(small, asked), asked) is None
    run = dataclasses.replace(small, preprocess={"cover": (64, 64), "crop": (64, 64)})  # four times as many exactly
    assert oversized(settle(run, OPTIONS), OPTIONS) is None


def test_no_published_variant_reads_images_far_larger_than_its_own():
    for family, kind in families().items():
        for variant in kind.variants:
            spec = of(variant, family)
            assert oversized(settle(spec, OPTIONS), OPTIONS) is None, variant


def test_asking_for_what_is_the_default_changes_nothing():
    plain = settle(SPEC, OPTIONS)
    spelled = settle(SPEC, FeatureOptions("dino/1", "cls", "1", "224x224", "fp32", "fast", "cpu"))
    assert spelled.fingerprint == plain.fingerprint
    assert dataclasses.replace(SPEC, checkpoint_key=None).fingerprint == SPEC.fingerprint


def test_all_blocks_as_rows_or_as_one_feature_are_one_store():
    each, whole = (settle(SPEC, dataclasses.replace(OPTIONS, layers=layers)) for layers in ("each", "7"))
    assert (each.layers, each.each, whole.layers, whole.each) == (7, True, 7, False)
    assert each.fingerprint == whole.fingerprint


def test_the_key_is_plain_json_and_says_what_decides():
    key = json.loads(json.dumps(settle(SPEC, OPTIONS).key))
    assert key["backbone"] == "toy"
    assert (key["weights"], key["pool"], key["layers"], key["norm"], key["precision"]) == (
        SPEC.fingerprint,
        "cls",
        1,
        "final",
        "fp32",
    )
    assert key["preprocess"]["cover"] == [256, 256]
    assert key["decoder"].startswith("fast/")


def test_the_manifest_carries_licence_weights_protocol_and_fingerprint():
    settled = settle(SPEC, dataclasses.replace(OPTIONS, decode="pil", pool="cls+mean", layers="3"))
    facts = settled.facts
    assert (facts["license"], facts["weights_sha256"], facts["protocol"], facts["fingerprint"]) == (
        "Apache-2.0",
        "3" * 64,
        "dino/1",
        settled.fingerprint,
    )
    assert (facts["pool"], facts["layers"], facts["norm"], facts["precision"], facts["decode"]) == (
        "cls+mean",
        3,
        "final",
        "fp32",
        "pil",
    )
    assert facts["decoder"].startswith("pil/")


# ---- other ways to read, for retrieval

SHRUNK = {"longest": 224, "interpolation": "lanczos"}


def test_the_key_of_a_protocol_is_what_it_was_before_there_was_retrieval():
    """Stored features are found by it: a field more would compute all of them again."""
    assert list(settle(SPEC, OPTIONS).key["preprocess"]) == ["cover", "crop", "interpolation", "mean", "std"]


def test_each_way_to_read_has_a_fingerprint_of_its_own():
    ways = [{}, SHRUNK, {**SHRUNK, "longest": 512}, {**SHRUNK, "scales": (1.0, 0.5)}, {"stretched": True}]
    assert len({settle(SPEC, dataclasses.replace(OPTIONS, reading=way)).fingerprint for way in ways}) == len(ways)
    asked = dataclasses.replace(OPTIONS, img_size="512")
    assert settle(SPEC, dataclasses.replace(asked, reading=SHRUNK)).preprocess.longest == 512


def test_a_reading_wins_over_the_models_own_transform():
    own = dataclasses.replace(SPEC, preprocess={"cover": [248, 248], "interpolation": "bilinear"})
    assert settle(own, dataclasses.replace(OPTIONS, reading=SHRUNK)).preprocess.interpolation == "lanczos"


def test_backbones_that_read_one_size_or_squares_only_refuse_images_as_they_are():
    with pytest.raises(UsageError, match=r"deit_base.* reads images of one size"):
        settle(of("deit_vitb16"), dataclasses.replace(OPTIONS, reading=SHRUNK))
    for family, name in (("msn", "msn_vits16"), ("mae", "mae_vitb16")):
        with pytest.raises(UsageError, match="images of all proportions"):
            settle(of(name, family), dataclasses.replace(OPTIONS, reading=SHRUNK))
    for family, name in (("dino", "dino_vits16"), ("dinov2", "dinov2_vits14_reg")):
        assert settle(of(name, family), dataclasses.replace(OPTIONS, reading=SHRUNK)).size is None
    assert (
        oversized(
            settle(of("dino_vits16", "dino"), dataclasses.replace(OPTIONS, reading={**SHRUNK, "longest": 1024})),
            OPTIONS,
        )
        is None
    )


def test_half_precision_of_images_of_all_sizes_is_computed_by_torch(monkeypatch):
    """OpenVINO compiles for one size."""
    from fewvit.models import engines

    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    half = dataclasses.replace(OPTIONS, precision="bf16", device="cpu")
    assert settle(SPEC, half).precision_tag == "bf16-openvino-cpu"
    assert settle(SPEC, dataclasses.replace(half, reading=SHRUNK)).precision_tag in (
        "bf16-packed-cpu",
        "bf16-eager-cpu",
    )


# ---- half precision


def test_half_precision_keys_name_the_engine_and_the_kind_of_device(monkeypatch):
    from fewvit.models import engines

    monkeypatch.setattr(
        engines,
        "choose_engine",
        lambda precision, device, *, plain_vit, one_size: f"{'plain' if plain_vit else 'timm'}-{device}",
    )
    monkeypatch.setattr(engines, "resolve_device", lambda device: device)
    half = dataclasses.replace(OPTIONS, precision="bf16")
    assert settle(SPEC, half).precision_tag == "bf16-plain-cpu-cpu"
    assert settle(SPEC, dataclasses.replace(half, device="cuda:1")).precision_tag == "bf16-plain-cuda:1-cuda"
    assert settle(of("swin_t"), half).precision_tag == "bf16-timm-cpu-cpu"
    assert settle(SPEC, OPTIONS).precision_tag == "fp32"


@pytest.mark.parametrize("found", ["bf16", "fp32"])
def test_auto_precision_is_settled_to_what_the_device_has(found, monkeypatch):
    from fewvit.models import engines

    monkeypatch.setattr(engines, "resolve_precision", lambda precision, device: {"auto": found}[precision])
    settled = settle(SPEC, dataclasses.replace(OPTIONS, precision="auto"))
    assert settled.precision == found
    assert settled.fingerprint == settle(SPEC, dataclasses.replace(OPTIONS, precision=found)).fingerprint


def test_settling_fp32_imports_no_torch(python):
    code = """
import sys
from fewvit.backbones import Architecture
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.extraction.notes import oversized
from fewvit.models.resolve import BackboneSpec
settle(BackboneSpec("toy", "dino", Architecture(128, 7, 2, 16), "dino/1", "3" * 64), FeatureOptions()).fingerprint
print(sorted({"torch", "timm", "torchvision", "faiss", "sklearn"} & set(sys.modules)))
"""
    assert python(code).stdout.strip() == "[]"


# ---- what the model and its family allow


@pytest.mark.parametrize(
    ("spec", "pool", "norm"),
    [
        (SPEC, "cls", "final"),
        (dataclasses.replace(SPEC, family="msn", protocol="msn/1"), "cls", "none"),
        (of("mae_vitb16", "mae"), "cls", "final"),
        (of("mae_vitb16_finetuned", "mae"), "mean", "final"),
        (of("dinov2_vitg14_reg", "dinov2"), "cls", "final"),
        (of("deit_distilled_vits16"), "cls", "final"),
        (of("swin_t"), "mean", "final"),
        (of("beit_vitb16"), "mean", "final"),
        (of("augreg_vits16"), "cls", "final"),
    ],
    ids=lambda value: value.name if isinstance(value, BackboneSpec) else value,
)
def test_without_a_pool_each_model_gets_the_one_it_is_made_for(spec, pool, norm):
    settled = settle(spec, OPTIONS)
    assert (settled.pool, settled.norm, settled.layers, settled.each) == (pool, norm, 1, False)


@pytest.mark.parametrize("pool", ["cls", "cls+mean", "cls+dist"])
@pytest.mark.parametrize("variant", ["swin_t", "swin_b", "mae_vitb16_finetuned"])
def test_a_model_without_a_class_token_to_read_refuses_it_and_takes_the_mean(variant, pool):
    spec = of(variant, "mae" if variant.startswith("mae") else "supervised")
    with pytest.raises(UsageError, match="no class token") as error:
        settle(spec, dataclasses.replace(OPTIONS, pool=pool))
    assert error.value.exit_code == 2
    assert settle(spec, dataclasses.replace(OPTIONS, pool="mean")).pool == "mean"


def test_a_mean_only_model_keeps_the_mean_under_another_protocol():
    assert settle(of("mae_vitb16_finetuned", "mae"), dataclasses.replace(OPTIONS, protocol="dino/1")).pool == "mean"


def test_a_protocol_that_skips_the_final_norm_is_refused_where_timm_applies_it():
    with pytest.raises(UsageError, match=r"msn/1 reads tokens before the final norm; .* deit_vitb16"):
        settle(of("deit_vitb16"), dataclasses.replace(OPTIONS, protocol="msn/1"))
    assert settle(of("deit_vitb16"), dataclasses.replace(OPTIONS, protocol="dino/1")).norm == "final"


def test_the_distillation_token_is_for_distilled_models():
    assert settle(of("deit_distilled_vitb16"), dataclasses.replace(OPTIONS, pool="cls+dist")).pool == "cls+dist"
    for spec in (SPEC, of("deit_vitb16")):
        with pytest.raises(UsageError, match="no distillation token"):
            settle(spec, dataclasses.replace(OPTIONS, pool="cls+dist"))


REFUSED = [
    ({"protocol": "dino/2"}, "dino/1"),
    ({"pool": "max"}, "cls, cls2, mean, cls"),
    ({"precision": "fp8"}, "fp32, bf16, fp16, auto"),
    ({"decode": "turbo"}, "fast, pil"),
    ({"layers": "0"}, "1 to 7"),
    ({"layers": "8"}, "toy has 7 blocks"),
    ({"layers": "-1"}, "1 to 7"),
    ({"layers": "all"}, "`each`"),
    ({"layers": "²"}, "1 to 7"),
    ({"img_size": "100"}, "96 and 112"),
    ({"img_size": "15"}, "16 and 32"),
    ({"img_size": "224x100"}, "96 and 112"),
    ({"img_size": "large"}, "HxW"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=lambda value: str(value))
def test_what_cannot_be_is_refused_with_what_can(change, words):
    with pytest.raises(UsageError) as error:
        settle(SPEC, dataclasses.replace(OPTIONS, **change))
    assert words in str(error.value)
    assert error.value.exit_code == 2
    assert isinstance(error.value, UnknownName) == ("protocol" in change)


def test_sizes_that_a_familys_position_rule_has_not_are_refused():
    msn = dataclasses.replace(
        SPEC, family="msn", protocol="msn/1", architecture=dataclasses.replace(ARCHITECTURE, positions="msn")
    )
    mae = dataclasses.replace(
        SPEC, family="mae", protocol="mae/1", architecture=dataclasses.replace(ARCHITECTURE, positions="mae")
    )
    for spec, size in ((msn, "160x224"), (mae, "160x224"), (mae, "112x448")):
        with pytest.raises(UsageError, match=r"(112|160)x"):
            settle(spec, dataclasses.replace(OPTIONS, img_size=size))
    assert settle(msn, dataclasses.replace(OPTIONS, img_size="112x448")).preprocess.crop == (
        112,
        448,
    )  # the table's number of tokens
    assert settle(SPEC, dataclasses.replace(OPTIONS, img_size="160x224")).preprocess.cover == (183, 256)


def test_a_models_own_transform_wins_over_its_protocols_and_scales_with_the_size():
    hybrid = settle(of("hybrid_r50_vitb16"), OPTIONS)
    assert (hybrid.preprocess.cover, hybrid.preprocess.crop, hybrid.preprocess.mean) == (
        (384, 384),
        (384, 384),
        (0.5, 0.5, 0.5),
    )
    augreg = settle(of("augreg_vits16"), dataclasses.replace(OPTIONS, img_size="448"))
    assert (augreg.preprocess.cover, augreg.preprocess.crop) == ((496, 496), (448, 448))


def test_lists_from_a_remembered_configuration_are_as_good_as_tuples():
    listed = dataclasses.replace(SPEC, preprocess={"cover": [248, 248], "mean": [0.5, 0.5, 0.5]})
    tupled = dataclasses.replace(SPEC, preprocess={"cover": (248, 248), "mean": (0.5, 0.5, 0.5)})
    assert settle(listed, OPTIONS) != settle(SPEC, OPTIONS)
    assert settle(listed, OPTIONS).preprocess == settle(tupled, OPTIONS).preprocess
    assert pipeline.settle(listed, OPTIONS).fingerprint == settle(tupled, OPTIONS).fingerprint


@pytest.mark.parametrize(
    ("asked", "cover", "lowshot"), [(None, (256, 256), (224, 224)), ("112", (128, 128), (112, 112))]
)
def test_low_shot_features_of_dinov2_are_others_than_its_k_nns(asked, cover, lowshot):
    spec, options = dataclasses.replace(SPEC, protocol="dinov2/1"), dataclasses.replace(OPTIONS, img_size=asked)
    plain, few = settle(spec, options), settle(spec, options, "lowshot")
    assert (plain.preprocess.cover, few.preprocess.cover) == (cover, lowshot)
    assert plain.fingerprint != few.fingerprint
    assert settle(SPEC, options, "lowshot").fingerprint == settle(SPEC, options).fingerprint  # DINO has one transform
    own = dataclasses.replace(spec, preprocess={"cover": (248, 248), "crop": (224, 224)})
    assert settle(own, OPTIONS, "lowshot").preprocess.cover == (248, 248)  # a model's own transform wins


def test_mae_is_fine_tuned_and_read_after_it_by_the_fine_tuning_scripts_transform_and_frozen_by_the_probes(
    tmp_path,
):
    frozen, tuned = (
        resolve(name, Access(tmp_path), DigestMemory(), weights="random")
        for name in ("mae_vitb16", "mae_vitb16_finetuned")
    )
    large = dataclasses.replace(OPTIONS, img_size="448")
    found = {
        name: (settled.protocol.name, settled.preprocess.cover)
        for name, settled in {
            "probed": settle(frozen, large),
            "few labels": settle(frozen, large, "lowshot"),
            "fine-tuned": settle(frozen, large, "finetune"),
            "read after it": settle(tuned, large),
            "as probes are": settle(tuned, dataclasses.replace(large, protocol="mae/1")),
        }.items()
    }
    whole, proportional = ("mae/2", (448, 448)), ("mae/1", (512, 512))
    assert found == {
        "probed": proportional,
        "few labels": proportional,
        "fine-tuned": whole,
        "read after it": whole,
        "as probes are": proportional,
    }
    at_224 = {settle(frozen, OPTIONS, task).fingerprint for task in ("", "lowshot", "finetune")}
    assert len(at_224) == 1  # the features that are stored are those of all three
