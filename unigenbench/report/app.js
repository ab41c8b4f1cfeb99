"use strict";

const PAGE = 50; // cards in the document at once
const VERDICTS = { yes: ["✓", "met"], no: ["✗", "not met"], none: ["–", "no verdict"] };
const CHANGES = { gained: ["better", "up"], lost: ["worse", "down"], differs: ["differs", ""] }; // from the first run to later ones
const FLAGS = { ungrounded: "the prompt does not say so" };
const COUNTS = ["", "one", "two", "three", "four"];
const byId = (id) => document.getElementById(id);

/** An element with attributes and children; text becomes text nodes, so that nothing of a model is ever read as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== ""));
  return element;
}

/** base64 of deflated JSON -> its value */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

/** Buttons of the legend show and hide a run in all figures. */
function wireLegend() {
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const isOff = document.body.classList.toggle(`off-${button.dataset.run}`);
      button.setAttribute("aria-pressed", String(!isOff));
    });
  }
}

/** One table of themes at a time. */
function wireHeatTabs() {
  const tables = [...document.querySelectorAll(".heat")];
  if (tables.length < 2) return;
  const buttons = tables.map((table, place) =>
    make("button", { type: "button", click: () => show(place) }, table.dataset.title));
  const show = (chosen) => tables.forEach((table, place) => {
    table.hidden = place !== chosen;
    buttons[place].setAttribute("aria-pressed", String(place === chosen));
  });
  byId("heat-tabs").append(...buttons);
  show(0);
}

class Gallery {
  constructor(data) {
    this.data = data;
    this.form = byId("filters");
    this.isComparison = data.runs.length > 1;
    this.criteria = new Map(data.dimensions.flatMap((d) => d.criteria.map((c) => [c.id, c.name])));
    this.byKey = new Map();
    for (const card of data.cards) this.prepare(card);
    this.fillFilters();
    this.page = 0;
    this.current = null;
    this.wire();
    byId("bar").hidden = this.form.hidden = false;
    this.read();
  }

  /** Adds what filters ask for: the prompt, a key for links, what each run says of each test point, what changed. */
  prepare(card) {
    card.prompt = this.data.prompts[card.prompt];
    card.key = `${card.prompt.index}.${card.image}`;
    while (this.byKey.has(card.key)) card.key += "b"; // the same number in another set of prompts
    this.byKey.set(card.key, card);
    card.verdicts = card.prompt.points.map((_, point) => card.sides.map((side) => verdict(side, point)));
    card.changes = card.verdicts.map(change);
  }

  fillFilters() {
    const { prompts, dimensions, runs, cards } = this.data;
    const used = new Set(prompts.flatMap((prompt) => prompt.points.map((point) => point.criterion)));
    const distinct = (values) => [...new Set(values)].filter(Boolean);
    const themes = new Map();
    for (const prompt of prompts) {
      if (!prompt.theme) continue;
      if (!themes.has(prompt.theme)) themes.set(prompt.theme, new Set());
      if (prompt.subtheme) themes.get(prompt.theme).add(prompt.subtheme);
    }
    const answers = cards.flatMap((card) => card.sides).filter(Boolean).flatMap((side) => side.answers);
    this.offer("dimension", dimensions.filter((d) => d.criteria.some((c) => used.has(c.id))).map((d) => [d.id, d.name]));
    this.offer("criterion", [...this.criteria].filter(([id]) => used.has(id)));
    this.offer("theme", [...themes].flatMap(([theme, below]) =>
      [[theme, theme], ...[...below].map((name) => [`${theme}/${name}`, `\u2003${name}`])]));
    this.offer("subject", distinct(prompts.map((prompt) => prompt.subject)).map((name) => [name, name]));
    this.offer("structure", distinct(prompts.map((prompt) => prompt.structure)).map((name) => [name, name]));
    this.offer("verdict", [["0", "✗ not met"], ["1", "✓ met"], ["none", "– none"]]);
    this.offer("status", distinct(answers.map((answer) => answer.status)).map((name) => [name, this.status(name)]));
    this.offer("run", this.isComparison ? runs.map((run, place) => [String(place), `${run.letter} ${run.name}`]) : []);
    this.offer("change", [
      ...(this.isComparison ? [["any", "runs disagree"], ["gained", `better: met, not in ${runs[0].letter}`], ["lost", `worse: met only in ${runs[0].letter}`]] : []),
      ...(cards.some(isSameImage) ? [["judges", "same image, other verdict"]] : []),
      ...(cards.some((card) => card.sides.some((side) => side && side.answers.length > 1))
        ? [["samples", "the judge with itself"]] : []),
    ]);
    this.offer("sort", [["failures", "most failures"], ...(this.isComparison ? [["changes", "most changes"]] : [])], "by prompt");
  }

