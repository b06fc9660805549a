"""The sentences that services keep or raise in English, as patterns for said.py: %(name)s is what varies.

What %(why)s and %(more)s stand for is itself such a sentence. A pattern that no service says any more does no harm, and a sentence
without one is shown in English.
"""

from __future__ import annotations

from milonga_hub.web.language import N_

_OF_SENTENCES = (N_("%(why)s; %(more)s"), N_("%(name)s: %(why)s"))

# Of agents, the last one as hubs say it for agents that do not.
_OF_UPGRADES = (
    N_("the agent was not upgraded: %(why)s"),
    N_("the agent in %(place)s did not start, so the one before it runs; upgrade or install again"),
    N_("it started anew and still runs %(version)s"),
    N_("it was told, and nothing was heard of it since"),
    N_("runs it, for less than a minute"),
    N_("it runs this agent already"),
    N_("all %(count)s devices run agent %(version)s already"),
    N_("agents have no %(name)s: one that does not start gives way to the one before by itself"),
    N_("agents take no older release; one that does not start gives way by itself"),
    N_("%(id)s upgrades agents and is %(state)s; let it end, or end it: milonga rollouts abort %(name)s"),
    N_("this agent was not installed by the hub's installer, or by an older one: run its line again"),
)

_OF_RUNS = (
    N_("new project"),
    N_("started on the dashboard"),
    N_("cancelled"),
    N_("cancelled by %(name)s"),
    N_("cancelled with the hub's local key"),
    N_("refused"),
    N_("refused by %(name)s"),
    N_("refused with the hub's local key"),
    N_("%(why)s; approved by %(name)s"),
    N_("%(why)s; approved with the hub's local key"),
    N_("%(run)s does not wait for approval: it is %(state)s (%(why)s)"),
    N_("%(run)s does not wait for approval: it is %(state)s"),
    N_("no answer"),
    N_("preparing pictures of %(version)s"),
    N_("loading pictures"),
    N_("epoch %(epoch)s of %(count)s"),
    N_("waiting for %(resources)s of the Ray cluster"),
    N_("sending %(size)s MB to %(machine)s"),
    N_("%(machine)s has what it reads"),
    N_("accuracy of the smallest subnet %(smallest)s, of the largest %(largest)s"),
    N_("mAP50-95 of the smallest subnet %(smallest)s, of the largest %(largest)s"),
    N_("accuracy of the smallest subnet %(smallest)s, of the largest %(largest)s, trained on from %(run)s"),
    N_("choosing subnets to measure"),
    N_("building subnet %(index)s of %(count)s"),
    N_("measured %(done)s of %(count)s on the devices"),
    N_("%(type)s: measures %(targets)s in turn, round %(round)s"),
    N_("%(subnets)s subnets measured on %(type)s"),
    N_("%(subnets)s subnets measured on %(type)s, with what another measured before"),
    N_("%(subnets)s subnets measured on %(type)s, with what %(others)s others measured before"),
    N_("%(subnets)s subnets measured on each of %(count)s device types"),
    N_("%(subnets)s subnets measured on each of %(count)s device types, with what another measured before"),
    N_("%(subnets)s subnets measured on each of %(count)s device types, with what %(others)s others measured before"),
    N_("%(levels)s levels measured on each of %(count)s device types"),
    N_("%(count)s earlier measurements of %(type)s hold (off by %(error)s where %(again)s were taken again)"),
    N_(
        "%(count)s earlier measurements of %(type)s do not hold any more (off by %(error)s where %(again)s were taken again)"
    ),
    N_("%(count)s earlier measurements of %(type)s could not be taken again"),
    N_("exporting level %(level)s of %(count)s"),
    N_("fine-tuned: %(before)s to %(after)s"),
    N_("as inherited: %(accuracy)s, not better after fine-tuning"),
    N_("searching for %(type)s"),
    N_("choosing candidates for %(type)s"),
    N_("evaluating the front of %(type)s: %(done)s of %(count)s"),
    N_("evaluating subnet %(index)s of %(count)s"),
    N_("evaluating it for %(type)s"),
    N_("judging the latency model of %(type)s"),
    N_("the latency model of %(type)s is trusted (off by %(error)s on subnets held out)"),
    N_(
        "the latency model of %(type)s is trusted after %(count)s further measurements (off by %(error)s on subnets held out)"
    ),
    N_("the latency model of %(type)s is not to be trusted (off by %(error)s on subnets held out)"),
    N_(
        "the latency model of %(type)s is not to be trusted after %(count)s further measurements (off by %(error)s on subnets held out)"
    ),
    N_(
        "let nothing else run on devices while they are measured, or allow more further measurements (spec.search.further_measurements)"
    ),
    N_(
        "%(type)s: %(network)s, predicted %(predicted)s ms, measured %(measured)s ms (its latency model is off by %(error)s on subnets held out)"
    ),
    N_("accuracies of subnets held out are predicted in an order whose Kendall's tau is %(tau)s (1 is right, 0 chance)"),
    N_("%(type)s: takes the next best subnet, for no build of the one before can be used: %(why)s"),
    N_("no build of it can be used: %(why)s"),
    N_("reading pictures"),
    N_("datasets/%(version)s for %(types)s"),
    N_("building %(target)s"),
    N_("calibrated by %(recipe)s on %(count)s pictures"),
    N_("not a PNG or JPEG picture"),
    N_("%(moved)s MB moved for %(whole)s MB"),
    N_("bundling %(target)s for devices to build"),
    N_("%(good)s of %(count)s builds hold"),
    N_("the disk is full: make room under %(folder)s or where TMPDIR says; it goes on by itself then"),
    N_("the hub's disk is full; free space under %(folder)s; it goes on by itself then"),
    N_("the first version for these devices: nothing to compare with"),
    N_("running %(version)s (champion) on %(count)s pictures"),
    N_("running %(version)s (challenger) on %(count)s pictures"),
    N_("%(done)s of %(count)s devices"),
    N_("%(done)s of %(count)s devices; paused: %(why)s; go on with: milonga rollouts resume %(rollout)s"),
    N_("%(done)s of %(count)s devices; waits for approval: milonga rollouts approve %(rollout)s"),
    N_("%(devices)s devices in %(waves)s waves"),
    N_("rollout %(rollout)s was aborted: %(why)s"),
    N_("%(version)s is not better than what the devices run: they keep it"),
    N_("%(version)s is live on %(types)s"),
    N_("better: %(why)s"),
    N_("not clearly better: %(why)s"),
    N_("not better: %(version)s loses %(points)s; %(why)s"),
    N_(
        "%(new)s answers %(gained)s pictures better than %(old)s, and %(lost)s worse (p = %(p)s); accuracy %(before)s to %(now)s"
    ),
    N_(
        "%(new)s answers %(gained)s pictures better than %(old)s, and %(lost)s worse; %(measure)s %(before)s to %(now)s"
        " (%(low)s to %(high)s points in 95 of 100 draws, p = %(p)s)"
    ),
    N_(
        "%(why)s; judged by %(count)s pictures that were held back for this: no training, no search and no gate of a build has"
        " seen how they are answered"
    ),
    N_(
        "%(why)s; judged by the %(count)s pictures that chose it, so that it looks a little better than it is; some are held"
        " back from %(fewest)s on"
    ),
    N_("%(count)s new labelled pictures (%(wanted)s start a run)"),
    N_("schedule %(schedule)s, due since %(time)s"),
    N_("run %(number)s has not ended yet"),
    N_("run %(number)s waits for approval: milonga runs approve %(run)s"),
    N_("quiet hours, %(hours)s"),
    N_("cool-down of %(seconds)s s"),
    N_("budget of %(runs)s in 24 hours"),
    N_("budget of %(runs)s in 7 days"),
    N_("%(count)s of %(wanted)s new labelled pictures have come"),
    N_("drift on fewer than %(quorum)s device(s) of one type, or less than %(share)s of it"),
    N_("drift on %(count)s device(s); the quorum is %(quorum)s, and the project has %(all)s in all"),
    N_("drift on %(count)s device(s); the quorum is %(quorum)s"),
    N_(
        "drift in %(signals)s on %(devices)s (stability index up to %(strongest)s, %(allowed)s allowed);"
        " %(count)s new labelled pictures"
    ),
    N_("no subnet for %(type)s keeps its limits (%(limits)s); %(more)s"),
    N_("raise the limits in the project file and apply it again"),
    N_("the fastest found is %(network)s at %(times)s, with %(bytes)s bytes"),
    N_("a fault of the hub ended the run: %(error)s; see its log"),
    N_(
        "there are no devices %(selector)s; enrol one (milonga tokens create, then milonga-agent run on the device),"
        " then go on with: milonga runs resume %(run)s"
    ),
    N_("that match %(selector)s"),
    N_("there is no run %(run)s; list them with: milonga runs list"),
    N_("%(run)s has ended already (%(state)s)"),
)  # fmt: skip

