// Makes nkn_sdk.json with the official JavaScript SDK: see README.md beside this file.
// All randomness is replaced by a counter, so that every run writes the same bytes.

import { createRequire } from 'node:module'
import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'

const require = createRequire(resolve(process.cwd(), 'x.js'))
const folder = resolve(process.cwd(), 'node_modules/nkn-sdk')
const sdk = (path) => require(resolve(folder, 'lib', path)) // by path: the package exports its entry only
const { Client } = sdk('.')
const common = sdk('common')
const message = sdk('client/message')

console.log = console.warn = () => {} // clients that find no node say so
let next = 0
const fakeRandom = (size) => Uint8Array.from({ length: size }, () => next++ & 0xff)
common.util.setPRNG((out, size) => out.set(fakeRandom(size)))

const hex = (bytes) => Buffer.from(bytes).toString('hex')
const seeds = ['11', '22', '33'].map((pair) => pair.repeat(32))
const client = (seed, identifier) =>
  new Client({ seed, identifier, worker: false, rpcServerAddr: 'http://127.0.0.1:1', reconnectIntervalMin: 1e9 })
const [alice, bob, carol] = [client(seeds[0], 'alice'), client(seeds[1], 'bob'), client(seeds[2], '')]
for (const each of [alice, bob, carol]) each.close()

const node = { pubkey: 'ab'.repeat(32) }
alice.node = node
alice.sigChainBlockHash = 'cd'.repeat(32)

const identities = [alice, bob, carol].map((each, i) => ({
  seed: seeds[i], address: each.addr, publicKey: each.getPublicKey(), clientId: message.addrToID(each.addr),
  curvePrivateKey: hex(each.key.curvePrivateKey),
}))

// Payloads of each type, as the SDK serializes them.
const messageId = fakeRandom(8)
const replyTo = fakeRandom(8)
const noReply = message.newBinaryPayload(Uint8Array.of(1), null, messageId)
noReply.setNoReply(true)
const payloads = Object.entries({
  text: message.newTextPayload('grüße, мир', null, messageId),
  binary: message.newBinaryPayload(Uint8Array.of(0, 255, 1), null, messageId),
  emptyText: message.newTextPayload('', null, messageId),
  reply: message.newTextPayload('yes', replyTo),
  ack: message.newAckPayload(replyTo, messageId),
  session: message.newSessionPayload(Uint8Array.of(9, 9), messageId),
  noReply,
}).map(([name, payload]) => ({ name, type: payload.getType(), messageId: hex(payload.getMessageId()),
  data: hex(payload.getData()), replyToId: hex(payload.getReplyToId()), noReply: payload.getNoReply(),
  bytes: hex(payload.serializeBinary()) }))

const plain = message.newTextPayload('a secret', null, messageId).serializeBinary()
const single = (await alice._encryptPayload(plain, bob.addr))[0]
const several = await alice._encryptPayload(plain, [bob.addr, carol.addr])
const envelope = (dest, msg) => ({ dest, payload: hex(msg.getPayload()), encrypted: msg.getEncrypted(),
  nonce: hex(msg.getNonce()), encryptedKey: hex(msg.getEncryptedKey()), bytes: hex(msg.serializeBinary()) })
const bare = message.newMessage(plain, false)

const outbound = []
for (const [name, dests, bodies, holding, blockHash] of [
  ['one', [bob.addr], [single.serializeBinary()], 0, alice.sigChainBlockHash],
  ['held', [bob.addr], [single.serializeBinary()], 3600, alice.sigChainBlockHash],
  ['no block hash', [carol.addr], [bare.serializeBinary()], 0, ''],
  ['one payload for two', [bob.addr, carol.addr], [bare.serializeBinary()], 0, alice.sigChainBlockHash],
  ['compressed', [bob.addr, carol.addr], several.map((each) => each.serializeBinary()), 0, alice.sigChainBlockHash],
  ['large', [bob.addr], [new Uint8Array(70000).fill(7)], 0, alice.sigChainBlockHash],
]) {
  alice.sigChainBlockHash = blockHash
  const made = await message.newOutboundMessage(alice, dests, bodies, holding)
  const body = made.getCompressionType() ? require('pako').inflate(made.getMessage()) : made.getMessage_asU8()
  const inner = common.pb.messages.OutboundMessage.deserializeBinary(body)
  outbound.push({ name, dests, maxHoldingSeconds: holding, blockHash, nonce: inner.getNonce(),
    signatures: inner.getSignaturesList().map(hex), payloadSizes: bodies.map((each) => each.length),
    compressed: made.getCompressionType() !== 0,
    // The large one is all sevens: its head alone is kept.
    bytes: hex(made.serializeBinary().slice(0, name === 'large' ? 400 : undefined)),
    size: made.serializeBinary().length })
}
alice.sigChainBlockHash = 'cd'.repeat(32)

