// What has come of rules: the newest events with a picture each, and their clips.
import { Refused, eventClip, eventPicture, pastEvents } from "./api.js";
import { byId, make, refill } from "./dom.js";
import { eventWords } from "./words.js";

const LIST_MS = 5000;
const SOON_MS = 1000; // however much happens: a key has a limit of requests a minute
const MOST = 24;
const LOOKS = 3; // for a picture of an event, as it begins and again when it is over: it may just be on its way

export class EventList {
  #timer = null;
  #run = 0;
  #pictures = new Map(); // by event: its address, where there is one
  #looks = new Map();
  #clip = null; // the address of the one that is shown
  #looking = null; // aborted once nobody looks at it any more
  #section;
  #list;
  #stream = null; // whose events, or null for all
  #name = null; // what that is called here
  #shown = false;
  #wanted = false; // to be looked at soon
  #played = null; // the event whose clip is looked at

  /** `section`, shown where there are events, has a list, `list`: ids of elements. */
  constructor({ section = "happened", list = "events" } = {}) {
    this.#section = byId(section);
    this.#list = byId(list);
    byId("event-close").addEventListener("click", () => byId("event").close());
    byId("event").addEventListener("close", () => this.#shut());
    byId("event-clip").addEventListener("error", () => this.#notPlayed());
  }

  /** Show it, until `close`; of one stream, {id, name}, where that is given. */
  open({ id = null, name = null } = {}) {
    this.#run += 1;
    this.#shown = true;
    this.#stream = id;
    this.#name = name;
    clearTimeout(this.#timer);
    this.#refresh(this.#run);
  }

  /** Something has happened in a stream, {id, name}: show its list, or look soon where that is shown. */
  follow(stream) {
    if (!this.#shown || this.#stream !== stream.id) this.open(stream);
    else if (!this.#wanted) {
      this.#wanted = true;
      if (this.#timer !== null) this.#later(SOON_MS); // else it looks just now, and then again
    }
  }

  #later(waitMs) {
    clearTimeout(this.#timer);
    const run = this.#run;
    this.#timer = setTimeout(() => this.#refresh(run), waitMs);
  }

  close() {
    this.#run += 1;
    this.#shown = false;
    clearTimeout(this.#timer);
    if (this.#looking) byId("event").close();
    this.#show([]);
  }

  async #refresh(run) {
    this.#timer = null;
    this.#wanted = false;
    try {
      const past = document.hidden ? null : await pastEvents(MOST, this.#stream);
      if (run !== this.#run) return;
      if (past) {
        this.#show(past.events);
        if (past.clips) await this.#fetch(past.events, run);
      }
    } catch (error) {
      if (!(error instanceof Refused)) throw error; // the list of streams says what is wrong
    } finally {
      if (run === this.#run) this.#later(this.#wanted ? SOON_MS : LIST_MS);
    }
  }

  #show(events) {
    const there = new Set(events.map(({ event_id: id }) => id));
    for (const id of [...this.#looks.keys()].filter((gone) => !there.has(gone))) {
      if (this.#pictures.has(id)) URL.revokeObjectURL(this.#pictures.get(id));
      this.#pictures.delete(id);
      this.#looks.delete(id);
    }
    this.#section.hidden = !events.length;
    refill(this.#list, ...events.map((event) => this.#item(event)));
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
      make("div", { className: "event-head" }, make("h3", { textContent: event.rule }), make("span", { className: "hint", textContent: this.#where(event) })),
      make("p", { className: "how" }, make("span", { textContent: when }), make("span", { className: "fresh", textContent: score })),
    );
    if (!picture) return item;
    const look = make("button", { type: "button", className: "look", onclick: () => this.#play(event) }, make("img", { alt: "", src: picture }));
    look.dataset.key = event.event_id;
    look.setAttribute("aria-label", `Play the clip of ${event.rule} in ${this.#where(event)}, ${when}`);
    item.prepend(look);
    return item;
  }

  #where({ stream }) {
    return this.#name ?? stream;
  }

  async #play(event) {
    this.#played = event.event_id;
    byId("event-name").textContent = `${event.rule} in ${this.#where(event)}`;
    byId("event-how").textContent = eventWords(event).join(" · ");
    byId("event-clip").hidden = true;
    byId("event-why").textContent = "Its clip is on its way.";
    byId("event").showModal();
    this.#looking = new AbortController();
    const { signal } = this.#looking;
    try {
      const clip = await eventClip(event.event_id, signal);
      if (signal.aborted) return;
      byId("event-why").textContent = clip ? "" : this.#none(event);
      if (clip) await this.#start(clip);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (!signal.aborted) byId("event-why").textContent = `${error.plain.title}. ${error.plain.detail}`;
    }
  }

  async #start(clip) {
    this.#clip = URL.createObjectURL(clip);
    byId("event-clip").src = this.#clip;
    byId("event-clip").hidden = false;
    await byId("event-clip").play().catch(() => {}); // there is a button for it
  }

  #none({ state }) {
    return state === "end" ? "There is no clip of it (yet)." : "There is no clip of it yet: it comes when the event is over.";
  }

  #notPlayed() {
    if (!this.#clip) return;
    byId("event-clip").hidden = true;
    byId("event-why").textContent = "This browser does not play its clip.";
  }

  #shut() {
    this.#looking?.abort();
    this.#looking = null;
    // the list was written anew meanwhile, so the browser has no button to give the focus back to
    [...this.#list.querySelectorAll("[data-key]")].find(({ dataset }) => dataset.key === this.#played)?.focus();
    if (!this.#clip) return;
    URL.revokeObjectURL(this.#clip);
    this.#clip = null;
    byId("event-clip").removeAttribute("src");
    byId("event-clip").load();
  }
}
