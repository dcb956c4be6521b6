"""Search of a map by Milvus, for maps that outgrow a machine (Wang et al., SIGMOD 2021). Needs the extra `cluster`.

A collection holds the global descriptor of each image with what filters need. The manifest of the map stays the truth:
it commits first, an answer has only images that it holds, and ``vpr map verify --repair`` makes the collection agree.
"""

from vpr.maps.milvus.settings import MilvusSettings

__all__ = ["MilvusSettings"]
