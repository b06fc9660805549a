"""People sign in by a real OpenID provider on a port of its own; whatever is not as it must be lets nobody in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from milonga_hub.accounts import oidc, rules_oidc
from milonga_hub.callers import Role
from milonga_hub.errors import PermissionDenied
from milonga_hub.settings import Settings

from tests.accounts import openid
from tests.accounts.openid import CLIENT_ID, CLIENT_SECRET, Provider
from tests.web.filled import Services
from tests.web.people import ADDRESS, PASSWORD, signed_in, stranger

KIM = "kim@example.com"


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    with openid.running() as provider:
        yield provider


@pytest.fixture
def provider(running: Provider) -> Iterator[Provider]:
    """Return the provider as it is at first."""
    yield running
    running.claims, running.shown, running.algorithm, running.told_issuer = {}, [running.key], "RS256", ""


@pytest.fixture
def hub(tmp_path: Path, provider: Provider) -> Services:
    """Return a hub with an admin and the provider."""
    hub = Services(tmp_path)
    hub.accounts.create("ana", Role.ADMIN, PASSWORD)
    _trust(hub, provider)
    return hub


def _trust(hub: Services, provider: Provider, **settings: Any) -> None:
    secret = hub.folder / "oidc.secret"
    secret.write_text(f"{CLIENT_SECRET}\n")
    given = Settings(
        data_dir=hub.folder, oidc_issuer=provider.issuer, oidc_client_id=CLIENT_ID, oidc_client_secret_file=secret,
        oidc_name="Example ID", **settings,
    )  # fmt: skip
    hub.accounts.provider = oidc.provider(given)


@pytest.fixture
def browser(hub: Services) -> Iterator[TestClient]:
    with stranger(hub) as client:
        yield client


def _leave(browser: TestClient, page: str = "/") -> str:
    """Go to the provider and return the address that it sends the browser back to."""
    sent = browser.get("/sign-in/provider", params={"next": page})
    assert sent.status_code == 303, sent.text
    return str(httpx.get(sent.headers["location"]).headers["location"])


def _sign_in(browser: TestClient) -> httpx.Response:
    answer: httpx.Response = browser.get(_leave(browser))
    return answer


def _problem(answer: httpx.Response) -> str:
    found = re.search(r'class="problem" role="alert">([^<]*)<', answer.text)
    assert found is not None, answer.text
    return found[1]


def test_somebody_signs_in_by_the_provider_and_comes_back_to_the_page(hub: Services, browser: TestClient) -> None:
    assert "Sign in with Example ID" in browser.get("/sign-in?next=/devices").text
    back = _leave(browser, "/devices")
    assert back.startswith(f"{ADDRESS}/sign-in/provider/back?")
    answer = browser.get(back)
    assert (answer.status_code, answer.headers["location"]) == (303, "/devices")
    page = browser.get("/devices")
    assert page.status_code == 200 and KIM in page.text and 'class="viewer"' in page.text
    (entry,) = [one for one in hub.accounts.audit.page()[0] if one.caller == KIM]
    assert (entry.operation, entry.outcome) == ("GET /sign-in/provider/back", "OK")
    assert _sign_in(browser).status_code == 303 and len(hub.accounts.list()[0]) == 2, "one account, however often"


def test_what_is_asked_of_the_provider_binds_the_answer_to_this_sign_in(browser: TestClient) -> None:
    first, second = (parse_qs(urlsplit(browser.get("/sign-in/provider").headers["location"]).query) for _ in range(2))
    assert first["code_challenge_method"] == ["S256"] and first["response_type"] == ["code"]
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name][0]) >= 43 and first[name] != second[name]


def test_the_claims_role_is_taken_at_each_sign_in_and_the_last_admin_stays(
    hub: Services, provider: Provider, browser: TestClient
) -> None:
    _trust(hub, provider, oidc_roles=["floor=operator", "it=admin"])

    def role(*groups: str) -> Role:
        provider.claims["groups"] = list(groups)
        assert _sign_in(browser).status_code == 303
        return next(one.role for one in hub.accounts.list()[0] if one.name == KIM)

    assert role("floor", "others") is Role.OPERATOR
    assert role("floor", "it") is Role.ADMIN
    assert role("others") is Role.VIEWER
    assert role("it") is Role.ADMIN
    hub.accounts.delete("ana")
    assert role("others") is Role.ADMIN


def test_without_words_that_give_roles_an_admins_choice_stays(hub: Services, browser: TestClient) -> None:
    _sign_in(browser)
    hub.accounts.set_role(KIM, Role.OPERATOR)
    _sign_in(browser)
    assert [one.role for one in hub.accounts.list()[0] if one.name == KIM] == [Role.OPERATOR]


def _now(seconds: float) -> int:
    return int(time.time() + seconds)


WRONG_CLAIMS: list[tuple[dict[str, Any], int, str]] = [
    ({"nonce": "another"}, 401, "cannot be trusted.*nonce"),
    ({"nonce": None}, 401, "cannot be trusted.*nonce"),
    ({"aud": "another-program"}, 401, "cannot be trusted.*aud"),
    ({"aud": [CLIENT_ID, "another-program"], "azp": "another-program"}, 401, "meant for another program"),
    ({"iss": "https://elsewhere.example"}, 401, "cannot be trusted.*iss"),
    ({"exp": _now(-3600)}, 401, "has expired"),
    ({"exp": None}, 401, "cannot be trusted.*exp"),
    ({"iat": _now(3600)}, 401, "cannot be trusted"),
    ({"sub": None}, 401, "cannot be trusted.*sub"),
    ({"email_verified": False}, 403, "kim@example.com is not verified"),
    ({"email_verified": None}, 403, "kim@example.com is not verified"),
    ({"email": None}, 403, "No e-mail address was told"),
    ({"email": "<b>@example.com"}, 403, "cannot be the name of an account"),
]


@pytest.mark.parametrize(("claims", "status", "words"), WRONG_CLAIMS)
def test_a_token_that_is_not_as_it_must_be_lets_nobody_in(
    hub: Services, provider: Provider, browser: TestClient, claims: dict[str, Any], status: int, words: str
) -> None:
    provider.claims = claims
    answer = _sign_in(browser)
    assert answer.status_code == status and re.search(words, _problem(answer)), _problem(answer)
    assert browser.get("/devices").status_code == 303 and len(hub.accounts.list()[0]) == 1


def _sign_by_another_key(provider: Provider) -> None:
    provider.shown = [openid._key("one")]


def _show_no_key(provider: Provider) -> None:
    provider.shown = [openid._key("two")]


@pytest.mark.parametrize("change", [_sign_by_another_key, _show_no_key])
def test_a_token_by_a_key_that_the_provider_does_not_show_lets_nobody_in(
    hub: Services, provider: Provider, browser: TestClient, change: Callable[[Provider], None]
) -> None:
    change(provider)
    answer = _sign_in(browser)
    assert answer.status_code == 401 and "cannot be trusted" in _problem(answer)
    assert len(hub.accounts.list()[0]) == 1


def test_a_key_that_the_provider_changed_since_is_found(provider: Provider, browser: TestClient) -> None:
    assert _sign_in(browser).status_code == 303
    before = provider.key
    provider.key = openid._key("next")
    provider.shown = [provider.key]
    try:
        assert _sign_in(browser).status_code == 303
    finally:
        provider.key = before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda back: back.replace("state=", "state=x"),
        lambda back: back.replace("code=code-", "code=other-"),
        lambda back: back.partition("?")[0] + "?error=access_denied&error_description=%3Cb%3Eno&state=" + parse_qs(urlsplit(back).query)["state"][0],
    ],
)  # fmt: skip
def test_an_answer_that_was_not_asked_for_lets_nobody_in(browser: TestClient, spoil: Callable[[str], str]) -> None:
    answer = browser.get(spoil(_leave(browser)))
    assert answer.status_code in (401, 502) and "<b>no" not in answer.text and _problem(answer)
    assert browser.get("/devices").status_code == 303


def test_a_sign_in_ends_once_and_in_the_browser_that_began_it(hub: Services, browser: TestClient) -> None:
    back = _leave(browser)
    with stranger(hub) as other:
        assert "in another browser" in _problem(other.get(back))
    assert browser.get(back).status_code == 303
    assert "begin it again" in _problem(browser.get(back))


def test_who_takes_too_long_begins_again(hub: Services, browser: TestClient) -> None:
    back = _leave(browser)
    assert hub.accounts.provider is not None
    later = hub.accounts.provider._clock() + 2 * oidc.LIFETIME
    hub.accounts.provider._clock = lambda: later
    assert "too long ago" in _problem(browser.get(back))


def test_an_account_with_a_password_is_not_taken_over(hub: Services, browser: TestClient) -> None:
    hub.accounts.create(KIM, Role.OPERATOR, PASSWORD)
    answer = _sign_in(browser)
    assert answer.status_code == 403 and "did not come from here" in _problem(answer)
    (entry,) = [one for one in hub.accounts.audit.page()[0] if one.operation == "GET /sign-in/provider/back"]
    assert "did not come from here" in entry.outcome


def test_no_password_is_right_for_who_signs_in_by_the_provider(hub: Services, browser: TestClient) -> None:
    _sign_in(browser)
    assert "You sign in by a provider" in browser.get("/settings").text
    with signed_in(hub) as admin:
        assert (
            "none: by a provider" in admin.get("/settings/users").text
            and "$argon2" not in admin.get("/settings/users").text
        )
    with stranger(hub) as other:
        for password in ("", " ", PASSWORD):
            assert other.post("/sign-in", data={"name": KIM, "password": password}).status_code == 401


def test_the_first_account_is_an_admins(tmp_path: Path, provider: Provider) -> None:
    hub = Services(tmp_path)
    _trust(hub, provider)
    with stranger(hub) as browser:
        assert "first account of a hub is an admin" in _problem(_sign_in(browser))
        _trust(hub, provider, oidc_roles=["it=admin"])
        provider.claims = {"groups": "it"}
        assert _sign_in(browser).status_code == 303


def test_a_provider_that_is_not_who_it_should_be_or_away_is_told(
    hub: Services, provider: Provider, browser: TestClient
) -> None:
    provider.told_issuer = "https://elsewhere.example"
    answer = browser.get("/sign-in/provider")
    assert answer.status_code == 502 and "calls itself &#39;https://elsewhere.example&#39;" in answer.text
    provider.told_issuer = ""
    unused = "http://127.0.0.1:9"
    hub.accounts.provider = oidc.provider(Settings(oidc_issuer=unused, oidc_client_id="x"))
    answer = browser.get("/sign-in/provider")
    assert answer.status_code == 502 and "cannot be reached" in _problem(answer)


def test_without_a_provider_there_is_no_button_and_no_way(tmp_path: Path) -> None:
    hub = Services(tmp_path)
    with stranger(hub) as browser:
        assert "Sign in with" not in browser.get("/sign-in").text
        for path in ("/sign-in/provider", "/sign-in/provider/back"):
            assert browser.get(path).status_code == 404


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"oidc_issuer": "http://id.example"}, "is not encrypted"),
        ({"oidc_client_id": ""}, "needs --oidc-client-id"),
        ({"oidc_roles": ["it"]}, "'it' gives no role"),
        ({"oidc_roles": ["it=king"]}, "'it=king' gives no role"),
        ({"oidc_client_secret_file": Path("/nowhere/secret")}, "cannot be read"),
    ],
)
def test_settings_that_cannot_work_say_why(given: dict[str, Any], words: str) -> None:
    settings = Settings(**{"oidc_issuer": "https://id.example", "oidc_client_id": "x", **given})
    with pytest.raises(ValueError, match=words):
        oidc.provider(settings)


@pytest.mark.parametrize("domain", ["example.com", "@Example.COM"])
def test_only_addresses_of_the_named_domains_are_let_in(domain: str) -> None:
    rules = rules_oidc.admission("groups", [], "none", [domain])
    for email in ("kim@evil.example", "kim@notexample.com", "example.com"):
        with pytest.raises(PermissionDenied, match="takes no addresses like"):
            rules_oidc.identify("i", {"sub": "1", "email": email, "email_verified": True}, rules)
    with pytest.raises(PermissionDenied, match="has no role here"):
        rules_oidc.identify("i", {"sub": "1", "email": KIM, "email_verified": True}, rules)
