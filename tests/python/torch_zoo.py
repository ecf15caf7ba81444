"""The models of torchvision and timm that ours are named after, for tests. What it is not: tests, and no dependency.

Run as a script, `python tests/python/torch_zoo.py`, it writes zoo_keys.json anew from these libraries.
"""

import hashlib
import json
import pathlib

from fastcnn.bench.augment import import_torchvision

KEYS = pathlib.Path(__file__).with_name("zoo_keys.json")

# ours: (library, its name, options); the rest of ours have the name of torchvision
TIMM = {
    "mobilenet_v1": ("mobilenetv1_100", {}),
    "se_resnet50": ("seresnet50", {}),
    "eca_resnet50": ("resnet50", dict(block_args=dict(attn_layer="eca"))),
    "cbam_resnet50": ("resnet50", dict(block_args=dict(attn_layer="cbam"))),
    **{f"efficientnet_lite{i}": (f"efficientnet_lite{i}", {}) for i in range(5)},
    **{f"tf_efficientnet_lite{i}": (f"tf_efficientnet_lite{i}", {}) for i in range(5)},
}
TORCHVISION = (
    "alexnet vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn resnet18 resnet34 resnet50 resnet101 "
    "resnet152 resnext50_32x4d wide_resnet50_2 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small shufflenet_v2_x0_5 "
    "shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 densenet121 densenet161 "
    "densenet169 densenet201 convnext_tiny convnext_small convnext_base convnext_large"
).split() + [f"efficientnet_b{i}" for i in range(8)]
SEGMENTATION = ("fcn_resnet50", "deeplabv3_resnet50")
NAMES = [*TORCHVISION, *TIMM, *SEGMENTATION]


def build(name, **options):
    """The net of torchvision or timm that our `name` stands for."""
    if name in SEGMENTATION:
        theirs = getattr(import_torchvision().models.segmentation, name)
        return theirs(weights=None, weights_backbone=None, **options)
    if name in TIMM:
        theirs, more = TIMM[name]
        return import_torchvision("timm").create_model(theirs, **more, **options)
    return getattr(import_torchvision().models, name)(**options)


def digest(state):
    """[number of keys, sha256 of the sorted lines "key shape"] of a state_dict of either library."""
    lines = sorted(f"{key} {'x'.join(map(str, value.shape))}" for key, value in state.items())
    return [len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()]


if __name__ == "__main__":
    KEYS.write_text(
        "{\n" + ",\n".join(f'  "{n}": {json.dumps(digest(build(n).state_dict()))}' for n in NAMES) + "\n}\n"
    )
