"""A training run of whatever has state, which can be built anew and resumed."""

import random

import numpy as np
import torch
from torch import nn

import descend
from descend.batching import GrowingBatchSampler
from descend.schedules import linear, snapshot
from descend.snapshots import Snapshots
from snapshot_training import made

STEPS, CYCLES = 24, 3
INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(9))
TARGETS = INPUTS[:, :3].argmax(1)


class Batches:
    """The batches of a sampler, epoch after epoch; goes on where it was."""

    def __init__(self):
        self.sampler = GrowingBatchSampler(40, lambda epoch: 8 + epoch, seed=3)
        self.epoch = self.done = 0

    def following(self):
        self.sampler.set_epoch(self.epoch, start=self.done)
        if len(self.sampler) == 0:
            self.epoch, self.done = self.epoch + 1, 0
            return self.following()
        self.done += 1
        return next(iter(self.sampler))

    def state_dict(self):
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state):
        self.epoch, self.done = state["epoch"], state["done"]


class Run:
    """All of a training run, built anew as a script does when it is started again."""

    def __init__(self, kind, folder):
        self.model = made()
        random.seed(1)
        np.random.seed(1)
        lr, options, also = snapshot(STEPS, CYCLES), {}, {}
        if kind == "sgd":
            self.optimizer = descend.SGD(self.model.parameters(), lr=0.1 * lr, momentum=0.9)
        elif kind == "adamw":
            self.model.bfloat16()
            self.optimizer = descend.AdamW(
                self.model.parameters(),
                lr=0.01 * lr,
                betas=(0.9 * linear(STEPS, 1, 0.9), 0.99),
                stochastic_rounding=True,
                clip_norm=1.0,
                ema_decay=0.9,
            )
        else:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
            also["rates"] = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr)
            options["schedule"] = lr
        self.scheduler, self.batches = also.get("rates"), Batches()
        self.noise = torch.Generator().manual_seed(7)
        also |= {"batches": self.batches, "noise": self.noise}
        self.snapshots = Snapshots(folder, self.model, self.optimizer, metric=self.metric, also=also, **options)

    def metric(self, model):
        return model(INPUTS.to(model.last.weight.dtype)).float().sum() + torch.randn(()) + random.random()

    def train(self, until, every=5):
        for step in range(self.snapshots.resume(), until):
            places = self.batches.following()
            inputs = INPUTS[places] + 0.1 * torch.randn(len(places), 4, generator=self.noise)
            inputs = inputs * (random.uniform(0.9, 1.1) + 0.1 * np.random.rand())
            self.optimizer.zero_grad()
            outputs = self.model(inputs.to(self.model.last.weight.dtype)).float()
            nn.functional.cross_entropy(outputs, TARGETS[places]).backward()
            self.optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()
            self.snapshots.step()
            if step % every == every - 1:
                self.snapshots.save()

    def predictions(self):
        return self.snapshots.ensemble().predict([INPUTS.to(self.model.last.weight.dtype)], strategy="stream")
