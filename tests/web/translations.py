"""Extract the texts of pages, bring the catalogues of all languages up to date and compile them: make translations."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from milonga_hub.web.language import ENGLISH, FOLDER, NAMES

WEB = FOLDER.parent
LANGUAGES = [language for language in NAMES if language != ENGLISH]
_KEYWORDS = {**DEFAULT_KEYWORDS, "N_": None}
_TEMPLATES = {
    "extensions": "jinja2.ext.i18n",
    "newstyle_gettext": "true",
    "trim_blocks": "true",
    "lstrip_blocks": "true",
    "silent": "false",
}
# By where they lie: how their texts are found, and how that is set up.
_SOURCES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("templates/**/*.html", "jinja2", _TEMPLATES),
    ("**/*.py", "python", {}),
    ("static/*.js", "javascript", {"parse_template_string": "true"}),
)
_COMPILED_SCRIPT = "words.{}.js"
_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def extracted() -> Catalog:
    """Return all texts that stand in templates, Python and scripts, in the order of the files."""
    found = Catalog(charset="utf-8")
    for pattern, method, options in _SOURCES:
        for path in sorted(WEB.glob(pattern)):
            if path.name in {_COMPILED_SCRIPT.format(language) for language in LANGUAGES}:
                continue
            # Without line numbers: they would change with every edit.
            place = (path.relative_to(WEB).as_posix(), 0)
            with path.open("rb") as file:
                for _line, text, comments, context in extract(
                    method, file, keywords=_KEYWORDS, comment_tags=("Translators:",), options=options
                ):
                    found.add(text, None, [place], auto_comments=comments, context=context)
    return found


def po(language: str) -> Path:
    return FOLDER / language / "LC_MESSAGES" / "milonga.po"


def read(language: str) -> Catalog:
    with po(language).open("rb") as file:
        return read_po(file, locale=language)


def updated(language: str) -> Catalog:
    """Return the language's catalogue with all texts of now: new ones are empty, those that stand nowhere any more are gone."""
    known = read(language) if po(language).exists() else Catalog(locale=language)
    fresh = Catalog(locale=language, charset="utf-8", fuzzy=False)
    for message in texts(extracted()):
        kept = known.get(message.id, message.context)
        # One that has got a plural since is translated anew.
        is_same = kept is not None and not kept.fuzzy and isinstance(kept.id, str) == isinstance(message.id, str)
        string = kept.string if kept is not None and is_same else None
        fresh.add(message.id, string, message.locations, context=message.context)
    return fresh


def texts(catalog: Catalog) -> Iterator[Message]:
    return (message for message in catalog if message.id)


def written(catalog: Catalog) -> bytes:
    """Return the catalogue as a .po file, the same for the same texts: without times and tools."""
    file = io.BytesIO()
    write_po(file, catalog, width=110, sort_by_file=False, include_lineno=False, omit_header=True)
    header = f'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n"Language: {catalog.locale}\\n"\n'
    return f'{header}"Plural-Forms: {catalog.plural_forms}\\n"\n\n'.encode() + file.getvalue()


def compiled(language: str) -> dict[Path, bytes]:
    """Return the files that the hub serves from, by path: one for its own texts and one for those of scripts."""
    catalog = read(language)
    # What is not translated is shown in English.
    for message in [each for each in texts(catalog) if not is_whole(each)]:
        catalog.delete(message.id, message.context)
    # The same file for the same texts, whenever it is made.
    machine, file = (
        Catalog(locale=language, creation_date=_ANY_TIME, revision_date=_ANY_TIME, fuzzy=False),
        io.BytesIO(),
    )
    for message in texts(catalog):
        machine.add(message.id, message.string, context=message.context)
    write_mo(file, machine)
    script = {
        message.id if isinstance(message.id, str) else message.id[0]: forms(message)
        for message in texts(catalog)
        if any(path.startswith("static/") for path, _line in message.locations)
    }
    said = json.dumps(script, ensure_ascii=False, indent=1)
    words = (
        f"// Made of locale/{language}/LC_MESSAGES/milonga.po by `make translations`.\n"
        f"window.MilongaWords = {{ plural: (n) => Number({catalog.plural_expr}), texts: {said} }};\n"
    )
    return {
        po(language).with_suffix(".mo"): file.getvalue(),
        WEB / "static" / _COMPILED_SCRIPT.format(language): words.encode(),
    }


def is_whole(message: Message) -> bool:
    """Return whether all forms of the text are translated, and for sure."""
    return not message.fuzzy and bool(forms(message)) and all(forms(message))


def forms(message: Message) -> list[str]:
    """Return the translation in one form, or in as many as the language has for numbers."""
    return [message.string] if isinstance(message.string, str) else list(message.string or ())


def main() -> int:
    missing = 0
    for language in LANGUAGES:
        po(language).parent.mkdir(parents=True, exist_ok=True)
        catalog = updated(language)
        po(language).write_bytes(written(catalog))
        for path, content in compiled(language).items():
            path.write_bytes(content)
        lacking = [message for message in texts(catalog) if not is_whole(message)]
        missing += len(lacking)
        print(f"{NAMES[language]}: {len(list(texts(catalog)))} texts, {len(lacking)} without a translation")
    if missing:
        print(f"Write them in {FOLDER.relative_to(Path.cwd())}, then run this again.")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
