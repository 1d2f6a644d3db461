/* Figure 11: a grid of ways to shrink, every measure of the one chosen, and how well each measure orders them all. */

widgets.interpolation = box => {
  const form = box.querySelector("form");
  const labels = name => new Map([...form.elements[name].options].map(option => [option.value, option.text]));
  const [methods, measures, damages] = ["method", "measure", "damage"].map(labels);
  const scalesOf = folder => [...new Set(folder.variants.map(variant => variant.scale))].sort((a, b) => a - b);
  const methodsOf = folder => [...methods.keys()].filter(method => folder.variants.some(variant => variant.method === method));
  const find = (folder, method, scale) => folder.variants.findIndex(variant => variant.method === method && variant.scale === scale);
  const oriented = (measure, values) => measure.better === "higher" ? values.map(value => value === null ? null : -value) : values;
  const measureOf = (folder, key) => folder.measures[key] ?? folder.damages[key];

  /* All scales on the page, which the slider runs over. */
  const allScales = folders => [...new Set(folders.flatMap(scalesOf))].sort((a, b) => a - b);

  /* The way whose rank by latent MSE is farthest from its rank by damage: where the claim shows. */
  const mostMisjudged = folder => {
    const [damage] = Object.values(folder.damages);
    const judged = folder.measures.latent_mse ?? Object.values(folder.measures)[0];
    const [ours, theirs] = [ranks(judged.values[0]), ranks(damage.values[0])];
    const gaps = ours.map((rank, index) => Math.abs(rank - theirs[index]));
    return folder.variants[gaps.indexOf(Math.max(...gaps))];
  };

  const drawGrid = (pane, folder, image, state, update, chosen) => {
    const scales = scalesOf(folder);
    const ways = methodsOf(folder);
    const headings = pane.querySelector(".columns");
    headings.style.setProperty("--columns", scales.length);
    headings.replaceChildren(...scales.map(scale => Object.assign(document.createElement("span"), { textContent: `s = ${scale}` })));
    const all = state.scales;
    const cells = chooser(pane.querySelector(".cells"), ways.length, scales.length, (row, column) => update({ method: ways[row], scale: all.indexOf(scales[column]) }));
    const [measure, damage] = [measureOf(folder, state.measure), folder.damages[state.damage]];
    cells.forEach((cell, place) => {
      const method = ways[Math.floor(place / scales.length)];
      const scale = scales[place % scales.length];
      const index = find(folder, method, scale);
      cell.ariaDisabled = String(index < 0);
      if (index < 0) return;
      const [first, second] = [number(measure?.values[state.image][index]), number(damage?.values[state.image][index])];
      fillCell(cell, image.decodes[index], first, second);
      cell.ariaLabel = `${methods.get(method)}, s = ${scale}: ${measures.get(state.measure)} ${first}, ${damages.get(state.damage)} ${second}`;
    });
    pane.querySelectorAll(".cells > [role=row]").forEach((row, place) => { row.dataset.method = methods.get(ways[place]); });
    markChosen(cells, ways.indexOf(folder.variants[chosen].method) * scales.length + scales.indexOf(folder.variants[chosen].scale));
  };

  const fillCell = (cell, key, first, second) => {
    if (!cell.firstChild) cell.append(Object.assign(document.createElement("img"), { alt: "" }), document.createElement("span"), document.createElement("span"));
    const [image, upper, lower] = cell.children;
    const source = uri(key) ?? "";
    if (image.getAttribute("src") !== source) { if (source) image.src = source; else image.removeAttribute("src"); }
    image.classList.toggle("gone", !source);
    upper.textContent = first;
    lower.textContent = second;
  };

  const drawNumbers = (pane, folder, state, chosen) => {
    const count = folder.variants.length;
    const row = (label, entry) => {
      const values = entry.values[state.image];
      return [label, number(values[chosen]), `${ranks(oriented(entry, values))[chosen]} of ${count}`];
    };
    const shown = Object.keys(folder.measures).filter(key => !key.startsWith("feature/") || key.startsWith("feature/all/") || key === state.measure);
    fillNumbers(pane.querySelector(".ranked"), [
      ...Object.entries(folder.damages).map(([, entry]) => row(`Damage: ${entry.label}`, entry)),
      ...shown.map(key => row(measures.get(key), folder.measures[key])),
    ]);
  };

  const drawScatter = (pane, folder, state, chosen) => {
    const figure = pane.querySelector('[data-part="scatter"]');
    const [measure, damage] = [measureOf(folder, state.measure), folder.damages[state.damage]];
    figure.hidden = !measure || !damage;
    if (figure.hidden) return;
    const found = folder.correlations.find(entry => entry.measure === state.measure && entry.damage === state.damage && entry.subset === state.subset);
    const rho = found?.per_image[state.image];
    figure.querySelector("figcaption").textContent = `${damages.get(state.damage)} against ${measures.get(state.measure)}: ρ = ${rho === undefined || rho === null ? "–" : number(rho, 2)} for this image${state.subset === "latent" ? ", latents alone" : ""}`;
    const points = folder.variants.map((variant, index) => ({ method: variant.method, scale: variant.scale, x: measure.values[state.image][index], y: damage.values[state.image][index], chosen: index === chosen }));
    scatter(figure.querySelector(".plot"), points, [...methods.keys()], figure.querySelector("figcaption").textContent);
    figure.querySelector(".legend").replaceChildren(...methodsOf(folder).map(method => {
      const entry = document.createElement("li");
      entry.append(Object.assign(document.createElement("span"), { className: `swatch ${methodColour([...methods.keys()], method)}` }), methods.get(method));
      return entry;
    }));
  };

  explore(box, {
    first: folders => {
      const start = mostMisjudged(folders[0]);
      const scales = allScales(folders);
      return { image: 0, method: start.method, scales, scale: scales.indexOf(start.scale), measure: [...measures.keys()][0], damage: [...damages.keys()][0], subset: "all", blocks: false };
    },
    draw: (pane, folder, state, update) => {
      const image = folder.images[state.image];
      if (lack(pane, image ? "" : `The pictures of only ${folder.images.length} of its images were written.`)) return;
      const chosen = find(folder, state.method, state.scales[state.scale]);
      if (lack(pane, chosen >= 0 ? "" : `It was not shrunk by ${state.scales[state.scale]} in this way.`)) return;
      for (const part of ["original", "reconstruction"]) show(pane.querySelector(`[data-part="${part}"]`), image[part]);
      show(pane.querySelector('[data-part="decode"]'), image.decodes[chosen]);
      pane.querySelector('[data-part="decode"] figcaption').textContent = `${methods.get(state.method)}, s = ${state.scales[state.scale]}`;
      drawGrid(pane, folder, image, state, update, chosen);
      drawNumbers(pane, folder, state, chosen);
      drawScatter(pane, folder, state, chosen);
    },
    after: (shown, state) => {
      const text = `${state.scales[state.scale]}`;
      form.elements.scaleShown.textContent = text;
      form.elements.scale.setAttribute("aria-valuetext", `s = ${text}`);
      drawIntervals(box.querySelector(".intervals"), shown, state, measures);
    },
  });
};

