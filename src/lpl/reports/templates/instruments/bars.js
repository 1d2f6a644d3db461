/* A bar chart that tells its values under the pointer or with the arrow keys.
   `stacks` are { name, values }, drawn one upon the other in the classes `column` and `column second`; `describe(index)` gives
   the lines of the readout, `ticks` are { at, text } with `at` in bars. */
function bars(box, { label, stacks, describe, ticks = [], logarithmic = false, marked = null }) {
  const width = Math.max(200, Math.round(box.clientWidth) || 360); // texts keep the size of the page's
  const [height, left, bottom, top] = [150, 8, 22, 8];
  const count = stacks[0].values.length;
  const totals = stacks[0].values.map((_, index) => stacks.reduce((sum, stack) => sum + (stack.values[index] ?? 0), 0));
  const most = Math.max(...totals);
  const least = Math.min(...totals.filter(value => value > 0));
  const floor = height - bottom;
  const share = value => {
    if (!(value > 0)) return 0;
    if (!logarithmic) return value / (most || 1);
    return .06 + .94 * Math.log(value / least) / Math.log(most / least || 2);
  };
  const step = (width - 2 * left) / count;
  const gap = Math.min(2, step * .2);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart bars", role: "img", "aria-label": label, tabindex: 0 });
  svg.append(make("line", { class: "axis", x1: left, x2: width - left, y1: floor, y2: floor }));
  for (let index = 0; index < count; index += 1) {
    let below = 0;
    const tall = share(totals[index]) * (floor - top);
    stacks.forEach((stack, place) => {
      const part = totals[index] > 0 ? tall * (stack.values[index] ?? 0) / totals[index] : 0;
      if (part > 0) svg.append(make("rect", { class: place ? "column second" : "column", x: left + index * step + gap / 2, width: step - gap, y: floor - below - part, height: place ? Math.max(part, 2) : part }));
      below += part;
    });
  }
  if (marked !== null) svg.append(make("line", { class: "guide", x1: left, x2: width - left, y1: floor - share(marked) * (floor - top), y2: floor - share(marked) * (floor - top) }));
  for (const { at, text } of ticks) {
    const x = left + at * step;
    svg.append(make("text", { class: "tick", x, y: height - 6, "text-anchor": x < 24 ? "start" : x > width - 24 ? "end" : "middle" }, text));
  }
  const cursor = make("rect", { class: "hover", y: top, height: floor - top, width: step, visibility: "hidden" });
  svg.append(cursor);
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  tip.setAttribute("role", "status");
  const kept = box.contains(document.activeElement) ? Number(box.dataset.at ?? 0) : null;
  box.replaceChildren(svg, tip);

  const point = index => {
    const at = Math.max(0, Math.min(count - 1, index));
    box.dataset.at = at;
    cursor.setAttribute("x", left + at * step);
    cursor.setAttribute("visibility", "visible");
    const [heading, ...lines] = describe(at);
    tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: heading }), ...lines.map(text => Object.assign(document.createElement("div"), { textContent: text })));
    const place = (left + (at + .5) * step) / width;
    tip.style.left = place < .5 ? `calc(${100 * place}% + 12px)` : "auto";
    tip.style.right = place < .5 ? "auto" : `calc(${100 * (1 - place)}% + 12px)`;
    tip.hidden = false;
  };
  const hide = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointermove", event => {
    const area = svg.getBoundingClientRect();
    point(Math.floor(((event.clientX - area.left) / area.width * width - left) / step));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) point(Number(box.dataset.at ?? 0)); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    const at = Number(box.dataset.at ?? 0);
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: count - 1, PageUp: at + 10, PageDown: at - 10 };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    point(moves[event.key]);
  });
  if (kept !== null) svg.focus();
}
