// Fetches the page again when the hub says that something on it has changed, and puts in what is new.
"use strict";
(() => {
  const { _ } = window.Milonga;
  const content = document.getElementById("content");
  const mark = document.getElementById("live-state");
  const topics = content && content.dataset.live;
  if (!topics) return;
  // Usually all of the page; a page that answers a form names the part that lives, and where it comes from.
  const part = content.dataset.livePart || content.id;
  const source = content.dataset.liveFrom || location.href;
  const QUIET_MS = 250; // News of many devices at once is one refresh.
  const SHARE = 4; // A page that takes a while is fetched a fifth of the time at most, however much is new.
  const SLOW_MS = 2_000; // Even a slow page is no more than 8 s behind.
  const SILENT_MS = 45_000; // Three words of the hub that it is still there, none of which came.
  let waiting = 0;
  let took = 0;
  let fetching = false;
  let again = false;

  const openDetails = () => new Set([...content.querySelectorAll("details[open][id]")].map((each) => each.id));

  // What the reader has typed or ticked, and how far tables are scrolled, outlives what comes in.
  const filledIn = () => [...content.querySelectorAll("input[id], select[id], textarea[id]")].flatMap((each) => {
    if (each.type === "checkbox" || each.type === "radio") return each.checked === each.defaultChecked ? [] : [{ id: each.id, name: "checked", value: each.checked }];
    if (each.type === "file" || each.type === "hidden" || each.value === each.defaultValue) return [];
    return each.matches("select") && [...each.options].every((one) => one.selected === one.defaultSelected) ? [] : [{ id: each.id, name: "value", value: each.value }];
  });
  // Words half written, in some scripts letters half written, are not to be taken from under the hands.
  const typing = () => {
    const at = document.activeElement;
    return content.contains(at) && at.matches("input:not([type=checkbox], [type=radio]), textarea") && at.value !== at.defaultValue;
  };
  const sideways = () => [...content.querySelectorAll(".scroll, .wide")].map((each) => each.scrollLeft);

  const replace = (fresh) => {
    const opened = openDetails();
    const typed = filledIn();
    const scrolled = sideways();
    const focused = document.activeElement && document.activeElement.id;
    document.getElementById(part).replaceChildren(...fresh.childNodes);
    for (const id of opened) {
      const found = document.getElementById(id);
      if (found) found.open = true;
    }
    for (const { id, name, value } of typed) {
      const found = document.getElementById(id);
      if (found) found[name] = value;
    }
    content.querySelectorAll(".scroll, .wide").forEach((each, index) => { each.scrollLeft = scrolled[index] || 0; });
    content.dispatchEvent(new Event("refreshed"));
    const back = focused && document.getElementById(focused);
    if (back) back.focus({ preventScroll: true });
  };

  const refresh = async () => {
    if (fetching) { again = true; return; }
    fetching = true;
    const began = performance.now();
    try {
      const answer = await fetch(source, { headers: { "Cache-Control": "no-cache" }, signal: AbortSignal.timeout(SILENT_MS) });
      if (answer.status === 401) { location.reload(); return; } // Signed out: the page asks to sign in, and comes back.
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.getElementById(part);
        if (fresh && !typing()) replace(fresh);
        else if (fresh) addEventListener("focusout", later, { once: true });
      }
    } catch {
      // The stream says that the hub is gone, and when it is back.
    } finally {
      took = performance.now() - began;
      fetching = false;
      if (again) { again = false; later(); }
    }
  };

  const later = () => {
    if (waiting) return;
    waiting = setTimeout(() => { waiting = 0; if (!document.hidden) refresh(); else again = true; }, Math.max(QUIET_MS, SHARE * Math.min(took, SLOW_MS)));
  };

  document.addEventListener("visibilitychange", () => { if (!document.hidden && again) { again = false; later(); } });

  // What ends within moments may have ended before the stream began: a page that shows such work is fetched once more.
  let lost = content.querySelector("[data-soon]") !== null;
  let stream;
  let silence = 0;

  // A line may die without a word, behind a router that forgot it: the hub says every 15 s that it is there.
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => { unreachable(); stream.close(); listen(); }, SILENT_MS);
  };
  const unreachable = () => {
    lost = true;
    mark.hidden = false;
    mark.textContent = _("hub unreachable");
    mark.classList.remove("on");
  };

  const listen = () => {
    stream = new EventSource(`/api/v1/events?topics=${encodeURIComponent(topics)}`);
    heard();
    stream.addEventListener("here", heard);
    stream.onmessage = () => { heard(); later(); };
    stream.onopen = () => {
      heard();
      mark.hidden = false;
      mark.textContent = _("live");
      mark.classList.add("on");
      if (lost) later();
      lost = false;
    };
    stream.onerror = () => {
      unreachable();
      if (stream.readyState === EventSource.CLOSED) later(); // The hub refused: find out why.
    };
  };
  listen();
  addEventListener("pagehide", () => stream.close());
})();
