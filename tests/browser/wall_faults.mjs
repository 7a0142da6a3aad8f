// What the wall does when something goes wrong, case by case: node wall_faults.mjs CASE, beside stub_page.mjs and the page's own files.
import assert from "node:assert/strict";
import { answers, asked, blobs, broken, element, later, pass, sockets, times, within } from "./stub_page.mjs";
import { Wall } from "./wall.js";

Math.random = () => 0; // nobody comes back a little earlier than others (tests/browser/test_backoff.py)
const LIST = "GET v1/streams";
const PICTURE = "GET v1/streams/7/snapshot.jpg";
const MOVING = "http://cameras/v1/streams/7/preview.mjpg";
const door = { id: "7", pulled: { name: "door", url: "rtsp://door/", state: "live", frame: { width: 4 }, freshness_ms: 3, error: null, silent_ms: 1 } };
const listed = (...streams) => () => new Response(JSON.stringify({ streams }));
const refused = (status) => () => new Response("{}", { status });

answers[LIST] = listed(door);
answers[PICTURE] = () => new Response("a picture");

const wall = new Wall({ leave: () => {}, withKey: () => {} });
const submitted = (id) => element(id).dispatchEvent(new Event("submit", { cancelable: true }));
const button = (name) => within(element("tiles"), ({ textContent, className }) => textContent === name || className === name);
const said = () => (element("wall-said").hidden ? "" : element("wall-said").textContent);

async function opened() {
  wall.open();
  await pass(0);
}

async function removing() {
  button("Remove").onclick();
  button("Really remove?").onclick();
  await pass(0);
}

async function listGoesOnAfter(answer, words) {
  await opened();
  answers[LIST] = answer;
  await pass(2000);
  assert.equal(said(), words);
  answers[LIST] = listed(door);
  await pass(4000);
  assert.equal(times(LIST), 4);
  assert.equal(said(), "");
}

async function comesBackAfter(code) {
  await opened();
  for (const pause of [1000, 2000, 4000, 8000, 15_000, 15_000]) {
    const socket = sockets.at(-1);
    socket.hears({ type: "ready", pulled: door.pulled });
    socket.ends(code);
    await pass(pause);
    assert.equal(sockets.at(-1).atMs - socket.atMs, pause);
  }
  sockets.at(-1).hears({ type: "result", actors: [], sent_at_us: 0, received_at_us: 0 });
  sockets.at(-1).ends(code);
  await pass(1000);
  assert.equal(sockets.length, 8);
}

async function leftWhile(what, begun, status) {
  const [answer, come] = later(() => new Response(null, { status }));
  answers[what] = () => answer;
  await opened();
  await begun();
  await pass(0);
  assert.equal(times(what), 1);
  wall.close();
  const before = [asked.length, sockets.length];
  come();
  await pass(10_000);
  assert.deepEqual([asked.length, sockets.length], before);
}

const RULES = "v1/streams/7/rules";
const EVENTS = "GET v1/events";
const nap = { id: "nap", person: true, for_s: 1, min_score: 0.5 };
const happened = (...ids) => ids.map((id) => ({ event_id: id, rule: "nap", stream: "door", state: "end", started_at_us: 0, ended_at_us: 1, score_max: 1 }));

/** The rules of the stream, which the page reads and sets; `there` is what there is, before and after. */
function withRules(...there) {
  const rules = { there };
  const now = () => new Response(JSON.stringify({ rules: rules.there }));
  answers[`GET ${RULES}`] = now;
  answers[`PUT ${RULES}`] = (body) => {
    rules.there = JSON.parse(body).rules;
    return now();
  };
  return rules;
}

async function rulesOpened() {
  await opened();
  button("look").onclick();
  element("large-rules").dispatchEvent(new Event("click"));
  await pass(0);
}

async function saved(id, what) {
  Object.assign(element("rule-id"), { value: id });
  Object.assign(element("rule-what"), { value: what });
  Object.assign(element("rule-for"), { value: "2" });
  Object.assign(element("rule-score"), { value: "0.5" });
  submitted("rule-form");
  await pass(0);
}

const UNREACHED = "The server cannot be reached. Is it still running? Check your connection, then try again.";

