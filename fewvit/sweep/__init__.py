"""Sweeps: many backbones, data sets, methods and shots; planned, measured cell by cell, resumed, and spread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UnknownName, UsageError
from ..extraction.shards import Part
from ..extraction.work import Progress
from ..files import claimed
from ..models.spec import Access
from ..results import manifest
from .estimate import extractions, lines
from .folder import SweepFolder
from .launchers import Here, Jobs, Launcher
from .plan import Plan, described, make_plan, overview
from .running import Ended, Store, Sweep
from .settings import SweepConfig
from .workshop import How, Workshop

__all__ = ["Ended", "How", "Request", "SweepConfig", "carry_out"]


@dataclass(frozen=True)
class Request:
    """What is to be done with a configuration."""

    config: SweepConfig
    out: Path
    dry_run: bool = False  # print the plan and stop
    jobs: int = 1
    only: str | None = None  # failed or missing: those cells alone
    shard: Part | None = None  # this part of the cells alone
    launcher: str = "local"  # where cells run
    ray_address: str | None = None  # of the cluster; None: the one of this machine, or $RAY_ADDRESS


def carry_out(
    request: Request,
    how: How,
    access: Access,
    notify: Callable[[str], None],
    progress: Callable[[Progress], None] | None = None,
) -> Ended:
    """Plan, say the plan, and run it: how it ended. After --dry-run its rows are those of the plan.

    Raises UsageError for a folder that another sweep is at work in, MissingExtra for a launcher that is not installed,
    and as `make_plan`.
    """
    _check(request, how)
    shop = Workshop(how, access, notify, progress)
    plan = make_plan(request.config, shop)
    folder = SweepFolder(request.out)
    mine = plan.shard(request.shard) if request.shard is not None else plan
    if request.dry_run:
        return _foreseen(mine, Store(folder, notify), shop, notify)
    with _alone(request):
        folder.write_plan(request.config.facts, [one.facts for one in plan.planned])
        store = Store(folder, notify)
        _tell(mine, store, shop, notify, measure=False)
        return Sweep(mine, store, shop, LAUNCHERS[request.launcher](request, shop), notify, request.only).run()


def _check(request: Request, how: How) -> None:
    """Raise UsageError for requests that do not go together."""
    if request.launcher not in LAUNCHERS:
        raise UnknownName("launcher", request.launcher, LAUNCHERS)
    elsewhere = request.launcher != Request.launcher
    if request.ray_address is not None and not elsewhere:
        raise UsageError("--ray-address goes with --launcher ray")
    if request.jobs > 1 and elsewhere:
        raise UsageError(
            f"--jobs goes without --launcher {request.launcher}, whose nodes run as many cells as they can"
        )
    for flag in (["--jobs"] if request.jobs > 1 else []) + ([f"--launcher {request.launcher}"] if elsewhere else []):
        if how.no_cache:
            raise UsageError(f"{flag} shares features through the cache", fix=f"Leave --no-cache away, or {flag}.")


def _foreseen(plan: Plan, store: Store, shop: Workshop, notify: Callable[[str], None]) -> Ended:
    """What a plan would do, as rows; what cannot be had counts as failed."""
    _tell(plan, store, shop, notify, measure=True)
    wrong = [(one.cell.shown, str(one.error), one.error.exit_code) for one in plan.planned if one.error is not None]
    rows = overview(plan, store.state)
    return Ended(rows, manifest(seed=plan.config.seed), planned=len(plan.planned), failed=wrong)


def _tell(plan: Plan, store: Store, shop: Workshop, notify: Callable[[str], None], *, measure: bool) -> None:
    done = sum(one.request in store for one in plan.planned)
    for line in described(plan, done):
        notify(line)
    open_groups = [group for group in plan.groups if any(one.request not in store for one in group.planned)]
    for line in lines(list(extractions(open_groups, shop, measure=measure))):
        notify(line)


def _local(request: Request, shop: Workshop) -> Launcher:
    return Jobs(shop, request.jobs) if request.jobs > 1 else Here(shop)


def _ray(request: Request, shop: Workshop) -> Launcher:
    from .on_ray import OnRay

    return OnRay(shop, request.ray_address)


LAUNCHERS: dict[str, Callable[[Request, Workshop], Launcher]] = {"local": _local, "ray": _ray}


@contextlib.contextmanager
def _alone(request: Request) -> Iterator[None]:
    """While a sweep is at work no other one is in its folder, unless each is a part of one.

    Raises UsageError where one is.
    """
    locks = {"sweep": False}  # lock -> whether it is shared
    if request.shard is not None:
        locks = {"sweep": True, f"shard-{request.shard.number}-of-{request.shard.count}": False}
    request.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for lock, shared in locks.items():
            if stack.enter_context(claimed(request.out / f".{lock}.lock", shared=shared, mode="a")) is False:
                raise UsageError(
                    "another sweep is at work in this folder",
                    file=request.out,
                    fix="Wait for it, or give each a part of the work: --shard 1/2 and --shard 2/2.",
                )
        yield
