"""Steps that plug-ins take with a picture before it is scaled, on the hub and on devices alike.

A step takes a picture (RGB, upright) and returns one. A project names its steps in order; they are part of the input that
a bundle's manifest describes, so that training and serving never differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from PIL import Image

from milonga.plugins import PluginBroken, listed

# Entry points of this group name a Step.
GROUP = "milonga.preprocessing"

Step = Callable[[Image.Image], Image.Image]


def names() -> list[str]:
    """Return the steps that plug-ins bring here; nothing is loaded."""
    return [one.name for one in listed(GROUP, ()) if not one.problem]


@cache
def step(name: str) -> Step:
    """Return the step. Raises ValueError where no plug-in brings it, or it cannot be loaded."""
    plugin = next((one for one in listed(GROUP, ()) if one.name == name), None)
    if plugin is None:
        raise ValueError(f"no plug-in here brings the pre-processing step {name!r}; install the one that does")
    try:
        found: Step = plugin.load()
    except PluginBroken as error:
        raise ValueError(str(error)) from error
    if not callable(found):
        raise ValueError(f"{plugin.value} of {plugin.distribution} is no function that takes a picture")
    return found


def prepared(image: Image.Image, steps: Sequence[str]) -> Image.Image:
    """Return the picture after these steps, RGB. Raises ValueError naming the one that fails."""
    for name in steps:
        try:
            image = step(name)(image).convert("RGB")
        except ValueError:
            raise
        except Exception as error:  # It is the code of others.
            raise ValueError(f"the pre-processing step {name!r} failed: {type(error).__name__}: {error}") from error
    return image
