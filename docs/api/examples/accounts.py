from milonga.client import Client, ResourceExhausted, Unauthenticated
from milonga.v1 import accounts_pb2

hub = Client()

# %% GetCaller
caller = hub.accounts.get_caller()
print(caller.name, accounts_pb2.Role.Name(caller.role))

# %% DescribeSignIn
print(hub.accounts.describe_sign_in().has_accounts)

# %% CreateAccount
hub.accounts.create_account("kim", role=accounts_pb2.ROLE_OPERATOR, password="seven wooden floors")
hub.accounts.create_account("ana", role=accounts_pb2.ROLE_ADMIN, password="eight wooden floors")

# %% SignIn
try:
    signed_in = hub.accounts.sign_in("kim", password="seven wooden floors", label="kim on laptop")
    print(signed_in.secret)  # A new API key, shown once.
except ResourceExhausted as problem:
    print(problem.retry_after_seconds)  # After too many wrong passwords.
except Unauthenticated as problem:
    print(problem)

# %% ListAccounts
for account in hub.accounts.list_accounts():
    print(account.name, accounts_pb2.Role.Name(account.role))

# %% SetAccountRole
hub.accounts.set_account_role("kim", role=accounts_pb2.ROLE_VIEWER)

# %% SetPassword
hub.accounts.set_password("kim", password="nine wooden floors")

# %% EndSessions
print(hub.accounts.end_sessions("kim"), "browsers are signed out")

# %% CreateApiKey, ListApiKeys, DeleteApiKey
made = hub.accounts.create_api_key("reports", role=accounts_pb2.ROLE_VIEWER, lifetime_seconds=30 * 24 * 3600)
print(made.secret)  # Shown once.
for key in hub.accounts.list_api_keys():
    print(key.label, key.expires_at.ToDatetime())
hub.accounts.delete_api_key(made.api_key.id)

# %% ListAuditEntries
for entry in hub.accounts.list_audit_entries(caller="kim"):
    print(entry.at.ToDatetime(), entry.operation, entry.resource, entry.outcome)

# %% DeleteAccount
hub.accounts.delete_account("kim")
