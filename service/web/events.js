// What has come of rules: the newest events with a picture each, and their clips.
import { Refused, clipAddress, eventPicture, pastEvents } from "./api.js";
import { byId, make, refill } from "./dom.js";
import { eventWords } from "./words.js";

const LIST_MS = 5000;
const MOST = 24;
const LOOKS = 3; // for a picture of an event, as it begins and again when it is over: it may just be on its way

export class EventList {
  #timer = null;
  #run = 0;
  #pictures = new Map(); // by event: its address, null while there is none
  #looks = new Map();
  #shown = null;

  constructor() {
    byId("event-close").addEventListener("click", () => byId("event").close());
    byId("event").addEventListener("close", () => this.#shut());
    byId("event-clip").addEventListener("error", () => this.#noClip());
  }

  /** Show it, until `close`. */
  open() {
    this.#run += 1;
    this.#list(this.#run);
  }

  close() {
    this.#run += 1;
    clearTimeout(this.#timer);
    byId("event").close();
    for (const picture of this.#pictures.values()) if (picture) URL.revokeObjectURL(picture);
    this.#pictures.clear();
    this.#looks.clear();
    byId("events").replaceChildren();
    byId("happened").hidden = true;
  }

  async #list(run) {
    try {
      const events = document.hidden ? null : await pastEvents(MOST);
      if (run !== this.#run) return;
      if (events) {
        this.#show(events);
        await this.#fetch(events, run);
      }
    } catch (error) {
      if (!(error instanceof Refused)) throw error; // the list of streams says what is wrong
    } finally {
      if (run === this.#run) this.#timer = setTimeout(() => this.#list(run), LIST_MS);
    }
  }

  #show(events) {
    byId("happened").hidden = !events.length;
    refill(byId("events"), ...events.map((event) => this.#item(event)));
  }

  /** Pictures that there are none of yet, one after the other: a key has a limit of requests a minute. */
  async #fetch(events, run) {
    for (const { event_id: id, state } of events) {
      const looks = this.#looks.get(id) ?? 0;
      if (this.#pictures.get(id) || looks >= (state === "end" ? 2 * LOOKS : LOOKS)) continue;
      this.#looks.set(id, looks + 1);
      const picture = await eventPicture(id);
      if (run !== this.#run) return;
      if (picture) this.#pictures.set(id, URL.createObjectURL(picture));
    }
    this.#show(events);
  }

  #item(event) {
    const picture = this.#pictures.get(event.event_id);
    const [when, score] = eventWords(event);
    const item = make(
      "li",
      { className: "event" },
      make("div", { className: "event-head" }, make("h3", { textContent: event.rule }), make("span", { className: "hint", textContent: event.stream })),
      make("p", { className: "how" }, make("span", { textContent: when }), make("span", { className: "fresh", textContent: score })),
    );
    if (!picture) return item;
    const look = make("button", { type: "button", className: "look", onclick: () => this.#play(event) }, make("img", { alt: "", src: picture }));
    look.dataset.key = event.event_id;
    look.setAttribute("aria-label", `Play the clip of ${event.rule} in ${event.stream}, ${when}`);
    item.prepend(look);
    return item;
  }

  async #play(event) {
    this.#shown = event;
    byId("event-name").textContent = `${event.rule} in ${event.stream}`;
    byId("event-how").textContent = eventWords(event).join(" · ");
    byId("event-why").textContent = "";
    byId("event-clip").hidden = false;
    byId("event").showModal();
    try {
      const clip = await clipAddress(event.event_id);
      if (this.#shown !== event) return;
      byId("event-clip").src = clip;
      await byId("event-clip").play().catch(() => {}); // there is a button for it
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (this.#shown === event) byId("event-why").textContent = `${error.plain.title}. ${error.plain.detail}`;
    }
  }

  #noClip() {
    if (!this.#shown || !byId("event-clip").hasAttribute("src")) return;
    byId("event-clip").hidden = true;
    byId("event-why").textContent =
      this.#shown.state === "end" ? "There is no clip of it." : "There is no clip of it yet: it comes when the event is over.";
  }

  #shut() {
    this.#shown = null;
    byId("event-clip").removeAttribute("src");
    byId("event-clip").load();
  }
}