/* Correlations of every measure, a track for each folder. */
function drawIntervals(table, folders, state, measures) {
  const of = (folder, key) => folder.correlations.find(entry => entry.measure === key && entry.damage === state.damage && entry.subset === state.subset);
  const least = Math.min(0, ...folders.flatMap(folder => folder.correlations.map(entry => entry.rho.low ?? 0)));
  const low = Math.floor(4 * Math.max(-1, least)) / 4;
  const place = value => `${100 * (Math.max(low, Math.min(1, value)) - low) / (1 - low)}%`;
  const keys = [...measures.keys()].filter(key => state.blocks || !key.startsWith("feature/") || key.startsWith("feature/all/"));
  const axis = document.createElement("tr");
  axis.innerHTML = `<th scope="col">Measure</th><th scope="col"><span class="unseen">Interval</span><span class="scale">${[-1, -.5, 0, .5, 1].filter(value => value >= low).map(value => `<i style="left:${place(value)}">${plain(value)}</i>`).join("")}</span></th><th scope="col">ρ</th><th scope="col">Wrong pairs</th>`;
  table.tHead.replaceChildren(axis);
  table.style.setProperty("--zero", place(0));
  table.tBodies[0].replaceChildren(...keys.map(key => {
    const row = document.createElement("tr");
    row.classList.toggle("current", key === state.measure);
    row.append(Object.assign(document.createElement("th"), { scope: "row", textContent: measures.get(key) }));
    const [tracks, rhos, wrong] = [0, 1, 2].map(() => row.insertCell());
    tracks.className = "tracks";
    for (const folder of folders) {
      const entry = of(folder, key);
      const track = Object.assign(document.createElement("span"), { className: `track ${folder.colour}` });
      if (entry && entry.rho.mean !== null) {
        const reach = Object.assign(document.createElement("i"), { className: "reach" });
        reach.style.cssText = `left:${place(entry.rho.low)};right:calc(100% - ${place(entry.rho.high)})`;
        const dot = Object.assign(document.createElement("i"), { className: "dot" });
        dot.style.left = place(entry.rho.mean);
        track.append(reach, dot);
      }
      tracks.append(track);
      const text = entry && entry.rho.mean !== null ? `${entry.rho.mean.toFixed(2).replace("-", "\u2212")}` : "\u2013";
      rhos.append(Object.assign(document.createElement("span"), { className: "line", textContent: text, title: folder.name }));
      wrong.append(Object.assign(document.createElement("span"), { className: "line", textContent: entry ? percent(entry.discordant.mean) : "\u2013", title: folder.name }));
    }
    return row;
  }));
}