const cases = {
  "a list breaks off": () => listGoesOnAfter(broken, UNREACHED),
  "a refusal breaks off": () => listGoesOnAfter(() => new Response(broken().body, { status: 503 }), "The server is busy. Try again in a moment."),
  "a proxy answers": () => listGoesOnAfter(() => new Response("<h1>Welcome</h1>"), UNREACHED),
  "a list is none": () => listGoesOnAfter(() => new Response("null"), UNREACHED),

  "a list cannot be shown": async () => {
    const seen = [];
    process.on("unhandledRejection", (error) => seen.push(error));
    await listGoesOnAfter(listed(door, { id: "8", pulled: { ...door.pulled, error: 5 } }), "");
    assert.equal(seen.length, 1);
    assert(seen[0] instanceof TypeError);
  },

  "two lists at a time": async () => {
    const [answer, come] = later(listed(door));
    answers[LIST] = () => answer;
    await opened();
    submitted("wall-key-form");
    come();
    answers[LIST] = listed(door);
    await pass(4000);
    assert.equal(times(LIST), 4);
  },

  "a follower ends": () => comesBackAfter(1000),
  "a follower was slow": () => comesBackAfter(4400),
  "a follower has no key": () => comesBackAfter(4401),
  "a follower is not found": () => comesBackAfter(4404),

  "a key is typed anew": async () => {
    await opened();
    sockets[0].opened();
    assert.deepEqual(sockets[0].sent, [{ type: "start" }]);
    sockets[0].ends(4401);
    element("wall-key").value = "new";
    submitted("wall-key-form");
    await pass(1000);
    sockets[1].opened();
    assert.deepEqual(sockets[1].sent, [{ type: "start", api_key: "new" }]);
  },

  "a stream is gone": async () => {
    await opened();
    sockets[0].ends(4404);
    answers[LIST] = listed();
    submitted("wall-key-form");
    await pass(60_000);
    assert.equal(sockets.length, 1);
  },

  "it is left while one is added": () => leftWhile("POST v1/streams", () => submitted("wall-add"), 201),
  "it is left while one is removed": () => leftWhile("DELETE v1/streams/7", removing, 204),
  "it is left while a picture comes": () => leftWhile(PICTURE, () => pass(250), 200).then(() => assert.equal(blobs.size, 0)),

  "one is not removed": async () => {
    answers["DELETE v1/streams/7"] = refused(503);
    await opened();
    await removing();
    await pass(10_000);
    assert.equal(said(), "The server is busy. Try again in a moment.");
    answers[LIST] = listed();
    await pass(2000);
    assert.equal(said(), "");
  },

  "it is left and come back to": async () => {
    answers["DELETE v1/streams/7"] = refused(503);
    await opened();
    await removing();
    wall.close();
    await opened();
    assert.equal(said(), "");
  },

  "moving pictures break off": async () => {
    await opened();
    button("look").onclick();
    await pass(0);
    const picture = element("large-picture");
    assert.equal(String(picture.src), MOVING);
    picture.src = "";
    picture.dispatchEvent(new Event("error"));
    await pass(1999);
    assert.equal(picture.src, "");
    await pass(1);
    assert.equal(String(picture.src), `${MOVING}?again=2000`);
    picture.dispatchEvent(new Event("error"));
    element("large").close();
    await pass(10_000);
    assert.equal(picture.src, "");
    assert.equal(times("POST v1/tokens"), 0);
  },

  "a server restarts while one is large": async () => {
    const ready = (state) => ({ type: "ready", pulled: { ...door.pulled, state } });
    await opened();
    sockets[0].hears(ready("live"));
    button("look").onclick();
    await pass(500);
    const picture = element("large-picture");
    assert.equal(String(picture.src), MOVING);
    sockets[0].ends(1012);
    await pass(1000);
    sockets[1].hears(ready("connecting"));
    await pass(0);
    assert.equal(String(picture.src), `${MOVING}?again=1500`);
    sockets[1].ends(1000);
    await pass(2000);
    sockets[2].hears(ready("ended"));
    await pass(0);
    assert.equal(String(picture.src), `${MOVING}?again=1500`); // its last picture stays
    element("large").close();
    sockets[2].ends(1012);
    await pass(4000);
    sockets[3].hears(ready("live"));
    await pass(0);
    assert.equal(picture.src, "");
  },

  "a rule is saved while neither picture nor actions come": async () => {
    const rules = withRules(nap);
    answers[PICTURE] = refused(503);
    await rulesOpened();
    assert.equal(element("rule-fields").disabled, false);
    assert.equal(element("zone-why").textContent, "There is no picture of it now to draw an area on. The server is busy.");
    assert.equal(element("rule-what-why").textContent, "The actions could not be had. It is not there (any more).");
    await saved("new", "");
    assert.equal(times(`PUT ${RULES}`), 0);
    assert.equal(element("rules-why").textContent, "Choose what it is to watch for.");
    await saved("new", element("rule-what").children[0].value);
    assert.deepEqual(rules.there, [nap, { id: "new", person: true, for_s: 2, min_score: 0.5 }]);
  },

  "the rules do not come": async () => {
    answers[`GET ${RULES}`] = refused(503);
    await rulesOpened();
    assert.equal(element("rule-fields").disabled, true);
    assert.equal(element("rules-why").textContent, "Its rules could not be had, so none can be set now. The server is busy.");
    await saved("new", "*");
    assert.equal(times(`PUT ${RULES}`), 0);
  },

  "somebody else sets a rule, too": async () => {
    const rules = withRules(nap);
    await rulesOpened();
    rules.there = [nap, { ...nap, id: "theirs" }];
    await Promise.all([saved("new", "fall"), saved("newer", "fall")]);
    const ours = (id) => ({ id, label: "fall", for_s: 2, min_score: 0.5 });
    assert.deepEqual(rules.there, [nap, { ...nap, id: "theirs" }, ours("new"), ours("newer")]);
    const removing = within(element("rules-list"), ({ textContent }) => textContent === "Remove");
    removing.onclick();
    await pass(0);
    assert.deepEqual(rules.there.map(({ id }) => id), ["theirs", "new", "newer"]);
  },

  "clips are kept": async () => {
    withRules();
    answers[EVENTS] = () => new Response(JSON.stringify({ events: happened("one", "two"), clips: true }));
    answers["GET v1/events/one/thumbnail.jpg"] = answers["GET v1/events/two/thumbnail.jpg"] = () => new Response("a picture");
    await rulesOpened();
    assert.deepEqual([element("rule-clip").checked, element("rule-clip").disabled], [true, false]);
    element("rules").close();
    element("large").close();
    wall.close();
    assert.equal(blobs.size, 0);
  },

  "events are let go of": async () => {
    answers[PICTURE] = refused(503);
    answers[EVENTS] = () => new Response(JSON.stringify({ events: happened("one", "two"), clips: true }));
    answers["GET v1/events/one/thumbnail.jpg"] = answers["GET v1/events/two/thumbnail.jpg"] = () => new Response("a picture");
    await opened();
    assert.equal(blobs.size, 2);
    answers[EVENTS] = () => new Response(JSON.stringify({ events: happened("two"), clips: true }));
    await pass(5000);
    assert.equal(blobs.size, 1);
    wall.close();
    assert.equal(blobs.size, 0);
  },

  "no clips are kept": async () => {
    withRules();
    answers[EVENTS] = () => new Response(JSON.stringify({ events: happened("one"), clips: false }));
    await rulesOpened();
    await pass(30_000);
    assert.equal(times("GET v1/events/one/thumbnail.jpg"), 0);
    assert.deepEqual([element("rule-clip").checked, element("rule-clip").disabled], [false, true]);
    assert.equal(element("rule-clip-why").textContent, "This server keeps no clips: its owner has named no folder for them.");
    await saved("new", "*");
    assert.equal(times(`PUT ${RULES}`), 1);
  },

  "a clip is looked at and left": async () => {
    answers[PICTURE] = refused(503);
    sessionStorage.setItem("stmixer.key", "mine");
    answers[EVENTS] = () => new Response(JSON.stringify({ events: happened("one"), clips: true }));
    answers["GET v1/events/one/thumbnail.jpg"] = () => new Response("a picture");
    const clip = element("event-clip");
    await opened();
    const play = () => within(element("events"), ({ className }) => className === "look").onclick();
    play();
    await pass(0);
    assert.equal(element("event-why").textContent, "There is no clip of it (yet).");
    element("event").close();
    answers["GET v1/events/one/clip.mp4"] = () => new Response("a clip");
    play();
    await pass(0);
    assert.equal(blobs.size, 2);
    assert(blobs.has(clip.src), "it needs no token, however late somebody seeks");
    assert.deepEqual([clip.hidden, element("event-why").textContent], [false, ""]);
    element("event").close();
    assert.equal(blobs.size, 1);
    assert.equal(clip.src, "");
    const [answer, come] = later(() => new Response("a clip"));
    answers["GET v1/events/one/clip.mp4"] = () => answer;
    play();
    await pass(0);
    element("event").close();
    come();
    await pass(0);
    assert.equal(blobs.size, 1);
    assert.equal(times("POST v1/tokens"), 0);
  },

  "no token can be had for moving pictures": async () => {
    sessionStorage.setItem("stmixer.key", "mine");
    answers["POST v1/tokens"] = refused(503);
    await opened();
    button("look").onclick();
    await pass(1999);
    assert.equal(times("POST v1/tokens"), 1);
    const orders = [];
    answers["POST v1/tokens"] = (body) => {
      orders.push(JSON.parse(body));
      return new Response('{"token": "t"}');
    };
    await pass(1);
    assert.deepEqual(orders, [{ path: "/v1/streams/7/preview.mjpg" }]); // it comes in a cookie, and stands in no address
    assert.equal(String(element("large-picture").src), `${MOVING}?again=2000`);
    await pass(10_000);
    assert.equal(times("POST v1/tokens"), 2);
  },
};

await cases[process.argv[2]]();
process.exit(0); // the wall is still open
