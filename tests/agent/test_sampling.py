"""Which pictures a device keeps for labelling, how it makes them unrecognisable, and what its folder does when it is full."""

from __future__ import annotations

import io
import os
import random
import stat
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milonga import pictures
from milonga.v1 import agent_pb2, labelling_pb2
from milonga_agent import redaction as agent_redaction
from milonga_agent.answers import Answer
from milonga_agent.errors import AgentError
from milonga_agent.redaction import Nothing, Redaction, RedactionFailed, redaction
from milonga_agent.sample_folder import SampleFolder
from milonga_agent.sampler import Sampler
from milonga_agent.sampling import Candidate, Chooser, Novelty, Policy, Reason
from milonga_agent.served import Served
from PIL import Image

from tests.agent.bundles import Example, example

DAY = 86_400.0
POLICY = Policy("digits", 0.5, 0.25, 0.25, pictures_per_day=100, bytes_per_day=1 << 20, max_side_px=64)
NOW = 1_800_000_000.0


def _candidate(confidence: float = 0.5, novelty: float = 0.0) -> Candidate:
    return Candidate(b"", "bolt", confidence, novelty, NOW)


def _chosen(policy: Policy, offered: list[Candidate]) -> tuple[Reason, Candidate] | None:
    chooser = Chooser(policy, 0.0, random.Random(1))
    for each in offered:
        chooser.offer(each)
    return chooser.take(chooser.ends_at)


def test_the_least_confident_picture_of_a_slot_is_chosen() -> None:
    policy = replace(POLICY, novel=0.0, random=0.0)
    offered = [_candidate(confidence) for confidence in (0.9, 0.2, 0.7)]
    assert _chosen(policy, offered) == (Reason.LEAST_CONFIDENT, offered[1])


def test_the_most_novel_picture_of_a_slot_is_chosen() -> None:
    policy = replace(POLICY, least_confident=0.0, random=0.0)
    offered = [_candidate(novelty=novelty) for novelty in (1.0, 9.0, 3.0)]
    assert _chosen(policy, offered) == (Reason.NOVEL, offered[1])


def test_by_chance_every_picture_of_a_slot_is_as_likely_as_any_other() -> None:
    chooser = Chooser(replace(POLICY, least_confident=0.0, novel=0.0), 0.0, random.Random(1))
    counts: Counter[float] = Counter()
    for _ in range(2000):
        for confidence in (0.1, 0.2, 0.3, 0.4):
            chooser.offer(_candidate(confidence))
        chosen = chooser.take(chooser.ends_at)
        assert chosen is not None
        counts[chosen[1].confidence] += 1
    # The standard deviation of each count is 19.
    assert all(400 < count < 600 for count in counts.values()) and len(counts) == 4


def test_reasons_come_in_the_proportion_that_the_project_wants() -> None:
    chooser = Chooser(POLICY, 0.0, random.Random(1))
    counts: Counter[Reason] = Counter()
    for _ in range(40):
        chooser.offer(_candidate())
        chosen = chooser.take(chooser.ends_at)
        assert chosen is not None
        counts[chosen[0]] += 1
    assert counts == {Reason.LEAST_CONFIDENT: 20, Reason.NOVEL: 10, Reason.RANDOM: 10}


def test_no_more_slots_fit_into_a_day_than_pictures_are_allowed() -> None:
    chooser, now, count = Chooser(POLICY, 0.0, random.Random(1)), 0.0, 0
    while now < DAY:
        chooser.offer(_candidate())
        count += chooser.take(now) is not None
        now += 30.0
    # The first slot is short, so that whoever switches sampling on sees something soon.
    assert 95 <= count <= 101
    assert Chooser(POLICY, 0.0, random.Random(1)).ends_at == 10.0


