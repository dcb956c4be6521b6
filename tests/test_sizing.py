"""The sizing table: laws through measured points, and the table that the documentation shows."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
sizing = importlib.import_module("sizing")


def test_laws_go_through_exact_points() -> None:
    line = sizing.fit("line", [(10, 25), (20, 45), (40, 85)])
    assert (line.a, line.b, line.at(1000)) == pytest.approx((5, 2, 2005))
    power = sizing.fit("power", [(10, 30), (1000, 300)])
    assert (power.b, power.at(100_000)) == pytest.approx((0.5, 3000))


def test_one_size_is_no_law() -> None:
    with pytest.raises(ValueError, match="two different sizes"):
        sizing.fit("line", [(10, 25), (10, 26)])


def test_search_nodes_hold_the_descriptors() -> None:
    laws = {"milvus_resident_bytes": sizing.Law("line", 1e9, 1000.0)}
    fleet = sizing.Fleet(gib=10, used=0.5)
    count = int(5 * sizing.GIB / 1000)  # images that one machine holds
    assert [sizing.search_nodes(laws, size, fleet) for size in (1, count, count + 1, 10 * count)] == [1, 1, 2, 10]


def test_the_documentation_shows_the_table_of_the_result() -> None:
    """`python benchmarks/scale.py --table RESULT --doc docs/cluster.md` writes it."""
    results = sorted((ROOT / "benchmarks/results").glob("*-cpu-scale.json"))
    text = (ROOT / "docs/cluster.md").read_text()
    assert sizing.written(text, sizing.blocks(json.loads(results[-1].read_text()), sizing.Fleet())) == text
