"""The boards that are known by name, and how far each was tried."""

from __future__ import annotations


def boards() -> str:
    """Return the page of known device types, from fleet_configs/device_types."""
    from milonga_compiler.engines import ENGINES
    from milonga_hub.devices.known import shipped

    rows = [
        f"| {one.spec.title} | `{one.name}` | {one.spec.architecture} | {', '.join(f'`{each}`' for each in one.spec.targets)}"
        f" | {one.spec.verification} |"
        for one in shipped()
    ]
    engines = [
        f"| `{name}` | {', '.join(engine.precisions)} | {engine.build_site} | {', '.join(engine.architectures)}"
        f" | {engine.verification} |"
        for name, engine in ENGINES.items()
    ]
    return "\n".join(
        [
            "# Known boards and engines",
            "",
            "From `fleet_configs/device_types` and the compiler. A board that is not here works too: it becomes a type of its own, by what its"
            " hardware and engines are. *Not verified on hardware* means that nobody of the makers has run Milonga on it.",
            "",
            "## Boards",
            "",
            "| board | type | processor | targets, the preferred first | verified |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "## Engines",
            "",
            "| engine | precisions | built on the | processors | verified |",
            "|---|---|---|---|---|",
            *engines,
            "",
        ]
    )
