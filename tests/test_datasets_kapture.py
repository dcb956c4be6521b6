"""Kapture trees, against trees written by hand and by the kapture package."""

import math

import numpy as np
import pytest
import utm
from scipy.spatial.transform import Rotation

from vpr.core import ConfigError, DataError
from vpr.datasets import kapture_tree

IDENTITY = "1, 0, 0, 0"
QUARTER_TURN = f"{math.sqrt(0.5)!r}, 0, 0, {math.sqrt(0.5)!r}"  # 90 degrees about z: x becomes y


def as_lists(positives):
    return [rows.tolist() for rows in positives]


def write_tree(root, records, **files):
    """A tree whose cameras are c0 and c1; files are named without .txt."""
    sensors = root / "sensors"
    sensors.mkdir(parents=True)
    texts = {
        "sensors": "c0, , camera, UNKNOWN_CAMERA, 640, 480\nc1, phone, camera, UNKNOWN_CAMERA, 640, 480\n"
        "GPS_c0, , gnss, EPSG:4326\ng, , gnss\n",
        "records_camera": records,
    } | files
    for name, text in texts.items():
        (sensors / f"{name}.txt").write_text("# kapture format: 1.1\n# a comment, with, commas\n\n" + text)
    return root


def test_centre_of_the_camera_is_minus_r_transposed_t(tmp_path):
    # t = -R c: a quarter turn takes the centre (3, 4, 5) to (-4, 3, 5).
    trajectories = f"0007, c0, {QUARTER_TURN}, 4, -3, -5\n8, c0, {IDENTITY}, -1, -2, -3\n9, c9, {IDENTITY}, 0, 0, 0\n"
    root = write_tree(tmp_path, "8, c0, b dir/é.jpg\n7, c0, a.jpg\n", trajectories=trajectories)
    images = kapture_tree.read_kapture(root)
    assert images.names == ("b dir/é.jpg", "a.jpg")
    assert images.path(1) == tmp_path / "sensors/records_data/a.jpg"
    assert images.positions == pytest.approx(np.array([[1.0, 2.0], [3.0, 4.0]])) and images.zone is None


def test_rigs_carry_cameras_and_rigs(tmp_path):
    # The rig at (10, 20, 0) turned by 90 degrees; c0 sits at (1, 0, 0) on it; c1 at (0, 2, 0) on an arm at (1, 0, 0).
    trajectories = f"1, rig, {QUARTER_TURN}, 20, -10, 0\n2, c0, {IDENTITY}, -5, -6, 0\n"
    rigs = f"arm, c1, {IDENTITY}, 0, -2, 0\nrig, c0, {IDENTITY}, -1, 0, 0\nrig, arm, {IDENTITY}, -1, 0, 0\n"
    root = write_tree(tmp_path, "1, c0, a\n1, c1, b\n2, c0, c\n", trajectories=trajectories, rigs=rigs)
    images = kapture_tree.read_kapture(root)
    # Rig axes in the world: its x is the world's -y, its y the world's x.
    assert images.positions == pytest.approx(np.array([[10.0, 19.0], [12.0, 19.0], [5.0, 6.0]]))


def test_rigs_that_carry_each_other_do_not_run_for_ever(tmp_path):
    rigs = f"a, b, {IDENTITY}, 0, 0, 0\nb, a, {IDENTITY}, 0, 0, 0\na, c0, {IDENTITY}, 0, 0, 0\n"
    trajectories = f"1, b, {IDENTITY}, -3, 0, 0\n"
    images = kapture_tree.read_kapture(write_tree(tmp_path, "1, c0, x\n", trajectories=trajectories, rigs=rigs))
    assert images.positions == pytest.approx(np.array([[3.0, 0.0]]))


def test_gnss_gives_utm(tmp_path):
    root = write_tree(
        tmp_path, "1, c0, a\n2, c1, b\n", records_gnss="1, GPS_c0, 13.2, 55.7, 0, 0, 0\n2, g, 13.3, 55.8, 0, 0, 0\n"
    )
    images = kapture_tree.read_kapture(root)
    expected = np.array([utm.from_latlon(55.7, 13.2)[:2], utm.from_latlon(55.8, 13.3)[:2]])
    assert images.positions == pytest.approx(expected, abs=1e-6) and images.zone == "33N"


def test_the_receiver_named_after_the_camera_is_taken(tmp_path):
    fixes = "1, g, 0, 0, 0, 0, 0\n1, GPS_c0, 13.2, 55.7, 0, 0, 0\n"
    images = kapture_tree.read_kapture(write_tree(tmp_path / "a", "1, c0, x\n", records_gnss=fixes))
    assert images.zone == "33N"
    with pytest.raises(DataError, match="g, GPS_c0 all have a fix at 1; name the one of 'c1' GPS_c1"):
        kapture_tree.read_kapture(write_tree(tmp_path / "b", "1, c1, x\n", records_gnss=fixes))


