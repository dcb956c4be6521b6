"""Positives within a radius, the npz files, the check, and one's own points from a csv."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import utm
from sklearn.neighbors import NearestNeighbors

from vpr.core import ConfigError, DataError, Dataset, ImageSet
from vpr.datasets import ground_truth, points, zones
from vpr.positives import positives_within


def images(positions, zone=None, prefix="i"):
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 2)
    return ImageSet(Path("root"), tuple(f"{prefix}{row}.jpg" for row in range(len(positions))), positions, zone)


def as_lists(positives):
    return [rows.tolist() for rows in positives]


def by_loop(queries, database, radius_m):
    return [
        [row for row, (x, y) in enumerate(database) if (qx - x) ** 2 + (qy - y) ** 2 <= radius_m**2]
        for qx, qy in queries
    ]


# --- positives within a radius


def test_pairs_of_one_place_take_eight_bytes_each():
    """1,000 queries by 1,000 database images, all within the radius: as Python lists 90 MB."""
    here, there = images(np.ones((1000, 2))), images(np.zeros((1000, 2)))
    positives_within(here, there, 0.5)
    tracemalloc.start()
    found = positives_within(here, there, 25.0)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, found)) == 1_000_000
    assert kept < 9e6 and peak < 40e6


def test_blocks_of_queries_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    here, there = images(rng.uniform(0, 100, (60, 2))), images(rng.uniform(0, 100, (50, 2)))
    whole = as_lists(positives_within(here, there, 25.0))
    for pairs in (1, 7, 100):
        monkeypatch.setattr("vpr.positives.PAIRS_AT_ONCE", pairs)
        assert as_lists(positives_within(here, there, 25.0)) == whole


def test_an_npz_that_unpacks_to_more_than_positions_take_is_refused_before_reading(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, utmQ=np.zeros((200_000, 2)), utmDb=np.zeros((2, 2)), posDistThr=25)
    assert path.stat().st_size < 20_000  # unpacks to 3.2 MB
    assert len(ground_truth.read_npz(path)[0]) == 200_000
    monkeypatch.setattr("vpr.datasets.ground_truth.MOST_BYTES", 1_000_000)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb.npz: 0.0 MB that unpack to 3 MB; a ground truth has at most 1 MB"):
        ground_truth.read_npz(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_tables_as_excel_writes_them(tmp_path):
    (tmp_path / "p.csv").write_text(
        "\ufeffname;role;utm_east;utm_north\na.jpg;database;500000,5;4000000\nb.jpg;query;500001;4000000,25\n"
    )
    found = points.read_points(tmp_path / "p.csv")
    assert found.positions.tolist() == [[500000.5, 4000000], [500001, 4000000.25]]
    (tmp_path / "t.csv").write_text("name\trole\tutm_east\tutm_north\na.jpg\tdatabase\t1\t2\nb.jpg\tquery\t3\t4\n")
    assert points.read_points(tmp_path / "t.csv").positions.tolist() == [[1, 2], [3, 4]]
    (tmp_path / "p.csv").write_text("name;role;utm_east;utm_north\na;b.jpg;database;1;2\n")
    with pytest.raises(
        DataError, match="5 fields, but the header has 4; put quotes round a field that holds a semicolon"
    ):
        points.read_points(tmp_path / "p.csv")


def test_positions_that_are_not_on_earth_are_refused():
    with pytest.raises(DataError, match=r"position of 'i1.jpg' is not a finite number of metres on Earth \(1 such"):
        images([(0, 0), (1e300, 5)])


def test_positives_by_hand_are_inclusive_and_ascending():
    database = images([(25, 0), (0, 0), (0, 25.001), (15, 20), (0, -25)])
    assert as_lists(positives_within(images([(0, 0), (1000, 0)]), database, 25.0)) == [[0, 1, 3, 4], []]


@pytest.mark.parametrize("radius_m", [0.0, 3.0, 25.0, 1000.0])
def test_positives_equal_a_plain_loop_and_sklearn(radius_m):
    rng = np.random.default_rng(3)
    database = rng.uniform((550_000, 4_180_000), (550_200, 4_180_200), (300, 2))
    queries = np.concatenate([rng.uniform((550_000, 4_180_000), (550_200, 4_180_200), (50, 2)), database[:5]])
    found = positives_within(images(queries), images(database), radius_m)
    oracle = NearestNeighbors(algorithm="kd_tree").fit(database).radius_neighbors(queries, radius_m)[1]
    assert as_lists(found) == by_loop(queries, database, radius_m) == [sorted(rows.tolist()) for rows in oracle]
    assert all(rows.dtype == np.int64 for rows in found)


def test_points_exactly_on_the_radius_are_in_at_utm_sizes():
    # Pythagorean offsets are exact in float64, also at six and seven figures before the point.
    offsets = np.array([(15, 20), (-15, 20), (7, 24), (-24, -7), (25, 0), (0, -25), (15, 20.0000001), (16, 20)])
    origins = np.array([(584_120.5, 4_477_310.25), (166_021.0, 9_999_000.5), (0.0, 0.0)])
    for origin in origins:
        database = np.concatenate([origin + offsets, origin + 1000 + np.random.default_rng(0).normal(size=(200, 2))])
        found = positives_within(images([origin]), images(database), 25.0)
        oracle = NearestNeighbors(algorithm="kd_tree").fit(database).radius_neighbors([origin], 25.0)[1]
        assert as_lists(found) == [[0, 1, 2, 3, 4, 5]] == [sorted(rows.tolist()) for rows in oracle]


def test_positives_of_a_grid_with_many_ties_on_the_radius():
    grid = np.array([(x, y) for x in range(-30, 31, 5) for y in range(-30, 31, 5)], dtype=np.float64) + 500_000.0
    assert as_lists(positives_within(images(grid), images(grid), 25.0)) == by_loop(grid, grid, 25.0)


def test_float32_positions_would_change_the_positives():
    # At 4,400,000 m float32 is 0.5 m coarse: 25.2 m apart in truth, 25.0 m there.
    query, candidate = np.array([[584_120.0, 4_400_000.0]]), np.array([[584_120.0, 4_400_025.2]])
    rounded = images(query.astype(np.float32)), images(candidate.astype(np.float32))
    assert as_lists(positives_within(*rounded, 25.0)) == [[0]]
    assert as_lists(positives_within(images(query), images(candidate), 25.0)) == [[]]


@pytest.mark.parametrize("queries, database", [(0, 3), (3, 0), (0, 0)])
def test_empty_sets_have_no_positives(queries, database):
    found = positives_within(images(np.zeros((queries, 2))), images(np.zeros((database, 2))), 25.0)
    assert as_lists(found) == [[]] * queries


def test_sets_that_cannot_be_compared_are_refused():
    here = images([(0, 0)], "33N")
    with pytest.raises(DataError, match="queries in UTM zone 33N, database in 32N"):
        positives_within(here, images([(0, 0)], "32N"), 25.0)
    assert as_lists(positives_within(here, images([(0, 0)]), 25.0)) == [[0]]
    with pytest.raises(DataError, match="the database have no positions"):
        positives_within(here, ImageSet(Path("root"), ("a.jpg",)), 25.0)
    for radius_m in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="expected a finite number of metres"):
            positives_within(here, here, radius_m)


def test_queries_without_positives_can_be_left_out():
    database = images([(0, 0), (100, 0)], prefix="d")
    queries = ImageSet(
        Path("root"), ("a", "b", "c"), np.array([(0, 1.0), (50, 0), (100, 0)]), groups=np.array([7, 8, 9])
    )
    dataset = Dataset("set", "within 25 m", database, queries, positives_within(queries, database, 25.0))
    kept = ground_truth.answerable_only(dataset)
    assert kept.queries.names == ("a", "c")
    assert kept.queries.groups.tolist() == [7, 9]
    assert kept.queries.positions.tolist() == [[0, 1], [100, 0]]
    assert as_lists(kept.positives) == [[0], [1]]
    with pytest.raises(DataError, match="no ground truth"):
        ground_truth.answerable_only(Dataset("set", "", database, queries))


# --- npz files


def test_npz_comes_back_as_written(tmp_path):
    path = tmp_path / "deeper" / "set.npz"
    queries, database = np.array([[584_120.123456789, 4.4e6]]), np.array([[1.0, 2.0], [3.0, 4.0]])
    ground_truth.write_npz(path, queries, database, 25.0)
    back = ground_truth.read_npz(path)
    assert back[0].tolist() == queries.tolist() and back[1].tolist() == database.tolist() and back[2] == 25.0
    with np.load(path) as archive:
        assert sorted(archive) == ["posDistThr", "utmDb", "utmQ"]
        assert archive["posDistThr"].shape == () and archive["posDistThr"].dtype.kind == "i"
    ground_truth.write_npz(path, queries, database, 2.5)
    assert ground_truth.read_npz(path)[2] == 2.5
    assert [entry.name for entry in path.parent.iterdir()] == ["set.npz"]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"utmQ": None}, "'utmQ is not a file in the archive'|utmQ, utmDb and posDistThr"),
        ({"utmQ": np.zeros((2, 3))}, r"utmQ is float64 of shape \(2, 3\); expected \(N, 2\)"),
        ({"utmDb": np.array([["a", "b"]])}, "utmDb is <U1 of shape"),
        ({"utmDb": np.array([[0.0, 0.0], [np.nan, 0.0]])}, r"row 1 of utmDb is not a finite position \(1 such"),
        ({"posDistThr": np.array([1.0, 2.0])}, "expected one radius in metres"),
        ({"posDistThr": np.array(-1.0)}, "expected one radius in metres"),
        ({"posDistThr": np.array(np.nan)}, "expected one radius in metres"),
        ({"posDistThr": np.array("25")}, "expected one radius in metres"),
    ],
)
def test_npz_that_makes_no_sense_is_refused(tmp_path, changes, sentence):
    arrays = {"utmQ": np.zeros((2, 2)), "utmDb": np.zeros((2, 2)), "posDistThr": np.array(25)} | changes
    np.savez(tmp_path / "set.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(DataError, match=sentence):
        ground_truth.read_npz(tmp_path / "set.npz")


def test_npz_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file; make one with `vpr gt make"):
        ground_truth.read_npz(tmp_path / "missing.npz")
    np.savez(tmp_path / "pickle.npz", utmQ=np.array([{}]), utmDb=np.zeros((1, 2)), posDistThr=25)
    whole = (tmp_path / "pickle.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name, data in {
        "empty": b"",
        "text": b"hello",
        "cut": whole[:-30],
        "pickle": whole,
        "array": (tmp_path / "array.npy").read_bytes(),
    }.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(DataError, match="not a readable npz file"):
            ground_truth.read_npz(tmp_path / f"{name}.npz")


def test_float32_npz_is_read_with_a_warning(tmp_path, caplog):
    np.savez(
        tmp_path / "set.npz", utmQ=np.zeros((1, 2), np.float32), utmDb=np.full((1, 2), 5e5, np.float32), posDistThr=25
    )
    queries, database, _ = ground_truth.read_npz(tmp_path / "set.npz")
    assert queries.dtype == database.dtype == np.float64
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'set.npz'}: utmDb is float32, which moves UTM positions by up to 0.25 m"
    ]


def test_writing_refuses_what_reading_would(tmp_path):
    with pytest.raises(DataError, match="utmQ is float64 of shape"):
        ground_truth.write_npz(tmp_path / "set.npz", np.zeros(2), np.zeros((1, 2)), 25.0)
    with pytest.raises(ConfigError, match="radius of -1"):
        ground_truth.write_npz(tmp_path / "set.npz", np.zeros((1, 2)), np.zeros((1, 2)), -1)
    assert not list(tmp_path.iterdir())


# --- check


def test_check_by_hand(tmp_path):
    ground_truth.write_npz(
        tmp_path / "mine.npz", np.array([(0.0, 0.0), (3, 0), (200, 0), (5000, 0)]), np.array([(0.0, 0.0), (25, 0)]), 25
    )
    found = ground_truth.check(ground_truth.dataset_of_npz(tmp_path / "mine.npz"))
    assert (found.database, found.queries, found.unanswerable) == (2, 4, ("query/2", "query/3"))
    assert found.positives_per_query == (0, 1.0, 2)
    assert found.nearest == (1, 0, 1, 0, 0, 0, 0, 1, 1)
    assert ground_truth.check_text(found).split("\n") == [
        "mine: 2 database images, 4 queries",
        "rule: within 25 m",
        "UTM zone: unknown",
        "queries without positives: 2 (query/2, query/3)",
        "positives per query: 0 to 2, median 1",
        "distance from a query to its nearest database image:",
        "      0 to 1 m  1",
        "      1 to 2 m  0",
        "      2 to 5 m  1",
        "     5 to 10 m  0",
        "    10 to 25 m  0",
        "    25 to 50 m  0",
        "   50 to 100 m  0",
        "  100 to 1000 m  1",
        "   over 1000 m  1",
    ]
    wider = ground_truth.check(ground_truth.dataset_of_npz(tmp_path / "mine.npz", radius_m=1000))
    assert wider.protocol == "within 1000 m" and wider.unanswerable == ("query/3",)


def test_check_of_a_set_without_anything():
    bare = ImageSet(Path("root"), ("a.jpg",))
    found = ground_truth.check(Dataset("bare", "no ground truth", bare, bare))
    assert (found.unanswerable, found.positives_per_query, found.nearest) == (None, None, None)
    assert ground_truth.check_text(found).split("\n")[-2:] == ["no ground truth", "no positions"]
    empty = images([])
    found = ground_truth.check(Dataset("empty", "within 25 m", images([(0, 0)]), empty, ()))
    assert found.positives_per_query == (0, 0.0, 0) and sum(found.nearest) == 0
    assert "queries without positives: 0\n" in ground_truth.check_text(found)


# --- zones


@pytest.mark.parametrize(
    "text, northing_m, zone",
    [
        ("33N", 6e6, "33N"),
        (" 33 u ", 6e6, "33N"),
        ("10M", 9e6, "10S"),
        ("54S", 3.95e6, "54N"),  # Tokyo: S is the band from 32 to 40 degrees north
        ("56S", 6.25e6, "56S"),  # Sydney: S can only mean south
        ("61N", 6e6, None),
        ("0N", 6e6, None),
        ("33", 6e6, None),
        ("33I", 6e6, None),
        ("N33", 6e6, None),
        ("", 6e6, None),
    ],
)
def test_zone_texts(text, northing_m, zone):
    assert zones.parse_zone(text, northing_m) == zone


def test_latitude_settles_what_a_letter_means():
    assert zones.zone_name(19, "S", 4.0e6) == "19N"
    assert zones.zone_name(19, "S", 4.0e6, latitude=-54.0) == "19S"


@pytest.mark.parametrize(
    "latitude, longitude", [(55.7, 13.2), (-33.9, 151.2), (0.0, 33.0), (60.0, 5.0), (-54.8, -68.3)]
)
def test_utm_there_and_back(latitude, longitude):
    latlon = np.array([[latitude, longitude]])
    east, north, number, letter = utm.from_latlon(latitude, longitude)
    zone = zones.zone_name(number, letter, north, latitude)
    assert zones.to_utm(latlon, zone) == pytest.approx(np.array([[east, north]]), abs=1e-6)
    assert zones.to_latlon(zones.to_utm(latlon, zone), zone) == pytest.approx(latlon, abs=1e-7)


def test_neighbours_across_a_zone_edge_stay_neighbours():
    # 14 m apart on both sides of 12 degrees east, 425 km apart in their own zones.
    latlon = np.array([[55.0, 11.99989], [55.0, 12.00011]])
    own = [utm.from_latlon(*point)[:2] for point in latlon]
    assert math.dist(*own) > 300_000
    positions, zone = zones.one_frame(np.array(own), ["32N", "33N"], np.array([True, False]))
    assert zone == "32N" and math.dist(*positions) == pytest.approx(14.07, abs=0.05)
    assert positions[0].tolist() == list(own[0])  # a row already in the zone is not touched
    positions, zone = zones.one_frame(np.array(own), ["32N", "33N"], np.array([False, True]))
    assert zone == "33N" and positions[1].tolist() == list(own[1])


def test_neighbours_across_the_equator_stay_neighbours():
    latlon = np.array([[0.0001, 36.8], [-0.0001, 36.8], [-0.0002, 36.8]])
    for deciding, zone in (([True, False, False], "37N"), ([False, True, True], "37S")):
        positions, chosen = zones.one_frame_of_latlon(latlon, np.array(deciding))
        assert chosen == zone
        assert np.hypot(*(positions[1:] - positions[:-1]).T) == pytest.approx([22.1, 11.05], abs=0.05)
    assert positions[1, 1] == pytest.approx(10_000_000 - 11.05, abs=0.05)


def test_neighbours_across_the_date_line_stay_neighbours():
    latlon = np.array([[-17.0, 179.9999], [-17.0, -179.9999]])
    positions, zone = zones.one_frame_of_latlon(latlon, np.array([True, True]))
    assert zone in ("60S", "1S") and math.dist(*positions) == pytest.approx(21.3, abs=0.1)


def test_regions_far_apart_are_laid_out_side_by_side(caplog):
    copenhagen, san_francisco = (55.676, 12.568), (37.775, -122.419)
    latlon = np.array([copenhagen, san_francisco, copenhagen, san_francisco])
    positions, zone = zones.one_frame_of_latlon(latlon, np.array([True, True, False, False]))
    assert zone is None and "2 regions far apart" in caplog.text
    assert math.dist(positions[0], positions[2]) == math.dist(positions[1], positions[3]) == 0
    assert math.dist(positions[0], positions[1]) > 5_000_000


def test_one_region_too_wide_for_a_zone_is_refused():
    along = np.column_stack([np.full(60, 40.0), np.linspace(-120, -75, 60)])
    with pytest.raises(DataError, match=r"km from the middle of UTM zone 14N.*split the set"):
        zones.one_frame_of_latlon(along, np.ones(60, dtype=bool))
    with pytest.raises(DataError, match="no UTM position"):
        zones.to_utm(np.array([[89.0, 0.0]]), "31N")


def test_no_rows_have_no_zone():
    nothing = np.empty((0, 2))
    assert zones.one_frame_of_latlon(nothing, np.zeros(0, bool))[1] is None
    assert zones.one_frame(nothing, [], np.zeros(0, bool))[1] is None
    assert zones.to_utm(nothing, "33N").shape == zones.to_latlon(nothing, "33N").shape == (0, 2)


# --- one's own points


def write_csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_points_from_degrees_with_image_lists(tmp_path):
    path = write_csv(
        tmp_path / "points.csv",
        "\ufefffile,Role,weather,Latitude,lng\n"
        '"database/a, b.jpg",database,sun,55.6982639,13.1951389\n'
        "queries/ü 1.jpg,query,rain,55.6982417,13.1952000\n"
        "\n"
        "./database/-c.jpg,DB,,55.6995611,13.1945250\n",
    )
    made = points.make_from_csv(path, tmp_path / "mine.npz", 10.0)
    utm_queries, utm_database, radius_m = ground_truth.read_npz(tmp_path / "mine.npz")
    assert made.zone == "33N" and radius_m == 10.0
    expected = [utm.from_latlon(55.6982639, 13.1951389)[:2], utm.from_latlon(55.6995611, 13.1945250)[:2]]
    assert utm_database == pytest.approx(np.array(expected), abs=1e-6)
    assert utm_queries == pytest.approx(np.array([utm.from_latlon(55.6982417, 13.1952)[:2]]), abs=1e-6)
    assert (tmp_path / "mine_imageNames_index.txt").read_text() == "database/a, b.jpg\n./database/-c.jpg\n"
    assert (tmp_path / "mine_imageNames_query.txt").read_text(encoding="utf-8") == "queries/ü 1.jpg\n"
    found = ground_truth.check(ground_truth.dataset_of_npz(tmp_path / "mine.npz"))
    assert found.positives_per_query == (1, 1.0, 1)


def test_points_from_metres_are_kept_to_the_bit_and_need_no_names(tmp_path):
    path = write_csv(
        tmp_path / "p.csv", "split,easting,northing\nquery,584120.123456789,4477310.1\ndatabase,584121,4477311\n"
    )
    made = points.make_from_csv(path, tmp_path / "mine.npz")
    assert made.zone is None and made.names is None
    assert made.utm_queries.tolist() == [[584120.123456789, 4477310.1]]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine.npz", "p.csv"]


def test_points_in_two_zones_are_brought_into_that_of_the_database(tmp_path):
    west, east = utm.from_latlon(55.0, 11.99989), utm.from_latlon(55.0, 12.00011)
    lines = "".join(
        f"{role},{point[0]:.6f},{point[1]:.6f},{zone}\n"
        for role, point, zone in (("query", west, "32U"), ("db", east, "33N"))
    )
    made = points.read_points(write_csv(tmp_path / "p.csv", "role,utm_e,utm_n,utm_zone\n" + lines))
    assert made.zone == "33N"
    assert math.dist(made.utm_queries[0], made.utm_database[0]) == pytest.approx(14.07, abs=0.05)


def test_points_on_both_sides_of_the_equator(tmp_path):
    text = "role,lat,lon\nquery,-0.0001,36.8\ndatabase,0.0001,36.8\ndatabase,0.0002,36.8\n"
    made = points.read_points(write_csv(tmp_path / "p.csv", text))
    assert made.zone == "37N" and made.utm_queries[0, 1] < 0
    assert math.dist(made.utm_queries[0], made.utm_database[0]) == pytest.approx(22.1, abs=0.05)


def test_metres_of_a_zone_come_before_degrees_and_those_before_metres_of_none(tmp_path):
    head, query = "role,lat,lon,utm_e,utm_n,zone\n", "query,55.0,12.5,1,2,33N\n"
    both = points.read_points(write_csv(tmp_path / "a.csv", head + query + "database,55.0,12.5,3,4,\n"))
    assert both.zone == "33N" and both.positions.tolist() == [[1, 2], [3, 4]]
    partly = points.read_points(write_csv(tmp_path / "b.csv", head + query + "database,55.0,12.5,,,\n"))
    assert partly.zone == "33N" and partly.positions[0].tolist() == partly.positions[1].tolist()
    text = "role,lat,lon,utm_e,utm_n\nquery,55,12.5,1,2\ndatabase,55,12.5,3,4\n"
    assert points.read_points(write_csv(tmp_path / "c.csv", text)).positions[0].tolist() == partly.positions[0].tolist()


OK = "query,55,13\ndatabase,55,13\n"


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "empty; expected a header line"),
        ("lat,lon\n55,13\n", "no column role or split or set"),
        ("role,lat,lon\n" + OK + "train,55,13\n", "line 4: role is 'train'; expected database or query"),
        ("role,lat,lon\nquery,55,13\n", "no line with the role database"),
        ("role,lat,lon\ndb,55,13\n", "no line with the role query"),
        ("role,lat\nquery,55\ndb,55\n", "no positions on every line; give columns latitude or lat with longitude"),
        ("role,lat,lat,lon\nquery,1,1,1\n", "columns 'lat' and 'lat' both give the latitude"),
        ("role,lat,latitude,lon\nquery,1,1,1\n", "columns 'lat' and 'latitude' both give the latitude; keep one"),
        ("role,lat,lon\n" + OK + "query,nan,13\n", "line 4, column 'lat': expected a number, found 'nan'"),
        ("role,lat,lon\n" + OK + 'query,"55,7",13\n', "line 4, column 'lat': expected a number, found '55,7'"),
        ("role,lat,lon\n" + OK + "query,5_5,13\n", "expected a number, found '5_5'"),
        ("role,lat,lon\n" + OK + "query,55,7,13\n", "line 4: 4 fields, but the header has 3; put quotes"),
        ("role,lat,lon\n" + OK + "query,113,55\n", r"line 4: latitude 113, longitude 55.*\(are the columns exchanged"),
        ("role,east,north,zone\nquery,1,2,33\ndb,1,2,33N\n", "line 2: zone '33'; expected a number and N or S"),
        (
            "role,east,north,zone\nquery,1,2,32N\ndb,1,2,33N\ndb,1,2,\n",
            "line 4: no zone, but other lines are in 32N, 33N",
        ),
        ("name,role,lat,lon\na,query,55,13\na,db,55,13\n./a,db,55,13\n", r"line 4: '\./a' is on line 3 too"),
        ('name,role,lat,lon\n"a\nb",query,55,13\na,db,55,13\n', "line 3: image name .* holds a control character"),
        ("name,role,lat,lon\n/a,query,55,13\na,db,55,13\n", "line 2: image name '/a' is not inside its folder"),
        ('name,role\n"a,b\n', "not a readable csv file"),
    ],
)
def test_points_that_make_no_sense_are_refused(tmp_path, text, sentence):
    with pytest.raises(DataError, match=sentence):
        points.make_from_csv(write_csv(tmp_path / "p.csv", text), tmp_path / "mine.npz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.csv"]


def test_points_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        points.read_points(tmp_path / "missing.csv")
    (tmp_path / "latin.csv").write_bytes(b"role,lat,lon\nquery,\xe9,1\n")
    with pytest.raises(DataError, match="not a readable csv file"):
        points.read_points(tmp_path / "latin.csv")
    with pytest.raises(DataError, match=r"ends in \.npz"):
        points.make_from_csv(tmp_path / "p.csv", tmp_path / "mine.txt")
