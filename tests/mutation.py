"""How many small errors the tests notice: cosmic-ray's mutants of some modules, a seeded sample of them.

    python -m tests.mutation [--seed 0] [--sample 220] [--module NAME]

Each mutant is written to a copy of the repository, where the module's own tests then run; the working tree is never
touched. Prints the rate of each module and the diff of every mutant that no test noticed; exits 1 below 85 % of all, or
below 90 % of a module that is not one of the numeric core.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import queue
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec

from tests.conftest import ROOT, SHARED

WANTED = 85.0  # percent of all
WANTED_OF_EACH = 90.0  # percent of each module that is not of CORE
FEWEST = 20  # mutants of each module, or all it has
AT_ONCE = 2
_FEWSHOT = "tests/test_fewshot_classifiers.py"
_VIEWS = "tests/test_views.py"
_FIT_PREDICT = "tests/cli/test_fit_predict.py"
CORE = {  # module -> the words after `pytest`
    "metrics": ["tests/test_metrics.py"],
    "splits": ["tests/test_splits.py"],
    "neighbors/__init__": ["tests/test_neighbors.py"],
    "neighbors/engines": ["tests/test_neighbors.py"],
    "neighbors/reduced": ["tests/test_neighbors.py"],
    "vote": ["tests/test_vote.py"],
    "calibration": ["tests/test_calibration.py"],
    "classifiers/_softmax_regression": ["tests/test_logistic.py"],
    "classifiers/_softmax_batches": ["tests/test_softmax_batches.py"],
    "checkpoints/digests": ["tests/test_checkpoints.py"],
    "checkpoints/filling": ["tests/test_checkpoints.py"],
    "checkpoints/hostile": ["tests/test_checkpoints.py"],
    "checkpoints/kinds": ["tests/test_checkpoints.py"],
    "checkpoints/opening": ["tests/test_checkpoints.py"],
    "checkpoints/reading": ["tests/test_checkpoints.py"],
    "classifiers/_labels": ["tests/test_classifiers.py"],
    "classifiers/knn": ["tests/test_classifiers.py", "-k", "KNNClassifier or not scikit_learns_checks"],
    "classifiers/logistic": ["tests/test_logistic.py"],
    "classifiers/_episodic": [_FEWSHOT],
    "classifiers/alpha_tim": [_FEWSHOT, "-k", "alpha"],
    "classifiers/bd_cspn": [_FEWSHOT, "-k", "cspn"],
    "classifiers/cache_model": [_FEWSHOT, "-k", "cache or CacheModel"],
    "classifiers/centroid": [_FEWSHOT, "-k", "centroid or simpleshot or base or adding or distances"],
    "classifiers/label_propagation": [_FEWSHOT, "-k", "propagation or label or spreads"],
    "classifiers/laplacian_shot": [_FEWSHOT, "-k", "laplacian or agreement"],
    "classifiers/pt_map": [_FEWSHOT, "-k", "pt_map or PTMAP or sinkhorn"],
    "classifiers/ridge": [_FEWSHOT, "-k", "ridge or leave_one_out"],
    "models/adapter": ["tests/test_adapters.py"],
    "finetune/adapters": ["tests/test_adapters.py"],
    "finetune/held_out": ["tests/test_held_out.py"],
    "training/groups": ["tests/test_groups.py", "tests/parity/test_finetuning.py"],
    "linear/optimizers": ["tests/test_lars.py", "tests/test_probes.py"],
    "training/schedules": ["tests/test_schedules.py"],
    "linear/head_stack": ["tests/test_probes.py"],
}
PRETRAINING = {
    "methods/_dino_task": ["tests/test_method_dino.py"],
    "methods/_msn_task": ["tests/test_msn.py", "-k", "not two_processes"],
    "methods/_mae_task": ["tests/test_mae.py"],
    "methods/_trunk": ["tests/test_trunk.py"],
    "methods/_batch_norm": ["tests/test_batch_norm.py"],
    "training/loop": ["tests/test_training.py"],
}
VIEWS = {
    "views/crops": [_VIEWS],
    "views/colours": [_VIEWS],
    "views/resample": [_VIEWS],
    "views/randaugment": ["tests/test_mixing.py"],
    "views/mixing": ["tests/test_mixing.py"],
    "views/draws": ["tests/test_draws.py"],
}
FEATURES = {
    "extraction/cache": ["tests/test_cache.py"],
    "images/__init__": ["tests/test_images.py"],
    "images/pillow": ["tests/test_images.py"],
    "headers": ["tests/test_headers.py"],
    "preprocess": ["tests/test_preprocess.py"],
    "models/vit": ["tests/test_vit.py", "-k", "not (auto or openvino or packed or engine or as_many or read_from)"],
}
EVALUATION = {
    "evaluate/knn": [
        "tests/test_evaluate_knn.py",
        "tests/cli/test_knn.py",
        "tests/cli/test_commands.py",
        "-k",
        "knn or layers_each or skipped_images",
    ],
    "evaluate/lowshot": ["tests/test_evaluate_lowshot.py", "tests/cli/test_lowshot.py"],
    "evaluate/lowshot_cells": ["tests/test_evaluate_lowshot.py"],
    "evaluate/lowshot_options": ["tests/test_evaluate_lowshot.py"],
    "evaluate/episodes": ["tests/test_evaluate_episodes.py", "tests/cli/test_episodes.py"],
    "evaluate/episode_draws": ["tests/test_evaluate_episodes.py"],
    "evaluate/evaluation": [
        "tests/test_evaluate_lowshot.py",
        "-k",
        "an_evaluation or share or without_support or transductive or rows_are",
    ],
    "bundles/predict": [
        _FIT_PREDICT,
        "-k",
        "threshold or labels_that or at_a_time or table_shows or labelled_images",
    ],
    "bundles/fit": [_FIT_PREDICT],
}
_SEARCH = ["tests/test_index_search.py", "tests/test_index_model.py", "-k", "not dictionary or flat-0 or hnsw-0"]
_GROWTH = ["tests/test_index_model.py", "tests/test_index_growth.py", "-k", "not dictionary or flat-0 or compact-0"]
_FOLDER = ["tests/test_index_folder.py", "tests/test_index_model.py", "-k", "not (dictionary or structure) or flat-0"]
RETRIEVAL = {
    "neighbors/approximate": ["tests/test_index_search.py"],
    "neighbors/pairs": ["tests/test_pairs.py"],
    "retrieval/search": _SEARCH,
    "retrieval/examples": _SEARCH,
    "retrieval/recall": _SEARCH,
    "retrieval/segment": _FOLDER,
    "retrieval/columns": _FOLDER,
    "retrieval/folder": _FOLDER,
    "retrieval/manifest": _FOLDER,
    "retrieval/opened": [*_FOLDER[:2], "tests/test_index_search.py", *_FOLDER[2:]],
    "retrieval/growth": [*_GROWTH[:2], "tests/test_index_search.py", *_GROWTH[2:]],
    "retrieval/adding": _GROWTH,
    "retrieval/parts": _GROWTH,
    "retrieval/pictures": _GROWTH,
}
TESTS = {**CORE, **PRETRAINING, **VIEWS, **FEATURES, **EVALUATION, **RETRIEVAL}

# What is not mutated, and why. Text, also that of errors, is no matter: cosmic-ray leaves strings alone.
SKIPPED_FUNCTIONS = {
    "_faiss_gpu",  # needs a GPU; here a stand-in runs, which proves little about FAISS
    "faiss_gpu_works",  # needs a GPU
    "faiss_facts",  # three lines for `fewvit doctor` to print
}
SKIPPED_CONSTANTS = {
    "GPU_MAX_K",  # FAISS's own limit on a GPU
    "_CHUNK_BYTES",  # memory against speed: every value gives the same neighbours
    "_CACHED_BYTES",
    "_CACHED_VALUES",
    "_BLOCK_ROWS",
    "_BLOCK",  # bytes read at a time: every value gives the same file
    "_BLOCK_BYTES",
    "_EXACT_ROWS",
    "_GATHERED",
    "_PAIRS",
    "_ADD_ROWS",
    "_LOOKED_UP",
    "_QUICK",
    "_TABLE_ENTRIES",
    "_TABLE_BYTES",
    "_LARGEST_DENSE",  # where a sparse solver takes over from a dense one; the tests compare both with the same loops
}


@dataclass(frozen=True)
class Mutant:
    module: str
    text: str  # the whole mutated file
    diff: str


def path_of(module: str) -> str:
    return f"fewvit/{module}.py"


# ---- which mutants


def skipped_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The parts of a module that are not mutated.

    Annotations, imports for the type checker, and what is named above.
    """
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) if name in SKIPPED_FUNCTIONS:
                yield node
            case ast.Assign(targets=[ast.Name(id=name)]) if name in SKIPPED_CONSTANTS:
                yield node
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield node
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):  # never evaluated
            if annotation is not None:
                yield annotation


