// An API whose every request must be signed, as exchanges and webhooks ask for it; it verifies with Node's own crypto.
//
// Reads one JSON document from the environment variable SERVER_CONFIG:
//   key   the key, base64 for the scheme `coinbase` and text for `binance`
//   id    the key's id
// Answers 200 to a request that is signed by the scheme that its path names, /coinbase/... or /binance/..., and with the
// signature in the body; 401 with what is wrong to any other. Prints one line `{"ready": {"url": ...}}` and ends when
// its standard input does.
import { createHmac, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';

const config = JSON.parse(process.env.SERVER_CONFIG ?? '{}');

const same = (a, b) => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b));
const isNow = (milliseconds) => Math.abs(Date.now() - milliseconds) < 30_000;

const schemes = {
  // Coinbase Exchange, "REST API authentication".
  coinbase(request, body) {
    const { 'cb-access-sign': sign = '', 'cb-access-timestamp': time = '', 'cb-access-key': id } = request.headers;
    if (id !== config.id) return ['the key id is wrong'];
    if (!isNow(Number(time) * 1000)) return ['the timestamp is wrong'];
    const mac = createHmac('sha256', Buffer.from(config.key, 'base64'));
    const wanted = mac.update(time + request.method + request.url).update(body).digest('base64');
    return same(sign, wanted) ? [null, sign] : ['the signature is wrong'];
  },
  // Binance, "SIGNED (TRADE and USER_DATA) Endpoint security".
  binance(request, body) {
    if (request.headers['x-mbx-apikey'] !== config.id) return ['the key id is wrong'];
    const [query, sign = ''] = (request.url.split('?')[1] ?? '').split('&signature=');
    if (!isNow(Number(new URLSearchParams(query).get('timestamp')))) return ['the timestamp is wrong'];
    const wanted = createHmac('sha256', config.key).update(query).update(body).digest('hex');
    return same(sign, wanted) ? [null, sign] : ['the signature is wrong'];
  },
};

const server = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const verify = schemes[request.url.split('/')[1]];
  const [fault, sign] = verify(request, Buffer.concat(chunks));
  response.writeHead(fault ? 401 : 200, { 'content-type': 'text/plain' });
  response.end(fault ?? `signed by ${sign}`);
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
console.log(JSON.stringify({ ready: { url: `http://127.0.0.1:${server.address().port}` } }));
process.stdin.on('end', () => process.exit(0)).resume();