_OF_ROLLOUTS = (
    N_("begins when a person approves"),
    N_("paused by hand"),
    N_("aborted"),
    N_("aborted by hand"),
    N_("aborted by %(name)s"),
    N_("aborted with the hub's local key"),
    N_("superseded by %(rollout)s"),
    N_("rolled back by %(rollout)s"),
    N_("rolled back by %(rollout)s: %(why)s"),
    N_("wave %(index)s: %(failed)s of %(count)s devices failed (%(why)s)"),
    N_("%(share)s of %(count)s requests to %(version)s failed"),
    N_("%(share)s of %(count)s requests to %(version)s failed, %(usual)s of %(others)s on devices without it"),
    N_("%(why)s; resume to count anew, or abort"),
    N_("%(why)s; it could not be rolled back: %(problem)s"),
    N_("%(newer)s of %(project)s is newer than %(rollout)s; roll that one back"),
    N_("%(rollout)s took %(taken)s back; send out what you want instead: milonga rollouts create"),
    N_("no device of %(rollout)s has a version to go back to"),
    N_("it had no version of %(project)s before, and keeps this one"),
    N_("wave %(index)s of %(count)s: %(why)s"),
    N_("waiting for %(count)s devices: %(names)s"),
    N_("waiting for %(count)s devices, %(names)s off line"),
    N_("waiting for 1 device: %(name)s"),
    N_("waiting for 1 device, %(name)s off line"),
    N_("waiting for a window, which opens %(time)s UTC (%(name)s)"),
    N_("waiting for the windows of %(count)s devices; the first opens %(time)s UTC (%(name)s)"),
    N_("soaking until %(time)s UTC"),
    N_("no trouble so far; goes on at %(time)s UTC"),
    N_("%(names)s must be on line and well for the wave to end"),
    N_("wave %(index)s: %(failed)s of %(count)s devices failed (%(why)s); resume to try them again, or abort"),
    N_("%(names)s failed, as many as were allowed"),
    N_("%(names)s off line for long; gets it when it connects"),
    N_("off line; gets it when it connects"),
    N_("left out %(names)s"),
    N_("left out: %(why)s"),
    N_("and %(count)s more"),
    N_("serves it already"),
    N_("serves nothing at the moment"),
    N_(
        "was told to take the version, and does so unless a later rollout says otherwise; what it has now:"
        " milonga devices show %(device)s"
    ),
    N_("its turn had not come; this rollout changed nothing on it"),
    N_("the device serves another bundle"),
    N_("the device was deleted or revoked"),
    N_("a later assignment took the place of this one"),
    N_("it does not match the selector any more"),
    N_("its window opens %(time)s UTC"),
    N_("it is pinned to %(version)s; let go of it: milonga devices unpin %(device)s"),
    N_("there is no chosen build for %(type)s"),
    N_("%(build)s may not go out: %(why)s"),
    N_("the newer rollout %(rollout)s took it"),
    N_("the hub's agent is %(release)s by now, which this rollout does not bring; abort it and upgrade anew"),
    N_("it came when the hub's agent was %(release)s already; upgrade it anew"),
    N_("no device matches %(selector)s; see: milonga devices list"),
    N_("no device can take %(version)s: %(why)s; see: milonga build ls %(version2)s"),
    N_("no device of rollout %(rollout)s has failed"),
    N_("a newer rollout of %(project)s took the place of %(rollout)s"),
    N_("there is no rollout %(rollout)s; list them with: milonga rollouts list"),
    N_("rollout %(rollout)s is %(state)s, not %(wanted)s: %(why)s"),
    N_("rollout %(rollout)s is %(state)s, not %(wanted)s"),
)

