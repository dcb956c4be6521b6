"""Settings of the search by Milvus, and where the server and its token come from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from vpr.config import MethodSettings
from vpr.core import ConfigError

URI_VARIABLE, TOKEN_VARIABLE = "VPR_MILVUS_URI", "VPR_MILVUS_TOKEN"


EXHAUSTIVE = 8


class IndexKind(NamedTuple):
    """Parameters of an index by Milvus' names, with the values used where a map sets none."""

    build: Mapping[str, int]
    query: Mapping[str, int]


INDEXES: Mapping[str, IndexKind] = {  # a twelfth of the lists is probed
    "FLAT": IndexKind({}, {}),
    "IVF_FLAT": IndexKind({"nlist": 1024}, {"nprobe": 86}),
    "IVF_SQ8": IndexKind({"nlist": 1024}, {"nprobe": 86}),
    "HNSW": IndexKind({"M": 16, "efConstruction": 200}, {"ef": 128}),
    "DISKANN": IndexKind({}, {"search_list": 128}),
}


class MilvusSettings(MethodSettings):
    """Settings of the search by Milvus."""

    method: Literal["milvus"] = "milvus"
    uri: str = ""  # http://host:19530, or a file NAME.db of milvus-lite; the variable VPR_MILVUS_URI goes before it
    collection: str = Field("", pattern="^([A-Za-z_][A-Za-z0-9_]{0,254})?$")  # "": vpr_ and the identity of the map
    token_file: str = ""  # a file with the token; the variable VPR_MILVUS_TOKEN goes before it
    index: Literal["FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "DISKANN"] = "IVF_SQ8"
    build: Mapping[str, int] = Field(default_factory=dict)  # parameters of the index, by Milvus' names
    query: Mapping[str, int] = Field(default_factory=dict)  # parameters of a search
    consistency: Literal["Strong", "Session", "Bounded", "Eventually"] = "Bounded"
    timeout_s: float = Field(30.0, gt=0, le=3600)  # of one request, with all tries of pymilvus
    index_timeout_s: float = Field(3600.0, gt=0)  # of making an index, and of loading the collection

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str) -> str:
        _require_bare(uri, "uri")
        return uri

    @model_validator(mode="after")
    def _parameters_of_the_index(self) -> MilvusSettings:
        kind = INDEXES[self.index]
        for name, given, known in (("build", self.build, kind.build), ("query", self.query, kind.query)):
            foreign = sorted(given.keys() - known.keys())
            if foreign:
                takes = ", ".join(known) or "none"
                raise ValueError(f"{name}.{foreign[0]}: the index {self.index} takes {takes}")
        return self

    @property
    def build_parameters(self) -> dict[str, int]:
        """Of the index, defaults included."""
        return {**INDEXES[self.index].build, **self.build}

    def query_parameters(self, k: int, *, exhaustive: bool = False) -> dict[str, int]:
        """Of a search for k images, defaults included; candidate lists are at least k long, as Milvus wants them.

        An ``exhaustive`` search looks into all inverted lists, or keeps EXHAUSTIVE times as many candidates.
        """
        chosen = {**INDEXES[self.index].query, **self.query}
        if "nprobe" in chosen:
            lists = self.build_parameters["nlist"]
            chosen["nprobe"] = lists if exhaustive else min(lists, chosen["nprobe"])
        times = EXHAUSTIVE if exhaustive else 1
        return {name: value if name == "nprobe" else max(k, times * value) for name, value in chosen.items()}

    def address(self, folder: Path) -> str:
        """The address of the server, or the path of a file; one that is not absolute is relative to the map's folder.

        Raises ConfigError if there is none.
        """
        uri = os.environ.get(URI_VARIABLE, "").strip() or self.uri
        if not uri:
            raise ConfigError(
                f"{folder}: searched by Milvus, and no server is named; set {URI_VARIABLE}=http://HOST:19530, "
                "or `vpr map search CITY milvus --uri http://HOST:19530`"
            )
        _require_bare(uri, URI_VARIABLE)
        return uri if "://" in uri else str(folder / uri)

    def token(self) -> str:
        """The token, or user:password; "" for none. Raises ConfigError for a file that cannot be read."""
        given = os.environ.get(TOKEN_VARIABLE, "").strip()
        if given or not self.token_file:
            return given
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.token_file}: no token can be read ({error}); or set {TOKEN_VARIABLE}") from None


def _require_bare(uri: str, where: str) -> None:
    if "://" in uri and "@" in uri:
        raise ConfigError(f"{where} holds a user name or password; give these as {TOKEN_VARIABLE}=user:password")
    if "://" in uri and uri.split("://", maxsplit=1)[0] not in ("http", "https", "tcp", "unix"):
        raise ConfigError(f"{where} = {uri!r}: give http://HOST:19530, or a file NAME.db of milvus-lite")
    if "://" not in uri and uri and not uri.endswith(".db"):
        raise ConfigError(f"{where} = {uri!r}: give http://HOST:19530, or a file NAME.db of milvus-lite")
