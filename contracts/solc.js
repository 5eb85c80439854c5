#!/usr/bin/env node
// Lets any tool that runs a `solc` executable (forge, py-solc-x) use the npm compiler pinned in package.json.
// It answers --version and --standard-json (source text inside the JSON, read from stdin), nothing else.
"use strict";
const fs = require("fs");
const path = require("path");

const compiler = require(path.join(__dirname, "node_modules", "solc"));
const options = process.argv.slice(2);

if (options.includes("--version")) {
  process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${compiler.version()}\n`);
} else if (options.includes("--standard-json")) {
  process.stdout.write(compiler.compile(fs.readFileSync(0, "utf8")));
} else {
  process.stderr.write("solc.js answers only --version and --standard-json\n");
  process.exitCode = 1;
}
