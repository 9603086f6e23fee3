// One entry: a folder of numbered copies, one per path, made whole under another name first.
const crypto = require("crypto");
const fs = require("fs");
const path = require("path");

const store = process.env.ACT_CACHE;
const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] || "").trim();
const lines = (name) => input(name).split("\n").map((line) => line.trim()).filter(Boolean);
const paths = () => lines("path").map((one) => path.resolve(one.replace(/^~/, process.env.HOME)));
const version = () => crypto.createHash("sha256").update(paths().join("\n")).digest("hex").slice(0, 16);
const encoded = (key) => encodeURIComponent(key);
const folderOf = (key) => path.join(store, version(), encoded(key));

function keep(file, line) {
  fs.appendFileSync(process.env[file], `${line}\n`);
}

module.exports = { fs, path, store, input, lines, paths, version, encoded, folderOf, keep };
