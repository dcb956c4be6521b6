"""``vpr benchmark``: data sets by methods."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpr.cli.common import RadiusOption, SetOption, call_with, command_line, say, settings_of
from vpr.cli.on_ray import RayCommand, RayOption, StagingOption, WorkerCpusOption, WorkerGpusOption, ray_workers
from vpr.config import config_path
from vpr.core import ConfigError, DataError, Dataset
from vpr.runtime.files import require_file

if TYPE_CHECKING:
    from vpr.benchmark import DatasetSource, NamedSettings

KEYS = ("name", "reader", "source", "protocol")  # of a data set's TOML file


class SeveralValues(RayCommand):
    """Lets an option take several values at once: ``--datasets A B`` is ``--datasets A --datasets B``."""

    several = ("--datasets", "--methods")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        current = ""
        for argument in args:
            if argument.startswith("-"):
                current = argument if argument in self.several else ""
            elif current and spread[-1] != current:
                spread.append(current)
            spread.append(argument)
        return super().parse_args(ctx, spread)


def benchmark(
    *,
    datasets: Annotated[
        list[str],
        typer.Option(
            metavar="DATASET...",
            help="Folders with database/ and queries/, PROTOCOL=ROOT (`vpr datasets list`), or TOML files that name a "
            "reader; NAME=FOLDER gives a folder another name.",
        ),
    ],
    methods: Annotated[
        list[str],
        typer.Option(
            metavar="CONFIG...", help="Names of configs (`vpr config list`) or TOML files; NAME=FILE renames."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for features, reports and the tables.")],
    radius_m: RadiusOption = 25.0,
    overrides: SetOption = None,
    ray: RayOption = None,
    staging: StagingOption = None,
    worker_cpus: WorkerCpusOption = 1,
    worker_gpus: WorkerGpusOption = None,
) -> None:
    """Run every method on every data set, and put their recalls into one table and one page.

    Features are shared between methods whose extractor has the same settings. Started again, it continues; a
    combination that is done is not run again unless its settings or ground truth changed. A combination that fails is
    reported at the end and does not stop the others; the exit status is then 1.
    """
    from vpr import benchmark as runner
    from vpr.report.benchmark_outputs import write_benchmark
    from vpr.runtime import device as machine

    sources = [_source(text, radius_m) for text in datasets]
    chosen = [_method(text, overrides or []) for text in methods]
    _require_distinct("--datasets", [source.name for source in sources])
    _require_distinct("--methods", [method.name for method in chosen])
    about = machine.facts(command_line(), machine.device_of(chosen[0].settings.machine.device))
    out.mkdir(parents=True, exist_ok=True)
    with ray_workers(ray, staging, worker_cpus, worker_gpus, out) as workers:
        found = runner.run(sources, chosen, out, about, workers)
    failures = [(each.dataset, each.method, each.error) for each in found.failures]
    say(write_benchmark(out, found.rows, failures, about))
    if found.reused:
        say(f"{found.reused} of {len(sources) * len(chosen)} combinations were done before.")
    if failures:
        raise DataError(f"{len(failures)} of {len(sources) * len(chosen)} combinations failed; see {out}/benchmark.md")


def _source(text: str, radius_m: float) -> DatasetSource:
    """The data set that an argument names; nothing is read yet."""
    from vpr import datasets
    from vpr.benchmark import DatasetSource

    name, separator, rest = text.partition("=")
    if separator and name in datasets.PROTOCOLS:
        record, root = datasets.protocol(name), Path(rest)
        return DatasetSource(name, lambda: datasets.judge(datasets.find(record, root), record), record.one_per_group)
    path = Path(rest if separator else text)
    if path.suffix == ".toml":
        return _described(path, name if separator else path.stem)
    if not separator and not path.exists():
        raise ConfigError(f"--datasets {text!r}: no such folder; a known data set is given as PROTOCOL=ROOT")
    label = name if separator else path.resolve().name
    return DatasetSource(_folder_name(label), lambda: _read_folder(path, radius_m))


def _read_folder(path: Path, radius_m: float) -> Dataset:
    from vpr import datasets
    from vpr.datasets.locating import two_folders

    database, queries = two_folders(path)
    return datasets.read_pair(database, queries, radius_m)


def _described(path: Path, name: str) -> DatasetSource:
    """A data set that a TOML file describes: reader and source, and optionally name and protocol."""
    from vpr import datasets
    from vpr.benchmark import DatasetSource

    try:
        record = tomllib.loads(require_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None
    unknown = sorted(record.keys() - {*KEYS})
    if unknown or "reader" not in record:
        raise ConfigError(
            f"{path}: expected the keys {', '.join(KEYS)}; {f'found {unknown[0]}' if unknown else 'no reader'}"
        )
    protocol = datasets.protocol(record["protocol"]) if "protocol" in record else None
    source: Mapping[str, Any] = record.get("source", {})

    def load() -> Dataset:
        read = datasets.reader(record["reader"]).read
        dataset: Dataset = call_with(read, [f"{key}={_toml(value)}" for key, value in source.items()], str(path))
        return dataset if protocol is None else datasets.judge(dataset, protocol)

    grouped = protocol is not None and protocol.one_per_group
    return DatasetSource(_folder_name(str(record.get("name", name))), load, grouped)


def _toml(value: Any) -> str:
    """A value as ``call_with`` reads it."""
    import tomli_w

    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def _method(text: str, overrides: Sequence[str]) -> NamedSettings:
    from vpr.benchmark import NamedSettings

    name, separator, rest = text.partition("=")
    chosen = rest if separator else text
    return NamedSettings(_folder_name(name if separator else config_path(chosen).stem), settings_of(chosen, overrides))


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.+@-]+", "_", name).strip(".") or "_"


def _require_distinct(option: str, names: Sequence[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigError(f"{option}: two are called {repeated!r}; rename one with NAME=...")
