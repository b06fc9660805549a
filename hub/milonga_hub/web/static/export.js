// Every picture can be taken along: its figures as CSV, itself as SVG and PNG, in the colours of the page as it is seen.
"use strict";
(() => {
  const { _ } = window.Milonga;
  const content = document.getElementById("content");
  if (!content) return;
  const LOOK = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap", "stroke-linejoin",
    "opacity", "font-family", "font-size", "font-weight"];
  const PNG_SCALE = 2; // For fine screens and print.

  const download = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const nameOf = (svg) => {
    const words = `${document.title.split(" · ")[0]} ${(svg.getAttribute("aria-label") || _("picture")).split(/[:.;]/)[0]}`;
    return words.trim().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 80).toLowerCase() || "picture";
  };

  // A file of its own knows no style sheet, so each element takes its look along.
  const alone = (svg) => {
    const copy = svg.cloneNode(true);
    const from = svg.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((each, index) => {
      const look = getComputedStyle(from[index]);
      for (const name of LOOK) each.setAttribute(name, look.getPropertyValue(name));
      each.removeAttribute("class");
    });
    for (const link of copy.querySelectorAll("a")) link.setAttribute("href", new URL(link.getAttribute("href"), location.href).href);
    const { width, height } = svg.viewBox.baseVal;
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    const look = getComputedStyle(svg);
    for (const name of ["font-family", "font-size"]) copy.setAttribute(name, look.getPropertyValue(name));
    const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    ground.setAttribute("width", width);
    ground.setAttribute("height", height);
    ground.setAttribute("fill", getComputedStyle(document.documentElement).getPropertyValue("--card").trim() || "#fff");
    copy.prepend(ground);
    return { blob: new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }), width, height };
  };

  const png = ({ blob, width, height }) => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = width * PNG_SCALE;
      canvas.height = height * PNG_SCALE;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      URL.revokeObjectURL(image.src);
      canvas.toBlob(resolve, "image/png");
    };
    image.onerror = reject;
    image.src = URL.createObjectURL(blob);
  });

  const kinds = {
    // The mark at the front tells spreadsheets that it is UTF-8.
    CSV: async (svg) => download(new Blob(["\ufeff", svg.querySelector("metadata").textContent.replaceAll("\n", "\r\n")], { type: "text/csv" }), `${nameOf(svg)}.csv`),
    SVG: async (svg) => download(alone(svg).blob, `${nameOf(svg)}.svg`),
    PNG: async (svg) => download(await png(alone(svg)), `${nameOf(svg)}.png`),
  };

  const offer = () => {
    for (const metadata of content.querySelectorAll("svg > metadata")) {
      const svg = metadata.parentElement;
      const place = svg.closest(".wide") || svg;
      if (place.nextElementSibling && place.nextElementSibling.matches(".export")) continue;
      const bar = document.createElement("p");
      bar.className = "export";
      for (const kind of Object.keys(kinds)) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = kind;
        button.setAttribute("aria-label", _("%(kind)s of %(picture)s", { kind, picture: nameOf(svg).replaceAll("-", " ") }));
        button.addEventListener("click", () => kinds[kind](svg));
        bar.append(button);
      }
      place.after(bar);
    }
  };

  offer();
  // Live pages put in new pictures.
  new MutationObserver(offer).observe(content, { childList: true, subtree: true });
})();
