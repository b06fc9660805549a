"""What an engine's back end must do."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.engines import ENGINES, Precision
from milonga_compiler.errors import BuildFailed, TuningRefused, UnsupportedOperators
from milonga_compiler.network import Network, read_network
from milonga_compiler.target import Target
from milonga_compiler.tuning import Step, Tuning

# float32 (n, 3, H, W) in; float32 (n, ...) out: (n, classes) of a classifier, (n, 4 + classes, anchors) of a detector.
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BuiltModel:
    """Files of a built network, relative to the folder that it was built in; `model_file` is the one to load."""

    model_file: str
    files: list[str]
    note: str = ""


# Each is made when it is asked for; close it to stop a build.
Variants = Generator[BuiltModel, None, None]


class Backend(ABC):
    """Builds networks for one engine and can run what it built."""

    name: str
    # What the build that is asked for must run on, as `uname -m` says; empty means this machine.
    architecture = ""
    # Folder of tuned kernels, of which a build takes those that it can use.
    database: Path | None = None

    @property
    def requirement(self) -> str:
        """What a device must have installed, as a version specifier."""
        return ENGINES[self.name].requirement

    @property
    def verification(self) -> str:
        """Whether the makers have run this engine on the hardware that it is for."""
        return ENGINES[self.name].verification

    def build(self, onnx_path: Path, target: Target, folder: Path, calibration: Floats | None) -> Variants:
        """Return variants of the build, the preferred first; the gate takes the first that holds and asks for no more.

        `calibration` is float32 (n, 3, H, W), normalised; int8 needs it. Raises BuildFailed, and UnsupportedOperators
        naming them, when the first variant is asked for.
        """
        network = read_network(onnx_path)
        self.architecture = target.architecture
        if self.architecture and self.architecture not in ENGINES[self.name].architectures:
            known = ", ".join(ENGINES[self.name].architectures)
            raise BuildFailed(f"{self.name} builds for {known}, not for {self.architecture}; choose another engine")
        if target.precision is Precision.INT8 and (calibration is None or not len(calibration)):
            raise BuildFailed("int8 needs pictures to calibrate on; give some, for example 100 of the training set")
        if calibration is not None and calibration.shape[1:] != network.shape:
            raise BuildFailed(
                f"the pictures to calibrate on have the shape {calibration.shape[1:]}, the network wants {network.shape}"
            )
        yield from self._variants(network, target.precision, folder, calibration)

    def tune(self, onnx_path: Path, target: Target, tuning: Tuning) -> Iterator[Step]:
        """Yield how far it is while kernels of the network are tuned into a folder, which keeps what was found whenever it stops.

        Raises TuningRefused, BuildFailed, and UnsupportedOperators naming them.
        """
        raise TuningRefused(f"{self.name} brings its kernels with it; only tvm is tuned")

    @abstractmethod
    def _variants(
        self, network: Network, precision: Precision, folder: Path, calibration: Floats | None
    ) -> Iterable[BuiltModel]:
        """Do what build() promises, for a network that was checked."""

    @abstractmethod
    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        """Return the first output (n, ...) of normalised inputs (n, 3, H, W)."""

    def outputs(self, model_file: Path, inputs: Floats, threads: int) -> list[Floats]:
        """Return all outputs (n, ...) that a build has; of most engines only the first is read."""
        return [self.run(model_file, inputs, threads)]

    def embed(self, model_file: Path) -> bool:
        """Give a built model the second output of embedding.py; return whether it has one now. Its first output stays as it was."""
        return False

    @abstractmethod
    def _accept(self, network: Network, scratch: Path) -> None:
        """Let the engine read the network; files may go into the folder. Raises UnsupportedOperators or BuildFailed."""

    def unsupported(self, network: Network) -> frozenset[str]:
        """Return those of the network's operators that the engine does not know. Raises BuildFailed."""
        with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
            try:
                self._accept(network, Path(scratch))
            except UnsupportedOperators as error:
                return frozenset(error.operators)
        return frozenset()
