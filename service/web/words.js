// Everything that can go wrong or come to an end, in words for someone who did not write the server.
// A "plain" is {title, detail, technical?, key?, retryAfterS?}: what happened, what to do, what the server said,
// whether a key helps, and how long the server asked to be left alone.

const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** Why getUserMedia gave no picture. */
export function cameraWords(error) {
  switch (error?.name) {
    case "InsecureOrigin":
      return {
        title: "The camera works only on a secure page",
        detail: `Browsers give a camera to https:// pages and to this computer itself. Open http://localhost${
          location.port ? `:${location.port}` : ""
        } on the machine that runs the server, or have the server use TLS. A video file works here as it is.`,
      };
    case "NotAllowedError":
    case "SecurityError":
      return {
        title: "The camera was not allowed",
        detail: "Allow it at the camera sign in the address bar (or in the system's privacy settings), then try again.",
      };
    case "NotFoundError":
    case "OverconstrainedError":
      return { title: "No camera was found", detail: "Plug one in and try again, or drop a video instead." };
    case "NotReadableError":
    case "AbortError":
      return {
        title: "The camera is busy",
        detail: "Another program seems to use it. Close that program and try again.",
      };
    case "CameraEnded":
      return { title: "The camera went away", detail: "It was unplugged or switched off. Plug it in and try again." };
    default:
      return {
        title: "The camera did not start",
        detail: "Try again; if it stays so, drop a video instead.",
        technical: String(error),
      };
  }
}

const BY_CODE = {
  aspect_unsupported: ["The picture is too long and narrow", "The long side may be at most three times the short one."],
  decoder_lost: ["A few pictures were lost; the server goes on", "The process that unpacks them was replaced."],
  model_changed: ["Another model takes over; the picture comes back by itself", "The model has to see a second of it first."],
  resume_expired: ["The connection was away too long; this is a new stream", "The model has to see a second of it first."],
};

/** Of a video that the server has looked at already: what it finds too large then is the results. */
export const DRAWING_BY_CODE = {
  bad_results: ["The server could not draw these results", "Reload the page, look at the video again, then try again."],
  too_large: ["There is too much to draw in this video", "Raise the person threshold in Settings, or cut the video shorter."],
};

/** Of a service that cannot be taught. */
export const UNTAUGHT_BY_CODE = { not_found: ["This server takes no lessons", "Its owner starts it with --allow-teach."] };

/** Of a lesson. */
export const TEACHING_BY_CODE = {
  bad_label: ["An action cannot be called that", "Letters, digits and blanks make a good name, 60 of them at most; and write it the same way each time."],
  discarded: ["The lesson was discarded meanwhile", "Send the clip again, if it is for the new one."],
  exists: ["A model of this name was kept already", "Choose another name."],
  learning: ["It is learning now", "Wait for its end, or stop it first."],
  no_clips: ["There is no clip to learn from yet", "Drop or record a few of each action."],
  not_learned: ["There is nothing to try or keep", "Have it learn first."],
  storage: ["The server's disk is full", "Tell the server's owner; what is there already is kept."],
  too_large: ["This is more than the server takes", "Remove some clips, or cut this one shorter."],
  too_long: ["This clip is too long", "A clip may have a minute; a few seconds of the action are best."],
  too_many: ["There are as many clips as there may be", "Remove some first."],
};

const waitWords = (seconds) => (seconds ? `Try again in about ${plural(seconds, "second")}.` : "Try again in a moment.");

/** An HTTP answer that is no result. `problem` is RFC 9457 JSON where there was any; status 0 is no answer at all. `words` by code, before those of all. */
export function problemWords(status, problem = {}, retryAfterS = null, words = {}) {
  const technical = [problem.title, problem.detail].filter(Boolean).join(": ") + (problem.code ? ` (${problem.code})` : "");
  const say = (title, detail, more = {}) => ({ title, detail, technical, retryAfterS, ...more });
  const known = words[problem.code] ?? BY_CODE[problem.code];
  if (known) return say(...known);
  switch (status) {
    case 0:
      return say("The server cannot be reached", "Is it still running? Check your connection, then try again.");
    case 400:
      return say("This file could not be read as a video", "It may be damaged, cut short, or not a video at all. Try another one.");
    case 401:
      return say("This server asks for a key", "Paste the API key that its owner gave you.", { key: true });
    case 403:
      return say("The server does not allow this", "Ask the server's owner for a key that may do it, and paste it here.", { key: true });
    case 404:
      return say("It is not there (any more)", "What is too old, or too much, is let go of; look again in a moment at what has just begun.", { missing: true });
    case 413:
      return say("This video is too large", "Cut it shorter or make it smaller, then try again.");
    case 415:
      return say("This kind of file is not supported", "MP4, WebM, MOV, MKV and AVI videos work.");
    case 422:
      return say("The server did not accept this", "Check the settings, or try another video.");
    case 429:
      return say("Too many requests at once", waitWords(retryAfterS));
    case 503:
      return say("The server is busy", waitWords(retryAfterS));
    default:
      return say("The server could not finish this", "Try again; if it stays so, tell the server's owner.");
  }
}

