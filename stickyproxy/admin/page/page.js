// The live page. It asks /v1/services once a second while somebody looks, and listens to /v1/events,
// so that a change shows at once. What came from the network is put in as text, never as HTML; what
// did not change is not touched; and what is not on the screen is only remembered.

const PERIOD = 1000; // ms from one look to the next
const PATIENCE = 5000; // ms that an answer may take
const HISTORY = 300; // looks that the charts show
const TREND = 60; // the same for the small ones
const EVENTS = 200; // events that are listed
const BEFORE = 50; // of those that were before
const UNFOLDED = innerWidth > 980 ? 8 : 2; // so many services show their endpoints at first
const BARS = 40; // endpoints in the small picture of a service
const UNDO = 15000; // ms during which a change can be undone with a click
const BUDGET = 8; // ms that rows may take in one frame

const $ = (id) => document.getElementById(id);

// --- small things ---------------------------------------------------------------------------------

/** Put text in, if it is not there already. */
function put(node, text) {
  if (node.shownText !== text) node.textContent = node.shownText = text;
}

function mark(node, key, value) {
  if (node.dataset[key] !== value) node.dataset[key] = value;
}

function hide(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

function copyOf(template) {
  return $(template).content.firstElementChild.cloneNode(true);
}

function made(kind, text, ...classes) {
  const node = document.createElement(kind);
  if (text) node.textContent = text;
  if (classes.length) node.classList.add(...classes);
  return node;
}

/** Let the children of a list be these nodes, in this order, moving as few as possible. */
function arrange(list, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  let next = list.firstElementChild;
  for (const node of nodes) {
    if (node === next) next = next.nextElementSibling;
    else list.insertBefore(node, next);
  }
}

function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e5) return `${(value / 1e3).toFixed(0)}k`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  if (value >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value >= 0.05 ? value.toFixed(1) : "<0.1";
}

/** Seconds as a person reads them. */
function time(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const ms = seconds * 1000;
  if (ms >= 9950) return `${seconds.toFixed(0)} s`;
  if (ms >= 995) return `${seconds.toFixed(1)} s`;
  return ms >= 9.95 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

function span(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}

function counted(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

/** How a state looks: good, calm (as an operator wants it), warn or bad. */
function toneOf(state) {
  if (state === "usable") return "good";
  if (/^(draining|drain|maintenance)/.test(state)) return "calm";
  if (/^down in |in part|last good/.test(state)) return "warn";
  return "bad";
}

function toneOfService(state) {
  if (state === "published") return "good";
  return /^published/.test(state) ? "warn" : "bad";
}

/** A path for a small chart of 100 by 24. */
function draw(svg, values, most) {
  const top = Math.max(most ?? 0, ...values, 1e-9);
  const step = 100 / (TREND - 1);
  const left = 100 - (values.length - 1) * step;
  const points = values.map((value, at) =>
    `${(left + at * step).toFixed(1)},${(23 - (value / top) * 21).toFixed(1)}`);
  const line = values.length > 1 ? `M${points.join("L")}` : "";
  svg.lastElementChild.setAttribute("d", line);
  svg.firstElementChild.setAttribute("d", line && `${line}V24H${left.toFixed(1)}Z`);
}

function remember(values, value, most) {
  values.push(value);
  if (values.length > most) values.shift();
}

/** What a shell takes as one word. */
function word(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function say(text) {
  $("said").textContent = text;
}

// --- tokens ---------------------------------------------------------------------------------------

/** Kept as long as the tab, and shown to nobody but the proxy. */
const tokens = {
  of(use) {
    return sessionStorage.getItem(`token ${use}`);
  },
  keep(use, value) {
    sessionStorage.setItem(`token ${use}`, value);
  },
  headers(use) {
    const token = this.of(use) ?? (use === "read" ? this.of("change") : null);
    return token === null ? {} : { Authorization: `Bearer ${token}` };
  },
};

/** Ask for the token; false: there is none to be had. */
async function askForToken(use, wrong) {
  const dialog = $("token");
  if (dialog.open) return false;
  const change = use === "change";
  put($("token-title"), change ? "Changing takes a token" : "Looking takes a token");
  put($("token-text"), change
    ? "It is what change_token_file of [admin] holds; for a controller, its token."
    : "It is what read_token_file of [admin] holds, or change_token_file, which may look too.");
  hide($("token-wrong"), !wrong);
  $("token-value").value = "";
  if (!await shown(dialog, $("token-value"))) return false;
  const value = $("token-value").value.trim();
  $("token-value").value = "";
  if (!value) return false;
  if (/[^\x21-\x7e]/.test(value)) return askForToken(use, true); // no header field could carry it
  tokens.keep(use, value);
  return true;
}

/** Show a dialog until it is closed; true: with yes. */
function shown(dialog, first) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
    first.focus();
  });
}

