"""Passwords that are hashed without the care that takes the time."""

from __future__ import annotations

from argon2 import PasswordHasher
from milonga_hub.accounts.passwords import Passwords


def quick_passwords() -> Passwords:
    return Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
