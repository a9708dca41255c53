"""Gradients beside finite differences, with the names and messages of ``torch.autograd``.

    x = vtc.randn(3, dtype=vtc.float64, requires_grad=True)
    vtc.autograd.gradcheck(vtc.sin, x)           # True, or GradcheckError
    vtc.autograd.gradgradcheck(vtc.sin, x)       # the second derivatives

Each element of each input is moved by ``eps`` both ways, and each element of each result is
differentiated: for small tensors, in f64. Jacobians are f64 arrays [inputs, outputs].
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np

from vtc.autograd.gradients import grad
from vtc.errors import ArgumentError, GradcheckError, VtcWarning
from vtc.frontend import dispatch
from vtc.frontend.functions.creation import zeros_like
from vtc.frontend.functions.random import randn_like
from vtc.frontend.functions.rearrange import stack
from vtc.frontend.linear import jvp
from vtc.frontend.source import located, user_level
from vtc.frontend.tensor import Tensor
from vtc.frontend.vmap import vmap
from vtc.ir.types import Array, f64


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Whether the gradients of ``func(*inputs)`` are what differences of its values say.

    ``inputs`` is a tensor or a tuple; those that require grad are looked at. They should be f64.
    ``nondet_tol`` is how far two backwards may be apart; ``check_forward_ad`` looks at
    ``func.jvp``, too, and ``check_batched_*`` at gradients for several seeds at once. Results are
    differentiated one by one, so that the gradients of the others are undefined in any case;
    ``fast_mode`` is no less thorough here, and ``masked`` is for sparse tensors. GradcheckError, or
    False without ``raise_exception``, where they differ; ArgumentError for inputs that nothing can
    be said of.
    """
    del check_undefined_grad, fast_mode, masked
    _check_modes(
        check_backward_ad, check_forward_ad, check_batched_grad, check_batched_forward_grad
    )
    given = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    _check_inputs(given)
    check = _Check(func, tuple(given), eps, atol, rtol, nondet_tol, check_grad_dtypes)
    try:
        check.run(backward=check_backward_ad, forward=check_forward_ad)
        if check_batched_grad:
            check.batched_backward()
        if check_batched_forward_grad:
            check.batched_forward()
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """``gradcheck`` of the gradients of ``func``, as functions of ``inputs`` and ``grad_outputs``.

    ``grad_outputs`` is like the results that require grad: random numbers by default, with strides
    if ``gen_non_contig_grad_outputs``. The rest is as for ``gradcheck``.
    """
    if not (check_fwd_over_rev or check_rev_over_rev):
        message = "expected at least one of check_fwd_over_rev or check_rev_over_rev to be True"
        raise located(ArgumentError, f"gradgradcheck: {message}")
    given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    seeds = _tensors(grad_outputs)
    if grad_outputs is None:
        seeds = [_seed(y, gen_non_contig_grad_outputs) for y in _differentiable(func(*given))]

    def gradients(*args: Any) -> tuple[Tensor, ...]:
        values, cotangents = args[: len(given)], args[len(given) :]
        wrt = [x for x in values if isinstance(x, Tensor) and x.requires_grad]
        outputs = _differentiable(func(*values))
        found = grad(outputs, wrt, cotangents, create_graph=True, allow_unused=True)
        return tuple([g for g in found if g is not None])

    return gradcheck(
        gradients,
        (*given, *seeds),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev,
        fast_mode=fast_mode,
        masked=masked,
    )


