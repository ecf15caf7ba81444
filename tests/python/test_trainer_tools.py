"""Trainer's tools: event files, frozen backbones, parameter groups, range test, dry runs, overfitting some batches."""

import struct

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import callbacks as cb
from fastcnn._events import EventWriter, masked_crc32c
from fastcnn.data import DataLoader
from test_trainer import assert_same, dataset, net, trainer, weights


def records(path):
    """The messages of a TFRecord file, checksums verified."""
    data, found = path.read_bytes(), []
    while data:
        size, crc = struct.unpack_from("<QI", data)
        body = data[12 : 12 + size]
        assert masked_crc32c(data[:8]) == crc
        assert struct.unpack_from("<I", data, 12 + size) == (masked_crc32c(body),)
        found.append(body)
        data = data[16 + size :]
    return found


def test_checksum_is_castagnoli():
    # RFC 3720, B.4: 32 bytes of zeros have CRC-32C 0x8a9136aa.
    crc = 0x8A9136AA
    assert masked_crc32c(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_event_file_bytes(tmp_path):
    writer = EventWriter(tmp_path / "new")
    writer.scalars({"a": 0.5}, 300)
    writer.close()
    first, second = records(writer.path)
    assert first[0] == 9 and first[9:] == b"\x10\x00\x1a\x0dbrain.Event:2"
    assert second[9:] == b"\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01a\x15" + struct.pack("<f", 0.5)


def test_tensorboard_callback_writes_each_epoch_and_step(tmp_path):
    t = trainer(log_dir=tmp_path, callbacks=[cb.TensorBoard(every_n_steps=2)])
    history = t.fit(dataset(64), dataset(32, 1), max_epochs=3)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    assert len(records(path)) == 1 + 3 + 6
    pytest.importorskip("tensorboard", reason="TensorBoard's own reader is not installed")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    points = [
        (v.tag, e.step, v.tensor.float_val[0] if v.HasField("tensor") else v.simple_value)
        for e in EventFileLoader(str(path)).Load()
        for v in e.summary.value
    ]
    want = [("val_loss", 4 * (i + 1), pytest.approx(v, rel=1e-6)) for i, v in enumerate(history["val_loss"])]
    assert [p for p in points if p[0] == "val_loss"] == want
    assert [p[1] for p in points if p[0] == "train_loss_step"] == [2, 4, 6, 8, 10, 12]


def test_tensorboard_has_each_step_once(tmp_path):
    """Where batches add up to a step, and where a run was killed after what its checkpoint knows of."""

    class Die(cb.Callback):
        def on_train_batch_end(self, t, outputs, batch, index):
            if t.global_step == 7:
                raise RuntimeError

    options = {"log_dir": tmp_path, "accumulate_grad_batches": 2, "checkpoint_every_n_steps": 2}
    with pytest.raises(RuntimeError):
        trainer(callbacks=[cb.TensorBoard(every_n_steps=1), Die()], **options).fit(dataset(160), max_epochs=2)
    again = trainer(callbacks=[cb.TensorBoard(every_n_steps=1)], **options)
    again.fit(dataset(160), max_epochs=2, resume="last")
    first, second = sorted(tmp_path.glob("events.out.tfevents.*"))
    assert len(records(first)) == 1 + 7 + 1
    assert records(second)[1][9:] == b"\x10\x06\x3a\x02\x08\x01"  # from step 6 on, SessionLog.START
    pytest.importorskip("tensorboard", reason="TensorBoard's own reader is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [e.step for e in found.Scalars("train_loss_step")] == list(range(1, 11))
    assert [e.step for e in found.Scalars("train_loss")] == [5, 10]


def test_tensorboard_needs_a_folder():
    with pytest.raises(ValueError, match="TensorBoard: expected log_dir"):
        trainer(callbacks=[cb.TensorBoard()]).fit(dataset(16), max_epochs=1)
    with pytest.raises(ValueError, match="every_n_steps >= 1"):
        cb.TensorBoard(every_n_steps=0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_frozen_backbone_stays_then_trains(accumulate):
    seen = []

    class Watch(cb.Callback):
        def on_epoch_end(self, t):
            seen.append(weights(t.model))

    model = net()
    seen.append(weights(model))
    frozen = cb.FreezeBackbone(unfreeze_at=2)
    more = {"accumulate_grad_batches": accumulate, "weight_decay": 0.1}  # which frozen weights are not to feel
    trainer(model, callbacks=[frozen, Watch()], **more).fit(dataset(), max_epochs=3)
    start, _, second, last = seen
    backbone = [k for k in start if not k.startswith("6.")]
    assert_same({k: start[k] for k in backbone}, {k: second[k] for k in backbone})  # statistics of the norm too
    assert (start["6.weight"] != second["6.weight"]).any()
    assert [k for k in backbone if (second[k] == last[k]).all()] == []


def test_backbone_unfreezes_part_by_part():
    model, found = net(), []

    class Watch(cb.Callback):
        def on_train_epoch_end(self, t):
            found.append([k for k, p in t.model.named_parameters() if p.requires_grad])

    trainer(model, callbacks=[cb.FreezeBackbone({1: "1", 2: ["0", "1"]}), Watch()]).fit(dataset(32), max_epochs=3)
    assert [{k[0] for k in names} for names in found] == [{"6"}, {"1", "6"}, {"0", "1", "6"}]
    with pytest.raises(ValueError, match="no submodule of Sequential is named 'layer9'"):
        trainer(callbacks=[cb.FreezeBackbone({1: "layer9"})]).fit(dataset(32), max_epochs=1)
    with pytest.raises(ValueError, match="two or more children"):
        single = fc.nn.Sequential(fc.nn.Flatten(), fc.nn.Linear(64, 3))
        trainer(single, callbacks=[cb.FreezeBackbone()]).fit(dataset(32), max_epochs=1)


def test_a_model_that_is_frozen_whole_is_named():
    with pytest.raises(ValueError, match="nothing in Sequential trains: all its parameters are frozen; see unfreeze"):
        trainer(net().freeze()).fit(dataset(32), max_epochs=1)
    with pytest.raises(ValueError, match="the loss depends on no parameter that trains"):
        trainer(training_step=lambda model, batch: batch[0].mean()).fit(dataset(32), max_epochs=1)
    with pytest.raises(TypeError, match="unfreeze_at as an epoch, .* got 'layer3'; names of layers go with head="):
        cb.FreezeBackbone("layer3")
    with pytest.raises(TypeError, match="Trainer: expected callbacks with hooks such as on_epoch_end, got int 3"):
        trainer(callbacks=[3])


def test_resumed_run_is_frozen_as_the_whole_one(tmp_path):
    def run(folder, epochs, resume=None):
        t = trainer(log_dir=tmp_path / folder, callbacks=[cb.FreezeBackbone(unfreeze_at=1)])
        t.fit(dataset(), max_epochs=epochs, resume=resume)
        return weights(t.model)

    whole = run("a", 3)
    run("b", 1)
    run("b", 2, "last")
    assert_same(whole, run("b", 3, "last"))


def test_param_groups_by_kind_pattern_and_depth():
    model = net()
    groups = fc.optim.param_groups(model, 0.1, 0.01, rules={"6.*": {"lr_scale": 10}}, layer_decay=0.5)
    by_id = {id(p): g for g in groups for p in g["params"]}
    options = {k: by_id[id(p)] for k, p in model.named_parameters()}
    assert len(by_id) == len(options) == sum(len(g["params"]) for g in groups)
    assert {k: g["weight_decay"] for k, g in options.items()} == {
        "0.weight": 0.01, "0.bias": 0, "1.weight": 0, "1.bias": 0, "6.weight": 0.01, "6.bias": 0,
    }  # fmt: skip
    assert [options[k]["lr"] for k in ("0.weight", "1.bias", "6.weight")] == pytest.approx([0.025, 0.05, 1.0])
    t = trainer(model, optimizer=lambda _: fc.optim.AdamW(groups), lr=None)
    assert t.fit(dataset(), max_epochs=3)["train_loss"][-1] < 1.1
    blocks = fc.models.create_model("resnet8", num_classes=3, in_channels=1)
    rates = {g["lr"] for g in fc.optim.param_groups(blocks, 1.0, layer_decay=0.5)}
    assert rates == {0.5**i for i in range(len(rates))} and len(rates) > 4
    counts = {"densenet121": 11, "retinanet_small": 12, "fcn_resnet50": 21, "efficientnet_lite0": 12}
    for name, parts in counts.items():
        with fc.nn.init.skip_random():
            groups = fc.optim.param_groups(fc.models.create_model(name), 1.0, layer_decay=0.5)
        assert sorted(g["lr"] for g in groups) == [0.5**i for i in reversed(range(parts))], name
    with pytest.raises(ValueError, match="no parameter of Sequential is named 'x'"):
        fc.optim.param_groups(model, 0.1, rules={"x": {}})
    with pytest.raises(ValueError, match="layer_decay"):
        fc.optim.param_groups(model, 0.1, layer_decay=1.5)


@pytest.mark.parametrize("compile", [True, False])
def test_range_test_puts_everything_back(compile, tmp_path):
    def fitted(look):
        t = trainer(net(dropout=0.2), optimizer="adam", lr=0.01, ema_decay=0.9, compile=compile)
        t.fit(dataset(), max_epochs=1)
        if look:
            before = weights(t.model)
            found = t.lr_find(dataset(), 1e-5, 10.0, num_steps=40)
            assert_same(before, weights(t.model))
            assert t.optimizer.param_groups[0]["lr"] == 0.01
            assert len(found.lrs) == len(found.losses) > 10
            assert found.lrs[0] == 1e-5 and 1e-4 < found.suggestion() < 1
            if compile:
                pytest.importorskip("matplotlib")
                found.plot(tmp_path / "lr.png")
                assert (tmp_path / "lr.png").stat().st_size > 1000
        t.fit(dataset(), max_epochs=1)
        return weights(t.model) | {f"ema.{k}": v for k, v in weights(t.ema.module).items()}

    assert_same(fitted(False), fitted(True))
    with pytest.raises(ValueError, match="0 < min_lr < max_lr"):
        trainer().lr_find(dataset(), 1.0, 0.1)


def test_range_test_ends_where_the_data_end():
    with pytest.raises(ValueError, match="lr_find: the training data gave no batch"):
        trainer().lr_find(DataLoader(dataset(8), 16, drop_last=True))
    with pytest.raises(ValueError, match="expected data for 20 steps of 1 batches, it ended in step 7"):
        trainer().lr_find(iter(list(DataLoader(dataset(), 16))), num_steps=20)


def test_range_test_accumulates_as_training_does():
    losses = []
    for size, accumulate in ((32, 1), (16, 2)):
        fc.manual_seed(0)
        model = fc.nn.Sequential(fc.nn.Flatten(), fc.nn.Linear(64, 3))
        t = trainer(model, accumulate_grad_batches=accumulate)
        losses.append(t.lr_find(DataLoader(dataset(), size), 1e-3, 1.0, num_steps=10).losses)
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_range_test_puts_the_loss_scale_back():
    t = trainer(precision="16-mixed")
    t.scaler.load_state_dict({**t.scaler.state_dict(), "scale": 2.0**10, "growth_interval": 2})
    t.lr_find(dataset(), 1e-4, 1e-2, num_steps=10)
    assert t.scaler.get_scale() == 2.0**10


def test_fast_dev_run_sees_a_batch_and_writes_nothing(tmp_path):
    steps = []

    class Count(cb.Callback):
        def on_train_batch_end(self, t, outputs, batch, batch_idx):
            steps.append(batch_idx)

    t = trainer(fast_dev_run=True, log_dir=tmp_path, callbacks=[Count(), cb.TensorBoard(), cb.ModelCheckpoint()])
    history = t.fit(dataset(), dataset(48, 1), max_epochs=7)
    assert steps == [0] and len(history) == 1 and "val_loss" in history
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="at least 0"):
        trainer(fast_dev_run=-1)


def test_overfit_batches_sees_the_same_batches(tmp_path):
    data = dataset()
    data.labels = np.random.default_rng(0).permutation(data.labels)  # nothing to learn but by heart
    t = trainer(overfit_batches=2, optimizer="adam", lr=0.02, log_dir=tmp_path)
    history = t.fit(data, dataset(48, 1), max_epochs=60)
    assert t.global_step == 120
    assert history["train_accuracy"][-1] == 1.0
    assert history["val_accuracy"][-1] > 0.9  # on the same batches


def test_overfit_batches_are_the_same_after_a_resume(tmp_path):
    def run(folder, epochs, resume=None):
        t = trainer(overfit_batches=2, log_dir=tmp_path / folder)
        t.fit(DataLoader(dataset(), 16, shuffle=True), max_epochs=epochs, resume=resume)
        return weights(t.model)

    whole = run("a", 4)
    run("b", 2)
    assert_same(whole, run("b", 4, "last"))


def test_mixup_and_cutmix_choose_their_batches_independently():
    found = []

    class Watch(cb.Callback):
        def change_batch(self, t, batch, batch_idx):
            found.append(np.array(batch[0]))
            return batch

    t = trainer(callbacks=[Watch(), cb.Mixup(p=0.5), Watch(), cb.CutMix(alpha=0.2, p=0.5), Watch()], batch_size=2)
    t.fit(dataset(), max_epochs=1)
    chosen = {
        (not np.array_equal(a, b), not np.array_equal(b, c))
        for a, b, c in zip(found[::3], found[1::3], found[2::3], strict=True)
    }
    assert len(chosen) == 4


@pytest.mark.parametrize("make", [cb.Mixup, cb.CutMix])
def test_mixed_batches_are_trained_on_and_resume_alike(make, tmp_path):
    targets = []

    class Watch(cb.Callback):
        def on_train_batch_end(self, t, outputs, batch, batch_idx):
            targets.append(np.asarray(batch[1]))

    def run(folder, epochs, resume=None, **options):
        t = trainer(log_dir=tmp_path / folder, callbacks=[make(p=0.7), Watch()], **options)
        history = t.fit(dataset(), dataset(48, 1), max_epochs=epochs, resume=resume)
        return weights(t.model), history

    whole, history = run("a", 4)
    assert history["val_accuracy"][-1] > 0.8
    assert all(t.shape == (16, 3) and np.allclose(t.sum(1), 1) for t in targets)
    mixed = [((t > 0) & (t < 1)).any() for t in targets]
    assert 0 < sum(mixed) < len(mixed)
    run("b", 2)
    assert_same(whole, run("b", 4, "last")[0])
    with pytest.raises(ValueError, match="expected p in"):
        make(p=2)
    plain = trainer(callbacks=[make(num_classes=2)])
    with pytest.raises(ValueError, match=r"class ids in \[0, 2\), got 2"):
        plain.fit(dataset(), max_epochs=1)


def test_mixing_takes_a_seed_below_zero():
    fits = [trainer(seed=seed, callbacks=[cb.Mixup(alpha=1.0)]).fit(dataset(32), max_epochs=1) for seed in (-1, -1, -2)]
    losses = [history["train_loss"] for history in fits]
    assert losses[0] == losses[1] != losses[2]
