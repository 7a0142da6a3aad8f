// The wall: all streams that the server fetches, each a tile; one of them large where somebody wants that.
import { Refused, addStream, previewAddress, pulledStreams, setKey } from "./api.js";
import { byId } from "./dom.js";
import { EventList } from "./events.js";
import { Rules } from "./rules.js";
import { setMode } from "./stage.js";
import { Tile, peopleLines } from "./tile.js";
import { wallWords } from "./words.js";

const LIST_MS = 2000;
const LOOK_MS = 250; // a picture is asked for at each, of one tile after the other: a key has a limit of requests a minute
const AGAIN_MS = 2000; // until moving pictures that broke off are asked for again
const AT_ONCE = 3; // browsers open six connections to a server, and one of them may show a stream large

export const WALL = "#wall";

export class Wall {
  #tiles = new Map();
  #run = 0;
  #looking = null;
  #listing = null;
  #fetching = 0;
  #turn = 0;
  #large = null;
  #again = null;
  #notRemoved = null; // the tile of which it is said why
  #leave;
  #withKey;
  #events = new EventList();
  #rules;

  /** `leave()` goes back to the choices; `withKey()` is called when a key was given; `rules`: where those of a stream are shown. */
  constructor({ leave, withKey, rules = new Rules() }) {
    this.#rules = rules;
    this.#leave = leave;
    this.#withKey = withKey;
    byId("wall-add").addEventListener("submit", (event) => this.#add(event));
    byId("wall-key-form").addEventListener("submit", (event) => this.#key(event));
    byId("wall-back").addEventListener("click", () => {
      location.hash = "";
    });
    byId("large-close").addEventListener("click", () => byId("large").close());
    byId("large-rules").addEventListener("click", () => this.#large && this.#rules.open(this.#large));
    byId("large").addEventListener("close", () => this.#shut());
    byId("large-picture").addEventListener("error", () => this.#moveAgain());
  }

  /** Show it, until `close`. */
  open() {
    if (this.#looking) return;
    this.#run += 1;
    setMode("wall");
    this.#say(null);
    this.#looking = setInterval(() => this.#look(), LOOK_MS);
    this.#list(this.#run);
    this.#events.open();
  }

  close() {
    if (!this.#looking) return;
    this.#run += 1;
    clearInterval(this.#looking);
    clearTimeout(this.#listing);
    this.#looking = this.#listing = null;
    this.#rules.close();
    byId("large").close();
    this.#events.close();
    for (const tile of this.#tiles.values()) tile.close();
    this.#tiles.clear();
    this.#leave();
  }

  // -- which streams there are

  async #list(run) {
    if (!this.#looking) return; // it was left while something was on its way
    clearTimeout(this.#listing);
    try {
      const streams = document.hidden ? null : await pulledStreams();
      if (run !== this.#run) return;
      if (streams) this.#show(streams);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (run === this.#run) this.#refused(error.plain);
    } finally {
      // Whatever went wrong; and one timer also where two were on their way.
      if (run === this.#run) {
        clearTimeout(this.#listing);
        this.#listing = setTimeout(() => this.#list(run), LIST_MS);
      }
    }
  }

  #show(streams) {
    const there = new Set(streams.map(({ id }) => id));
    if (!there.has(this.#notRemoved?.id)) this.#say(null);
    byId("wall-key-form").hidden = true;
    for (const [id, tile] of this.#tiles) {
      if (there.has(id)) continue;
      if (this.#large === tile) byId("large").close();
      tile.close();
      this.#tiles.delete(id);
    }
    for (const stream of streams) {
      const tile = this.#tiles.get(stream.id);
      if (tile) tile.update(stream);
      else this.#append(stream);
    }
    byId("wall-count").textContent = wallWords(streams.map(({ pulled }) => pulled.state));
    byId("wall-none").hidden = streams.length > 0;
  }

  #append(stream) {
    const tile = new Tile(stream, {
      open: (chosen) => this.#enlarge(chosen),
      removed: () => {
        byId("wall-url").focus();
        this.#list(this.#run);
      },
      failed: (plain) => this.#say(plain, tile),
    });
    this.#tiles.set(stream.id, tile);
    byId("tiles").append(tile.element);
  }

  #refused(plain) {
    byId("wall-key-form").hidden = !plain.key;
    this.#say(plain);
  }

  /** A plain (words.js) above the tiles, or nothing. Why `notRemoved`, a tile, is still there is said until it is not. */
  #say(plain, notRemoved = null) {
    this.#notRemoved = notRemoved;
    byId("wall-said").textContent = plain ? `${plain.title}. ${plain.detail}` : "";
    byId("wall-said").hidden = !plain;
  }

  // -- pictures, a few at a time

  #look() {
    const tiles = [...this.#tiles.values()];
    for (const tile of tiles) tile.tell();
    if (document.hidden || this.#fetching >= AT_ONCE) return;
    // From behind the last one on, so that each has its turn.
    const inTurn = [...tiles.slice(this.#turn), ...tiles.slice(0, this.#turn)];
    const next = inTurn.find((tile) => tile.wantsPicture);
    if (!next) return;
    this.#turn = tiles.indexOf(next) + 1;
    this.#fetch(next);
  }

  async #fetch(tile) {
    this.#fetching += 1;
    try {
      await tile.refresh();
    } finally {
      this.#fetching -= 1;
    }
  }

  // -- one large

  #enlarge(tile) {
    this.#large = tile;
    byId("large-name").textContent = tile.name;
    if (tile.picture) byId("large-picture").src = tile.picture; // an empty address would be an error
    byId("large-picture").alt = `${tile.name}, with boxes around people`;
    tile.onChange = (people) => this.#tell(tile, people);
    tile.onBack = () => this.#move(tile, true);
    this.#tell(tile, true);
    byId("large").showModal();
    this.#move(tile);
  }

  async #move(tile, again = false) {
    try {
      const moving = await previewAddress(tile.id);
      if (again) moving.searchParams.set("again", performance.now()); // what broke off is still what browsers have of the same address
      if (this.#large === tile) byId("large-picture").src = moving;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (this.#large !== tile) return;
      byId("large-why").textContent = error.plain.title;
      this.#moveAgain();
    }
  }

  #moveAgain() {
    clearTimeout(this.#again);
    const tile = this.#large;
    if (tile) this.#again = setTimeout(() => this.#move(tile, true), AGAIN_MS);
  }

  #tell(tile, people) {
    const [state, why, fresh] = tile.words;
    byId("large-state").textContent = [state, fresh].filter(Boolean).join(" · ");
    byId("large-why").textContent = why;
    if (people) byId("large-people").replaceChildren(...peopleLines(tile.people));
  }

  #shut() {
    clearTimeout(this.#again);
    if (!this.#large) return;
    this.#large.onChange = this.#large.onBack = null;
    this.#large = null;
    byId("large-picture").removeAttribute("src"); // or it would go on to be fetched
  }

  // -- what one can do

  async #add(event) {
    event.preventDefault();
    const [url, name] = [byId("wall-url").value.trim(), byId("wall-name").value.trim()];
    byId("wall-add-said").textContent = "";
    try {
      await addStream(name ? { url, name } : { url });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.plain.key) this.#refused(error.plain);
      byId("wall-add-said").textContent = error.plain.technical || `${error.plain.title}. ${error.plain.detail}`;
      return;
    }
    event.target.reset();
    await this.#list(this.#run);
  }

  #key(event) {
    event.preventDefault();
    setKey(byId("wall-key").value.trim());
    event.target.reset();
    this.#withKey();
    this.#list(this.#run);
  }
}
