"""The one door: every call of gRPC, REST and pages passes here, and every change leaves an entry in the audit log."""

from __future__ import annotations

import asyncio
import logging

from milonga_hub.accounts.rules_access import Access
from milonga_hub.accounts.service import AccountService
from milonga_hub.callers import Asking, Caller
from milonga_hub.errors import PermissionDenied, Unauthenticated

_log = logging.getLogger(__name__)

_SCHEME = "bearer "
NOT_SIGNED_IN = "sign in first: milonga login HOST:PORT, or send an API key as `authorization: Bearer KEY`"


class Gate:
    """Lets in who may. Both transports ask it, and nobody else decides."""

    def __init__(self, accounts: AccountService) -> None:
        self.accounts = accounts

    def identify(self, authorization: str = "", session: str = "") -> Caller | None:
        """Return who calls, by the header `authorization` or else a browser's session; None for nobody.

        Raises Unauthenticated for a key that is none: who sends one must hear that it no longer works.
        """
        if authorization:
            if not authorization.lower().startswith(_SCHEME):
                raise Unauthenticated("the header authorization must be: Bearer KEY")
            return self.accounts.caller_of_key(authorization[len(_SCHEME) :].strip())
        return self.accounts.caller_of_session(session) if session else None

    @staticmethod
    def check(access: Access | None, caller: Caller | None) -> None:
        """Raise Unauthenticated or PermissionDenied where the caller may not; None is an operation without a rule."""
        if access is None:
            raise PermissionDenied("nobody may do this: the hub has no rule for it; please report it")
        if access.least is None:
            return
        if caller is None:
            raise Unauthenticated(NOT_SIGNED_IN)
        if not caller.role.may(access.least):
            raise PermissionDenied(
                f"{caller.name} is {caller.role.lower()}, and this needs {access.least.lower()}; ask an admin"
            )

    async def record(self, asking: Asking, operation: str, resource: str, outcome: str, address: str) -> None:
        """Write what a changing call did, or that it was refused. Of those who never said who they are, nothing is kept."""
        caller = asking.caller or asking.claimed
        if not caller or asking.is_unrecorded:
            return
        try:
            await asyncio.to_thread(self.accounts.audit.add, caller, operation, resource, outcome, address)
        except Exception:
            # What was done is done; its caller must hear so.
            _log.exception("the audit log lacks: %s %s %s %s", caller, operation, resource, outcome)
