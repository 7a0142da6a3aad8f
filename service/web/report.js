// What a camera session saw, once it is over: a table, the table as a file, and counts for whoever runs the server.
import { byId, clock, download, make } from "./dom.js";
import { csv, whoWords } from "./found.js";
import { summaryWords } from "./words.js";

const ROWS_SHOWN = 100;

export class Report {
  #rows = [];

  constructor() {
    byId("download-seen").addEventListener("click", () => download(new Blob([csv(this.#rows)], { type: "text/csv" }), "seen.csv"));
  }

  /** `session`: {seen, seconds, summary}, `summary` null where the server said none; null hides the report. */
  show(session) {
    byId("summary").hidden = session === null;
    if (session === null) return;
    this.#rows = session.seen.rows();
    const people = session.seen.people().length + session.seen.left;
    byId("summary-head").textContent = `${clock(session.seconds)} with the camera, ${people ? `${people} ${people === 1 ? "person" : "people"}` : "nobody"} seen.`;
    byId("seen").hidden = byId("download-seen").hidden = !this.#rows.length;
    byId("seen").tBodies[0].replaceChildren(...this.#rows.slice(0, ROWS_SHOWN).map(row));
    const more = this.#rows.length - ROWS_SHOWN;
    byId("seen-more").textContent = more > 0 ? `And ${more.toLocaleString("en")} more rows in the download.` : "";
    const lines = session.summary ? summaryWords(session.summary) : ["The server did not say."];
    byId("summary-lines").replaceChildren(...lines.map((text) => make("li", { textContent: text })));
  }
}

function row({ id, action, from, to, score }) {
  const when = clock(from) === clock(to) ? clock(from) : `${clock(from)}–${clock(to)}`;
  return make("tr", {}, ...[whoWords(id), action || "was there", when, score.toFixed(2)].map((text) => make("td", { textContent: text })));
}
