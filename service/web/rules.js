// The rules of a stream: which there are, and a new one, with an area drawn upon the picture.
import { Refused, currentLabels, pastEvents, rulesOf, setRules, snapshot } from "./api.js";
import { byId, make } from "./dom.js";
import { ruleWords } from "./words.js";

const STEP = 0.02; // of the picture, that an arrow key moves the cross
const CORNER = 0.008;
const CROSS = 0.03;
const SOMEBODY = "*"; // whatever they do
const SVG = "http://www.w3.org/2000/svg";

const clamp = (value) => Math.min(1, Math.max(0, value));
const rounded = (value) => Math.round(value * 10_000) / 10_000;

export class Rules {
  #stream = null;
  #run = 0;
  #changing = Promise.resolve();
  #corners = [];
  #at = [0.5, 0.5];
  #picture = null;
  #mirrored = false;
  #changed = () => {};

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

  /**
   * Of one stream, {id, name}. There is nothing to save before it is known which rules there are; for the rest it does without what does not come.
   * `picture`: a promise of what it shows now, where the server need not be asked; `mirrored`: shown as in a mirror, corners are the picture's own all
   * the same; `changed(rules)` is told of those that it has from now on.
   */
  open({ id, name }, { picture = snapshot(id), mirrored = false, changed = () => {} } = {}) {
    this.#stream = id;
    this.#mirrored = mirrored;
    this.#changed = changed;
    byId("zone-frame").classList.toggle("mirrored", mirrored);
    this.#run += 1;
    this.#at = [0.5, 0.5];
    byId("rules-name").textContent = `Rules of ${name}`;
    byId("zone-picture").alt = `${name} as it is now`;
    byId("rules-list").replaceChildren();
    byId("rule-fields").disabled = true;
    byId("rule-what").replaceChildren(make("option", { value: SOMEBODY, textContent: "somebody is there" }));
    byId("rule-clip").checked = false;
    byId("rule-clip").disabled = true;
    for (const why of ["zone-why", "rule-what-why", "rule-clip-why"]) byId(why).textContent = "";
    this.#take([]);
    byId("rules").showModal();
    this.#have(rulesOf(id), (rules) => this.#show(rules), "rules-why", "Its rules could not be had, so none can be set now");
    this.#have(currentLabels(), (labels) => this.#offer(labels), "rule-what-why", "The actions could not be had");
    this.#have(picture, (shown) => this.#look(shown), "zone-why", "There is no picture of it now to draw an area on");
    this.#have(pastEvents(1), ({ clips }) => this.#tellOfClips(clips), "rule-clip-why", "It could not be had whether clips are kept");
  }

  close() {
    byId("rules").close();
  }

  /** `take` what comes of `answer`, or say what of it did not, and why. */
  async #have(answer, take, where, what) {
    const run = this.#run;
    try {
      const got = await answer;
      if (run === this.#run) take(got);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (run === this.#run) byId(where).textContent = `${what}. ${error.plain.title}.`;
    }
  }

  #offer(labels) {
    byId("rule-what").append(...labels.map(({ name: label }) => make("option", { value: label, textContent: label })));
  }

  #look(picture) {
    this.#picture = URL.createObjectURL(picture);
    byId("zone-picture").src = this.#picture;
  }

  #tellOfClips(kept) {
    byId("rule-clip").checked = kept;
    byId("rule-clip").disabled = !kept;
    if (!kept) byId("rule-clip-why").textContent = "This server keeps no clips: its owner has named no folder for them.";
  }

  #shut() {
    this.#run += 1;
    this.#stream = null;
    byId("zone-picture").removeAttribute("src");
    if (this.#picture) URL.revokeObjectURL(this.#picture);
    this.#picture = null;
  }

  // -- which there are

  #show(rules) {
    byId("rule-fields").disabled = false;
    const items = rules.map((rule) => {
      const remove = make("button", { type: "button", className: "quiet", textContent: "Remove", onclick: () => this.#change((now) => now.filter(({ id }) => id !== rule.id)) });
      remove.setAttribute("aria-label", `Remove the rule ${rule.id}`);
      return make("li", {}, make("span", {}, make("b", { textContent: rule.id }), ` ${ruleWords(rule)}`), remove);
    });
    byId("rules-list").replaceChildren(...(items.length ? items : [make("li", { className: "hint", textContent: "No rule of its own yet." })]));
  }

  /** Have them be what `edit` makes of those that there are by then, one change after the other; whether they are. */
  #change(edit) {
    const done = this.#changing.then(this.#changer(edit));
    this.#changing = done.catch(() => {});
    return done;
  }

  #changer(edit) {
    const [id, run, changed] = [this.#stream, this.#run, this.#changed];
    byId("rules-why").textContent = "";
    return async () => {
      try {
        const now = await setRules(id, edit(await rulesOf(id))); // somebody else may have set some meanwhile
        changed(now);
        if (run === this.#run) this.#show(now);
        return run === this.#run;
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (run === this.#run) byId("rules-why").textContent = `${error.plain.title}. ${error.plain.technical || error.plain.detail}`;
        return false;
      }
    };
  }

  async #save(event) {
    event.preventDefault();
    if (this.#corners.length === 1 || this.#corners.length === 2) {
      byId("rules-why").textContent = "An area has three corners or more; or take the whole picture.";
      byId("zone").focus();
      return;
    }
    const what = byId("rule-what").value;
    if (!what) {
      byId("rules-why").textContent = "Choose what it is to watch for.";
      byId("rule-what").focus();
      return;
    }
    const rule = {
      id: byId("rule-id").value,
      ...(what === SOMEBODY ? { person: true } : { label: what }),
      for_s: Number(byId("rule-for").value),
      min_score: Number(byId("rule-score").value),
    };
    if (this.#corners.length) rule.zone = this.#corners.map(([x, y]) => [rounded(x), rounded(y)]);
    if (byId("rule-clip").checked) rule.clip = {};
    if (!(await this.#change((now) => [...now.filter(({ id }) => id !== rule.id), rule]))) return;
    byId("rule-id").value = "";
    this.#take([]);
    byId("rule-id").focus();
  }

  // -- the area

  #clicked(event) {
    const frame = byId("zone").getBoundingClientRect();
    this.#at = [this.#across(clamp((event.clientX - frame.left) / frame.width)), clamp((event.clientY - frame.top) / frame.height)];
    this.#take([...this.#corners, this.#at]);
  }

  #pressed(event) {
    const [x, y] = this.#at;
    const right = this.#mirrored ? -STEP : STEP;
    const moves = { ArrowLeft: [-right, 0], ArrowRight: [right, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (moves[event.key]) {
      this.#at = [clamp(x + moves[event.key][0]), clamp(y + moves[event.key][1])];
      this.#draw();
    } else if (event.key === "Enter" || event.key === " ") this.#take([...this.#corners, this.#at]);
    else if (event.key === "Backspace" || event.key === "Delete") this.#take(this.#corners.slice(0, -1));
    else return;
    event.preventDefault();
  }

  /** From the left of what is shown, of a place in the picture, and the other way round. */
  #across(x) {
    return this.#mirrored ? 1 - x : x;
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
    const place = focused ? `; the cross is at ${Math.round(this.#across(x) * 100)} % across, ${Math.round(y * 100)} % down` : "";
    byId("zone-said").textContent = `${count ? `${count} ${count === 1 ? "corner" : "corners"}` : "The whole picture"}${place}`;
    byId("zone-back").disabled = byId("zone-clear").disabled = !count;
  }
}
