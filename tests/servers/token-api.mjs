// An API whose every request must bring a JSON Web Token; it makes the keys and verifies with Node's own crypto.
//
// Prints one line `{"ready": {"url": ..., "keys": {"<name>": "<PEM, or a secret>"}}}` and ends when its standard input
// does. A request to /<name>/<algorithm>/... is answered 200, with the token itself, where that is signed so by that key
// and has the claims of the test's connector; 401 with what is wrong to any other.
import { constants, createHmac, generateKeyPairSync, timingSafeEqual, verify } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';

const publicKeys = {};
const keys = { secret: '7365637265742d6f662d74686520746573742c2033322062797465732121' };

function pair(type, options, formats) {
  const { publicKey, privateKey } = generateKeyPairSync(type, options);
  for (const [name, format] of Object.entries(formats)) {
    publicKeys[name] = publicKey;
    keys[name] = privateKey.export({ type: format, format: 'pem' });
  }
}
pair('rsa', { modulusLength: 2048 }, { rsa: 'pkcs8', 'rsa-pkcs1': 'pkcs1' });
pair('ec', { namedCurve: 'P-256' }, { p256: 'pkcs8', 'p256-sec1': 'sec1' });
pair('ec', { namedCurve: 'P-384' }, { p384: 'pkcs8', 'p384-sec1': 'sec1' });
pair('ed25519', {}, { ed25519: 'pkcs8' });

function isSigned(name, algorithm, message, signature) {
  const hash = algorithm === 'EdDSA' ? null : `sha${algorithm.slice(2)}`;
  if (algorithm.startsWith('HS')) {
    const wanted = createHmac(hash, Buffer.from(keys.secret, 'hex')).update(message).digest();
    return wanted.length === signature.length && timingSafeEqual(wanted, signature);
  }
  const options = { key: publicKeys[name] };
  if (algorithm.startsWith('ES')) options.dsaEncoding = 'ieee-p1363';
  if (algorithm.startsWith('PS')) {
    Object.assign(options, { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST });
  }
  return verify(hash, message, options, signature);
}

function fault(request, token) {
  const [, name, algorithm] = request.url.split('/');
  const [header, claims, signature] = token.split('.');
  const read = (part) => JSON.parse(Buffer.from(part, 'base64url'));
  const { alg, typ, kid } = read(header);
  if (alg !== algorithm || typ !== 'JWT' || kid !== 'key-1') return `the header is ${JSON.stringify(read(header))}`;
  if (!isSigned(name, algorithm, Buffer.from(`${header}.${claims}`), Buffer.from(signature, 'base64url'))) {
    return 'the signature is wrong';
  }
  const { iss, aud, iat, exp, jti, bid, uri } = read(claims);
  const now = Date.now() / 1000;
  if (iss !== 'issuer-1' || aud !== 'the-api' || bid !== 'com.example.app') return 'the claims are wrong';
  if (uri !== `${request.method} ${request.headers.host}${request.url}`) return `the token is for ${uri}`;
  if (!/^[0-9a-f]{32}$/.test(jti)) return 'there is no jti';
  // As GitHub wants it: dated back, and ten minutes long at most.
  return iat < now - 30 && exp > now && exp - iat <= 600 ? null : 'the times are wrong';
}

const server = http.createServer((request, response) => {
  const token = (request.headers.authorization ?? '').replace(/^Bearer /, '');
  const wrong = token ? fault(request, token) : 'there is no token';
  response.writeHead(wrong ? 401 : 200, { 'content-type': 'text/plain' });
  response.end(wrong ?? `welcome, ${token}`);
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
console.log(JSON.stringify({ ready: { url: `http://127.0.0.1:${server.address().port}`, keys } }));
process.stdin.on('end', () => process.exit(0)).resume();
