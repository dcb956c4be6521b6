"""Settings that all local features share: which keypoints are kept, by the class of what they lie on."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer

from vpr.config import FOR_FINGERPRINT, MethodSettings

SHARED = ("drop", "drop_confidence", "drop_weight", "segmentation")


class LocalFeatureSettings(MethodSettings):
    """Base of the settings of local features.

    ``segmentation`` is a segmentation head, by name or path, or a folder with a mask of Cityscapes ids for each image,
    of the same name with .png. Twice ``max_keypoints`` are detected, and the strongest kept that are left.
    """

    drop: tuple[str, ...] = ()  # classes on which keypoints are dropped: vehicle, person, vegetation, sky, ...
    drop_weight: float = Field(0.0, ge=0, lt=1)  # instead of dropping them, their scores are multiplied by this
    drop_confidence: float = Field(0.8, ge=0, lt=1)  # a head's classes that are less probable than this drop nothing
    segmentation: str = ""  # vpr's own head

    @model_serializer(mode="wrap")
    def _serialised(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Without keys that change nothing, features keep the fingerprint they had before there were such keys."""
        values: dict[str, Any] = handler(self)
        if info.context == FOR_FINGERPRINT and not self.drop:
            values = {key: value for key, value in values.items() if key not in SHARED}
        return values