  /** Fills a select; one without a choice is not shown. */
  offer(name, options, first = "all") {
    const select = this.form.elements[name];
    select.replaceChildren(...[["", first], ...options].map(([value, label]) => make("option", { value }, label)));
    select.parentElement.hidden = options.length < (name === "status" ? 2 : 1);
  }

  wire() {
    this.form.addEventListener("input", () => this.changed());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    byId("reset").addEventListener("click", () => { this.form.reset(); this.changed(); });
    byId("previous").addEventListener("click", () => this.turn(-1));
    byId("next").addEventListener("click", () => this.turn(1));
    addEventListener("hashchange", () => this.read());
    addEventListener("keydown", (event) => this.key(event));
  }

  get state() { return Object.fromEntries(new FormData(this.form)); }

  changed() {
    this.page = 0;
    this.current = null;
    this.select();
    this.write();
  }

  /** Takes filters and card from the address; one of a section, such as #themes, changes none. */
  read() {
    if (!location.hash.includes("=")) {
      if (this.found) return;
      this.select();
      const section = byId(location.hash.slice(1));
      if (section) section.scrollIntoView(); // the cards, drawn just now, have moved it
      return;
    }
    const wanted = new URLSearchParams(location.hash.slice(1));
    this.form.reset();
    for (const [name, value] of wanted) {
      const field = this.form.elements[name];
      if (field) field.value = value;
      if (field && field.value !== value) field.value = "";
    }
    this.page = Math.max(0, Number(wanted.get("page") || 1) - 1);
    this.current = this.byKey.get(wanted.get("card")) || null;
    this.select();
    if (this.current) this.goTo(this.current);
    else byId("gallery").scrollIntoView();
  }

  /** Puts filters, page and card into the address. */
  write() {
    const parts = Object.entries(this.state).filter(([, value]) => value);
    if (this.page) parts.push(["page", String(this.page + 1)]);
    if (this.current) parts.push(["card", this.current.key]);
    history.replaceState(null, "", parts.length ? `#${new URLSearchParams(parts)}` : "#gallery");
  }

  /** Applies the filters and shows the page. */
  select() {
    const state = this.state;
    const fits = (card) => matches(card, state);
    this.found = this.data.cards.filter(fits);
    if (state.sort) {
      const weight = state.sort === "changes" ? countChanges : countFailures;
      const weights = new Map(this.found.map((card) => [card, weight(card, state)]));
      this.found.sort((one, other) => weights.get(other) - weights.get(one));
    }
    if (this.current && this.found.includes(this.current)) this.page = Math.floor(this.found.indexOf(this.current) / PAGE);
    this.page = Math.min(this.page, this.pages - 1);
    this.show();
  }

  get pages() { return Math.max(1, Math.ceil(this.found.length / PAGE)); }

  show() {
    const start = this.page * PAGE, shown = this.found.slice(start, start + PAGE);
    byId("cards").replaceChildren(...shown.map((card) => this.draw(card)));
    const all = this.data.cards.length, number = (value) => value.toLocaleString("en");
    byId("count").textContent = this.found.length === all ? `${number(all)} images` : `${number(this.found.length)} of ${number(all)} images`;
    byId("empty").hidden = this.found.length > 0;
    byId("pager").hidden = this.pages < 2;
    byId("place").textContent = `${number(start + 1)}–${number(start + shown.length)} of ${number(this.found.length)}`;
    byId("previous").disabled = this.page === 0;
    byId("next").disabled = this.page === this.pages - 1;
    const state = this.state;
    byId("reset").hidden = !Object.values(state).some(Boolean);
    for (const field of this.form.elements) field.classList.toggle("set", Boolean(state[field.name]));
  }

  turn(by) {
    this.page += by;
    this.current = null;
    this.show();
    this.write();
    byId("gallery").scrollIntoView();
  }

