// Checks a form on the hub while it is filled in, and puts what it says beside the fields; copies texts.
"use strict";
(() => {
  const { _ } = window.Milonga;
  const QUIET_MS = 300; // Typing is one check.
  const isFilled = (field) => (field.options ? [...field.options].some((each) => each.selected !== each.defaultSelected)
    : "defaultValue" in field && (field.value !== field.defaultValue || field.checked !== field.defaultChecked));
  for (const form of document.querySelectorAll("form[data-check]")) {
    let waiting = 0;
    let newest = 0;
    const check = async () => {
      const number = ++newest;
      const answers = new FormData(form);
      answers.set("check", "1");
      let page;
      try {
        const answer = await fetch(form.action, { method: "POST", body: answers });
        if (!answer.ok) return;
        page = new DOMParser().parseFromString(await answer.text(), "text/html");
      } catch {
        return; // The hub is away; sending the form will say so.
      }
      if (number !== newest) return;
      for (const fresh of page.querySelectorAll("#preview, .message-for")) {
        const old = document.getElementById(fresh.id);
        if (old && old.innerHTML !== fresh.innerHTML) old.replaceChildren(...fresh.childNodes);
      }
      for (const field of form.querySelectorAll("[aria-describedby^='wrong-']")) {
        const message = document.getElementById(field.getAttribute("aria-describedby"));
        field.toggleAttribute("aria-invalid", false);
        if (message && message.textContent) field.setAttribute("aria-invalid", "true");
      }
    };
    const checkSoon = () => { clearTimeout(waiting); waiting = setTimeout(check, QUIET_MS); };
    // Writing one's own limit chooses it.
    const chooseOwn = (field) => {
      const choice = field.type === "number" && field.closest("label") && field.closest("label").querySelector("input[type=radio]");
      if (choice) choice.checked = true;
    };
    form.addEventListener("input", checkSoon);
    form.addEventListener("focusin", ({ target }) => chooseOwn(target));
    // What was filled in before this script had come.
    const filled = [...form.elements].filter(isFilled);
    for (const field of filled) if (field.value !== field.defaultValue) chooseOwn(field);
    if (filled.length) checkSoon();
  }
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest("[data-copy]");
    const source = button && document.getElementById(button.dataset.copy);
    if (!source) return;
    const said = button.textContent;
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = _("Copied");
    } catch { // Browsers give their clipboard only to https and this machine: select it for Ctrl-C.
      getSelection().selectAllChildren(source);
      button.textContent = _("Press Ctrl-C");
    }
    setTimeout(() => { button.textContent = said; }, 2000);
  });
})();
