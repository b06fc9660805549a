// Times in the reader's zone: in words that keep their age, and exactly on hovering. Without this script they are in UTC.
"use strict";
(() => {
  const content = document.getElementById("content");
  if (!content) return;
  const exact = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "long" });
  const MINUTE_MS = 60000;

  // The same words as the hub's (words.py).
  const duration = (seconds) => {
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= 2 * size || seconds === size) return `${Math.round(seconds / size)} ${unit}`;
    }
    return `${Math.round(seconds)} s`;
  };

  const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  const tell = () => {
    for (const element of content.querySelectorAll("time[datetime]")) {
      const when = new Date(element.getAttribute("datetime"));
      if (Number.isNaN(when.getTime())) continue;
      const said = exact.format(when);
      if (element.hasAttribute("data-exact")) { write(element, said); continue; }
      if (element.title !== said) element.title = said;
      // Only words of age are made again; a young one is what the hub just said.
      const seconds = (Date.now() - when.getTime()) / 1000;
      if (/ ago$/.test(element.textContent) && seconds >= 60) write(element, `${duration(seconds)} ago`);
    }
  };

  tell();
  new MutationObserver(tell).observe(content, { childList: true, subtree: true });
  setInterval(tell, MINUTE_MS);
})();
