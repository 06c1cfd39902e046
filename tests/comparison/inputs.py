"""What the compared commands read: small images, features and weights from seeds, and a slice of the shared folder."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def made_image(kind: int, seed: int, size: tuple[int, int]) -> Any:
    """A smooth colour image of (width, height) pixels: six parts what its kind has in common, four parts its own."""
    from PIL import Image

    common, own = (np.random.default_rng(numbers).random((5, 5, 3)) for numbers in ((kind, 0), (kind, seed, 1)))
    small = Image.fromarray((255 * (0.6 * common + 0.4 * own)).astype(np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def write_folder(root: Path, counts: Mapping[str, int], first_seed: int = 0, first_kind: int = 0) -> None:
    """Class folders with so many JPEGs each."""
    for kind, (name, count) in enumerate(counts.items(), start=first_kind):
        (root / name).mkdir(parents=True)
        for i in range(count):
            seed = first_seed + i
            size = (61 + 7 * (seed % 3), 47 + 5 * (seed % 4))
            made_image(kind, seed, size).save(root / name / f"{i:02d}.jpg", quality=93)


def write_odd(folder: Path) -> None:
    """Images on which decoders differ, and one that none can decode; two classes."""
    from PIL import Image

    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation
    made_image(1, 1, (60, 40)).save(folder / "left/turned.jpg", exif=turned)
    clear = made_image(1, 2, (50, 50))
    clear.putalpha(made_image(2, 2, (50, 50)).convert("L"))
    clear.save(folder / "left/clear.png")
    made_image(1, 3, (50, 40)).convert("P").save(folder / "left/palette.png")
    deep = (np.random.default_rng(4).random((40, 50)) * 65535).astype(np.uint16)
    Image.fromarray(deep).save(folder / "right/deep.png")
    made_image(2, 5, (50, 40)).convert("L").save(folder / "right/grey.jpg")
    made_image(2, 6, (50, 40)).convert("CMYK").save(folder / "right/cmyk.jpg")
    (folder / "right/broken.jpg").write_bytes(b"\xff\xd8\xff no image")


def write_vtab(folder: Path) -> None:
    """A set of VTAB-1k's layout: two classes, with lists of so many images."""
    lines: dict[str, list[str]] = {}
    for part, count in (("train800", 8), ("val200", 4), ("test", 6)):
        (folder / f"images/{part}").mkdir(parents=True)
        for i in range(count):
            path = f"images/{part}/{i:02d}.jpg"
            made_image(i % 2, 100 * len(lines) + i, (61, 47)).save(folder / path, quality=93)
            lines.setdefault(part, []).append(f"{path} {i % 2}")
    lines["train800val200"] = lines["train800"] + lines["val200"]
    for part, rows in lines.items():
        (folder / f"{part}.txt").write_text("".join(f"{row}\n" for row in rows))


def write_features(path: Path, seed: int, per_class: int, classes: list[str], **texts: str) -> None:
    """Clustered features (N, 24), labels, ids and classes; classes of one name have one centre, whatever the file."""
    rng = np.random.default_rng(seed)
    centres = np.stack([np.random.default_rng(list(name.encode())).normal(size=24) for name in classes])
    labels = rng.permutation(np.repeat(np.arange(len(classes)), per_class))
    rows = (centres[labels] + 1.5 * rng.normal(size=(len(labels), 24))).astype(np.float32)
    if texts.pop("spoilt", ""):
        rows[3, 4] = np.nan
    arrays: dict[str, Any] = {name: np.array(text) for name, text in texts.items()}
    ids = [f"{path.stem}/{i}" for i in range(len(labels))]
    np.savez(path, features=rows, labels=labels, ids=ids, classes=classes, **arrays)


