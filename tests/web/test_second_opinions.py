"""Two people label the same picture over the dashboard's own calls, and somebody decides on the page."""

from __future__ import annotations

from milonga_hub.callers import Role
from milonga_hub.labelling.models import SampleState

from tests.web.filled import Services
from tests.web.people import signed_in
from tests.web.test_pages import Page

PAGE, SAMPLES = "/labelling/digits", "/api/v1/projects/digits/samples?state=WAITING"


def test_two_people_disagree_and_a_third_decides_on_the_page(hub: Services) -> None:
    spec = hub.projects.get("digits").spec
    twice = spec.samples.model_copy(update={"second_opinions": 1.0})
    hub.projects.apply("digits", spec.model_copy(update={"samples": twice}))
    with signed_in(hub, "ann") as ann, signed_in(hub, "ben", Role.OPERATOR) as ben, signed_in(hub, "cho") as cho:
        asked = ann.get(SAMPLES).json()["samples"][0]
        first = ann.post(f"/api/v1/{asked['name']}:label", json={"label": "0"}).json()
        assert (first["state"], first["label"], "opinions" in first) == ("WAITING", "", False)
        assert asked["name"] not in [each["name"] for each in ann.get(SAMPLES).json()["samples"]]
        assert asked["name"] in [each["name"] for each in ben.get(SAMPLES).json()["samples"]]
        assert ben.post(f"/api/v1/{asked['name']}:label", json={"label": "1"}).json()["state"] == "CONFLICT"
        Page(shown := cho.get(PAGE).text)
        assert "Two people disagree" in shown and "they agree on 0 (0.0%)" in shown
        seen = {"sample": asked["name"], "revision": hub.labelling.get(asked["name"]).revision}
        cho.post(f"{PAGE}/conflicts", data={**seen, "choice": "1"})
        assert "Two people disagree" not in cho.get(PAGE).text
        # Whoever decides after that changes nothing, and is told.
        late = ben.post(f"{PAGE}/conflicts", data={**seen, "choice": "skip"})
        assert late.status_code == 409 and "cho labelled it 1 on" in late.text
        shown = cho.get(PAGE).text
        assert "What was decided" in shown
    decided = hub.labelling.get(asked["name"])
    assert (decided.state, decided.label, decided.decided_by) == (SampleState.LABELLED, "1", "cho")
