/* Calibration: one quantity's curves by block, and all of a noise level's numbers. */

widgets.calibration = box => {
  const shownLevel = box.querySelector("output[name=levelShown]");

  explore(box, {
    first: () => ({ quantity: box.querySelector("select[name=quantity]").value, level: Number(box.dataset.level) }),
    draw: (pane, folder, state) => {
      const level = Math.min(state.level, folder.sigmas.length - 1);
      for (const figure of pane.querySelectorAll(".drawing")) figure.hidden = figure.dataset.quantity !== state.quantity;
      const table = pane.querySelector(".levels");
      const keys = Object.keys(folder.tables);
      const heading = document.createElement("tr");
      for (const text of [`Block at σ = ${folder.sigmas[level]}`, ...keys.map(key => `${state.quantities[key].label}${state.quantities[key].unit && `, ${state.quantities[key].unit}`}`)]) {
        heading.append(Object.assign(document.createElement("th"), { scope: "col", textContent: text }));
      }
      table.tHead.replaceChildren(heading);
      const columns = keys.map(key => aligned(folder.tables[key][level]));
      fillNumbers(table, folder.blocks.map((name, block) => [name, ...columns.map(column => column[block])]));
      table.querySelectorAll("tr").forEach(row => [...row.cells].forEach((cell, place) => cell.classList.toggle("current", place === keys.indexOf(state.quantity) + 1)));
    },
    after: (shown, state) => {
      const sigmas = shown.map(folder => folder.sigmas).reduce((a, b) => a.length >= b.length ? a : b);
      const text = `${sigmas[Math.min(state.level, sigmas.length - 1)]}`;
      shownLevel.textContent = text;
      box.querySelector("input[name=level]").setAttribute("aria-valuetext", `σ = ${text}`);
    },
  });
};