@final
@dataclass(frozen=True, slots=True)
class _Check:
    """What is checked, and how closely."""

    func: Callable[..., Any]
    inputs: tuple[Any, ...]
    eps: float
    atol: float
    rtol: float
    nondet_tol: float
    dtypes: bool

    @property
    def wrt(self) -> list[Tensor]:
        """The inputs that require grad."""
        return [x for x in self.inputs if isinstance(x, Tensor) and x.requires_grad]

    def run(self, *, backward: bool, forward: bool) -> None:
        """The Jacobians beside those of differences."""
        numerical = [self._numerical(x) for x in self.wrt]
        outputs = _tensors(self.func(*self.inputs))  # after its inputs were moved
        if not any(y.requires_grad for y in outputs):
            if any(j.any() for of_input in numerical for j in of_input):
                raise _failed("Numerical gradient for function expected to be zero")
            return
        places = [k for k, y in enumerate(outputs) if y.requires_grad]
        wanted = [[of_input[k] for of_input in numerical] for k in places]
        if backward:
            differentiable = [outputs[k] for k in places]
            self._compare([self._analytical(y) for y in differentiable], wanted, "")
            self._check_zeros(differentiable)
        if forward:
            columns = [self._pushed(x) for x in range(len(self.wrt))]
            found = [[of_input[k] for of_input in columns] for k in places]
            self._compare(found, wanted, "computed with forward mode ")

    def batched_backward(self) -> None:
        """Gradients for several seeds at once, beside one by one."""
        for k, y in enumerate(_differentiable(self.func(*self.inputs))):
            seeds = stack([randn_like(y.detach()) for _ in range(2)])
            options: Any = {"retain_graph": True, "allow_unused": True}
            together = grad([y], self.wrt, [seeds], is_grads_batched=True, **options)
            alone = [grad([y], self.wrt, [seed], **options) for seed in seeds]
            for j, (found, *each) in enumerate(zip(together, *alone, strict=True)):
                want = [_values(g) for g in each if g is not None]
                if want and found is not None:
                    self._check_batch(_values(found), np.stack(want), f"output {k}", j)

    def batched_forward(self) -> None:
        """Tangents, several at once, beside one by one."""
        primals = tuple(self.wrt)
        for j, x in enumerate(primals):
            tangents = stack([randn_like(x.detach()) for _ in range(2)])
            together = vmap(partial(self._along, j))(tangents)
            for k, found in enumerate(_tensors(together)):
                want = [_values(_tensors(self._along(j, t))[k]) for t in tangents]
                self._check_batch(_values(found), np.stack(want), f"output {k}", j)

    def _check_batch(self, found: Array, want: Array, output: str, j: int) -> None:
        if not np.allclose(found, want, self.rtol, self.atol, equal_nan=True):
            message = f"For {output} and input {j}:\n\nGot:\n{found}\n\nExpected:\n{want}"
            raise _failed(
                f"gradcheck failed while testing batched gradient computation.\n{message}"
            )

    # Jacobians

    def _numerical(self, x: Tensor) -> list[Array]:
        """By differences, one for each result; ``x`` is moved in place."""
        data = x.detach()
        rows: list[list[Array]] = []
        for at in np.ndindex(*x.shape):
            old = data[at].item()
            above, below = (self._moved(data, at, old, by) for by in (self.eps, -self.eps))
            pairs = zip(above, below, strict=True)
            rows.append([(a - b).reshape(-1) / (2 * self.eps) for a, b in pairs])
        return self._columns(rows)

    def _moved(self, data: Tensor, at: tuple[int, ...], old: float, by: float) -> list[Array]:
        """The results with one element of an input moved."""
        data[at] = old + by
        try:
            return [_values(y) for y in _tensors(self.func(*self.inputs))]
        finally:
            data[at] = old

    def _columns(self, rows: Sequence[Sequence[Array]]) -> list[Array]:
        """One Jacobian for each result, of rows for each element of an input."""
        sizes = [y.numel() for y in _tensors(self.func(*self.inputs))]
        return [
            np.array([row[k] for row in rows]).reshape(len(rows), n) for k, n in enumerate(sizes)
        ]

    def _analytical(self, y: Tensor) -> list[Array]:
        """By backward, one for each input. GradcheckError where a second time gives another."""
        first, again = self._pulled(y), self._pulled(y)
        for a, b in zip(first, again, strict=True):
            if not np.allclose(a, b, 0.0, self.nondet_tol, equal_nan=True):
                raise _failed(
                    "Backward is not reentrant, i.e., running backward with same input and "
                    "grad_output multiple times gives different values, although analytical "
                    "gradient matches numerical gradient.The tolerance for nondeterminism was "
                    f"{self.nondet_tol}."
                )
        return first

    def _pulled(self, y: Tensor) -> list[Array]:
        columns: list[list[Array]] = [[] for _ in self.wrt]
        for at in np.ndindex(*y.shape):
            seed = zeros_like(y.detach())
            seed[at] = 1.0
            found = grad([y], self.wrt, [seed], retain_graph=True, allow_unused=True)
            for x, g, column in zip(self.wrt, found, columns, strict=True):
                if g is not None and g.dtype is not x.dtype and self.dtypes:
                    raise _failed("Gradient has dtype mismatch")
                flat = np.zeros(x.numel()) if g is None else _values(g).reshape(-1)
                column.append(flat)
        empty = [np.zeros((x.numel(), 0)) for x in self.wrt]
        return [np.stack(c, axis=1) if c else e for c, e in zip(columns, empty, strict=True)]

    def _pushed(self, j: int) -> list[Array]:
        """By ``jvp`` along each element of an input, one for each result."""
        x = self.wrt[j].detach()
        rows = []
        for at in np.ndindex(*x.shape):
            tangent = zeros_like(x)
            tangent[at] = 1.0
            rows.append([_values(t).reshape(-1) for t in _tensors(self._along(j, tangent))])
        return self._columns(rows)

    def _along(self, j: int, tangent: Tensor) -> Any:
        """How the results change along ``tangent`` of one input."""
        place = [k for k, x in enumerate(self.inputs) if isinstance(x, Tensor) and x.requires_grad]

        def of_one(x: Tensor) -> Any:
            before, after = self.inputs[: place[j]], self.inputs[place[j] + 1 :]
            return self.func(*before, x, *after)

        return jvp(of_one, (self.inputs[place[j]],), (tangent,))[1]

    # verdicts

    def _compare(
        self, found: Sequence[Sequence[Array]], want: Sequence[Sequence[Array]], mode: str
    ) -> None:
        for i, (of_output, numbers) in enumerate(zip(found, want, strict=True)):
            for j, (a, n) in enumerate(zip(of_output, numbers, strict=True)):
                if not np.allclose(a, n, self.rtol, self.atol):
                    raise _failed(
                        f"Jacobian {mode}mismatch for output {i} with respect to input {j},\n"
                        f"numerical:{_shown(n)}\nanalytical:{_shown(a)}\n"
                    )

    def _check_zeros(self, outputs: Sequence[Tensor]) -> None:
        """A gradient is a multiple of what it is given."""
        seeds = [zeros_like(y.detach()) for y in outputs]
        found = grad(outputs, self.wrt, seeds, retain_graph=True, allow_unused=True)
        if any(g is not None and _values(g).any() for g in found):
            raise _failed("backward not multiplied by grad_output")


