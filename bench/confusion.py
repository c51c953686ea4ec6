"""Confusion matrix of one image: one bincount against the histograms that mmsegmentation takes, and against
scikit-learn."""

import numpy as np, torch
from sklearn.metrics import confusion_matrix
from rim.measure.metrics import confusion, iou
from bench.harness import Row, alternate


def histograms(prediction, truth, classes, ignore=255):
    "Intersection and union per class from three histograms, in the manner of mmsegmentation."
    prediction, truth = torch.from_numpy(prediction), torch.from_numpy(truth)
    counts = truth != ignore
    prediction, truth = prediction[counts], truth[counts]
    areas = [
        torch.histc(x.float(), bins=classes, min=0, max=classes - 1)
        for x in (prediction[prediction == truth], prediction, truth)
    ]
    return areas[0].numpy(), (areas[1] + areas[2] - areas[0]).numpy()


def scikit(prediction, truth, classes, ignore=255):
    counts = truth != ignore
    return confusion_matrix(truth[counts], prediction[counts], labels=range(classes))


def picture(height, width, classes, seed=0):
    "Blocks of labels, a fifth of them predicted wrongly, a strip ignored; uint8."
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, classes, (2, height // 16, width // 16), dtype=np.uint8)
    wrong = rng.random(blocks.shape[1:]) < 0.2
    truth, prediction = (
        np.kron(b, np.ones((16, 16), np.uint8)) for b in (blocks[0], np.where(wrong, blocks[1], blocks[0]))
    )
    truth[:16] = 255
    return prediction, truth


def run():
    for height, width, classes in ((128, 128, 17), (375, 500, 21), (480, 640, 171), (1024, 2048, 19)):
        inputs = *picture(height, width, classes), classes
        ours, mmseg, sklearn = alternate(
            [lambda: confusion(*inputs), lambda: histograms(*inputs), lambda: scikit(*inputs)]
        )
        matrix, (intersection, union) = confusion(*inputs), histograms(*inputs)
        size = f"{height}x{width}, C={classes}"
        apart = np.nanmax(
            np.abs(iou(matrix) - np.divide(intersection, union, out=np.full(classes, np.nan), where=union > 0))
        )
        yield Row(
            "confusion matrix",
            size,
            ours,
            "three histograms (mmseg)",
            mmseg,
            f"IoU {apart:.0e} at most",
            "at most 1 ms" if height < 1024 else "",
        )
        yield Row(
            "confusion matrix",
            size,
            ours,
            "scikit-learn",
            sklearn,
            "equal" if (matrix == scikit(*inputs)).all() else "DIFFERENT",
        )
