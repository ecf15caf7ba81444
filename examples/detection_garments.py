"""Finds garments on photographs: a small RetinaNet, trained from nothing on a few CPU cores.

    python examples/detection_garments.py --out run
    python examples/detection_garments.py --data fashion_mnist --out run  # more garments than come with fastcnn

Scenes are made of real pictures with exact boxes (_garments.py, needs scikit-image). Each batch is augmented with its
boxes, anchors are matched on the host, and the whole step, loss and optimizer included, is one compiled plan. At the
end mean average precision on unseen garments over unseen photographs is printed and predictions are drawn (needs
matplotlib).
"""

from __future__ import annotations

import time

import _garments
import fastcnn as fc
import numpy as np
from fastcnn import augment, metrics, models, optim

AUGMENT = augment.Compose(
    [
        augment.RandomHorizontalFlip(),
        augment.RandomAffine(0, translate=(0.15, 0.15), scale=(0.8, 1.25), fill_mode="edge"),
        augment.ColorJitter(0.3, 0.3, 0.3, 0.05),
    ]
)


def augmented(data, rows, seed):
    """Images and targets of scenes `rows`; boxes that are mostly outside go."""
    boxes, labels = zip(*((data["targets"][i]["boxes"], data["targets"][i]["labels"]) for i in rows), strict=True)
    out = AUGMENT(data["images"][rows], seed, boxes=list(boxes), labels=list(labels), min_visibility=0.4)
    targets = [{"boxes": b, "labels": c} for b, c in zip(out["boxes"], out["labels"], strict=True)]
    return out["images"], targets


def training_step(net, optimizer):
    """step(images, labels, boxes) -> (loss of classes, loss of boxes); the last two are those of net.encode."""

    @fc.compile
    def step(images, labels, boxes):
        optimizer.zero_grad()
        losses = net.loss(net(images), {"labels": labels, "boxes": boxes}, images.shape[2:])
        (losses["classification"] + losses["bbox_regression"]).backward()
        optimizer.step()
        return losses["classification"].detach(), losses["bbox_regression"].detach()

    return step


def train(net, data, epochs, batch=16, lr=2e-3, seed=0, report=print):
    """Trains; report(epoch, loss of classes, loss of boxes, seconds) after each epoch."""
    optimizer = optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-3)
    steps = len(data["images"]) // batch
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps, pct_start=0.15, cycle_momentum=False)
    step, size = training_step(net, optimizer), data["images"].shape[2:]
    net.train()
    for epoch in range(epochs):
        start, sums = time.perf_counter(), np.zeros(2)
        for i, rows in enumerate(_garments.batches(len(data["images"]), batch, seed, epoch)):
            images, targets = augmented(data, rows, seed * 1_000_003 + epoch * steps + i)
            wanted = net.encode(targets, size)
            losses = step(fc.tensor(images), fc.tensor(wanted["labels"]), fc.tensor(wanted["boxes"]))
            schedule.step()
            sums += [v.item() for v in losses]
        report(epoch + 1, *(sums / steps), time.perf_counter() - start)


def evaluate(net, data, batch=50):
    """MeanAveragePrecision's dict on scenes, and the predictions."""
    metric, found = metrics.MeanAveragePrecision(), []
    for i in range(0, len(data["images"]), batch):
        found += net.predict(data["images"][i : i + batch])
    metric.update(found, data["targets"])
    return metric.compute(), found


def draw(data, found, path, count=12, threshold=0.3):
    """Predictions on the first scenes, one picture each under path."""
    for i in range(min(count, len(found))):
        fc.viz.detections(
            data["images"][i], found[i]["boxes"], found[i]["labels"], found[i]["scores"], _garments.CLASSES, threshold,
            path=path / f"detections_{i:02d}.png",
        )  # fmt: skip


def main(argv=None):
    """The command line; see the top of the file."""
    args = _garments.parser(__doc__, "detection_garments", epochs=16, scenes=16000).parse_args(argv)
    data, test = _garments.both_splits(args, train_most=7)  # more to learn from in a step
    net = models.create_model("retinanet_small", num_classes=len(_garments.CLASSES), score_thresh=0.01)
    names = ("classification", "boxes", "map_50")
    _garments.learn(args, net, train, data, names, lambda: evaluate(net, test)[0]["map_50"])
    result, found = evaluate(net, test)
    print(f"mAP@.5 {result['map_50']:.3f}, mAP {result['map']:.3f}")
    for c, value in zip(result["classes"], result["map_per_class"], strict=True):
        print(f"  {_garments.CLASSES[int(c)]:10s} mAP {value:.3f}")
    draw(test, found, args.out)


if __name__ == "__main__":
    main()
