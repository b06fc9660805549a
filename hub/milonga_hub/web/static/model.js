// Sends a model file as it is, with what the form says of it.
"use strict";
(() => {
  const { _ } = window.Milonga;
  const form = document.getElementById("model");
  if (!form) return;
  const drop = document.getElementById("drop");
  const find = (id) => document.getElementById(id);
  let chosen = null;

  // Not form.dataset: a field of that name stands before it.
  const megabytes = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`);
  const tell = (words) => { find("problem").textContent = words; find("problem").hidden = !words; };
  const choose = (file) => {
    const most = Number(form.getAttribute("data-max-bytes"));
    const isKnown = /\.(onnx|pt)$/i.test(file.name);
    chosen = isKnown && file.size <= most ? file : null;
    tell(!isKnown ? _("This is neither an .onnx file nor a .pt of ultralytics; export the network to ONNX.")
      : file.size > most ? _("This is %(size)s; the hub takes %(most)s at once.", { size: megabytes(file.size), most: megabytes(most) }) : "");
    find("chosen").textContent = `${file.name}, ${megabytes(file.size)}`;
  };
  find("file").addEventListener("change", (event) => { const [file] = event.target.files; if (file) choose(file); });
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); const [file] = event.dataTransfer.files; if (file) choose(file); });

  const progress = (share, words) => {
    find("progress").hidden = false;
    const bar = find("bar");
    if (share === null) bar.removeAttribute("value"); else bar.value = share;
    find("doing").textContent = words;
  };
  const busy = (now) => { find("send").disabled = now; find("stop").hidden = !now; if (!now) find("progress").hidden = true; };

  const query = () => {
    const of = form.elements;
    const said = new URLSearchParams({ file_name: chosen.name, request_id: form.getAttribute("data-request-id") + Date.now().toString(36) });
    for (const line of of.classes.value.split("\n")) if (line.trim()) said.append("classes", line.trim());
    for (const name of ["mean", "std"]) for (const each of of[name].value.split(/[,\s]+/)) if (each) said.append(name, each);
    for (const name of ["resize", "dataset", "size_px"]) if (of[name].value) said.append(name, of[name].value);
    if (of.trust_pickle?.checked) said.append("trust_pickle", "true");
    return said;
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!chosen) { tell(_("Choose a file first.")); return; }
    tell("");
    const sending = new XMLHttpRequest();
    const end = (words) => { busy(false); tell(words); };
    sending.upload.onprogress = ({ loaded, total }) => progress(loaded / total, _("Sending %(done)s of %(all)s", { done: megabytes(loaded), all: megabytes(total) }));
    sending.upload.onload = () => progress(null, _("Sent. Reading the network…"));
    sending.onload = () => {
      if (sending.status < 300) {
        const { run } = JSON.parse(sending.responseText);
        location.href = `/runs/${encodeURIComponent(run.project)}/${run.number}`;
        return;
      }
      let words = _("The hub answered %(status)s.", { status: sending.status });
      try { words = JSON.parse(sending.responseText).error.message; } catch { /* not the hub's own answer */ }
      end(words);
    };
    sending.onerror = () => end(_("The hub cannot be reached, or cut the upload off. Is it running?"));
    sending.onabort = () => end(_("Stopped; the hub kept nothing of it."));
    find("stop").onclick = () => sending.abort();
    sending.open("POST", `/api/v1/projects/${encodeURIComponent(form.elements.project.value)}/models:import?${query()}`);
    busy(true);
    progress(0, _("Sending…"));
    sending.send(chosen);
  });
})();
