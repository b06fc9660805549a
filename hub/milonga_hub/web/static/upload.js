// Sends a data set: an archive as it is, or a folder packed into a tar, which the browser reads only while it sends it.
"use strict";
(() => {
  const { _, ngettext, language } = window.Milonga;
  const { size, tell, progress, onChosen, onDrop, send } = window.Milonga.sending;
  const form = document.getElementById("upload");
  const find = (id) => document.getElementById(id);
  const BLOCK = 512; // bytes, of tar
  let chosen = null; // { blob, words }

  // A header of POSIX ustar: numbers in octal, and a checksum for which its own field counts as blanks.
  const header = (name, bytes, type) => {
    const block = new Uint8Array(BLOCK);
    const put = (text, at) => block.set(new TextEncoder().encode(text), at);
    block.set(name.subarray(0, 100), 0);
    put("0000644\0", 100);
    put("0000000\0", 108);
    put("0000000\0", 116);
    put(`${bytes.toString(8).padStart(11, "0")}\0`, 124);
    put("00000000000\0", 136);
    put("        ", 148);
    put(type, 156);
    put("ustar  \0", 257);
    put(`${block.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0")}\0 `, 148);
    return block;
  };
  const padding = (bytes) => new Uint8Array((BLOCK - (bytes % BLOCK)) % BLOCK);

  const tar = (files) => {
    const parts = [];
    for (const { path, file } of files) {
      const name = new TextEncoder().encode(path);
      if (name.length > 100) { // GNU's way to longer names: a file of its own before.
        parts.push(header(new TextEncoder().encode("././@LongLink"), name.length + 1, "L"), name, new Uint8Array(1), padding(name.length + 1));
      }
      parts.push(header(name, file.size, "0"), file, padding(file.size));
    }
    parts.push(new Uint8Array(2 * BLOCK));
    return new Blob(parts, { type: "application/x-tar" });
  };

  const choose = (blob, words, first = words) => {
    const most = Number(form.dataset.maxBytes);
    tell(blob.size > most ? _("This is %(size)s; the hub takes %(most)s at once. Send it in parts, each added to those before.", { size: size(blob.size), most: size(most) }) : "");
    chosen = blob.size > most ? null : { blob, words };
    find("chosen").textContent = `${words}, ${size(blob.size)}`;
    const name = find("name");
    if (!name.value) name.value = first.split(/[ ./]/)[0].toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 63);
  };
  const chooseFolder = (files) => {
    if (!files.length) { tell(_("This folder holds no files.")); return; }
    const [folder] = files[0].path.split("/");
    choose(tar(files), ngettext("%(folder)s with %(num)s file", "%(folder)s with %(num)s files", files.length, { folder }), folder);
  };

  onChosen("archive", ([file]) => { if (file) choose(file, file.name); });
  onChosen("folder", (files) => chooseFolder(files.map((file) => ({ path: file.webkitRelativePath, file }))));

  // What was dropped: one archive, or folders and files in any mixture.
  const walk = async (entry, path, found) => {
    if (entry.isFile) {
      found.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
      return;
    }
    const reader = entry.createReader();
    for (;;) { // A reader gives a hundred at a time, and nothing at the end.
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const each of some) await walk(each, `${path}/${each.name}`, found);
    }
  };
  onDrop(async (transfer) => {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const [file] = transfer.files;
    // Some sources of files, other pages among them, give files without entries.
    if (file && (!entries.length || (entries.length === 1 && entries[0].isFile))) { choose(file, file.name); return; }
    find("chosen").textContent = _("Reading the folder…");
    const found = [];
    try {
      for (const entry of entries) await walk(entry, entry.name, found);
      chooseFolder(found);
    } catch (error) {
      tell(_("The browser cannot read this folder: %(why)s", { why: error.message }));
    }
  });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!chosen) { tell(_("Choose a zip or a folder first.")); return; }
    tell("");
    const name = find("name").value;
    const id = form.dataset.requestId + Date.now().toString(36);
    const query = new URLSearchParams({ append: form.elements.append.checked, strict: form.elements.strict.checked, request_id: id });
    const news = new EventSource(`/api/v1/events?topics=${encodeURIComponent(`imports/${id}`)}`);
    news.onmessage = (message) => {
      const { done, total } = JSON.parse(message.data).payload;
      progress(done / total, _("Reading pictures: %(done)s of %(all)s", { done: done.toLocaleString(language), all: total.toLocaleString(language) }));
    };
    send(`/api/v1/datasets/${encodeURIComponent(name)}:import?${query}`, chosen.blob, {
      sent: _("Sent. Reading pictures…"),
      lost: _("The hub cannot be reached, or cut the upload off. Is it running, and is the archive within its limits?"),
      done: () => { location.href = `/datasets/${encodeURIComponent(name)}`; },
      ended: () => news.close(),
    });
  });
})();
