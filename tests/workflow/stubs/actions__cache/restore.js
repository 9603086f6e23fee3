const { fs, path, store, input, lines, paths, version, encoded, folderOf, keep } = require("./entry.js");

const key = input("key");
const shelf = path.join(store, version());
const there = fs.existsSync(shelf) ? fs.readdirSync(shelf).filter((one) => !one.startsWith("incoming-")) : [];
const newest = there.sort((a, b) => fs.statSync(path.join(shelf, b)).mtimeMs - fs.statSync(path.join(shelf, a)).mtimeMs);
const found = there.includes(encoded(key))
  ? encoded(key)
  : lines("restore-keys").map((prefix) => newest.find((one) => one.startsWith(encoded(prefix)))).find(Boolean);
keep("GITHUB_OUTPUT", `cache-primary-key=${key}`);
keep("GITHUB_STATE", `hit=${found === encoded(key)}`);
if (found) {
  keep("GITHUB_OUTPUT", `cache-hit=${found === encoded(key)}`);
  keep("GITHUB_OUTPUT", `cache-matched-key=${decodeURIComponent(found)}`);
  console.log(`Cache restored from key: ${decodeURIComponent(found)}`);
  if (input("lookup-only") !== "true") {
    paths().forEach((target, number) => {
      const copy = path.join(shelf, found, String(number));
      if (fs.existsSync(copy)) fs.cpSync(copy, target, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true });
    });
  }
} else if (input("fail-on-cache-miss") === "true") {
  console.log(`::error::Failed to restore cache entry. Input key: ${key}`);
  process.exitCode = 1;
} else {
  console.log(`Cache not found for input keys: ${[key, ...lines("restore-keys")].join(", ")}`);
}
