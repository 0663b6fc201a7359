"""The tower as an ONNX graph, with the transforms of the numbers inside.

    embeddings  float [B, W]      what a lookup returns: all features side by side, in layout order
    dense       double [B, D]     the columns as they stand in the data; NaN where null
    logit       float [B]
    score       double [B]        the probability

An input that the model does not have is left out. The graph is built node by node, so that the same
model is the same bytes, and needs no torch to be read. Infinities, which training refuses, are not
caught here.
"""

from collections.abc import Sequence

import numpy as np

from features.dense import DenseTransform
from trainer.onnx_graph import Graph
from trainer.settings import TowerSettings
from trainer.towers import CrossTower, DlrmTower, Hidden, MlpTower, Tower

FILE = "tower.onnx"


def tower_graph(
    tower: Tower, settings: TowerSettings, width: int, transforms: Sequence[DenseTransform]
) -> bytes:
    """Returns the file of a tower over embeddings of `width` columns; ConfigError without onnx."""
    graph = Graph({name: p.detach().cpu().numpy() for name, p in tower.named_parameters()})
    inputs = []
    if width:
        inputs.append("embeddings")
        graph.add_input("embeddings", graph.float, width)
    if transforms:
        graph.add_input("dense", graph.double, len(transforms))
        inputs.append(_transformed(graph, transforms))
    start = graph.node("Concat", inputs, axis=1) if len(inputs) > 1 else inputs[0]
    if isinstance(tower, CrossTower):
        last = _cross(graph, tower, settings, start)
    elif isinstance(tower, DlrmTower):
        last = _dlrm(graph, tower, inputs)
    elif isinstance(tower, MlpTower):
        last = _hidden(graph, "deep", tower.deep, start)
    else:
        raise TypeError(f"{type(tower).__name__} has no graph")
    logit = graph.node("Squeeze", [graph.linear("head", last), graph.integers([1])], out="logit")
    graph.node("Sigmoid", [graph.node("Cast", [logit], to=graph.double)], out="score")
    return graph.serialize({"logit": graph.float, "score": graph.double})


def _transformed(graph: Graph, transforms: Sequence[DenseTransform]) -> str:
    """The numbers as the tower takes them, in the order of `features.dense`: all columns at once,
    with what does not apply to one switched off in its constants."""
    features = [transform.feature for transform in transforms]
    fills = [0.0 if f.fill is None else f.fill for f in features]
    missing = graph.node("IsNaN", ["dense"])
    low, high = zip(*[f.clip or (-np.inf, np.inf) for f in features], strict=True)
    x = graph.node("Min", ["dense", graph.doubles(high)])
    x = graph.node("Max", [x, graph.doubles(low)])
    x = graph.node("Where", [missing, graph.doubles(fills), x])
    if any(f.log == "log1p" for f in features):
        bounded = graph.node("Max", [x, graph.doubles([0.0])])
        chosen = graph.booleans([f.log == "log1p" for f in features])
        x = graph.node("Where", [chosen, _log1p(graph, bounded), x])
    if any(f.log == "signed" for f in features):
        signed = graph.node("Mul", [graph.node("Sign", [x]), _log1p(graph, graph.node("Abs", [x]))])
        x = graph.node("Where", [graph.booleans([f.log == "signed" for f in features]), signed, x])
    means = [t.mean if t.feature.standardize else 0.0 for t in transforms]
    scales = [
        (1 / t.std if t.std > 0 else 0.0) if t.feature.standardize else 1.0 for t in transforms
    ]
    x = graph.node("Mul", [graph.node("Sub", [x, graph.doubles(means)]), graph.doubles(scales)])
    rest = [0.0 if t.feature.standardize else t.mean for t in transforms]
    unfilled = graph.booleans([f.fill is None for f in features])
    x = graph.node("Where", [graph.node("And", [missing, unfilled]), graph.doubles(rest), x])
    values = graph.node("Cast", [x], to=graph.float)
    flags = graph.node("Cast", [missing], to=graph.float)
    order = []
    for place, transform in enumerate(transforms):
        order.append(place)
        if transform.has_indicator:
            order.append(len(transforms) + place)
    both = graph.node("Concat", [values, flags], axis=1)
    return graph.node("Gather", [both, graph.integers(order)], axis=1)


def _log1p(graph: Graph, x: str) -> str:
    """log(1 + x) to the last digits for small x too: x log(u) / (u - 1) with u = 1 + x rounded
    (Goldberg 1991, theorem 4)."""
    one = graph.doubles([1.0])
    u = graph.node("Add", [x, one])
    rest = graph.node("Sub", [u, one])
    is_one = graph.node("Equal", [u, one])
    divisor = graph.node("Where", [is_one, one, rest])
    scaled = graph.node("Div", [graph.node("Mul", [x, graph.node("Log", [u])]), divisor])
    return graph.node("Where", [is_one, x, scaled])


def _cross(graph: Graph, tower: CrossTower, settings: TowerSettings, start: str) -> str:
    crossed = start
    for number in range(settings.cross_layers):
        inner = crossed
        if settings.low_rank is not None:
            inner = graph.linear(f"cross.{number}.thin", inner)
        product = graph.node("Mul", [start, graph.linear(f"cross.{number}.full", inner)])
        crossed = graph.node("Add", [product, crossed])
    if tower.is_parallel:
        return graph.node("Concat", [crossed, _hidden(graph, "deep", tower.deep, start)], axis=1)
    return _hidden(graph, "deep", tower.deep, crossed)


def _dlrm(graph: Graph, tower: DlrmTower, inputs: Sequence[str]) -> str:
    bottom = tower.bottom
    if isinstance(bottom, Hidden):
        first = _hidden(graph, "bottom", bottom, inputs[-1])
    else:
        batch = graph.node("Gather", [graph.node("Shape", ["embeddings"]), graph.integers([0])])
        constant = graph.weights["constant"]
        shape = graph.node("Concat", [batch, graph.integers([constant.shape[1]])], axis=0)
        first = graph.node("Expand", [graph.constant(constant), shape])
    vectors, at = [first], 0
    for number, width in enumerate(tower.widths):
        part = graph.columns("embeddings", at, at + width)
        at += width
        has_weight = f"project.{number}.weight" in graph.weights
        vectors.append(graph.linear(f"project.{number}", part) if has_weight else part)
    count = len(vectors)
    rows = [graph.node("Unsqueeze", [vector, graph.integers([1])]) for vector in vectors]
    stacked = graph.node("Concat", rows, axis=1)
    products = graph.node("MatMul", [stacked, graph.node("Transpose", [stacked], perm=[0, 2, 1])])
    flat = graph.node("Reshape", [products, graph.integers([-1, count * count])])
    dots = graph.node("Gather", [flat, graph.integers(tower.pairs.tolist())], axis=1)
    if bottom is not None:
        dots = graph.node("Concat", [first, dots], axis=1)
    return _hidden(graph, "deep", tower.deep, dots)


def _hidden(graph: Graph, name: str, layers: Hidden, x: str) -> str:
    for number in range(len(layers.layers)):
        x = graph.node("Relu", [graph.linear(f"{name}.layers.{number}", x)])
    return x
