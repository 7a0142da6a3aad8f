// What the user chose, kept over reloads. One object, one event; nobody else reads the form.
import { byId } from "./dom.js";

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
    this.#attachDrawer();
  }

  open() {
    this.#show(true);
    byId("score_threshold").focus();
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

  #show(open) {
    byId("settings").hidden = !open;
    byId("settings-toggle").setAttribute("aria-expanded", String(open));
  }

  // Not a modal: the point of moving a threshold is to watch the boxes meanwhile.
  #attachDrawer() {
    const drawer = byId("settings");
    const toggle = byId("settings-toggle");
    const close = () => {
      this.#show(false);
      toggle.focus();
    };
    toggle.addEventListener("click", () => (drawer.hidden ? this.#show(true) : close()));
    byId("settings-close").addEventListener("click", close);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !drawer.hidden) close();
    });
  }
}

export const settings = new Settings();
