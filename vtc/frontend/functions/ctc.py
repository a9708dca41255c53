"""The loss of connectionist temporal classification: labels without their times.

ctc_loss(log_probs, targets, input_lengths, target_lengths)     # [T, N, C], int64 [N, S]

After Graves et al. 2006. The labels with blanks between them are a chain of states; ``vtc.scan``
goes over the times with the logarithms of the probabilities to be in each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch, flow
from vtc.frontend.functions.arguments import expect_tensor
from vtc.frontend.functions.comparison import where
from vtc.frontend.functions.index import gather
from vtc.frontend.functions.loss import check_reduction
from vtc.frontend.functions.rearrange import cat, pad, stack
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import i64

NEVER = -1e30
"""The logarithm of no probability; it stays finite in sums, so gradients do too."""

Lengths = Tensor | Sequence[int]


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Minus the logarithm of the probability of ``targets``, by any alignment.

    ``log_probs [T, N, C]`` holds logarithms of probabilities, ``targets [N, S]`` classes, or one
    after the other ``[sum(target_lengths)]``; lengths have ``N`` integers. Without ``N``:
    ``[T, C]`` and ``[S]``. "mean" divides each loss by its target's length first. A target that no
    alignment fits has an infinite loss and no gradient; ``zero_infinity`` makes it 0. The gradient
    is that of the formula; PyTorch's has ``exp(log_probs)`` besides, which log_softmax takes away.
    """
    expect_tensor("ctc_loss", "log_probs", log_probs)
    expect_tensor("ctc_loss", "targets", targets)
    check_reduction("ctc_loss", reduction)
    single = log_probs.ndim == 2
    lp = log_probs.unsqueeze(1) if single else log_probs
    if lp.ndim != 3 or not 0 <= blank < int(lp.shape[2]):
        message = f"expected [T, N, C] or [T, C] with blank={blank} below C, got {log_probs.type}"
        raise located(TypeCheckError, f"ctc_loss: {message}")
    n = int(lp.shape[1])
    times = _lengths("input_lengths", input_lengths, n, int(lp.shape[0]), lp)
    counts = _lengths("target_lengths", target_lengths, n, None, lp)
    labels = _labels(targets, counts, target_lengths, n)
    wide = lp.to(lp.dtype.accumulate)
    loss = _chain(wide, labels, times, counts, blank).to(lp.dtype)
    if zero_infinity:
        loss = where(loss == float("inf"), 0.0, loss)
    if reduction == "mean":
        return (loss / counts.clamp(min=1).to(loss.dtype)).mean()
    loss = loss.squeeze(0) if single else loss
    return loss.sum() if reduction == "sum" else loss


def _chain(lp: Tensor, labels: Tensor, times: Tensor, counts: Tensor, blank: int) -> Tensor:
    """The loss of each target, ``[N]``; ``labels`` is ``[N, S]``, both lengths are ``[N]``."""
    n, s = int(labels.shape[0]), int(labels.shape[1])
    places = dispatch.from_array(np.arange(s), device=lp.device)
    labels = where(places < counts.unsqueeze(1), labels, blank)
    none = labels[:, :0]
    blanks = (none.sum(1, keepdim=True) + blank).to(i64)
    between = stack([blanks.expand(n, s), labels], 2).reshape(n, 2 * s)
    states = cat([between, blanks], 1)  # blank, first label, blank, second label ... [N, 2S + 1]
    known = gather(lp, 2, states.unsqueeze(0).expand(int(lp.shape[0]), n, 2 * s + 1))
    known = known.clamp(min=NEVER)
    back = pad(states, (2, 0), value=blank)[:, : 2 * s + 1]
    skips = (states != back) & (states != blank)
    line = dispatch.from_array(np.arange(2 * s + 1), device=lp.device)
    starts = (line == 0) | ((line == 1) & (counts > 0).unsqueeze(1))
    reached: Tensor = where(starts, known[0], NEVER)

    def step(before: Tensor, given: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        now, live = given
        one, two = (pad(before, (k, 0), value=NEVER)[:, : 2 * s + 1] for k in (1, 2))
        ways = stack([before, one, where(skips, two, NEVER)])
        return where(live, now + ways.logsumexp(0), before), None

    if lp.type.shape[0] != 1:
        clock = dispatch.from_array(np.arange(1, int(lp.shape[0])), device=lp.device)
        live = (clock.unsqueeze(1) < times).unsqueeze(2)
        reached, _ = flow.scan(step, reached, (known[1:], live))
    ends = (2 * counts).unsqueeze(1)
    last = gather(reached, 1, ends).squeeze(1)
    label = gather(reached, 1, (ends - 1).clamp(min=0)).squeeze(1)
    total = where(counts > 0, last.logaddexp(label), last)
    return _finished(-total, times, counts)


def _finished(loss: Tensor, times: Tensor, counts: Tensor) -> Tensor:
    """``loss``, infinite where no alignment fits; no labels in no time are certain."""
    loss = where(loss > -NEVER / 2, float("inf"), loss)
    nothing = where(counts == 0, 0.0, float("inf"))
    found: Tensor = where(times == 0, nothing.to(loss.dtype), loss)
    return found


def _lengths(what: str, value: Lengths, n: int, most: int | None, like: Tensor) -> Tensor:
    """``value`` as int64 ``[N]`` on the device of ``like``; checked where the numbers are known."""
    numbers = _known(value)
    if isinstance(value, Tensor):
        lengths = value.reshape(-1).to(like.device, i64)
    else:
        lengths = dispatch.from_array(np.array(numbers, np.int64), device=like.device)
    if lengths.type.shape != (n,):
        raise located(TypeCheckError, f"ctc_loss: expected {n} {what}, got {lengths.type}")
    if numbers and (min(numbers) < 0 or (most is not None and max(numbers) > most)):
        limit = "at least 0" if most is None else f"in [0, {most}]"
        raise located(ArgumentError, f"ctc_loss: expected {what} {limit}, got {numbers}")
    return lengths


def _labels(targets: Tensor, counts: Tensor, lengths: Lengths, n: int) -> Tensor:
    """``targets`` as int64 ``[N, S]``; what is beyond a length may be anything in range."""
    if targets.dtype.kind != "int" or targets.ndim not in (1, 2):
        message = f"expected integer targets [N, S] or [sum(target_lengths)], got {targets.type}"
        raise located(TypeCheckError, f"ctc_loss: {message}")
    numbers, longest = _known(lengths), int(targets.shape[-1])
    need = (max(numbers) if targets.ndim == 2 else sum(numbers)) if numbers else 0
    if need > longest or (targets.ndim == 2 and int(targets.shape[0]) != n):
        message = f"expected targets for {n} lengths of {numbers}, got {targets.type}"
        raise located(ArgumentError, f"ctc_loss: {message}")
    targets = targets.to(counts.device, i64)
    if targets.ndim == 2:
        return targets
    width = max(numbers) if numbers else longest
    places = dispatch.from_array(np.arange(width), device=counts.device)
    if longest == 0:
        return places.expand(n, 0)
    at = (counts.cumsum(0) - counts).unsqueeze(1) + places
    return targets.index_select(0, at.clamp(max=longest - 1).reshape(-1)).reshape(n, width)


def _known(value: Lengths) -> list[int] | None:
    """The numbers, unless they are values of a trace."""
    if not isinstance(value, Tensor):
        return [int(v) for v in value]
    return None if dispatch.is_capturing() else [int(v) for v in value.reshape(-1).tolist()]
