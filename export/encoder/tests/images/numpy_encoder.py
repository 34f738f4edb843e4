"""A ResNet-18 with the stem for small pictures in numpy, in double precision: the second opinion on what an encoder computes.

Written from the paper and torchvision's names. In training mode batch norm normalises by the batch and moves its
running statistics a tenth of the way, as PyTorch's does.
"""

import json

import numpy

WIDTH = 4
BLOCKS = (2, 2, 2, 2)
EPSILON = 1e-5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def manifest(resize, crop, background):
    return json.dumps({
        "format": 1,
        "backbone": {"kind": "resnet", "depth": 18, "width": WIDTH, "stem": "cifar", "dilate": [False] * 3},
        "head": {"kind": "none"},
        "output": "features",
        "dim": WIDTH * 8,
        "normalized": True,
        "preprocessing": {
            "resize": resize, "crop": crop, "interpolation": "bilinear", "background": background, "mean": MEAN, "std": STD,
        },
        "provenance": {
            "recipe": "", "data": "", "data_hash": "", "images": 0, "epochs": 0.0, "knn_accuracy": None,
            "program": "numpy_encoder.py",
        },
    })


class Encoder:
    """Random weights as at the start of training, and batch-norm statistics of twenty batches of `pictures`, N×H×W×3."""

    def __init__(self, pictures, seed=0):
        self.random, self.tensors, self.training = numpy.random.default_rng(seed), {}, True
        for start in range(20):
            self.features(pictures[start * 8 % len(pictures) :][:8])
        self.training = False
        # What a file holds is what is computed with.
        self.tensors = {name: values.astype(numpy.float32) for name, values in self.tensors.items()}

    def features(self, pictures):
        """N×H×W×3 of 8 bits → N×dim, not normalised."""
        x = ((pictures / 255.0 - MEAN) / STD).transpose(0, 3, 1, 2)
        x = relu(self.batch_norm("bn1", self.conv("conv1", x, WIDTH, 3, 1, 1)))
        for stage, blocks in enumerate(BLOCKS):
            for block in range(blocks):
                x = self.block(f"layer{stage + 1}.{block}", x, WIDTH << stage, 2 if stage and not block else 1)
        return x.mean(axis=(2, 3))

    def block(self, name, x, channels, stride):
        y = relu(self.batch_norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, channels, 3, stride, 1)))
        # A branch adds a little to what it branches from, as after training; at full strength, random blocks one after
        # another would blow up the last bit of a pixel.
        y = self.batch_norm(f"{name}.bn2", self.conv(f"{name}.conv2", y, channels, 3, 1, 1), strength=0.25)
        if stride != 1 or x.shape[1] != channels:
            x = self.batch_norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, channels, 1, stride, 0))
        return relu(x + y)

    def conv(self, name, x, channels, kernel, stride, padding):
        if (name := f"{name}.weight") not in self.tensors:
            spread = (2.0 / (channels * kernel * kernel)) ** 0.5
            self.tensors[name] = self.random.normal(0, spread, (channels, x.shape[1], kernel, kernel))
        x = numpy.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        windows = numpy.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
        return numpy.tensordot(windows, self.tensors[name].astype(float), ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)

    def batch_norm(self, name, x, strength=1):
        parts = {"weight": (strength, 0.2 * strength), "bias": (0, 0.2), "running_mean": (0, 0), "running_var": (1, 0)}
        for part, (centre, spread) in parts.items():
            if f"{name}.{part}" not in self.tensors:
                self.tensors[f"{name}.{part}"] = self.random.normal(centre, spread, x.shape[1])
        weight, bias, mean, var = (self.tensors[f"{name}.{part}"].astype(float) for part in parts)
        if self.training:
            samples = x.size // x.shape[1]
            mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
            for part, target in (("running_mean", mean), ("running_var", var * samples / (samples - 1))):
                self.tensors[f"{name}.{part}"] = 0.9 * self.tensors[f"{name}.{part}"] + 0.1 * target
        scale = weight / numpy.sqrt(var + EPSILON)
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


def relu(x):
    return numpy.maximum(x, 0)
