// From boxes on keyframes to who did what when: a list a person reads, and a table for other programs.

const AWAY_S = 1; // for so long somebody may go unseen, or do nothing likely, without ending what they did
const MOST = 1000; // people of one session; a camera may run for days

/** Everybody seen so far. Feed it keyframes by rising time, thresholds already applied. */
export class Seen {
  #people = new Map();
  #gapS;
  left = 0; // how many of those who were gone for longest are no longer kept

  /** `periodS`: how far keyframes are apart. */
  constructor(periodS) {
    this.period(periodS);
  }

  /** From now on keyframes are so far apart. */
  period(periodS) {
    this.#gapS = Math.max(AWAY_S, 1.5 * periodS);
  }

  /** What one keyframe shows. Somebody without a `track_id` is nobody in particular. */
  add(seconds, actors) {
    for (const actor of actors) {
      const person = this.#person(actor.track_id ?? null, seconds);
      person.to = seconds;
      person.best = Math.max(person.best, actor.person_score);
      for (const action of actor.actions) this.#action(person, action, seconds);
    }
  }

  /** [{id, from, to, best, actions: [{name, best, spans: [{from, to}]}]}], first come first; actions by time, then score. */
  people() {
    return [...this.#people.values()].map(({ actions, ...person }) => ({
      ...person,
      actions: [...actions.values()].sort((a, b) => a.spans[0].from - b.spans[0].from || b.best - a.best),
    }));
  }

  /** [{id, action, from, to, score}] by time, then person: a row for each span, and for who did nothing likely one without an action. */
  rows() {
    const rows = this.people().flatMap(({ id, from, to, best, actions }) =>
      actions.length
        ? actions.flatMap((action) => action.spans.map((span) => ({ id, action: action.name, ...span, score: action.best })))
        : [{ id, action: "", from, to, score: best }],
    );
    return rows.sort((a, b) => a.from - b.from || (a.id ?? 0) - (b.id ?? 0));
  }

  #person(id, seconds) {
    if (!this.#people.has(id)) {
      if (this.#people.size >= MOST) {
        const gone = [...this.#people.values()].reduce((oldest, person) => (person.to < oldest.to ? person : oldest));
        this.#people.delete(gone.id);
        this.left += 1;
      }
      this.#people.set(id, { id, from: seconds, to: seconds, best: 0, actions: new Map() });
    }
    return this.#people.get(id);
  }

  #action({ actions }, { name, score }, seconds) {
    if (!actions.has(name)) actions.set(name, { name, best: 0, spans: [] });
    const action = actions.get(name);
    action.best = Math.max(action.best, score);
    const last = action.spans.at(-1);
    if (last && seconds - last.to <= this.#gapS) last.to = seconds;
    else if (action.spans.length < MOST) action.spans.push({ from: seconds, to: seconds });
  }
}

export const whoWords = (id) => (id === null ? "somebody" : `person ${id}`);

/** Rows as CSV, quoted as RFC 4180 has it. */
export function csv(rows) {
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  const lines = rows.map(({ id, action, from, to, score }) =>
    [id ?? "", quoted(action), from.toFixed(2), to.toFixed(2), score.toFixed(4)].join(","),
  );
  return ["person,action,from_s,to_s,score", ...lines, ""].join("\r\n");
}
