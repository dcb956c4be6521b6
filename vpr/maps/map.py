"""A map of a city: built once, changed every day, asked with one photograph."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from vpr.config import parse
from vpr.core import ConfigError, DataError, Floats, LocalFeatures, SearchError
from vpr.datasets.placed import PlacedImage
from vpr.images import ImageLike
from vpr.maps import creating, writing
from vpr.maps.about import About
from vpr.maps.answers import Answer, Candidate, best_of_rotations, fused
from vpr.maps.compacting import Compacted, compact
from vpr.maps.engine import MapEngine, MapFeatures, build_engine, require_weights
from vpr.maps.filters import parse_filter
from vpr.maps.info import MapInfo, describe, problems
from vpr.maps.local_codec import CODEC, PROFILES, LocalCodec
from vpr.maps.locating import MatchedPair, StoredFeatures, as_found, reranked
from vpr.maps.manifest import Manifest, StoredImage
from vpr.maps.prior import Prior
from vpr.maps.probability import Probability
from vpr.maps.reader import MapReader
from vpr.maps.search import MapSearch, build_search, identify, search_of, search_table
from vpr.maps.segments import open_segment
from vpr.maps.sequence import STEP_M, SequenceFilter
from vpr.maps.snapshot import Snapshot
from vpr.maps.sources import read_images
from vpr.maps.writing import Added
from vpr.rotations import require_rotations
from vpr.runtime.units import Workers
from vpr.settings import Settings, configured

PathLike = str | os.PathLike[str]
CANDIDATES = 10  # in an answer
SEQUENCE_CANDIDATES = 50  # of each frame of a drive
HERE = 0.5  # a probability below means "not here"


class Map:
    """A map in a folder.

    Reading is safe from several threads; what any process commits is seen by the next call. The methods load when they
    are first needed. Raises DataError if no map lies in the folder.
    """

    def __init__(self, folder: PathLike, *, device: str = "auto", threads: int = 0) -> None:
        self.folder = Path(folder)
        self.about = About.read(self.folder)
        self.probability = Probability.of_table(self.about.probability)
        self._machine = {"device": device, "threads": threads}
        self._reader = MapReader(self.folder)
        self._computing = threading.Lock()  # the methods share one device
        self._building = threading.Lock()
        self._engine: MapEngine | None = None
        self._codec: LocalCodec | None = None
        self._search: MapSearch | None = None
        with self._reader.reading():  # that it can be read is said at once
            pass

    @classmethod
    def create(
        cls,
        folder: PathLike,
        images: PathLike,
        /,
        positions: PathLike = "auto",
        *,
        config: PathLike = "map",
        profile: str = "default",
        search: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Map:
        """A map of the images of a folder; goes on where it was interrupted.

        ``positions`` is the path of a csv file, or one of "names", "exif", "kapture", "none", "auto"; see read_images.
        Settings are given by section, for instance ``rerank={"k": 20}``; ``profile`` is "default" or "compact".
        ``search`` is what searches it, as ``set_search`` takes it: ``{"method": "milvus", "uri": ...}``.
        Raises ConfigError for settings that a map cannot use, DataError for images or a folder that cannot be used.
        """
        root, placed = read_images(Path(images), os.fspath(positions))
        made = cls.begin(folder, configured(config, settings), profile)
        if search is not None:
            made.set_search(**search)
        made.add_placed(placed, root)
        made.compact()
        return made

    @classmethod
    def begin(cls, folder: PathLike, settings: Settings, profile: str = "default") -> Map:
        """A map without images, or the one in the folder if it has the same settings. Raises as ``create`` does."""
        engine = build_engine(settings)
        creating.begin(Path(folder), settings, engine, profile)
        made = cls(folder, device=settings.machine.device, threads=settings.machine.threads)
        made._engine = engine
        return made

    @property
    def engine(self) -> MapEngine:
        """The methods. Raises WeightsError for weights that are missing, DataError if they are not those of the map."""
        with self._building:
            if self._engine is None:
                settings = parse(Settings, {**self.about.settings, "machine": self._machine}, f"{self.folder}/map.toml")
                engine = build_engine(settings)
                require_weights(self.folder, engine.weights(), self.about.weights)
                self._engine = engine
            return self._engine

    @property
    def codec(self) -> LocalCodec:
        """How local features are stored. Raises DataError if the map has no image yet, or its file is damaged."""
        with self._building:
            if self._codec is None:
                self._codec = LocalCodec.load(self.folder / CODEC)
            return self._codec

    def features(self, photo: ImageLike, degrees: int = 0) -> MapFeatures:
        """The features of a photograph turned counter-clockwise by ``degrees``, as ``locate`` compares them.

        Raises ImageError.
        """
        engine = self.engine
        with self._computing:
            return engine.single(photo, degrees)

    def locate(
        self,
        photo: ImageLike | MapFeatures,
        *,
        near: tuple[float, float] | None = None,
        radius_m: float | None = None,
        since: str | float | None = None,
        until: str | float | None = None,
        where: str = "",
        k: int = CANDIDATES,
        rerank: int | None = None,
        rotations: Sequence[int] = (0,),
    ) -> Answer:
        """Where a photograph was taken.

        Only images within ``radius_m`` metres of ``near`` (latitude, longitude), taken from ``since`` to ``until`` (ISO
        8601, or seconds since 1970), and that meet the filter ``where``, are compared. ``rerank`` of them (None: as
        many as the setting rerank.k says) are compared by local features; the answer has at most ``k`` candidates.
        With several ``rotations`` (0, 90, 180, 270 degrees) the photograph is turned counter-clockwise until it
        verifies; where it never does, the rotation with clearly most inliers answers, or else the most similar one.
        Raises ImageError for the photograph, ConfigError or DataError for arguments that make no sense.
        """
        if k < 1 or (rerank is not None and rerank < 0):
            raise ConfigError(f"k = {k}, rerank = {rerank}: an answer has at least one candidate")
        require_rotations(rotations)
        prior = Prior.of(near, radius_m, since, until, where)
        if isinstance(photo, MapFeatures):
            if tuple(rotations) != (0,):
                raise ConfigError("rotations: features cannot be turned; give the photograph")
            return self._locate(photo, prior, k, rerank, {"start": time.perf_counter()})
        answers = []
        for degrees in rotations:
            clock = {"start": time.perf_counter()}
            features = self.features(photo, degrees)
            clock["features"] = time.perf_counter()
            answers.append(replace(self._locate(features, prior, k, rerank, clock), rotation=degrees))
            if answers[-1].verified:
                break
        return best_of_rotations(answers)

    def _locate(
        self, features: MapFeatures, prior: Prior | None, k: int, rerank: int | None, clock: dict[str, float]
    ) -> Answer:
        compared = self._compared(features, rerank)
        with self._reader.reading() as (manifest, snapshot):
            (found,) = self._searching(manifest).search(
                manifest, snapshot, features.vector[None], max(k, compared), prior
            )
            images = manifest.at_rows([(each.segment, each.row) for each in found])
        clock["search"] = time.perf_counter()
        if compared and found:
            reranker = self.engine.reranker
            assert reranker is not None
            with self._computing:
                candidates = reranked(
                    features.local, found, images, StoredFeatures(found, snapshot, self.codec), reranker, k=compared
                )
        else:
            candidates = as_found(found, images)
        clock["rerank"] = time.perf_counter()
        return self._answer(candidates, k, snapshot, clock)

    def locate_sequence(
        self, frames: Iterable[ImageLike | MapFeatures], *, step_m: float = STEP_M, k: int = CANDIDATES, **prior: Any
    ) -> Iterator[Answer]:
        """Where the frames of a drive were taken, in their order: each answer takes the frames before it into account.

        ``step_m`` is about how far the camera moves from frame to frame. Candidates are not re-ranked, and there is no
        probability. ``prior`` is near, radius_m, since, until and where, as for ``locate``, which also says the errors.
        """
        if not 0 < step_m < math.inf:
            raise ConfigError(f"step_m = {step_m:g}: give metres, more than 0")
        filtered = SequenceFilter(step_m)
        for frame in frames:
            answer = self.locate(frame, k=max(k, SEQUENCE_CANDIDATES), rerank=0, **prior)
            candidates = filtered.update(answer.candidates)
            position = candidates[0].position if candidates else None
            yield replace(answer, position=position, candidates=tuple(candidates[:k]))

    def _compared(self, features: MapFeatures, rerank: int | None) -> int:
        reranker = self.engine.reranker
        return 0 if reranker is None or not len(features.local) else reranker.k if rerank is None else rerank

    def _answer(
        self, candidates: Sequence[Candidate], k: int, snapshot: Snapshot, clock: Mapping[str, float]
    ) -> Answer:
        first = candidates[0] if candidates else None
        known = first is not None and first.inliers is not None
        probability = self.probability.of(first) if first and known and self.probability else None
        here = first is not None and (not known or first.same_place if probability is None else probability >= HERE)
        moments = list(clock.items())
        return Answer(
            position=fused(candidates),
            probability=0.0 if first is None else probability,
            here=here,
            candidates=tuple(candidates[:k]),
            version=snapshot.version,
            images=snapshot.count,
            elapsed_ms={name: 1000 * (at - before) for (_, before), (name, at) in pairwise(moments)},
        )

    def shortlists(self, vectors: Floats, k: int = CANDIDATES, **prior: Any) -> list[list[Candidate]]:
        """For each global descriptor (Q, D) the k images of the largest similarity, best first; none is re-ranked.

        All queries are searched at once. ``prior`` is as for ``locate_sequence``.
        """
        allowed = Prior.of(**{**dict.fromkeys(("near", "radius_m", "since", "until")), "where": "", **prior})
        with self._reader.reading() as (manifest, snapshot):
            found = self._searching(manifest).search(manifest, snapshot, vectors, k, allowed)
            return [as_found(each, manifest.at_rows([(row.segment, row.row) for row in each])) for each in found]

    def _searching(self, manifest: Manifest) -> MapSearch:
        with self._building:
            if self._search is None:
                self._search = search_of(self.folder, manifest)
            return self._search

    def set_search(self, method: str = "faiss", **settings: Any) -> list[str]:
        """Search the global descriptors by "faiss", in the folder, or by "milvus"; returns what was done for it.

        ``settings`` are those of MilvusSettings. Milvus gets all images of the map. Raises ConfigError, SearchError.
        """
        table = search_table({"method": method, **settings}, self.folder)
        with writing.writing(self.folder) as manifest:
            search = build_search(table, self.folder, identify(manifest) if table else "")
            done = search.repair(manifest, self._dim(manifest))
            self.about = replace(self.about, search=table)
            self.about.write(self.folder)
        self._search = None
        return done

    def _dim(self, manifest: Manifest) -> int:
        """Components of the global descriptors, without building the methods where there are images."""
        records = manifest.segments()
        return int(open_segment(self.folder, records[0]).vectors.d) if records else self.engine.dim

    def repair(self) -> list[str]:
        """Make what searches the map agree with its manifest; returns what was done. Raises SearchError."""
        with writing.writing(self.folder) as manifest:
            if self.about.search and identify(manifest):  # where map.toml was written by hand it has none yet
                self._search = None
            return self._searching(manifest).repair(manifest, self._dim(manifest))

    def reading(self) -> AbstractContextManager[tuple[Manifest, Snapshot]]:
        """The latest committed state; both see it, whatever is committed meanwhile."""
        return self._reader.reading()

    def images(self, where: str = "") -> Iterator[StoredImage]:
        """The images that meet a filter, by id, all of one state."""
        condition = parse_filter(where)
        with self._reader.reading() as (manifest, _):
            yield from manifest.images(condition.sql, condition.values)

    def image(self, number: int) -> StoredImage | None:
        """The image of an id; None if there is none, or it was removed."""
        return next(self.images(f"id = {int(number)}"), None)

    def local_features(self, image: StoredImage) -> LocalFeatures:
        """The stored local features of an image. Raises DataError if it was removed."""
        with self._reader.reading() as (manifest, snapshot):
            held = next(manifest.images("images.id = ?", (image.id,)), None)
            if held is None:
                raise DataError(f"{self.folder}: image {image.name!r} was removed")
            return snapshot.segments[held.segment].features(held.row, self.codec)

    def matches(self, photo: ImageLike | MapFeatures, image: StoredImage) -> MatchedPair:
        """The matches of a photograph with an image of the map, by which ``locate`` compares them.

        Raises ImageError for the photograph, ConfigError for a map that compares no local features, DataError if the
        image was removed.
        """
        reranker = self.engine.reranker
        if reranker is None:
            raise ConfigError("this map compares no local features (rerank.k = 0), so there are no matches to show")
        candidate = self.local_features(image)
        query = (photo if isinstance(photo, MapFeatures) else self.features(photo)).local
        with self._computing:
            pair = reranker.pair(query, candidate)
        return MatchedPair(query, candidate, pair.matches, pair.verified.inliers, pair.evidence.by_chance)

    def __len__(self) -> int:
        with self._reader.reading() as (_, snapshot):
            return snapshot.count

    def info(self) -> MapInfo:
        """Size and state."""
        with self._reader.reading() as (manifest, snapshot):
            return describe(self.folder, self.about, manifest, snapshot, self._searching(manifest).description)

    def verify(self) -> list[str]:
        """What is wrong; empty if every byte is as it was written, and what searches the map holds its images.

        Reads all files. While another process changes the map, Milvus may lag behind and be said to differ.
        """
        wrong = problems(self.folder)
        if wrong:
            return wrong
        with self._reader.reading() as (manifest, _):
            try:
                return self._searching(manifest).problems(manifest)
            except (SearchError, ConfigError) as error:
                return [str(error)]

    def add(self, images: PathLike, positions: PathLike = "auto") -> Added:
        """Add the images of a folder; see ``create``. Costs the work of these images alone."""
        root, placed = read_images(Path(images), os.fspath(positions))
        return self.add_placed(placed, root)

    def add_placed(self, images: Sequence[PlacedImage], root: PathLike, *, workers: Workers | None = None) -> Added:
        """Add images below a folder whose places are known; other processes extract their features, if any are given.

        Raises DataError while another process writes.
        """
        engine, profile = self.engine, PROFILES[self.about.profile]
        with self._computing, writing.writing(self.folder) as manifest:
            self._searching(manifest).require()
            return writing.add(
                manifest, self.folder, images, Path(root), engine=engine, profile=profile, workers=workers
            )

    def remove(self, names: Sequence[str] = (), where: str = "") -> int:
        """Remove images by name, and those that meet a filter; returns how many.

        Raises DataError, and removes nothing, for a name that is not there.
        """
        condition = parse_filter(where)
        with writing.writing(self.folder) as manifest:
            self._searching(manifest).require()
            return writing.remove(manifest, self.folder, list(names), condition)

    def compact(self) -> Compacted:
        """Merge small segments, drop what was removed, and sketch the descriptors of a large map."""
        with writing.writing(self.folder) as manifest:
            return compact(manifest, self.folder)

    def close(self) -> None:
        """Close the files; the map can still be used, and opens them again."""
        self._reader.close()

    def __enter__(self) -> Map:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Map({str(self.folder)!r}, {len(self)} images)"
