const { fs, path, input, paths, folderOf } = require("./entry.js");

const folder = folderOf(input("key"));
if (process.env.STATE_hit !== "true" && !fs.existsSync(folder)) {
  const fresh = path.join(path.dirname(folder), `incoming-${process.pid}`);
  paths().forEach((source, number) => {
    if (!fs.existsSync(source)) return;
    fs.cpSync(source, path.join(fresh, String(number)), { recursive: true, verbatimSymlinks: true, preserveTimestamps: true });
  });
  if (!fs.existsSync(fresh)) {
    console.log("::warning::Path Validation Error: Path(s) specified in the action for caching do(es) not exist");
  } else {
    fs.renameSync(fresh, folder);
    console.log(`Cache saved with key: ${input("key")}`);
  }
}
