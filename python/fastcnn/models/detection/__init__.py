"""Detectors and what they are made of: anchors, box codes, matching, SSD, RetinaNet with a feature pyramid.

Boxes are x1 y1 x2 y2 in pixels, float32, everywhere; labels are int64, 0 is the background, which objects never have.
"""

# ruff: noqa: F401
from .anchors import AnchorGenerator, DefaultBoxGenerator
from .base import Detector
from .boxes import BoxCoder, Matcher, SSDMatcher
from .pyramid import BackboneWithFPN, FeaturePyramidNetwork, LastLevelP6P7, SmallBody
from .retinanet import RetinaNet, RetinaNetHead
from .ssd import SSD, SSDHead
from .ssd_backbones import SSDExtractorVGG, SSDLiteExtractor, SSDLiteHead

__all__ = [name for name in globals() if name[0].isupper()]
