"""MSN's prototypes among images, against NumPy and the official checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewvit.errors import UsageError
from fewvit.extraction.calls import load_backbone
from fewvit.inspect.pictures import Pictures, normalised
from fewvit.inspect.pretraining_files import open_msn
from fewvit.inspect.prototype_images import Assigned, prototypes
from fewvit.methods._msn_task import MsnTask
from fewvit.methods.msn import Msn
from fewvit.views.view import View

ARCHITECTURE_SIZE = 20


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def msn(tmp_path_factory) -> tuple[MsnTask, str]:
    """A small MSN whose anchor, target, statistics and prototypes all differ, and its official file."""
    from fewvit.backbones import Architecture

    recipe = Msn(
        architecture=Architecture(24, 2, 3, 4, grid=5, positions="msn"),
        views=(View(20, (0.3, 1.0)), View(20, (0.3, 1.0))),
        epochs=1,
        batch_size=1,
        prototypes=7,
        projector_width=13,
        out_width=5,
        temperature=0.23,
    )
    task, stream = MsnTask(recipe), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in task.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=stream) + (0.5 if "var" in name else -0.5))
    file = tmp_path_factory.mktemp("msn") / "msn.pth.tar"
    torch.save(task.official(), file)
    return task.eval(), str(file)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    pixels = np.random.default_rng(5).integers(0, 256, (11, 20, 20, 3), dtype=np.uint8)
    return Pictures([f"{i}.png" for i in range(11)], np.array([3, 7] * 5 + [3]), ["a"], pixels)


def opened(msn, **options):
    return load_backbone(msn[1], heads=3, img_size=20, engine="eager", **options)


def by_numpy(network, table: torch.Tensor, pictures: Pictures, backbone) -> np.ndarray:
    """Cosines (N, K), image by image."""
    with torch.no_grad():
        images = normalised(pictures.pixels, backbone.pipeline.preprocess)
        projections = np.stack([network(image[None])[0].double().numpy() for image in images])
    return unit(projections) @ unit(table.detach().double().numpy()).T


def test_images_belong_to_the_prototype_of_the_largest_cosine_with_the_targets_projection(msn, pictures):
    task, backbone = msn[0], opened(msn)
    figure = prototypes(backbone, pictures)
    cosines = by_numpy(task.target, task.prototypes, pictures, backbone)
    np.testing.assert_allclose(figure.arrays["similarity"], cosines, atol=1e-5)
    nearest = [max(range(7), key=lambda k: row[k]) for row in cosines]
    assert figure.arrays["prototype"].tolist() == nearest
    assert figure.arrays["counts"].tolist() == [nearest.count(k) for k in range(7)]
    for k in range(7):
        expected = sorted(range(11), key=lambda i: -cosines[i, k])[:8]
        assert figure.arrays["nearest"][k].tolist() == expected
    most = sorted(set(nearest), key=lambda k: (-nearest.count(k), k))
    assert len(most) < 7  # a prototype of no image is not drawn
    assert figure.arrays["shown"].tolist() == most
    assert figure.rows[0] == {"metric": "prototypes_used", "value": len(set(nearest))}
    p = np.exp(cosines / 0.23) / np.exp(cosines / 0.23).sum(axis=1, keepdims=True)
    assert figure.rows[1]["value"] == pytest.approx(-(p * np.log(p)).sum(axis=1).mean(), abs=1e-5)
    assert figure.rows[2]["id"] == f"{max(range(11), key=lambda i: cosines[i, most[0]])}.png"


def test_the_anchor_network_is_asked_where_its_key_is_given(msn, pictures):
    task, backbone = msn[0], opened(msn, checkpoint_key="encoder")
    cosines = by_numpy(task.anchor, task.prototypes, pictures, backbone)
    assert not np.allclose(cosines, by_numpy(task.target, task.prototypes, pictures, backbone), atol=1e-2)
    np.testing.assert_allclose(prototypes(backbone, pictures).arrays["similarity"], cosines, atol=1e-5)


def test_the_length_of_a_prototype_changes_nothing(msn, pictures, tmp_path):
    task = msn[0]
    lengthened = {**task.official(), "prototypes": task.prototypes.detach() * torch.arange(1, 8)[:, None]}
    torch.save(lengthened, tmp_path / "msn.pth.tar")
    other = prototypes(opened((task, str(tmp_path / "msn.pth.tar"))), pictures).arrays["similarity"]
    np.testing.assert_allclose(other, prototypes(opened(msn), pictures).arrays["similarity"], atol=1e-6)


def test_the_temperature_is_that_of_the_file(msn):
    assert open_msn(opened(msn).spec).task.recipe.temperature == 0.23


def test_equal_images_stand_in_their_order():
    similarity = np.array([[0.5], [0.7], [0.5], [0.7], [0.1]], np.float32)
    assert Assigned(similarity, similarity, similarity).nearest_images(4).tolist() == [[1, 3, 0, 2]]


def test_prototypes_can_be_named(msn, pictures):
    figure = prototypes(opened(msn), pictures, only=[5, 2], nearest=3)
    assert figure.arrays["shown"].tolist() == [5, 2]
    assert figure.arrays["nearest"].shape == (7, 3)
    with pytest.raises(UsageError, match="no prototype 7: they are numbered from 0 to 6"):
        prototypes(opened(msn), pictures, only=[7])


def test_a_backbone_without_prototypes_is_refused_with_what_to_take(msn, pictures, tmp_path):
    with pytest.raises(UsageError, match=r"fewvit_tiny is no MSN(.|\n)*msn_vits16"):
        prototypes(load_backbone("fewvit_tiny"), pictures)
    torch.save({"target_encoder": msn[0].official()["target_encoder"]}, tmp_path / "cut.pth.tar")
    with pytest.raises(UsageError, match="holds no prototypes"):
        prototypes(opened((None, str(tmp_path / "cut.pth.tar"))), pictures)


def test_the_official_checkpoints_projections_are_the_official_ones(parity):
    """In train mode, as MSN's step has its target: the batch's own statistics."""
    backbone = load_backbone(str(parity.folder / "msn.pth.tar"))
    network = open_msn(backbone.spec).network.train()
    images = normalised(parity.arrays("preprocess.npz")["msn"][:4], backbone.pipeline.preprocess)
    with torch.no_grad():
        parity.check("losses.npz", "msn/step/target_projections", network(images).numpy())