// Enter in the field would press the first button, which is Cancel.
$("token-value").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  $("token").close("yes");
});

// --- asking the proxy -----------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** The document there. Throws Refused, or what fetch throws. */
async function asked(path, options = {}) {
  const use = options.method === "POST" ? "change" : "read";
  const answer = await fetch(path, {
    ...options,
    headers: { ...options.headers, ...tokens.headers(use) },
    cache: "no-store",
    signal: options.signal ?? AbortSignal.timeout(PATIENCE),
  });
  if (answer.ok) return answer.json();
  let sentence = `the proxy answers ${answer.status}`;
  try {
    sentence = String((await answer.json()).error ?? sentence);
  } catch { /* no document, then */ }
  throw new Refused(answer.status, sentence);
}

/** The same; null where there is no such thing: a controller has the services alone. */
async function askedIfThere(path) {
  try {
    return await asked(path);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

// --- an endpoint ----------------------------------------------------------------------------------

class EndpointRow {
  constructor(service) {
    this.service = service;
    this.node = copyOf("endpoint");
    const one = (selector) => this.node.querySelector(selector);
    this.parts = {
      number: one(".number"), address: one(".address"), node: one(".node"), state: one(".state"),
      bar: one(".track i"), sessions: one(".sessions b"), rate: one(".rate b"),
      errors: one(".errors b"), errorsOf: one(".errors"), flight: one(".flight b"), why: one(".why"),
    };
    this.buttons = new OrderButtons(this.node, () => ({
      target: `${this.service.name}/${this.data.id}`,
      called: `${this.service.name}/${this.data.number}`,
      state: this.data.admin_state,
      sessions: this.data.figures?.sessions,
    }));
  }

  show(data, most) {
    this.data = data;
    const { parts } = this;
    const figures = data.figures ?? {};
    const tone = toneOf(data.state);
    mark(this.node, "tone", tone);
    put(parts.number, `/${data.number}`);
    put(parts.address, data.address);
    put(parts.node, data.node ? `on ${data.node}` : "");
    put(parts.state, data.state);
    mark(parts.state, "tone", tone);
    put(parts.sessions, number(figures.sessions));
    const width = `${most ? Math.round(1000 * (figures.sessions ?? 0) / most) / 10 : 0}%`;
    if (parts.bar.style.width !== width) parts.bar.style.width = width;
    put(parts.rate, number(figures.requests_per_second));
    put(parts.errors, number(figures.errors_per_second));
    mark(parts.errorsOf, "tone", figures.errors_per_second > 0 ? "bad" : "nil");
    put(parts.flight, number(figures.in_flight));
    put(parts.why, data.why ?? "");
    this.buttons.show(data.admin_state);
  }
}

/** Two buttons that give orders, and withdraw them. */
class OrderButtons {
  constructor(node, subject) {
    this.buttons = { drain: node.querySelector(".drain"), maintenance: node.querySelector(".maintenance") };
    for (const [order, button] of Object.entries(this.buttons)) {
      button.addEventListener("click", () => {
        const about = subject();
        give(about, about.state === order ? "ready" : order);
      });
    }
    this.subject = subject;
  }

  show(state) {
    if (this.state === state) return;
    this.state = state;
    const { called } = this.subject();
    for (const [order, button] of Object.entries(this.buttons)) {
      const label = order === "drain" ? "Drain" : "Maintenance";
      const undo = state === order;
      put(button, undo ? "Undrain" : label);
      button.classList.toggle("undo", undo);
      button.setAttribute("aria-label", undo ? `Undrain ${called}` : `${label}: ${called}`);
    }
  }
}

// --- a service ------------------------------------------------------------------------------------

class ServiceRow {
  constructor(name) {
    this.name = name;
    this.visible = false;
    this.stale = true;
    this.open = null; // as its user wants it; null: has not said
    this.trend = [];
    this.endpoints = new Map();
    this.node = null;
  }

  /** Make what is shown: of many services not all at once. */
  make() {
    this.node = copyOf("service");
    this.node.row = this;
    const one = (selector) => this.node.querySelector(selector);
    this.parts = {
      toggle: one(".toggle"), name: one(".name"), places: one(".places"), minis: one(".minis"),
      spark: one(".rate .spark"), rate: one(".head .rate b"), errors: one(".head .errors b"),
      errorsOf: one(".head .errors"), latency: one(".head .latency b"),
      sessions: one(".head .sessions b"), state: one(".head .state"), body: one(".body"),
      facts: one(".facts"), problems: one(".service-problems"), endpoints: one(".endpoints"),
      all: one(".all"), allText: one(".all span"),
    };
    put(this.parts.name, this.name);
    this.parts.name.title = this.name;
    this.parts.toggle.addEventListener("click", () => {
      this.open = !this.isOpen;
      this.show();
    });
    this.buttons = new OrderButtons(this.parts.all, () => ({
      target: this.name,
      called: this.name,
      state: this.adminState,
      sessions: this.data.figures?.sessions,
    }));
  }

  get isOpen() {
    return this.open ?? unfolded;
  }

  /** What all of its endpoints are wanted to be; "" if they differ. */
  get adminState() {
    const states = new Set(this.data.endpoints.map((each) => each.admin_state));
    return states.size === 1 ? [...states][0] : "";
  }

  take(data) {
    this.data = data;
    this.stale = true;
    this.text = null;
    remember(this.trend, data.figures?.requests_per_second ?? 0, TREND);
    this.out = 0;
    this.drained = 0;
    for (const each of data.endpoints) {
      this.out += each.state !== "usable";
      this.drained += each.admin_state !== "ready";
    }
    this.fatal = data.problems.some((each) => each.fatal);
  }

  get inTrouble() {
    return this.out > this.drained || this.data.problems.length > 0 || this.data.state !== "published"
      || this.data.figures?.errors_per_second > 0;
  }

  /** What is searched. */
  matches(words) {
    const { data } = this;
    this.text ??= [
      data.name, data.state, data.policy, data.context_root, ...data.hosts,
      ...data.endpoints.flatMap((each) => [each.id, each.address, each.node, each.state, each.admin_state]),
    ].join("\n").toLowerCase();
    return words.every((each) => this.text.includes(each));
  }

  /** Bring what is on the screen up to date. */
  show() {
    this.stale = false;
    const { data, parts } = this;
    const figures = data.figures ?? {};
    const root = data.context_root && data.context_root !== "/" ? data.context_root : "";
    const places = data.hosts.map((host) => host + root).join(", ") || "no host";
    put(parts.places, places);
    if (parts.places.title !== places) parts.places.title = places;
    put(parts.rate, number(figures.requests_per_second));
    draw(parts.spark, this.trend);
    put(parts.errors, number(figures.errors_per_second));
    mark(parts.errorsOf, "tone", figures.errors_per_second > 0 ? "bad" : "nil");
    const quantiles = figures.p50 == null ? "–" : `${time(figures.p50)}, ${time(figures.p99)}`;
    put(parts.latency, quantiles);
    put(parts.sessions, number(figures.sessions));
    const total = data.endpoints.length;
    const fine = data.state === "published";
    const tone = !fine ? toneOfService(data.state)
      : this.out === 0 ? "good" : this.out === total ? "bad" : this.out > this.drained ? "warn" : "calm";
    put(parts.state, fine ? `${total - this.out} of ${total} in use` : data.state);
    mark(parts.state, "tone", tone);
    this.node.classList.toggle("wrong", this.fatal || tone === "bad");
    this.node.classList.toggle("warned", !this.fatal && tone !== "bad" && (data.problems.length > 0 || tone === "warn"));
    const most = Math.max(...data.endpoints.map((each) => each.figures?.sessions ?? 0), 0);
    this.showMinis(most);
    const open = this.isOpen;
    if (parts.toggle.ariaExpanded !== String(open)) parts.toggle.ariaExpanded = String(open);
    hide(parts.body, !open);
    if (open) this.showBody(most);
  }

  showMinis(most) {
    const { minis } = this.parts;
    const endpoints = this.data.endpoints.slice(0, BARS);
    while (minis.children.length > endpoints.length) minis.lastElementChild.remove();
    while (minis.children.length < endpoints.length) minis.append(made("i"));
    endpoints.forEach((each, at) => {
      const bar = minis.children[at];
      const height = `${most ? Math.round(100 * (each.figures?.sessions ?? 0) / most) : 0}%`;
      if (bar.shownHeight !== height) bar.style.height = bar.shownHeight = height;
      mark(bar, "tone", toneOf(each.state));
    });
  }

  showBody(most) {
    const { data, parts } = this;
    put(parts.facts, [data.policy && `policy ${data.policy}`, data.figures
      && `${number(data.figures.in_flight)} in flight, ${size(data.figures.bytes_in_per_second)}/s in, `
      + `${size(data.figures.bytes_out_per_second)}/s out`].filter(Boolean).join(" · "));
    showProblems(parts.problems, data.problems, false);
    const seen = new Map();
    for (const each of data.endpoints) {
      const row = this.endpoints.get(each.id) ?? new EndpointRow(this);
      row.show(each, most);
      seen.set(each.id, row);
    }
    this.endpoints = seen;
    arrange(parts.endpoints, [...seen.values()].map((row) => row.node));
    hide(parts.all, data.endpoints.length === 0);
    put(parts.allText, `All of ${data.name}:`);
    this.buttons.show(this.adminState);
  }
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  let unit = 0;
  while (bytes >= 1000 && unit < 3) {
    bytes /= 1000;
    unit += 1;
  }
  return `${number(bytes)} ${["B", "kB", "MB", "GB"][unit]}`;
}

// --- problems -------------------------------------------------------------------------------------

/** Rows for problems; made anew only if one changed. */
function showProblems(list, problems, withService) {
  const key = JSON.stringify(problems);
  if (list.shownKey === key) return;
  list.shownKey = key;
  list.replaceChildren(...problems.map((each) => {
    const node = copyOf("problem");
    const value = each.value ? ` ${JSON.stringify(String(each.value))}` : "";
    const about = [withService && subjectOf(each), each.label && `${each.label}${value}`];
    node.classList.toggle("fatal", Boolean(each.fatal));
    node.querySelector(".about").textContent = about.filter(Boolean).join(": ");
    node.querySelector(".reason").textContent = each.reason;
    const remedy = node.querySelector(".remedy");
    remedy.hidden = !each.remedy;
    if (each.remedy) {
      remedy.firstElementChild.textContent = each.remedy;
      remedy.lastElementChild.addEventListener("click", () => copy(remedy));
    }
    return node;
  }));
}

function problemsOf(found) {
  return found.flatMap((row) => row.problems.map((each) => ({ service: row.name, ...each })));
}

function subjectOf(problem) {
  if (problem.service) return problem.service;
  if (problem.certificate) return `certificate ${problem.certificate}`;
  return problem.provider ? `provider ${problem.provider}` : "";
}

async function copy(remedy) {
  const text = remedy.firstElementChild.textContent;
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch { // not a secure context, or not allowed: select it, so that Ctrl-C does
    getSelection().selectAllChildren(remedy.firstElementChild);
    toast("Selected: press Ctrl-C to copy it");
  }
}

// --- orders ---------------------------------------------------------------------------------------

const MEANING = {
  drain: (of) => `Its sessions stay${of}, and new ones go elsewhere.`,
  maintenance: (of) => `It gets nothing any more: its sessions${of} move to other endpoints at once.`,
};

/** Drain and the like; what takes something away is asked first. */
async function give(about, state) {
  const { target, called } = about;
  if (state !== "ready") {
    const of = about.sessions ? ` (about ${number(about.sessions)})` : "";
    put($("ask-title"), state === "drain" ? `Drain ${called}?` : `Put ${called} into maintenance?`);
    put($("ask-text"), MEANING[state](of));
    put($("ask-command"), `stickyproxy ${state} ${word(target)}`);
    put($("ask-yes"), state === "drain" ? "Drain" : "Maintenance");
    if (!await shown($("ask"), $("ask-yes"))) return;
  }
  const answer = await order(target, state);
  if (answer === null) return;
  const before = about.state || "ready";
  toast(outcome(called, state, answer), async () => {
    if (await order(target, before) !== null) toast(`${called} is as it was`);
  });
}

function outcome(called, state, answer) {
  const still = (answer.endpoints ?? []).map((each) => each.admin_state).find((each) => each !== "ready");
  if (state === "ready" && still) {
    return `${called}: ${still} is still wanted, by a label or another order`;
  }
  const done = { drain: "drains", maintenance: "is in maintenance", ready: "gets everything again" }[state];
  return [`${called} ${done}`, ...answer.notes ?? []].join("; ");
}

/** Change what is wanted; null: it was refused, and has been told. */
async function order(target, state) {
  for (let wrong = false; ; wrong = true) {
    try {
      const answer = await asked("v1/admin_state", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ target, admin_state: state }),
        signal: AbortSignal.timeout(6 * PATIENCE), // it is in force on return
      });
      look(0);
      return answer;
    } catch (error) {
      if (error.status === 401) {
        const hadOne = tokens.of("change") !== null;
        if (await askForToken("change", wrong || hadOne)) continue;
        return null;
      }
      toast(error instanceof Refused ? error.message : "The proxy does not answer", null, true);
      return null;
    }
  }
}

