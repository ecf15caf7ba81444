"""Pairs of generator and discriminator: DCGAN, LSGAN, WGAN-GP, SNGAN, a ResNet pair and a conditional GAN.

generator, discriminator = create_model("dcgan", image_size=32, in_channels=1). Generators take z (N, latent_dim), drawn
from N(0, 1), and give images in [-1, 1]; discriminators give one score per image (N,), a logit or a critic's value.
How they are trained is GANTrainer's (fastcnn.gan).
"""

from __future__ import annotations

from .. import nn
from .._core import ops
from ..nn import init
from ..nn.utils import spectral_norm
from .blocks import ImageModel
from .registry import register


class GANPair(nn.Module):
    """A generator and its discriminator: attributes of these names, and what unpacking gives, in that order."""

    def __init__(self, generator, discriminator):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def __iter__(self):
        return iter((self.generator, self.discriminator))

    def forward(self, *args):
        """Raises TypeError: a pair is called by its parts."""
        raise TypeError("GANPair: call pair.generator(z) or pair.discriminator(images)")


def first_side(name, image_size):
    """(side of the first feature map, how often it doubles up to image_size): 4 for 32, 64, 128, 7 for 28, 56."""
    for base in (4, 7):
        ups = max(image_size // base, 1).bit_length() - 1
        if ups >= 2 and base << ups == image_size:
            return base, ups
    raise ValueError(f"{name}: expected image_size 16, 32, 64, 128 ... or 28, 56, 112 ..., got {image_size}")


def normal_weights_(model, std=0.02):
    """First values of DCGAN: weights N(0, std), scales of norms N(1, std), biases 0."""
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            init.normal_(m.weight, 0.0, std)
        elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
            init.normal_(m.weight, 1.0, std)
        else:
            continue
        if m.bias is not None:
            init.zeros_(m.bias)


def _xavier_weights_(model, gain=1.0):
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            init.xavier_uniform_(m.weight, gain)
            if m.bias is not None:
                init.zeros_(m.bias)


def _spectral(model):
    for m in list(model.modules()):
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            spectral_norm(m)
    return model


class Latent:
    """Mixin of generators: what z they take. num_classes: 0 for those that take no labels."""

    num_classes = 0

    def _check_latent(self, z):
        """z as (N, latent_dim); (N, latent_dim, 1, 1) is taken too."""
        shape = tuple(z.shape)
        if len(shape) not in (2, 4) or shape[1] != self.latent_dim or shape[2:] not in ((), (1, 1)):
            raise ValueError(f"{type(self).__name__}: expected z of shape (N, {self.latent_dim}), got {shape}")
        return z.reshape((shape[0], self.latent_dim))


class DCGANGenerator(Latent, nn.Sequential):
    """Transposed convolutions 4x4 with batch norm and ReLU, Tanh at the end (Radford, Metz and Chintala 2016).

    z (N, latent_dim) -> (N, in_channels, S, S). Args: width: channels of the last hidden map, doubled at each halving.
    """

    def __init__(self, in_channels=3, image_size=64, latent_dim=100, width=64):
        base, ups = first_side("DCGANGenerator", image_size)
        layers, inp = [], latent_dim
        for i in range(ups):
            out = width << (ups - 1 - i)
            conv = (base, 1, 0) if i == 0 else (4, 2, 1)
            layers += [nn.ConvTranspose2d(inp, out, *conv, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            inp = out
        super().__init__(*layers, nn.ConvTranspose2d(inp, in_channels, 4, 2, 1, bias=False), nn.Tanh())
        self.latent_dim, self.in_channels, self.image_size = latent_dim, in_channels, image_size

    def forward(self, z):
        """Images in [-1, 1]."""
        z = self._check_latent(z)
        return super().forward(z.reshape((*z.shape, 1, 1)))


NORMS = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),  # over an image, which leaves the others' gradients alone
    None: None,
}


class DCGANDiscriminator(ImageModel, nn.Sequential):
    """Convolutions of stride 2 with norm and LeakyReLU 0.2, and one that is as large as the map (Radford et al. 2016).

    x (N, in_channels, S, S) -> scores (N,). Args: width: channels of the first map, doubled at each halving. kernel: 4,
    or 5. norm: "batch", "layer" or None, of all maps but the first.
    """

    def __init__(self, in_channels=3, image_size=64, width=64, kernel=4, norm="batch"):
        if norm not in NORMS:
            raise ValueError(f"DCGANDiscriminator: expected norm 'batch', 'layer' or None, got {norm!r}")
        base, ups = first_side("DCGANDiscriminator", image_size)
        layers, inp = [], in_channels
        for i in range(ups):
            out = width << i
            layers.append(nn.Conv2d(inp, out, kernel, 2, (kernel - 1) // 2, bias=norm is None))
            if i and norm is not None:
                layers.append(NORMS[norm](out))
            layers.append(nn.LeakyReLU(0.2))
            inp = out
        super().__init__(*layers, nn.Conv2d(inp, 1, base, bias=False))
        self.in_channels, self.image_size = in_channels, image_size

    def forward(self, x):
        """Scores (N,)."""
        return nn.Sequential.forward(self, x).reshape((-1,))


class LSGANGenerator(Latent, nn.Module):
    """Two 3x3 transposed convolutions per resolution at first, one in the last two (Mao et al. 2017, figure 1).

    z (N, latent_dim) -> (N, in_channels, S, S). Args: width: channels of the last hidden map.
    """

    def __init__(self, in_channels=3, image_size=64, latent_dim=1024, width=64):
        super().__init__()
        base, ups = first_side("LSGANGenerator", image_size)
        self.latent_dim, self.in_channels, self.image_size = latent_dim, in_channels, image_size
        self.base, inp = base, 4 * width
        self.fc = nn.Linear(latent_dim, inp * base * base, bias=False)
        self.norm = nn.BatchNorm2d(inp)
        layers = []
        for i in range(ups):
            out = 4 * width if i < ups - 2 else width << (ups - 1 - i)
            for stride in (2, 1) if i < ups - 2 else (2,):
                conv = nn.ConvTranspose2d(inp, out, 3, stride, 1, output_padding=stride - 1, bias=False)
                layers += [conv, nn.BatchNorm2d(out), nn.ReLU()]
                inp = out
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(inp, in_channels, 3, 1, 1), nn.Tanh())

    def forward(self, z):
        """Images in [-1, 1]."""
        z = self._check_latent(z)
        x = self.fc(z).reshape((z.shape[0], -1, self.base, self.base))
        return self.layers(ops.relu(self.norm(x)))


class SNGANGenerator(Latent, nn.Module):
    """A linear layer, 4x4 transposed convolutions with batch norm, a 3x3 convolution (Miyato et al. 2018, table 3).

    z (N, latent_dim) -> (N, in_channels, S, S). Args: width: channels of the last hidden map.
    """

    def __init__(self, in_channels=3, image_size=32, latent_dim=128, width=64):
        super().__init__()
        self.base, ups = first_side("SNGANGenerator", image_size)
        self.latent_dim, self.in_channels, self.image_size = latent_dim, in_channels, image_size
        inp, layers = width << ups, []
        self.fc = nn.Linear(latent_dim, inp * self.base * self.base)
        for _ in range(ups):
            conv = nn.ConvTranspose2d(inp, inp // 2, 4, 2, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(inp // 2), nn.ReLU()]
            inp //= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(inp, in_channels, 3, 1, 1), nn.Tanh())

    def forward(self, z):
        """Images in [-1, 1]."""
        z = self._check_latent(z)
        return self.layers(self.fc(z).reshape((z.shape[0], -1, self.base, self.base)))


class SNGANDiscriminator(ImageModel):
    """3x3 and 4x4 stride 2 in turn with LeakyReLU 0.1, spectral norm everywhere (Miyato et al. 2018, table 3).

    x (N, in_channels, S, S) -> scores (N,). Args: width: channels of the first map, doubled at each halving.
    """

    def __init__(self, in_channels=3, image_size=32, width=64):
        super().__init__()
        base, ups = first_side("SNGANDiscriminator", image_size)
        self.in_channels, self.image_size = in_channels, image_size
        layers, inp = [], in_channels
        for i in range(ups):
            out = width << i
            layers += [nn.Conv2d(inp, out, 3, 1, 1), nn.LeakyReLU(0.1)]
            layers += [nn.Conv2d(out, 2 * out, 4, 2, 1), nn.LeakyReLU(0.1)]
            inp = 2 * out
        layers += [nn.Conv2d(inp, inp, 3, 1, 1), nn.LeakyReLU(0.1), nn.Flatten()]
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(inp * base * base, 1)
        _xavier_weights_(self)
        _spectral(self)

    def forward(self, x):
        """Scores (N,)."""
        return self.fc(self.layers(x)).reshape((-1,))


class UpBlock(nn.Module):
    """bn, ReLU, nearest x 2, conv 3x3, bn, ReLU, conv 3x3, plus a 1x1 convolution of the enlarged input."""

    def __init__(self, inp, out):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inp), nn.Conv2d(inp, out, 3, 1, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, 1, 1)
        self.shortcut = nn.Conv2d(inp, out, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, 2 H, 2 W)."""
        y = self.conv1(self.up(ops.relu(self.bn1(x))))
        y = self.conv2(ops.relu(self.bn2(y)))
        return y + self.up(self.shortcut(x))  # a 1x1 convolution and nearest neighbours change places at no loss


class DownBlock(nn.Module):
    """ReLU, conv 3x3, ReLU, conv 3x3, mean of 2x2 if down; first: without the first ReLU, on pixels."""

    def __init__(self, inp, out, down, first=False):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inp, out, 3, 1, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.shortcut = nn.Conv2d(inp, out, 1) if down or inp != out else None
        self.down, self.first = down, first

    def _smaller(self, x):
        return ops.avg_pool2d(x, 2) if self.down else x

    def forward(self, x):
        """(N, inp, H, W) -> (N, out, H, W), halved if down."""
        y = self.conv1(x if self.first else ops.relu(x))
        y = self._smaller(self.conv2(ops.relu(y)))
        return y + (x if self.shortcut is None else self.shortcut(self._smaller(x)))


class ResNetGenerator(Latent, nn.Module):
    """A linear layer and UpBlocks of one width (Gulrajani et al. 2017; Miyato et al. 2018, table 4).

    z (N, latent_dim) -> (N, in_channels, S, S). Args: width: channels of every map.
    """

    def __init__(self, in_channels=3, image_size=32, latent_dim=128, width=256):
        super().__init__()
        self.base, ups = first_side("ResNetGenerator", image_size)
        self.latent_dim, self.in_channels, self.image_size = latent_dim, in_channels, image_size
        self.fc = nn.Linear(latent_dim, width * self.base * self.base)
        self.blocks = nn.Sequential(*(UpBlock(width, width) for _ in range(ups)))
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, in_channels, 3, 1, 1)
        _xavier_weights_(self)

    def forward(self, z):
        """Images in [-1, 1]."""
        z = self._check_latent(z)
        x = self.blocks(self.fc(z).reshape((z.shape[0], -1, self.base, self.base)))
        return ops.tanh(self.conv(ops.relu(self.norm(x))))


class ResNetDiscriminator(ImageModel):
    """DownBlocks down to 7 or 8 pixels, two more, ReLU, sum over pixels, linear; spectral norm (Miyato et al. 2018).

    x (N, in_channels, S, S) -> scores (N,). Args: width: channels of every map.
    """

    def __init__(self, in_channels=3, image_size=32, width=128):
        super().__init__()
        base, ups = first_side("ResNetDiscriminator", image_size)
        self.in_channels, self.image_size = in_channels, image_size
        downs = ups if base == 7 else ups - 1
        blocks = [DownBlock(width if i else in_channels, width, i < downs, first=i == 0) for i in range(downs + 2)]
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(width, 1)
        _xavier_weights_(self)
        _spectral(self)

    def forward(self, x):
        """Scores (N,)."""
        return self.fc(ops.relu(self.blocks(x)).sum((2, 3))).reshape((-1,))


def _check_labels(net, labels, n):
    if labels is None or tuple(labels.shape) != (n,) or labels.dtype.is_floating_point:
        got = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"{type(net).__name__}: expected class ids of shape ({n},), got {got}")


class ConditionalGenerator(Latent, nn.Module):
    """A DCGANGenerator that gets the class beside z (Mirza and Osindero 2014): z, labels (N,) -> images."""

    def __init__(self, num_classes=10, in_channels=3, image_size=64, latent_dim=100, width=64):
        super().__init__()
        self.num_classes, self.latent_dim = num_classes, latent_dim
        self.in_channels, self.image_size = in_channels, image_size
        self.net = DCGANGenerator(in_channels, image_size, latent_dim + num_classes, width)

    def forward(self, z, labels):
        """Images in [-1, 1] of the classes labels (N,), ids."""
        z = self._check_latent(z)
        _check_labels(self, labels, z.shape[0])
        return self.net(ops.cat([z, ops.one_hot(labels, self.num_classes, dtype=z.dtype)], 1))


class ConditionalDiscriminator(ImageModel):
    """A DCGANDiscriminator that gets a learned plane of the class beside the image: x, labels (N,) -> scores (N,)."""

    def __init__(self, num_classes=10, in_channels=3, image_size=64, width=64):
        super().__init__()
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.plane = nn.Linear(num_classes, image_size * image_size, bias=False)
        self.net = DCGANDiscriminator(in_channels + 1, image_size, width)

    def __call__(self, x, labels=None):
        shape, size = tuple(x.shape), self.image_size
        if len(shape) != 4 or shape[1:] != (self.in_channels, size, size):
            raise ValueError(
                f"ConditionalDiscriminator: expected images (N, {self.in_channels}, {size}, {size}), got {shape}"
            )
        return nn.Module.__call__(self, x, labels)

    def forward(self, x, labels=None):
        """Scores (N,) of images that claim to be of the classes labels (N,), ids."""
        n, _, h, w = x.shape
        _check_labels(self, labels, n)
        plane = self.plane(ops.one_hot(labels, self.num_classes, dtype=x.dtype)).reshape((n, 1, h, w))
        return self.net(ops.cat([x, plane], 1))


def _pair(generator, discriminator):
    for net in (generator, discriminator):
        normal_weights_(net)
    return GANPair(generator, discriminator)


@register(head=(), image_size=64, sized=True, task="gan")
def dcgan(num_classes=0, in_channels=3, image_size=64, latent_dim=100, width=64):
    """Radford, Metz and Chintala 2016. num_classes is not used."""
    return _pair(
        DCGANGenerator(in_channels, image_size, latent_dim, width), DCGANDiscriminator(in_channels, image_size, width)
    )


@register(head=(), image_size=64, sized=True, task="gan")
def lsgan(num_classes=0, in_channels=3, image_size=64, latent_dim=1024, width=64):
    """Mao et al. 2017, for least squares: GANTrainer(loss="lsgan"). num_classes is not used."""
    return _pair(
        LSGANGenerator(in_channels, image_size, latent_dim, width),
        DCGANDiscriminator(in_channels, image_size, width, kernel=5),
    )


@register(head=(), image_size=64, sized=True, task="gan")
def wgan_gp(num_classes=0, in_channels=3, image_size=64, latent_dim=128, width=64):
    """Gulrajani et al. 2017: a critic with layer norm, for GANTrainer(loss="wgan-gp", n_critic=5).

    Its norm leaves each image's gradient its own, which the penalty asks for. num_classes is not used.
    """
    return _pair(
        DCGANGenerator(in_channels, image_size, latent_dim, width),
        DCGANDiscriminator(in_channels, image_size, width, norm="layer"),
    )


@register(head=(), image_size=32, sized=True, task="gan")
def sngan(num_classes=0, in_channels=3, image_size=32, latent_dim=128, width=64):
    """Miyato et al. 2018: spectral norm in the discriminator, for GANTrainer(loss="hinge"). num_classes is not used."""
    generator = SNGANGenerator(in_channels, image_size, latent_dim, width)
    normal_weights_(generator)
    return GANPair(generator, SNGANDiscriminator(in_channels, image_size, width))


@register(head=(), image_size=32, sized=True, task="gan")
def resnet_gan(num_classes=0, in_channels=3, image_size=32, latent_dim=128, width=128):
    """Residual nets with spectral norm (Gulrajani et al. 2017; Miyato et al. 2018), the generator twice as wide."""
    return GANPair(
        ResNetGenerator(in_channels, image_size, latent_dim, 2 * width),
        ResNetDiscriminator(in_channels, image_size, width),
    )


@register(head=(), image_size=64, sized=True, task="gan")
def cgan(num_classes=10, in_channels=3, image_size=64, latent_dim=100, width=64):
    """DCGAN with labels on both sides (Mirza and Osindero 2014): generator(z, labels), discriminator(x, labels)."""
    return _pair(
        ConditionalGenerator(num_classes, in_channels, image_size, latent_dim, width),
        ConditionalDiscriminator(num_classes, in_channels, image_size, width),
    )
