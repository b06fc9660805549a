// Boxes on the picture that is asked about: drawn and dragged with Annotorious, and all of it with the keyboard as well.
"use strict";
(() => {
  // Annotorious writes style attributes, which the content security policy forbids; the same through the style object it allows.
  const set = Element.prototype.setAttribute;
  Element.prototype.setAttribute = function setAttribute(name, value) {
    if (name === "style") this.style.cssText = value;
    else set.call(this, name, value);
  };

  const COLOURS = ["#35a2ff", "#ff9d45", "#46d97f", "#dd7cff", "#ff5f8f", "#d6e044"];
  const STEP = 0.01; // Of the picture, for each press of an arrow.
  const between = (low, value, high) => Math.min(high, Math.max(low, value));

  const boxes = (image, list, classes) => {
    let annotator = null;
    let usual = classes[0];
    let selected = "";
    let number = 0;

    const name = (annotation) => (annotation.bodies[0] ? annotation.bodies[0].value : usual);
    const colour = (label) => COLOURS[Math.max(0, classes.indexOf(label)) % COLOURS.length];
    const all = () => (annotator ? annotator.getAnnotations() : []);
    const annotation = (label, x, y, width, height) => {
      const id = `box-${++number}`;
      const [w, h] = [width * image.naturalWidth, height * image.naturalHeight];
      const [left, top] = [x * image.naturalWidth - w / 2, y * image.naturalHeight - h / 2];
      return {
        id,
        bodies: [{ id: `${id}-class`, annotation: id, purpose: "tagging", value: label }],
        target: {
          annotation: id,
          selector: { type: "RECTANGLE", geometry: { x: left, y: top, w, h, bounds: { minX: left, minY: top, maxX: left + w, maxY: top + h } } },
        },
      };
    };
    // Annotorious keeps corners in pixels; the hub takes centres and sides from 0 to 1.
    const told = (each) => {
      const { minX, minY, maxX, maxY } = each.target.selector.geometry.bounds;
      const [left, right] = [minX, maxX].map((at) => between(0, at / image.naturalWidth, 1));
      const [top, bottom] = [minY, maxY].map((at) => between(0, at / image.naturalHeight, 1));
      return { label: name(each), x: (left + right) / 2, y: (top + bottom) / 2, width: right - left, height: bottom - top };
    };

    const draw = () => {
      list.replaceChildren(...all().map((each, place) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.className = "quiet box-button";
        button.textContent = `${place + 1}. ${name(each)}`;
        button.style.borderColor = colour(name(each));
        button.setAttribute("aria-pressed", String(each.id === selected));
        button.addEventListener("click", () => select(each.id));
        item.append(button);
        return item;
      }));
    };
    const select = (id) => { selected = id; annotator.setSelected(id || undefined); draw(); };
    const replace = (old, fresh) => { annotator.updateAnnotation({ ...fresh, id: old.id }); draw(); };
    const chosen = () => all().find((each) => each.id === selected);

    const show = async (predicted) => {
      if (annotator) annotator.destroy();
      annotator = null;
      selected = "";
      list.replaceChildren();
      const asked = image.src;
      try { await image.decode(); } catch { return; }
      if (image.src !== asked) return; // The next picture came meanwhile.
      annotator = window.Annotorious.createImageAnnotator(image, {
        autoSave: true,
        style: (each, state) => ({ stroke: colour(name(each)), strokeWidth: state && state.selected ? 4 : 2, fill: colour(name(each)), fillOpacity: 0.08 }),
      });
      annotator.setAnnotations(predicted.filter((box) => classes.includes(box.label) && box.width > 0 && box.height > 0)
        .map((box) => annotation(box.label, box.x, box.y, box.width, box.height)));
      annotator.on("createAnnotation", (made) => {
        if (!made.bodies.length) annotator.updateAnnotation({ ...made, bodies: [{ id: `${made.id}-class`, annotation: made.id, purpose: "tagging", value: usual }] });
        selected = made.id;
        draw();
      });
      annotator.on("updateAnnotation", draw);
      annotator.on("deleteAnnotation", draw);
      annotator.on("selectionChanged", (some) => { selected = some.length ? some[0].id : ""; draw(); });
      draw();
    };

    const rename = (label) => {
      usual = label;
      const each = chosen();
      if (each) replace(each, { ...each, bodies: [{ id: `${each.id}-class`, annotation: each.id, purpose: "tagging", value: label }] });
    };

    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const key = (event) => {
      if (!annotator) return false;
      const each = chosen();
      if (event.key === "+") {
        const made = annotation(usual, 0.5, 0.5, 0.25, 0.25);
        annotator.addAnnotation(made);
        select(made.id);
      } else if (event.key.toLowerCase() === "n") {
        const some = all();
        if (some.length) select(some[(some.findIndex((one) => one.id === selected) + 1) % some.length].id);
      } else if (each && (event.key === "Delete" || event.key === "Backspace")) {
        annotator.removeAnnotation(each.id);
        selected = "";
        draw();
      } else if (each && arrows[event.key]) {
        const [right, down] = arrows[event.key].map((side) => side * STEP);
        const box = told(each);
        const [width, height] = event.shiftKey ? [box.width + right, box.height + down].map((side) => between(STEP, side, 1)) : [box.width, box.height];
        const x = between(width / 2, event.shiftKey ? box.x + (width - box.width) / 2 : box.x + right, 1 - width / 2);
        const y = between(height / 2, event.shiftKey ? box.y + (height - box.height) / 2 : box.y + down, 1 - height / 2);
        replace(each, { ...annotation(box.label, x, y, width, height), bodies: each.bodies });
      } else {
        return false;
      }
      return true;
    };
    return { show, boxes: () => all().map(told), name: rename, key };
  };
  window.Milonga.boxes = boxes;
})();