_OF_BUILDS = (
    N_("not used: %(why)s"),
    N_("it is %(state)s, and there is nothing to send: %(why)s"),
    N_("it is %(state)s, not verified: %(why)s"),
    N_("it is %(state)s, not verified"),
    N_("it was never made"),
    N_("it was never run"),
    N_("it was not measured"),
    N_("the device did not run it: %(why)s"),
    N_("%(measured)s ms, %(allowed)s ms allowed"),
    N_("its model has %(bytes)s bytes, %(allowed)s allowed"),
    N_("the fastest that passes its gates"),
    N_("chosen all the same; its figures say: %(why)s"),
    N_("%(share)s slower than %(target)s"),
    N_("%(times)s times as slow as %(target)s"),
    N_("as fast as %(target)s, which is more accurate"),
    N_("as fast as %(target)s, which is smaller"),
    N_("not verified on hardware: %(why)s"),
    N_("built and run on %(device)s: its outputs are right; accuracy is not measured on devices"),
    N_("no device of type %(type)s is connected"),
    N_("no device of type %(type)s measured it within %(seconds)s s"),
    N_("there is nothing to measure"),
    N_("it is the fastest of its type now; take it with: milonga build choose %(build)s"),
    N_("a fault of the hub ended the build: %(error)s; see its log"),
    N_(
        "%(build)s is being built already, untuned; wait for it (milonga build watch %(build2)s), or end it first (milonga build"
        " cancel %(build3)s)"
    ),
    N_(
        "%(build)s is being built already, tuned in another way; wait for it (milonga build watch %(build2)s), or end it first"
        " (milonga build cancel %(build3)s)"
    ),
    N_("say why %(build)s may be used although it is not verified: give a reason"),
    N_("there is no %(build)s; list builds with: milonga build ls"),
    N_("this file cannot be read as ONNX: %(error)s"),
    N_(
        "nothing of %(build)s is kept as ONNX; build its subnet for onnxruntime/fp32 too: milonga build start %(version)s"
        " %(target)s"
    ),
)  # fmt: skip