const prevHash = 'ef'.repeat(32)
const receipt = (await message.newReceipt(alice, prevHash)).serializeBinary()

const inner = new common.pb.messages.InboundMessage()
inner.setSrc(alice.addr)
inner.setPayload(single.serializeBinary())
inner.setPrevSignature(Buffer.from(prevHash, 'hex'))
const inbound = message.newClientMessage(common.pb.messages.ClientMessageType.INBOUND_MESSAGE,
  inner.serializeBinary(), common.pb.messages.CompressionType.COMPRESSION_NONE)

// What Bob's client gets from its node when Alice's sends each kind of message, as its own code wrote them.
const askedId = fakeRandom(8)
const exchanges = []
for (const [name, payload, encrypt, dests] of [
  ['text', message.newTextPayload('grüße, мир', null, fakeRandom(8)), true, bob.addr],
  ['binary', message.newBinaryPayload(Uint8Array.of(0, 255, 1), null, fakeRandom(8)), true, bob.addr],
  ['text to several', message.newTextPayload('to all', null, fakeRandom(8)), true, [bob.addr, carol.addr]],
  ['binary to several', message.newBinaryPayload(new Uint8Array(300).fill(3), null, fakeRandom(8)), true, [bob.addr, carol.addr]],
  ['text in the clear', message.newTextPayload('open', null, fakeRandom(8)), false, bob.addr],
  ['binary in the clear', message.newBinaryPayload(Uint8Array.of(7), null, fakeRandom(8)), false, bob.addr],
  ['reply', message.newTextPayload('yes', askedId), true, bob.addr],
  ['binary reply', message.newBinaryPayload(Uint8Array.of(4, 5), askedId), true, bob.addr],
  ['reply in the clear', message.newTextPayload('yes', askedId), false, bob.addr],
  ['ACK', message.newAckPayload(askedId), true, bob.addr],
  ['ACK in the clear', message.newAckPayload(askedId), false, bob.addr],
  ['session', message.newSessionPayload(Uint8Array.of(9, 9), fakeRandom(8)), true, bob.addr],
]) {
  const msgs = await alice._messageFromPayload(payload, encrypt, dests)
  const bodies = msgs.map((each) => each.serializeBinary())
  const sent = await message.newOutboundMessage(alice, dests, bodies, 0)
  const seen = new common.pb.messages.InboundMessage()
  seen.setSrc(alice.addr)
  seen.setPayload(bodies[0])
  exchanges.push({ name, dests: [].concat(dests), encrypted: encrypt, type: payload.getType(),
    plain: hex(payload.serializeBinary()), messageId: hex(payload.getMessageId()), data: hex(payload.getData()),
    replyToId: hex(payload.getReplyToId()), outbound: hex(sent.serializeBinary()),
    payloads: bodies.map(hex),
    inbound: hex(message.newClientMessage(common.pb.messages.ClientMessageType.INBOUND_MESSAGE,
      seen.serializeBinary(), common.pb.messages.CompressionType.COMPRESSION_NONE).serializeBinary()) })
}

// Transactions of the wallet with Alice's seed. Their signatures have no randomness.
const wallet = sdk('wallet/transaction')
const account = new (sdk('wallet/account').default)(seeds[0], { worker: false })
const transactions = []
for (const [name, payload, nonce] of [
  ['subscribe', wallet.newSubscribePayload(account.getPublicKey(), 'me', 'topic', 100, 'meta'), 7],
  ['long meta', wallet.newSubscribePayload(account.getPublicKey(), 'me', 'topic', 400000, 'm'.repeat(300)), 0],
  ['unsubscribe', wallet.newUnsubscribePayload(account.getPublicKey(), '', 'topic'), 300],
]) {
  const made = await wallet.newTransaction(account, payload, nonce)
  const program = made.getProgramsList()[0]
  transactions.push({ name, nonce, hash: made.hash, payload: hex(payload.getData()),
    code: hex(program.getCode()), parameter: hex(program.getParameter()), bytes: hex(made.serializeBinary()) })
}

const challenge = '5a'.repeat(32), salt = 'a5'.repeat(32)
const loginDigest = common.hash.sha256Hex(challenge + salt)

writeFileSync(process.argv[2], JSON.stringify({
  sdk: require(resolve(folder, 'package.json')).version, node, identities, payloads,
  plaintext: hex(plain), single: envelope(bob.addr, single),
  several: several.map((msg, i) => envelope([bob.addr, carol.addr][i], msg)), bare: hex(bare.serializeBinary()),
  outbound, receipt: { prevHash, bytes: hex(receipt) },
  inbound: { src: alice.addr, prevHash, bytes: hex(inbound.serializeBinary()) },
  askedId: hex(askedId), exchanges, wallet: account.address, transactions,
  login: { challenge, salt, digest: loginDigest, signature: await alice.key.sign(loginDigest) },
}, null, 1) + '\n')
process.exit(0)
