"""What a graph asks of a machine, counted from its shapes: nodes, bytes and products.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", Communications of the ACM 52 (4), 2009: no kernel is faster than its bytes or its
arithmetic alone. Here each node is a kernel that reads its inputs and writes its outputs.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper, shape_inference

BATCH = 256
# What only names the same bytes anew.
_VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"}


@dataclass(frozen=True)
class Machine:
    """The rates of a machine, as its maker gives them.

    Attributes:
        bytes: of memory, a second.
        operations: floating-point operations a second, by precision.
    """

    bytes: float
    operations: dict[str, float]


_HOPPER = {"fp32": 67e12, "tf32": 495e12, "fp16": 989e12}
MACHINES = {"H100": Machine(3.35e12, _HOPPER), "H200": Machine(4.8e12, _HOPPER)}
"""SXM cards, dense, NVIDIA's data sheets. `fp16` halves the bytes of what are floats as well."""


@dataclass(frozen=True)
class Load:
    """What a node, or all of one kind, asks for an X-ray.

    Attributes:
        nodes: how many.
        bytes: read and written.
        operations: two for each product that is added up, one for each other element.
    """

    nodes: int
    bytes: float
    operations: float

    def __add__(self, other: "Load") -> "Load":
        return Load(
            self.nodes + other.nodes, self.bytes + other.bytes, self.operations + other.operations
        )


def loads(path: Path, batch: int = BATCH) -> list[tuple[str, Load]]:
    """Return the operator of each node of a pipeline graph, and what it asks for an X-ray.

    Args:
        path: the graph.
        batch: that weights are read once for.
    """
    model = onnx.load(path)
    shapes = _shapes(model, batch)
    return [(node.op_type, _load(node, shapes, batch)) for node in model.graph.node]


def by_operator(nodes: list[tuple[str, Load]]) -> dict[str, Load]:
    """Return what all nodes of each operator ask, those with the most bytes first."""
    found: defaultdict[str, Load] = defaultdict(lambda: Load(0, 0.0, 0.0))
    for operator, load in nodes:
        found[operator] += load
    return dict(sorted(found.items(), key=lambda each: -each[1].bytes))


def rate(nodes: list[tuple[str, Load]], machine: Machine, precision: str) -> float:
    """Return the X-rays a second that no run of these nodes, one by one, exceeds."""
    share = 0.5 if precision == "fp16" else 1.0
    seconds = sum(
        max(
            share * load.bytes / machine.bytes,
            load.operations / machine.operations[precision],
        )
        for _, load in nodes
    )
    return 1 / seconds


def report(path: Path) -> tuple[dict[str, Any], str]:
    """Return what is counted of a graph, as plain values and as lines."""
    nodes = loads(path)
    operators = by_operator(nodes)
    whole = sum(operators.values(), Load(0, 0.0, 0.0))
    lines = [f"{'operator':14} {'nodes':>5} {'kB':>9} {'MFLOP':>9}   an X-ray, batch of {BATCH}"]
    lines += [_line(name, load) for name, load in operators.items()]
    lines.append(_line("all", whole))
    lines.append("")
    lines.append("X-rays a second at most, node by node")
    bounds = {
        name: {precision: rate(nodes, machine, precision) for precision in machine.operations}
        for name, machine in MACHINES.items()
    }
    for name, found in bounds.items():
        lines.append(
            f"{name:14} " + "  ".join(f"{key} {value:,.0f}" for key, value in found.items())
        )
    content = {
        "batch": BATCH,
        "nodes": whole.nodes,
        "bytes": whole.bytes,
        "operations": whole.operations,
        "operators": {name: vars(load) for name, load in operators.items()},
        "at_most": bounds,
    }
    return content, "\n".join(lines)


def _line(name: str, load: Load) -> str:
    kilobytes, mega = load.bytes / 1e3, load.operations / 1e6
    return f"{name:14} {load.nodes:5} {kilobytes:9,.0f} {mega:9,.1f}"


def _shapes(model: ModelProto, batch: int) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return the bytes of an element and the shape of every tensor."""
    del model.graph.value_info[:]
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.shape.dim[0].dim_value = batch
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return {name: (_bytes(kind), shape) for name, kind, shape in _tensors(graph)}


def _tensors(graph: Any) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    for each in graph.initializer:
        yield each.name, each.data_type, tuple(each.dims)
    for each in (*graph.value_info, *graph.input, *graph.output):
        tensor = each.type.tensor_type
        yield each.name, tensor.elem_type, tuple(axis.dim_value for axis in tensor.shape.dim)


def _bytes(kind: int) -> int:
    return helper.tensor_dtype_to_np_dtype(kind).itemsize


def _load(node: NodeProto, shapes: dict[str, tuple[int, tuple[int, ...]]], batch: int) -> Load:
    given, made = ([name for name in names if name] for names in (node.input, node.output))
    if node.op_type in _VIEWS:
        return Load(1, 0.0, 0.0)
    moved = sum(size * prod(shape) for size, shape in (shapes[name] for name in (*given, *made)))
    return Load(1, moved / batch, _operations(node, given, made, shapes) / batch)


def _operations(
    node: NodeProto,
    given: list[str],
    made: list[str],
    shapes: dict[str, tuple[int, tuple[int, ...]]],
) -> float:
    elements = sum(prod(shapes[name][1]) for name in made)
    if node.op_type == "Conv":
        return 2 * elements * prod(shapes[given[1]][1][1:])
    if node.op_type in ("Gemm", "MatMul"):
        transposed = any(each.name == "transA" and each.i for each in node.attribute)
        return 2 * elements * shapes[given[0]][1][0 if transposed else -1]
    return max(elements, prod(shapes[given[0]][1]) if given else 0)
