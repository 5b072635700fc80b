"""`python -m hw1.runs`: look into the store of trained networks, check it, and take runs out of it. Needs no torch.

What was measured of runs lies in the store, too, and goes with them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from hw1 import drawn
from hw1.cli import complain
from hw1.console import Console
from hw1.errors import UserError, one_line
from hw1.files import read_table
from hw1.measured import Measured
from hw1.progress import duration
from hw1.store import Damaged, Store

OK, FAILED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; what it returns is the exit code: 0, 1 if a run is damaged, 2 for bad input."""
    arguments = _parser().parse_args(argv)
    console = Console()
    store = Store(Path(arguments.store))
    try:
        if not store.folder.is_dir():
            raise UserError(
                f"--store {arguments.store}: there is no such folder; trainings make it where they are started"
            )
        code: int = arguments.do(store, arguments, console)
        return code
    except (UserError, Damaged, OSError) as error:
        return complain(error)


def _parser() -> argparse.ArgumentParser:
    what = __doc__.partition(": ")[2].partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m hw1.runs", description=what)
    parser.add_argument("--store", default="runs", help="folder of the store (default: runs, here)")
    commands = parser.add_subparsers(required=True, metavar="list | show | verify | rm | clean")
    listing = commands.add_parser("list", help="one line per run, newest last")
    listing.set_defaults(do=_list)
    show = commands.add_parser("show", help="recipe, environment and final metrics of a run")
    show.add_argument("key", help="key of a run, or how it begins")
    show.set_defaults(do=_show)
    verify = commands.add_parser("verify", help="read runs and compare them with their checksums")
    verify.add_argument("key", nargs="*", help="keys, or how they begin; unless given all runs, and what was measured")
    verify.set_defaults(do=_verify)
    remove = commands.add_parser("rm", help="take runs out of the store, for good, with what was measured of them")
    remove.add_argument("key", nargs="+", help="keys, or how they begin")
    remove.add_argument("--force", action="store_true", help="also those that a live job uses")
    remove.set_defaults(do=_remove)
    clean = commands.add_parser(
        "clean",
        help="take away what killed jobs left, and what is known of runs and figures that are gone; finished runs stay",
    )
    clean.add_argument(
        "--all", action="store_true", help="also unfinished trainings, what was measured or drawn, and what was damaged"
    )
    clean.set_defaults(do=_clean)
    return parser


def _list(store: Store, arguments: argparse.Namespace, console: Console) -> int:
    found, damaged = [], []
    for key in store.list():
        try:
            found.append(store.info(key))
        except (Damaged, OSError) as error:
            damaged.append(f"{key[:8]} cannot be read: {one_line(error)}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("key", "network, parameters", "data", "batch", "replicas", "trained in", "finished"):
        table.add_column(head, no_wrap=True)
    for info in sorted(found, key=lambda each: str(each.get("finished", ""))):
        table.add_row(*(Text(cell) for cell in _row(store, info)))
    console.print(table)
    size = sum(file.stat().st_size for key in store.list() for file in store.path(key).iterdir())
    console.print(f"{len(found)} runs, {size / 1e6:.1f} MB, in {store.folder}", markup=False, highlight=False)
    kinds = {
        ".measured": "tables measured of them",
        drawn.PLACE: "jobs, sweeps and comparisons whose figures are known",
        ".partial": "trainings to go on with",
        ".quarantine": "damaged, set aside",
    }
    for place, what in kinds.items():
        if count := len(list(store.folder.glob(f"{place}/*"))):
            line = f"{what}: {count}, in {store.folder / place}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in damaged:
        console.print(line, markup=False, highlight=False, style="red")
    return FAILED if damaged else OK


def _row(store: Store, info: dict[str, Any]) -> list[str]:
    recipe = _recipe(store, info["key"])
    diverged = sum(status != "ok" for status in info["status"])
    replicas = str(len(info["status"])) + (f" ({diverged} diverged)" if diverged else "")
    data = str(recipe["dataset"].get("_target_", "?")).rpartition(".")[2]
    seconds = duration(info["wall_seconds"])
    when = str(info["finished"])[:16].replace("T", " ")
    network = info["architecture"].removesuffix(" parameters")
    return [info["key"][:8], network, data, str(recipe["batch_size"]), replicas, seconds, when]


def _recipe(store: Store, key: str) -> dict[str, Any]:
    import yaml

    file = store.path(key) / "recipe.yaml"
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, yaml.YAMLError) as error:
        raise Damaged(f"{file}: {error}") from error
    if not isinstance(recipe, dict):
        raise Damaged(f"{file}: no mapping")
    return recipe


def _show(store: Store, arguments: argparse.Namespace, console: Console) -> int:
    key = store.expand(arguments.key)
    store.verify(key)
    folder, info = store.path(key), store.info(key)
    console.print(f"run {key}\n", style="bold", markup=False, highlight=False)
    console.print((folder / "recipe.yaml").read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    for name, value in info.items():
        if name not in ("key", "nonce"):
            text = " ".join(map(str, value)) if name == "command" else str(value)
            console.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)
    last = read_table(folder / "history.csv").drop_duplicates("replica", keep="last")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in last.columns:
        table.add_column(name.replace("_", " "))
    for _, row in last.iterrows():
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    console.print("\nlast row of each replica's history:", markup=False, highlight=False)
    console.print(table)
    console.print(f"\n{folder}", markup=False, highlight=False, soft_wrap=True)
    return OK


def _verify(store: Store, arguments: argparse.Namespace, console: Console) -> int:
    given, measured = [store.expand(key) for key in arguments.key], Measured(store.folder)
    bad = _verify_each(store, given or store.list(), "runs", console)
    if not given and (keys := measured.list()):
        bad += _verify_each(measured, keys, "measurements", console)
    return FAILED if bad else OK


def _verify_each(store: Store, keys: Sequence[str], what: str, console: Console) -> int:
    """How many are damaged."""
    bad = 0
    for key in keys:
        try:
            store.verify(key)
        except Damaged as damage:
            bad += 1
            console.print(f"damaged: {one_line(damage)}", style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(keys) - bad} of {len(keys)} {what} are whole", markup=False, highlight=False)
    return bad


def _remove(store: Store, arguments: argparse.Namespace, console: Console) -> int:
    measured = Measured(store.folder)
    for key in [store.expand(key) for key in arguments.key]:
        store.remove(key, arguments.force)
        gone = measured.of(key)
        for each in gone:
            measured.remove(each, force=True)
        console.print(f"removed {key}{' and what was measured of it' * bool(gone)}", markup=False, highlight=False)
    return OK


def _clean(store: Store, arguments: argparse.Namespace, console: Console) -> int:
    removed = [*store.clean(arguments.all), *Measured(store.folder).clean(arguments.all)]
    removed += drawn.clean(store.folder, arguments.all)
    for name in removed:
        console.print(f"removed {name}", markup=False, highlight=False)
    last = f"{len(removed)} leftovers removed from {store.folder}"
    console.print(last, markup=False, highlight=False, soft_wrap=True)
    return OK


if __name__ == "__main__":
    sys.exit(main())