def _failed(message: str) -> GradcheckError:
    return located(GradcheckError, message)


def _tensors(value: Any) -> list[Tensor]:
    given = value if isinstance(value, (tuple, list)) else (value,)
    return [y for y in given if isinstance(y, Tensor)]


def _differentiable(value: Any) -> list[Tensor]:
    return [y for y in _tensors(value) if y.requires_grad]


def _values(x: Tensor) -> Array:
    found: Array = x.detach().cpu().numpy().astype(np.float64)
    return found


def _shown(jacobian: Array) -> str:
    return str(dispatch.from_array(jacobian))


def _seed(y: Tensor, strided: bool) -> Tensor:
    """A random gradient for ``y``; ``strided``: one whose elements do not lie side by side."""
    drawn = randn_like(y.detach())
    if strided:
        drawn = stack([drawn, drawn], -1).detach()[..., 0]
    return drawn.detach().requires_grad_()


def _check_modes(
    backward: bool, forward: bool, batched_backward: bool, batched_forward: bool
) -> None:
    if not (backward or forward):
        message = "at least one of check_forward_ad or check_backward_ad to be True"
    elif batched_backward and not backward:
        message = "check_backward_ad to be True with check_batched_grad"
    elif batched_forward and not forward:
        message = "check_forward_ad to be True with check_batched_forward_grad"
    else:
        return
    raise located(ArgumentError, f"gradcheck: expected {message}")


def _check_inputs(inputs: Sequence[Any]) -> None:
    """ArgumentError for inputs without gradients, or that show an element twice."""
    checked = [(k, x) for k, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    for k, x in checked:
        if x.dtype is not f64:
            warnings.warn(
                f"Input #{k} requires gradient and is not a double precision floating point or "
                "complex. This check will likely fail if all the inputs are not of double "
                "precision floating point or complex. ",
                VtcWarning,
                stacklevel=user_level(),
            )
        if any(step == 0 and n > 1 for n, step in zip(x.shape, x.stride(), strict=True)):
            message = (
                f"The {k}th input has a dimension with stride 0. gradcheck only supports inputs "
                "that are non-overlapping to be able to compute the numerical gradients "
                "correctly. You should call .contiguous on the input before passing it to "
                "gradcheck."
            )
            raise located(ArgumentError, message)
    if not checked:
        message = (
            "gradcheck expects at least one input tensor to require gradient, but none of them "
            "have requires_grad=True."
        )
        raise located(ArgumentError, message)
