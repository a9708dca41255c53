"""Random programs with a loop: sums over steps, products, views, values that nobody reads.

    text = loop_program(seed)       # a body and an entry that runs it, as text

Sums (``c = c + ...``) are made on purpose, some of them read otherwise too; lengths may be 0.
"""

from random import Random

Shape = tuple[int, ...]
Value = tuple[str, Shape]

SHAPES: tuple[Shape, ...] = ((2, 3), (3, 3), (3,), (3, 2), (2, 2))


def loop_program(seed: int) -> str:
    """The text of a program whose entry runs a loop."""
    r = Random(seed)
    counts = r.randint(1, 4), r.randint(0, 3), r.randint(0, 2)
    params = [
        (f"{kind}{i}", r.choice(SHAPES))
        for kind, count in zip("cxw", counts, strict=True)
        for i in range(count)
    ]
    body = Body(r, params, counts[0])
    return f"{body.text()}\n{entry(r, body, counts[1])}"


class Body:
    """A step of random ops: what is carried on, then what is stacked."""

    def __init__(self, r: Random, params: list[Value], carried: int) -> None:
        self.r, self.params, self.carried = r, params, carried
        self.lines: list[str] = []
        sums = {k for k in range(carried) if r.random() < 0.6}
        self.values = [p for k, p in enumerate(params) if k not in sums] or params[:1]
        for _ in range(r.randint(2, 10)):
            self.grow()
        self.ends = [self.end(p, total=k in sums) for k, p in enumerate(params[:carried])]
        self.rows = [r.choice(self.values) for _ in range(r.randint(0, 2))]

    def text(self) -> str:
        """The graph."""
        gives = [*(shape for _, shape in self.params[: self.carried]), *(s for _, s in self.rows)]
        takes = ", ".join(f"{name}: {typed(shape)}" for name, shape in self.params)
        outputs = ", ".join([*self.ends, *(name for name, _ in self.rows)])
        lines = [f"def step({takes}) -> {several(gives)}:", *self.lines, f"    return {outputs}"]
        return "\n".join(lines) + "\n"

    def add(self, shape: Shape, call: str) -> str:
        """One more line; the name of its value."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"    {name}: {typed(shape)} = {call}")
        return name

    def end(self, param: Value, *, total: bool) -> str:
        """What is carried on for ``param``: a sum over steps, or anything of its shape."""
        name, shape = param
        like = [v for v, s in self.values if s == shape and v != name]
        if not like:
            return name
        if not total:
            return self.r.choice(like)
        for _ in range(self.r.randint(1, 2)):
            pair = [name, self.r.choice(like)]
            self.r.shuffle(pair)
            name = self.add(shape, f"add({', '.join(pair)})")
        return name

    def grow(self) -> None:
        """One more value, out of one or two that are there."""
        x, shape = self.r.choice(self.values)
        y = self.r.choice([v for v, s in self.values if s == shape])
        found = [(shape, f"tanh({x})"), (shape, f"sub({x}, {y})"), (shape, f"mul({x}, {y})")]
        if len(shape) == 1:
            found.append(((2, *shape), f"expand({x}, axes=(0,), sizes=(2,))"))
        else:
            m, n = shape
            found.append(((n,), f"sum({x}, axes=(0,))"))
            found.append(((n, m), f"permute({x}, axes=(1, 0))"))
            cut = f"slice({x}, starts=(0, 0), stops=(2, {n}), steps=(1, 1))"
            found.append(((2, n), cut))
            found += self.products(x, shape) * 2
        made, call = self.r.choice(found)
        self.values.append((self.add(made, call), made))

    def products(self, x: str, shape: Shape) -> list[tuple[Shape, str]]:
        """Products of ``x`` with what fits."""
        found = []
        for tx in (False, True):
            m, k = shape[::-1] if tx else shape
            for y, other in self.values:
                for ty in (False, True):
                    if len(other) == 2 and (other[::-1] if ty else other)[0] == k:
                        flags = f"transpose_x={tx}, transpose_y={ty}"
                        n = other[0] if ty else other[1]
                        found.append(((m, n), f"matmul({x}, {y}, {flags})"))
        return self.r.sample(found, min(2, len(found)))


def entry(r: Random, body: Body, sliced: int) -> str:
    """The graph that runs ``body`` and reads some of the results."""
    length, saves, n = r.choice((0, 1, 4)), r.random() < 0.3, body.carried
    given = [
        (f"p{k}", (length, *shape) if n <= k < n + sliced else shape)
        for k, (_, shape) in enumerate(body.params)
    ]
    begun = [shape for _, shape in body.params[:n]]
    rows = [shape for _, shape in body.rows]
    results = [*begun, *((length, *shape) for shape in [*rows, *(begun if saves else ())])]
    read = [k for k in range(len(results)) if r.random() < 0.7] or [0]
    names = [name for name, _ in given]
    lines = []
    for k in range(n):
        if r.random() < 0.4:
            names[k] = f"z{k}"
            lines.append(f"    z{k} = full(shape={begun[k]}, value=0.0, dtype=f32)")
    stacked = f"({''.join(f'{typed(shape)}, ' for shape in rows)})" if rows else "()"
    lines.append(
        f'    t = for_loop({", ".join(names)}, body="step", length={length}, carried={n}, '
        f"sliced={sliced}, stacked={stacked}, reverse={r.random() < 0.5}, saves={saves})"
    )
    lines += [f"    r{k} = item(t, index={k})" for k in read]
    takes = ", ".join(f"{name}: {typed(shape)}" for name, shape in given)
    lines.append(f"    return {', '.join(f'r{k}' for k in read)}")
    return "\n".join([f"def f({takes}) -> {several([results[k] for k in read])}:", *lines]) + "\n"


def typed(shape: Shape) -> str:
    """A type of the language."""
    return f"f32[{', '.join(map(str, shape))}]"


def several(shapes: list[Shape]) -> str:
    """The types of results."""
    one = len(shapes) == 1
    return typed(shapes[0]) if one else f"({', '.join(map(typed, shapes))})"
