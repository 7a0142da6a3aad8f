// A panel at the side that a button opens and closes. Not a modal: what it says or does is about the picture beside it.
import { byId } from "./dom.js";

const open = new Set();

export class Drawer {
  #panel;
  #toggle;
  #onOpen;

  /** By ids; the panel's own close button is its id and "-close". `onOpen` runs before it is shown. */
  constructor(panel, toggle, onOpen = () => {}) {
    this.#panel = byId(panel);
    this.#toggle = byId(toggle);
    this.#onOpen = onOpen;
    this.#toggle.addEventListener("click", () => (this.#panel.hidden ? this.open() : this.close()));
    byId(`${panel}-close`).addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.#panel.hidden) this.close();
    });
  }

  /** One at a time: they lie over the same place. */
  open() {
    for (const other of open) other.#show(false);
    this.#onOpen();
    this.#show(true);
  }

  close() {
    this.#show(false);
    this.#toggle.focus();
  }

  #show(shown) {
    this.#panel.hidden = !shown;
    this.#toggle.setAttribute("aria-expanded", String(shown));
    if (shown) open.add(this);
    else open.delete(this);
  }
}