  goTo(card) {
    this.current = card;
    const place = this.found.indexOf(card);
    if (place < 0) { // the address names a card that its filters leave out
      this.form.reset();
      this.select();
    } else if (Math.floor(place / PAGE) !== this.page) {
      this.page = Math.floor(place / PAGE);
      this.show();
    }
    for (const element of document.querySelectorAll(".card.current")) element.classList.remove("current");
    const element = byId(`card-${card.key}`);
    element.classList.add("current");
    element.focus({ preventScroll: true });
    element.scrollIntoView({ block: "start" });
    this.write();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("viewer").open) return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const step = { j: 1, k: -1 }[event.key];
    if (step && this.found.length) {
      const place = this.current ? this.found.indexOf(this.current) + step : this.page * PAGE;
      this.goTo(this.found[Math.min(Math.max(place, 0), this.found.length - 1)]);
    } else if (event.key === "f") {
      const field = this.form.elements.verdict;
      field.value = field.value === "0" ? "" : "0";
      this.changed();
    } else if (event.key === "/") {
      event.preventDefault();
      this.form.elements.q.focus();
    }
  }

  draw(card) {
    const { prompt, sides } = card;
    const place = [prompt.theme, prompt.subtheme].filter(Boolean).join(" › ");
    const where = [`image ${card.image}`, place, prompt.subject, prompt.structure].filter(Boolean).join(" · ");
    return make("article", { class: `card ${COUNTS[sides.length]}${card === this.current ? " current" : ""}`, id: `card-${card.key}`, tabindex: "-1" },
      make("div", { class: "pictures" }, sides.map((side, run) => this.picture(card, side, run))),
      make("div", { class: "text" },
        make("p", { class: "where" }, make("a", { href: `#card=${card.key}`, title: "Link to this image" }, `#${prompt.index}`), ` ${where}`),
        make("blockquote", { class: "prompt", lang: prompt.language }, prompt.text),
        this.points(card),
        sides.map((side, run) => this.trouble(side, run)),
        this.replies(card)));
  }

  /** What a judgement's status says. */
  status(name) { return this.data.statuses[name] || name; }

  letter(run) {
    return this.isComparison ? make("span", { class: `letter s${run}` }, this.data.runs[run].letter) : "";
  }

  picture(card, side, run) {
    const caption = this.isComparison ? make("figcaption", {}, this.letter(run), ` ${this.data.runs[run].name}`) : null;
    const image = side && side.src ? picture(side.src, `${this.isComparison ? this.data.runs[run].name : "generated"}: ${card.prompt.text}`) : null;
    if (!image) return make("figure", {}, make("div", { class: "picture absent" }, side ? "no image here" : "not judged"), caption || "");
    const frame = make("button", { type: "button", class: "picture", title: "Enlarge", click: () => this.enlarge(card) }, image);
    image.addEventListener("error", () => frame.replaceWith(make("div", { class: "picture absent" }, `no image at ${decodeURI(side.src)}`)));
    return make("figure", {}, frame, caption || "");
  }

  enlarge(card) {
    byId("viewed").replaceChildren(...card.sides.map((side, run) => side && side.src
      ? make("figure", {}, picture(side.full || side.src, card.prompt.text), make("figcaption", {}, this.letter(run), ` ${this.data.runs[run].name}`)) : "").filter(Boolean));
    byId("viewer").showModal();
  }

  points(card) {
    const head = this.isComparison
      ? make("thead", {}, make("tr", {}, card.sides.map((_, run) => make("th", { scope: "col" }, this.letter(run))), make("th"))) : "";
    const rows = card.prompt.points.map((point, number) => {
      const tag = card.changes[number];
      const name = this.criteria.get(point.criterion) || point.label;
      return make("tr", { class: tag ? "changed" : null },
        card.sides.map((side) => make("td", { class: "verdicts" }, verdictSigns(side, number))),
        make("td", { class: "what" },
          make("div", { class: "point" },
            make("span", { class: "asked" }, point.description || name),
            point.description ? make("span", { class: "kind" }, name) : "",
            point.flags.map((flag) => make("span", { class: "kind" }, `(${FLAGS[flag] || flag.replaceAll("_", " ")})`)),
            tag ? make("span", { class: `tag ${CHANGES[tag][1]}` }, CHANGES[tag][0]) : ""),
          card.sides.map((side, run) => this.said(side, run, number, this.isComparison && !tag))));
    });
    return make("table", { class: "points" }, head, make("tbody", {}, rows));
  }

  /** The judge's sentence on a test point; where runs agree it is left to the replies. */
  said(side, run, point, isBrief) {
    if (!side || isBrief) return [];
    return side.answers.filter((answer) => answer.analyses && answer.analyses[point]).slice(0, 1)
      .map((answer) => make("p", { class: "said" }, this.letter(run), answer.analyses[point]));
  }

  trouble(side, run) {
    if (!side) return [];
    return side.answers.filter((answer) => answer.status !== "ok").map((answer) =>
      make("p", { class: "trouble" }, this.letter(run), ` no verdict: ${this.status(answer.status)}${answer.error ? ` (${answer.error})` : ""}`));
  }

  replies(card) {
    const details = make("details", { class: "replies" }, make("summary", {}, "Judge's replies"));
    details.addEventListener("toggle", () => card.sides.forEach((side, run) => (side ? side.answers : []).forEach((answer) => {
      const head = make("p", {}, this.letter(run), [this.status(answer.status), answer.note].filter(Boolean).join(" · "));
      details.append(head, make("pre", { lang: card.prompt.language }, answer.raw || (answer.analyses || []).join("\n") || "no text"));
    })), { once: true });
    return details;
  }
}

/** Mean verdict on a test point over the judge's samples; null where there is none. */
function verdict(side, point) {
  const given = side ? side.answers.filter((answer) => answer.verdicts).map((answer) => answer.verdicts[point]) : [];
  return given.length ? given.reduce((sum, value) => sum + value, 0) / given.length : null;
}

