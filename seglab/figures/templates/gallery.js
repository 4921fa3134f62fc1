"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const rgb = (c, alpha = 1) => `rgba(${c[0]},${c[1]},${c[2]},${alpha})`;
  const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)} %`);
  const dice = (value) => (value === null ? "no Dice" : `Dice ${value.toFixed(3)}`);
  const why = (entry) => entry.cause ?? "nothing wrong";
  const filter = { cause: null, rule: null };

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // ---- overview -------------------------------------------------------------------------

  function chosenCases() {
    const found = data.cases.filter(
      (c) =>
        (filter.cause === null || filter.cause in c.causes) &&
        (filter.rule === null || c.rules.includes(filter.rule)),
    );
    const order = at("order").value;
    // Patients without a Dice stay last, as they are in the order of the data.
    if (order === "high") return found.sort((a, b) => (b.dice ?? -1) - (a.dice ?? -1));
    const byName = (a, b) => a.patient_id.localeCompare(b.patient_id, undefined, { numeric: true });
    return order === "id" ? found.sort(byName) : found;
  }

  function card(entry) {
    const picture = make("img", { src: entry.thumbnail, alt: "", loading: "lazy" });
    const body = make("div", { class: "about" });
    body.append(
      make("strong", { title: entry.patient_id }, entry.patient_id),
      make("div", { class: "dice" }, dice(entry.dice)),
      make("div", { class: "why" }, why(entry), alsoChosen(entry)),
      make("div", { class: "tags" }, entry.rules.join(" · ")),
    );
    const node = make("button", { class: "card", type: "button" }, picture, body);
    node.addEventListener("click", () => open(entry));
    return node;
  }

  function alsoChosen(entry) {
    const cause = filter.cause;
    if (cause === null || cause === entry.cause) return "";
    return make("small", {}, ` · ${cause} ${percent(entry.causes[cause])}`);
  }

  function showCards() {
    const found = chosenCases();
    at("cards").replaceChildren(...found.map(card));
    at("count").textContent = `${found.length} of ${data.cases.length} patients`;
    for (const button of document.querySelectorAll("[data-filter]")) {
      const on = filter[button.dataset.filter] === button.dataset.value;
      button.setAttribute("aria-pressed", String(on));
    }
  }

  function filterButton(kind, value, title, ...children) {
    const button = make("button", { type: "button", title }, ...children);
    button.dataset.filter = kind;
    button.dataset.value = value;
    button.addEventListener("click", () => {
      filter[kind] = filter[kind] === value ? null : value;
      showCards();
    });
    return button;
  }

  function showFilters() {
    for (const c of data.causes) {
      const bar = make("i");
      bar.style.width = `${100 * (c.share ?? 0)}%`;
      const patients = data.cases.filter((one) => c.cause in one.causes).length;
      const button = filterButton(
        "cause", c.cause, `${c.rule} Named first for ${c.patients}.`, make("span", {}, c.cause), make("span", { class: "track" }, bar),
        make("b", {}, percent(c.share)),
        make("em", {}, `${patients} patient${patients === 1 ? "" : "s"}`),
      );
      button.classList.add("cause");
      at("causes").append(button);
    }
    for (const [rule, meaning] of Object.entries(data.rules)) {
      const patients = data.cases.filter((c) => c.rules.includes(rule)).length;
      const button = filterButton("rule", rule, meaning, rule, make("em", {}, patients));
      button.disabled = patients === 0;
      at("rules").append(button);
    }
    at("order").addEventListener("change", showCards);
    at("clear").addEventListener("click", () => {
      filter.cause = filter.rule = null;
      showCards();
    });
    const mean = data.mean_dice === null ? "" : `, mean Dice ${data.mean_dice.toFixed(3)}`;
    at("modality").textContent = data.modality;
    at("summary").textContent = `${data.patients} patients${mean}. Select a patient to see its slices.`;
    const names = { agreement: "agreement", missed: "missed", false: "false alarm" };
    for (const legend of document.querySelectorAll(".legend"))
      for (const [key, name] of Object.entries(names))
        legend.append(make("span", {}, swatch(data.colours[key], key !== "agreement"), name));
  }

  function swatch(colour, filled) {
    const box = make("i");
    box.style.borderColor = rgb(colour);
    if (filled) box.style.background = rgb(colour, 0.5);
    return box;
  }

  // ---- one case -------------------------------------------------------------------------

  const TRUTH = 128, PREDICTION = 64;
  const SCALE = 4;
  const layers = [
    { key: "1", name: data.modality, on: true },
    { key: "2", name: "error colours", on: true, colour: "missed" },
    { key: "3", name: "truth", on: false, colour: "truth" },
    { key: "4", name: "prediction", on: false, colour: "prediction" },
    { key: "5", name: "probability", on: false, colour: "probability" },
  ];
  if (data.ensemble) layers.push({ key: "6", name: "disagreement", on: false, colour: "disagreement" });
  let current = null;

  function load(uri) {
    return new Promise((resolve, reject) => {
      const image = new Image();
      image.addEventListener("load", () => resolve(image));
      image.addEventListener("error", () => reject(new Error("a picture of this page is damaged")));
      image.src = uri;
    });
  }

  async function open(entry) {
    const state = { entry, index: nearest(entry, entry.start), flair: null, labels: null };
    current = state;
    describe(entry);
    if (!at("viewer").open) at("viewer").showModal();
    const [flair, labels] = await Promise.all([load(entry.flair), load(entry.labels)]);
    if (current !== state) return;
    state.flair = flair;
    state.labels = pixels(labels);
    draw();
  }

  function pixels(image) {
    const canvas = make("canvas");
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, image.width, image.height);
  }

  function nearest(entry, slice) {
    const away = entry.slices.map(([index]) => Math.abs(index - slice));
    return away.indexOf(Math.min(...away));
  }

  function describe(entry) {
    at("case-name").textContent = `${entry.patient_id} · ${dice(entry.dice)} · ${why(entry)}`;
    at("text").textContent = entry.text;
    at("figures").replaceChildren(
      ...Object.entries(entry.figures).map(([name, value]) =>
        make("tr", {}, make("td", {}, name), make("td", {}, value)),
      ),
    );
    at("findings").replaceChildren(...entry.findings.map(finding));
    at("kept").textContent = kept(entry);
    const slider = at("slice");
    slider.max = entry.slices.length - 1;
    slider.value = current.index;
  }

  function kept({ positions, of }) {
    const count = positions.length;
    if (count === of) return `All ${of} slices of the data are in this page.`;
    const thinned = positions[count - 1] - positions[0] >= count;
    return (
      `${count} of the patient's ${of} slices are in this page: from ${data.context} before the first ` +
      `with tumour or prediction to ${data.context} after the last` +
      (thinned ? ", thinned out evenly but for those with most tumour, missed and false alarm." : ".")
    );
  }

  function finding(found) {
    const head = make("b", {}, make("span", {}, found.cause), make("span", {}, percent(found.share)));
    const button = make("button", { type: "button" }, head, found.text);
    button.addEventListener("click", () => go(nearest(current.entry, found.slice)));
    return make("li", {}, button);
  }

  function go(index) {
    const last = current.entry.slices.length - 1;
    current.index = Math.min(last, Math.max(0, index));
    at("slice").value = current.index;
    draw();
  }

  function step(by) {
    const shown = chosenCases();
    const here = shown.indexOf(current.entry);
    const next = shown[(here + by + shown.length) % shown.length];
    if (next) open(next);
  }

  // ---- drawing --------------------------------------------------------------------------

  function draw() {
    if (!current || !current.labels) return;
    const { entry, index } = current;
    const [slice, agreed, missed, wrong] = entry.slices[index];
    for (const id of ["plain", "marked"]) {
      const canvas = at(id);
      canvas.width = entry.width * SCALE;
      canvas.height = entry.height * SCALE;
      const context = canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      if (id === "plain" || layers[0].on) drawFlair(context);
      if (id === "marked") drawMarks(context);
      drawSides(context, canvas);
    }
    const total = 2 * agreed + missed + wrong;
    const here = total ? `slice Dice ${((2 * agreed) / total).toFixed(2)}` : "nothing marked";
    at("marked-caption").textContent =
      `${here} · agreed ${agreed} · missed ${missed} · false ${wrong}`;
    at("position").textContent = `slice ${slice} (${index + 1} of ${entry.slices.length} kept)`;
    drawProfile();
  }

  function corner() {
    const { entry, index } = current;
    return [(index % entry.columns) * entry.width, Math.floor(index / entry.columns) * entry.height];
  }

  function drawFlair(context) {
    const { width, height } = current.entry;
    const [x, y] = corner();
    context.drawImage(current.flair, x, y, width, height, 0, 0, width * SCALE, height * SCALE);
  }

  function drawMarks(context) {
    const { width, height } = current.entry;
    const [x0, y0] = corner();
    const sheet = current.labels;
    const value = (x, y) =>
      x < 0 || y < 0 || x >= width || y >= height
        ? 0
        : sheet.data[4 * ((y0 + y) * sheet.width + x0 + x)];
    const colours = data.colours;
    const truth = (v) => (v & TRUTH) !== 0;
    const prediction = (v) => (v & PREDICTION) !== 0;
    const missed = (v) => truth(v) && !prediction(v);
    const wrong = (v) => prediction(v) && !truth(v);
    const heat = (share) => share && 0.15 + 0.45 * share;
    const paint = { context, value, width, height };
    if (layers[4].on) fill(paint, (v) => heat(((v >> 2) & 15) / 15), colours.probability);
    if (layers[5]?.on) fill(paint, (v) => heat((v & 3) / 3), colours.disagreement);
    if (layers[1].on) {
      fill(paint, (v) => missed(v) && 0.5, colours.missed);
      fill(paint, (v) => wrong(v) && 0.5, colours.false);
      outline(paint, missed, colours.missed);
      outline(paint, wrong, colours.false);
      outline(paint, (v) => truth(v) && prediction(v), colours.agreement);
    }
    if (layers[2].on) outline(paint, truth, colours.truth);
    if (layers[3].on) outline(paint, prediction, colours.prediction, [SCALE * 1.5, SCALE]);
  }

  function fill({ context, value, width, height }, opacity, colour) {
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const alpha = opacity(value(x, y));
        if (!alpha) continue;
        context.fillStyle = rgb(colour, alpha);
        context.fillRect(x * SCALE, y * SCALE, SCALE, SCALE);
      }
  }

  function outline({ context, value, width, height }, inside, colour, dash = []) {
    context.beginPath();
    for (let y = 0; y <= height; y++)
      for (let x = 0; x <= width; x++) {
        const here = inside(value(x, y));
        if (here !== inside(value(x - 1, y))) {
          context.moveTo(x * SCALE, y * SCALE);
          context.lineTo(x * SCALE, (y + 1) * SCALE);
        }
        if (here !== inside(value(x, y - 1))) {
          context.moveTo(x * SCALE, y * SCALE);
          context.lineTo((x + 1) * SCALE, y * SCALE);
        }
      }
    context.strokeStyle = rgb(colour);
    context.lineWidth = SCALE / 2;
    context.setLineDash(dash);
    context.stroke();
    context.setLineDash([]);
  }

  function drawSides(context, { width, height }) {
    context.font = `${Math.round(0.07 * height)}px sans-serif`;
    context.fillStyle = "#d7d7d7";
    context.textBaseline = "top";
    context.fillText("R", 2 * SCALE, 2 * SCALE);
    context.textAlign = "right";
    context.fillText("L", width - 2 * SCALE, 2 * SCALE);
    context.textAlign = "left";
  }

  function drawProfile() {
    const canvas = at("profile");
    const { entry, index } = current;
    canvas.width = canvas.clientWidth * devicePixelRatio;
    canvas.height = canvas.clientHeight * devicePixelRatio;
    const context = canvas.getContext("2d");
    const step = canvas.width / entry.slices.length;
    const most = Math.max(1, ...entry.slices.map(([, a, m, f]) => a + m + f));
    const names = ["agreement", "missed", "false"];
    context.fillStyle = "#ffffff30";
    context.fillRect(index * step, 0, step, canvas.height);
    entry.slices.forEach(([, ...areas], i) => {
      let bottom = canvas.height;
      areas.forEach((area, kind) => {
        const tall = (area / most) * (canvas.height - 6);
        context.fillStyle = rgb(data.colours[names[kind]]);
        context.fillRect(i * step, bottom - tall, Math.max(1, step - 1), tall);
        bottom -= tall;
      });
    });
  }

  // ---- controls -------------------------------------------------------------------------

  function toggle(layer) {
    layer.on = !layer.on;
    layer.button.setAttribute("aria-pressed", String(layer.on));
    draw();
  }

  function press(event) {
    if (!at("viewer").open || event.altKey || event.ctrlKey || event.metaKey) return;
    const layer = layers.find((l) => l.key === event.key);
    const moves = {
      ArrowLeft: () => go(current.index - 1),
      ArrowRight: () => go(current.index + 1),
      ArrowUp: () => step(-1),
      ArrowDown: () => step(1),
      Home: () => go(0),
      End: () => go(Infinity),
    };
    const act = layer ? () => toggle(layer) : moves[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  function connect() {
    for (const layer of layers) {
      layer.button = make("button", { type: "button", "aria-pressed": String(layer.on) });
      if (layer.colour) layer.button.append(swatch(data.colours[layer.colour], layer.key % 3 === 2));
      layer.button.append(`${layer.key} ${layer.name}`);
      layer.button.addEventListener("click", () => toggle(layer));
      at("toggles").append(layer.button);
    }
    at("slice").addEventListener("input", (event) => go(Number(event.target.value)));
    at("previous").addEventListener("click", () => step(-1));
    at("next").addEventListener("click", () => step(1));
    at("close").addEventListener("click", () => at("viewer").close());
    at("profile").addEventListener("click", (event) => {
      go(Math.floor((event.offsetX / event.target.clientWidth) * current.entry.slices.length));
    });
    addEventListener("keydown", press);
    addEventListener("resize", draw);
  }

  showFilters();
  connect();
  showCards();
})();
