"""GAN models: published parameter counts, shapes at every size, spectral norm where the papers have it, bad input."""

import numpy as np
import pytest
from fastcnn import _core, models, nn
from fastcnn._core import ops
from zoo_check import build, count

NAMES = ("dcgan", "lsgan", "wgan_gp", "sngan", "resnet_gan", "cgan")


def labels_of(pair, n):
    return (_core.tensor(np.arange(n) % pair.generator.num_classes),) if pair.generator.num_classes else ()


def test_dcgan_is_the_published_one():
    """Counts of PyTorch's DCGAN example at 64 pixels, three channels."""
    generator, discriminator = build("dcgan")
    assert (count(generator), count(discriminator)) == (3_576_704, 2_765_568)


def test_sngan_is_that_of_table_3():
    generator, discriminator = build("sngan")
    convs = [512 * 256 * 16, 256 * 128 * 16, 128 * 64 * 16]
    assert count(generator) == 129 * 512 * 16 + sum(convs) + 2 * (256 + 128 + 64) + 64 * 3 * 9 + 3
    normed = [m for m in discriminator.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(normed) == 8 and all("weight_u" in m._kinds for m in normed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size, channels", [(28, 1), (32, 3), (64, 3)])
def test_images_and_scores_of_every_size(name, size, channels):
    options = {"latent_dim": 16} if name == "lsgan" else {}
    pair = models.create_model(name, 10, channels, image_size=size, width=4, **options).eval()
    generator, discriminator = pair
    labels = labels_of(pair, 3)
    images = generator(ops.randn((3, generator.latent_dim)), *labels)
    assert images.shape == (3, channels, size, size) and float(images.abs().max()) <= 1
    assert discriminator(images, *labels).shape == (3,)
    assert (generator.image_size, generator.in_channels) == (size, channels)


def test_labels_change_what_a_conditional_pair_says():
    pair = models.create_model("cgan", 4, 1, image_size=28, width=4)
    pair.eval()
    z = ops.randn((4, 100))
    ids = [_core.tensor(np.full(4, k)) for k in (0, 1)]
    images = [pair.generator(z, k) for k in ids]
    assert not np.allclose(images[0].detach().numpy(), images[1].detach().numpy())
    scores = [pair.discriminator(images[0], k).detach().numpy() for k in ids]
    assert not np.allclose(*scores)
    for bad in (None, _core.tensor(np.zeros(3, np.int64)), ops.zeros((4,))):
        with pytest.raises(ValueError, match=r"ConditionalGenerator: expected class ids of shape \(4,\), got"):
            pair.generator(z, bad)


def test_weights_of_a_pair_load_again(tmp_path):
    pair = models.create_model("dcgan", in_channels=1, image_size=28, width=4)
    assert pair.generator[0].weight.numpy().std() == pytest.approx(0.02, rel=0.05)
    pair.save(tmp_path / "pair.safetensors")
    again = models.create_model(
        "dcgan", in_channels=1, image_size=28, width=4, pretrained=tmp_path / "pair.safetensors"
    )
    for (name, a), b in zip(pair.state_dict().items(), again.state_dict().values()):
        assert np.array_equal(a.numpy(), b.numpy()), name


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="expected image_size 16, 32, 64, 128 ... or 28, 56, 112 ..., got 30"):
        build("dcgan", image_size=30)
    pair = build("dcgan", image_size=28, width=4)
    with pytest.raises(ValueError, match=r"DCGANGenerator: expected z of shape \(N, 100\), got \(2, 99\)"):
        pair.generator(ops.randn((2, 99)))
    with pytest.raises(ValueError, match="DCGANDiscriminator: expected images of 28x28, got 32x32"):
        pair.discriminator(ops.ones((2, 3, 32, 32)))
    with pytest.raises(ValueError, match="of 3 channels, got 1"):
        pair.discriminator(ops.ones((2, 1, 28, 28)))
    with pytest.raises(TypeError, match="pair.generator"):
        pair(ops.ones((2, 3, 28, 28)))
    with pytest.raises(ValueError, match="norm 'batch', 'layer' or None, got 'none'"):
        models.gan.DCGANDiscriminator(norm="none")
    conditional = build("cgan", 4, 1, image_size=28, width=4)
    with pytest.raises(ValueError, match=r"expected images \(N, 1, 28, 28\), got \(2, 2, 28, 28\)"):
        conditional.discriminator(ops.ones((2, 2, 28, 28)), _core.tensor(np.zeros(2, np.int64)))
