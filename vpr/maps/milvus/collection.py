"""One collection of a Milvus server: every call of pymilvus, its time limit, and what its errors mean to a user.

pymilvus connects, retries and waits; a request and all its tries take at most ``timeout_s``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vpr.core import ConfigError, Floats, SearchError
from vpr.maps.milvus.expressions import NUMBERS, TEXTS
from vpr.maps.milvus.settings import TOKEN_VARIABLE, URI_VARIABLE, MilvusSettings

MOST_FOUND = 16_384  # images that one request can ask for, and rows that one can read: a limit of Milvus
QUERIES_BYTES = 1 << 20  # of the vectors in one request
ROWS_BYTES = 4 << 20
MOST_TEXT, MOST_JSON = 65_535, 65_536  # bytes, limits of Milvus
MARKER = 0  # the id of a row that names the map; images have ids from 1 on
_DELETED = 10_000  # ids in one request


class Hit(NamedTuple):
    """A row that was found."""

    id: int
    similarity: float
    content: int  # see rows.content_mark


class MilvusCollection:
    """A connection to the collection of one map. Safe for several threads, as pymilvus is."""

    def __init__(self, settings: MilvusSettings, folder: Path, identity: str) -> None:
        self.settings = settings
        self.identity = identity
        self.name = settings.collection or f"vpr_{identity}"
        self.address = settings.address(folder)
        self._token = settings.token()
        self._client = self._connected()

    def _connected(self) -> Any:
        local = "://" not in self.address
        missing = [name for name in ("pymilvus", *(["milvus_lite"] if local else [])) if find_spec(name) is None]
        if missing:
            packages = " ".join(name.replace("_", "-") for name in missing)
            raise ConfigError(
                f"search by Milvus needs {packages}: pip install {packages}, or pip install 'vpr[cluster]'"
            )
        from pymilvus import MilvusClient

        for name in ("pymilvus", "milvus_lite"):  # they log each error with a traceback before they raise it
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        if local:
            Path(self.address).parent.mkdir(parents=True, exist_ok=True)
        given = {"token": self._token} if self._token else {}
        return self._call("connect", lambda **how: MilvusClient(self.address, **given, **how))

    def _call(
        self, what: str, call: Callable[..., Any], *arguments: Any, timeout_s: float | None = None, **named: Any
    ) -> Any:
        """What a call of pymilvus returns; raises SearchError with what to do."""
        from pymilvus.exceptions import MilvusException

        limit = timeout_s or self.settings.timeout_s
        try:
            return call(*arguments, timeout=limit, **named)
        except MilvusException as error:
            raise SearchError(self._explained(what, error, limit)) from None
        except Exception as error:  # of gRPC, below pymilvus
            if type(error).__module__.split(".")[0] != "grpc":
                raise
            raise SearchError(self._explained(what, error, limit)) from None

    def _explained(self, what: str, error: Exception, limit_s: float) -> str:
        text = " ".join(str(getattr(error, "message", "") or error).split())[:300]
        text = text.replace(self._token, "***") if self._token else text
        lower = text.lower()
        if "open local milvus failed" in lower:
            return (
                f"{self.address}: cannot be opened; milvus-lite lets one process have a file, so end the other one, "
                "or start a server"
            )
        if "auth" in lower or "permission" in lower or "code=1800" in str(error):
            given = "refuses the token" if self._token else "wants a token"
            return f"Milvus at {self.address} {given}; set {TOKEN_VARIABLE} (a token, or user:password)"
        away = ("unavailable", "deadline", "retry timeout", "fail connecting", "connection refused", "timed out")
        if any(word in lower for word in away):
            return (
                f"Milvus at {self.address} does not answer ({what}, {limit_s:g} s); start it, or give "
                f"its address: {URI_VARIABLE}=http://HOST:19530, or `vpr map search CITY milvus --uri ...`"
            )
        return f"Milvus at {self.address}, collection {self.name}, {what}: {text}"

    def exists(self) -> bool:
        """Whether there is a collection of this name."""
        return bool(self._call("look for the collection", self._client.has_collection, self.name))

    def require(self, dim: int | None) -> None:
        """Raise SearchError unless the collection is there, is this map's, and has vectors of ``dim`` components.

        It is loaded then.
        """
        if not self.identity or not self.exists():
            raise SearchError(
                f"Milvus at {self.address} has no collection {self.name}; `vpr map verify CITY --repair` makes it again"
            )
        self._require_schema(dim)
        self.load()
        owner = self._owner()
        if owner != self.identity:
            whose = "of another map" if owner else "of no map"
            raise SearchError(f"{self._where()} is {whose}; give another name: --collection NAME")

    def _require_schema(self, dim: int | None) -> None:
        found = self._call("describe the collection", self._client.describe_collection, self.name)
        fields = {each["name"]: each.get("params", {}) for each in found["fields"]}
        held = int(fields.get("vector", {}).get("dim", 0))
        if set(fields) != {"id", "vector", "content", "mark", "columns", *NUMBERS, *TEXTS.values()}:
            raise SearchError(f"{self._where()} was not made by vpr; give another name: --collection NAME")
        if dim is not None and held != dim:
            raise SearchError(
                f"{self._where()} has vectors of {held} components, this map of {dim}; give another name: "
                "--collection NAME"
            )

    def _where(self) -> str:
        return f"collection {self.name} at {self.address}"

    def _owner(self) -> str:
        """The identity of the map whose collection it is; "" if it says none."""
        rows = self._read(f"id == {MARKER}", ["columns"])
        return str(rows[0]["columns"].get("map", "")) if rows else ""

    def create(self, dim: int) -> None:
        """Make the collection, its index and its marker, where they are missing. Raises SearchError as require does."""
        if not self.exists():
            from pymilvus import DataType, MilvusClient

            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            for name in ("content", "mark"):
                schema.add_field(name, DataType.INT64)
            for name in NUMBERS:
                schema.add_field(name, DataType.DOUBLE)
            for name in TEXTS.values():
                schema.add_field(name, DataType.VARCHAR, max_length=MOST_TEXT)
            schema.add_field("columns", DataType.JSON)
            level = self.settings.consistency
            create = self._client.create_collection
            self._call("create the collection", create, self.name, schema=schema, consistency_level=level)
        self._require_schema(dim)
        self.load()
        if not self._read("id >= 0", ["id"], limit=1):  # new, or left by a process that was killed here
            self.put([marker(dim, self.identity)])
        self.require(dim)
        self.index()

    def index(self) -> None:
        """Make the index that the settings name, in the place of another one, and load the collection."""
        wanted = {"index_type": self.settings.index, **{k: str(v) for k, v in self.settings.build_parameters.items()}}
        held = self._index_held()
        if held is not None and {key: str(held.get(key)) for key in wanted} == wanted:
            self.load()
            return
        if held is not None:
            self._call("release the collection", self._client.release_collection, self.name)
            self._call("drop the index", self._client.drop_index, self.name, "vector")
        self._make_index()
        self.load()

    def _index_held(self) -> Mapping[str, Any] | None:
        names = self._call("list the indexes", self._client.list_indexes, self.name, field_name="vector")
        if not names:
            return None
        found: Mapping[str, Any] = self._call("describe the index", self._client.describe_index, self.name, names[0])
        return {**found, **dict(found.get("params") or {})}

    def _make_index(self) -> None:
        chosen = self._client.prepare_index_params()
        parameters = self.settings.build_parameters
        chosen.add_index(
            "vector", index_type=self.settings.index, metric_type="IP", index_name="vector", params=parameters
        )
        self._call(
            "make the index", self._client.create_index, self.name, chosen, timeout_s=self.settings.index_timeout_s
        )

    def load(self) -> None:
        """Load the collection, which a search needs; makes its index first if it has none."""
        if self._index_held() is None:
            self._make_index()
        self._call(
            "load the collection", self._client.load_collection, self.name, timeout_s=self.settings.index_timeout_s
        )

    def drop(self) -> None:
        """Delete the collection."""
        self._call("drop the collection", self._client.drop_collection, self.name)

    def put(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, or replace those of the same id; a number of requests, each of a bounded size."""
        if not rows:
            return
        step = max(1, ROWS_BYTES // max(1, 4 * len(rows[0]["vector"])))
        for first in range(0, len(rows), step):
            self._call("upsert", self._client.upsert, self.name, list(rows[first : first + step]))

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete the rows of these ids; those that are not there are no error."""
        for first in range(0, len(numbers), _DELETED):
            self._call("delete", self._client.delete, self.name, ids=list(numbers[first : first + _DELETED]))

    def search(self, vectors: Floats, k: int, expression: str, *, exhaustive: bool = False) -> list[list[Hit]]:
        """For each vector (Q, D) up to k rows that an expression allows, best first; requests of a bounded size.

        ``exhaustive``: see MilvusSettings.query_parameters.
        """
        step = max(1, QUERIES_BYTES // (4 * vectors.shape[1]))
        parameters = {"metric_type": "IP", "params": self.settings.query_parameters(k, exhaustive=exhaustive)}
        found: list[list[Hit]] = []
        for first in range(0, len(vectors), step):
            answer = self._call(
                "search",
                self._client.search,
                self.name,
                data=np.ascontiguousarray(vectors[first : first + step], dtype=np.float32).tolist(),
                filter=expression,
                limit=k,
                output_fields=["content"],
                search_params=parameters,
                consistency_level=self.settings.consistency,
            )
            found += [[_hit(each) for each in hits] for hits in answer]
        return found

    def count(self, expression: str) -> int:
        """How many rows an expression allows, the marker included."""
        level = self.settings.consistency
        how: dict[str, Any] = {"filter": expression, "output_fields": ["count(*)"], "consistency_level": level}
        return int(self._call("count", self._client.query, self.name, **how)[0]["count(*)"])

    def marks(self, first: int, last: int) -> dict[int, int]:
        """The marks of all rows with ids from ``first`` to below ``last``, by id; at most MOST_FOUND."""
        return self._marks(f"id >= {first} and id < {last}")

    def foreign(self, last: int) -> Iterator[list[int]]:
        """Ids that no image can have: negative, or from ``last`` on; what is yielded must be deleted to go on."""
        while found := self._marks(f"id < {MARKER} or id >= {last}"):
            yield sorted(found)
            if len(found) < MOST_FOUND:
                return

    def _marks(self, expression: str) -> dict[int, int]:
        return {int(row["id"]): int(row["mark"]) for row in self._read(expression, ["id", "mark"])}

    def _read(self, expression: str, fields: Sequence[str], limit: int = MOST_FOUND) -> list[Mapping[str, Any]]:
        """Rows as they are now, after all writes that were acknowledged."""
        query = self._client.query
        how: dict[str, Any] = {
            "filter": expression,
            "output_fields": list(fields),
            "limit": limit,
            "consistency_level": "Strong",
        }
        return list(self._call("read", query, self.name, **how))


def marker(dim: int, identity: str) -> dict[str, Any]:
    """The row that says whose the collection is."""
    numbers = dict.fromkeys(NUMBERS, 0.0)
    texts = dict.fromkeys(TEXTS.values(), "")
    row = {"id": MARKER, "vector": [0.0] * dim, "content": 0, "mark": 0, **numbers, **texts}
    return {**row, "columns": {"map": identity}}


def _hit(found: Mapping[str, Any]) -> Hit:
    return Hit(int(found["id"]), float(found["distance"]), int(found["entity"]["content"]))
