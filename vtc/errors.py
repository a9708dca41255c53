"""Every exception vtc raises on purpose: one root, one class per kind of mistake.

The first line of a message is complete alone (what was expected, what was got, in IR types); then
the user's line; then the graph around it; then a hint, only when it is certain::

    TypeCheckError: matmul: inner dims differ: f32[B, 784] @ f32[512, 256]
      at train.py:14 in Mlp.forward
           h = x @ self.w
"""

from __future__ import annotations

import linecache


class VtcError(Exception):
    """Root of all errors raised on purpose; anything else that escapes vtc is a bug in vtc."""


class ConfigError(VtcError):
    """An environment variable or option has a value vtc does not accept."""


class TypeCheckError(VtcError):
    """An op was applied to operands (shapes, dtypes, attributes) that it does not accept."""


class ArgumentError(VtcError):
    """A public function got an argument of a kind, or a value, that it does not take."""


class DeviceError(VtcError):
    """Operands live on different devices, or a device is not there."""


class IndexRangeError(VtcError, IndexError):
    """An index into a tensor lies outside it."""


class GradientError(VtcError):
    """A gradient was asked for that does not exist, or twice."""


class GradcheckError(GradientError, RuntimeError):
    """``gradcheck`` found a gradient that is not what differences of values say."""


class VersionError(GradientError):
    """A value saved for backward was changed in place before backward."""


class CaptureError(VtcError):
    """User code did, while being traced, what a graph cannot hold."""


class LeakError(CaptureError):
    """A traced value was left in an object that outlives the trace."""


class GuardError(CaptureError):
    """A compiled function was called with what it cannot accept (and may not recompile for)."""


class ParseError(VtcError):
    """Program text is not well formed."""


class VerifyError(VtcError):
    """A program breaks an invariant: a bug in whatever produced it."""


class PassError(VtcError):
    """A pass raised, or returned a broken program; ``program`` is what it was given."""

    def __init__(self, message: str, program: object = None) -> None:
        super().__init__(message)
        self.program = program


class CodegenError(VtcError):
    """A region cannot be turned into a kernel."""


class CompilerError(VtcError):
    """The C compiler, or Triton, failed; the message holds its output."""


class OutOfResourcesError(CompilerError):
    """A kernel needs more of a device, such as shared memory, than it has."""


class CacheError(VtcError):
    """The kernel cache cannot be read or written."""


class PackageError(VtcError):
    """A package file is damaged, is none, or has nothing for this machine."""


class RunError(VtcError):
    """A compiled program failed while running."""


class OutOfMemoryError(RunError, MemoryError):
    """A device has no memory left for what was asked."""


class VtcWarning(UserWarning):
    """Something works, but not as well as it could; said once per process."""


def at_line(message: str, file: str, line: int, where: str = "") -> str:
    """``message`` followed by the user's line, as every error shows it."""
    place = f"  at {file}:{line}" + (f" in {where}" if where else "")
    source = linecache.getline(file, line).strip()
    return "\n".join([message, place, *([f"       {source}"] if source else [])])
