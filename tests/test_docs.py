"""The documentation cannot rot: commands run and print what it shows, tables and links name what is there."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import fewvit
from fewvit import plugins
from fewvit.extraction import protocols
from fewvit_cli.main import COMMANDS

import documentation
from documentation import PAGES, ROOT, agrees, name_of

README, CONTRIBUTING, BENCHMARKS = (
    ROOT / name for name in ("README.md", "docs/contributing.md", "benchmarks/README.md")
)
_PATH = re.compile(r"`((?:fewvit|cli|tests|benchmarks|docs|recipes)/[\w/.-]*)`")


def with_blocks(*languages: str) -> list[Path]:
    return [page for page in PAGES if any(documentation.blocks(page, language) for language in languages)]


# minutes of commands: the slow suite's
LONG = (
    "docs/bundles.md",
    "docs/cache.md",
    "docs/data-check.md",
    "docs/data.md",
    "docs/episodes.md",
    "docs/finetuning.md",
    "docs/gallery.md",
    "docs/inspect.md",
    "docs/layers.md",
    "docs/linear.md",
    "docs/lowshot.md",
    "docs/mieb.md",
    "docs/pretraining.md",
    "docs/protocols.md",
    "docs/quickstart.md",
    "docs/reliability.md",
    "docs/report.md",
    "docs/retrieval.md",
    "docs/sweeps.md",
)


def by_length(pages: list[Path]) -> list[object]:
    return [pytest.param(page, marks=pytest.mark.slow) if name_of(page) in LONG else page for page in pages]


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    """The environment that commands run in: an untrained file of DINO's ViT-B/16, and a cache of their own."""
    return documentation.furnish(tmp_path_factory.mktemp("docs"))


# ---- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", by_length(with_blocks("bash", "console")), ids=name_of)
def test_the_commands_of_a_page_run_and_print_what_it_shows(page, furnished, tmp_path):
    """In the page's order and in one folder: what a command writes may be an input of the next."""
    place = documentation.images(tmp_path, furnished)
    for kind, text in documentation.fenced(page):
        for line in documentation.command_lines(text) if kind == "bash" else ():
            done = documentation.run(line, place, furnished)
            assert done.returncode == 0, (line, done.stderr)
            assert done.stdout or "wrote" in done.stderr or "0 groups with 0 images" in done.stderr, line
        for step in documentation.steps(text) if kind == "console" else ():
            done = documentation.run(step.command, place, furnished)
            found = documentation.printed(done)
            assert (done.returncode == 0) != step.shown.startswith("fewvit: "), (step.command, done.stderr)
            assert agrees(step.shown, found), (
                f"$ {step.command}\nprints now\n{found}\nif that is right: python tests/documentation.py --write"
            )


@pytest.mark.timeout(600)
def test_one_recipe_gives_the_tables_of_the_readme(furnished, tmp_path):
    place = documentation.images(tmp_path, furnished)
    done = documentation.run("fewvit sweep recipes/readme.toml --out sweep --format csv", place, furnished)
    assert done.returncode == 0, done.stderr
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    shown = [row for name in ("knn", "lowshot", "episodes") for row in _table_of(README, f"fewvit {name} ")]
    assert len(shown) == 6 + 12 + 2
    for row in shown:
        keys = ["method", "metric", *(name for name in ("k", "shots") if row.get(name))]
        [same] = [one for one in found if one["trial"] in ("", "mean") and all(one[key] == row[key] for key in keys)]
        for name in {"value", "std", "ci95_low", "ci95_high", "n_test"} & set(row):
            assert agrees(row[name], f"{float(same[name]):.2f}" if "." in row[name] else same[name]), (row, same)


def _table_of(page: Path, command: str) -> list[dict[str, str]]:
    """The rows that a page shows of a command, by the columns that stand over them."""
    [step] = [
        step
        for text in documentation.blocks(page, "console")
        for step in documentation.steps(text)
        if step.command.startswith(command)
    ]
    head, *rows = (line.split() for line in step.shown.splitlines())
    return [dict(zip(head, row, strict=False)) for row in rows]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", by_length(with_blocks("python")), ids=name_of)
def test_the_python_of_a_page_runs(page, furnished, tmp_path, python):
    place = documentation.images(tmp_path, furnished)
    for block in documentation.blocks(page, "python"):
        (place / "block.py").write_text(block)
        done = documentation.run("python block.py", place, furnished)
        assert done.returncode == 0, (block, done.stderr)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_that_a_page_names_is_there(page):
    """Also where a command is not run because it wants ImageNet or a network."""
    lines = [line for language in ("bash", "text", "console") for line in documentation.commands(page, language)]
    for line in [line.removeprefix("$ ") for line in lines] + documentation.spans(page):
        if line.startswith("fewvit "):
            assert not documentation.unknown_words(line), line
    flags = {
        flag
        for span in documentation.spans(page)
        if span.startswith("--")
        for flag in re.findall(r"--[a-z][a-z-]*", span)
    }
    assert flags <= documentation.known_flags(), flags - documentation.known_flags()


