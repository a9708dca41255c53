"""Specs to source: the only place that knows Jinja. Templates print; what to print is decided
before.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from vtc import lazy

if TYPE_CHECKING:
    import jinja2
else:
    jinja2 = lazy.module("jinja2")


def render(template: str, language: str = "c", **fields: Any) -> str:
    """The text of ``templates/<template>.<language>.jinja``, without blank lines."""
    text = _environment().get_template(f"{template}.{language}.jinja").render(fields)
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip()) + "\n"


def symbol(template: str, spec: Any) -> str:
    """The name of the function of a kernel: equal specs have equal names, in every process."""
    digest = hashlib.sha256(repr(asdict(spec, dict_factory=_fields)).encode()).hexdigest()
    return f"vtc_{template}_{digest[:16]}"


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Without the cached hash of a size: strings hash differently in another process."""
    return {name: value for name, value in pairs if name != "_hash"}


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vtc.codegen"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
