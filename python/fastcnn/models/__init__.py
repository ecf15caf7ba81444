"""Models: create_model(name), list_models(pattern); each is also a function here, models.resnet18()."""

# ruff: noqa: F401
from . import (
    airbench,
    blocks,
    convnext,
    densenet,
    detection,
    efficientnet,
    efficientnet_lite,
    gan,
    mobilenet_v3,
    resnet,
    resnet_cifar,
    segmentation,
    shufflenet_v2,
    squeezenet,
    vgg,
    video_resnet,
)
from . import alexnet as _alexnet
from . import capsnet as _capsnet
from . import lenet as _lenet
from . import mobilenet_v1 as _mobilenet_v1
from . import mobilenet_v2 as _mobilenet_v2
from . import unet as _unet
from .features import feature_extractor
from .pretrained import PretrainedReport
from .registry import _BUILDERS, create_model, list_models, register

# Builders last: models.alexnet is the function, though a file has that name too.
globals().update({_name: _entry.builder for _name, _entry in _BUILDERS.items()})

__all__ = [
    "PretrainedReport", "create_model", "detection", "feature_extractor", "list_models", "register", "resnet",
    "resnet_cifar", "vgg", *list_models(),
]  # fmt: skip
