// Read files through a gateway with Helia, the IPFS client of browsers, as its users do.
//
//   node client.mjs GATEWAY CID...   prints one JSON object a CID: its size and sha256, or its error
//
// Helia verifies every block. It asks no other gateway, router or peer.

import { createHash } from 'node:crypto'
import { trustlessGateway } from '@helia/block-brokers'
import { createHeliaHTTP } from '@helia/http'
import { httpGatewayRouting } from '@helia/routers'
import { unixfs } from '@helia/unixfs'
import { CID } from 'multiformats/cid'

// Node.js 20 has this not yet, and Helia's libraries call it.
Promise.withResolvers ??= function () {
  const made = {}
  made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}

const [gateway, ...names] = process.argv.slice(2)
// Both say that a gateway on this machine, by plain HTTP, may be asked.
const here = { allowInsecure: true, allowLocal: true }
const helia = await createHeliaHTTP({
  blockBrokers: [trustlessGateway(here)],
  routers: [httpGatewayRouting({ gateways: [gateway] })]
})
for (const name of names) {
  const hash = createHash('sha256')
  let size = 0
  try {
    for await (const piece of unixfs(helia).cat(CID.parse(name))) {
      hash.update(piece)
      size += piece.length
    }
    console.log(JSON.stringify({ size, sha256: hash.digest('hex') }))
  } catch (error) {
    const causes = (error.errors ?? []).map(each => each.message)
    console.log(JSON.stringify({ error: [error.message, ...causes].join('; ') }))
  }
}
await helia.stop()
