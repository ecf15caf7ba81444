"""The benchmark's nets in plain torch.nn, under the parameter names of fastcnn.models: one state_dict fits both.

Every model here is written for speed in PyTorch's own terms: in-place ReLUs, biasless convolutions before batch norm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..models import efficientnet
from ..models.mobilenet_v2 import STAGES


class LeNet(nn.Module):
    """conv 32@5x5, pool, conv 64@5x5, pool, Linear 512, num_classes."""

    def __init__(self, num_classes=10, in_channels=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * 7 * 7, 512)
        self.fc2 = nn.Linear(512, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu_(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu_(self.conv2(x)), 2)
        return self.fc2(F.relu_(self.fc1(torch.flatten(x, 1))))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions; shortcut of option A."""

    def __init__(self, inp, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.before, self.after = stride, (out - inp) // 2, out - inp - (out - inp) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))
        return F.relu_(y + x)


class ResNet20(nn.Module):
    """He et al. 2015, section 4.2."""

    def __init__(self, num_classes=10, in_channels=3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inp = 16
        for i, width in enumerate((16, 32, 64)):
            blocks = [CifarBlock(inp if j == 0 else width, width, 2 if i and j == 0 else 1) for j in range(3)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            inp = width
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        x = F.relu_(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class Block(nn.Module):
    """BasicBlock, or Bottleneck with its stride in the 3x3 convolution."""

    def __init__(self, inp, width, stride, bottleneck):
        super().__init__()
        out = 4 * width if bottleneck else width
        sizes = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
        channels = (inp, width, width, out) if bottleneck else (inp, width, out)
        self.depth = len(sizes)
        for i, (kernel, s) in enumerate(sizes):
            conv = nn.Conv2d(channels[i], channels[i + 1], kernel, s, kernel // 2, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.downsample = None
        if stride != 1 or inp != out:
            self.downsample = nn.Sequential(nn.Conv2d(inp, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = F.relu_(y)
        y += x if self.downsample is None else self.downsample(x)
        return F.relu_(y)


class ResNet(nn.Module):
    """Stem 7x7/2 and pool, four stages, mean over the image, one Linear."""

    def __init__(self, depths, bottleneck, num_classes=1000, in_channels=3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inp = 64
        for i, n in enumerate(depths):
            blocks = []
            for j in range(n):
                blocks.append(Block(inp, 64 * 2**i, 2 if i and not j else 1, bottleneck))
                inp = 64 * 2**i * (4 if bottleneck else 1)
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inp, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu_(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _conv_bn_relu6(inp, out, kernel=3, stride=1, groups=1):
    conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection."""

    def __init__(self, inp, out, stride, expansion):
        super().__init__()
        inner = inp * expansion
        layers = [_conv_bn_relu6(inp, inner, 1)] if expansion != 1 else []
        layers += [_conv_bn_relu6(inner, inner, 3, stride, inner), nn.Conv2d(inner, out, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(out))
        self.use_shortcut = stride == 1 and inp == out

    def forward(self, x):
        return x + self.conv(x) if self.use_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, width 1, without the dropout: its random numbers cannot be compared."""

    def __init__(self, num_classes=1000, in_channels=3):
        super().__init__()
        layers, inp = [_conv_bn_relu6(in_channels, 32, 3, 2)], 32
        for expansion, out, n, stride in STAGES:
            for i in range(n):
                layers.append(InvertedResidual(inp, out, 1 if i else stride, expansion))
                inp = out
        self.features = nn.Sequential(*layers, _conv_bn_relu6(inp, 1280, 1))
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(1280, num_classes))

    def forward(self, x):
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class MBConv(nn.Module):
    """1x1 expansion, depthwise, squeeze and excitation, 1x1 projection."""

    def __init__(self, inp, out, expansion, kernel, stride):
        super().__init__()
        inner = inp * expansion
        layers = [_conv_bn(inp, inner, 1, act=True)] if expansion != 1 else []
        layers += [_conv_bn(inner, inner, kernel, stride, inner, act=True), SqueezeExcite(inner, max(1, inp // 4))]
        self.block = nn.Sequential(*layers, _conv_bn(inner, out, 1))
        self.use_shortcut = stride == 1 and inp == out

    def forward(self, x):
        return x + self.block(x) if self.use_shortcut else self.block(x)


class SqueezeExcite(nn.Module):
    """x times gates made of the means of its channels."""

    def __init__(self, channels, squeezed):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid_(self.fc2(F.silu(self.fc1(F.adaptive_avg_pool2d(x, 1)), inplace=True)))


def _conv_bn(inp, out, kernel, stride=1, groups=1, act=False):
    layers = [nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, *([nn.SiLU(inplace=True)] if act else []))


class EfficientNet(nn.Module):
    """B0 of Tan and Le 2019 without dropout and stochastic depth: their random numbers cannot be compared."""

    def __init__(self, num_classes=1000, in_channels=3):
        super().__init__()
        stages, inp = [_conv_bn(in_channels, 32, 3, 2, act=True)], 32
        for expansion, kernel, stride, out, n in efficientnet.STAGES:
            blocks = []
            for i in range(n):
                blocks.append(MBConv(inp, out, expansion, kernel, 1 if i else stride))
                inp = out
            stages.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*stages, _conv_bn(inp, 1280, 1, act=True))
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(1280, num_classes))

    def forward(self, x):
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class DoubleConv(nn.Module):
    """Twice: 3x3 convolution, batch norm, ReLU."""

    def __init__(self, inp, out):
        super().__init__()
        layers = []
        for a in (inp, out):
            layers += [nn.Conv2d(a, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x):
        return self.double_conv(x)


class UNet(nn.Module):
    """Ronneberger, Fischer and Brox 2015 with padding and batch norm, images whose sides 16 divides."""

    def __init__(self, num_classes=2, in_channels=3, width=64):
        super().__init__()
        self.inc = DoubleConv(in_channels, width)
        for i in range(1, 5):
            pair = nn.Sequential(nn.MaxPool2d(2), DoubleConv(width * 2 ** (i - 1), width * 2**i))
            setattr(self, f"down{i}", nn.ModuleDict({"maxpool_conv": pair}))
        for i in range(1, 5):
            inp = width * 2 ** (5 - i)
            up = {"up": nn.ConvTranspose2d(inp, inp // 2, 2, stride=2), "conv": DoubleConv(inp, inp // 2)}
            setattr(self, f"up{i}", nn.ModuleDict(up))
        self.outc = nn.ModuleDict({"conv": nn.Conv2d(width, num_classes, 1)})

    def forward(self, x):
        maps = [self.inc(x)]
        for i in range(1, 5):
            maps.append(getattr(self, f"down{i}")["maxpool_conv"](maps[-1]))
        y = maps.pop()
        for i in range(1, 5):
            up = getattr(self, f"up{i}")
            y = up["conv"](torch.cat([maps.pop(), up["up"](y)], 1))
        return self.outc["conv"](y)


def _squash(s):
    squared = (s * s).sum(-1, keepdim=True)
    return s * (squared / ((1 + squared) * torch.sqrt(squared + 1e-8)))


class CapsNet(nn.Module):
    """Sabour, Frosst and Hinton 2017 for 28x28 images, with its decoder; votes are one batched matrix product."""

    def __init__(self, num_classes=10, in_channels=1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 256, 9)
        self.primary = nn.ModuleDict({"conv": nn.Conv2d(256, 256, 9, 2)})
        self.routing = nn.ParameterDict({"weight": 0.1 * torch.randn(1152, num_classes, 16, 8)})
        layers, inp = [], 16 * num_classes
        for size in (512, 1024):
            layers += [nn.Linear(inp, size), nn.ReLU(inplace=True)]
            inp = size
        self.decoder = nn.Sequential(*layers, nn.Linear(inp, in_channels * 784), nn.Sigmoid())

    def capsules(self, x):
        y = self.primary["conv"](F.relu_(self.conv(x)))
        n, weight = len(x), self.routing["weight"]
        u = _squash(y.permute(0, 2, 3, 1).reshape(n, 1152, 8))
        i, j, d, k = weight.shape
        votes = torch.bmm(u.transpose(0, 1), weight.reshape(i, j * d, k).transpose(1, 2))  # (i, n, j * d)
        votes = votes.view(i, n * j, d).transpose(0, 1)  # (n * j, i, d)
        logits = torch.zeros(n, j, i)
        for last in (False, False, True):
            v = _squash(torch.bmm(torch.softmax(logits, 1).view(n * j, 1, i), votes))
            if not last:
                logits = logits + torch.bmm(votes, v.transpose(1, 2)).view(n, j, i)
        return v.view(n, j, d)

    def loss(self, x, labels):
        capsules = self.capsules(x)
        lengths = torch.sqrt((capsules * capsules).sum(-1) + 1e-8)
        hot = F.one_hot(labels, capsules.shape[1]).to(x.dtype)
        margin = hot * F.relu(0.9 - lengths) ** 2 + 0.5 * (1 - hot) * F.relu(lengths - 0.1) ** 2
        drawn = self.decoder((capsules * hot[..., None]).flatten(1)).view(x.shape)
        return margin.sum(1).mean() + 0.0005 / len(x) * ((drawn - x) ** 2).sum()


def dcgan_generator(noise=100, width=64, channels=3):
    """(N, noise, 1, 1) -> (N, channels, 64, 64) (Radford et al. 2016)."""
    layers, inp = [], noise
    for i, out in enumerate((8 * width, 4 * width, 2 * width, width)):
        layers += [nn.ConvTranspose2d(inp, out, 4, 2 if i else 1, 1 if i else 0, bias=False)]
        layers += [nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        inp = out
    return nn.Sequential(*layers, nn.ConvTranspose2d(inp, channels, 4, 2, 1, bias=False), nn.Tanh())


def dcgan_discriminator(width=64, channels=3):
    """(N, channels, 64, 64) -> logits (N, 1, 1, 1)."""
    layers, inp = [], channels
    for i, out in enumerate((width, 2 * width, 4 * width, 8 * width)):
        layers += [nn.Conv2d(inp, out, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(out)] if i else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        inp = out
    return nn.Sequential(*layers, nn.Conv2d(inp, 1, 4, 1, 0, bias=False))


BUILDERS = {
    "lenet": LeNet,
    "resnet20": ResNet20,
    "resnet18": lambda: ResNet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: ResNet((3, 4, 6, 3), bottleneck=True),
    "mobilenet_v2": MobileNetV2,
    "efficientnet_b0": EfficientNet,
    "unet": UNet,
    "capsnet": CapsNet,
    "dcgan": lambda: nn.ModuleDict({"generator": dcgan_generator(), "discriminator": dcgan_discriminator()}),
}
