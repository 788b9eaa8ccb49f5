"""One energy, its forces and its stress as a single graph of PyTorch operators, safe to differentiate again."""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from geomol.compiled.form import FIELDS, Form, graph_of
from geomol.compiled.operators import plain_forms
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.nn import SpeciesIndex
from geomol.ops import gather_segments
from geomol.potential import Potential

_DETACH = torch.ops.aten.detach.default


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced step.

    Attributes:
        module: takes the tensors `fields` of a graph; gives energies (G,), node energies (N,), forces (N, 3) and, where
            the form has it, ∂E/∂strain (G, 3, 3). Its parameters and buffers are those of the potential themselves.
        fields: names of the fields it reads.
    """

    module: fx.GraphModule
    fields: tuple[str, ...]

    @property
    def has_separable(self) -> bool:
        """Whether a separable convolution is among its operators."""
        return any(node.target is torch.ops.geomol.separable_conv.default for node in self.module.graph.nodes)

    def arguments(self, graph: Graph) -> list[Tensor]:
        """What the module takes of a graph; nothing that it does not read is computed."""
        return [getattr(graph, name) for name in self.fields]


class _Lookup(nn.Module):
    """Species without the check for unknown elements, which depends on values and is made before each call."""

    def __init__(self, species: SpeciesIndex) -> None:
        super().__init__()
        self.elements = species.elements
        self.register_buffer("table", species.table, persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.table[numbers]  # type: ignore[index]


class _NodeEnergy(nn.Module):
    """The node energies of a potential as a module's forward, its weights exchangeable."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = copy.deepcopy(potential)
        for module in list(self.potential.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, SpeciesIndex):
                    setattr(module, name, _Lookup(child))

    def forward(self, graph: Graph) -> Tensor:
        return self.potential.node_energy(graph)


def trace_step(
    potential: Potential, graph: Graph, form: Form, *, strip: bool = True, whole: Collection[str] = ()
) -> Traced:
    """Records energies and derivatives of a potential on a graph, for graphs of all sizes.

    The recorded graph holds the first derivatives as operators, so a compiler meets a function without any
    differentiation in it, and may itself be asked for the derivative by the weights. Two things would make that
    second derivative wrong without a word. `aten.detach` is recorded around outputs that a backward formula uses again
    (tanh, exp, norms, ...), and cuts their derivatives: each is replaced by its input. Decompositions of PyTorch's own
    operators replace layer_norm by pieces whose second derivative is not that of the whole: none is used here.

    Args:
        strip: replace the detaches; False only to show what they do.
        whole: convolutions that are kept as one operator, see `plain_forms`; on a CUDA device all are.

    Raises:
        ConfigError: a backbone whose course depends on values, or on the very number of atoms.
    """
    function = _NodeEnergy(potential)
    states = {**dict(function.named_parameters()), **dict(function.named_buffers())}
    names = list(states)
    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    fakes = [_static(mode, value) for value in states.values()]
    inputs = [_dynamic(mode, graph, name) for name in FIELDS]

    def step(*values: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, values[: len(names)], strict=True))
        fields = dict(zip(FIELDS, values[len(names) :], strict=True))
        return _derivatives(function, weights, fields, potential.cutoff, form)

    # an operator on a CUDA device is a fused, deterministic kernel, and stays whole
    table = {} if graph.pos.is_cuda else plain_forms(whole)
    try:
        with mode, torch.no_grad():
            module = make_fx(step, decomposition_table=table, tracing_mode="real")(*fakes, *inputs)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise ConfigError(
            "this potential cannot be compiled",
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:150]}",
            remedy="use it without compile",
        ) from error
    for name in ("pos", "edge_index"):
        size = inputs[FIELDS.index(name)].shape[-1 if name == "edge_index" else 0]
        if not isinstance(size, torch.SymInt) or shapes.replace(size.node.expr).is_number:
            raise ConfigError(f"this potential cannot be compiled: it fixes the size of {name}")
    if strip:
        strip_detaches(module)
    live = {**dict(potential.named_parameters(prefix="potential")), **dict(potential.named_buffers(prefix="potential"))}
    return Traced(module, _bind(module, [live[name] for name in names]))


