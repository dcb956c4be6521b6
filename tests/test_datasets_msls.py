"""Mapillary Street-Level Sequences from csv files written here."""

import pytest

from vpr.core import ConfigError, DataError
from vpr.datasets import msls, msls_test


def as_lists(positives):
    return [rows.tolist() for rows in positives]


def write_side(folder, rows):
    """Rows of key, easting, northing, pano, marked by the subtask "all"; the other files list them backwards."""
    folder.mkdir(parents=True)
    lines = [f"{i},{key},{east},{north},False,Forward,{i}" for i, (key, east, north, _, _) in enumerate(rows)]
    header = ",key,easting,northing,night,view_direction,unique_cluster"
    (folder / "postprocessed.csv").write_text("\n".join([header, *lines]) + "\n")
    raw = [f"{i},{key},12.5,55.6,90.0,2018-01-01,{pano}" for i, (key, _, _, pano, _) in reversed(list(enumerate(rows)))]
    (folder / "raw.csv").write_text("\n".join([",key,lon,lat,ca,captured_at,pano", *raw]) + "\n")
    marks = [f"{i},{key},{mark},False" for i, (key, _, _, _, mark) in reversed(list(enumerate(rows)))]
    (folder / "subtask_index.csv").write_text("\n".join([",key,all,n2d", *marks]) + "\n")


@pytest.fixture
def root(tmp_path):
    cph, sf = tmp_path / "train_val/cph", tmp_path / "train_val/sf"
    write_side(cph / "database", [("a", 0, 0, False, True), ("b", 25, 0, False, True), ("p", 1, 0, True, True)])
    write_side(cph / "query", [("q", 0, 0, False, True), ("r", 5, 0, False, False), ("s", 900, 0, False, True)])
    # The same numbers in another zone are another place.
    write_side(sf / "database", [("c", 0, 0, False, True)])
    write_side(sf / "query", [("t", 0, 0, False, True), ("u", 0, 0, True, True)])
    return tmp_path


def test_cities_are_never_compared(root):
    dataset = msls.read_msls(root)
    assert (dataset.name, dataset.protocol) == (
        "msls-cph-sf",
        "within 25 m in the same city, each city searched by itself",
    )
    assert dataset.database.names == (
        "train_val/cph/database/images/a.jpg",
        "train_val/cph/database/images/b.jpg",
        "train_val/sf/database/images/c.jpg",
    )
    assert [name.split("/")[-1] for name in dataset.queries.names] == ["q.jpg", "s.jpg", "t.jpg"]
    assert as_lists(dataset.positives) == [[0, 1], [], [2]]
    assert dataset.database.positions.tolist() == [[0, 0], [25, 0], [1e7, 0]]
    assert dataset.queries.positions.tolist() == [[0, 0], [900, 0], [1e7, 0]]
    assert dataset.database.regions.tolist() == [0, 0, 1] and dataset.queries.regions.tolist() == [0, 0, 1]
    joined = msls.read_msls(root, joined=True)
    assert joined.protocol == "within 25 m in the same city, all cities searched together"
    assert joined.database.regions is joined.queries.regions is None
    assert as_lists(joined.positives) == as_lists(dataset.positives)
    assert dataset.database.zone is None and dataset.database.root == root


def test_options_change_what_is_read(root):
    def keys(**options):
        dataset = msls.read_msls(root, **options)
        return [name.split("/")[-1][0] for name in (*dataset.database.names, *dataset.queries.names)]

    assert keys() == list("abcqst")
    assert keys(subtask=None) == list("abcqrst")
    assert keys(panoramas=True) == list("abpcqstu")
    assert keys(cities=["sf"]) == list("ct")
    assert keys(drop_unanswerable=True) == list("abcqt")
    assert keys(drop_unanswerable=True, radius_m=1000) == list("abcqst")
    assert as_lists(msls.read_msls(root, ["sf", "cph"], drop_unanswerable=True).positives) == [[0], [1, 2]]
    dropped = msls.read_msls(root, drop_unanswerable=True)
    assert dropped.protocol == (
        "within 25 m in the same city, each city searched by itself, queries without positives left out"
    )
    assert dropped.queries.regions.tolist() == [0, 1]


def test_a_subtask_that_marks_nothing_gives_empty_sets(root):
    dataset = msls.read_msls(root, subtask="n2d")
    assert len(dataset.database) == len(dataset.queries) == 0 and dataset.positives == ()


def test_the_folder_of_the_cities_may_be_given_itself(root):
    assert msls.read_msls(root / "train_val").queries.names[0] == "cph/query/images/q.jpg"


def test_what_makes_no_sense_is_refused(root):
    with pytest.raises(DataError, match="no folder train_val/tokyo"):
        msls.read_msls(root, ["tokyo"])
    for cities in ([], ["sf", "sf"]):
        with pytest.raises(ConfigError, match="name at least one, each once"):
            msls.read_msls(root, cities)
    with pytest.raises(ConfigError, match="unknown MSLS subtask 'night'; known: all, s2w"):
        msls.read_msls(root, subtask="night")
    with pytest.raises(ConfigError, match="radius of -1"):
        msls.read_msls(root, radius_m=-1)
    raw = root / "train_val/sf/query/raw.csv"
    raw.write_text(raw.read_text().replace(",u,", ",v,"))
    with pytest.raises(DataError, match=r"raw.csv: no line for the image 'u'"):
        msls.read_msls(root)
    raw.write_text(raw.read_text().replace(",v,", ",u,").replace("True", "yes"))
    with pytest.raises(DataError, match="line 2, column 'pano': expected True or False, found 'yes'"):
        msls.read_msls(root)
    (root / "train_val/sf/query/postprocessed.csv").unlink()
    with pytest.raises(DataError, match=r"no postprocessed.csv; the positions of MSLS's test cities are not published"):
        msls.read_msls(root)


def test_the_test_cities_have_images_and_no_truth(tmp_path):
    for city in ("miami", "athens"):
        for side, keys in (("database", "ab"), ("query", "qr")):
            folder = tmp_path / "test" / city / side
            folder.mkdir(parents=True)
            rows = [f"{i},{city}{key},{key in 'abq'},False" for i, key in enumerate(keys)]
            (folder / "subtask_index.csv").write_text("\n".join([",key,all,n2d", *rows]) + "\n")
    dataset = msls_test.read_msls_test(tmp_path, ("miami", "athens"))
    assert dataset.queries.names == ("test/miami/query/images/miamiq.jpg", "test/athens/query/images/athensq.jpg")
    assert dataset.database.names[2] == "test/athens/database/images/athensa.jpg"
    assert dataset.positives is None and dataset.database.positions is None
    assert dataset.database.regions.tolist() == [0, 0, 1, 1] and dataset.queries.regions.tolist() == [0, 1]
    assert msls_test.read_msls_test(tmp_path, ("miami", "athens"), joined=True).database.regions is None
    assert len(msls_test.TEST_CITIES) == 6


def test_test_cities_that_are_not_there_are_named(root, tmp_path):
    with pytest.raises(DataError, match="no folder test/miami; give the folder that holds test"):
        msls_test.read_msls_test(tmp_path)
    with pytest.raises(ConfigError, match="unknown MSLS subtask 'x'"):
        msls_test.read_msls_test(tmp_path, subtask="x")
    with pytest.raises(ConfigError, match="name at least one"):
        msls_test.read_msls_test(tmp_path, ())
    (root / "train_val" / "cph" / "database" / "postprocessed.csv").unlink()
    with pytest.raises(DataError, match="with the reader msls_test"):
        msls.read_msls(root)
