"""Work of many machines: units of a job, computed by the processes of a Ray cluster."""

from vpr.cluster.connection import RayOptions, on_ray

__all__ = ["RayOptions", "on_ray"]
