"""`milonga-agent`: what people type on a device."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from milonga.unread import quiet_when_unread

import milonga_agent
from milonga_agent.errors import AgentError
from milonga_agent.limits import Limits, default_threads

_DEFAULT_HUB = "127.0.0.1:8443"


@quiet_when_unread
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; errors are one line on stderr that says what to do next."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except AgentError as error:
        print(f"milonga-agent: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="milonga-agent",
        description="Runs, measures and watches the networks that a Milonga hub assigns to this device.",
    )
    parser.add_argument("--version", action="version", version=f"milonga-agent {milonga_agent.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, help_, handler, fill in (
        ("run", "join the hub if need be, and work until stopped", _run, _add_run),
        ("enrol", "join a hub and stop", _enrol, _add_enrol),
        ("status", "what this agent is and serves, from its data folder", _status, _add_status),
        (
            "doctor",
            "what is wrong with this device and its way to the hub, and what to do about it",
            _doctor,
            _add_doctor,
        ),
        ("inventory", "what the agent finds on this machine", _inventory, _add_limits),
        ("measure", "time an ONNX file on this machine", _measure, _add_measure),
        ("serve", "answer with a bundle, without a hub, until stopped", _serve, _add_serve),
    ):
        verb = verbs.add_parser(name, help=help_, description=help_.capitalize() + ".")
        fill(verb)
        verb.set_defaults(run=handler)
    return parser


def _add_data_dir(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("MILONGA_AGENT_DATA_DIR", "milonga-agent-data")),
        help="where the agent keeps its identity, bundles and telemetry (default: %(default)s)",
    )  # fmt: skip


def _add_limits(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--threads", type=int, default=0, help="threads for engines (default: as many as cores)")
    verb.add_argument("--cpus", type=_cpus, default=(), metavar="0,1", help="cores to stay on (default: all)")
    verb.add_argument("--memory-mb", type=int, default=0, help="memory for engines (default: no limit)")
    verb.add_argument(
        "--engines", type=_names, metavar="A,B", help="engines to offer (default: all that are installed)"
    )
    verb.add_argument(
        "--simulate", default="", metavar="BOARD", help="stand for another board; shown as simulated everywhere"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--hub", default=os.environ.get("MILONGA_HUB", _DEFAULT_HUB), metavar="HOST:PORT", help="default: %(default)s"
    )
    verb.add_argument(
        "--join-token", default=os.environ.get("MILONGA_JOIN_TOKEN", ""), help="needed the first time only"
    )
    verb.add_argument(
        "--fingerprint", default=os.environ.get("MILONGA_HUB_FINGERPRINT", ""), metavar="sha256:...",
        help="what the hub is known by, to join without a token; `milonga up` prints it",
    )  # fmt: skip
    verb.add_argument(
        "--trust-first-use", action="store_true", help="join without a fingerprint: believe whoever answers this time"
    )
    verb.add_argument("--name", default="", help="name of this device (default: its host name)")
    verb.add_argument("--label", type=_label, action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    verb.add_argument(
        "--serve-port", type=int, default=0, help="port on loopback for requests (default: a free one, kept)"
    )
    verb.add_argument(
        "--trusted-root", type=Path, metavar="FILE",
        help="the hub's signing/metadata/1.root.json: install only what it leads to (default: ask the hub, the first time)",
    )  # fmt: skip
    verb.add_argument(
        "--max-download-kbps", type=_rate, default=os.environ.get("MILONGA_AGENT_MAX_DOWNLOAD_KBPS", "0"), metavar="KBPS",
        help="most that downloads take of the line, in kbit/s; what is said to the hub is not held back (default: no limit)",
    )  # fmt: skip
    verb.add_argument(
        "--cache-port", type=_port, default=os.environ.get("MILONGA_AGENT_CACHE_PORT", "none"), metavar="PORT",
        help="serve builds that lie here to devices of the same hub on this network, at this port; 0 takes a free one"
        " (default: do not)",
    )  # fmt: skip
    verb.add_argument(
        "--cache-host", type=_address, default=os.environ.get("MILONGA_AGENT_CACHE_HOST", ""), metavar="ADDRESS",
        help="address to serve them at (default: all, and tell the hub the one by which it is reached)",
    )  # fmt: skip
    verb.add_argument(
        "--cache-kbps", type=_rate, default=os.environ.get("MILONGA_AGENT_CACHE_KBPS", "50000"), metavar="KBPS",
        help="most that is sent to them all together, in kbit/s; 0 for no limit (default: 50000)",
    )  # fmt: skip
    verb.add_argument(
        "--redact", default=os.environ.get("MILONGA_REDACT", ""), metavar="HOW",
        help="make pictures unrecognisable before they are kept for labelling: blur, downscale=PIXELS, or a command that"
        " turns a PNG on its input into a picture on its output (default: send them as they are)",
    )  # fmt: skip
    verb.add_argument(
        "--no-samples", action="store_true", help="let no picture leave this device, whatever its project allows"
    )
    verb.add_argument("--no-tuning", action="store_true", help="let no hub try tvm's kernels on this device")
    _add_data_dir(verb)
    _add_limits(verb)


def _add_enrol(verb: argparse.ArgumentParser) -> None:
    _add_run(verb)
    verb.add_argument(
        "--no-wait", action="store_true", help="stop with exit code 8 where an operator has to decide first"
    )


def _add_status(verb: argparse.ArgumentParser) -> None:
    _add_data_dir(verb)
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_doctor(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--hub", default="", metavar="HOST:PORT", help="look for a hub there (default: the one that was joined)"
    )
    _add_data_dir(verb)
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_measure(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", type=Path, help="ONNX file")
    verb.add_argument("--engine", default="onnxruntime", help="default: %(default)s")
    verb.add_argument("--seconds", type=float, default=10.0, help="longest time to measure (default: %(default)g)")
    _add_limits(verb)


def _add_serve(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("bundle", type=Path, help="folder with manifest.json")
    verb.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    verb.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    verb.add_argument("--threads", type=int, default=0, help="threads for the engine (default: as many as cores)")


def _cpus(text: str) -> tuple[int, ...]:
    try:
        wanted = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of core numbers such as 0,1") from error
    missing = set(wanted) - os.sched_getaffinity(0)
    if missing:
        raise argparse.ArgumentTypeError(f"this machine has no core {min(missing)}")
    return wanted


def _rate(text: str) -> float:
    try:
        kbps = float(text)
    except ValueError:
        kbps = -1.0
    if not 0 <= kbps < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of kilobits a second such as 2000; 0 is no limit")
    return kbps


def _port(text: str) -> int | None:
    if text in ("", "none"):
        return None
    if not text.isdecimal() or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535, or none")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address of this machine") from error


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _limits(given: argparse.Namespace) -> Limits:
    threads = given.threads or len(given.cpus) or default_threads()
    return Limits(threads=threads, cpus=given.cpus, memory_bytes=given.memory_mb * 1_000_000)


def _options(given: argparse.Namespace) -> Any:
    from milonga_agent.cache import CacheOptions
    from milonga_agent.daemon import Options

    return Options(
        hub=given.hub,
        data_dir=given.data_dir.absolute(),
        name=given.name,
        join_token=given.join_token,
        fingerprint=given.fingerprint,
        trust_first=given.trust_first_use,
        labels=dict(given.label),
        board=given.simulate,
        limits=_limits(given),
        engines=given.engines,
        serve_port=given.serve_port,
        max_download_kbps=given.max_download_kbps,
        cache=None if given.cache_port is None else CacheOptions(given.cache_host, given.cache_port, given.cache_kbps),
        trusted_root=given.trusted_root.absolute() if given.trusted_root else None,
        redact=given.redact,
        samples=not given.no_samples,
        tuning=not given.no_tuning,
    )


def _run(given: argparse.Namespace) -> int:
    from milonga_agent import daemon
    from milonga_agent.supervision import start_command

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if asyncio.run(daemon.run(_options(given))):
        # In place of this process: a supervisor sees no end of it.
        command = [*start_command(), *sys.argv[1:]]
        os.execv(command[0], command)  # noqa: S606
    return 0


def _enrol(given: argparse.Namespace) -> int:
    from milonga_agent.daemon import Agent

    async def enrol() -> Any:
        return await Agent(_options(given)).enrol(wait=not given.no_wait)

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    _show(asdict(asyncio.run(enrol())), given.json)
    return 0


def _status(given: argparse.Namespace) -> int:
    from milonga_agent.state import Store

    if not given.data_dir.exists():
        raise AgentError(
            f"there is no agent in {given.data_dir}; start one with: milonga-agent run, or give --data-dir"
        )
    store = Store(given.data_dir)
    identity, state, port = store.identity(), store.state(), store.serve_port()
    _show(
        {
            "device": identity.device if identity else "",
            "device_type": identity.device_type if identity else "",
            "hub": identity.hub if identity else "",
            "model_version": state.active.model_version,
            "project": state.active.project,
            "previous_model_version": state.previous.model_version,
            "bundle": state.active.bundle,
            "serving_url": f"http://127.0.0.1:{port}" if port and state.active.bundle else "",
            "step": state.position.step.value if state.position.step else "",
            "generation": state.generation,
            "message": state.message,
        },
        given.json,
    )
    return 0


def _doctor(given: argparse.Namespace) -> int:
    """Return 1 where a check failed: what does not hold anything up is only a warning."""
    from milonga_agent import doctor

    checks = doctor.examine(given.data_dir, given.hub)
    worst = doctor.worst(checks)
    if given.json:
        print(json.dumps({"result": worst, "checks": [asdict(check) for check in checks]}, indent=1))
        return int(worst == doctor.FAILED)
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{check.result:<8}  {check.name:<{width}}  {check.found}")
        if check.next_step:
            print(f"{'':<8}  {'':<{width}}  -> {check.next_step}")
    return int(worst == doctor.FAILED)


def _inventory(given: argparse.Namespace) -> int:
    from google.protobuf.json_format import MessageToDict

    from milonga_agent.inventory import probe

    found = probe(_limits(given), given.engines, given.simulate)
    _show(MessageToDict(found, preserving_proto_field_name=True), given.json)
    return 0


def _measure(given: argparse.Namespace) -> int:
    from milonga_agent.profile import Effort, profile

    limits = _limits(given)
    limits.apply_cpus()
    limits.apply_memory()
    if not given.model.is_file():
        raise AgentError(f"there is no file {given.model}")
    timing = profile(given.model, given.engine, limits.threads, Effort(max_repeats=1000, budget_seconds=given.seconds))
    _show(asdict(timing), given.json)
    return 0


def _serve(given: argparse.Namespace) -> int:
    from milonga_agent.standalone import serve

    serve(given.bundle, given.host, given.port, given.threads or default_threads())
    return 0


def _show(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=1))
        return
    width = max(len(key) for key in values)
    for key, value in values.items():
        print(f"{key.replace('_', ' '):<{width}}  {value if value not in ('', None) else '-'}")


if __name__ == "__main__":
    sys.exit(main())
