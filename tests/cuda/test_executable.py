"""Executables on a simulated GPU: graphs patched by C, graphs patched by Python, and no graphs."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import small_plans as plans
from small_kernels import F4, equal, vector

from vtc.errors import ArgumentError, DeviceError, VtcWarning
from vtc.ir.plan import Arena, Buffer, Copy, Input, Output
from vtc.ir.types import f32
from vtc.runtime.buffer import address
from vtc.runtime.cuda import instance
from vtc.runtime.cuda.copies import fill_bytes, to_device, to_host
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.instance import trim
from vtc.runtime.cuda.stream import Stream


def test_each_call_has_its_own_outputs(make, sim):
    executable = make(plans.chain())
    xs = [vector(seed=k) for k in range(20)]
    calls = [executable.run([to_device(x, 0)]) for x in xs]
    assert sim.queued() > 20  # nothing has waited
    for x, (y, z) in zip(xs, calls, strict=True):
        equal(y, 2 * (x + 1))
        equal(z, x + 2 * (x + 1))


def test_loops_run_turn_by_turn(make):
    executable = make(plans.added_up())
    for seed in range(3):
        x, ys = vector(4, seed), vector(12, seed + 9).reshape(3, 4)
        rows, last = executable.run([to_device(x, 0), to_device(ys, 0)])
        sums = [x + ys[2]]
        sums += [sums[0] + ys[1]]
        sums += [sums[1] + ys[0]]
        equal(rows, np.stack(sums[::-1]))
        equal(last, sums[-1])


def test_inputs_are_not_copied_and_addresses_may_come_back(make, sim):
    executable = make(plans.chain())
    a, b = to_device(vector(seed=1), 0), to_device(vector(seed=2), 0)
    copies = sim.calls["copy"]
    for x, seed in [(a, 1), (b, 2), (a, 1), (a, 1), (b, 2)]:
        equal(executable.run([x])[1], vector(seed=seed) + 2 * (vector(seed=seed) + 1))
    assert sim.calls["copy"] - copies == 5  # those of ``equal``


def test_a_call_like_the_one_before_patches_nothing(make, sim):
    executable = make(plans.chain())
    x = to_device(vector(), 0)
    executable.run([x])
    executable.run([x])
    launches, patches = sim.calls["graph_launch"], sim.calls["set_kernel_params"]
    singles = sim.calls["launch"]
    executable.run([x])  # its outputs died, so they lie where those before did
    assert sim.calls["set_kernel_params"] == patches
    if make.mode == "one by one":
        assert sim.calls["launch"] == singles + 3
    else:
        assert sim.calls["graph_launch"] == launches + 1


def test_only_nodes_with_other_addresses_are_patched(make, sim):
    executable = make(plans.update())
    w, rate = to_device(vector(), 0), np.array(1, F4)
    gs = [to_device(vector(), 0) for _ in range(2)]
    for _ in range(2):
        executable.run([w, gs[0], rate])
    patches = sim.calls["set_kernel_params"]
    executable.run([w, gs[1], rate])  # only the first of two kernels reads it
    single = make.mode == "one by one"
    assert sim.calls["set_kernel_params"] - patches == (0 if single else 1)


def test_a_copy_in_the_graph(make, sim):
    executable = make(plans.copied())
    xs = [vector(seed=k) for k in range(4)]
    calls = [executable.run([to_device(x, 0)]) for x in xs]
    for x, (y,) in zip(xs, calls, strict=True):
        equal(y, x + 1)


def test_an_output_that_overwrites_is_the_input(make, sim):
    executable = make(plans.update())
    w, g = to_device(vector(), 0), to_device(vector(seed=1), 0)
    place = address(w)
    want = vector()
    for k in range(1, 5):
        rate = np.array(k / 8, F4)
        new, twice = executable.run([w, g, rate])
        want = want - rate * vector(seed=1)
        assert new is w
        assert address(w) == place
        equal(twice, 2 * want)
    equal(w, want)


def test_numbers_of_queued_calls_stay_as_they_were(make, sim):
    executable = make(plans.update())
    g, rate = to_device(np.ones(5, F4), 0), np.array(0, F4)
    ws = [to_device(np.zeros(5, F4), 0) for _ in range(10)]
    for k, w in enumerate(ws):
        rate[...] = k
        executable.run([w, g, rate])
    rate[...] = 100
    for k, w in enumerate(ws):
        equal(w, np.full(5, -k, F4))


def test_a_number_may_be_on_the_device_as_well(make, sim):
    executable = make(plans.update())
    g = to_device(np.ones(5, F4), 0)
    ws = [to_device(np.zeros(5, F4), 0) for _ in range(4)]
    for k, w in enumerate(ws):
        rate = np.array(k, F4)
        executable.run([w, g, to_device(rate, 0) if k % 2 else rate])
    for k, w in enumerate(ws):
        equal(w, np.full(5, -k, F4))


def test_pointers_from_a_table(make, sim):
    executable = make(plans.tabled())
    xs = [vector(n, seed=n) for n in (4, 4, 900, 4)]
    calls = [executable.run([to_device(x, 0)]) for x in xs]
    for x, (y,) in zip(xs, calls, strict=True):
        equal(y, x + (x + 1))


def test_other_sizes_leave_no_table_behind(make, sim):
    """Sizes share the arena: what one keeps in it, the other overwrites."""
    executable = make(plans.tabled_sum())
    given = {n: [to_device(vector(n, seed=k), 0) for k in range(3)] for n in (900, 4)}
    for n in (900, 4, 900, 4, 4):
        w, x, y = given[n]
        fill_bytes(w, 0)
        executable.run([w, x, y])
        equal(w, to_host(x) + to_host(y))


def test_an_arena_that_moves_leaves_no_table_behind(make, sim):
    executable = make(plans.tabled_sum())
    w, x, y = (to_device(vector(seed=k), 0) for k in range(3))
    for _ in range(2):
        executable.run([w, x, y])
        equal(w, to_host(x) + to_host(y))
        fill_bytes(w, 0)
        trim()
        kept = to_device(vector(900), 0)  # where the arena was
    assert kept is not None


def random_plan(random):
    """Kernels at random on 2 inputs (one is overwritten), 3 outputs and 3 places in the arena."""
    inputs = [Buffer(f32, (plans.B,), "w", 0), plans.VECTOR]
    places = [Input(0), Input(1), Output(1), Output(2), *(Arena(plans.room(k)) for k in range(3))]
    known, steps = [0, 1], []
    for _ in range(12):
        kind = random.integers(4)
        target = int(random.choice([0, *range(2, len(places))]))
        sources = [int(random.choice(known)) for _ in range(2)]
        if kind == 0 and target != sources[0]:
            steps.append(Copy(places[sources[0]], places[target], plans.B * 4))
        elif kind == 1:
            steps.append(plans.run("add", *(places[s] for s in sources), places[target]))
        else:
            name = "add_one" if kind == 2 else "double"
            steps.append(plans.run(name, places[sources[0]], places[target]))
        known.append(target)
    steps += [plans.run("add", places[p], Input(1), Output(i)) for i, p in [(1, 0), (2, 0)]]
    outputs = [plans.VECTOR] * 3
    return plans.plan(inputs, outputs, steps, plans.room(3), name="random")


def reference(plan, w, x):
    """What the steps of ``plan`` make of the inputs, one after the other."""
    memory = {Input(0): w.copy(), Input(1): x}

    def key(ref):
        return Input(0) if ref == Output(0) else ref

    for step in plan.steps:
        if isinstance(step, Copy):
            memory[key(step.target)] = memory[key(step.source)]
            continue
        *sources, target = (key(a) for a in step.args)
        values = [memory[s] for s in sources]
        compute = {"add": np.add, "double": lambda v: v * 2, "add_one": lambda v: v + 1}
        memory[target] = compute[step.kernel](*values)
    return [memory[key(Output(i))] for i in range(len(plan.outputs))]


@pytest.mark.parametrize("seed", range(10))
def test_random_steps_do_what_they_do_in_order(make, sim, seed):
    plan = random_plan(np.random.default_rng(seed))
    executable = make(plan)
    ws, xs = [vector(seed=k) for k in range(4)], [vector(seed=9 + k) for k in range(4)]
    calls = [
        executable.run([to_device(w, 0), to_device(x, 0)]) for w, x in zip(ws, xs, strict=True)
    ]
    for w, x, got in zip(ws, xs, calls, strict=True):
        for a, b in zip(got, reference(plan, w, x), strict=True):
            equal(a, b)


# inputs that kernels cannot take as they are


def test_strided_and_misaligned_inputs_are_copied(make, sim):
    executable = make(plans.chain())
    base = to_device(vector(20), 0)
    for index in (slice(0, 20, 2), slice(None, None, -1), slice(1, 9)):
        x = vector(20)[index]
        equal(executable.run([base[index]])[0], 2 * (x + 1))


@pytest.mark.parametrize("index", [slice(1, 9), slice(0, 20, 2)])
def test_what_is_overwritten_in_a_copy_is_written_back(make, sim, index):
    executable = make(plans.update())
    base, want = to_device(vector(20), 0), vector(20)
    w = base[index]
    g = np.ones(w.shape, F4)
    new, _ = executable.run([w, to_device(g, 0), np.array(2, F4)])
    assert new is w
    want[index] -= 2
    equal(base, want)


def test_what_cannot_be_overwritten_is_refused(make, sim):
    executable = make(plans.update())
    w, g = to_device(vector(), 0), to_device(vector(), 0)
    w.flags.writeable = False
    with pytest.raises(ArgumentError, match="w: expected an array to overwrite, got a read-only"):
        executable.run([w, g, np.array(1, F4)])


def test_arrays_of_another_device_are_refused(make, sim):
    executable = make(plans.update())
    w, g = to_device(vector(), 0), vector()
    message = "g: expected an array on cuda:0, got one on cpu"
    for call in (executable.run, executable.check):
        with pytest.raises(DeviceError, match=message):
            call([w, g, np.array(1, F4)])


def test_what_does_not_fit_the_plan_is_refused(make, sim):
    executable = make(plans.update())
    w = to_device(vector(), 0)
    with pytest.raises(ArgumentError, match=r"g: expected f32\[B\], got an array float32\[6\]"):
        executable.check([w, to_device(vector(6), 0), np.array(1, F4)])
    with pytest.raises(ArgumentError, match="small: expected 3 arrays, got 1"):
        executable.check([w])
    executable.check([w, to_device(vector(), 0), np.array(1, F4)])


# sizes


def test_sizes_may_change_at_every_call(make, sim):
    executable = make(plans.chain())
    sizes = [3, 700, 5, 0, 3, 70_000, 700, 3]
    calls = [executable.run([to_device(vector(n, seed=n), 0)]) for n in sizes]
    for n, (y, z) in zip(sizes, calls, strict=True):
        equal(y, 2 * (vector(n, seed=n) + 1))
        equal(z, vector(n, seed=n) + 2 * (vector(n, seed=n) + 1))


def test_nothing_to_do_is_no_launch(make, sim):
    steps = [Copy(Input(0), Output(0), plans.B * 4), plans.run("double", Input(0), Output(1))]
    steps[1] = replace(steps[1], grid=(plans.B,))
    executable = make(plans.plan([plans.VECTOR], [plans.VECTOR] * 2, steps))
    y, z = executable.run([to_device(vector(0), 0)])
    assert y.shape == z.shape == (0,)
    assert sim.calls["launch"] == sim.calls["graph_launch"] == sim.calls["instantiate"] == 0


def test_graphs_that_are_made_again_and_again_are_reported_once(make, sim, monkeypatch):
    monkeypatch.setattr(instance, "GRAPHS", 4)
    executable = make(plans.chain())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for n in [*range(1, 9), *range(1, 9)]:
            equal(executable.run([to_device(vector(n), 0)])[0], 2 * (vector(n) + 1))
    assert [str(w.message) for w in said] == [
        "small: expected at most 4 different sizes, got more: CUDA graphs are made again and "
        "again, since the sizes of its inputs change often"
    ]
    assert said[0].category is VtcWarning
    assert sim.calls["instantiate"] - sim.calls["destroy_executable"] in (0, 4)


# bound calls


def test_a_bound_call(make, sim):
    executable = make(plans.chain())
    xs = [to_device(vector(seed=k), 0) for k in range(6)]
    bound = executable.bind([xs[0]], {0: 0})
    assert bound.fresh == ((0, (5,), F4), (1, (5,), F4))
    assert not bound.writes
    calls = [bound.run([address(x)]) for x in xs]
    executable.run([to_device(vector(9), 0)])  # another use of the instance in between
    calls += [bound.run([address(x)]) for x in xs]
    for k, ((y, place), (z, _)) in enumerate(calls):
        assert address(y) == place
        equal(y, 2 * (vector(seed=k % 6) + 1))
        equal(z, vector(seed=k % 6) + 2 * (vector(seed=k % 6) + 1))


def test_a_bound_call_with_numbers_that_overwrites(make, sim):
    executable = make(plans.update())
    w, g = to_device(np.zeros(5, F4), 0), to_device(np.ones(5, F4), 0)
    bound = executable.bind([w, g, np.array(0, F4)], {}, [2])
    assert bound.writes
    assert bound.fresh == ((1, (5,), F4),)
    made = [bound.run([], [float(k)]) for k in range(5)]
    equal(w, np.full(5, -10, F4))
    for k, ((y, _),) in enumerate(made):
        equal(y, np.full(5, -k * (k + 1), F4))


def test_a_bound_call_overwrites_what_varies(make, sim):
    executable = make(plans.update())
    g = to_device(np.ones(8, F4), 0)
    block = to_device(np.zeros(32, F4), 0)
    parts = [block[:8], block[9:17], block[20:28]]  # the second is not aligned
    bound = executable.bind([parts[0], g, np.array(0, F4)], {0: 0}, [2])
    for k, part in enumerate(parts, 1):
        bound.run([address(part)], [float(k)])
    want = np.zeros(32, F4)
    want[:8], want[9:17], want[20:28] = -1, -2, -3
    equal(block, want)


def test_what_would_have_to_be_copied_is_not_bound(make, sim):
    executable = make(plans.chain())
    base = to_device(vector(20), 0)
    assert executable.bind([base[1:9]], {}) is None
    assert executable.bind([base[::2]], {}) is None
    assert executable.bind([base[4:9]], {}) is not None


def test_a_bound_call_runs_on_the_stream_of_now(make, sim):
    executable = make(plans.chain())
    x = to_device(vector(), 0)
    gpu(0).synchronize()
    bound, side = executable.bind([x], {}), Stream()
    with side:
        ((y, _), _) = bound.run([])
    assert sim.queued() == 0
    assert sim.queued(0, side.cuda_stream) > 0
    with side:
        equal(y, 2 * (vector() + 1))
