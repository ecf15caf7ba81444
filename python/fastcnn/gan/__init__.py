"""Adversarial training: GANTrainer, its losses and penalties, and reports on what a generator draws.

The nets are in fastcnn.models (dcgan, lsgan, wgan_gp, sngan, resnet_gan, cgan). Pixels are [-1, 1] inside the nets and
[0, 1] outside: in samples, features, classifiers and pictures.
"""

from .images import CentredImages
from .losses import GAN_LOSSES, GANLoss, gradient_penalty, r1_penalty
from .report import ModeCoverage, interpolation, mode_coverage, slerp
from .trainer import GANTrainer

__all__ = [
    "GAN_LOSSES",
    "CentredImages",
    "GANLoss",
    "GANTrainer",
    "ModeCoverage",
    "gradient_penalty",
    "interpolation",
    "mode_coverage",
    "r1_penalty",
    "slerp",
]