// --- what is said ---------------------------------------------------------------------------------

let undo = null;

function toast(text, undone = null, bad = false) {
  const node = made("div", "", "toast");
  node.classList.toggle("bad", bad);
  node.append(made("span", text));
  let timer = 0;
  const close = () => {
    clearTimeout(timer);
    node.remove();
    if (undo === take) undo = null;
  };
  const take = () => {
    close();
    undone();
  };
  if (undone) {
    const button = made("button", "Undo (u)");
    button.type = "button";
    button.addEventListener("click", take);
    node.append(button);
    undo = take;
  }
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(close, undone ? UNDO : UNDO / 3);
  };
  node.addEventListener("pointerenter", () => clearTimeout(timer));
  node.addEventListener("focusin", () => clearTimeout(timer));
  node.addEventListener("pointerleave", later);
  node.addEventListener("focusout", later);
  later();
  $("toasts").append(node);
  while ($("toasts").children.length > 3) $("toasts").firstElementChild.remove();
}

// --- the list -------------------------------------------------------------------------------------

const services = new Map();
let unfolded = true;
let settled = false; // how many there are at first says whether they are unfolded
let words = [];
let waiting = []; // rows that are yet to be made, the last one first
let putting = false;
const due = new Set(); // rows on the screen that are to be brought up to date
let ordered = 0; // when the list was put in order

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.row.visible = isIntersecting;
    if (isIntersecting && target.row.stale) due.add(target.row);
  }
  showDue();
}, { rootMargin: "300px" });

