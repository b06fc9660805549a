"""The typed services of milonga.client, in both flavours, from one description."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milonga_hub.accounts.rules_access import GRPC
from milonga_hub.accounts.rules_scopes import scope_of

from tools.codegen.describe import Kind, Method, Parameter, Service

_AWAITED = (Kind.ONCE, Kind.UPLOAD)
_PAGE_SIZE = "Rows to ask for at a time, 0 for the hub's choice; all are given in the end."
_REQUEST_ID = "The same one makes a repeat harmless; a new one where left out."
_TIMEOUT = "Seconds; None takes the client's."
_FILE_TIMEOUT = "Seconds for all of it; None waits."
_CONTENT = "The file: its path, itself opened, its bytes, or its chunks."


@dataclass(frozen=True)
class Flavour:
    """How the two clients differ in their words."""

    prefix: str
    calls: str
    module: str
    iterator: str
    define: str
    wait: str
    for_whom: str


SYNC = Flavour("", "Calls", "calls", "Iterator", "def", "", "programs that wait")
ASYNC = Flavour("Async", "AsyncCalls", "async_calls", "AsyncIterator", "async def", "await ", "asyncio")


def source(services: Sequence[Service], flavour: Flavour) -> str:
    """Return the module with all services of a flavour."""
    body = "\n\n".join(_class(service, flavour) for service in services)
    body += "\n\n" + _all(services, flavour)
    modules = sorted(set(re.findall(r"\b(\w+_pb2)\.", body)))
    return (
        f'"""The hub\'s services for {flavour.for_whom}. Made from the protocol by `make protos`: change it there."""\n\n'
        "from __future__ import annotations\n\n"
        "import uuid\n"
        f"from collections.abc import {', '.join(sorted({flavour.iterator, 'Mapping', 'Sequence'}))}\n"
        "from datetime import datetime\n\n"
        f"from milonga.client.{flavour.module} import {flavour.calls}\n"
        "from milonga.client.content import Content\n"
        "from milonga.client.times import timestamp\n"
        f"from milonga.v1 import {', '.join(modules)}\n\n\n{body}"
    )


def _class(service: Service, flavour: Flavour) -> str:
    methods = "\n".join(_method(each, flavour) for each in service.methods)
    return (
        f"class {flavour.prefix}{service.class_name}:\n"
        f'    """{service.comment}"""\n\n'
        f"    def __init__(self, calls: {flavour.calls}) -> None:\n"
        "        self._calls = calls\n\n"
        f"{methods}"
    )


def _all(services: Sequence[Service], flavour: Flavour) -> str:
    lines = [f"        self.{each.attribute} = {flavour.prefix}{each.class_name}(calls)\n" for each in services]
    return (
        f"class {flavour.prefix}Services:\n"
        '    """All services, by the names of what they are about."""\n\n'
        f"    def __init__(self, calls: {flavour.calls}) -> None:\n" + "".join(lines)
    )


def _method(method: Method, flavour: Flavour) -> str:
    define = flavour.define if method.kind in _AWAITED else "def"
    declared = f"    {define} {method.python_name}({', '.join(['self', *signature(method)])}) -> {returned(method, flavour)}:\n"
    lines = "".join(f"        {line}\n" if line else "\n" for line in (*_docstring(method), *_body(method, flavour)))
    return declared + lines


def returned(method: Method, flavour: Flavour) -> str:
    """Return the type of what a method returns."""
    return method.type if method.kind in _AWAITED else f"{flavour.iterator}[{method.type}]"


def signature(method: Method) -> list[str]:
    """Return the parameters as they are declared, but for self."""
    positional = [_declared(each) for each in method.parameters if not each.is_keyword]
    if method.kind is Kind.UPLOAD:
        positional.append("content: Content")
    named = [_declared(each) for each in method.parameters if each.is_keyword]
    if method.takes_request_id:
        named.append('request_id: str = ""')
    if method.kind is not Kind.WATCH:
        named.append("timeout: float | None = None")
    return [*positional, *(["*", *named] if named else [])]


def _declared(parameter: Parameter) -> str:
    return f"{parameter.name}: {parameter.type}" + (f" = {parameter.default}" if parameter.default else "")


def _docstring(method: Method) -> Iterator[str]:
    arguments = [(each.name, each.comment) for each in method.parameters if each.comment and each.name != "page_size"]
    if method.kind is Kind.UPLOAD:
        arguments.append(("content", _CONTENT))
    if method.has_pages:
        arguments.append(("page_size", _PAGE_SIZE))
    if method.takes_request_id:
        arguments.append(("request_id", _REQUEST_ID))
    if method.kind is not Kind.WATCH:
        takes_file = method.kind in (Kind.DOWNLOAD, Kind.UPLOAD)
        arguments.append(("timeout", _FILE_TIMEOUT if takes_file else _TIMEOUT))
    scope = scope_of(method.path, GRPC[method.path])
    first, *more = textwrap.wrap(f'"""{method.comment}' + (f" Scope: {scope}." if scope else ""), 108)
    if not arguments:
        yield from [first, *more][:-1]
        yield [first, *more][-1] + '"""'
        return
    yield first
    yield from more
    yield ""
    yield "Args:"
    for name, comment in arguments:
        yield from textwrap.wrap(f"{name}: {comment}", 108, initial_indent="    ", subsequent_indent="        ")
    yield '"""'


def _body(method: Method, flavour: Flavour) -> Iterator[str]:
    path, calls = f'"{method.path}"', "self._calls"
    if method.kind is Kind.UPLOAD:
        yield f"header = {method.header}({_filled(method)})"
        kept = "answer =" if method.field else "return"
        yield f"{kept} {flavour.wait}{calls}.upload({path}, {method.request}(header=header),"
        yield f"    lambda chunk: {method.request}(chunk=chunk), content, {method.response}, timeout)"
        if method.field:
            yield f"return answer.{method.field}"
        return
    yield f"request = {method.request}({_filled(method)})"
    if method.kind is Kind.ROWS:
        way = "pages" if method.has_pages else "rows"
        yield f"return {calls}.{way}({path}, request, {method.response}, lambda page: page.{method.field}, timeout)"
    elif method.kind is Kind.WATCH:
        yield f"return {calls}.watch({path}, request, {method.response}, lambda news: news.{method.field})"
    elif method.kind is Kind.DOWNLOAD:
        yield f"return {calls}.download({path}, request, {method.response}, timeout)"
    else:
        asked = f"{flavour.wait}{calls}.unary({path}, request, {method.response}, timeout)"
        if method.field is None:
            yield asked
        elif method.field:
            yield f"answer = {asked}"
            yield f"return answer.{method.field}"
        else:
            yield f"return {asked}"


def _filled(method: Method) -> str:
    parts = [f"{each.name}={_value(each)}" for each in method.parameters]
    if method.takes_request_id:
        parts.append("request_id=request_id or uuid.uuid4().hex")
    return ", ".join(parts)


def _value(parameter: Parameter) -> str:
    return f"timestamp({parameter.name})" if parameter.is_time else parameter.name
