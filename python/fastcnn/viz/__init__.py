"""Pictures: every function returns a matplotlib Figure and saves it if path= is given.

cam and receptive_area are the exceptions: they give the numbers that grad_cam and receptive_field draw; summary gives a
table that prints.
"""

from .._summary import summary
from .images import augmented, filters, image_grid
from .inside import cam, feature_maps, grad_cam, receptive_area, receptive_field
from .overlay import detections, masks
from .plots import confusion, curves, gradient_flow, lr_curve

__all__ = [
    "augmented", "cam", "confusion", "curves", "detections", "feature_maps", "filters", "grad_cam", "gradient_flow",
    "image_grid", "lr_curve", "masks", "receptive_area", "receptive_field", "summary",
]  # fmt: skip
