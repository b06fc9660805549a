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

  // Along the axes of pictures.
  const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  const axes = {
    seconds: new Intl.DateTimeFormat(language, { ...clock, second: "2-digit" }),
    minutes: new Intl.DateTimeFormat(language, clock),
    days: new Intl.DateTimeFormat(language, { ...clock, day: "numeric", month: "short" }),
  };
  const zoned = new Intl.DateTimeFormat(language, { hour: "2-digit", timeZoneName: "short" });
  const zoneAt = (when) => zoned.formatToParts(when).find((part) => part.type === "timeZoneName").value;

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

  const tellAxes = () => {
    for (const element of content.querySelectorAll("text[data-time]")) {
      write(element, axes[element.dataset.form].format(new Date(element.dataset.time)));
    }
    for (const element of content.querySelectorAll("text[data-zone]")) write(element, zoneAt(new Date(element.dataset.zone)));
  };

  // A field for a time shows and takes the reader's own; the hub is told it in UTC.
  const inUtc = (text) => (text ? new Date(text).toISOString().slice(0, 16) : "");
  const inZone = (text) => {
    const when = new Date(`${text}Z`);
    return new Date(when.getTime() - when.getTimezoneOffset() * MINUTE_MS).toISOString().slice(0, 16);
  };
  const tellFields = () => {
    for (const field of content.querySelectorAll("input[type=datetime-local][data-utc]")) {
      if (field.dataset.utc === "told") continue;
      if (field.value) field.value = inZone(field.value);
      field.setAttribute("value", field.value);
      field.dataset.utc = "told";
    }
  };
  content.addEventListener("formdata", (event) => {
    for (const field of event.target.querySelectorAll("input[type=datetime-local][data-utc]")) {
      if (field.name && field.value) event.formData.set(field.name, inUtc(field.value));
    }
  }, true);

  const all = () => { tell(); tellAxes(); tellFields(); };
  all();
  new MutationObserver(all).observe(content, { childList: true, subtree: true });
  setInterval(tell, MINUTE_MS);
})();
