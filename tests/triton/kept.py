"""What Triton 3.6.0's interpreter makes anew at every operation, kept: types, shapes, dtypes.

    for owner, name, made in kept():
        setattr(owner, name, made)      # as ``corrections.corrected`` does

A kernel has few types and shapes, and an operation of the interpreter makes several of each; that,
not NumPy, is most of its time. Nothing here changes what a kernel computes.

* The interpreter looks at every sum of i32 for overflow and, unless it debugs, forgets the answer:
  it is not asked to.
* Tensors of one type share their shape, which nobody writes to; a type of tuples has its name once
  it is asked for.
"""

import math
from dataclasses import replace
from functools import cache

import triton.language as tl
from triton.runtime import interpreter

_numpy_type = interpreter._get_np_dtype
_make_block = tl.block_type.__init__
_BLOCKS = {}
_NUMPY = {}


def numpy_type(kind):
    """The dtype of NumPy that holds elements of ``kind``; KeyError where there is none."""
    name = kind.scalar.name
    if name not in _NUMPY:
        _NUMPY[name] = _numpy_type(kind)
    return _NUMPY[name]


def make_block(self, element_ty, shape):
    """``block_type.__init__``; its errors where ``shape`` is none of a block."""
    sizes = tuple(n.value if isinstance(n, tl.constexpr) else n for n in shape)
    key = (element_ty.name, sizes)
    if key not in _BLOCKS:
        _make_block(self, element_ty, shape)
        _BLOCKS[key] = (self.shape, self.numel, self.name)
    self.element_ty = element_ty
    self.shape, self.numel, self.name = _BLOCKS[key]


def make_tensor(self, handle, type):
    """``tensor.__init__``: its type is ``type``, its data are in ``handle``."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.numel, self.shape = _shape(type.shape if type.is_block() else ())


@cache
def _shape(sizes):
    """What a tensor says of its size."""
    return tl.constexpr(math.prod(sizes)), tl.tuple([tl.constexpr(n) for n in sizes])


def make_tuple_type(self, types, fields=None):
    """``tuple_type.__init__``, without the name."""
    self.types, self.fields = types, fields or [""] * len(types)


def _name(self):
    return "[" + ",".join(f"{k}:{v}" for k, v in zip(self.fields, self.types, strict=True)) + "]"


def kept():
    """Who has what instead: owner, name, value."""
    builder = interpreter.interpreter_builder
    yield builder, "options", replace(builder.options, sanitize_overflow=False)
    yield interpreter, "_get_np_dtype", numpy_type
    yield tl.block_type, "__init__", make_block
    yield tl.tensor, "__init__", make_tensor
    yield tl.core.tuple_type, "__init__", make_tuple_type
    yield tl.core.tuple_type, "name", property(_name)
