// From boxes on keyframes to a list a person reads.

/** Who did what when: [{name, best, spans: [{from, to}]}], surest first; a pause up to `gapS` does not end a span. */
export function foundActions(frames, gapS) {
  const groups = new Map();
  for (const { seconds, actors } of frames) {
    for (const { name, score } of actors.flatMap((actor) => actor.actions)) {
      if (!groups.has(name)) groups.set(name, { name, best: 0, spans: [] });
      const group = groups.get(name);
      group.best = Math.max(group.best, score);
      const last = group.spans.at(-1);
      if (last && seconds - last.to <= gapS) last.to = seconds;
      else group.spans.push({ from: seconds, to: seconds });
    }
  }
  return [...groups.values()].sort((a, b) => b.best - a.best);
}
