"""The table of evaluation protocols: what a recall printed under a name means.

A count or a rule is None where no source at hand states it. Numbers of Nordland, MSLS and Tokyo differ between
publications that give their sets one name; each variant is a row of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class EvaluationProtocol:
    """One way to compute a recall."""

    name: str
    dataset: str
    readers: tuple[str, ...]  # names in the table of readers that can read its files
    source: str  # who evaluates like this
    obtain: str  # where the files come from
    database: int | None = None  # number of images; None if unknown
    queries: int | None = None  # number of images before any is left out; None if unknown
    radius_m: float | None = None  # positives lie within it; None if another rule decides
    frames: int | None = None  # positives are at most this many frames away; None if another rule decides
    query_step: int = 1  # query i shows frame i * query_step of the database
    one_per_group: bool = False  # only the best cut-out of a panorama stays in a ranking
    drop_unanswerable: bool = False  # queries without positives are left out, not misses
    recall_at: tuple[int, ...] = (1, 5, 10, 20)
    version: int = 1
    note: str = ""
    per_city: bool = False  # each city is searched by itself
    lists: tuple[
        tuple[str, str], ...
    ] = ()  # digests of the sorted file names, without suffixes, of database and queries
    folders: tuple[str, str] = ("database", "queries")  # of the two kinds of images, where folders are read
    reading: tuple[tuple[str, Any], ...] = ()  # further arguments of its own reader, the first of the readers


_DOWNLOADER = "VPR-datasets-downloader (gmberton) puts the files into database/ and queries/ with @utm names"
_PATCH_NETVLAD = "Patch-NetVLAD (Hausler et al., CVPR 2021)"
_DVGL = "Deep Visual Geo-localization Benchmark (Berton et al., CVPR 2022) and its successors"
_GSV = "gsv-cities, MixVPR, SALAD, BoQ"
_SF_XL = "by request to the authors of CosPlace (Berton et al., CVPR 2022)"
_PATCH_NETVLAD_AT = (1, 5, 10, 20, 50, 100)
_EXCHANGE = "which season is searched differs between publications"
_NORDLAND_NOTE = "summer is the database and winter the queries; " + _EXCHANGE
_PM7_NOTE = "its npz puts frame i at [i, i] with a radius of 10, which is 7 frames, though 10 is often stated; "


def _pittsburgh(name: str, database: int, queries: int) -> EvaluationProtocol:
    return EvaluationProtocol(
        name=name,
        dataset="Pittsburgh",
        readers=("dbstruct", "image_lists", "folders"),
        source="NetVLAD (Arandjelovic et al., CVPR 2016)",
        obtain="by request to the authors of Pittsburgh 250k; the .mat files come with NetVLAD",
        database=database,
        queries=queries,
        radius_m=25.0,
    )


_TOKYO = EvaluationProtocol(
    name="tokyo247",
    dataset="Tokyo 24/7",
    readers=("dbstruct", "image_lists", "folders"),
    source=_DVGL,
    obtain="by request to the authors of Tokyo 24/7; the .mat file comes with NetVLAD",
    database=75_984,
    queries=315,
    radius_m=25.0,
    lists=(("a7dd066661b8424e", "1c18a585e19ce522"),),
    note="all 12 cut-outs of a panorama may stand in a ranking; the queries come as v2 or v3, whole or 480 pixels high",
)


def _nordland(variant: str, images: tuple[int, int], frames: int, source: str, note: str) -> EvaluationProtocol:
    return EvaluationProtocol(
        name=f"nordland@{variant}",
        dataset="Nordland",
        readers=("folders", "image_lists"),
        source=source,
        obtain="frames of the NRK videos of the Nordland line; " + _DOWNLOADER,
        database=images[0],
        queries=images[1],
        frames=frames,
        note=note,
    )


def _msls(variant: str, database: int | None, queries: int | None, source: str, note: str) -> EvaluationProtocol:
    return EvaluationProtocol(
        name=f"msls-val@{variant}",
        dataset="Mapillary Street-Level Sequences, validation cities cph and sf",
        readers=("msls", "image_lists", "folders"),
        source=source,
        obtain="https://www.mapillary.com/dataset/places after registration",
        database=database,
        queries=queries,
        radius_m=25.0,
        drop_unanswerable=variant == "official",
        reading=(("subtask", None),) if variant == "11k" else (),
        note=note,
    )


def _folders(name: str, dataset: str, obtain: str = _DOWNLOADER, note: str = "") -> EvaluationProtocol:
    return EvaluationProtocol(
        name=name, dataset=dataset, readers=("folders",), source=_DVGL, obtain=obtain, radius_m=25.0, note=note
    )


def _svox(condition: str) -> EvaluationProtocol:
    return replace(
        _folders(f"svox-{condition}", f"SVOX, {condition} queries"), folders=("gallery", f"queries_{condition}")
    )


def _sf_xl(variant: str, dataset: str, queries: int) -> EvaluationProtocol:
    record = _folders(f"sf-xl-{variant}", f"SF-XL, {dataset}", _SF_XL)
    return replace(record, queries=queries, folders=("database", f"queries_{variant}"))


_ROWS = (
    replace(_pittsburgh("pitts30k", 10_000, 6_816), lists=(("177fdb50307f6714", "5c684d1fb77bc0f5"),)),
    _pittsburgh("pitts30k-val", 10_000, 7_608),
    _pittsburgh("pitts250k", 83_952, 8_280),
    _TOKYO,
    replace(
        _TOKYO,
        name="tokyo247@nms",
        source="NetVLAD (Arandjelovic et al., CVPR 2016), " + _PATCH_NETVLAD,
        one_per_group=True,
        recall_at=_PATCH_NETVLAD_AT,
        note="of the 12 cut-outs of a panorama only the best stays, then the ranking is cut; read with groups",
    ),
    replace(
        _nordland("27592-pm7", (27_592, 27_592), 7, _PATCH_NETVLAD, _PM7_NOTE + _NORDLAND_NOTE),
        recall_at=_PATCH_NETVLAD_AT,
        lists=(("fcbebc21be87faa2", "fcbebc21be87faa2"),),
    ),
    _nordland("27592-pm10", (27_592, 27_592), 10, "VPR-datasets-downloader, AnyLoc", _NORDLAND_NOTE),
    replace(
        _nordland("2760-pm1", (27_592, 2_760), 1, "VPR-Bench, " + _GSV, "every tenth frame is a query; " + _EXCHANGE),
        query_step=10,
    ),
    _nordland("3450-pm2", (3_450, 3_450), 2, "SelaVPR (Lu et al., ICLR 2024)", "test split of Olid, Facil and Civera"),
    replace(
        _msls(
            "740",
            18_871,
            740,
            _PATCH_NETVLAD + ", " + _GSV,
            "498 queries of cph and 242 of sf, all of the database searched",
        ),
        lists=(("02646eca2ea91f64", "c0367676f580d7e9"),),
    ),
    _msls("11k", None, None, _DVGL, "all queries that are not panoramas, about 11,084, in one folder for both cities"),
    replace(
        _msls("official", None, None, "mapillary_sls (Warburg et al., CVPR 2020)", "without panoramas"),
        per_city=True,
        version=2,
    ),
    _folders("st-lucia", "St Lucia"),
    _sf_xl("v1", "queries v1", 1_000),
    _sf_xl("v2", "queries v2", 598),
    _sf_xl("night", "night queries", 466),
    _sf_xl("occlusion", "occluded queries", 76),
    replace(_folders("sf-xs", "SF-XS, a small part of SF-XL", _SF_XL), folders=("database", "queries_v1")),
    _folders("eynsham", "Eynsham"),
    *map(_svox, ("night", "overcast", "rain", "snow", "sun")),
    _folders("amstertime", "AmsterTime", note="positions in the names only say which images form a pair"),
    _folders("sped", "SPED, test part", note="positions in the names only say which images form a pair"),
    EvaluationProtocol(
        name="essex3in1",
        dataset="ESSEX3IN1",
        readers=("ground_truth_csv",),
        source="VPR-Bench (Zaffar et al., IJCV 2021)",
        obtain="VPR-Bench; its ground_truth_new.npy is to be written as ground_truth.csv",
        note="the positives are those that come listed with the set",
    ),
)

PROTOCOLS: Mapping[str, EvaluationProtocol] = {row.name: row for row in _ROWS}
