// node build.mjs <component> [<folder of connector.wit>]: makes the component of connector.js. The manifest is put in by `keyward plugin build`.

import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { componentize } from '@bytecodealliance/componentize-js';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { component } = await componentize({
  sourcePath: here('connector.js'),
  witPath: process.argv[3] ?? here('../../../wit'),
  worldName: 'connector',
  // It receives no requests; it sends them.
  disableFeatures: ['fetch-event'],
});
await writeFile(process.argv[2], component);
