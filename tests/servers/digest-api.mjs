// An API behind HTTP Digest (RFC 7616) as strict as the RFC allows; it verifies with Node's own crypto.
//
// Reads one JSON document from the environment variable SERVER_CONFIG:
//   username, password   the account
// What a path asks for: /<algorithm>/<qop>/..., with `hidden` after them for a user name that is a digest, and `next` for
// a nonce that is good for one request. A count that was there before, or a nonce of another path, is stale. Answers 200
// with the method, the count and the body's length. Prints one line `{"ready": {"url": ...}}` and ends when its standard
// input does.
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';

const config = JSON.parse(process.env.SERVER_CONFIG ?? '{}');
const realm = 'the "strict" realm';
const nonces = new Map();

const server = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const [, algorithm, qop, ...flags] = request.url.split('?')[0].split('/');
  const name = { MD5: 'md5', 'SHA-256': 'sha256', 'SHA-512-256': 'sha512-256' }[algorithm.replace('-sess', '')];
  const hash = (...parts) => createHash(name).update(parts.join(':')).digest('hex');
  const nonce = () => {
    const fresh = randomBytes(16).toString('base64');
    nonces.set(fresh, 0);
    return fresh;
  };
  const ask = (stale) => {
    const userhash = flags.includes('hidden') ? ', userhash=true' : '';
    const weaker = `Digest realm=${JSON.stringify(realm)}, nonce="weak", qop="auth", algorithm=MD5`;
    const own = `Digest realm=${JSON.stringify(realm)}, nonce="${nonce()}", qop="${qop}", algorithm=${algorithm}, opaque="o/p="`;
    const challenges = [`${own}, charset=UTF-8${userhash}${stale ? ', stale=true' : ''}`, 'Basic realm="r"'];
    response.writeHead(401, { 'www-authenticate': algorithm === 'MD5' ? challenges : [weaker, ...challenges] });
    response.end(`not authorized: ${request.headers.authorization ?? 'nothing'}`);
  };

  const answer = request.headers.authorization ?? '';
  if (!answer.startsWith('Digest ')) return ask(false);
  const given = {};
  for (const [, key, quoted, plain] of answer.slice(7).matchAll(/([\w*]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))/g)) {
    given[key] = quoted === undefined ? plain : quoted.replace(/\\(.)/g, '$1');
  }
  let key = hash(config.username, realm, config.password);
  if (algorithm.endsWith('-sess')) key = hash(key, given.nonce, given.cnonce);
  const wanted = flags.includes('hidden') ? hash(config.username, realm) : config.username;
  const user = given['username*'] ? decodeURIComponent(given['username*'].replace("UTF-8''", '')) : given.username;
  const parts = [request.method, request.url];
  if (given.qop === 'auth-int') parts.push(createHash(name).update(body).digest('hex'));
  const expected = hash(key, given.nonce, given.nc, given.cnonce, given.qop, hash(...parts));
  const isAsAsked = given.realm === realm && given.uri === request.url && given.opaque === 'o/p='
    && given.algorithm === algorithm && given.qop === qop.split(',')[0] && user === wanted;
  if (!isAsAsked || given.response !== expected) return ask(false);
  const count = parseInt(given.nc, 16);
  if (!nonces.has(given.nonce) || count <= nonces.get(given.nonce)) return ask(true);
  nonces.set(given.nonce, count);
  const headers = {};
  if (flags.includes('next')) {
    nonces.delete(given.nonce);
    headers['authentication-info'] = `nextnonce="${nonce()}", qop=${given.qop}, nc=${given.nc}`;
  }
  response.writeHead(200, headers);
  response.end(`${request.method} ${count} ${body.length} ${given.response}`);
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
console.log(JSON.stringify({ ready: { url: `http://127.0.0.1:${server.address().port}` } }));
process.stdin.on('end', () => process.exit(0)).resume();
