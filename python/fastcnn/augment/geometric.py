"""Crops, flips, resizes, turns, zooms, perspective and elastic deformation. What it is not: colour (color.py).

Arguments are torchvision's with these differences: images are sampled bilinearly unless interpolation says otherwise
(nearest, bilinear, bicubic), and besides `fill` (a number or one per channel, in the images' own units) there is
`fill_mode`: constant, edge, reflect or symmetric.
"""

from __future__ import annotations

import numpy as np

from .base import Transform, check_probability, check_range, pair
from .plan import identity

_FILL_MODES = {
    "constant": "constant",
    "zeros": "constant",
    "edge": "edge",
    "replicate": "edge",
    "reflect": "reflect",
    "symmetric": "symmetric",
}


def _fill_mode(name, mode, what="fill_mode"):
    if mode not in _FILL_MODES:
        raise ValueError(f"{name}: expected {what} in {sorted(_FILL_MODES)}, got {mode!r}")
    return _FILL_MODES[mode]


def interpolation_mode(name, mode):
    """The name of an interpolation, also of torchvision's; ValueError for others."""
    mode = getattr(mode, "value", mode)  # torchvision's InterpolationMode
    if mode not in ("nearest", "bilinear", "bicubic"):
        raise ValueError(f"{name}: expected interpolation nearest, bilinear or bicubic, got {mode!r}")
    return mode


def shift(left, top):
    """Matrices (N, 3, 3) of windows whose corner is pixel (left, top) of the input."""
    left, top = np.broadcast_arrays(np.atleast_1d(left), np.atleast_1d(top))
    m = identity(len(left))
    m[:, 0, 2], m[:, 1, 2] = left, top
    return m


def window(left, top, width, height, size):
    """Matrices of windows of the input (in pixels) shown at size (h, w)."""
    sx, sy = np.asarray(width) / size[1], np.asarray(height) / size[0]
    m = shift(left + sx / 2 - 0.5, top + sy / 2 - 0.5)
    m[:, 0, 0], m[:, 1, 1] = sx, sy
    return m


def affine(angle, translate, scale, shear, center):
    """Matrices from output to input of torchvision's affine: degrees clockwise, pixels, factor, degrees.

    angle, scale (N,); translate, shear (N, 2); center: (x, y) in pixels whose centres have whole coordinates.
    """
    rot, sx, sy = np.radians(angle), np.radians(shear[:, 0]), np.radians(shear[:, 1])
    forward = identity(len(rot))
    forward[:, 0, 0] = np.cos(rot - sy) / np.cos(sy)
    forward[:, 0, 1] = -np.cos(rot - sy) * np.tan(sx) / np.cos(sy) - np.sin(rot)
    forward[:, 1, 0] = np.sin(rot - sy) / np.cos(sy)
    forward[:, 1, 1] = -np.sin(rot - sy) * np.tan(sx) / np.cos(sy) + np.cos(rot)
    forward[:, :2, :2] *= np.asarray(scale)[:, None, None]
    c = np.asarray(center, float)
    forward[:, :2, 2] = c + translate - forward[:, :2, :2] @ c
    return np.linalg.inv(forward)