_OF_ALERTS = (
    N_("%(signal)s needs one, in watts: what is too much depends on the board"),
    N_("%(signal)s is or is not, without a threshold; those with one: %(others)s"),
    N_("there is no alert channel %(name)s; apply its file first (kind: AlertChannel), or name one of: %(others)s"),
    N_("%(name)s is not a name; use 1 to 63 of a-z, 0-9 and '-'"),
    N_("%(name)s is not an e-mail address"),
    N_("%(name)s is not the address of a webhook; write https://host/path"),
    N_("%(name)s comes with the hub; to switch it off apply a rule of this name with enabled: false"),
    N_("the rule %(rule)s sends to %(name)s; change or delete that rule first"),
    N_("%(device)s is offline, last seen %(time)s UTC"),
    N_("%(device)s is offline, never seen"),
    N_(
        "see that it has power and network and that its agent runs (on it: systemctl status milonga-agent);"
        " if it is gone for good: milonga devices delete %(device)s"
    ),
    N_("what %(device)s sees for %(project)s has drifted: %(signals)s"),
    N_(
        "look at it: milonga telemetry drift --project %(project)s; label new pictures, send them (milonga datasets import),"
        " and retrain: milonga runs start %(project2)s"
    ),
    N_(
        "look at it: milonga telemetry drift --project %(project)s; train the model again where it comes from, with pictures of now,"
        " and send it: milonga models import %(project2)s FILE"
    ),
    N_("%(device)s no longer serves %(project)s as it did at first: %(signals)s"),
    N_(
        "see since when: milonga telemetry drift --project %(project)s; see what keeps the device busy, its temperature (milonga"
        " telemetry list --device %(device)s) and its log: milonga devices logs %(device2)s"
    ),
    N_("%(run)s failed: %(why)s"),
    N_("no reason given"),
    N_("see what happened: milonga runs show %(run)s; then go on from where it stopped: milonga runs resume %(run2)s"),
    N_("the rollout of %(version)s is paused: %(why)s"),
    N_(
        "see which devices failed: milonga rollouts show %(rollout)s; then milonga rollouts resume %(rollout2)s or"
        " milonga rollouts abort %(rollout3)s"
    ),
    N_("the rollout of %(version)s stopped itself, and devices go back to %(before)s: %(why)s"),
    N_("see what failed: milonga rollouts show %(rollout)s; the next rollout of %(project)s closes this"),
    N_("the rollout of %(version)s waits until a person approves it"),
    N_(
        "see what it would do: milonga rollouts show %(rollout)s; then milonga rollouts approve %(rollout2)s or"
        " milonga rollouts abort %(rollout3)s"
    ),
    N_("%(device)s did not take %(version)s and serves what it had: %(why)s"),
    N_("its steps: milonga devices steps %(device)s; to let it try again: milonga rollouts retry %(rollout)s"),
    N_("its steps: milonga devices steps %(device)s; the next rollout of %(project)s closes this"),
    N_("%(share)s of %(count)s requests on %(device)s failed (allowed %(allowed)s)"),
    N_(
        "its log says why: milonga devices logs %(device)s; to go back to an earlier version: milonga rollouts create"
        " %(project)s/NUMBER"
    ),
    N_(
        "an answer of %(device)s takes %(found)s ms, %(ratio)s times the %(expected)s ms that were measured"
        " (allowed %(allowed)s times)"
    ),
    N_(
        "see whether it is hot or does other work: milonga telemetry list --device %(device)s; if this is how it is now,"
        " measure again with a new run: milonga runs start %(project)s"
    ),
    N_(
        "see whether it is hot or does other work: milonga telemetry list --device %(device)s; if this is how it is now,"
        " measure again with a new run: milonga models import %(project)s FILE"
    ),
    N_("%(device)s is at %(found)s °C (allowed %(allowed)s °C)"),
    N_("cool it, or give it less to do: a lower latency_ms in the project's limits makes it compute less"),
    N_("%(device)s had to drop %(count)s telemetry windows"),
    N_("telemetry of %(device)s is refused: %(why)s"),
    N_("the clock of %(device)s is %(time)s ahead of the hub's (allowed %(limit)s)"),
    N_("the clock of %(device)s is %(time)s behind the hub's (allowed %(limit)s)"),
    N_("%(device)s sends %(rate)s windows of telemetry a second (allowed %(limit)s)"),
    N_("%(device)s was throttled in %(share)s of the time (allowed %(allowed)s)"),
    N_("cool it, or give it a supply that is strong enough: until then it is slower than it was measured"),
    N_("%(device)s draws %(found)s W (allowed %(allowed)s W)"),
    N_("see what else it does; a lower latency_ms in the project's limits makes it compute less"),
    N_("it could not reach the broker for long, or its disk is full: milonga devices show %(device)s"),
    N_("its rule was deleted"),
    N_("its rule was switched off"),
    N_("it is over"),
    N_("reason must say why, so that others know whether it still holds"),
)

