"""The supernet and its subnets are one network; training shares its weights; predictions hold on what they never saw."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from milonga.pictures import normalise
from milonga_hub.learning.data import Data, load
from milonga_hub.learning.evolve import Figures, search
from milonga_hub.learning.export import export
from milonga_hub.learning.predict import AccuracyModel, LatencyModel, cost_features
from milonga_hub.learning.spaces import Encoding, space
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.train import Recipe, Trainer, accuracy, load_supernet, logits_of, subnet

from tests.learning.data import write_arrays

MBV3 = space("mbv3")
RECIPE = Recipe("mbv3", 16, epochs=3, batch_size=32, learning_rate=0.05, seed=0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load(write_arrays(tmp_path_factory.mktemp("data") / "data.npz"))


@pytest.fixture(scope="module")
def trained(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "checkpoint.pt"
    Trainer(data, RECIPE, path).run(lambda *_: None)
    return path


def _some(count: int = 6) -> list[Encoding]:
    source = random.Random(3)
    return [MBV3.smallest(), MBV3.largest(), *(MBV3.sample(source) for _ in range(count))]


def test_an_extracted_subnet_computes_what_the_supernet_does(data: Data) -> None:
    torch.manual_seed(0)
    supernet = Supernet(MBV3, 16, 10)
    for parameter in supernet.parameters():
        # Blocks start as the identity, which would hide mistakes in them.
        torch.nn.init.normal_(parameter, std=0.3)
    # In double precision: another order of summing, which CPUs choose for themselves, is then far below the tolerance.
    supernet.double()
    pictures = data.x_train[:16].double()
    for encoding in _some():
        expected = supernet(pictures, encoding)
        found = supernet.extract(encoding).double().train()(pictures)
        scale = expected.abs().max()
        assert (found - expected).abs().max() < 1e-9 * scale, MBV3.describe(encoding)


def test_costs_count_the_weights_of_the_extracted_subnet() -> None:
    supernet = Supernet(MBV3, 32, 10)
    for encoding in _some():
        network = supernet.extract(encoding)
        convolutions = [one for one in network.modules() if isinstance(one, torch.nn.Conv2d)]
        weights = sum(one.weight.numel() + one.out_channels for one in convolutions)
        classifier = sum(one.numel() for one in network[-1].parameters())
        assert MBV3.cost(encoding, 32, 10).params == weights + classifier


def test_training_teaches_small_and_large_alike(data: Data, tmp_path: Path) -> None:
    """Ten classes: chance is 10 %."""
    trainer = Trainer(data, replace(RECIPE, epochs=10, batch_size=16), tmp_path / "checkpoint.pt")
    trainer.run(lambda *_: None)
    for encoding, chance in ((MBV3.smallest(), 0.3), (MBV3.largest(), 0.5)):
        assert accuracy(logits_of(trainer.supernet, encoding, data), data.y_val) > chance


def test_training_that_was_interrupted_ends_like_one_that_was_not(trained: Path, data: Data, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill_in_epoch_2(fraction: float, point: object, loss: float) -> None:
        if fraction > 0.5:
            raise Killed

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        Trainer(data, RECIPE, path).run(kill_in_epoch_2)
    again = Trainer(data, RECIPE, path)
    assert len(again.history) == 1
    again.run(lambda *_: None)
    whole = load_supernet(trained).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in load_supernet(path).state_dict().items())


def test_training_on_from_a_supernet_starts_where_it_was(trained: Path, data: Data, tmp_path: Path) -> None:
    base = load_supernet(trained).state_dict()
    fresh = Trainer(data, RECIPE, tmp_path / "checkpoint.pt", base=trained).supernet.state_dict()
    assert all(torch.equal(value, base[name]) for name, value in fresh.items())


def test_training_and_serving_normalise_alike(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "data.npz", count=40)
    data = load(path)
    with np.load(path) as arrays:
        served = normalise(arrays["x_val"], data.mean, data.std)
    assert np.allclose(served, data.x_val.numpy(), atol=1e-5)


def test_an_exported_subnet_answers_as_the_torch_one(trained: Path, data: Data, tmp_path: Path) -> None:
    network = subnet(load_supernet(trained), _some()[3], data)
    export(network, 16, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        (logits,) = session.run(["logits"], {"image": data.x_val[:count].numpy()})
        with torch.no_grad():
            expected = network(data.x_val[:count]).numpy()
        assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()
    assert not any(node.op_type == "BatchNormalization" for node in _nodes(tmp_path / "model.onnx"))


def _nodes(path: Path) -> list[onnx.NodeProto]:
    return list(onnx.load(str(path)).graph.node)


def _device(encodings: list[Encoding], noise: float, seed: int) -> np.ndarray:
    """Milliseconds of a made-up device: fixed cost, unlike prices for plain and depthwise MACs, and for each layer."""
    features = cost_features(MBV3, encodings, 32, 10)
    ms = 0.02 + features[:, 0] * 2e-8 + features[:, 1] * 9e-8 + features[:, 4] * 0.004
    return np.asarray(ms * np.exp(np.random.default_rng(seed).normal(0, noise, len(ms))))


@pytest.mark.parametrize("seed", range(4))
def test_eight_measurements_predict_all_others(seed: int) -> None:
    source = random.Random(seed)
    known, unseen = ([MBV3.sample(source) for _ in range(count)] for count in (8, 200))
    model = LatencyModel(cost_features(MBV3, known, 32, 10), _device(known, 0.01, seed))
    predicted = model.predict(cost_features(MBV3, unseen, 32, 10))
    real = _device(unseen, 0.0, seed)
    error = float(np.mean(np.abs(predicted.ms / real - 1)))
    assert error < 0.08
    within = (predicted.low_ms <= real) & (real <= predicted.high_ms)
    assert within.mean() > 0.6
    assert model.quality.count == 8


def test_the_latency_model_is_never_worse_than_macs_with_a_gain_where_it_was_measured() -> None:
    known = _some(6)
    features = cost_features(MBV3, known, 32, 10)
    pure = LatencyModel(features, features[:, 0] * 1e-7)
    assert pure.quality.held_out_relative_error < 1e-6


def test_two_measurements_are_too_few() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        LatencyModel(cost_features(MBV3, _some(0), 32, 10), np.array([1.0, 2.0]))


def test_the_accuracy_model_ranks_subnets_it_never_saw() -> None:
    source = random.Random(1)
    known, unseen = ([MBV3.sample(source) for _ in range(count)] for count in (40, 200))

    def quality(encodings: list[Encoding]) -> np.ndarray:
        return np.array([0.8 + 0.01 * sum(encoding) for encoding in encodings])

    def sizes(encodings: list[Encoding]) -> np.ndarray:
        return np.asarray(cost_features(MBV3, encodings, 32, 10)[:, 0])

    model = AccuracyModel(MBV3, known, quality(known).tolist(), sizes(known))
    predicted = model.predict(unseen, sizes(unseen))
    assert np.corrcoef(predicted, np.clip(quality(unseen), 0, 1))[0, 1] > 0.8
    assert model.kendall_tau > 0.5


def _judge(limit_ms: float) -> object:
    def judge(encodings: list[Encoding]) -> Figures:
        features = cost_features(MBV3, encodings, 32, 10)
        ms = features[:, 0] * 1e-6
        accuracy_ = 1 - 1 / np.log(features[:, 3])
        return Figures(accuracy_, ms, (ms / limit_ms - 1)[:, None])

    return judge


def test_no_subnet_of_the_front_beats_another() -> None:
    judge = _judge(3.0)
    found = search(MBV3, judge, 1, population=24, generations=12, seed=0)  # type: ignore[arg-type]
    figures = judge(found.front)  # type: ignore[operator]
    assert len(found.front) > 3
    assert (figures.ms <= 3.0).all()
    assert (np.diff(figures.ms) >= 0).all() and (np.diff(figures.accuracy) >= 0).all()
    assert ((np.diff(figures.ms) > 0) | (np.diff(figures.accuracy) == 0)).all()
    again = search(MBV3, judge, 1, population=24, generations=12, seed=0)  # type: ignore[arg-type]
    assert again == found


def test_limits_that_nothing_keeps_leave_the_fastest() -> None:
    found = search(MBV3, _judge(1e-9), 1, population=16, generations=4, seed=0)  # type: ignore[arg-type]
    assert found.front == []
    assert found.fastest == MBV3.smallest()