class RandomCrop(Transform):
    """Pads, then cuts a window at a random place (the usual CIFAR augmentation; He et al. 2015).

    Args: size: int or (h, w) of the window, default the input's size. padding: int, or (left and right, top
    and bottom), or (left, top, right, bottom), as torchvision; None is 0. pad_if_needed: images smaller than the window
    get a border on both sides until they are not. fill: value of the border, in the images' own units. padding_mode:
    constant, edge, reflect or symmetric.
    Raises: ValueError if the window is larger than the padded image.
    """

    def __init__(self, size=None, padding=0, pad_if_needed=False, fill=0, padding_mode="constant"):
        self.size = None if size is None else pair("RandomCrop", "size", size)
        self.padding = _padding("RandomCrop", 0 if padding is None else padding)
        self.pad_if_needed = _flag("RandomCrop", "pad_if_needed", pad_if_needed)
        self.fill, self.padding_mode = fill, _fill_mode("RandomCrop", padding_mode, "padding_mode")

    def _padding_of(self, size):
        """(left, top, right, bottom) for images of a size."""
        if not self.pad_if_needed:
            return self.padding
        left, top, right, bottom = self.padding
        h, w = self.size or size
        rows, cols = max(0, h - size[0] - top - bottom), max(0, w - size[1] - left - right)
        return left + cols, top + rows, right + cols, bottom + rows

    def _range(self, size):
        left, top, right, bottom = self._padding_of(size)
        h, w = self.size or size
        span = (size[0] + top + bottom - h, size[1] + left + right - w)
        if min(span) < 0:
            raise ValueError(
                f"RandomCrop: expected a window of at most {(h + span[0], w + span[1])} (image "
                f"{tuple(size)} with padding {self.padding}), got {(h, w)}"
            )
        return span

    def draw(self, rng, size):
        rows, cols = self._range(size)
        y, x, _, _ = rng.bits()
        shift_bits = np.uint64(32)  # multiply-shift: two coordinates from one draw
        top = ((y * np.uint64(rows + 1)) >> shift_bits).astype(np.int64)
        left = ((x * np.uint64(cols + 1)) >> shift_bits).astype(np.int64)
        return {"top": top, "left": left}

    def record(self, plan, params):
        self._range(plan.size)
        padding = self._padding_of(plan.size)
        left, top = padding[:2]
        fill = self.fill if any(padding) else None
        matrix = shift(params["left"] - left, params["top"] - top)
        plan.move(matrix, self.size, fill=fill, fill_mode=self.padding_mode, border=fill is not None)

    def __repr__(self):
        return f"RandomCrop(size={self.size}, padding={self.padding}, padding_mode={self.padding_mode!r})"


