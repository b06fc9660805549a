"""The daemon stays small: what takes memory lives in processes that end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from milonga_agent.errors import AgentError
from milonga_agent.inventory import probe
from milonga_agent.limits import Limits
from milonga_agent.probing import Prober


def test_the_daemon_imports_nothing_that_it_needs_only_at_times() -> None:
    heavy = {"numpy", "tuf", "cryptography", "psutil", "importlib.metadata", "email", "http.client"}
    code = f"import sys, milonga_agent.daemon; print({heavy} & set(sys.modules)); import urllib.request as u; u.urlopen"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_machine_is_probed_by_a_process_as_it_would_be_here_and_once_a_minute(tmp_path: Path) -> None:
    async def story() -> None:
        now = 100.0
        prober = Prober(Limits(2, (0,)), ("onnxruntime",), "Board 1", tmp_path, lambda: now)
        found = await prober.recent()
        expected = probe(Limits(2, (0,)), ("onnxruntime",), "Board 1", tmp_path)
        found.disk_free_bytes = expected.disk_free_bytes
        assert found == expected and found.engines[0].name == "onnxruntime"
        assert await prober.recent() is found
        now = 161.0
        assert await prober.recent() is not found

    asyncio.run(story())


def test_an_agent_that_can_start_no_process_probes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    found = asyncio.run(Prober(Limits(), None, "Board 1", tmp_path).now())
    assert found.board == "Board 1"


def test_a_machine_that_cannot_be_probed_says_why(tmp_path: Path) -> None:
    prober = Prober(Limits(), None, "", tmp_path / "missing")
    with pytest.raises(AgentError, match="cannot be probed"):
        asyncio.run(prober.now())