let showing = false;

/** So many in a frame, so that nobody waits for it. */
function showDue() {
  const until = performance.now() + BUDGET;
  for (const row of due) {
    due.delete(row);
    if (row.visible) row.show();
    if (performance.now() > until) break;
  }
  if (due.size === 0 || showing) return;
  showing = true;
  requestAnimationFrame(() => {
    showing = false;
    showDue();
  });
}

const MEASURES = {
  requests: (row) => row.data.figures?.requests_per_second ?? -1,
  errors: (row) => row.data.figures?.errors_per_second ?? -1,
  latency: (row) => row.data.figures?.p99 ?? -1,
  sessions: (row) => row.data.figures?.sessions ?? -1,
};

const collator = new Intl.Collator(undefined, { numeric: true });

function compare(one, other) {
  const measure = MEASURES[$("order").value];
  return (measure ? measure(other) - measure(one) : 0) || collator.compare(one.name, other.name);
}

function isShown(row) {
  const show = $("show").value;
  if (show === "trouble" && !row.inTrouble) return false;
  if (show === "drained" && row.drained === 0) return false;
  if (show === "busy" && !(row.data.figures?.requests_per_second > 0)) return false;
  return words.length === 0 || row.matches(words);
}

function takeServices(found) {
  if (!settled && found.length > 0) {
    settled = true;
    unfolded = found.length <= UNFOLDED;
    showFold();
  }
  const names = new Set();
  let changed = false;
  for (const data of found) {
    let row = services.get(data.name);
    if (!row) {
      changed = true;
      services.set(data.name, row = new ServiceRow(data.name));
      waiting.push(row);
    }
    row.take(data);
    names.add(data.name);
  }
  for (const [name, row] of services) {
    if (names.has(name)) continue;
    changed = true;
    services.delete(name);
    if (!row.node) continue; // it was never made
    seen.unobserve(row.node);
    row.node.remove();
  }
  if (changed) waiting = waiting.filter((row) => services.get(row.name) === row).sort(compare).reverse();
  filter();
  // Rows that jump about all the time can neither be read nor hit.
  const measured = $("order").value !== "name" && performance.now() - ordered > 5 * PERIOD;
  if (changed || measured && !list.matches(":hover, :focus-within")) putInOrder();
  for (const row of services.values()) if (row.visible) due.add(row);
  showDue();
}

