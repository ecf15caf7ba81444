"""Normalisation layers."""

from __future__ import annotations

from numbers import Integral

from .. import _core
from .._core import ops
from . import init
from .module import Module
from .oplayer import OpLayer
from .parameter import Parameter, empty, no_grad


class _Affine(Module):
    """weight (gamma) and bias (beta) that start as ones and zeros, or None."""

    def _set_affine(self, shape, weight, bias, device, dtype):
        self.register_parameter("weight", Parameter(empty(shape, device, dtype)) if weight else None)
        self.register_parameter("bias", Parameter(empty(shape, device, dtype)) if bias else None)

    def reset_parameters(self):
        """weight to ones, bias to zeros."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class _Running(_Affine):
    """Norms with running statistics per channel, and what freeze() does to them."""

    _optional_state = frozenset({"num_batches_tracked"})  # files written before PyTorch 0.4.1 lack it
    _training_if_unfrozen = None  # a bool while frozen

    def __init__(self, num_features, eps, momentum, affine, track_running_stats, device, dtype):
        super().__init__()
        name = type(self).__name__
        if num_features < 1:
            raise ValueError(f"{name}: expected num_features >= 1, got {num_features}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self._set_affine((num_features,), affine, affine, device, dtype)
        names = ("running_mean", "running_var", "num_batches_tracked")
        for n, kind in zip(names, (dtype, dtype, "int64"), strict=True):
            shape = () if kind == "int64" else (num_features,)
            self.register_buffer(n, empty(shape, device, kind) if track_running_stats else None)
        self.reset_running_stats()
        self.reset_parameters()

    def reset_running_stats(self):
        """Mean 0, variance 1, no batches seen."""
        if self.track_running_stats:
            for buffer, value in (
                (self.running_mean, 0),
                (self.running_var, 1),
                (self.num_batches_tracked, 0),
            ):
                init.constant_(buffer, value)

    def train(self, mode=True):
        """As Module.train; while frozen only remembered."""
        if self._training_if_unfrozen is None:
            return super().train(mode)
        self._training_if_unfrozen = bool(mode)
        return self

    def _freeze_self(self, train_bn):
        if train_bn:
            return
        super()._freeze_self(train_bn)
        if self._training_if_unfrozen is None:
            self._training_if_unfrozen, self.training = self.training, False

    def _unfreeze_self(self):
        super()._unfreeze_self()
        if self._training_if_unfrozen is not None:
            self.training, self._training_if_unfrozen = self._training_if_unfrozen, None

    def extra_repr(self):
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Running):
    _ndims = ()

    def __init__(
        self,
        num_features,
        eps=1e-5,
        momentum=0.1,
        affine=True,
        track_running_stats=True,
        device=None,
        dtype=None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, x):
        """fastcnn.ops.batch_norm with batch statistics in training, running ones otherwise."""
        if x.ndim not in self._ndims:
            dims = " or ".join(f"{n}-D" for n in self._ndims)
            raise ValueError(f"{type(self).__name__}: expected x as {dims}, got x of shape {x.shape}")
        # Switched off for a while (track_running_stats = False), batches leave the statistics as they are.
        tracked = not self.training or self.track_running_stats
        if tracked and self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return ops.batch_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            training=self.training or self.running_mean is None,
            momentum=self.momentum,
            eps=self.eps,
            num_batches_tracked=self.num_batches_tracked,
        )


_BATCH_NORM_DOC = """Batch normalisation (Ioffe and Szegedy 2015) of x {shapes}.

    Args: momentum: weight of the new batch in the running statistics; None: plain average over all batches.
    affine: learn weight and bias. track_running_stats=False: batch statistics in evaluation too.
    Running variances are unbiased, the batch's own normalisation is biased, as in PyTorch.
    """


class BatchNorm1d(_BatchNorm):
    __doc__ = _BATCH_NORM_DOC.format(shapes="(N, C) or (N, C, L)")
    _ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = _BATCH_NORM_DOC.format(shapes="(N, C, H, W)")
    _ndims = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = _BATCH_NORM_DOC.format(shapes="(N, C, D, H, W)")
    _ndims = (5,)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation whose statistics are those of the batches of all processes together (Peng et al. 2018).

    x is (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W), N of each process its own. Alone (fastcnn.distributed) and
    in evaluation it is BatchNorm1d, BatchNorm2d and BatchNorm3d. Slower than those: two messages forward and two
    backward, and no fused kernels.
    Args as BatchNorm2d's.
    """

    _ndims = (2, 3, 4, 5)

    def forward(self, x):
        """The norm with statistics of all processes in training, running ones otherwise."""
        if not self.training or _core.world_size() == 1 or x.ndim not in self._ndims:
            return super().forward(x)
        if x.shape[1] != self.num_features:
            raise ValueError(f"SyncBatchNorm: expected {self.num_features} channels, got x of shape {x.shape}")
        # Means first, then squares around them: sums of squares alone would lose the digits of a small variance.
        wide = x if x.dtype == _core.float64 else x.to("float32")
        dims, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        here = ops.full((1,), x.numel() // max(x.shape[1], 1), dtype=wide.dtype, device=str(x.device))
        total = ops.all_reduce(ops.cat([wide.sum(dims), here], 0))
        count = total[-1:]
        mean = total[:-1] / count
        centred = wide - mean.reshape(shape)
        var = ops.all_reduce((centred * centred).sum(dims)) / count
        self._note(mean.detach(), (var * count / ops.maximum(count - 1, ops.ones_like(count))).detach())
        scale = ops.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        y = centred * scale.reshape(shape)
        return (y if self.bias is None else y + self.bias.reshape(shape)).to(x.dtype)

    def _note(self, mean, var):
        if self.running_mean is None or not self.track_running_stats:
            return
        with no_grad():
            self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked.to("float32")
            for running, new in ((self.running_mean, mean), (self.running_var, var)):
                running.copy_(running + (new.to(running.dtype) - running) * share)

    @classmethod
    def convert_sync_batchnorm(cls, module):
        """The module with SyncBatchNorm in place of every BatchNorm1d, 2d and 3d, which share their tensors."""
        if isinstance(module, _BatchNorm) and not isinstance(module, cls):
            new = cls(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(new, name, getattr(module, name))
            new.training, new._training_if_unfrozen = module.training, module._training_if_unfrozen
            return new
        for name, child in list(module.named_children()):
            new = cls.convert_sync_batchnorm(child)
            if new is not child:
                setattr(module, name, new)
        return module


class _InstanceNorm(_Running):
    _ndims = 4  # of a batch

    def __init__(
        self,
        num_features,
        eps=1e-5,
        momentum=0.1,
        affine=False,
        track_running_stats=False,
        device=None,
        dtype=None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, x):
        """fastcnn.ops.instance_norm; with running statistics, batch_norm with those in evaluation."""
        if x.ndim == self._ndims - 1:  # one image (C, H, W), sequence (C, L) or volume
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.ndim != self._ndims:
            raise ValueError(
                f"{type(self).__name__}: expected x as {self._ndims - 1}-D or {self._ndims}-D, got x of shape {x.shape}"
            )
        if self.running_mean is not None:
            if not self.training:
                return ops.batch_norm(
                    x,
                    self.running_mean,
                    self.running_var,
                    self.weight,
                    self.bias,
                    training=False,
                    eps=self.eps,
                )
        y = ops.instance_norm(x, self.weight, self.bias, eps=self.eps)
        if self.running_mean is not None:  # after the op, which refuses single pixels: their variance is NaN
            self._update_running_stats(x)
        return y

    def _update_running_stats(self, x):
        with no_grad():
            x, places = x.detach(), tuple(range(2, x.ndim))
            m = self.momentum or 0.0  # PyTorch counts no batches here, so None means 0
            for running, now in (
                (self.running_mean, x.mean(dim=places).mean(dim=0)),
                (self.running_var, x.var(dim=places).mean(dim=0)),
            ):
                running.copy_(running + (now - running) * m)


_INSTANCE_NORM_DOC = """Normalises each channel of each {what} (Ulyanov et al. 2016), by default without weights.

    x is {shapes}.
    """


class InstanceNorm1d(_InstanceNorm):
    __doc__ = _INSTANCE_NORM_DOC.format(what="sequence", shapes="(N, C, L) or (C, L)")
    _ndims = 3


class InstanceNorm2d(_InstanceNorm):
    __doc__ = _INSTANCE_NORM_DOC.format(what="image", shapes="(N, C, H, W) or (C, H, W)")


class InstanceNorm3d(_InstanceNorm):
    __doc__ = _INSTANCE_NORM_DOC.format(what="volume", shapes="(N, C, D, H, W) or (C, D, H, W)")
    _ndims = 5


class GroupNorm(_Affine):
    """Normalises num_groups groups of channels of each image (Wu and He 2018); x (N, num_channels, ...)."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True, device=None, dtype=None):
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: expected num_channels divisible by num_groups={num_groups}, got {num_channels}"
            )
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self._set_affine((num_channels,), affine, affine, device, dtype)
        self.reset_parameters()

    def forward(self, x):
        """fastcnn.ops.group_norm with this layer's weight and bias."""
        return ops.group_norm(x, self.num_groups, self.weight, self.bias, eps=self.eps)

    def extra_repr(self):
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class LayerNorm(_Affine):
    """Normalises over the last dimensions, of shape normalized_shape (Ba et al. 2016)."""

    def __init__(
        self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, device=None, dtype=None
    ):
        super().__init__()
        one = isinstance(normalized_shape, Integral)  # an int of NumPy too
        shape = (int(normalized_shape),) if one else tuple(map(int, normalized_shape))
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self._set_affine(shape, elementwise_affine, elementwise_affine and bias, device, dtype)
        self.reset_parameters()

    def forward(self, x):
        """fastcnn.ops.layer_norm with this layer's weight and bias."""
        return ops.layer_norm(x, self.normalized_shape, self.weight, self.bias, eps=self.eps)

    def extra_repr(self):
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(_Affine):
    """Divides by the root of the mean of squares over the last dimensions, of shape normalized_shape.

    Zhang and Sennrich 2019. eps: default that of the dtype of x.
    """

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True, device=None, dtype=None):
        super().__init__()
        one = isinstance(normalized_shape, Integral)
        shape = (int(normalized_shape),) if one else tuple(map(int, normalized_shape))
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self._set_affine(shape, elementwise_affine, False, device, dtype)
        self.reset_parameters()

    def forward(self, x):
        """fastcnn.ops.rms_norm with this layer's weight."""
        return ops.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self):
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LocalResponseNorm(OpLayer, op="local_response_norm"):
    """x / (k + alpha / size * sum of squares over `size` channels) ** beta (Krizhevsky et al. 2012)."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0
