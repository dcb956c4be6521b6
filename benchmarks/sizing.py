"""From quantities measured at a few sizes of a map to the sizing table: laws, their fit, machines and costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SIZES = (10**6, 10**7, 10**8, 10**9)  # images
GIB = 2**30
_MONTH_H = 730.0


@dataclass(frozen=True)
class Fleet:
    """The machines that a table is for, and what they cost; the prices are assumptions."""

    extractors: int = 10  # machines that extract
    cores: int = 16  # of each machine
    gib: float = 64.0  # main memory of each machine
    used: float = 0.7  # share of it that descriptors may take
    machine_hour: float = 0.60
    gb_month: float = 0.10  # of disk
    currency: str = "USD"


@dataclass(frozen=True)
class Law:
    """How a quantity grows: a + b x ("line"), or a x^b ("power")."""

    form: str
    a: float
    b: float

    def at(self, x: float) -> float:
        """The quantity at x."""
        return self.a + self.b * x if self.form == "line" else self.a * x**self.b


def fit(form: str, points: Sequence[Sequence[float]]) -> Law:
    """The law of least squares through two points or more; of the logarithms for a power."""
    if len({x for x, _ in points}) < 2:
        raise ValueError(f"{len(points)} points: a law of growth needs two different sizes")
    x, y = np.array(points, dtype=np.float64).T
    if form == "power":
        slope, height = np.polyfit(np.log(x), np.log(y), 1)
        return Law(form, math.exp(height), float(slope))
    slope, height = np.polyfit(x, y, 1)
    return Law(form, float(height), float(slope))


def laws_of(measured: Mapping[str, Any]) -> dict[str, Law]:
    """The laws of all quantities of a result of benchmarks/scale.py."""
    return {name: fit(each["form"], each["points"]) for name, each in measured["quantities"].items()}


def blocks(measured: Mapping[str, Any], fleet: Fleet) -> dict[str, str]:
    """Markdown by its name in a document: the sizing table, its costs, and what was measured for it."""
    laws = laws_of(measured)
    rows = _map_rows(laws, fleet)
    if "milvus_resident_bytes" in laws:
        rows += _milvus_rows(laws, fleet)
    return {
        "sizing table": f"{_table(rows)}\n\n{_assumptions(measured, fleet)}",
        "cost table": _table(_cost_rows(laws, fleet)),
        "growth table": _measured(measured, laws),
    }


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in [("images", *(f"{size:,}" for size in SIZES)), *rows]]
    return "\n".join([head, f"| --- |{' ---: |' * len(SIZES)}", *body])


def _map_rows(laws: Mapping[str, Law], fleet: Fleet) -> list[tuple[str, ...]]:
    extraction = [laws["extraction_s"].b * size / 3600 for size in SIZES]
    machines = fleet.extractors * fleet.cores
    return [
        ("map on disk, default profile", *(_bytes(map_bytes(laws, size)) for size in SIZES)),
        ("map on disk, `--compact`", *(_bytes(map_bytes(laws, size, "compact_")) for size in SIZES)),
        ("of it global descriptors, searched by FAISS", *(_bytes(laws["vector_bytes"].at(size)) for size in SIZES)),
        ("extraction, hours of one core", *(_number(hours) for hours in extraction)),
        (
            f"extraction, hours of {fleet.extractors} machines of {fleet.cores} cores",
            *(_number(hours / machines) for hours in extraction),
        ),
        ("`vpr map compact`, hours of one core", *(_number(laws["compact_s"].at(size) / 3600) for size in SIZES)),
        ("memory of a reader, descriptors read once", *(_bytes(laws["reader_bytes"].at(size)) for size in SIZES)),
        ("FAISS, one query, ms of the processor", *(_number(laws["shortlist_ms"].at(size)) for size in SIZES)),
    ]


def _milvus_rows(laws: Mapping[str, Law], fleet: Fleet) -> list[tuple[str, ...]]:
    nodes = [search_nodes(laws, size, fleet) for size in SIZES]
    held = [size / count for size, count in zip(SIZES, nodes, strict=True)]
    return [
        ("Milvus, main memory (`IVF_SQ8`)", *(_bytes(laws["milvus_resident_bytes"].at(size)) for size in SIZES)),
        ("Milvus, disk", *(_bytes(laws["milvus_disk_bytes"].at(size)) for size in SIZES)),
        (
            "Milvus, hours to put the images in, one writer",
            *(_number(laws["milvus_put_s"].at(size) / 3600) for size in SIZES),
        ),
        (f"search nodes of {fleet.gib:g} GiB", *(f"{count:,}" for count in nodes)),
        ("Milvus, one query on a node with its share, ms", *(_number(laws["milvus_ms"].at(share)) for share in held)),
    ]


def _cost_rows(laws: Mapping[str, Law], fleet: Fleet) -> list[tuple[str, ...]]:
    once = [laws["extraction_s"].b * size / 3600 / fleet.cores * fleet.machine_hour for size in SIZES]
    disk = [map_bytes(laws, size) / 1e9 * fleet.gb_month for size in SIZES]
    rows = [
        (f"extraction, once, {fleet.currency}", *(_number(cost) for cost in once)),
        (f"disk of the map, a month, {fleet.currency}", *(_number(cost) for cost in disk)),
    ]
    if "milvus_resident_bytes" in laws:
        month = [search_nodes(laws, size, fleet) * fleet.machine_hour * _MONTH_H for size in SIZES]
        rows.append((f"search nodes, a month, {fleet.currency}", *(_number(cost) for cost in month)))
    return rows


def map_bytes(laws: Mapping[str, Law], size: float, profile: str = "") -> float:
    """Bytes of a map: local features of a profile, global descriptors, manifest."""
    return laws[f"{profile}local_bytes"].b * size + laws["vector_bytes"].at(size) + laws["manifest_bytes"].at(size)


def search_nodes(laws: Mapping[str, Law], size: float, fleet: Fleet) -> int:
    """Machines whose memory holds the descriptors of Milvus."""
    return max(1, math.ceil(laws["milvus_resident_bytes"].b * size / (fleet.used * fleet.gib * GIB)))


def _assumptions(measured: Mapping[str, Any], fleet: Fleet) -> str:
    return (
        f"Assumed: machines of {fleet.cores} cores and {fleet.gib:g} GiB, of which descriptors take {fleet.used:.0%}, "
        f"at {fleet.machine_hour:.2f} {fleet.currency} an hour; a GB of disk at {fleet.gb_month:.2f} {fleet.currency} "
        f"a month; "
        f"every core as fast as one of those measured; one copy of everything. Measured on {measured['machine']}, "
        f"{measured['date'][:10]}; extraction of {measured['photographs']}."
    )


_SAYS = {
    "extraction_s": ("extraction, s of the processor by images", "{b:.3f} s an image"),
    "extraction_by_megapixels": ("extraction, s of an image by megapixels", "{a:.3f} s and {b:.3f} s a megapixel"),
    "local_bytes": ("local features, bytes by images", "{b:,.0f} bytes an image"),
    "compact_local_bytes": ("local features with `--compact`", "{b:,.0f} bytes an image"),
    "vector_bytes": ("global descriptors, bytes by images", "{b:,.0f} bytes an image"),
    "manifest_bytes": ("manifest, bytes by images", "{b:,.0f} bytes an image"),
    "compact_s": ("`vpr map compact`, s of the processor", "{a:.1f} s, and 1 s for {per_s:,.0f} images"),
    "shortlist_ms": ("FAISS, shortlist of 100, median ms of the processor", "{a:.1f} ms; {per_s:,.0f} images a ms"),
    "reader_bytes": ("memory of a reader, bytes", "{b:,.0f} bytes an image and {a_mb:,.0f} MB"),
    "milvus_put_s": ("Milvus, upsert, s", "{per_s:,.0f} images a second"),
    "milvus_index_s": ("Milvus, seal and index, s", "grows with N^{b:.2f}"),
    "milvus_resident_bytes": ("Milvus, main memory, bytes", "{b:,.0f} bytes an image and {a_mb:,.0f} MB"),
    "milvus_disk_bytes": ("Milvus, disk, bytes", "{b:,.0f} bytes an image and {a_mb:,.0f} MB"),
    "milvus_ms": ("Milvus, shortlist of 100, median ms", "grows with N^{b:.2f}"),
}


def _measured(measured: Mapping[str, Any], laws: Mapping[str, Law]) -> str:
    lines = ["| quantity | measured at: value | law |", "| --- | --- | --- |"]
    for name, law in laws.items():
        what, says = _SAYS[name]
        points = "; ".join(f"{_plain(x)}: {_plain(y)}" for x, y in measured["quantities"][name]["points"])
        per_s = 1 / law.b if law.form == "line" and law.b > 0 else math.nan
        lines.append(f"| {what} | {points} | {says.format(a=law.a, b=law.b, a_mb=law.a / 1e6, per_s=per_s)} |")
    return "\n".join(lines)


def written(text: str, found: Mapping[str, str]) -> str:
    """A document with the blocks between their marks."""
    for name, block in found.items():
        begin, end = marks(name)
        before, _, rest = text.partition(begin)
        _, there, after = rest.partition(end)
        if not there:
            raise SystemExit(f"the document has no lines {begin} and {end}")
        text = f"{before}{begin}\n\n{block}\n\n{end}{after}"
    return text


def marks(name: str) -> tuple[str, str]:
    """The lines before and after a block."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def _bytes(count: float) -> str:
    unit, name = next(
        (unit, name) for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if count >= unit or name == "MB"
    )
    return f"{_number(count / unit)} {name}"


def _number(value: float) -> str:
    """Two digits that count; more is not known."""
    if value == 0:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
