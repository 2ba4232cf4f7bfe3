"""fastai's fine-tuning as in its documentation; `benchmarks.training` runs it in fastai's own
environment.

python fastai_train.py TABLE IMAGES WEIGHTS TASK SEED FREEZE_EPOCHS EPOCHS SIZE_PX SCORES

TABLE is a CSV with the columns fname,labels,is_valid. Prints a JSON line at the end of each
epoch: phase, training images per second. Writes the validation scores of each epoch, and the
targets, to SCORES, an npz file with `scores` [epochs, N, C] and `targets` [N, C].
"""

import json
import sys
import time

import numpy as np
import pandas as pd
import torch
from fastai.vision.all import (
    Callback,
    ImageDataLoaders,
    Normalize,
    Resize,
    aug_transforms,
    imagenet_stats,
    resnet18,
    set_seed,
    vision_learner,
)


class Watch(Callback):
    """Reports the end of each epoch, and keeps the network's outputs for the validation images."""

    def __init__(self, freeze_epochs):
        self.freeze_epochs, self.number, self.scores = freeze_epochs, 0, []

    def before_train(self):
        self.started = time.perf_counter()

    def after_train(self):
        self.images_per_s = len(self.dls.train_ds) / (time.perf_counter() - self.started)

    def before_validate(self):
        self.predicted, self.true = [], []

    def after_pred(self):
        if not self.training:
            self.predicted.append(self.pred.detach().float())
            self.true.append(self.yb[0])

    def after_epoch(self):
        self.number += 1
        self.scores.append(torch.cat(self.predicted).numpy())
        self.targets = torch.cat(self.true).numpy()
        phase = "head" if self.number <= self.freeze_epochs else "whole"
        print(json.dumps({"phase": phase, "images_per_s": self.images_per_s}), flush=True)


def main(table, images, weights, task, seed, freeze_epochs, epochs, size_px, scores):
    set_seed(int(seed))
    size = int(size_px)
    rows = pd.read_csv(table, keep_default_na=False, dtype={"labels": str})
    vocabulary = sorted({label for labels in rows["labels"] for label in labels.split()})
    dls = ImageDataLoaders.from_df(
        rows,
        images,
        fn_col="fname",
        label_col="labels",
        valid_col="is_valid",
        label_delim=" " if task == "multi" else None,
        item_tfms=Resize(round(size * 1.25)),
        batch_tfms=[
            *aug_transforms(size=size, min_scale=0.75),
            Normalize.from_stats(*imagenet_stats),
        ],
        bs=64,
    )
    assert list(dls.vocab) == vocabulary, "labels differ from Labrador's"
    learner = vision_learner(dls, resnet18, pretrained=False, normalize=False)
    network = resnet18()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    body = torch.nn.Sequential(*list(network.children())[:-2])
    learner.model[0].load_state_dict(body.state_dict())
    watch = Watch(int(freeze_epochs))
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(int(epochs), freeze_epochs=int(freeze_epochs), cbs=watch)
    targets = watch.targets
    truth = targets > 0 if task == "multi" else np.eye(len(vocabulary))[targets] > 0
    np.savez(scores, scores=np.stack(watch.scores), targets=truth)


if __name__ == "__main__":
    main(*sys.argv[1:])
