"""Every op on a real GPU, as a program of its own: each sample in each dtype, and its gradient.

Whatever has samples is covered. The programs of all chosen tests are built at once, for that takes
most of the time. ``ON_HOST`` is the whole list of what may run elsewhere.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import vtc
from vtc import config
from vtc.build import compile_program, context_for
from vtc.config import cores
from vtc.frontend import dispatch
from vtc.ir.evaluate import evaluate
from vtc.ir.types import TensorType, bf16, c64, c128, dtype_of, f8e4m3, f16, f32, f64
from vtc.passes.cut_at_calls import calls_of
from vtc.runtime.cuda.copies import to_device, to_host
from vtc.runtime.cuda.device import gpu
from vtc.runtime.device import Device

sys.path.append(str(Path(__file__).parents[1] / "ops"))
CASES = import_module("cases").CASES
TOLERANCE = import_module("tolerance")
sweep = import_module("sweep").sweep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::vtc.errors.VtcWarning"),  # of those in ON_HOST
]
GPU = Device("cuda", 0)
RUNS = [(dtype, case) for dtype in (f32, f16, bf16, f64) for case in CASES]
ON_HOST = {
    "complex": "Triton has no complex numbers",
    "fp8e4nv": "Triton converts to float8_e4m3fn from sm_89 on",
    "library": "a library computes it, on the host",
}

ATTENTION = ("attention_gradient", "scaled_dot_product_attention")
"""In half precision its weights are rounded before they are multiplied, and sums of them cancel:
the largest element says how near is near."""


def reason(program):
    """Why ``program`` may run on the host; "" if it may not."""
    types = [n.tensor.dtype for n in (*program.entry.params, *program.entry.outputs)]
    if any(t in (c64, c128) for t in types):
        return ON_HOST["complex"]
    if f8e4m3 in types and context_for(GPU).target.arch < 89:
        return ON_HOST["fp8e4nv"]
    if calls_of(program):
        return ON_HOST["library"]
    return ""


def differentiable(case):
    floats = any(a.dtype.kind == "f" for a in case.arrays(f32))
    result = case.program(f32).entry.outputs[0].tensor.dtype
    return floats and result.kind == "float" and case.op.name != "stop_gradient"


GRADIENTS = [case for case in CASES if differentiable(case)]


class Gradient:
    """The gradient of ``sum(y * c)`` over the results ``y`` of one op, as ``sweep`` has it."""

    def __init__(self, case):
        self.case = case
        self.sweep = sweep(case.op, case.arrays(f32))
        self.weights = [c.astype(np.float32) for c in self.sweep.c]
        self.function = vtc.compile(self.gradient, dynamic=False, name=f"gradient_{case.op.name}")

    def gradient(self, xs, cs):
        several = len(self.case.program(f32).entry.outputs) > 1
        given = [vtc.as_tensor(x) for x in xs]
        varying = [given[i].detach().requires_grad_() for i in self.sweep.varying]
        for i, x in zip(self.sweep.varying, varying, strict=True):
            given[i] = x
        ys = (dispatch.apply_tuple if several else dispatch.apply)(self.case.op, *given)
        floats = [y for y in ys if y.is_floating_point()] if several else [ys]
        sums = [(y * c).sum() for y, c in zip(floats, cs, strict=True)]
        sum(sums[1:], sums[0]).backward()
        return [vtc.zeros_like(x) if x.grad is None else x.grad for x in varying]

    def arguments(self, device):
        arrays = self.case.arrays(f32)
        return tuple(
            [vtc.tensor(a, device=device) for a in part] for part in (arrays, self.weights)
        )

    def want(self):
        made = self.sweep
        found = evaluate(
            made.program, *self.case.arrays(f32), *self.weights, *made.d, precision="f64"
        )
        first = 2 + len(made.c)
        return found[first : first + len(made.varying)]


def compiled(dtype, case):
    """The program of a run."""
    return compile_program(case.program(dtype), context_for(GPU), GPU, graphs=False)


def lowered(case):
    """A gradient, and its entry."""
    made = Gradient(case)
    return made, made.function.lower(*made.arguments(GPU)).entry


MAKERS = {
    **{(dtype, case.id): partial(compiled, dtype, case) for dtype, case in RUNS},
    **{case.id: partial(lowered, case) for case in GRADIENTS},
}


class Built(dict):
    """What was built, by key: of a run its dtype and the id of its case, of a gradient the id; or
    why it was not. What nobody asked for ahead is built when it is asked for.
    """

    def __missing__(self, key):
        try:
            with config.override(check=1):
                self[key] = MAKERS[key]()
        except Exception as error:
            self[key] = error
        return self[key]

    def ahead(self, keys):
        """Build all of ``keys`` side by side."""
        start = time.perf_counter()
        with ThreadPoolExecutor(cores()) as threads:
            list(threads.map(self.__missing__, keys))
        plans = [b.plan for b in self.values() if getattr(b, "plan", None)]
        kernels = {k.symbol for plan in plans for k in plan.kernels}
        gpu(0).synchronize()
        seconds = time.perf_counter() - start
        what = f"{len(self)} programs, {len(plans)} of one op with {len(kernels)} kernels"
        print(f"\n{what}: {seconds:.0f} s on {cores()} cores")


@pytest.fixture(scope="module")
def built(request):
    """All that the chosen tests need. One of several processes (``-n 8``) builds each by itself,
    which is as quick.
    """
    made = Built()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        given = [i.callspec.params for i in request.session.items if i.path == request.path]
        made.ahead([(p["dtype"], p["case"].id) if "dtype" in p else p["case"].id for p in given])
    return made


def taken(built, key):
    """What was built for ``key``."""
    found = built[key]
    if isinstance(found, Exception):
        raise found
    return found


def assert_close(op, got, want):
    """Equal where exact; else as near as the dtype of ``got`` allows."""
    dtype = dtype_of(got.dtype)
    if dtype.kind != "float":
        np.testing.assert_array_equal(got, want)
        return
    with np.errstate(over="ignore"):
        want = want.astype(dtype.numpy).astype(np.float64)
    t = TOLERANCE.tolerance(op, dtype)
    cancels = dtype in (f16, bf16) and op.name in ATTENTION
    atol = t.rtol * np.abs(want).max(initial=0) if cancels else t.atol
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=t.rtol, atol=atol)


def check_run(case, dtype, run):
    """``run(arrays)`` gives what float64 does."""
    program, arrays = case.program(dtype), case.arrays(dtype)
    wanted = evaluate(program, *arrays, precision="f64")
    found = run([np.array(a) for a in arrays])
    for node, got, want in zip(program.entry.outputs, found, wanted, strict=True):
        assert TensorType.of(got) == node.type
        assert_close(case.op, got, want)


def check_gradient(gradient, found):
    """As near as the dtypes that it goes through allow, of the largest element: sums cancel."""
    through = [f32, *(o.tensor.dtype for o in gradient.case.program(f32).entry.outputs)]
    known = [d for d in through if d in TOLERANCE.BY_DTYPE]
    coarsest = max(known, key=lambda d: TOLERANCE.BY_DTYPE[d].rtol)
    t = TOLERANCE.tolerance(gradient.case.op, coarsest).times(8)
    for got, want in zip(found, gradient.want(), strict=True):
        assert got.dtype == np.float32
        largest = np.abs(want[np.isfinite(want)]).max(initial=1)
        finite = np.isfinite(want)
        np.testing.assert_array_equal(got[~finite], want[~finite])
        np.testing.assert_allclose(got[finite], want[finite], rtol=t.rtol, atol=t.atol * largest)


@pytest.mark.parametrize(("dtype", "case"), [pytest.param(d, c, id=f"{d}-{c.id}") for d, c in RUNS])
def test_it_agrees_with_float64(built, dtype, case):
    made = taken(built, (dtype, case.id))
    if made.fallback:
        assert reason(made.program), made.fallback

    def run(arrays):
        return [to_host(a) for a in made.run([to_device(a, 0) for a in arrays])]

    check_run(case, dtype, run)


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in GRADIENTS])
def test_gradients_agree_with_float64(built, case):
    gradient, entry = taken(built, case.id)
    if entry.forward.fallback:
        assert reason(entry.forward.program), entry.forward.fallback
    found = gradient.function(*gradient.arguments(GPU))
    assert gradient.function.entries == (entry,)
    check_gradient(gradient, [x.cpu().numpy() for x in found])
