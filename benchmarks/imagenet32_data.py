"""ImageNet 32x32 on disk: convert the official files or a folder of full-size images, generate a small data set in the
official layout, or check what is there."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks._common import new_parser, run_main
from eqprop._errors import ConfigError
from eqprop._image_cache import SIDECAR, ImageCache, open_cache
from eqprop._imagenet32 import OFFICIAL, cached_imagenet32, find_official, read_batch, read_classes
from eqprop._imagenet_folder import convert_imagenet_folder
from eqprop._imagenet_sample import FORMS, generate_imagenet32

MODULE = "benchmarks.imagenet32_data"


def describe(cache: ImageCache) -> str:
    """One line on a cache, with its size."""
    size = sum(file["bytes"] for file in cache.record["files"].values())
    counts = cache.record["counts"]
    return (
        f"{cache.folder}: {counts['train']:,} training and {counts['test']:,} test images, "
        f"{len(cache.classes)} classes, {size / 1e6:,.1f} MB ({cache.source})"
    )


def convert(arguments: argparse.Namespace) -> None:
    """The official files, or a folder of full-size images, into a cache."""
    folder, out = arguments.folder, arguments.cache
    if (folder / "train").is_dir():
        if out is None:
            raise ConfigError("convert: a folder of full-size images needed a folder for the result; write --cache DIR")
        convert_imagenet_folder(folder, out, arguments.map_clsloc, val_labels=arguments.val_labels, jobs=arguments.jobs)
    else:
        out = cached_imagenet32(folder, out)
    print(describe(open_cache(out)))


def generate(arguments: argparse.Namespace) -> None:
    """A small data set in the official layout."""
    generate_imagenet32(
        arguments.folder,
        arguments.form,
        classes=arguments.classes,
        per_batch=arguments.per_batch,
        validation=arguments.validation,
        seed=arguments.seed,
    )
    total = 10 * arguments.per_batch
    print(
        f"{arguments.folder}: {total:,} training and {arguments.validation:,} validation images, "
        f"{arguments.classes} classes, {arguments.form} form (generated)"
    )


def check(arguments: argparse.Namespace) -> None:
    """Every file of a cache against its checksum, or every official file read in full."""
    if (arguments.folder / SIDECAR).is_file():
        print(f"{describe(open_cache(arguments.folder, verify=True))}: checksums agree")
        return
    files = find_official(arguments.folder)
    classes = read_classes(files.map_clsloc)
    counts = dict.fromkeys(OFFICIAL, 0)
    for part, path in files.batches:
        images, labels = read_batch(path, len(classes))
        counts[part] += len(labels)
        print(f"{path.name}: {len(images):,} images, labels {labels.min() + 1} to {labels.max() + 1}")
    agree = "the official numbers" if counts == OFFICIAL else "not the official numbers, 1,281,167 and 50,000"
    print(f"{counts['train']:,} training and {counts['test']:,} validation images, {files.form} form: {agree}")


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    epilog = (
        "examples:\n"
        f"  python -m {MODULE} convert data/imagenet32 --cache data/imagenet32-cache\n"
        f"  python -m {MODULE} convert data/ILSVRC/Data/CLS-LOC --cache data/cache --map-clsloc map_clsloc.txt "
        "--val-labels LOC_val_solution.csv\n"
        f"  python -m {MODULE} generate data/generated --form npz --classes 10\n"
        f"  python -m {MODULE} check data/imagenet32-cache"
    )
    made = new_parser(MODULE, __doc__ or "", epilog)
    made.set_defaults(threads=None, record=None)
    commands = made.add_subparsers(title="commands", metavar="convert | generate | check", required=True)

    one = commands.add_parser("convert", help="official files or full-size images, into a cache")
    one.add_argument("folder", metavar="FOLDER", type=Path, help="official files, or train/<synset>/ and val/")
    one.add_argument("--cache", metavar="DIR", type=Path, help="folder of the cache (default: in ~/.cache/eqprop)")
    full = one.add_argument_group("full-size images")
    full.add_argument(
        "--map-clsloc", metavar="FILE", type=Path, help="map_clsloc.txt (default: in FOLDER or beside it)"
    )
    full.add_argument("--val-labels", metavar="FILE", type=Path, help="classes of the images in a flat val/")
    full.add_argument("--jobs", metavar="N", type=int, help="threads that decode (default: one a core)")
    one.set_defaults(command_function=convert)

    two = commands.add_parser("generate", help="a small data set in the official layout")
    two.add_argument("folder", metavar="FOLDER", type=Path, help="made where it is missing")
    two.add_argument("--form", choices=FORMS, default="pickle", help="of the files (default: %(default)s)")
    two.add_argument("--classes", type=int, default=10, metavar="N", help="classes (default: %(default)s)")
    two.add_argument("--per-batch", type=int, default=64, metavar="N", help="images a file (default: %(default)s)")
    two.add_argument("--validation", type=int, default=200, metavar="N", help="of val_data (default: %(default)s)")
    two.add_argument("--seed", type=int, default=0, help="of the images (default: %(default)s)")
    two.set_defaults(command_function=generate)

    three = commands.add_parser("check", help="checksums of a cache, or the content of official files")
    three.add_argument("folder", metavar="FOLDER", type=Path, help="cache, or official files")
    three.set_defaults(command_function=check)
    return made


def main(arguments: argparse.Namespace) -> None:
    """Run the command."""
    arguments.command_function(arguments)


if __name__ == "__main__":
    run_main(main, options(), make_run=False)
