"""AccountService over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

from milonga.v1 import accounts_pb2 as pb
from milonga.v1 import accounts_pb2_grpc

from milonga_hub.accounts.models import CallerView
from milonga_hub.accounts.service import AccountService
from milonga_hub.bridge import to_proto
from milonga_hub.callers import Role, caller, claim, prove
from milonga_hub.errors import InvalidInput
from milonga_hub.install.reach import is_loopback
from milonga_hub.transports.grpc_calls import host_of


class AccountRpc(accounts_pb2_grpc.AccountServiceServicer):
    def __init__(self, accounts: AccountService) -> None:
        self._accounts = accounts

    async def DescribeSignIn(self, request: pb.DescribeSignInRequest, context: Any) -> pb.DescribeSignInResponse:
        # A path is no secret, but is of use on this machine alone.
        path = str(self._accounts.local_key.path) if is_loopback(host_of(context)) else ""
        return pb.DescribeSignInResponse(has_accounts=self._accounts.has_accounts(), local_key_path=path)

    async def SignIn(self, request: pb.SignInRequest, context: Any) -> pb.SignInResponse:
        claim(request.name)
        signed_in = await asyncio.to_thread(self._accounts.sign_in, request.name, request.password, host_of(context))
        prove(signed_in)
        key, secret = self._accounts.api_keys.create(signed_in, request.label or "milonga login", signed_in.role)
        return pb.SignInResponse(api_key=to_proto(key, pb.ApiKey), secret=secret)

    async def GetCaller(self, request: pb.GetCallerRequest, context: Any) -> pb.GetCallerResponse:
        return pb.GetCallerResponse(caller=to_proto(CallerView.model_validate(vars(caller())), pb.Caller))

    async def ListAccounts(self, request: pb.ListAccountsRequest, context: Any) -> pb.ListAccountsResponse:
        found, token = self._accounts.list(request.page_size, request.page_token)
        return pb.ListAccountsResponse(accounts=[to_proto(one, pb.Account) for one in found], next_page_token=token)

    async def CreateAccount(self, request: pb.CreateAccountRequest, context: Any) -> pb.CreateAccountResponse:
        role = _role(request.role)
        made = await asyncio.to_thread(self._accounts.create, request.name, role, request.password)
        return pb.CreateAccountResponse(account=to_proto(made, pb.Account))

    async def SetAccountRole(self, request: pb.SetAccountRoleRequest, context: Any) -> pb.SetAccountRoleResponse:
        account = self._accounts.set_role(request.name, _role(request.role))
        return pb.SetAccountRoleResponse(account=to_proto(account, pb.Account))

    async def SetPassword(self, request: pb.SetPasswordRequest, context: Any) -> pb.SetPasswordResponse:
        account = await asyncio.to_thread(
            self._accounts.set_password,
            caller(),
            request.name,
            request.old_password,
            request.password,
            host_of(context),
        )
        return pb.SetPasswordResponse(account=to_proto(account, pb.Account))

    async def DeleteAccount(self, request: pb.DeleteAccountRequest, context: Any) -> pb.DeleteAccountResponse:
        self._accounts.delete(request.name)
        return pb.DeleteAccountResponse()

    async def EndSessions(self, request: pb.EndSessionsRequest, context: Any) -> pb.EndSessionsResponse:
        return pb.EndSessionsResponse(ended=self._accounts.end_sessions(caller(), request.name))

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> pb.CreateApiKeyResponse:
        key, secret = self._accounts.api_keys.create(
            caller(),
            request.label,
            _role(request.role) if request.role or not request.scopes else None,
            request.lifetime_seconds,
            request.scopes,
            request.projects,
        )
        return pb.CreateApiKeyResponse(api_key=to_proto(key, pb.ApiKey), secret=secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> pb.ListApiKeysResponse:
        found, token = self._accounts.api_keys.page(caller(), request.page_size, request.page_token)
        return pb.ListApiKeysResponse(api_keys=[to_proto(one, pb.ApiKey) for one in found], next_page_token=token)

    async def DeleteApiKey(self, request: pb.DeleteApiKeyRequest, context: Any) -> pb.DeleteApiKeyResponse:
        self._accounts.api_keys.delete(caller(), request.id)
        return pb.DeleteApiKeyResponse()

    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, context: Any) -> pb.ListAuditEntriesResponse:
        found, token = self._accounts.audit.page(request.caller, request.page_size, request.page_token)
        entries = [to_proto(one, pb.AuditEntry) for one in found]
        return pb.ListAuditEntriesResponse(audit_entries=entries, next_page_token=token)


def _role(number: int) -> Role:
    """Raises InvalidInput for none: what somebody may must be said."""
    if number not in pb.Role.values()[1:]:
        raise InvalidInput("role must be given: viewer, operator or admin")
    return Role(pb.Role.Name(pb.Role.ValueType(number)).removeprefix("ROLE_"))