def test_a_picture_unlike_those_before_is_novel_and_stops_being_so() -> None:
    source, novelty = np.random.default_rng(1), Novelty()
    usual = [novelty.of((0.5 + 0.02 * source.standard_normal(192)).astype(np.float32)) for _ in range(200)]
    dark = np.full(192, 0.1, dtype=np.float32)
    # What is usual is not known from the first few.
    assert set(usual[:30]) == {0.0}
    first = novelty.of(dark)
    assert first > 5 * max(usual)
    assert [novelty.of(dark) for _ in range(300)][-1] < first / 5


def _kept(number: int, project: str = "digits", size_bytes: int = 100) -> agent_pb2.KeptSample:
    header = agent_pb2.SampleHeader(digest=f"sha256:{number:064x}", size_bytes=size_bytes, project=project)
    return agent_pb2.KeptSample(header=header, picture=bytes(size_bytes))


def test_a_full_folder_drops_the_oldest_picture_and_counts_it_for_ever(tmp_path: Path) -> None:
    folder = SampleFolder(tmp_path / "samples", max_pictures=3)
    for number in range(5):
        folder.put(_kept(number), NOW + number)
    assert [int(digest[7:], 16) for digest in folder.digests()] == [2, 3, 4]
    assert SampleFolder(tmp_path / "samples").ledger().dropped == 2


def test_a_folder_keeps_to_its_bytes_as_well(tmp_path: Path) -> None:
    folder = SampleFolder(tmp_path, max_bytes=1000)
    for number in range(5):
        folder.put(_kept(number, size_bytes=300), NOW + number)
    assert len(folder.digests()) == 2
    assert sum(path.stat().st_size for path in tmp_path.glob("*.sample")) <= 1000


def test_what_was_half_written_when_the_power_went_is_no_picture_and_what_is_damaged_is_dropped(tmp_path: Path) -> None:
    folder = SampleFolder(tmp_path)
    folder.put(_kept(1), NOW)
    half = tmp_path / ".0000001800000001000-2.sample.tmp"
    half.write_bytes(b"half")
    damaged = tmp_path / f"{int(NOW * 1e3) + 5:016}-{3:064x}.sample"
    damaged.write_bytes(b"\xff\xff\xff")
    assert len(folder.digests()) == 2
    assert folder.read(damaged) is None and not damaged.exists()
    sample = folder.read(next(iter(folder.digests().values())))
    assert sample is not None and sample.picture == bytes(100)
    folder.clear("digits")
    assert not half.exists() and len(folder.digests()) == 1


def test_the_limits_of_a_day_hold_over_a_restart_and_end_with_the_day(tmp_path: Path) -> None:
    SampleFolder(tmp_path).put(_kept(1, size_bytes=600), NOW)
    again = SampleFolder(tmp_path)
    assert again.may_take(2, 1000, 400, NOW)
    assert not again.may_take(1, 1000, 400, NOW)
    assert not again.may_take(2, 1000, 401, NOW)
    assert again.may_take(1, 1000, 1000, NOW + DAY)


def test_only_the_device_itself_may_read_what_waits(tmp_path: Path) -> None:
    folder = SampleFolder(tmp_path)
    folder.put(_kept(1), NOW)
    (path,) = folder.digests().values()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_pictures_of_other_projects_are_deleted(tmp_path: Path) -> None:
    folder = SampleFolder(tmp_path)
    folder.put(_kept(1, "digits"), NOW)
    folder.put(_kept(2, "bolts"), NOW + 1)
    folder.clear("bolts")
    assert [int(digest[7:], 16) for digest in folder.digests()] == [2]
    folder.clear()
    assert not folder.digests()


@pytest.mark.parametrize(("before", "after"), [("", "blur"), ("blur", ""), ("downscale=64", "downscale=8")])
def test_what_was_redacted_in_another_way_than_is_wanted_now_is_never_read(
    tmp_path: Path, before: str, after: str
) -> None:
    SampleFolder(tmp_path, before).put(_kept(1), NOW)
    SampleFolder(tmp_path, after).put(_kept(2), NOW + 1)
    folder = SampleFolder(tmp_path, after)
    first, second = folder.digests().values()
    assert folder.read(first) is None and not first.exists()
    assert folder.read(second) is not None
    SampleFolder(tmp_path, before).clear("digits")
    assert not folder.digests()


