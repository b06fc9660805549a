"""Property tests try the same examples each time, and a busy machine fails none of them."""

from hypothesis import HealthCheck, settings

settings.register_profile("milonga", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("milonga")
