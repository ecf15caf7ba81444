"""Losses as modules. reduction: "mean", "sum" or "none" everywhere (KLDivLoss also "batchmean")."""

from __future__ import annotations

from .._core import ops
from .module import Module
from .oplayer import OpLayer

_REDUCTIONS = ("mean", "sum", "none")


class _Loss(OpLayer):
    _reductions = _REDUCTIONS

    def _check(self):
        if self.reduction not in self._reductions:
            raise ValueError(
                f"{type(self).__name__}: expected reduction in {self._reductions}, got {self.reduction!r}"
            )


class MSELoss(_Loss, op="mse_loss", inputs="x, target"):
    """(x - target) ** 2."""

    reduction: str = "mean"


class L1Loss(_Loss, op="l1_loss", inputs="x, target"):
    """|x - target|."""

    reduction: str = "mean"


class SmoothL1Loss(_Loss, op="smooth_l1_loss", inputs="x, target"):
    """0.5 * d ** 2 / beta for |d| < beta, else |d| - 0.5 * beta, with d = x - target (Girshick 2015)."""

    reduction: str = "mean"
    beta: float = 1.0


class HuberLoss(_Loss, op="huber_loss", inputs="x, target"):
    """0.5 * d ** 2 for |d| < delta, else delta * (|d| - 0.5 * delta), with d = x - target (Huber 1964)."""

    reduction: str = "mean"
    delta: float = 1.0


class KLDivLoss(_Loss, op="kl_div", inputs="x, target"):
    """target * (log(target) - x), x being log-probabilities; log_target: target is given as logarithm too."""

    _reductions = (*_REDUCTIONS, "batchmean")
    reduction: str = "mean"
    log_target: bool = False