/**
 * A closed WebSocket: a plain and `next`, what the stream does now:
 * "retry" soon, "wait" (the server is full), "visible" (when the tab is looked at again), "never".
 */
export function closeWords(code, lastError) {
  const technical = lastError ? [lastError.title, lastError.detail ?? lastError.message].filter(Boolean).join(": ") || lastError.code : "";
  const say = (next, title, detail, more = {}) => ({ next, title, detail, technical, ...more });
  if (lastError && BY_CODE[lastError.code]) return say("never", ...BY_CODE[lastError.code]);
  switch (code) {
    case 1001:
    case 1012:
      return say("retry", "The server is restarting", "The picture comes back by itself.");
    case 1009:
      return say("never", "A picture was too large for the server", "Start again with a smaller camera picture.");
    case 1013:
      return say("wait", "The server is busy", "All its places are taken.");
    case 4400:
      if (lastError && lastError.retryable) break;
      return say("never", "This page and the server do not understand each other", "Reload the page: one of them is newer than the other.");
    case 4401:
      return say("never", "This server asks for a key", "Paste the API key that its owner gave you.", { key: true });
    case 4408:
      return say("visible", "No pictures were sent for a while", "The camera stood still or this tab was in the background.");
    case 4409:
      return say("never", "This camera goes on in another window", "Start it again to bring it back here.");
    case 4429:
      return say("never", "Pictures came faster than the server can look", "Lower the looks per second in Settings, then start again.");
    default:
      if (lastError && lastError.retryable === false) {
        return say("never", "The server ended the stream", "Start again; if it stays so, tell the server's owner.");
      }
  }
  return say("retry", "Connection lost", "Check your network if this stays.");
}

/** A `warning` or `error` that does not end the stream, on one line. */
export function noticeWords(message) {
  if (BY_CODE[message.code]) return BY_CODE[message.code][0];
  const text = message.detail ?? message.message ?? message.title;
  return text ?? String(message.code ?? "unknown").replaceAll("_", " ");
}

const OUTCOMES = {
  superseded: (n) => `${n} skipped for a newer one`,
  deadline: (n) => `${n} skipped as too late`,
  error: (n) => `${n} failed`,
  worker_lost: (n) => `${n} lost with the model's process`,
  cancelled: (n) => `${n} called off at the end`,
  pending: (n) => `${n} still open`,
};

/** The counters of a stream or a file as sentences. Counts that are nought are not worth a word. */
export function summaryWords(summary) {
  const nested = summary.keyframes ?? summary.outcomes;
  const count = (name) => Number(summary[name] ?? (typeof nested === "object" && nested !== null ? nested[name] : 0)) || 0;
  const lines = [];
  if (summary.received !== undefined) {
    const dropped = Object.entries(summary.dropped ?? {}).filter(([, n]) => n > 0);
    const reasons = dropped.map(([reason, n]) => `${n} (${reason.replaceAll("_", " ")})`).join(", ");
    lines.push(
      `${plural(count("received"), "picture")} received, ${count("sampled").toLocaleString("en")} of them used by the model` +
        (reasons ? `; dropped: ${reasons}.` : "; none dropped."),
    );
  }
  const due = count("keyframes_due") || count("due");
  if (due) {
    const lost = Object.keys(OUTCOMES).filter((name) => count(name) > 0);
    const answered = count("ok") === due ? "all answered" : `${count("ok").toLocaleString("en")} answered`;
    lines.push(`${plural(due, "keyframe")} due: ${[answered, ...lost.map((name) => OUTCOMES[name](count(name)))].join(", ")}.`);
  }
  return lines;
}