def test_source_chooses_between_poses_and_gnss(tmp_path):
    files = {"trajectories": f"1, c0, {IDENTITY}, -1, -2, 0\n", "records_gnss": "1, GPS_c0, 13.2, 55.7, 0, 0, 0\n"}
    root = write_tree(tmp_path / "both", "1, c0, a\n", **files)
    assert kapture_tree.read_kapture(root).positions == pytest.approx(np.array([[1.0, 2.0]]))
    assert kapture_tree.read_kapture(root, "gnss").zone == "33N"
    assert kapture_tree.read_kapture(root, "none").positions is None
    bare = write_tree(tmp_path / "bare", "1, c0, a\n", trajectories=f"9, c0, {IDENTITY}, 0, 0, 0\n")
    assert kapture_tree.read_kapture(bare).positions is None
    with pytest.raises(ConfigError, match="unknown source of positions 'gps'; known: auto, none, trajectories, gnss"):
        kapture_tree.read_kapture(bare, "gps")
    for source in ("gnss", "trajectories"):
        with pytest.raises(DataError, match=f"no positions in {source}"):
            kapture_tree.read_kapture(bare, source)


def test_poses_of_some_images_only_are_refused(tmp_path):
    trajectories = f"1, c0, {IDENTITY}, 0, 0, 0\n2, c0, , , , , 1, 2, 3\n3, c0, {IDENTITY}, , , \n"
    root = write_tree(tmp_path, "1, c0, a\n2, c0, b\n3, c0, c\n", trajectories=trajectories)
    with pytest.raises(DataError, match=r"'b' has no pose \(2 such images of 3\)"):
        kapture_tree.read_kapture(root)
    assert len(kapture_tree.read_kapture(root, "none")) == 3


def test_a_pair_of_trees_shares_source_and_zone(tmp_path):
    mapping = write_tree(tmp_path / "map", "1, c0, a\n", records_gnss="1, g, 12.00011, 55.0, 0, 0, 0\n")
    query = write_tree(
        tmp_path / "query",
        "1, c0, q\n",
        records_gnss="1, g, 11.99989, 55.0, 0, 0, 0\n",
        trajectories=f"1, c0, {IDENTITY}, 0, 0, 0\n",
    )
    dataset = kapture_tree.read_kapture_pair(mapping, query)
    assert (dataset.name, dataset.protocol) == ("map", "within 25 m")
    assert dataset.database.zone == dataset.queries.zone == "33N" and as_lists(dataset.positives) == [[0]]
    nowhere = write_tree(tmp_path / "nowhere", "1, c0, q\n")
    dataset = kapture_tree.read_kapture_pair(mapping, nowhere)
    assert dataset.protocol == "no ground truth" and dataset.positives is None
    assert dataset.database.zone == "33N" and dataset.queries.positions is None
    with pytest.raises(ConfigError, match="radius of -1"):
        kapture_tree.read_kapture_pair(mapping, query, -1)


def test_what_is_right_for_a_query_without_a_pose_is_not_known(tmp_path, caplog):
    records, pose = "1, c0, p\n2, c0, q\n3, c0, r\n", f"2, c0, {IDENTITY}, 1, 0, 0\n"
    mapping = write_tree(tmp_path / "map", "1, c0, a\n", trajectories=f"1, c0, {IDENTITY}, 0, 0, 0\n")
    query = write_tree(tmp_path / "query", records, trajectories=pose)
    dataset = kapture_tree.read_kapture_pair(mapping, query)
    assert dataset.unknown == (0, 2) and as_lists(dataset.positives) == [[], [0], []]
    assert dataset.queries.positions is None and dataset.protocol == "within 25 m"
    assert "2 of 3 queries have no pose" in caplog.text and caplog.text.rstrip().endswith(": p")
    fixes = "1, g, 12.00011, 55.0, 0, 0, 0\n"
    mapping = write_tree(tmp_path / "gps map", "1, c0, a\n", records_gnss=fixes)
    query = write_tree(tmp_path / "gps query", records, records_gnss=fixes)
    dataset = kapture_tree.read_kapture_pair(mapping, query)
    assert dataset.unknown == (1, 2) and as_lists(dataset.positives) == [[0], [], []]
    with pytest.raises(DataError, match=r"'q' has no GNSS fix \(2 such images of 3\)"):
        kapture_tree.read_kapture_pair(query, mapping)


