"""The bundles on this device: fetched and checked before they are installed, removed when nobody needs them."""

from __future__ import annotations

from milonga_agent.engines import Engines
from milonga_agent.errors import DiskFull
from milonga_agent.hub import Courier
from milonga_agent.memory import Memory
from milonga_agent.plan import WantedFile, Wish
from milonga_agent.steps import Depot
from milonga_agent.trusting import Trust


class Bundles:
    """Where the bundles are, where they come from, and who must have signed them."""

    def __init__(self, depot: Depot, engines: Engines, trust: Trust, courier: Courier, memory: Memory) -> None:
        self.depot = depot
        self.engines = engines
        self._trust = trust
        self.courier = courier
        self._memory = memory
        # What a measurement under way needs: not to be collected.
        self.to_measure = Wish()
        # What is measured again in turn, and what that is known by: kept as long as there is room and more may come.
        self.compared: list[Wish] = []
        self._batch = ""

    def compare(self, batch: str) -> None:
        """Keep what belongs to the batch from now on, and nothing of others."""
        if batch != self._batch:
            self._batch, self.compared = batch, []

    async def download_to_measure(self, wish: Wish) -> None:
        """Fetch what is missing, if need be in place of what is compared with it. Raises DiskFull, or whatever the courier raises."""
        self.to_measure = wish
        try:
            await self.depot.download(wish.files, self.courier, lambda fraction: None)
        except DiskFull:
            if not self.compared:
                raise
            self.compared = []
            self.collect()
            await self.depot.download(wish.files, self.courier, lambda fraction: None)

    async def check(self, wish: Wish) -> None:
        """Return if the bundle is signed for the project that its manifest names. Raises Untrusted."""
        manifest = next(file for file in wish.files if file.path == "manifest.json")
        await self.check_signed(self.depot.project(wish), manifest)

    async def check_signed(self, project: str, manifest: WantedFile) -> None:
        """Return if the file is signed for the project. Raises Untrusted."""
        await self._trust.check(project, manifest.digest, manifest.size_bytes, self.courier.metadata)

    def collect(self) -> None:
        """Remove what nobody needs, once it is written down what is needed; an agent without memory removes nothing."""
        if self._memory.kept and self._memory.state.generation:
            kept = [*self._memory.state.kept, self.to_measure, *self.compared]
            self.depot.collect(kept)
            self.engines.collect({wish.bundle for wish in kept if wish.bundle})
