"""Pages speak the reader's language, and nothing on them is left without a translation."""

from __future__ import annotations

import gettext
import io
import re
from collections.abc import Iterator

import pytest
from babel.messages.catalog import Message
from fastapi.testclient import TestClient
from milonga_hub.callers import Role
from milonga_hub.web.language import asked_for
from milonga_hub.web.said import said
from milonga_hub.web.terms import ENUMERATIONS, WORDS
from milonga_hub.web.words import ago, change, duration, mark, state

from tests.web.filled import HOSTILE, Services
from tests.web.people import signed_in
from tests.web.test_pages import Page
from tests.web.translations import (
    LANGUAGES,
    WEB,
    compiled,
    extracted,
    forms,
    is_whole,
    po,
    read,
    texts,
    updated,
    written,
)

KOREAN = {"accept-language": "ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7"}
# What is no text of a language: names, units and what people type.
_NO_TEXT = re.compile(
    r"Milonga|API|COCO|YOLO|Pascal VOC|AP50-95|p9[59]|px|ms|MB|UTC|example\.py|ultralytics \.pt|°C|\bW\b|v"
)


@pytest.fixture
def korean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milonga_hub.web.language.spoken", lambda: "ko")
    monkeypatch.setattr("milonga_hub.web.said.spoken", lambda: "ko")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_the_catalogue_is_that_of_now(language: str) -> None:
    fresh = updated(language)
    lacking = [message.id for message in texts(fresh) if not is_whole(message)]
    assert not lacking, f"write these in {po(language)}, then run: make translations"
    assert po(language).read_bytes() == written(fresh), "the catalogue is stale; run: make translations"


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_hub_serves_is_compiled_of_the_catalogue(language: str) -> None:
    for path, content in compiled(language).items():
        if path.suffix == ".mo":
            # Not byte by byte: its head names the version of the tool that made it.
            assert _read_mo(path.read_bytes()) == _read_mo(content), "stale; run: make translations"
        else:
            assert path.read_bytes() == content, "stale; run: make translations"


def _read_mo(content: bytes) -> dict[object, str]:
    known = vars(gettext.GNUTranslations(io.BytesIO(content)))["_catalog"]
    return {key: value for key, value in known.items() if key}


def _names(text: str) -> set[str]:
    return set(re.findall(r"%\(\w+\)s", text))


def _tags(text: str) -> list[str]:
    return sorted(re.findall(r"<[^>]+>", text))


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_the_names_and_the_markup_of_their_texts(language: str) -> None:
    def wrong(message: Message) -> bool:
        ids = [message.id] if isinstance(message.id, str) else [*message.id]
        return any(
            not _names(said) <= _names(ids[-1])
            or (len(ids) == 1 and _names(said) != _names(ids[0]))
            or _tags(said) != _tags(ids[-1])
            # Anything else after a mark of the kind would end the page with an error.
            or (re.search(r"%(?!\(\w+\)s|%)", said) is not None and "%(" in said)
            for said in forms(message)
        )

    assert [message.id for message in texts(read(language)) if wrong(message)] == []


def _bare_texts(template: str) -> Iterator[str]:
    """Yield what a template shows without asking for its translation."""
    source = re.sub(r"\{% *trans.*?%\}.*?\{% *endtrans *%\}", "", template, flags=re.DOTALL)
    source = re.sub(r"<(pre|code|kbd)\b.*?</\1>", "", source, flags=re.DOTALL)
    source = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", source, flags=re.DOTALL)
    yield from re.findall(r'(?:aria-label|title|alt)="([^"]+)"', source)
    yield from re.sub(r"<!?/?[a-zA-Z][^>]*>", "\n", source).splitlines()


def test_no_template_shows_a_text_that_is_not_translated() -> None:
    found = [
        (path.name, text.strip())
        for path in sorted((WEB / "templates").glob("*.html"))
        for text in _bare_texts(path.read_text(encoding="utf-8"))
        # Macros make addresses and attributes, too.
        if re.search(r"[A-Za-z]", _NO_TEXT.sub("", text)) and not text.strip().startswith(("?", "/", "aria-"))
    ]
    assert found == []


def test_every_text_of_a_script_is_found_wherever_it_stands() -> None:
    """Inside of `...${...}` too, where an extraction looks only if it is told to."""
    known = {message.id if isinstance(message.id, str) else message.id[0] for message in texts(extracted())}
    asked = {
        text
        for path in (WEB / "static").glob("*.js")
        for text in re.findall(r'\b(?:_|ngettext)\("([^"]+)"', path.read_text(encoding="utf-8"))
    }
    assert asked - known == set()


