"""What is true of a rollout's devices once it has been aborted. Pure."""

from __future__ import annotations

from milonga_hub.rollouts.models import (
    LEFT_OUT,
    RolloutDevice,
    RolloutDeviceState,
    RolloutState,
    RolloutView,
)

_UNFINISHED = (RolloutDeviceState.WAITING, RolloutDeviceState.ASSIGNED)


def seen(rollout: RolloutView) -> RolloutView:
    """Return the rollout as people and programs may see it.

    Nobody looks after an aborted one any more, so what is kept of its devices is how they stood when it ended.
    """
    values = {name: getattr(rollout, name) for name in RolloutView.model_fields}
    if rollout.state is RolloutState.ABORTED:
        values["devices"] = [_let_go(device) for device in rollout.devices]
    return RolloutView(**values)


def _let_go(device: RolloutDevice) -> RolloutDevice:
    if device.wave == LEFT_OUT or device.state not in _UNFINISHED:
        return device
    state, message = RolloutDeviceState.SKIPPED, "its turn had not come; this rollout changed nothing on it"
    if device.generation:
        state, message = (
            RolloutDeviceState.TOLD,
            "was told to take the version, and does so unless a later rollout says otherwise; what it has now:"
            f" milonga devices show {device.device}",
        )
    return device.model_copy(update={"state": state, "message": message, "late": False})
