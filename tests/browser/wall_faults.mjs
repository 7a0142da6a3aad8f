// What the wall does when something goes wrong, case by case: node wall_faults.mjs CASE, beside stub_page.mjs and the page's own files.
import assert from "node:assert/strict";
import { answers, asked, blobs, broken, element, later, pass, sockets, times, within } from "./stub_page.mjs";
import { Wall } from "./wall.js";

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

  "no token can be had for moving pictures": async () => {
    sessionStorage.setItem("stmixer.key", "mine");
    answers["POST v1/tokens"] = refused(503);
    await opened();
    button("look").onclick();
    await pass(1999);
    assert.equal(times("POST v1/tokens"), 1);
    answers["POST v1/tokens"] = () => new Response('{"token": "t"}');
    await pass(1);
    assert.equal(String(element("large-picture").src), `${MOVING}?token=t&again=2000`);
    await pass(10_000);
    assert.equal(times("POST v1/tokens"), 2);
  },
};

await cases[process.argv[2]]();
process.exit(0); // the wall is still open
