// What pages have in common that send a file: where it is dropped, the bar, and what is told when it cannot be sent.
"use strict";
(() => {
  const { _ } = window.Milonga;
  const find = (id) => document.getElementById(id);

  const size = (bytes) => {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let index = 0;
    for (; bytes >= 1000 && index < units.length - 1; index++) bytes /= 1000;
    return `${index && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[index]}`;
  };
  const tell = (words) => { find("problem").textContent = words; find("problem").hidden = !words; };
  const progress = (share, words) => {
    find("progress").hidden = false;
    const bar = find("bar");
    if (share === null) bar.removeAttribute("value"); else bar.value = share;
    find("doing").textContent = words;
  };
  const busy = (now) => { find("send").disabled = now; find("stop").hidden = !now; if (!now) find("progress").hidden = true; };

  // Takes the files of a field, also those that were chosen before the script had come.
  const onChosen = (id, take) => {
    const field = find(id);
    const look = () => take([...field.files]);
    field.addEventListener("change", look);
    if (field.files.length) look();
  };

  const onDrop = (take) => {
    const drop = find("drop");
    for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer); });
  };

  // Posts the body. `sent` is what is told once all of it is there, `lost` where the hub is not; `ended` is called whatever came of it, `done` with the answer.
  const send = (address, body, { sent, lost, done, ended = () => {} }) => {
    const sending = new XMLHttpRequest();
    const end = (words) => { ended(); busy(false); tell(words); };
    sending.upload.onprogress = ({ loaded, total }) => progress(loaded / total, _("Sending %(done)s of %(all)s", { done: size(loaded), all: size(total) }));
    sending.upload.onload = () => progress(null, sent);
    sending.onload = () => {
      if (sending.status < 300) { ended(); done(sending.responseText); return; }
      let words = _("The hub answered %(status)s.", { status: sending.status });
      try { words = JSON.parse(sending.responseText).error.message; } catch { /* not the hub's own answer */ }
      end(words);
    };
    sending.onerror = () => end(lost);
    sending.onabort = () => end(_("Stopped; the hub kept nothing of it."));
    find("stop").onclick = () => sending.abort();
    sending.open("POST", address);
    busy(true);
    progress(0, _("Sending…"));
    sending.send(body);
  };

  window.Milonga.sending = { size, tell, progress, onChosen, onDrop, send };
})();