/* Damage against a measure: a dot for each way of shrinking, a line for each method, a ring around the one chosen. */
function scatter(box, points, methods, label) {
  const width = Math.max(260, Math.round(box.clientWidth) || 360); // texts keep the size of the page's
  const frame = { left: 50, right: width - 12, top: 10, bottom: 186 };
  const usable = points.filter(point => point.x !== null && point.y !== null);
  const svg = make("svg", { viewBox: `0 0 ${width} 210`, class: "chart scatter", role: "img", "aria-label": label });
  box.replaceChildren(svg);
  if (!usable.length) return;
  const [x, y] = ["x", "y"].map(name => span(usable.map(point => point[name])));
  const across = value => frame.left + x.share(value) * (frame.right - frame.left);
  const down = value => frame.bottom - y.share(value) * (frame.bottom - frame.top);
  for (const tick of y.ticks) {
    svg.append(make("line", { class: "grid", x1: frame.left, x2: frame.right, y1: down(tick), y2: down(tick) }));
    svg.append(make("text", { class: "tick", x: frame.left - 7, y: down(tick) + 4, "text-anchor": "end" }, plain(tick)));
  }
  svg.append(make("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }));
  for (const tick of x.ticks) {
    svg.append(make("line", { class: "axis", x1: across(tick), x2: across(tick), y1: frame.bottom, y2: frame.bottom + 4 }));
    svg.append(make("text", { class: "tick", x: across(tick), y: frame.bottom + 16, "text-anchor": "middle" }, plain(tick)));
  }
  for (const method of methods) {
    const line = usable.filter(point => point.method === method).sort((a, b) => a.scale - b.scale);
    const colour = methodColour(methods, method);
    if (line.length) svg.append(make("path", { class: `line thin ${colour}`, d: `M${line.map(point => `${across(point.x)} ${down(point.y)}`).join("L")}` }));
    for (const point of line) {
      const mark = make("circle", { class: `dot ${colour}`, cx: across(point.x), cy: down(point.y), r: 3.4 });
      mark.append(make("title", {}, `${method}, s = ${point.scale}: ${number(point.x)}, ${number(point.y)}`));
      svg.append(mark);
    }
  }
  const chosen = usable.find(point => point.chosen);
  if (chosen) svg.append(make("circle", { class: "ring", cx: across(chosen.x), cy: down(chosen.y), r: 7.5 }));
}

function methodColour(methods, method) {
  return `step-${Math.round(5 * methods.indexOf(method) / Math.max(methods.length - 1, 1))}`;
}

/* An axis over values: logarithmic where they are positive and span much, with about four round ticks. */
function span(values) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low > 0 && high > 20 * low) {
    [low, high] = [low / (high / low) ** .04, high * (high / low) ** .04];
    const share = value => Math.log(value / low) / Math.log(high / low);
    const decades = Array.from({ length: 16 }, (_, place) => Math.floor(Math.log10(low)) + place);
    const candidates = [[1, 2, 5], [1, 3], [1]].map(digits => decades.flatMap(power => digits.map(digit => digit * 10 ** power)).filter(tick => tick >= low && tick <= high));
    return { share, ticks: candidates.find(ticks => ticks.length <= 5) ?? candidates[2].filter((_, place) => place % 2 === 0) };
  }
  const margin = .05 * (high - low) || .5 * Math.abs(high) || 1;
  [low, high] = [low - margin, high + margin];
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(digit => digit * power).find(size => size >= rough);
  const ticks = Array.from({ length: 8 }, (_, place) => (Math.ceil(low / step) + place) * step).filter(tick => tick <= high);
  return { share: value => (value - low) / (high - low), ticks };
}
