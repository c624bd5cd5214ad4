"""A second, crude simulator: chests of a few analytic shapes, so that networks do not lean on one simulator."""

from models.training.sketch.scan import SketchConfig, make_sketch

__all__ = ["SketchConfig", "make_sketch"]
