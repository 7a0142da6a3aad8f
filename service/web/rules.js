// The rules of a stream: which there are, and a new one, with an area drawn upon the picture.
import { Refused, currentLabels, rulesOf, setRules, snapshot } from "./api.js";
import { byId, make } from "./dom.js";
import { ruleWords } from "./words.js";

const STEP = 0.02; // of the picture, that an arrow key moves the cross
const CORNER = 0.008;
const CROSS = 0.03;
const SVG = "http://www.w3.org/2000/svg";

const clamp = (value) => Math.min(1, Math.max(0, value));
const rounded = (value) => Math.round(value * 10_000) / 10_000;

export class Rules {
  #stream = null;
  #rules = [];
  #corners = [];
  #at = [0.5, 0.5];
  #picture = null;

  constructor() {
    byId("rules-close").addEventListener("click", () => byId("rules").close());
    byId("rules").addEventListener("close", () => this.#shut());
    byId("rule-form").addEventListener("submit", (event) => this.#save(event));
    byId("zone").addEventListener("click", (event) => this.#clicked(event));
    byId("zone").addEventListener("keydown", (event) => this.#pressed(event));
    byId("zone").addEventListener("focus", () => this.#draw());
    byId("zone").addEventListener("blur", () => this.#draw());
    byId("zone-back").addEventListener("click", () => this.#take(this.#corners.slice(0, -1)));
    byId("zone-clear").addEventListener("click", () => this.#take([]));
  }

  /** Of one stream, {id, name}. */
  async open({ id, name }) {
    this.#stream = id;
    this.#rules = [];
    this.#at = [0.5, 0.5];
    byId("rules-name").textContent = `Rules of ${name}`;
    byId("zone-picture").alt = `${name} as it is now`;
    byId("rules-why").textContent = "";
    byId("rules-list").replaceChildren();
    this.#take([]);
    byId("rules").showModal();
    try {
      const [rules, labels, picture] = await Promise.all([rulesOf(id), currentLabels(), snapshot(id)]);
      if (this.#stream !== id) return;
      this.#picture = URL.createObjectURL(picture);
      byId("zone-picture").src = this.#picture;
      const somebody = make("option", { value: "", textContent: "somebody is there" });
      byId("rule-what").replaceChildren(somebody, ...labels.map(({ name: label }) => make("option", { value: label, textContent: label })));
      this.#show(rules);
    } catch (error) {
      this.#failed(error, id);
    }
  }

  #shut() {
    this.#stream = null;
    byId("zone-picture").removeAttribute("src");
    if (this.#picture) URL.revokeObjectURL(this.#picture);
    this.#picture = null;
  }

  #failed(error, id) {
    if (!(error instanceof Refused)) throw error;
    if (this.#stream === id) byId("rules-why").textContent = `${error.plain.title}. ${error.plain.technical || error.plain.detail}`;
  }

  // -- which there are

  #show(rules) {
    this.#rules = rules;
    const items = rules.map((rule) => {
      const remove = make("button", { type: "button", className: "quiet", textContent: "Remove", onclick: () => this.#set(rules.filter(({ id }) => id !== rule.id)) });
      remove.setAttribute("aria-label", `Remove the rule ${rule.id}`);
      return make("li", {}, make("span", {}, make("b", { textContent: rule.id }), ` ${ruleWords(rule)}`), remove);
    });
    byId("rules-list").replaceChildren(...(items.length ? items : [make("li", { className: "hint", textContent: "No rule of its own yet." })]));
  }

  /** Whether they are so now. */
  async #set(rules) {
    const id = this.#stream;
    byId("rules-why").textContent = "";
    try {
      const now = await setRules(id, rules);
      if (this.#stream === id) this.#show(now);
      return true;
    } catch (error) {
      this.#failed(error, id);
      return false;
    }
  }

  async #save(event) {
    event.preventDefault();
    if (this.#corners.length === 1 || this.#corners.length === 2) {
      byId("rules-why").textContent = "An area has three corners or more; or take the whole picture.";
      byId("zone").focus();
      return;
    }
    const label = byId("rule-what").value;
    const rule = {
      id: byId("rule-id").value,
      ...(label ? { label } : { person: true }),
      for_s: Number(byId("rule-for").value),
      min_score: Number(byId("rule-score").value),
    };
    if (this.#corners.length) rule.zone = this.#corners.map(([x, y]) => [rounded(x), rounded(y)]);
    if (byId("rule-clip").checked) rule.clip = {};
    if (!(await this.#set([...this.#rules.filter(({ id }) => id !== rule.id), rule]))) return;
    byId("rule-id").value = "";
    this.#take([]);
    byId("rule-id").focus();
  }

  // -- the area

  #clicked(event) {
    const frame = byId("zone").getBoundingClientRect();
    this.#at = [clamp((event.clientX - frame.left) / frame.width), clamp((event.clientY - frame.top) / frame.height)];
    this.#take([...this.#corners, this.#at]);
  }

  #pressed(event) {
    const [x, y] = this.#at;
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (moves[event.key]) {
      this.#at = [clamp(x + moves[event.key][0]), clamp(y + moves[event.key][1])];
      this.#draw();
    } else if (event.key === "Enter" || event.key === " ") this.#take([...this.#corners, this.#at]);
    else if (event.key === "Backspace" || event.key === "Delete") this.#take(this.#corners.slice(0, -1));
    else return;
    event.preventDefault();
  }

  #take(corners) {
    this.#corners = corners;
    byId("rules-why").textContent = "";
    this.#draw();
  }

  #draw() {
    const count = this.#corners.length;
    byId("zone-area").setAttribute("points", this.#corners.map((corner) => corner.join(",")).join(" "));
    byId("zone-corners").replaceChildren(
      ...this.#corners.map(([x, y]) => {
        const mark = document.createElementNS(SVG, "circle");
        for (const [name, value] of Object.entries({ cx: x, cy: y, r: CORNER })) mark.setAttribute(name, value);
        return mark;
      }),
    );
    const [x, y] = this.#at;
    const focused = document.activeElement === byId("zone");
    byId("zone-cross").setAttribute("d", focused ? `M${x - CROSS} ${y}h${2 * CROSS}M${x} ${y - CROSS}v${2 * CROSS}` : "");
    const place = focused ? `; the cross is at ${Math.round(x * 100)} % across, ${Math.round(y * 100)} % down` : "";
    byId("zone-said").textContent = `${count ? `${count} ${count === 1 ? "corner" : "corners"}` : "The whole picture"}${place}`;
    byId("zone-back").disabled = byId("zone-clear").disabled = !count;
  }
}