/** How later runs differ from the first in one test point: "gained", "lost", "differs", or "" where they agree. */
function change(verdicts) {
  const known = verdicts.filter((value) => value !== null);
  if (known.length < 2 || Math.min(...known) === Math.max(...known)) return "";
  if (verdicts[0] === null) return "differs";
  const later = verdicts.slice(1).filter((value) => value !== null && value !== verdicts[0]);
  return later.every((value) => value > verdicts[0]) ? "gained" : later.every((value) => value < verdicts[0]) ? "lost" : "differs";
}

const isSameImage = (card) => card.sides.filter(Boolean).some((side, place, sides) =>
  sides.findIndex((other) => other.sha && other.sha === side.sha) < place && side.sha);

const samplesDiffer = (card, point) => card.sides.some((side) => side
  && new Set(side.answers.filter((answer) => answer.verdicts).map((answer) => answer.verdicts[point])).size > 1);

/** Places of the test points that the filters speak of. */
function asked(card, state) {
  return card.prompt.points.map((_, place) => place).filter((place) => {
    const id = card.prompt.points[place].criterion;
    return (!state.criterion || id === state.criterion) && (!state.dimension || id.split(".")[0] === state.dimension);
  });
}

/** Places of the runs that the filters speak of. */
const runsOf = (card, state) => card.sides.map((_, place) => place).filter((place) => !state.run || place === Number(state.run));

function matches(card, state) {
  const { prompt } = card;
  if (state.theme && state.theme !== prompt.theme && state.theme !== `${prompt.theme}/${prompt.subtheme}`) return false;
  if (state.subject && state.subject !== prompt.subject) return false;
  if (state.structure && state.structure !== prompt.structure) return false;
  const points = asked(card, state), runs = runsOf(card, state);
  if (!points.length) return false;
  if (state.status && !runs.some((run) => card.sides[run] && card.sides[run].answers.some((answer) => answer.status === state.status))) return false;
  if (state.verdict && !points.some((point) => runs.some((run) => hasVerdict(card.verdicts[point][run], state.verdict)))) return false;
  if (state.change && !points.some((point) => hasChange(card, point, state.change))) return false;
  return !state.q || isFound(card, state.q.trim().toLowerCase());
}

const hasVerdict = (value, wanted) => wanted === "none" ? value === null : value !== null && (wanted === "1" ? value > 0 : value < 1);

function hasChange(card, point, wanted) {
  if (wanted === "samples") return samplesDiffer(card, point);
  if (wanted === "judges") return Boolean(card.changes[point]) && isSameImage(card);
  return wanted === "any" ? Boolean(card.changes[point]) : card.changes[point] === wanted;
}

function isFound(card, text) {
  if (/^#\d+$/.test(text)) return card.prompt.index === Number(text.slice(1));
  card.words ??= [card.prompt.text, ...card.prompt.points.flatMap((point) => [point.label, point.description]),
    ...card.sides.filter(Boolean).flatMap((side) => side.answers.flatMap((answer) => [answer.raw, answer.error, ...(answer.analyses || [])])),
  ].join("\n").toLowerCase();
  return card.words.includes(text);
}

const countFailures = (card, state) => asked(card, state).reduce((sum, point) =>
  sum + runsOf(card, state).filter((run) => hasVerdict(card.verdicts[point][run], "0")).length, 0);

const countChanges = (card, state) => asked(card, state).filter((point) => card.changes[point]).length;

/** A sign for each verdict of the judge on a test point, one per sample. */
function verdictSigns(side, point) {
  const answers = side ? side.answers : [{}];
  return answers.map((answer) => {
    const kind = !answer.verdicts ? "none" : answer.verdicts[point] ? "yes" : "no";
    const chance = answer.probabilities ? `, probability of a yes ${answer.probabilities[point].toFixed(2)}` : "";
    const [glyph, words] = VERDICTS[kind];
    return make("span", { class: `verdict ${kind}`, role: "img", "aria-label": words, title: words + chance }, glyph);
  });
}

/** An image from a link, or from an embedded block, read only when it is shown. */
function picture(src, alt) {
  const image = make("img", { alt, loading: "lazy", decoding: "async" });
  image.addEventListener("load", () => image.classList.toggle("coarse", image.naturalWidth <= 128));
  const block = src.startsWith("#") ? byId(src.slice(1)) : null;
  image.src = block ? `data:${block.type};base64,${block.textContent}` : src;
  return image;
}

wireLegend();
wireHeatTabs();
unpack(byId("data").textContent).then((data) => new Gallery(data), (error) => {
  byId("empty").textContent = `The gallery could not be opened (${error}); it needs a browser of 2023 or newer.`;
  byId("empty").hidden = false;
});
