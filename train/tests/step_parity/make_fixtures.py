"""Runs the first five steps of Momentum Contrast in PyTorch and writes down what `step_parity.rs` compares with.

    python3 make_fixtures.py [FOLDER]      # FOLDER: where the fixtures go, by default beside this file

Needs torch and torchvision only (made with torch 2.11.0 and torchvision 0.26.0, CPU). Written from the papers,
<https://arxiv.org/abs/1911.05722> and <https://arxiv.org/abs/2003.04297>; batch normalisation is split as the CIFAR-10
demonstration of their authors describes it: sample i belongs to group i mod S, and the running statistics are the mean of
the groups'.

Weights, pictures, shuffles and the signs below are drawn by a counter-based generator (SplitMix64), which the test repeats
to the last bit. Whole tensors would fill megabytes, so a fixture holds a sketch of each: its norm, a few of its entries,
and its products with vectors of random signs. For such a sign vector r the square of r·(a − b) is |a − b|² on average, so
that the products of two tensors tell how far apart they are, without either of them at hand.
"""

import json
import math
import os
import struct
import sys
from pathlib import Path

# The kernels that every x86-64 processor has, so that f32 comes out the same on each. Read once, when torch is loaded.
os.environ |= {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

STEPS = 5
DIM = 16
PROJECTIONS = 8
ENTRIES = 3

# What the papers state, at the size of a test. The learning rate falls from step to step, so that
# a step that took another's would show. K is no multiple of the batch, so that the queue wraps inside a batch.
LINEAR = {"kind": "linear", "dim": DIM}
MLP = {"kind": "mlp", "hidden": 32, "dim": DIM}
V1 = dict(draw=3, width=4, stem="imagenet", side=64, head=LINEAR, batch=16, bn_splits=2, queue=40, key_momentum=0.999, temperature=0.07,
          symmetric=False, learning_rate=0.03, momentum=0.9, weight_decay=1e-4)
CIFAR = dict(draw=0, width=4, stem="cifar", side=32, head=LINEAR, batch=16, bn_splits=8, queue=40, key_momentum=0.99, temperature=0.1,
             symmetric=False, learning_rate=0.06, momentum=0.9, weight_decay=5e-4)
RECIPES = {
    "v1": V1,
    "v2": V1 | dict(draw=1, head=MLP, temperature=0.2),
    "cifar": CIFAR,
    "cifar-symmetric": CIFAR | dict(symmetric=True),
}


# The generator. torch's int64 wraps around as u64 does; a shift to the right has to drop the sign's copies.

def shifted(z, bits):
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def signed(value):
    """The int64 with the bits of a u64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def draws(name, count):
    """64 random bits for each of `count` entries of the tensor called `name`."""
    seed = 0xCBF29CE484222325  # FNV-1a of the name
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % (1 << 64)
    z = torch.arange(1, count + 1, dtype=torch.int64) * signed(0x9E3779B97F4A7C15) + signed(seed)
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    return z ^ shifted(z, 31)


def uniform(name, shape, bound, centre=0.0):
    """Doubles between centre - bound and centre + bound."""
    unit = shifted(draws(name, math.prod(shape)), 11).double() * 2.0**-53
    return ((2.0 * unit - 1.0) * bound + centre).reshape(shape)


# The network.

class SplitBatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose groups do not see each other."""

    splits = 1

    def forward(self, x):
        outputs, means, variances = [], [], []
        for group in range(self.splits):
            mean, variance = self.running_mean.clone(), self.running_var.clone()
            members = x[group :: self.splits].contiguous()
            outputs.append(F.batch_norm(members, mean, variance, self.weight, self.bias, True, self.momentum, self.eps))
            means.append(mean)
            variances.append(variance)
        with torch.no_grad():
            self.running_mean.copy_(torch.stack(means).mean(0))
            self.running_var.copy_(torch.stack(variances).mean(0))
        return torch.stack(outputs, dim=1).flatten(0, 1)


class NarrowResNet18(ResNet):
    """torchvision's ResNet-18 with `width` channels in its stem, and a projection head in the place of its classifier."""

    def __init__(self, width, stem, head):
        nn.Module.__init__(self)
        self._norm_layer, self.inplanes, self.dilation, self.groups, self.base_width = SplitBatchNorm, width, 1, 1, 64
        window = dict(kernel_size=7, stride=2, padding=3) if stem == "imagenet" else dict(kernel_size=3, stride=1, padding=1)
        self.conv1 = nn.Conv2d(3, width, bias=False, **window)
        self.bn1 = SplitBatchNorm(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        for stage in range(4):
            layer = self._make_layer(BasicBlock, width << stage, 2, stride=1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        if head["kind"] == "linear":
            self.fc = nn.Sequential(nn.Linear(8 * width, head["dim"]))
        else:
            self.fc = nn.Sequential(nn.Linear(8 * width, head["hidden"]), nn.ReLU(), nn.Linear(head["hidden"], head["dim"]))


def public_name(name):
    return name.replace("fc.", "head.")


def parameters(net):
    return {public_name(name): value for name, value in net.named_parameters()}


def buffers(net):
    return {public_name(name): value for name, value in net.named_buffers() if "running" in name}


def set_initial_weights(net, draw):
    kinds = {}
    for prefix, module in net.named_modules():
        kinds |= {f"{prefix}.{name}": (module, name) for name, _ in module.named_parameters(recurse=False)}
    for name, value in net.named_parameters():
        module, part = kinds[name]
        if isinstance(module, nn.BatchNorm2d):
            bound, centre = (0.2, 1.0) if part == "weight" else (0.2, 0.0)
        elif isinstance(module, nn.Conv2d):
            bound, centre = math.sqrt(6.0 / (value.shape[0] * value.shape[2] * value.shape[3])), 0.0
        else:
            bound, centre = math.sqrt(1.0 / module.in_features), 0.0
        with torch.no_grad():
            value.copy_(uniform(f"{draw}.{public_name(name)}", value.shape, bound, centre))


# The data. A picture has a colour of its own, and pixels that its two views share in part.

def views(step, recipe):
    draw = recipe["draw"]
    shape = (recipe["batch"], 3, recipe["side"], recipe["side"])
    colour = uniform(f"{draw}.{step}.colour", (recipe["batch"], 3, 1, 1), 1.0)
    pixels = uniform(f"{draw}.{step}.pixels", shape, 1.0)
    return [colour + pixels + uniform(f"{draw}.{step}.view{view}", shape, 0.5) for view in range(2)]


def permutation(step, batch):
    return torch.argsort(shifted(draws(f"{step}.permutation", batch), 11))


# Sketches.

def sketch(label, tensor):
    values = tensor.detach().double().flatten()
    bits = draws(label, values.numel())
    products = [((1 - 2 * ((bits >> p) & 1)).double() * values).sum() for p in range(PROJECTIONS)]
    places = shifted(draws(f"{label}.entries", ENTRIES), 11) % values.numel()
    return torch.stack([values.norm(), *products, *values[places]])


def sketches(quantity, step, tensors):
    """One row for each tensor, in the order of their names."""
    return torch.stack([sketch(f"{step}.{quantity}.{name}", tensors[name]) for name in sorted(tensors)])


# The method.

def encode(net, images):
    return F.normalize(net(images), dim=1)


def contrast(query, key, queue, x_q, x_k, order, temperature):
    """Logits of the queries, the positive in column 0, and the keys in the order of their pictures."""
    q = encode(query, x_q)
    with torch.no_grad():
        shuffled = encode(key, x_k[order])
        k = torch.empty_like(shuffled)
        k[order] = shuffled
    positive = (q * k).sum(dim=1, keepdim=True)
    return torch.cat([positive, q @ queue.T], dim=1) / temperature, k


def run(recipe, dtype):
    torch.set_default_dtype(dtype)
    query, key = (NarrowResNet18(recipe["width"], recipe["stem"], recipe["head"]) for _ in range(2))
    for net in (query, key):
        set_initial_weights(net, recipe["draw"])
        for module in net.modules():
            if isinstance(module, SplitBatchNorm):
                module.splits = recipe["bn_splits"]
    for value in key.parameters():
        value.requires_grad = False
    # Signs divided by the root of their number: rows of length one without a rounding error.
    queue = torch.sign(uniform(f"{recipe['draw']}.queue", (recipe["queue"], DIM), 1.0)).to(dtype) / math.sqrt(DIM)
    pointer = 0
    optimiser = torch.optim.SGD(query.parameters(), lr=0.0, momentum=recipe["momentum"], weight_decay=recipe["weight_decay"])

    fixture = {"permutations": torch.stack([permutation(step, recipe["batch"]) for step in range(STEPS)])}
    rates = [recipe["learning_rate"] * (1.0 - 0.1 * step) for step in range(STEPS)]
    fixture["learning_rates"] = torch.tensor(rates, dtype=torch.float64)
    for step in range(STEPS):
        x = [view.to(dtype) for view in views(step, recipe)]
        order = fixture["permutations"][step]
        before = [{name: value.detach().clone() for name, value in parameters(net).items()} for net in (query, key)]
        queue_before = queue.clone()

        # The average of the parameters, and of nothing else, in the form that leaves equal weights equal.
        with torch.no_grad():
            for k_value, q_value in zip(key.parameters(), query.parameters()):
                k_value.add_(q_value - k_value, alpha=1.0 - recipe["key_momentum"])
        halves = [(0, 1), (1, 0)] if recipe["symmetric"] else [(0, 1)]
        results = [contrast(query, key, queue, x[a], x[b], order, recipe["temperature"]) for a, b in halves]
        loss = sum(F.cross_entropy(logits, torch.zeros(recipe["batch"], dtype=torch.int64)) for logits, _ in results)
        optimiser.zero_grad()
        loss.backward()
        optimiser.param_groups[0]["lr"] = rates[step]
        optimiser.step()
        for k in torch.cat([keys for _, keys in results]):
            queue[pointer] = k
            pointer = (pointer + 1) % recipe["queue"]

        change = lambda after, before: {name: after[name].detach().double() - before[name].double() for name in before}
        compared = {
            "loss": {"": loss},
            "logits": {str(half): logits for half, (logits, _) in enumerate(results)},
            "gradient": {name: value.grad for name, value in parameters(query).items()},
            "momentum": {name: optimiser.state[value]["momentum_buffer"] for name, value in parameters(query).items()},
            "query statistics": buffers(query),
            "key statistics": buffers(key),
            "query change": change(parameters(query), before[0]),
            "key change": change(parameters(key), before[1]),
            "queue change": change({"": queue}, {"": queue_before}),
        }
        fixture |= {f"{step}.{quantity}": sketches(quantity, step, tensors) for quantity, tensors in compared.items()}
        fixture[f"{step}.pointer"] = torch.tensor([pointer])
    return fixture


def write_safetensors(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, tensor in tensors.items():
        kind = {torch.float64: "F64", torch.int64: "I64"}[tensor.dtype]
        values = struct.pack(f"<{tensor.numel()}{'d' if kind == 'F64' else 'q'}", *tensor.flatten().tolist())
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    """In f32 the key momentum is 0.9: with the papers', the key encoder moves by so few units in the last place of a weight
    that rounding is a part of what it does. `draw` numbers the random draws. It was chosen by f32: with others, rounding pushes an activation over the edge of a
    ReLU within the five steps, and gradients then differ in their third digit."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    torch.set_num_threads(1)
    for name, recipe in RECIPES.items():
        for dtype in (torch.float64, torch.float32):
            path = folder / f"{name}.{str(dtype).removeprefix('torch.')}.safetensors"
            stated = recipe if dtype == torch.float64 else recipe | dict(key_momentum=0.9)
            write_safetensors(path, run(stated, dtype), {"recipe": json.dumps(stated)})
            print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