/** Why no box is to be seen although the model answers. */
export function nobodyWords(threshold, trained) {
  const above = `Nobody above the person threshold of ${threshold.toFixed(2)}.`;
  return trained ? above : `${above} Untrained weights seldom reach it: set it to 0 to see boxes.`;
}

const secondsWords = (ms) => (ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000).toLocaleString("en")} s`);

/** How a stream that the server fetches is, in a few words, and why, in a sentence or none. `pulled` of GET /v1/streams. */
export function pulledWords({ state, error, silent_ms }) {
  const why = error ? `${error[0].toUpperCase()}${error.slice(1)}.` : "";
  switch (state) {
    case "connecting":
      return why ? ["Not there yet, trying again", why] : ["Connecting", ""];
    case "live":
      return ["Live", ""];
    case "stalled":
      return [silent_ms === null ? "No picture comes" : `No picture for ${secondsWords(silent_ms)}`, ""];
    case "reconnecting":
      return ["Lost, trying again", why];
    case "ended":
      return ["Played to its end", ""];
    default:
      return ["Cannot be shown", why];
  }
}

/** How old what is known of a stream is: `freshness_ms` from its picture to its result, `quiet_ms` since that came. */
export function freshnessWords(freshness_ms, quiet_ms) {
  if (freshness_ms === null) return "No result yet";
  return quiet_ms > 10_000 ? `No result for ${secondsWords(quiet_ms)}` : `${secondsWords(freshness_ms)} behind`;
}

/** "16 streams, 14 of them live". */
export function wallWords(states) {
  const live = states.filter((state) => state === "live").length;
  if (!states.length) return "";
  return live === states.length ? `${plural(live, "stream")}, ${live === 1 ? "live" : "all live"}` : `${plural(states.length, "stream")}, ${live} live`;
}

/** How an event went: "since 12:03:05", or "12:03:05, for 8 s", and how sure of it the model was at most. `event` of GET /v1/events. */
export function eventWords({ state, started_at_us, ended_at_us, score_max }) {
  const at = new Date(started_at_us / 1000).toLocaleString();
  const lasted = state === "end" ? `${at}, for ${secondsWords((ended_at_us - started_at_us) / 1000)}` : `since ${at}`;
  return [lasted, `score ${score_max.toFixed(2)}`];
}

/** What a rule waits for, in a sentence. */
export function ruleWords({ label, for_s, min_score, zone, count, clip }) {
  const who = count ? `${plural(count.min, "person", "people")} or more` : "somebody";
  const what = label ? `does “${label}”` : "is there";
  return `${who} ${what}${zone ? " in the zone" : ""} for ${for_s} s, score ${min_score} or more${clip ? ", with a clip" : ""}`;
}

/** "3 clips" */
export const clipCountWords = (count) => (count ? plural(count, "clip") : "No clip yet");

/** How much longer, as one would say it. */
export function leftWords(seconds) {
  if (seconds < 2) return "a moment left";
  return seconds < 90 ? `about ${plural(Math.ceil(seconds), "second")} left` : `about ${plural(Math.round(seconds / 60), "minute")} left`;
}

/** How a lesson stands, in a line. `lesson` of GET /v1/teach. */
export function lessonStateWords({ state, says, phases }) {
  switch (state) {
    case "learning":
      return `Learning${phases.length ? `: ${phases.at(-1).says}` : ""}`;
    case "done":
      return "Learned; try it, then keep it or discard it";
    case "failed":
      return `It could not learn: ${says}`;
    case "stopped":
      return says ? `${says[0].toUpperCase()}${says.slice(1)}.` : "Stopped";
    default:
      return "";
  }
}

/** How good what was learned is, on the clips that it did not learn from. `figures` of GET /v1/teach. */
export function lessonFigureWords({ mean_ap, recall, false_people, keyframes, named }) {
  const percent = (share) => `${Math.round(share * 100)} %`;
  const lines = [`Looked at ${plural(keyframes, "picture")} of clips that it did not learn from.`, `It found ${percent(recall)} of the people, and ${false_people.toFixed(2)} a picture who are not there.`];
  if (mean_ap !== null) lines.push(`How well it tells what they do apart: mAP ${mean_ap.toFixed(2)}, where 1 is perfect.`);
  if (named !== null) lines.push(`Of people who do none of it, ${percent(named)} were said to.`);
  if (!recall) lines.push("It found nobody: look below at who was taken for the actor, and whether people can be seen in the clips.");
  return lines;
}
