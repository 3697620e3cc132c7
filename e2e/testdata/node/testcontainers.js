// A test as people write them with testcontainers. With E2E_LEAVE it never comes to
// its end, and its container is left to the reaper.
'use strict';
const assert = require('node:assert');
const { GenericContainer, Wait } = require('testcontainers');

async function main() {
  const web = await new GenericContainer('busybox')
    .withExposedPorts(80)
    .withCopyContentToContainer([{ content: 'served', target: '/www/index.html' }])
    .withCommand(['httpd', '-f', '-p', '80', '-h', '/www'])
    .withWaitStrategy(Wait.forHttp('/', 80))
    .withStartupTimeout(120000)
    .start();
  const address = `http://${web.getHost()}:${web.getMappedPort(80)}/`;
  assert.strictEqual(await (await fetch(address)).text(), 'served');
  const { output, exitCode } = await web.exec(['sh', '-c', 'echo inside; exit 4']);
  assert.strictEqual(exitCode, 4);
  assert.match(output, /inside/);
  if (process.env.E2E_LEAVE) {
    console.log('container', web.getId());
    setInterval(() => {}, 1000);
    return;
  }
  await web.stop({ timeout: 0 });
  console.log('testcontainers', require('testcontainers/package.json').version, 'on', process.version, 'passed');
}

main().catch((err) => { console.error(err); process.exit(1); });
