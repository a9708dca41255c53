"""Packages on a GPU: state in its memory, arrays in and out uncopied, errors before a call."""

import gc

import flow_plans
import ml_dtypes
import numpy as np
import pytest
import small_kernels
import small_plans
from small_kernels import vector
from small_plans import DIMS, B

import vtc
from vtc.errors import ArgumentError, DeviceError, PackageError
from vtc.ir.saved import to_json
from vtc.ir.types import f32
from vtc.runtime import dlpack
from vtc.runtime.archive import WEIGHTS, write
from vtc.runtime.buffer import address
from vtc.runtime.cuda.copies import to_device, to_host
from vtc.runtime.outside import GpuArray, incoming
from vtc.runtime.signature import (
    Cubin,
    CudaPlan,
    Entry,
    Form,
    FromInput,
    FromOutput,
    FromWeight,
    Manifest,
    NumberInput,
    TensorInput,
    Variant,
    Weight,
)
from vtc.runtime.weights import Safetensors

W = np.arange(5, dtype="f4")


def entry(name, plan, params, inputs, results, result_tree, members, targets):
    plans = {}
    for target in targets:
        file = f"plans/{name}.0.{target}.json"
        members[file] = to_json(plan).encode()
        cubins = {}
        for k in plan.kernels:
            cubin = f"cubin/{target}/{k.symbol}.cubin"
            members[cubin] = target.encode()
            cubins[k.symbol] = Cubin(cubin, 4)
        plans[target] = CudaPlan(file, cubins)
    tree = Form("tuple", (), (Form("tuple", (), (None,) * len(inputs)), Form("dict", (), ())))
    variants = (Variant("0", DIMS, params, plans),)
    return Entry(DIMS, inputs, tree, results, result_tree, variants)


def package(path, targets=("sm_90",)):
    """``chain(x)`` gives two arrays; ``update(g, rate)`` overwrites the state, ``grow(x)`` x."""
    members = {WEIGHTS: Safetensors({"w": W})}
    x, g = (TensorInput(name, f32, (B,)) for name in "xg")
    both = (FromOutput(0), FromOutput(1))
    pair = Form("namedtuple", ("y", "z"), (None, None))
    chain = entry("chain", small_plans.chain(), (FromInput(0),), (x,), both, pair, members, targets)
    params = (FromWeight("w"), FromInput(0), FromInput(1))
    update = entry(
        "update", small_plans.update(), params, (g, NumberInput("rate")), (FromOutput(1),), None,
        members, targets,
    )  # fmt: skip
    grow = entry(
        "grow", small_plans.grown(), (FromInput(0),), (TensorInput("x", f32, (B,), written=True),),
        (FromInput(0),), None, members, targets,
    )  # fmt: skip
    entries = {"chain": chain, "update": update, "grow": grow}
    weights = {"w": Weight(f32, (5,), state=True)}
    return write(path, members, Manifest("0.1.0", "small", weights, entries, targets, {}))


@pytest.fixture
def model(sim, tmp_path):
    small_kernels.install(sim)
    sim.kernels |= {f"{name}_symbol": k for name, k in sim.kernels.items()}
    yield vtc.load(package(tmp_path / "small.vtc"))
    gc.collect()
    assert not dlpack._GIVEN


def test_results(model):
    assert str(model.device) == "cuda:0"
    assert model.target == "sm_90"
    for n in (5, 70):
        x = vector(n)
        out = model.chain(GpuArray(to_device(x, 0)))
        assert out._fields == ("y", "z")
        np.testing.assert_array_equal(out.y.numpy(), 2 * (x + 1))
        np.testing.assert_array_equal(np.asarray(out.z), x + 2 * (x + 1))
        again = model.chain(out.y)
        np.testing.assert_array_equal(again.y, 2 * (2 * (x + 1) + 1))


def test_loops_and_branches(sim, tmp_path):
    small_kernels.install(sim)
    sim.kernels |= {f"{name}_symbol": k for name, k in sim.kernels.items()}
    members, plan = {WEIGHTS: Safetensors({})}, flow_plans.grown()
    both, x = (FromOutput(0), FromOutput(1)), TensorInput("x", f32, (B,))
    pair = Form("tuple", (), (None, None))
    grow = entry("grow", plan, (FromInput(0),), (x,), both, pair, members, ["sm_90"])
    manifest = Manifest("0.1.0", "small", {}, {"grow": grow}, ["sm_90"], {})
    loaded = vtc.load(write(tmp_path / "loops.vtc", members, manifest))
    for n in (5, 70):
        given = abs(vector(n))
        out = loaded.grow(GpuArray(to_device(given, 0)))
        for got, want in zip(out, flow_plans.outputs(plan, [given]), strict=True):
            np.testing.assert_array_equal(np.asarray(got), want)