def test_the_make_targets_that_pages_name_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    named = {
        target
        for page in PAGES
        for text in (*documentation.spans(page), *documentation.commands(page, "text"))
        for target in re.findall(r"^make ([\w-]+)", text)
    }
    assert {"demo", "test", "docs", "bench"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_an_output_agrees_in_words_and_nearly_in_decimals():
    shown = "method  value\nknn     88.65\n…\nlast    3"
    assert agrees(shown, "method value\nknn 88.31\nlast 3")
    assert agrees(shown, "method value\nknn 88.65\nmore\nand more\nlast 3")
    assert not agrees(shown, "method value\nknn 86.65\nlast 3")  # a decimal too far away
    assert agrees("0.71", "0.75")
    assert not agrees("0.71", "0.79")
    assert not agrees(shown, "method value\nknn 88.65\nlast 4")  # a whole number is a name, a count or a label
    assert not agrees(shown, "method value\nkNN 88.65\nlast 3")
    assert not agrees(shown, "method value\nknn 88.65\nlast 3\nmore")
    assert not agrees(shown, "method value\nknn 88.65 7\nlast 3")


# ---- measurements ----------------------------------------------------------------------------------------------------


def test_pages_show_the_measurements_that_stand_in_the_results():
    from benchmarks import table

    for page, (text, wanted) in table.pages().items():
        assert text == wanted, f"{name_of(page)}: python -m benchmarks.table --write"


def test_a_page_without_a_place_for_its_measurements_is_refused():
    from benchmarks import table

    for text in ("", "<!-- a:begin -->", "<!-- a:end --><!-- a:begin -->", "<!-- a:begin -->" * 2 + "<!-- a:end -->"):
        with pytest.raises(SystemExit):
            table.replaced(text, "a", "new")
    assert (
        table.replaced("1<!-- a:begin -->old<!-- a:end -->2", "a", "new") == "1<!-- a:begin -->\nnew\n<!-- a:end -->2"
    )


def test_the_headlines_follow_the_results_and_want_every_claim_that_they_tell(tmp_path):
    from benchmarks import table

    folder = shutil.copytree(table.RESULTS, tmp_path / "results")
    assert table.headlines(folder) == table.headlines()
    files = list(folder.glob("*/knn.json"))
    result = json.loads(files[0].read_text())
    claim = next(one for one in result["claims"] if one["against"] == "DINO's classifier, four passes")
    claim["value"] = 1.25
    files[0].write_text(json.dumps(result))
    assert "**1.25×** as fast as DINO's classifier" in table.headlines(folder)
    assert table.headlines(folder).count("met") == table.headlines().count("met")
    for file in files:
        file.write_text(file.read_text().replace("four passes", "three passes"))
    with pytest.raises(SystemExit, match="knn"):
        table.headlines(folder)


def test_a_machine_is_known_by_its_maker_and_its_widest_units():
    from benchmarks.kinds import kind_of, title_of

    kinds = {
        "AMD EPYC (family 25, model 1)": "amd-avx2",
        "AMD EPYC (family 26, model 2, AVX-512, bf16)": "amd-avx512-bf16",
        "Intel(R) Xeon(R) Processor (family 6, model 85, AVX-512)": "intel-avx512",
        "Intel(R) Xeon(R) Processor (family 6, model 207, AVX-512, bf16, AMX)": "intel-amx",
        "Neoverse-V2 (family ?, model ?)": "other-avx2",
    }
    assert {cpu: kind_of(cpu) for cpu in kinds} == kinds
    assert title_of("amd-avx512-bf16") == "AMD, AVX-512 bf16"


def test_what_is_claimed_is_the_least_over_the_kinds_of_machines(tmp_path):
    from benchmarks import table
    from benchmarks.kinds import claims, least

    def write(kind, name, *values, quick=False):
        told = [("fast", "x", ">= 2"), ("slow", "s", "<= 3"), ("bare", "x", ""), ("size", "MiB", "")]
        made = [
            {
                "what": what,
                "against": "peer",
                "unit": unit,
                "goal": goal,
                "value": value,
                "met": None if not goal else value >= 2 if goal[0] == ">" else value <= 3,
            }
            for (what, unit, goal), value in zip(told, values, strict=True)
        ]
        (tmp_path / kind).mkdir(exist_ok=True)
        machine = {"cpu": kind, "cores": 2, "memory_gib": 1, "os": "Linux"}
        (tmp_path / kind / f"{name}.json").write_text(
            json.dumps(
                {"name": name, "claims": made, "quick": quick, "date": "2026-01-01", "machine": machine, "versions": {}}
            )
        )

    write("amd-avx2", "a", 5.0, 2.0, 7.0, 10.0)
    write("intel-amx", "a", 1.5, 4.0, 6.0, 12.0)
    write("intel-amx", "b", 0.1, 9.0, 0.1, 99.0, quick=True)
    found = {what: least(by_kind) for (_, what, *_), by_kind in claims(tmp_path).items()}
    assert found == {"fast": 1.5, "slow": 4.0, "bare": 6.0, "size": 12.0}
    text = table.table(tmp_path)
    assert "| fast | peer | ≥ 2 | 5x met | 1.5x **missed** |" in text
    assert table.missed_here("amd-avx2", tmp_path) == []
    assert [line.partition(",")[0] for line in table.missed_here("intel-amx", tmp_path)] == ["a: fast", "a: slow"]


def test_the_figures_are_drawn_from_the_results():
    from benchmarks import figures

    for name, draw in figures.FIGURES.items():
        assert (figures.IMAGES / name).read_text(encoding="utf-8") == draw(), (
            f"{name}: python -m benchmarks.figures --write"
        )


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_of_a_page_lead_somewhere(page):
    assert list(documentation.broken_links(page)) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# A *new* `name`, twice\n```text\n# no heading\n```\n## λ here\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md) [b](other.md#a-new-name-twice) [c](#own) `[d](none.md)`\n# Own\n")
    assert list(documentation.broken_links(page)) == []
    page.write_text(
        "[a](none.md) ![b](none.png) [c](other.md#no-heading) [d](other.md#λ-here) [e](#own) [f](https://example.org/none)"
    )
    assert list(documentation.broken_links(page)) == [
        "none.md",
        "none.png",
        "other.md#no-heading",
        "other.md#λ-here",
        "#own",
    ]


@pytest.mark.parametrize("page", [README, CONTRIBUTING], ids=name_of)
def test_every_file_that_a_page_sends_to_is_there(page):
    named = [path for path in _PATH.findall(page.read_text()) if "NAME" not in path]
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_readme_names_every_command():
    table = README.read_text().partition("| command | does |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:]))) == set(
        COMMANDS
    )


def test_every_protocol_and_layer_module_that_the_readme_names_is_there():
    text = README.read_text()
    assert {"dino/1", "msn/1", "mae/1"} <= set(re.findall(r"`(\w+/\d)`", text)) <= set(protocols.protocols())
    table = text[text.index("| layer | modules") :]
    named = set(re.findall(r"`(\w+)/?`", table[: table.index("\n\n")]))
    present = {p.stem for p in (ROOT / "fewvit").glob("*.py")} | {
        p.name for p in (ROOT / "fewvit").iterdir() if (p / "__init__.py").exists()
    }
    assert named == present - {"__init__", "__main__"}


def test_every_plug_in_kind_that_a_page_names_has_plug_ins():
    for kind in {kind for page in PAGES for kind in re.findall(r"`fewvit/(\w+)/NAME\.py`", page.read_text())}:
        assert plugins.names(kind)


def test_the_classifier_that_contributing_shows_is_a_plug_in_of_one_file(tmp_path, python):
    shutil.copytree(ROOT / "fewvit", tmp_path / "fewvit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fewvit/classifiers/nearest_mean.py").write_text(documentation.blocks(CONTRIBUTING, "python")[0])
    use = (
        "from fewvit import plugins; made = plugins.find('classifiers', 'nearest-mean')(power=1)\n"
        "print(made.fit([[0.0], [1], [7]], [3, 3, 7]).predict([[6.0], [0.2]]).tolist())"
    )
    assert python(use, PYTHONPATH=str(tmp_path)).stdout.strip() == "[7, 3]"


def test_published_numbers_of_msns_table_are_those_of_the_registry():
    from fewvit.backbones import find_variant

    text = (ROOT / "docs/protocols.md").read_text()
    rows = re.findall(r"^\|[^|]+\| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == 11
    for name, numbers in rows:
        published = find_variant(name)[1].published
        assert numbers.split(" | ") == [published["lowshot"][shots] for shots in (1, 2, 5)], name


def test_the_licence_and_the_changelog_are_there():
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    assert f"## {fewvit.__version__}" in (ROOT / "CHANGELOG.md").read_text()


# ---- the site --------------------------------------------------------------------------------------------------------


def test_the_site_has_every_page():
    nav = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2].partition("\ntheme:")[0]
    pages = [*(ROOT / "docs").glob("**/*.md"), *(ROOT / "docs").glob("**/*.ipynb")]  # a notebook becomes a page
    assert sorted(re.findall(r"(\S+\.md)$", nav, re.MULTILINE)) == sorted(
        page.relative_to(ROOT / "docs").with_suffix(".md").as_posix() for page in pages
    )


def test_type_checkers_see_every_public_name_where_it_lives():
    tree = ast.parse((ROOT / "fewvit/__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: f"{line.module}"
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert seen == fewvit._HOMES


def test_the_reference_describes_every_public_name():
    described = re.findall(r"^::: fewvit\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert sorted(described) == sorted(set(fewvit.__all__) - {"__version__"})


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("mkdocs", "material", "nbclient", "ipykernel")),
    reason="the extra docs is not installed here; `make docs` builds with it",
)
def test_the_site_builds_without_a_warning_and_loads_nothing_from_outside(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loads = re.compile(
        r"""<(?:script|img|iframe|link rel="(?:stylesheet|icon|preload)")[^>]*(?:src|href)=["']?(?:https?:)?//[^>]*>"""
    )
    for page in tmp_path.glob("**/*.html"):
        assert loads.findall(page.read_text(encoding="utf-8")) == [], page.name
