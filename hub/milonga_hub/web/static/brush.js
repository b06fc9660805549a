// Narrows networks down where a pointer draws on an axis. The form holds what is asked for; without this script it still works.
"use strict";
(() => {
  const SVG_CLICK = 3; // Less than so many pixels of the picture is a click and no range.

  class NetworkBrush extends HTMLElement {
    connectedCallback() {
      this.form = this.querySelector("form");
      this.axes = [...this.querySelectorAll("[data-axis]")];
      this.rows = [...this.querySelectorAll("tr[data-network]")];
      if (!this.form) return;
      for (const axis of this.axes) this.listen(axis);
      this.form.addEventListener("input", () => this.apply());
      this.addEventListener("click", (event) => this.keep(event), true);
      this.addEventListener("pointerover", (event) => this.point(event));
    }

    listen(axis) {
      const strip = axis.querySelector(".strip");
      let from = null;
      strip.addEventListener("pointerdown", (event) => {
        from = this.at(axis, event);
        strip.setPointerCapture(event.pointerId);
        event.preventDefault();
      });
      strip.addEventListener("pointermove", (event) => {
        if (from !== null) this.draw(axis, from, this.at(axis, event));
      });
      strip.addEventListener("pointerup", (event) => {
        if (from !== null) this.draw(axis, from, this.at(axis, event));
        from = null;
      });
      strip.addEventListener("pointercancel", () => { from = null; });
    }

    at(axis, event) {
      const svg = axis.ownerSVGElement;
      return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).y;
    }

    draw(axis, from, to) {
      const { top, bottom, low, high } = numbers(axis);
      const narrow = Math.abs(to - from) >= SVG_CLICK;
      const value = (y) => {
        const share = Math.min(1, Math.max(0, (bottom - y) / (bottom - top)));
        return axis.dataset.scale === "log" ? low * (high / low) ** share : low + share * (high - low);
      };
      const short = (figure) => String(Number(figure.toPrecision(4)));
      this.field(axis, "min").value = narrow ? short(value(Math.max(from, to))) : "";
      this.field(axis, "max").value = narrow ? short(value(Math.min(from, to))) : "";
      this.apply();
    }

    field(axis, end) { return this.form.elements[`${axis.dataset.axis}.${end}`]; }

    apply() {
      const asked = this.axes.map((axis) => [number(this.field(axis, "min").value), number(this.field(axis, "max").value)]);
      let shown = 0;
      for (const row of this.rows) {
        const values = row.dataset.values.split(" ");
        const out = asked.some(([low, high], index) => !holds(low, high, number(values[index])));
        shown += out ? 0 : 1;
        row.hidden = out;
        for (const each of this.querySelectorAll(`svg [data-network="${row.dataset.network}"]`)) each.classList.toggle("out", out);
      }
      this.querySelector("[data-shown]").textContent = shown;
      this.axes.forEach((axis, index) => band(axis, ...asked[index]));
      history.replaceState(null, "", this.address());
    }

    address() {
      const query = new URLSearchParams();
      for (const [name, value] of new FormData(this.form)) if (value.trim()) query.set(name, value.trim());
      return `${location.pathname}?${query}`;
    }

    // A link to a network keeps what is asked for.
    keep(event) {
      const link = event.target.closest("svg a[data-network], tr[data-network] a");
      if (!link) return;
      const to = new URL(link.getAttribute("href"), location.href);
      const query = new URL(this.address(), location.href).searchParams;
      query.set("network", to.searchParams.get("network"));
      link.setAttribute("href", `${to.pathname}?${query}#selected`);
    }

    point(event) {
      const found = event.target.closest("[data-network]");
      const network = found ? found.dataset.network : "";
      if (network === this.pointed) return;
      this.pointed = network;
      for (const each of this.querySelectorAll(".hot")) each.classList.remove("hot");
      if (network) for (const each of this.querySelectorAll(`[data-network="${network}"]`)) each.classList.add("hot");
    }
  }

  const number = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? null : Number(text));

  const holds = (low, high, value) => {
    if (low === null && high === null) return true;
    if (value === null) return false;
    const close = (end) => Math.abs(end) * 5e-4;
    return (low === null || value >= low - close(low)) && (high === null || value <= high + close(high));
  };

  const numbers = (axis) => Object.fromEntries(["top", "bottom", "low", "high"].map((name) => [name, Number(axis.dataset[name])]));

  const band = (axis, from, to) => {
    const { top, bottom, low, high } = numbers(axis);
    const y = (value) => {
      if (high === low) return (top + bottom) / 2;
      const log = axis.dataset.scale === "log";
      const share = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
      return bottom - Math.min(1, Math.max(0, share)) * (bottom - top);
    };
    const rect = axis.querySelector(".band");
    const [lower, upper] = [from === null ? bottom : y(from), to === null ? top : y(to)];
    rect.setAttribute("y", upper);
    rect.setAttribute("height", Math.max(0, lower - upper));
    rect.classList.toggle("on", from !== null || to !== null);
  };

  customElements.define("network-brush", NetworkBrush);
})();
