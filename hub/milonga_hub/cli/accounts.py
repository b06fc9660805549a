"""milonga users, api-keys, audit, login, logout, whoami."""

from __future__ import annotations

import getpass
import re
import socket
import sys
from typing import Annotated, Any

import typer
from milonga.client import keys as kept_keys
from milonga.v1 import accounts_pb2 as pb

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit, remember_hub
from milonga_hub.cli.failures import USAGE, Refused
from milonga_hub.cli.output import NONE, ago, clean, facts, print_json, say, table, word

users = typer.Typer()
api_keys = typer.Typer()
audit = typer.Typer()

Name = Annotated[str, typer.Argument(help="The account's name, for example kim.")]
Role = Annotated[
    str, typer.Option(help="viewer: sees everything; operator: changes everything but users; admin: everything.")
]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin, for scripts.")]
_DAY_SECONDS = 24 * 60 * 60


@users.command("ls")
def list_users(limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List accounts and what they may."""
    with Client() as client:
        response = client.all(client.accounts.ListAccounts, pb.ListAccountsRequest(), "accounts", limit)
    if json:
        print_json(response)
    elif response.accounts:
        rows = (
            (each.name, word(pb.Role, each.role), ago(each, "created_at"), ago(each, "signed_in_at"))
            for each in response.accounts
        )
        table(("name", "role", "made", "signed in"), rows)
    else:
        say("no accounts yet; make one: milonga users add NAME --role admin")


@users.command("add")
def add(name: Name, role: Role, password_stdin: PasswordStdin = False, hub: Hub = None, json: Json = False) -> None:
    """Make an account; the password is asked for."""
    request = pb.CreateAccountRequest(name=name, role=_role(role), password=_new_password(name, password_stdin))
    with Client() as client:
        response = client.accounts.CreateAccount(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{name} is {word(pb.Role, response.account.role)} and can sign in")


@users.command("set-role")
def set_role(
    name: Name,
    role: Annotated[str, typer.Argument(help="viewer, operator or admin.")],
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Change what somebody may, from their next call on."""
    request = pb.SetAccountRoleRequest(name=name, role=_role(role))
    with Client() as client:
        response = client.accounts.SetAccountRole(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{name} is {word(pb.Role, response.account.role)} now")


@users.command("password")
def set_password(name: Name, password_stdin: PasswordStdin = False, hub: Hub = None, json: Json = False) -> None:
    """Set a password: your own, or as an admin anybody's. Signs the account out of all browsers."""
    with Client() as client:
        caller = client.accounts.GetCaller(pb.GetCallerRequest(), timeout=CALL_SECONDS).caller
        old = ""
        if caller.account == name:
            old = _line() if password_stdin else getpass.getpass("Password until now: ")
        request = pb.SetPasswordRequest(name=name, old_password=old, password=_new_password(name, password_stdin))
        response = client.accounts.SetPassword(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"the password of {name} is changed; it is signed out of all browsers, and its API keys go on")


@users.command("remove")
def remove(name: Name, hub: Hub = None, json: Json = False) -> None:
    """Forget an account, its sessions and its API keys."""
    with Client() as client:
        response = client.accounts.DeleteAccount(pb.DeleteAccountRequest(name=name), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{name} is removed, with sessions and API keys")


@users.command("sign-out")
def sign_out(name: Name, hub: Hub = None, json: Json = False) -> None:
    """Sign an account out of all browsers."""
    with Client() as client:
        response = client.accounts.EndSessions(pb.EndSessionsRequest(name=name), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{name} is signed out of {response.ended} {'browser' if response.ended == 1 else 'browsers'}")


@api_keys.command("ls")
def list_keys(limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List your API keys; as an admin, those of all."""
    with Client() as client:
        response = client.all(client.accounts.ListApiKeys, pb.ListApiKeysRequest(), "api_keys", limit)
    if json:
        print_json(response)
    elif response.api_keys:
        rows = (
            (
                each.id,
                each.label,
                each.account or "the hub's machine",
                word(pb.Role, each.role),
                ", ".join(each.scopes) or "all",
                ", ".join(each.projects) or "all",
                ago(each, "used_at"),
                ago(each, "expires_at"),
            )
            for each in response.api_keys
        )
        table(("id", "for", "of", "role", "scopes", "projects", "used", "expires"), rows)
    else:
        say("no API keys yet; make one: milonga api-keys create WHAT-FOR --role viewer")


@api_keys.command("create")
def create_key(
    label: Annotated[str, typer.Argument(help="What it is for, for example prometheus.")],
    role: Annotated[
        str,
        typer.Option(
            help="viewer, operator or admin. Left out: the least that its scopes need, or viewer without scopes."
        ),
    ] = "",
    scope: Annotated[
        list[str],
        typer.Option(
            help="AREA:read, or AREA:write for changing and seeing, for example rollouts:write; again for more. Without, all that"
            " the role may. A wrong one lists the areas."
        ),
    ] = [],  # noqa: B006
    project: Annotated[
        list[str], typer.Option(help="A project that it is for, again for more; it sees nothing else. Without, all.")
    ] = [],  # noqa: B006
    expires: Annotated[str, typer.Option(help="How long it is good for: 30d, 12h or 45m; at most 366d.")] = "90d",
    days: Annotated[float, typer.Option(min=0.0, max=366.0, hidden=True)] = 0.0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Make a key for a program, that may at most what you may. It is shown only now."""
    request = pb.CreateApiKeyRequest(
        label=label,
        role=_role(role or "viewer") if role or not scope else pb.ROLE_UNSPECIFIED,
        lifetime_seconds=round(days * _DAY_SECONDS) or _seconds(expires),
        scopes=scope,
        projects=project,
    )
    with Client() as client:
        response = client.accounts.CreateApiKey(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
        return
    typer.echo(response.secret)
    key = response.api_key
    reach = f" with {', '.join(key.scopes)}" if key.scopes else ""
    reach += f" for {', '.join(key.projects)}" if key.projects else ""
    # On stderr: what is written into a file is the key alone, as Prometheus and others read it.
    about = f"{key.id}, {word(pb.Role, key.role)}{reach}, expires {ago(key, 'expires_at')}"
    typer.echo(clean(f"{about}. Send it as: authorization: Bearer KEY"), err=True)


@api_keys.command("delete")
def delete_key(
    key: Annotated[str, typer.Argument(metavar="ID", help="As milonga api-keys ls shows it.")],
    hub: Hub = None,
    json: Json = False,
) -> None:
    """End a key now."""
    with Client() as client:
        response = client.accounts.DeleteApiKey(pb.DeleteApiKeyRequest(id=key), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{key} lets nobody in any more")


@audit.command("ls")
def list_entries(
    caller: Annotated[str, typer.Option(help="Only what this account did.")] = "",
    limit: Limit = 50,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List who changed what, the newest first."""
    with Client() as client:
        request = pb.ListAuditEntriesRequest(caller=caller)
        response = client.all(client.accounts.ListAuditEntries, request, "audit_entries", limit)
    if json:
        print_json(response)
    elif response.audit_entries:
        rows = (
            (
                ago(each, "at"),
                f"{each.caller} ({each.key_id})" if each.key_id else each.caller,
                each.operation.removeprefix("milonga.v1."),
                each.resource or NONE,
                each.outcome,
                each.address,
            )
            for each in response.audit_entries
        )
        table(("when", "who", "what", "of", "outcome", "from"), rows)
    else:
        say("nobody has changed anything yet")


def login(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The hub's gRPC address.")],
    name: Annotated[str, typer.Option(help="The account; asked for where it is left out.")] = "",
    password_stdin: PasswordStdin = False,
    key_stdin: Annotated[
        bool, typer.Option("--key", help="Read an API key from stdin instead of signing in with a password.")
    ] = False,
    json: Json = False,
) -> None:
    """Let this machine's command line call a hub: keeps an API key for it, for 90 days."""
    remember_hub(address)
    if key_stdin:
        secret = _line() if not sys.stdin.isatty() else getpass.getpass("API key: ")
    else:
        secret = _signed_in(name or typer.prompt("Name"), password_stdin)
    with Client(key=secret) as client:
        response = client.accounts.GetCaller(pb.GetCallerRequest(), timeout=CALL_SECONDS)
        path = kept_keys.keep(address, client.authority, secret)
    if json:
        print_json(response)
    else:
        say(
            f"{response.caller.name} is signed in to {address} as {word(pb.Role, response.caller.role)} (kept in {path})"
        )


def _signed_in(name: str, password_stdin: bool) -> str:
    password = _line() if password_stdin else getpass.getpass()
    request = pb.SignInRequest(name=name, password=password, label=f"milonga login on {socket.gethostname()}"[:100])
    with Client(key="") as client:
        return str(client.accounts.SignIn(request, timeout=CALL_SECONDS).secret)


def logout(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The hub's gRPC address.")], json: Json = False
) -> None:
    """End the key that milonga login kept for a hub, and forget it."""
    remember_hub(address)
    secret = kept_keys.forget(address)
    if not secret:
        raise Refused(f"no key is kept for {address}")
    with Client(key=secret) as client:
        caller = client.accounts.GetCaller(pb.GetCallerRequest(), timeout=CALL_SECONDS).caller
        response = client.accounts.DeleteApiKey(pb.DeleteApiKeyRequest(id=caller.key_id), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{caller.name} is signed out of {address}")


def whoami(hub: Hub = None, json: Json = False) -> None:
    """Say who you are to the hub, and what you may."""
    with Client() as client:
        response = client.accounts.GetCaller(pb.GetCallerRequest(), timeout=CALL_SECONDS)
    if json:
        print_json(response)
        return
    caller = response.caller
    how = {pb.CALLER_KIND_LOCAL: "by the local key in the hub's data folder", pb.CALLER_KIND_API_KEY: "by an API key"}
    facts(
        (
            ("name", caller.name),
            ("role", word(pb.Role, caller.role)),
            ("known", how.get(caller.kind, "by a session")),
            ("key", caller.key_id),
            *([("scopes", ", ".join(caller.scopes))] if caller.scopes else []),
            *([("projects", ", ".join(caller.projects))] if caller.projects else []),
        )
    )


def _seconds(text: str) -> int:
    """Return the seconds of "30d", "12h" or "45m"."""
    found = re.fullmatch(r"(\d{1,5})([dhm])", text.strip())
    if not found or not int(found[1]):
        raise Refused(f"{text!r} is not a time; write 30d, 12h or 45m", USAGE)
    return int(found[1]) * {"d": _DAY_SECONDS, "h": 3600, "m": 60}[found[2]]


def _role(text: str) -> Any:
    found = dict(pb.Role.items()).get(f"ROLE_{text.upper()}", 0)
    if not found:
        raise Refused(f"{text!r} is not a role; take viewer, operator or admin", USAGE)
    return found


def _line() -> str:
    """Return the next line of stdin. Raises Refused at its end."""
    line = sys.stdin.readline()
    if not line.strip("\n"):
        raise Refused("nothing came on stdin; send the secret as a line", USAGE)
    return line.strip("\n")


def _new_password(name: str, from_stdin: bool) -> str:
    if from_stdin:
        return _line()
    first = getpass.getpass(f"New password of {name}: ")
    if getpass.getpass("Again: ") != first:
        raise Refused("the two are not the same; nothing was changed", USAGE)
    return first
