// The guest of test/e2e/tests/e2e/toolchains.rs in AssemblyScript: see there.

import { CommandLine, Console, Environ, FileSystem, Process } from "as-wasi/assembly";

function show(what: string, path: string): void {
  const file = FileSystem.open(path, "r");
  let text = "No such file or directory";
  if (file != null) {
    const read = file.readString();
    text = read != null ? read : "unreadable";
    file.close();
  }
  Console.log(what + ": " + text);
}

function main(): void {
  const words = CommandLine.all.slice(1);
  Console.log("arguments: " + words.join(" "));
  const greeting = new Environ().get("GREETING");
  Console.log("variable: " + (greeting ? greeting : ""));
  show("relative", "here.txt");
  show("below", "below/deep.txt");
  // as-wasi opens each path below the first directory, so there are no absolute ones.
  show("link", "link.txt");
  const file = FileSystem.open("new.txt", "w+");
  if (file) {
    file.writeString("written");
    file.close();
  }
  show("written", "new.txt");
  show("missing", "missing.txt");
  Process.exit(7);
}

main();