const list = $("list");

function filter() {
  let count = 0;
  for (const row of services.values()) {
    const shows = isShown(row);
    count += shows;
    if (row.node) hide(row.node, !shows);
  }
  const all = services.size;
  put($("count"), count === all ? `${all}` : `${count} of ${all}`);
  put($("nothing"), all === 0 ? "There is no service yet." : "Nothing is like this.");
  hide($("nothing"), count > 0);
}

function putInOrder() {
  ordered = performance.now();
  if (waiting.length > 0) {
    if (!putting) requestAnimationFrame(putMore);
    putting = true;
    return;
  }
  arrange(list, [...services.values()].sort(compare).map((row) => row.node));
}

/** New rows, so many in a frame. */
function putMore() {
  putting = false;
  const until = performance.now() + BUDGET;
  while (waiting.length > 0 && performance.now() < until) {
    const row = waiting.pop();
    row.make();
    hide(row.node, !isShown(row));
    list.append(row.node);
    seen.observe(row.node);
  }
  putInOrder();
}

function showFold() {
  put($("fold"), unfolded ? "Fold all" : "Unfold all");
}

$("fold").addEventListener("click", () => {
  unfolded = !unfolded;
  showFold();
  for (const row of services.values()) {
    row.open = null;
    row.stale = true;
    if (row.visible) due.add(row);
  }
  showDue();
});

