"""Assembles the commands; the one place where an error becomes a line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from fewvit.errors import FewvitError, UsageError, is_out_of_memory
from fewvit.runs.processes import LeftToTheFirst, LostProcess, process_count, process_number

from .fitting import terminal_width, wrapped
from .panels import completion
from .streams import flushed, open_closed_ones, reader_has_gone

# command -> the first line of its help, shown without importing the command; a test compares the two
COMMANDS = {
    "backbones": "List the backbones, explain and compare them, check a weights file, fetch weights ahead.",
    "cache": "Show or clear the feature cache.",
    "data": "Check a set of images, part it, write it in another form; list the sets of the papers.",
    "demo": "A guided tour on built-in images: offline, in about a minute.",
    "doctor": "Check this machine: torch, FAISS, GPU, threads, decoders.",
    "episodes": "N-way K-shot accuracy over many episodes, with confidence intervals.",
    "export": "Write what other programs load: ONNX, torch's exported programs, a model of mteb.",
    "extract": "Turn images into features.",
    "finetune": "Fine-tune a backbone on a few labels, with the frozen baselines beside it.",
    "fit": "Labelled images in, a classifier bundle out, for `predict`.",
    "index": "Build an image index, search it, and keep it up to date.",
    "inspect": "Pictures of what a backbone sees: attention, components of patches, norms, neighbours, maps of a set.",
    "knn": "Weighted k-NN accuracy of frozen features, several k in one pass.",
    "layers": "Accuracy of each block's class token and patch mean, from one pass: which to read.",
    "linear": "Linear probe of frozen features: the grid of learning rates, layers and pooling in one pass.",
    "lowshot": "Accuracy from one, two or five labelled images per class, over trials.",
    "mieb": "The scores of MIEB, mteb's image benchmark, on your own images: 16-shot probe, clustering, retrieval.",
    "predict": "Label new images with a bundle: class or `unknown`, calibrated confidence, and strangeness.",
    "pretrain": "Train a DINO, MSN or MAE backbone on your own images.",
    "report": "Results of sweeps, runs and commands as one table and one page.",
    "sweep": "Evaluate many backbones on many data sets by many methods, resumable.",
    "vtab": "VTAB-1k: penalties chosen on 800/200 images, fitted on 1000, tested once; means over sets and groups.",
}
_RUNS = ("finetune", "linear", "pretrain")  # what they do is in the folder --out
# what several processes of torchrun do together: train, or extract the features of an evaluation
_TOGETHER = (*_RUNS, "episodes", "extract", "knn", "lowshot", "mieb")
_OF_INPUTS = (2, 3, 4)  # exit codes of what is wrong with the command line, the data or other files
EPILOG = (
    "Every command takes --help. "
    "Sources are folders, images, tables, shards, zip archives, features (.npz), `digits` or NAME:DIR of `data list`."
)


# names that DINO's, DINOv2's and MSN's scripts taught people; accepted, but not shown
OLD_NAMES = {
    "--nb-knn": "--k",
    "--nb_knn": "--k",
    "--n-per-class-list": "--shots",
    "--n-tries": "--trials",
    "--pretrained-weights": "--weights",
    "--subset-path": "--subset",
    "--checkpoint_key": "--checkpoint-key",
}


def _in_our_words(argv: Sequence[str]) -> list[str]:
    """The command line with old flag names replaced, also in their `--flag=value` form."""
    return [
        OLD_NAMES.get(word.partition("=")[0], word.partition("=")[0]) + "".join(word.partition("=")[1:])
        for word in argv
    ]


class LazyCommands(TyperGroup):
    """Imports a command's module when the command is used, so that help and usage errors cost nothing."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, in the order that help lists them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, its module imported now; None for a name that is none."""
        if cmd_name not in COMMANDS:
            return None
        _refuse_processes(cmd_name)
        module = importlib.import_module(f".{cmd_name}", __package__)
        return typer.main.get_command(module.app)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """click's (name, command, rest of the words). Raises UnknownName for a command that is none."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from fewvit.errors import UnknownName

            raise UnknownName("command", args[0], COMMANDS, fix="Run `fewvit --help`.")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What the shell may complete: commands, from their names and lines alone, or options."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [completion(name, COMMANDS[name]) for name in COMMANDS if name.startswith(incomplete)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of commands into the help, from their names and lines alone."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=LazyCommands,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from fewvit import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def fewvit(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and stop."
    ),
) -> None:
    """Label-efficient few-shot learning on frozen self-supervised ViTs (DINO, MSN, MAE, DINOv2, DINOv3 and others)."""


def _refuse_processes(command: str) -> None:
    """Raise UsageError where torchrun starts several processes of a command that would do everything in each."""
    if process_count() > 1 and command not in _TOGETHER:
        raise UsageError(
            f"torchrun started {process_count()} processes, and `fewvit {command}` works in one",
            fix=f"Run it without torchrun, which shares the work of {', '.join(sorted(_TOGETHER))}. `extract` puts "
            "features into the cache, where every command finds them.",
        )


class Terminated(BaseException):
    """SIGTERM arrived: what is running saves its work and the process ends with 143."""


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    raise Terminated


def run(argv: Sequence[str]) -> int:
    """The exit code of one command line; errors go to stderr in one or two lines."""
    with contextlib.suppress(ValueError):  # not the main thread: the host program keeps its handlers
        signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        outcome = typer.main.get_command(app)(args=_in_our_words(argv), prog_name="fewvit", standalone_mode=False)
        if outcome == 130:  # typer turned Ctrl-C into an exit code of its own
            raise KeyboardInterrupt
        return outcome if isinstance(outcome, int) else 0
    except LeftToTheFirst:
        return 0
    except LostProcess as error:  # of the first one, which has said why
        return error.exit_code if process_number() > 0 else _tell(str(error), error.exit_code, argv)
    except FewvitError as error:
        return _tell(str(error), error.exit_code, argv, of_all=not error.among_processes)
    except (KeyboardInterrupt, typer.Abort):
        return _tell(f"interrupted; {_kept(argv)}", 130, ())
    except Terminated:
        return _tell(f"terminated; {_kept(argv)}", 143, ())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has gone
        return 0
    except SystemExit:
        if reader_has_gone():
            return 0
        raise
    except Exception as error:
        if is_out_of_memory(error):
            return _tell("out of memory; try a smaller --batch-size", 6, argv)
        return _unforeseen(error, argv)


def _kept(argv: Sequence[str]) -> str:
    """What an interruption leaves: of a run whose folder is not there yet, nothing."""
    out = next((value for word, value in zip(argv, [*argv[1:], ""], strict=True) if word in ("--out", "-o")), None)
    out = next((word.removeprefix("--out=") for word in argv if word.startswith("--out=")), out)
    if argv[:1] and argv[0] in _RUNS and out and not os.path.exists(os.path.join(out, "manifest.json")):
        return "nothing was begun yet"
    if "--no-cache" in argv and not out:
        return "with --no-cache and without --out nothing was kept"
    return "what was done is kept, the same command goes on from there"


def _unforeseen(error: Exception, argv: Sequence[str]) -> int:
    """A usage error of the option parser, or a fault of ours."""
    message = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError" and message is not None:
        sys.stderr.write(message().rstrip() + "\n")
        return 2
    if message is not None:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "fewvit"
        return _tell(f"{' '.join(message().split())}\n  See `{command} --help`.", 2, argv, of_all=True)
    if isinstance(error, OSError):
        from fewvit.errors import from_os_error

        known = from_os_error(error, "running " + (argv[0] if argv else "fewvit"))
        return _tell(str(known), known.exit_code, argv)
    return _tell(
        f"internal error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n  Run it "
        "again with --debug for the details, and please report it.",
        1,
        argv,
    )


def _tell(text: str, code: int, argv: Sequence[str], *, of_all: bool = False) -> int:
    """Say what went wrong: the exit code. `of_all`: every process of torchrun meets it, and the first one says it.

    The others end with 0 then: torchrun would stop the first one before it speaks.
    """
    if process_number() > 0:
        if of_all and code in _OF_INPUTS:
            return 0
        if code in (130, 143):
            return code
        text = f"process {process_number() + 1} of {process_count()}: {text}"
    if "--debug" in argv:
        import traceback

        traceback.print_exc()
    width = terminal_width(sys.stderr)
    sys.stderr.write("".join(f"{wrapped(line, width)}\n" for line in f"fewvit: {text}".split("\n")))
    return code


def main() -> None:
    """The console script."""
    open_closed_ones()
    if process_number() > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the first process has the result
    sys.exit(flushed(run(sys.argv[1:])))


if __name__ == "__main__":
    main()
