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
    const size = [86400, 3600, 60].find((each) => seconds >= 2 * each || seconds === each) || 1;
    const count = Math.round(seconds / size);
    if (size === 86400) return _("%(count)s d", { count });
    if (size === 3600) return _("%(count)s h", { count });
    return size === 60 ? _("%(count)s min", { count }) : _("%(count)s s", { count });
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