$("search").addEventListener("input", () => {
  words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  filter();
  say(`${$("count").textContent} services`);
});
$("show").addEventListener("change", filter);
$("order").addEventListener("change", putInOrder);

// --- sums and charts ------------------------------------------------------------------------------

const sums = { requests: [], errors: [], flight: [], sessions: [] };

const OUTCOMES = { // as in the access log, from those that stay to those that had to move
  pinned: "The client's pin named an endpoint in use: it stays",
  hashed: "A key of the request was hashed: it stays as long as the endpoints do",
  new: "The first request of a session: it is pinned now",
  none: "No affinity is asked for, or there was no key to hash",
  "repinned-draining": "Moved: its endpoint is being stopped",
  "repinned-gone": "Moved: its endpoint is gone",
  "repinned-down": "Moved: its endpoint is down",
  "repinned-failed": "Moved: its endpoint has just refused the connection",
};
const affinity = []; // a Map for each look

function takeSums(found) {
  const total = { requests: 0, errors: 0, flight: 0, sessions: 0 };
  const outcomes = new Map();
  let known = false;
  let endpoints = 0;
  let out = 0;
  let drained = 0;
  for (const { figures, endpoints: of } of found) {
    endpoints += of.length;
    for (const each of of) {
      out += each.state !== "usable";
      drained += each.admin_state !== "ready";
    }
    if (!figures) continue;
    known = true;
    total.requests += figures.requests_per_second ?? 0;
    total.errors += figures.errors_per_second ?? 0;
    total.flight += figures.in_flight ?? 0;
    total.sessions += figures.sessions ?? 0;
    for (const [outcome, rate] of Object.entries(figures.affinity ?? {})) {
      const key = Object.hasOwn(OUTCOMES, outcome) ? outcome : "other";
      outcomes.set(key, (outcomes.get(key) ?? 0) + rate);
    }
  }
  for (const [key, value] of Object.entries(total)) {
    remember(sums[key], value, TREND);
    put($(`t-${key}`), known ? number(value) : "–");
    draw($(`s-${key}`), sums[key], key === "errors" ? 1 : 0);
  }
  mark($("t-errors"), "tone", total.errors > 0 ? "bad" : "");
  put($("t-endpoints"), `${endpoints - out} / ${endpoints}`);
  mark($("t-endpoints"), "tone", out > drained ? "warn" : "");
  put($("t-out"), [out > drained && `${out - drained} out`, drained && `${drained} by an operator`]
    .filter(Boolean).join(", "));
  remember(affinity, outcomes, HISTORY);
  drawAffinity();
  put(document.querySelector("title"), known ? `${number(total.requests)}/s – stickyproxy` : "stickyproxy");
}

const chart = $("chart");
const colours = new Map();

/** The colour of an outcome, as the style has it in this theme. */
function colour(outcome) {
  let found = colours.get(outcome);
  if (!found) {
    const sample = made("i", "", `k-${outcome}`);
    sample.style.color = "var(--swatch)";
    document.body.append(sample);
    colours.set(outcome, found = getComputedStyle(sample).color);
    sample.remove();
  }
  return found;
}

function drawAffinity() {
  const keys = [...Object.keys(OUTCOMES), "other"].filter((key) => affinity.some((each) => each.has(key)));
  showLegend(keys);
  const box = chart.getBoundingClientRect();
  if (box.width === 0) return;
  const ratio = devicePixelRatio || 1;
  const width = Math.round(box.width * ratio);
  const height = Math.round(box.height * ratio);
  if (chart.width !== width || chart.height !== height) {
    chart.width = width;
    chart.height = height;
  }
  const context = chart.getContext("2d");
  context.clearRect(0, 0, width, height);
  let top = 1;
  for (const each of affinity) {
    let sum = 0;
    for (const value of each.values()) sum += value;
    top = Math.max(top, sum);
  }
  top = nice(top);
  const style = getComputedStyle(document.body);
  context.font = `${11 * ratio}px ${style.fontFamily}`;
  const room = 14 * ratio;
  const y = (value) => height - (value / top) * (height - room);
  const step = width / (HISTORY - 1);
  const start = width - (affinity.length - 1) * step;
  const below = affinity.map(() => 0);
  for (const key of keys) {
    context.beginPath();
    below.forEach((value, at) => context.lineTo(start + at * step, y(value)));
    affinity.forEach((each, at) => {
      below[at] += each.get(key) ?? 0;
    });
    for (let at = below.length - 1; at >= 0; at -= 1) context.lineTo(start + at * step, y(below[at]));
    context.fillStyle = colour(key);
    context.fill();
  }
  context.fillStyle = context.strokeStyle = style.getPropertyValue("color");
  for (const part of [0.5, 1]) {
    context.globalAlpha = 0.14;
    context.fillRect(0, Math.round(y(top * part)), width, ratio);
    context.globalAlpha = 0.65;
    context.fillText(number(top * part), 2 * ratio, y(top * part) - 3 * ratio);
  }
  context.globalAlpha = 1;
}

