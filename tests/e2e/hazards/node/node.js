// A server of Node whose generators were in use when its image was frozen: each answer has new random values.
const crypto = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");

function kernel() {
  const bytes = Buffer.alloc(16);
  const file = fs.openSync("/dev/urandom");
  fs.readSync(file, bytes);
  fs.closeSync(file);
  return bytes.toString("hex");
}

const draw = () => ({ crypto: crypto.randomBytes(16).toString("hex"), math: Math.random(), kernel: kernel() });

draw();
http.createServer((_, answer) => answer.end(JSON.stringify(draw()))).listen(8080);
http.createServer((_, answer) => answer.end()).listen(9000); // the /ready hook