def mutations(module: str) -> list[MutationSpec]:
    """All mutations cosmic-ray knows for a module but the skipped ones, in the order of the file."""
    path = ROOT / path_of(module)
    with use_db(":memory:", mode=WorkDB.Mode.create) as database:
        init([path], database, {})
        found = [item.mutations[0] for item in database.work_items]
    nodes = skipped_nodes(ast.parse(path.read_text()))
    spans = [((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)) for node in nodes]
    kept = [m for m in found if not any(start <= m.start_pos < end for start, end in spans)]
    return sorted(kept, key=lambda m: (m.start_pos, m.operator_name, m.occurrence))


def mutated(source: str, one: MutationSpec) -> str | None:
    """The mutated file; None where cosmic-ray fails (at `except module.Error`) or Python complains (of `x is 0`)."""
    try:
        text = mutate_code(source, get_operator(one.operator_name)(**one.operator_args), one.occurrence)
    except AttributeError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            compile(text or "", "mutant", "exec")
        except SyntaxError:
            return None
    return text


def sample(module: str, found: list[MutationSpec], size: int, seed: int) -> Iterator[Mutant]:
    """`size` mutants of a module; the same ones for the same seed and source."""
    source = (ROOT / path_of(module)).read_text()
    for one in random.Random(seed).sample(found, len(found)):  # whatever the module is called
        text = mutated(source, one) if size else None
        if text is not None:
            size -= 1
            sides = [side.splitlines(keepends=True) for side in (source, text)]
            yield Mutant(module, text, "".join(difflib.unified_diff(*sides, path_of(module), one.operator_name, n=1)))