def write_weights(path: Path, width: int = 64, depth: int = 2) -> None:
    """A DINO backbone of patch 16 at 224 px as safetensors; norms, positions and class token are not trivial."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 197, width), "norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (width,), f"blocks.{i}.{norm}.bias": (width,)}
        for name, rows, columns in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes[f"blocks.{i}.{name}.weight"] = (rows * width, columns * width)
            shapes[f"blocks.{i}.{name}.bias"] = (rows * width,)
    rng, header, content = np.random.default_rng(5), {}, b""
    for name, shape in shapes.items():
        middle, scale = float("norm" in name and name.endswith("weight")), 0.2 if "norm" in name else 0.1
        values = rng.normal(middle, scale, shape).astype("<f4")
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(content), len(content) + values.nbytes]}
        content += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def write_inputs(root: Path, shared: Path) -> None:
    """All that the commands read under in/; of `shared`, if it is there, a part."""
    counts = {"ant": 9, "bee": 7, "cat": 11, "dog": 8, "elk": 10}
    write_folder(root / "images/train", counts)
    write_folder(root / "images/val", {"ant": 5, "bee": 7, "cat": 4, "dog": 6, "elk": 5}, first_seed=100)
    write_folder(root / "new", {"fox": 5, "gnu": 6}, first_seed=200, first_kind=7)
    write_folder(root / "few", {"all": 6}, first_seed=300)
    write_odd(root / "odd")
    write_vtab(root / "vtab/dtd")
    (root / "flat").mkdir()
    for i in range(4):
        made_image(i, 400 + i, (55, 45)).save(root / f"flat/{i}.jpg")
    train = sorted((root / "images/train").rglob("*.jpg"))
    val = sorted((root / "images/val").rglob("*.jpg"))
    lines = [f"images/val/{p.parent.name}/{p.name},{p.parent.name if i % 5 else ''}" for i, p in enumerate(val)]
    (root / "table.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for path in val:
            archive.write(path, f"{path.parent.name}/{path.name}")
    (root / "shards").mkdir()
    with tarfile.open(root / "shards/val-000.tar", "w") as tar:
        for i, path in enumerate(val):
            number = str(sorted(counts).index(path.parent.name)).encode()
            for end, data in (("jpg", path.read_bytes()), ("cls", number)):
                member = tarfile.TarInfo(f"{i:03d}.{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    first = {name: [p for p in train if p.parent.name == name][:2] for name in counts}
    (root / "list.txt").write_text("".join(f"{p.parent.name}/{p.name}\n" for paths in first.values() for p in paths))
    names = [f"c{i:02d}" for i in range(11)]
    for name, seed, per_class in (("train", 1, 17), ("test", 2, 13)):
        write_features(root / f"{name}.npz", seed, per_class, names)
    write_features(root / "strange.npz", 3, 5, [*names[:3], "unheard-of"])
    write_features(root / "nan.npz", 1, 17, names, spoilt="yes")
    write_features(root / "printed.npz", 1, 17, names, fingerprint="1" * 64)
    write_features(root / "other.npz", 2, 13, names, fingerprint="2" * 64)
    write_split(root / "split.csv", root / "train.npz")
    (root / "classes.txt").write_text("".join(f"{name} a word about it\n" for name in names[2:7]))
    write_weights(root / "dino.safetensors")
    (root / "page.pth").write_text("<!DOCTYPE html><title>Sign in</title>")
    (root / "empty.pth").write_bytes(b"")
    write_truth(root / "gnd_toy.pkl")
    (root / "hostile.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (root / "config.toml").write_text('backbone = "in/dino.safetensors"\ndata = "in/images/val"\nimg-size = "64"\n')
    if shared.is_dir():
        write_shared(root, shared)


def write_truth(path: Path) -> None:
    """The ground truth of a revisited benchmark of eleven images and two queries, as it is published."""
    queries = [{"bbx": [1.5, 2.0, 30.0, 40.0], "easy": [3, 7], "hard": [5], "junk": [10]} for _ in range(2)]
    names = {"imlist": [f"image_{i}" for i in range(11)], "qimlist": ["query_0", "query_1"]}
    path.write_bytes(pickle.dumps({**names, "gnd": queries}, 2))


def write_split(path: Path, features: Path, shots: int = 3) -> None:
    """A table as --save-split writes it: the first rows of each class."""
    with np.load(features) as file:
        labels, ids, classes = file["labels"], file["ids"], file["classes"]
    rows = np.concatenate([np.flatnonzero(labels == c)[:shots] for c in range(len(classes))])
    path.write_text("".join(["shots,trial,id,label\n", *(f"{shots},0,{ids[r]},{classes[labels[r]]}\n" for r in rows)]))


def write_shared(root: Path, shared: Path, classes: int = 4, train: int = 3, val: int = 2) -> None:
    """A slice of real photographs, and links to the official checkpoints and Omniglot's runs."""
    with zipfile.ZipFile(shared / "data/imagenet18.zip") as archive:
        images = sorted(name for name in archive.namelist() if name.endswith(".JPEG"))
        for part, count in (("train", train), ("val", val)):
            mine = [name for name in images if f"/{part}/" in name]
            for synset in sorted({name.split("/")[-2] for name in mine})[:classes]:
                for name in [n for n in mine if n.split("/")[-2] == synset][:count]:
                    target = root / "real" / part / synset / name.split("/")[-1]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    (root / "parity").symlink_to((shared / "parity").resolve())
    (root / "omniglot.zip").symlink_to((shared / "data/omniglot-oneshot-runs.zip").resolve())
