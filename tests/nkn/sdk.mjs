// Clients of the official SDK that do what standard input tells them: a JSON object a line, answered by one.
//   {"id", "op": "open", "name", "multi", …options}   -> the address
//   {"id", "op": "send", "name", "dest", "data", …options}   -> the answer, as what()
//   {"id", "op": "session", "from", "to", "bytes"}   -> digests of both directions
//   {"id", "op": "got", "name"}, {"id", "op": "close", "name"}, {"id", "op": "listen", "name"}
// Data is {"text": string} or {"bytes": how many}, which stands for the pattern that bytes() makes.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.env.NCONNECT_NKN_SDK + "/");
const nkn = require("nkn-sdk");
const rpcServerAddr = process.argv[2];
console.log = console.warn = () => {}; // the SDK speaks there

const clients = new Map();
const bytes = (size) => new Uint8Array(size).map((_, i) => (i * 31 + (i >> 8)) & 0xff);
const digest = (data) => createHash("sha256").update(data).digest("hex");
const content = ({ text, bytes: size }) => (text === undefined ? bytes(size) : text);
const what = (data) =>
  data === null || data === undefined ? "ack" : typeof data === "string" ? { text: data } : { bytes: data.length, digest: digest(data) };

const ops = {
  async open({ name, multi, ...options }) {
    const Kind = multi ? nkn.MultiClient : nkn.Client;
    const client = new Kind({ rpcServerAddr, tls: false, reconnectIntervalMin: 50, reconnectIntervalMax: 200, ...options });
    const got = [];
    clients.set(name, { client, got });
    client.onMessage(({ src, payload, isEncrypted, messageId, noReply }) => {
      if (payload instanceof Uint8Array || !payload.startsWith("session")) {
        got.push({ src, ...what(payload), encrypted: isEncrypted, messageId: Buffer.from(messageId).toString("hex"), noReply });
      }
      if (payload === "say nothing") return false;
      if (payload === "only acknowledge") return null;
      return typeof payload === "string" ? `${name} got ${payload}` : payload;
    });
    const every = multi ? Object.values(client.clients) : [client];
    await Promise.all(every.map((one) => new Promise((resolve) => one.onConnect(resolve))));
    return client.addr;
  },
  async send({ name, dest, data, ...options }) {
    return what(await clients.get(name).client.send(dest, content(data), options));
  },
  async listen({ name }) {
    const { client } = clients.get(name);
    client.onSession(async (session) => write(session, await readAll(session)));
    client.listen();
    return null;
  },
  // What is sent comes back over the same session: both ways carry it.
  async session({ name, dest, bytes: size }) {
    // An answer that comes before dial() has begun to wait for it is lost to it: so with a time-out, and again.
    const dial = () => clients.get(name).client.dial(dest, { dialTimeout: 1000 });
    const session = await dial().catch(dial).catch(dial);
    const data = bytes(size);
    const head = new Uint8Array(4);
    new DataView(head.buffer).setUint32(0, size, true);
    await session.write(head);
    await write(session, data);
    const back = await readAll(session, size);
    await session.close();
    return { sent: digest(data), back: digest(back), bytes: back.length };
  },
  async got({ name }) {
    return clients.get(name).got.splice(0);
  },
  async close({ name }) {
    await clients.get(name).client.close();
    clients.delete(name);
    return null;
  },
};

async function write(session, data) {
  for (let at = 0; at < data.length; at += 65536) await session.write(data.subarray(at, at + 65536));
}

async function readAll(session, size) {
  const head = size === undefined ? await read(session, 4) : null;
  return read(session, size ?? new DataView(head.buffer).getUint32(0, true));
}

async function read(session, size) {
  const whole = new Uint8Array(size);
  for (let at = 0; at < size; ) {
    const part = await session.read(size - at);
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

createInterface({ input: process.stdin }).on("line", async (line) => {
  const { id, op, ...options } = JSON.parse(line);
  const answer = await ops[op](options).then(
    (result) => ({ id, result }),
    (error) => ({ id, error: `${error}` }),
  );
  process.stdout.write(JSON.stringify(answer) + "\n");
}).on("close", () => process.exit(0));
