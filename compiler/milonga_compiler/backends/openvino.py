"""OpenVINO: its own IR from ONNX, fp32 computed as fp32, int8 by nncf on the user's pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends.base import Backend, BuiltModel, Floats
from milonga_compiler.engines import Precision
from milonga_compiler.errors import BuildFailed, UnsupportedOperators
from milonga_compiler.network import Network
from milonga_compiler.sensitivity import PICTURES

# Where the IR says in which numbers to compute; the agent's runtime reads the same place. Without it OpenVINO takes the
# fastest numbers of the processor, which on x86 with AMX is bf16 even for an fp32 model.
RT_INFO = ["milonga", "inference_precision"]
_UNKNOWN = re.compile(r"No conversion rule found for operations: (?P<names>[^\n]+)")
# Bounds the memory of activations; results do not depend on it.
_BATCH = 64
# What int8 may move the outputs at most, as a share of their length, before layers are given back to floats.
_MOST_MOVED = 0.02


class OpenVinoBackend(Backend):
    name = "openvino"

    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        if precision is Precision.INT8 and calibration is not None:
            yield from self._quantized(network, folder, calibration)
            return
        model = self._read(network.path)
        if precision is Precision.FP32:
            model.set_rt_info("f32", RT_INFO)
        yield self._saved(model, folder, "model", compress=precision is Precision.FP16)

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        return self.outputs(model_file, inputs, threads)[0]

    def outputs(self, model_file: Path, inputs: Floats, threads: int) -> list[Floats]:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(model_file))
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        if model.has_rt_info(RT_INFO):
            options["INFERENCE_PRECISION_HINT"] = model.get_rt_info(RT_INFO).value
        compiled = core.compile_model(model, "CPU", options)
        parts = [
            [output.copy() for output in compiled(inputs[start : start + _BATCH]).to_tuple()]
            for start in range(0, len(inputs), _BATCH)
        ]
        return [np.concatenate(each).astype(np.float32) for each in zip(*parts)]

    def embed(self, model_file: Path) -> bool:
        import openvino

        from milonga_compiler.backends.openvino_embedding import embed

        model = openvino.Core().read_model(str(model_file))
        if not embed(model):
            return False
        # What was read is still the old file's memory, so that the new one is written beside it.
        beside = model_file.with_name(f"{model_file.stem}-embedding.xml")
        openvino.save_model(model, str(beside), compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            beside.with_suffix(suffix).replace(model_file.with_suffix(suffix))
        return True

    def _accept(self, network: Network, scratch: Path) -> None:
        self._read(network.path)

    def _read(self, path: Path) -> Any:
        """Return the network. Raises UnsupportedOperators or BuildFailed."""
        import openvino

        try:
            return openvino.Core().read_model(str(path))
        except RuntimeError as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None:
                raise BuildFailed(f"OpenVINO {openvino.__version__} cannot read the network: {error}") from error
            # It writes ONNX's own as "Name-17", by opset.
            names = [re.sub(r"-\d+$", "", name.strip()) for name in unknown["names"].split(",")]
            message = f"OpenVINO {openvino.__version__} does not know the operators {', '.join(names)}"
            raise UnsupportedOperators(message, names) from error

    def _saved(self, model: Any, folder: Path, name: str, compress: bool, note: str = "") -> BuiltModel:
        import openvino

        openvino.save_model(model, str(folder / f"{name}.xml"), compress_to_fp16=compress)
        return BuiltModel(f"{name}.xml", [f"{name}.xml", f"{name}.bin"], note)

    def _quantized(self, network: Network, folder: Path, calibration: Floats) -> Iterator[BuiltModel]:
        """Yield int8 variants, the cheapest first: two ways to find ranges, then nncf's search for sensitive layers."""
        os.environ["NNCF_CI"] = "1"  # Nothing is sent to anyone: nncf reports its use unless this is set.
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters as Advanced
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

        pictures = nncf.Dataset([calibration[index : index + 1] for index in range(len(calibration))])
        common = {"subset_size": len(calibration)}
        forgiving = Advanced(activations_range_estimator_params=Ranges.MEAN_NO_OUTLIERS_MINMAX)
        recipes = {
            "minmax": {"preset": nncf.QuantizationPreset.PERFORMANCE},
            "minmax-asymmetric": {"preset": nncf.QuantizationPreset.MIXED},
            "outliers-ignored": {"preset": nncf.QuantizationPreset.MIXED, "advanced_parameters": forgiving},
        }
        on = f"calibrated by {{}} on {len(calibration)} pictures"
        for name, recipe in recipes.items():
            model = nncf.quantize(self._read(network.path), pictures, **common, **recipe)
            yield self._saved(model, folder, f"model-{name}", compress=False, note=on.format(name))
        # They are run once and again for each layer.
        few = calibration[:PICTURES]
        wanted = self._outputs(self._read(network.path), few)

        def likeness(compiled: Any, _: Any) -> tuple[float, None]:
            # 1 where nothing moves: nncf divides by what the network itself comes to.
            return 1.0 - _moved(np.concatenate([compiled(picture[None])[0] for picture in few]), wanted), None

        model = nncf.quantize_with_accuracy_control(
            self._read(network.path),
            pictures,
            nncf.Dataset([few[index : index + 1] for index in range(len(few))]),
            validation_fn=likeness,
            max_drop=_MOST_MOVED,
            preset=nncf.QuantizationPreset.MIXED,
            **common,
        )
        yield self._saved(model, folder, "model-sensitive-fp32", compress=False, note=on.format("sensitive-fp32"))

    def _outputs(self, model: Any, inputs: Floats) -> Floats:
        import openvino

        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.concatenate([compiled(picture[None])[0] for picture in inputs])


def _moved(outputs: Floats, wanted: Floats) -> float:
    """Return how far outputs (n, ...) are from those wanted, as a share of their length."""
    return float(np.linalg.norm(outputs - wanted) / max(float(np.linalg.norm(wanted)), 1e-9))
