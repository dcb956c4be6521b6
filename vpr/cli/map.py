"""``vpr map``: a map of a city that lasts: made once, changed every day, asked with one photograph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpr.cli.common import ConfigOption, SetOption, call_with, say, settings_of
from vpr.cli.on_ray import RayCommand, RayOption, StagingOption, WorkerCpusOption, WorkerGpusOption, ray_workers
from vpr.core import ConfigError, DataError

if TYPE_CHECKING:
    from vpr.datasets.placed import PlacedImage
    from vpr.maps import Added, MapInfo

MANY_SEGMENTS = 32

app = typer.Typer(
    help="A map of a city: made once, changed every day, asked with one photograph.", no_args_is_help=True
)

City = Annotated[Path, typer.Argument(metavar="CITY", help="The folder of the map.")]
Images = Annotated[Path | None, typer.Option(help="A folder of images at any depth, one image, or a kapture tree.")]
Positions = Annotated[
    str,
    typer.Option(
        metavar="FILE|KIND",
        help="A csv file, or: names (@utm_east@utm_north@...@.jpg), exif, kapture, none; auto takes names, else EXIF.",
    ),
]
ReaderName = Annotated[
    str | None,
    typer.Option("--reader", metavar="NAME", help="Take the database of a data set (`vpr datasets readers`)."),
]
Sources = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="NAME=VALUE", help="What the reader needs, for instance root=/data; repeat it."),
]
Where = Annotated[
    str, typer.Option(metavar="FILTER", help="Only images that meet it: \"heading < 90 AND name LIKE 'drive7/%'\".")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Uri = Annotated[
    str | None,
    typer.Option(
        metavar="URI", help="Milvus: http://HOST:19530, or a file NAME.db of milvus-lite; else VPR_MILVUS_URI."
    ),
]
Collection = Annotated[
    str | None, typer.Option(metavar="NAME", help="Milvus: the collection; by default one named after the map.")
]
IndexName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Milvus: FLAT, IVF_FLAT, IVF_SQ8 (default), HNSW, DISKANN."),
]
SearchSet = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Milvus: another setting, as consistency=Strong, timeout_s=10, token_file=FILE, build.nlist=4096, "
        "query.nprobe=64; repeat it.",
    ),
]
Near = Annotated[
    str | None, typer.Option(metavar="LAT,LON", help="Only images near this place, in degrees: 55.6982,13.1952")
]


@app.command(cls=RayCommand)
def create(
    city: City,
    *,
    images: Images = None,
    positions: Positions = "auto",
    reader: ReaderName = None,
    source: Sources = None,
    compact_profile: Annotated[
        bool, typer.Option("--compact", help="20 KB an image instead of 64: fewer keypoints, fewer bits.")
    ] = False,
    on_bad_image: Annotated[str | None, typer.Option(metavar="skip|fail", help="What a bad image does.")] = None,
    search: Annotated[
        str | None, typer.Option(metavar="faiss|milvus", help="What searches it; see `vpr map search --help`.")
    ] = None,
    uri: Uri = None,
    collection: Collection = None,
    index: IndexName = None,
    search_set: SearchSet = None,
    config: ConfigOption = "map",
    overrides: SetOption = None,
    ray: RayOption = None,
    staging: StagingOption = None,
    worker_cpus: WorkerCpusOption = 1,
    worker_gpus: WorkerGpusOption = None,
) -> None:
    """Make a map of images; run it again to go on after an interruption."""
    from vpr.maps import Map

    wanted = _search_settings(search, uri, collection, index, search_set)
    root, placed = _read(images, positions, reader, source)
    bad = [] if on_bad_image is None else [f"images.on_bad_image={on_bad_image}"]
    settings = settings_of(config, [*(overrides or []), *bad])
    made = Map.begin(city, settings, "compact" if compact_profile else "default")
    if wanted is not None:
        _say_all(made.set_search(**wanted))
    with ray_workers(ray, staging, worker_cpus, worker_gpus, city) as workers:
        _say_added(made.add_placed(placed, root, workers=workers))
    made.compact()
    _say_info(made.info())


@app.command(cls=RayCommand)
def add(
    city: City,
    *,
    images: Images = None,
    positions: Positions = "auto",
    reader: ReaderName = None,
    source: Sources = None,
    device: Device = "auto",
    ray: RayOption = None,
    staging: StagingOption = None,
    worker_cpus: WorkerCpusOption = 1,
    worker_gpus: WorkerGpusOption = None,
) -> None:
    """Add images; those that the map has already, by name and content, cost nothing but reading the file."""
    from vpr.maps import Map

    root, placed = _read(images, positions, reader, source)
    with Map(city, device=device) as held:
        with ray_workers(ray, staging, worker_cpus, worker_gpus, city) as workers:
            _say_added(held.add_placed(placed, root, workers=workers))
        _say_info(held.info())


@app.command()
def remove(
    city: City,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Images, as `vpr map list` names them.")
    ] = None,
    where: Where = "",
) -> None:
    """Remove images by name, or those that meet a filter; `vpr map compact` then frees their space."""
    from vpr.maps import Map

    with Map(city) as held:
        removed = held.remove(names or [], where)
        say(f"removed {removed} images; {len(held)} are left")


@app.command()
def locate(
    city: City,
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Photographs, or folders of them.")],
    *,
    near: Near = None,
    radius: Annotated[float | None, typer.Option(metavar="METRES", help="Around --near; 500 by default.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Only images from then on: 2024-05-01.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only images until then.")] = None,
    where: Where = "",
    k: Annotated[int, typer.Option(help="Candidates in an answer.", min=1)] = 5,
    rerank: Annotated[int | None, typer.Option(help="Candidates compared by local features.", min=0)] = None,
    rotations: Annotated[
        str, typer.Option(metavar="DEGREES", help="Turn the photograph until it verifies: 0,90,180,270.")
    ] = "0",
    sequence: Annotated[
        bool, typer.Option("--sequence", help="The photographs are frames of a drive, in order: use those before.")
    ] = False,
    step: Annotated[float, typer.Option(metavar="METRES", help="With --sequence: from one frame to the next.")] = 10.0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each photograph.")] = False,
) -> None:
    """Where were these photographs taken?"""
    from vpr.datasets.folders import folder_and_names
    from vpr.maps import Map

    prior: dict[str, Any] = {"near": _degrees(near), "radius_m": radius, "since": since, "until": until, "where": where}
    paths = [folder / name for folder, names in map(folder_and_names, photos) for name in names]
    if sequence and rerank:
        raise ConfigError("--rerank is not for --sequence, which compares global descriptors")
    turns = _rotations(rotations)
    if sequence and turns != (0,):
        raise ConfigError("--rotations is not for --sequence; turn the frames")
    with Map(city, device=device) as held:
        if sequence:
            answers = held.locate_sequence(paths, step_m=step, k=k, **prior)
        else:
            answers = (held.locate(path, k=k, rerank=rerank, rotations=turns, **prior) for path in paths)
        for path, answer in zip(paths, answers, strict=True):
            if as_json:
                say(json.dumps({"photo": str(path), **answer.to_json()}, ensure_ascii=False))
                continue
            say(f"{path}: {answer}")
            for rank, each in enumerate(answer.candidates, 1):
                inliers = "" if each.inliers is None else f"  {each.inliers} inliers of {each.matches} matches"
                say(f"  {rank:2}  similarity {each.similarity:.3f}{inliers}  {each.name}")


@app.command()
def info(city: City) -> None:
    """Size and state of a map."""
    from vpr.maps import Map

    with Map(city) as held:
        _say_info(held.info())


@app.command("list")
def list_(city: City, where: Where = "") -> None:
    """Names and positions of the images, as a table separated by tabs."""
    from vpr.maps import Map
    from vpr.maps.answers import position_text
    from vpr.maps.export import time_text

    with Map(city) as held:
        for image in held.images(where):
            place = "" if image.position is None else position_text(image.position)
            say(f"{image.name}\t{place}\t{time_text(image.time)}")


@app.command()
def compact(city: City) -> None:
    """Merge small segments, free the space of removed images, and train the index of a large map."""
    from vpr.maps import Map

    with Map(city) as held:
        done = held.compact()
        say(f"{done.before} segments before, {done.after} now; dropped the data of {done.dropped} removed images")
        if done.recall is not None:
            before, after = (100 * share for share in done.recall)
            trained = "codebook trained; " if done.trained else ""
            say(f"{trained}first ten found of the exact ones: {before:.1f} % before, {after:.1f} % now")


@app.command()
def search(
    city: City,
    method: Annotated[str, typer.Argument(metavar="faiss|milvus", help="faiss: on this machine, in the map's folder.")],
    *,
    uri: Uri = None,
    collection: Collection = None,
    index: IndexName = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Milvus: another setting, as `vpr map create --search-set`."),
    ] = None,
) -> None:
    """Choose what searches a map: FAISS in its folder, or a Milvus server, which gets all its images.

    A token comes from the variable VPR_MILVUS_TOKEN or a file (--set token_file=FILE).
    """
    from vpr.maps import Map

    wanted = _search_settings(method, uri, collection, index, settings)
    with Map(city) as held:
        _say_all(held.set_search(**(wanted or {})))
        say(f"{city}: {len(held)} images, searched by {held.info().search}")


@app.command()
def verify(
    city: City,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make Milvus hold what the map holds: put what it lacks, delete the rest.")
    ] = False,
) -> None:
    """Read every byte of a map and compare checksums, and Milvus with the map; status 1 if anything is wrong."""
    from vpr.maps import Map

    with Map(city) as held:
        if repair:
            _say_all(held.repair())
        wrong = held.verify()
        for text in wrong:
            say(text)
        if wrong:
            advice = "restore files from a copy, or make the map again; what Milvus lacks, --repair puts there"
            raise DataError(f"{city}: {len(wrong)} problems; {advice}")
        say(f"{city}: {len(held)} images, every file is as it was written; searched by {held.info().search}")


@app.command()
def export(
    city: City,
    out: Annotated[Path, typer.Option(help="The file, or for kapture the folder.")],
    form: Annotated[
        str, typer.Option("--format", help="csv, places (file_name, location, date_taken), geojson, kapture.")
    ] = "csv",
    where: Where = "",
) -> None:
    """Write names, positions and all that is known of the images."""
    from vpr.maps import Map
    from vpr.maps.export import export as write

    with Map(city) as held:
        say(f"{write(held.images(where), out, form)} images: {out}")


def _read(
    images: Path | None, positions: str, reader: str | None, source: list[str] | None
) -> tuple[Path, list[PlacedImage]]:
    if reader is None:
        if images is None:
            raise ConfigError("give --images, a folder of images, or --reader NAME with its --source")
        if source:
            raise ConfigError("--source is for --reader; a folder of images is given by --images")
        from vpr.maps.sources import read_images

        return read_images(images, positions)
    if images is not None or positions != "auto":
        raise ConfigError("--images and --positions are for a folder of images; leave them or --reader out")
    from vpr import datasets
    from vpr.datasets.placed import of_image_set

    found = call_with(datasets.reader(reader).read, source or [], f"--reader {reader}: --source").database
    return found.root, of_image_set(found)


def _search_settings(
    method: str | None, uri: str | None, collection: str | None, index: str | None, others: list[str] | None
) -> dict[str, Any] | None:
    """The arguments of Map.set_search; None where no option says anything."""
    from vpr.config import as_table

    named = {"uri": uri, "collection": collection, "index": index}
    given = {name: value for name, value in named.items() if value is not None}
    if method is None:
        if given or others:
            raise ConfigError("--uri, --collection, --index and --search-set are for --search milvus; add it")
        return None
    return {"method": method, **as_table(others or []), **given}


def _degrees(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--near {text!r}: give latitude and longitude in degrees, as 55.6982,13.1952") from None
    return latitude, longitude


def _rotations(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--rotations {text!r}: give degrees, as 0,90,180,270") from None


def _say_all(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _say_added(added: Added) -> None:
    parts = [f"added {added.added} images"]
    for count, what in ((added.replaced, "replaced"), (added.known, "there already"), (added.updated, "moved")):
        parts += [f"{count} {what}"] if count else []
    say(", ".join(parts))
    if added.failed:
        say(f"not read: {len(added.failed)}; {next(iter(added.failed.values()))}")


def _say_info(about: MapInfo) -> None:
    say(f"{about.folder}: {about.images} images, {about.with_position} with a position")
    say(f"segments:    {about.segments} ({about.removed} removed images still lie in them); commit {about.version}")
    say(f"size:        {about.bytes / 1e6:.1f} MB, {about.bytes_per_image / 1e3:.1f} KB an image ({about.profile})")
    say(f"methods:     {about.methods}")
    say(f"search:      {about.search}")
    if about.bounds is not None:
        south, west, north, east = about.bounds
        say(f"within:      latitude {south:.5f} to {north:.5f}, longitude {west:.5f} to {east:.5f}")
    if about.segments > MANY_SEGMENTS:
        say(f"`vpr map compact {about.folder}` merges its segments, and questions take less time")