class _WeightedLoss(Module):
    """Losses with weights, which are buffers and so move with the module."""

    def __init__(self, reduction, **weights):
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ValueError(f"{type(self).__name__}: expected reduction in {_REDUCTIONS}, got {reduction!r}")
        self.reduction = reduction
        for name, w in weights.items():
            self.register_buffer(name, w)

    def extra_repr(self):
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(_WeightedLoss):
    """Cross entropy of logits (N, C, ...) and class ids int64 (N, ...) or probabilities (N, C, ...).

    Args: weight: (C,) per class. ignore_index: class id that counts for nothing. label_smoothing: share of
    the uniform distribution in the target (Szegedy et al. 2015).
    """

    def __init__(self, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
        super().__init__(reduction, weight=weight)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(
                f"CrossEntropyLoss: expected label_smoothing between 0 and 1, got {label_smoothing}"
            )
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, x, target):
        """fastcnn.ops.cross_entropy with the settings of this loss."""
        return ops.cross_entropy(
            x,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class NLLLoss(_WeightedLoss):
    """Negative log-likelihood of log-probabilities (N, C, ...) and class ids int64 (N, ...)."""

    def __init__(self, weight=None, ignore_index=-100, reduction="mean"):
        super().__init__(reduction, weight=weight)
        self.ignore_index = ignore_index

    def forward(self, x, target):
        """fastcnn.ops.nll_loss with the settings of this loss."""
        return ops.nll_loss(
            x, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )


class BCELoss(_WeightedLoss):
    """Binary cross entropy of probabilities and targets of one shape. weight: per element.

    Logarithms count as at least -100, so that 0 and 1 have finite losses. BCEWithLogitsLoss is the more exact one.
    """

    def __init__(self, weight=None, reduction="mean"):
        super().__init__(reduction, weight=weight)

    def forward(self, x, target):
        """fastcnn.ops.binary_cross_entropy with the settings of this loss."""
        return ops.binary_cross_entropy(x, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_WeightedLoss):
    """Binary cross entropy of logits and targets. weight: per element; pos_weight: of positives."""

    def __init__(self, weight=None, reduction="mean", pos_weight=None):
        super().__init__(reduction, weight=weight, pos_weight=pos_weight)

    def forward(self, x, target):
        """fastcnn.ops.binary_cross_entropy_with_logits with the settings of this loss."""
        return ops.binary_cross_entropy_with_logits(
            x, target, weight=self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class SoftMarginLoss(_Loss, op="soft_margin_loss", inputs="x, target"):
    """log(1 + exp(-target * x)) of scores x and targets 1 or -1, of one shape."""

    reduction: str = "mean"


class MultiLabelSoftMarginLoss(_WeightedLoss):
    """Binary cross entropy of logits (..., C) and targets of 0 to 1, mean over the classes. weight: (C,) per class."""

    def __init__(self, weight=None, reduction="mean"):
        super().__init__(reduction, weight=weight)

    def forward(self, x, target):
        """fastcnn.ops.multilabel_soft_margin_loss with the settings of this loss."""
        return ops.multilabel_soft_margin_loss(x, target, weight=self.weight, reduction=self.reduction)


class MultiMarginLoss(_WeightedLoss):
    """Hinge loss of scores (N, C) and class ids int64 (N,), or (C,) and () (Crammer & Singer 2001).

    max(0, margin - x[target] + x[j]) ** p, summed over the other classes j, over C. p: 1 or 2. weight: (C,) per class.
    """

    def __init__(self, p=1, margin=1.0, weight=None, reduction="mean"):
        super().__init__(reduction, weight=weight)
        if p not in (1, 2):
            raise ValueError(f"MultiMarginLoss: expected p 1 or 2, got {p}")
        self.p, self.margin = p, margin

    def forward(self, x, target):
        """fastcnn.ops.multi_margin_loss with the settings of this loss."""
        return ops.multi_margin_loss(
            x, target, p=self.p, margin=self.margin, weight=self.weight, reduction=self.reduction
        )

    def extra_repr(self):
        return f"p={self.p}, margin={self.margin}, {super().extra_repr()}"


class PoissonNLLLoss(_Loss, op="poisson_nll_loss", inputs="x, target"):
    """exp(x) - target * x of logarithms of rates and counts; without log_input x - target * log(x + eps).

    full: plus Stirling's formula for log(target!) where target > 1.
    """

    log_input: bool = True
    full: bool = False
    eps: float = 1e-8
    reduction: str = "mean"


class GaussianNLLLoss(_Loss, op="gaussian_nll_loss", inputs="x, target, var"):
    """0.5 * (log(var) + (x - target) ** 2 / var), var counting as at least eps (Nix & Weigend 1994).

    var: of x's shape, without its last dim or with 1 there, or one number. full: plus 0.5 * log(2 * pi).
    """

    full: bool = False
    eps: float = 1e-6
    reduction: str = "mean"


class TripletMarginLoss(_Loss, op="triplet_margin_loss", inputs="anchor, positive, negative"):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) of vectors (..., D), d their PairwiseDistance.

    swap: the negative counts from the positive where it is nearer to that (Balntas et al. 2016).
    """

    margin: float = 1.0
    p: float = 2.0
    eps: float = 1e-6
    swap: bool = False
    reduction: str = "mean"

    def _check(self):
        super()._check()
        if not self.margin > 0:
            raise ValueError(f"TripletMarginLoss: expected margin > 0, got {self.margin}")


class MarginRankingLoss(_Loss, op="margin_ranking_loss", inputs="x1, x2, target"):
    """max(0, -target * (x1 - x2) + margin); target 1: x1 should be larger, -1: x2 should."""

    margin: float = 0.0
    reduction: str = "mean"


class HingeEmbeddingLoss(_Loss, op="hinge_embedding_loss", inputs="x, target"):
    """x where target is 1, max(0, margin - x) where it is -1, x being distances (Hadsell et al. 2006)."""

    margin: float = 1.0
    reduction: str = "mean"


class CosineEmbeddingLoss(_Loss, op="cosine_embedding_loss", inputs="x1, x2, target"):
    """1 - cos(x1, x2) where target (N,) is 1, max(0, cos(x1, x2) - margin) where it is -1, of vectors (N, D)."""

    margin: float = 0.0
    reduction: str = "mean"


class FocalLoss(_Loss, op="focal_loss", inputs="x, target"):
    """Focal loss of logits x and targets of 0 to 1, of one shape (Lin et al. 2017). alpha < 0: no weights."""

    alpha: float = 0.25
    gamma: float = 2.0
    reduction: str = "mean"


class DiceLoss(_Loss, op="dice_loss", inputs="x, target"):
    """1 - Dice coefficient of the classes of logits (N, C, ...) and class ids (N, ...) or probabilities.

    Args: smooth: added above and below, so that a class that is nowhere costs nothing. multilabel: classes do not
    exclude each other (sigmoid for softmax). ignore_index: class id that counts for nothing (Milletari et al. 2016).
    """

    smooth: float = 1.0
    multilabel: bool = False
    ignore_index: int = -100
    reduction: str = "mean"


class MarginLoss(_Loss, op="margin_loss", inputs="x, target"):
    """Loss of capsule lengths (N, C) and class ids int64 (N,), or (N, C) of 0 and 1 (Sabour et al. 2017).

    max(0, positive - length) ** 2 for classes that are there, down_weight * max(0, length - negative) ** 2 for the
    others, summed over the classes; reduction over N.
    """

    positive: float = 0.9
    negative: float = 0.1
    down_weight: float = 0.5
    reduction: str = "mean"


class HingeGANLoss(_Loss, op="hinge_gan_loss", inputs="x, target"):
    """Hinge loss of scores of a discriminator; target: "real", "fake" or "generator" (Lim & Ye 2017)."""

    reduction: str = "mean"


class GIoULoss(_Loss, op="giou_loss", inputs="boxes1, boxes2"):
    """1 - generalized IoU of pairs of boxes (..., 4), x1 y1 x2 y2 (Rezatofighi et al. 2019)."""

    reduction: str = "mean"
    eps: float = 1e-7


class CIoULoss(_Loss, op="ciou_loss", inputs="boxes1, boxes2"):
    """1 - complete IoU of pairs of boxes (..., 4), x1 y1 x2 y2 (Zheng et al. 2020)."""

    reduction: str = "mean"
    eps: float = 1e-7
