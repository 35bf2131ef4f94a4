"""Properties of graphs that `torch.compile` and `torch.export` make; run by `test_graphs.py`."""

import copy
import shutil

import pytest
import torch
from torch._dynamo.backends.registry import lookup_backend

from smalti.core.models import Autoencoder
from smalti.core.parts import Quantizer
from smalti.models.programs import programs
from smalti.quantizers.codebooks import ema
from tests.conformance import models
from tests.conformance import test_quantizers as quantizers
from tests.conformance.classes import concrete

PARTITIONED = "aot_eager_decomp_partition"
"""Traced, made functional, and cut into forward and backward as for code generation, which is left out."""
WITH_OUR_OPERATIONS = ("vq-ema", "lfq", "ibq")
"""In training they contain every operation that this package registers.

The rest of a graph is torch's own. To cut that too takes most of the time, and is left to the slow test.
There, the others are also traced first for batches of one size, as torch does by default, and then for any.
"""
# More sizes than a graph may be made anew for.
TRAINING_SIZES = [3 + step % 12 for step in range(24)]
EVALUATION_SIZES = TRAINING_SIZES[:12]
MODES = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])


@MODES
@quantizers.EVERY
def test_compiled_it_is_one_graph_and_does_the_same(build, training):
    """Also over steps that begin a codebook and that revive codes. The graph is for batches of any size."""
    compare_in_mode(build, training, "eager")


@pytest.mark.parametrize("name", WITH_OUR_OPERATIONS)
def test_compiled_for_one_size_and_then_for_any_it_does_the_same(name):
    compare_compiled(quantizers.CASES[name], True, "eager", TRAINING_SIZES)


@MODES
@quantizers.EVERY
def test_partitioned_it_does_the_same(build, training):
    """In training, the first graph is for batches of one size, and the second for any."""
    sizes = TRAINING_SIZES if training else EVALUATION_SIZES
    compare_compiled(build, training, PARTITIONED, sizes, of_any_size=not training)


def test_partitioned_our_operations_do_the_same():
    """All of them are found in the graphs, in training and in evaluation."""
    found = set()

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        targets = [str(node.target) for node in graph.graph.nodes]
        found.update(target.split(".")[1] for target in targets if target.startswith("smalti."))
        return lookup_backend(PARTITIONED)(graph, inputs)

    for name in WITH_OUR_OPERATIONS:
        compare_in_mode(quantizers.CASES[name], True, backend)
    compare_in_mode(quantizers.CASES["vq-ema"], False, backend)
    ibq = quantizers.CASES["ibq"]().eval()
    latents = torch.randn(2, ibq.dim, 4, 4)
    compiled = torch.compile(ibq.encode, fullgraph=True, backend=backend)
    assert torch.equal(compiled(latents), ibq.encode(latents))
    registered = [name.split("::") for name in torch._C._dispatch_get_all_op_names()]
    ours = {name for space, name in registered if space == "smalti"}
    # Only the partition has the operations of the backward pass.
    assert found == {name for name in ours if not name.endswith("_backward")}


def compare_in_mode(build, training: bool, backend) -> None:
    sizes = TRAINING_SIZES if training else EVALUATION_SIZES
    compare_compiled(build, training, backend, sizes, of_any_size=True)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch generates C++ here, and there is no compiler")
def test_generated_code_has_the_gradients_of_codes_before_they_move():
    build = quantizers.CASES["vq-ema"]
    compare_compiled(build, True, "inductor", [4] * 6)


def compare_compiled(build, training: bool, backend, sizes: list[int], of_any_size: bool = False) -> None:
    """Codes, latents, gradients and state of a quantizer and of its graph, step by step."""
    torch.manual_seed(0)
    plain = build().train() if training else quantizers.trained(build)
    graph = copy.deepcopy(plain)
    torch.compiler.reset()
    compiled = torch.compile(graph, fullgraph=True, backend=backend)
    for step, size in enumerate(sizes):
        latents = torch.randn(size, plain.dim, 4, 4, generator=torch.Generator().manual_seed(step))
        again = latents.clone().requires_grad_()
        latents.requires_grad_()
        if of_any_size:
            torch._dynamo.mark_dynamic(again, 0)
        torch.manual_seed(step)
        one = plain(latents)
        torch.manual_seed(step)
        other = compiled(again)
        assert torch.equal(one.codes, other.codes)
        torch.testing.assert_close(one.latents, other.latents)
        (one.latents.square().sum() + one.loss).backward()
        (other.latents.square().sum() + other.loss).backward()
        torch.testing.assert_close(latents.grad, again.grad)
    for name, buffer in plain.state_dict().items():
        torch.testing.assert_close(graph.state_dict()[name], buffer, msg=name)


def test_the_case_that_revives_does(monkeypatch):
    drawn = []
    draw = ema.draw_tokens

    def noted(*what, **more):
        drawn.append(what)
        return draw(*what, **more)

    monkeypatch.setattr(ema, "draw_tokens", noted)
    build = quantizers.CASES["vq-reviving"]
    torch.manual_seed(0)
    quantizer = build().train()
    for step in range(24):
        generator = torch.Generator().manual_seed(step)
        quantizer(torch.randn(3 + step % 12, quantizer.dim, 4, 4, generator=generator))
    assert drawn


@quantizers.EVERY
def test_exported_it_needs_no_operation_of_ours(build):
    """For batches of any size."""
    quantizer = quantizers.trained(build)
    latents = quantizers.latents_for(quantizer, 4, 4)
    program = torch.export.export(
        Encode(quantizer), (latents,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    assert not [node for node in program.graph.nodes if "smalti" in str(node.target)]
    other = torch.cat([latents.flip(0), latents[:2]])
    assert torch.equal(program.module()(other), quantizer.encode(other))


class Encode(torch.nn.Module):
    """`encode` where a graph expects `forward`."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.quantizer.encode(latents)


def test_every_class_with_codes_is_exported():
    built = {type(case.build(models.SPEC)) for case in models.CASES.values()}
    assert {kind for kind in built if issubclass(kind, Autoencoder)} == concrete(Autoencoder)


@models.everywhere(Autoencoder)
@torch.no_grad()
def test_both_halves_as_exported_programs(case, spec, tmp_path):
    model = models.trained(case, spec)
    assert type(model) is case.kind
    for part, program in zip(("encode", "decode"), programs(model), strict=True):
        torch.export.save(program, tmp_path / f"{part}.pt2")
    encode, decode = (torch.export.load(tmp_path / f"{part}.pt2").module() for part in ("encode", "decode"))
    for num in (1, 5):
        x = models.signals(spec, num)
        codes = encode(x)
        assert torch.equal(codes, model.encode(x))
        torch.testing.assert_close(decode(codes), model.decode(codes))
