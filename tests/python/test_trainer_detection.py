"""Trainer with a detector: a step on encoded targets, and mean average precision of what it finds in validation."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn.data import DataLoader, ImageDataset, Subset
from fastcnn.metrics import MeanAveragePrecision


class Squares(ImageDataset):
    """A bright square (class 1) or a dark one (class 2) on grey."""

    target_type = "detection"
    in_channels, num_classes = 3, 3

    def __len__(self):
        return 48

    def raw(self, index):
        rng = np.random.default_rng(index)
        (x, y), side, label = rng.integers(4, 30, 2), int(rng.integers(20, 30)), 1 + index % 2
        pixels = rng.integers(110, 140, (64, 64, 3)).astype(np.uint8)
        pixels[y : y + side, x : x + side] = 250 if label == 1 else 5
        boxes = np.array([[x, y, x + side, y + side]], np.float32)
        return pixels, {"boxes": boxes, "labels": np.array([label])}


@pytest.fixture(scope="module")
def net():
    fc.manual_seed(0)
    return fc.models.create_model("retinanet_small", num_classes=3, min_size=64, max_size=64, score_thresh=0.05)


def step(model, batch):
    images, wanted = batch
    losses = model.loss(model(images), wanted, images.shape[2:])
    return {"loss": losses["classification"] + losses["bbox_regression"], **losses}


def test_a_detector_trains_and_reports_its_mean_average_precision(net, tmp_path):
    data = Squares()
    test = Subset(data, range(40, 48))

    def encoded(samples):
        images = np.stack([image for image, _ in samples])
        return images, net.encode([target for _, target in samples], images.shape[2:])

    loader = DataLoader(Subset(data, range(40)), 8, shuffle=True, drop_last=True, collate_fn=encoded)
    trainer = fc.Trainer(
        net, "adamw", 2e-3, training_step=step, metrics=[MeanAveragePrecision()], monitor="val_map_50",
        log_dir=tmp_path, batch_size=4, progress=False,
    )  # fmt: skip
    history = trainer.fit(loader, test, max_epochs=12)
    assert history["train_loss"][-1] < 0.5 * history["train_loss"][0]
    assert history["train_classification"][-1] < history["train_classification"][0]
    assert trainer.best_score == max(history["val_map_50"]) > 0.5
    columns = (tmp_path / "metrics.csv").read_text().split("\n")[0].split(",")
    assert {"val_map", "val_map_50", "val_mar_100", "train_bbox_regression"} < set(columns)
    assert "val_loss" not in columns
    metric = MeanAveragePrecision()
    for image, target in test:
        metric.update(net.predict(image[None]), [target])
    found = trainer.evaluate(test)
    assert found == pytest.approx(metric.scalars(), nan_ok=True) and found["map_50"] == history["val_map_50"][-1]


def test_what_a_detector_cannot_be_measured_on_is_told(net):
    plain = fc.Trainer(net, training_step=step, progress=False)
    with pytest.raises(ValueError, match=r"metrics=\[MeanAveragePrecision\(\)\] or a validation_step for a RetinaNet"):
        plain.evaluate(Squares())
    trainer = fc.Trainer(net, training_step=step, metrics=[MeanAveragePrecision()], progress=False)
    images = np.zeros((2, 3, 64, 64), np.float32)
    with pytest.raises(ValueError, match=r"\(images, list of target dicts\).*, got tuple of ndarray, ndarray"):
        trainer.evaluate([(images, np.zeros(2, np.int64))])
