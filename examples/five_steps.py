"""The five steps of pytorch-superpoint on the demo city, small: train, label, train jointly, export, evaluate.

    python examples/five_steps.py --out five_steps

Everything is rendered, nothing is downloaded. With the few steps of the defaults the weights are poor; the commands are
those of a real training, and each is printed before it runs. Started again, it continues.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

SIZE = (160, 120)
SHIFT = 0.08  # of the corners of an image, for the pairs of the evaluation


def run(*words: object) -> None:
    command = [str(word) for word in words]
    print("\n$ vpr", shlex.join(command), flush=True)
    subprocess.run([sys.executable, "-m", "vpr", *command], check=True)


def write_pairs(images: Path, out: Path, count: int) -> None:
    """Images of a folder and copies warped by known homographies, with the table that `vpr evaluate` reads."""
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = []
    for number, path in enumerate(sorted(images.rglob("*.png"))[:count]):
        image = cv2.imread(str(path))
        height, width = image.shape[:2]
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        moved = corners + random.uniform(-SHIFT, SHIFT, (4, 2)).astype(np.float32) * [width, height]
        matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
        cv2.imwrite(str(out / f"{number}a.png"), image)
        cv2.imwrite(str(out / f"{number}b.png"), cv2.warpPerspective(image, matrix, (width, height)))
        rows.append([f"{number}a.png", f"{number}b.png", *matrix.ravel()])
    with (out / "homographies.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_a", "image_b", *(f"h{row}{column}" for row in range(3) for column in range(3))])
        table.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("five_steps"))
    parser.add_argument("--images", type=int, default=16, help="of each of two cities")
    parser.add_argument("--steps", type=int, default=60, help="of each training")
    options = parser.parse_args()
    out, steps = options.out, options.steps
    size = f"[{SIZE[0]},{SIZE[1]}]"
    loop = [f"train.steps={steps}", "train.batch_size=4", "train.warmup_steps=5", f"train.validate_every={steps}"]
    short = [word for each in loop for word in ("--set", each)]
    labelled, photographs = out / "labelled", out / "labelled" / "leftImg8bit" / "train"

    run("demo-labels", "--out", labelled, "--layout", "cityscapes", "--cities", 2, "--images", options.images,
        "--width", SIZE[0], "--height", SIZE[1])  # fmt: skip

    # 1. MagicPoint on drawn shapes.
    run("train", "magicpoint", "--config", "train_magicpoint_small", "--out", out / "magicpoint", *short)
    # 2. Pseudo labels by homographic adaptation.
    run(
        "train",
        "label",
        "--images",
        photographs,
        "--weights",
        out / "magicpoint" / "best.safetensors",
        "--out",
        out / "labels",
        "--width",
        SIZE[0],
        "--height",
        SIZE[1],
        "--set",
        "warps=10",
        "--set",
        "threshold=0.001",
    )  # fmt: skip  (lower than usual: a detector of few steps is unsure)
    # 3. Detector, descriptor and segmentation together.
    run("train", "segmentation", *short, "--out", out / "joint",
        "--pretrained", out / "magicpoint" / "best.safetensors",
        "--set", f"task.root={labelled}", "--set", f"task.size={size}", "--set", "task.frozen=false",
        "--set", f"task.labels={out / 'labels'}", "--set", "task.warped_pair=true")  # fmt: skip
    # 4. Features and classes of images, and of pairs with a known homography.
    superpoint, head = out / "joint" / "superpoint.safetensors", out / "joint" / "best.safetensors"
    held_out = labelled / "leftImg8bit" / "val"
    write_pairs(held_out, out / "pairs", 8)
    features = ["--set", "local_features.method=superpoint", "--set", f"local_features.weights={superpoint}",
                "--set", "local_features.keypoint_threshold=0"]  # fmt: skip
    run("export", "npz", held_out, "--out", out / "npz", "--export-segmentation", head, "--output-images", *features)
    run("export", "npz", out / "pairs", "--pairs", "homography-folder", "--out", out / "npz_pairs", *features)
    # 5. Homographies, against classical SIFT, and segmentation.
    for name, chosen in (("joint", features), ("sift", ["--set", "local_features.method=sift"])):
        run("evaluate", "homography-folder", out / "pairs", "--out", out / f"evaluation_{name}", *chosen)
    run("evaluate", "segmentation", labelled, "--out", out / "evaluation_classes", "--head", head)


if __name__ == "__main__":
    main()
