"""AutoAugment, RandAugment and TrivialAugmentWide: policies of single steps, drawn for each image by itself.

Steps and magnitudes are torchvision's. Geometric and linear colour steps of a batch are one pass; posterize,
solarize, autocontrast, equalize and sharpness are tables and a small window on uint8 pixels, made here; floats in
[0, 1] are rounded to 256 levels for these.
"""

from __future__ import annotations

import numpy as np

from .base import Transform
from .color import blend, like
from .geometric import affine, interpolation_mode
from .plan import check_floats, identity

_SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")
_BLENDS = {"Brightness": "brightness", "Color": "saturation", "Contrast": "contrast"}
_SHORT = {
    "Sx": "ShearX", "Sy": "ShearY", "Tx": "TranslateX", "Ty": "TranslateY", "Ro": "Rotate", "Br": "Brightness",
    "Co": "Color", "Cn": "Contrast", "Sh": "Sharpness", "Po": "Posterize", "So": "Solarize", "Ac": "AutoContrast",
    "Eq": "Equalize", "In": "Invert",
}  # fmt: skip

# The 25 pairs of steps that Cubuk et al. (2019) found: of each step its probability in tenths (a: 1) and its magnitude.
_POLICIES = {
    "imagenet": (
        "Po48Ro69 So65Ac6- Eq8-Eq6- Po67Po66 Eq4-So24 Eq4-Ro88 So63Eq6- Po85Eqa- Ro23So68 Eq6-Po46 Ro88Co40 "
        "Ro49Eq6- Eq0-Eq8- In6-Eqa- Co64Cna8 Ro88Coa2 Co88So87 Sh47In6- Sx65Eqa- Co40Eq6- Eq4-So24 So65Ac6- "
        "In6-Eqa- Co64Cna8 Eq8-Eq6-"
    ),
    "cifar10": (
        "In1-Cn26 Ro72Tx39 Sh81Sh93 Sy58Ty79 Ac5-Eq9- Sy27Po37 Co43Br67 Sh39Br79 Eq6-Eq5- Cn67Sh65 Co77Tx58 "
        "Eq3-Ac4- Ty43Sh26 Br96Co28 So52In0- Eq2-Ac6- Eq2-Eq6- Co99Eq6- Ac8-So28 Br13Co70 So45Ac9- Ty99Ty79 "
        "Ac9-So83 Eq8-In1- Ty79Ac9-"
    ),
    "svhn": (
        "Sx94In2- Sy98In7- Eq6-So66 In9-Eq6- Eq6-Ro93 Sx94Ac8- Sy98In4- Sy95So26 In9-Ac8- Eq6-Ro93 Sx94So33 "
        "Sy88In7- Eq9-Ty66 In9-Eq6- Cn33Ro84 In8-Ty02 Sy76So48 In6-Ro84 Sy37Tx93 Sx16In6- So72Ty67 Sy84In8- "
        "Sx79Ty83 Sy85Ac7- Sx72In1-"
    ),
}


def magnitudes(bins, size, shear=0.3, translate=None, rotate=30.0, factor=0.9, bits=4):
    """{step: (bins,) magnitudes} for images of size (H, W); steps without a magnitude have zeros."""
    H, W = size
    ramp = np.linspace(0, 1, bins)
    across, down = (150 / 331 * W, 150 / 331 * H) if translate is None else (translate, translate)
    return {
        "Identity": 0 * ramp, "ShearX": shear * ramp, "ShearY": shear * ramp, "TranslateX": across * ramp,
        "TranslateY": down * ramp, "Rotate": rotate * ramp, "Brightness": factor * ramp, "Color": factor * ramp,
        "Contrast": factor * ramp, "Sharpness": factor * ramp, "Posterize": np.rint(8 - bits * ramp),
        "Solarize": 1 - ramp, "AutoContrast": 0 * ramp, "Equalize": 0 * ramp, "Invert": 0 * ramp,
    }  # fmt: skip


def _by_channel(image, table_of):
    return np.stack([table_of(channel)[channel] for channel in image])


