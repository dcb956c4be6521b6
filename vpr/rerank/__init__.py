"""Shortlist to predictions."""

from typing import Any

from vpr.config import Method
from vpr.rerank import patch_netvlad, reranker
from vpr.rerank.patch_netvlad import PatchReranker
from vpr.rerank.reranker import LocalReranker, Pair, PairReranker
from vpr.rerank.resumable import rerank_into
from vpr.rerank.scores import SCORES, fuse
from vpr.rerank.verification import VERIFIERS

__all__ = [
    "RERANKERS",
    "SCORES",
    "VERIFIERS",
    "LocalReranker",
    "Pair",
    "PairReranker",
    "PatchReranker",
    "fuse",
    "rerank_into",
]

RERANKERS: dict[str, Method[PairReranker[Any]]] = {
    "local_features": Method(reranker.Settings, LocalReranker),
    "patch_netvlad": Method(patch_netvlad.Settings, PatchReranker),
}
