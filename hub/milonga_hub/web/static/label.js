// Asks about one picture after the other. The keyboard answers: Enter takes the device's answer, a key chooses a class, s skips,
// z undoes. Counts beside it are live.js's; when they change and nothing is asked, this looks for more.
"use strict";
(() => {
  const { _, ngettext, language } = window.Milonga;
  const station = document.getElementById("station");
  if (!station) return;
  const find = (id) => document.getElementById(id);
  const project = station.dataset.project;
  const detection = Boolean(station.dataset.detection);
  const classes = JSON.parse(station.dataset.classes);
  const base = `/api/v1/projects/${encodeURIComponent(project)}`;
  const taken = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  const AHEAD = 8; // Pictures fetched ahead; more would grow stale as labels change the order.

  let queue = [];
  let current = null;
  let busy = false;
  let fetching = false;
  const decided = [];
  const editor = detection && window.Milonga.boxes(find("picture"), find("boxes"), classes);

  const picture = (sample) => `${address(sample)}/picture`;
  const tell = (words) => { find("problem").textContent = words; find("problem").hidden = !words; };
  const say = (words) => { find("said").textContent = words; };
  const percent = (share) => `${Math.round(share * 100)} %`;

  const call = async (address, body) => {
    const answer = await fetch(address, body === undefined
      ? { headers: { "Cache-Control": "no-cache" } }
      : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const said = await answer.json();
    if (answer.ok) return said;
    const error = new Error(said.error ? said.error.message : _("The hub answered %(status)s.", { status: answer.status }));
    // Not there, or nothing left to decide.
    error.isGone = [404, 409].includes(answer.status);
    error.isDecided = Boolean(said.error) && said.error.reason === "DECIDED_MEANWHILE";
    throw error;
  };
  const address = (sample) => `/api/v1/${sample.name.split("/").map(encodeURIComponent).join("/")}`;
  // What somebody else decided since this page was told of the sample is not replaced unseen.
  const decide = (sample, verb, body) => call(`${address(sample)}:${verb}`, { ...body, revision: sample.revision });

  const reasons = { LEAST_CONFIDENT: _("chosen because the network was in doubt"), NOVEL: _("chosen because it looks unlike others"), RANDOM: _("chosen by chance") };
  const count = (boxes) => ngettext("%(num)s box", "%(num)s boxes", boxes.length);
  const answerOf = (sample) => {
    if (detection) {
      const known = sample.predicted_boxes.every((box) => classes.includes(box.label));
      return known ? (sample.predicted_boxes.length ? count(sample.predicted_boxes) : _("no object")) : "";
    }
    return classes.includes(sample.predicted) ? sample.predicted : "";
  };

  const tiny = ({ width, height }) => Math.max(width, height) <= 96;
  // As large as there is room. In pixels: what lies over the picture must be exactly as large.
  const fit = () => {
    if (!current) return;
    const [width, height] = [find("frame").clientWidth, 0.62 * innerHeight];
    find("picture").style.width = `${Math.floor(Math.min(width, tiny(current) ? 352 : 672, (height * current.width) / current.height))}px`;
  };
  addEventListener("resize", fit);

  // Somebody else was faster: what they said, and the choice to go on or to answer again.
  const confront = async (sample) => {
    const found = await call(address(sample));
    if (found.state === "WAITING" || found.dataset_version) return false;
    Object.assign(sample, found);
    const said = { who: found.decided_by, label: found.label || count(found.boxes), time: taken.format(new Date(found.decided_at)) };
    find("meanwhile-said").textContent = {
      LABELLED: () => _("%(who)s labelled it %(label)s after this page showed it: %(time)s.", said),
      SKIPPED: () => _("%(who)s skipped it after this page showed it: %(time)s.", said),
      CONFLICT: () => _("Two people disagree about it: %(said)s.", { said: found.message }),
    }[found.state]();
    find("meanwhile").hidden = false;
    find("keep").focus();
    return true;
  };

  const show = () => {
    find("meanwhile").hidden = true;
    current = queue.shift() || null;
    station.hidden = !current;
    find("nothing").hidden = Boolean(current) || !find("nothing").children.length;
    if (!current) { say(_("Nothing waits.")); return; }
    const image = find("picture");
    image.src = picture(current);
    // Small pictures are enlarged without being smoothed: each pixel counts.
    image.classList.toggle("tiny", tiny(current));
    fit();
    find("about").textContent = `${current.device}, ${taken.format(new Date(current.taken_at))}, ${reasons[current.reason]}`;
    const answer = answerOf(current);
    const said = _("the device says %(answer)s", { answer: answer || _("nothing") });
    const sure = detection && !current.predicted_boxes.length ? "" : ` (${percent(current.confidence)})`;
    const accept = find("accept");
    accept.hidden = !answer && !detection;
    accept.replaceChildren(key("Enter"), ` ${detection ? _("Save these boxes") : answer} `, dim(said + sure));
    if (editor) editor.show(current.predicted_boxes);
    for (const each of queue.slice(0, 3)) new Image().src = picture(each);
    if (queue.length < AHEAD / 2) more();
  };
  const key = (text) => { const made = document.createElement("kbd"); made.textContent = text; return made; };
  const dim = (text) => { const made = document.createElement("span"); made.textContent = text; made.className = "suggestion"; return made; };

  const more = async () => {
    if (fetching) return;
    fetching = true;
    try {
      const { samples } = await call(`${base}/samples?state=WAITING&page_size=${AHEAD}`);
      const here = new Set([...queue, ...(current ? [current] : [])].map((each) => each.name));
      queue.push(...samples.filter((each) => !here.has(each.name)));
      tell("");
    } catch (error) {
      tell(error.message);
    } finally {
      fetching = false;
    }
    if (!current) show();
  };

  const answer = async (verb, body, words) => {
    if (!current || busy) return;
    busy = true;
    const sample = current;
    try {
      decided.push(await decide(sample, verb, body));
      find("undo").disabled = false;
      tell("");
      say(words);
      show();
    } catch (error) {
      if (error.isDecided && await confront(sample).catch(() => false)) { tell(""); return; }
      if (error.isGone) {
        // It was deleted meanwhile, or is part of the data set: the others may be, too.
        [queue, current] = [[], null];
        await more();
      }
      tell(error.message);
    } finally {
      busy = false;
    }
  };
  const label = (name) => {
    if (editor) { editor.name(name); return; }
    answer("label", { label: name }, _("Labelled %(name)s.", { name }));
  };
  const accept = () => {
    if (editor) {
      const boxes = editor.boxes();
      answer("label", { boxes }, ngettext("Saved %(num)s box.", "Saved %(num)s boxes.", boxes.length));
    } else if (current && answerOf(current)) {
      answer("label", { accept: true }, _("Labelled %(name)s.", { name: current.predicted }));
    }
  };
  const skip = () => answer("skip", {}, _("Skipped."));
  const undo = async () => {
    if (busy || !decided.length) return;
    busy = true;
    const sample = decided.pop();
    try {
      const undone = await decide(sample, "undo", {});
      if (current) queue.unshift(current);
      queue.unshift(undone);
      tell("");
      say(_("Undone."));
      show();
    } catch (error) {
      tell(error.message);
    } finally {
      busy = false;
      find("undo").disabled = !decided.length;
    }
  };

  find("accept").addEventListener("click", accept);
  find("skip").addEventListener("click", skip);
  find("keep").addEventListener("click", show);
  find("undo").addEventListener("click", undo);
  find("classes").addEventListener("click", ({ target }) => {
    const button = target.closest("[data-label]");
    if (button) label(button.dataset.label);
  });
  const other = find("other");
  if (other) other.addEventListener("submit", (event) => {
    event.preventDefault();
    const input = find("other-class");
    label(input.value);
    input.value = "";
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !current) return;
    if (event.target.closest("input, select, textarea")) return;
    // Whoever has gone to a button with the keyboard means that button.
    if ([" ", "Enter"].includes(event.key) && event.target.closest("a, summary, button:not(#accept)")) return;
    const chosen = [...find("classes").children].find((button) => button.dataset.key === event.key.toLowerCase());
    if (event.key === "Enter") accept();
    else if (event.key.toLowerCase() === "s") skip();
    else if (event.key.toLowerCase() === "z") undo();
    else if (editor && editor.key(event)) { /* the editor did it */ }
    else if (chosen) label(chosen.dataset.label);
    else return;
    event.preventDefault();
    // The box editor has keys of its own, which would do the same twice.
    event.stopImmediatePropagation();
  }, true);

  // live.js has put in new counts: perhaps there is something to ask again.
  new MutationObserver(() => { if (!current) more(); }).observe(find("standing"), { childList: true });
  more();
})();
