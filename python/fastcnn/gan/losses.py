"""Losses of discriminator and generator, and gradient penalties that need second derivatives.

Functions of scores, which are logits or a critic's values of any shape; means over the batch. Not a choice of
optimizers or steps: those are the trainer's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .. import _core
from .._core import ops


class GANLoss(NamedTuple):
    """discriminator(real scores, fake scores, target of real) and generator(fake scores), each a scalar tensor.

    smooth: whether the target of real images may be another than 1 (one-sided label smoothing).
    """

    discriminator: Callable
    generator: Callable
    smooth: bool


def _bce(scores, target):
    return ops.binary_cross_entropy_with_logits(scores, ops.full(scores.shape, target, device=str(scores.device)))


def _squares(scores, target):
    d = scores - target
    return 0.5 * (d * d).mean()


GAN_LOSSES = {
    # Goodfellow et al. 2014; the generator's is the one that does not saturate.
    "bce": GANLoss(lambda real, fake, one: _bce(real, one) + _bce(fake, 0.0), lambda fake: _bce(fake, 1.0), True),
    # Mao et al. 2017.
    "lsgan": GANLoss(
        lambda real, fake, one: _squares(real, one) + _squares(fake, 0.0), lambda fake: _squares(fake, 1.0), True
    ),
    # Lim and Ye 2017; Miyato et al. 2018.
    "hinge": GANLoss(
        lambda real, fake, one: ops.hinge_gan_loss(real, "real") + ops.hinge_gan_loss(fake, "fake"),
        lambda fake: ops.hinge_gan_loss(fake, "generator"),
        False,
    ),
    # Arjovsky et al. 2017; the penalty (Gulrajani et al. 2017) is the trainer's to add.
    "wgan-gp": GANLoss(lambda real, fake, one: fake.mean() - real.mean(), lambda fake: -fake.mean(), False),
}


def get_gan_loss(loss):
    """The GANLoss of a name. Raises: ValueError for an unknown one."""
    if isinstance(loss, GANLoss):
        return loss
    if loss not in GAN_LOSSES:
        raise ValueError(f"GANTrainer: expected loss {', '.join(map(repr, GAN_LOSSES))} or a GANLoss, got {loss!r}")
    return GAN_LOSSES[loss]


def _squared_gradients(scores, images):
    """(N,): squared length of each image's gradient, itself differentiable."""
    (g,) = _core.grad([scores.sum()], [images], create_graph=True)
    return (g * g).sum([1, 2, 3])


def gradient_penalty(discriminator, real, fake, labels=(), target=1.0):
    """Mean of (|gradient| - target)^2 at random places between real and fake images (Gulrajani et al. 2017).

    real, fake: (N, C, H, W). labels: further arguments of the discriminator. Differentiable by its parameters.
    """
    share = ops.rand((real.shape[0], 1, 1, 1), device=str(real.device))
    between = (fake + (real - fake) * share).detach()
    between.requires_grad_()
    length = (_squared_gradients(discriminator(between, *labels), between) + 1e-12).sqrt()
    excess = length - target
    return (excess * excess).mean()


def r1_penalty(scores, images):
    """Mean squared gradient of the scores of real images (Mescheder et al. 2018); images must require gradients."""
    return _squared_gradients(scores, images).mean()