/** The next number up that is easy to read. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
}

function showLegend(keys) {
  const legend = $("legend");
  const key = keys.join();
  if (legend.shownKey !== key) {
    legend.shownKey = key;
    legend.replaceChildren(...keys.map((each) => {
      const item = made("li");
      item.title = OUTCOMES[each] ?? "Another outcome";
      item.append(made("i", "", `k-${each}`), made("span", each), made("b"));
      return item;
    }));
  }
  const last = affinity.at(-1);
  keys.forEach((each, at) => put(legend.children[at].lastElementChild, number(last.get(each) ?? 0)));
}

// --- status and problems --------------------------------------------------------------------------

function takeStatus(status) {
  const parts = [
    status.version && `version ${status.version}`,
    status.uptime !== undefined && `up ${span(status.uptime)}`,
    workersOf(status.workers),
    status.ready === false && `not ready: ${status.why}`,
    ...(status.providers ?? []).filter((each) => !each.up).map((each) => `${each.name} is out of touch`),
  ];
  put($("about"), parts.filter(Boolean).join(" · "));
}

function workersOf(workers) {
  if (!workers) return "";
  const { wanted, accepting } = workers;
  return wanted === accepting ? counted(wanted, "worker") : `${accepting} of ${counted(wanted, "worker")}`;
}

function takeProblems(problems) {
  showProblems($("problem-list"), problems, true);
  hide($("problems"), problems.length === 0);
  put($("t-problems"), number(problems.length));
  const fatal = problems.filter((each) => each.fatal).length;
  mark($("t-problems"), "tone", fatal ? "bad" : problems.length ? "warn" : "good");
  put($("t-providers"), problems.length === 0 ? "all is well" : fatal ? counted(fatal, "error") : "warnings only");
}

// --- events ---------------------------------------------------------------------------------------

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
});

const TONES = { // of events, by their words: docs/reference/events.md
  "endpoint-ejected": "bad", "provider-lost": "bad", "config-refused": "bad", "worker-lost": "bad",
  "endpoint-joined": "good", "endpoint-back": "good", "provider-back": "good",
  "config-reloaded": "good", "certificate-renewed": "good", "problem-resolved": "good",
  "worker-ready": "good",
  "endpoint-draining": "calm", "order-given": "calm",
};

function toneOfEvent(event) {
  if (Object.hasOwn(TONES, event.event)) return TONES[event.event];
  return { error: "bad", warning: "warn" }[event.level] ?? "";
}

function takeEvent(event) {
  if (event.level === "debug") return; // that there is a new table shows in the list
  const node = made("li");
  const when = new Date(typeof event.time === "number" ? event.time * 1000 : event.time ?? Date.now());
  const moment = made("time", clock.format(when));
  moment.dateTime = when.toISOString();
  const tone = toneOfEvent(event);
  if (tone) node.dataset.tone = tone;
  const dot = made("span", "", "dot");
  dot.setAttribute("aria-hidden", "true");
  node.append(moment, dot, made("span", String(event.text ?? event.event ?? ""), "text"));
  $("events").prepend(node);
  while ($("events").children.length > EVENTS) $("events").lastElementChild.remove();
  hide($("no-events"), true);
}

let last = ""; // the last event's id

/** Read the stream as long as somebody looks. An EventSource could not show a token. */
async function listen(signal) {
  while (!signal.aborted) {
    try {
      const answer = await fetch(last ? "v1/events" : `v1/events?last=${BEFORE}`, {
        headers: { Accept: "text/event-stream", ...tokens.headers("read"), ...last && { "Last-Event-ID": last } },
        cache: "no-store",
        signal,
      });
      if (answer.status === 404) return; // there are none to be had here
      if (answer.ok) {
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let text = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          const blocks = (text + value).replaceAll("\r\n", "\n").split("\n\n");
          text = blocks.pop();
          for (const block of blocks) last = takeBlock(block) ?? last;
        }
      }
    } catch { /* it ended; the looks tell whether anybody is there */ }
    await new Promise((resolve) => {
      setTimeout(resolve, PERIOD);
    });
  }
}

