// Times in the reader's zone: in words that keep their age, and exactly on hovering. Without this script they are in UTC.
"use strict";
(() => {
  const { _, language } = window.Milonga;
  const content = document.getElementById("content");
  if (!content) return;
  const exact = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "long" });
  const MINUTE_MS = 60000;

  // The same words as the hub's (words.py).
  const duration = (seconds) => {
    for (const [size, form] of [[86400, _("%(count)s d")], [3600, _("%(count)s h")], [60, _("%(count)s min")]]) {
      if (seconds >= 2 * size || seconds === size) return form.replace("%(count)s", Math.round(seconds / size));
    }
    return _("%(count)s s", { count: Math.round(seconds) });
  };

  const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  const tell = () => {
    for (const element of content.querySelectorAll("time[datetime]")) {
      const when = new Date(element.getAttribute("datetime"));
      if (Number.isNaN(when.getTime())) continue;
      const said = exact.format(when);
      if (element.hasAttribute("data-exact")) { write(element, said); continue; }
      if (element.title !== said) element.title = said;
      // A young age is what the hub just said, and what lies ahead it says as well.
      const seconds = (Date.now() - when.getTime()) / 1000;
      if (seconds >= 60) write(element, _("%(duration)s ago", { duration: duration(seconds) }));
    }
  };

  tell();
  new MutationObserver(tell).observe(content, { childList: true, subtree: true });
  setInterval(tell, MINUTE_MS);
})();