def _equalize(channel):
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.clip((before + step // 2) // step, 0, 255).astype(np.uint8)


def _autocontrast(channel):
    low, high = int(channel.min()), int(channel.max())
    if low == high:
        return np.arange(256, dtype=np.uint8)
    return np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def _sharpness(image, factor):
    x = image.astype(np.float32)
    smooth = x.copy()
    h, w = x.shape[1:]
    if h > 2 and w > 2:
        total = sum(x[:, i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3))
        smooth[:, 1:-1, 1:-1] = (total + 4 * x[:, 1:-1, 1:-1]) / 13
    return like(smooth + factor * (x - smooth), image)


def _solarize(image, threshold):
    return np.where(image >= threshold, 255 - image, image)


_PIXELS = {
    "Sharpness": lambda image, m: _sharpness(image, 1 + m),
    "Posterize": lambda image, m: image & np.uint8(256 - (1 << (8 - int(m)))),
    "Solarize": lambda image, m: _solarize(image, 255 * m),
    "AutoContrast": lambda image, m: _by_channel(image, _autocontrast),
    "Equalize": lambda image, m: _by_channel(image, _equalize),
}


class _Policy(Transform):
    def __init__(self, interpolation, fill):
        self.interpolation, self.fill = interpolation_mode(type(self).__name__, interpolation), fill

    def record(self, plan, params):
        """params: "steps" (N, K) of names and "magnitudes" (N, K), signed; one step after another."""
        # Steps are done one by one: what fuses must not depend on what other images of the batch have drawn.
        images = plan.pixels()
        floats = images.dtype.kind == "f"
        if images.dtype != np.uint8 and not floats:
            raise ValueError(f"{type(self).__name__}: expected uint8 or floating images, got {images.dtype}")
        check_floats(type(self).__name__, images)
        if images.dtype == np.float64:  # as sampling rounds them, whether another image of the batch moves or not
            plan.replace(images.astype(np.float32).astype(np.float64))
        for names, sizes in zip(params["steps"].T, params["magnitudes"].T, strict=True):
            self._geometry(plan, names, sizes)
            if plan.channels not in (1, 3):  # colours of others sample with other rounding: not for other images' sake
                plan.pixels()
            self._colors(plan, names, sizes)
            images = plan.pixels()
            rows = [i for i, name in enumerate(names) if name in _PIXELS]
            if rows:
                images = np.copy(images, order="K")
                for i in rows:
                    image = np.rint(np.clip(images[i], 0, 1) * 255).astype(np.uint8) if floats else images[i]
                    image = _PIXELS[names[i]](image, sizes[i])
                    images[i] = image / np.float32(255) if floats else image
                plan.replace(images)

    def _geometry(self, plan, names, sizes):
        (H, W), n = plan.size, plan.n
        moves = np.isin(names, ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"))
        if not moves.any():
            return
        shear, shift = np.zeros((n, 2)), np.zeros((n, 2))
        for axis, letter in enumerate("XY"):
            rows = names == "Shear" + letter
            shear[rows, axis] = np.degrees(np.arctan(sizes[rows]))
            rows = names == "Translate" + letter
            shift[rows, axis] = np.trunc(sizes[rows])
        turn = np.where(names == "Rotate", -sizes, 0)
        about_corner = affine(np.zeros(n), shift, np.ones(n), shear, (-0.5, -0.5))
        about_middle = affine(turn, np.zeros((n, 2)), np.ones(n), np.zeros((n, 2)), ((W - 1) / 2, (H - 1) / 2))
        matrix = np.where((names == "Rotate")[:, None, None], about_middle, about_corner)
        plan.move(np.where(moves[:, None, None], matrix, identity(n)), None, self.interpolation, self.fill)

    def _colors(self, plan, names, sizes):
        n, C = plan.n, plan.channels
        a, b, c = np.tile(np.eye(C), (n, 1, 1)), np.zeros((n, C, C)), np.zeros((n, C))
        for name, kind in _BLENDS.items():
            rows = names == name
            a[rows], b[rows] = blend(kind, 1 + sizes[rows], C)
        rows = names == "Invert"
        a[rows], c[rows] = -np.eye(C), plan.top
        if np.isin(names, (*_BLENDS, "Invert")).any():
            plan.color(a, b, c)


class RandAugment(_Policy):
    """num_ops steps per image, drawn evenly, all of one magnitude of num_magnitude_bins (Cubuk et al. 2020)."""

    _names = tuple(k for k in magnitudes(2, (1, 1)) if k != "Invert")

    def __init__(self, num_ops=2, magnitude=9, num_magnitude_bins=31, interpolation="bilinear", fill=0):
        super().__init__(interpolation, fill)
        if int(num_ops) != num_ops or num_ops < 1 or not 0 <= magnitude < num_magnitude_bins or num_magnitude_bins < 2:
            raise ValueError(
                "RandAugment: expected num_ops >= 1 and 0 <= magnitude < num_magnitude_bins, got "
                f"{num_ops}, {magnitude}, {num_magnitude_bins}"
            )
        self.num_ops, self.magnitude, self.bins = int(num_ops), int(magnitude), int(num_magnitude_bins)

    def draw(self, rng, size):
        u = rng.uniforms(2 * self.num_ops)
        names = np.array(self._names)[(u[:, : self.num_ops] * len(self._names)).astype(int)]
        table = magnitudes(self.bins, size)
        sizes = np.array([[table[k][self.magnitude] for k in row] for row in names]).reshape(names.shape)
        sign = np.where(np.isin(names, _SIGNED) & (u[:, self.num_ops :] < 0.5), -1, 1)
        return {"steps": names, "magnitudes": sizes * sign}


class TrivialAugmentWide(_Policy):
    """One step per image of a random, wide magnitude (Müller & Hutter 2021)."""

    _names = RandAugment._names

    def __init__(self, num_magnitude_bins=31, interpolation="bilinear", fill=0):
        super().__init__(interpolation, fill)
        if num_magnitude_bins < 2:
            raise ValueError(f"TrivialAugmentWide: expected num_magnitude_bins >= 2, got {num_magnitude_bins}")
        self.bins = int(num_magnitude_bins)

    def draw(self, rng, size):
        u = rng.uniforms(3)
        names = np.array(self._names)[(u[:, 0] * len(self._names)).astype(int)]
        table = magnitudes(self.bins, size, 0.99, 32.0, 135.0, 0.99, 6)
        sizes = np.array([table[k][int(v * self.bins)] for k, v in zip(names, u[:, 1], strict=True)])
        sign = np.where(np.isin(names, _SIGNED) & (u[:, 2] < 0.5), -1, 1)
        return {"steps": names[:, None], "magnitudes": (sizes * sign).reshape(-1, 1)}


class AutoAugment(_Policy):
    """One of 25 found pairs of steps per image: policy imagenet, cifar10 or svhn (Cubuk et al. 2019)."""

    def __init__(self, policy="imagenet", interpolation="bilinear", fill=0):
        super().__init__(interpolation, fill)
        policy = getattr(policy, "value", policy)
        if policy not in _POLICIES:
            raise ValueError(f"AutoAugment: expected policy {', '.join(_POLICIES)}, got {policy!r}")
        self.policy = policy
        self.pairs = [
            [(_SHORT[p[k : k + 2]], int(p[k + 2], 16) / 10, 0 if p[k + 3] == "-" else int(p[k + 3])) for k in (0, 4)]
            for p in _POLICIES[policy].split()
        ]

    def draw(self, rng, size):
        u = rng.uniforms(5)
        table = magnitudes(10, size)
        names, sizes = np.full((len(u), 2), "Identity", dtype="U12"), np.zeros((len(u), 2))
        for i, row in enumerate(u):
            for k, (name, p, bin_of) in enumerate(self.pairs[int(row[0] * len(self.pairs))]):
                if row[1 + k] < p:
                    negative = name in _SIGNED and row[3 + k] < 0.5
                    names[i, k], sizes[i, k] = name, table[name][bin_of] * (-1 if negative else 1)
        return {"steps": names, "magnitudes": sizes}
