"""A broker is taken for gone only after it was asked and did not answer."""

from __future__ import annotations

from milonga_hub.telemetry.pulse import Pulse


def test_a_broker_that_answers_nothing_to_what_the_hub_sends_is_asked_before_it_is_given_up() -> None:
    pulse = Pulse(0.0, 15.0)
    pulse.hears(0.0)
    # Receipts went out at QoS 0, just after the hub began to wait: there is no answer to them.
    assert pulse.asks(15.0, sent_at=0.2) and not pulse.is_gone(15.0)
    pulse.hears(15.1)
    assert not pulse.asks(29.9, sent_at=15.0) and not pulse.is_gone(30.1)


def test_a_broker_that_does_not_answer_is_gone() -> None:
    pulse = Pulse(0.0, 15.0)
    assert pulse.asks(15.0, sent_at=0.0)
    # What the hub sends meanwhile makes no broker live.
    assert not pulse.asks(20.0, sent_at=20.0) and not pulse.is_gone(29.9)
    assert pulse.is_gone(30.0)


def test_a_broker_that_only_talks_hears_of_the_hub_in_time() -> None:
    pulse, pings = Pulse(0.0, 15.0), 0
    sent_at = 0.0
    for second in range(1, 61):
        pulse.hears(float(second))
        if pulse.asks(float(second), sent_at):
            pings, sent_at = pings + 1, float(second)
    assert pings == 4 and not pulse.is_gone(60.0)
