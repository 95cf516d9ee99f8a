// Records nkn_conversation.json: all that a client of the official SDK and its nodes say to one another, from
// the first question to a seed to a second redirect. See README.md beside this file.
// The client is the SDK's; the nodes are the stubs below, which answer as the official node does. Randomness is
// a counter, keys and block hashes are fixed, and ports are replaced, so that every run writes the same bytes.

import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'

const require = createRequire(resolve(process.cwd(), 'x.js'))
const folder = resolve(process.cwd(), 'node_modules/nkn-sdk')
const sdk = (path) => require(resolve(folder, 'lib', path))
const { Server: WebSocketServer } = require('ws')
const { Client } = sdk('.')
const common = sdk('common')
const message = sdk('client/message')

console.log = console.warn = () => {}
let next = 0
common.util.setPRNG((out, size) => out.set(Uint8Array.from({ length: size }, () => next++ & 0xff)))

const hex = (bytes) => Buffer.from(bytes).toString('hex')
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')
const publicKey = (seed) => common.crypto.keyPair(seed).publicKey
const challenge = hex(Uint8Array.from({ length: 32 }, (_, i) => i))
const nodes = ['1', '2'].map((n) => ({ name: `node ${n}`, pubkey: hex(publicKey({ 1: '6d', 2: '6e' }[n].repeat(32))) }))
// What our own node's first and second block hash are (nconnect/node/proof.py).
const blockHash = (node, height) => sha256(Buffer.concat([Buffer.from(node.pubkey, 'hex'), Buffer.from([0, 0, 0, 0, 0, 0, 0, height])]))

const said = []
const record = (from, to, kind, data) => {
  for (const node of nodes) {
    data = data.replaceAll(`127.0.0.1:${node.wsPort}`, `${node.place}:30002`).replaceAll(`127.0.0.1:${node.rpcPort}`, `${node.place}:30003`)
  }
  said.push({ from, to, kind, data })
}
const until = async (done) => { while (!done()) await new Promise((wake) => setTimeout(wake, 2)) }
const count = (kind, from = 'client') => said.filter((each) => each.kind === kind && each.from === from).length

const info = (node) => ({ addr: `127.0.0.1:${node.wsPort}`, rpcAddr: `127.0.0.1:${node.rpcPort}`, pubkey: node.pubkey,
  id: sha256(Buffer.from(node.pubkey, 'hex')), sdp: '' })
const wrongNode = (node) => ({ Action: '', Desc: 'WRONG NODE TO CONNECT', Error: 48001, Result: info(node), Version: 1 })

for (const [at, node] of nodes.entries()) {
  node.place = `192.0.2.${at + 1}`
  node.sockets = []
  const rpc = createServer((request, response) => {
    let body = ''
    request.on('data', (part) => (body += part)).on('end', () => {
      record('client', node.name, 'rpc', body)
      const { id, method } = JSON.parse(body)
      const result = method === 'getnodestate' ? { syncState: 'PERSIST_FINISHED' } : info(nodes[0])
      const answer = JSON.stringify({ id, jsonrpc: '2.0', result })
      record(node.name, 'client', 'rpc', answer)
      response.end(answer)
    })
  })
  const sockets = new WebSocketServer({ host: '127.0.0.1', port: 0 })
  await Promise.all([new Promise((done) => rpc.listen(0, '127.0.0.1', done)), new Promise((done) => sockets.on('listening', done))])
  node.rpcPort = rpc.address().port
  node.wsPort = sockets.address().port
  node.text = (content) => {
    const text = JSON.stringify(content)
    record(node.name, 'client', 'text', text)
    node.socket.send(text)
  }
  node.binary = (data) => {
    record(node.name, 'client', 'binary', hex(data))
    node.socket.send(data)
  }
  node.letIn = () => node.text({ Action: 'setClient', Desc: 'SUCCESS', Error: 0, Version: 1,
    Result: { node: info(node), sigChainBlockHash: blockHash(node, 0) } })
  sockets.on('connection', (socket) => {
    node.socket = socket
    node.text({ Action: 'authChallenge', Challenge: challenge, Desc: 'SUCCESS', Error: 0, Result: null, Version: 1 })
    socket.on('message', (data) => (typeof data === 'string' ? record('client', node.name, 'text', data) : record('client', node.name, 'binary', hex(data))))
  })
}

const [one, two] = nodes
const quiet = new Client({ seed: '22'.repeat(32), identifier: 'bob', worker: false, rpcServerAddr: 'http://127.0.0.1:1', reconnectIntervalMin: 1e9 })
quiet.close()
next = 0
const alice = new Client({ seed: '11'.repeat(32), identifier: 'alice', worker: false, rpcServerAddr: `http://127.0.0.1:${one.rpcPort}`, tls: false })
const got = []
alice.onMessage(({ payload }) => { got.push(payload); return false })

await until(() => count('text') === 1)
one.text(wrongNode(two)) // at the login
await until(() => count('text') === 2)
two.letIn()
await new Promise((ready) => alice.onConnect(ready))
const sent = []
const send = async (dest, data, options) => {
  const before = count('binary')
  await alice.send(dest, data, { noReply: true, ...options })
  await until(() => count('binary') > before)
  sent.push({ dest: [].concat(dest), data: typeof data === 'string' ? { text: data } : { hex: hex(data) }, ...options })
}
await send(quiet.addr, 'grüße')
await send(quiet.addr, Uint8Array.of(0, 255), { msgHoldingSeconds: 60 })
await send(quiet.addr, 'open', { encrypt: false })
await send([quiet.addr, alice.addr], 'to both')

// Bob's message comes with a question for a receipt.
const inbound = new common.pb.messages.InboundMessage()
const payload = message.newTextPayload('from bob', null, Uint8Array.from({ length: 8 }, (_, i) => i))
payload.setNoReply(true)
inbound.setSrc(quiet.addr)
inbound.setPayload((await quiet._messageFromPayload(payload, true, alice.addr))[0].serializeBinary())
inbound.setPrevSignature(Buffer.from('ef'.repeat(32), 'hex'))
const before = count('binary')
two.binary(message.newClientMessage(common.pb.messages.ClientMessageType.INBOUND_MESSAGE, inbound.serializeBinary(),
  common.pb.messages.CompressionType.COMPRESSION_NONE).serializeBinary())
await until(() => count('binary') > before && got.includes('from bob'))

two.text({ Action: 'updateSigChainBlockHash', Desc: 'SUCCESS', Error: 0, Result: blockHash(two, 1), Version: 1 })
await until(() => alice.sigChainBlockHash === blockHash(two, 1))
await send(quiet.addr, 'under the new block hash')
two.text(wrongNode(one)) // later
await until(() => count('text') === 3)
one.letIn()
await until(() => alice.sigChainBlockHash === blockHash(one, 0))
await send(quiet.addr, 'from the other node')

writeFileSync(process.argv[2], JSON.stringify({
  sdk: require(resolve(folder, 'package.json')).version, address: alice.addr, seed: '11'.repeat(32), bob: quiet.addr,
  bobSeed: '22'.repeat(32), nodes: nodes.map(({ name, pubkey, place }) => ({ name, pubkey, place })), challenge,
  blockHashes: nodes.map((node) => [blockHash(node, 0), blockHash(node, 1)]), sent,
  // Which call comes between which frames is a matter of chance.
  rpc: said.filter((each) => each.kind === 'rpc').sort((a, b) => (a.data + a.to < b.data + b.to ? -1 : 1)),
  said: said.filter((each) => each.kind !== 'rpc'),
}, null, 1) + '\n')
process.exit(0)
