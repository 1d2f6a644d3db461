/* Figure 13: a block's channels to choose from; their map before and after the mask, its values and its numbers. */

widgets.features = box => {
  const shownChannel = box.querySelector("output[name=channelShown]");
  const quantile = level => `${plain(Number((100 * level).toPrecision(6)))}\u00a0%`;

  /* Which of the stored channels of a pane is meant: the one of that rank, or of the number that the first pane shows. */
  const placeOf = (maps, folder, state, shown) => {
    if (state.match !== "number" || folder === shown[0]) return Math.min(state.rank, maps.channels.length - 1);
    const first = shown[0].images[state.image]?.maps[Math.min(state.block, shown[0].blocks.length - 1)];
    return first ? maps.channels.indexOf(first.channels[Math.min(state.rank, first.channels.length - 1)]) : -1;
  };

  const drawPictures = (pane, folder, image, maps, place) => {
    const channel = maps.channels[place];
    const tile = { index: place, columns: Math.min(maps.columns, maps.channels.length), aspect: 1 };
    const part = name => pane.querySelector(`[data-part="${name}"]`);
    const scale = maps.scales[place];
    show(part("original"), image.original, { label: image.name });
    show(part("before"), maps.before, { tile, label: `channel ${channel} before the mask` });
    show(part("after"), maps.after, { tile, label: `channel ${channel} after the mask` });
    part("before").querySelector("figcaption").textContent = `Before the mask: ${number(scale.low)} to ${number(scale.high)}`;
    part("after").querySelector("figcaption").textContent = `After it: ${number(scale.kept_low)} to ${number(scale.kept_high)}`;
    show(part("sheet"), maps.after);
  };

  const drawSheet = (pane, maps, place, update) => {
    const columns = Math.min(maps.columns, maps.channels.length);
    const rows = Math.ceil(maps.channels.length / columns);
    const cells = chooser(pane.querySelector(".cells"), rows, columns, (row, column) => update({ rank: row * columns + column }));
    cells.forEach((cell, index) => {
      const channel = maps.channels[index];
      cell.ariaDisabled = String(channel === undefined);
      cell.ariaLabel = channel === undefined ? "" : `channel ${channel}, ${percent(maps.masked_share[index])} masked`;
      cell.title = cell.ariaLabel;
    });
    markChosen(cells, place);
  };

  const drawHistogram = (pane, maps, place) => {
    const histogram = maps.histograms[place];
    const figure = pane.querySelector('[data-part="histogram"]');
    figure.hidden = !histogram;
    if (!histogram) return;
    const { low, high } = maps.scales[place];
    const step = (high - low) / histogram.kept.length;
    bars(figure.querySelector(".plot"), {
      label: `Values of channel ${maps.channels[place]}, from ${number(low)} to ${number(high)}`,
      stacks: [{ name: "kept", values: histogram.kept }, { name: "masked", values: histogram.masked }],
      logarithmic: true,
      describe: index => [`${number(low + index * step)} to ${number(low + (index + 1) * step)}`, `kept: ${histogram.kept[index].toLocaleString("en")}`, `masked: ${histogram.masked[index].toLocaleString("en")}`],
      ticks: [{ at: 0, text: number(low) }, ...(low < -.25 * (high - low) && high > .25 * (high - low) ? [{ at: -low / step, text: "0" }] : []), { at: histogram.kept.length, text: number(high) }],
    });
  };

  const drawNumbers = (pane, folder, block, maps, place) => {
    const channel = maps.channels[place];
    const at = block.channels.number.indexOf(channel);
    const of = name => block.channels[name][at];
    const levels = folder.levels.map((level, index) => [level, of("quantiles")[index]]);
    const pick = wanted => levels.filter(([level]) => wanted.includes(level)).map(([level, value]) => [`Quantile ${quantile(level)}`, number(value)]);
    const state = block.dead.includes(channel) ? ", all but constant" : block.weak.includes(channel) ? ", weak" : "";
    fillNumbers(pane.querySelector("table"), [
      ["Channel", `${channel} of ${block.count}${state}`],
      ["Rank by outliers", `${block.ranks[channel] + 1}`],
      ["Masked in this map", percent(maps.masked_share[place])],
      ["Masked, all images", percent(of("masked_share"))],
      ["Energy masked", percent(of("masked_energy"))],
      ["Farthest value, in std", number(of("largest"))],
      ...(block.channels.masked_norm ? [["Masked over kept, rms", of("masked_norm") ? `×${number(of("masked_norm"))}` : number(of("masked_norm"))]] : []),
      ["Excess kurtosis", number(of("kurtosis"))],
      ["Kurtosis of what is kept", number(of("kept_kurtosis"))],
      ["Mean", number(of("mean"))],
      ["Standard deviation", number(of("std"))],
      ["Exact zeros", percent(of("zero_share"))],
      ...pick([.001, .02, .5, .98, .999]),
    ]);
  };

  explore(box, {
    first: () => ({ image: 0, block: Number(box.dataset.block), rank: 0, match: "rank" }),
    draw: (pane, folder, state, update, shown) => {
      const block = folder.blocks[state.block];
      if (lack(pane, block ? "" : `It has only ${folder.blocks.length} blocks.`)) return;
      const image = folder.images[state.image];
      if (lack(pane, image ? "" : `The maps of only ${folder.images.length} of its images were written.`)) return;
      const maps = image.maps[state.block];
      if (lack(pane, maps ? "" : "The maps of this block were not written.")) return;
      const place = placeOf(maps, folder, state, shown);
      if (lack(pane, place >= 0 ? "" : "The channel of that number is not among those whose maps were written.")) return;
      const resolution = `${block.size[0]}\u00d7${block.size[1]}, 1/${plain(block.down_f)} of the image`;
      pane.querySelector('[data-part="block"]').textContent = `Block ${block.name}: ${resolution}, ${block.masked ? "masked by default" : "not masked by default"}`;
      drawPictures(pane, folder, image, maps, place);
      drawSheet(pane, maps, place, update);
      drawHistogram(pane, maps, place);
      drawNumbers(pane, folder, block, maps, place);
    },
    after: (shown, state) => {
      const slider = box.querySelector("input[name=rank]");
      const counts = shown.map(folder => folder.images[state.image]?.maps[state.block]?.channels.length ?? 1);
      slider.max = Math.max(...counts) - 1;
      slider.value = state.rank;
      const maps = shown[0].images[state.image]?.maps[state.block];
      const text = maps ? `${Math.min(state.rank, maps.channels.length - 1) + 1} of ${maps.channels.length} by outliers` : "";
      shownChannel.textContent = text;
      slider.setAttribute("aria-valuetext", text);
      for (const panels of box.querySelectorAll(".panels[data-index]")) panels.hidden = Number(panels.dataset.index) !== state.block;
    },
  });
};
