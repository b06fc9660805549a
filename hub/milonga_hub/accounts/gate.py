"""The one door: every call of gRPC, REST and pages passes here, and every change leaves an entry in the audit log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from milonga_hub.accounts.owners import Owners
from milonga_hub.accounts.rules_access import Access
from milonga_hub.accounts.rules_projects import Kind, project_of_name, whose
from milonga_hub.accounts.rules_scopes import allows, scope_of
from milonga_hub.accounts.service import AccountService
from milonga_hub.callers import Asking, Caller, lacking, need_dataset, not_reached
from milonga_hub.errors import PermissionDenied, Unauthenticated

_log = logging.getLogger(__name__)

_SCHEME = "bearer "
NOT_SIGNED_IN = "sign in first: milonga login HOST:PORT, or send an API key as `authorization: Bearer KEY`"


class Gate:
    """Lets in who may. Both transports ask it, and nobody else decides."""

    def __init__(self, accounts: AccountService, owners: Owners) -> None:
        self.accounts = accounts
        self._owners = owners

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

    def check_limits(self, operation: str, access: Access, asking: Asking, value_of: Callable[[str], str]) -> None:
        """Raise where the caller's key has not the scope for the operation, or is not for the project that it is about.

        `value_of` returns a field of the request, "" for none. What a key does not reach is, for it, not there.
        """
        caller = asking.caller
        if caller is None or not caller.is_limited or access.least is None:
            return
        needed = scope_of(operation, access)
        if needed is None:
            raise PermissionDenied("this key is limited to scopes or projects, and this takes one without limits")
        if caller.scopes and needed and not allows(caller.scopes, needed):
            raise lacking(caller, needed)
        if caller.projects:
            asking.datasets = partial(self._owners.datasets, caller.projects)
            self._check_project(operation, caller, value_of)

    def _check_project(self, operation: str, caller: Caller, value_of: Callable[[str], str]) -> None:
        found = whose(operation)
        if found is None:
            raise PermissionDenied(
                f"this key is for {', '.join(caller.projects)} alone, and this belongs to no project; take a key without projects"
            )
        value = value_of(found.field) if found.field else ""
        match found.kind:
            case Kind.LISTED | Kind.LOOKED_AT | Kind.OWN:
                return
            case Kind.DATASET | Kind.DATASET_CHANGED:
                need_dataset(value, to_change=found.kind is Kind.DATASET_CHANGED)
                return
            case Kind.PROJECT:
                project = value
            case Kind.NAME:
                project = project_of_name(value)
            case Kind.ROLLOUT:
                project = self._owners.of_rollout(value)
            case Kind.ALERT:
                project = self._owners.of_alert(value)
        if project not in caller.projects:
            raise not_reached(value or "such thing")

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
