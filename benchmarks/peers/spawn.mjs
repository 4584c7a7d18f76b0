// Node's child_process: chains of spawns take turns from one counter; each turn runs PROGRAM to its
// end, with stdin, stdout and stderr inherited; or, with the word "captured" at the end, PROGRAM with that
// argument, with stdin from /dev/null, stdout and stderr captured. Usage: node spawn.mjs PROGRAM AT_A_TIME
// COUNT [captured]. Prints one line of JSON.

import { spawn } from "node:child_process";
import { performance } from "node:perf_hooks";

const [program, atATime, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
if (!program || !(atATime > 0) || !(count > 0)) {
  throw new Error("usage: node spawn.mjs PROGRAM AT_A_TIME COUNT [captured]");
}

function run() {
  return new Promise((resolve, reject) => {
    const child = spawn(program, [], { stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code) => (code === 0 ? resolve() : reject(new Error(`${program}: ${code}`))));
  });
}

function capture() {
  return new Promise((resolve, reject) => {
    const child = spawn(program, ["captured"], { stdio: ["ignore", "pipe", "pipe"] });
    const chunks = [];
    child.stdout.on("data", (chunk) => chunks.push(chunk));
    child.stderr.resume();
    child.on("error", reject);
    child.on("close", (code) => {
      const right = code === 0 && Buffer.concat(chunks).toString() === "captured\n";
      right ? resolve() : reject(new Error(`${program}: ${code}`));
    });
  });
}

const one = process.argv[5] === "captured" ? capture : run;
let left = count;

async function takeTurns() {
  while (left-- > 0) {
    await one();
  }
}

const start = performance.now();
await Promise.all(Array.from({ length: atATime }, takeTurns));
const elapsed = (performance.now() - start) / 1000;
console.log(JSON.stringify({ rate: Math.round((count / elapsed) * 10) / 10, count }));
