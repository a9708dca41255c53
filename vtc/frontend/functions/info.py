"""What numbers a dtype holds: ``finfo`` for floats, ``iinfo`` for integers.

finfo(vtc.bfloat16).eps          # 0.0078125
iinfo(vtc.int8).max              # 127
"""

from __future__ import annotations

import math
from typing import Any, final

import ml_dtypes
import numpy as np

from vtc.errors import TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.source import located
from vtc.ir.types import DType


@final
class finfo:
    """The limits of a floating-point dtype, by default the default one; complex ones have those of
    their parts. TypeCheckError for other dtypes.
    """

    def __init__(self, type: DType | None = None) -> None:
        dtype = type or dispatch.default_dtype()
        if dtype.kind not in ("float", "complex"):
            raise located(TypeCheckError, f"finfo: expected a floating-point dtype, got {dtype}")
        limits: Any = ml_dtypes.finfo
        info = limits(dtype.numpy)
        self.dtype = np.dtype(info.dtype).name
        self.bits = int(info.bits)
        """How many bits a number takes."""
        self.eps = float(info.eps)
        """The distance from 1 to the next number."""
        self.max = float(info.max)
        self.min = float(info.min)
        self.tiny = self.smallest_normal = float(info.smallest_normal)
        """The smallest positive number of full precision."""
        self.resolution = float(f"1e-{math.floor(-math.log10(self.eps))}")
        """A power of ten of which digits are kept."""

    def __repr__(self) -> str:
        numbers = f"resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}"
        rest = f"eps={self.eps:g}, smallest_normal={self.smallest_normal:g}, tiny={self.tiny:g}"
        return f"finfo({numbers}, {rest}, dtype={self.dtype})"


@final
class iinfo:
    """The limits of an integer dtype. TypeCheckError for other dtypes."""

    def __init__(self, type: DType) -> None:
        if type.kind != "int":
            raise located(TypeCheckError, f"iinfo: expected an integer dtype, got {type}")
        info = np.iinfo(type.numpy)
        self.dtype = type.torch
        self.bits = int(info.bits)
        """How many bits a number takes."""
        self.max = int(info.max)
        self.min = int(info.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
