// A daemon with simulated providers for the tests of this folder: started by POINTSMAN_PYTHON, ended with its stdin.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Start `tests.shop`; gives what it prints (base_url, key, daemon, providers), `bill(provider)` and `close()`. */
export async function openShop() {
  const python = process.env.POINTSMAN_PYTHON;
  if (!python) throw new Error('POINTSMAN_PYTHON must be the interpreter that Pointsman is installed for; try make test-sdk-node');
  const child = spawn(python, ['-m', 'tests.shop'], { cwd: ROOT, stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const lines = createInterface({ input: child.stdout });
  const line = await Promise.race([new Promise((resolve) => lines.once('line', resolve)), ended.then(() => null)]);
  if (line === null) throw new Error('the shop ended before it listened');
  const told = JSON.parse(line);
  return {
    ...told,
    async bill(provider) {
      return (await fetch(`${told.providers[provider]}/_simulator/bill`)).json();
    },
    async close() {
      child.stdin.end();
      await ended;
    },
  };
}