def _stripes() -> Image.Image:
    return Image.fromarray(np.tile(np.array([[0, 255] * 64], dtype=np.uint8), (128, 1))).convert("RGB")


def test_blur_and_downscale_leave_nothing_of_fine_detail() -> None:
    contrast = pictures.statistics(_stripes())["contrast"]
    assert contrast == 1.0
    assert pictures.statistics(redaction("blur").redact(_stripes()))["contrast"] < 0.1
    small = redaction("downscale=16").redact(_stripes())
    assert small.size == (16, 16) and pictures.statistics(small)["contrast"] < 0.1


def test_a_program_of_the_operators_redacts(tmp_path: Path) -> None:
    program = tmp_path / "redact.py"
    program.write_text(
        "import io, sys\nfrom PIL import Image\npicture = Image.open(io.BytesIO(sys.stdin.buffer.read()))\n"
        "Image.new('RGB', picture.size, (1, 2, 3)).save(sys.stdout.buffer, 'PNG')\n"
    )
    redacted = redaction(f"{sys.executable} {program}").redact(_stripes())
    assert redacted.size == (128, 128) and redacted.getpixel((5, 5)) == (1, 2, 3)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"{sys.executable} -c 'import sys; sys.exit(3)'", "exit code 3"),
        (f"{sys.executable} -c 'print(1)'", "gave no picture"),
        ("/nowhere/redact", "cannot be started.*see --redact"),
        ("true", "gave no picture: the file is empty"),
        ("sh -c 'while :; do echo rubbish; done'", "wrote more than 1,048,576 bytes"),
        ("sh -c 'while :; do echo rubbish >&2; done'", "took longer than 2 s"),
        # The shell's child holds on to what the agent reads.
        ("sh -c 'sleep 60; cat'", "took longer than 2 s"),
        ("sh -c 'exec >&- 2>&-; sleep 60'", "took longer than 2 s"),
    ],
)
def test_a_program_that_fails_says_so(command: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_redaction, "_COMMAND_SECONDS", 60.0 if "exit" in said or "more" in said else 2.0)
    monkeypatch.setattr(agent_redaction, "_MAX_OUTPUT_BYTES", 1 << 20)
    with pytest.raises(RedactionFailed, match=said):
        redaction(command).redact(_stripes())


def test_a_program_that_takes_too_long_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_redaction, "_COMMAND_SECONDS", 2.0)
    os.mkfifo(tmp_path / "held")
    held = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(held, True)
    with pytest.raises(RedactionFailed):
        redaction(f"sh -c '(echo x; sleep 60) > {tmp_path}/held; cat'").redact(_stripes())
    with os.fdopen(held, "rb") as end:
        # It ends with the last process that holds it.
        assert end.read() in (b"x\n", b"")


def test_a_program_need_not_read_what_it_is_given(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (512, 512, 3), dtype=np.uint8))
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "always.png")
    assert redaction(f"cat {tmp_path}/always.png").redact(noise).size == (9, 9)


@pytest.mark.parametrize("words", ["downscale", "downscale=2", "downscale=big", "'", " "])
def test_words_that_mean_no_redaction_are_refused(words: str) -> None:
    with pytest.raises(AgentError, match="redact"):
        redaction(words)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return example(tmp_path_factory.mktemp("example"), "reference")


class _Broken(Redaction):
    def redact(self, picture: Image.Image) -> Image.Image:
        raise RedactionFailed("it broke")