/** One event of the stream (HTML standard, section 9.2); its id, if it has one. */
function takeBlock(block) {
  let id = null;
  let kind = "";
  const data = [];
  for (const line of block.split("\n")) {
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (field === "id") id = value;
    else if (field === "event") kind = value;
    else if (field === "data") data.push(value);
  }
  if (data.length > 0) {
    try {
      takeEvent({ event: kind, ...JSON.parse(data.join("\n")) });
      look(50); // what it tells shows in the rest, too
    } catch { /* not of ours */ }
  }
  return id;
}

// --- looking --------------------------------------------------------------------------------------

let timer = 0;
let looking = false;
let again = false;
let since = null; // when nobody answered first
let turn = 0;
let listening = null;
let needsToken = false;

/** Look in so many ms, or sooner. */
function look(delay) {
  if (document.hidden || needsToken) return;
  if (looking) {
    again = true;
    return;
  }
  clearTimeout(timer);
  timer = setTimeout(lookNow, delay);
}

async function lookNow() {
  looking = true;
  again = false;
  const began = performance.now();
  try {
    const [found, problems, status] = await Promise.all([
      asked("v1/services"),
      askedIfThere("v1/problems"),
      turn % 3 === 0 ? askedIfThere("v1/status") : null,
    ]).catch((error) => {
      isLost(error);
      return [];
    });
    if (found) {
      turn += 1;
      takeServices(found.services);
      takeSums(found.services);
      takeProblems(problems?.problems ?? problemsOf(found.services));
      if (status) takeStatus(status);
      isLive();
    }
  } finally {
    looking = false;
    look(again ? 50 : Math.max(100, PERIOD - (performance.now() - began)));
  }
}

function isLive() {
  mark($("link"), "link", "live");
  put($("link-text"), "live");
  if (since !== null) {
    since = null;
    say("The proxy answers again");
  }
  hide($("lost"), true);
  document.body.classList.remove("stale");
  if (!listening) {
    listening = new AbortController();
    listen(listening.signal);
  }
}

function isLost(error) {
  turn = 0; // it may be another one that comes back
  since ??= new Date();
  mark($("link"), "link", "lost");
  const refused = error instanceof Refused;
  const shut = refused && error.status === 401;
  put($("link-text"), shut ? "no token" : "lost");
  put($("lost-text"), shut ? "The proxy shows this only to who has the token."
    : refused ? `The proxy refuses: ${error.message}`
      : `The proxy has not answered since ${clock.format(since)}. What you see is from then; it is tried again every second.`);
  hide($("give-token"), !shut);
  hide($("lost"), false);
  document.body.classList.add("stale");
  if (shut && !needsToken) giveToken(tokens.of("read") !== null);
}

async function giveToken(wrong) {
  needsToken = true; // nothing is asked meanwhile
  if (!await askForToken("read", wrong)) return;
  needsToken = false;
  look(0);
}

$("give-token").addEventListener("click", () => giveToken(false));

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    listening?.abort();
    listening = null;
  } else {
    look(0);
  }
});

// --- keys and theme -------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (target.matches("input, select, textarea")) {
    if (event.key === "Escape" && target.id === "search") {
      target.value = "";
      target.dispatchEvent(new Event("input"));
    }
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "u" && undo) {
    undo();
  } else if (target.matches(".toggle") && /^(Arrow(Up|Down)|Home|End)$/.test(event.key)) {
    event.preventDefault();
    const toggles = [...list.querySelectorAll(".service:not([hidden]) .toggle")];
    const at = toggles.indexOf(target);
    const next = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: toggles.length - 1 }[event.key];
    toggles[next]?.focus();
  }
});

const THEMES = ["auto", "light", "dark"]; // the first: as the system has it

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const name = theme[0].toUpperCase() + theme.slice(1);
  put($("theme"), name);
  $("theme").setAttribute("aria-label", `${name} theme`);
  colours.clear();
  if (affinity.length > 0) drawAffinity();
}

$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  localStorage.setItem("theme", next);
  showTheme(next);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  showTheme(document.documentElement.dataset.theme);
});
addEventListener("resize", () => affinity.length > 0 && drawAffinity());

const kept = localStorage.getItem("theme");
showTheme(THEMES.includes(kept) ? kept : "auto");
look(0);
