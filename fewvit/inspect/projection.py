"""Features as points in the plane: PCA, t-SNE or UMAP, the same points for the same seed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, MissingExtra, UnknownName
from ..extraction.principal import principal_axes
from ..neighbors import Bank, normalise
from ..seeds import seed_of

FEWEST = 4  # images that a map is drawn of
REDUCED = 50  # principal components that neighbours are looked for in, as van der Maaten & Hinton 2008, section 4.2
PERPLEXITY = 30  # of t-SNE: about the neighbours that pull at a point
NEAREST = 15  # of UMAP
STEPS = 1000  # of t-SNE; fewer for many images, so that a map takes a minute at most
_MANY, _STEPS_OF_MANY = 10_000, 400
_SHARED = 2000  # images from which on two threads work
_ASKED = 2000  # images whose neighbours in the map are compared with those among the features


@dataclass(frozen=True)
class Projection:
    """Where each image lies."""

    points: np.ndarray  # (N, 2) float32
    method: str
    notes: Sequence[str]  # what was done on the way, a line each
    kept: float  # share, 0 to 1, of an image's 10 nearest features that are among its 10 nearest in the map
    explained: float | None = None  # share, 0 to 1, of the variance that lies in the plane; of PCA alone


def require_method(method: str) -> None:
    """Raise UnknownName for no method, MissingExtra where its package is not installed. To be called before work."""
    if method not in METHODS:
        raise UnknownName("method", method, list(METHODS))
    package = METHODS[method].package
    if package and importlib.util.find_spec(package) is None:
        raise MissingExtra(
            f"--method {method} needs a package that is not installed",
            fix=f"Install it with `pip install 'fewvit[{method}]'`, or take tsne or pca.",
        )


def project(features: np.ndarray, method: str = "tsne", seed: int = 0) -> Projection:
    """The plane of features (N, D), of which only the direction counts, as for k-NN.

    Raises as `require_method`, DataError for less than 4 images, NumericalError for NaN or Inf.
    """
    require_method(method)
    if len(features) < FEWEST:
        raise DataError(f"a map is drawn of {FEWEST} images or more, not of {len(features)}", fix="Give more images.")
    unit = normalise(features)
    reduced, explained = principal(unit, min(REDUCED, *unit.shape))
    points, notes = METHODS[method].place(reduced, seed)
    if not np.ptp(unit, axis=0).any():
        notes = [*notes, "all images have one and the same feature: the map says nothing"]
    if METHODS[method].is_linear:
        return Projection(points, method, notes, kept_neighbours(unit, points), float(explained[:2].sum()))
    if unit.shape[1] > REDUCED:
        share = f"{100 * explained.sum():.0f} % of the variance"
        notes = [f"{note}, on {reduced.shape[1]} principal components with {share}" for note in notes]
    return Projection(points, method, notes, kept_neighbours(unit, points))


def principal(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first principal components (N, count) float32 of rows (N, D), and the share of variance (count,) of each.

    Signs are chosen so that the largest weight of each axis is positive: the same rows in another order give the same
    plane. Axes that there are not are zero.
    """
    plain = rows.astype(np.float64)
    axes, explained = principal_axes(plain, count)
    components = (plain - plain.mean(axis=0)) @ axes.T
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    return components.astype(np.float32), explained.clip(0)


def _pca(reduced: np.ndarray, seed: int) -> tuple[np.ndarray, list[str]]:
    return np.ascontiguousarray(reduced[:, :2]), []


def _tsne(reduced: np.ndarray, seed: int) -> tuple[np.ndarray, list[str]]:
    """Source: van der Maaten & Hinton 2008; Barnes-Hut's approximation, van der Maaten 2014; begun from the first two
    principal components, as Kobak & Berens 2019 advise.

    Many images on two threads, whose sums come to the same in either order: those of more end in another digit each
    time, and from a digit t-SNE makes another map. Few images on one, which waits for none.
    """
    from scipy.sparse import csr_matrix
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = len(reduced)
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    rows, distances = _nearest(reduced, min(count - 1, int(3 * perplexity + 1)))
    graph = csr_matrix(
        (distances.ravel(), rows.ravel(), np.arange(0, rows.size + 1, rows.shape[1])), shape=(count, count)
    )
    steps = STEPS if count <= _MANY else _STEPS_OF_MANY
    start = reduced[:, :2] / max(reduced[:, 0].std(), 1e-12) * 1e-4
    with threadpool_limits(2 if count > _SHARED else 1, user_api="openmp"):
        points = TSNE(
            metric="precomputed",
            init=np.ascontiguousarray(start, np.float32),
            perplexity=perplexity,
            max_iter=steps,
            n_iter_without_progress=steps,
            random_state=seed_of("tsne", seed) % 2**32,
        ).fit_transform(graph)
    notes = [f"t-SNE of perplexity {perplexity:.3g}, {steps} steps"]
    return points.astype(np.float32), notes


def _umap(reduced: np.ndarray, seed: int) -> tuple[np.ndarray, list[str]]:
    """Source: McInnes, Healy & Melville 2018. With a seed it runs on one thread, and its points can be made again."""
    import warnings

    from umap import UMAP

    nearest = min(NEAREST, len(reduced) - 1)
    found = _nearest(reduced, nearest - 1)  # it counts an image as its own first neighbour
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba, of its threads, and that found neighbours allow no new points
        points = UMAP(
            n_neighbors=nearest,
            precomputed_knn=(found[0].astype(np.int64), found[1].astype(np.float32)),
            random_state=seed_of("umap", seed) % 2**32,
            init="pca",
            n_jobs=1,
        ).fit_transform(reduced)
    return np.asarray(points, np.float32), [f"UMAP of {nearest} neighbours"]


def _nearest(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row and its k nearest others: their places (N, k+1) and Euclidean distances (N, k+1), ascending."""
    own = np.arange(len(rows))
    found = [near for _, near in Bank(rows, metric="euclidean", device="cpu").chunks(rows, k, exclude=own)]
    places = np.concatenate([near.rows for near in found])
    distances = np.sqrt(np.concatenate([-near.scores for near in found]).clip(0))
    return np.column_stack([own, places]), np.column_stack([np.zeros(len(rows)), distances])


def kept_neighbours(unit: np.ndarray, points: np.ndarray, k: int = 10) -> float:
    """The share of the k nearest rows (by cosine, of unit length) that are among the k nearest points.

    Over all images, or 2,000 spread evenly over them.
    """
    k = min(k, len(unit) - 1)
    asked = np.unique(np.linspace(0, len(unit) - 1, min(_ASKED, len(unit))).astype(np.int64))
    near, shown = (
        np.concatenate([found.rows for _, found in bank.chunks(queries, k, exclude=asked)])
        for bank, queries in (
            (Bank(unit, device="cpu"), unit[asked]),
            (Bank(points, metric="euclidean", device="cpu"), points[asked]),
        )
    )
    return float((near[:, :, None] == shown[:, None, :]).any(axis=2).mean())


@dataclass(frozen=True)
class Method:
    """One way to a map."""

    place: Callable[[np.ndarray, int], tuple[np.ndarray, list[str]]]  # (N, d) float32, seed -> points (N, 2), notes
    is_linear: bool = False  # the plane lies in the space of the features, and has a share of their variance
    package: str = ""  # that an extra of the method's name installs


METHODS = {"tsne": Method(_tsne), "pca": Method(_pca, is_linear=True), "umap": Method(_umap, package="umap")}
