// Two clients of the official SDK exchange messages over the node whose RPC address is the first argument.
// Prints one JSON object: what each got.
import { createRequire } from "node:module";

const require = createRequire(process.env.NCONNECT_NKN_SDK + "/");
const nkn = require("nkn-sdk");
const rpcServerAddr = process.argv[2];

function client(identifier) {
  const tls = rpcServerAddr.startsWith("https:");
  return new nkn.Client({ identifier, rpcServerAddr, tls, reconnectIntervalMin: 100 });
}

const ready = (one) => new Promise((resolve) => one.onConnect(resolve));
const alice = client("alice");
const bob = client("bob");
const carol = client("carol");
await Promise.all([alice, bob, carol].map(ready));

const got = [];
bob.onMessage(({ src, payload, isEncrypted }) => {
  got.push({ src, isEncrypted, size: payload.length });
  return typeof payload === "string" ? `reply to ${payload}` : payload;
});
carol.onMessage(({ payload }) => `carol got ${payload}`);

const result = { bob: bob.addr, alice: alice.addr, node: alice.node };
result.text = await alice.send(bob.addr, "hello");
result.plain = await alice.send(bob.addr, "open", { encrypt: false }).catch((error) => `${error}`);
const megabyte = new Uint8Array(1 << 20).map((_, i) => i * 31);
const back = await alice.send(bob.addr, megabyte, { responseTimeout: 20000 });
result.megabyte = Buffer.compare(Buffer.from(back), Buffer.from(megabyte)) === 0;
const both = await new Promise((resolve) => {
  const answers = [];
  const seen = (answer) => answers.push(answer) === 2 && resolve(answers.sort());
  carol.onMessage(({ payload }) => payload === "to both" && seen("carol"));
  bob.onMessage(({ payload }) => payload === "to both" && seen("bob"));
  alice.send([bob.addr, carol.addr], "to both", { noReply: true });
});
result.both = both;
result.got = got;
console.log(JSON.stringify(result));
// Alice stays: the SDK sends its acknowledgements after the handlers above have returned.
[bob, carol].forEach((one) => one.close());
setTimeout(() => process.exit(0), 200);
