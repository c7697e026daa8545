// node-redis as a client of the monitors: see ../tests/clients.rs for the arguments and for what is printed.
const { createSentinel } = require('@redis/client');

const [key, password, dead, ...live] = process.argv.slice(2);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function client(ports, more) {
  const sentinel = createSentinel({
    name: 'posts',
    sentinelRootNodes: ports.map((port) => ({ host: '127.0.0.1', port: Number(port) })),
    sentinelClientOptions: { password },
    ...more,
  });
  sentinel.on('error', () => {}); // what matters fails with the command
  return sentinel;
}

// It asks on and on where it finds nothing; within this time it has asked both endpoints several times.
async function refused(what, more) {
  const sentinel = client(live, more);
  const found = sentinel.connect().then(() => 'found', () => 'refused');
  const said = await Promise.race([found, sleep(2000).then(() => 'refused')]);
  console.log(`${what} ${said}`);
  sentinel.destroy();
}

async function main() {
  await refused('unknown name', { name: 'unknown' });
  await refused('wrong password', { sentinelClientOptions: { password: 'wrong' } });
  const other = await client([dead, live[1]]).connect();
  console.log(`one endpoint down ${(await other.use((one) => one.configGet('port'))).port}`);
  await other.close();

  const sentinel = await client(live, { replicaPoolSize: 1 }).connect();
  console.log(`primary ${(await sentinel.use((one) => one.configGet('port'))).port}`);
  console.log(`role of the replica ${(await sentinel.sendCommand(true, ['ROLE']))[0]}`);
  for (let n = 1; ; n++) {
    try {
      await sentinel.set(key, String(n));
      console.log(`wrote ${n}`);
    } catch (error) {
      console.log(`not written ${n} ${error.message}`);
    }
    if (n % 10 === 0) {
      await sentinel.get(key).then((read) => console.log(`read ${read}`), (error) => console.log(`not read ${error.message}`));
    }
    await sleep(5);
  }
}

main().catch((error) => {
  console.log(`ended ${error.stack}`);
  process.exit(1);
});