_OF_DATASETS = (
    N_("not a picture that can be read: it is of no known format"),
    N_("Add pictures of %(names)s: fewer than %(count)s to train on is little."),
    N_("Add boxes of %(names)s: fewer than %(count)s to train on is little."),
    N_("Add pictures of %(names)s: they are %(count)s times rarer than the most frequent."),
    N_("Add boxes of %(names)s: they are %(count)s times rarer than the most frequent."),
    N_("Add pictures: %(count)s to validate on say little of how good a network is."),
    N_("Look at the files that were left out below, put them right and send them again."),
    N_("%(count)s pictures to test with were left out, the first of them %(path)s."),
    N_(
        "%(count)s of %(all)s pictures have no label file, the first of them %(path)s; they count as pictures without objects."
    ),
    N_("%(count)s objects marked difficult were left out, as Pascal VOC does not count them."),
    N_("the same picture stands in class %(name)s too, as %(path)s"),
    N_("the same picture stands with other boxes too, as %(path)s"),
    N_("is neither a picture nor its label file"),
    N_("is neither a picture nor an annotation file"),
    N_("is %(width)s by %(height)s pixels; %(fewest)s are the fewest"),
    N_("there is no data set %(name)s; import one: milonga datasets import FOLDER --name %(name2)s"),
    N_("nobody labelled it in time"),
    N_(
        "%(count)s pictures of %(project)s wait to be labelled, and no more are taken: label some, or delete all that wait"
        " (milonga samples discard %(name)s)"
    ),
    N_(
        "%(project)s uses %(used)s (data set %(dataset)s, pictures of devices %(pictures)s, builds %(builds)s) of the %(limit)s that it"
        " may, and this would add %(added)s; discard pictures that wait (milonga samples discard %(name)s), or ask for a larger quota (docs/quotas.md)"
    ),
    N_(
        "%(why)s, after you looked; nothing is changed. To replace that, decide again; to see all that was decided: milonga samples show %(sample)s"
    ),
    N_(
        "%(why)s; nothing is changed. To replace that, write --replace, or name its revision (%(number)s) in the API; to see all that was"
        " decided: milonga samples show %(sample)s"
    ),
    N_("%(who)s labelled it %(label)s on %(day)s at %(time)s UTC"),
    N_("%(who)s skipped it on %(day)s at %(time)s UTC"),
    N_("%(who)s let it wait again on %(day)s at %(time)s UTC"),
    N_("class folders"),
)

