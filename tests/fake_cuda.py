"""A CUDA device without one: torch's fake tensors know shape, dtype and device of every result, and hold no data.

Mixtures of devices or dtypes are errors, as on a GPU. Where the code reads data (a number, an array, the places where a
mask is true) the path is split: the reader gets stand-in data and the split is recorded, as is every wait for the
device. What fake tensors can't tell: values, overflow, and which kernels a device has."""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from rim.method import crops, matcher
from rim.models import loading, roles
from rim.trident import refinement

PACKAGE = Path(loading.__file__).resolve().parents[1]
FOUND = 8  # how many places a mask is said to have
ONE_DTYPE = "mm", "bmm", "addmm", "baddbmm", "convolution", "native_layer_norm", "native_group_norm"
READS = fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException


def reader():
    "Module and function of the package that is at work."
    frame = sys._getframe(1)
    while frame:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents and not frame.f_code.co_name.startswith("<"):
            return f"{path.stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"


class FakeCuda(FakeTensorMode):
    "Fake tensors that go on where data are read; `splits` and `waits` count where."

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.clear()

    def clear(self):
        "Forget what was counted, and begin the stand-in data anew."
        self.splits, self.waits, self.rng = Counter(), Counter(), np.random.default_rng(0)

    def split(self, what, tensor):
        self.splits[reader(), what] += 1
        if tensor.is_cuda:
            self.waits[reader()] += 1

    def dispatch(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        if name in ONE_DTYPE:
            kinds = {str(a.dtype) for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()}
            if len(kinds) > 1:
                raise RuntimeError(f"{name} mixes {' and '.join(sorted(kinds))}")
        if name == "_to_copy" and args[0].is_cuda and (kwargs or {}).get("device", args[0].device).type == "cpu":
            self.waits[reader()] += 1
        if name == "nms":
            return self.stand_in(name, args, kwargs or {}, None)
        try:
            return super().dispatch(func, types, args, kwargs)
        except (*READS, NotImplementedError) as error:
            return self.stand_in(name, args, kwargs or {}, error)

    def stand_in(self, name, args, kwargs, error):
        "What an operation gives whose result depends on data."
        tensor = args[0]
        if name in ("_local_scalar_dense", "item"):
            self.split("a number", tensor)
            return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1
        if name == "nonzero":
            self.split("places", tensor)
            return self.integers(min(FOUND, tensor.numel()), tensor.ndim, like=tensor)
        if name == "nms":
            self.split("places", tensor)
            return self.integers(min(FOUND, len(tensor)), like=tensor)
        if name == "bincount":
            self.split("a count", tensor)
            return self.integers(kwargs.get("minlength") or args[2], like=tensor)
        raise error

    def integers(self, *shape, like):
        return FakeTensor(self, torch.empty(shape, dtype=torch.int64, device="meta"), like.device)

    def array(self, tensor):
        "Stand-in data of a tensor that is read as an array."
        if tensor.device.type != "cpu":
            raise TypeError(f"an array can't be made of a tensor on {tensor.device}")
        if tensor.dtype == torch.bfloat16:
            raise TypeError("an array can't be made of bfloat16")
        self.split("an array", tensor)
        kind = np.dtype(str(tensor.dtype).removeprefix("torch."))
        drawn = self.rng.random(tuple(tensor.shape), np.float32)
        if kind == bool:
            return drawn > 0.5 * (tensor.ndim > 1)  # a mask has holes, a list of verdicts says yes
        return (drawn * 255 if kind == np.uint8 else drawn).astype(kind)


def _apply(self, fn, recurse=True):
    "`torch.nn.Module._apply` by replacement, as fake parameters can't be swapped."
    for module in self.modules() if recurse else [self]:
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = torch.nn.Parameter(fn(value), requires_grad=False)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = fn(value)
    return self


def _deepcopy(self, memo):
    "A copy of a fake tensor; torch's own would touch the memory that it doesn't have."
    with torch.no_grad():
        copied = self.detach().clone()
    is_parameter = isinstance(self, torch.nn.Parameter)
    memo[id(self)] = torch.nn.Parameter(copied, requires_grad=False) if is_parameter else copied
    return memo[id(self)]


def _really(call):
    "A function that works with data, fake tensors or not."

    def called(*args, **kwargs):
        with unset_fake_temporarily():
            return call(*args, **kwargs)

    return called


@contextmanager
def fake_cuda(mode):
    'Inside, `device="cuda"` works, and random models of any size take no memory.'
    built = loading.random_model

    def shape(value):
        return FakeTensor(mode, value if value.is_meta else value.to("meta"), torch.device("cpu"))

    @_really
    def random_model(name, seed=0):
        with torch.device("meta"):
            found = built(name, seed)
        parts = found[:1] if isinstance(found, tuple) else [found]
        if scheduler := getattr(found, "scheduler", None):  # its table of noise is data
            found.scheduler, parts = (
                scheduler.from_config(scheduler.config),
                (found.unet, found.vae, found.text_encoder),
            )
        for part in parts:
            _apply(part, shape)
        return found

    with (
        mock.patch.object(loading, "random_model", random_model),
        mock.patch.object(roles, "_devices", lambda: ["cpu", "cuda:0"]),
        mock.patch.object(torch, "compile", lambda function, **_: function),  # compilers ask the driver
        mock.patch.object(crops, "tokenise", _really(crops.tokenise)),
        mock.patch.object(matcher, "prototypes", _really(matcher.prototypes)),
        mock.patch.object(refinement, "tokenise", _really(refinement.tokenise)),
        mock.patch.object(torch.nn.Module, "_apply", _apply),
        mock.patch.object(FakeTensor, "__deepcopy__", _deepcopy, create=True),
        mock.patch.object(FakeTensor, "data_ptr", lambda tensor: id(tensor), create=True),
        mock.patch.object(FakeTensor, "numpy", lambda tensor, **_: mode.array(tensor), create=True),
        mode,
    ):
        yield mode
