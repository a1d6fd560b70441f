"""What the scripts of `benchmarks/` share: options, the device, and how a result is printed and recorded."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eqprop._checkpoints import atomic_write
from eqprop._distributed import Workers
from eqprop._errors import ConfigError, EqPropError
from eqprop._runs import Run, system_record

RESULTS = Path(__file__).resolve().parent / "results"
# options that decide no number
_OUTPUT = ("out", "overwrite", "resume", "record", "threads", "command", "run", "workers")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows defaults, but not where there is nothing to say ("default: None")."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text and "(default: " not in text and not any(action.default is v for v in (None, False, argparse.SUPPRESS)):
            text += " (default: %(default)s)"
        return text


def new_parser(module: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser whose errors are short: argparse's own usage would be a dozen lines before each."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        usage="%(prog)s [options]",
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
    )


def add_output_options(parser: argparse.ArgumentParser, default: Path, *, resume: bool = False) -> None:
    """The options that every script has: where the run goes and whether it is recorded."""
    group = parser.add_argument_group("run")
    group.add_argument("--out", metavar="DIR", type=Path, default=default, help=f"run folder (default: {default})")
    if resume:
        group.add_argument("--resume", action="store_true", help="continue the run in --out where it was interrupted")
    group.add_argument("--overwrite", action="store_true", help="replace the run in --out, and no other file in it")
    group.add_argument("--record", metavar="NAME", help="copy summary.json to benchmarks/results/NAME.json")
    group.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: as torch decides)")


def add_sweep_options(
    parser: argparse.ArgumentParser, out: Path | None, *, members: int, together: str, record: str
) -> Any:
    """The options of every script whose points go through `eqprop.sweep`; returns their group, for more of them.

    `out`: where the sweep goes; None for a folder by the name of what is swept. `together`: what the `members` of a
    process are. `record`: what is copied.
    """
    group = parser.add_argument_group("run")
    place = out or "runs/sweep-NAME"
    group.add_argument("--out", metavar="DIR", type=Path, default=out, help=f"folder of the sweep (default: {place})")
    group.add_argument("--jobs", type=int, metavar="N", help="processes at a time (default: 1, or one a GPU)")
    group.add_argument("--threads", type=int, metavar="N", help="threads of the CPU, a process (default: 1)")
    group.add_argument("--members", type=int, default=members, metavar="N", help=together)
    group.add_argument("--retry-failed", action="store_true", help="compute failed points again")
    group.add_argument("--quiet", action="store_true", help="no progress line")
    group.add_argument("--record", metavar="NAME", help=f"copy {record}")
    return group


def run_main(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    *,
    make_run: bool = True,
    several: bool = False,
) -> int:
    """Parse, run, and exit with a status other than 0 if that fails: an error raised on purpose is one plain line.

    With `make_run` the run folder is made first (as `arguments.run`), so that a folder in the way is told at once.
    `several`: the script can be started by torchrun; it finds the processes, each with its device, in
    `arguments.workers`, and what all but the first print goes nowhere. Other scripts refuse torchrun.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    first = os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"
    with contextlib.ExitStack() as exits:
        if not first:
            exits.enter_context(contextlib.redirect_stdout(io.StringIO()))
        with contextlib.nullcontext() if first else contextlib.redirect_stderr(io.StringIO()):
            arguments = parser.parse_args(words)
        arguments.command = command_line(parser.prog, words)
        arguments.workers = Workers.alone()
        try:
            arguments.workers = _workers(arguments, parser.prog, several)
            exits.enter_context(arguments.workers)
            with arguments.workers.watching():
                _run(main, arguments, make_run)
        except EqPropError as error:
            workers = arguments.workers
            if workers.prints(error) if workers.size > 1 else first:
                print(f"error{'' if workers.first else f' (process {workers.rank})'}: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except BrokenPipeError:  # whoever read the output, as `head`, has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at the end does not fail
            raise SystemExit(141) from None
        except KeyboardInterrupt:
            if first:
                print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
    return 0


def _workers(arguments: argparse.Namespace, program: str, several: bool) -> Workers:
    if several:
        workers = Workers.from_environment(device_named(getattr(arguments, "device", "cpu")))
        if workers.size > 1:
            local = os.environ.get("LOCAL_WORLD_SIZE", str(workers.size))
            arguments.command = arguments.command.replace("python -m", f"torchrun --nproc-per-node={local} -m", 1)
        return workers
    size = os.environ.get("WORLD_SIZE", "1")
    if size != "1":
        raise ConfigError(f"torchrun started {size} processes, but this script runs in one; write {program}")
    return Workers.alone()


def _run(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace, make_run: bool) -> None:
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise ConfigError(f"--threads: got {arguments.threads}, needed at least 1")
        torch.set_num_threads(arguments.threads)
    if arguments.record is not None and (not arguments.record or set(arguments.record) & set("/\\.")):
        raise ConfigError(f"--record: got {arguments.record!r}, needed a plain name, as in --record mnist-1024")
    if make_run:
        arguments.run = Run.create(
            arguments.out, options_record(arguments), overwrite=arguments.overwrite, workers=arguments.workers
        )
    main(arguments)


def options_record(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that decide numbers, as plain JSON."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k not in _OUTPUT}


def command_line(program: str, argv: Sequence[str]) -> str:
    """The command that repeats the run, without absolute paths: they say nothing to a reader."""
    shown = []
    for word in argv:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        shown.append(f"{option}{equals}{Path(value).name if value.startswith(('/', '~')) else value}")
    return shlex.join([*program.split(), *shown])


def device_named(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU where there is one."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device: got {name!r}, needed auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device: got {name!r}, but torch finds no CUDA device here; write --device cpu")
    # what a small nudge moves is of the size of TF32's rounding: phases in float32 are meant to be float32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return device


def sizes(network: str) -> list[int]:
    """[784, 1024, 10] of "784-1024-10"."""
    parts = network.split("-")
    if len(parts) < 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--network: got {network!r}, needed units of input, hidden and output, as in 784-1024-10")
    return [int(part) for part in parts]


def _named(value: Any) -> Any:
    """A setting as a record shows it: of a folder the name, for its place is that of one machine."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def target_text(figure: Mapping[str, Any]) -> str:
    """The target ("<= 1.9") with its unit and whether it is met; empty where there is none."""
    target = figure.get("target")
    if not target:
        return ""
    sign, _, bound = target.partition(" ")
    met = figure["value"] <= float(bound) if sign == "<=" else figure["value"] >= float(bound)
    value = f"{bound} {figure['unit']}".rstrip()
    return f"{'≤' if sign == '<=' else '≥'} {value}, {'met' if met else 'missed'}"


def value_text(figure: Mapping[str, Any]) -> str:
    """Value and unit, with as many digits as mean something: percentages to a hundredth, the rest to three figures."""
    value, unit = figure["value"], figure["unit"]
    if unit == "%":
        number = f"{value:.2f}"
    else:
        number = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def finish(
    arguments: argparse.Namespace,
    *,
    title: str,
    headline: Sequence[Mapping[str, Any]],
    details: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
    run: Run | None = None,
) -> dict[str, Any]:
    """Write summary.json into the run folder, print the headline figures, and with --record keep copies in results/.

    Args:
        arguments: what the parser gave.
        title: one line that names the experiment.
        headline: figures {name, value, unit} and, where there is one, target ("<= 1.9" or ">= 95").
        details: everything else that is worth keeping: seeds, data, steps, sweeps, residuals, seconds.
        config: settings of the run; None for the options.
        device: that it ran on; None for the one of --device.
        run: run folder; None for the one that `run_main` made.
    """
    run = arguments.run if run is None else run
    device = device_named(getattr(arguments, "device", "cpu")) if device is None else device
    summary: dict[str, Any] = {
        "title": title,
        "headline": [dict(figure) for figure in headline],
        "command": arguments.command,
        **(details or {}),
        "config": {k: _named(v) for k, v in (options_record(arguments) if config is None else config).items()},
        "processes": arguments.workers.size,
        **system_record(device),
    }
    if not arguments.workers.first:  # of several processes the first writes
        return summary
    path = run.write_summary(summary)
    if arguments.record is not None:  # before anything is printed: a closed pipe must not lose it
        atomic_write(RESULTS / f"{arguments.record}.json", path.read_bytes(), "the recorded result")
        # of several seeds, each with a run folder of its own, the figures of the first
        folder = min([run.folder, *run.folder.glob("seed-*")], key=lambda f: (not (f / "figures").is_dir(), f))
        for picture in sorted(folder.glob("figures/*.png")):
            atomic_write(RESULTS / f"{arguments.record}-{picture.name}", picture.read_bytes(), "a recorded figure")
    print(f"\n{title}")
    width = max(len(figure["name"]) for figure in headline)
    for figure in headline:
        target = target_text(figure)
        print(f"  {figure['name']:<{width}}  {value_text(figure):>12}{f'   ({target})' if target else ''}")
    print(f"written to {run.folder}")
    if arguments.record is not None:
        print(f"recorded in benchmarks/results/{arguments.record}.json; `python -m benchmarks.table` renews the tables")
    return summary


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The recorded summaries by name, in alphabetical order."""
    results = {}
    for path in sorted(folder.glob("*.json")):
        try:
            results[path.stem] = json.loads(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"benchmarks/results/{path.name} is not valid JSON ({error}); record it again") from error
    return results
