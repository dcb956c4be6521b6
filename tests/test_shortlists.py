"""Shortlists of other programs: every format by hand, names with folders in front, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_hostile import call

from vpr import pipeline
from vpr.config import load
from vpr.core import NO_ROW, ConfigError, DataError, Dataset, ImageSet, Ranking
from vpr.datasets import read_pair
from vpr.datasets.listed_names import NameFinder
from vpr.datasets.shortlists import read_shortlist
from vpr.report.pairs import write_hloc, write_kapture, write_patchnetvlad
from vpr.settings import Settings

NAMES = ("a.jpg", "sub/b.jpg", "c d.jpg")


def toy(database: str = "/data/city/database", queries: str = "/data/city/queries") -> Dataset:
    return Dataset("toy", "", ImageSet(Path(database), NAMES), ImageSet(Path(queries), ("q1.jpg", "./q2.jpg")))


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "shortlist.txt"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "# kapture format: 1.1\n# query_image, map_image, score\n"
        "q1.jpg, a.jpg, 1\nq2.jpg, a.jpg, 5\nq1.jpg, sub/b.jpg, 2",
        "q1.jpg,a.jpg,1\r\nq1.jpg,sub/b.jpg,2\r\n\r\nq2.jpg,./a.jpg,5\r\n",
        "query,candidate,score\nq1.jpg,a.jpg,1\nq1.jpg,sub//b.jpg,2\nq2.jpg,a.jpg,5\n",
        "\ufeffRank;Score;Candidate;Query\n2;1,0;a.jpg;q1.jpg\n1;2,0;sub/b.jpg;q1.jpg\n1;5;a.jpg;q2.jpg\n",
        "q1.jpg, /data/city/database/a.jpg, 1\nq1.jpg, /data/city/database/./sub/b.jpg, 2\n"
        "q2.jpg, /data/city/database/a.jpg, 5",
    ],
    ids=["kapture", "without comments", "csv", "of a spreadsheet", "absolute"],
)
def test_scores_decide_the_order(text: str, tmp_path: Path) -> None:
    found = read_shortlist(listed(tmp_path, text), toy())
    assert found.ranking.rows.tolist() == [[1, 0], [0, NO_ROW]]
    assert found.ranking.scores.tolist() == [[2, 1], [5, -np.inf]]
    assert found.scored and found.without == () and found.warnings(toy()) == []


@pytest.mark.parametrize(
    "text",
    [
        "queries/q1.jpg database/sub/b.jpg\nqueries/q1.jpg database/a.jpg\nqueries/./q2.jpg database/a.jpg",
        "q1.jpg, sub/b.jpg\nq1.jpg, a.jpg\nq2.jpg, a.jpg\n",
        "query,candidate\nq1.jpg,sub/b.jpg\nq1.jpg,a.jpg\nq2.jpg,a.jpg\n",
        "query,rank,candidate\nq1.jpg,2,a.jpg\nq1.jpg,1,sub/b.jpg\nq2.jpg,1,a.jpg\n",
    ],
    ids=["hloc", "patchnetvlad", "csv", "ranks"],
)
def test_without_scores_the_order_is_that_of_the_file(text: str, tmp_path: Path) -> None:
    found = read_shortlist(listed(tmp_path, text), toy())
    assert found.ranking.rows.tolist() == [[1, 0], [0, NO_ROW]]
    assert found.ranking.scores.tolist() == [[0, -1], [0, -np.inf]] and not found.scored


def test_equal_scores_keep_the_order_of_the_lines(tmp_path: Path) -> None:
    text = "q1.jpg, sub/b.jpg, 1\nq1.jpg, a.jpg, 1\nq1.jpg, c d.jpg, 1\n"
    assert read_shortlist(listed(tmp_path, text), toy()).ranking.rows[0].tolist() == [1, 0, 2]


def test_a_query_without_candidates_is_named(tmp_path: Path) -> None:
    found = read_shortlist(listed(tmp_path, "q1.jpg a.jpg\n"), toy())
    assert found.without == (1,)
    assert found.warnings(toy()) == [
        "the shortlist has no candidate for 1 of 2 queries (./q2.jpg); they count as misses"
    ]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "lists no pair; expected a query and a candidate"),
        ("# kapture format: 1.1\n# query_image, map_image, score\n", "lists no pair"),
        ("query,candidate,score\n", "lists no pair, only a header"),
        ("q1.jpg a.jpg\nq9.jpg a.jpg\nq8.jpg a.jpg\n", r"line 2: 'q9.jpg', line 3: 'q8.jpg': not a query of this"),
        ("q1.jpg, a.jpg\n\nq1.jpg, nowhere.jpg\n", r"line 3: 'nowhere.jpg': not a database image of this data set"),
        ("q1.jpg x\nq1.jpg y\nq1.jpg z\nq1.jpg w\n", r"line 3: 'z' and 1 more: not a database image"),
        ("q1.jpg a.jpg\nq2.jpg a.jpg\nq1.jpg ./a.jpg\n", r"line 3: './a.jpg' is a candidate of 'q1.jpg' on line 1 too"),
        ("q1.jpg a.jpg 0.5\n", r"line 1: 3 fields; expected two names with a space"),
        ("q1.jpg, a.jpg, 1, 2\n", r"line 1: 4 fields; expected query, candidate\[, score\]"),
        ("q1.jpg, a.jpg, high\n", r"line 1, score: expected a number, found 'high'"),
        ("q1.jpg, a.jpg, nan\n", "expected a number, found 'nan'"),
        ("q1.jpg, a.jpg, 1\nq2.jpg, a.jpg\n", "line 2: some lines have a score and some have none"),
        ("query,candidate,score\nq1.jpg,a.jpg,x\n", r"line 2, column 'score': expected a number"),
        (
            "query,candidate,rank,score\nq1.jpg,a.jpg,1,0.1\nq1.jpg,sub/b.jpg,2,0.9\n",
            "line 3: the score rises with the",
        ),
        (", a.jpg\n", "line 1: 2 fields; expected query"),
    ],
)
def test_what_is_no_shortlist_is_refused_with_its_lines(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        read_shortlist(listed(tmp_path, text), toy())


def test_binary_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shortlist.npz").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(DataError, match="not a readable shortlist"):
        read_shortlist(tmp_path / "shortlist.npz", toy())
    with pytest.raises(DataError, match="no such shortlist"):
        read_shortlist(tmp_path / "none.txt", toy())


def test_scores_beyond_float32_keep_their_order(tmp_path: Path) -> None:
    found = read_shortlist(listed(tmp_path, "q1.jpg,a.jpg,-1e300\nq1.jpg,sub/b.jpg,1e300\n"), toy())
    assert found.ranking.rows[0].tolist() == [1, 0] and np.isfinite(found.ranking.scores[0]).all()


@pytest.mark.parametrize("write", [write_kapture, write_patchnetvlad, write_hloc])
def test_what_a_run_writes_is_read_back(write, tmp_path: Path) -> None:
    dataset = Dataset(
        "toy", "", ImageSet(Path("data/database"), ("1.jpg", "2.jpg")), ImageSet(Path("data/queries"), ("1.jpg",))
    )
    ranking = Ranking(np.array([[1, 0]]), np.array([[0.75, 0.5]], np.float32))
    write(tmp_path / "pairs.txt", dataset, ranking)
    found = read_shortlist(tmp_path / "pairs.txt", dataset)
    assert found.ranking.rows.tolist() == [[1, 0]]
    if found.scored:
        assert found.ranking.scores.tolist() == [[0.75, 0.5]]


def test_all_names_of_a_file_have_the_same_folders_in_front() -> None:
    images = ImageSet(Path("/data/a"), ("x.jpg", "a/x.jpg"))
    assert NameFinder(images).rows(["x.jpg", "a/x.jpg"]) == [0, 1]  # own names
    assert NameFinder(images).rows(["a/x.jpg", "a/a/x.jpg"]) == [0, 1]  # with the folder in front
    assert NameFinder(images).rows(["y.jpg"]) == [NO_ROW]


def test_names_relative_to_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert NameFinder(ImageSet(Path("../images"), ("x.jpg",))).rows([os.path.join("../images", "x.jpg")]) == [0]


def test_a_run_with_a_shortlist_re_ranks_it_and_searches_nothing(
    small_city: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The right candidate is last of three; re-ranking puts it first. One query has no candidate."""
    lines = [
        f"queries/@{500005 + 100 * q}.00@4000003.00@q{q}@.png database/@{500000 + 100 * d}.00@4000000.00@db{d}@.png"
        for q in range(4)
        for d in ((q + 1) % 4, (q + 2) % 4, q)
    ]
    shortlist, out = listed(tmp_path, "\n".join(lines)), tmp_path / "out"
    folders = ["--database", str(small_city[0]), "--queries", str(small_city[1]), "--out", str(out)]
    call(["run", *folders, "--shortlist", str(shortlist)])
    said = capsys.readouterr().out
    assert "no candidate for 1 of 5 queries (@900000.00@4000000.00@nowhere@.png)" in said
    recalls = (out / "recalls.txt").read_text().splitlines()
    assert "Recall shortlist@1: 0.0000" in recalls and "Recall reranked@1: 0.8000" in recalls
    assert not (out / "features" / "database" / "global").exists()
    assert not list((out / "features" / "database").glob("aggregated*"))
    assert read_shortlist(out / "pairs_hloc.txt", read_pair(*small_city)).without == (4,)
    call(["run", *folders, "--shortlist", str(out / "shortlist.jsonl")])  # our own rows are a shortlist too
    assert "Recall reranked@1: 0.8000" in (out / "recalls.txt").read_text().splitlines()


def test_a_shortlist_keeps_one_image_of_each_panorama(small_city: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = read_pair(*small_city)
    grouped = replace(dataset, database=replace(dataset.database, groups=np.array([0, 0, 1, 1, 2, 2, 3, 3])))
    settings = load(Settings, None, ["shortlist.one_per_group=true", "evaluation.recall_at=[1]"])
    given = Ranking(np.array([[1, 0, 3]] * 5), np.array([[3.0, 2.0, 1.0]] * 5, np.float32))
    result = pipeline.run(grouped, settings, tmp_path / "out", {}, shortlist=given)
    assert result.stages["shortlist"].rows[0].tolist() == [1, 3, NO_ROW]


def test_a_shortlist_that_is_too_short_for_every_recall_is_refused(
    small_city: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = load(Settings, None, ["evaluation.recall_at=[5]"])
    given = Ranking(np.array([[1, 0]] * 5), np.array([[3.0, 2.0]] * 5, np.float32))
    with pytest.raises(ConfigError, match="recall_at begins at 5, but a shortlist holds 2 candidates"):
        pipeline.run(read_pair(*small_city), settings, tmp_path / "out", {}, shortlist=given)