def strip_detaches(module: fx.GraphModule) -> int:
    """Replaces every recorded detach by its input, and returns how many there were."""
    found = [node for node in module.graph.nodes if node.target is _DETACH]
    for node in found:
        node.replace_all_uses_with(node.args[0])
        module.graph.erase_node(node)
    module.recompile()
    return len(found)


def _derivatives(
    function: nn.Module, weights: dict[str, Tensor], fields: dict[str, Tensor], cutoff: float, form: Form
) -> tuple[Tensor, ...]:
    """Energies, node energies, forces and ∂E/∂strain, as `Potential.forward` computes them."""
    with torch.enable_grad():
        pos = fields["pos"].detach().requires_grad_()
        graph = graph_of({**fields, "pos": pos}, cutoff=cutoff, periodic=form.periodic)
        wanted = [pos]
        if form.stress:
            strain = torch.zeros_like(graph.cell).requires_grad_()
            symmetric = (strain + strain.mT) / 2
            turned = symmetric[0] if form.single else gather_segments(symmetric, graph.batch, graph.ptr)
            moved = pos + (pos @ turned if form.single else torch.bmm(pos[:, None, :], turned)[:, 0])
            graph = graph.replace(pos=moved, cell=graph.cell + graph.cell @ symmetric)
            wanted = [pos, strain]
        node_energy: Tensor = torch.func.functional_call(function, weights, (graph,))
        if form.single:
            energy = node_energy.sum()[None]
        else:
            energy = torch.ops.geomol.reduce(node_energy, graph.batch, graph.ptr, None)
        grads = torch.autograd.grad(
            energy.sum(), wanted, create_graph=form.training, allow_unused=True, materialize_grads=True
        )
    return (energy, node_energy, -grads[0], *grads[1:])


def _static(mode: FakeTensorMode, value: Tensor) -> FakeTensor:
    """A weight: its sizes are constants."""
    return mode.from_tensor(value.detach(), static_shapes=True)


def _dynamic(mode: FakeTensorMode, graph: Graph, name: str) -> FakeTensor:
    """A field of a graph: sizes are variables, equal ones the same; three dimensions and one structure are not."""
    value: Tensor = getattr(graph, name)
    free = {graph.num_nodes, graph.num_nodes + 1, graph.num_edges}
    free |= set() if graph.num_graphs == 1 else {graph.num_graphs, graph.num_graphs + 1}
    first = 1 if name == "edge_index" else 0
    sizes = [
        DimDynamic.DUCK if axis == first and size in free else DimDynamic.STATIC
        for axis, size in enumerate(value.shape)
    ]
    return mode.from_tensor(value.detach(), symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


def _bind(module: fx.GraphModule, states: list[Tensor]) -> tuple[str, ...]:
    """Makes the leading arguments of a traced module its own parameters and buffers; drops arguments it never reads.

    Returns:
        the names of the fields that are left.
    """
    nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
    for number, (node, state) in enumerate(zip(nodes, states, strict=False)):
        if node.users:
            name = f"state_{number}"
            if isinstance(state, nn.Parameter):
                module.register_parameter(name, state)
            else:
                module.register_buffer(name, state)
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(name))
        module.graph.erase_node(node)
    fields = dict(zip(FIELDS, nodes[len(states) :], strict=True))
    for name in ("edge_ptr", "send_ptr"):
        _size_from_positions(module, fields[name], fields["pos"])
    kept = []
    for name, node in fields.items():
        if node.users:
            kept.append(name)
        else:
            module.graph.erase_node(node)
    module.recompile()
    return tuple(kept)


def _size_from_positions(module: fx.GraphModule, pointers: fx.Node, pos: fx.Node) -> None:
    """Where row pointers are read for their length alone, takes it from the positions: they need not be computed."""
    size = torch.ops.aten.sym_size.int
    users = list(pointers.users)
    if all(user.target is size for user in users):
        for user in users:
            with module.graph.inserting_before(user):
                length = module.graph.call_function(operator.add, (module.graph.call_function(size, (pos, 0)), 1))
            user.replace_all_uses_with(length)
            module.graph.erase_node(user)
