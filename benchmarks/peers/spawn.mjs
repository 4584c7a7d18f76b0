// Node's child_process: chains of spawns take turns from one counter; each turn runs PROGRAM to its
// end, with stdin, stdout and stderr inherited. Usage: node spawn.mjs PROGRAM AT_A_TIME COUNT. Prints
// one line of JSON.

import { spawn } from "node:child_process";
import { performance } from "node:perf_hooks";

const [program, atATime, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
if (!program || !(atATime > 0) || !(count > 0)) {
  throw new Error("usage: node spawn.mjs PROGRAM AT_A_TIME COUNT");
}

function run() {
  return new Promise((resolve, reject) => {
    const child = spawn(program, [], { stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code) => (code === 0 ? resolve() : reject(new Error(`${program}: ${code}`))));
  });
}

let left = count;

async function takeTurns() {
  while (left-- > 0) {
    await run();
  }
}

const start = performance.now();
await Promise.all(Array.from({ length: atATime }, takeTurns));
const elapsed = (performance.now() - start) / 1000;
console.log(JSON.stringify({ rate: Math.round((count / elapsed) * 10) / 10, count }));
