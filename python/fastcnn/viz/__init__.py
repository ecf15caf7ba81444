"""Pictures: every function returns a matplotlib Figure and saves it if path= is given."""

from .images import filters, image_grid
from .plots import confusion, curves, gradient_flow, lr_curve

__all__ = ["confusion", "curves", "filters", "gradient_flow", "image_grid", "lr_curve"]
