"""What settings name is built, and every weight found, before the first image is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_hostile import call

Folders = tuple[Path, Path]

MISTAKES = {
    "the matcher's weights do not exist": ["matcher.method=lightglue", "matcher.weights=no-such-weights"],
    "the matcher was trained for other features": ["local_features.method=rootsift", "matcher.method=superglue"],
    "the vocabulary was fitted on other features": [
        "local_features.method=rootsift",
        "joined.descriptor.weights=vpr-superpoint-vlad",
    ],
    "the features' weights are damaged": ["local_features.weights=DAMAGED"],
    "the global descriptor's weights do not exist": [
        "global_descriptor.method=netvlad",
        "global_descriptor.weights=no-such-weights",
    ],
    "FAISS does not know the index": ["index.factory=IVF99999999999,Flat"],
    "the verifier does not exist": ["verification.method=guess"],
}


def run(folders: Folders, out: Path, overrides: list[str]) -> None:
    call(["run", "--database", str(folders[0]), "--queries", str(folders[1]), "--out", str(out), *overrides])


def benchmark(folders: Folders, out: Path, overrides: list[str]) -> None:
    call(["benchmark", "--datasets", str(folders[0].parent), "--methods", "demo", "--out", str(out), *overrides])


def extract(folders: Folders, out: Path, overrides: list[str]) -> None:
    names = out.with_name("names.txt")
    names.write_text("\n".join(path.name for path in sorted(folders[0].iterdir())) + "\n")
    call(["feature-extract", "--dataset_file_path", str(names), "--dataset_root_dir", str(folders[0]),
          "--output_features_dir", str(out), "--config_path", "superpoint_vlad", *overrides])  # fmt: skip


def match_two(folders: Folders, out: Path, overrides: list[str]) -> None:
    first, second, *_ = sorted(folders[0].iterdir())
    call(["match-two", str(first), str(second), "--out", str(out / "matches.png"), *overrides])


@pytest.mark.parametrize("command", [run, benchmark, extract, match_two])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_no_image_is_read_after_a_mistake_in_the_settings(command, mistake: str, small_city: Folders, tmp_path: Path):
    if command is match_two and ("vocabulary" in mistake or "global" in mistake or "FAISS" in mistake):
        pytest.skip("matching two images uses no global descriptor and no index")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x00" * 100)
    chosen = [value.replace("DAMAGED", str(damaged)) for value in MISTAKES[mistake]]
    with pytest.raises(SystemExit):
        command(small_city, tmp_path / "out", [part for value in chosen for part in ("--set", value)])
    assert not list(tmp_path.rglob("*.safetensors")) or list(tmp_path.rglob("*.safetensors")) == [damaged]
    assert not list(tmp_path.rglob("contents.json"))


def test_too_few_images_for_the_index_are_no_reason_to_extract(
    small_city: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        run(small_city, tmp_path / "out", ["--set", "index.factory=IVF64,Flat"])
    assert "needs at least 64 images to be trained on, the database has 8" in capsys.readouterr().err
    assert not (tmp_path / "out/features").exists()
