"""In-place forms: ``x.add_(y)`` computes ``add(x, y)`` and writes it into ``x``.

The result is cast to the dtype of ``x``, never to a lower category (a float result does not go into
integers), and has to have the shape of ``x`` or expand to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from vtc.errors import TypeCheckError
from vtc.frontend import dispatch, layout
from vtc.frontend.functions import activation, comparison, elementwise, index, rearrange, subscript
from vtc.frontend.functions.arguments import Value, expect_tensor, is_tensor
from vtc.frontend.functions.promotion import assign, cast, checked, expand_to, number
from vtc.frontend.source import located

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

P = ParamSpec("P")


def in_place(
    function: Callable[Concatenate[Tensor, P], Tensor],
) -> Callable[Concatenate[Tensor, P], Tensor]:
    """The form of ``function`` that writes its result into its first argument and returns that."""
    name = f"{function.__name__}_"

    @wraps(function)
    def write(input: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        expect_tensor(name, "input", input)
        before = input.clone() if _is_recorded((input, *args)) else input
        return assign(name, input, function(before, *args, **kwargs))

    write.__name__ = write.__qualname__ = name
    write.__doc__ = f"``{function.__name__}``, written into ``input``."
    return write


def _is_recorded(values: Iterable[object]) -> bool:
    """Whether a backward may read what ``input`` was before the write."""
    if dispatch.is_capturing() or not dispatch.grad_enabled():
        return False
    return any(is_tensor(v) and v.requires_grad for v in values)


def copy_(input: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """Overwrite ``input`` with ``src``, cast to its dtype and expanded to its shape."""
    del non_blocking
    expect_tensor("copy_", "src", src)
    there = src if src.device == input.device else src.to(input.device)
    value = expand_to("copy_", cast(there, input.type.dtype), input.type.shape)
    return dispatch.write(input, value)


def fill_(input: Tensor, value: Value) -> Tensor:
    """Overwrite ``input`` with ``value``; with a number it may show an element more than once."""
    if is_tensor(value):
        if value.type.rank:
            raise located(TypeCheckError, f"fill_: expected a 0-d value, got {value.type}")
        return copy_(input, value)
    fill = checked("fill_", value, input.type.dtype)
    each = _once(input)
    dispatch.write(each, number(fill, each.type.dtype, each.type.shape))
    return input


def _once(x: Tensor) -> Tensor:
    """``x``, or the part of it that shows each of its elements once."""
    if x._array is not None and x._array.flags.writeable:
        return x
    steps = layout.steps(x)
    return x if all(steps) else x[tuple([slice(None) if n else slice(0, 1) for n in steps])]


def zero_(input: Tensor) -> Tensor:
    """Overwrite ``input`` with 0."""
    return fill_(input, 0)


def index_put_(input: Tensor, indices: Any, values: Value, accumulate: bool = False) -> Tensor:
    """Set ``input[indices]`` to ``values``, or add them."""
    return dispatch.write(input, subscript.index_put(input, indices, values, accumulate=accumulate))


abs_ = in_place(elementwise.abs)
add_ = in_place(elementwise.add)
addcdiv_ = in_place(elementwise.addcdiv)
addcmul_ = in_place(elementwise.addcmul)
bitwise_and_ = in_place(comparison.bitwise_and)
bitwise_or_ = in_place(comparison.bitwise_or)
bitwise_xor_ = in_place(comparison.bitwise_xor)
ceil_ = in_place(elementwise.ceil)
celu_ = in_place(activation.celu)
clamp_ = in_place(elementwise.clamp)
cos_ = in_place(elementwise.cos)
div_ = in_place(elementwise.div)
elu_ = in_place(activation.elu)
erf_ = in_place(elementwise.erf)
exp_ = in_place(elementwise.exp)
floor_ = in_place(elementwise.floor)
floor_divide_ = in_place(elementwise.floor_divide)
hardtanh_ = in_place(activation.hardtanh)
index_add_ = in_place(index.index_add)
index_copy_ = in_place(index.index_copy)
index_fill_ = in_place(index.index_fill)
leaky_relu_ = in_place(activation.leaky_relu)
lerp_ = in_place(elementwise.lerp)
log_ = in_place(elementwise.log)
logical_and_ = in_place(comparison.logical_and)
logical_not_ = in_place(comparison.logical_not)
logical_or_ = in_place(comparison.logical_or)
masked_fill_ = in_place(comparison.masked_fill)
mul_ = in_place(elementwise.mul)
neg_ = in_place(elementwise.neg)
pow_ = in_place(elementwise.pow)
reciprocal_ = in_place(elementwise.reciprocal)
relu_ = in_place(activation.relu)
remainder_ = in_place(elementwise.remainder)
round_ = in_place(elementwise.round)
rrelu_ = in_place(activation.rrelu)
rsqrt_ = in_place(elementwise.rsqrt)
scatter_ = in_place(index.scatter)
scatter_add_ = in_place(index.scatter_add)
selu_ = in_place(activation.selu)
sigmoid_ = in_place(activation.sigmoid)
sign_ = in_place(elementwise.sign)
sin_ = in_place(elementwise.sin)
sqrt_ = in_place(elementwise.sqrt)
square_ = in_place(elementwise.square)
sub_ = in_place(elementwise.sub)
tanh_ = in_place(elementwise.tanh)
threshold_ = in_place(activation.threshold)
tril_ = in_place(rearrange.tril)
triu_ = in_place(rearrange.triu)
trunc_ = in_place(elementwise.trunc)