_OF_TELEMETRY = (
    N_(
        "%(name)s of the last %(count)s answers is unlike the validation pictures (stability index %(found)s,"
        " allowed %(allowed)s; p = %(p)s)"
    ),
    N_(
        "%(name)s of %(count)s answers is unlike the validation pictures (stability index %(found)s, allowed %(allowed)s)"
        " since about %(time)s UTC; without a drift %(why)s would show as much"
    ),
    N_(
        "%(name)s of %(count)s answers is unlike those of its first windows (stability index %(found)s, allowed %(allowed)s)"
        " since about %(time)s UTC; without a drift %(why)s would show as much"
    ),
    N_(
        "%(share)s of %(count)s requests failed (%(allowed)s allowed) since about %(time)s UTC; without a drift %(why)s would"
        " show as much"
    ),
    N_(
        "%(share)s of %(count)s requests took longer than %(slow)s ms (%(allowed)s allowed) since about %(time)s UTC; without"
        " a drift %(why)s would show as much"
    ),
    N_("fewer than one month in a million"),
    N_("at most %(share)s of all months"),
    N_("telemetry that cannot be true: %(error)s"),
    N_("it sends more telemetry than a device can make"),
    N_("a message could not be read: %(error)s"),
)

_OF_FORMS = (
    N_("there is nothing at %(path)s; see /api/docs"),
    N_("this name and password do not belong together"),
    N_("%(name)s is not a name for an account; take 1 to 63 of a-z, 0-9 and . _ @ + -, a letter or digit first"),
    N_("the password must have %(count)s characters or more; a few words are good"),
    N_("the password must have %(count)s characters or less"),
    N_("the password is too easy to guess; a few words are good"),
    N_("there is an account %(name)s already; see: milonga users ls"),
    N_("there is no account %(name)s; see: milonga users ls"),
    N_("%(name)s is the only admin; make another one first: milonga users add NAME --role admin"),
    N_("say what the key is for, in 1 to %(count)s characters"),
    N_("%(name)s is %(role)s, and this needs %(least)s; ask an admin"),
    N_("%(name)s is not a project name; use 1 to 63 of a-z, 0-9 and '-'"),
    N_("there is no project %(name)s; apply one: milonga apply -f FILE"),
    N_("there is no project %(name)s; there are: %(names)s"),
    N_("Speed matters most: say above how fast it must be; half of that becomes the limit."),
    N_("Size matters most: say above how small it must be; half of that becomes the limit."),
    N_("no device is chosen; tick some, or choose all that match"),
    N_("%(count)s devices are too many at once; narrow them down to %(most)s by a selector"),
    N_("which labels? write KEY=VALUE, several with commas between them; KEY= takes one away"),
    N_("%(text)s is not a label; write KEY=VALUE, several with commas between them"),
    N_("%(key)s cannot be a label's key; use 1 to 63 letters, digits and . _ / -"),
    N_("%(key)s is built in and cannot be a label; choose another key"),
    N_(
        "selector %(text)s: %(problem)s at position %(position)s; write conditions such as type=pi5, site in (busan, seoul),"
        ' canary, !canary, arch!="x86 64"'
    ),
    N_("no device %(name)s; see: milonga devices list"),
    N_("there is no join token %(id)s; make one under /new/devices"),
    N_("%(model)s has no version %(number)s to compare %(version)s with; it has %(others)s"),
)  # fmt: skip

_OF_HUBS = (
    N_(
        "the tables are at revision %(revision)s, which this version does not know: a newer one changed them. This hub goes on,"
        " for a newer version only adds, and leads no more where a newer one is there; replace it"
    ),
)

MESSAGES: tuple[str, ...] = (
    *_OF_SENTENCES,
    *_OF_UPGRADES,
    *_OF_RUNS,
    *_OF_ROLLOUTS,
    *_OF_BUILDS,
    *_OF_ALERTS,
    *_OF_DATASETS,
    *_OF_TELEMETRY,
    *_OF_FORMS,
    *_OF_HUBS,
)