def test_every_state_and_kind_that_pages_show_is_in_the_table_of_terms() -> None:
    lacking = {state(member) for kind in ENUMERATIONS for member in kind} - set(WORDS)
    assert not lacking, "add them to terms.py, then run: make translations"


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("ko", "ko"),
        ("ko-KR,ko;q=0.9,en-US;q=0.8", "ko"),
        ("en-GB,ko;q=0.9", "en"),
        ("fr, ko;q=0.2, en;q=0.1", "ko"),
        ("ko;q=0", "en"),
        ("fr", "en"),
        (";;q=,,ko;q=high", "en"),
    ],
)
def test_a_browser_gets_the_language_that_it_likes_best(header: str, language: str) -> None:
    assert asked_for(header) == language


@pytest.mark.parametrize(
    "path", ["/", "/devices", "/devices/pi5-1", "/new/projects", "/runs/digits/2", "/rollouts/digits-2", "/nowhere"]
)
def test_pages_are_whole_in_korean(client: TestClient, path: str) -> None:
    answer = client.get(path, headers=KOREAN)
    page = Page(answer.text)
    assert next(attributes["lang"] for tag, attributes in page.seen if tag == "html") == "ko"
    assert re.search(r"<h1[^>]*>[^<]*[가-힣]", answer.text) or path in ("/devices/pi5-1", "/rollouts/digits-2")
    assert "/static/words.ko.js" in answer.text
    assert HOSTILE not in answer.text


def test_pages_are_english_where_nothing_else_is_asked_for(client: TestClient) -> None:
    page = client.get("/devices").text
    assert '<html lang="en">' in page
    assert "words.ko.js" not in page


def test_programs_hear_the_same_in_every_language(client: TestClient) -> None:
    asked = "/api/v1/devices/nobody"
    assert client.get(asked, headers=KOREAN).json() == client.get(asked).json()


def test_an_account_keeps_its_language_whatever_its_browser_asks_for(hub: Services) -> None:
    with signed_in(hub, "minji", Role.VIEWER) as client:
        client.post("/settings/language", data={"language": "ko"})
        assert '<html lang="ko">' in client.get("/", headers={"accept-language": "en"}).text
        client.post("/sign-out")
        assert ">로그인</h1>" in client.get("/sign-in", headers={"accept-language": "en"}).text
    with signed_in(hub, "minho", Role.VIEWER) as client:
        assert '<html lang="en">' in client.get("/").text
        assert client.post("/settings/language", data={"language": "tlh"}).status_code == 400


def test_sentences_that_are_kept_are_told_in_the_language(korean: None) -> None:
    assert said("paused by hand") == "수동으로 일시 중지됨"
    assert said("wave 2 of 3: waiting for 2 devices, pi5-1 off line") == (
        "웨이브 2/3: 장치 2대를 기다리는 중, 오프라인: pi5-1"
    )
    assert (
        said("wave 2 of 2: waiting for 1 device, pi-2 off line") == "웨이브 2/2: 장치 1대를 기다리는 중, 오프라인: pi-2"
    )
    assert said("runs/7 has ended already (cancelled)") == "runs/7은(는) 이미 끝났습니다(취소됨)"


def test_a_sentence_that_stands_in_another_is_told_whatever_is_longer(korean: None) -> None:
    text = said("better: v2 answers 9 pictures better than v1, and 2 worse (p = 0.03); accuracy 90.1 to 92.3 %")
    assert text.startswith("더 나음: v2")
    assert "pictures" not in text and "v1" in text


def test_sentences_that_the_hub_does_not_know_stay_as_they_are(korean: None) -> None:
    for text in ("", "cannot load libfoo.so: %(name)s 100%", "a; b", "x: y", "waiting for 2 devices: "):
        assert said(text) == text


def test_what_looks_like_a_sentence_over_and_over_is_told_to_a_depth_and_then_as_it_is(korean: None) -> None:
    text = said("wave 1 of 2: " * 150)
    assert text.startswith("웨이브 1/2: 웨이브 1/2: ")
    assert text.endswith("wave 1 of 2: wave 1 of 2: ")


def test_a_change_of_nothing_has_no_minus() -> None:
    assert [change(-0.04, 1), change(0.06, 1), change(-12.4), change(-0.4)] == ["+0.0", "+0.1", "-12", "+0"]


def test_figures_and_ages_are_told_in_the_language(korean: None) -> None:
    assert duration(180) == "3분"
    assert ago(None) == "없음"
    assert state("AWAITING_APPROVAL") == "승인 대기"
    assert mark("AWAITING_APPROVAL") == "awaiting-approval"
