//! The guest of test/e2e/tests/e2e/toolchains.rs in Zig: see there.

const std = @import("std");

const World = struct {
    io: std.Io,
    out: *std.Io.Writer,

    fn show(world: World, what: []const u8, directory: std.Io.Dir, path: []const u8) !void {
        var buffer: [64]u8 = undefined;
        const text = directory.readFile(world.io, path, &buffer) catch |failed| switch (failed) {
            error.FileNotFound => "No such file or directory",
            else => @errorName(failed),
        };
        try world.out.print("{s}: {s}\n", .{ what, text });
    }
};

pub fn main(init: std.process.Init) !u8 {
    var buffer: [1024]u8 = undefined;
    var stdout = std.Io.File.stdout().writer(init.io, &buffer);
    const world: World = .{ .io = init.io, .out = &stdout.interface };
    const here = std.Io.Dir.cwd();
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    try world.out.print("arguments:", .{});
    for (arguments[1..]) |argument| try world.out.print(" {s}", .{argument});
    try world.out.print("\nvariable: {s}\n", .{init.environ_map.get("GREETING") orelse ""});
    try world.show("relative", here, "here.txt");
    try world.show("below", here, "below/deep.txt");
    // Zig maps no absolute path to a preopened directory by itself.
    const root = init.preopens.get("/") orelse return 1;
    try world.show("absolute", root.dir, "data/there.txt");
    try world.show("link", here, "link.txt");
    try here.writeFile(init.io, .{ .sub_path = "new.txt", .data = "written" });
    try world.show("written", root.dir, "work/new.txt");
    try world.show("missing", here, "missing.txt");
    try world.out.flush();
    return 7;
}