def test_state(model):
    g = to_device(np.ones(5, "f4"), 0)
    out = model.update(GpuArray(g), 0.5)
    np.testing.assert_array_equal(out, 2 * (W - 0.5))
    np.testing.assert_array_equal(model.state["w"], W - 0.5)
    model.state["w"] = np.zeros(5)
    model.update(GpuArray(g), 2.0)
    np.testing.assert_array_equal(model.state["w"], np.full(5, -2))
    model.reset()
    np.testing.assert_array_equal(model.state["w"], W)


def test_tensors_go_in_and_out(model):
    x = vtc.from_numpy(vector()).cuda()
    y = vtc.from_dlpack(model.chain(x).y)
    assert str(y.device) == "cuda:0"
    np.testing.assert_array_equal(y.cpu(), 2 * (vector() + 1))


@pytest.mark.parametrize("versioned", [True, False])
def test_dlpack_shares_memory_for_as_long_as_it_is_used(sim, versioned):
    array = to_device(vector(6).reshape(2, 3), 0).T

    class Producer:
        def __dlpack__(self, stream, **more):
            if more and not versioned:
                raise TypeError("max_version")
            return GpuArray(array).__dlpack__(stream=stream, **more)

        def __dlpack_device__(self):
            return GpuArray(array).__dlpack_device__()

    found = incoming(Producer(), "x")
    assert address(found) == address(array)
    assert found.shape == (3, 2)
    assert found.strides == array.strides
    assert len(dlpack._GIVEN) == 1
    part = found[1:]
    del found
    gc.collect()
    assert len(dlpack._GIVEN) == 1
    np.testing.assert_array_equal(to_host(part), to_host(array)[1:])
    del part
    gc.collect()
    assert not dlpack._GIVEN


def test_a_reader_on_another_stream_waits(sim):
    array = to_device(vector(), 0)
    sim.calls.clear()
    GpuArray(array).__dlpack__(stream=1)
    assert not sim.calls["wait_event"]
    other = vtc.cuda.Stream()
    GpuArray(array).__dlpack__(stream=other.cuda_stream)
    assert sim.calls["wait_event"] == 1


def test_cuda_array_interface(sim):
    array = to_device(vector(6).reshape(2, 3), 0)

    class Interface:
        __cuda_array_interface__ = GpuArray(array).__cuda_array_interface__

    found = incoming(Interface(), "x")
    assert (address(found), found.shape, found.dtype) == (address(array), (2, 3), array.dtype)
    half = GpuArray(to_device(np.ones(2, ml_dtypes.bfloat16), 0))
    assert not hasattr(half, "__cuda_array_interface__")


def test_arrays_on_the_host_are_copied(model):
    for x in (vector(), vector(70), vector(9)[::-1], vector(0), vtc.from_numpy(vector())):
        np.testing.assert_array_equal(model.chain(x).y, 2 * (np.asarray(x) + 1))


def test_arrays_elsewhere(model):
    with pytest.raises(DeviceError, match=r"x: expected .* cuda:0 to overwrite, got one on cpu"):
        model.grow(vector())
    with pytest.raises(ArgumentError, match=r"x: expected f32\[B\], got f64\[5\]"):
        model.chain(GpuArray(to_device(vector().astype("f8"), 0)))


def test_which_architecture(sim, tmp_path):
    small_kernels.install(sim)
    assert vtc.load(package(tmp_path / "a", ("sm_80", "sm_90", "sm_100"))).target == "sm_90"
    why = r'code for sm_90, got code for sm_80, sm_100; export it again with targets=\["cuda:90"'
    with pytest.raises(PackageError, match=why):
        vtc.load(package(tmp_path / "b", ("sm_80", "sm_100")))
    with pytest.raises(PackageError, match="got code for sm_90"):
        vtc.load(package(tmp_path / "c"), device="cpu")
