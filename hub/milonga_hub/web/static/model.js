// Sends a model file as it is, with what the form says of it.
"use strict";
(() => {
  const { _ } = window.Milonga;
  const { size, tell, onChosen, onDrop, send } = window.Milonga.sending;
  const form = document.getElementById("model");
  if (!form) return;
  const find = (id) => document.getElementById(id);
  let chosen = null;

  const choose = (file) => {
    // Not form.dataset: a field of that name stands before it.
    const most = Number(form.getAttribute("data-max-bytes"));
    const isKnown = /\.(onnx|pt)$/i.test(file.name);
    chosen = isKnown && file.size <= most ? file : null;
    tell(!isKnown ? _("This is neither an .onnx file nor a .pt of ultralytics; export the network to ONNX.")
      : file.size > most ? _("This is %(size)s; the hub takes %(most)s at once.", { size: size(file.size), most: size(most) }) : "");
    find("chosen").textContent = `${file.name}, ${size(file.size)}`;
  };
  onChosen("file", ([file]) => { if (file) choose(file); });
  onDrop(({ files: [file] }) => { if (file) choose(file); });

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
    send(`/api/v1/projects/${encodeURIComponent(form.elements.project.value)}/models:import?${query()}`, chosen, {
      sent: _("Sent. Reading the network…"),
      lost: _("The hub cannot be reached, or cut the upload off. Is it running?"),
      done: (text) => {
        const { run } = JSON.parse(text);
        location.href = `/runs/${encodeURIComponent(run.project)}/${run.number}`;
      },
    });
  });
})();