@pytest.mark.parametrize(
    "files, sentence",
    [
        ({"records_camera": ""}, "lists no images"),
        ({"records_camera": "1, c7, a\n"}, "line 4: camera 'c7' is not in sensors.txt"),
        ({"records_camera": "1, c0, a,b.jpg\n"}, r"line 4: 4 fields; expected 3, .*\(kapture's names hold no comma\)"),
        ({"records_camera": "one, c0, a\n"}, "line 4: timestamp 'one'; expected a whole number"),
        ({"records_camera": "1, c0, a\n2, c0, a\n"}, "image 'a' is listed twice"),
        ({"records_camera": "1, c0, ../a\n"}, r"image name '\.\./a' is not inside its folder"),
        ({"sensors": "c0\n"}, "line 4: 1 fields; expected 3 or more"),
        ({"trajectories": f"1, c0, {IDENTITY}, 0, 0\n"}, "line 4: 8 fields; expected 9,"),
        ({"trajectories": f"1, c0, {IDENTITY}, nan, 0, 0\n"}, "line 4: expected a number, found 'nan'"),
        ({"trajectories": "1, c0, 0, 0, 0, 0, 0, 0, 0\n"}, "line 4: the rotation is a zero quaternion"),
        ({"trajectories": "", "rigs": f"r, c0, {IDENTITY}, 0, , 0\n"}, "line 4: expected a number, found ''"),
        ({"records_gnss": "1, g, __import__('os'), 0, 0, 0, 0\n"}, "line 4: expected a number"),
        (
            {"sensors": "c0, , camera\ng, , gnss, EPSG:3857\n", "records_gnss": "1, g, 1, 2, 0, 0, 0\n"},
            "not in EPSG:4326",
        ),
    ],
)
def test_trees_that_make_no_sense_are_refused(tmp_path, files, sentence):
    with pytest.raises(DataError, match=sentence):
        kapture_tree.read_kapture(write_tree(tmp_path, **{"records": "1, c0, a\n"} | files))


def test_what_is_no_tree_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"not a kapture tree with images: no sensors/sensors.txt"):
        kapture_tree.read_kapture(tmp_path)
    root = write_tree(tmp_path / "a", "1, c0, a\n")
    (root / "sensors/records_camera.txt").write_bytes(b"1, c0, \xe9.jpg\n")
    with pytest.raises(DataError, match="cannot be read"):
        kapture_tree.read_kapture(root)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tree_of_the_kapture_package_reads_as_it_reads_it(tmp_path):
    kapture = pytest.importorskip("kapture")
    from kapture.io.csv import kapture_from_dir, kapture_to_dir

    rng = np.random.default_rng(5)

    def pose():
        return kapture.PoseTransform(Rotation.random(rng=rng).as_quat(scalar_first=True), rng.normal(size=3) * 100)

    camera = kapture.Camera(kapture.CameraType.SIMPLE_PINHOLE, [640, 480, 500, 320, 240])
    gnss = kapture.Sensor("gnss", ["EPSG:4326"])
    data = kapture.Kapture(
        sensors=kapture.Sensors(left=camera, right=camera, alone=camera, GPS_left=gnss),
        rigs=kapture.Rigs(),
        trajectories=kapture.Trajectories(),
        records_camera=kapture.RecordsCamera(),
        records_gnss=kapture.RecordsGnss(),
    )
    data.rigs["rig", "left"], data.rigs["rig", "right"] = pose(), pose()
    for time in range(20):
        data.trajectories[time, "rig"], data.trajectories[time, "alone"] = pose(), pose()
        for device in ("left", "right", "alone"):
            data.records_camera[time, device] = f"{device}/{time:03d}.jpg"
        data.records_gnss[time, "GPS_left"] = kapture.RecordGnss(13.0 + time / 1000, 55.0, 0.0, 0, 0.0)
    kapture_to_dir(str(tmp_path), data)

    images = kapture_tree.read_kapture(tmp_path)
    theirs = kapture_from_dir(str(tmp_path))
    poses = kapture.rigs_remove(theirs.trajectories, theirs.rigs)
    expected = {
        name: poses[time, device].inverse().t.ravel()[:2]
        for time, device, name in kapture.flatten(theirs.records_camera, is_sorted=True)
    }
    assert sorted(images.names) == sorted(expected)
    assert images.positions == pytest.approx(np.array([expected[name] for name in images.names]), abs=1e-8)
    by_gnss = kapture_tree.read_kapture(tmp_path, "gnss")
    assert by_gnss.positions[images.names.index("left/004.jpg")] == pytest.approx(utm.from_latlon(55.0, 13.004)[:2])
