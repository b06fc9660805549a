"""The page that shows which hubs there are, and which of them leads."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from milonga_hub.db import utc_now
from milonga_hub.hubs.models import HubState, HubView
from milonga_hub.hubs.service import Alone, Standing

from tests.web.filled import Services
from tests.web.people import signed_in


class Three(Alone):
    """Hubs of which one leads, or none."""

    id = "b"
    notice = (
        "the tables are at revision 0099, which this version does not know: a newer one changed them. This hub goes on, for a newer"
        " version only adds, and leads no more where a newer one is there; replace it"
    )

    def __init__(self, *states: HubState) -> None:
        super().__init__()
        self._states = states

    def standings(self) -> list[Standing]:
        since = utc_now() - timedelta(minutes=5)
        return [
            Standing(
                HubView(id=id, name=f"hub-{id}", version="0.1.0", revision="0006", grpc="10.0.0.1:8443"),
                state,
                id == self.id,
                since if state is HubState.LEADING else None,
            )
            for id, state in zip("abc", self._states, strict=True)
        ]


def test_the_page_shows_the_one_hub_of_a_file(tmp_path: Path) -> None:
    with signed_in(Services(tmp_path)) as client:
        page = client.get("/settings/hubs").text
        (told,) = client.get("/api/v1/hubs").json()
    assert "leading" in page and "On SQLite there is one hub." in page
    assert told["state"] == "LEADING" and told["leads_since"]


def test_the_page_shows_who_leads_since_when_and_what_is_wrong(tmp_path: Path) -> None:
    hub = Services(tmp_path)
    with signed_in(hub) as client:
        hub.hubs = Three(HubState.LEADING, HubState.SERVING, HubState.LOST)
        page = client.get("/settings/hubs").text
        korean = client.get("/settings/hubs", headers={"Accept-Language": "ko"}).text
        hub.hubs = Three(HubState.SERVING, HubState.SERVING, HubState.LOST)
        nobody = client.get("/settings/hubs").text
    assert all(f"hub-{id}" in page for id in "abc") and "5 min" in page and "No hub leads" not in page
    assert "revision 0099" in page and "0099" in korean and "The tables are" not in korean
    assert "No hub leads just now" in nobody
