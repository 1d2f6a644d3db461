/* A.1: the picture after a step along the most and the least visible direction, the numbers of JᵀJ, and its channels. */

widgets.linear = box => {
  const names = new Map([...box.querySelector("select[name=quantity]").options].map(option => [option.value, option.text]));

  const drawChannels = (pane, folder, metric, state) => {
    const own = { ...folder.channels, sensitivity: metric.channels };
    const values = own[state.quantity];
    const order = values.map((_, channel) => channel);
    if (state.order === "value") order.sort((a, b) => (values[b] ?? 0) - (values[a] ?? 0));
    const sorted = order.map(channel => values[channel]);
    const every = Math.ceil(order.length / 16);
    const [most, least] = [Math.max(...values), Math.min(...values)];
    const logarithmic = state.quantity !== "energy_share" && least > 0 && most > 3 * least;
    const figure = pane.querySelector('[data-part="channels"]');
    figure.querySelector("figcaption").textContent = `${names.get(state.quantity)}, by latent channel${logarithmic ? "; logarithmic" : ""}. Thin line: the mean.`;
    bars(figure.querySelector(".plot"), {
      label: `${names.get(state.quantity)} of ${order.length} channels, from ${number(least)} to ${number(most)}`,
      stacks: [{ name: state.quantity, values: sorted }],
      logarithmic,
      marked: values.reduce((a, b) => a + b, 0) / values.length,
      describe: index => [
        `channel ${order[index]}`,
        `sensitivity ${number(own.sensitivity[order[index]])} \u00b1 ${number(metric.channels_standard_error[order[index]], 1)}`,
        `variance ${number(own.latent_variance[order[index]])}`,
        `${percent(own.energy_share[order[index]])} of the image error`,
      ],
      ticks: order.map((channel, place) => ({ at: place + .5, text: `${channel}` })).filter((_, place) => place % every === 0),
    });
  };

  const drawNumbers = (pane, folder, metric) => {
    const ratio = value => value === null ? "beyond rounding" : `\u2265 ${number(value)}`;
    fillNumbers(pane.querySelector("table"), [
      ["Largest eigenvalue λ_max", number(metric.largest_eigenvalue)],
      ["Mean eigenvalue", number(metric.mean_eigenvalue)],
      ["Smallest eigenvalue λ_min", `\u2264 ${number(metric.smallest_eigenvalue_at_most)}`],
      ["Condition λ_max/λ_min", ratio(metric.condition_at_least)],
      ["Bound (12) over the mean penalty", ratio(metric.bound_over_mean_at_least)],
      ["Directions in effect", `${number(metric.effective_rank)} of ${metric.dimension.toLocaleString("en")}`],
      ["Most over least sensitive channel", `×${number(folder.channels.anisotropy)}`],
    ]);
  };

  explore(box, {
    first: () => ({ image: 0, quantity: "sensitivity", order: "value" }),
    draw: (pane, folder, state) => {
      const image = folder.images[state.image];
      if (lack(pane, image ? "" : `JᵀJ was looked at for only ${folder.images.length} of its images.`)) return;
      for (const part of ["reconstruction", "largest", "smallest"]) show(pane.querySelector(`[data-part="${part}"]`), image[part]);
      pane.querySelector('[data-part="largest"] figcaption').textContent = `${percent(folder.step)} of the latent’s norm along λ_max`;
      drawChannels(pane, folder, image.metric, state);
      drawNumbers(pane, folder, image.metric);
    },
    after: (shown, state) => {
      for (const slot of box.querySelectorAll(".slot[data-index]")) slot.hidden = Number(slot.dataset.index) !== state.image;
    },
  });
};
