// A session of the official SDK: one end serves, the other is asked over HTTP to measure.
//   node session.mjs serve SEED_RPC                 prints its NKN address
//   node session.mjs ask SEED_RPC ADDRESS PORT      prints "ready"; then GET /up, /down or /ping?seconds=N
// A session begins with one byte: u (the server counts what comes), d (it sends), e (it sends back).
import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(process.env.NCONNECT_NKN_SDK + "/");
const nkn = require("nkn-sdk");
const [mode, rpcServerAddr, address, port] = process.argv.slice(2);
const say = (line) => process.stdout.write(line + "\n");
console.log = console.warn = () => {}; // the SDK speaks there
const BLOCK = new Uint8Array(1 << 16);
const PAUSE_MS = 10;

const client = new nkn.MultiClient({ rpcServerAddr, tls: false, identifier: mode, numSubClients: 4 });
await Promise.all(Object.values(client.clients).map((one) => new Promise((done) => one.onConnect(done))));

async function serve(session) {
  const [kind, seconds] = await readExactly(session, 2);
  if (kind === 0x65) for (;;) await session.write(await session.read());
  const until = performance.now() + seconds * 1000;
  if (kind === 0x64) for (;;) await session.write(BLOCK);
  let count = 0;
  while (performance.now() < until) count += (await session.read()).length;
  await session.write(new Uint8Array(new Float64Array([count, (performance.now() - until) / 1000 + seconds]).buffer));
}

async function readExactly(session, size) {
  const whole = new Uint8Array(size);
  for (let at = 0; at < size; ) {
    const part = await session.read(size - at);
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

async function dial() {
  // An answer that comes before dial() has begun to wait for it is lost to it: so with a time-out, and again.
  const once = () => client.dial(address, { dialTimeout: 1000 });
  return once().catch(once).catch(once);
}

const ask = {
  async up(session, seconds) {
    let counted = null;
    const answer = readExactly(session, 16).then((bytes) => (counted = new Float64Array(bytes.buffer)));
    while (counted === null) await session.write(BLOCK);
    await answer;
    return { bytes: counted[0], seconds: counted[1] };
  },
  async down(session, seconds) {
    let bytes = 0;
    const began = performance.now();
    while (performance.now() < began + seconds * 1000) bytes += (await session.read()).length;
    return { bytes, seconds: (performance.now() - began) / 1000 };
  },
  async ping(session, seconds) {
    const trips = [];
    const until = performance.now() + seconds * 1000;
    while (performance.now() < until) {
      const began = performance.now();
      await session.write(new Uint8Array(1));
      await session.read();
      trips.push(performance.now() - began);
      await new Promise((done) => setTimeout(done, PAUSE_MS));
    }
    return { trips };
  },
};
const KINDS = { up: 0x75, down: 0x64, ping: 0x65 };

if (mode === "serve") {
  client.onSession((session) => serve(session).catch(() => session.close().catch(() => {})));
  client.listen();
  say(client.addr);
} else {
  createServer(async (request, response) => {
    const url = new URL(request.url, "http://localhost");
    const what = url.pathname.slice(1);
    const seconds = Number(url.searchParams.get("seconds"));
    try {
      const session = await dial();
      await session.write(Uint8Array.from([KINDS[what], Math.ceil(seconds)]));
      const found = await ask[what](session, seconds);
      response.end(JSON.stringify(found));
      session.close().catch(() => {});
    } catch (error) {
      response.end(JSON.stringify({ error: `${error}` }));
    }
  }).listen(Number(port), "127.0.0.1", () => say("ready"));
}
