// What the user chose, kept over reloads. One object, one event; nobody else reads the form.
import { byId } from "./dom.js";
import { Drawer } from "./drawer.js";

const STORE = "stmixer.settings";
export const DEFAULTS = Object.freeze({
  keyframe_hz: 4,
  score_threshold: 0.6,
  action_threshold: 0.5,
  top_k: 3,
  mirror: true,
});

const SHOW = {
  keyframe_hz: String,
  score_threshold: (value) => value.toFixed(2),
  action_threshold: (value) => value.toFixed(2),
  top_k: String,
};

function stored() {
  try {
    const saved = JSON.parse(localStorage.getItem(STORE)) ?? {};
    const known = Object.keys(DEFAULTS).filter((key) => typeof saved[key] === typeof DEFAULTS[key]);
    return Object.fromEntries(known.map((key) => [key, saved[key]]));
  } catch {
    return {}; // storage is off in some private windows; the defaults do
  }
}

class Settings extends EventTarget {
  values = { ...DEFAULTS, ...stored() };

  /** Fills the form and follows it. `change` events carry the name of the setting in `detail`. */
  attach() {
    const form = byId("settings-form");
    this.#fill();
    form.addEventListener("input", ({ target }) => {
      this.#set(target.id, target.type === "checkbox" ? target.checked : Number(target.value));
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault(); // the form's own defaults are the browser's, not ours
      for (const [key, value] of Object.entries(DEFAULTS)) this.#set(key, value);
      this.#fill();
    });
    new Drawer("settings", "settings-toggle");
  }

  #set(key, value) {
    if (this.values[key] === value) return;
    this.values[key] = value;
    this.#fill();
    try {
      localStorage.setItem(STORE, JSON.stringify(this.values));
    } catch {
      // as above: then they last as long as the page
    }
    this.dispatchEvent(new CustomEvent("change", { detail: key }));
  }

  #fill() {
    for (const [key, value] of Object.entries(this.values)) {
      const input = byId(key);
      if (input.type === "checkbox") input.checked = value;
      else {
        input.value = value;
        input.parentElement.querySelector("output").textContent = SHOW[key](value);
      }
    }
  }
}

export const settings = new Settings();