def _flag(name, what, value):
    """value; TypeError unless a bool: arguments in another order than torchvision's are noticed."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected {what} as a bool, got {value!r}")
    return bool(value)


def _padding(name, padding):
    pads = [padding] if np.ndim(padding) == 0 else list(padding)
    if len(pads) not in (1, 2, 4) or min(pads) < 0 or any(int(p) != p for p in pads):
        raise ValueError(f"{name}: expected padding of 1, 2 or 4 ints >= 0, got {padding}")
    left, top, right, bottom = (pads * 4)[:4] if len(pads) < 4 else pads
    return int(left), int(top), int(right), int(bottom)


class _RandomFlip(Transform):
    _axis = None  # of x and y

    def __init__(self, p=0.5):
        self.p = check_probability(type(self).__name__, p)

    def draw(self, rng, size):
        return {"flip": rng.uniform() < self.p}

    def record(self, plan, params):
        matrix = identity(plan.n)
        matrix[params["flip"], self._axis, self._axis] = -1
        matrix[params["flip"], self._axis, 2] = plan.size[1 - self._axis] - 1
        plan.move(matrix, cuts=False)

    def __repr__(self):
        return f"{type(self).__name__}(p={self.p})"


class RandomHorizontalFlip(_RandomFlip):
    """Mirrors left and right with probability p."""

    _axis = 0


class RandomVerticalFlip(_RandomFlip):
    """Mirrors top and bottom with probability p."""

    _axis = 1


class Pad(Transform):
    """Adds a border: padding int, (left and right, top and bottom) or (left, top, right, bottom)."""

    def __init__(self, padding, fill=0, padding_mode="constant"):
        self.padding, self.fill = _padding("Pad", padding), fill
        self.padding_mode = _fill_mode("Pad", padding_mode, "padding_mode")

    def record(self, plan, params):
        left, top, right, bottom = self.padding
        size = plan.size[0] + top + bottom, plan.size[1] + left + right
        matrix = np.tile(shift(-left, -top), (plan.n, 1, 1))
        plan.move(matrix, size, fill=self.fill, fill_mode=self.padding_mode, cuts=False, border=True)


class CenterCrop(Transform):
    """The middle of size int or (h, w); what an image lacks is 0."""

    def __init__(self, size):
        self.size = pair("CenterCrop", "size", size)

    def record(self, plan, params):
        (h, w), (H, W) = self.size, plan.size
        # Half pixels to even as torchvision; padding takes the smaller half first.
        top, left = (round((a - b) / 2) if a >= b else -((b - a) // 2) for a, b in ((H, h), (W, w)))
        fill = 0 if h > H or w > W else None
        plan.move(np.tile(shift(left, top), (plan.n, 1, 1)), self.size, fill=fill, border=fill is not None)


def _border(antialias):
    """Options of Plan.move for windows inside the image: without antialias taps reach over its edge, which goes on."""
    return {"antialias": True} if antialias else {"fill": 0, "fill_mode": "edge"}


class Resize(Transform):
    """To size (h, w); an int is the shorter edge, the other keeps the aspect (at most max_size).

    antialias: smaller images weigh all pixels that one of theirs covers.
    """

    def __init__(self, size, interpolation="bilinear", max_size=None, antialias=True):
        self.size = size if np.ndim(size) == 0 else pair("Resize", "size", size)
        if np.ndim(size) == 0 and (int(size) != size or size < 1):
            raise ValueError(f"Resize: expected size as int or (h, w) of at least 1, got {size}")
        self.interpolation = interpolation_mode("Resize", interpolation)
        self.max_size, self.antialias = max_size, bool(antialias)

    def record(self, plan, params):
        H, W = plan.size
        size = self.size
        if np.ndim(size) == 0:
            short, long = int(size), int(size * max(H, W) / min(H, W))
            if self.max_size is not None and long > self.max_size:
                short, long = max(1, int(self.max_size * short / long)), self.max_size
            size = (short, long) if H <= W else (long, short)
        matrix = np.tile(window(0, 0, W, H, size), (plan.n, 1, 1))
        plan.move(matrix, size, self.interpolation, **_border(self.antialias), cuts=False)


class RandomResizedCrop(Transform):
    """A window of random area and aspect at a random place, resized to `size` (Szegedy et al. 2015).

    Args: scale: (low, high) of the area, as fractions of the image. ratio: (low, high) of width over height, drawn
    evenly in its logarithm. Of ten drawn windows the first that fits counts, else the largest centred one.
    """

    def __init__(
        self, size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bilinear", antialias=True
    ):  # fmt: skip
        self.size = pair("RandomResizedCrop", "size", size)
        self.scale = check_range("RandomResizedCrop", "scale", scale, 0)
        self.ratio = check_range("RandomResizedCrop", "ratio", ratio, 1e-6)
        self.interpolation = interpolation_mode("RandomResizedCrop", interpolation)
        self.antialias = bool(antialias)

    def draw(self, rng, size):
        H, W = size
        n = len(rng)
        aspect = min(max(W / H, self.ratio[0]), self.ratio[1])
        width = np.full(n, max(1, round(min(W, H * aspect))), np.int64)
        height = np.full(n, max(1, round(min(H, W / aspect))), np.int64)
        low, high = np.log(self.ratio)
        u = rng.uniforms(22)
        area = H * W * (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, :10])
        ratio = np.exp(low + (high - low) * u[:, 10:20])
        w, h = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (w > 0) & (w <= W) & (h > 0) & (h <= H)
        rows, first = np.arange(n), fits.argmax(1)
        found = fits[rows, first]
        width, height = np.where(found, w[rows, first], width), np.where(found, h[rows, first], height)
        top, left = (u[:, 20] * (H - height + 1)).astype(np.int64), (u[:, 21] * (W - width + 1)).astype(np.int64)
        top, left = np.where(found, top, (H - height) // 2), np.where(found, left, (W - width) // 2)
        return {"top": top, "left": left, "height": height, "width": width}

    def record(self, plan, params):
        matrix = window(params["left"], params["top"], params["width"], params["height"], self.size)
        plan.move(matrix, self.size, self.interpolation, **_border(self.antialias))


class RandomAffine(Transform):
    """A random turn, shift, zoom and shear about the centre.

    Args: degrees: number (-d, d) or (low, high), clockwise. translate: largest shift as fractions (of the width, of
    the height), in whole pixels. scale: (low, high). shear: number or 2 numbers (range of x) or 4 (ranges of x and
    y), degrees. center: (x, y) in pixels from the upper left corner, default the middle.
    """

    _clockwise = 1

    def __init__(
        self, degrees, translate=None, scale=None, shear=None, interpolation="bilinear", fill=0, center=None,
        fill_mode="constant",
    ):  # fmt: skip
        name = type(self).__name__
        self.degrees = self._angles(name, "degrees", degrees)
        self.translate = (0.0, 0.0) if translate is None else tuple(float(v) for v in np.ravel(translate))
        if len(self.translate) != 2 or not all(0 <= v <= 1 for v in self.translate):
            raise ValueError(f"{name}: expected translate as two fractions in [0, 1], got {translate}")
        self.scale = (1.0, 1.0) if scale is None else check_range(name, "scale", scale, 1e-6)
        shear = [0.0, 0.0] if shear is None else shear
        if np.ndim(shear) and len(shear) == 4:
            self.shear = (*self._angles(name, "shear", shear[:2]), *self._angles(name, "shear", shear[2:]))
        else:
            self.shear = (*self._angles(name, "shear", shear), 0.0, 0.0)
        self.interpolation = interpolation_mode(name, interpolation)
        self.fill, self.center, self.fill_mode = fill, center, _fill_mode(name, fill_mode)

    @staticmethod
    def _angles(name, what, value):
        if np.ndim(value) == 0:
            value = (-abs(float(value)), abs(float(value)))
        return check_range(name, what, value)

    def draw(self, rng, size):
        H, W = size
        tx, ty = self.translate[0] * W, self.translate[1] * H
        ranges = np.array([self.degrees, (-tx, tx), (-ty, ty), self.scale, self.shear[:2], self.shear[2:]])
        v = ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * rng.uniforms(6)
        return {"angle": v[:, 0], "translate": np.rint(v[:, 1:3]), "scale": v[:, 3], "shear": v[:, 4:]}

    def record(self, plan, params):
        H, W = plan.size
        center = ((W - 1) / 2, (H - 1) / 2) if self.center is None else np.asarray(self.center, float) - 0.5
        angle = self._clockwise * params["angle"]
        matrix = affine(angle, params["translate"], params["scale"], params["shear"], center)
        plan.move(matrix, None, self.interpolation, self.fill, self.fill_mode)


class RandomRotation(RandomAffine):
    """A random turn by `degrees` (number: (-d, d), or (low, high)), counter-clockwise as torchvision's.

    expand=True is refused: images of a batch have one size.
    """

    _clockwise = -1

    def __init__(
        self, degrees, interpolation="bilinear", expand=False, center=None, fill=0, fill_mode="constant"
    ):  # fmt: skip
        if _flag("RandomRotation", "expand", expand):
            raise ValueError("RandomRotation: expected expand=False, for images of a batch have one size; Pad before")
        super().__init__(degrees, interpolation=interpolation, fill=fill, center=center, fill_mode=fill_mode)


class RandomTranslate(RandomAffine):
    """A random shift of at most `translate` (fractions of the width and the height), in whole pixels."""

    def __init__(self, translate, fill=0, fill_mode="constant"):
        super().__init__(0, translate=translate, fill=fill, fill_mode=fill_mode)


class RandomZoom(RandomAffine):
    """A random zoom about the centre by a factor of `scale`: above 1 shows less, larger."""

    def __init__(self, scale=(0.8, 1.2), interpolation="bilinear", fill=0, fill_mode="constant"):
        super().__init__(0, scale=scale, interpolation=interpolation, fill=fill, fill_mode=fill_mode)


def perspective(start, end):
    """The matrix (3, 3) that takes the points `end` to the points `start`, (4, 2) each."""
    rows, values = [], []
    for (x, y), (u, v) in zip(end, start, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows, float), np.array(values, float)), 1.0).reshape(3, 3)


class RandomPerspective(Transform):
    """With probability p the corners move inwards by up to distortion_scale / 2 of the image's size."""

    def __init__(
        self, distortion_scale=0.5, p=0.5, interpolation="bilinear", fill=0, fill_mode="constant"
    ):  # fmt: skip
        if not 0 <= distortion_scale <= 1:
            raise ValueError(f"RandomPerspective: expected distortion_scale in [0, 1], got {distortion_scale}")
        self.distortion_scale, self.p = float(distortion_scale), check_probability("RandomPerspective", p)
        self.interpolation = interpolation_mode("RandomPerspective", interpolation)
        self.fill, self.fill_mode = fill, _fill_mode("RandomPerspective", fill_mode)

    def draw(self, rng, size):
        H, W = size
        start = np.array([[0, 0], [W - 1, 0], [W - 1, H - 1], [0, H - 1]], float)
        reach = np.array([int(self.distortion_scale * (W // 2)), int(self.distortion_scale * (H // 2))])
        inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        u = rng.uniforms(9)
        on = u[:, 8] < self.p
        moved = np.floor(u[:, :8].reshape(-1, 4, 2) * (reach + 1))
        end = start + inwards * moved * on[:, None, None]
        return {"end": end}

    def record(self, plan, params):
        H, W = plan.size
        start = np.array([[0, 0], [W - 1, 0], [W - 1, H - 1], [0, H - 1]], float)
        sides = np.roll(params["end"], -1, 1) - params["end"]
        after = np.roll(sides, -1, 1)
        flat = (sides[..., 0] * after[..., 1] == sides[..., 1] * after[..., 0]).any(1)  # no picture has such corners
        still = (params["end"] == start).all((1, 2)) | flat | (min(H, W) < 2)
        matrix, half = identity(plan.n), shift(0.5, 0.5)[0]
        for i in np.flatnonzero(~still):  # corners count from the edge of the picture, as torchvision's
            try:
                m = np.linalg.inv(half) @ perspective(start, params["end"][i]) @ half
            except np.linalg.LinAlgError:  # the horizon goes through the first pixel
                continue
            matrix[i] = m / m[2, 2] if m[2, 2] else m
        plan.move(matrix, None, self.interpolation, self.fill, self.fill_mode)


class ElasticTransform(Transform):
    """Moves each pixel by smoothed noise: alpha pixels strong, sigma pixels wide (Simard et al. 2003)."""

    def __init__(self, alpha=50.0, sigma=5.0, interpolation="bilinear", fill=0, fill_mode="constant"):
        if sigma <= 0:
            raise ValueError(f"ElasticTransform: expected sigma > 0, got {sigma}")
        self.alpha, self.sigma = float(alpha), float(sigma)
        self.interpolation = interpolation_mode("ElasticTransform", interpolation)
        self.fill, self.fill_mode = fill, _fill_mode("ElasticTransform", fill_mode)

    def draw(self, rng, size):
        from .color import gaussian, smooth

        n = len(rng)
        seeds = rng.bits()[:2]
        noise = np.empty((n, 2, *size), np.float32)
        for i in range(n):
            g = np.random.Generator(np.random.Philox(key=[int(seeds[0][i]), int(seeds[1][i])]))
            noise[i] = g.random((2, *size), dtype=np.float32) * 2 - 1
        kernel = gaussian(min(int(8 * self.sigma + 1) | 1, 2 * min(size) - 1), self.sigma)
        # torchvision's alpha counts in halves of the picture's size times 2 over the size: pixels.
        return {"displacement": smooth(noise, kernel) * self.alpha}

    def record(self, plan, params):
        plan.move(
            identity(plan.n), None, self.interpolation, self.fill, self.fill_mode, displacement=params["displacement"]
        )
