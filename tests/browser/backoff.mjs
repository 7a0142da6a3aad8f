// When the page's streams come back: node backoff.mjs DRAW, what Math.random gives; says as JSON the pauses, ms, by what ended the line.
import { pass, sockets } from "./stub_page.mjs";
import { Follower } from "./follower.js";
import { LiveStream } from "./stream.js";

const draw = Number(process.argv[2]);
Math.random = () => draw;
const nothing = () => {};

/** Pauses between one socket's end and the next socket, `count` of them. */
async function pauses(count, code) {
  const found = [];
  for (let n = 0; n < count; n += 1) {
    const socket = sockets.at(-1);
    socket.opened();
    const endedMs = performance.now();
    socket.ends(code);
    await pass(20_000);
    found.push(sockets.at(-1).atMs - endedMs);
  }
  return found;
}

const live = new LiveStream({}, { state: nothing, ready: nothing, result: nothing, event: nothing, notice: nothing, refused: nothing, tooLarge: nothing });
live.connect();
const restarts = await pauses(6, 1012);
const busy = await pauses(2, 1013);
live.stop();
new Follower("7", { onResult: nothing, onBack: nothing });
const follower = await pauses(6, 1012);
console.log(JSON.stringify({ restarts, busy, follower }));
