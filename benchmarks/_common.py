"""What the scripts of `benchmarks/` share: options, the device, and how a result is printed and recorded."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError, EqPropError
from eqprop._runs import Run, system_record

RESULTS = Path(__file__).resolve().parent / "results"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows defaults, but not where there is nothing to say ("default: None")."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text and "%(default)" not in text and action.default not in (None, False, argparse.SUPPRESS):
            text += " (default: %(default)s)"
        return text


def parser(module: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, epilog=epilog, formatter_class=HelpFormatter
    )
    run = made.add_argument_group("run")
    run.add_argument("--out", metavar="DIR", default=f"runs/{module.rpartition('.')[2]}", help="run folder")
    run.add_argument("--resume", action="store_true", help="continue the run in --out where it was interrupted")
    run.add_argument(
        "--overwrite", action="store_true", help="replace the run in --out (only files of a run are removed)"
    )
    run.add_argument("--record", metavar="NAME", help="copy summary.json to benchmarks/results/NAME.json")
    run.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    run.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: as torch decides)")
    run.add_argument("--quiet", action="store_true", help="no progress bar and no line an epoch")
    return made


def main_guard(body: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a script's body; an error raised on purpose becomes one plain line and exit status 2."""
    try:
        body(sys.argv[1:] if argv is None else argv)
    except EqPropError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint is kept, continue with --resume", file=sys.stderr)
        return 130
    return 0


def use_threads(threads: int | None) -> None:
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"--threads: got {threads}, needed at least 1")
        torch.set_num_threads(threads)


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device: got {name!r}, needed auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device: got {name!r}, but torch {torch.__version__} finds no CUDA device; write --device cpu"
        )
    return device


def command_line(module: str, argv: Sequence[str]) -> str:
    """The command that repeats the run, without absolute paths: they say nothing to a reader."""
    shown = []
    for word in argv:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        shown.append(f"{option}{equals}{Path(value).name if value.startswith(('/', '~')) else value}")
    return shlex.join(["python", "-m", module, *shown])


def headline(
    name: str, value: float, unit: str, *, at_most: float | None = None, at_least: float | None = None
) -> dict[str, Any]:
    """A figure to print and record, with the target it has to meet, if any."""
    figure: dict[str, Any] = {"name": name, "value": value, "unit": unit}
    if at_most is not None:
        figure["target"] = {"at_most": at_most}
    if at_least is not None:
        figure["target"] = {"at_least": at_least}
    return figure


def target_text(figure: Mapping[str, Any]) -> str:
    """The target as "at most 1.9 %, met"; empty where there is none."""
    target = figure.get("target")
    if not target:
        return ""
    ((kind, bound),) = target.items()
    met = figure["value"] <= bound if kind == "at_most" else figure["value"] >= bound
    return f"{kind.replace('_', ' ')} {format_value(bound, figure['unit'])}, {'met' if met else 'missed'}"


def format_value(value: float, unit: str) -> str:
    """Value and unit, with as many digits as mean something: percentages to a hundredth, the rest to four figures."""
    number = f"{value:.2f}" if unit == "%" else f"{value:.4g}"
    return f"{number} {unit}".rstrip()


def summary(
    title: str,
    command: str,
    config: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
    device: torch.device,
    **facts: Any,
) -> dict[str, Any]:
    """What goes into summary.json; `facts` are the script's own (seeds, data, steps, sweeps, residuals, seconds)."""  # fmt: skip
    record = {"title": title, "headline": [dict(figure) for figure in figures], "command": command}
    return record | facts | {"config": dict(config)} | system_record(device)


def finish(run: Run, record: Mapping[str, Any], name: str | None = None) -> None:
    """Write summary.json into the run folder, print the headline figures, and copy the summary to results/NAME.json."""
    path = run.write_summary(record)
    print(f"\n{record['title']}")
    width = max(len(figure["name"]) for figure in record["headline"])
    for figure in record["headline"]:
        target = target_text(figure)
        shown = f"{format_value(figure['value'], figure['unit']):>12}"
        print(f"  {figure['name']:<{width}}  {shown}{f'   ({target})' if target else ''}")
    print(f"written to {run.folder}")
    if name is not None:
        if not name or "/" in name or name.startswith("."):
            raise ConfigError(f"--record: got {name!r}, needed a plain name, as in --record mnist-1024")
        atomic_write(RESULTS / f"{name}.json", path.read_bytes(), "the recorded result")
        print(
            f"recorded as benchmarks/results/{name}.json; run `python -m benchmarks.table` to renew the README's table"
        )


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The recorded summaries by name, in alphabetical order."""
    results = {}
    for path in sorted(folder.glob("*.json")):
        try:
            results[path.stem] = json.loads(path.read_bytes())
        except ValueError as error:
            raise ConfigError(
                f"{path.name} in benchmarks/results is not valid JSON ({error}); record it again"
            ) from error
    return results
