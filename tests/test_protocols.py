"""The catalogue of protocols and what judging by one does to a data set."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from vpr.core import ConfigError, DataError, Dataset, ImageSet
from vpr.datasets import PROTOCOLS, READERS, describe, frame_positives, image_lists, judge, protocol
from vpr.datasets.catalogue import EvaluationProtocol
from vpr.datasets.ground_truth import write_npz
from vpr.datasets.protocols import protocol_hash, rule


def images(count, positions=None, groups=None, prefix="i"):
    return ImageSet(Path("root"), tuple(f"{prefix}{row}.jpg" for row in range(count)), positions, groups=groups)


def as_lists(positives):
    return [rows.tolist() for rows in positives]


def small(**changes):
    record = EvaluationProtocol("small", "Small", ("folders",), "nobody", "nowhere", radius_m=25.0)
    return replace(record, **changes)


# --- the table


def test_the_table_holds_what_is_in_use():
    assert set(PROTOCOLS) == {
        "pitts30k", "pitts30k-val", "pitts250k", "tokyo247", "tokyo247@nms", "nordland@27592-pm7",
        "nordland@27592-pm10", "nordland@2760-pm1", "nordland@3450-pm2", "msls-val@740", "msls-val@11k",
        "msls-val@official", "st-lucia", "sf-xl-v1", "sf-xl-v2", "sf-xl-night", "sf-xl-occlusion", "sf-xs", "eynsham",
        "svox-night", "svox-overcast", "svox-rain", "svox-snow", "svox-sun", "amstertime", "sped", "essex3in1",
    }  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_record_makes_sense(name):
    record = protocol(name)
    assert record.name == name and record.source and record.obtain and record.dataset and record.version >= 1
    assert record.readers and set(record.readers) <= set(READERS)
    assert record.radius_m is None or record.frames is None
    assert list(record.recall_at) == sorted(set(record.recall_at)) and record.recall_at[0] == 1
    text = describe(record)
    assert text.startswith(f"{name} (version {record.version}, {protocol_hash(record)})")
    for known in (record.source, record.obtain, rule(record), *(READERS[reader].layout for reader in record.readers)):
        assert known in text
    assert ("unknown" in text) == (None in (record.database, record.queries))


def test_hashes_are_distinct_and_stable():
    hashes = {name: protocol_hash(record) for name, record in PROTOCOLS.items()}
    assert len(set(hashes.values())) == len(hashes)
    # A changed digest says that published numbers no longer mean the same: raise the record's version with it.
    assert hashes["pitts30k"] == "549b02ca0f19ab42"
    assert hashes["tokyo247@nms"] == "ab7407145f9eacdf"
    assert hashes["nordland@27592-pm7"] == "75520e48f6796c80"


def test_only_words_leave_the_hash_as_it_is():
    record = small()
    changed = {
        "name": "x", "dataset": "x", "database": 1, "queries": 1, "radius_m": 5.0, "frames": 1, "query_step": 2,
        "one_per_group": True, "drop_unanswerable": True, "recall_at": (1,), "version": 2, "per_city": True,
    }  # fmt: skip
    words = {
        "source": "x", "obtain": "x", "note": "x", "readers": ("msls",), "folders": ("a", "b"),
        "reading": (("subtask", None),), "lists": (("a", "b"),),
    }  # fmt: skip
    assert set(changed) | set(words) == {field.name for field in fields(record)}
    for name, value in changed.items():
        assert protocol_hash(replace(record, **{name: value})) != protocol_hash(record)
    assert protocol_hash(replace(record, **words)) == protocol_hash(record)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"unknown protocol 'nordland', did you mean 'nordland@.*known: amstertime, ess"
    ):
        protocol("nordland")
    with pytest.raises(ConfigError, match=r"unknown protocol '%%'; known"):
        protocol("%%")


# --- frames


def test_frame_positives_by_hand():
    found = frame_positives(np.array([0, 10, 5, 99]), np.array([9, 0, 1, 11, 10, 4]), 1)
    assert as_lists(found) == [[1, 2], [0, 3, 4], [5], []]
    assert as_lists(frame_positives(np.array([3, 4]), np.array([4, 3, 4]), 0)) == [[1], [0, 2]]
    assert as_lists(frame_positives(np.array([3]), np.array([], dtype=np.int64), 5)) == [[]]
    assert frame_positives(np.array([], dtype=np.int64), np.array([3]), 5) == ()
    with pytest.raises(ConfigError, match="tolerance of -1 frames"):
        frame_positives(np.array([3]), np.array([3]), -1)


def test_frame_positives_equal_a_plain_loop():
    rng = np.random.default_rng(1)
    queries, database = rng.integers(0, 60, 40), rng.integers(0, 60, 80)
    expected = [[row for row, frame in enumerate(database) if abs(frame - query) <= 4] for query in queries]
    assert as_lists(frame_positives(queries, database, 4)) == expected


def test_nordland_within_seven_frames_is_its_npz(tmp_path):
    diagonal = np.repeat(np.arange(40.0), 2).reshape(-1, 2)  # frame i at [i, i], radius 10
    write_npz(tmp_path / "n.npz", diagonal, diagonal, 10)
    for name in ("a", "b"):
        (tmp_path / name).write_text("".join(f"{name}{row}.png\n" for row in range(40)))
    dataset = image_lists.read_image_lists(tmp_path, tmp_path / "a", tmp_path / "b", tmp_path / "n.npz")
    record = replace(protocol("nordland@27592-pm7"), database=40, queries=40)
    assert as_lists(judge(dataset, record).positives) == as_lists(dataset.positives)
    assert len(dataset.positives[20]) == 15


def test_nordland_with_every_tenth_frame_as_query():
    record = replace(protocol("nordland@2760-pm1"), database=30, queries=3)
    judged = judge(Dataset("n", "", images(30), images(3, prefix="q")), record)
    assert as_lists(judged.positives) == [[0, 1], [9, 10, 11], [19, 20, 21]]
    assert -(-27_592 // 10) == 2_760


# --- judging


def line(*eastings):
    return np.array([(east, 0.0) for east in eastings])


def test_judging_sets_positives_and_prints_the_protocol():
    dataset = Dataset("set", "?", images(3, line(0, 25, 26)), images(2, line(0, 900), prefix="q"))
    judged = judge(dataset, small())
    assert as_lists(judged.positives) == [[0, 1], []]
    assert judged.protocol == f"small, within 25 m [{protocol_hash(small())}]"
    dropped = judge(dataset, small(drop_unanswerable=True))
    assert dropped.queries.names == ("q0.jpg",) and as_lists(dropped.positives) == [[0, 1]]
    assert dropped.protocol == f"small, within 25 m [{protocol_hash(small(drop_unanswerable=True))}]"


def test_judging_refuses_other_numbers_of_images():
    dataset = Dataset("set", "?", images(3, line(0, 1, 2)), images(2, line(0, 1), prefix="q"))
    assert judge(dataset, small(database=3, queries=2)).positives is not None
    with pytest.raises(DataError, match="set: 3 database images, but small has 4; recalls would not compare"):
        judge(dataset, small(database=4))
    with pytest.raises(DataError, match="set: 2 queries, but small has 1"):
        judge(dataset, small(queries=1))
    with pytest.raises(DataError, match="but pitts30k has 10000"):
        judge(dataset, protocol("pitts30k"))


def test_groups_stay_only_where_the_protocol_uses_them():
    grouped = images(2, line(0, 1), groups=np.array([0, 0]))
    dataset = Dataset("set", "?", grouped, images(1, line(0), prefix="q"))
    assert judge(dataset, small()).database.groups is None
    assert judge(dataset, small(one_per_group=True)).database.groups.tolist() == [0, 0]
    bare = Dataset("set", "?", images(2, line(0, 1)), images(1, line(0), prefix="q"))
    with pytest.raises(DataError, match="small keeps one image per panorama, but the database has no groups"):
        judge(bare, small(one_per_group=True))


def test_listed_positives_are_kept_and_needed():
    listed = Dataset("set", "?", images(2), images(1, prefix="q"), (np.array([1]),))
    record = small(radius_m=None)
    assert as_lists(judge(listed, record).positives) == [[1]] and rule(record) == "as listed"
    with pytest.raises(DataError, match="needs the positives that come with the set; none were read"):
        judge(replace(listed, positives=None), record)
    with pytest.raises(DataError, match="have no positions"):
        judge(listed, small())
