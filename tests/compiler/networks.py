"""A small network that really recognises digits: random convolutions and a ridge readout, written with onnx.helper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits

SIZE_PX = 16
CHANNELS = 16


@dataclass(frozen=True)
class Pictures:
    """uint8 (n, 3, 16, 16) and labels (n,); the first `train_count` are for training."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    train_count: int = 600

    @property
    def normalised(self) -> NDArray[np.float32]:
        from milonga.pictures import normalise

        return normalise(self.images, MEAN, STD)


def digits(count: int = 900) -> Pictures:
    known = load_digits()
    scaled = [
        np.asarray(Image.fromarray((image * 15.9).astype(np.uint8)).resize((SIZE_PX, SIZE_PX)))
        for image in known.images[:count]
    ]
    grey = np.stack(scaled)[:, None]
    return Pictures(np.ascontiguousarray(np.repeat(grey, 3, axis=1)), known.target[:count].astype(np.int64))


def _statistics(pictures: Pictures) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the training pictures by channel, on the scale 0 to 1."""
    values = pictures.images[: pictures.train_count] / 255.0
    return [float(one) for one in values.mean(axis=(0, 2, 3))], [float(one) for one in values.std(axis=(0, 2, 3))]


MEAN, STD = _statistics(digits())


def write_network(path: Path, pictures: Pictures) -> NDArray[np.float32]:
    """Write the network and return its logits (n, 10) on all pictures."""
    random = np.random.default_rng(0)
    kernel = random.normal(0, 0.3, (CHANNELS, 3, 3, 3)).astype(np.float32)
    features = _run(_model(kernel, None), pictures.normalised, "features")
    train = slice(0, pictures.train_count)
    design = np.c_[features[train], np.ones(pictures.train_count)]
    targets = np.eye(10)[pictures.labels[train]] * 8 - 4
    weights = np.linalg.solve(design.T @ design + 30 * np.eye(design.shape[1]), design.T @ targets).astype(np.float32)
    onnx.save(_model(kernel, weights), str(path))
    return _run(onnx.load(str(path)), pictures.normalised, "logits")


def _run(model: onnx.ModelProto, inputs: NDArray[np.float32], output: str) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {"image": inputs})[0], dtype=np.float32)


def _model(kernel: NDArray[np.float32], weights: NDArray[np.float32] | None) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["convolved"], "conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["active"], "relu"),
        helper.make_node("Flatten", ["active"], ["features"], "flatten"),
    ]
    tensors = [numpy_helper.from_array(kernel, "kernel")]
    output, width = "features", CHANNELS * (SIZE_PX // 2) ** 2
    if weights is not None:
        nodes.append(helper.make_node("Gemm", ["features", "weights", "bias"], ["logits"], "gemm"))
        tensors += [numpy_helper.from_array(weights[:-1], "weights"), numpy_helper.from_array(weights[-1], "bias")]
        output, width = "logits", weights.shape[1]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
