/* Figure 12: a map of positions to choose from; what the noise there does to the picture. */

widgets.perturbation = box => {
  const values = (image, map) => map === "error" ? image.error : map === "far" ? image.local.map(share => share === null ? null : 1 - share) : image.visible;
  const names = new Map([...box.querySelector("select[name=map]").options].map(option => [option.value, option.text]));

  /* Colours run over all images of a folder, or of both folders: errors on a logarithmic scale, shares from 0. */
  const range = (folders, map) => {
    const pooled = folders.flatMap(folder => folder.images.flatMap(image => values(image, map))).filter(value => value !== null);
    const positive = map === "error" ? pooled.filter(value => value > 0) : pooled;
    const [low, high] = [positive.reduce((a, b) => Math.min(a, b), Infinity), positive.reduce((a, b) => Math.max(a, b), -Infinity)];
    return map === "error" ? { low, high, share: value => Math.log(value / low) / Math.log(high / low || 2) } : { low: 0, high, share: value => value / (high || 1) };
  };

  const nearest = (folder, state) => {
    const row = state.y * folder.grid[0] - .5;
    const column = state.x * folder.grid[1] - .5;
    let best = 0;
    const distance = ([r, c]) => (r - row) ** 2 + (c - column) ** 2;
    folder.positions.forEach((position, index) => { if (distance(position) < distance(folder.positions[best])) best = index; });
    return best;
  };
  const centre = (folder, [row, column]) => ({ y: (row + .5) / folder.grid[0], x: (column + .5) / folder.grid[1] });

  const drawMap = (pane, folder, image, state, update, chosen, scale) => {
    const [rows, columns] = folder.grid;
    const cells = chooser(pane.querySelector(".cells"), rows, columns, (row, column) => update(centre(folder, [row, column])));
    const found = new Map(folder.positions.map(([row, column], index) => [row * columns + column, index]));
    const numbers = values(image, state.map);
    const write = state.map === "error" ? number : percent;
    cells.forEach((cell, place) => {
      const index = found.get(place);
      cell.ariaDisabled = String(index === undefined);
      if (index === undefined) return;
      cell.style.background = numbers[index] === null ? "" : ramp(scale.share(numbers[index]));
      cell.ariaLabel = `row ${cell.dataset.row}, column ${cell.dataset.column}: ${write(numbers[index])}`;
    });
    const [row, column] = folder.positions[chosen];
    markChosen(cells, row * columns + column);
    pane.querySelector('[data-part="map-name"]').textContent = names.get(state.map);
    pane.querySelector('[data-part="low"]').textContent = write(scale.low);
    pane.querySelector('[data-part="high"]').textContent = write(scale.high);
  };

  const outline = (frame, folder, [row, column]) => {
    const surface = frame.querySelector(".surface");
    const marks = surface.querySelectorAll(".mark");
    const [inner, outer] = marks.length ? marks : [0, 1].map(() => surface.appendChild(Object.assign(document.createElement("span"), { className: "mark" })));
    outer.classList.add("near");
    for (const [mark, reach] of [[inner, 0], [outer, folder.radius]]) {
      const top = Math.max(0, row - reach);
      const left = Math.max(0, column - reach);
      const bottom = Math.min(folder.grid[0], row + reach + 1);
      const right = Math.min(folder.grid[1], column + reach + 1);
      mark.style.inset = `${100 * top / folder.grid[0]}% ${100 - 100 * right / folder.grid[1]}% ${100 - 100 * bottom / folder.grid[0]}% ${100 * left / folder.grid[1]}%`;
    }
  };

  const drawPictures = (pane, folder, image, state, chosen) => {
    const where = `noise at row ${folder.positions[chosen][0]}, column ${folder.positions[chosen][1]}`;
    const part = name => pane.querySelector(`[data-part="${name}"]`);
    const tile = sprite => ({ index: chosen, columns: sprite.columns, aspect: sprite.tile[1] / sprite.tile[0] });
    const plain = state.noise === "without";
    show(part("decode"), plain ? image.reconstruction : image.decodes?.key, { tile: plain || !image.decodes ? null : tile(image.decodes), label: plain ? "decoded without noise" : `decoded with ${where}` });
    part("decode").querySelector("figcaption").textContent = plain ? "Decoded without the noise" : "Decoded with the noise";
    show(part("difference"), image.differences?.key, { tile: image.differences && tile(image.differences), label: `change by ${where}, magnified` });
    part("difference").querySelector("figcaption").textContent = `Change, magnified ${folder.gain} times`;
    show(part("influence"), image.influence?.key, { tile: image.influence && tile(image.influence), colours: LUT, label: `where the error falls, with ${where}` });
    part("black").textContent = image.influence ? number(10 ** image.influence.log10_black, 1) : "";
    part("white").textContent = image.influence ? number(10 ** image.influence.log10_white, 1) : "";
    for (const name of ["decode", "difference", "influence"]) outline(part(name), folder, folder.positions[chosen]);
  };

  const drawNumbers = (pane, folder, image, chosen) => {
    const sorted = image.error.filter(value => value !== null).sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)];
    const rank = sorted.length - sorted.indexOf(image.error[chosen]);
    const far = image.local[chosen] === null ? null : 1 - image.local[chosen];
    const radius = Object.entries(image.radii).map(([level, entries]) => [`Radius that holds ${percent(Number(level))} of it`, `${entries[chosen]}`]);
    fillNumbers(pane.querySelector("table"), [
      ["Position, row and column", folder.positions[chosen].join(", ")],
      ["Squared error of the picture", number(image.error[chosen])],
      ["over the median position’s", `×${number(image.error[chosen] / median)}`],
      ["Rank, worst first", `${rank} of ${sorted.length}`],
      [`Error within ${folder.radius} position${folder.radius === 1 ? "" : "s"}`, percent(image.local[chosen])],
      ["Error farther away", percent(far)],
      ["Pixels far away that change visibly", percent(image.visible[chosen])],
      ...radius,
    ]);
  };

  explore(box, {
    first: folders => {
      const [folder] = folders;
      const worst = folder.images[0].error.indexOf(folder.images[0].error.reduce((a, b) => Math.max(a, b ?? 0), 0));
      return { image: 0, map: "error", noise: "with", common: false, ...centre(folder, folder.positions[worst]) };
    },
    draw: (pane, folder, state, update, shown) => {
      const image = folder.images[state.image];
      if (lack(pane, image ? "" : `Only ${folder.images.length} of its images were perturbed.`)) return;
      const chosen = nearest(folder, state);
      drawMap(pane, folder, image, state, update, chosen, range(state.common ? shown : [folder], state.map));
      drawPictures(pane, folder, image, state, chosen);
      drawNumbers(pane, folder, image, chosen);
      const order = image.error.map((value, index) => [value ?? -1, index]).sort((a, b) => b[0] - a[0]);
      const jumps = { worst: 0, median: Math.floor(order.length / 2), mildest: order.length - 1 };
      for (const button of pane.querySelectorAll("[data-jump]")) button.onclick = () => update(centre(folder, folder.positions[order[jumps[button.dataset.jump]][1]]));
    },
  });
};
