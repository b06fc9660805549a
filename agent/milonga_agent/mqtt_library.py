"""paho, without what it uses for proxies alone.

It imports urllib.request, and with it HTTP, e-mail and more: 1 MB of memory, that an agent has for years, and that is only used where PySocks is
installed too.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

_FOR_PROXIES = "urllib.request"

_spared = importlib.util.find_spec("socks") is None and _FOR_PROXIES not in sys.modules
if _spared:
    sys.modules[_FOR_PROXIES] = ModuleType(_FOR_PROXIES)
try:
    from paho.mqtt import client
finally:
    if _spared:
        # Whoever needs it gets the real one.
        del sys.modules[_FOR_PROXIES]

__all__ = ["client"]
