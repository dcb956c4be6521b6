"""Patch-NetVLAD's commands as its users type them, in a folder laid out as its repository."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import textured, write_picture
from netvlad_weights import CPU, random_state, saved
from test_hostile import call
from test_patchnetvlad_ini import ini
from weights_server import Site, serve

from vpr.cli import patchnetvlad_files
from vpr.cli.patchnetvlad import settings_in
from vpr.core import DataError, Dataset, ImageSet
from vpr.datasets.image_lists import read_image_lists, read_listed
from vpr.datasets.shortlists import read_shortlist
from vpr.features.patchnetvlad_folder import PatchNetVladFolder
from vpr.global_descriptors import patch_netvlad
from vpr.images import read_image
from vpr.settings import Settings

DIM = 6
ROLES = {"index": ("database", 6), "query": ("queries", 3)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists, ground truth, config, checkpoint, images and features of a small set."""
    here = tmp_path_factory.mktemp("made") / "repository"
    inside = here / "patchnetvlad"
    for folder in ("dataset_imagenames", "dataset_gt_files", "configs", "pretrained_models"):
        (inside / folder).mkdir(parents=True)
    for role, (folder, count) in ROLES.items():
        names = [f"./{folder}/{folder}{i}.png\n" for i in range(count)]
        (inside / f"dataset_imagenames/x_imageNames_{role}.txt").write_text("".join(names))
        for i in range(count):
            noise = np.random.default_rng(i).integers(0, 12, (96, 128, 3)) if role == "query" else 0
            image = np.clip(textured(i, 96, 128) + noise, 0, 255).astype(np.uint8)
            write_picture(here.parent / "data" / folder / f"{folder}{i}.png", image)
    positions = np.column_stack([100.0 * np.arange(6), np.zeros(6)])
    np.savez(inside / "dataset_gt_files/x.npz", utmQ=positions[:3], utmDb=positions, posDistThr=25)
    saved(random_state(4, DIM), inside / f"pretrained_models/mapillary_WPCA{DIM}.pth.tar")
    size = {"imageresizew": "128", "imageresizeh": "96"}
    ini(
        inside / "configs/small.ini",
        feature_extract={"batchsize": "5", "cachebatchsize": "5", **size},
        feature_match={
            "matcher": "RANSAC", "n_values_all": "1,5", "pred_input_path": "None", "patchweights2use": "0.5,0.5", **size
        },
        global_params={
            "pooling": "patchnetvlad", "resumepath": "./pretrained_models/mapillary_WPCA", "threads": "0",
            "num_pcs": str(DIM), "patch_sizes": "2,3", "strides": "1,1",
        },
    )  # fmt: skip
    before = Path.cwd()
    os.chdir(here)
    try:
        extract()
        write_npy(here)
    finally:
        os.chdir(before)
    return here.parent


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, whose folder ``repository`` is the working directory."""
    shutil.copytree(
        made, tmp_path / "copy", copy_function=lambda a, b: os.link(a, b) if a.endswith(".tar") else shutil.copy(a, b)
    )
    monkeypatch.chdir(tmp_path / "copy/repository")
    return tmp_path / "copy/repository"


CONFIG = ("--config_path", "patchnetvlad/configs/small.ini", "--nocuda")


def extract(root: str = "../data", prefix: str = "x_imageNames", to: str = "features") -> None:
    for role in ROLES:
        call(["feature_extract", *CONFIG, f"--dataset_file_path={prefix}_{role}.txt", f"--dataset_root_dir={root}",
              "--output_features_dir", f"{to}/{role}", "--set", "store.dtype=float32"])  # fmt: skip


def match(*more: str, root: str = "../data", prefix: str = "x_imageNames", features: str = "features") -> list[str]:
    """The lines of the predictions."""
    call(["feature_match", *CONFIG, f"--dataset_root_dir={root}", f"--query_file_path={prefix}_query.txt",
          f"--index_file_path={prefix}_index.txt", "--query_input_features_dir", f"{features}/query",
          "--index_input_features_dir", f"{features}/index", "--result_save_folder", "results",
          "--set", "store.dtype=float32", *more])  # fmt: skip
    return Path("results/PatchNetVLAD_predictions.txt").read_text().splitlines()[2:]


def test_lists_and_ground_truths_are_found_by_name(repository: Path) -> None:
    lines = match("--ground_truth_path", "x.npz")
    assert lines[0] == "../data/./queries/queries0.png, ../data/./database/database0.png"
    assert len(lines) == 3 * 5
    recalls = Path("results/recalls.txt").read_text()
    assert recalls.startswith("Recall NetVLAD@1: ") and "Recall PatchNetVLAD@5: 1.0000\n" in recalls
    assert match("--ground_truth_path", "patchnetvlad/dataset_gt_files/x.npz") == lines


def test_a_file_that_is_nowhere_is_named_with_the_places(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        extract(prefix="y_imageNames")
    said = capsys.readouterr().err
    assert "y_imageNames_index.txt: no such file" in said and "patchnetvlad/dataset_imagenames/y_imageNames" in said
    with pytest.raises(DataError, match=r"^/nowhere/x.npz: no such file$"):
        patchnetvlad_files.located(Path("/nowhere/x.npz"), "dataset_gt_files")


def test_lists_of_absolute_names_give_the_same(repository: Path) -> None:
    data = repository.parent / "data"
    for role, (folder, count) in ROLES.items():
        names = [f"{data}/{folder}/{folder}{i}.png\n" for i in range(count)]
        Path(f"absolute_{role}.txt").write_text("".join(names))
    relative = match("--ground_truth_path", "x.npz", root=str(data))
    extract(prefix="absolute", root="", to="other")
    lines = match("--ground_truth_path", "x.npz", prefix="absolute", root=str(data), features="other")
    assert lines == [line.replace("/./", "/") for line in relative]


def test_absolute_names_outside_the_root_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("/data/a/1.png\n/elsewhere/2.png\n")
    assert read_listed(Path(), tmp_path / "list.txt") == (Path("/"), ("data/a/1.png", "elsewhere/2.png"))
    with pytest.raises(
        DataError, match=r"list.txt, line 2: image name '/elsewhere/2.png' is not inside its folder, /da"
    ):
        read_listed(Path("/data"), tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("/data/a/1.png\nb/2.png\n")
    with pytest.raises(DataError, match=r"line 1.*'/data/a/1.png' is not inside its folder"):
        read_listed(Path("/data"), tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("/data/a/1.png\n/data/a/../a/1.png\n")
    with pytest.raises(DataError, match=r"line 2.*line 1 too"):
        read_listed(Path(), tmp_path / "list.txt")


# --- its folders of .npy files


def write_npy(repository: Path) -> None:
    """The folder ``theirs``, as its feature_extract.py writes it of the same images with the same checkpoint."""
    weights = str(repository / f"patchnetvlad/pretrained_models/mapillary_WPCA{DIM}.pth.tar")
    settings = patch_netvlad.Settings(weights=weights, height=96, width=128, patch_sizes=(2, 3), strides=(1, 1))
    descriptor = patch_netvlad.build(settings, CPU)
    for role, (folder, count) in ROLES.items():
        out = repository / "theirs" / role
        out.mkdir(parents=True)
        paths = [repository.parent / "data" / folder / f"{folder}{i}.png" for i in range(count)]
        found = descriptor.describe_patches([descriptor.preprocess(read_image(path, "rgb")) for path in paths])
        np.save(out / "globalfeats.npy", torch.stack([vector for vector, _ in found]).numpy())
        for path, (_, patches) in zip(paths, found, strict=True):
            for grid, each in zip(patches.grids, patches.descriptors, strict=True):
                np.save(out / f"patchfeats_psize{grid.size}_{path.stem}.npy", each.numpy().T)


def test_its_folders_give_what_ours_give_and_need_no_weights(repository: Path) -> None:
    expected = match("--ground_truth_path", "x.npz")
    shutil.rmtree("patchnetvlad/pretrained_models")
    lines = match("--ground_truth_path", "x.npz", features="theirs")
    assert lines == expected
    rows = [json.loads(line) for line in Path("results/predictions.jsonl").read_text().splitlines()]
    assert [row["candidate"] for row in rows if row["rank"] == 1] == [f"./database/database{i}.png" for i in range(3)]
    assert all(row["inliers"] > 8 for row in rows if row["rank"] == 1)
    assert match("--ground_truth_path", "x.npz", features="theirs") == lines  # reused
    assert "<svg" in Path("results/report.html").read_text()


def save(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


GLOBALS, PATCHES = "globalfeats.npy", "patchfeats_psize3_database4.npy"
EYE = np.eye(6, dtype=np.float32)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / PATCHES).unlink(), "psize3_database4.npy: no such file .1 of 12"),
        (save(GLOBALS, EYE[:5]), "shape 6 x any are expected"),
        (save(GLOBALS, 2 * EYE), "row 0, ./database/database0.png, has the length 2"),
        (save(GLOBALS, np.array([{}])), "not a readable .npy file"),
        (lambda folder: (folder / GLOBALS).write_bytes(b"\x93NUMPY"), "not a readable .npy file"),
        (save(PATCHES, np.zeros((6, 5), np.float32)), "floats of shape 6 x 24 are"),
    ],
)
def test_folders_that_do_not_fit_are_refused(
    damage: Callable[[Path], None], sentence: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(Path("theirs/index"))
    with pytest.raises(SystemExit, match="1"):
        match(features="theirs")
    assert re.search(sentence, capsys.readouterr().err)


def test_images_that_share_a_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "globalfeats.npy", np.eye(2, dtype=np.float32))
    images = ImageSet(tmp_path, ("a/1.jpg", "b/1.png"))
    assert len(PatchNetVladFolder(tmp_path, images, (), (64, 48))) == 2
    grids = patch_netvlad.Settings(height=48, width=64, patch_sizes=(2,), strides=(1,)).grids()
    with pytest.raises(DataError, match=r"a/1.jpg and b/1.png have one file of patch descriptors"):
        PatchNetVladFolder(tmp_path, images, grids, (64, 48))


def test_folders_of_two_programs_and_other_configs_are_refused(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("features/query")
    shutil.copytree("theirs/query", "features/query")
    with pytest.raises(SystemExit, match="1"):
        match()
    assert "features/query holds Patch-NetVLAD's .npy files, features/index does not" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        match("--config_path", "rootsift_vlad", features="theirs")
    assert "holds Patch-NetVLAD's features, and the config compares others" in capsys.readouterr().err


# --- a given shortlist


def test_a_given_shortlist_is_reranked(repository: Path) -> None:
    np.save("given.npy", np.array([[5, 0], [4, 1], [3, 0]]))
    lines = match("--pred_input_path", "given.npy")
    assert [line.split("database")[-1] for line in lines] == ["0.png", "5.png", "1.png", "4.png", *[
        line.split("database")[-1] for line in lines[4:]]]  # fmt: skip
    first = Path("results/NetVLAD_predictions.txt").read_text().splitlines()[2:]
    assert [line.split("database")[-1] for line in first] == ["5.png", "0.png", "4.png", "1.png", "3.png", "0.png"]
    config = Path("patchnetvlad/configs/small.ini")
    config.write_text(config.read_text().replace("pred_input_path = None", "pred_input_path = given.npy"))
    assert match() == lines


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (np.array([[0, 0], [0, 1]]), "row 0: expected distinct database rows from 0 to 3"),
        (np.array([[0, 1], [4, 1]]), "row 1: expected distinct"),
        (np.array([[0, 1], [-1, 1]]), "row 1: .* with -1 at the end only"),
        (np.array([[0, 1]]), r"shape \(1, 2\); expected database rows, one line per query"),
        (np.array([[0.0, 1.0], [0.0, 1.0]]), "float64 of shape"),
        (np.array([0, 1]), r"shape \(2,\)"),
        (np.array([[None, 1], [0, 1]]), "not a readable .npy file"),
    ],
)
def test_rows_that_are_no_shortlist_are_refused(rows: np.ndarray, sentence: str, tmp_path: Path) -> None:
    np.save(tmp_path / "given.npy", rows)
    images = [ImageSet(tmp_path, tuple(f"{role}{i}" for i in range(n))) for role, n in (("d", 4), ("q", 2))]
    with pytest.raises(DataError, match=sentence):
        read_shortlist(tmp_path / "given.npy", Dataset("x", "", *images))


def test_pads_of_a_given_shortlist(tmp_path: Path) -> None:
    np.save(tmp_path / "given.npy", np.array([[3, 1, -1], [-1, -1, -1]], dtype=np.int32))
    images = [ImageSet(tmp_path, tuple(f"{role}{i}" for i in range(n))) for role, n in (("d", 4), ("q", 2))]
    found = read_shortlist(tmp_path / "given.npy", Dataset("x", "", *images))
    assert found.ranking.rows.tolist() == [[3, 1, -1], [-1, -1, -1]] and found.without == (1,)
    assert found.ranking.scores.tolist() == [[0, -1, -np.inf], [-np.inf] * 3]


# --- the other commands


def test_match_two_takes_its_flags(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [f"../data/{name}0.png" for name in ("queries/queries", "database/database")]
    call(["match_two", *CONFIG, f"--first_im_path={images[0]}", f"--second_im_path={images[1]}"])
    flagged = capsys.readouterr().out
    assert "(ransac)" in flagged and Path("results/patchMatchings.png").is_file()
    call(["match-two", *images, *CONFIG, "--out", "m.png"])
    assert capsys.readouterr().out == flagged.replace("results/patchMatchings.png", "m.png")
    for mistake in ([images[0]], ["--first_im_path", images[0]], [*images, "--first_im_path", images[0]]):
        with pytest.raises(SystemExit, match="1"):
            call(["match-two", *mistake])
        assert "give two images" in capsys.readouterr().err


def test_the_default_config_is_its_performance_config(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert settings_in(None, None, False).global_descriptor.weights == "patch_netvlad_mapillary_4096"
    assert settings_in(None, None, False, default=None) == Settings()
    with caplog.at_level("INFO", "vpr"):
        found = settings_in("patchnetvlad/configs/speed.ini", None, True)
    assert found == settings_in("patch_netvlad_speed", None, True)
    assert "the config patch_netvlad_speed says the same" in caplog.text
    with pytest.raises(DataError, match=r"mine.ini: no such file"):
        settings_in("configs/mine.ini", None, False)


def test_files_of_the_installed_package_are_found(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def locate_file(self, name: str) -> Path:
            return tmp_path / "site" / name

    monkeypatch.setattr(patchnetvlad_files, "distribution", lambda name: Installed())
    shutil.move("patchnetvlad", tmp_path / "site" / "patchnetvlad")
    site = tmp_path / "site/patchnetvlad"
    assert patchnetvlad_files.located(Path("x.npz"), "dataset_gt_files") == site / "dataset_gt_files/x.npz"
    assert settings_in("patchnetvlad/configs/small.ini", None, True).global_descriptor.weights == str(
        site / f"pretrained_models/mapillary_WPCA{DIM}.pth.tar"
    )
    write_picture(site / "example_images/a.png", textured(0, 96, 128))
    assert patchnetvlad_files.images_root(Path(), ["example_images/a.png"]) == site
    assert patchnetvlad_files.images_root(Path(), ["example_images/b.png"]) == Path()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("VPR_MODELS", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with serve() as made:
        monkeypatch.setattr("vpr.weights.manifest.shipped", lambda folder: tmp_path)
        monkeypatch.setattr("vpr.weights.finding.shipped", lambda folder: tmp_path)
        (tmp_path / "manifest.toml").write_text(
            '[x]\nloads = ["patch_netvlad"]\nsource = "somebody"\nlicence = "MIT"\n'
            f'folder = "http://127.0.0.1:{made.port}"\n'
            "[x.files]\n" + "".join(f'patch_netvlad_mapillary_{n} = "w{n}.pth"\n' for n in (4096, 512))
        )
        yield made


def test_absent_weights_are_fetched_after_their_licence(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in(None, None, True)
    patchnetvlad_files.fetch_absent_weights(settings)
    assert (tmp_path / "cache/w4096.pth").is_file() and len(site.asked) == 1
    assert "patch_netvlad_mapillary_4096: licence MIT; source somebody" in capsys.readouterr().out
    patchnetvlad_files.fetch_absent_weights(settings)
    assert len(site.asked) == 1 and capsys.readouterr().out == ""
    patchnetvlad_files.fetch_absent_weights(settings_in("rootsift_vlad", None, True))
    assert len(site.asked) == 1


def test_download_models(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.confirm", lambda text: False)
    call(["download_models", "--ask_for_permission"])
    assert site.asked == []
    call(["download_models"])
    assert {path.name for path in (tmp_path / "cache").glob("*.pth")} == {"w4096.pth", "w512.pth"}
    assert capsys.readouterr().out.count("licence MIT") == 2


def test_tokyo_is_read_with_a_protocol_that_keeps_one_crop_per_panorama(repository: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="1"):
        match("--ground_truth_path", "x.npz", "--protocol", "tokyo247@nms")
    assert "6 database images do not divide into groups of 12" in capsys.readouterr().err


def test_lists_of_both_kinds_are_read_by_the_reader_too(repository: Path) -> None:
    data, lists = repository.parent / "data", Path("patchnetvlad/dataset_imagenames")
    Path("q.txt").write_text(f"{data}/queries/queries0.png\n")
    found = read_image_lists(data, lists / "x_imageNames_index.txt", Path("q.txt"))
    assert (found.database.root, found.queries.root) == (data, data / "queries")
    assert found.queries.path(0).is_file() and found.database.path(0).is_file()
