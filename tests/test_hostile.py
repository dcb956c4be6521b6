"""A hundred hostile inputs: each ends with a sentence that names what is wrong, and leaves nothing that looks whole.

Every case writes its input into a folder and gives the command line and what the sentence must say.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import textured, write_picture

from vpr import cli

Case = Callable[[Path], tuple[list[str], str]]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def enter(function: Case) -> Case:
        assert name not in CASES
        CASES[name] = function
        return function

    return enter


def folders(root: Path, database: int = 4, queries: int = 2, positions: bool = True) -> list[str]:
    """Two good folders, and the command to run them."""
    for role, count in (("database", database), ("queries", queries)):
        (root / role).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            name = f"@{500000 + 50 * i}.0@4000000.0@{i}@.jpg" if positions else f"{i}.jpg"
            write_picture(root / role / name, textured(i, 60, 80))
    return run(root)


def run(root: Path, *more: str) -> list[str]:
    return ["run", "--database", f"{root}/database", "--queries", f"{root}/queries", "--out", f"{root}/out", *more]


# --- folders


def simple(name: str, prepare: Callable[[Path], object], sentence: str, *more: str) -> None:
    """A case that spoils two good folders."""

    def made(root: Path) -> tuple[list[str], str]:
        command = folders(root)
        prepare(root)
        return [*command, *more], sentence

    case(name)(made)


def empty_of(role: str) -> Callable[[Path], None]:
    def prepare(root: Path) -> None:
        shutil.rmtree(root / role)
        (root / role).mkdir()

    return prepare


def renamed(new: str, role: str = "database") -> Callable[[Path], None]:
    """Give the first picture of a folder another name."""

    def prepare(root: Path) -> None:
        first = sorted((root / role).iterdir())[0]
        first.rename(root / role / new)

    return prepare


def undecodable(root: Path) -> None:
    first = sorted((root / "database").iterdir())[0]
    os.rename(os.fsencode(first), os.fsencode(root / "database") + b"/bad\xff.jpg")


for role in ("database", "queries"):
    simple(f"{role}: missing", lambda root, role=role: shutil.rmtree(root / role), "no such folder")
    simple(f"{role}: empty", empty_of(role), "holds no images")
    simple(
        f"{role}: only text",
        lambda root, role=role: (empty_of(role)(root), (root / role / "a.txt").touch()),
        "holds no images",
    )
    simple(
        f"{role}: only hidden files",
        lambda root, role=role: (empty_of(role)(root), (root / role / ".a.jpg").touch()),
        "holds no images",
    )
    simple(
        f"{role}: is a file",
        lambda root, role=role: (shutil.rmtree(root / role), (root / role).touch()),
        "not an image .*; give an image, or a folder of images",
    )
    simple(f"{role}: position is nan", renamed("@nan@4000000.0@x@.jpg", role), "@nan@")
    simple(f"{role}: position is infinite", renamed("@500000.0@inf@x@.jpg", role), "@inf@")
    simple(f"{role}: position is far from Earth", renamed("@1e300@4000000.0@x@.jpg", role), "metres on Earth")
    simple(f"{role}: position is a word", renamed("@east@north@x@.jpg", role), "@east@north@x@")
    simple(f"{role}: position is half there", renamed("@500000.0@.jpg", role), "@500000.0@")
    simple(f"{role}: newline in a name", renamed("@1.0@2.0@a\nb@.jpg", role), "control character")
simple("database: a name without position", renamed("plain.jpg"), "'plain.jpg'.*position")
simple("database: bytes that are no text", undecodable, "UTF-8|no @east")
simple("out is a file", lambda root: (root / "out").write_text("mine"), "out.*Not a directory")


# --- pictures


def spoiled(content: bytes | None, which: str = "all") -> Callable[[Path], None]:
    def prepare(root: Path) -> None:
        for path in sorted((root / "database").iterdir())[: None if which == "all" else 1]:
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2] if content is None else content)

    return prepare


HUGE = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
PICTURES = {
    "empty": (b"", "the file is empty"),
    "cut off": (None, "truncated or damaged"),
    "text": (b"not a picture", "not an image"),
    "a web page": (b"<!doctype html>" * 99, "not an image"),
    "enormous": (HUGE + b"\0" * 99, "more than 100 megapixels"),
    "zeros": (b"\0" * 5000, "not an image"),
    "only a JPEG header": (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "not an image|damaged"),
}
for kind, (content, reason) in PICTURES.items():
    simple(f"one picture is {kind}, fail", spoiled(content, "one"), reason, "--set", "images.on_bad_image=fail")
    simple(f"all pictures are {kind}, skip", spoiled(content), "not one of 4 images \\(database\\) can be used")
simple(
    "all pictures are blank",
    lambda root: [write_picture(path, np.zeros((60, 80, 3), np.uint8)) for path in (root / "database").iterdir()],
    "no image of the database has a single local feature",
    *("--set", "local_features.method=rootsift"),  # SuperPoint sees the edges of the picture
)
simple(
    "a picture is a folder link to nowhere",
    lambda root: (root / "database" / "@1.0@2.0@.jpg").symlink_to("gone"),
    "no such image",
    "--set",
    "images.on_bad_image=fail",
)


# --- ground_truth.csv


def listed(text: str | bytes, sentence: str, name: str) -> None:
    def made(root: Path) -> tuple[list[str], str]:
        command = folders(root, positions=False)
        data = text.encode() if isinstance(text, str) else text
        (root / "ground_truth.csv").write_bytes(data)
        return command, sentence

    case(f"ground_truth.csv: {name}")(made)


HEADER = "query,positives\n"
listed(HEADER + "queries/0.jpg,database/nowhere.jpg\n", "nowhere.jpg", "a positive that is not there")
listed(HEADER + "queries/0.jpg,database/0.jpg\n" * 2, "queries/0.jpg", "a query twice")
listed(
    HEADER + "queries/0.jpg,database/0.jpg\nqueries/gone.jpg,database/0.jpg\n", "gone.jpg", "a query that is not there"
)
listed(b"\xff\xfe\x00query", "ground_truth.csv", "binary")
listed(HEADER + "queries/0.jpg,database/0.jpg,extra,cells\n", "line 2", "too many cells")


# --- image lists and npz, by the commands of Patch-NetVLAD


def lists(root: Path, index: str | None = None, query: str | None = None) -> list[str]:
    """Extract both lists of a good set, spoil a list afterwards if asked to, and give the matching command."""
    folders(root, positions=False)
    (root / "index.txt").write_text("".join(f"./database/{i}.jpg\n" for i in range(4)))
    (root / "query.txt").write_text("".join(f"./queries/{i}.jpg\n" for i in range(2)))
    np.savez(root / "gt.npz", utmQ=np.zeros((2, 2)), utmDb=np.zeros((4, 2)), posDistThr=25.0)
    for role in ("index", "query"):
        call(extract_command(root, role))
    for role, text in (("index", index), ("query", query)):
        if text is not None:
            (root / f"{role}.txt").write_text(text)
    return [
        "feature-match",
        *("--dataset_root_dir", f"{root}", "--ground_truth_path", f"{root}/gt.npz"),
        *("--query_file_path", f"{root}/query.txt", "--index_file_path", f"{root}/index.txt"),
        *("--query_input_features_dir", f"{root}/f/query", "--index_input_features_dir", f"{root}/f/index"),
        *("--result_save_folder", f"{root}/out", "--nocuda", "--config_path", "superpoint_vlad"),
    ]


def extract_command(root: Path, role: str) -> list[str]:
    return [
        "feature-extract",
        *("--dataset_root_dir", f"{root}", "--dataset_file_path", f"{root}/{role}.txt"),
        *("--output_features_dir", f"{root}/f/{role}", "--nocuda", "--config_path", "superpoint_vlad"),
    ]


LISTS = {
    "blank inside": ("./database/0.jpg\n\n./database/1.jpg\n", "line 2: blank"),
    "an image twice": ("./database/0.jpg\ndatabase/0.jpg\n", "line 2.*line 1 too"),
    "an absolute path": ("/etc/passwd.jpg\n", "line 1.*not inside its folder"),
    "a way out": ("../../secret.jpg\n", "line 1.*not inside its folder"),
    "empty": ("", "lists no images"),
    "blank": ("\n\n\n", "lists no images"),
    "a tab": ("database/0\t.jpg\n", "line 1.*control character"),
    "another length than utmDb": ("database/0.jpg\n", "1 .*4|4 .*1"),
}
for kind, (text, reason) in LISTS.items():
    case(f"image list: {kind}")(lambda root, text=text, reason=reason: (lists(root, index=text), reason))


@case("image list: missing")
def _(root: Path) -> tuple[list[str], str]:
    command = lists(root)
    (root / "query.txt").unlink()
    return command, "query.txt: no such file"


@case("image list: a folder")
def _(root: Path) -> tuple[list[str], str]:
    command = lists(root)
    (root / "query.txt").unlink()
    (root / "query.txt").mkdir()
    return command, "query.txt: not a file"


for kind, file, command, wanted in (
    ("an image list", "query.txt", None, "query.txt: not a file"),
    ("a ground truth", "gt.npz", None, "gt.npz: not a file"),
    ("a ground truth to check", "gt.npz", ["gt", "check", "gt.npz"], "a pipe, socket or device, not a file"),
    ("a table", "p.csv", ["gt", "make", "p.csv", "--out", "out.npz"], "a pipe, socket or device, not a file"),
    ("a config", "c.toml", ["config", "show", "--config", "c.toml"], "a pipe, socket or device, not a file"),
    ("an .ini file", "c.ini", ["config", "show", "--config", "c.ini"], "c.ini"),
):  # fmt: skip

    @case(f"a pipe as {kind}")
    def _(root: Path, file=file, command=command, wanted=wanted) -> tuple[list[str], str]:
        words = lists(root) if command is None else command
        (root / file).unlink(missing_ok=True)
        os.mkfifo(root / file)
        return words, wanted


@case("image list: binary")
def _(root: Path) -> tuple[list[str], str]:
    command = lists(root)
    (root / "query.txt").write_bytes(b"\xff\xfe\x00\x01")
    return command, "not a readable image list"


@case("image list: of other images than the features")
def _(root: Path) -> tuple[list[str], str]:
    return lists(
        root, index="".join(f"./database/{i}.jpg\n" for i in (3, 1, 2, 0))
    ), "made from another list of 4 images"


@case("image list: names an image that is not there, fail")
def _(root: Path) -> tuple[list[str], str]:
    folders(root, positions=False)
    (root / "index.txt").write_text("database/0.jpg\ndatabase/gone.jpg\n")
    return [*extract_command(root, "index"), "--set", "images.on_bad_image=fail"], "gone.jpg: no such image"


GOOD = {"utmQ": np.zeros((2, 2)), "utmDb": np.zeros((4, 2)), "posDistThr": np.float64(25)}
ARRAYS = {
    "no utmQ": ({"utmQ": None}, "utmQ"),
    "no utmDb": ({"utmDb": None}, "utmDb"),
    "no radius": ({"posDistThr": None}, "posDistThr"),
    "utmQ of one column": ({"utmQ": np.zeros((2, 1))}, "utmQ"),
    "utmQ of words": ({"utmQ": np.array([["a", "b"], ["c", "d"]])}, "utmQ"),
    "utmDb with nan": ({"utmDb": np.array([[0, 0], [0, np.nan], [1, 1], [2, 2]])}, "not a finite number|finite"),
    "more queries than listed": ({"utmQ": np.zeros((3, 2))}, "3|2"),
    "a radius of nan": ({"posDistThr": np.nan}, "posDistThr|radius"),
    "a negative radius": ({"posDistThr": -1.0}, "posDistThr|radius"),
}
for kind, (change, reason) in ARRAYS.items():

    def spoiled_npz(root: Path, change=change, reason=reason) -> tuple[list[str], str]:
        command = lists(root)
        np.savez(root / "gt.npz", **{key: value for key, value in (GOOD | change).items() if value is not None})
        return command, reason

    case(f"npz: {kind}")(spoiled_npz)


@case("npz: pickled objects")
def _(root: Path) -> tuple[list[str], str]:
    command = lists(root)
    np.savez(root / "gt.npz", **(GOOD | {"utmQ": np.array([{"code": 1}, None], dtype=object)}))
    return command, "gt.npz"


@case("npz: not one")
def _(root: Path) -> tuple[list[str], str]:
    command = lists(root)
    (root / "gt.npz").write_text("hello")
    return command, "gt.npz"


@case("npz: missing")
def _(root: Path) -> tuple[list[str], str]:
    command = lists(root)
    (root / "gt.npz").unlink()
    return command, "gt.npz"


# --- folders of features


def features_spoiled(name: str, spoil: Callable[[Path], object], sentence: str) -> None:
    def made(root: Path) -> tuple[list[str], str]:
        command = lists(root)
        spoil(root / "f" / "index" / "local")
        return command, sentence

    case(f"features: {name}")(made)


features_spoiled("missing", shutil.rmtree, "no origin.json.*run the extraction first")
features_spoiled("no index", lambda folder: (folder / "index.json").unlink(), "interrupted; run it again")
features_spoiled("a damaged index", lambda folder: (folder / "index.json").write_text("x" * 500), "damaged")
features_spoiled("a shard is gone", lambda folder: next(folder.rglob("*.safetensors")).unlink(), "damaged or missing")
features_spoiled("a shard is cut", lambda f: os.truncate(next(f.rglob("*.safetensors")), 900), "damaged or missing")
features_spoiled("origin.json is cut", lambda folder: os.truncate(folder / "origin.json", 30), "origin.json: damaged")
features_spoiled("origin.json is a list", lambda f: (f / "origin.json").write_text("[1]"), "origin.json: damaged")


@case("features: of other settings")
def _(root: Path) -> tuple[list[str], str]:
    command = lists(root)
    shutil.rmtree(root / "f" / "index")
    call([*extract_command(root, "index"), "--set", "local_features.longest_side=50"])
    return command, "made with other settings"


@case("features: extracted again with other settings")
def _(root: Path) -> tuple[list[str], str]:
    lists(root)
    command = [*extract_command(root, "index"), "--set", "local_features.longest_side=50"]
    return command, r"local_features.longest_side: 640 -> 50.*another folder or delete"


# --- settings, readers, protocols, devices


def command(name: str, arguments: list[str], sentence: str) -> None:
    case(name)(lambda root: (arguments, sentence))


for name, override, sentence in (
    ("unknown section", "shortlst.k=1", "did you mean 'shortlist'"),
    ("unknown key", "shortlist.kk=1", "unknown key 'kk'"),
    ("no such method", "matcher.method=superglu", "unknown matcher 'superglu'"),
    ("a word for a number", "shortlist.k=many", "k = 'many'"),
    ("zero candidates", "shortlist.k=0", "greater than or equal to 1"),
    ("no equals sign", "shortlist.k", "expected section.key=value"),
    ("ratio above one", "matcher.ratio=1.5", "less than or equal to 1"),
    ("no such device", "machine.device=quantum", "machine.device = 'quantum'"),
    ("index that cannot be parsed", "index.factory=Flatt", "could not parse|index.factory"),
    ("more lists than images", "index.factory='IVF4096,Flat'", "needs at least 4096 images"),
    ("search parameter", "index.search=depth=3", "no parameter"),
    ("panoramas unknown", "shortlist.one_per_group=true", "does not say which images are of one panorama"),
    ("a model that is not there", "global_descriptor.weights=gone.safetensors", "gone.safetensors"),
):
    simple(f"settings: {name}", lambda root: None, sentence, "--set", override)
simple("settings: a file that is not there", lambda root: None, "no such file", "--config", "gone.toml")
simple("settings: a name that is not there", lambda root: None, "no config 'gone' comes with vpr", "--config", "gone")
simple("protocol: unknown", lambda root: None, "unknown protocol 'pitts'", "--protocol", "pitts")
simple("protocol: other counts", lambda root: None, "recalls would not compare", "--protocol", "pitts30k")
command("run without folders", ["run", "--out", "x"], "give --database and --queries")
command("reader: unknown", ["run", "--out", "x", "--reader", "excel"], "unknown reader 'excel'")
command("reader: nothing said", ["run", "--out", "x", "--reader", "msls"], "also needs root=")
command("reader: wrong name", ["run", "--out", "x", "--reader", "msls", "--source", "rot=/"], "got 'rot=/'")
command("reader: wrong type", ["run", "--out", "x", "--reader", "folders", "--source", "radius_m=far"], "radius_m=far")
command("match-two: missing", ["match-two", "gone.jpg", "gone.jpg"], "gone.jpg: no such image")
command("match-two: cannot write", ["match-two", "a.jpg", "b.jpg", "--out", "x.gif2"], "not an image format")
command("gt check: nothing given", ["gt", "check"], "give the npz")
command("datasets show: unknown", ["datasets", "show", "pits30k"], "unknown protocol 'pits30k'")
for kind in ("dbstruct", "image_lists", "kapture", "msls", "ground_truth_csv"):
    sources = {
        "dbstruct": ["path=gone.mat", "root=."],
        "image_lists": ["root=.", "database=gone.txt", "queries=gone.txt"],
        "kapture": ["mapping=gone", "query=gone"],
        "msls": ["root=gone"],
        "ground_truth_csv": ["root=gone"],
    }[kind]
    given = [part for source in sources for part in ("--source", source)]
    command(f"reader {kind}: nothing there", ["run", "--out", "x", "--reader", kind, *given], "gone")


# --- gt make

ROWS = "name,role,lat,lon\na.jpg,database,52.0,13.0\nb.jpg,query,52.0,13.0\n"
for name, text, sentence in (
    ("latitude of 91", ROWS.replace("52.0,13.0\nb", "91.0,13.0\nb"), "91"),
    ("longitude of 999", ROWS.replace("52.0,13.0\nb", "52.0,999\nb"), "999"),
    ("latitude of nan", ROWS.replace("52.0,13.0\nb", "nan,13.0\nb"), "nan|line 2"),
    ("no role", "name,lat,lon\na.jpg,52,13\n", "role"),
    ("an odd role", ROWS.replace("query", "enemy"), "enemy"),
    ("no positions", "name,role\na.jpg,database\nb.jpg,query\n", "lat"),
    ("an image twice", ROWS + "a.jpg,database,52.0,13.0\n", "a.jpg"),
    ("nothing", "", "points.csv"),
):

    def table(root: Path, text=text, sentence=sentence) -> tuple[list[str], str]:
        (root / "points.csv").write_text(text)
        return ["gt", "make", f"{root}/points.csv", "--out", f"{root}/out.npz"], sentence

    case(f"gt make: {name}")(table)


# --- the test


def call(arguments: list[str]) -> None:
    """Run a command in this process, as the script ``vpr`` does."""
    before = sys.argv
    sys.argv = ["vpr", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code:
            raise
    finally:
        sys.argv = before


def test_there_are_a_hundred() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_hostile(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, sentence = CASES[name](tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 1
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said
    assert re.search(sentence, errors[0]), errors[0]
    for whole in ("report.html", "predictions.jsonl", "recalls.txt", "run.json"):
        assert not (tmp_path / "out" / whole).exists()
    assert not (tmp_path / "out.npz").exists()


# --- odd, but no error

ODD_NAMES = (
    "a, b.jpg",
    "with space.jpg",
    "at@home.jpg",
    "ünïcödé 日本.jpg",
    "-dash.jpg",
    "#hash.jpg",
    "quote'\".jpg",
    "<b>&amp;.jpg",
    "sub folder/@x@y.jpg",
    "UPPER.JPG",
)


def test_odd_names_work_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for role in ("database", "queries"):
        for i, name in enumerate(ODD_NAMES):
            write_picture(tmp_path / "an @ and, a space" / role / name, textured(i))
    call(run(tmp_path / "an @ and, a space"))
    out = tmp_path / "an @ and, a space" / "out"
    first = {}
    for line in (out / "predictions.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["rank"] == 1:
            first[entry["query"]] = entry["candidate"]
    assert first == {name: name for name in ODD_NAMES}
    assert "<b>&amp;.jpg" not in (out / "report.html").read_text()
    assert not (out / "pairs_kapture.txt").exists()  # a comma cannot be said there


def test_bad_images_among_good_ones_shift_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = folders(tmp_path, database=6, queries=6)
    for role, row in (("database", 2), ("queries", 4)):
        sorted((tmp_path / role).iterdir())[row].write_bytes(b"")
    call(command)
    found: dict[str, list[str]] = {}
    for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry["query"], []).append(entry["candidate"])
    names = sorted(path.name for path in (tmp_path / "database").iterdir())
    assert names[4] not in found
    assert all(names[2] not in candidates for candidates in found.values())
    assert all(found[names[row]][0] == names[row] for row in (0, 1, 3, 5))
    recalls = json.loads((tmp_path / "out" / "recalls.json").read_text())
    assert recalls["queries"] == 6


@pytest.mark.parametrize("mode", ["grey", "16 bit", "alpha", "tiny"])
def test_odd_images_are_images(tmp_path: Path, mode: str) -> None:
    import cv2

    image = textured(1)
    odd = {
        "grey": image[..., 0],
        "16 bit": image.astype(np.uint16) * 257,
        "alpha": np.dstack([image, image[..., 0]]),
        "tiny": image[:1, :1],
    }[mode]
    folders(tmp_path, positions=False)
    for role in ("database", "queries"):
        assert cv2.imwrite(str(tmp_path / role / "odd.png"), odd)
    call(run(tmp_path))