def drawn(seed: int, wanted: int) -> dict[str, list[Mutant]]:
    """The sample of each module: in proportion to its mutants, but at least FEWEST of them."""
    found = {module: mutations(module) for module in TESTS}
    total = sum(map(len, found.values()))
    return {m: list(sample(m, all_, max(FEWEST, round(wanted * len(all_) / total)), seed)) for m, all_ in found.items()}


# ---- running the tests


def copied(folder: Path) -> Path:
    """A copy of what the tests need: the source and the tests, tracked or not."""
    for name in ("fewvit", "cli", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


class Copy:
    """A copy of the repository, with a process that runs tests in it."""

    def __init__(self, folder: Path):
        self.folder = copied(folder)
        # No bytecode: Python knows it by second and size, and two mutants of one second may have the same size.
        here = {
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "FEWVIT_SHARED": str(SHARED),
        }
        self._tests = subprocess.Popen(
            [sys.executable, "-P", folder / "tests/warm_pytest.py"],  # -P: tests/ itself is no place to import from
            **{
                "cwd": folder,
                "env": {**os.environ, **here},
                "text": True,
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
            },
        )

    def close(self) -> None:
        """End the process."""
        self._tests.communicate()

    def outcome(self, module: str, limit: float) -> str:
        """What the module's tests say here: `survived`, `killed`, or `hung` after `limit` seconds."""
        words = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={self.folder / 'scratch'}", *TESTS[module]]
        assert self._tests.stdin is not None
        assert self._tests.stdout is not None
        print(json.dumps({"words": words, "limit": limit}), file=self._tests.stdin, flush=True)
        found = self._tests.stdout.readline().strip()
        if not found:
            raise RuntimeError("the process that runs the tests has ended")
        return found


def limit_of(copy: Copy, module: str) -> float:
    """Five times what the tests take without a mutant, and twenty seconds.

    Raises RuntimeError when they fail even so.
    """
    start = time.monotonic()
    if copy.outcome(module, 600) != "survived":
        raise RuntimeError(
            f"the tests of {module} fail without any mutant: run `{shlex.join(['pytest', *TESTS[module]])}`"
        )
    return 20 + 5 * (time.monotonic() - start)


def tried(mutant: Mutant, copies: queue.SimpleQueue[Copy], limit: float) -> str:
    """The outcome for one mutant, in whichever copy is free."""
    copy = copies.get()
    target = copy.folder / path_of(mutant.module)
    original = target.read_text()
    try:
        target.write_text(mutant.text)
        return copy.outcome(mutant.module, limit)
    finally:
        target.write_text(original)
        copies.put(copy)


def outcomes(mutants: list[Mutant], copies: queue.SimpleQueue[Copy], limit: float) -> Counter[str]:
    """How many mutants had which outcome; prints the diff of each that no test noticed."""
    count: Counter[str] = Counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for mutant, found in zip(mutants, pool.map(lambda mutant: tried(mutant, copies, limit), mutants), strict=True):
            count[found] += 1
            if found == "survived":
                print(mutant.diff, flush=True)
    return count


def rate(count: Counter[str]) -> float:
    """Percent noticed; a hang is noticed too."""
    return 100 * (1 - count["survived"] / count.total())


def row(name: str, count: Counter[str], since: float) -> str:
    told = " ".join(f"{count[kind]:4} {kind}" for kind in ("killed", "hung", "survived"))
    return f"{name:29} {told} {rate(count):6.1f} % {time.monotonic() - since:5.0f} s"


def main() -> int:
    """The exit code: 1 when too few mutants are noticed: below WANTED percent, or WANTED_OF_EACH in a newer module."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--seed", type=int, default=0, help="which sample is drawn")
    parser.add_argument("--sample", type=int, default=220, help="how many mutants of all modules")
    parser.add_argument("--module", choices=TESTS, help="only this module's share of the sample")
    args = parser.parse_args()
    chosen = {name: them for name, them in drawn(args.seed, args.sample).items() if args.module in (None, name)}
    rows, total, begun, fell_short = [], Counter[str](), time.monotonic(), False
    with tempfile.TemporaryDirectory() as root:
        made = [Copy(Path(root, str(i))) for i in range(AT_ONCE)]
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for copy in made:
            copies.put(copy)
        for name, mutants in chosen.items():
            start = time.monotonic()
            count = outcomes(mutants, copies, limit_of(made[0], name))
            total += count
            fell_short |= name not in CORE and rate(count) < WANTED_OF_EACH
            rows.append(row(name, count, start))
        for copy in made:
            copy.close()
    print(*rows, row("all", total, begun), sep="\n")
    return int(fell_short or rate(total) < WANTED)


if __name__ == "__main__":
    sys.exit(main())
