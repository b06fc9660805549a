// Fetches what takes its time once the page is there: the element with `data-later` gets what it holds on the page of that address.
"use strict";
(() => {
  const { _ } = window.Milonga;
  const waiting = document.querySelector("[data-later]");
  if (!waiting) return;

  const put = (...nodes) => {
    waiting.replaceChildren(...nodes);
    waiting.removeAttribute("aria-busy");
  };

  const fill = async () => {
    try {
      const answer = await fetch(waiting.dataset.later, { headers: { "Cache-Control": "no-cache" } });
      if (answer.status === 401) { location.reload(); return; } // Signed out: the page asks to sign in, and comes back.
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(waiting.id) || page.querySelector("main");
      if (fresh) put(...fresh.childNodes);
    } catch {
      const words = document.createElement("p");
      words.className = "problem";
      words.textContent = _("hub unreachable");
      put(words);
    }
  };
  fill();
})();