def _sampled(made: Example, folder: Path, redact: Redaction | None = None, **policy: Any) -> SampleFolder:
    """Ask a real network about one picture with a place in its metadata, and let the slot of it end."""
    now = [0.0]
    kept = SampleFolder(folder)
    sampler = Sampler(replace(POLICY, **policy), "models/digits/versions/1", kept, redact or Nothing(), lambda: now[0])
    served = Served(made.bundle.folder, threads=1)
    served.sampler = sampler
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    packed = io.BytesIO()
    pictures.decode(made.png(700)).save(packed, "PNG", exif=exif, icc_profile=b"a camera's own")
    assert b"taken at home" in packed.getvalue()
    served.of_pictures([packed.getvalue()])
    assert not sampler.keep_due()
    now[0] = 10.0
    assert sampler.keep_due()
    return kept


def test_a_picture_that_only_the_network_finds_unlike_the_others_is_novel(tmp_path: Path) -> None:
    now, kept = [0.0], SampleFolder(tmp_path)
    policy = replace(POLICY, least_confident=0.0, novel=1.0, random=0.0)
    sampler = Sampler(policy, "models/digits/versions/1", kept, Nothing(), lambda: now[0])
    source = np.random.default_rng(2)
    picture = Image.new("RGB", (32, 32), (120, 120, 120))
    array = np.full((3, 32, 32), 120, dtype=np.uint8)

    def see(name: str, shift: float) -> None:
        embeddings = (shift + source.standard_normal((1, 16))).astype(np.float32)
        answer = Answer({"class": [name]}, np.array([0.5], np.float32), np.array([0]), embeddings=embeddings)
        sampler.see([_png_of(picture)], [picture], [array], answer)

    for _ in range(60):
        see("usual", 0.0)
    see("never seen", 6.0)
    for _ in range(10):
        see("usual", 0.0)
    now[0] = 10.0
    assert sampler.keep_due()
    (path,) = kept.digests().values()
    sample = kept.read(path)
    assert sample is not None
    assert (sample.header.predicted, sample.header.reason) == ("never seen", labelling_pb2.SAMPLE_REASON_NOVEL)


def _png_of(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_kept_with_what_the_device_answered_and_without_its_metadata(
    made: Example, tmp_path: Path
) -> None:
    folder = _sampled(made, tmp_path)
    (path,) = folder.digests().values()
    sample = folder.read(path)
    assert sample is not None
    header = sample.header
    assert (header.project, header.model_version) == ("digits", "models/digits/versions/1")
    assert header.predicted == str(made.pictures.labels[700]) and 0.1 < header.confidence <= 1.0
    assert header.reason == labelling_pb2.SAMPLE_REASON_LEAST_CONFIDENT
    assert header.size_bytes == len(sample.picture)
    assert pictures.decode(sample.picture).size == pictures.decode(made.png(700)).size
    with Image.open(io.BytesIO(sample.picture)) as kept:
        assert not kept.info and not kept.getexif()


def test_what_cannot_be_redacted_is_never_kept(made: Example, tmp_path: Path) -> None:
    folder = _sampled(made, tmp_path, _Broken())
    assert not folder.digests() and folder.ledger().dropped == 1
    assert b"PNG" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


class _Larger(Redaction):
    def redact(self, picture: Image.Image) -> Image.Image:
        return picture.resize((300, 200))


def test_a_picture_that_a_program_made_larger_is_kept_as_large_as_the_project_takes(
    made: Example, tmp_path: Path
) -> None:
    folder = _sampled(made, tmp_path, _Larger())
    (path,) = folder.digests().values()
    sample = folder.read(path)
    assert sample is not None and max(pictures.decode(sample.picture).size) == POLICY.max_side_px


def test_a_day_that_is_used_up_keeps_nothing(made: Example, tmp_path: Path) -> None:
    assert not _sampled(made, tmp_path, bytes_per_day=10).digests()


def test_without_a_word_of_the_hub_no_picture_is_looked_at(made: Example) -> None:
    served = Served(made.bundle.folder, threads=1)
    served.of_pictures([made.png(700)])
    assert served.sampler is None
