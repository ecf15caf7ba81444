"""The two steps of adversarial training, each one function for compile: critic (discriminator alone) and both.

Fakes of a step of both come from one forward of the generator: the discriminator learns on them without their graph,
then the generator through it. Functions of tensors only; epochs and files are the trainer's.
"""

from __future__ import annotations

from typing import NamedTuple

from .. import _core
from .._core import ops
from .._steps import mixed
from .losses import gradient_penalty, r1_penalty


class StepOptions(NamedTuple):
    """What of the trainer's arguments the steps bake in."""

    real_target: float = 1.0
    noisy: bool = False
    penalty: float = 0.0
    r1_gamma: float = 0.0
    r1_every: int = 1


class AdversarialSteps:
    """critic(x, labels, std, r1) and both(...): {name: scalar tensor}; x real images in [-1, 1], labels () or (ids,).

    std: 0-D tensor, deviation of the noise on images. r1: whether this step has R1's penalty.
    """

    def __init__(self, generator, discriminator, loss, optimizers, options, ema=None, compiler=None, precision=None):
        self.generator, self.discriminator, self.loss = generator, discriminator, loss
        self.opt_g, self.opt_d = optimizers
        self.options, self.ema, self.precision = options, ema, precision or "32-true"
        self.critic, self.both = self._critic, self._both
        if compiler is not None:
            self.critic, self.both = compiler(self._critic), compiler(self._both)

    def prepare(self):
        """Gradients live inside a step."""
        self.opt_g.zero_grad()
        self.opt_d.zero_grad()

    def _fakes(self, x, labels):
        z = ops.randn((x.shape[0], self.generator.latent_dim), device=str(x.device))
        with mixed(self.precision):
            return self.generator(z, *labels).to("float32")

    def _noisy(self, images, std):
        return images + ops.randn(images.shape, device=str(images.device)) * std if self.options.noisy else images

    def _scores(self, images, labels):
        with mixed(self.precision):
            return self.discriminator(images, *labels).to("float32")

    def _train_discriminator(self, x, fake, labels, std, r1):
        options = self.options
        real, fake = self._noisy(x, std), self._noisy(fake.detach(), std)
        if r1:
            real = real.detach()
            real.requires_grad_()
        real_scores, fake_scores = self._scores(real, labels), self._scores(fake, labels)
        loss = self.loss.discriminator(real_scores, fake_scores, options.real_target)
        result = {"d_loss": loss.detach(), "d_real": real_scores.detach().mean(), "d_fake": fake_scores.detach().mean()}
        penalty = None
        if options.penalty:
            penalty = gradient_penalty(self.discriminator, real.detach(), fake, labels) * options.penalty
        if r1:
            own = r1_penalty(real_scores, real) * (0.5 * options.r1_gamma * options.r1_every)
            penalty = own if penalty is None else penalty + own
        if penalty is not None:
            result["penalty"] = penalty.detach()
            loss = loss + penalty
        loss.backward()
        self.opt_d.step()
        self.opt_d.zero_grad()
        return result

    def _critic(self, x, labels, std, r1):
        was = _core.set_grad_enabled(False)
        try:
            fake = self._fakes(x, labels)
        finally:
            _core.set_grad_enabled(was)
        return self._train_discriminator(x, fake, labels, std, r1)

    def _both(self, x, labels, std, r1):
        fake = self._fakes(x, labels)
        result = self._train_discriminator(x, fake, labels, std, r1)
        loss = self.loss.generator(self._scores(self._noisy(fake, std), labels))
        parameters = [p for group in self.opt_g.param_groups for p in group["params"] if p.requires_grad]
        # Not backward(): the discriminator's parameters get no gradient from here.
        for p, g in zip(parameters, _core.grad([loss], parameters, allow_unused=True), strict=True):
            p.grad = g
        self.opt_g.step()
        self.opt_g.zero_grad()
        if self.ema is not None:
            self.ema.update()
        return {**result, "g_loss": loss.detach()}
