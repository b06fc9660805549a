// Ticks all devices that are shown, or none of them; the page may be a newer one by then.
"use strict";
document.addEventListener("change", (event) => {
  const ticks = [...document.querySelectorAll("input[type=checkbox][name=device]")];
  const all = document.getElementById("tick-all");
  if (!all) return;
  if (event.target === all) for (const each of ticks) each.checked = all.checked;
  else if (ticks.includes(event.target)) all.checked = ticks.every((each) => each.checked);
});
