"""Data sets by methods: one table, shared features, failures that stop nothing."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import textured, write_picture
from test_hostile import call
from test_report import check

from vpr import benchmark
from vpr.benchmark import DatasetSource, NamedSettings
from vpr.core import DataError
from vpr.datasets import read_pair
from vpr.report.benchmark_outputs import page
from vpr.report.benchmark_rows import Row, csv_text, markdown, rows_of, shown_ks, table
from vpr.settings import Settings


@pytest.fixture
def town(small_city):
    return read_pair(*small_city)


def settings(**changes):
    return Settings.model_validate({"machine": {"threads": 1}, "output": {"failures": 2}, **changes})


PLAIN = NamedSettings("plain", settings())
SHORT = NamedSettings("short", settings(rerank={"k": 2}))
THUMBNAIL = NamedSettings("thumbnail", settings(global_descriptor={"method": "thumbnail"}, rerank={"k": 0}))


def refuse():
    raise DataError("the disk is\nempty")


def run(out, *methods, sources):
    return benchmark.run(sources, methods, out, {"command": "vpr benchmark"})


def test_every_combination_has_a_row_per_stage(town, tmp_path):
    found = run(tmp_path, PLAIN, THUMBNAIL, sources=[DatasetSource("town", lambda: town)])
    assert [(row.method, row.stage) for row in found.rows] == [
        ("plain", "shortlist"),
        ("plain", "reranked"),
        ("thumbnail", "shortlist"),
    ]
    assert (found.failures, found.reused) == ((), 0)
    row = found.rows[1]
    assert (row.dataset, row.protocol, row.queries, row.without_positives) == ("town", "within 25 m", 5, 1)
    assert row.recall[1]["value"] == pytest.approx(0.8) and row.recall_answerable[1] == 1
    assert row.report == "town/plain/report.html" and (tmp_path / row.report).exists()
    assert row.p50_ms > 0 and row.bytes_per_image > 1000
    assert len({row.ground_truth for row in found.rows}) == len({row.protocol_hash for row in found.rows}) == 1


def stores(folder: Path) -> set[str]:
    return {path.parent.relative_to(folder).as_posix() for path in folder.rglob("origin.json")}


def test_methods_with_one_extractor_share_its_features(town, tmp_path):
    run(tmp_path, PLAIN, SHORT, sources=[DatasetSource("town", lambda: town)])
    features = tmp_path / "town" / "features"
    assert len(list(features.glob("local-*"))) == 1 and len(stores(features)) == 6
    other = NamedSettings("other", settings(local_features={"max_keypoints": 256}))
    run(tmp_path, PLAIN, other, THUMBNAIL, sources=[DatasetSource("town", lambda: town)])
    assert len(list(features.glob("local-*"))) == 2 and len(list(features.glob("global-*"))) == 2


def test_a_finished_combination_is_not_run_again_unless_something_changed(town, tmp_path, monkeypatch):
    sources = [DatasetSource("town", lambda: town)]
    first = run(tmp_path, PLAIN, sources=sources)
    monkeypatch.setattr(benchmark, "_match", lambda *_, **__: pytest.fail("ran again"))
    again = run(tmp_path, PLAIN, sources=sources)
    assert (again.rows, again.reused) == (first.rows, 1)
    elsewhere = NamedSettings(
        "plain", PLAIN.settings.model_copy(update={"machine": settings(machine={"threads": 2}).machine})
    )
    assert run(tmp_path, elsewhere, sources=sources).reused == 1
    ran = []
    monkeypatch.setattr(benchmark, "_match", lambda *arguments, **_: ran.append(arguments))
    run(tmp_path, NamedSettings("plain", SHORT.settings), sources=sources)
    other_truth = replace(town, positives=tuple(rows[:0] for rows in town.positives))
    run(tmp_path, PLAIN, sources=[DatasetSource("town", lambda: other_truth)])
    assert len(ran) == 2


def test_an_interrupted_combination_is_run_again(town, tmp_path):
    run(tmp_path, THUMBNAIL, sources=[DatasetSource("town", lambda: town)])
    (tmp_path / "town/thumbnail/done.json").write_text("{")
    assert run(tmp_path, THUMBNAIL, sources=[DatasetSource("town", lambda: town)]).reused == 0
    (tmp_path / "town/thumbnail/report.html").unlink()
    assert run(tmp_path, THUMBNAIL, sources=[DatasetSource("town", lambda: town)]).reused == 0


def test_what_fails_is_reported_and_stops_nothing(town, tmp_path, monkeypatch):
    broken = NamedSettings("broken", settings(index={"factory": "Nonsense"}, rerank={"k": 0}))
    blind = replace(town, positives=None)
    sources = [
        DatasetSource("gone", refuse),
        DatasetSource("blind", lambda: blind),
        DatasetSource("town", lambda: town),
    ]
    found = run(tmp_path, broken, THUMBNAIL, sources=sources)
    assert [(each.dataset, each.method) for each in found.failures] == [
        ("gone", "broken"), ("gone", "thumbnail"), ("blind", "broken"), ("blind", "thumbnail"), ("town", "broken"),
    ]  # fmt: skip
    assert found.failures[0].error == "the disk is empty"
    assert "no ground truth, so no recall" in found.failures[2].error
    assert "Nonsense" in found.failures[4].error
    assert [row.method for row in found.rows] == ["thumbnail"]

    def explode(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(benchmark, "_match", explode)
    (failure,) = run(tmp_path, PLAIN, sources=[DatasetSource("town", lambda: town)]).failures
    assert failure.error == "RuntimeError: out of memory"


def test_a_protocol_that_keeps_one_per_panorama_sets_it(town, tmp_path):
    grouped = replace(town, database=replace(town.database, groups=np.arange(8) // 2))
    run(tmp_path, THUMBNAIL, sources=[DatasetSource("town", lambda: grouped, one_per_group=True)])
    assert "one_per_group = true" in (tmp_path / "town/thumbnail/settings.toml").read_text()
    lines = (tmp_path / "town/thumbnail/predictions.jsonl").read_text().splitlines()
    assert max(json.loads(line)["rank"] for line in lines) == 4


# --- the table


def row(**changes):
    ends = {"value": 0.5, "low": 0.25, "high": 0.75}
    made = Row(
        dataset="a,b", protocol="within 25 m", protocol_hash="0" * 16, ground_truth="1" * 16, method="m|n", stage="s",
        queries=8, without_positives=1, left_out=2, recall={1: ends, 5: {**ends, "value": None}},
        recall_answerable={1: 4 / 7, 5: None},
        by_group=None, ceiling=0.75, auc_pr=None, recall_at_100_precision=0.125, p50_ms=1.25, p95_ms=None,
        bytes_per_image=2048.0, report="a/m/report.html",
    )  # fmt: skip
    return replace(made, **changes)


def test_csv_comes_back_with_all_digits():
    longer = row(recall={**row().recall, 10: {"value": 1 / 3, "low": 0.0, "high": 1.0}})
    one, other = csv.DictReader(csv_text([row(), longer]).splitlines())
    assert one["dataset"] == "a,b" and one["recall@1_low"] == "0.25" and one["recall@5"] == ""
    assert one["recall@10"] == "" and float(other["recall@10"]) == 1 / 3
    assert one["recall@1_answerable"] == str(4 / 7) and one["group_low"] == "" and one["p50_ms"] == "1.25"
    assert shown_ks([row(), longer]) == [1, 5] and csv_text([]).count("\n") == 1


def test_tables_for_people():
    lines = markdown([row()], [1, 5], [("x", "y", "no disk")]).splitlines()
    assert lines[2].count("|") == lines[0].count("|") + 1  # an escaped bar
    assert "m\\|n" in lines[2] and "50.0 [25.0, 75.0] | n/a" in lines[2] and "0" * 16 in lines[2]
    assert "- x, y: no disk" in lines
    named = row(protocol="pitts30k, within 25 m [0000000000000000]")
    assert table([named], [1])[1][1:3] == ["pitts30k, within 25 m", "0" * 16]


def test_page_holds_no_script_and_escapes():
    rows = [row(method="<b>"), row(method="<b>", stage="t", dataset="a,b"), row(dataset="other", method="<u>")]
    failures = [("other", "<b>", "</dl>")]
    text = page(rows, failures, {"command": "vpr </section>"})
    parsed = check(text.replace('href="a/m/report.html"', 'href="#content"'))
    assert "</dl>" in parsed.text and "vpr </section>" in parsed.text
    assert "2 data sets, 2 methods" in parsed.text
    assert parsed.text.count("failed") == 2  # in the sentence, and where a recall would be
    check(page([], failures, {}))


def test_tables_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match="its tables cannot be read"):
        rows_of(tmp_path, tmp_path, "d", "m")


# --- the command


def city(root: Path, count: int = 4) -> Path:
    for place in range(count):
        view = textured(place, 140, 180)
        name = f"@{500000 + 100 * place}.00@4000000.00@{place}@.png"
        write_picture(root / "images/test/database" / name, view[:120, :160])
        write_picture(root / "images/test/queries" / name, view[8:128, 8:168])
    return root


def test_command_takes_several_values_and_ends_with_what_failed(tmp_path, capsys):
    one = city(tmp_path / "one")
    (tmp_path / "two.toml").write_text(
        f'reader = "folders"\n[source]\ndatabase = "{one}/images/test/database"\n'
        f'queries = "{one}/images/test/queries"\nradius_m = 5\n'
    )
    (tmp_path / "quick.toml").write_text('[global_descriptor]\nmethod = "thumbnail"\n[rerank]\nk = 0\n')
    out = tmp_path / "out"
    command = [
        "benchmark", "--datasets", str(one), str(tmp_path / "two.toml"), f"eynsham={one}", "--methods",
        str(tmp_path / "quick.toml"), f"other={tmp_path / 'quick.toml'}", "--out", str(out),
    ]  # fmt: skip
    call(command)
    rows = list(csv.DictReader((out / "benchmark.csv").read_text().splitlines()))
    assert [(line["dataset"], line["method"]) for line in rows] == [
        (name, method) for name in ("one", "two", "eynsham") for method in ("quick", "other")
    ]
    assert [line["protocol"].split(" [")[0] for line in rows[::2]] == [
        "within 25 m", "within 5 m", "eynsham, within 25 m",
    ]  # fmt: skip
    assert len({line["protocol_hash"] for line in rows}) == 3 and len({line["recall@1"] for line in rows}) == 1
    assert json.loads((out / "benchmark.json").read_text())["failures"] == []
    assert (out / "benchmark.md").exists() and "eynsham" in (out / "benchmark.html").read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        call([*command, "--set", "index.factory=Nonsense"])
    assert ended.value.code == 1
    streams = capsys.readouterr()
    assert "6 of 6 combinations failed" in streams.err and "failed: one, quick:" in streams.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--datasets", "nowhere", "--methods", "demo"], "'nowhere': no such folder; a known data set is given as"),
        (["--datasets", ".", "--methods", "demo", "demo"], "--methods: two are called 'demo'"),
        (["--datasets", ".", "a/..", "--methods", "demo"], "--datasets: two are called"),
        (["--datasets", ".", "--methods", "demmo"], "no config 'demmo' comes with vpr"),
        (["--datasets", "x.toml", "--methods", "demo"], "x.toml: not a readable TOML file"),
        (["--datasets", "y.toml", "--methods", "demo"], "y.toml: expected the keys name, reader, source, protocol; no"),
        (["--datasets", "z.toml", "--methods", "demo"], "found root"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_first(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "y.toml").write_text('name = "y"\n')
    (tmp_path / "z.toml").write_text('reader = "folders"\nroot = "."\n')
    with pytest.raises(SystemExit):
        call(["benchmark", *arguments, "--out", "out"])
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
